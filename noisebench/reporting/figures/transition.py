"""The figure of a manifest: the share of each true class that has each given label; in the
terminal, as an image, or as numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...errors import ConfigError, printable
from ...labels.manifest import Manifest
from .panels import Figure

if TYPE_CHECKING:
    from rich.console import Group

_NUMBERED = 20  # classes up to which the image shows the number of each cell
_LINE = 56  # characters of a panel's title
_MOST = 20  # classes that a terminal shows
_LISTED = 5  # mistakes listed per class


def shares_of(manifest: Manifest) -> np.ndarray:
    """(K, K): the share of each true class that has each given label; NaN for a class without known
    true labels.

    Raises ConfigError if no true label is known.
    """
    if not (manifest.clean_labels >= 0).any():
        raise ConfigError(
            f"the manifest of {manifest.meta['dataset']} has no true labels to compare the given "
            "labels with"
        )
    counts = manifest.confusion.astype(np.float64)
    sizes = counts.sum(1, keepdims=True)
    return np.where(sizes > 0, counts / np.maximum(sizes, 1), np.nan)


def title(manifest: Manifest) -> str:
    """Data, noise, realised rate and its scope."""
    meta, seed, scope = manifest.meta, "", ""
    if manifest.noise_seed is not None:
        seed = f", seed {manifest.noise_seed}"
    if manifest.known_fraction != 1:
        scope = f" of {int((manifest.true_labels != -1)[manifest.included].sum())} known"
    rate = f"{100 * meta['realised_rate']:.2f} %{scope} wrong"
    return f"{manifest.dataset_text}, {meta['noise']}{seed}: {rate}"


def _left_out(manifest: Manifest) -> str:
    """A note on the images that the table does not show."""
    if manifest.source is None:
        return ""
    count = int((manifest.source >= 0).sum())
    return f"; {count} images of {manifest.meta['source']} not shown, all incorrect"


def draw_in_terminal(manifest: Manifest, width: int | None = None) -> Group:
    """A table in percent; if too wide, the classes with most incorrect labels, one per line."""
    from rich.console import Group
    from rich.table import Table

    from ...core.console import Text

    shares, names = shares_of(manifest), manifest.meta["classes"]
    grid = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    below = f"percent of each true class{_left_out(manifest)}"
    if len(names) <= (_MOST if width is None else (width - 18) // 8):
        grid.add_column("true \\ given", style="dim")
        short = names if width is None else [name[:6] for name in names]
        numbered = len(set(short)) < len(names)  # cut, they would be ambiguous
        for number, name in enumerate(short):
            grid.add_column(Text(str(number) if numbered else name), justify="right", no_wrap=True)
        for number, (name, row) in enumerate(zip(names, shares, strict=True)):
            label = Text(f"{number} {name}" if numbered else name)
            grid.add_row(label, *(Text(_percent(share)) for share in row))
    else:
        for head in ("true class", "correct", "most often given as"):
            grid.add_column(head)
        worst = np.argsort(np.diag(shares), kind="stable")[:_MOST]
        for k in worst:
            order = np.argsort(-shares[k], kind="stable").tolist()
            wrong = [other for other in order if other != k and shares[k, other] > 0][:_LISTED]
            mistakes = ", ".join(f"{names[other]} {_percent(shares[k, other])}" for other in wrong)
            grid.add_row(*map(Text, (names[k], _percent(shares[k, k]), mistakes)))
        if len(worst) < len(names):
            below += (
                f"; the {len(worst)} of {len(names)} classes with most incorrect labels; "
                "-o FILE.svg shows all"
            )
    return Group(Text(title(manifest), style="bold"), grid, Text(below, style="dim"))


def _percent(share: float) -> str:
    if np.isnan(share):
        return "?"
    return "." if share == 0 else f"{100 * share:.1f}"


@dataclass(frozen=True)
class TransitionFigure(Figure):
    """One panel per manifest."""

    manifests: tuple[Manifest, ...]
    name: str = "transition"
    caption: str = "Share of each true class that has each given label."
    columns: ClassVar = ("dataset", "noise", "noise_seed", "clean", "recorded", "share", "count")

    def rows(self) -> Iterator[list[Any]]:
        """One line for each pair of classes that occurs."""
        for manifest in self.manifests:
            meta, shares, counts = manifest.meta, shares_of(manifest), manifest.confusion
            facts, names = [meta["dataset"], meta["noise"], manifest.noise_seed], meta["classes"]
            for pair in zip(*counts.nonzero(), strict=True):
                classes = [names[k] for k in pair]
                yield [*facts, *classes, repr(float(shares[pair])), int(counts[pair])]

    def as_dict(self) -> list[dict[str, Any]]:
        """Rows: true class; null where unknown."""
        return [
            {
                "dataset": manifest.meta["dataset"],
                "noise": manifest.meta["noise"],
                "noise_seed": manifest.noise_seed,
                "classes": manifest.meta["classes"],
                "transition": [
                    [None if np.isnan(share) else share for share in row]
                    for row in shares_of(manifest).tolist()
                ],
                "counts": manifest.confusion.tolist(),
            }
            for manifest in self.manifests
        ]

    @property
    def _sides(self) -> list[float]:
        """Side of each panel in inches."""
        return [6.0 if manifest.num_classes <= _NUMBERED else 8.0 for manifest in self.manifests]

    @property
    def inches(self) -> tuple[float, float]:
        return sum(self._sides), max(self._sides)

    def draw(self, fig: Any) -> None:
        from matplotlib.colors import PowerNorm
        from matplotlib.ticker import PercentFormatter

        sides = self._sides
        panels = fig.subplots(1, len(sides), squeeze=False, width_ratios=sides)[0]
        for ax, manifest in zip(panels, self.manifests, strict=True):
            shares, names = shares_of(manifest), manifest.meta["classes"]
            small = len(names) <= _NUMBERED
            ax.grid(visible=False)
            ax.spines[:].set_visible(True)
            norm = PowerNorm(0.5, 0, 1)
            image = ax.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
            ticks = range(0, len(names), max(1, -(-len(names) // 50)))
            shown = [printable(names[k]) for k in ticks]
            ax.set_xticks(ticks, shown, rotation=90, fontsize=9 if small else 5)
            ax.set_yticks(ticks, shown, fontsize=9 if small else 5)
            ax.set_xlabel("given label" + _left_out(manifest))
            ax.set_ylabel("true class")
            named, _, wrong = title(manifest).rpartition(": ")
            ax.set_title(f"{fill(named, _LINE)}\n{wrong}", fontsize=10)
            for (clean, recorded), share in np.ndenumerate(shares) if small else ():
                if share > 0:
                    middle = {"ha": "center", "va": "center", "fontsize": 7}
                    color = "white" if share > 0.3 else "black"
                    ax.text(recorded, clean, f"{100 * share:.1f}", color=color, **middle)
            percent = PercentFormatter(1)
            fig.colorbar(image, ax=ax, shrink=0.6, label="share of the true class", format=percent)


def transition(manifests: Sequence[Manifest]) -> TransitionFigure:
    """The confusion matrices of manifests."""
    return TransitionFigure(tuple(manifests))
