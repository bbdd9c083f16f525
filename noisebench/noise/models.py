"""Class-conditional noise: (K, parameters) -> T (K, K), T[i, j] = P(recorded j | clean i). `exact` speaks to the draw."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from ..errors import LanguageError
from ..parameters import Interval, Rate
from ..spec import Value
from .catalogue import register_noise
from .maps import MAPS, class_map

_SEED = Interval("[0, inf)")


@register_noise(short="sym", paper="Angluin & Laird 1988; van Rooyen et al. 2015")
def symmetric(num_classes: int, rate: Rate, inclusive: bool = False, exact: bool = True) -> np.ndarray:
    """Every label is wrong with probability rate, uniformly among the other classes.

    inclusive: among all classes, the true one too, so only rate (K - 1) / K are wrong (DivideMix, ELR, SOP).
    exact: the number of wrong labels per class is the expected one, rounded; else each label flips by itself.
    """
    if num_classes < 2:
        raise LanguageError(f"symmetric noise needs two classes, the data have {num_classes}")
    wrong = rate / num_classes if inclusive else rate / (num_classes - 1)
    table = np.full((num_classes, num_classes), wrong)
    np.fill_diagonal(table, 1 - wrong * (num_classes - 1))
    return table


def _complete_asymmetric(values: dict[str, Value]) -> dict[str, Value]:
    """Write the seed of a random map out; refuse one that has no effect."""
    name, seed = values["map"], values["pairs_seed"]
    if name in MAPS and MAPS[str(name)].random:
        return {**values, "pairs_seed": 0 if seed is None else seed}
    if seed is not None and name in MAPS:
        raise LanguageError(f"pairs_seed has no effect: the map {name!r} is not random")
    return values


@register_noise(short="asym", paper="Patrini et al. 2017", complete=_complete_asymmetric)
def asymmetric(
    num_classes: int, rate: Rate, map: str | None = None, pairs_seed: Annotated[int | None, _SEED] = None, exact: bool = True
) -> np.ndarray:
    """Some classes are recorded as a similar one with probability rate, by a named map; the others stay clean.

    The overall rate is smaller than `rate` wherever the map leaves classes alone. pairs_seed: of a random map.
    exact: the number of wrong labels per class is the expected one, rounded; else each label flips by itself.
    """
    if map is None:
        raise LanguageError("asymmetric noise on these data needs a map: name one with --map (noisebench list noises asymmetric)")
    return _flip(num_classes, class_map(map, num_classes).flips(pairs_seed or 0), rate)


@register_noise(short="pair", paper="Han et al. 2018")
def pairflip(num_classes: int, rate: Rate, exact: bool = True) -> np.ndarray:
    """Class i is recorded as i + 1 (mod K) with probability rate.

    exact: the number of wrong labels per class is the expected one, rounded; else each label flips by itself.
    """
    if num_classes < 2:
        raise LanguageError(f"pair-flip needs two classes, the data have {num_classes}")
    return _flip(num_classes, {k: (k + 1) % num_classes for k in range(num_classes)}, rate)


def _flip(num_classes: int, flips: dict[int, int], rate: float) -> np.ndarray:
    table = np.eye(num_classes)
    for clean, recorded in flips.items():
        table[clean, clean] -= rate
        table[clean, recorded] += rate
    return table
