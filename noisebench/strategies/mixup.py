"""Mixup, which trains on mixtures of pairs of images and labels, and the generalized Jensen-Shannon
loss, which penalizes different predictions for two views.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any

from ..core.parameters import Interval
from .base import (
    Batch,
    ComputeCost,
    Generator,
    Networks,
    Outputs,
    Strategy,
    Tensor,
    one_hot,
    register_strategy,
)


@dataclass(frozen=True)
class Mixture:
    """A mixture of a batch of n rows: row i becomes share * row i + (1 - share) * row order[i]."""

    order: Tensor
    share: float

    @classmethod
    def draw(
        cls, n: int, alpha: float, generator: Generator, *, own: bool = False, device: Any = None
    ) -> Mixture:
        """Samples one share for the batch from Beta(alpha, alpha). own: use max(share, 1 - share),
        so that each row keeps the larger part of itself.
        """
        import numpy as np
        from torch import randint, randperm

        seed = int(randint(2**62, (), generator=generator))
        share = float(np.random.default_rng(seed).beta(alpha, alpha))
        return cls(
            randperm(n, generator=generator).to(device), max(share, 1 - share) if own else share
        )

    def __call__(self, rows: Tensor) -> Tensor:
        """Returns the mixed rows (n, ...)."""
        return self.share * rows + (1 - self.share) * rows[self.order]


@register_strategy(
    name="mixup", paper="Zhang et al. 2018", disabled_form="mixup(alpha=0)", cost=ComputeCost(1, 1)
)
@dataclass
class Mixup(Strategy):
    """Mixup: each image and its target are mixed with another of the batch, with shares sampled
    from Beta(alpha, alpha).

    alpha: 1 in the paper for CIFAR-10; 0 mixes nothing. Predictions recorded during training are
    those of mixed images.
    """

    packable = True
    alpha: Annotated[float, Interval("[0, 100]")] = 1.0

    def prepare_batch(self, batch: Batch, networks: Networks) -> Batch:
        if not self.alpha:
            return batch
        mixture = Mixture.draw(
            len(batch.index), self.alpha, batch.generator, device=batch.index.device
        )
        rows = batch.views[0].new_zeros(len(batch.labels), self.info.num_classes)
        return replace(
            batch,
            views=tuple(map(mixture, batch.views)),
            targets=mixture(one_hot(batch.labels, rows)),
        )


def mean_p(first: Tensor, second: Tensor) -> Tensor:
    """Returns the log of the mean (B, K) of two predictions, each log_p (B, K)."""
    return first.logaddexp(second) - math.log(2)


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Returns the Jensen-Shannon divergence (B,) of two predictions log_p (B, K): the mean of their
    KL divergences from their mean, between 0 and log 2.
    """
    mean = mean_p(first, second)
    return ((first.exp() * (first - mean) + second.exp() * (second - mean)) / 2).sum(1)


@register_strategy(name="gjs", paper="Englesson & Azizpour 2021", cost=ComputeCost(2, 2))
@dataclass
class GJS(Strategy):
    """Generalized Jensen-Shannon divergence: the loss of two views' mean prediction, plus the
    views' Jensen-Shannon divergence over -log(1 - pi).

    With the loss js(pi) this is the generalized Jensen-Shannon divergence of the label (weight pi)
    and both predictions ((1 - pi) / 2 each), over -(1 - pi) log(1 - pi). Both views use the
    recipe's augmentation and pass through the network as one batch; the authors add RandAugment and
    cutout, and pass them one by one.
    """

    num_views = 2
    pi: Annotated[float, Interval("[1e-6, 0.999999]")] = 0.5

    def prepare_batch(self, batch: Batch, networks: Networks) -> Batch:
        return batch.stacked()

    def transform_log_p(self, log_p: Tensor, batch: Batch, network: int) -> Tensor:
        return mean_p(*log_p.chunk(2)).repeat(2, 1)

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        return divergence(*outputs[0][0].logits.log_softmax(1).chunk(2)).mean() / -math.log1p(
            -self.pi
        )
