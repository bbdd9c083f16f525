"""Run folders -> rows (one a run) -> cells (one a method and noise, over seeds). Nothing is
averaged that is not alike.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ConfigError, DataError
from ..experiments.backbones import label_of
from ..experiments.suite import select_matching
from ..labels.manifest import short_noise
from ..runs.folder import RunFolder
from .metrics import Metric, find_metric
from .runs_csv import RunLike

AXES = (
    "dataset",
    "subset",
    "model",
    "init",
    "recipe",
    "epochs",
    "precision",
    "noise",
    "method",
    "loss",
    "strategy",
    "metric",
)
VERSIONS = "versions"  # the axis that a table has where its cells would hold runs of different code
ALL = "all"  # the subset of a run that has none


@dataclass(frozen=True)
class Compute:
    """Of a run beside others of the same work: how many epochs of CE that is, and the run's own, in
    epochs of CE.
    """

    budget: int
    work: float


@dataclass(frozen=True)
class Clock:
    """What a run's time is of: the machine, and whether the run was packed with others, which
    shares it out.
    """

    machine: str
    packed: bool


@dataclass(frozen=True)
class Row:
    """One number of one run: its axes, every setting and the data's bytes, which of these must be
    alike, what its seed alone decides (`inputs`: the labels' hash, the resolved loss and strategy,
    component versions), and its value (None: failed, or no such number).
    """

    axes: dict[str, str]
    settings: dict[str, Any]
    comparable: dict[str, Any]
    inputs: dict[str, Any]
    realised_rate: float | None
    seed: int
    noise_seed: int | None  # None: nothing was drawn
    oracle: bool
    failed: bool
    value: float | None
    finished: float = 0.0
    key: str = ""
    run: RunLike | None = None
    clock: Clock | None = None
    compute: Compute | None = None
    num_examples: int | None = None  # of which the value is a share

    @property
    def epochs(self) -> int:
        return int(self.axes["epochs"])

    @property
    def versions(self) -> dict[str, str] | None:
        """Of the code of its parts; None for a failed run that does not say them."""
        found = self.inputs.get("versions")
        return None if self.failed and not found else found or {}


@dataclass
class Cell:
    """The runs of one cell: values by seed and what each came from, how many failed, whether they
    used the truth.

    runs: of each seed, the failed ones too; clocks: what the times of its values are of;
    num_examples: of which each value is a share, None where that is no count or not known;
    realised_rate: the mean of its runs'; repeated: runs left out for a later one of the same seeds.
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
        """Where the runs lie that have a folder."""
        return {name: run for name, run in self.runs.items() if isinstance(run, RunFolder)}

    @property
    def finished(self) -> list[RunFolder]:
        """Where the runs of its values lie. Raises ConfigError where one stands in a file of runs
        alone.
        """
        if without := next(
            (
                self.runs[name]
                for name in self.values
                if name in self.runs and name not in self.folders
            ),
            None,
        ):
            raise ConfigError(
                f"this needs run folders, and of {without.name} there is but a line "
                "in a file of runs: give its folder"
            )
        return [self.folders[name] for name in self.values if name in self.folders]

    def paired_with(self, other: Cell) -> list[str]:
        """The seeds that both have, on the same recorded labels."""
        return [
            seed
            for seed in self.values
            if seed in other.values and self.labels(seed) == other.labels(seed)
        ]

    def labels(self, seed: str) -> str:
        return str(self.inputs.get(seed, {}).get("labels", ""))

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def epochs(self) -> list[int]:
        """The epochs of its runs; empty where they are unknown."""
        return [int(self.settings["epochs"])] if "epochs" in self.settings else []

    @property
    def standard_error(self) -> float | None:
        """Of one value as a share of so many examples: sqrt(p (1 - p) / m), of a share of all or
        none as of half an example less.
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
    """One row for each of these metrics of each finished or failed run; a damaged or foreign one
    goes to `pass_over`.

    The same run from two places counts once. Raises UnknownName for a metric.
    """
    found = {name: find_metric(name) for name in metrics}
    rows = []
    for run in runs:
        try:
            rows += _rows(run, found)
        except DataError as error:
            pass_over(error)
    return _once(rows)


def _rows(run: RunLike, metrics: dict[str, Metric]) -> list[Row]:
    try:
        stamp = run.ended
        if stamp is None:
            return []
        known = run.about()
        return [_row(run, known, name, metric, stamp) for name, metric in metrics.items()]
    except (KeyError, TypeError, AttributeError, OSError) as error:
        raise DataError(
            f"the record of {run.name} lacks {error}: delete the folder and run it again"
        ) from None


def _once(rows: Iterable[Row]) -> list[Row]:
    """Of rows of the same run, by its key, a finished one before a failed one, and then the later;
    of two alike the one with a folder.
    """

    def worth(row: Row) -> tuple[bool, float, bool]:
        return not row.failed, row.finished, isinstance(row.run, RunFolder)

    best: dict[tuple[str, str], Row] = {}
    for row in rows:
        name = row.key, row.axes["metric"]
        best[name] = max(best.get(name, row), row, key=worth)
    return list(best.values())


def recipe_text(name: str, length: str, held_out: str) -> str:
    """`digits, 40 epochs, 0.1 held out after corruption`."""
    return ", ".join(part for part in (name, length, held_out) if part)


def _row(run: RunLike, info: dict[str, Any], name: str, metric: Metric, stamp: float) -> Row:
    recipe, held_out, init = info["recipe"], info.get("held_out", ""), info.get("init")
    length = f"{recipe['epochs']} epoch{'' if recipe['epochs'] == 1 else 's'}"
    special = {
        "recipe": recipe_text(info["recipe_name"], length, held_out),
        "epochs": str(recipe["epochs"]),
        "metric": name,
        "init": label_of(init),
        "subset": str(info.get("subset", ALL)),
    }
    comparable = {
        **recipe,
        "held_out": held_out,
        "data": (f"{info['data_sha256']} {info.get('source_sha256', '')}").strip(),
    }
    settings = dict(comparable)
    if "subset" in info:
        settings["subset"] = info["subset"]
    if init is not None:
        settings["init"] = init["sha256"]
    inputs = {key: info.get(key) for key in ("loss", "strategy", "versions")}
    return Row(
        {axis: special.get(axis) or str(info[axis]) for axis in AXES},
        settings,
        comparable,
        {"labels": info.get("labels", ""), **inputs},
        # of some labels it is not the rate of all
        info["realised_rate"] if info.get("known", 1.0) == 1 else None,
        info["seed"],
        info["noise_seed"],
        info["oracle"],
        info.get("metrics") is None,
        metric.value(info),
        stamp,
        info.get("key") or run.name,
        run,
        _clock(info),
        num_examples=metric.examples and metric.examples(info),
    )


def _clock(known: dict[str, Any]) -> Clock | None:
    """None where a record does not say on what it was trained."""
    environment = known.get("environment", {})
    if "device" not in environment:
        return None
    threads = environment.get("threads", 1)
    processes, parts = environment.get("processes", 1), environment.get("accumulate", 1)
    several = f", {processes} processes" if processes > 1 else ""
    part = f", batches in {parts} parts" if parts > 1 else ""
    where = f"{environment['device']}, {threads} thread{'' if threads == 1 else 's'}"
    return Clock(where + several + part, environment.get("packed", 1) > 1)


def where(rows: Iterable[Row], conditions: Iterable[str]) -> list[Row]:
    """The rows that meet every `axis=value`. Raises ConfigError for another form, or where nothing
    is left.
    """
    return select_matching(rows, conditions, (*AXES, "seed", "noise_seed"), _names_of)


def _names_of(row: Row, axis: str) -> tuple[str, ...]:
    """The names of a row's value on an axis: as it is listed, then in short."""
    value = str(row.axes.get(axis, getattr(row, axis, None)))
    if axis == "noise":
        return value, short_noise(value, row.axes["dataset"])
    return (value, value.partition(", ")[0]) if axis == "recipe" else (value,)


