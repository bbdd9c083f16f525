"""Tables for the terminal, with Rich. User text is Text, so that it is never read as markup."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table as RichTable

from ...core.console import ENDLESS, Screen, Text
from ..table import Table
from .grid import GridView, grids


def draw_table(table: Table, width: int | None = None, *, ranks: bool = False) -> Group:
    """A table with its title above and its caption below; if wider than `width`, with fewer digits
    or in several blocks.
    """
    bold, parts = width is not None, list[Text | RichTable]()
    for number, view in enumerate(grids(table, ranks=ranks, bold=bold)):
        if view.differences:
            parts.append(Text())
        if view.title:
            parts.append(Text(view.title, style="bold"))
        cols, drawn = range(len(view.heads)), [_draw(view, range(len(view.heads)))]
        if width and _natural_width(drawn[0]) > width:
            shorter = grids(table, ranks=ranks, bold=bold, digits=1)[number]
            drawn = [_draw(shorter, cols, tight=True)]
            if _natural_width(drawn[0]) > width:
                drawn = _blocks(view, width)
        parts += [*drawn, Text(view.caption, style="dim")]
    return Group(*parts)


def _blocks(view: GridView, width: int) -> list[RichTable]:
    """Blocks of as many columns as fit into `width`, at least one."""
    blocks: list[list[int]] = []
    for col in range(len(view.heads)):
        if blocks and _natural_width(_draw(view, [*blocks[-1], col])) <= width:
            blocks[-1].append(col)
        else:
            blocks.append([col])
    return [_draw(view, block) for block in blocks]


def _natural_width(drawn: RichTable) -> int:
    return Screen(width=ENDLESS).measure(drawn).maximum


def _draw(view: GridView, cols: Iterable[int], *, tight: bool = False) -> RichTable:
    drawn = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    drawn.add_column(Text(view.axis), overflow="fold")
    for col in cols:
        head = view.heads[col]
        lines = [head.name, head.rate] if head.rate else [head.name]
        drawn.add_column(Text(*lines), justify="right", overflow="fold")
    for row_head, cells in zip(view.row_heads, view.cells, strict=True):
        texts = []
        for cell in (cells[col] for col in cols):
            text = cell.text.replace(" ± ", "±") if tight else cell.text
            texts.append(Text(text, style="bold" if cell.bold else ""))
        drawn.add_row(Text(row_head), *texts)
    return drawn
