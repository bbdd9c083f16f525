"""Runs -> rows (one per run and metric) -> cells (one per method and noise, over seeds). Only runs
with equal settings are averaged. Runs of different length can be grouped by compute.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..errors import ConfigError, DataError, NoisebenchError
from ..experiments.backbones import label_of
from ..experiments.features import features_label
from ..experiments.resolve import RelativeCost, price_of
from ..experiments.suite import select_matching
from ..labels.manifest import short_noise
from ..runs.folder import RunFolder
from .metrics import AXES, Metric, find_metric
from .runs_csv import RunLike

VERSIONS = "versions"  # extra axis of a table whose cells would mix runs of different code versions
ALL = "all"  # the subset of a run on the full training set


@dataclass(frozen=True)
class Compute:
    """The compute of a run in a group of equal compute, in epochs of CE: the group's, and the
    run's own.
    """

    budget: int
    work: float


@dataclass(frozen=True)
class Clock:
    """How a run's time was measured: on which machine, and whether the run was packed with others,
    so that its time is a share.
    """

    machine: str
    packed: bool


@dataclass(frozen=True)
class Row:
    """One metric of one run: its axes, all settings and the data hash, which of these must be equal
    within a table (`comparable`), what depends on the seed (`inputs`: the labels' hash, the
    resolved loss and strategy, component versions), and its value (None: failed or not recorded).
    """

    axes: dict[str, str]
    settings: dict[str, Any]
    comparable: dict[str, Any]
    inputs: dict[str, Any]
    realised_rate: float | None
    seed: int
    noise_seed: int | None  # None: nothing was sampled
    oracle: bool
    failed: bool
    value: float | None
    finished: float = 0.0
    key: str = ""
    run: RunLike | None = None
    clock: Clock | None = None
    compute: Compute | None = None
    num_examples: int | None = None  # denominator of the value

    @property
    def epochs(self) -> int:
        return int(self.axes["epochs"])

    @property
    def versions(self) -> dict[str, str] | None:
        """Versions of the components; None for a failed run that did not record them."""
        return self.inputs.get("versions") or (None if self.failed else {})


@dataclass
class Cell:
    """The runs of one cell: values and inputs by seed, the number of failed runs, and whether they
    are oracle runs.

    runs: by seed, including failed ones; clocks: how the times were measured; num_examples:
    denominator of each value, None where the value is not a count or it is unknown; realised_rate:
    mean over runs; repeated: number of runs replaced by a later run with the same seeds.
    """

    values: dict[str, float] = field(default_factory=dict)
    failed: int = 0
    oracle: bool = False
    metric: str = "last"
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, RunLike] = field(default_factory=dict)
    clocks: set[Clock] = field(default_factory=set)
    compute: Compute | None = None
    num_examples: int | None = None
    realised_rate: float | None = None
    repeated: int = 0

    @property
    def folders(self) -> dict[str, RunFolder]:
        """The runs that have a run directory, by seed."""
        return {name: run for name, run in self.runs.items() if isinstance(run, RunFolder)}

    @property
    def finished(self) -> list[RunFolder]:
        """The run directories of its values. Raises ConfigError for a run that is only in a results
        CSV.
        """
        folders = self.folders
        for name in self.values:
            if name in self.runs and name not in folders:
                raise ConfigError(
                    f"this needs run directories, but {self.runs[name].name} is only a row of a "
                    "results CSV: pass its run directory"
                )
        return [folders[name] for name in self.values if name in folders]

    def paired_with(self, other: Cell) -> list[str]:
        """The seeds that both have with the same noisy labels."""
        ours, theirs = (
            {seed: cell.inputs.get(seed, {}).get("labels", "") for seed in cell.values}
            for cell in (self, other)
        )
        return [seed for seed in ours if theirs.get(seed) == ours[seed]]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def epochs(self) -> list[int]:
        """The epochs of its runs; empty where unknown."""
        return [int(self.settings["epochs"])] if "epochs" in self.settings else []

    @property
    def standard_error(self) -> float | None:
        """Binomial standard error of one value, sqrt(p (1 - p) / m), with p at least half an
        example away from 0 and 1.
        """
        if self.mean is None or not self.num_examples:
            return None
        edge = 0.5 / self.num_examples
        p = min(max(self.mean, edge), 1 - edge)
        return math.sqrt(p * (1 - p) / self.num_examples)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation; None below two values."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


def _refuse(error: DataError) -> None:
    raise error


def read_rows(
    runs: Iterable[RunLike],
    metrics: Sequence[str],
    pass_over: Callable[[DataError], None] = _refuse,
) -> list[Row]:
    """One row for each of these metrics of each finished or failed run; errors of damaged or
    foreign runs go to `pass_over`.

    If several rows have the same run key, a finished one is preferred to a failed one, then the
    later one, then one with a run directory. Raises UnknownName for a metric.
    """
    metric_of = {name: find_metric(name) for name in metrics}
    best: dict[tuple[str, str], Row] = {}
    for run in runs:
        try:
            ended = run.ended
            info = {} if ended is None else run.about()
            rows = [] if ended is None else [_row(run, info, *m, ended) for m in metric_of.items()]
        except DataError as error:
            pass_over(error)
            continue
        except (KeyError, TypeError, AttributeError, OSError) as error:
            text = (
                f"the record of {run.name} is incomplete ({error}): delete the directory and rerun"
            )
            pass_over(DataError(text))
            continue
        for row in rows:
            key = row.key, row.axes["metric"]
            best[key] = max(best.get(key, row), row, key=_worth)
    return list(best.values())


def _worth(row: Row) -> tuple[bool, float, bool]:
    return not row.failed, row.finished, isinstance(row.run, RunFolder)


def recipe_text(name: str, length: str, held_out: str) -> str:
    """`digits, 40 epochs, 0.1 held out after corruption`."""
    return ", ".join(part for part in (name, length, held_out) if part)


def _row(run: RunLike, info: dict[str, Any], name: str, metric: Metric, ended: float) -> Row:
    recipe, held_out, init = info["recipe"], info.get("held_out", ""), info.get("init")
    length = f"{recipe['epochs']} epoch{'' if recipe['epochs'] == 1 else 's'}"
    special = {
        "recipe": recipe_text(info["recipe_name"], length, held_out),
        "epochs": str(recipe["epochs"]),
        "metric": name,
        "init": label_of(init),
        "features": features_label(info.get("features")),
        "subset": str(info.get("subset", ALL)),
    }
    data = f"{info['data_sha256']} {info.get('source_sha256', '')}".strip()
    comparable = {**recipe, "held_out": held_out, "data": data}
    settings = dict(comparable)
    if "subset" in info:
        settings["subset"] = info["subset"]
    if init is not None:
        settings["init"] = init["sha256"]
    if "features" in info:
        settings["features"] = info["features"]["sha256"]
    environment, clock = info.get("environment", {}), None
    if "device" in environment:
        threads = environment.get("threads", 1)
        processes, parts = environment.get("processes", 1), environment.get("accumulate", 1)
        machine = f"{environment['device']}, {threads} thread{'' if threads == 1 else 's'}"
        machine += f", {processes} processes" if processes > 1 else ""
        machine += f", batches in {parts} parts" if parts > 1 else ""
        clock = Clock(machine, environment.get("packed", 1) > 1)
    return Row(
        {axis: special.get(axis) or str(info[axis]) for axis in AXES},
        settings,
        comparable,
        {
            "labels": info.get("labels", ""),
            **{part: info.get(part) for part in ("loss", "strategy", "versions")},
        },
        # the rate of some labels is not the rate of all
        info["realised_rate"] if info.get("known", 1.0) == 1 else None,
        info["seed"],
        info["noise_seed"],
        info["oracle"],
        info.get("metrics") is None,
        metric.value(info),
        ended,
        info.get("key") or run.name,
        run,
        clock,
        num_examples=metric.num_examples(info),
    )


def where(rows: Iterable[Row], conditions: Iterable[str]) -> list[Row]:
    """The rows that match every condition `axis=value`. Raises ConfigError for invalid conditions,
    or if no row matches.
    """
    return select_matching(rows, conditions, (*AXES, "seed", "noise_seed"), _names_of)


def _names_of(row: Row, axis: str) -> tuple[str, ...]:
    """The names of a row's value on an axis: full, then short."""
    value = str(row.axes.get(axis, getattr(row, axis, None)))
    if axis == "noise":
        return value, short_noise(value, row.axes["dataset"])
    return (value, value.partition(", ")[0]) if axis == "recipe" else (value,)


