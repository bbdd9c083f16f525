"""The gate of a CI job: the documents of a baseline and of now -> a verdict on every cell, and one on all.

A cell is regressed if its mean is worse by more than the tolerance and the drop is not explained by the noise of seeds. Seeds pair
where both documents have them on the same labels; the variance of what is left learns from the other methods of the column
(`significance.moderated`); one-sided, Holm-corrected over the suite.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..bounded import read_json
from ..errors import NoisebenchError, Regressed, RunFailed, Undecided
from ..form import NAME, NUMBER, SCALAR, TEXT, WHOLE, Each, Form, Maybe, check_form, check_plain, shown
from ..manifest import of_which
from .formats import SCHEMA
from .measures import METRICS
from .significance import holm, moderated, tail_of_gap

_NAMES = ("dataset", "model", "noise", "method", "metric")
_KNOWN = ("dataset", "model", "recipe", "precision", "noise", "metric")
_EXTRA = ("subset", "init")  # names of a cell that has them
_COLUMN = (*_KNOWN, *_EXTRA)
_DECIDING = {"labels": "the noisy labels (another manifest)", "loss": "the loss", "strategy": "the strategy"}
_LARGEST, _SHOWN = 1 << 26, 100  # bytes of a baseline: of 20,000 cells; letters of a wrong value
_CELL: Form = {
    **dict.fromkeys((*_NAMES, *_KNOWN), NAME),
    "subset?": SCALAR,
    "init?": NAME,
    "values": Each(NUMBER),
    "inputs": Each({"versions?": Maybe(Each(TEXT))}),
    "settings": {},
    "failed": WHOLE,
}
_EPSILON = 1e-9  # what is lost by summing; a drop of exactly the tolerance is within it


@dataclass(frozen=True)
class Rules:
    """`tolerance` in points (percent; for a metric that is no share, hundredths); 0 compares exactly, without statistics."""

    tolerance: float = 0.5
    alpha: float = 0.05
    allow_missing: bool = False


@dataclass(frozen=True)
class Finding:
    """What becomes of a cell of the baseline: ok, regressed, failed, missing or not comparable; the drop is positive if worse."""

    names: dict[str, Any]
    status: str
    said: str
    drop: float | None = None
    chance: float | None = None

    @property
    def title(self) -> str:
        data = ", ".join([self.names["dataset"], *([of_which(int(self.names["subset"]))] if "subset" in self.names else [])])
        init = f" from {self.names['init']}" if "init" in self.names else ""
        return f"{self.names['method']} on {data}, {self.names['noise']}, {self.names['model']}{init}"


@dataclass(frozen=True)
class Check:
    """All findings; `damaged` are result files that were passed over."""

    findings: list[Finding]
    damaged: list[str] = field(default_factory=list)

    def of(self, status: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.status == status]

    @property
    def error(self) -> NoisebenchError | None:
        """Failed runs are said first, then what is regressed, then what cannot be decided; None if all is well."""
        kinds: list[tuple[type[NoisebenchError], str, int]] = [
            (RunFailed, "with failed runs", len(self.of("failed"))),
            (Regressed, "regressed", len(self.of("regressed"))),
            (Undecided, "cannot be decided", len(self.of("missing")) + len(self.of("not comparable")) + len(self.damaged)),
        ]
        found = [(kind, what, count) for kind, what, count in kinds if count]
        if not found and not self.of("ok"):
            return Undecided("nothing to compare: no cell of the baseline is here (noisebench report shows what is)")
        said = ", ".join(f"{count} {'cell' if count == 1 else 'cells'} {what}" for _, what, count in found)
        return found[0][0](f"check: {said}; {len(self.of('ok'))} of {len(self.findings)} ok") if found else None

    @property
    def troubles(self) -> list[str]:
        """One line for each cell or file that is not ok."""
        bad = [finding for finding in self.findings if finding.status not in ("ok", "allowed")]
        return [f"{finding.status}: {finding.title}: {finding.said}" for finding in bad] + self.damaged

    @property
    def summary(self) -> str:
        counts = {status: len(self.of(status)) for status in ("ok", "regressed", "failed", "missing", "not comparable", "allowed")}
        words = {"allowed": "missing, allowed"}
        said = ", ".join(f"{count} {words.get(status, status)}" for status, count in counts.items() if count)
        return f"check: {said or 'nothing to compare'}" + (f", {len(self.damaged)} files passed over" if self.damaged else "")

    def document(self) -> dict[str, Any]:
        """For machines."""
        cells = [{**f.names, "status": f.status, "said": f.said, "drop": f.drop, "p": f.chance} for f in self.findings]
        return {"exit_code": self.error.exit_code if self.error else 0, "summary": self.summary, "damaged": self.damaged, "cells": cells}


def read_baseline(path: Path, metric: str) -> dict[str, Any]:
    """A document that `report --save-baseline` or `--format json` wrote. Raises Undecided where it cannot be compared with."""
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
        raise Undecided(f"{path} is no baseline of schema {SCHEMA} ({error}): {way} {path}") from None
    if content["metric"] != metric:
        raise Undecided(f"the baseline {path} holds --metric {content['metric'][:_SHOWN]}, asked is {metric}: give the same")
    if not any(cell["values"] for cell in content["cells"]):
        raise Undecided(f"the baseline {path} holds no values: {way} {path}")
    return content


def _check_document(content: Any) -> None:
    """Raises ValueError for what is no document of this version."""
    check_plain(content)
    check_form(content, {"schema": WHOLE, "metric": TEXT, "cells": [_CELL]})
    if content["schema"] != SCHEMA:
        raise ValueError(f"it has {content['schema']}")
    if strange := next((cell["metric"] for cell in content["cells"] if cell["metric"] not in METRICS), None):
        raise ValueError(f"there is no metric {shown(strange)}")


def check(now: dict[str, Any], baseline: dict[str, Any], rules: Rules, damaged: Iterable[str] = ()) -> Check:
    """Every cell of the baseline that has values against now's; what is new now is not judged, nor what a run took."""
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
    judged = _exactly(pairs) if rules.tolerance == 0 else _by_noise(pairs, rules)
    return Check([*findings, *judged], list(damaged))


