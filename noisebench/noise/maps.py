"""Named conventions of asymmetric noise: which class is recorded as which. `{clean: recorded}` by class number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import LanguageError, UnknownName

# CIFAR-100's fine class -> superclass, in the official order. Blocks of five consecutive fine ids are not superclasses:
# the fine names are alphabetical.
SUPERCLASS = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
    6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
    16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
    12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)  # fmt: skip
_BLOCK5 = tuple(k // 5 for k in range(100))


@dataclass(frozen=True)
class ClassMap:
    """A convention: its classes, where it comes from, and `{clean: recorded}` made from a seed where it is random."""

    num_classes: int
    source: str
    flips: Callable[[int], dict[int, int]]
    random: bool = False


def _fixed(num_classes: int, source: str, flips: dict[int, int]) -> ClassMap:
    return ClassMap(num_classes, source, lambda seed: flips)


def _next_in(groups: tuple[int, ...]) -> dict[int, int]:
    """Each class -> the next of its group, the last -> the first."""
    flips: dict[int, int] = {}
    for group in set(groups):
        members = [k for k, g in enumerate(groups) if g == group]
        flips.update(zip(members, members[1:] + members[:1], strict=True))
    return flips


def _pair_in(groups: tuple[int, ...], seed: int) -> dict[int, int]:
    """In each group two random classes exchange labels."""
    keys = np.random.PCG64(seed).random_raw(len(groups))  # raw bits: the same on every numpy
    flips: dict[int, int] = {}
    for group in sorted(set(groups)):
        members = [k for k, g in enumerate(groups) if g == group]
        a, b = sorted(members, key=lambda k: keys[k])[:2]
        flips.update({a: b, b: a})
    return flips


MAPS: dict[str, ClassMap] = {
    "cifar10": _fixed(
        10,
        "Patrini et al. 2017, the literature's one-way five: truck->automobile, bird->airplane, deer->horse, cat<->dog",
        {9: 1, 2: 0, 4: 7, 3: 5, 5: 3},
    ),
    "cifar10-two-way": _fixed(
        10,
        "the text of Equal Loss: truck<->automobile, bird<->airplane, deer<->horse, cat<->dog",
        {9: 1, 1: 9, 2: 0, 0: 2, 4: 7, 7: 4, 3: 5, 5: 3},
    ),
    "superclass-next": ClassMap(
        100, "the next fine class of the true superclass, circular (Englesson & Azizpour 2021)", lambda seed: _next_in(SUPERCLASS)
    ),
    "superclass-pair": ClassMap(
        100, "two random fine classes of each true superclass, both ways (Equal Loss)", lambda seed: _pair_in(SUPERCLASS, seed), True
    ),
    "block5-next": ClassMap(
        100, "the next of five consecutive fine ids, circular: what most published code does", lambda seed: _next_in(_BLOCK5)
    ),
    "block5-pair": ClassMap(
        100, "two random of five consecutive fine ids, both ways (the code of Wang et al. 2019)", lambda seed: _pair_in(_BLOCK5, seed), True
    ),
    "digits": _fixed(10, "handwritten digits, Patrini et al. 2017: 2->7, 3->8, 5<->6, 7->1", {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}),
    "fashionmnist": _fixed(
        10,
        "our reading of Zhang & Sabuncu 2018: ankle boot->sneaker, sneaker->sandal, pullover->shirt, coat<->dress",
        {9: 7, 7: 5, 2: 6, 4: 3, 3: 4},
    ),
}


def class_map(name: str, num_classes: int) -> ClassMap:
    """The named convention. Raises UnknownName, or LanguageError if it is for another number of classes."""
    if name not in MAPS:
        raise UnknownName("asymmetric map", name, MAPS, "noises asymmetric")
    if MAPS[name].num_classes != num_classes:
        raise LanguageError(f"map {name!r} is for {MAPS[name].num_classes} classes, the data have {num_classes}: name another --map")
    return MAPS[name]
