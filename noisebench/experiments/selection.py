"""`axis=value`: which runs somebody means, whether they lie there finished or are still to be
done.
"""

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
    """Those that meet every condition, in their order. A value is what it means, however it is
    spelled; `seed=0|1` are two.

    called: what a thing's place on an axis is called, first as it is listed. Raises ConfigError for
    another form, or a value that no thing has.
    """
    left = list(things)
    for condition in conditions:
        axis, equals, value = condition.partition("=")
        if not equals or axis not in axes:
            raise ConfigError(
                f"--filter is axis=value with axis one of {', '.join(axes)}; got {condition!r}"
            )
        names = [called(thing, axis) for thing in left]
        met = _meeting(condition, axis, value, set(names))
        left = [thing for thing, own in zip(left, names, strict=True) if own in met]
    return left


def _meeting(condition: str, axis: str, value: str, known: set[Names]) -> set[Names]:
    """The places that one of the values means. Raises ConfigError where a value means none."""
    values = (
        [value]
        if any(value in own for own in known)
        else [part.strip() for part in value.split(_OR)]
    )
    if "" in values and len(values) > 1:
        raise ConfigError(f"--filter {condition}: a value beside {_OR} is empty")
    met: set[Names] = set()
    for each in values:
        spelled = {each, normal_value(axis, each)}
        found = {own for own in known if spelled & set(own)}
        if known and not found:
            of = f" of {each}" if len(values) > 1 else ""
            listed = ", ".join(_quoted(name) for name in sorted({own[0] for own in known}))
            raise ConfigError(
                f"--filter {condition}: no run is left{of}; {axis} is one of {listed}"
            )
        met |= found
    return met


def _quoted(name: str) -> str:
    """What holds a comma is told from two names."""
    return f'"{name}"' if "," in name else name


def normal_value(axis: str, value: str) -> str:
    """The one text of a value of an axis; itself where it has no other, or means nothing."""
    try:
        return str(_NORMAL[axis](value)) if axis in _NORMAL else value
    except (NoisebenchError, ValueError):
        return value
