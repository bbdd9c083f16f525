"""Label noise: true labels -> probabilities -> sampled labels. Independent of the data sets."""

from importlib import import_module
from pkgutil import iter_modules

from . import class_conditional  # first, so that its noises head every list

# isort: split
from .class_conditional import MAPS, ClassMap, class_map
from .given import label_file_of
from .registry import (
    FILES,
    NOISES,
    ClassNoise,
    Examples,
    NoiseOption,
    NoisyLabels,
    Review,
    apply,
    build_noise,
    is_class_conditional,
    is_random,
    noise_of_option,
    noise_options,
    normal_noise,
    parse_noise,
    register_noise,
    takes,
    transition,
)
from .sampling import Rows, members, sample

__all__ = [
    "FILES",
    "MAPS",
    "NOISES",
    "ClassMap",
    "ClassNoise",
    "Examples",
    "NoiseOption",
    "NoisyLabels",
    "Review",
    "Rows",
    "apply",
    "build_noise",
    "class_conditional",
    "class_map",
    "is_class_conditional",
    "is_random",
    "label_file_of",
    "members",
    "noise_of_option",
    "noise_options",
    "normal_noise",
    "parse_noise",
    "register_noise",
    "sample",
    "takes",
    "transition",
]

for module in iter_modules(__path__):  # each module registers its noises
    import_module(f"{__name__}.{module.name}")
