"""What a cell's runs were told, in groups of names and values; where runs differ, every value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ...core.expressions import Call, parse
from ...core.registry import Registry
from ...errors import NoisebenchError
from ...experiments.oracle import EMPIRICAL, TRUE, is_rate
from ...experiments.weights import label_of
from ...labels.manifest import of_which
from ...losses import LOSSES
from ...strategies import STRATEGIES

_DIGITS = 12  # of a checksum
_SOFTWARE = ("noisebench", "torch", "torchvision", "timm", "numpy", "python", "platform")
_UNSAID = "chosen by its source for this noise, or told the truth by its settings"
_FACTS = {
    "rate": "the true noise rate",
    "share": "the true share of incorrect labels",
    "transition": "the true transition matrix",
}


@dataclass(frozen=True)
class Group:
    """Some settings under one head."""

    title: str
    rows: tuple[tuple[str, str], ...]


def configuration(abouts: list[dict[str, Any]], records: list[dict[str, Any]]) -> tuple[Group, ...]:
    """From what a table knows of all runs, and the records of the finished ones."""
    groups = (
        ("Method", _method(abouts)),
        ("Labels", _labels(abouts, records)),
        ("Network and recipe", _recipe(abouts, records)),
        ("Components", _components(records)),
        ("Machine", _machine(abouts, records)),
    )
    kept = (
        (title, tuple((name, value) for name, value in rows if value)) for title, rows in groups
    )
    return tuple(Group(title, rows) for title, rows in kept if rows)


def alike(values: Iterable[object]) -> str:
    """The values in order of appearance, each once; nothing for none."""
    return ", ".join(dict.fromkeys(str(value) for value in values if value not in (None, "")))


def _each(dicts: list[dict[str, Any]], *path: str, say: Callable[[Any], object] = str) -> str:
    found = []
    for value in dicts:
        inner: Any = value
        for key in path:
            inner = inner.get(key) if isinstance(inner, dict) else None
        found.append(None if inner is None else say(inner))
    return alike(found)


def _method(abouts: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    yield "method", _each(abouts, "method")
    yield "loss", _each(abouts, "loss")
    yield "strategy", _each(abouts, "strategy")


def _labels(
    abouts: list[dict[str, Any]], records: list[dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    yield "data set", _each(abouts, "dataset")
    yield "training images", _each(abouts, "subset", say=of_which)
    yield "noise", _each(abouts, "noise")
    yield "nominal rate", _each(records, "noise", "nominal_rate", say=_share)
    yield "realised rate", _each(abouts, "realised_rate", say=_share)
    yield "set apart", _each(abouts, "held_out")
    yield "convention", _each(records, "noise", "convention")
    yield "manifest", _each(records, "noise", "manifest_sha256", say=_short)
    yield "images and labels", _each(abouts, "data_sha256", say=_short)


def _recipe(
    abouts: list[dict[str, Any]], records: list[dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    parameters = _each(records, "model", "parameters", say=lambda count: f"{count:,} parameters")
    yield "network", ", ".join(filter(None, [_each(abouts, "model"), parameters]))
    yield "began from", _each(abouts, "init", say=label_of)
    yield "recipe", _each(abouts, "recipe_name")
    for name in dict.fromkeys(name for about in abouts for name in about["recipe"]):
        yield name.replace("_", " "), _each(abouts, "recipe", name, say=_plainly)


def _components(records: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for name in dict.fromkeys(name for record in records for name in record.get("versions", {})):
        yield name.replace(":", " "), _each(records, "versions", name, say=_version)


def _machine(
    abouts: list[dict[str, Any]], records: list[dict[str, Any]]
) -> Iterator[tuple[str, str]]:
    yield "precision", _each(abouts, "precision")
    yield "device", _each(records, "environment", "device")
    yield "threads", _each(records, "environment", "threads")
    yield (
        "trained together",
        _each(
            records,
            "environment",
            "packed",
            say=lambda width: "by itself" if width == 1 else f"{width} runs at a time",
        ),
    )
    for name in ("processes", "accumulate", "sync_bn"):
        if any(name in record.get("environment", {}) for record in records):
            yield name.replace("_", " "), _each(records, "environment", name)
    for name in _SOFTWARE:
        yield name, _each(records, "environment", name)


def _share(rate: float) -> str:
    return f"{100 * rate:.2f} %"


def _short(sha256: str) -> str:
    return str(sha256)[:_DIGITS]


def _version(text: str) -> str:
    return f"version {text}" if len(str(text)) <= _DIGITS else _short(text)


def _plainly(value: Any) -> str:
    return (
        "yes"
        if value is True
        else "no"
        if value is False
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def oracle_reason(abouts: list[dict[str, Any]], records: list[dict[str, Any]]) -> str:
    """What the runs were told of the noise; empty where they are no oracle."""
    if not any(about.get("oracle") for about in abouts):
        return ""
    names = ("nominal_rate", "realised_rate", "expected_share")
    rates = [rate for record in records for name in names if (rate := record["noise"].get(name))]
    pairs = [
        (registry, about[part])
        for about in abouts
        for registry, part in ((LOSSES, "loss"), (STRATEGIES, "strategy"))
    ]
    told = dict.fromkeys(said for registry, text in pairs for said in _told(registry, text, rates))
    return "; ".join(told) or _UNSAID


def _told(registry: Registry, text: str, rates: list[float]) -> Iterator[str]:
    try:
        calls = [call for call in registry.calls(parse(text)) if call.name in registry]
    except NoisebenchError:  # a text of a later version
        return
    for call in calls:
        yield from _told_by(registry, call, rates)


def _told_by(registry: Registry, call: Call, rates: list[float]) -> Iterator[str]:
    facts = {p.name: p.auto for p in registry[call.name].parameters if p.auto}
    for name, value in call.kwargs:
        told = isinstance(value, int | float) and is_rate(value, rates)
        if name in facts and (value in (TRUE, EMPIRICAL) if facts[name] == "transition" else told):
            yield f"{name} of {call.name} is {_FACTS[str(facts[name])]}"
