"""Tables for people, with Rich. User text is Text: it never becomes markup."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table as RichTable

from ...core.console import ENDLESS, Screen, Text
from ..table import Table
from .grid import GridView, grids


def draw_table(table: Table, width: int | None = None, *, ranks: bool = False) -> Group:
    """A table with its title above and its caption below; into `width` columns with fewer digits,
    or in several blocks.
    """
    bold, parts = width is not None, list[Text | RichTable]()
    views = grids(table, ranks=ranks, bold=bold)
    shorter_views = grids(table, ranks=ranks, bold=bold, digits=1) if width else views
    for view, shorter in zip(views, shorter_views, strict=True):
        if view.differences:
            parts.append(Text())
        if view.title:
            parts.append(Text(view.title, style="bold"))
        parts += [*_fit(view, shorter, width or ENDLESS), Text(view.caption, style="dim")]
    return Group(*parts)


def _fit(view: GridView, shorter: GridView, width: int) -> list[RichTable]:
    cols = range(len(view.heads))
    for drawn in (_draw(view, cols), _draw(shorter, cols, tight=True)):
        if _natural_width(drawn) <= width:
            return [drawn]
    blocks: list[list[int]] = []
    for col in cols:
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
