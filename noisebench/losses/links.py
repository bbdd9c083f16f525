"""Losses with a way of their own from logits to log_p."""

from __future__ import annotations

import math
from typing import Annotated

from ..parameters import Interval
from .catalogue import register_loss
from .scores import Loss, Tensor, TensorMap, log_softmax

_NEWTON = 30  # steps to the normaliser: from the left, where the sum is convex, it only approaches


@register_loss(pointwise=True, paper="Wei et al. 2023", laws=("equivariant", "nonnegative"))
def logitclip(loss: Loss, tau: Annotated[float, Interval("(0, 1e6]")] = 1.0) -> Loss:
    """LogitClip, the loss of z min(1, tau / |z|): logits no longer than tau."""
    # The paper clips at tau; the authors' code rescales longer logits to 1/tau, which is equal only at tau = 1.

    def clip(logits: Tensor) -> Tensor:
        length = logits.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return logits * (tau / length).clamp_max(1)

    return lambda scores: loss(scores.with_logits(clip))


@register_loss(pointwise=True, paper="Wang et al. 2024", laws=("equivariant", "nonnegative"))
def eps_softmax(loss: Loss, m: Annotated[float, Interval("[0, 1e8]")] = 1e5) -> Loss:
    """Epsilon-softmax, the loss of probabilities with m added to the largest and divided by 1 + m: nearly one-hot for a large m."""

    def raised(log_p: Tensor) -> Tensor:
        likeliest = log_p == log_p.gather(1, log_p.argmax(1, keepdim=True))
        likeliest = likeliest & (likeliest.cumsum(1) == 1)  # of equal ones the first
        largest = log_p.where(likeliest, log_p.new_zeros(()))
        top = (largest.expm1() / (1 + m)).log1p()  # log((p + m) / (1 + m)), without cancellation
        return top.where(likeliest, log_p - math.log1p(m))

    return lambda scores: loss(scores.with_log_p(raised))


def tempered(t2: float) -> TensorMap:
    """logits (N, K) -> log p of the tempered softmax, p = exp_t2(z - normaliser): heavier tails than softmax for t2 > 1."""
    if t2 == 1:
        return log_softmax
    heavy = t2 - 1

    def log_tempered(logits: Tensor) -> Tensor:
        below = logits.double() - logits.double().max(1, keepdim=True).values

        def step(normaliser: Tensor) -> Tensor:
            """Newton's, towards probabilities that sum to 1."""
            log_p = -(heavy * (normaliser - below)).log1p() / heavy
            return normaliser + (log_p.exp().sum(1, keepdim=True) - 1) / (t2 * log_p).exp().sum(1, keepdim=True)

        normaliser = below.detach().new_zeros(len(below), 1)
        for _ in range(_NEWTON):
            normaliser = step(normaliser).detach()
        normaliser = step(step(normaliser))  # at the solution these change nothing but the gradient and its gradient, to the right ones
        return (-(heavy * (normaliser - below)).log1p() / heavy).to(logits.float().dtype)

    return log_tempered


def sharpened(lam: float) -> TensorMap:
    """logits (N, K) -> log p of softmax(z / lam)."""
    return lambda logits: log_softmax(logits.float() / lam)


@register_loss(paper="Zhu et al. 2023", laws=("falls", "equivariant"), link=sharpened)
def ldr_kl(log_p: Tensor, lam: Annotated[float, Interval("[0.5, 1e3]")] = 1.0) -> Tensor:
    """Label-distributionally robust loss with KL divergence, lam log mean_j exp((z_j - z_k) / lam): CE - log K at lam = 1.

    The paper's margin is 0 here. Negative, down to -lam log K, where p is large.
    """
    return -lam * (log_p + math.log(log_p.shape[1]))


@register_loss(paper="Amid et al. 2019", link=tempered)
def bitempered(log_p: Tensor, t1: Annotated[float, Interval("[0, 1]")] = 0.8, t2: Annotated[float, Interval("[1, 4]")] = 1.2) -> Tensor:
    """Bi-tempered logistic loss: bounded by t1 < 1, heavy-tailed by t2 > 1; CE at 1, 1.

    -log_t1 p_k - (1 - sum_j p_j^(2 - t1)) / (2 - t1), p the tempered softmax of t2.
    """
    near = -log_p if t1 == 1 else -((1 - t1) * log_p).expm1() / (1 - t1)
    return near - (1 - ((2 - t1) * log_p).exp().sum(1, keepdim=True)) / (2 - t1)
