"""Tables for people, with Rich. User text is escaped before Rich sees it."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from .formats import cell_text, heads
from .table import Table


def draw_table(table: Table, width: int | None = None) -> Group:
    """A table with its title above and its caption below, with fewer digits where it would not fit into `width` columns."""
    grid = _grid(table, digits=2)
    if width is not None and _natural_width(grid) > width:
        grid = _grid(table, digits=1)
    return Group(Text(table.title, style="bold"), grid, Text(table.caption(), style="dim"))


def _natural_width(grid: RichTable) -> int:
    console = Console(width=1000)
    return console.measure(grid).maximum


def _grid(table: Table, digits: int) -> RichTable:
    grid = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1) if digits > 1 else (0, 1, 0, 0))
    grid.add_column(table.row_axis, overflow="fold")
    for head in heads(table):
        name, _, rate = head.partition(" (")
        grid.add_column(escape(f"{name}\n{rate.rstrip(')')}" if rate else name), justify="right", overflow="fold")
    for row in table.rows:
        grid.add_row(escape(row), *(_cell(table, row, col, digits) for col in table.cols))
    return grid


def _cell(table: Table, row: str, col: str, digits: int) -> Text:
    text = cell_text(table, row, col, digits)
    return Text(text if digits > 1 else text.replace(" ± ", "±"), style="bold" if table.leader(col) == row else "")
