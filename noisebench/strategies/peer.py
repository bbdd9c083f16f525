"""Losses minus the expected cost of a random label: peer loss, and CORES^2, which also removes
examples by a sieve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from ..core.parameters import Interval, OneOf, Share
from .base import (
    Batch,
    ComputeCost,
    FullTrainingSet,
    ModelOutput,
    Outputs,
    Strategy,
    Supervision,
    Tensor,
    TrainingInfo,
    averaged,
    first_epochs,
    given_label_cost,
    one_hot,
    register_strategy,
)

_PEER_FLOOR = 1e-5  # the authors add it to p before the logarithm

# The weight alpha of the peer term in the authors' code, as (share of the run, alpha), linear in
# between: CIFAR-10 with 300 epochs; late: CIFAR-100 with 250. For uniform noise the code rises to
# 0.1 and continues at 1; the 0.1 is treated as a mistake.
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
    """Interpolates (share, value) knots, in order of share, linearly at a share of the run; of two
    knots at the same share the later one counts.
    """
    shares, values = np.array(knots).T
    return float(np.interp(share, shares, values))


def bounded_cost(output: ModelOutput, least: float) -> Tensor:
    """Returns the cost (B, K), without gradient for classes with p below `least`, where the
    gradient would be unbounded.
    """
    return output.cost.where(output.log_p.detach().exp() >= least, output.cost.detach())


@register_strategy(
    name="peer", paper="Liu & Guo 2020", disabled_form="peer(weight=0)", cost=ComputeCost(1, 1)
)
@dataclass
class Peer(Strategy):
    """Peer loss, cost(x_i, y_i) - alpha cost(x_j, y_k): the peer's image and label are sampled
    independently of each other.

    kind: how alpha grows, from the authors' code: `uniform`, 0 for 20 of 300 epochs, then in steps
    to 4.3; `sparse`, for noise between few pairs of classes, to 16; both `late` as on CIFAR-100,
    from 0.4 of the run on, 0.95 throughout or up to 20. weight: a factor of alpha.

    Differences: both costs are divided by 1 + alpha; the authors divide the learning rate, and with
    it the step of weight decay, which is unchanged here. The peers' images are those of the batch,
    which have the same mean; the authors load others. The label is sampled from all given labels. A
    class of p below 1e-5 has no gradient in the peer term, which is otherwise unbounded (the
    authors: log(p + 1e-5)). On CIFAR-100 the authors return to their best network before alpha
    grows; not done here.
    """

    packable = True
    kind: Annotated[str, OneOf(tuple(_ALPHAS))] = "uniform"
    weight: Annotated[float, Interval("[0, 10]")] = 1.0

    def alpha(self, epoch: int) -> float:
        """The weight of the peer term in an epoch (counted from 1)."""
        return self.weight * interpolated(_ALPHAS[self.kind], (epoch - 1) / self.info.epochs)

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        weights = outputs[0][0].cost.new_full(batch.index.shape, 1 / (1 + self.alpha(batch.epoch)))
        return [Supervision(batch.targets, weights, mean_over=True)]

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        from torch import randint

        alpha = self.alpha(batch.epoch)
        if not alpha:
            return None
        peers = randint(len(self.info.labels), batch.index.shape, generator=batch.generator).to(
            self.info.labels.device
        )
        cost = bounded_cost(outputs[0][0], _PEER_FLOOR).gather(1, self.info.labels[peers][:, None])
        return -alpha / (1 + alpha) * cost.mean()


_SIEVE_FLOOR = 1e-8  # the authors add it to p before the logarithm


@register_strategy(
    name="cores2",
    paper="Cheng et al. 2021",
    disabled_form="cores2(beta=0, wait=1)",
    cost=ComputeCost(1, 1),
)
@dataclass
class Cores2(Strategy):
    """CORES^2, cost_y - beta sum_k prior_k cost_k, over the examples whose label costs no more than
    the mean of all classes.

    beta: 0 in a warm-up, then growing to its value over `ramp`; prior: the class frequencies of the
    given labels kept in the epoch before. wait: the share of the run in which all examples are
    kept. The paper: beta 2; 10 epochs of warm-up, 30 of growth, selection after 30, of 100.

    Differences: the costs are divided by 1 + beta; the authors divide the learning rate, and with
    it the step of weight decay, which is unchanged here. A class of p below 1e-8 has no gradient in
    the second term (the authors: log(p + 1e-8)). Their second phase, consistency training on the
    removed examples, is left out.
    """

    packable = True
    beta: Annotated[float, Interval("[0, 100]")] = 2.0
    warmup: Share = 0.1
    ramp: Share = 0.3
    wait: Share = 0.3

    def setup(self, info: TrainingInfo) -> None:
        super().setup(info)
        self._counts = info.labels.bincount(minlength=info.num_classes).float()
        self.state.update(
            prior=self._counts / self._counts.sum(),
            left_out=self._counts.new_zeros(info.num_classes),
        )

    def beta_in(self, epoch: int) -> float:
        """The weight of the second term in an epoch (counted from 1)."""
        return self.beta * interpolated(
            ((self.warmup, 0), (self.warmup + self.ramp, 1)), (epoch - 1) / self.info.epochs
        )

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        kept = self._kept(batch, outputs[0][0])
        self.state["left_out"] += (1 - kept) @ one_hot(batch.labels, outputs[0][0].cost)
        return [
            Supervision(
                batch.targets, averaged(kept, 1 / (1 + self.beta_in(batch.epoch))), mean_over=True
            )
        ]

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        beta, output = self.beta_in(batch.epoch), outputs[0][0]
        if not beta:
            return None
        # expected cost of a label sampled from the prior
        expected = bounded_cost(output, _SIEVE_FLOOR) @ self.state["prior"]
        return -(averaged(self._kept(batch, output), beta / (1 + beta)) * expected).mean()

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        left = self._counts - self.state["left_out"]
        self.state["prior"].copy_(left / left.sum().clamp_min(1))
        self.state["left_out"].zero_()

    def _kept(self, batch: Batch, output: ModelOutput) -> Tensor:
        """Weights (B,) in {0, 1}, 1 for the examples that the sieve keeps."""
        cost = given_label_cost(output, batch)
        # the authors' code starts the sieve one epoch later
        if batch.epoch <= first_epochs(self.wait, self.info.epochs):
            return cost.new_ones(cost.shape)
        return (cost <= output.cost.detach().mean(1)).to(cost.dtype)
