"""Classes by name and number; and CIFAR-100's twenty superclasses, which noise and data sets both need to know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SHOWN = 12  # classes that an error names


def class_number(name: Any, classes: Sequence[str]) -> int:
    """The class of a name, or of a number as text; names win. Raises ValueError."""
    text = str(name).strip()
    if text in classes:
        return list(classes).index(text)
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if number.is_integer() and 0 <= number < len(classes):
        return int(number)
    known = ", ".join(classes[:_SHOWN]) + (" ..." if len(classes) > _SHOWN else "")
    raise ValueError(f"{text!r} is no class: classes are {known}, or numbers from 0 to {len(classes) - 1}")


# Fine class -> superclass, in the official order. Blocks of five consecutive fine ids are not superclasses: the fine names
# are alphabetical.
SUPERCLASS = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
    6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
    16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
    12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)  # fmt: skip

SUPERCLASS_NAMES = tuple(
    """aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices household_furniture insects
    large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores medium_mammals
    non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2""".split()  # noqa: SIM905
)
