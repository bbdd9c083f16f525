"""A report as plain data for the page: every number here is one of the JSON document's."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...runs.workspace import Workspace
from ..aggregate import Cell
from ..comparison import DifferenceTable, difference_table
from ..metrics import METRICS
from ..published import beside_text
from ..render.text import caption, cell_parts, col_head, rank_text, rate_text, row_head
from ..runs_csv import RunRecord
from ..table import Table
from .chart import Chart
from .configuration import alike
from .detail import Known, Runs, runs_of
from .pictures import Pictures
from .rates import rate_charts

_SHADES = 6  # of a column, from its worst mean to its best


@dataclass(frozen=True)
class Head:
    """A column's head; `better`: the direction in which its best stands first."""

    name: str
    rate: str
    better: str


@dataclass(frozen=True)
class CellView:
    """A cell; empty texts where there is nothing. `value` is the mean at full precision, as JSON
    has it.
    """

    id: str
    label: str
    number: str
    spread: str
    n: int
    oracle: bool
    failed: int
    usual: bool  # whether n is that of most cells
    bold: bool
    shade: int | None
    value: str
    beside: str
    published: str
    metric: str
    runs: str


@dataclass(frozen=True)
class RowView:
    """A row; `order` is its look in the charts, where it is `drawn`."""

    name: str
    order: int
    drawn: bool
    rank: str
    cells: tuple[CellView | None, ...]


@dataclass(frozen=True)
class DifferenceView:
    """A cell of the differences; `value` is the mean at full precision."""

    number: str
    interval: str
    marks: str
    value: str


@dataclass(frozen=True)
class LessView:
    """The differences of a table, below it."""

    title: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[str, tuple[DifferenceView, ...]], ...]
    caption: str


@dataclass(frozen=True)
class TableView:
    """One table, the charts above it and all that must be said below it."""

    id: str
    title: str
    axis: str
    heads: tuple[Head, ...]
    rows: tuple[RowView, ...]
    ranked: bool
    shaded: bool
    oracles: bool  # whether any cell is one
    caption: str
    charts: tuple[Chart, ...]
    less: LessView | None


@dataclass(frozen=True)
class View:
    """The whole page but its figures."""

    title: str
    facts: tuple[tuple[str, str], ...]
    tables: tuple[TableView, ...]
    runs: tuple[Runs, ...]
    pictures: dict[str, str]
    damaged: tuple[str, ...]


class _Reader:
    """Run folders of cells, each set of them once."""

    def __init__(self, workspace: Workspace) -> None:
        self.root = workspace.root
        self.pictures = Pictures(workspace)
        # of finished runs; of one without a folder what a file of runs says
        self.records: list[dict[str, Any]] = []
        self.failed = 0
        self._lines: set[RunRecord] = set()
        self._addresses: set[str] = set()
        self._runs: dict[tuple[Path, ...], Runs] = {}

    @property
    def runs(self) -> tuple[Runs, ...]:
        return tuple(self._runs.values())

    def address(self, *names: str) -> str:
        """`el_sym-0.4`, which people can read and the next report has too; a number behind it where
        it is taken.
        """
        own = "_".join(re.sub(r"[^\w.+=]+", "-", name).strip("-") for name in names)
        found = next(
            text
            for n in itertools.count(1)
            if (text := own if n == 1 else f"{own}_{n}") not in self._addresses
        )
        self._addresses.add(found)
        return found

    def of(self, cell: Cell) -> str:
        """The id of the cell's runs; empty where no folder is known or readable."""
        self._count({run for run in cell.runs.values() if isinstance(run, RunRecord)} - self._lines)
        known = [
            one
            for one in (self._read(name, folder) for name, folder in cell.folders.items())
            if one
        ]
        key = tuple(one.folder.path for one in known)
        if known and key not in self._runs:
            self._runs[key] = runs_of(known, len(self._runs), Path(self.root), self.pictures)
            self.records += [one.record for one in known if one.record]
            self.failed += sum(one.record is None for one in known)
        return self._runs[key].id if known else ""

    def _count(self, lines: set[RunRecord]) -> None:
        self._lines |= lines
        self.records += [line.known for line in lines if not line.failed]
        self.failed += sum(bool(line.failed) for line in lines)

    @staticmethod
    def _read(name: str, folder: Any) -> Known | None:
        try:
            return Known.read(name, folder)
        except DataError:  # it was there when the table was made
            return None


def view_of(
    tables: list[Table], damaged: Iterable[str], workspace: Workspace, *, ranks: bool = False
) -> View:
    """All that the page shows. Reads the cells' run folders; pictures only where they lie here."""
    reader = _Reader(workspace)
    views = tuple(
        _table(table, number, reader, ranks=ranks) for number, table in enumerate(tables, 1)
    )
    return View(
        _title(tables),
        _facts(tables, reader),
        views,
        reader.runs,
        reader.pictures.encoded,
        tuple(damaged),
    )


def _title(tables: list[Table]) -> str:
    names = alike(
        table.axes(*place).get("dataset", "") for table in tables for place in table.cells
    )
    return f"Learning with noisy labels: {names}" if names else "Learning with noisy labels"


