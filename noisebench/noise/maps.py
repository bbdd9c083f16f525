"""Named maps of asymmetric noise: which class is recorded as which. `{clean: recorded}` by class
number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..core.classes import SUPERCLASS
from ..errors import LanguageError, UnknownName

_BLOCK5 = tuple(k // 5 for k in range(100))


@dataclass(frozen=True)
class ClassMap:
    """A map: its classes (None: any number), its paper, what flips, and `(K, seed) -> {clean:
    recorded}`.

    share: the overall rate of incorrect labels over the rate, classes of one size.
    """

    num_classes: int | None
    paper: str
    summary: str
    share: float
    flips: Callable[[int, int], dict[int, int]]
    random: bool = False


def _fixed(num_classes: int, paper: str, summary: str, flips: dict[int, int]) -> ClassMap:
    return ClassMap(num_classes, paper, summary, len(flips) / num_classes, lambda K, seed: flips)


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
        "Patrini et al. 2017",
        "truck->automobile, bird->airplane, deer->horse, cat<->dog: the literature's one-way five",
        {9: 1, 2: 0, 4: 7, 3: 5, 5: 3},
    ),
    "cifar10-two-way": _fixed(
        10,
        "Equal Loss (Cui et al.)",
        "truck<->automobile, bird<->airplane, deer<->horse, cat<->dog",
        {9: 1, 1: 9, 2: 0, 0: 2, 4: 7, 7: 4, 3: 5, 5: 3},
    ),
    "superclass-next": ClassMap(
        100,
        "Englesson & Azizpour 2021",
        "the next fine class of the true superclass, circular",
        1.0,
        lambda K, seed: _next_in(SUPERCLASS),
    ),
    "superclass-pair": ClassMap(
        100,
        "Equal Loss (Cui et al.)",
        "two random fine classes of each true superclass, both ways",
        0.4,
        lambda K, seed: _pair_in(SUPERCLASS, seed),
        random=True,
    ),
    "block5-next": ClassMap(
        100,
        "Patrini et al. 2017, code",
        "the next of five consecutive fine ids, circular: what most published code does",
        1.0,
        lambda K, seed: _next_in(_BLOCK5),
    ),
    "block5-pair": ClassMap(
        100,
        "Wang et al. 2019, code",
        "two random of five consecutive fine ids, both ways",
        0.4,
        lambda K, seed: _pair_in(_BLOCK5, seed),
        random=True,
    ),
    "digits": _fixed(
        10,
        "Patrini et al. 2017",
        "handwritten 2->7, 3->8, 5<->6, 7->1",
        {2: 7, 3: 8, 5: 6, 6: 5, 7: 1},
    ),
    "fashionmnist": _fixed(
        10,
        "our reading of Zhang & Sabuncu 2018",
        "ankle boot->sneaker, sneaker->sandal, pullover->shirt, coat<->dress",
        {9: 7, 7: 5, 2: 6, 4: 3, 3: 4},
    ),
    "next": ClassMap(
        None,
        "Tan et al. 2021 (Co-learning)",
        "the next class of all, circular; any number of classes",
        1.0,
        lambda K, seed: {k: (k + 1) % K for k in range(K)},
    ),
}


def class_map(name: str, num_classes: int) -> ClassMap:
    """The named map. Raises UnknownName, or LanguageError if it is for another number of
    classes.
    """
    if name not in MAPS:
        raise UnknownName("asymmetric map", name, MAPS, "noises asymmetric")
    if num_classes < 2:
        raise LanguageError(f"labels that flip need two classes, the data have {num_classes}")
    if MAPS[name].num_classes not in (None, num_classes):
        raise LanguageError(
            f"map {name!r} is for {MAPS[name].num_classes} classes, the data have "
            f"{num_classes}: name another --map"
        )
    return MAPS[name]
