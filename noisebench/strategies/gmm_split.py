"""The training set divided by a mixture fitted to its costs: small costs mean correct labels. By
itself, and as a part of DivideMix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..core.parameters import Interval, Share
from .base import (
    Batch,
    ComputeCost,
    FullTrainingSet,
    Outputs,
    Strategy,
    Supervision,
    Tensor,
    TrainingInfo,
    first_epochs,
    register_strategy,
)

# To the end; the authors of DivideMix stop after 10 steps, or below 0.01, where the beginning still
# shows. The variance is theirs.
_ITERATIONS, _TOLERANCE, _LEAST_VARIANCE = 500, 1e-4, 5e-4


def scaled_cost(log_p: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy (N,) of the labels, scaled to [0, 1] over all examples."""
    cost = -log_p.gather(1, labels[:, None])[:, 0].double()
    return (cost - cost.min()) / (cost.max() - cost.min()).clamp_min(1e-12)


def chance_clean(cost: Tensor) -> Tensor:
    """The chance (N,) that a cost (N,) in [0, 1] is of the lower of two normal distributions that
    make up all of them.

    By EM from the means of the costs below and above their mean, with equal weights and all costs'
    variance; 1 where all cost the same.
    """
    from sklearn.mixture import GaussianMixture

    values = cost.double().cpu().numpy()
    lower = values <= values.mean()
    if lower.all():
        return cost.new_ones(cost.shape)
    means = [[values[lower].mean()], [values[~lower].mean()]]
    mixture = GaussianMixture(
        2,
        max_iter=_ITERATIONS,
        tol=_TOLERANCE,
        reg_covar=_LEAST_VARIANCE,
        weights_init=[0.5, 0.5],
        means_init=means,
        precisions_init=[[[1 / max(values.var(), _LEAST_VARIANCE)]]] * 2,
    )
    columns = values[:, None]
    mixture.fit(columns)
    return cost.new_tensor(mixture.predict_proba(columns)[:, mixture.means_.argmin()])


@register_strategy(
    name="gmm_split",
    per_class_memory=True,
    paper="Arazo et al. 2019, Li et al. 2020: their first step alone",
    disabled_form="gmm_split(warmup=1)",
    cost=ComputeCost(2, 1, full_set=1),
)
@dataclass
class GmmSplit(Strategy):
    """Small costs and a mixture fit, nothing else: after a warm-up on all labels the network learns
    those that are likely right.

    After each epoch two normal distributions are fitted to the cross entropies of the whole set; an
    example is learned in the next if the chance that its cost is of the lower one exceeds
    `threshold`. warmup: a share of the run, at least an epoch; DivideMix has 10 of 300 epochs. It
    uses no noise rate.
    """

    packable = True
    threshold: Annotated[float, Interval("[0, 1)")] = 0.5
    warmup: Share = 0.1

    def setup(self, info: TrainingInfo) -> None:
        self._labels, self._epochs = info.labels, info.epochs
        self.state["clean"] = info.full((len(info.labels),), 1)

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if batch.epoch <= first_epochs(self.warmup, self._epochs):
            return super().supervise(batch, outputs)
        clean = self.state["clean"][batch.index]
        return [Supervision(batch.targets, (clean > self.threshold).to(clean.dtype))]

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        if first_epochs(self.warmup, self._epochs) <= epoch < self._epochs:
            self.state["clean"].copy_(chance_clean(scaled_cost(whole.log_p(), self._labels)))