def group_rows(rows: Iterable[Row], axes: Sequence[str]) -> dict[tuple[str, ...], list[Row]]:
    """Rows grouped by these axes, in order of appearance; `recipe` and `dataset` compare all
    settings and the data hash, not only the name.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        comparable = {
            name: value
            for name, value in row.comparable.items()
            if ("dataset" if name == "data" else "recipe") in axes
        }
        names = [row.axes[axis] for axis in axes]
        groups.setdefault((*names, json.dumps(comparable, sort_keys=True)), []).append(row)
    return groups


def by_version(members: Iterable[list[Row]], row_axes: Sequence[str]) -> list[Row] | None:
    """The rows of a table's cells with `versions` as an additional axis, so that runs of different
    code are in different cells; None if no cell mixes versions.

    The axis names the components whose versions differ within a cell of the same row. A run that
    failed before its versions were recorded gets those of the latest run in its cell.
    """
    cells = list(members)
    row_of = [tuple(rows[0].axes[axis] for axis in row_axes) for rows in cells]
    differing: dict[tuple[str, ...], set[str]] = {}
    for rows, key in zip(cells, row_of, strict=True):
        versions_of = [row.versions for row in rows if row.versions is not None]
        differing.setdefault(key, set()).update(
            part
            for versions in versions_of
            for part in versions
            if any(other.get(part) != versions[part] for other in versions_of)
        )
    if not any(differing.values()):
        return None
    split = []
    for rows, key in zip(cells, row_of, strict=True):
        known = [row for row in rows if row.versions is not None]
        latest = max(known, key=lambda row: row.finished).versions if known else None
        for row in rows:
            versions = (latest if row.versions is None else row.versions) or {}
            text = ", ".join(
                f"{part} {version_text(versions.get(part, 'not recorded'))}"
                for part in sorted(differing[key])
            )
            split.append(replace(row, axes={**row.axes, VERSIONS: text}))
    return split


def version_text(version: str) -> str:
    """`1:0a1b2c3d`: the version, and the first eight digits of the hash of a plugin's code."""
    number, colon, code = version.partition(":")
    return f"{number}{colon}{code[:8]}"


