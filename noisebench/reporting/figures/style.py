"""How figures look: colours that colour-blind readers tell apart, marks and dashes for those who
see none, and the file's bytes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.sanitize import as_csv as rows_as_csv
from ...core.sanitize import printable_lines, word_as_cell
from ...errors import ConfigError

PICTURES = (".svg", ".png", ".pdf")
_DOTS = 200  # an inch, of a .png
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


@dataclass(frozen=True)
class LineStyle:
    """Of a line."""

    color: str
    dash: Any
    mark: str


def looks(names: Iterable[str]) -> dict[str, LineStyle]:
    """A look for each name, colours first; what has its own keeps it."""
    found = {}
    for number, name in enumerate(names):
        place = _FIXED.get(name, number)
        dash = 0 if name in _FIXED else (place // len(_COLORS) + place) % len(_DASHES)
        found[name] = LineStyle(
            _COLORS[place % len(_COLORS)], _DASHES[dash], _MARKS[place % len(_MARKS)]
        )
    return found


def add_legend(canvas: Any, inches: float) -> None:
    """One for all panels, below them; none for a single line."""
    entries = {
        name: handle
        for axes in canvas.axes
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if len(entries) > 1:
        each = 0.45 + 0.065 * max(map(len, entries))
        columns = max(1, min(len(entries), int(inches / each)))
        canvas.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)


def drawn(fill: Callable[[Any], object], size: tuple[float, float], form: str) -> bytes:
    """What `fill(canvas)` draws on so many inches. Raises ConfigError without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure as Canvas
        from matplotlib.text import Text as Words
    except ImportError:
        raise ConfigError(
            "a picture needs matplotlib: pip install 'noisebench[plot]', or write a .csv"
        ) from None
    with rc_context(_STYLE), warnings.catch_warnings():
        # in a .svg text stays text, and the reader has fonts
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        canvas = Canvas(figsize=size, layout="constrained")
        fill(canvas)
        for text in canvas.findobj(Words):
            text.set_text(printable_lines(text.get_text()))
        output = io.BytesIO()
        stamp = {"Date": None} if form == "svg" else {"CreationDate": None} if form == "pdf" else {}
        canvas.savefig(output, format=form, dpi=_DOTS, metadata=stamp, bbox_inches="tight")
    return output.getvalue()


def as_csv(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """The numbers behind a figure."""
    return rows_as_csv([columns, *([word_as_cell(value) for value in row] for row in rows)])


def form_of(path: Path) -> str:
    """svg, png, pdf or csv, by the suffix. Raises ConfigError."""
    if path.suffix not in (*PICTURES, ".csv"):
        raise ConfigError(f"a figure is a {', '.join(PICTURES)} or .csv, got {path}")
    return path.suffix[1:]
