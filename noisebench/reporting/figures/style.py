"""What all figures share: colours that colour-blind readers can distinguish, marks and dashes for
print in grey, and the bytes of the file.
"""

from __future__ import annotations

import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ...core.sanitize import as_csv, printable_lines, word_as_cell
from ...errors import ConfigError

PICTURES = (".svg", ".png", ".pdf")
_DOTS = 200  # an inch, of a .png
_MOST_PANELS = 48  # that can still be read
# Okabe & Ito 2008, with grey for their yellow, which white paper swallows.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
_MARKS = "osD^vP*X<>hpd"
_FIXED = {"right labels": 0, "wrong labels": 1, "unknown labels": 6}
_STYLE: Any = {
    "svg.hashsalt": "noisebench",  # the same bytes each time
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # and no name is a formula
    "text.usetex": False,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "figure.facecolor": "white",
}


T = TypeVar("T")


@dataclass(frozen=True)
class LineStyle:
    """Of a line."""

    color: str
    dash: Any
    mark: str


def line_styles(names: Iterable[str]) -> dict[str, LineStyle]:
    """A style for each name, colours first; names with a style of their own keep it."""
    styles = {}
    for number, name in enumerate(names):
        color = _FIXED.get(name, number)
        dash = 0 if name in _FIXED else (color // len(_COLORS) + color) % len(_DASHES)
        styles[name] = LineStyle(
            _COLORS[color % len(_COLORS)], _DASHES[dash], _MARKS[color % len(_MARKS)]
        )
    return styles


def add_legend(fig: Any, inches: float) -> None:
    """One for all panels, below them; none for a single line."""
    entries = {
        name: handle
        for axes in fig.axes
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if len(entries) > 1:
        width = 0.45 + 0.065 * max(map(len, entries))
        columns = max(1, min(len(entries), int(inches / width)))
        fig.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)


class Figure(ABC):
    """A named figure: rows of numbers, and a drawing of them. columns: of the rows; caption: what
    one must know to read it.
    """

    name: str
    caption: str
    columns: ClassVar[tuple[str, ...]]

    @abstractmethod
    def rows(self) -> Iterable[Iterable[Any]]:
        """The numbers, a line each."""

    @abstractmethod
    def as_dict(self) -> Any:
        """The same as one document."""

    @property
    @abstractmethod
    def inches(self) -> tuple[float, float]:
        """Width and height."""

    @abstractmethod
    def draw(self, fig: Any) -> None:
        """On matplotlib's figure."""

    def as_csv(self) -> str:
        return as_csv(
            [self.columns, *([word_as_cell(value) for value in row] for row in self.rows())]
        )

    def picture(self, form: str) -> bytes:
        """As svg, png or pdf. Raises ConfigError without matplotlib."""
        try:
            from matplotlib import rc_context
            from matplotlib.figure import Figure as Canvas
            from matplotlib.text import Text
        except ImportError:
            raise ConfigError(
                "a picture needs matplotlib: pip install 'noisebench[plot]', or write a .csv"
            ) from None
        with rc_context(_STYLE), warnings.catch_warnings():
            # in a .svg text stays text, and the reader has fonts
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
            fig = Canvas(figsize=self.inches, layout="constrained")
            self.draw(fig)
            for text in fig.findobj(Text):
                text.set_text(printable_lines(text.get_text()))
            output = io.BytesIO()
            stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form, {})
            fig.savefig(output, format=form, dpi=_DOTS, metadata=stamp, bbox_inches="tight")
        return output.getvalue()


def split_evenly(items: Sequence[T], width: int) -> list[Sequence[T]]:
    """Rows of at most `width` items, as even as can be."""
    rows = -(-len(items) // width) or 1
    length = -(-len(items) // rows) or 1
    return [items[start : start + length] for start in range(0, len(items), length)]


def check_count(name: str, count: int) -> None:
    """Raises ConfigError for a figure without a panel, or of more than can be read."""
    if not count:
        raise ConfigError(
            f"--figure {name}: there is nothing to draw: none of these runs has finished"
        )
    if count > _MOST_PANELS:
        raise ConfigError(
            f"--figure {name} would have {count} panels: keep some with --filter, "
            "such as --filter method=ce"
        )


def form_of(path: Path) -> str:
    """svg, png, pdf or csv, by the suffix. Raises ConfigError."""
    if path.suffix not in (*PICTURES, ".csv"):
        raise ConfigError(f"a figure is a {', '.join(PICTURES)} or .csv, got {path}")
    return path.suffix[1:]
