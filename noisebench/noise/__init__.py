"""Label noise: clean labels -> probabilities -> one draw. Knows no dataset."""

from . import class_conditional  # the first in every list

# isort: split
from . import given, instance_dependent
from .given import label_file_of
from .maps import MAPS, ClassMap, class_map
from .registry import (
    FILES,
    NOISES,
    ClassNoise,
    Examples,
    Labelling,
    Review,
    Teacher,
    build_noise,
    by_class,
    is_drawn,
    normal_noise,
    parse_noise,
    record,
    register_noise,
    takes,
    transition,
)
from .sampling import Rows, draw, members

__all__ = [
    "FILES",
    "MAPS",
    "NOISES",
    "ClassMap",
    "ClassNoise",
    "Examples",
    "Labelling",
    "Review",
    "Rows",
    "Teacher",
    "build_noise",
    "by_class",
    "class_conditional",
    "class_map",
    "draw",
    "given",
    "instance_dependent",
    "is_drawn",
    "label_file_of",
    "members",
    "normal_noise",
    "parse_noise",
    "record",
    "register_noise",
    "takes",
    "transition",
]
