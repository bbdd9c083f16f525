"""Rows -> tables: one for each set of comparable runs."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..core.expressions import Call
from ..errors import ConfigError, NoisebenchError
from ..experiments.backbones import NONE
from ..experiments.methods import METHODS
from ..experiments.published import PublishedMatch
from ..experiments.resolve import checked_budget
from ..labels.manifest import of_which, short_noise
from ..losses import LOSSES
from ..noise import NOISES, normal_noise
from ..strategies import STRATEGIES
from .aggregate import (
    ALL,
    VERSIONS,
    Cell,
    Row,
    by_compute,
    by_epochs,
    by_version,
    group_rows,
    make_cell,
    paired_by_seed,
    version_text,
)
from .metrics import AXES, METRICS, Metric
from .stats import Difference, significantly_better

# rows that differ in these are not compared with one another
NOT_RIVALS = ("dataset", "subset", "noise")
_FIXED = (
    "dataset",
    "subset",
    "model",
    "init",
    "features",
    "recipe",
    "precision",
    "noise",
    "method",
)
_REGISTERED = {"loss": LOSSES, "strategy": STRATEGIES}
# omitted in titles, unless there are several precisions
_DEFAULTS = (("precision", "fp32"), ("subset", ALL), ("init", NONE), ("features", NONE))


@dataclass(frozen=True)
class Table:
    """A grid of cells; `fixed` holds the axes that all its runs share. A pair of labels without a
    cell has no run.

    An axis may consist of several (`dataset,method`); `parts` has the value of each in a label.
    """

    fixed: dict[str, str]
    rows: tuple[str, ...]
    cols: tuple[str, ...]
    row_axis: str
    col_axis: str
    cells: dict[tuple[str, str], Cell]
    parts: dict[str, tuple[str, ...]]
    # minimum and maximum realised noise rate of a column, if the columns are noises
    rates: dict[str, tuple[float, float]]
    varied: str
    paper: str = ""  # whose published numbers are shown next to ours
    published: Mapping[tuple[str, str], PublishedMatch] = field(default_factory=dict)
    # the reference row of the differences, and the differences of all other rows
    against: str = ""
    differences: Mapping[tuple[str, str], Difference | None] = field(default_factory=dict)
    # settings that distinguish it from tables with the same title: `crop 2`
    settings_suffix: tuple[str, ...] = ()
    # parts of its title that distinguish it from tables of the same data: `cnn4`
    title_suffix: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.metric for cell in self.cells.values()))

    @property
    def metric(self) -> Metric:
        """The first, if there are several."""
        return METRICS[self.metrics[0]]

    def metric_text(self, name: str) -> str:
        """`test accuracy (%), last epoch`."""
        cells = [cell for cell in self.cells.values() if cell.metric == name]
        return METRICS[name].describe([length for cell in cells for length in cell.epochs])

    def axes(self, row: str, col: str) -> dict[str, str]:
        """The value of every axis at a row and a column."""
        names = [*self.row_axis.split(","), *self.col_axis.split(",")]
        return {**self.fixed, **dict(zip(names, [*self.parts[row], *self.parts[col]], strict=True))}

    def row_head(self, row: str) -> str:
        """The name of a row."""
        return self._head(self.row_axis, row)

    def col_head(self, col: str) -> str:
        """The name of a column."""
        return self._head(self.col_axis, col)

    def _head(self, axes: str, label: str) -> str:
        """The values of a label, one per axis, noises in short form."""
        texts = []
        for axis, value in zip(axes.split(","), self.parts[label], strict=True):
            if axis == "noise":
                texts.append(short_noise(value, self.fixed.get("dataset", "")))
            elif axis == "epochs":
                texts.append(f"{value} epoch{'' if value == '1' else 's'}")
            elif axis == "init":
                texts.append(f"from {value}" if value != NONE else "from scratch")
            elif axis == "features":
                texts.append(f"features {value}" if value != NONE else "images")
            elif axis == "subset" and value != ALL:
                texts.append(of_which(int(value)))
            elif value:
                texts.append(value)
        return ", ".join(texts)

    def rate_text(self, col: str) -> str:
        """`39.9 % wrong`, or `16.7 to 20.2 % wrong` if its cells differ; empty if the columns are
        not noises or the rate is unknown.
        """
        ends = dict.fromkeys(f"{100 * rate:.1f}" for rate in self.rates.get(col, ()))
        return f"{' to '.join(ends)} % wrong" if ends else ""

    @property
    def title(self) -> str:
        texts = [text for axis, text in self.fixed_texts.items() if axis != "metric"]
        return ", ".join([*texts, *self.settings_suffix])

    @property
    def data(self) -> str:
        """`digits, of which 300`: data set and subset, if all its runs share these."""
        texts = self.fixed_texts
        return ", ".join(texts[axis] for axis in ("dataset", "subset") if axis in texts)

    @property
    def short_title(self) -> str:
        """Its data, and what distinguishes it from other tables of the same data."""
        return ", ".join(filter(None, [self.data, *self.title_suffix, *self.settings_suffix]))

    @property
    def fixed_texts(self) -> dict[str, str]:
        """The values that all its runs share, as shown in the title."""
        texts = dict(self.fixed)
        if "subset" in texts:
            texts["subset"] = of_which(int(texts["subset"]))
        if "init" in texts:
            texts["init"] = f"from {texts['init']}"
        if "features" in texts:
            texts["features"] = f"features {texts['features']}"
        return texts

    @cached_property
    def usual_n(self) -> int:
        """The most frequent number of seeds; cells with another number show it."""
        return most_common(cell.n for cell in self.cells.values())

    def _rivals(self, row: str, col: str) -> dict[str, Cell]:
        """The cells of the column with a mean and with the same data, noise and metric, including
        the row's own.

        Empty for times of several machines, or of packs and single runs.
        """
        if (row, col) not in self.cells:
            return {}
        metric, axes = self.cells[row, col].metric, self.row_axis.split(",")
        same = [number for number, axis in enumerate(axes) if axis in NOT_RIVALS]
        rivals = {
            other: cell
            for other in self.rows
            if (cell := self.cells.get((other, col)))
            and cell.values
            and cell.metric == metric
            and all(self.parts[other][number] == self.parts[row][number] for number in same)
        }
        clocks = {clock for cell in rivals.values() for clock in cell.clocks}
        return {} if METRICS[metric].clocked and len(clocks) > 1 else rivals

    @cached_property
    def significant_best(self) -> frozenset[tuple[str, str]]:
        """The row and column of each cell that is significantly better than every rival."""
        best = set()
        for (row, col), cell in self.cells.items():
            up = METRICS[cell.metric].higher_is_better
            rivals = self._rivals(row, col)
            others = [other for name, other in rivals.items() if name != row]
            better = (significantly_better(cell, other, higher_is_better=up) for other in others)
            if row in rivals and others and all(better):
                best.add((row, col))
        return frozenset(best)

    def rank(self, row: str, col: str) -> float | None:
        """The rank of a cell's mean in its column, 1 for the best; equal means have their mean
        rank.
        """
        rivals = self._rivals(row, col)
        if row not in rivals:
            return None
        mean, means = rivals[row].mean or 0.0, [cell.mean or 0.0 for cell in rivals.values()]
        up = METRICS[rivals[row].metric].higher_is_better
        better = sum(other > mean if up else other < mean for other in means)
        return better + (1 + means.count(mean)) / 2

    @cached_property
    def ranked(self) -> tuple[str, ...]:
        """The columns in which every row has a mean: a rank among fewer would look too good."""
        return tuple(
            col for col in self.results if all(self.rank(row, col) is not None for row in self.rows)
        )

    @cached_property
    def results(self) -> tuple[str, ...]:
        """The columns of results, without costs; of several metrics only the first."""
        metrics = {col: cell.metric for (_, col), cell in self.cells.items()}
        costs = {col for (_, col), cell in self.cells.items() if METRICS[cell.metric].spent}
        results = [col for col in self.cols if col not in costs]
        if "metric" not in self.col_axis.split(","):
            return tuple(results)
        return tuple(col for col in results if metrics[col] == metrics[results[0]])

    def mean_rank(self, row: str) -> float | None:
        """The mean rank over the columns in which every row has a mean."""
        if not self.ranked:
            return None
        return statistics.fmean(self.rank(row, col) or 0.0 for col in self.ranked)

    def caption(self, *, bold: bool = True, ranks: bool = False) -> str:
        """The sentences that explain the table; `bold`: whether the format can show bold."""
        texts = [self.metric_text(name) for name in self.metrics]
        shown = (
            "; ".join(map(": ".join, zip(self.metrics, texts, strict=True)))
            if len(texts) != 1
            else texts[0][0].upper() + texts[0][1:]
        )
        several = any(cell.n not in (0, self.usual_n) for cell in self.cells.values())
        count = f"n = {self.usual_n}{' (otherwise in brackets)' if several else ''}"
        parts = [f"{shown}; mean ± sample standard deviation, {count}; {self.varied}."]
        if bold and self.significant_best:
            parts.append(
                "Bold: significantly better than every other in the column (95 % intervals, paired "
                "by seed and labels)."
            )
        if ranks:
            which = ""
            if self.results and len(self.metrics) > 1:
                metric_of = {col: cell.metric for (_, col), cell in self.cells.items()}
                which = f"of {metric_of[self.results[0]]} "
            count = f"{len(self.ranked)} of {len(self.results)} columns"
            parts.append(f"Mean rank over {count} {which}in which every row has a mean; 1 is best.")
        if any(cell.oracle for cell in self.cells.values()):
            parts.append(
                "† oracle: uses, or was tuned with, the true noise rate or transition matrix."
            )
        if any(cell.failed for cell in self.cells.values()):
            parts.append("✗: number of failed runs, excluded from the mean.")
        if len(self.cells) < len(self.rows) * len(self.cols) or any(
            not cell.n and not cell.failed for cell in self.cells.values()
        ):
            parts.append("–: no run with this value.")
        notes = dict.fromkeys([*self._notes(), *self._version_notes(), *self._cost_notes()])
        return " ".join([*parts, *notes])

    def _notes(self) -> Iterator[str]:
        """Notes on cells of one seed, and of several losses or strategies."""
        errors_by_size: dict[int, list[float]] = {}
        for cell in self.cells.values():
            if cell.n == 1 and cell.num_examples and cell.standard_error:
                errors_by_size.setdefault(cell.num_examples, []).append(cell.standard_error)
        for size, errors in sorted(errors_by_size.items()):
            ends = dict.fromkeys(
                f"{100 * error:.{1 if error >= 0.001 else 2}f}"
                for error in (min(errors), max(errors))
            )
            which = "" if self.usual_n == 1 else " (in brackets)"
            yield (
                f"One seed{which}: the binomial standard error of a share of {size:,} images is "
                f"{' to '.join(ends)} points; the variation over seeds is not included."
            )
        for (row, _), cell in self.cells.items():
            for part in ("loss", "strategy"):
                texts = dict.fromkeys(
                    str(inputs[part]) for inputs in cell.inputs.values() if inputs.get(part)
                )
                if len(texts) > 1:
                    yield f"{row}: the seeds of a cell differ in their {part}: {'; '.join(texts)}."

    def _version_notes(self) -> Iterator[str]:
        """Notes on versions, and on excluded runs."""
        versions_of: dict[str, set[str]] = {}
        for at, cell in self.cells.items():
            named = self.axes(*at).get(VERSIONS, "")  # in the row's name
            for inputs in cell.inputs.values():
                for part, version in (inputs.get("versions") or {}).items():
                    if f"{part} " not in named:
                        versions_of.setdefault(part, set()).add(version_text(version))
        several = "; ".join(
            f"{part} {', '.join(sorted(versions))}"
            for part, versions in sorted(versions_of.items())
            if len(versions) > 1
        )
        if several:
            yield f"Runs of different code versions: {several}."
        if VERSIONS in self.row_axis.split(","):
            yield "versions: runs of different versions are not averaged; each has its own row."
        if repeated := sum(cell.repeated for cell in self.cells.values()):
            yield (
                f"Excluded: {repeated} run{'' if repeated == 1 else 's'}, replaced by a later run "
                "with the same seeds."
            )

    def _cost_notes(self) -> Iterator[str]:
        """Notes on equal compute, and on the machines on which times were measured."""
        if costs := [cell.compute for cell in self.cells.values() if cell.compute]:
            budgets = ", ".join(map(str, sorted({cost.budget for cost in costs})))
            largest = max(abs(cost.work / cost.budget - 1) for cost in costs)
            within = f", within {100 * largest:.2g} %" if largest > 1e-9 else ""
            yield (
                f"Epochs: same compute as {budgets} epoch{'' if budgets == '1' else 's'} "
                f"of CE, counted in forward and backward passes{within}."
            )
        clocks_of = {
            self.row_head(row): {
                clock
                for col in self.cols
                if (cell := self.cells.get((row, col))) and METRICS[cell.metric].clocked
                for clock in cell.clocks
            }
            for row in self.rows
        }
        if machines := sorted({clock.machine for clocks in clocks_of.values() for clock in clocks}):
            several = " (not comparable)" if len(machines) > 1 else ""
            yield (
                f"Wall-clock times on {'; '.join(machines)}{several}; they depend on the "
                "machine's other load."
            )
        packed, single = (
            [row for row, clocks in clocks_of.items() if way in {clock.packed for clock in clocks}]
            for way in (True, False)
        )
        if packed and single:
            which = (
                f" ({'; '.join(packed)}), others alone ({'; '.join(single)})"
                if not set(packed) & set(single)
                else ", others alone"
            )
            yield (
                f"Some runs were trained together as one network{which}: "
                "their times are not comparable."
            )


def most_common(counts: Iterable[int]) -> int:
    """The most frequent count, the largest of several; 0 if all are 0."""
    positive = sorted(filter(None, counts), reverse=True)
    return statistics.mode(positive) if positive else 0


def make_tables(
    rows: Iterable[Row], row_axis: str = "method", col_axis: str = "noise", budget: str = "epochs"
) -> list[Table]:
    """The tables of all rows, the largest first; several metrics are columns unless an axis has
    them.

    budget: what the methods of a table have in common, `epochs` or `compute`; with the latter,
    epochs are an additional axis. Raises ConfigError for unknown axes.
    """
    rows, row_axes, col_axes = list(rows), _axes(row_axis), _axes(col_axis)
    if checked_budget(budget) == "compute":
        rows = by_compute(rows)
        methods = {"method", "strategy"}  # their epochs differ, so that epochs are next to them
        if "epochs" not in (*row_axes, *col_axes):
            if methods & set(col_axes) and not methods & set(row_axes):
                col_axes = (*col_axes, "epochs")
            else:
                row_axes = (*row_axes, "epochs")
    elif "epochs" in (*row_axes, *col_axes):
        rows = by_epochs(rows)
    if twice := set(row_axes) & set(col_axes):
        raise ConfigError(f"rows and columns are both {twice.pop()}: choose two different axes")
    if len({row.axes["metric"] for row in rows}) > 1 and "metric" not in (*row_axes, *col_axes):
        col_axes = (*col_axes, "metric")
    axes = {*row_axes, *col_axes}
    shared = [*_FIXED] if not axes & {"loss", "strategy"} else [*_FIXED[:-1], "loss", "strategy"]
    fixed = [axis for axis in (*shared, "metric") if axis not in axes]
    defaults = _DEFAULTS if len({row.axes["precision"] for row in rows}) < 2 else _DEFAULTS[1:]
    tables = [
        _table(group, fixed, row_axes, col_axes, defaults)
        for group in group_rows(rows, fixed).values()
    ]
    return sorted(_distinguish(tables), key=lambda table: -len(table.cells))


def _distinguish(tables: Sequence[Table]) -> Iterator[Table]:
    """The tables; those with the same title get the settings in which they differ as a suffix."""
    for table in tables:
        settings = [
            next(iter(other.cells.values())).settings
            for other in tables
            if other.title == table.title
        ]
        mine = next(iter(table.cells.values())).settings
        differing = [key for key in mine if any(other.get(key) != mine[key] for other in settings)]
        texts = [other.fixed_texts for other in tables if other.data == table.data]
        yield replace(
            table,
            settings_suffix=tuple(f"{key} {str(mine[key])[:12]}" for key in differing),
            title_suffix=tuple(
                text
                for axis, text in table.fixed_texts.items()
                if any(other.get(axis) != text for other in texts)
            ),
        )


def _axes(text: str) -> tuple[str, ...]:
    """The axes of `dataset,method`."""
    names = tuple(name.strip() for name in text.split(","))
    if wrong := [name for name in names if name not in AXES]:
        raise ConfigError(f"unknown axis {wrong[0]!r} of a table; axes: {', '.join(AXES)}")
    if len(set(names)) < len(names):
        raise ConfigError(f"repeated axis in {text!r}")
    return names


def _table(
    group: list[Row],
    fixed: list[str],
    row_axes: tuple[str, ...],
    col_axes: tuple[str, ...],
    defaults: Sequence[tuple[str, str]],
) -> Table:
    members = group_rows(group, (*row_axes, *col_axes))
    if (split := by_version(members.values(), row_axes)) is not None:
        group, row_axes = split, (*row_axes, VERSIONS)
        members = group_rows(group, (*row_axes, *col_axes))
    paired = paired_by_seed(group)
    cells: dict[tuple[str, str], Cell] = {}
    parts: dict[str, tuple[str, ...]] = {}
    rates_of: dict[str, list[float | None]] = {}
    for rows in members.values():
        values = [tuple(rows[0].axes[axis] for axis in axes) for axes in (row_axes, col_axes)]
        row, col = (", ".join(texts) for texts in values)
        parts.update(zip((row, col), values, strict=True))
        cells[row, col] = make_cell(rows, paired=paired)
        rates_of.setdefault(col, []).append(cells[row, col].realised_rate)
    ends = {}
    for col, rates in rates_of.items():
        known = [rate for rate in rates if rate is not None]
        if "noise" in col_axes and len(known) == len(rates):
            ends[col] = min(known), max(known)
    fixed_values = {axis: group[0].axes[axis] for axis in fixed}
    return Table(
        {axis: value for axis, value in fixed_values.items() if (axis, value) not in defaults},
        _ordered((row for row, _ in cells), parts, row_axes),
        _ordered((col for _, col in cells), parts, col_axes),
        ",".join(row_axes),
        ",".join(col_axes),
        cells,
        parts,
        ends,
        _varied(group),
    )


def _ordered(
    labels: Iterable[str], parts: dict[str, tuple[str, ...]], axes: tuple[str, ...]
) -> tuple[str, ...]:
    """Sorts noises by kind and rate, registered methods before others, losses and strategies in the
    order of their registration and by their parameters; other labels stay in order.
    """
    labels = list(dict.fromkeys(labels))
    seen = [list(dict.fromkeys(parts[label][i] for label in labels)) for i in range(len(axes))]

    def position(label: str) -> list[Any]:
        triples = zip(axes, parts[label], seen, strict=True)
        return [_position(axis, part, appearance) for axis, part, appearance in triples]

    return tuple(sorted(labels, key=position))


def _position(axis: str, label: str, appearance: list[str]) -> Any:
    """The sort key of a label among those of its axis. Losses and strategies: `ce`, without
    parameters, before `el(eps=2)` before `el(eps=10)` before `lsr(ce)`, which contains a loss,
    before `1.4*agce`.
    """
    if axis == "noise":
        return noise_order(label)
    if axis in ("epochs", "subset"):
        return math.inf if label == ALL else int(label)
    if axis == "method":
        return [*METHODS, *appearance].index(label)
    if axis not in _REGISTERED:
        return appearance.index(label)
    simple: list[str] = []
    nested: list[str] = []
    for entry in sorted(_REGISTERED[axis], key=lambda entry: bool(entry.parameters)):
        is_nested = any(parameter.type is Call for parameter in entry.parameters)
        (nested if is_nested else simple).append(entry.name)
    word = re.match(r"\w+", label)
    known = [*simple, *nested, word[0] if word else ""]
    numbers = re.split(r"(\d+(?:\.\d+)?)", label)
    return known.index(known[-1]), [
        float(part) if number % 2 else part for number, part in enumerate(numbers)
    ]


def _varied(group: list[Row]) -> str:
    """`seeds 0 to 9; noise seed 0`."""
    seeds = sorted({row.seed for row in group})
    noise_seeds = sorted({row.noise_seed for row in group if row.noise_seed is not None})
    text, noise_text = (
        f"{word}{'' if len(numbers) == 1 else 's'} "
        + (
            f"{numbers[0]} to {numbers[-1]}"
            if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1
            else ", ".join(map(str, numbers))
        )
        for word, numbers in (("seed", seeds), ("noise seed", noise_seeds))
    )
    if not noise_seeds:
        return text
    if len(seeds) == len(noise_seeds) == 1:
        return f"{text}, {noise_text}"
    if all(row.noise_seed in (row.seed, None) for row in group):
        return f"{text}, each with its own noise"
    return f"{text}; {noise_text}"


def noise_order(text: str) -> tuple[int, str, float]:
    """The sort key of a noise: its kind in order of registration, then its rate."""
    names = [entry.name for entry in NOISES]
    try:
        call = normal_noise(text)
    except NoisebenchError:  # a noise of a plugin that is not loaded, or of a later version
        return len(names), text, 0.0
    values = dict(call.kwargs)
    rate = float(values.pop("rate", 0.0))  # type: ignore[arg-type]
    return names.index(call.name), str(sorted(values.items(), key=str)), rate
