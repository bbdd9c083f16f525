"""The generalised Jensen-Shannon loss of two views, whose predictions shall agree."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from ..core.parameters import Interval
from .base import (
    Batch,
    ComputeCost,
    Networks,
    Outputs,
    Strategy,
    Tensor,
    register_strategy,
)


def mean_p(first: Tensor, second: Tensor) -> Tensor:
    """log of the mean (B, K) of two predictions log_p (B, K)."""
    return first.logaddexp(second) - math.log(2)


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence (B,) of two predictions log_p (B, K), half the sum of both KL from
    their mean: 0 to log 2.
    """
    mean = mean_p(first, second)
    return ((first.exp() * (first - mean) + second.exp() * (second - mean)) / 2).sum(1)


@register_strategy(name="gjs", paper="Englesson & Azizpour 2021", cost=ComputeCost(2, 2))
@dataclass
class GJS(Strategy):
    """The loss of the mean prediction of two views, and their Jensen-Shannon divergence over -log(1
    - pi).

    Under the loss js(pi) it is the generalised Jensen-Shannon divergence of the label (weight pi)
    and both predictions ((1 - pi) / 2 each), over -(1 - pi) log(1 - pi). Both views are drawn by
    the recipe's augmentation and go through the network as one batch; the authors' have RandAugment
    and cutout, and go one by one.
    """

    num_views = 2
    pi: Annotated[float, Interval("[1e-6, 0.999999]")] = 0.5

    def prepare_batch(self, batch: Batch, networks: Networks) -> Batch:
        return batch.stacked()

    def transform_log_p(self, log_p: Tensor, batch: Batch, network: int) -> Tensor:
        mean = mean_p(*log_p.chunk(2))
        return mean.repeat(2, 1)

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        return divergence(*outputs[0][0].logits.log_softmax(1).chunk(2)).mean() / -math.log1p(
            -self.pi
        )