def group_rows(rows: Iterable[Row], axes: Iterable[str]) -> dict[tuple[str, ...], list[Row]]:
    """Rows grouped by these axes, in order of appearance; `recipe` and `dataset` compare all there
    is, not the name alone.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        names = tuple(row.axes[axis] for axis in axes)
        key = (
            *names,
            json.dumps(
                {
                    k: v
                    for k, v in row.comparable.items()
                    if ("dataset" if k == "data" else "recipe") in axes
                },
                sort_keys=True,
            ),
        )
        groups.setdefault(key, []).append(row)
    return groups


def by_version(members: Iterable[list[Row]], row_axes: Sequence[str]) -> list[Row] | None:
    """The rows of a table's cells, with `versions` as one more axis, so that runs of different code
    share no cell; None where none do.

    It names the parts whose versions differ within a cell of the same row. A run that failed before
    its versions were recorded stands with the latest one of its cell.
    """
    cells = list(members)
    differing: dict[tuple[str, ...], set[str]] = {}
    for rows in cells:
        found = [row.versions for row in rows if row.versions is not None]
        parts = {
            part
            for versions in found
            for part in versions
            if any(other.get(part) != versions[part] for other in found)
        }
        differing.setdefault(tuple(rows[0].axes[axis] for axis in row_axes), set()).update(parts)
    if not any(differing.values()):
        return None
    split = []
    for rows in cells:
        parts = differing[tuple(rows[0].axes[axis] for axis in row_axes)]
        latest = max(
            (row for row in rows if row.versions is not None),
            key=lambda row: row.finished,
            default=None,
        )
        for row in rows:
            versions = row.versions if row.versions is not None else latest and latest.versions
            split.append(
                replace(row, axes={**row.axes, VERSIONS: _version_text(versions or {}, parts)})
            )
    return split


def version_text(version: str) -> str:
    """`1:0a1b2c3d`: of a plugin's code the first eight digits of its hash."""
    number, colon, code = version.partition(":")
    return f"{number}{colon}{code[:8]}"


