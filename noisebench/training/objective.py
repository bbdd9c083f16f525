"""The one formula of a step: sum_n w_n (sum_k targets_nk cost_nk) / sum_n w_n (or N), for each
network; and the rate's schedule.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..strategies import Supervision

_NOBODY = 1e-30  # where nobody is trusted the step costs nothing instead of 0 / 0


def weighted_cost(cost: Tensor, belief: Supervision, runs: int = 1) -> Tensor:
    """The mean cost (runs,) of what is believed in each of so many runs, whose examples stand one
    run after the other.

    cost (B, K), targets (B,) or (B, K), weights (B,) or None.
    """
    by_class = belief.targets.dim() == 1
    each = (
        cost.gather(1, belief.targets[:, None]).squeeze(1)
        if by_class
        else (belief.targets * cost).sum(1)
    )
    each = each.view(runs, -1)
    if belief.sample_weights is None:
        return each.mean(1)
    weights = belief.sample_weights.view(runs, -1)
    # A NaN or inf of an example without weight must not enter: 0 * inf is not 0.
    trusted = torch.where(weights > 0, each, torch.zeros_like(each))
    total = each.shape[1] if belief.mean_over else weights.sum(1).clamp_min(_NOBODY)
    return (weights * trusted).sum(1) / total


def learning_rate_factor(
    schedule: tuple[str, tuple[float, ...]], epochs_done: float, epochs: int
) -> float:
    """The share of the initial learning rate after `epochs_done` (a fraction within an epoch) of
    `epochs`.
    """
    name, ends = schedule
    if name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epochs_done / epochs))
    if name == "step":
        return float(0.1 ** sum(epochs_done >= end for end in ends))
    return 1.0
