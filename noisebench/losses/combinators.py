"""Losses made from a loss: a fixed linear change of the target or of log_p. `+` and `*` are in the
language itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np

from ..core.expressions import AUTO
from ..core.parameters import Interval, Matrix, TransitionText
from ..errors import LanguageError
from .registry import LOSSES, register_loss
from .scores import Loss, Scores, Tensor, log_through

_WORST_CONDITION = 1e6  # beyond this, float32 has no digit left after multiplying with the inverse


@register_loss(
    paper="Szegedy et al. 2016",
    properties=("equivariant", "nonnegative"),
    target=lambda w, alpha: (1 - alpha) * w + alpha / w.shape[-1],
)
def lsr(loss: Loss, alpha: Annotated[float, Interval("[0, 1]")] = 0.1) -> Loss:
    """Label smoothing, the target (1 - alpha) one-hot + alpha / K."""

    def smoothed(scores: Scores) -> Tensor:
        cost = loss(scores)
        return (1 - alpha) * cost + alpha * cost.mean(1, keepdim=True)

    return smoothed


@register_loss(pointwise=True, paper="Patrini et al. 2017", properties=("nonnegative",))
def forward(loss: Loss, T: TransitionText = AUTO) -> Loss:
    """Forward correction, the loss of T' p: the prediction of the clean label, passed through the
    noise.
    """
    table = _table(T)
    if not (table.sum(0) > 0).all():
        raise LanguageError(f"forward: under T no label is ever class {int(table.sum(0).argmin())}")

    on = _held(table)

    def corrected(log_p: Tensor) -> Tensor:
        _same_classes("forward", table, log_p)
        p = log_p.double().exp()  # down to e^-745, and no autocast touches float64
        return log_through(p, on(p)).to(log_p.dtype)

    return lambda scores: loss(scores.with_log_p(corrected))


@register_loss(paper="Patrini et al. 2017", properties=())
def backward(loss: Loss, T: TransitionText = AUTO) -> Loss:
    """Backward correction, T^-1 cost: unbiased for the clean cost, but signed and unbounded."""
    inverse = _inverse(_table(T))
    on = _held(inverse)

    def corrected(scores: Scores) -> Tensor:
        cost = loss(scores)
        _same_classes("backward", inverse, cost)
        return (cost.double() @ on(cost.double()).T).to(cost.dtype)

    return corrected


@register_loss(
    paper="Ma et al. 2020",
    properties=("falls", "equivariant", "nonnegative", "constant_sum"),
    needs="nonnegative",
)
def normalized(loss: Loss) -> Loss:
    """Normalised loss, cost_k / sum_j cost_j: its rows sum to 1.

    nce is short for normalized(ce), nfl for normalized(focal(gamma=0.5)). In the authors' code and
    in all that follow it the factor of the focal loss is a constant, nfl(detach=True), as in the
    presets.
    """

    def rows_to_one(scores: Scores) -> Tensor:
        cost = loss(scores)
        return cost / cost.sum(1, keepdim=True)

    return rows_to_one


LOSSES.abbreviate("nce", "normalized(ce)")
LOSSES.abbreviate("nfl", "normalized(focal(gamma=0.5))")


def _table(T: Matrix | str) -> np.ndarray:
    table = np.asarray(T, np.float64)
    square = table.ndim == 2 and 0 < table.shape[0] == table.shape[1]
    if not square or not (table >= 0).all() or not np.allclose(table.sum(1), 1, atol=1e-6):
        raise LanguageError(
            "T: every row must be probabilities that sum to 1 (rows: clean class, "
            "columns: recorded)"
        )
    return table


def _held(table: np.ndarray) -> Callable[[Tensor], Tensor]:
    """The table as a float64 tensor on the device of another one, carried there once."""
    copies: dict[Any, Tensor] = {}

    def on(values: Tensor) -> Tensor:
        if values.device not in copies:
            copies[values.device] = values.new_tensor(table)
        return copies[values.device]

    return on


def _same_classes(name: str, table: np.ndarray, values: Tensor) -> None:
    if len(table) != values.shape[1]:
        raise LanguageError(f"{name}: T has {len(table)} classes, the data {values.shape[1]}")


def _inverse(table: np.ndarray) -> np.ndarray:
    if np.linalg.cond(table) > _WORST_CONDITION:
        raise LanguageError(
            "backward: T has no usable inverse (symmetric noise at (K-1)/K has none)"
        )
    return np.linalg.inv(table)
