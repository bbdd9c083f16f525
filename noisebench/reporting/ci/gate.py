"""The gate of a CI job: the documents of a baseline and of now -> a verdict on every cell, and one
on all.

A cell is regressed if its mean is worse by more than the tolerance and the drop is not explained by
the noise of seeds. Seeds pair where both documents have them on the same labels; the variance of
what is left learns from the other methods of the column (`significance.moderated`), and is at least
what the test set's size lets it be (`significance.least_variance`); one-sided, Holm-corrected over
the suite. Drops and tolerances are in the unit of their metric: points of a percentage, nats ...
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from ...core.files.schema import Count, Name, Number, Scalar, Whole, check_form, check_plain, shown
from ...core.files.untrusted import read_json
from ...errors import ConfigError, NoisebenchError, Regressed, RunFailed, Undecided
from ...labels.manifest import of_which
from ..metrics import METRICS
from ..render.text import SCHEMA
from ..stats import FEWEST_SEEDS, holm, least_variance, moderated, tail_of_gap

_NAMES = ("dataset", "model", "noise", "metric")
_KNOWN = ("dataset", "model", "recipe", "precision", "noise", "metric")
# what a row is by: some of these, the others are None or not there
_ROWS = ("method", "loss", "strategy")
_EXTRA = ("subset", "init", "epochs", "versions")  # names of a cell that has them
_COLUMN = (*_KNOWN, "subset", "init")
_DECIDING = {
    "labels": "the noisy labels (another manifest)",
    "loss": "the loss",
    "strategy": "the strategy",
}
_LARGEST, _SHOWN = 1 << 26, 100  # bytes of a baseline: of 20,000 cells; letters of a wrong value
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
        "versions": NotRequired[Name],
        "num_examples": NotRequired[Count | None],
        "values": dict[str, Number],
        "inputs": dict[str, Versions],
        "settings": dict[str, Any],
        "failed": Whole,
    },
)
Baseline = TypedDict("Baseline", {"schema": Whole, "metric": str, "cells": list[Cell]})


_TINY = 1e-12  # a chance that is not said more exactly
_EPSILON = 1e-9  # what is lost by summing; a drop of exactly the tolerance is within it


@dataclass(frozen=True)
class Rules:
    """`tolerance` in the metric's own unit, one for all or by metric; 0 compares exactly, without
    statistics. By default it is `Metric.tolerance`.
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
    """What becomes of a cell of the baseline: ok, regressed, failed, missing or not comparable; the
    drop, in the metric's unit, is positive if worse. place: the cell of now's document that it is
    about, else the baseline's.
    """

    names: dict[str, Any]
    status: str
    said: str
    place: str
    drop: float | None = None
    chance: float | None = None

    @property
    def title(self) -> str:
        names = self.names
        data = ", ".join(
            [names["dataset"], *([of_which(int(names["subset"]))] if "subset" in names else [])]
        )
        row = ", ".join(str(names[name]) for name in (*_ROWS, "versions") if name in names)
        init = f" from {names['init']}" if "init" in names else ""
        epochs = f", {names['epochs']} epochs" if "epochs" in names else ""
        return (
            f"{names['metric']} of {row} on {data}, {names['noise']}, "
            f"{names['model']}{init}{epochs}"
        )


@dataclass(frozen=True)
class Check:
    """All findings; `damaged` are result files that were passed over."""

    findings: list[Finding]
    damaged: list[str] = field(default_factory=list)

    def of(self, status: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.status == status]

    @property
    def error(self) -> NoisebenchError | None:
        """Failed runs are said first, then what is regressed, then what cannot be decided; None if
        all is well.
        """
        kinds: list[tuple[type[NoisebenchError], str, int]] = [
            (RunFailed, "with failed runs", len(self.of("failed"))),
            (Regressed, "regressed", len(self.of("regressed"))),
            (
                Undecided,
                "cannot be decided",
                len(self.of("missing")) + len(self.of("not comparable")) + len(self.damaged),
            ),
        ]
        found = [(kind, what, count) for kind, what, count in kinds if count]
        if not found and not self.of("ok"):
            return Undecided(
                "nothing to compare: no cell of the baseline is here (noisebench "
                "report shows what is)"
            )
        said = ", ".join(
            f"{count} {'cell' if count == 1 else 'cells'} {what}" for _, what, count in found
        )
        return (
            found[0][0](f"check: {said}; {len(self.of('ok'))} of {len(self.findings)} ok")
            if found
            else None
        )

    @property
    def troubles(self) -> list[str]:
        """One line for each cell or file that is not ok: failed runs first, then what is
        regressed.
        """
        bad = [
            finding
            for status in ("failed", "regressed", "missing", "not comparable")
            for finding in self.of(status)
        ]
        return [
            f"{finding.status}: {finding.title}: {finding.said}" for finding in bad
        ] + self.damaged

    @property
    def summary(self) -> str:
        counts = {
            status: len(self.of(status))
            for status in ("ok", "regressed", "failed", "missing", "not comparable", "allowed")
        }
        words = {"allowed": "missing, allowed"}
        said = ", ".join(
            f"{count} {words.get(status, status)}" for status, count in counts.items() if count
        )
        return f"check: {said or 'nothing to compare'}" + (
            f", {len(self.damaged)} files passed over" if self.damaged else ""
        )

    def document(self) -> dict[str, Any]:
        """For machines."""
        cells = [
            {
                **f.names,
                "status": f.status,
                "said": f.said,
                "drop": f.drop,
                "unit": METRICS[f.names["metric"]].unit,
                "p": f.chance,
            }
            for f in self.findings
        ]
        return {
            "exit_code": self.error.exit_code if self.error else 0,
            "summary": self.summary,
            "damaged": self.damaged,
            "cells": cells,
        }


