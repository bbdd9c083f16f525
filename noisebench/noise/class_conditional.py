"""Class-conditional noise: (K, parameters) -> T (K, K), T[i, j] = P(recorded j | clean i). `exact`
speaks to the draw.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import numpy as np

from ..core.classes import check_table
from ..core.expressions import Value
from ..core.parameters import Interval, OneOf, Rate
from ..errors import LanguageError
from .maps import MAPS, class_map
from .matrices import read_matrix
from .registry import NoiseOption, register_noise
from .sampling import EQUAL, OVER, complete_counts

_SEED = Interval("[0, inf)")
_Over: TypeAlias = Annotated[str | None, OneOf(OVER)]
_OverOrEqual: TypeAlias = Annotated[str | None, OneOf((*OVER, EQUAL))]
_OverPair: TypeAlias = Annotated[str | None, OneOf((OVER[0], OVER[2]))]


@register_noise(
    short="sym",
    option=NoiseOption("--sym", "RATE", "Symmetric noise, exclusive of the true class."),
    overall="rate; inclusive: rate x (K - 1) / K",
    paper="Angluin & Laird 1988; van Rooyen et al. 2015",
    fill_defaults=complete_counts,
)
def symmetric(
    num_classes: int,
    rate: Rate,
    inclusive: bool = False,
    exact: bool = True,
    exact_over: _OverOrEqual = None,
) -> np.ndarray:
    """Every label is wrong with probability rate, uniformly among the other classes.

    inclusive: among all classes, the true one too, so only rate (K - 1) / K are wrong (DivideMix,
    ELR, SOP, GJS). exact: the number of wrong labels per class is the expected one, rounded; else
    each label flips by itself. exact_over: class (the default); set: exactly rate of all examples
    are drawn anew, what falls on each class is chance (DivideMix, ELR, GJS, D2L, LNL-toolbox's
    "global"); pair: for each clean and recorded class, rounded down (ANL, JAL, cleanlab); equal:
    the same count in every class whatever its size, rounded down (SL and APL on MNIST).
    """
    if num_classes < 2:
        raise LanguageError(f"symmetric noise needs two classes, the data have {num_classes}")
    check_table(num_classes)
    wrong = rate / num_classes if inclusive else rate / (num_classes - 1)
    table = np.full((num_classes, num_classes), wrong)
    np.fill_diagonal(table, 1 - wrong * (num_classes - 1))
    return table


def _complete_asymmetric(values: dict[str, Value]) -> dict[str, Value]:
    """Write the seed of a random map out; refuse one that has no effect."""
    values = complete_counts(values)
    name, seed = values["map"], values["pairs_seed"]
    if name in MAPS and MAPS[str(name)].random:
        return {**values, "pairs_seed": 0 if seed is None else seed}
    if seed is not None and name in MAPS:
        raise LanguageError(f"pairs_seed has no effect: the map {name!r} is not random")
    return values


@register_noise(
    short="asym",
    option=NoiseOption("--asym", "RATE", "Asymmetric noise by a named --map."),
    overall="by map",
    paper="Patrini et al. 2017",
    fill_defaults=_complete_asymmetric,
)
def asymmetric(
    num_classes: int,
    rate: Rate,
    map: str | None = None,
    *,
    pairs_seed: Annotated[int | None, _SEED] = None,
    flip_back: bool = False,
    exact: bool = True,
    exact_over: _Over = None,
) -> np.ndarray:
    """Some classes are recorded as a similar one with probability rate, by a named map; the others
    stay clean.

    The overall rate is smaller than `rate` wherever the map leaves classes alone. pairs_seed: of a
    random map. flip_back: of two classes that exchange labels the lower goes first, and its wrong
    labels flip back with probability rate, as in code that picks from labels it has already changed
    (APL, ALFs, ELR, GJS): 0.4 makes 24 % of the cats dogs. exact, exact_over (class, set, pair): as
    for symmetric.
    """
    if map is None:
        raise LanguageError(
            "asymmetric noise on these data needs a map: name one with --map "
            "(noisebench list noises asymmetric)"
        )
    flips = class_map(map, num_classes).flips(num_classes, pairs_seed or 0)
    table = _flip(num_classes, flips, rate)
    if flip_back and not any(flips.get(high) == low for low, high in flips.items()):
        raise LanguageError(
            f"flip_back has no effect: under the map {map!r} no two classes exchange labels"
        )
    for low, high in flips.items():
        if flip_back and low < high and flips.get(high) == low:
            table[low, low], table[low, high] = 1 - rate + rate * rate, rate * (1 - rate)
    return table


@register_noise(
    short="pair",
    option=NoiseOption("--pair", "RATE", "Pair-flip, class i to i + 1."),
    overall="rate",
    paper="Han et al. 2018",
    fill_defaults=complete_counts,
)
def pairflip(
    num_classes: int, rate: Rate, exact: bool = True, exact_over: _Over = None
) -> np.ndarray:
    """Class i is recorded as i + 1 (mod K) with probability rate.

    exact, exact_over (class, set, pair): as for symmetric.
    """
    return _flip(num_classes, class_map("next", num_classes).flips(num_classes, 0), rate)


@register_noise(
    option=NoiseOption(
        "--matrix", "FILE", "Any transition matrix: .csv, .npy or .yaml.", parameter="file"
    ),
    overall="as given",
    paper="anyone's own T",
    fill_defaults=complete_counts,
)
def matrix(
    num_classes: int,
    classes: tuple[str, ...],
    file: str,
    sha256: str | None = None,
    exact: bool = True,
    *,
    exact_over: _OverPair = None,
) -> np.ndarray:
    """Any transition matrix, rows = clean class, from a .csv, .npy or .yaml, by class names or
    numbers.

    Each row must be a distribution. sha256: how the file's checksum must begin; a manifest says it.
    exact: the number of wrong labels per class is the expected one, rounded; else each label is
    drawn by itself. exact_over: class (the default); pair: for each clean and recorded class,
    rounded down, as in cleanlab's generate_noisy_labels (whose matrix is the transpose of this
    one).
    """
    return read_matrix(file, classes, sha256)


def _flip(num_classes: int, flips: dict[int, int], rate: float) -> np.ndarray:
    check_table(num_classes)
    table = np.eye(num_classes)
    for clean, recorded in flips.items():
        table[clean, clean] -= rate
        table[clean, recorded] += rate
    return table
