"""Rows -> tables: one for each set of runs that may stand side by side."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ..datasets import DATASETS
from ..errors import ConfigError, NoisebenchError
from ..manifest import noise_words
from ..methods import METHODS
from ..noise import NOISES, normal_noise
from ..published import Beside
from .cells import AXES, Cell, Metric, Row, apart, make_cell, paired_by_seed
from .significance import beats

_FIXED = ("dataset", "model", "recipe", "precision", "noise", "method")


@dataclass(frozen=True)
class Table:
    """A grid of cells; `fixed` is what all its runs share. A pair of labels without a cell has no run."""

    fixed: dict[str, str]
    rows: tuple[str, ...]
    cols: tuple[str, ...]
    row_axis: str
    col_axis: str
    cells: dict[tuple[str, str], Cell]
    metric: Metric
    rates: dict[str, float | None]  # realised share of wrong labels, by column, where the columns are noises
    varied: str
    paper: str = ""  # whose published cells stand beside ours
    published: Mapping[tuple[str, str], Beside] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return ", ".join(f"{value}" for value in self.fixed.values())

    @property
    def counts(self) -> set[int]:
        return {cell.n for cell in self.cells.values()}

    @cached_property
    def leaders(self) -> dict[str, str | None]:
        """By column, the row that beats every other by more than noise, if one does."""
        return {col: self._leader(col) for col in self.cols}

    def _leader(self, col: str) -> str | None:
        column = {row: cell for row in self.rows if (cell := self.cells.get((row, col))) and cell.values}
        if len(column) < 2:
            return None
        up = self.metric.higher_is_better
        order = sorted(column, key=lambda row: column[row].mean or 0.0, reverse=up)
        return order[0] if all(beats(column[order[0]], column[row], higher_is_better=up) for row in order[1:]) else None

    def caption(self, *, bold: bool = True) -> str:
        """What one must know to read the table; `bold`: whether it can be shown."""
        unit = " (%)" if self.metric.percent else ""
        count = (
            f"n = {next(iter(self.counts))}{' each' if len(self.cells) > 1 else ''}"
            if len(self.counts) == 1
            else "n in brackets where it differs"
        )
        parts = [f"{self.metric.title}{unit}, {self.metric.selection}; mean ± sample standard deviation, {count}; {self.varied}."]
        if bold and any(self.leaders.values()):
            parts.append("Bold: better than every other of its column (one-sided t test, 5 %, paired by seed).")
        if any(cell.oracle for cell in self.cells.values()):
            parts.append("† oracle: was told the true noise rate or T, or chosen by it.")
        if any(cell.failed for cell in self.cells.values()):
            parts.append("✗: failed runs, left out of the mean.")
        if len(self.cells) < len(self.rows) * len(self.cols):
            parts.append("–: no run.")
        return " ".join(parts)


def make_tables(rows: Iterable[Row], metric: Metric, row_axis: str = "method", col_axis: str = "noise") -> list[Table]:
    """The tables of all rows, those with most cells first. Raises ConfigError for unknown axes."""
    for axis in (row_axis, col_axis):
        if axis not in AXES:
            raise ConfigError(f"a table's rows and columns are {', '.join(AXES)}; got {axis!r}")
    if row_axis == col_axis:
        raise ConfigError(f"rows and columns are both {row_axis}: choose two")
    axes = {row_axis, col_axis}
    wanted = [*_FIXED] if not axes & {"loss", "strategy"} else [*_FIXED[:-1], "loss", "strategy"]
    fixed = [axis for axis in wanted if axis not in axes]
    groups = apart(rows, fixed).values()
    tables = [_table(group, fixed, metric, row_axis, col_axis) for group in groups]
    return sorted(tables, key=lambda table: -len(table.cells))


def _table(group: list[Row], fixed: list[str], metric: Metric, row_axis: str, col_axis: str) -> Table:
    members = apart(group, (row_axis, col_axis))
    paired = paired_by_seed(group)
    cells = {(found[0].axes[row_axis], found[0].axes[col_axis]): make_cell(found, paired=paired) for found in members.values()}
    rows, cols = (dict.fromkeys(pair[place] for pair in cells) for place in (0, 1))
    rates = {col: _mean_rate(row for row in group if row.axes[col_axis] == col) for col in cols} if col_axis == "noise" else {}
    return Table(
        {axis: group[0].axes[axis] for axis in fixed if axis != "precision" or group[0].axes[axis] != "fp32"},
        _ordered(rows, row_axis),
        _ordered(cols, col_axis),
        row_axis,
        col_axis,
        cells,
        metric,
        rates,
        _varied(group),
    )


def _mean_rate(rows: Iterable[Row]) -> float | None:
    rates = [row.realised_rate for row in rows]
    known = [rate for rate in rates if rate is not None]
    return statistics.fmean(known) if known and len(known) == len(rates) else None


def _ordered(labels: Iterable[str], axis: str) -> tuple[str, ...]:
    """Noises by kind and rate, methods as the literature's table has them and then the rest, others as they came."""
    if axis == "noise":
        return tuple(sorted(labels, key=noise_order))
    if axis == "method":
        known = list(METHODS)
        return tuple(sorted(labels, key=lambda name: known.index(name) if name in known else len(known)))
    return tuple(labels)


def _varied(group: list[Row]) -> str:
    seeds, noise_seeds = sorted({row.seed for row in group}), sorted({row.noise_seed for row in group if row.noise_seed is not None})
    if not noise_seeds:
        return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    if len(seeds) == len(noise_seeds) == 1:
        return f"seed {seeds[0]}, noise seed {noise_seeds[0]}"
    text = f"seeds {', '.join(map(str, seeds))}"
    if all(row.noise_seed in (row.seed, None) for row in group):
        return f"{text}, each with its own noise"
    return f"{text}; noise seeds {', '.join(map(str, noise_seeds))}"


def noise_order(text: str) -> tuple[int, str, float]:
    """The kinds of noise as registered, then by rate."""
    try:
        call = normal_noise(text)
    except NoisebenchError:  # noise of a plugin that is not loaded, or of a later version
        return len(list(NOISES)), text, 0.0
    values = dict(call.kwargs)
    rate = float(values.pop("rate", 0.0))  # type: ignore[arg-type]
    return [entry.name for entry in NOISES].index(call.name), str(sorted(values.items(), key=str)), rate


def short_noise(text: str, dataset: str = "") -> str:
    """`sym 0.4`, `asym 0.3 cifar10-two-way`: a noise as a column's head; the data set's own map goes without saying."""
    try:
        call = normal_noise(text)
    except NoisebenchError:
        return text
    words = noise_words(call, DATASETS[dataset].map if dataset in DATASETS else None)
    return " ".join(word for group in words for word in group if word)