def read_tolerance(text: str | None, metrics: Sequence[str]) -> float | dict[str, float] | None:
    """`0.5`, of metrics of one unit, or `last=0.5,nll=0.02`. Raises ConfigError."""
    if text is None:
        return None
    if "=" not in text:
        size = _size(text)
        judged = [name for name in metrics if not METRICS[name].spent]
        units = {METRICS[name].unit for name in judged}
        if size and len(units) > 1:
            each = ",".join(f"{name}={text}" for name in judged)
            raise ConfigError(
                f"--tolerance {text}: these metrics differ in their unit, so say it "
                f"of each, as in --tolerance {each}"
            )
        return size
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        if name not in metrics or name in found:
            raise ConfigError(
                f"--tolerance {part.strip()}: each --metric once, of "
                f"{', '.join(metrics)}, as in {metrics[0]}=0.5"
            )
        found[name] = _size(number)
    return found


def _size(text: str) -> float:
    try:
        if 0 <= (size := float(text)) < math.inf:
            return size
    except ValueError:
        pass
    raise ConfigError(
        "--tolerance is a number from 0, or one of each metric as in "
        f"last=0.5,nll=0.02; got {text!r}"
    )


def read_baseline(path: Path, metric: str) -> dict[str, Any]:
    """A document that `report --save-baseline` or `--format json` wrote. Raises Undecided where it
    cannot be compared with.
    """
    way = "write one with noisebench report --save-baseline"
    try:
        content = read_json(path, _LARGEST)
    except FileNotFoundError:
        raise Undecided(f"no baseline file {path}: {way} {path}") from None
    except (OSError, ValueError) as error:
        raise Undecided(f"the baseline {path} cannot be read ({error}): {way} {path}") from None
    try:
        _check_document(content)
    except ValueError as error:
        raise Undecided(
            f"{path} is no baseline of schema {SCHEMA} ({error}): {way} {path}"
        ) from None
    if content["metric"] != metric:
        raise Undecided(
            f"the baseline {path} holds --metric {content['metric'][:_SHOWN]}, asked "
            f"is {metric}: give the same"
        )
    if not any(cell["values"] for cell in content["cells"]):
        raise Undecided(f"the baseline {path} holds no values: {way} {path}")
    return content


def _check_document(content: Any) -> None:
    """Raises ValueError for what is no document of this version."""
    check_plain(content)
    check_form(content, Baseline)
    if content["schema"] != SCHEMA:
        raise ValueError(f"it has {content['schema']}")
    if strange := next(
        (cell["metric"] for cell in content["cells"] if cell["metric"] not in METRICS), None
    ):
        raise ValueError(f"there is no metric {shown(strange)}")


def check(
    now: dict[str, Any], baseline: dict[str, Any], rules: Rules, damaged: Iterable[str] = ()
) -> Check:
    """Every cell of the baseline that has values against now's; what is new now is not judged, nor
    what a run took.
    """
    findings: list[Finding] = []
    pairs: list[_Pair] = []
    for old in baseline["cells"]:
        if not old["values"] or METRICS[old["metric"]].spent:
            continue
        found = _counterpart(old, now["cells"], rules)
        if isinstance(found, Finding):
            findings.append(found)
        else:
            pairs.append(found)
    exact = [pair for pair in pairs if not rules.tolerance_of(pair.metric)]
    others = [pair for pair in pairs if rules.tolerance_of(pair.metric)]
    return Check([*findings, *_exactly(exact), *_by_noise(others, rules)], list(damaged))


