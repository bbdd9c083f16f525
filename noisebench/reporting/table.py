"""Rows -> tables: one for each set of runs that may stand side by side."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..core.expressions import Call
from ..core.registry import Entry, Registry
from ..errors import ConfigError, NoisebenchError
from ..experiments.compute import checked_budget
from ..experiments.methods import METHODS
from ..experiments.published import PublishedMatch
from ..experiments.weights import NONE
from ..labels.manifest import of_which
from ..losses import LOSSES
from ..noise import NOISES, normal_noise
from ..strategies import STRATEGIES
from .aggregate import (
    ALL,
    AXES,
    VERSIONS,
    Cell,
    Row,
    by_version,
    group_rows,
    make_cell,
    paired_by_seed,
    version_text,
)
from .compute import by_compute, by_epochs
from .metrics import METRICS, Metric
from .stats import Difference, significantly_better

# rows that differ in these are not better or worse than one another
NOT_RIVALS = ("dataset", "subset", "noise")
_FIXED = ("dataset", "subset", "model", "init", "recipe", "precision", "noise", "method")
_REGISTERED = {"loss": LOSSES, "strategy": STRATEGIES}
# in a title, unless there are several precisions
_UNSAID = (("precision", "fp32"), ("subset", ALL), ("init", NONE))


@dataclass(frozen=True)
class Table:
    """A grid of cells; `fixed` is what all its runs share. A pair of labels without a cell has no
    run.

    An axis may be several (`dataset,method`); `parts` says which value of each stands in a label.
    """

    fixed: dict[str, str]
    rows: tuple[str, ...]
    cols: tuple[str, ...]
    row_axis: str
    col_axis: str
    cells: dict[tuple[str, str], Cell]
    parts: dict[str, tuple[str, ...]]
    # the least and the greatest of a column's cells, where the columns are noises: realised
    rates: dict[str, tuple[float, float]]
    varied: str
    paper: str = ""  # whose published cells stand beside ours
    published: Mapping[tuple[str, str], PublishedMatch] = field(default_factory=dict)
    # the row that differences are from, and the differences of all other rows' results
    against: str = ""
    differences: Mapping[tuple[str, str], Difference | None] = field(default_factory=dict)
    apart: tuple[str, ...] = ()  # the settings that tell it from others of the same name: `crop 2`
    unlike: tuple[str, ...] = ()  # of its title what tells it from others of the same data: `cnn4`

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.metric for cell in self.cells.values()))

    @property
    def metric(self) -> Metric:
        """The first one, where there are several."""
        return METRICS[self.metrics[0]]

    def cells_of(self, col: str) -> list[Cell]:
        """The cells of a column."""
        return [cell for row in self.rows if (cell := self.cells.get((row, col)))]

    def metric_text(self, name: str) -> str:
        """`test accuracy (%), last epoch`, as it is of these runs."""
        return METRICS[name].said(
            [
                length
                for cell in self.cells.values()
                if cell.metric == name
                for length in cell.epochs
            ]
        )

    def axes(self, row: str, col: str) -> dict[str, str]:
        """Every axis of a place in the grid and its value there."""
        names = [*self.row_axis.split(","), *self.col_axis.split(",")]
        return {**self.fixed, **dict(zip(names, [*self.parts[row], *self.parts[col]], strict=True))}

    @property
    def title(self) -> str:
        return ", ".join(
            [*(value for axis, value in self._said.items() if axis != "metric"), *self.apart]
        )

    @property
    def data(self) -> str:
        """`digits, of which 300`: its data set, and how much of it, where all its runs share
        these.
        """
        return ", ".join(self._said[axis] for axis in ("dataset", "subset") if axis in self._said)

    @property
    def short_title(self) -> str:
        """Its data, and what tells it from the other tables of these."""
        return ", ".join(filter(None, [self.data, *self.unlike, *self.apart]))

    @property
    def _said(self) -> dict[str, str]:
        words = {
            "subset": lambda value: of_which(int(value)),
            "init": lambda value: f"from {value}",
        }
        return {axis: words.get(axis, str)(value) for axis, value in self.fixed.items()}

    @cached_property
    def usual_n(self) -> int:
        """The number of seeds that most cells have; the others say theirs."""
        counts = [cell.n for cell in self.cells.values() if cell.n]
        return statistics.mode(sorted(counts, reverse=True)) if counts else 0

    def _rivals(self, row: str, col: str) -> dict[str, Cell]:
        """The cells of the column with a mean and of the same data, noise and metric: what a row
        may be compared with, itself too.

        None where their times are of several machines, or of packs and single runs.
        """
        own = self.cells.get((row, col))
        same = [place for place, axis in enumerate(self.row_axis.split(",")) if axis in NOT_RIVALS]
        facts = [self.parts[row][place] for place in same]
        column = {
            other: cell
            for other in self.rows
            if (cell := self.cells.get((other, col))) and cell.values
        }
        alike = {other: cell for other, cell in column.items() if own and cell.metric == own.metric}
        found = {
            other: cell
            for other, cell in alike.items()
            if [self.parts[other][place] for place in same] == facts
        }
        clocked = own is not None and METRICS[own.metric].clocked
        return (
            {}
            if clocked and len({clock for cell in found.values() for clock in cell.clocks}) > 1
            else found
        )

    @cached_property
    def significant_best(self) -> frozenset[tuple[str, str]]:
        """The row and column of each cell that beats every rival by more than noise."""
        return frozenset((row, col) for row, col in self.cells if self._leads(row, col))

    def _leads(self, row: str, col: str) -> bool:
        rivals = self._rivals(row, col)
        own, up = rivals.pop(row, None), self._up(row, col)
        return (
            own is not None
            and bool(rivals)
            and all(
                significantly_better(own, other, higher_is_better=up) for other in rivals.values()
            )
        )

    def _up(self, row: str, col: str) -> bool:
        return METRICS[self.cells[row, col].metric].higher_is_better

    def rank(self, row: str, col: str) -> float | None:
        """1 is the best mean among its rivals; equal means share the mean of their places."""
        rivals = self._rivals(row, col)
        if row not in rivals:
            return None
        own, means = rivals[row].mean or 0.0, [cell.mean or 0.0 for cell in rivals.values()]
        better = sum(mean > own if self._up(row, col) else mean < own for mean in means)
        return better + (1 + means.count(own)) / 2

    @cached_property
    def ranked(self) -> tuple[str, ...]:
        """The columns in which every row has a mean: elsewhere a rank among fewer would look better
        than it is.
        """
        return tuple(
            col for col in self.results if all(self.rank(row, col) is not None for row in self.rows)
        )

    @cached_property
    def results(self) -> tuple[str, ...]:
        """The columns that say what came of the runs, not what they took; of several metrics side
        by side the first such one's.
        """
        spent = {col for (_, col), cell in self.cells.items() if METRICS[cell.metric].spent}
        found = [col for col in self.cols if col not in spent]
        if "metric" not in self.col_axis.split(","):
            return tuple(found)
        metrics = {col: cell.metric for (_, col), cell in self.cells.items()}
        return tuple(col for col in found if metrics[col] == metrics[found[0]])

    def mean_rank(self, row: str) -> float | None:
        """Over the columns in which every row has a mean."""
        return (
            statistics.fmean(self.rank(row, col) or 0.0 for col in self.ranked)
            if self.ranked
            else None
        )

    def caption(self, *, bold: bool = True, ranks: bool = False) -> str:
        """What one must know to read the table; `bold`: whether it can be shown."""
        shown = "; ".join(
            f"{name}: {self.metric_text(name)}" if len(self.metrics) > 1 else self.metric_text(name)
            for name in self.metrics
        )
        several = any(cell.n not in (0, self.usual_n) for cell in self.cells.values())
        each = " each" if len(self.cells) > 1 else ""
        count = f"n = {self.usual_n}{', else in brackets' if several else each}"
        parts = [f"{shown}; mean ± sample standard deviation, {count}; {self.varied}."]
        if bold and self.significant_best:
            parts.append(
                "Bold: better than every other of its column, by 95 % intervals paired "
                "by seed and labels."
            )
        if ranks:
            which = (
                f"of {self.cells_of(self.results[0])[0].metric} "
                if self.results and len(self.metrics) > 1
                else ""
            )
            count = f"{len(self.ranked)} of {len(self.results)} columns"
            parts.append(
                f"Mean rank over the {count} {which}in which every row has a mean; 1 is best."
            )
        if any(cell.oracle for cell in self.cells.values()):
            parts.append("† oracle: was told the true noise rate or T, or chosen by it.")
        if any(cell.failed for cell in self.cells.values()):
            parts.append("✗: failed runs, left out of the mean.")
        if len(self.cells) < len(self.rows) * len(self.cols) or any(
            not cell.n and not cell.failed for cell in self.cells.values()
        ):
            parts.append("–: no run with this number.")
        return " ".join([*parts, *dict.fromkeys(self._notes())])

    def _notes(self) -> Iterator[str]:
        """What is said of cells of one seed, of versions, and of runs that are left out."""
        alone: dict[int, list[float]] = {}
        for cell in self.cells.values():
            if cell.n == 1 and cell.num_examples and cell.standard_error:
                alone.setdefault(cell.num_examples, []).append(cell.standard_error)
        for size, errors in sorted(alone.items()):
            ends = dict.fromkeys(
                f"{100 * error:.{1 if error >= 0.001 else 2}f}"
                for error in (min(errors), max(errors))
            )
            several = "" if self.usual_n == 1 else " in brackets"
            yield (
                f"One seed{several}: a share of {size:,} images has a standard error of "
                f"{' to '.join(ends)} points (binomial), "
                "to which the spread over seeds is added."
            )
        for (row, _), cell in self.cells.items():
            for part in ("loss", "strategy"):
                texts = dict.fromkeys(
                    str(inputs[part]) for inputs in cell.inputs.values() if inputs.get(part)
                )
                if len(texts) > 1:
                    yield f"{row}: the seeds of a cell differ in their {part}: {'; '.join(texts)}."
        if several := self._several_versions():
            yield f"Not all runs are of the same code: {several}."
        if VERSIONS in self.row_axis.split(","):
            yield "versions: runs of different code are never averaged, and stand in a row each."
        if repeated := sum(cell.repeated for cell in self.cells.values()):
            yield (
                f"Left out: {repeated} run{'' if repeated == 1 else 's'}, in whose place a "
                "later one of the same seeds stands."
            )

    def _several_versions(self) -> str:
        """`protocol 1, 2; loss:root 1:d6608e37, 1:70f2bcaf`: the parts whose versions differ
        between cells, but those that the rows name.
        """
        found: dict[str, set[str]] = {}
        for (row, _), cell in self.cells.items():
            for part, version in (
                pair
                for each in cell.inputs.values()
                for pair in (each.get("versions") or {}).items()
            ):
                if f"{part} " not in self.axes(row, _).get(VERSIONS, ""):
                    found.setdefault(part, set()).add(version_text(version))
        return "; ".join(
            f"{part} {', '.join(sorted(versions))}"
            for part, versions in sorted(found.items())
            if len(versions) > 1
        )


def make_tables(
    rows: Iterable[Row], row_axis: str = "method", col_axis: str = "noise", budget: str = "epochs"
) -> list[Table]:
    """The tables of all rows, those with most cells first; several metrics stand side by side
    unless an axis names them.

    budget: what the methods of a table have alike, their epochs, or with `compute` their work; then
    epochs are an axis too. Raises ConfigError for unknown axes.
    """
    rows, row_axes, col_axes = list(rows), _axes(row_axis), _axes(col_axis)
    if checked_budget(budget) == "compute":
        row_axes, col_axes = _with_epochs(row_axes, col_axes)
        rows = by_compute(rows)
    elif "epochs" in (*row_axes, *col_axes):
        rows = by_epochs(rows)
    if twice := set(row_axes) & set(col_axes):
        raise ConfigError(f"rows and columns are both {twice.pop()}: choose two")
    if len({row.axes["metric"] for row in rows}) > 1 and "metric" not in (*row_axes, *col_axes):
        col_axes = (*col_axes, "metric")
    axes = {*row_axes, *col_axes}
    wanted = [*_FIXED] if not axes & {"loss", "strategy"} else [*_FIXED[:-1], "loss", "strategy"]
    fixed = [axis for axis in (*wanted, "metric") if axis not in axes]
    unsaid = _UNSAID if len({row.axes["precision"] for row in rows}) < 2 else _UNSAID[1:]
    tables = [
        _table(group, fixed, row_axes, col_axes, unsaid)
        for group in group_rows(rows, fixed).values()
    ]
    return sorted(_told_apart(tables), key=lambda table: -len(table.cells))


def _told_apart(tables: Sequence[Table]) -> Iterator[Table]:
    """The tables; those whose titles are the same name the settings in which they differ."""
    for table in tables:
        settings = [
            next(iter(other.cells.values())).settings
            for other in tables
            if other.title == table.title
        ]
        own = next(iter(table.cells.values())).settings
        differ = [key for key in own if any(other.get(key) != own[key] for other in settings)]
        others = [other._said for other in tables if other.data == table.data]
        unlike = [
            text
            for axis, text in table._said.items()
            if any(other.get(axis) != text for other in others)
        ]
        yield replace(
            table,
            apart=tuple(f"{key} {str(own[key])[:12]}" for key in differ),
            unlike=tuple(unlike),
        )


def _with_epochs(
    row_axes: tuple[str, ...], col_axes: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The axes with epochs, beside the methods or strategies that have them."""
    if "epochs" in (*row_axes, *col_axes):
        return row_axes, col_axes
    in_cols = {"method", "strategy"} & set(col_axes) and not {"method", "strategy"} & set(row_axes)
    return (row_axes, (*col_axes, "epochs")) if in_cols else ((*row_axes, "epochs"), col_axes)


