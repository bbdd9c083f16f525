"""A table's means against the noise rate: one chart a kind of noise that the table has at several
rates.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..kinds import kinds_of_noise
from ..metrics import METRICS
from ..render.text import row_head
from ..table import Table
from .chart import Chart, Line, Point, round_ticks

_FEWEST = 3  # rates of a kind that make a line worth drawing
_MOST = 24  # lines that can be told apart
_FEW = 8  # rates that can all stand at the axis


def rate_charts(table: Table) -> tuple[Chart, ...]:
    """Nothing for a table without a kind of noise at three rates, or of more rows than lines can be
    told apart.
    """
    several = {
        name: cols
        for name, cols in kinds_of_noise(table).items()
        if len(cols) >= _FEWEST and len(table.rows) <= _MOST
    }
    drawn = {name: _lines(table, cols) for name, cols in several.items()}
    points = [point for lines in drawn.values() for line in lines for point in line.points]
    if not points:
        return ()
    ends = [point.y + side * point.spread for point in points for side in (-1, 1)]
    share = METRICS[table.metrics[0]].is_share
    limits = (max(min(ends), 0.0), min(max(ends), 100.0)) if share else (min(ends), max(ends))
    y_ticks, y_label = round_ticks(limits), _first_upper(table.metric_text(table.metrics[0]))
    return tuple(
        Chart(
            name, "noise rate (%)", y_label, lines, _rate_ticks(several[name]), y_ticks, marked=True
        )
        for name, lines in drawn.items()
        if lines
    )


def _rate_ticks(rates: Iterable[float]) -> tuple[float, ...]:
    """The rates themselves while they are few."""
    percents = sorted(round(100 * rate, 6) for rate in rates)
    return tuple(percents) if len(percents) <= _FEW else round_ticks(percents)


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lines(table: Table, cols: dict[float, str]) -> tuple[Line, ...]:
    found = []
    for order, row in enumerate(table.rows):
        points = tuple(
            point for rate, col in cols.items() if (point := _point(table, row, col, rate))
        )
        if points:
            found.append(Line(row_head(table, row), order, points))
    return tuple(found)


def _point(table: Table, row: str, col: str, rate: float) -> Point | None:
    cell = table.cells.get((row, col))
    if cell is None or cell.mean is None:
        return None
    scale = 100 if METRICS[cell.metric].percent else 1
    mean, std = scale * cell.mean, scale * (cell.std or 0.0)
    spread = "" if cell.std is None else f" ± {std:.2f}"
    return Point(
        100 * rate, mean, std, f"{row_head(table, row)} at {100 * rate:g} %: {mean:.2f}{spread}"
    )
