"""Tables for papers: LaTeX with booktabs, to be taken in by \\input. A table that is too wide is
shrunk to the line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate, groupby, pairwise

from ...errors import printable
from ..comparison import DifferenceTable, difference_table
from ..published import beside_text
from ..table import Table
from .text import caption, cell_parts, col_head, rank_text, rate_text, row_head

_PREAMBLE = "% needs \\usepackage{amssymb,booktabs,graphicx,textcomp}\n"
_RLAP = r"\rlap{$^\dagger$}"
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "✗": r"$\times$",
    "–": "--",
    "‡": r"$^\ddagger$",
    "'": r"\textquotesingle{}",
    "|": r"\textbar{}",
    "✓": r"$\checkmark$",
    "→": r"$\to$",
}


def latex(tables: list[Table], *, ranks: bool = False) -> str:
    """One table environment each."""
    return _PREAMBLE + "\n".join(text for table in tables for text in _tables(table, ranks=ranks))


def escaped(text: str) -> str:
    """Any text as LaTeX reads it; the apostrophe is straight, as it stands in the little
    language.
    """
    return "".join(_SPECIAL.get(letter, letter) for letter in printable(text))


def _first(text: str) -> str:
    """A name that begins a line: behind the end of the one before `[` and `*` would be that end's
    own, and a build's log obeys `::`.
    """
    return f"{{}}{escaped(text)}" if text.lstrip().startswith(("[", "*", "::")) else escaped(text)


def _tables(table: Table, *, ranks: bool) -> Iterator[str]:
    yield _table(
        table, partial(_cell, table), (table.title, caption(table, ranks=ranks)), ranks=ranks
    )
    if below := difference_table(table):
        yield _table(
            below.table, partial(_difference, below), (below.title, below.caption), ranks=False
        )


def _table(
    table: Table, cell: Callable[[str, str], str], said: tuple[str, str], *, ranks: bool
) -> str:
    cols = len(table.cols) + ranks
    lines = _heads(table, ranks=ranks)
    body = [
        " & ".join(
            [
                _first(row_head(table, row)),
                *(cell(row, col) for col in table.cols),
                *([rank_text(table, row).replace("–", "--")] if ranks else []),
            ]
        )
        + r" \\"
        for row in table.rows
    ]
    grid = "\n".join(
        [
            rf"\begin{{tabular}}{{l{'r' * cols}}}",
            r"\toprule",
            *lines,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}%",
        ]
    )
    shrunk = (
        f"\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n{grid}\n}}"
    )
    text = escaped(": ".join(filter(None, said)))
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{text}}}\n"
        f"\\smallskip\n{shrunk}\n\\end{{table}}\n"
    )


def _heads(table: Table, *, ranks: bool) -> list[str]:
    """The columns' names, over several columns where an axis is made of several; then the realised
    rates.
    """
    rates = [escaped(rate_text(table, col)) for col in table.cols]
    first, more = escaped(table.row_axis.replace(",", ", ")), ["mean rank"] if ranks else []
    last = [col_head(table, col) for col in table.cols]
    lines = []
    if "," in table.col_axis:
        groups = [
            (name, len(list(found)))
            for name, found in groupby(name.rpartition(", ")[0] for name in last)
        ]
        ends = list(accumulate((count for _, count in groups), initial=1))
        spans = " ".join(rf"\cmidrule(lr){{{begin + 1}-{end}}}" for begin, end in pairwise(ends))
        over = [rf"\multicolumn{{{count}}}{{c}}{{{escaped(name)}}}" for name, count in groups]
        lines.append(" & ".join(["", *over, *["" for _ in more]]) + rf" \\ {spans}")
        last = [name.rpartition(", ")[2] for name in last]
    lines.append(" & ".join([first, *map(escaped, last), *more]) + r" \\")
    if any(rates):
        lines.append(
            " & ".join(
                [
                    "",
                    *(rf"{{\scriptsize {rate}}}" if rate else "" for rate in rates),
                    *["" for _ in more],
                ]
            )
            + r" \\"
        )
    return lines


def _cell(table: Table, row: str, col: str) -> str:
    cell = table.cells.get((row, col))
    if cell is None:
        return "--"
    number, spread, marks = cell_parts(table, cell)
    if (row, col) in table.significant_best:
        number = rf"\textbf{{{number}}}"
    spread = rf"\,{{\scriptsize$\pm$\,{spread}}}" if spread else ""
    # a dagger of no width keeps the figures of a column below one another
    beside = escaped(beside_text(table, row, col))
    return (
        f"{number}{spread}{_RLAP if marks == '†' and not beside else escaped(marks)}{beside}"
        or "--"
    )


def _difference(below: DifferenceTable, row: str, col: str) -> str:
    number, interval, marks = (text.replace("-", "$-$") for text in below.parts(row, col))
    return (
        number + (rf"\,{{\scriptsize {interval}}}" if interval else "") + escaped(marks)
    ) or "--"
