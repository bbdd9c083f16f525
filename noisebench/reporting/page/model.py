"""A report as plain data for the page template, with the numbers of the JSON document."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.progress import track
from ...errors import DataError
from ...runs.folder import RunFolder
from ...runs.workspace import Workspace
from ..aggregate import Cell
from ..metrics import METRICS
from ..render.grid import GridCell, GridView, grids
from ..runs_csv import RunRecord
from ..table import Table
from .chart import Chart, rate_charts
from .details import RunData, Runs, distinct, runs_of
from .label_issues import PageImages

_SHADES = 6  # per column, from the worst mean to the best


@dataclass(frozen=True)
class CellView:
    """A cell. label: for screen readers; runs: the id of its runs, empty if none has a run
    directory.
    """

    text: GridCell
    id: str
    label: str
    n: int
    usual: bool  # whether n is the same as in most cells
    shade: int | None
    published: str
    metric: str
    runs: str


@dataclass(frozen=True)
class RowView:
    """A row. order: of its line in the charts, if it is `drawn`."""

    name: str
    order: int
    drawn: bool
    rank: str
    cells: tuple[CellView | None, ...]


@dataclass(frozen=True)
class TableView:
    """A table, the charts above it, and the differences below it."""

    id: str
    grid: GridView
    rows: tuple[RowView, ...]
    ranked: bool
    shaded: bool
    oracles: bool  # whether any cell is of an oracle
    charts: tuple[Chart, ...]
    differences: GridView | None


@dataclass(frozen=True)
class View:
    """The whole page except its figures."""

    title: str
    facts: tuple[tuple[str, str], ...]
    tables: tuple[TableView, ...]
    runs: tuple[Runs, ...]
    images: dict[str, str]
    damaged: tuple[str, ...]


class _Reader:
    """Reads the run directories of cells, each set of them once."""

    def __init__(self, workspace: Workspace) -> None:
        self.root = workspace.root
        self.images = PageImages(workspace)
        # of finished runs; for runs without a directory, the facts in the results CSV
        self.records: list[dict[str, Any]] = []
        self.failed = 0
        self.damaged: list[str] = []
        self._lines: set[RunRecord] = set()
        self._addresses: set[str] = set()
        self.runs: list[Runs] = []
        self._ids: dict[tuple[RunFolder, ...], str] = {}

    def address(self, *names: str) -> str:
        """A readable and stable id such as `el_sym-0.4`; with a number appended if it is in use."""
        name = "_".join(re.sub(r"[^\w.+=]+", "-", name).strip("-") for name in names)
        candidates = (name if n == 1 else f"{name}_{n}" for n in itertools.count(1))
        address = next(text for text in candidates if text not in self._addresses)
        self._addresses.add(address)
        return address

    def of(self, cell: Cell) -> str:
        """The id of the cell's runs; empty if no run directory is known or readable."""
        lines = {run for run in cell.runs.values() if isinstance(run, RunRecord)} - self._lines
        self._lines |= lines
        self.records += [line.known for line in lines if not line.failed]
        self.failed += sum(bool(line.failed) for line in lines)
        folders = tuple(cell.folders.values())
        if folders and folders not in self._ids:
            runs = []
            for name, folder in cell.folders.items():
                try:
                    runs.append(RunData.read(name, folder))
                except DataError as error:  # damaged since the table was made
                    self.damaged.append(str(error))
            self.records += [run.record for run in runs if run.record]
            self.failed += sum(run.record is None for run in runs)
            self.damaged += [run.damaged for run in runs if run.damaged]
            self._ids[folders] = ""
            if runs:
                self.runs.append(runs_of(runs, len(self.runs), Path(self.root), self.images))
                self._ids[folders] = self.runs[-1].id
        return self._ids.get(folders, "")


def view_of(
    tables: list[Table], damaged: Iterable[str], workspace: Workspace, *, ranks: bool = False
) -> View:
    """The content of the page. Reads the cells' run directories and local images."""
    reader = _Reader(workspace)
    cells = [
        table.cells[row, col]
        for table in tables
        for row in table.rows
        for col in table.cols
        if (row, col) in table.cells
    ]
    for cell in track(cells, "reading details", workspace.tell, total=len(cells), unit="cells"):
        reader.of(cell)  # kept for the tables below
    views = tuple(
        _table(table, number, reader, ranks=ranks) for number, table in enumerate(tables, 1)
    )
    datasets = distinct(
        table.axes(*at).get("dataset", "") for table in tables for at in table.cells
    )
    return View(
        "Learning with noisy labels" + (f": {datasets}" if datasets else ""),
        tuple((name, value) for name, value in _facts(tables, reader) if value),
        views,
        tuple(reader.runs),
        reader.images.encoded,
        (*damaged, *dict.fromkeys(reader.damaged)),
    )


