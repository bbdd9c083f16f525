"""Differences of the rows of a table from a reference row, with confidence intervals."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..errors import ConfigError, NoisebenchError
from ..losses import LOSSES
from ..strategies import STRATEGIES
from .aggregate import VERSIONS, Cell
from .metrics import METRICS
from .stats import Difference, difference
from .table import Table, most_common

# a method may be a loss expression
_LANGUAGES = {"method": LOSSES, "loss": LOSSES, "strategy": STRATEGIES}


@dataclass(frozen=True)
class DifferenceTable:
    """The differences of a table, shown below it: `table` without the reference row and without the
    columns of costs.
    """

    table: Table

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (self.table.title, f"difference from {self.table.against}")))

    @property
    def differences(self) -> list[Difference]:
        return [difference for difference in self.table.differences.values() if difference]

    @cached_property
    def usual_pairs(self) -> int:
        """The most frequent number of pairs; cells with another number show it."""
        return most_common(difference.pairs for difference in self.differences)

    @property
    def caption(self) -> str:
        """The sentences that explain the differences."""
        return " ".join(self._sentences())

    def _sentences(self) -> Iterator[str]:
        differences = self.differences
        metrics = dict.fromkeys(
            self.table.cells[at].metric for at, gap in self.table.differences.items() if gap
        )
        units = dict.fromkeys(METRICS[name].unit for name in metrics)
        unit = "in " + ("".join(units) or "the metric's own unit")
        if len(units) > 1:
            unit = "in points for percentages, else in the metric's unit"
        lower = [name for name in metrics if not METRICS[name].higher_is_better]
        yield (
            f"Each row minus {self.table.against}, {unit}: mean difference [95 % "
            "confidence interval]."
        )
        if usual := self.usual_pairs:
            several = any(gap.pairs not in (0, usual) for gap in differences)
            count = f"n = {usual}{' (otherwise in brackets)' if several else ''}"
            yield f"Paired by seed and noisy labels, {count}: Student's t."
        if any(not gap.pairs for gap in differences):
            yield "‡ unpaired, as no seed has the same labels in both: Welch's t over all seeds."
        intervals = sum(gap.low is not None for gap in differences)
        without = any(gap.low is None and gap.pairs > 1 for gap in differences)
        if intervals > 1:
            yield (
                f"{intervals} intervals, not corrected for multiple comparisons: about one in "
                "twenty misses the true difference."
            )
        elif intervals:
            yield "One interval."
        elif not without:
            yield "No intervals: these need two pairs, or two seeds of each."
        if floored := sum(gap.floored for gap in differences):
            yield (
                f"{floored} of them use the minimum variance for this number of examples, because "
                "the variance over seeds is smaller."
            )
        if without:
            yield (
                "No interval where the difference is the same for all seeds, or for two seeds if "
                "the number of examples is unknown."
            )
        if lower:
            yield f"Lower is better for {', '.join(lower)}: improvements are negative."
        if any(gap.oracle for gap in differences):
            yield (
                "† oracle: one of the two uses, or was tuned with, the true noise rate or "
                "transition matrix."
            )
        if len(differences) < len(self.table.rows) * len(self.table.cols):
            yield "–: one of the two has no value."


def difference_table(table: Table) -> DifferenceTable | None:
    """The differences of a table; None if it has none."""
    if not any(table.differences.values()):
        return None
    rows, cols = ({at[axis] for at in table.differences} for axis in (0, 1))
    kept = replace(
        table,
        rows=tuple(row for row in table.rows if row in rows),
        cols=tuple(col for col in table.cols if col in cols),
    )
    return DifferenceTable(kept)


def without_differences(table: Table) -> str:
    """The note below a table for which differences were requested but none exist."""
    if not table.against or any(table.differences.values()):
        return ""
    return (
        f"No differences from {table.against}: it has no result in a column with results of other "
        "rows."
    )


def add_differences(tables: Iterable[Table], name: str) -> list[Table]:
    """The tables with the difference of each result from the row of this name that is otherwise
    equal.

    name: a method, loss or strategy, whichever the rows are. Raises ConfigError for an unknown
    one.
    """
    tables = list(tables)
    references = [_find_reference(table, name) for table in tables]
    if tables and not any(references):
        raise ConfigError(_unknown(tables, name))
    if tables and all(METRICS[metric].spent for table in tables for metric in table.metrics):
        raise ConfigError(
            f"--compare-to compares results, but {', '.join(tables[0].metrics)} is a cost: "
            "choose another --metric"
        )
    return [
        _subtract(table, *reference) if reference else replace(table, against=name)
        for table, reference in zip(tables, references, strict=True)
    ]


def _unknown(tables: Sequence[Table], name: str) -> str:
    known = dict.fromkeys(
        value for table in tables for values in _methods(table).values() for value in values
    )
    if not known:
        return (
            "--compare-to needs rows of methods, losses or strategies, but the rows are "
            f"{tables[0].row_axis}: choose another --rows"
        )
    near = difflib.get_close_matches(name, known, n=1)
    hint = f": did you mean {near[0]!r}?" if near else ""
    return f"--compare-to: no row {name!r}{hint} (rows: {'; '.join(known)})"


def _methods(table: Table) -> dict[str, list[str]]:
    """The methods, losses or strategies of a table's rows, by axis."""
    return {
        axis: list(dict.fromkeys(table.parts[row][number] for row in table.rows))
        for number, axis in enumerate(table.row_axis.split(","))
        if axis in _LANGUAGES
    }


def _find_reference(table: Table, name: str) -> tuple[int, str] | None:
    """The position of the name in the rows' labels, and its canonical text."""
    for axis, values in _methods(table).items():
        try:
            canonical = _LANGUAGES[axis].canonical(name)
        except NoisebenchError:  # the name of a method, or of a plugin that is not loaded
            canonical = name
        for text in (name, canonical):
            if text in values:
                return table.row_axis.split(",").index(axis), text
    return None


def _subtract(table: Table, position: int, name: str) -> Table:
    differences = {}
    for (row, col), cell in table.cells.items():
        if table.parts[row][position] != name and not METRICS[cell.metric].spent:
            other = _reference_cell(table, row, col, position, name)
            differences[row, col] = None if other is None else difference(cell, other)
    return replace(table, against=name, differences=differences)


def _reference_cell(table: Table, row: str, col: str, position: int, name: str) -> Cell | None:
    """The cell that differs from the row's only in the name; at equal compute also in epochs."""
    axes = table.row_axis.split(",")
    parts = [*table.parts[row][:position], name, *table.parts[row][position + 1 :]]
    free = {VERSIONS, "epochs"} if table.cells[row, col].compute else {VERSIONS}

    def fixed(parts: Sequence[str]) -> list[str]:
        return [part for axis, part in zip(axes, parts, strict=True) if axis not in free]

    candidates = {
        other: cell
        for other in table.rows
        if (cell := table.cells.get((other, col))) and fixed(table.parts[other]) == fixed(parts)
    }
    exact = candidates.get(", ".join(parts))
    return exact or (next(iter(candidates.values())) if len(candidates) == 1 else None)