def paired_by_seed(rows: Iterable[Row]) -> bool:
    """Whether each seed has exactly one noise seed in these rows."""
    seeds = {(row.seed, row.noise_seed) for row in rows if row.noise_seed is not None}
    return len({seed for seed, _ in seeds}) == len(seeds)


def make_cell(rows: Iterable[Row], *, paired: bool) -> Cell:
    """One cell, its values by seed, or by seed/noise seed where these are not `paired`.

    Of several runs with the same seeds the latest counts.
    """
    rows = sorted(rows, key=lambda row: row.finished)
    latest = {(row.seed, row.noise_seed): row for row in rows}
    rates = [row.realised_rate for row in latest.values() if row.realised_rate is not None]
    sizes = {row.num_examples for row in latest.values() if row.value is not None}
    cell = Cell(
        metric=rows[0].axes["metric"],
        settings={**rows[0].settings, "precision": rows[0].axes["precision"]},
        compute=rows[0].compute,
        repeated=len(rows) - len(latest),
        realised_rate=statistics.fmean(rates) if len(rates) == len(latest) else None,
        num_examples=None if not sizes or None in sizes else min(size for size in sizes if size),
    )
    for (seed, noise_seed), row in sorted(latest.items()):
        name = str(seed) if paired or noise_seed is None else f"{seed}/{noise_seed}"
        if row.run is not None:
            cell.runs[name] = row.run
        if row.failed:
            cell.failed += 1
        elif row.value is not None:
            cell.values[name], cell.inputs[name] = row.value, row.inputs
            cell.clocks |= {row.clock} if row.clock else set()
        cell.oracle = cell.oracle or row.oracle
    return cell


