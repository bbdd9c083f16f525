"""Strategies for data of which some labels are verified (`corrupt --trusted 0.1`):
CleanNet's weights and distillation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..core.parameters import Interval, Share
from ..errors import ConfigError
from .base import (
    Batch,
    ComputeCost,
    FullTrainingSet,
    Outputs,
    Strategy,
    Supervision,
    Tensor,
    TrainingInfo,
    register_strategy,
)


def verified(name: str, info: TrainingInfo) -> Tensor:
    """Which examples (N,) have a verified label. Raises ConfigError where none has."""
    if info.trusted is None:
        raise ConfigError(
            f"{name} needs verified labels, which these data have not: noisebench "
            "corrupt ... --trusted 0.1"
        )
    return info.trusted


def cosine_to_prototypes(
    features: Tensor, labels: Tensor, trusted: Tensor, num_classes: int
) -> Tensor:
    """The cosine (N,) of each example's features (N, D) with the prototype of its label's class:
    the mean direction of the trusted ones.
    """
    directions = features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)
    sums = directions.new_zeros(num_classes, features.shape[1]).index_add_(
        0, labels[trusted], directions[trusted]
    )
    prototypes = sums / sums.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return (directions * prototypes[labels]).sum(1)


@register_strategy(
    name="cleannet",
    per_class_memory=True,
    version=2,
    paper="Lee et al. 2018",
    disabled_form="cleannet(wait=1)",
    cost=ComputeCost(2, 1, full_set=1),
)
@dataclass
class CleanNet(Strategy):
    """CleanNet's weights: how alike an example is to the verified ones of its given class, by
    the cosine of their features.

    After `wait` of the run every example weighs max(0, cosine with the class's prototype, less
    `threshold`), scaled to 1 at cosine 1; verified ones weigh 1. The prototypes are mean directions
    of this network's own features; the paper learns an embedding for them.
    """

    packable = True
    threshold: Annotated[float, Interval("[-1, 1)")] = 0.1
    wait: Share = 0.1

    def setup(self, info: TrainingInfo) -> None:
        if self.wait == 1:
            self._trusted = info.labels < 0
        else:
            self._trusted = verified("cleannet", info)
        self._epochs, self._labels, self._classes = info.epochs, info.labels, info.num_classes
        self.state["weights"] = info.full((len(info.labels),), 1)
        self.state["weighing"] = False

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if not self.state["weighing"]:
            return super().supervise(batch, outputs)
        return [Supervision(batch.targets, self.state["weights"][batch.index], mean_over=True)]

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        # 0.07 of 100 is 7, though their product is above it
        if epoch < self.wait * self._epochs - 1e-9 or self.wait == 1:
            return
        cosine = cosine_to_prototypes(whole.features(), self._labels, self._trusted, self._classes)
        weights = ((cosine - self.threshold) / (1 - self.threshold)).clamp(0, 1)
        self.state["weights"].copy_(weights.masked_fill(self._trusted, 1.0))
        self.state["weighing"] = True


@register_strategy(
    name="distill", per_class_memory=True, paper="Li et al. 2017", cost=ComputeCost(1, 1)
)
@dataclass
class Distill(Strategy):
    """Distillation: a teacher learns the verified labels alone, then a new network the mixture of
    labels and what the teacher says.

    Targets share y + (1 - share) p of the teacher, at this temperature; verified ones stay y.
    first: the teacher's part of the run.
    """

    restarts = True
    share: Share = 0.5
    first: Share = 0.3
    temperature: Annotated[float, Interval("(0, 100]")] = 1.0

    def setup(self, info: TrainingInfo) -> None:
        self._trusted, self._epochs = verified("distill", info), info.epochs
        self.state["targets"] = info.given_targets()

    @property
    def _until(self) -> int:
        """The teacher's last epoch."""
        return max(1, round(self.first * self._epochs))

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if batch.epoch <= self._until:
            weights = self._trusted[batch.index].to(outputs[0][0].cost.dtype)
            return [Supervision(batch.targets, weights, mean_over=True)]
        return [Supervision(self.state["targets"][batch.index])]

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        if epoch != self._until or epoch == self._epochs:
            return
        teacher_p = (whole.log_p() / self.temperature).softmax(1)
        given = self.state["targets"]
        mixed = self.share * given + (1 - self.share) * teacher_p
        self.state["targets"].copy_(mixed.where(~self._trusted[:, None], given))
        whole.restart()