def _axes(text: str) -> tuple[str, ...]:
    """`dataset,method` as its axes."""
    names = tuple(name.strip() for name in text.split(","))
    if wrong := [name for name in names if name not in AXES]:
        raise ConfigError(f"a table's rows and columns are {', '.join(AXES)}; got {wrong[0]!r}")
    if len(set(names)) < len(names):
        raise ConfigError(f"an axis stands twice in {text!r}")
    return names


def _table(
    group: list[Row],
    fixed: list[str],
    row_axes: tuple[str, ...],
    col_axes: tuple[str, ...],
    unsaid: Sequence[tuple[str, str]],
) -> Table:
    members = group_rows(group, (*row_axes, *col_axes))
    if (split := by_version(members.values(), row_axes)) is not None:
        group, row_axes = split, (*row_axes, VERSIONS)
        members = group_rows(group, (*row_axes, *col_axes))
    paired = paired_by_seed(group)
    cells: dict[tuple[str, str], Cell] = {}
    parts: dict[str, tuple[str, ...]] = {}
    for found in members.values():
        places = [tuple(found[0].axes[axis] for axis in axes) for axes in (row_axes, col_axes)]
        labels = [", ".join(place) for place in places]
        parts.update(zip(labels, places, strict=True))
        cells[labels[0], labels[1]] = make_cell(found, paired=paired)
    return Table(
        {axis: group[0].axes[axis] for axis in fixed if (axis, group[0].axes[axis]) not in unsaid},
        _ordered((row for row, _ in cells), parts, row_axes),
        _ordered((col for _, col in cells), parts, col_axes),
        ",".join(row_axes),
        ",".join(col_axes),
        cells,
        parts,
        _rates(cells) if "noise" in col_axes else {},
        _varied(group),
    )


