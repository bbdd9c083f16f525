"""The regression gate: compares the document of a report with a baseline, cell by cell.

A cell is regressed if its mean is worse by more than the tolerance and the drop is significant over
seeds: one-sided t test, Holm-corrected over the suite. Seeds are paired where both documents have
them with the same labels; the variance is moderated by the other methods of the column
(`stats.moderated`) and at least as large as the test set's size implies (`stats.least_variance`).
Drops and tolerances are in the unit of their metric: percentage points, nats ...
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from ..core.files.schema import Count, Name, Number, Scalar, Whole, check_form, shown
from ..core.files.untrusted import read_json
from ..errors import ConfigError, NoisebenchError, Regressed, RunFailed, Undecided
from ..labels.manifest import of_which
from .metrics import METRICS
from .render.text import SCHEMA
from .stats import FEWEST_SEEDS, holm, least_variance, moderated, tail_of_gap

_NAMES = ("dataset", "model", "noise", "metric")
_KNOWN = ("dataset", "model", "recipe", "precision", "noise", "metric")
# axes of rows: some of these, the others are None or missing
_ROWS = ("method", "loss", "strategy")
_EXTRA = ("subset", "init", "features", "epochs", "versions")  # only in some cells
_COLUMN = (*_KNOWN, "subset", "init", "features")
_DECIDING = {
    "labels": "the noisy labels (another manifest)",
    "loss": "the loss",
    "strategy": "the strategy",
}
# bytes of a baseline, some 20,000 cells; characters of a wrong value
_LARGEST, _SHOWN = 1 << 26, 100
Versions = TypedDict("Versions", {"versions": dict[str, str] | None}, total=False)
Cell = TypedDict(
    "Cell",
    {
        "dataset": Name,
        "model": Name,
        "recipe": Name,
        "precision": Name,
        "noise": Name,
        "metric": Name,
        "method": NotRequired[Name | None],
        "loss": NotRequired[Name | None],
        "strategy": NotRequired[Name | None],
        "subset": NotRequired[Scalar],
        "epochs": NotRequired[Scalar],
        "init": NotRequired[Name],
        "features": NotRequired[Name],
        "versions": NotRequired[Name],
        "num_examples": NotRequired[Count | None],
        "values": dict[str, Number],
        "inputs": dict[str, Versions],
        "settings": dict[str, Any],
        "failed": Whole,
    },
)
Baseline = TypedDict("Baseline", {"schema": Whole, "metric": str, "cells": list[Cell]})


_TINY = 1e-12  # smallest p value shown
_EPSILON = 1e-9  # rounding error of sums; a drop of exactly the tolerance passes


@dataclass(frozen=True)
class Rules:
    """`tolerance` in the metric's unit, one for all metrics or by metric; 0 compares exactly,
    without a test. Default: `Metric.tolerance`.
    """

    tolerance: float | Mapping[str, float] | None = None
    alpha: float = 0.05
    allow_missing: bool = False

    def tolerance_of(self, metric: str) -> float:
        if isinstance(self.tolerance, Mapping):
            return self.tolerance.get(metric, METRICS[metric].tolerance)
        return METRICS[metric].tolerance if self.tolerance is None else self.tolerance


@dataclass(frozen=True)
class Finding:
    """The status of a cell of the baseline: ok, regressed, failed, missing or not comparable; the
    drop, in the metric's unit, is positive if worse. cell: the id of the cell in the new document,
    else in the baseline.
    """

    names: dict[str, Any]
    status: str
    text: str
    cell: str
    drop: float | None = None
    p_value: float | None = None

    @property
    def title(self) -> str:
        names = self.names
        data = names["dataset"]
        if "subset" in names:
            data += f", {of_which(int(names['subset']))}"
        row = ", ".join(str(names[name]) for name in (*_ROWS, "versions") if name in names)
        init = f" from {names['init']}" if "init" in names else ""
        init += f" on features {names['features']}" if "features" in names else ""
        epochs = f", {names['epochs']} epochs" if "epochs" in names else ""
        model = f"{names['model']}{init}{epochs}"
        return f"{names['metric']} of {row} on {data}, {names['noise']}, {model}"


@dataclass(frozen=True)
class Check:
    """All findings; `damaged`: messages on result files that cannot be read."""

    findings: list[Finding]
    damaged: list[str] = field(default_factory=list)

    def of(self, status: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.status == status]

    @property
    def error(self) -> NoisebenchError | None:
        """For failed runs first, then regressions, then undecided cells; None if all cells pass."""
        counts = Counter(finding.status for finding in self.findings)
        undecided = counts["missing"] + counts["not comparable"] + len(self.damaged)
        kinds: list[tuple[type[NoisebenchError], str, int]] = [
            (RunFailed, "with failed runs", counts["failed"]),
            (Regressed, "regressed", counts["regressed"]),
            (Undecided, "undecided", undecided),
        ]
        problems = [(kind, what, count) for kind, what, count in kinds if count]
        if problems:
            text = ", ".join(
                f"{count} {'cell' if count == 1 else 'cells'} {what}" for _, what, count in problems
            )
            return problems[0][0](f"check: {text}; {counts['ok']} of {len(self.findings)} ok")
        if counts["ok"]:
            return None
        return Undecided(
            "nothing to compare: the report has none of the baseline's cells (show its cells with "
            "noisebench report)"
        )

    @property
    def troubles(self) -> list[str]:
        """One line per cell or file that is not ok: failed runs first, then regressions."""
        problems = [
            f"{finding.status}: {finding.title}: {finding.text}"
            for status in ("failed", "regressed", "missing", "not comparable")
            for finding in self.of(status)
        ]
        return problems + self.damaged

    @property
    def summary(self) -> str:
        counts = Counter(finding.status for finding in self.findings)
        counts["missing, allowed"] = counts["allowed"]
        statuses = ("ok", "regressed", "failed", "missing", "not comparable", "missing, allowed")
        parts = ", ".join(f"{counts[status]} {status}" for status in statuses if counts[status])
        damaged = f", damaged files: {len(self.damaged)}" if self.damaged else ""
        return f"check: {parts or 'nothing to compare'}{damaged}"

    def document(self) -> dict[str, Any]:
        """As JSON."""
        cells = [
            {
                **finding.names,
                "status": finding.status,
                "text": finding.text,
                "drop": finding.drop,
                "unit": METRICS[finding.names["metric"]].unit,
                "p": finding.p_value,
            }
            for finding in self.findings
        ]
        return {
            "exit_code": self.error.exit_code if self.error else 0,
            "summary": self.summary,
            "damaged": self.damaged,
            "cells": cells,
        }


def read_tolerance(text: str | None, metrics: Sequence[str]) -> float | dict[str, float] | None:
    """`0.5`, for metrics of one unit, or `last=0.5,nll=0.02`. Raises ConfigError."""
    if text is None:
        return None
    if "=" not in text:
        size = _size(text)
        judged = [name for name in metrics if not METRICS[name].spent]
        units = {METRICS[name].unit for name in judged}
        if size and len(units) > 1:
            example = ",".join(f"{name}={text}" for name in judged)
            raise ConfigError(
                f"--tolerance {text}: the metrics have different units: give one tolerance per "
                f"metric, as in --tolerance {example}"
            )
        return size
    sizes: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        if name not in metrics or name in sizes:
            raise ConfigError(
                f"--tolerance {part.strip()}: expected each --metric once "
                f"({', '.join(metrics)}), as in {metrics[0]}=0.5"
            )
        sizes[name] = _size(number)
    return sizes


def _size(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 <= size < math.inf:
        raise ConfigError(
            "--tolerance must be a number of at least 0, or one per metric as in "
            f"last=0.5,nll=0.02; got {text!r}"
        )
    return size


def read_baseline(path: Path, metric: str) -> dict[str, Any]:
    """A document written by `report --save-baseline` or `--format json`. Raises Undecided for an
    unusable one.
    """
    way = "create it with noisebench report --save-baseline"
    try:
        content = read_json(path, _LARGEST)
    except FileNotFoundError:
        raise Undecided(f"the baseline {path} does not exist: {way} {path}") from None
    except (OSError, ValueError) as error:
        raise Undecided(f"the baseline {path} cannot be read ({error}): {way} {path}") from None
    try:
        check_form(content, Baseline)
        if content["schema"] != SCHEMA:
            raise ValueError(f"its schema is {content['schema']}")
        if unknown := [
            cell["metric"] for cell in content["cells"] if cell["metric"] not in METRICS
        ]:
            raise ValueError(f"unknown metric {shown(unknown[0])}")
    except ValueError as error:
        raise Undecided(
            f"{path} is not a baseline of schema {SCHEMA} ({error}): {way} {path}"
        ) from None
    if content["metric"] != metric:
        raise Undecided(
            f"the baseline {path} has --metric {content['metric'][:_SHOWN]}, "
            f"this report {metric}: use the same"
        )
    if not any(cell["values"] for cell in content["cells"]):
        raise Undecided(f"the baseline {path} has no values: {way} {path}")
    return content


def check(
    now: dict[str, Any], baseline: dict[str, Any], rules: Rules, damaged: Iterable[str] = ()
) -> Check:
    """Compares every cell of the baseline that has values with the same cell now; new cells and
    costs are not checked.
    """
    findings: list[Finding] = []
    exact: list[_Pair] = []
    others: list[_Pair] = []
    for old in baseline["cells"]:
        if not old["values"] or METRICS[old["metric"]].spent:
            continue
        result = _counterpart(old, now["cells"], rules)
        if isinstance(result, Finding):
            findings.append(result)
        else:
            (others if rules.tolerance_of(old["metric"]) else exact).append(result)
    for pair in exact:
        worse = [seed for seed, drop in zip(pair.shared, pair.drops, strict=True) if drop > 0]
        status, text = "ok", "no seed is worse"
        if worse:
            status, largest = "regressed", pair.text(max(pair.drops))
            text = f"seed {', '.join(worse)} worse, by up to {largest}"
        findings.append(pair.finding(status, text))
    for pair, p_value in zip(others, holm(_p_values(others)), strict=True):
        way = f"paired over {len(pair.shared)} seeds" if pair.paired else "unpaired"
        worse_or_better = "worse" if pair.drop > 0 else "better"
        p = f"p = {p_value:.2g} after Holm" if p_value > _TINY else f"p < {_TINY}"
        text = f"{pair.text(abs(pair.drop))} {worse_or_better} than the baseline ({way}, {p})"
        tolerance = rules.tolerance_of(pair.old["metric"]) + _EPSILON
        regressed = pair.drop > tolerance and p_value < rules.alpha
        findings.append(pair.finding("regressed" if regressed else "ok", text, p_value))
    return Check(findings, list(damaged))


class _Pair:
    """A cell of the baseline and the same cell now; all numbers are in the metric's unit.

    shared: the seeds that both have; drops: how much worse each is now; paired: whether there are
    two or more of them, in which case `drop` is their mean; seeds: their number, else that of the
    side with fewer; variance: of one seed's drop if paired, else of one value, with `df` degrees of
    freedom; share: the variance of the mean drop as a multiple of it; least: the minimum variance
    of one seed's drop, None if the number of examples is unknown.
    """

    def __init__(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        self.old, self.new, self.metric = old, new, METRICS[old["metric"]]
        scale = self.metric.scale
        worse = scale if self.metric.higher_is_better else -scale
        then, now = old["values"], new["values"]
        sides = [[scale * value for value in cell.values()] for cell in (then, now)]
        self.shared = [seed for seed in then if seed in now]
        self.drops = [worse * (then[seed] - now[seed]) for seed in self.shared]
        self.paired = len(self.shared) > 1
        self.seeds = len(self.shared) if self.paired else min(map(len, sides))
        self.variance, self.df = 0.0, 0
        if self.paired:
            self.drop = statistics.fmean(self.drops)
            self.variance, self.df = statistics.variance(self.drops), self.seeds - 1
            self.share = 1 / self.seeds
        else:
            before, after = (statistics.fmean(cell.values()) for cell in (then, now))
            self.drop = worse * (before - after)
            self.share = sum(1 / len(side) for side in sides)
            if self.seeds > 1:
                self.df = sum(len(side) - 1 for side in sides)
                squares = sum(statistics.variance(side) * (len(side) - 1) for side in sides)
                self.variance = squares / self.df
        self.least: float | None = None
        num_examples = new.get("num_examples") or old.get("num_examples")
        if num_examples and self.seeds > 1:
            self.least = least_variance(self.drop / scale, self.seeds, num_examples) * scale**2

    def finding(self, status: str, text: str, p_value: float | None = None) -> Finding:
        return Finding(names_of(self.old), status, text, cell_id(self.new), self.drop, p_value)

    def text(self, drop: float) -> str:
        """`0.52 points`, `0.0312 nats`."""
        digits = 2 if self.metric.percent else 2 + self.metric.finer
        return f"{drop:.{digits}f} {self.metric.unit}".strip()


def names_of(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell's data, noise, network and metric, its row, and the optional axes."""
    return {name: cell[name] for name in (*_NAMES, *_ROWS, *_EXTRA) if cell.get(name) is not None}


