"""A number against the noise rate: one panel a kind of noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import ConfigError
from ..aggregate import Cell
from ..kinds import kinds_of_noise
from ..render.text import col_head, row_head
from ..table import Table
from .grid import shared
from .panels import Panel, PanelFigure, Series


def rates(tables: Sequence[Table]) -> PanelFigure:
    """Of every table whose columns are noises with a rate; a line a method, its band ± the sample
    standard deviation over seeds.

    Raises ConfigError where no noise has a rate.
    """
    found = [(table, kinds_of_noise(table)) for table in tables]
    if tables and not any(kinds for _, kinds in found):
        noises = ", ".join(
            dict.fromkeys(col_head(table, col) for table in tables for col in table.cols)
        )
        raise ConfigError(
            "--figure rates: there is nothing to draw: it needs noise with a rate, "
            f"and these runs have {noises}"
        )
    panels = [
        panel
        for table, kinds in found
        for kind, places in kinds.items()
        if (panel := _panel(table, kind, places)).series
    ]
    return PanelFigure.in_rows(
        "rates", f"{shared(tables)}. Band: ± sample standard deviation.", panels
    )


def _panel(table: Table, kind: str, places: dict[float, str]) -> Panel:
    metric = table.metric
    label = metric.title + (" (%)" if metric.percent else "")
    series = tuple(
        line
        for row in table.rows
        if (line := _line(table, row, places, 100 if metric.percent else 1))
    )
    title = ", ".join(filter(None, [table.short_title, kind]))
    ticks = tuple(100 * rate for rate in places)
    return Panel(
        title,
        "nominal noise rate (%)",
        label,
        series,
        within=(0, 100) if metric.is_share else None,
        x_ticks=ticks,
    )


def _line(table: Table, row: str, places: dict[float, str], scale: float) -> Series | None:
    cells: dict[float, Cell] = {
        rate: cell
        for rate, col in places.items()
        if (cell := table.cells.get((row, col))) and cell.values
    }
    if not cells:
        return None
    mean = scale * np.array([cell.mean or 0.0 for cell in cells.values()])
    spread = scale * np.array([np.nan if cell.std is None else cell.std for cell in cells.values()])
    return Series(
        row_head(table, row),
        100 * np.array(list(cells)),
        mean,
        mean - spread,
        mean + spread,
        "dots",
    )
