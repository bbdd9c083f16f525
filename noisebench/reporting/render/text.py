"""What every format says of a cell; tables as markdown, CSV and JSON. The others have a file
each.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...core.sanitize import printable_json, word_as_cell
from ...errors import printable
from ...experiments.weights import NONE
from ...labels.manifest import of_which, short_noise
from ..aggregate import ALL, Cell
from ..comparison import difference_table, without_differences
from ..costs import cost_notes
from ..metrics import METRICS
from ..published import beside_caption, beside_text
from ..table import Table

SCHEMA = 2
_MARKUP = re.compile(r"([\\`*_\[\]|~$])")
_BEGINS = re.compile(r"^(\s*\d*)([#>+=.)-])")  # a heading, a quotation, a list within the list


def cell_text(table: Table, row: str, col: str, digits: int = 2) -> str:
    """`96.12 ± 0.30`, with its marks; `digits` after the point of a percentage."""
    cell = table.cells.get((row, col))
    if cell is None:
        return "–"
    number, spread, marks = cell_parts(table, cell, digits)
    return ((number + (f" ± {spread}" if spread else "") + marks).strip() or "–") + beside_text(
        table, row, col
    )


def cell_parts(table: Table, cell: Cell, digits: int = 2) -> tuple[str, str, str]:
    """Mean, deviation and marks; empty where there is none."""
    marks = ("†" if cell.oracle else "") + (f" ✗{cell.failed}" if cell.failed else "")
    if cell.mean is None:
        return "", "", marks
    metric = METRICS[cell.metric]
    scale, digits = (100, digits) if metric.percent else (1, digits + metric.finer)
    spread = "" if cell.std is None else f"{scale * cell.std:.{digits}f}"
    return (
        f"{scale * cell.mean:.{digits}f}",
        spread,
        marks + (f" ({cell.n})" if cell.n != table.usual_n else ""),
    )


def caption(table: Table, *, bold: bool = True, ranks: bool = False) -> str:
    """All that must be said below a table."""
    parts = [
        table.caption(bold=bold, ranks=ranks),
        *cost_notes(table, {row: row_head(table, row) for row in table.rows}),
        beside_caption(table),
        without_differences(table),
    ]
    return " ".join(part for part in parts if part)


def head(table: Table, col: str) -> str:
    """A column's head; a noise says its realised rate."""
    rate = rate_text(table, col)
    return col_head(table, col) + (f" ({rate})" if rate else "")


def col_head(table: Table, col: str) -> str:
    """A column's name."""
    return _named(table, table.col_axis, col)


def rate_text(table: Table, col: str) -> str:
    """`39.9 % wrong`, or `16.7 to 20.2 % wrong` where its cells differ; nothing where the columns
    are no noises or it is not known.
    """
    ends = dict.fromkeys(f"{100 * rate:.1f}" for rate in table.rates.get(col, ()))
    return f"{' to '.join(ends)} % wrong" if ends else ""


def row_head(table: Table, row: str) -> str:
    """A row's name."""
    return _named(table, table.row_axis, row)


def _named(table: Table, axis: str, label: str) -> str:
    """A label's values, one for each axis that it is made of, noises in short."""
    pairs = zip(axis.split(","), table.parts[label], strict=True)
    return ", ".join(
        _said(name, part, table.fixed.get("dataset", "")) for name, part in pairs if part
    )


def _said(axis: str, part: str, dataset: str) -> str:
    if axis == "epochs":
        return f"{part} epoch{'' if part == '1' else 's'}"
    if axis == "subset":
        return part if part == ALL else of_which(int(part))
    if axis == "init":
        return f"from {part}" if part != NONE else "from scratch"
    return short_noise(part, dataset) if axis == "noise" else part


def rank_text(table: Table, row: str) -> str:
    """The mean rank."""
    rank = table.mean_rank(row)
    return "–" if rank is None else f"{rank:.2f}"


def markdown(tables: list[Table], *, ranks: bool = False) -> str:
    """Pipe tables, as GitHub renders them."""
    return (
        "\n\n".join(grid for table in tables for grid in _markdown_tables(table, ranks=ranks))
        + "\n"
    )


def _markdown_tables(table: Table, *, ranks: bool) -> Iterator[str]:
    yield _markdown_table(table, ranks=ranks)
    if below := difference_table(table):
        yield _pipes(below.table, below.text, below.title, below.caption)


