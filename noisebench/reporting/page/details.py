"""The details of a cell: its runs, read from their run directories, and their settings. Damaged
files are listed on the page.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.expressions import parse
from ...core.registry import Registry
from ...errors import DataError, NoisebenchError
from ...experiments.backbones import label_of
from ...experiments.command import ReproCommand, repro_command
from ...experiments.features import features_label
from ...experiments.oracle import EMPIRICAL, TRUE, is_rate
from ...experiments.run_facts import facts_of_record
from ...labels.manifest import of_which
from ...losses import LOSSES
from ...runs.folder import RunFolder
from ...strategies import STRATEGIES
from ..metrics import value_at
from .chart import Chart, Line, Point, round_ticks, thin
from .label_issues import IssueList, PageImages, list_issues

NUMBERS = (
    ("last", ("test_acc", "last"), "last epoch"),
    ("last ten", ("test_acc", "mean_last10"), "mean of the last ten epochs"),
    ("best", ("test_acc", "best"), "best epoch on the test set (optimistic)"),
    ("memorized", ("memorised",), "share of the incorrect labels that the network predicts"),
)
_CURVES = (
    ("Test accuracy", "test_acc", "test accuracy (%)"),
    ("Incorrect labels memorized", "memorised", "memorized (%)"),
)
_DIGITS = 12  # of a checksum
_SOFTWARE = ("noisebench", "torch", "torchvision", "timm", "numpy", "python", "platform")
_UNKNOWN_ORACLE = "tuned by its authors for this noise, or its settings use true values"
_TRUE_VALUES = {
    "rate": "the true noise rate",
    "share": "the true share of incorrect labels",
    "transition": "the true transition matrix",
}
Pairs = Sequence[tuple[str, str]]


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
    command: ReproCommand | None
    no_command: str  # why there is no command


@dataclass(frozen=True)
class Runs:
    """The runs of a cell; cells of several metrics may share them."""

    id: str
    seeds: tuple[Seed, ...]
    means: tuple[str, ...]
    curves: tuple[Chart, ...]
    config: tuple[tuple[str, Pairs], ...]
    oracle: str
    issues: IssueList
    issues_of: str  # the run whose label issues these are


@dataclass(frozen=True)
class RunData:
    """A run as read from its run directory: its `record`, or why it failed, its facts for tables,
    and its epochs, or why they cannot be read.
    """

    name: str
    folder: RunFolder
    info: dict[str, Any]
    record: dict[str, Any] | None
    error: str
    history: list[dict[str, float | None]]
    damaged: str

    @classmethod
    def read(cls, name: str, folder: RunFolder) -> RunData:
        """Raises DataError if the result file cannot be read."""
        record, error, damaged = None, "", ""
        history: list[dict[str, float | None]] = []
        if folder.result.exists() or not folder.error.exists():
            record = folder.record()
            info = facts_of_record(record)
        else:
            info, failure = folder.about(), folder.failure()
            error = f"{failure.get('type', 'error')}: {failure['message']}"
        if record or folder.history.exists():  # a failed run may have none
            try:
                history = folder.read_history()
            except DataError as problem:
                damaged = str(problem)
        return cls(name, folder, info, record, error, history, damaged)


def runs_of(runs: list[RunData], number: int, root: Path, images: PageImages) -> Runs:
    """All details of a cell's runs, lowest seed first."""
    finished = [run for run in runs if run.record is not None]
    infos, records = [run.info for run in runs], [run.record for run in finished if run.record]
    issues, issues_of = IssueList(missing="no finished run"), ""
    if finished:
        issues = list_issues(finished[0].folder, records[0], images)
        issues_of = finished[0].name
    return Runs(
        f"runs{number}",
        tuple(_seed(run, order, root.resolve()) for order, run in enumerate(runs)),
        tuple(_mean(records, path) for _, path, _ in NUMBERS),
        _curves(runs),
        configuration(infos, records),
        oracle_reason(infos, records),
        issues,
        issues_of,
    )


def _seed(run: RunData, order: int, root: Path) -> Seed:
    command, no_command = None, ""
    try:
        command = repro_command(run.info)
    except NoisebenchError as error:  # an expression of a later version
        no_command = str(error)
    noise_seed, path = run.info.get("noise_seed"), run.folder.path.resolve()
    return Seed(
        str(run.info["seed"]),
        "–" if noise_seed is None else str(noise_seed),
        order,
        tuple(_mean([run.record] if run.record else [], path) for _, path, _ in NUMBERS),
        f"{run.record['seconds']:.1f}" if run.record else "–",
        # relative, as other machines have other directories
        path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name,
        run.error,
        command,
        no_command,
    )


def _mean(records: Iterable[dict[str, Any]], path: tuple[str, ...]) -> str:
    """Mean ± sample standard deviation in percent of the numbers at a path of the metrics."""
    numbers = [value_at(record, ("metrics", *path)) for record in records]
    values = [float(number) for number in numbers if isinstance(number, int | float)]
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{spread}" if values else "–"


