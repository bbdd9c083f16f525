"""Classes by name and number; and CIFAR-100's twenty superclasses, which noise and data sets both
need to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unicodedata import normalize

from ..errors import DataError
from .files.untrusted import free_memory

_FEW = 2048  # classes up to which a table always fits
_COPIES = 3 * 8  # bytes a cell while a table is worked on
_SHARE = 0.45  # of the free memory
_SHOWN = 12  # classes that an error names


class NoClass(ValueError):
    """What is neither a class's name nor its number; `place` says where among the words it
    stood.
    """

    def __init__(self, word: str, place: int, classes: Sequence[str]) -> None:
        super().__init__(
            f"{word!r} is no class: classes are {_said(classes)}, or numbers from 0 "
            f"to {len(classes) - 1}"
        )
        self.place = place


def check_table(num_classes: int) -> None:
    """Raises DataError where tables of classes by classes would not fit into what is free of the
    memory.
    """
    if num_classes <= _FEW:
        return
    needed, free = _COPIES * num_classes**2, free_memory()
    if free is not None and needed > _SHARE * free:
        raise DataError(
            f"a table of {num_classes} x {num_classes} classes takes {needed / 1e9:.1f} GB of "
            f"memory, of which {free / 1e9:.1f} GB are free"
        )


def class_numbers(
    words: Sequence[Any], classes: Sequence[str], *, names_win: bool = False
) -> list[int]:
    """The class of each word: names all, or numbers all. Raises ValueError for what is neither, or,
    unless names win, for what could be both and means two things.
    """
    texts = [normalize("NFC", str(word).strip()) for word in words]
    stripped = [normalize("NFC", name.strip()) for name in classes]
    of = {
        name: number
        for number, name in enumerate(stripped if len(set(stripped)) == len(classes) else classes)
    }
    named, numbered = (
        [of.get(text) for text in texts],
        [_whole(text, len(classes)) for text in texts],
    )
    # names that look like numbers never mix with numbers
    if any(_whole(name, len(classes)) is not None for name in classes):
        if None not in named and None not in numbered and named != numbered and not names_win:
            raise ValueError(
                "its labels could be names or numbers, since these classes' names are numbers: "
                "give a .npy of words or of integers"
            )
        found = named if named.count(None) <= numbered.count(None) else numbered
    else:
        found = [
            number if name is None else name for name, number in zip(named, numbered, strict=True)
        ]
    numbers = [number for number in found if number is not None]
    if len(numbers) < len(found):
        place = found.index(None)
        raise NoClass(texts[place], place, classes)
    return numbers


def have_names(classes: Sequence[str]) -> bool:
    """Whether classes are called something, and not just by their numbers."""
    return list(classes) != list(map(str, range(len(classes))))


def same_classes(own: Sequence[str], others: Sequence[str]) -> list[int]:
    """The own class of each of another set's: the one of the same name where both have names, else
    of the same number.

    Raises ValueError where the sets differ.
    """
    if have_names(own) and have_names(others):
        if unlike := [
            _said(names) for names in (_beyond(own, others), _beyond(others, own)) if names
        ]:
            raise ValueError(f"only one of them has {'; '.join(unlike)}")
        return [list(own).index(name) for name in others]
    if len(own) != len(others):
        raise ValueError(
            f"{len(own)} classes ({_said(own)}) are not {len(others)} ({_said(others)})"
        )
    return list(range(len(own)))


def _beyond(names: Sequence[str], others: Sequence[str]) -> list[str]:
    return [name for name in names if name not in others]


def _said(names: Sequence[str]) -> str:
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
