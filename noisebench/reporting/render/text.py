"""Tables as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from ...core.sanitize import printable_json, word_as_cell
from ...errors import printable
from ...experiments.backbones import NONE
from ..aggregate import ALL, Cell
from ..metrics import METRICS
from ..table import Table
from .grid import GridView, grids

SCHEMA = 2
_MARKUP = re.compile(r"([\\`*_\[\]|~$])")
_BEGINS = re.compile(r"^(\s*\d*)([#>+=.)-])")  # a heading, a quotation, a list within the list


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
    """Markdown's bullets, with a blank line below; nothing for none."""
    items = (_BEGINS.sub(r"\1\\\2", _plain(line)) for line in lines)
    return "".join(f"* {item}\n" for item in items) + ("\n" if lines else "")


def _plain(text: str) -> str:
    """Users' text that must not turn into markup: no element, link, picture, code or formula."""
    return _MARKUP.sub(r"\\\1", printable(text).replace("&", "&amp;").replace("<", "&lt;"))


def cell_document(table: Table, row: str, col: str, cell: Cell) -> dict[str, Any]:
    """A cell of the JSON document."""
    labels = table.axes(row, col)
    match = table.published.get((row, col))
    names: dict[str, Any] = {
        axis: labels.get(axis) for axis in ("dataset", "model", "recipe", "noise", "method")
    }
    names |= {axis: labels[axis] for axis in ("loss", "strategy") if axis in labels}
    if labels.get("init", NONE) != NONE:
        names["init"] = labels["init"]
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