@dataclass(frozen=True)
class _Pair:
    """A cell then and now."""

    old: dict[str, Any]
    new: dict[str, Any]

    @property
    def metric(self) -> str:
        return str(self.old["metric"])

    @property
    def seeds(self) -> int:
        """Of the side with fewer, or those that pair."""
        return (
            len(self.shared)
            if len(self.shared) > 1
            else min(len(self.old["values"]), len(self.new["values"]))
        )

    @property
    def least(self) -> float | None:
        """Below which the variance of one seed's drop is not believed; None where it is not known
        of how many examples a share is.
        """
        size = self.new.get("num_examples") or self.old.get("num_examples")
        return (
            least_variance(self.drop / _scale(self.metric), self.seeds, size)
            * _scale(self.metric) ** 2
            if size
            else None
        )

    @property
    def shared(self) -> list[str]:
        return [seed for seed in self.old["values"] if seed in self.new["values"]]

    @property
    def drop(self) -> float:
        """In the metric's unit; over the shared seeds, where these are two or more."""
        if len(self.shared) > 1:
            return statistics.fmean(self.drops)
        return self._worse(
            statistics.fmean(self.old["values"].values()),
            statistics.fmean(self.new["values"].values()),
        )

    @property
    def drops(self) -> list[float]:
        """By shared seed."""
        return [
            self._worse(self.old["values"][seed], self.new["values"][seed]) for seed in self.shared
        ]

    def _worse(self, before: float, after: float) -> float:
        return (
            _scale(self.metric)
            * (before - after)
            * (1 if METRICS[self.metric].higher_is_better else -1)
        )

    def finding(self, status: str, said: str, chance: float | None = None) -> Finding:
        return Finding(names_of(self.old), status, said, place_of(self.new), self.drop, chance)

    def text(self, drop: float) -> str:
        """`0.52 points`, `0.0312 nats`."""
        metric = METRICS[self.metric]
        return f"{drop:.{2 if metric.percent else 2 + metric.finer}f} {metric.unit}".strip()


def _scale(metric: str) -> int:
    """How many of its unit a metric's 1 is."""
    return 100 if METRICS[metric].percent else 1


def names_of(cell: dict[str, Any]) -> dict[str, Any]:
    """What a cell is called: its data, noise, network and metric, its row, and what only some cells
    have.
    """
    return {name: cell[name] for name in (*_NAMES, *_ROWS, *_EXTRA) if cell.get(name) is not None}


def place_of(cell: dict[str, Any]) -> str:
    """All that tells a cell from every other of its document, as one text."""
    return json.dumps(
        [names_of(cell), cell.get("recipe"), cell.get("precision"), cell.get("settings")],
        sort_keys=True,
    )


def _counterpart(old: dict[str, Any], cells: list[dict[str, Any]], rules: Rules) -> Finding | _Pair:
    """The same cell now, or why there is nothing to compare."""
    names = names_of(old)
    # which versions are named depends on what else is in the table: the inputs say them exactly
    same = [
        cell for cell in cells if {**names_of(cell), "versions": ""} == {**names, "versions": ""}
    ]
    alike = [cell for cell in same if cell["settings"] == old["settings"]]
    alike.sort(key=lambda cell: bool(_inputs_changed(old, cell)))
    failed = [cell for cell in alike or same if cell["failed"]]
    place = place_of((failed or alike or same or [old])[0])
    if failed:
        return Finding(
            names, "failed", f"{failed[0]['failed']} failed, noisebench run tries again", place
        )
    if not any(cell["values"] for cell in same):
        return Finding(
            names,
            "allowed" if rules.allow_missing else "missing",
            "no run here; --allow-missing lets it pass",
            place,
        )
    if not alike:
        return Finding(
            names,
            "not comparable",
            f"{_changed(old['settings'], same[0]['settings'])} changed",
            place,
        )
    new = alike[0]
    if changed := _inputs_changed(old, new):
        return Finding(
            names, "not comparable", f"{changed} changed; save a new baseline if it is meant", place
        )
    pair = _Pair(old, new)
    if not rules.tolerance_of(pair.metric):
        lost = [seed for seed in old["values"] if seed not in new["values"]]
        if lost and not (rules.allow_missing and pair.shared):
            return pair.finding(
                "missing", f"seed {', '.join(lost)} is not here, and an exact comparison needs it"
            )
    elif min(len(old["values"]), len(new["values"])) < 2:
        return pair.finding(
            "not comparable",
            "fewer than two seeds tell nothing of their noise; --tolerance 0 compares exactly",
        )
    elif pair.least is None and pair.seeds < FEWEST_SEEDS and METRICS[pair.metric].counted:
        said = (
            "two seeds may agree by chance, and it is not known of how many examples this is a "
            "share; --tolerance 0 compares exactly"
        )
        return pair.finding("not comparable", said)
    return pair


