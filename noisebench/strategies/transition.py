"""Loss correction in two stages: the transition matrix is estimated from a first network, and
corrects a second one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.parameters import Share
from ..errors import RunFailed
from ..losses.scores import log_through
from ..metrics.confident_learning import anchored_transition
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

_WORST_CONDITION = 1e6


def through(log_p: Tensor, T: Tensor) -> Tensor:
    """log_p (B, K) of the recorded labels, log(p T), where that of the clean ones is log_p (B, K);
    in float64 inside, and never -inf.
    """
    return log_through(log_p.double().exp(), T).to(log_p.dtype)


class TwoStages(Strategy):
    """A network on recorded labels for `first` of the run, T by its anchors, and a new network
    under T.
    """

    restarts = True
    first: float

    def setup(self, info: TrainingInfo) -> None:
        from torch import eye, float64

        self._until = max(1, round(self.first * info.epochs))
        self._epochs = info.epochs
        self.state.update(
            T=eye(info.num_classes, dtype=float64, device=info.labels.device), known=False
        )

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        if epoch != self._until or epoch == self._epochs:
            return
        T = anchored_transition(whole.log_p().cpu().numpy())
        self.state["T"].copy_(self.state["T"].new_tensor(self.prepared(T)))
        self.state["known"] = True
        self.begin_anew(whole)

    def begin_anew(self, whole: FullTrainingSet) -> None:
        """What the second stage begins with."""
        whole.restart()

    def prepared(self, T: np.ndarray) -> np.ndarray:
        """What the correction multiplies with."""
        return T


@register_strategy(
    name="forward_estimated",
    per_class_memory=True,
    paper="Patrini et al. 2017",
    disabled_form="forward_estimated(first=1)",
    cost=ComputeCost(1, 1),
)
@dataclass
class ForwardEstimated(TwoStages):
    """Forward correction without knowing T: a first network for `first` of the run shows it at its
    anchors (the 97th percentile of each class's probability; the largest from 100 classes on), then
    a new one learns through it.
    """

    first: Share = 0.25

    def transform_log_p(self, log_p: Tensor, batch: Batch, network: int) -> Tensor:
        if not self.state["known"]:
            return log_p
        return through(log_p, self.state["T"])


@register_strategy(
    name="backward_estimated",
    per_class_memory=True,
    paper="Patrini et al. 2017",
    properties=(),
    disabled_form="backward_estimated(first=1)",
    cost=ComputeCost(1, 1),
)
@dataclass
class BackwardEstimated(TwoStages):
    """Backward correction without knowing T: as forward_estimated, then a label costs its row of
    T^-1 times all costs, signed.

    Without a bound below where the loss has none above, as CE: such a run may diverge.
    """

    first: Share = 0.25

    def prepared(self, T: np.ndarray) -> np.ndarray:
        if np.linalg.cond(T) > _WORST_CONDITION:
            raise RunFailed("backward_estimated: the estimated T has no usable inverse")
        return np.linalg.inv(T)

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if not self.state["known"]:
            return super().supervise(batch, outputs)
        return [Supervision(self.state["T"][batch.labels].to(outputs[0][0].cost.dtype))]
