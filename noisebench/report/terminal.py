"""Tables for people, with Rich. User text is escaped before Rich sees it."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from .formats import cell_text, heads
from .table import Table


def draw_table(table: Table) -> Group:
    """A table with its title above and its caption below."""
    grid = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    grid.add_column(table.row_axis, overflow="fold", no_wrap=False, min_width=min(12, max(map(len, table.rows))))
    for head in heads(table):
        grid.add_column(escape(head.replace(" (", "\n(", 1)), justify="right", overflow="fold")
    for row in table.rows:
        grid.add_row(escape(row), *(_cell(table, row, col) for col in table.cols))
    return Group(Text(table.title, style="bold"), grid, Text(table.caption(), style="dim"))


def _cell(table: Table, row: str, col: str) -> Text:
    return Text(cell_text(table, row, col), style="bold" if table.leader(col) == row else "")
