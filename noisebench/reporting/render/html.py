"""Tables as HTML for a notebook, light or dark as the reader has it; `page/` is the whole
document.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from functools import partial

from ...errors import printable
from ..comparison import DifferenceTable, difference_table
from ..published import beside_text
from ..table import Table
from .text import caption, cell_parts, head, rank_text, row_head

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
        grid for table in tables for grid in _tables(table, ranks=ranks)
    )


def escape(text: str) -> str:
    """Anybody's words as HTML."""
    return html.escape(printable(text))


def _tables(table: Table, *, ranks: bool) -> Iterator[str]:
    yield _table(
        table, partial(_cell, table), table.title, caption(table, ranks=ranks), ranks=ranks
    )
    if below := difference_table(table):
        yield _table(below.table, partial(_difference, below), below.title, below.caption)


def _table(
    table: Table, cell: Callable[[str, str], str], title: str, said: str, *, ranks: bool = False
) -> str:
    heads = [_head(head(table, col)) for col in table.cols] + (["mean rank"] if ranks else [])
    first = "".join(
        f'<th scope="col">{text}</th>'
        for text in [escape(table.row_axis.replace(",", ", ")), *heads]
    )
    lines = []
    for row in table.rows:
        cells = "".join(f"<td>{cell(row, col)}</td>" for col in table.cols) + (
            f"<td>{rank_text(table, row)}</td>" if ranks else ""
        )
        lines.append(f'<tr><th scope="row">{escape(row_head(table, row))}</th>{cells}</tr>')
    rows = "\n".join(lines)
    above = f"<caption>{escape(title)}</caption>\n" if title else ""
    grid = f"<table>\n{above}<thead><tr>{first}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
    return f'<div class="noisebench">\n{grid}\n<p>{escape(said)}</p>\n</div>\n'


def _head(text: str) -> str:
    name, _, rate = text.partition(" (")
    return escape(name) + (f"<br><small>{escape(rate.rstrip(')'))}</small>" if rate else "")


def _cell(table: Table, row: str, col: str) -> str:
    cell = table.cells.get((row, col))
    if cell is None:
        return "–"
    number, spread, marks = cell_parts(table, cell)
    text = escape(number) + (f" <small>± {escape(spread)}</small>" if spread else "")
    if (row, col) in table.significant_best:
        text = f"<b>{text}</b>"
    dagger, failed, rest = marks.partition(" ✗") if " ✗" in marks else (marks, "", "")
    text = (
        f"{text}{escape(dagger)}"
        + (f' <span class="failed">✗{escape(rest)}</span>' if failed else "")
        or "–"
    )
    beside = beside_text(table, row, col)
    return text + (f" <small>{escape(beside.strip())}</small>" if beside else "")


def _difference(below: DifferenceTable, row: str, col: str) -> str:
    number, interval, marks = below.parts(row, col)
    return (
        escape(number) + (f" <small>{escape(interval)}</small>" if interval else "") + escape(marks)
        or "–"
    )
