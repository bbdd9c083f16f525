"""Learn what an image is not: negative learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..core.parameters import Interval, Share
from .base import (
    Batch,
    ComputeCost,
    Generator,
    ModelOutput,
    Outputs,
    Strategy,
    Supervision,
    Tensor,
    TrainingInfo,
    averaged,
    first_epochs,
    register_strategy,
    whole_epochs,
)

_LEAST = 1e-5  # the authors keep 1 - p above it; where that takes hold it has no gradient


def other_labels(labels: Tensor, num_classes: int, draws: int, generator: Generator) -> Tensor:
    """So many complementary labels (B, draws) of each label (B,): of the other classes alike, and
    with repetition.
    """
    from torch import randint

    ahead = randint(1, num_classes, (len(labels), draws), generator=generator).to(labels.device)
    return (labels[:, None] + ahead) % num_classes


def negative_cost(log_p: Tensor, others: Tensor) -> Tensor:
    """- sum_k log(1 - p_k) over the complementary labels (B, draws) of each example (B,)."""
    return -(1 - log_p.exp()).clamp_min(_LEAST).log().gather(1, others).sum(1)


@register_strategy(
    name="nlnl",
    paper="Kim et al. 2019",
    disabled_form="nlnl(negative=0, selective=0, cut=0)",
    cost=ComputeCost(1, 1),
)
@dataclass
class NLNL(Strategy):
    """Negative learning: that an image is not of a class drawn from the others, which is seldom
    wrong; then positive, of the sure ones.

    For `negative` of the run every example costs - log(1 - p) of its complementary labels (NL),
    `draws` of them, summed; for `selective` only those whose label has p above 1 / K (SelNL); then
    the run's own loss is learned where p is above `cut` (SelPL). The paper: 720 epochs each; 1
    draw, on CIFAR-100 110; the authors' learning rate is 0.02, and so many draws want a small one.
    Their code asks p of the mean of the last ten epochs, here it is that of the step, and weighs
    rare classes more, here all count alike. The last stage, two times 480 epochs on pseudo-labels,
    is left out.
    """

    packable = True
    draws: Annotated[int, Interval("[1, 1000]")] = 1
    negative: Share = 0.3334
    selective: Share = 0.3334
    cut: Share = 0.5

    def setup(self, info: TrainingInfo) -> None:
        self._classes = info.num_classes
        self._first = first_epochs(self.negative, info.epochs)
        self._last = self._first + whole_epochs(self.selective, info.epochs)

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        # in the negative stages no label is learned
        least = self.cut if batch.epoch > self._last else 2
        return [Supervision(batch.targets, _sure(batch, outputs[0][0], least))]

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        if batch.epoch > self._last:
            return None
        others = other_labels(batch.labels, self._classes, self.draws, batch.generator)
        chosen = _sure(batch, outputs[0][0], 1 / self._classes if batch.epoch > self._first else 0)
        return (averaged(chosen) * negative_cost(outputs[0][0].log_p, others)).mean()


def _sure(batch: Batch, output: ModelOutput, least: float) -> Tensor:
    """Where the given label has p of at least so much, weights (B,) in {0, 1}."""
    log_p = output.log_p.detach().gather(1, batch.labels[:, None])[:, 0]
    return (log_p.exp() >= least).to(log_p.dtype)