def cell_id(cell: dict[str, Any]) -> str:
    """A text that identifies a cell within its document."""
    return json.dumps(
        [names_of(cell), cell.get("recipe"), cell.get("precision"), cell.get("settings")],
        sort_keys=True,
    )


def _counterpart(old: dict[str, Any], cells: list[dict[str, Any]], rules: Rules) -> Finding | _Pair:
    """The same cell now, or a finding that says why it cannot be compared."""
    # which versions are named depends on the other rows; the inputs are compared exactly
    names = {**names_of(old), "versions": ""}
    same = [cell for cell in cells if {**names_of(cell), "versions": ""} == names]
    alike = [cell for cell in same if cell["settings"] == old["settings"]]
    alike.sort(key=lambda cell: bool(_inputs_changed(old, cell)))
    failed = [cell for cell in alike or same if cell["failed"]]
    status, text = "not comparable", ""
    if failed:
        status, text = "failed", f"{failed[0]['failed']} failed; retry with noisebench run"
    elif not any(cell["values"] for cell in same):
        status = "allowed" if rules.allow_missing else "missing"
        text = "no run in this report; --allow-missing accepts this"
    elif not alike:
        text = f"{_changed(old['settings'], same[0]['settings'])} changed"
    elif changed := _inputs_changed(old, alike[0]):
        text = f"{changed} changed; if intended, save a new baseline"
    if text:
        return Finding(names_of(old), status, text, cell_id((failed or alike or same or [old])[0]))
    pair = _Pair(old, alike[0])
    lost = [seed for seed in old["values"] if seed not in pair.shared]
    if not rules.tolerance_of(old["metric"]):
        if lost and not (rules.allow_missing and pair.shared):
            status = "missing"
            text = f"seed {', '.join(lost)} is missing; an exact comparison needs every seed"
    elif pair.seeds < 2:
        text = "the variance needs two seeds or more; --tolerance 0 compares exactly"
    elif pair.least is None and pair.seeds < FEWEST_SEEDS and pair.metric.counted:
        text = (
            "the variance needs three seeds or more if the number of examples is unknown; "
            "--tolerance 0 compares exactly"
        )
    return pair.finding(status, text) if text else pair


