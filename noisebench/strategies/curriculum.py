"""Examples chosen so that what is learned bounds the number of errors: curriculum loss, with the
noise pruned.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.expressions import AUTO
from ..core.parameters import Share, WrongShare
from .base import (
    Batch,
    ComputeCost,
    Outputs,
    Strategy,
    Supervision,
    Tensor,
    TrainingInfo,
    first_epochs,
    register_strategy,
)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """How far (B,) the label's logit lies above the largest other one, of logits (B, K); below 0
    the label is not what is predicted.
    """
    others = logits.scatter(1, labels[:, None], -float("inf"))
    return logits.gather(1, labels[:, None])[:, 0] - others.max(1).values


def soft_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """The paper's base loss (B,): max(0, 1 - margin) where the label is predicted, 1 + CE where it
    is not; never below the 0-1 loss.
    """
    u = margin(logits, labels)
    cross_entropy = logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]
    return (1 - u).clamp_min(0).where(u >= 0, 1 + cross_entropy)


def cheapest_within(cost: Tensor, threshold: Tensor | float) -> Tensor:
    """The v (B,) in {0, 1} of least max(sum_i v_i cost_i, C - sum_i v_i), C the threshold: by cost
    in order, ties by place, as long as the i cheapest together cost no more than C + 1 - i.
    """
    ordered, places = cost.sort(stable=True)
    rank = cost.new_ones(cost.shape).cumsum(0)
    within = (ordered.cumsum(0) <= threshold + 1 - rank).to(cost.dtype)
    return cost.new_zeros(cost.shape).scatter_(0, places, within)


@register_strategy(
    name="curriculum",
    version=2,
    paper="Lyu & Tsang 2020",
    disabled_form="curriculum(rate=0, burn_in=1)",
    cost=ComputeCost(1, 1),
)
@dataclass
class CurriculumLoss(Strategy):
    """Noise pruned curriculum loss (NPCL): min over v of max(sum_i v_i l_i, C - sum_i v_i), v in
    {0, 1}^n, for each batch of n.

    C = (1 - rate)^2 n + (1 - rate) errors, by which the largest l are pruned; at rate 0 it is the
    curriculum loss (CL). burn_in: the share of the run in which all are learned; the paper: 10 of
    200 epochs on CIFAR, 5 on MNIST. l is the paper's soft hinge loss of the logits, which is never
    below the 0-1 loss; what is learned of the chosen is the run's own loss, as a sum, and so over
    the size of the batch, also where the other side of the maximum is the larger one. Built from
    others' accounts of the paper, which agree.
    """

    packable = True
    rate: WrongShare = AUTO  # type: ignore[assignment]
    burn_in: Share = 0.05

    def setup(self, info: TrainingInfo) -> None:
        self._burned_in = first_epochs(self.burn_in, info.epochs)

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if batch.epoch <= self._burned_in:
            return super().supervise(batch, outputs)
        logits = outputs[0][0].logits.detach()
        errors = (margin(logits, batch.labels) < 0).sum()
        threshold = (1 - self.rate) ** 2 * len(logits) + (1 - self.rate) * errors
        return [
            Supervision(
                batch.targets,
                cheapest_within(soft_hinge(logits, batch.labels), threshold),
                mean_over=True,
            )
        ]
