"""Tables as text for machines and papers: markdown, CSV, JSON. Terminals have `terminal.py`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

from ..errors import ConfigError
from .beside import beside_caption, beside_text
from .cells import Cell
from .table import Table, short_noise

SCHEMA = 1


def cell_text(table: Table, row: str, col: str, digits: int = 2) -> str:
    """`96.12 ± 0.30`, with its marks; `digits` after the point of a percentage."""
    cell = table.cells.get((row, col))
    if cell is None:
        return "–"
    marks = ("†" if cell.oracle else "") + (f" ✗{cell.failed}" if cell.failed else "")
    if cell.mean is None:
        return marks.strip() or "–"
    scale, digits = (100, digits) if table.metric.percent else (1, digits + 2)
    text = f"{scale * cell.mean:.{digits}f}"
    if cell.std is not None:
        text += f" ± {scale * cell.std:.{digits}f}"
    return text + marks + (f" ({cell.n})" if len(table.counts) > 1 else "") + beside_text(table, row, col)


def head(table: Table, col: str) -> str:
    """A column's head; a noise says its realised rate."""
    if table.col_axis != "noise":
        return col
    return short_noise(col, table.fixed.get("dataset", "")) + _rate(table.rates.get(col))


def _rate(rate: float | None) -> str:
    return "" if rate is None else f" ({100 * rate:.1f} % wrong)"


def _markdown(tables: list[Table]) -> str:
    return "\n\n".join(_markdown_table(table) for table in tables) + "\n"


def _markdown_table(table: Table) -> str:
    def cell(row: str, col: str) -> str:
        text = cell_text(table, row, col)
        return f"**{text}**" if table.leaders[col] == row else text

    lines = [[table.row_axis, *(head(table, col) for col in table.cols)], ["---", *["---:"] * len(table.cols)]]
    lines += [[row, *(cell(row, col) for col in table.cols)] for row in table.rows]
    grid = "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)
    return f"**{table.title}**\n\n{grid}\n\n{f'{table.caption()} {beside_caption(table)}'.strip()}"


def _documents(tables: list[Table]) -> list[dict[str, Any]]:
    found = []
    for table in tables:
        for row in table.rows:
            found += [_document(table, row, col, cell) for col in table.cols if (cell := table.cells.get((row, col)))]
    return found


def _document(table: Table, row: str, col: str, cell: Cell) -> dict[str, Any]:
    labels = {**table.fixed, table.row_axis: row, table.col_axis: col}
    beside = table.published.get((row, col))
    axes: dict[str, Any] = {axis: labels.get(axis) for axis in ("dataset", "model", "recipe", "noise", "method")}
    extra: dict[str, Any] = {axis: labels[axis] for axis in ("loss", "strategy", "precision") if axis in labels}
    return {
        **axes,
        **extra,
        "realised_rate": table.rates.get(col),
        "n": cell.n,
        "mean": cell.mean,
        "std": cell.std,
        "values": cell.values,
        "oracle": cell.oracle,
        "failed": cell.failed,
        "published": None if beside is None else beside.as_dict(cell.mean),
    }


def document(tables: list[Table], metric: str) -> dict[str, Any]:
    """The one JSON document of a report; accuracies are fractions."""
    selection = tables[0].metric.selection if tables else ""
    return {"schema": SCHEMA, "metric": metric, "selection": selection, "cells": _documents(tables)}


def _csv(tables: list[Table]) -> str:
    rows = _documents(tables)
    output = io.StringIO()
    names = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(output, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "values": json.dumps(row["values"])} for row in rows)
    return output.getvalue()


_FORMATS: dict[str, Callable[[list[Table], str], str]] = {
    "md": lambda tables, metric: _markdown(tables),
    "csv": lambda tables, metric: _csv(tables),
    "json": lambda tables, metric: json.dumps(document(tables, metric), indent=1) + "\n",
}
FORMATS = ("table", *_FORMATS)


def render(tables: list[Table], form: str, metric: str) -> str:
    """The tables as markdown, CSV or JSON. Raises ConfigError for another form."""
    if form not in _FORMATS:
        raise ConfigError(f"--format is one of {', '.join(FORMATS)}, got {form!r}")
    return _FORMATS[form](tables, metric)
