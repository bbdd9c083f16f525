"""Tables for papers: LaTeX with booktabs, to be taken in by \\input. A table that is too wide is
shrunk to the line.
"""

from __future__ import annotations

from itertools import accumulate, groupby, pairwise

from ...errors import printable
from ..table import Table
from .grid import RANK_HEAD, GridCell, GridView, grids

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
    return _PREAMBLE + "\n".join(
        _table(view) for table in tables for view in grids(table, ranks=ranks)
    )


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


def _table(view: GridView) -> str:
    body = []
    for row_head, cells in zip(view.row_heads, view.cells, strict=True):
        texts = [_cell(cell, narrow_dagger=not view.differences) for cell in cells]
        body.append(" & ".join([_first(row_head), *texts]) + r" \\")
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(view.heads)}}}",
        r"\toprule",
        *_heads(view),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}%",
    ]
    grid = "\n".join(lines)
    shrunk = (
        f"\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n{grid}\n}}"
    )
    text = escaped(": ".join(filter(None, (view.title, view.caption))))
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{text}}}\n"
        f"\\smallskip\n{shrunk}\n\\end{{table}}\n"
    )


def _heads(view: GridView) -> list[str]:
    """The columns' names, over several columns where an axis is made of several; then the realised
    rates.
    """
    names = [head.name for head in view.heads if head is not RANK_HEAD]
    ranks = [head.name for head in view.heads if head is RANK_HEAD]
    lines = []
    if view.spanned:
        groups = [
            (name, len(list(members)))
            for name, members in groupby(name.rpartition(", ")[0] for name in names)
        ]
        ends = list(accumulate((count for _, count in groups), initial=1))
        spans = " ".join(rf"\cmidrule(lr){{{begin + 1}-{end}}}" for begin, end in pairwise(ends))
        over = [rf"\multicolumn{{{count}}}{{c}}{{{escaped(name)}}}" for name, count in groups]
        lines.append(" & ".join(["", *over, *["" for _ in ranks]]) + rf" \\ {spans}")
        names = [name.rpartition(", ")[2] for name in names]
    lines.append(" & ".join(map(escaped, [view.axis, *names, *ranks])) + r" \\")
    if any(head.rate for head in view.heads):
        rates = [
            rf"{{\scriptsize {escaped(head.rate)}}}" if head.rate else "" for head in view.heads
        ]
        lines.append(" & ".join(["", *rates]) + r" \\")
    return lines


def _cell(cell: GridCell, *, narrow_dagger: bool) -> str:
    number, spread = (text.replace("-", "$-$") for text in (cell.number, cell.spread))
    if cell.bold:
        number = rf"\textbf{{{number}}}"
    if spread:
        spread = rf"\,{{\scriptsize {spread}}}".replace(" ± ", r"$\pm$\,")
    marks = escaped(cell.marks)
    if narrow_dagger and cell.marks == "†" and not cell.published:
        marks = _RLAP  # of no width, so that the numbers of a column stay aligned
    published = escaped(f" {cell.published}") if cell.published else ""
    return f"{number}{spread}{marks}{published}" or "--"
