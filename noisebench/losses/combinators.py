"""Combinators, which turn a loss into another by a fixed change of the target, the logits or log_p,
and losses with their own link, logits -> log_p. `+` and `*` are part of the loss language.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np

from ..core.expressions import AUTO
from ..core.parameters import Interval, Matrix, TransitionText
from ..errors import LanguageError
from .registry import (
    LOSSES,
    Loss,
    Scores,
    Tensor,
    TensorMap,
    at_loss_precision,
    log_softmax,
    log_through,
    register_loss,
)

_WORST_CONDITION = 1e6  # above it, float32 has no correct digit after multiplying by the inverse


@register_loss(
    paper="Szegedy et al. 2016",
    properties=("equivariant", "nonnegative"),
    target=lambda w, alpha: (1 - alpha) * w + alpha / w.shape[-1],
)
def lsr(loss: Loss, alpha: Annotated[float, Interval("[0, 1]")] = 0.1) -> Loss:
    """Label smoothing, the loss with target (1 - alpha) one-hot + alpha / K."""

    def smoothed(scores: Scores) -> Tensor:
        cost = loss(scores)
        return (1 - alpha) * cost + alpha * cost.mean(1, keepdim=True)

    return smoothed


@register_loss(pointwise=True, paper="Patrini et al. 2017", properties=("nonnegative",))
def forward(loss: Loss, T: TransitionText = AUTO) -> Loss:
    """Forward correction, the loss of T' p: the predicted probabilities of the noisy labels, where
    p is that of the clean labels.
    """
    table = _table(T)
    if not (table.sum(0) > 0).all():
        raise LanguageError(f"forward: column {int(table.sum(0).argmin())} of T is all zero")

    on = _held("forward", table)

    def corrected(log_p: Tensor) -> Tensor:
        p = log_p.double().exp()  # down to e^-745; autocast leaves float64 unchanged
        return log_through(p, on(p)).to(log_p.dtype)

    return lambda scores: loss(scores.with_log_p(corrected))


@register_loss(paper="Patrini et al. 2017", properties=())
def backward(loss: Loss, T: TransitionText = AUTO) -> Loss:
    """Backward correction, T^-1 cost: an unbiased estimate of the clean cost, which can be negative
    and is unbounded.
    """
    table = _table(T)
    if np.linalg.cond(table) > _WORST_CONDITION:
        raise LanguageError("backward: T is not invertible (symmetric noise at (K-1)/K is not)")
    on = _held("backward", np.linalg.inv(table))

    def corrected(scores: Scores) -> Tensor:
        cost = loss(scores)
        return (cost.double() @ on(cost.double()).T).to(cost.dtype)

    return corrected


@register_loss(
    paper="Ma et al. 2020",
    properties=("falls", "equivariant", "nonnegative", "constant_sum"),
    needs="nonnegative",
)
def normalized(loss: Loss) -> Loss:
    """Normalized loss, cost_k / sum_j cost_j: sums to 1 over the classes.

    nce is short for normalized(ce), nfl for normalized(focal(gamma=0.5)). The authors' code, and
    the methods built on it, treat the factor of the focal loss as a constant: nfl(detach=True), as
    in the presets.
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
            "T: every row must be probabilities that sum to 1 (rows: true class, "
            "columns: given class)"
        )
    return table


def _held(name: str, table: np.ndarray) -> Callable[[Tensor], Tensor]:
    """Returns a function that gives the table as a float64 tensor on the device of values (N, K);
    it is copied once per device.
    """
    copies: dict[Any, Tensor] = {}

    def on(values: Tensor) -> Tensor:
        if len(table) != values.shape[1]:
            raise LanguageError(f"{name}: T has {len(table)} classes, the data {values.shape[1]}")
        if values.device not in copies:
            copies[values.device] = values.new_tensor(table)
        return copies[values.device]

    return on


_NEWTON = 30  # steps to the normaliser: from the left, where the sum is convex, without overshoot
_SOFTPLUS_IS_EXP = -40.0  # below it log softplus(z) equals z in float64


@register_loss(pointwise=True, paper="Wei et al. 2023", properties=("equivariant", "nonnegative"))
def logitclip(
    loss: Loss, tau: Annotated[float, Interval("(0, 1e6]")] = 1.0, rescale: bool = False
) -> Loss:
    """LogitClip, the loss of z min(1, tau / |z|): clips the length of the logits to tau.

    The default follows the paper. rescale=True follows the authors' code: logits longer than 1 /
    tau are set to length tau, so for tau above 1 those between 1 / tau and tau become longer. The
    two agree only at tau = 1. The published numbers come from the code, which the presets follow:
    tau is 1 / temp of its option --temp, and delta of Wang et al. 2024. Predictions are the softmax
    of the unclipped logits.
    """

    def clipped(scores: Scores) -> Tensor:
        logits = at_loss_precision(scores.logits, scores.logits)
        length = logits.norm(dim=1, keepdim=True).clamp_min(1e-12)
        if rescale:
            logits = (logits * (tau / length)).where(length > 1 / tau, logits)
        else:
            logits = logits * (tau / length).clamp_max(1)
        return loss(Scores(logits, scores.link, scores.transform, scores.classes))

    return clipped


