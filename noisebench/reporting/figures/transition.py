"""The figure of a manifest: which clean class is recorded as which, counted; in the terminal, as a
picture, or as numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigError, printable
from ...labels.manifest import Manifest
from .style import as_csv, drawn

if TYPE_CHECKING:
    from rich.console import Group

_NUMBERED = 20  # classes up to which each cell says its number
_LINE = 56  # characters of a panel's title
_MOST = 20  # classes that a terminal shows
_LISTED = 5  # mistakes named of each class


def table(manifest: Manifest) -> np.ndarray:
    """(K, K): the share of each clean class that is recorded as each class; NaN for a class of
    which no clean label is known.

    Raises ConfigError where none is known at all.
    """
    if not (manifest.clean_labels >= 0).any():
        raise ConfigError(
            f"the manifest of {manifest.meta['dataset']} knows no clean labels to "
            "compare the recorded ones with"
        )
    counts = manifest.confusion.astype(np.float64)
    sizes = counts.sum(1, keepdims=True)
    return np.where(sizes > 0, counts / np.maximum(sizes, 1), np.nan)


def title(manifest: Manifest) -> str:
    """Data, noise and realised rate, and of what it is the rate."""
    meta, seed = (
        manifest.meta,
        "" if manifest.noise_seed is None else f", seed {manifest.noise_seed}",
    )
    of = (
        ""
        if manifest.known_fraction == 1
        else (f" of {int((manifest.true_labels != -1)[manifest.included].sum())} known")
    )
    return (
        f"{manifest.dataset_text}, {meta['noise']}{seed}: {100 * meta['realised_rate']:.2f} "
        f"%{of} wrong"
    )


def _left_out(manifest: Manifest) -> str:
    """What the table cannot show."""
    if manifest.source is None:
        return ""
    return (
        f"; {int((manifest.source >= 0).sum())} images of {manifest.meta['source']} left out, "
        "all wrong"
    )


def as_dict(manifest: Manifest) -> dict[str, Any]:
    """The figure's numbers, rows = clean class; null where nothing is known."""
    shares = [
        [None if np.isnan(share) else share for share in row] for row in table(manifest).tolist()
    ]
    return {
        "dataset": manifest.meta["dataset"],
        "noise": manifest.meta["noise"],
        "noise_seed": manifest.noise_seed,
        "classes": manifest.meta["classes"],
        "transition": shares,
        "counts": manifest.confusion.tolist(),
    }


