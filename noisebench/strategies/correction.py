"""Strategies that correct labels by the network's own predictions: D2L and joint optimization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from ..core.parameters import Interval, OneOf, Share
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
    balance,
    entropy,
    one_hot,
    register_strategy,
    whole_epochs,
)

_LID_BATCH, _LID_BATCHES = 128, 10
_WINDOW = 5  # epochs before the current one


def local_dimension(features: Tensor, neighbours: int, *, authors: bool = False) -> Tensor:
    """Returns the local intrinsic dimensionality (..., n) of each of n points (..., n, D), from its
    k = `neighbours` nearest neighbours.

    The unbiased estimate (k - 2) / sum_j log(r_k / r_j) over the k - 1 nearest. authors: as in
    D2L's code, with 1 added to every squared distance and k in place of k - 2. The distance to a
    point that coincides is floored at 1e-12.
    """
    points = features.double()
    centred = points - points.mean(-2, keepdim=True)
    lengths = centred.square().sum(-1)
    squared = lengths[..., None] + lengths[..., None, :] - 2 * centred @ centred.mT
    squared = squared.clamp_min(0)
    squared.diagonal(dim1=-2, dim2=-1).fill_(math.inf)
    if authors:
        squared = squared + 1
    nearest = squared.topk(neighbours, largest=False).values
    logs = nearest.clamp_min(1e-24).log() / 2
    total = (logs[..., -1:] - logs[..., :-1]).sum(-1)
    return ((neighbours if authors else neighbours - 2) / total.clamp_min(1e-12)).to(features.dtype)


@register_strategy(
    name="d2l",
    version=2,
    paper="Ma et al. 2018",
    disabled_form="d2l(wait=1)",
    cost=ComputeCost(1, 1, note="a pass over 1,280 images an epoch"),
)
@dataclass
class D2L(Strategy):
    """Dimensionality-driven learning: once the local dimension of the features rises, targets are
    mixed with the predicted class.

    The turning point is the first epoch whose dimension exceeds the mean of the five epochs before
    by two of their standard deviations. The network is then reset to the epoch before, and the
    targets become a y + (1 - a) (the predicted class), a = exp(-(e / E) LID_e / min LID).
    neighbours: k of the estimate. wait: the share of the run before the search starts. The paper: k
    20; 40 of 120 epochs on CIFAR-10, 60 of 200 on CIFAR-100.
    """

    packable = True
    neighbours: Annotated[int, Interval("[3, 127]")] = 20
    wait: Share = 0.33
    estimator: Annotated[str, OneOf(("unbiased", "authors"))] = "unbiased"

    def setup(self, info: TrainingInfo) -> None:
        super().setup(info)
        if (size := len(info.labels)) <= self.neighbours:
            raise ConfigError(
                f"d2l needs more examples than its {self.neighbours} neighbours, got {size}"
            )
        self.state.update(dimensions=[], trust=1.0, turned=0, before=None)

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        trust = self.state["trust"]
        if trust == 1:
            return super().supervise(batch, outputs)
        log_p = outputs[0][0].log_p.detach()
        return [
            Supervision(
                trust * one_hot(batch.labels, log_p)
                + (1 - trust) * one_hot(log_p.max(1).indices, log_p)
            )
        ]

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        # a reset after the last epoch would only lose that epoch
        if self.wait == 1 or epoch == self.info.epochs:
            return
        dimensions: list[float] = self.state["dimensions"]
        now = self._dimension(whole)
        if (
            not self.state["turned"]
            and epoch > whole_epochs(self.wait, self.info.epochs)
            and risen(dimensions, now)
        ):
            self.state["turned"] = epoch
            whole.networks[0].load_state_dict(self.state["before"])
            now = self._dimension(whole)
        dimensions.append(now)
        if self.state["turned"]:
            self.state["trust"] = math.exp(-(epoch / self.info.epochs) * now / min(dimensions))
        else:
            self.state["before"] = {
                key: value.detach().clone() for key, value in whole.networks[0].state_dict().items()
            }

    def _dimension(self, whole: FullTrainingSet) -> float:
        """Returns the mean local dimension of up to 1,280 images' features, by batches of 128."""
        from torch import cat, randperm

        order = randperm(len(self.info.labels), generator=self.info.generator)
        features = whole.features(index=order[: _LID_BATCH * _LID_BATCHES])
        # full batches at once, then the remainder
        full = len(features) // _LID_BATCH * _LID_BATCH
        parts = [features[:full].unflatten(0, (-1, _LID_BATCH))] if full else []
        parts += [features[full:][None]] if len(features) - full > self.neighbours else []
        authors = self.estimator == "authors"
        means = [local_dimension(part, self.neighbours, authors=authors).mean(1) for part in parts]
        return cat(means).mean().item()


def risen(before: Sequence[float], now: float) -> bool:
    """Whether `now` exceeds the mean of the last five values by two of their standard deviations;
    False if there are fewer than five.
    """
    last = before[-_WINDOW:]
    if len(last) < _WINDOW:
        return False
    mean = sum(last) / _WINDOW
    spread = math.sqrt(sum((value - mean) ** 2 for value in last) / _WINDOW)
    return now - mean > 2 * spread


@register_strategy(
    name="joint",
    per_class_memory=True,
    version=2,
    paper="Tanaka et al. 2018",
    disabled_form="joint(first=1, wait=1, alpha=0, beta=0)",
    cost=ComputeCost(1, 1),
)
@dataclass
class Joint(Strategy):
    """Joint optimization of network and labels, followed by a new network trained on the resulting
    labels.

    First stage: cost + alpha KL(uniform | mean p) + beta mean entropy of p. From `wait` on (a share
    of the run) each label is the mean of the example's predictions over the last `window` of the
    run (kind soft), or the largest class of that mean (hard). After `first` of the run a new
    network is trained on these labels. The paper: 200 + 120 epochs, labels from epoch 70, means of
    10; alpha 1.2, beta 0.8 (asymmetric 0.8, 0.4). The uniform prior assumes balanced classes.
    """

    restarts = True
    alpha: Annotated[float, Interval("[0, 100]")] = 1.2
    beta: Annotated[float, Interval("[0, 100]")] = 0.8
    kind: Annotated[str, OneOf(("soft", "hard"))] = "soft"
    first: Share = 0.625
    wait: Share = 0.21875
    window: Share = 0.03125

    def setup(self, info: TrainingInfo) -> None:
        super().setup(info)
        self._window = max(1, round(self.window * info.epochs))
        # the last epoch on given labels; a full window of predictions exists by then
        self._from = max(self._window, round(self.wait * info.epochs))
        # the last epoch of the first network
        self._until = max(self._from, round(self.first * info.epochs))
        self.state["targets"] = info.given_targets()
        # Initial value: an example may be in a last, incomplete batch, which is skipped.
        self.state["recent"] = self.state["targets"].repeat(self._window, 1, 1)

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        self.state["recent"][batch.epoch % self._window, batch.index] = (
            outputs[0][0].log_p.detach().exp()
        )
        if batch.epoch <= self._from:
            return super().supervise(batch, outputs)
        return [Supervision(self.state["targets"][batch.index])]

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        if batch.epoch > self._until or not (self.alpha or self.beta):
            return None
        log_p = outputs[0][0].log_p
        return self.alpha * balance(log_p) + self.beta * entropy(log_p)

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        if self._from <= epoch <= self._until and self.wait < 1:
            mean = self.state["recent"].mean(0)
            self.state["targets"].copy_(
                mean if self.kind == "soft" else one_hot(mean.argmax(1), mean)
            )
        if epoch == self._until and epoch < self.info.epochs:
            whole.restart()