def _rates(cells: Mapping[tuple[str, str], Cell]) -> dict[str, tuple[float, float]]:
    """Of each column whose cells all know theirs."""
    found: dict[str, list[float | None]] = {}
    for (_, col), cell in cells.items():
        found.setdefault(col, []).append(cell.realised_rate)
    known = {col: [rate for rate in rates if rate is not None] for col, rates in found.items()}
    return {
        col: (min(rates), max(rates))
        for col, rates in known.items()
        if rates and len(rates) == len(found[col])
    }


def _ordered(
    labels: Iterable[str], parts: dict[str, tuple[str, ...]], axes: tuple[str, ...]
) -> tuple[str, ...]:
    """Noises by kind and rate, methods as the literature's table has them and then the rest, losses
    and strategies as registered and by their numbers, others as they came.
    """
    labels = list(dict.fromkeys(labels))
    came = [
        list(dict.fromkeys(parts[label][place] for label in labels)) for place in range(len(axes))
    ]

    def place(label: str) -> list[Any]:
        return [
            _rank(axis, part, seen)
            for axis, part, seen in zip(axes, parts[label], came, strict=True)
        ]

    return tuple(sorted(labels, key=place))


def _rank(axis: str, label: str, came: list[str]) -> Any:
    if axis == "noise":
        return noise_order(label)
    if axis == "epochs":
        return int(label)
    if axis == "subset":
        return math.inf if label == ALL else int(label)
    if axis == "method":
        known = list(METHODS)
        return known.index(label) if label in known else len(known) + came.index(label)
    if axis in _REGISTERED:
        return _registered(_REGISTERED[axis], label)
    return came.index(label)


