"""A number against the noise rate: one panel a kind of noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...datasets import DATASETS
from ...errors import NoisebenchError
from ...manifest import noise_words
from ...noise import normal_noise
from ..cells import Cell
from ..formats import row_head
from ..table import Table
from .grid import shared
from .panels import Figure, Panel, Series


def rates(tables: Sequence[Table]) -> Figure:
    """Of every table whose columns are noises with a rate; a line a method, its band ± the sample standard deviation over seeds."""
    panels = [_panel(table, kind, places) for table in tables for kind, places in kinds(table).items()]
    return Figure.in_rows("rates", f"{shared(tables)}. Band: ± sample standard deviation.", panels)


def kinds(table: Table) -> dict[str, dict[str, float]]:
    """The columns of each kind of noise with their nominal rates, in order."""
    found: dict[str, dict[str, float]] = {}
    for col in table.cols:
        if (place := _kind_and_rate(table.axes(table.rows[0], col).get("noise", ""), table.fixed.get("dataset", ""))) is not None:
            found.setdefault(place[0], {})[col] = place[1]
    return {kind: dict(sorted(places.items(), key=lambda place: place[1])) for kind, places in found.items()}


def _kind_and_rate(text: str, dataset: str) -> tuple[str, float] | None:
    """None for noise without one rate, and for a plugin's that is not loaded."""
    try:
        call = normal_noise(text)
    except NoisebenchError:
        return None
    rate = dict(call.kwargs).get("rate")
    if not isinstance(rate, int | float):
        return None
    (name, _), *others = noise_words(call, DATASETS[dataset].map if dataset in DATASETS else None)
    return " ".join([name, *(" ".join(words) for words in others)]), float(rate)


def _panel(table: Table, kind: str, places: dict[str, float]) -> Panel:
    metric = table.metric
    label = metric.title + (" (%)" if metric.percent else "")
    series = tuple(line for row in table.rows if (line := _line(table, row, places, 100 if metric.percent else 1)))
    title = ", ".join(filter(None, [table.fixed.get("dataset", ""), kind]))
    ticks = tuple(100 * rate for rate in places.values())
    return Panel(title, "nominal noise rate (%)", label, series, within=(0, 100) if metric.percent else None, x_ticks=ticks)


def _line(table: Table, row: str, places: dict[str, float], scale: float) -> Series | None:
    cells: dict[float, Cell] = {rate: cell for col, rate in places.items() if (cell := table.cells.get((row, col))) and cell.values}
    if not cells:
        return None
    mean = scale * np.array([cell.mean or 0.0 for cell in cells.values()])
    spread = scale * np.array([np.nan if cell.std is None else cell.std for cell in cells.values()])
    return Series(row_head(table, row), 100 * np.array(list(cells)), mean, mean - spread, mean + spread, "dots")
