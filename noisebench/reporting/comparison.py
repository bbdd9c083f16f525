"""How much better each row of a table is than one of them, and how sure that is: a second table, of
differences.
"""

from __future__ import annotations

import difflib
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..errors import ConfigError, NoisebenchError
from ..losses import LOSSES
from ..strategies import STRATEGIES
from .aggregate import VERSIONS, Cell
from .metrics import METRICS
from .stats import difference
from .table import Table

# a method may be a loss's text
_LANGUAGES = {"method": LOSSES, "loss": LOSSES, "strategy": STRATEGIES}


@dataclass(frozen=True)
class DifferenceTable:
    """A table's differences, as a table below it: `table` has all rows but those they are from, and
    all columns but of what runs took.
    """

    table: Table

    @property
    def title(self) -> str:
        return ", ".join(text for text in (self.table.title, f"less {self.table.against}") if text)

    def text(self, row: str, col: str, digits: int = 2) -> str:
        """`+20.35 [+18.91, +21.79]`, with its marks."""
        number, interval, marks = self.parts(row, col, digits)
        return number + (f" {interval}" if interval else "") + marks or "–"

    def parts(self, row: str, col: str, digits: int = 2) -> tuple[str, str, str]:
        """Mean, interval and marks; empty where there is none. `digits` after the point of a
        percentage.
        """
        found = self.table.differences.get((row, col))
        if found is None:
            return "", "", ""
        metric = METRICS[self.table.cells[row, col].metric]
        scale, digits = (100, digits) if metric.percent else (1, digits + metric.finer)
        number, *ends = (
            f"{scale * value:+.{digits}f}"
            for value in (found.mean, found.low, found.high)
            if value is not None
        )
        pairs = f" ({found.pairs})" if found.pairs not in (0, self.usual_pairs) else ""
        marks = ("†" if found.oracle else "") + ("" if found.pairs else "‡")
        return number, f"[{', '.join(ends)}]" if ends else "", marks + pairs

    @cached_property
    def usual_pairs(self) -> int:
        """The number of pairs that most differences have; the others say theirs."""
        counts = [found.pairs for found in self.table.differences.values() if found and found.pairs]
        return statistics.mode(sorted(counts, reverse=True)) if counts else 0

    @property
    def caption(self) -> str:
        """What one must know to read the differences."""
        return " ".join(self._said())

    def _said(self) -> Iterator[str]:
        found = [each for each in self.table.differences.values() if each]
        lower = [name for name in self._metrics if not METRICS[name].higher_is_better]
        yield (
            f"Each row less {self.table.against}, {self._unit}: mean difference [95 % "
            "confidence interval]."
        )
        if self.usual_pairs:
            several = (
                ", else in brackets"
                if any(each.pairs not in (0, self.usual_pairs) for each in found)
                else ""
            )
            yield (
                f"Paired by seed and recorded labels, n = {self.usual_pairs}{several}: Student's t."
            )
        if any(not each.pairs for each in found):
            yield "‡ unpaired, as no seed of both has the same labels: Welch's t over all of each."
        intervals, without = (
            sum(each.low is not None for each in found),
            any(each.low is None and each.pairs > 1 for each in found),
        )
        if intervals or not without:
            yield _counted(intervals)
        if floored := sum(each.floored for each in found):
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
        if any(each.oracle for each in found):
            yield "† oracle: one of the two was told the true noise rate or T, or chosen by it."
        if len(found) < len(self.table.rows) * len(self.table.cols):
            yield "–: one of the two has no number."

    @property
    def _unit(self) -> str:
        units = dict.fromkeys(METRICS[name].unit for name in self._metrics)
        if len(units) > 1:
            return "in points where it is a share"
        return next((f"in {unit}" for unit in units if unit), "in the metric's own unit")

    @property
    def _metrics(self) -> list[str]:
        return list(
            dict.fromkeys(
                self.table.cells[place].metric
                for place, found in self.table.differences.items()
                if found
            )
        )


def _counted(intervals: int) -> str:
    if intervals < 2:
        return (
            "One interval."
            if intervals
            else ("No interval: it takes two pairs, or two values of each.")
        )
    return (
        f"{intervals} intervals, not corrected for being so many: one in twenty is expected to "
        "miss."
    )


