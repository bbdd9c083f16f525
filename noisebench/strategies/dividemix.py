"""Splits of the training set by a mixture model fitted to its losses, where small losses mean
correct labels: selection by this split alone, and DivideMix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from ..core.parameters import Interval, Share
from .base import (
    Batch,
    ComputeCost,
    FullTrainingSet,
    Networks,
    Outputs,
    Strategy,
    Supervision,
    Tensor,
    TrainingInfo,
    balance,
    entropy,
    first_epochs,
    linear_ramp,
    one_hot,
    register_strategy,
    sharpened,
)
from .mixup import Mixture

# EM runs to convergence; the authors of DivideMix stop after 10 steps or below a tolerance of 0.01,
# where the result still depends on the initial values. The variance is theirs.
_ITERATIONS, _TOLERANCE, _LEAST_VARIANCE = 500, 1e-4, 5e-4


def scaled_cost(log_p: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy (N,) of the labels, scaled to [0, 1] over all examples."""
    cost = -log_p.gather(1, labels[:, None])[:, 0].double()
    return (cost - cost.min()) / (cost.max() - cost.min()).clamp_min(1e-12)


def chance_clean(cost: Tensor) -> Tensor:
    """Returns the posterior probability (N,) that a cost (N,) in [0, 1] belongs to the component of
    lower mean in a mixture of two normal distributions.

    Fitted by EM, which starts from the means of the costs below and above the overall mean, equal
    weights and the variance of all costs. 1 if all costs are equal.
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
    """Small-loss selection by a mixture model: after a warm-up on all labels, the network trains on
    those that are probably correct.

    After each epoch a mixture of two normal distributions is fitted to the cross entropies of the
    whole set. An example is used in the next epoch if its probability of belonging to the component
    with the lower mean exceeds `threshold`. warmup: a share of the run, at least one epoch;
    DivideMix has 10 of 300 epochs. It uses no noise rate.
    """

    packable = True
    threshold: Annotated[float, Interval("[0, 1)")] = 0.5
    warmup: Share = 0.1

    def setup(self, info: TrainingInfo) -> None:
        super().setup(info)
        self.state["clean"] = info.full((len(info.labels),), 1)

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if batch.epoch <= first_epochs(self.warmup, self.info.epochs):
            return super().supervise(batch, outputs)
        clean = self.state["clean"][batch.index]
        return [Supervision(batch.targets, (clean > self.threshold).to(clean.dtype))]

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        if first_epochs(self.warmup, self.info.epochs) <= epoch < self.info.epochs:
            self.state["clean"].copy_(chance_clean(scaled_cost(whole.log_p(), self.info.labels)))


def co_refined(given: Tensor, predicted: Tensor, clean: Tensor, temperature: float) -> Tensor:
    """Returns targets (B, K) for labels (B, K) that are probably correct: clean * given + (1 -
    clean) * predicted, sharpened.

    predicted (B, K): the network's mean over the views; clean (B,): the probability that the label
    is correct.
    """
    return sharpened(clean[:, None] * given + (1 - clean[:, None]) * predicted, temperature)


def co_guessed(predicted: Sequence[Tensor], temperature: float) -> Tensor:
    """Returns targets (B, K) for labels that are probably incorrect: the sharpened mean of both
    networks' predictions (B, K), each a mean over the views.
    """
    return sharpened(sum(predicted) / len(predicted), temperature)  # type: ignore[arg-type]


@register_strategy(
    name="dividemix",
    per_class_memory=True,
    paper="Li et al. 2020",
    disabled_form="dividemix(warmup=1)",
    cost=ComputeCost(10, 4, full_set=2),
)
@dataclass
class DivideMix(Strategy):
    """DivideMix: two networks, each trained semi-supervised on the split into probably correct and
    incorrect labels that the other's losses give.

    The split is recomputed after each epoch, from the end of a warm-up on all labels. Labels that
    are probably correct (probability above `threshold`) are refined by the network's own
    predictions, the others are replaced by both networks' predictions; both are sharpened
    (`temperature`) and mixed over two views (Beta(alpha, alpha)). The cost is the loss on mixtures
    of the first kind, plus lambda_u times the squared error of p on those of the second, ramped up
    linearly by epoch, plus KL(uniform | mean p).

    warmup, ramp: shares of the run, at least one epoch; the paper: 10 (CIFAR-100: 30) and 16 of 300
    epochs. lambda_u: per setting in its appendix B, 25 where that has none. confidence: weight of
    the warm-up's negative entropy, 1 under asymmetric noise. window: the number of epochs over
    which costs are averaged, 5 at rate 0.9.

    Differences: here an epoch is one pass over all examples, in the same order and mixture for both
    networks; the authors sample as many incorrect as correct examples, and their epoch has the
    length of the correct ones. Targets are predicted without dropout, with batch norm's running
    statistics. To predict, probabilities are averaged; the authors add logits.
    """

    num_networks = 2
    num_views = 2
    lambda_u: Annotated[float, Interval("[0, 1000]")] = 25.0
    threshold: Annotated[float, Interval("[0, 1)")] = 0.5
    temperature: Annotated[float, Interval("(0, 1]")] = 0.5
    alpha: Annotated[float, Interval("(0, 100]")] = 4.0
    warmup: Share = 0.034
    ramp: Share = 0.0533
    confidence: Annotated[float, Interval("[0, 100]")] = 0.0
    window: Annotated[int, Interval("[1, 100]")] = 1

    def setup(self, info: TrainingInfo) -> None:
        super().setup(info)
        self._warm = first_epochs(self.warmup, info.epochs)
        ones = info.full((self.num_networks, len(info.labels)), 1)
        self.state.update(clean=ones, costs=ones.new_zeros(self.window, *ones.shape), seen=0)

    def prepare_batch(self, batch: Batch, networks: Networks) -> Batch:
        from torch import cat, stack

        if batch.epoch <= self._warm:
            return replace(batch, views=batch.views[:1])
        predicted: list[Any] = [
            sum(networks.predict_log_p(view, number).exp() for view in batch.views) / self.num_views
            for number in range(self.num_networks)
        ]
        self._clean = self.state["clean"][:, batch.index]
        guessed, targets = co_guessed(predicted, self.temperature), []
        for p, clean in zip(predicted, self._clean, strict=True):
            refined = co_refined(one_hot(batch.labels, p), p, clean, self.temperature)
            targets.append(refined.where((clean > self.threshold)[:, None], guessed))
        mixture = Mixture.draw(
            self.num_views * len(batch.index),
            self.alpha,
            batch.generator,
            own=True,
            device=batch.index.device,
        )
        rows = cat([stack(targets)] * self.num_views, 1).transpose(0, 1)
        self._mixed = mixture(rows).transpose(0, 1)
        stacked = batch.stacked()
        return replace(stacked, views=(mixture(stacked.views[0]),))

    def _labelled(self, number: int) -> Tensor:
        """Mask (2B,), 1 for the rows of the mixed batch that are trained as labelled, else 0."""
        clean = self._clean[number]
        return (clean > self.threshold).to(clean.dtype).repeat(self.num_views)

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if batch.epoch <= self._warm:
            return super().supervise(batch, outputs)
        return [
            Supervision(self._mixed[number], self._labelled(number))
            for number in range(self.num_networks)
        ]

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        log_ps = [views[0].log_p for views in outputs]
        if batch.epoch <= self._warm:
            negative: Any = -sum(map(entropy, log_ps))
            return self.confidence * negative if self.confidence else None
        # epochs since the warm-up, counted to the middle of this epoch
        half_done = batch.epoch - self._warm - 0.5
        weight = self.lambda_u * linear_ramp(half_done, self.ramp * self.info.epochs)
        total: Any = sum(balance(log_p) for log_p in log_ps)
        for number, log_p in enumerate(log_ps):
            unlabelled = 1 - self._labelled(number)
            squared = (log_p.exp() - self._mixed[number]).square().mean(1)
            total = total + weight * (unlabelled * squared).sum() / unlabelled.sum().clamp_min(1)
        return total

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        if not self._warm <= epoch < self.info.epochs:
            return
        for number, costs in enumerate(self.state["costs"][epoch % self.window]):
            costs.copy_(scaled_cost(whole.log_p(number), self.info.labels))
        self.state["seen"] = min(self.window, self.state["seen"] + 1)
        mean = self.state["costs"].sum(0) / self.state["seen"]
        # Each network is trained on the split by the other network's costs.
        for clean, costs in zip(self.state["clean"], reversed(mean), strict=True):
            clean.copy_(chance_clean(costs))