@register_loss(
    pointwise=True, paper="Wang et al. 2024", version=2, properties=("equivariant", "nonnegative")
)
def eps_softmax(
    loss: Loss,
    m: Annotated[float, Interval("[0, 1e8]")] = 1e5,
    floor: Annotated[float, Interval("[0, 1e-3]")] = 1e-8,
) -> Loss:
    """Epsilon-softmax, the loss of probabilities with m added to the largest, divided by 1 + m.

    floor: lower bound of the resulting probabilities. The paper has none (floor=0); the default is
    that of the authors' code, which produced the published numbers. A label that is not the most
    likely class and has p < floor (1 + m), p < 0.001 by default, has no gradient. Predictions are
    the plain softmax.
    """

    def raised(log_p: Tensor) -> Tensor:
        likeliest = log_p == log_p.gather(1, log_p.argmax(1, keepdim=True))
        likeliest = likeliest & (likeliest.cumsum(1) == 1)  # the first of equal ones
        largest = log_p.where(likeliest, log_p.new_zeros(()))
        top = (largest.expm1() / (1 + m)).log1p()  # log((p + m) / (1 + m)), without cancellation
        changed = top.where(likeliest, log_p - math.log1p(m))
        return changed.clamp_min(math.log(floor)) if floor else changed

    return lambda scores: loss(scores.with_log_p(raised))


def tempered(t2: float) -> TensorMap:
    """Returns the map logits (N, K) -> log p of the tempered softmax, p = exp_t2(z - normaliser),
    which has heavier tails than softmax for t2 > 1.
    """
    if t2 == 1:
        return log_softmax
    heavy = t2 - 1

    def log_tempered(logits: Tensor) -> Tensor:
        below = logits.double() - logits.double().max(1, keepdim=True).values

        def step(normaliser: Tensor) -> Tensor:
            """One step of Newton's method towards probabilities that sum to 1."""
            log_p = -(heavy * (normaliser - below)).log1p() / heavy
            return normaliser + (log_p.exp().sum(1, keepdim=True) - 1) / (t2 * log_p).exp().sum(
                1, keepdim=True
            )

        normaliser = below.detach().new_zeros(len(below), 1)
        for _ in range(_NEWTON):
            normaliser = step(normaliser).detach()
        # at the solution two more steps change only the first and second derivatives, which they
        # make correct
        normaliser = step(step(normaliser))
        return at_loss_precision(-(heavy * (normaliser - below)).log1p() / heavy, logits)

    return log_tempered


def softplus_share(logits: Tensor) -> Tensor:
    """Returns softplus(z) (N, K) divided by its mean over the row, in float64: positive, mean 1."""
    z = logits.double()
    softplus = z.clamp_min(_SOFTPLUS_IS_EXP).logaddexp(z.new_zeros(()))
    log_softplus = softplus.log().where(z > _SOFTPLUS_IS_EXP, z)
    return log_softplus.softmax(1) * z.shape[1]


def log_softmax_of_scores(lam: float, normalize: bool = True) -> TensorMap:
    """Returns the map logits (N, K) -> log softmax(s / lam), s the logits or `softplus_share`."""

    def link(logits: Tensor) -> Tensor:
        scores = softplus_share(logits) if normalize else logits.double()
        return at_loss_precision((scores / lam).log_softmax(1), logits)

    return link


@register_loss(
    paper="Zhu et al. 2023", version=2, properties=("equivariant",), link=log_softmax_of_scores
)
def ldr_kl(
    log_p: Tensor,
    lam: Annotated[float, Interval("[0.1, 1e3]")] = 1.0,
    margin: Annotated[float, Interval("[0, 5]")] = 0.1,
    normalize: bool = True,
) -> Tensor:
    """LDR-KL, lam log mean_j exp((s_j - s_k + margin [j != k]) / lam), s = softplus(z) /
    mean(softplus(z)).

    The default scores s and margin 0.1 follow the authors' code. The paper defines the loss for any
    scores: normalize=False uses the logits, s = z. With margin 0 it is then lam times the CE of
    softmax(z / lam), less lam log K; CE - log K at lam = 1.

    Where s_k is large the loss is negative, at least -lam log K. With normalize, adding a constant
    to all logits changes the loss. Predictions are softmax(z): softplus keeps the order, so the
    predicted class is that of the scores, but p, NLL and calibration are not what this loss fits.
    """
    # With p = softmax(s / lam): lam (log(p_k + exp(margin / lam) (1 - p_k)) - log p_k - log K).
    apart = (-math.expm1(margin / lam) * log_p.expm1()).log1p()
    return lam * (apart - log_p - math.log(log_p.shape[1]))


@register_loss(paper="Amid et al. 2019", link=tempered)
def bitempered(
    log_p: Tensor,
    t1: Annotated[float, Interval("[0, 1]")] = 0.8,
    t2: Annotated[float, Interval("[1, 4]")] = 1.2,
) -> Tensor:
    """Bi-tempered logistic loss, -log_t1 p_k - (1 - sum_j p_j^(2 - t1)) / (2 - t1), p the tempered
    softmax of t2: bounded for t1 < 1, heavy-tailed for t2 > 1; CE at 1, 1.

    The authors' code stops after five steps of the normalizer's iteration; here the normalizer is
    exact, as in the paper. Predictions are softmax(z), which has the same order.
    """
    near = -log_p if t1 == 1 else -((1 - t1) * log_p).expm1() / (1 - t1)
    return near - (1 - ((2 - t1) * log_p).exp().sum(1, keepdim=True)) / (2 - t1)