def _version_text(versions: dict[str, str], parts: Iterable[str]) -> str:
    """`loss:mine 1:0a1b2c3d`."""
    return ", ".join(
        f"{part} {version_text(versions.get(part, 'not recorded'))}" for part in sorted(parts)
    )


def paired_by_seed(rows: Iterable[Row]) -> bool:
    """Whether a seed says which noise seed goes with it, in all of these rows."""
    seeds = {(row.seed, row.noise_seed) for row in rows if row.noise_seed is not None}
    return len({seed for seed, _ in seeds}) == len(seeds)


def mean_rate(rows: Iterable[Row]) -> float | None:
    """The mean share of wrong labels; None where one is not known."""
    rates = [row.realised_rate for row in rows]
    known = [rate for rate in rates if rate is not None]
    return statistics.fmean(known) if known and len(known) == len(rates) else None


def make_cell(rows: Iterable[Row], *, paired: bool) -> Cell:
    """One cell, its values by seed, or by seed/noise seed where these are not `paired`.

    Of two runs with the same seeds the later finished one counts.
    """
    rows = sorted(rows, key=lambda row: row.finished)
    cell = Cell(
        metric=rows[0].axes["metric"],
        settings={**rows[0].settings, "precision": rows[0].axes["precision"]},
    )
    cell.compute = rows[0].compute
    latest = {(row.seed, row.noise_seed): row for row in rows}
    cell.repeated = len(rows) - len(latest)
    cell.realised_rate = mean_rate(latest.values())
    sizes = {row.num_examples for row in latest.values() if row.value is not None}
    cell.num_examples = None if not sizes or None in sizes else min(size for size in sizes if size)
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
