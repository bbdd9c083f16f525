"""Run folders -> rows (one a run) -> cells (one a method and noise, over seeds). Nothing is averaged that is not alike."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, DataError, UnknownName
from ..runfolder import RunFolder

AXES = ("dataset", "model", "recipe", "precision", "noise", "method", "loss", "strategy", "metric")


@dataclass(frozen=True)
class Metric:
    """A number of a record: where it lies, what it is called, whether it is a share shown in percent."""

    path: tuple[str, ...]
    title: str
    selection: str
    percent: bool = True
    higher_is_better: bool = True

    @property
    def said(self) -> str:
        """`test accuracy (%), last epoch`."""
        return f"{self.title}{' (%)' if self.percent else ''}, {self.selection}"


_FOUND = ("train", "detection")
METRICS = {
    "last": Metric(("test_acc", "last"), "test accuracy", "last epoch"),
    "mean_last10": Metric(("test_acc", "mean_last10"), "test accuracy", "mean of the last ten epochs"),
    "at_noisy_val": Metric(("test_acc", "at_noisy_val"), "test accuracy", "epoch chosen on held-out noisy labels"),
    "best": Metric(("test_acc", "best"), "test accuracy", "best epoch ON TEST, optimistic"),
    "top5": Metric(("test", "top5"), "top-5 test accuracy", "last epoch"),
    "nll": Metric(("test", "nll"), "test negative log-likelihood (nats)", "last epoch", False, False),
    "ece": Metric(("test", "ece"), "expected calibration error", "last epoch", True, False),
    "brier": Metric(("test", "brier"), "Brier score of the test set (0 to 2)", "last epoch", False, False),
    "memorised": Metric(("memorised",), "wrong labels memorised", "last epoch", True, False),
    "train_clean": Metric(("train", "clean"), "training accuracy on clean labels", "last epoch"),
    "auroc": Metric((*_FOUND, "auroc"), "AUROC of finding wrong labels", "last epoch"),
    "average_precision": Metric((*_FOUND, "average_precision"), "average precision of finding wrong labels", "last epoch"),
    "f1": Metric((*_FOUND, "f1"), "F1 of finding wrong labels, best threshold", "last epoch"),
    "precision_at_100": Metric((*_FOUND, "precision_at", "100"), "wrong labels among the 100 most doubtful", "last epoch"),
    "precision_at_1000": Metric((*_FOUND, "precision_at", "1000"), "wrong labels among the 1,000 most doubtful", "last epoch"),
    "precision_at_wrong": Metric((*_FOUND, "precision_at", "wrong"), "wrong labels among the n most doubtful, n are wrong", "last epoch"),
}


def find_metric(name: str) -> Metric:
    """Raises UnknownName."""
    if name not in METRICS:
        raise UnknownName("metric", name, METRICS, "metrics")
    return METRICS[name]


@dataclass(frozen=True)
class Row:
    """One number of one run: its axes, what else must be alike (every setting, the data's bytes), what its seed alone decides
    (`inputs`: the labels' hash, the resolved loss and strategy, component versions), and its value (None: failed, or no such number)."""

    axes: dict[str, str]
    alike: dict[str, Any]
    inputs: dict[str, Any]
    realised_rate: float | None
    seed: int
    noise_seed: int | None  # None: nothing was drawn
    oracle: bool
    failed: bool
    value: float | None
    finished: float = 0.0
    folder: RunFolder | None = None


@dataclass
class Cell:
    """The runs of one cell: values by seed and what each came from, how many failed, whether they used the truth.

    folders: where each seed's run lies, the failed ones too.
    """

    values: dict[str, float] = field(default_factory=dict)
    failed: int = 0
    oracle: bool = False
    metric: str = "last"
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    folders: dict[str, RunFolder] = field(default_factory=dict)

    @property
    def finished(self) -> list[RunFolder]:
        """Where the runs of its values lie."""
        return [self.folders[name] for name in self.values if name in self.folders]

    def paired_with(self, other: Cell) -> list[str]:
        """The seeds that both have, on the same recorded labels."""
        return [seed for seed in self.values if seed in other.values and self.labels(seed) == other.labels(seed)]

    def labels(self, seed: str) -> str:
        return str(self.inputs.get(seed, {}).get("labels", ""))

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation; None below two values."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None


def _refuse(error: DataError) -> None:
    raise error


def read_rows(folders: Iterable[RunFolder], metrics: Sequence[str], pass_over: Callable[[DataError], None] = _refuse) -> list[Row]:
    """One row for each of these metrics of each finished or failed run; a damaged or foreign one goes to `pass_over`.

    Raises UnknownName for a metric.
    """
    found = {name: find_metric(name) for name in metrics}
    rows = []
    for folder in folders:
        try:
            rows += _rows(folder, found)
        except DataError as error:
            pass_over(error)
    return rows


def _rows(folder: RunFolder, metrics: dict[str, Metric]) -> list[Row]:
    status = folder.status()
    if status not in ("done", "failed"):
        return []
    path = folder.error if status == "failed" else folder.result
    try:
        known = folder.about()
        stamp = path.stat().st_mtime
        return [_row(folder, known, name, _value(known.get("metrics"), metric), stamp) for name, metric in metrics.items()]
    except (KeyError, TypeError, AttributeError, OSError) as error:
        raise DataError(f"{path} lacks {error}: delete the folder and run it again") from None


def _value(metrics: Any, metric: Metric) -> float | None:
    """None for a failed run, and for a number that was not yet recorded when the run ended."""
    for key in metric.path:
        metrics = None if metrics is None else metrics.get(key)
    return None if metrics is None else float(metrics)


def _row(folder: RunFolder, known: dict[str, Any], metric: str, value: float | None, stamp: float) -> Row:
    recipe = known["recipe"]
    held_out = known.get("held_out", "")
    said = f"{known['recipe_name']}, {recipe['epochs']} epoch{'' if recipe['epochs'] == 1 else 's'}" + (f", {held_out}" if held_out else "")
    axes = {axis: said if axis == "recipe" else metric if axis == "metric" else str(known[axis]) for axis in AXES}
    alike = {**recipe, "held_out": held_out, "data": f"{known['data_sha256']} {known.get('source_sha256', '')}".strip()}
    inputs = {"labels": known.get("labels", ""), **{key: known.get(key) for key in ("loss", "strategy", "versions")}}
    rate = known["realised_rate"] if known.get("known", 1.0) == 1 else None  # of some labels it is not the rate of all
    failed = known.get("metrics") is None
    return Row(axes, alike, inputs, rate, known["seed"], known["noise_seed"], known["oracle"], failed, value, stamp, folder)


def where(rows: Iterable[Row], conditions: Iterable[str]) -> list[Row]:
    """The rows that meet every `axis=value`. Raises ConfigError for another form, or where nothing is left."""
    rows = list(rows)
    for condition in conditions:
        key, equals, value = condition.partition("=")
        if not equals or key not in (*AXES, "seed", "noise_seed"):
            raise ConfigError(f"--where is axis=value with axis one of {', '.join(AXES)}, seed, noise_seed; got {condition!r}")
        kept = [row for row in rows if str(row.axes.get(key, getattr(row, key, None))) == value]
        if rows and not kept:
            known = sorted({str(row.axes.get(key, getattr(row, key, None))) for row in rows})
            raise ConfigError(f"--where {condition}: no run is left; {key} is one of {', '.join(known)}")
        rows = kept
    return rows


def apart(rows: Iterable[Row], axes: Iterable[str]) -> dict[tuple[str, ...], list[Row]]:
    """Rows grouped by these axes, in order of appearance; `recipe` and `dataset` compare all there is, not the name alone."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        names = tuple(row.axes[axis] for axis in axes)
        key = (*names, json.dumps({k: v for k, v in row.alike.items() if ("dataset" if k == "data" else "recipe") in axes}, sort_keys=True))
        groups.setdefault(key, []).append(row)
    return groups


def paired_by_seed(rows: Iterable[Row]) -> bool:
    """Whether a seed says which noise seed goes with it, in all of these rows."""
    seeds = {(row.seed, row.noise_seed) for row in rows if row.noise_seed is not None}
    return len({seed for seed, _ in seeds}) == len(seeds)


def make_cell(rows: Iterable[Row], *, paired: bool) -> Cell:
    """One cell, its values by seed, or by seed/noise seed where these are not `paired`.

    Of two runs with the same seeds (an older code version) the later finished one counts.
    """
    rows = sorted(rows, key=lambda row: row.finished)
    cell = Cell(metric=rows[0].axes["metric"], settings={**rows[0].alike, "precision": rows[0].axes["precision"]})
    latest = {(row.seed, row.noise_seed): row for row in rows}
    for (seed, noise_seed), row in sorted(latest.items()):
        name = str(seed) if paired or noise_seed is None else f"{seed}/{noise_seed}"
        if row.folder is not None:
            cell.folders[name] = row.folder
        if row.failed:
            cell.failed += 1
        elif row.value is not None:
            cell.values[name], cell.inputs[name] = row.value, row.inputs
        cell.oracle = cell.oracle or row.oracle
    return cell
