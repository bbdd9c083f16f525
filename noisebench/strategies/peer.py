"""Peer loss: learn the given label, unlearn what any label would teach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from ..core.parameters import Interval, OneOf
from .base import (
    Batch,
    ComputeCost,
    ModelOutput,
    Outputs,
    Strategy,
    Supervision,
    Tensor,
    TrainingInfo,
    register_strategy,
)

_LEAST = 1e-5  # what the authors add to p before the logarithm

# The weight of the peer term as the authors' code has it: shares of the run, and alpha there;
# linear between them. CIFAR-10 in 300 epochs; late, CIFAR-100 in 250. Where the code for uniform
# noise rises to 0.1 and goes on at 1, the 0.1 is taken for a slip.
_ALPHAS: dict[str, tuple[tuple[float, float], ...]] = {
    "uniform": (
        (20 / 300, 0),
        (40 / 300, 1),
        (90 / 300, 2),
        (140 / 300, 2.5),
        (240 / 300, 3.3),
        (1, 4.3),
    ),
    "sparse": (
        (20 / 300, 0),
        (40 / 300, 1),
        (90 / 300, 2),
        (140 / 300, 5),
        (240 / 300, 10),
        (1, 16),
    ),
    "late_uniform": ((0.4, 0), (0.4, 0.95), (1, 0.95)),
    "late_sparse": ((110 / 250, 0), (130 / 250, 2), (200 / 250, 10), (1, 20)),
}


def interpolated(knots: Sequence[tuple[float, float]], share: float) -> float:
    """The value at a share of the run by (share, value) in order, linear between; where two stand
    at one share, the later one.
    """
    shares, values = np.array(knots).T
    return float(np.interp(share, shares, values))


def bounded_cost(output: ModelOutput, least: float) -> Tensor:
    """The cost (B, K), without gradient for a class of p below `least`, which would otherwise grow
    without bound.
    """
    return output.cost.where(output.log_p.detach().exp() >= least, output.cost.detach())


@register_strategy(
    name="peer", paper="Liu & Guo 2020", disabled_form="peer(weight=0)", cost=ComputeCost(1, 1)
)
@dataclass
class Peer(Strategy):
    """Peer loss: cost(x_i, y_i) - alpha cost(x_j, y_k), the peer's image and label drawn
    independently of each other.

    kind: how alpha grows, by the authors' code: `uniform`, 0 for 20 of 300 epochs, then in steps to
    4.3; `sparse`, for noise that knows few wrong classes, to 16; both `late` as on CIFAR-100, from
    0.4 of the run on, 0.95 throughout or up to 20. weight: times that. Both costs are divided by 1
    + alpha; the authors divide the learning rate, and with it weight decay's step, which here
    stays. The peers' images are those of the batch, of the same mean, where the authors load
    others; the label is drawn from all given ones. A class of p below 1e-5 has no gradient in
    the term, which is otherwise unbounded (the authors: log(p + 1e-5)). On CIFAR-100 they go back
    to their best network before alpha sets in; not here.
    """

    packable = True
    kind: Annotated[str, OneOf(tuple(_ALPHAS))] = "uniform"
    weight: Annotated[float, Interval("[0, 10]")] = 1.0

    def setup(self, info: TrainingInfo) -> None:
        self._labels, self._epochs = info.labels, info.epochs

    def alpha(self, epoch: int) -> float:
        """The weight of the peer term in an epoch (counted from 1)."""
        return self.weight * interpolated(_ALPHAS[self.kind], (epoch - 1) / self._epochs)

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        weights = outputs[0][0].cost.new_full(batch.index.shape, 1 / (1 + self.alpha(batch.epoch)))
        return [Supervision(batch.targets, weights, mean_over=True)]

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        from torch import randint

        alpha = self.alpha(batch.epoch)
        if not alpha:
            return None
        drawn = randint(len(self._labels), batch.index.shape, generator=batch.generator).to(
            self._labels.device
        )
        cost = bounded_cost(outputs[0][0], _LEAST).gather(1, self._labels[drawn][:, None])
        return -alpha / (1 + alpha) * cost.mean()
