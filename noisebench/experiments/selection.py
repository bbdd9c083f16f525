"""Selects runs by `axis=value`, finished ones and those of a suite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ..errors import ConfigError, NoisebenchError
from ..losses import LOSSES
from ..noise import normal_noise
from ..strategies import normal_strategy
from .backbones import canonical_backbone

_OR = "|"  # between several values of one condition; none holds it

T = TypeVar("T")
Names = tuple[str, ...]


def _number(text: str) -> str:
    return str(int(text))


_NORMAL: dict[str, Callable[[str], object]] = {
    "model": canonical_backbone,
    "noise": normal_noise,
    "loss": LOSSES.canonical,
    "strategy": normal_strategy,
    **dict.fromkeys(("subset", "epochs", "seed", "noise_seed"), _number),
}


def select_matching(
    things: Iterable[T],
    conditions: Iterable[str],
    axes: Sequence[str],
    called: Callable[[T, str], Names],
) -> list[T]:
    """The things that meet every condition, in their order. Values are compared by meaning, not by
    spelling; `seed=0|1` are two.

    called: the names of a thing's value on an axis, first the one that is listed. Raises
    ConfigError for another form, or a value that no thing has.
    """
    left = list(things)
    for condition in conditions:
        axis, equals, value = condition.partition("=")
        if not equals or axis not in axes:
            raise ConfigError(
                f"--filter is axis=value with axis one of {', '.join(axes)}; got {condition!r}"
            )
        names = [called(thing, axis) for thing in left]
        selected = _selected(condition, axis, value, set(names))
        left = [thing for thing, own in zip(left, names, strict=True) if own in selected]
    return left


def _selected(condition: str, axis: str, value: str, known: set[Names]) -> set[Names]:
    """The names that one of the values means. Raises ConfigError where a value means none."""
    values = [value]
    if not any(value in names for names in known):
        values = [part.strip() for part in value.split(_OR)]
    if "" in values and len(values) > 1:
        raise ConfigError(f"--filter {condition}: a value beside {_OR} is empty")
    selected: set[Names] = set()
    for text in values:
        found = {names for names in known if {text, normal_value(axis, text)} & set(names)}
        if known and not found:
            of = f" of {text}" if len(values) > 1 else ""
            first = sorted({names[0] for names in known})
            # what holds a comma is told from two names
            listed = ", ".join(f'"{name}"' if "," in name else name for name in first)
            raise ConfigError(
                f"--filter {condition}: no run is left{of}; {axis} is one of {listed}"
            )
        selected |= found
    return selected


def normal_value(axis: str, value: str) -> str:
    """The canonical text of a value of an axis; itself where it has no other, or means nothing."""
    try:
        return str(_NORMAL[axis](value)) if axis in _NORMAL else value
    except (NoisebenchError, ValueError):
        return value