def difference_table(table: Table) -> DifferenceTable | None:
    """The differences of a table; None where it has none."""
    if not any(table.differences.values()):
        return None
    rows, cols = ({place[axis] for place in table.differences} for axis in (0, 1))
    kept = replace(
        table,
        rows=tuple(row for row in table.rows if row in rows),
        cols=tuple(col for col in table.cols if col in cols),
    )
    return DifferenceTable(kept)


def without_differences(table: Table) -> str:
    """What a table says that was asked for differences and has none."""
    asked = table.against and not any(table.differences.values())
    return (
        (
            f"No differences from {table.against}: it has no number here in the column of another "
            "row's result."
        )
        if asked
        else ""
    )


def add_differences(tables: Iterable[Table], name: str) -> list[Table]:
    """The tables with each result's difference from the row of this name, all else in the rows'
    labels equal.

    name: a method, loss or strategy, whichever stands in the rows. Raises ConfigError where it is
    none of these.
    """
    tables = list(tables)
    places = [_place(table, name) for table in tables]
    if tables and not any(places):
        raise ConfigError(_unknown(tables, name))
    if tables and all(METRICS[metric].spent for table in tables for metric in table.metrics):
        raise ConfigError(
            f"--against compares results, and {', '.join(tables[0].metrics)} is "
            "what a run took: give another --metric"
        )
    return [
        _against(table, *place) if place else replace(table, against=name)
        for table, place in zip(tables, places, strict=True)
    ]


def _unknown(tables: Sequence[Table], name: str) -> str:
    known = dict.fromkeys(
        value for table in tables for axis in _named(table) for value in _values(table, axis)
    )
    if not known:
        return (
            "--against names one of the rows by its method, loss or strategy, and these are "
            f"{tables[0].row_axis}: give another --rows"
        )
    near = difflib.get_close_matches(name, known, n=1)
    hint = f": did you mean {near[0]!r}?" if near else ""
    return f"--against: no row {name!r}{hint} (there are {'; '.join(known)})"


def _named(table: Table) -> list[str]:
    return [axis for axis in table.row_axis.split(",") if axis in _LANGUAGES]


def _values(table: Table, axis: str) -> list[str]:
    place = table.row_axis.split(",").index(axis)
    return list(dict.fromkeys(table.parts[row][place] for row in table.rows))


def _place(table: Table, name: str) -> tuple[int, str] | None:
    """Where in the rows' labels the name stands, and as which text."""
    for axis in _named(table):
        values = _values(table, axis)
        for text in (name, _canonical(axis, name)):
            if text in values:
                return table.row_axis.split(",").index(axis), text
    return None


def _canonical(axis: str, name: str) -> str:
    try:
        return _LANGUAGES[axis].canonical(name)
    except NoisebenchError:  # a name of the literature, or of a plugin that is not loaded
        return name


def _against(table: Table, place: int, name: str) -> Table:
    found = {}
    for (row, col), cell in table.cells.items():
        if table.parts[row][place] != name and not METRICS[cell.metric].spent:
            other = _reference(table, row, col, place, name)
            found[row, col] = None if other is None else difference(cell, other)
    return replace(table, against=name, differences=found)


def _reference(table: Table, row: str, col: str, place: int, name: str) -> Cell | None:
    """The cell that differs from the row's in the name alone; by the same compute also in its
    epochs, where one does.
    """
    axes = table.row_axis.split(",")
    wanted = [*table.parts[row][:place], name, *table.parts[row][place + 1 :]]
    free = {VERSIONS, "epochs"} if table.cells[row, col].compute else {VERSIONS}

    def fixed(parts: Sequence[str]) -> list[str]:
        return [part for axis, part in zip(axes, parts, strict=True) if axis not in free]

    found = {
        other: cell
        for other in table.rows
        if (cell := table.cells.get((other, col))) and fixed(table.parts[other]) == fixed(wanted)
    }
    exact = found.get(", ".join(wanted))
    return exact or (next(iter(found.values())) if len(found) == 1 else None)
