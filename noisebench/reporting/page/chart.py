"""Small line charts for the page template: positions of axes, ticks and lines. `rate_charts` makes
those of a table's means against the noise rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..figures.panels import kinds_of_noise
from ..metrics import METRICS
from ..table import Table

_STEPS = (1, 2, 2.5, 5, 10)
_MOST_POINTS = 200  # per line; screens show no more
_FEWEST_RATES = 3  # of a kind of noise for a line
_MOST_LINES = 24  # that are distinguishable
_FEW_RATES = 8  # that fit on the axis
_HUES, _MARKS = 8, 4


@dataclass(frozen=True)
class Point:
    """A value, its deviation where it has one, and its tooltip."""

    x: float
    y: float
    spread: float = 0.0
    tooltip: str = ""


@dataclass(frozen=True)
class Line:
    """Points from left to right; `order` selects the style."""

    name: str
    order: int
    points: tuple[Point, ...]

    @property
    def look(self) -> str:
        """CSS classes: eight hues, with dashes from the ninth line on."""
        return f"hue{self.order % _HUES}" + (
            f" dash{self.order // _HUES % 3}" if self.order >= _HUES else ""
        )

    @property
    def mark(self) -> int:
        """The index of the mark, one of four shapes."""
        return self.order % _MARKS


@dataclass(frozen=True)
class Chart:
    """Lines in a box from the first to the last ticks."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[float, ...]
    y_ticks: tuple[float, ...]
    marked: bool = False  # whether every point has a mark
    width: int = 420
    height: int = 240
    left: int = 40  # edges of the box
    right: int = 410
    top: int = 12
    bottom: int = 200

    def x(self, value: float) -> float:
        return round(self.left + (self.right - self.left) * _share(value, self.x_ticks), 1)

    def y(self, value: float) -> float:
        return round(self.bottom - (self.bottom - self.top) * _share(value, self.y_ticks), 1)

    def path(self, line: Line) -> str:
        return "M" + "L".join(f"{self.x(point.x):g} {self.y(point.y):g}" for point in line.points)

    @property
    def x_labels(self) -> list[tuple[float, str]]:
        return [(self.x(value), text) for value, text in _labelled(self.x_ticks)]

    @property
    def y_labels(self) -> list[tuple[float, str]]:
        return [(self.y(value), text) for value, text in _labelled(self.y_ticks)]


def _labelled(ticks: Sequence[float]) -> list[tuple[float, str]]:
    """Each tick and its text, all with the same number of digits."""
    digits = next(
        (n for n in range(6) if all(abs(round(tick, n) - tick) < 1e-9 for tick in ticks)), 6
    )
    return [(tick, f"{tick:.{digits}f}") for tick in ticks]


def _share(value: float, ticks: Sequence[float]) -> float:
    low, high = ticks[0], ticks[-1]
    return (value - low) / (high - low) if high > low else 0.5


def round_ticks(values: Iterable[float], most: int = 6) -> tuple[float, ...]:
    """At most `most` round numbers from below the least value to above the greatest."""
    values = list(values)
    low, high = min(values), max(values)
    width = (high - low) or max(abs(high), 1.0) / 10
    magnitude = 10.0 ** math.floor(math.log10(width / (most - 1)))
    for step in (magnitude * factor for factor in (*_STEPS, 20, 50)):
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            return tuple(round(n * step, 10) for n in range(first, max(last, first + 1) + 1))
    raise AssertionError("some step is wide enough")


def thin(points: Sequence[Point]) -> tuple[Point, ...]:
    """At most `_MOST_POINTS` evenly spaced points, including the last."""
    step = -(-len(points) // _MOST_POINTS) if points else 1
    return (*points[:-1:step], points[-1]) if points else ()


def rate_charts(table: Table) -> tuple[Chart, ...]:
    """One chart per kind of noise with three rates or more; none for a table with too many rows."""
    kinds = {
        name: cols
        for name, cols in kinds_of_noise(table).items()
        if len(cols) >= _FEWEST_RATES and len(table.rows) <= _MOST_LINES
    }
    lines_of = {name: _lines(table, cols) for name, cols in kinds.items()}
    points = [point for lines in lines_of.values() for line in lines for point in line.points]
    if not points:
        return ()
    ends = [point.y + side * point.spread for point in points for side in (-1, 1)]
    low, high = min(ends), max(ends)
    if table.metric.is_share:
        low, high = max(low, 0.0), min(high, 100.0)
    y_label = table.metric_text(table.metrics[0])
    charts = []
    for name, lines in lines_of.items():
        percents = sorted(round(100 * rate, 6) for rate in kinds[name])
        x_ticks = tuple(percents) if len(percents) <= _FEW_RATES else round_ticks(percents)
        charts.append(
            Chart(
                name,
                "noise rate (%)",
                y_label[:1].upper() + y_label[1:],
                lines,
                x_ticks,
                round_ticks((low, high)),
                marked=True,
            )
        )
    return tuple(chart for chart in charts if chart.lines)


def _lines(table: Table, cols: dict[float, str]) -> tuple[Line, ...]:
    lines = []
    for order, row in enumerate(table.rows):
        points = []
        for rate, col in cols.items():
            cell = table.cells.get((row, col))
            if cell is None or cell.mean is None:
                continue
            scale = METRICS[cell.metric].scale
            mean, std = scale * cell.mean, scale * (cell.std or 0.0)
            spread = "" if cell.std is None else f" ± {std:.2f}"
            tooltip = f"{table.row_head(row)} at {100 * rate:g} %: {mean:.2f}{spread}"
            points.append(Point(100 * rate, mean, std, tooltip))
        if points:
            lines.append(Line(table.row_head(row), order, tuple(points)))
    return tuple(lines)
