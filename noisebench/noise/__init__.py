"""Label noise: clean labels -> probabilities -> one draw. Knows no dataset."""

from . import models  # the first in every list

# isort: split
from . import instance, recorded
from .catalogue import (
    NOISES,
    ClassNoise,
    Examples,
    Labelling,
    Teacher,
    build_noise,
    by_class,
    normal_noise,
    register_noise,
    takes,
    transition,
)
from .draw import Rows, draw, members
from .maps import MAPS, ClassMap, class_map

__all__ = [
    "MAPS",
    "NOISES",
    "ClassMap",
    "ClassNoise",
    "Examples",
    "Labelling",
    "Rows",
    "Teacher",
    "build_noise",
    "by_class",
    "class_map",
    "draw",
    "instance",
    "members",
    "models",
    "normal_noise",
    "recorded",
    "register_noise",
    "takes",
    "transition",
]