@dataclass(frozen=True)
class _Pair:
    """A cell then and now."""

    old: dict[str, Any]
    new: dict[str, Any]

    @property
    def names(self) -> dict[str, str]:
        return _names(self.old)

    @property
    def shared(self) -> list[str]:
        return [seed for seed in self.old["values"] if seed in self.new["values"]]

    @property
    def drop(self) -> float:
        """In points; over the shared seeds, where these are two or more."""
        if len(self.shared) > 1:
            return statistics.fmean(self.drops)
        return self._worse(statistics.fmean(self.old["values"].values()), statistics.fmean(self.new["values"].values()))

    @property
    def drops(self) -> list[float]:
        """By shared seed."""
        return [self._worse(self.old["values"][seed], self.new["values"][seed]) for seed in self.shared]

    def _worse(self, before: float, after: float) -> float:
        return 100 * (before - after) * (1 if METRICS[self.old["metric"]].higher_is_better else -1)

    def finding(self, status: str, said: str, chance: float | None = None) -> Finding:
        return Finding(self.names, status, said, self.drop, chance)


def _names(cell: dict[str, Any]) -> dict[str, Any]:
    """What a cell is called; subset and initial weights where it has them."""
    return {name: cell[name] for name in (*_NAMES, *_EXTRA) if name in _NAMES or name in cell}


def _counterpart(old: dict[str, Any], cells: list[dict[str, Any]], rules: Rules) -> Finding | _Pair:
    """The same cell now, or why there is nothing to compare."""
    names = _names(old)
    same = [cell for cell in cells if _names(cell) == names]
    alike = [cell for cell in same if cell["settings"] == old["settings"]]
    failed = [cell for cell in alike or same if cell["failed"]]
    if failed:
        return Finding(names, "failed", f"{failed[0]['failed']} failed, noisebench run tries again")
    if not any(cell["values"] for cell in same):
        return Finding(names, "allowed" if rules.allow_missing else "missing", "no run here; --allow-missing lets it pass")
    if not alike:
        return Finding(names, "not comparable", f"{_changed(old['settings'], same[0]['settings'])} changed")
    new = alike[0]
    if changed := _inputs_changed(old, new):
        return Finding(names, "not comparable", f"{changed} changed; save a new baseline if it is meant")
    pair = _Pair(old, new)
    if rules.tolerance == 0:
        lost = [seed for seed in old["values"] if seed not in new["values"]]
        if lost and not (rules.allow_missing and pair.shared):
            return pair.finding("missing", f"seed {', '.join(lost)} is not here, and an exact comparison needs it")
    elif min(len(old["values"]), len(new["values"])) < 2:
        return pair.finding("not comparable", "fewer than two seeds tell nothing of their noise; --tolerance 0 compares exactly")
    return pair