def _registered(registry: Registry, text: str) -> tuple[int, list[Any]]:
    """`ce`, which has no parameter, before `el(eps=2)` before `el(eps=10)` before `lsr(ce)`, which
    is made of one, before `1.4*agce`.
    """
    known = [entry.name for entry in sorted(registry, key=_how_plain)]
    found = re.match(r"\w+", text)
    first = known.index(found[0]) if found and found[0] in known else len(known)
    return first, [
        float(part) if number % 2 else part
        for number, part in enumerate(re.split(r"(\d+(?:\.\d+)?)", text))
    ]


def _how_plain(entry: Entry) -> tuple[bool, bool]:
    return any(parameter.type is Call for parameter in entry.parameters), bool(entry.parameters)


def _varied(group: list[Row]) -> str:
    seeds, noise_seeds = (
        sorted({row.seed for row in group}),
        sorted({row.noise_seed for row in group if row.noise_seed is not None}),
    )
    text = _listed("seed", seeds)
    if not noise_seeds:
        return text
    if len(seeds) == len(noise_seeds) == 1:
        return f"{text}, {_listed('noise seed', noise_seeds)}"
    if all(row.noise_seed in (row.seed, None) for row in group):
        return f"{text}, each with its own noise"
    return f"{text}; {_listed('noise seed', noise_seeds)}"


def _listed(word: str, numbers: Sequence[int]) -> str:
    """`seed 0`, `seeds 0, 3`."""
    return f"{word}{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}"


def noise_order(text: str) -> tuple[int, str, float]:
    """The kinds of noise as registered, then by rate."""
    try:
        call = normal_noise(text)
    except NoisebenchError:  # noise of a plugin that is not loaded, or of a later version
        return len(list(NOISES)), text, 0.0
    values = dict(call.kwargs)
    rate = float(values.pop("rate", 0.0))  # type: ignore[arg-type]
    return (
        [entry.name for entry in NOISES].index(call.name),
        str(sorted(values.items(), key=str)),
        rate,
    )
