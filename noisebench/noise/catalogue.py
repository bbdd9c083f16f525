"""The registry of noise models, and from a text to a transition matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import LanguageError
from ..registry import Registry
from ..spec import Call, Expression

NOISES = Registry("noise", "noises", given=("num_classes",))
register_noise = NOISES.register


@dataclass(frozen=True)
class ClassNoise:
    """Noise that knows the clean class alone: the transition T (K, K), rows = clean class, and how counts are drawn."""

    text: str
    transition: np.ndarray
    rate: float  # as its author writes it; the overall share of wrong labels is another number
    exact: bool
    version: str


def normal_noise(text: str | Expression) -> Call:
    """The one form of a noise text; raises LanguageError for a sum."""
    call = NOISES.normal(text)
    if not isinstance(call, Call):
        raise LanguageError(f"noise is one model, not a sum: {call}")
    return call


def build_noise(text: str | Expression, num_classes: int) -> ClassNoise:
    """The noise of a text for K classes. Raises LanguageError where it does not fit K."""
    call = normal_noise(text)
    entry, values = NOISES[call.name], dict[str, Any](call.kwargs)
    exact = bool(values.pop("exact", True))
    transition = entry.build(num_classes, **values)
    return ClassNoise(str(call), transition, float(values["rate"]), exact, entry.fingerprint)


def transition(text: str | Expression, num_classes: int) -> np.ndarray:
    """T (K, K) of a noise text, rows = clean class."""
    return build_noise(text, num_classes).transition