def _changed(old: dict[str, Any], new: dict[str, Any]) -> str:
    names = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(name if name == "data" else f"{name} {old.get(name)} -> {new.get(name)}" for name in names)


def _inputs_changed(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What decided the results of a seed then and is another now. Without a shared seed only the code's versions can be compared."""
    shared = [seed for seed in old["values"] if seed in new["values"]]
    for before, after in [(old["inputs"].get(seed, {}), new["inputs"].get(seed, {})) for seed in shared] or [_any_of(old, new)]:
        if before.get("versions") != after.get("versions"):
            return f"component versions ({_changed(before.get('versions') or {}, after.get('versions') or {})})"
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
        said = f"seed {', '.join(worse)} worse, by up to {max(pair.drops):.4f} points" if worse else "no seed is worse"
        found.append(pair.finding("regressed" if worse else "ok", said))
    return found


def _by_noise(pairs: list[_Pair], rules: Rules) -> list[Finding]:
    chances: dict[int, float] = {}
    for paired in (True, False):  # their variances are of different things
        columns: dict[tuple[str, ...], list[_Pair]] = {}
        for pair in pairs:
            if (len(pair.shared) > 1) == paired:
                columns.setdefault(tuple(str(pair.old.get(name)) for name in _COLUMN), []).append(pair)
        chances |= _chances(list(columns.values()))
    adjusted = holm([chances[id(pair)] for pair in pairs])
    return [_judged(pair, chance, rules) for pair, chance in zip(pairs, adjusted, strict=True)]


def _chances(columns: list[list[_Pair]]) -> dict[int, float]:
    """The chance of each drop, by the identity of its pair. A cell that came out bit for bit the same tells nothing of noise."""
    moved = [[pair for pair in column if any(pair.drops) or len(pair.shared) < 2] for column in columns]
    variances = moderated([[_variance(pair) for pair in column] for column in moved])
    found = {id(pair): 1.0 for column in columns for pair in column}
    for column, known in zip(moved, variances, strict=True):
        found |= {
            id(pair): tail_of_gap(pair.drop, value * _share(pair), freedom) for pair, (value, freedom) in zip(column, known, strict=True)
        }
    return found


def _variance(pair: _Pair) -> tuple[float, int]:
    """Of one seed's drop where seeds pair, else of one value; and its degrees of freedom."""
    if len(pair.shared) > 1:
        return statistics.variance(pair.drops), len(pair.shared) - 1
    sides = [[100 * value for value in cell["values"].values()] for cell in (pair.old, pair.new)]
    freedom = sum(len(side) - 1 for side in sides)
    return sum(statistics.variance(side) * (len(side) - 1) for side in sides) / freedom, freedom


def _share(pair: _Pair) -> float:
    """The variance of the mean drop, as a multiple of that."""
    return 1 / len(pair.shared) if len(pair.shared) > 1 else 1 / len(pair.old["values"]) + 1 / len(pair.new["values"])


def _judged(pair: _Pair, chance: float, rules: Rules) -> Finding:
    way = f"paired over {len(pair.shared)} seeds" if len(pair.shared) > 1 else "no seeds to pair"
    worse = "worse" if pair.drop > 0 else "better"
    said = f"{abs(pair.drop):.2f} points {worse} than the baseline ({way}, p = {chance:.2g} after Holm)"
    regressed = pair.drop > rules.tolerance + _EPSILON and chance < rules.alpha
    return pair.finding("regressed" if regressed else "ok", said, chance)
