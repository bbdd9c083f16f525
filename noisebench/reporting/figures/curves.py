"""Learning curves: test accuracy, and the wrong labels that the network agrees with, epoch by
epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..aggregate import Cell
from ..render.text import row_head
from ..table import Table
from .grid import column_title, columns, filled, shared
from .panels import Panel, PanelFigure, Series

_WIDTH = 4  # panels side by side
_SHOWN = {"test_acc": "test accuracy (%)", "memorised": "wrong labels predicted (%)"}


def curves(tables: Sequence[Table]) -> PanelFigure:
    """A column a noise, a line a method: its seeds' mean and, around it, their standard
    deviation.
    """
    found = [
        (table, col, {row: _histories(table.cells[row, col]) for row in filled(table, col)})
        for table, col in columns(tables)
    ]
    parts = [found[start : start + _WIDTH] for start in range(0, len(found), _WIDTH)]
    rows = (tuple(_panel(name, *place) for place in part) for part in parts for name in _SHOWN)
    caption = (
        f"{shared(tables)}. Wrong labels: those that the network predicts in passing, "
        "memorised. Band: ± sample standard deviation."
    )
    return PanelFigure("curves", caption, tuple(filter(_anything, rows)))


def _anything(panels: tuple[Panel, ...]) -> bool:
    return any(panel.series for panel in panels)


def _histories(cell: Cell) -> list[list[dict[str, float | None]]]:
    return [folder.read_history() for folder in cell.finished]


def _panel(
    name: str, table: Table, col: str, found: dict[str, list[list[dict[str, float | None]]]]
) -> Panel:
    lines = ((row_head(table, row), _table_of(histories, name)) for row, histories in found.items())
    series = tuple(
        _banded(label, np.arange(1, values.shape[1] + 1), values)
        for label, values in lines
        if np.isfinite(values).any()
    )
    return Panel(
        column_title(table, col), "epoch", _SHOWN[name], series, (0, None), within=(0, 100)
    )


def _table_of(histories: list[list[dict[str, float | None]]], name: str) -> np.ndarray:
    """Percent (seeds, epochs), NaN where nothing is known."""
    rows = [
        [np.nan if (value := line.get(name)) is None else 100 * value for line in history]
        for history in histories
    ]
    return np.array([row[: min(map(len, rows))] for row in rows])


def _banded(name: str, x: np.ndarray, values: np.ndarray) -> Series:
    """The mean of values (seeds, n) with a band of one sample standard deviation where there are
    several.
    """
    mean = values.mean(0)
    if len(values) < 2:
        return Series(name, x, mean)
    spread = values.std(0, ddof=1)
    return Series(name, x, mean, mean - spread, mean + spread)
