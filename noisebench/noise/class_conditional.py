"""Class-conditional noise: (K, parameters) -> T (K, K), T[i, j] = P(noisy label j | true label i).

Also the named maps of asymmetric noise, `{true: noisy}` by class number, and matrices from files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np

from ..core.classes import SUPERCLASS, check_table, class_numbers
from ..core.expressions import Value
from ..core.files.arrays import read_npy
from ..core.files.atomic import read_checked
from ..core.files.untrusted import check_nesting, yaml_loader
from ..core.parameters import Interval, OneOf, Rate
from ..errors import DataError, LanguageError, UnknownName
from .registry import NoiseOption, register_noise
from .sampling import EQUAL, OVER, complete_counts

_SEED = Interval("[0, inf)")
_Over: TypeAlias = Annotated[str | None, OneOf(OVER)]
_OverOrEqual: TypeAlias = Annotated[str | None, OneOf((*OVER, EQUAL))]
_OverPair: TypeAlias = Annotated[str | None, OneOf((OVER[0], OVER[2]))]


@register_noise(
    short="sym",
    option=NoiseOption("--sym", "RATE", "Symmetric noise: each other class is equally likely."),
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
    """Each label is incorrect with probability rate, uniformly over the other classes.

    - rate: noise rate.
    - inclusive: sample from all classes including the true one, so that only rate (K - 1) / K of
      the labels are incorrect (DivideMix, ELR, SOP, GJS).
    - exact: if true, the number of incorrect labels per class equals the expected number, rounded;
      otherwise each label flips independently.
    - exact_over: groups in which the number is exact. class (default); set: exactly rate of all
      examples are resampled, the number per class is random (DivideMix, ELR, GJS, D2L,
      LNL-toolbox's "global"); pair: each pair of true and noisy class, rounded down (ANL, JAL,
      cleanlab); equal: the same number in each class regardless of its size, rounded down (SL and
      APL on MNIST).
    """
    if num_classes < 2:
        raise LanguageError(f"symmetric noise needs two or more classes, got {num_classes}")
    check_table(num_classes)
    wrong = rate / num_classes if inclusive else rate / (num_classes - 1)
    table = np.full((num_classes, num_classes), wrong)
    np.fill_diagonal(table, 1 - wrong * (num_classes - 1))
    return table


def _complete_asymmetric(values: dict[str, Value]) -> dict[str, Value]:
    """Fills in the seed of a random map. Raises LanguageError for a seed without effect."""
    values = complete_counts(values)
    name, seed = values["map"], values["pairs_seed"]
    if name in MAPS and MAPS[str(name)].random:
        return {**values, "pairs_seed": 0 if seed is None else seed}
    if seed is not None and name in MAPS:
        raise LanguageError(f"pairs_seed has no effect: the map {name!r} is not random")
    return values


@register_noise(
    short="asym",
    option=NoiseOption("--asym", "RATE", "Asymmetric noise: classes flip by the named --map."),
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
    """Some classes become a similar class with probability rate, by a named map.

    Classes that are not in the map keep correct labels, so that the overall rate is smaller than
    rate.

    - rate: noise rate of the classes in the map.
    - map: name of the map; default: the data set's.
    - pairs_seed: seed of a random map.
    - flip_back: if two classes exchange labels, the lower one flips first, and its incorrect labels
      flip back with probability rate, as in code that selects from labels that it has already
      changed (APL, ALFs, ELR, GJS): at 0.4, 24 % of the cats become dogs.
    - exact, exact_over (class, set, pair): as for symmetric.
    """
    if map is None:
        raise LanguageError(
            "asymmetric noise on this data set needs a map: name one with --map "
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
    option=NoiseOption("--pair", "RATE", "Pair flip: class i becomes i + 1."),
    overall="rate",
    paper="Han et al. 2018",
    fill_defaults=complete_counts,
)
def pairflip(
    num_classes: int, rate: Rate, exact: bool = True, exact_over: _Over = None
) -> np.ndarray:
    """Pair flip: class i becomes i + 1 (mod K) with probability rate.

    - rate: noise rate.
    - exact, exact_over (class, set, pair): as for symmetric.
    """
    return _flip(num_classes, class_map("next", num_classes).flips(num_classes, 0), rate)


@register_noise(
    option=NoiseOption(
        "--matrix", "FILE", "Transition matrix from a .csv, .npy or .yaml file.", parameter="file"
    ),
    overall="as given",
    paper="your own T",
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
    """Labels flip by a transition matrix from a file.

    - file: a .csv, .npy or .yaml with T (K, K), rows = true class, by class names or numbers; rows
      must sum to 1.
    - sha256: prefix of the file's checksum, which is verified; manifests contain it.
    - exact: if true, the number of incorrect labels per class equals the expected number, rounded;
      otherwise each label flips independently.
    - exact_over: class (default), or pair: each pair of true and noisy class, rounded down, as in
      cleanlab's generate_noisy_labels (whose matrix is the transpose of this one).
    """
    return read_matrix(file, classes, sha256)


def _flip(num_classes: int, flips: dict[int, int], rate: float) -> np.ndarray:
    check_table(num_classes)
    table = np.eye(num_classes)
    for clean, recorded in flips.items():
        table[clean, clean] -= rate
        table[clean, recorded] += rate
    return table


_BLOCK5 = tuple(k // 5 for k in range(100))


@dataclass(frozen=True)
class ClassMap:
    """A map of asymmetric noise. num_classes: None for any number. flips: `(K, seed) -> {true:
    noisy}`. share: the overall rate of incorrect labels divided by the rate, for classes of equal
    size.
    """

    num_classes: int | None
    paper: str
    summary: str
    share: float
    flips: Callable[[int, int], dict[int, int]]
    random: bool = False


def _next_in(groups: tuple[int, ...]) -> dict[int, int]:
    """Each class -> the next class of its group, the last -> the first."""
    flips: dict[int, int] = {}
    for group in set(groups):
        members = [k for k, g in enumerate(groups) if g == group]
        flips.update(zip(members, members[1:] + members[:1], strict=True))
    return flips


def _pair_in(groups: tuple[int, ...], seed: int) -> dict[int, int]:
    """Two random classes of each group exchange labels."""
    keys = np.random.PCG64(seed).random_raw(len(groups))  # raw bits: the same on every numpy
    flips: dict[int, int] = {}
    for group in sorted(set(groups)):
        members = [k for k, g in enumerate(groups) if g == group]
        a, b = sorted(members, key=lambda k: keys[k])[:2]
        flips.update({a: b, b: a})
    return flips


MAPS: dict[str, ClassMap] = {
    "cifar10": ClassMap(
        10,
        "Patrini et al. 2017",
        "truck->automobile, bird->airplane, deer->horse, cat<->dog: the usual map, mostly one-way",
        0.5,
        lambda K, seed: {9: 1, 2: 0, 4: 7, 3: 5, 5: 3},
    ),
    "cifar10-two-way": ClassMap(
        10,
        "Equal Loss (Cui et al.)",
        "truck<->automobile, bird<->airplane, deer<->horse, cat<->dog",
        0.8,
        lambda K, seed: {9: 1, 1: 9, 2: 0, 0: 2, 4: 7, 7: 4, 3: 5, 5: 3},
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
        "the next of five consecutive fine ids, circular: as in most published code",
        1.0,
        lambda K, seed: _next_in(_BLOCK5),
    ),
    "block5-pair": ClassMap(
        100,
        "Wang et al. 2019, code",
        "two random classes of five consecutive fine ids, both ways",
        0.4,
        lambda K, seed: _pair_in(_BLOCK5, seed),
        random=True,
    ),
    "digits": ClassMap(
        10,
        "Patrini et al. 2017",
        "handwritten 2->7, 3->8, 5<->6, 7->1",
        0.5,
        lambda K, seed: {2: 7, 3: 8, 5: 6, 6: 5, 7: 1},
    ),
    "fashionmnist": ClassMap(
        10,
        "our interpretation of Zhang & Sabuncu 2018",
        "ankle boot->sneaker, sneaker->sandal, pullover->shirt, coat<->dress",
        0.5,
        lambda K, seed: {9: 7, 7: 5, 2: 6, 4: 3, 3: 4},
    ),
    "next": ClassMap(
        None,
        "Tan et al. 2021 (Co-learning)",
        "the next class, circular; any number of classes",
        1.0,
        lambda K, seed: {k: (k + 1) % K for k in range(K)},
    ),
}


def class_map(name: str, num_classes: int) -> ClassMap:
    """Returns the named map. Raises UnknownName, or LanguageError if it is for another number of
    classes.
    """
    if name not in MAPS:
        raise UnknownName("asymmetric map", name, MAPS, "noises asymmetric")
    if num_classes < 2:
        raise LanguageError(f"flipping labels needs two or more classes, got {num_classes}")
    if MAPS[name].num_classes not in (None, num_classes):
        raise LanguageError(
            f"map {name!r} is for {MAPS[name].num_classes} classes, the data have "
            f"{num_classes}: choose another --map"
        )
    return MAPS[name]


_SHOWN = 12  # names in an error
_ROOM, _WIDEST = 1 << 20, 64  # bytes: of any matrix, and of each number and name
_DEPTH = 2  # a list of lists, a mapping of mappings
_TOLERANCE = 1e-6  # of a row's sum


def read_matrix(file: str, classes: Sequence[str], sha256: str | None = None) -> np.ndarray:
    """Reads T (K, K), rows = true class, in the order of `classes`.

    .npy: an array. .csv: a table, optionally with class names or numbers in the first line and the
    first column. .yaml: a list of rows, or `true: {noisy: share}`, where a class without a row does
    not flip. Raises DataError, naming the row.
    """
    path = Path(file)
    check_table(len(classes))
    raw = read_checked(path, sha256, _ROOM + _WIDEST * len(classes) * (len(classes) + 1))
    if path.suffix not in (".csv", ".npy", ".yaml", ".yml"):
        raise DataError(f"{path}: a matrix must be a .csv, .npy or .yaml file")
    try:
        if path.suffix == ".npy":
            table = read_npy(io.BytesIO(raw), len(raw))
        elif path.suffix == ".csv":
            table = np.asarray(_from_csv(raw, list(classes)))
        else:
            table = np.asarray(_from_yaml(raw, list(classes)))
        if table.dtype.kind not in "iuf":
            raise ValueError(f"it contains {table.dtype}")
        table = table.astype(np.float64)
    except (ValueError, TypeError, OverflowError, csv.Error) as error:
        raise DataError(
            f"{path} is not a matrix of numbers ({' '.join(str(error).split())})"
        ) from None
    K = len(classes)
    if table.shape != (K, K):
        raise DataError(
            f"{path} has shape {table.shape}; the data have {K} classes, so T must be ({K}, {K})"
        )
    for name, row in zip(classes, table, strict=True):
        if not np.isfinite(row).all():
            raise DataError(f"{path}: row {name!r} has a value that is not finite")
        if (row < 0).any():
            raise DataError(f"{path}: row {name!r} has a negative probability, {row.min():g}")
        if abs(row.sum() - 1) > _TOLERANCE:
            hint = "divide each row by its sum"
            if not row.any():
                hint = "a class that never flips has 1 on the diagonal"
            raise DataError(f"{path}: row {name!r} sums to {row.sum():.8g}, not to 1: {hint}")
    return table


def _from_csv(raw: bytes, classes: list[str]) -> Any:
    rows = [
        [cell.strip() for cell in row]
        for row in csv.reader(io.StringIO(raw.decode("utf-8-sig")))
        if any(map(str.strip, row))
    ]
    K = len(classes)
    if not rows:
        raise ValueError("it is empty")
    if len(rows) != K + 1:
        return [[float(cell) for cell in row] for row in rows]
    head, *rows = rows
    columns = numbers = _distinct_numbers(head[-K:], classes)
    if len(rows[0]) == K + 1:  # names in the first column too
        numbers = _distinct_numbers([row[0] for row in rows], classes)
        rows = [row[1:] for row in rows]
    table = np.zeros((K, K))
    for number, row in zip(numbers, rows, strict=True):
        if len(row) != K or len(columns) != K:
            raise ValueError(f"row {classes[number]!r} has {len(row)} numbers for {K} classes")
        table[number, columns] = [float(cell) for cell in row]
    return table


def _distinct_numbers(names: list[str], classes: list[str]) -> list[int]:
    """The class number of each name. Raises ValueError for a class that occurs twice."""
    numbers = class_numbers(names, classes, names_win=True)
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"a class occurs twice in {', '.join(names[:_SHOWN])}")
    return numbers


def _from_yaml(raw: bytes, classes: list[str]) -> Any:
    import yaml

    try:
        text = raw.decode("utf-8-sig")
        check_nesting(text, _DEPTH)
        root = yaml.compose(text, yaml_loader())
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(root, yaml.CollectionNode):
        raise ValueError("it must be a list of rows or a mapping of mappings")
    if isinstance(root, yaml.SequenceNode):
        return [
            [_share(share) for share in row.value]
            if isinstance(row, yaml.SequenceNode)
            else _share(row)
            for row in root.value
        ]
    table = np.eye(len(classes))
    numbers = _distinct_numbers([name.value for name, _ in root.value], classes)
    for number, (name, row) in zip(numbers, root.value, strict=True):
        if not isinstance(row, yaml.MappingNode):
            raise ValueError(f"row {name.value!r} must map noisy classes to shares")
        columns = _distinct_numbers([noisy.value for noisy, _ in row.value], classes)
        table[number] = 0
        table[number, columns] = [_share(share) for _, share in row.value]
    return table


def _share(node: Any) -> float:
    if isinstance(node.value, list):
        raise ValueError("expected a number, got a mapping or list")
    return float(node.value)
