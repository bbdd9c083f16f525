"""A table's means against the noise rate: one chart a kind of noise that the table has at several rates."""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import NoisebenchError
from ...noise import normal_noise
from ..cells import METRICS
from ..formats import row_head
from ..table import Table, short_noise
from .chart import Chart, Line, Point, round_ticks

_FEWEST = 3  # rates of a kind that make a line worth drawing
_MOST = 24  # lines that can be told apart
_FEW = 8  # rates that can all stand at the axis
_FULL = {"sym": "symmetric", "asym": "asymmetric", "pair": "pair flip"}


def rate_charts(table: Table) -> tuple[Chart, ...]:
    """Nothing for a table without a kind of noise at three rates, or of more rows than lines can be told apart."""
    families: dict[str, dict[float, str]] = {}
    for col in table.cols:
        if place := _place(table, col):
            families.setdefault(place[0], {})[place[1]] = col
    several = {name: cols for name, cols in families.items() if len(cols) >= _FEWEST and len(table.rows) <= _MOST}
    drawn = {name: _lines(table, cols) for name, cols in several.items()}
    points = [point for lines in drawn.values() for line in lines for point in line.points]
    if not points:
        return ()
    ends = [point.y + side * point.spread for point in points for side in (-1, 1)]
    percent = METRICS[table.metrics[0]].percent
    limits = (max(min(ends), 0.0), min(max(ends), 100.0)) if percent else (min(ends), max(ends))
    y_ticks, y_label = round_ticks(limits), _first_upper(table.metric.said)
    return tuple(
        Chart(name, "noise rate (%)", y_label, lines, _rate_ticks(several[name]), y_ticks, marked=True)
        for name, lines in drawn.items()
        if lines
    )


def _rate_ticks(rates: Iterable[float]) -> tuple[float, ...]:
    """The rates themselves while they are few."""
    percents = sorted(round(100 * rate, 6) for rate in rates)
    return tuple(percents) if len(percents) <= _FEW else round_ticks(percents)


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _place(table: Table, col: str) -> tuple[str, float] | None:
    """The kind of noise of a column that shows the table's first metric, and its rate."""
    facts = dict(zip(table.col_axis.split(","), table.parts[col], strict=True))
    if set(facts) - {"noise", "metric"} or "noise" not in facts or facts.get("metric", table.metrics[0]) != table.metrics[0]:
        return None
    try:
        rate = dict(normal_noise(facts["noise"]).kwargs).get("rate")
    except NoisebenchError:  # noise of a plugin that is not loaded
        return None
    if not isinstance(rate, int | float):
        return None
    kind, _, more = short_noise(facts["noise"], table.fixed.get("dataset", "")).partition(f" {rate}")
    return f"{_FULL.get(kind, kind)}{more}", float(rate)


def _lines(table: Table, cols: dict[float, str]) -> tuple[Line, ...]:
    found = []
    for order, row in enumerate(table.rows):
        points = tuple(point for rate, col in sorted(cols.items()) if (point := _point(table, row, col, rate)))
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
    return Point(100 * rate, mean, std, f"{row_head(table, row)} at {100 * rate:g} %: {mean:.2f}{spread}")