def draw(manifest: Manifest, width: int | None = None) -> Group:
    """For the terminal: a shaded table in percent; where it is too wide, the classes with most
    wrong labels, line by line.
    """
    from rich.console import Group
    from rich.table import Table

    from ...core.console import Text

    shares, names = table(manifest), manifest.meta["classes"]
    grid, below = (
        Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim"),
        (f"percent of each clean class{_left_out(manifest)}"),
    )
    if len(names) <= (_MOST if width is None else (width - 18) // 8):
        grid.add_column("clean \\ recorded", style="dim")
        short = names if width is None else [name[:6] for name in names]
        numbered = len(set(short)) < len(names)  # cut, they could not be told apart
        for number, name in enumerate(short):
            grid.add_column(Text(str(number) if numbered else name), justify="right", no_wrap=True)
        for number, (name, row) in enumerate(zip(names, shares, strict=True)):
            grid.add_row(
                Text(f"{number} {name}" if numbered else name),
                *(Text(_percent(share), style=_shade(share)) for share in row),
            )
    else:
        for head in ("clean", "right", "recorded as"):
            grid.add_column(head)
        worst = np.argsort(np.diag(shares), kind="stable")[:_MOST]
        for k in worst:
            grid.add_row(
                Text(names[k]),
                Text(_percent(shares[k, k]), style=_shade(shares[k, k])),
                Text(_mistakes(shares[k], k, names)),
            )
        if len(worst) < len(names):
            below += (
                f"; the {len(worst)} of {len(names)} classes with most wrong labels, -o "
                "FILE.svg draws all"
            )
    return Group(Text(title(manifest), style="bold"), grid, Text(below, style="dim"))


def _mistakes(row: np.ndarray, own: int, names: list[str]) -> str:
    """The most frequent wrong classes."""
    order = [k for k in np.argsort(-row, kind="stable").tolist() if k != own and row[k] > 0][
        :_LISTED
    ]
    return ", ".join(f"{names[k]} {_percent(row[k])}" for k in order)


def _percent(share: float) -> str:
    return "?" if np.isnan(share) else "." if share == 0 else f"{100 * share:.1f}"


def _shade(share: float) -> str:
    """A background from black to blue, readable on dark and light terminals."""
    if not share > 0:
        return "dim"
    level = int(40 + 180 * share**0.5)
    return f"white on rgb(20,{level // 2},{level})"


@dataclass(frozen=True)
class TransitionFigure:
    """One panel a manifest."""

    manifests: tuple[Manifest, ...]
    name: str = "transition"
    caption: str = "Share of each clean class that is recorded as each class."

    def as_csv(self) -> str:
        """A line for each pair of classes that occurs."""
        columns = ("dataset", "noise", "noise_seed", "clean", "recorded", "share", "count")
        return as_csv(columns, (row for manifest in self.manifests for row in _rows(manifest)))

    def as_dict(self) -> list[dict[str, Any]]:
        return [as_dict(manifest) for manifest in self.manifests]

    def picture(self, form: str) -> bytes:
        """Raises ConfigError without matplotlib."""
        sizes = [_side(manifest.num_classes) for manifest in self.manifests]

        def fill(canvas: Any) -> None:
            panels = canvas.subplots(1, len(sizes), squeeze=False, width_ratios=sizes)[0]
            for panel, manifest in zip(panels, self.manifests, strict=True):
                _panel(canvas, panel, manifest)

        return drawn(fill, (sum(sizes), max(sizes)), form)


def _rows(manifest: Manifest) -> Iterator[list[Any]]:
    names, shares, counts = manifest.meta["classes"], table(manifest), manifest.confusion
    for clean, recorded in zip(*counts.nonzero(), strict=True):
        cell = [
            names[clean],
            names[recorded],
            repr(float(shares[clean, recorded])),
            int(counts[clean, recorded]),
        ]
        yield [manifest.meta["dataset"], manifest.meta["noise"], manifest.noise_seed, *cell]


def transition(manifests: Sequence[Manifest]) -> TransitionFigure:
    """The confusion matrices of manifests."""
    return TransitionFigure(tuple(manifests))


def _side(num_classes: int) -> float:
    """Inches of a panel."""
    return 6.0 if num_classes <= _NUMBERED else 8.0


def _panel(figure: Any, panel: Any, manifest: Manifest) -> None:
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import PercentFormatter

    shares, names = table(manifest), manifest.meta["classes"]
    panel.grid(visible=False)
    panel.spines[:].set_visible(True)
    image = panel.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    every = max(1, -(-len(names) // 50))
    ticks = range(0, len(names), every)
    size = 9 if len(names) <= _NUMBERED else 5
    shown = [printable(names[k]) for k in ticks]
    panel.set_xticks(ticks, shown, rotation=90, fontsize=size)
    panel.set_yticks(ticks, shown, fontsize=size)
    panel.set_xlabel("recorded class" + _left_out(manifest))
    panel.set_ylabel("clean class")
    named, _, wrong = title(manifest).rpartition(": ")
    panel.set_title(f"{fill(named, _LINE)}\n{wrong}", fontsize=10)
    if len(names) <= _NUMBERED:
        for (clean, recorded), share in np.ndenumerate(shares):
            if share > 0:
                dark = "white" if share > 0.3 else "black"
                panel.text(
                    recorded,
                    clean,
                    f"{100 * share:.1f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color=dark,
                )
    figure.colorbar(
        image, ax=panel, shrink=0.6, label="share of the clean class", format=PercentFormatter(1)
    )
