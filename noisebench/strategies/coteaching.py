"""Two networks that choose examples for each other or together: decoupling, co-teaching,
co-teaching+ and JoCoR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from ..core.expressions import AUTO
from ..core.parameters import Interval, Share, WrongShare
from .base import (
    Batch,
    ComputeCost,
    Outputs,
    Strategy,
    Supervision,
    Tensor,
    TrainingInfo,
    averaged,
    given_label_cost,
    linear_ramp,
    register_strategy,
    whole_epochs,
)


def smallest(cost: Tensor, count: int, among: Tensor | None = None) -> Tensor:
    """Weights (B,) in {0, 1}: the `count` smallest costs, ties by place; of those in the mask
    `among` only.
    """
    if among is not None:
        cost = cost.masked_fill(~among, math.inf)
    chosen = cost.argsort(stable=True)[:count]
    return cost.new_zeros(cost.shape).scatter_(0, chosen, 1.0)


def forgotten(rate: float, epoch: int, ramp: float, epochs: int, power: float) -> float:
    """The share of examples left out in an epoch (counted from 1): rate min(1, (e / T_k)^power), e
    epochs done, T_k = ramp x epochs.
    """
    return rate * linear_ramp(epoch - 1, ramp * epochs) ** power


def disagreement(outputs: Outputs) -> Tensor:
    """Where (B,) two networks predict different classes."""
    first, second = (views[0].logits.detach().argmax(1) for views in outputs)
    return first != second


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p | q) + KL(q | p) of each row (B,) of two networks' log_p (B, K): sum_k (p_k - q_k) (log
    p_k - log q_k).
    """
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1)


@register_strategy(
    name="coteaching",
    version=2,
    paper="Han et al. 2018",
    disabled_form="coteaching(rate=0)",
    cost=ComputeCost(2, 2),
)
@dataclass
class Coteaching(Strategy):
    """Co-teaching: each of two networks learns from the examples that cost the other least, all but
    `rate` of a batch.

    rate: the share of incorrect labels; `auto` is its expected value, 1 - sum_k pi_k T_kk, which
    under asymmetric noise is less than the nominal rate. ramp: the share of the run over which the
    left out grow from none, by `power`. The paper: 10 of 200 epochs, power 1.
    """

    num_networks = 2
    rate: WrongShare = AUTO  # type: ignore[assignment]
    ramp: Share = 0.05
    power: Annotated[float, Interval("(0, 10]")] = 1.0

    def setup(self, info: TrainingInfo) -> None:
        self._epochs = info.epochs

    def kept(self, size: int, epoch: int) -> int:
        """How many of `size` examples are learned."""
        return int(
            (1 - forgotten(self.rate, epoch, self.ramp, self._epochs, self.power)) * size + 1e-9
        )

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        count = self.kept(len(batch.index), batch.epoch)
        return [
            Supervision(batch.targets, smallest(given_label_cost(other[0], batch), count))
            for other in reversed(outputs)
        ]


@register_strategy(
    name="coteaching_plus", version=3, paper="Yu et al. 2019", cost=ComputeCost(2, 2)
)
@dataclass
class CoteachingPlus(Coteaching):
    """Co-teaching+: co-teaching, after a warm-up on the examples alone on which the two networks
    disagree.

    warmup: its share of the run; the paper: 20 of 200 epochs on CIFAR-10, 5 on CIFAR-100. A step
    counts as large as the batch, so that few examples move little and none nothing; the authors
    divide by the chosen.
    """

    warmup: Share = 0.1

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if batch.epoch <= whole_epochs(self.warmup, self._epochs):
            return super().supervise(batch, outputs)
        among = disagreement(outputs)
        count = self.kept(int(among.sum()), batch.epoch)
        return [
            Supervision(
                batch.targets,
                smallest(given_label_cost(other[0], batch), count, among),
                mean_over=True,
            )
            for other in reversed(outputs)
        ]


@register_strategy(
    name="jocor",
    version=2,
    paper="Wei et al. 2020",
    disabled_form="jocor(rate=0, lam=0)",
    cost=ComputeCost(2, 2),
)
@dataclass
class JoCoR(Coteaching):
    """Joint training with co-regularisation: both networks learn the examples of smallest joint
    loss, all but `rate` of a batch.

    The joint loss is (1 - lam) (cost of the one + cost of the other) + lam (KL(p | q) + KL(q | p)),
    and is averaged over the chosen. rate: the share of incorrect labels as in co-teaching, and as
    in the paper, which halves the rate of asymmetric noise. ramp as in co-teaching: 10 of 200
    epochs. lam 0.9 on CIFAR-10, 0.65 at a rate of 0.8, 0.85 on CIFAR-100. The factor 1 - lam is the
    paper's, whose optimizer, Adam, is invariant to it. Under SGD it slows learning, but dividing by
    it would give the agreement term a weight of lam / (1 - lam), up to 9, which diverges at the
    learning rates of plain training.
    """

    lam: Annotated[float, Interval("[0, 1]")] = 0.9

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        weights = averaged(self._chosen(batch, outputs), 1 - self.lam)
        return [Supervision(batch.targets, weights, mean_over=True) for _ in outputs]

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        if not self.lam:
            return None
        apart = divergence(*(views[0].log_p for views in outputs))
        return (averaged(self._chosen(batch, outputs), self.lam) * apart).mean()

    def _chosen(self, batch: Batch, outputs: Outputs) -> Tensor:
        """The examples of smallest joint loss, weights (B,) in {0, 1}."""
        first, second = (views[0] for views in outputs)
        apart = divergence(first.log_p.detach(), second.log_p.detach())
        joint = (1 - self.lam) * (
            given_label_cost(first, batch) + given_label_cost(second, batch)
        ) + self.lam * apart
        return smallest(joint, self.kept(len(batch.index), batch.epoch))


@register_strategy(
    name="decoupling",
    version=2,
    paper="Malach & Shalev-Shwartz 2017",
    disabled_form="decoupling(warmup=1)",
    cost=ComputeCost(2, 2),
)
@dataclass
class Decoupling(Strategy):
    """Decoupling: two networks learn from the examples on which they disagree, "when to update"
    from "how to update".

    warmup: the share of the run in which both learn from all. A step counts as large as the batch,
    so that few examples move little and none nothing.
    """

    num_networks = 2
    warmup: Share = 0.1

    def setup(self, info: TrainingInfo) -> None:
        self._epochs = info.epochs

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if batch.epoch <= whole_epochs(self.warmup, self._epochs):
            return super().supervise(batch, outputs)
        weights = disagreement(outputs).to(outputs[0][0].cost.dtype)
        return [Supervision(batch.targets, weights, mean_over=True) for _ in outputs]
