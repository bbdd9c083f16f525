"""Losses, log_p (N, K) -> cost (N, K). One function each; combinations are written as text, not as
classes.
"""

from functools import cache
from importlib import import_module
from typing import Any

from . import combinators, pointwise
from .pointwise import equal_loss_optimum
from .registry import (
    LOSSES,
    Loss,
    Penalty,
    Scores,
    build_loss,
    build_penalty,
    cost_of,
    log_softmax,
    optimum_of,
    predicted,
    register_loss,
)

__all__ = [
    "LOSSES",
    "Loss",
    "Penalty",
    "Scores",
    "build_loss",
    "build_penalty",
    "combinators",
    "cost_of",
    "equal_loss_optimum",
    "log_softmax",
    "optimum_of",
    "pointwise",
    "predicted",
    "register_loss",
]


def __dir__() -> list[str]:
    return [*__all__, *_classes()]


@cache
def __getattr__(name: str) -> Any:
    """Returns a loss's nn.Module class: `EqualLoss(eps=0.4)`, `GceLoss(q=0.5)`. Imports torch on
    first access.
    """
    if name not in (classes := _classes()):
        raise AttributeError(f"module 'noisebench.losses' has no attribute {name!r}")
    return import_module("noisebench.losses.modules").module_class(classes[name], name)


def _classes() -> dict[str, Any]:
    """Class name -> entry, for the losses that are not combinators or penalties."""
    return {
        entry.facts.get("module") or f"{entry.name.title().replace('_', '')}Loss": entry
        for entry in LOSSES
        if not any(p.is_expression for p in entry.parameters) and not entry.facts.get("penalty")
    }
