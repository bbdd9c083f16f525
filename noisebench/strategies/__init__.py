"""Strategies, which choose targets, weights and a regularizer for each batch. Each is one class
that holds all its state; the training loop does not depend on any of them.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..core.expressions import WORDS, Call, Expression
from ..errors import LanguageError
from . import plain  # the first in every list
from .base import (
    STRATEGIES,
    Batch,
    ComputeCost,
    FullTrainingSet,
    ModelOutput,
    Networks,
    Strategy,
    Supervision,
    TrainingInfo,
    register_strategy,
)

__all__ = [
    "STRATEGIES",
    "Batch",
    "ComputeCost",
    "FullTrainingSet",
    "ModelOutput",
    "Networks",
    "Strategy",
    "Supervision",
    "TrainingInfo",
    "build_strategy",
    "normal_strategy",
    "plain",
    "register_strategy",
]

for module in iter_modules(__path__):  # each registers its strategies
    import_module(f"{__name__}.{module.name}")


def normal_strategy(text: str | Expression) -> Call:
    """Returns the canonical form of a strategy text. Raises LanguageError for a sum."""
    call = STRATEGIES.normal(text)
    if not isinstance(call, Call):
        raise LanguageError(f"a run has one strategy, not a sum: {call}")
    return call


def build_strategy(text: str | Expression) -> Strategy:
    """Returns a new strategy from a text, without state. Raises LanguageError for an `auto` that is
    not resolved.
    """
    call = normal_strategy(text)
    for key, value in call.kwargs:
        if value in WORDS:
            raise LanguageError(
                f"{call.name}: {key}={value} is known only with a manifest; give a value"
            )
    strategy: Strategy = STRATEGIES[call.name].build(**dict(call.kwargs))
    return strategy