def _markdown_table(table: Table, *, ranks: bool) -> str:
    def cell(row: str, col: str) -> str:
        text = cell_text(table, row, col)
        return f"**{text}**" if (row, col) in table.significant_best else text

    return _pipes(table, cell, table.title, caption(table, ranks=ranks), ranks=ranks)


def _pipes(
    table: Table, cell: Callable[[str, str], str], title: str, said: str, *, ranks: bool = False
) -> str:
    heads = [
        table.row_axis.replace(",", ", "),
        *(_plain(head(table, col)) for col in table.cols),
        *(["mean rank"] if ranks else []),
    ]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for row in table.rows:
        lines.append(
            [
                _plain(row_head(table, row)),
                *(cell(row, col) for col in table.cols),
                *([rank_text(table, row)] if ranks else []),
            ]
        )
    grid = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    above = f"**{_plain(title.strip())}**\n\n" if title else ""
    return f"{above}{grid}\n\n{_plain(said)}"


def as_list(lines: Sequence[str]) -> str:
    """Markdown's bullets, with a blank line below; nothing for none."""
    said = [_BEGINS.sub(r"\1\\\2", _plain(line)) for line in lines]
    return "".join(f"* {line}\n" for line in said) + ("\n" if lines else "")


def _plain(text: str) -> str:
    """Users' text that must not turn into markup: no element, link, picture, code or formula."""
    return _MARKUP.sub(r"\\\1", printable(text).replace("&", "&amp;").replace("<", "&lt;"))


def _documents(tables: list[Table]) -> list[dict[str, Any]]:
    found = []
    for table in tables:
        for row in table.rows:
            found += [
                cell_document(table, row, col, cell)
                for col in table.cols
                if (cell := table.cells.get((row, col)))
            ]
    return found


def cell_document(table: Table, row: str, col: str, cell: Cell) -> dict[str, Any]:
    """A cell of the JSON document."""
    labels = table.axes(row, col)
    beside = table.published.get((row, col))
    axes: dict[str, Any] = {
        axis: labels.get(axis) for axis in ("dataset", "model", "recipe", "noise", "method")
    }
    extra: dict[str, Any] = {axis: labels[axis] for axis in ("loss", "strategy") if axis in labels}
    extra |= {"init": labels["init"]} if labels.get("init", NONE) != NONE else {}
    extra |= {
        axis: int(labels[axis]) for axis in ("epochs", "subset") if labels.get(axis, ALL) != ALL
    }
    extra |= {"versions": labels["versions"]} if labels.get("versions") else {}
    return {
        **axes,
        **extra,
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
        "published": None if beside is None else beside.as_dict(cell.mean),
        "rank": table.rank(row, col),
        **({"difference": _difference(table, row, col)} if table.against else {}),
        "inputs": cell.inputs,
        "settings": cell.settings,
    }


def _difference(table: Table, row: str, col: str) -> dict[str, Any] | None:
    found = table.differences.get((row, col))
    ends = found and {
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "pairs": found.pairs,
    }
    return {"from": table.against, **ends} if ends else None


def document(tables: list[Table], metric: str) -> dict[str, Any]:
    """The one JSON document of a report, and a baseline of the gate; accuracies are fractions.

    `inputs` (by seed: the recorded labels' hash, loss, strategy, component versions) and `settings`
    (the recipe, the data's hash, the precision) are what must be the same for two values to be
    comparable.
    """
    names = metric.split(",") if metric else []
    cells = [cell for table in tables for cell in table.cells.values()]
    lengths = {
        name: [length for cell in cells if cell.metric == name for length in cell.epochs]
        for name in names
    }
    selection = "; ".join(METRICS[name].selection_of(lengths[name]) for name in names)
    return {"schema": SCHEMA, "metric": metric, "selection": selection, "cells": _documents(tables)}


def as_json(content: dict[str, Any]) -> str:
    """A document as text."""
    return printable_json(json.dumps(content, indent=1, allow_nan=False)) + "\n"


def as_csv(content: dict[str, Any]) -> str:
    """One line a cell; what is nested, but `inputs` and `settings`, as JSON."""
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


def _cell_of(value: Any) -> Any:
    return word_as_cell(json.dumps(value) if isinstance(value, dict) else value)