def _changed(old: dict[str, Any], new: dict[str, Any]) -> str:
    names = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(
        name if name == "data" else f"{name} {old.get(name)} -> {new.get(name)}" for name in names
    )


def _inputs_changed(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What decided the results of a seed then and is another now. Without a shared seed only the
    code's versions can be compared.
    """
    shared = [seed for seed in old["values"] if seed in new["values"]]
    for before, after in [
        (old["inputs"].get(seed, {}), new["inputs"].get(seed, {})) for seed in shared
    ] or [_any_of(old, new)]:
        if before.get("versions") != after.get("versions"):
            return (
                "component versions "
                f"({_changed(before.get('versions') or {}, after.get('versions') or {})})"
            )
        for key, word in _DECIDING.items():
            if shared and before.get(key) != after.get(key):
                return word
    return ""


def _any_of(old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return next(iter(old["inputs"].values()), {}), next(iter(new["inputs"].values()), {})


def _exactly(pairs: list[_Pair]) -> list[Finding]:
    """Without statistics: no shared seed may be worse at all."""
    found = []
    for pair in pairs:
        worse = [seed for seed, drop in zip(pair.shared, pair.drops, strict=True) if drop > 0]
        said = (
            f"seed {', '.join(worse)} worse, by up to {pair.text(max(pair.drops))}"
            if worse
            else "no seed is worse"
        )
        found.append(pair.finding("regressed" if worse else "ok", said))
    return found


def _by_noise(pairs: list[_Pair], rules: Rules) -> list[Finding]:
    chances: dict[int, float] = {}
    for paired in (True, False):  # their variances are of different things
        columns: dict[tuple[str, ...], list[_Pair]] = {}
        for pair in pairs:
            if (len(pair.shared) > 1) == paired:
                columns.setdefault(tuple(str(pair.old.get(name)) for name in _COLUMN), []).append(
                    pair
                )
        chances |= _chances(list(columns.values()))
    adjusted = holm([chances[id(pair)] for pair in pairs])
    return [_judged(pair, chance, rules) for pair, chance in zip(pairs, adjusted, strict=True)]


def _chances(columns: list[list[_Pair]]) -> dict[int, float]:
    """The chance of each drop, by the identity of its pair. A cell that came out bit for bit the
    same tells nothing of noise.
    """
    moved = [
        [pair for pair in column if any(pair.drops) or len(pair.shared) < 2] for column in columns
    ]
    variances = moderated([[_variance(pair) for pair in column] for column in moved])
    found = {id(pair): 1.0 for column in columns for pair in column}
    for column, known in zip(moved, variances, strict=True):
        for pair, (variance, freedom) in zip(column, known, strict=True):
            least = _least(pair)  # of which no other cell says anything
            df = freedom if variance >= least else min(freedom, pair.seeds - 1)
            found[id(pair)] = tail_of_gap(pair.drop, max(variance, least) * _share(pair), df)
    return found


def _variance(pair: _Pair) -> tuple[float, int]:
    """Of one seed's drop where seeds pair, else of one value; and its degrees of freedom."""
    if len(pair.shared) > 1:
        return statistics.variance(pair.drops), len(pair.shared) - 1
    sides = [
        [_scale(pair.metric) * value for value in cell["values"].values()]
        for cell in (pair.old, pair.new)
    ]
    freedom = sum(len(side) - 1 for side in sides)
    return sum(statistics.variance(side) * (len(side) - 1) for side in sides) / freedom, freedom


def _least(pair: _Pair) -> float:
    """Below which what `_variance` says is not believed; 0 where that is not known."""
    return (pair.least or 0.0) / (1 if len(pair.shared) > 1 else 2)


def _share(pair: _Pair) -> float:
    """The variance of the mean drop, as a multiple of that."""
    return (
        1 / len(pair.shared)
        if len(pair.shared) > 1
        else 1 / len(pair.old["values"]) + 1 / len(pair.new["values"])
    )


def _judged(pair: _Pair, chance: float, rules: Rules) -> Finding:
    way = f"paired over {len(pair.shared)} seeds" if len(pair.shared) > 1 else "no seeds to pair"
    worse = "worse" if pair.drop > 0 else "better"
    p = f"p = {chance:.2g} after Holm" if chance > _TINY else f"p < {_TINY}"
    said = f"{pair.text(abs(pair.drop))} {worse} than the baseline ({way}, {p})"
    regressed = pair.drop > rules.tolerance_of(pair.metric) + _EPSILON and chance < rules.alpha
    return pair.finding("regressed" if regressed else "ok", said, chance)