def _curves(runs: list[RunData]) -> tuple[Chart, ...]:
    """One chart per recorded number, in percent over epochs, with one line per seed."""
    charts = []
    for title, column, label in _CURVES:
        lines = []
        for order, run in enumerate(runs):
            pairs = [(line.get("epoch"), line.get(column)) for line in run.history]
            points = [
                Point(x, 100 * y)
                for x, y in pairs
                if x is not None and y is not None and math.isfinite(y)
            ]
            if points:
                lines.append(Line(f"seed {run.info['seed']}", order, thin(points)))
        if any(len(line.points) > 1 for line in lines):
            xs = [point.x for line in lines for point in line.points]
            ys = [point.y for line in lines for point in line.points]
            ticks = round_ticks([0, *xs]), round_ticks(ys)
            charts.append(Chart(title, "epoch", label, tuple(lines), *ticks))
    return tuple(charts)


def configuration(
    infos: list[dict[str, Any]], records: list[dict[str, Any]]
) -> tuple[tuple[str, Pairs], ...]:
    """Groups of settings, with all distinct values of the runs; from the facts of all runs and the
    records of finished ones.
    """
    parameters = _values(records, "model", "parameters", text=lambda count: f"{count:,} parameters")
    groups: dict[str, Pairs] = {
        "Method": [(name, _values(infos, name)) for name in ("method", "loss", "strategy")],
        "Labels": [
            ("data set", _values(infos, "dataset")),
            ("training images", _values(infos, "subset", text=of_which)),
            ("noise", _values(infos, "noise")),
            ("nominal rate", _values(records, "noise", "nominal_rate", text=_share)),
            ("realized rate", _values(infos, "realised_rate", text=_share)),
            ("validation split", _values(infos, "held_out")),
            ("convention", _values(records, "noise", "convention")),
            ("manifest", _values(records, "noise", "manifest_sha256", text=_short)),
            ("images and labels", _values(infos, "data_sha256", text=_short)),
        ],
        "Network and recipe": [
            ("network", ", ".join(filter(None, [_values(infos, "model"), parameters]))),
            ("initial weights", _values(infos, "init", text=label_of)),
            ("features", _values(infos, "features", text=features_label)),
            ("recipe", _values(infos, "recipe_name")),
            *(
                (name.replace("_", " "), _values(infos, "recipe", name, text=_setting))
                for name in dict.fromkeys(name for info in infos for name in info["recipe"])
            ),
        ],
        "Components": [
            (name.replace(":", " "), _values(records, "versions", name, text=_version))
            for name in dict.fromkeys(
                name for record in records for name in record.get("versions", {})
            )
        ],
        "Machine": [
            ("precision", _values(infos, "precision")),
            ("device", _values(records, "environment", "device")),
            ("threads", _values(records, "environment", "threads")),
            ("trained together", _values(records, "environment", "packed", text=_packed)),
            *(
                (name.replace("_", " "), _values(records, "environment", name))
                for name in ("processes", "accumulate", "sync_bn", *_SOFTWARE)
            ),
        ],
    }
    shown = ((title, tuple(pair for pair in pairs if pair[1])) for title, pairs in groups.items())
    return tuple((title, pairs) for title, pairs in shown if pairs)


def distinct(values: Iterable[object]) -> str:
    """The distinct values in order of appearance; empty for none."""
    return ", ".join(dict.fromkeys(str(value) for value in values if value not in (None, "")))


def _values(dicts: list[dict[str, Any]], *path: str, text: Callable[[Any], object] = str) -> str:
    values = [value_at(facts, path) for facts in dicts]
    return distinct(None if value is None else text(value) for value in values)


def _packed(width: int) -> str:
    return "no" if width == 1 else f"{width} runs"


def _share(rate: float) -> str:
    return f"{100 * rate:.2f} %"


def _short(sha256: str) -> str:
    return str(sha256)[:_DIGITS]


def _version(text: str) -> str:
    return f"version {text}" if len(str(text)) <= _DIGITS else _short(text)


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def oracle_reason(infos: list[dict[str, Any]], records: list[dict[str, Any]]) -> str:
    """The true values that the runs use; empty if they are not oracle runs."""
    if not any(info.get("oracle") for info in infos):
        return ""
    names = ("nominal_rate", "realised_rate", "expected_share")
    rates = [rate for record in records for name in names if (rate := record["noise"].get(name))]
    reasons = [
        reason
        for info in infos
        for registry, part in ((LOSSES, "loss"), (STRATEGIES, "strategy"))
        for reason in _true_parameters(registry, info[part], rates)
    ]
    return "; ".join(dict.fromkeys(reasons)) or _UNKNOWN_ORACLE


def _true_parameters(registry: Registry, text: str, rates: list[float]) -> Iterator[str]:
    try:
        calls = [call for call in registry.calls(parse(text)) if call.name in registry]
    except NoisebenchError:  # an expression of a later version
        return
    for call in calls:
        facts = {p.name: str(p.auto) for p in registry[call.name].parameters if p.auto}
        for name, value in call.kwargs:
            if name not in facts:
                continue
            if facts[name] == "transition":
                true = value in (TRUE, EMPIRICAL)
            else:
                true = isinstance(value, int | float) and is_rate(value, rates)
            if true:
                yield f"{name} of {call.name} is {_TRUE_VALUES[facts[name]]}"
