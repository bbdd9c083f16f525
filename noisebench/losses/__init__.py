"""Losses: log_p (N, K) -> cost (N, K). One function each; a combination is a text, never a class."""

from . import combinators, links, pointwise
from .catalogue import LOSSES, build_loss, cost_of, register_loss
from .scores import Loss, Scores, log_softmax

__all__ = [
    "LOSSES",
    "Loss",
    "Scores",
    "build_loss",
    "combinators",
    "cost_of",
    "links",
    "log_softmax",
    "pointwise",
    "register_loss",
]
