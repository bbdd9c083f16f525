"""Rows of dots: of each name a few numbers with their spread over seeds, beside what was to be
expected of them. Cleveland 1984.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from textwrap import fill
from typing import Any

from .panels import check_count
from .style import LineStyle, add_legend, as_csv, drawn, looks

_WIDTH = 4  # panels side by side
# inches: a panel's width, a row's height, a letter of a row's name
_PANEL, _ROW, _LETTER = 1.75, 0.27, 0.06
_LETTERS = 32  # of a line above a panel
_APART = 0.17  # rows, between a row's middle and its dots
COLUMNS = ("panel", "row", "series", "mean", "std", "n", "expected")


@dataclass(frozen=True)
class Point:
    """A number of one row: its values by seed, and what was to be expected, where something was."""

    row: str
    series: str
    values: tuple[float, ...]
    expected: float | None = None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """The sample standard deviation; None below two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class DotPanel:
    """A panel: its rows from above, those without a dot too, so that neighbours have them at the
    same height.
    """

    title: str
    rows: tuple[str, ...]
    dots: tuple[Point, ...]


@dataclass(frozen=True)
class DotFigure:
    """Panels of rows over one axis of shares. caption: what one must know to read it."""

    name: str
    caption: str
    x_label: str
    places: tuple[DotPanel, ...]

    def __post_init__(self) -> None:
        check_count(self.name, len(self.places))

    @property
    def looks(self) -> dict[str, LineStyle]:
        """One look a series, the same in all panels."""
        return looks(dict.fromkeys(dot.series for place in self.places for dot in place.dots))

    def picture(self, form: str) -> bytes:
        """As svg, png or pdf. Raises ConfigError without matplotlib."""
        lines = _lines(self.places)
        heights = [0.75 + _ROW * max(len(place.rows) for place in line) for line in lines]
        names = _LETTER * max(len(row) for place in self.places for row in place.rows)
        width = max(map(len, lines))
        inches = _PANEL * width + names

        def paint(canvas: Any) -> None:
            grid = canvas.subplots(len(lines), width, squeeze=False, height_ratios=heights)
            for line, places in zip(lines, grid, strict=True):
                _fill_line(line, places, self.looks)
            for axes in _lowest(lines, grid):
                axes.set_xlabel(self.x_label)
            add_legend(canvas, inches)

        return drawn(paint, (inches, sum(heights) + 0.5), form)

    def _dots(self) -> Iterator[tuple[DotPanel, Point]]:
        yield from ((place, dot) for place in self.places for dot in place.dots)

    def as_csv(self) -> str:
        """A line a dot."""
        rows = (
            [place.title, dot.row, dot.series, dot.mean, dot.std, len(dot.values), dot.expected]
            for place, dot in self._dots()
        )
        return as_csv(COLUMNS, rows)

    def as_dict(self) -> dict[str, Any]:
        """The same as one document, with each seed's value."""
        panels = [
            {
                "title": place.title,
                "x": self.x_label,
                "points": [{**asdict(dot), "mean": dot.mean, "std": dot.std} for dot in place.dots],
            }
            for place in self.places
        ]
        return {"figure": self.name, "caption": self.caption, "panels": panels}


def _lines(places: Sequence[DotPanel]) -> list[Sequence[DotPanel]]:
    """At most so many side by side, as even as can be."""
    each = -(-len(places) // -(-len(places) // _WIDTH))
    return [places[start : start + each] for start in range(0, len(places), each)]


def _fill_line(line: Sequence[DotPanel], places: Sequence[Any], look: dict[str, LineStyle]) -> None:
    for number, axes in enumerate(places):
        if number >= len(line):
            axes.set_axis_off()
            continue
        _paint(line[number], axes, look)
        if number and line[number].rows == line[number - 1].rows:
            axes.tick_params(labelleft=False)


def _lowest(lines: Sequence[Sequence[DotPanel]], grid: Any) -> Iterator[Any]:
    """The axes with nothing below."""
    for above, line in enumerate(lines):
        below = len(lines[above + 1]) if above + 1 < len(lines) else 0
        yield from grid[above][below : len(line)]


def _paint(place: DotPanel, axes: Any, look: dict[str, LineStyle]) -> None:
    """On matplotlib's axes, the first row above."""
    series = list(look)
    for dot in place.dots:
        own, level = (
            look[dot.series],
            place.rows.index(dot.row)
            + _APART * (2 * series.index(dot.series) / max(len(series) - 1, 1) - 1),
        )
        shown = {"color": own.color, "clip_on": False}
        axes.plot(dot.mean, level, own.mark, markersize=4, zorder=3, label=dot.series, **shown)
        if dot.std is not None:
            axes.plot(
                [dot.mean - dot.std, dot.mean + dot.std], [level, level], linewidth=1.2, **shown
            )
        if dot.expected is not None:
            wide = {"markersize": 9, "markeredgewidth": 3.5, "alpha": 0.45}
            axes.plot(dot.expected, level, "|", label=f"{dot.series}, expected", **wide, **shown)
    axes.set(
        title=fill(place.title, _LETTERS),
        xlim=(0, 1),
        ylim=(len(place.rows) - 0.5, -0.5),
        xticks=(0, 0.25, 0.5, 0.75, 1),
    )
    axes.set_xticklabels(("0", "", "0.5", "", "1"))
    axes.set_yticks(range(len(place.rows)), place.rows)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    for edge in range(len(place.rows) - 1):
        axes.axhline(edge + 0.5, color="0.9", linewidth=0.6, zorder=0)
