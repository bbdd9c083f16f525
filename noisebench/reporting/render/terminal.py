"""Tables for people, with Rich. User text is Text: it never becomes markup."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table as RichTable

from ...core.console import ENDLESS, Screen, Text
from ..comparison import DifferenceTable, difference_table
from ..table import Table
from .text import caption, cell_text, head, rank_text, row_head

Drawn = Callable[[str, str, int], Text]
"""A cell by its row and column, with so many digits."""


def draw_table(table: Table, width: int | None = None, *, ranks: bool = False) -> Group:
    """A table with its title above and its caption below; into `width` columns with fewer digits,
    or in several blocks.
    """
    said = caption(table, bold=width is not None, ranks=ranks)
    return Group(
        *_titled(table, partial(_cell, table), table.title, said, width, ranks=ranks),
        *_differences(table, width),
    )


def _differences(table: Table, width: int | None) -> list[Text | RichTable]:
    below = difference_table(table)
    return (
        [
            Text(),
            *_titled(below.table, partial(_difference, below), below.title, below.caption, width),
        ]
        if below
        else []
    )


def _titled(
    table: Table, cell: Drawn, title: str, said: str, width: int | None, *, ranks: bool = False
) -> list[Text | RichTable]:
    above = [Text(title, style="bold")] if title else []
    return [*above, *_grids(table, cell, width or ENDLESS, ranks=ranks), Text(said, style="dim")]


def _grids(table: Table, cell: Drawn, width: int, *, ranks: bool) -> list[RichTable]:
    for digits in (2, 1):
        grid = _grid(table, cell, table.cols, digits, ranks=ranks)
        if _natural_width(grid) <= width:
            return [grid]
    blocks: list[tuple[str, ...]] = []
    for col in table.cols:
        if (
            blocks
            and _natural_width(_grid(table, cell, (*blocks[-1], col), 2, ranks=ranks)) <= width
        ):
            blocks[-1] = (*blocks[-1], col)
        else:
            blocks.append((col,))
    return [_grid(table, cell, block, 2, ranks=ranks and block is blocks[-1]) for block in blocks]


def _natural_width(grid: RichTable) -> int:
    return Screen(width=ENDLESS).measure(grid).maximum


def _grid(
    table: Table, cell: Drawn, cols: tuple[str, ...], digits: int, *, ranks: bool
) -> RichTable:
    grid = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    grid.add_column(Text(table.row_axis.replace(",", ", ")), overflow="fold")
    for col in cols:
        name, _, rate = head(table, col).partition(" (")
        grid.add_column(
            Text(name, *([rate.rstrip(")")] if rate else [])), justify="right", overflow="fold"
        )
    if ranks:
        grid.add_column("mean rank", justify="right")
    for row in table.rows:
        cells = [cell(row, col, digits) for col in cols]
        grid.add_row(
            Text(row_head(table, row)), *cells, *([rank_text(table, row)] if ranks else [])
        )
    return grid


def _cell(table: Table, row: str, col: str, digits: int) -> Text:
    text = cell_text(table, row, col, digits)
    return Text(
        text if digits > 1 else text.replace(" ± ", "±"),
        style="bold" if (row, col) in table.significant_best else "",
    )


def _difference(below: DifferenceTable, row: str, col: str, digits: int) -> Text:
    return Text(below.text(row, col, digits))