def _changed(old: dict[str, Any], new: dict[str, Any]) -> str:
    names = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(
        name if name == "data" else f"{name} {old.get(name)} -> {new.get(name)}" for name in names
    )


def _inputs_changed(old: dict[str, Any], new: dict[str, Any]) -> str:
    """An input of a seed that differs from the baseline; without a shared seed only component
    versions are compared.
    """
    shared = [seed for seed in old["values"] if seed in new["values"]]
    pairs = [(old["inputs"].get(seed, {}), new["inputs"].get(seed, {})) for seed in shared]
    if not shared:
        pairs = [(next(iter(old["inputs"].values()), {}), next(iter(new["inputs"].values()), {}))]
    for before, after in pairs:
        if before.get("versions") != after.get("versions"):
            changed = _changed(before.get("versions") or {}, after.get("versions") or {})
            return f"component versions ({changed})"
        for key, text in _DECIDING.items():
            if shared and before.get(key) != after.get(key):
                return text
    return ""


def _p_values(pairs: list[_Pair]) -> list[float]:
    """The p value of each drop. Bit-identical cells do not enter the variance."""
    columns: dict[tuple[object, ...], list[_Pair]] = {}
    for pair in pairs:
        if any(pair.drops) or not pair.paired:
            # paired and unpaired variances are different quantities
            names = (str(pair.old.get(name)) for name in _COLUMN)
            columns.setdefault((pair.paired, *names), []).append(pair)
    p_values = {id(pair): 1.0 for pair in pairs}
    for paired in (True, False):
        chosen = [column for names, column in columns.items() if names[0] == paired]
        moderated_variances = moderated(
            [[(pair.variance, pair.df) for pair in column] for column in chosen]
        )
        for column, variances in zip(chosen, moderated_variances, strict=True):
            for pair, (variance, df) in zip(column, variances, strict=True):
                # not moderated by other cells
                least = (pair.least or 0.0) / (1 if paired else 2)
                p_values[id(pair)] = tail_of_gap(
                    pair.drop,
                    max(variance, least) * pair.share,
                    df if variance >= least else min(df, pair.seeds - 1),
                )
    return [p_values[id(pair)] for pair in pairs]
