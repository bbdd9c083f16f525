"""Costs that look at all probabilities of an example: log_p (N, K) -> cost (N, K)."""

from __future__ import annotations

import math
from typing import Annotated

from ..core.parameters import Interval
from .catalogue import register_loss
from .scores import Tensor


@register_loss(paper="Ye et al. 2023", laws=("falls", "equivariant", "nonnegative", "constant_sum"))
def nnce(log_p: Tensor, pmin: Annotated[float, Interval("[1e-30, 1e-4]")] = 1e-7) -> Tensor:
    """Normalised negative cross entropy, 1 - (A + log p_k) / sum_j (A + log p_j) with A = -log pmin, p at least pmin."""
    above = log_p.clamp_min(math.log(pmin)) - math.log(pmin)
    return 1 - above / above.sum(1, keepdim=True)


@register_loss(paper="JAL, ICCV 2025")
def amse(log_p: Tensor, a: Annotated[float, Interval("[1, 1e3]")] = 30.0) -> Tensor:
    """Asymmetric mean squared error, the mean over the classes of (a e_k - p)^2: the Brier score over K at a = 1."""
    p = log_p.exp()
    return (p.square().sum(1, keepdim=True) - 2 * a * p + a * a) / log_p.shape[1]