@dataclass(frozen=True)
class _Length:
    """The epochs of a run, and its relative cost per epoch."""

    epochs: int
    price: RelativeCost

    @property
    def work(self) -> float:
        return self.price.work(self.epochs)

    @cached_property
    def budgets(self) -> frozenset[int]:
        """The budgets in epochs of CE that correspond to this number of epochs; if none does, the
        nearest to its work.
        """
        least, most = (self.price.work(self.epochs + step) for step in (-1, 1))
        candidates = range(max(1, math.floor(least)), math.ceil(most) + 1)
        same = [budget for budget in candidates if self.price.epochs(budget) == self.epochs]
        return frozenset(same or [max(1, round(self.work))])


def by_epochs(rows: Iterable[Row]) -> list[Row]:
    """The rows with the epochs removed from their recipes, so that runs of any length are
    comparable.
    """
    return [_lasting(row, "") for row in rows]


def by_compute(rows: Iterable[Row]) -> list[Row]:
    """The rows with their epochs replaced by the epochs of CE of the same compute.

    Because of rounding a run may fit several budgets: it gets the one that most runs of its data
    and recipe fit. Raises ConfigError for an unknown cost.
    """
    split = []
    for group in group_rows(by_epochs(rows), ("dataset", "subset", "recipe")).values():
        try:
            lengths = [
                _Length(row.epochs, price_of(row.inputs["loss"], row.inputs["strategy"]))
                for row in group
            ]
        except NoisebenchError as error:
            raise ConfigError(
                f"budget compute: {error}; load the --plugin, or exclude these runs with --filter"
            ) from None
        budgets = _budgets(Counter(lengths))
        for row, length in zip(group, lengths, strict=True):
            budget = budgets[length]
            text = f"same compute as {budget} epoch{'' if budget == 1 else 's'} of CE"
            compute = Compute(budget, length.work)
            split.append(replace(_lasting(row, text, budget=budget), compute=compute))
    return split


def _budgets(counts: Counter[_Length]) -> dict[_Length, int]:
    """For each length the budget that most runs fit; among several the nearest to their work, then
    the smallest.
    """
    budget_of: dict[_Length, int] = {}
    while left := [length for length in counts if length not in budget_of]:
        members = {
            budget: [length for length in left if budget in length.budgets]
            for length in left
            for budget in length.budgets
        }
        misfit = {
            budget: (
                -sum(counts[length] for length in lengths),
                sum(counts[length] * abs(length.work - budget) for length in lengths),
                budget,
            )
            for budget, lengths in members.items()
        }
        best = min(misfit, key=misfit.__getitem__)
        budget_of |= dict.fromkeys(members[best], best)
    return budget_of


def _lasting(row: Row, length: str, **instead: Any) -> Row:
    """The row with another text for its length, and `instead` in place of its epochs among its
    comparable settings.
    """
    name = row.axes["recipe"].partition(", ")[0]
    recipe = recipe_text(name, length, row.comparable["held_out"])
    others = {key: value for key, value in row.comparable.items() if key != "epochs"}
    return replace(row, axes={**row.axes, "recipe": recipe}, comparable={**others, **instead})
