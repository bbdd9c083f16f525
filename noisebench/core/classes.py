"""Classes by name and number, and CIFAR-100's superclasses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unicodedata import normalize

from ..errors import DataError
from .files.untrusted import free_memory

_FEW = 2048  # classes up to which a (K, K) table always fits
_COPIES = 3 * 8  # bytes per cell during computations
_SHARE = 0.45  # of the free memory
_SHOWN = 12  # classes in an error


class NoClass(ValueError):
    """A word is neither the name nor the number of a class; `place` is its index."""

    def __init__(self, word: str, place: int, classes: Sequence[str]) -> None:
        super().__init__(
            f"{word!r} is not a class: classes are {_shown(classes)}, or numbers from 0 "
            f"to {len(classes) - 1}"
        )
        self.place = place


def check_table(num_classes: int) -> None:
    """Raises DataError if tables (K, K) do not fit into the free memory."""
    if num_classes <= _FEW:
        return
    needed, free = _COPIES * num_classes**2, free_memory()
    if free is not None and needed > _SHARE * free:
        raise DataError(
            f"a table of {num_classes} x {num_classes} classes needs {needed / 1e9:.1f} GB of "
            f"memory, but {free / 1e9:.1f} GB are free"
        )


def class_numbers(
    words: Sequence[Any], classes: Sequence[str], *, names_win: bool = False
) -> list[int]:
    """The class number of each word: all are names, or all are numbers.

    Raises ValueError for a word that is neither and, without `names_win`, if both interpretations
    are possible and differ.
    """
    texts = [normalize("NFC", str(word).strip()) for word in words]
    names = [normalize("NFC", name.strip()) for name in classes]
    if len(set(names)) < len(classes):
        names = list(classes)
    number_of = {name: number for number, name in enumerate(names)}
    named = [number_of.get(text) for text in texts]
    numbered = [_whole(text, len(classes)) for text in texts]
    # names that look like numbers never mix with numbers
    if any(_whole(name, len(classes)) is not None for name in classes):
        if None not in named and None not in numbered and named != numbered and not names_win:
            raise ValueError(
                "its labels could be names or numbers, since the names of these classes are "
                "numbers: use a .npy of words or of integers"
            )
        numbers = named if named.count(None) <= numbered.count(None) else numbered
    else:
        numbers = [
            number if name is None else name for name, number in zip(named, numbered, strict=True)
        ]
    if None in numbers:
        index = numbers.index(None)
        raise NoClass(texts[index], index, classes)
    return [number for number in numbers if number is not None]


def have_names(classes: Sequence[str]) -> bool:
    """Whether classes have names other than their numbers."""
    return list(classes) != list(map(str, range(len(classes))))


def same_classes(classes: Sequence[str], others: Sequence[str]) -> list[int]:
    """Maps the classes of another data set to these: by name if both have names, else by number.

    Raises ValueError if the classes differ.
    """
    if have_names(classes) and have_names(others):
        only_here = [name for name in classes if name not in others]
        only_there = [name for name in others if name not in classes]
        if differing := [_shown(names) for names in (only_here, only_there) if names]:
            raise ValueError(f"only one of them has {'; '.join(differing)}")
        return [list(classes).index(name) for name in others]
    if len(classes) != len(others):
        raise ValueError(
            f"{len(classes)} classes ({_shown(classes)}), but {len(others)} ({_shown(others)})"
        )
    return list(range(len(classes)))


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")


def _whole(text: str, num_classes: int) -> int | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() and 0 <= number < num_classes else None


# Fine class -> superclass, in the official order. Blocks of five consecutive fine ids are not
# superclasses: the fine names are alphabetical.
SUPERCLASS = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
    6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
    16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
    12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)  # fmt: skip

SUPERCLASS_NAMES = tuple(
    """aquatic_mammals fish flowers food_containers fruit_and_vegetables
    household_electrical_devices household_furniture insects large_carnivores
    large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores
    medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1
    vehicles_2""".split()  # noqa: SIM905
)
