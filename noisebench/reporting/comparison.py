"""The difference of each row of a table from one of its rows, with confidence intervals."""

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

# a method may be a loss's text
_LANGUAGES = {"method": LOSSES, "loss": LOSSES, "strategy": STRATEGIES}


@dataclass(frozen=True)
class DifferenceTable:
    """A table's differences, as a table below it: `table` has all rows but the reference, and all
    columns but those of costs.
    """

    table: Table

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (self.table.title, f"less {self.table.against}")))

    @property
    def differences(self) -> list[Difference]:
        return [difference for difference in self.table.differences.values() if difference]

    @cached_property
    def usual_pairs(self) -> int:
        """The number of pairs that most differences have; the others show theirs."""
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
            unit = "in points where it is a share"
        lower = [name for name in metrics if not METRICS[name].higher_is_better]
        yield (
            f"Each row less {self.table.against}, {unit}: mean difference [95 % "
            "confidence interval]."
        )
        if usual := self.usual_pairs:
            several = any(gap.pairs not in (0, usual) for gap in differences)
            count = f"n = {usual}{', else in brackets' if several else ''}"
            yield f"Paired by seed and recorded labels, {count}: Student's t."
        if any(not gap.pairs for gap in differences):
            yield "‡ unpaired, as no seed of both has the same labels: Welch's t over all of each."
        intervals = sum(gap.low is not None for gap in differences)
        without = any(gap.low is None and gap.pairs > 1 for gap in differences)
        if intervals > 1:
            yield (
                f"{intervals} intervals, not corrected for being so many: one in twenty is "
                "expected to miss."
            )
        elif intervals:
            yield "One interval."
        elif not without:
            yield "No interval: it takes two pairs, or two values of each."
        if floored := sum(gap.floored for gap in differences):
            yield (
                f"{floored} of them as wide as chance makes it with so few examples, as the "
                "seeds are more alike than that."
            )
        if without:
            yield (
                "No interval where all seeds differ by the same, or where two do by a share of "
                "an unknown number of examples."
            )
        if lower:
            yield f"Lower is better in {', '.join(lower)}: there a gain is negative."
        if any(gap.oracle for gap in differences):
            yield "† oracle: one of the two was told the true noise rate or T, or chosen by it."
        if len(differences) < len(self.table.rows) * len(self.table.cols):
            yield "–: one of the two has no number."


def difference_table(table: Table) -> DifferenceTable | None:
    """The differences of a table; None where it has none."""
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
    """The note below a table that was to have differences and has none."""
    if not table.against or any(table.differences.values()):
        return ""
    return (
        f"No differences from {table.against}: it has no number here in the column of another "
        "row's result."
    )


def add_differences(tables: Iterable[Table], name: str) -> list[Table]:
    """The tables with each result's difference from the row of this name, all else in the rows'
    labels equal.

    name: a method, loss or strategy, whichever stands in the rows. Raises ConfigError where it is
    none of these.
    """
    tables = list(tables)
    references = [_find_reference(table, name) for table in tables]
    if tables and not any(references):
        raise ConfigError(_unknown(tables, name))
    if tables and all(METRICS[metric].spent for table in tables for metric in table.metrics):
        raise ConfigError(
            f"--compare-to compares results, and {', '.join(tables[0].metrics)} is "
            "what a run took: give another --metric"
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
            "--compare-to names one of the rows by its method, loss or strategy, and these are "
            f"{tables[0].row_axis}: give another --rows"
        )
    near = difflib.get_close_matches(name, known, n=1)
    hint = f": did you mean {near[0]!r}?" if near else ""
    return f"--compare-to: no row {name!r}{hint} (there are {'; '.join(known)})"


def _methods(table: Table) -> dict[str, list[str]]:
    """The methods, losses or strategies that a table's rows are of, by axis."""
    return {
        axis: list(dict.fromkeys(table.parts[row][number] for row in table.rows))
        for number, axis in enumerate(table.row_axis.split(","))
        if axis in _LANGUAGES
    }


def _find_reference(table: Table, name: str) -> tuple[int, str] | None:
    """The position of the name in the rows' labels, and its text there."""
    for axis, values in _methods(table).items():
        try:
            canonical = _LANGUAGES[axis].canonical(name)
        except NoisebenchError:  # a name of the literature, or of a plugin that is not loaded
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
    """The cell that differs from the row's in the name alone; by the same compute also in its
    epochs, where one does.
    """
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
