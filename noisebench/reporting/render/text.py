"""Tables as Markdown, CSV, JSON, LaTeX, and as HTML for notebooks, light or dark. `page/` makes a
whole HTML document.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise
from typing import Any

from ...core.sanitize import printable_json, word_as_cell
from ...errors import printable
from ...experiments.backbones import NONE
from ..aggregate import ALL, Cell
from ..metrics import METRICS
from ..table import Table
from .grid import RANK_HEAD, GridCell, GridView, grids

SCHEMA = 2
_MARKUP = re.compile(r"([\\`*_\[\]|~$])")
_BEGINS = re.compile(r"^(\s*\d*)([#>+=.)-])")  # a heading, a quotation, a nested list


def markdown(tables: list[Table], *, ranks: bool = False) -> str:
    """Pipe tables, as GitHub renders them."""
    views = (view for table in tables for view in grids(table, ranks=ranks))
    return "\n\n".join(map(_pipes, views)) + "\n"


def _pipes(view: GridView) -> str:
    lines = [
        [view.axis, *(_plain(head.text) for head in view.heads)],
        ["---", *["---:" for _ in view.heads]],
    ]
    for row_head, cells in zip(view.row_heads, view.cells, strict=True):
        texts = (f"**{cell.text}**" if cell.bold else cell.text for cell in cells)
        lines.append([_plain(row_head), *texts])
    grid = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    above = f"**{_plain(view.title.strip())}**\n\n" if view.title else ""
    return f"{above}{grid}\n\n{_plain(view.caption)}"


def as_list(lines: Sequence[str]) -> str:
    """A Markdown list and a blank line; empty for no lines."""
    items = (_BEGINS.sub(r"\1\\\2", _plain(line)) for line in lines)
    return "".join(f"* {item}\n" for item in items) + ("\n" if lines else "")


def _plain(text: str) -> str:
    """User text escaped, so that it is never read as markup: no element, link, image, code,
    formula.
    """
    return _MARKUP.sub(r"\\\1", printable(text).replace("&", "&amp;").replace("<", "&lt;"))


def cell_document(table: Table, row: str, col: str, cell: Cell) -> dict[str, Any]:
    """A cell as in the JSON document."""
    labels = table.axes(row, col)
    match = table.published.get((row, col))
    names: dict[str, Any] = {
        axis: labels.get(axis) for axis in ("dataset", "model", "recipe", "noise", "method")
    }
    names |= {axis: labels[axis] for axis in ("loss", "strategy") if axis in labels}
    names |= {axis: labels[axis] for axis in ("init", "features") if labels.get(axis, NONE) != NONE}
    names |= {
        axis: int(labels[axis]) for axis in ("epochs", "subset") if labels.get(axis, ALL) != ALL
    }
    if labels.get("versions"):
        names["versions"] = labels["versions"]
    return {
        **names,
        "precision": cell.settings.get("precision"),
        "metric": cell.metric,
        "realised_rate": cell.realised_rate,
        "num_examples": cell.num_examples,
        "n": cell.n,
        "mean": cell.mean,
        "std": cell.std,
        "values": cell.values,
        "oracle": cell.oracle,
        "failed": cell.failed,
        "published": None if match is None else match.as_dict(cell.mean),
        "rank": table.rank(row, col),
        **({"difference": _difference(table, row, col)} if table.against else {}),
        "inputs": cell.inputs,
        "settings": cell.settings,
    }


def _difference(table: Table, row: str, col: str) -> dict[str, Any] | None:
    difference = table.differences.get((row, col))
    if difference is None:
        return None
    names = ("mean", "low", "high", "pairs")
    return {"from": table.against, **{name: getattr(difference, name) for name in names}}


def document(tables: list[Table], metric: str) -> dict[str, Any]:
    """The JSON document of a report, which is also the gate's baseline; accuracies are fractions.

    Two values are comparable if `inputs` (by seed: hash of the noisy labels, loss, strategy,
    component versions) and `settings` (recipe, data hash, precision) are equal.
    """
    names = metric.split(",") if metric else []
    cells = [cell for table in tables for cell in table.cells.values()]
    lengths = {
        name: [length for cell in cells if cell.metric == name for length in cell.epochs]
        for name in names
    }
    documents = [
        cell_document(table, row, col, cell)
        for table in tables
        for row in table.rows
        for col in table.cols
        if (cell := table.cells.get((row, col)))
    ]
    selection = "; ".join(METRICS[name].selection_of(lengths[name]) for name in names)
    return {"schema": SCHEMA, "metric": metric, "selection": selection, "cells": documents}


def as_json(content: dict[str, Any]) -> str:
    """A document as text."""
    return printable_json(json.dumps(content, indent=1, allow_nan=False)) + "\n"


def as_csv(content: dict[str, Any]) -> str:
    """One line per cell, nested values as JSON, without `inputs` and `settings`."""
    rows = [
        {key: value for key, value in row.items() if key not in ("inputs", "settings")}
        for row in content["cells"]
    ]
    output = io.StringIO()
    writer = csv.DictWriter(
        output, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(
        {
            key: word_as_cell(json.dumps(value) if isinstance(value, dict) else value)
            for key, value in row.items()
        }
        for row in rows
    )
    return output.getvalue()


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
    """A table environment per table, for \\input; tables that are too wide are shrunk."""
    return _PREAMBLE + "\n".join(
        _latex_table(view) for table in tables for view in grids(table, ranks=ranks)
    )


def escaped(text: str) -> str:
    """Text escaped for LaTeX; apostrophes are straight, as in expressions."""
    return "".join(_SPECIAL.get(letter, letter) for letter in printable(text))


def _first(text: str) -> str:
    """A name at the start of a line: after `\\\\`, `[` and `*` would be its arguments, and CI logs
    interpret `::`.
    """
    return f"{{}}{escaped(text)}" if text.lstrip().startswith(("[", "*", "::")) else escaped(text)


def _latex_table(view: GridView) -> str:
    body = []
    for row_head, cells in zip(view.row_heads, view.cells, strict=True):
        texts = [_latex_cell(cell, narrow_dagger=not view.differences) for cell in cells]
        body.append(" & ".join([_first(row_head), *texts]) + r" \\")
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(view.heads)}}}",
        r"\toprule",
        *_latex_heads(view),
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


def _latex_heads(view: GridView) -> list[str]:
    """The column names, in two lines where a column has several axes; then the realised rates."""
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


def _latex_cell(cell: GridCell, *, narrow_dagger: bool) -> str:
    number, spread = (text.replace("-", "$-$") for text in (cell.number, cell.spread))
    if cell.bold:
        number = rf"\textbf{{{number}}}"
    if spread:
        spread = rf"\,{{\scriptsize {spread}}}".replace(" ± ", r"$\pm$\,")
    marks = escaped(cell.marks)
    if narrow_dagger and cell.marks == "†" and not cell.published:
        marks = _RLAP  # zero width, so that the numbers of a column stay aligned
    published = escaped(f" {cell.published}") if cell.published else ""
    return f"{number}{spread}{marks}{published}" or "--"


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
    """The tables without a page, for a notebook."""
    return f"<style>{_STYLE}</style>\n" + "".join(
        _html_table(view) for table in tables for view in grids(table, ranks=ranks)
    )


def escape_html(text: str) -> str:
    """Untrusted text as HTML."""
    return html.escape(printable(text))


def _html_table(view: GridView) -> str:
    heads = [f'<th scope="col">{escape_html(view.axis)}</th>']
    for head in view.heads:
        rate = f"<br><small>{escape_html(head.rate)}</small>" if head.rate else ""
        heads.append(f'<th scope="col">{escape_html(head.name)}{rate}</th>')
    lines = []
    for row_head, row in zip(view.row_heads, view.cells, strict=True):
        cells = "".join(f"<td>{_html_cell(cell)}</td>" for cell in row)
        lines.append(f'<tr><th scope="row">{escape_html(row_head)}</th>{cells}</tr>')
    first, rows = "".join(heads), "\n".join(lines)
    above = f"<caption>{escape_html(view.title)}</caption>\n" if view.title else ""
    grid = f"<table>\n{above}<thead><tr>{first}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
    return f'<div class="noisebench">\n{grid}\n<p>{escape_html(view.caption)}</p>\n</div>\n'


def _html_cell(cell: GridCell) -> str:
    text = escape_html(cell.number)
    if cell.spread:
        text += f" <small>{escape_html(cell.spread)}</small>"
    if cell.bold:
        text = f"<b>{text}</b>"
    dagger, failed, rest = cell.marks.partition(" ✗")
    text += escape_html(dagger)
    if failed:
        text += f' <span class="failed">✗{escape_html(rest)}</span>'
    text = text or "–"
    return f"{text} <small>{escape_html(cell.published)}</small>" if cell.published else text
