"""Label noise: clean labels -> probabilities -> one draw. Knows no dataset."""

from . import models
from .catalogue import NOISES, ClassNoise, build_noise, normal_noise, register_noise, transition
from .draw import Rows, draw
from .maps import MAPS, ClassMap, class_map

__all__ = [
    "MAPS",
    "NOISES",
    "ClassMap",
    "ClassNoise",
    "Rows",
    "build_noise",
    "class_map",
    "draw",
    "models",
    "normal_noise",
    "register_noise",
    "transition",
]
