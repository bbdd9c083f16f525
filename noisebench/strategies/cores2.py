"""CORES^2: the peer term by class frequencies, and a sieve that leaves examples out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..core.parameters import Interval, Share
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
from .peer import bounded_cost, interpolated

_LEAST = 1e-8  # what the authors add to p before the logarithm


@register_strategy(
    name="cores2",
    paper="Cheng et al. 2021",
    disabled_form="cores2(beta=0, wait=1)",
    cost=ComputeCost(1, 1),
)
@dataclass
class Cores2(Strategy):
    """CORES^2, the sieve: cost_y - beta sum_k prior_k cost_k, over the examples whose label costs
    no more than the mean of all classes.

    beta: 0 in a warm-up, then growing to its value over `ramp`; prior: the class frequencies of the
    given labels that were not sieved out in the epoch before. wait: the share of the run in which
    all examples are kept. The paper: beta 2; 10 epochs to warm up, 30 to grow, the sieve after 30,
    of 100. The costs are divided by 1 + beta; the authors divide the learning rate, and with it
    weight decay's step, which here stays. A class of p below 1e-8 has no gradient in the second
    term (they: log(p + 1e-8)). Their second phase, consistency training on what was sieved out, is
    left out.
    """

    packable = True
    beta: Annotated[float, Interval("[0, 100]")] = 2.0
    warmup: Share = 0.1
    ramp: Share = 0.3
    wait: Share = 0.3

    def setup(self, info: TrainingInfo) -> None:
        self._epochs = info.epochs
        self._counts = info.labels.bincount(minlength=info.num_classes).float()
        self.state.update(
            prior=self._counts / self._counts.sum(),
            left_out=self._counts.new_zeros(info.num_classes),
        )

    def beta_in(self, epoch: int) -> float:
        """The weight of the second term in an epoch (counted from 1)."""
        return self.beta * interpolated(
            ((self.warmup, 0), (self.warmup + self.ramp, 1)), (epoch - 1) / self._epochs
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
        # of a label drawn by the prior
        expected = bounded_cost(output, _LEAST) @ self.state["prior"]
        return -(averaged(self._kept(batch, output), beta / (1 + beta)) * expected).mean()

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        left = self._counts - self.state["left_out"]
        self.state["prior"].copy_(left / left.sum().clamp_min(1))
        self.state["left_out"].zero_()

    def _kept(self, batch: Batch, output: ModelOutput) -> Tensor:
        """The examples that are not sieved out, weights (B,) in {0, 1}."""
        cost = given_label_cost(output, batch)
        # the authors' code sieves an epoch later
        if batch.epoch <= first_epochs(self.wait, self._epochs):
            return cost.new_ones(cost.shape)
        return (cost <= output.cost.detach().mean(1)).to(cost.dtype)
