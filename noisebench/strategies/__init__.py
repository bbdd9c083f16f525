"""Strategies: history -> belief. One class each; it owns all state, the loop owns none of its
names.
"""

from __future__ import annotations

from ..core.expressions import WORDS, Call, Expression
from ..errors import LanguageError
from . import (
    correction,
    curriculum,
    dividemix,
    learned,
    mentornet,
    plain,
    sieve,
    transition,
    verified,
)
from . import coteaching as peers
from . import dmi as information
from . import elr as early
from . import elr_plus as early_plus
from . import gjs as jensen_shannon
from . import gmm_split as division
from . import mixup as mixing
from . import nlnl as complementary
from . import sop as overparameterised
from .base import (
    STRATEGIES,
    Batch,
    Belief,
    Facts,
    Networks,
    Output,
    Passes,
    Strategy,
    WholeSet,
    register_strategy,
)


def normal_strategy(text: str | Expression) -> Call:
    """The one form of a strategy text; raises LanguageError for a sum."""
    call = STRATEGIES.normal(text)
    if not isinstance(call, Call):
        raise LanguageError(f"a run has one strategy, not a sum: {call}")
    return call


def build_strategy(text: str | Expression) -> Strategy:
    """A new strategy of a text, without state yet. Raises LanguageError for an `auto` that nobody
    resolved.
    """
    call = normal_strategy(text)
    for key, value in call.kwargs:
        if value in WORDS:
            raise LanguageError(
                f"{call.name}: {key}={value} is known only with a manifest; give a value"
            )
    strategy: Strategy = STRATEGIES[call.name].build(**dict(call.kwargs))
    return strategy


__all__ = [
    "STRATEGIES",
    "Batch",
    "Belief",
    "Facts",
    "Networks",
    "Output",
    "Passes",
    "Strategy",
    "WholeSet",
    "build_strategy",
    "complementary",
    "correction",
    "curriculum",
    "dividemix",
    "division",
    "early",
    "early_plus",
    "information",
    "jensen_shannon",
    "learned",
    "mentornet",
    "mixing",
    "normal_strategy",
    "overparameterised",
    "peers",
    "plain",
    "register_strategy",
    "sieve",
    "transition",
    "verified",
]
