"""Tables as HTML for a notebook, light or dark as the reader has it; `page/` is the whole
document.
"""

from __future__ import annotations

import html

from ...errors import printable
from ..table import Table
from .grid import GridCell, GridView, grids

_STYLE = """.noisebench { overflow-x: auto; margin: 0 0 2.5rem; }
.noisebench table { border-collapse: collapse; border-top: 2px solid; border-bottom: 2px solid;
  font-variant-numeric: tabular-nums; }
.noisebench caption { text-align: left; font-weight: 600; padding: 0 0 .5rem; white-space: nowrap; }
.noisebench th, .noisebench td { padding: .25rem .8rem; text-align: right; white-space: nowrap;
  background: none; }
.noisebench thead th { border-bottom: 1px solid; vertical-align: bottom; font-weight: 600; }
.noisebench th:first-child { text-align: left; font-weight: 400; padding-left: 0; }
.noisebench small { opacity: .7; font-weight: 400; }
.noisebench .failed { color: var(--bad, #c62839); }
.noisebench p { max-width: 60rem; opacity: .75; font-size: .87em; margin: .6rem 0 0; }"""


def fragment(tables: list[Table], *, ranks: bool = False) -> str:
    """The tables alone, for a notebook."""
    return f"<style>{_STYLE}</style>\n" + "".join(
        _table(view) for table in tables for view in grids(table, ranks=ranks)
    )


def escape(text: str) -> str:
    """Anybody's words as HTML."""
    return html.escape(printable(text))


def _table(view: GridView) -> str:
    heads = [f'<th scope="col">{escape(view.axis)}</th>']
    for head in view.heads:
        rate = f"<br><small>{escape(head.rate)}</small>" if head.rate else ""
        heads.append(f'<th scope="col">{escape(head.name)}{rate}</th>')
    lines = []
    for row_head, row in zip(view.row_heads, view.cells, strict=True):
        cells = "".join(f"<td>{_cell(cell)}</td>" for cell in row)
        lines.append(f'<tr><th scope="row">{escape(row_head)}</th>{cells}</tr>')
    first, rows = "".join(heads), "\n".join(lines)
    above = f"<caption>{escape(view.title)}</caption>\n" if view.title else ""
    grid = f"<table>\n{above}<thead><tr>{first}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
    return f'<div class="noisebench">\n{grid}\n<p>{escape(view.caption)}</p>\n</div>\n'


def _cell(cell: GridCell) -> str:
    text = escape(cell.number)
    if cell.spread:
        text += f" <small>{escape(cell.spread)}</small>"
    if cell.bold:
        text = f"<b>{text}</b>"
    dagger, failed, rest = cell.marks.partition(" ✗")
    text += escape(dagger)
    if failed:
        text += f' <span class="failed">✗{escape(rest)}</span>'
    text = text or "–"
    return f"{text} <small>{escape(cell.published)}</small>" if cell.published else text