def _facts(tables: list[Table], reader: _Reader) -> Iterator[tuple[str, str]]:
    environments = [record.get("environment", {}) for record in reader.records]
    names = dict.fromkeys(name for table in tables for name in table.metrics)
    metrics = dict.fromkeys(
        table.metric_text(name) for name in names for table in tables if name in table.metrics
    )
    failed = f", {reader.failed} failed" if reader.failed else ""
    software = []
    for name in ("noisebench", "torch", "python"):
        if versions := distinct(environment.get(name) for environment in environments):
            software.append(f"{name} {versions}")
    yield "Metric", "; ".join(metrics)
    yield "Runs", f"{len(reader.records)} finished{failed}"
    yield "Seeds per cell", distinct(table.usual_n for table in tables)
    yield "Precision", distinct(record["precision"] for record in reader.records)
    yield "Device", distinct(environment.get("device") for environment in environments)
    yield "Software", ", ".join(software)


def _table(table: Table, number: int, reader: _Reader, *, ranks: bool) -> TableView:
    grid, *below = grids(table, ranks=ranks)
    shades = {col: _shades(table, col) for col in table.cols}
    charts = rate_charts(table)
    drawn = {line.order for chart in charts for line in chart.lines}
    rows = []
    for order, (row, texts) in enumerate(zip(table.rows, grid.cells, strict=True)):
        cells = tuple(
            _cell(table, (row, col), text, shades[col].get(row), reader)
            for col, text in zip(table.cols, texts, strict=False)  # the last may be the rank
        )
        rank = texts[-1].text if ranks else ""
        rows.append(RowView(grid.row_heads[order], order, order in drawn, rank, cells))
    return TableView(
        f"table{number}",
        grid,
        tuple(rows),
        ranks,
        any(shades.values()),
        any(cell.oracle for cell in table.cells.values()),
        charts,
        below[0] if below else None,
    )


def _shades(table: Table, col: str) -> dict[str, int]:
    """Shades by row, from 0 for the worst mean of the column; empty without two means of one
    metric.
    """
    cells = {row: cell for row in table.rows if (cell := table.cells.get((row, col)))}
    means = {row: cell.mean for row, cell in cells.items() if cell.mean is not None}
    metrics = {cells[row].metric for row in means}
    if len(metrics) != 1 or len(set(means.values())) < 2:
        return {}
    worst, best = min(means.values()), max(means.values())
    if not METRICS[metrics.pop()].higher_is_better:
        worst, best = best, worst
    top = _SHADES - 1
    return {row: round(top * (mean - worst) / (best - worst)) for row, mean in means.items()}


def _cell(
    table: Table, at: tuple[str, str], text: GridCell, shade: int | None, reader: _Reader
) -> CellView | None:
    cell = table.cells.get(at)
    if cell is None:
        return None
    names = table.row_head(at[0]), table.col_head(at[1])
    number = " ".join(filter(None, [text.number, text.spread])) or "no value"
    label = [
        f"{', '.join(names)}: {number}",
        *(["oracle"] if cell.oracle else []),
        *([f"{cell.failed} failed"] if cell.failed else []),
        f"n = {cell.n}",
    ]
    return CellView(
        text,
        reader.address(*names),
        ", ".join(label),
        cell.n,
        cell.n in (0, table.usual_n),
        shade,
        _published(table, at),
        METRICS[cell.metric].describe(cell.epochs),
        reader.of(cell),
    )


def _published(table: Table, at: tuple[str, str]) -> str:
    """The published number, and the differences between the experiments."""
    match = table.published.get(at)
    if match is None:
        return ""
    mean, gap, mismatches = table.cells[at].mean, "", ""
    if mean is not None:
        gap = f", ours minus published: {100 * (mean - match.cell.mean):+.2f} points"
    if match.mismatches:
        mismatches = f". Differences between the experiments: {'; '.join(match.mismatches)}"
    return f"{table.paper}: {100 * match.cell.mean:.2f} %{gap}{mismatches}."
