"""What a cell opens to: the runs behind it, read from their folders. A damaged or foreign file is
said, never fatal.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError, NoisebenchError
from ...experiments.command import ReproCommand, repro_command
from ...runs.folder import RunFolder
from .chart import Chart, Line, Point, round_ticks, thin
from .configuration import Group, configuration, oracle_reason
from .doubts import Doubts, doubts_of
from .pictures import Pictures

NUMBERS = (
    ("last", ("test_acc", "last"), "last epoch"),
    ("last ten", ("test_acc", "mean_last10"), "mean of the last ten epochs"),
    ("best", ("test_acc", "best"), "best epoch on test: optimistic"),
    ("memorised", ("memorised",), "share of the wrong labels that the network predicts"),
)
_CURVES = (
    ("Test accuracy", "test_acc", "test accuracy (%)"),
    ("Wrong labels memorised", "memorised", "memorised (%)"),
)


@dataclass(frozen=True)
class Seed:
    """One run of a cell. `numbers` in the order of NUMBERS; `error`: why it failed."""

    name: str
    noise_seed: str
    order: int
    numbers: tuple[str, ...]
    seconds: str
    folder: str
    error: str
    made: ReproCommand | None
    unmade: str  # why there is no command


@dataclass(frozen=True)
class Runs:
    """The runs of a cell, which several metrics may share."""

    id: str
    seeds: tuple[Seed, ...]
    means: tuple[str, ...]
    curves: tuple[Chart, ...]
    config: tuple[Group, ...]
    oracle: str
    doubts: Doubts
    doubts_of: str  # whose they are


@dataclass(frozen=True)
class Known:
    """What could be read of a run: its `record`, or why it failed, and what a table knows of it."""

    name: str
    folder: RunFolder
    about: dict[str, Any]
    record: dict[str, Any] | None
    error: str = ""

    @classmethod
    def read(cls, name: str, folder: RunFolder) -> Known:
        """Raises DataError."""
        if folder.status() != "failed":
            return cls(name, folder, folder.about(), folder.record())
        failure = folder.failure()
        return cls(
            name,
            folder,
            folder.about(),
            None,
            f"{failure.get('type', 'error')}: {failure['message']}",
        )


def runs_of(known: list[Known], number: int, root: Path, pictures: Pictures) -> Runs:
    """All that is shown of a cell's runs, lowest seed first."""
    finished = [one for one in known if one.record is not None]
    first = finished[0] if finished else None
    doubts = (
        doubts_of(first.folder, first.record or {}, pictures)
        if first
        else Doubts(lacking="no finished run")
    )
    return Runs(
        f"runs{number}",
        tuple(_seed(one, order, root) for order, one in enumerate(known)),
        tuple(_mean(finished, path) for _, path, _ in NUMBERS),
        _curves(known),
        configuration([one.about for one in known], [one.record for one in finished if one.record]),
        oracle_reason([one.about for one in known], [one.record for one in finished if one.record]),
        doubts,
        first.name if first else "",
    )


def _seed(one: Known, order: int, root: Path) -> Seed:
    made, unmade = _made(one.about)
    noise_seed = one.about.get("noise_seed")
    return Seed(
        str(one.about["seed"]),
        "–" if noise_seed is None else str(noise_seed),
        order,
        tuple(_percent(_number(one.record, path)) for _, path, _ in NUMBERS),
        f"{one.record['seconds']:.1f}" if one.record else "–",
        place(one.folder.path, root),
        one.error,
        made,
        unmade,
    )


def _made(about: dict[str, Any]) -> tuple[ReproCommand | None, str]:
    try:
        return repro_command(about), ""
    except NoisebenchError as error:  # a text of a later version, or somebody else's
        return None, str(error)


def place(path: Path, root: Path) -> str:
    """A run's folder from the workspace, or its name alone: nobody else has this machine's
    folders.
    """
    absolute, root = path.resolve(), root.resolve()
    return absolute.relative_to(root).as_posix() if absolute.is_relative_to(root) else absolute.name


def _number(record: dict[str, Any] | None, path: tuple[str, ...]) -> float | None:
    found: Any = record and record["metrics"]
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) else None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _mean(finished: Iterable[Known], path: tuple[str, ...]) -> str:
    values = [value for one in finished if (value := _number(one.record, path)) is not None]
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return _percent(statistics.fmean(values)) + spread if values else "–"


def _curves(known: list[Known]) -> tuple[Chart, ...]:
    """One chart a number that some epoch has, one line a seed; the axes in percent and epochs."""
    histories = [(one, order, _history(one.folder)) for order, one in enumerate(known)]
    charts = []
    for title, column, label in _CURVES:
        lines = tuple(
            Line(f"seed {one.about['seed']}", order, points)
            for one, order, history in histories
            if (points := _points(history, column))
        )
        xs, ys = (
            [getattr(point, axis) for line in lines for point in line.points] for axis in "xy"
        )
        if any(len(line.points) > 1 for line in lines):
            charts.append(
                Chart(title, "epoch", label, lines, round_ticks([0, *xs]), round_ticks(ys))
            )
    return tuple(charts)


def _history(folder: RunFolder) -> list[dict[str, float | None]]:
    try:
        return folder.read_history()
    except DataError:  # a failed run may have none, and its error is shown
        return []


def _points(history: list[dict[str, float | None]], column: str) -> tuple[Point, ...]:
    pairs = [(line.get("epoch"), line.get(column)) for line in history]
    return thin(
        [
            Point(x, 100 * y)
            for x, y in pairs
            if x is not None and y is not None and math.isfinite(y)
        ]
    )