def _facts(tables: list[Table], reader: _Reader) -> tuple[tuple[str, str], ...]:
    environments = [record.get("environment", {}) for record in reader.records]
    names = dict.fromkeys(name for table in tables for name in table.metrics)
    usual = alike(table.usual_n for table in tables)
    facts = (
        (
            "Metric",
            "; ".join(
                dict.fromkeys(
                    table.metric_text(name)
                    for name in names
                    for table in tables
                    if name in table.metrics
                )
            ),
        ),
        (
            "Runs",
            f"{len(reader.records)} finished"
            + (f", {reader.failed} failed" if reader.failed else ""),
        ),
        ("Seeds a cell", usual),
        ("Precision", alike(record["precision"] for record in reader.records)),
        ("Device", alike(environment.get("device") for environment in environments)),
        (
            "Software",
            ", ".join(
                filter(
                    None,
                    (_version(environments, name) for name in ("noisebench", "torch", "python")),
                )
            ),
        ),
    )
    return tuple((name, value) for name, value in facts if value)


def _version(environments: list[dict[str, Any]], name: str) -> str:
    versions = alike(environment.get(name) for environment in environments)
    return f"{name} {versions}" if versions else ""


def _table(table: Table, number: int, reader: _Reader, *, ranks: bool) -> TableView:
    shades = {col: _shades(table, col) for col in table.cols}
    charts = rate_charts(table)
    drawn = {line.order for chart in charts for line in chart.lines}
    rows = []
    for order, row in enumerate(table.rows):
        cells = tuple(_cell(table, row, col, shades[col].get(row), reader) for col in table.cols)
        rows.append(
            RowView(
                row_head(table, row),
                order,
                order in drawn,
                rank_text(table, row) if ranks else "",
                cells,
            )
        )
    return TableView(
        id=f"table{number}",
        title=table.title,
        axis=table.row_axis.replace(",", ", "),
        heads=tuple(_head(table, col) for col in table.cols),
        rows=tuple(rows),
        ranked=ranks,
        shaded=any(shades.values()),
        oracles=any(cell.oracle for cell in table.cells.values()),
        caption=caption(table, ranks=ranks),
        charts=charts,
        less=_less(below) if (below := difference_table(table)) else None,
    )


def _less(below: DifferenceTable) -> LessView:
    table = below.table
    rows = tuple(
        (row_head(table, row), tuple(_difference(below, row, col) for col in table.cols))
        for row in table.rows
    )
    return LessView(
        below.title, tuple(_head(table, col) for col in table.cols), rows, below.caption
    )


def _difference(below: DifferenceTable, row: str, col: str) -> DifferenceView:
    found = below.table.differences.get((row, col))
    return DifferenceView(*below.parts(row, col), "" if found is None else repr(found.mean))


def _head(table: Table, col: str) -> Head:
    metrics = [METRICS[cell.metric] for (_, place), cell in table.cells.items() if place == col]
    return Head(
        col_head(table, col),
        rate_text(table, col),
        "descending" if all(metric.higher_is_better for metric in metrics) else "ascending",
    )


def _shades(table: Table, col: str) -> dict[str, int]:
    """From 0, the column's worst mean, to the best; nothing where a column holds no two means of
    one metric.
    """
    cells = {
        row: cell
        for row in table.rows
        if (cell := table.cells.get((row, col))) and cell.mean is not None
    }
    means = {row: cell.mean or 0.0 for row, cell in cells.items()}
    if len({cell.metric for cell in cells.values()}) != 1 or len(set(means.values())) < 2:
        return {}
    low, high = min(means.values()), max(means.values())
    up = METRICS[next(iter(cells.values())).metric].higher_is_better
    shares = {row: (mean - low) / (high - low) for row, mean in means.items()}
    return {
        row: round((_SHADES - 1) * (share if up else 1 - share)) for row, share in shares.items()
    }


def _cell(table: Table, row: str, col: str, shade: int | None, reader: _Reader) -> CellView | None:
    cell = table.cells.get((row, col))
    if cell is None:
        return None
    number, spread, _ = cell_parts(table, cell)
    names = row_head(table, row), col_head(table, col)
    return CellView(
        id=reader.address(*names),
        label=_label(", ".join(names), number, spread, cell),
        number=number,
        spread=spread,
        n=cell.n,
        oracle=cell.oracle,
        failed=cell.failed,
        usual=cell.n in (0, table.usual_n),
        bold=(row, col) in table.significant_best,
        shade=shade,
        value="" if cell.mean is None else repr(cell.mean),
        beside=beside_text(table, row, col).strip(),
        published=_published(table, row, col),
        metric=METRICS[cell.metric].said(cell.epochs),
        runs=reader.of(cell),
    )


def _published(table: Table, row: str, col: str) -> str:
    """The paper's number, and in how far it is another experiment."""
    beside = table.published.get((row, col))
    if beside is None:
        return ""
    cell = table.cells[row, col]
    gap = (
        ""
        if cell.mean is None
        else (f", ours less it {100 * (cell.mean - beside.cell.mean):+.2f} points")
    )
    there = (
        f". It was another experiment: {'; '.join(beside.mismatches)}" if beside.mismatches else ""
    )
    return f"{table.paper}: {100 * beside.cell.mean:.2f} %{gap}{there}."


def _label(title: str, number: str, spread: str, cell: Cell) -> str:
    """What a screen reader says of a cell."""
    said = f"{number} ± {spread}" if spread else number or "no number"
    marks = [
        *(["oracle"] if cell.oracle else []),
        *([f"{cell.failed} failed"] if cell.failed else []),
    ]
    return ", ".join([f"{title}: {said}", *marks, f"n = {cell.n}"])
