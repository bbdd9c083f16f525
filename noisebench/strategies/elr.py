"""Early-learning regularization (ELR), which pulls predictions towards a moving average of earlier
ones, and ELR+, with two networks, averaged weights and mixup.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

from ..core.parameters import Interval, Share
from .base import (
    Batch,
    ComputeCost,
    Networks,
    Outputs,
    Strategy,
    Tensor,
    TrainingInfo,
    follow,
    one_hot,
    register_strategy,
    sigmoid_ramp,
)
from .mixup import Mixture

_LEAST = 1e-4  # the authors clamp p to [1e-4, 1 - 1e-4], which bounds the term below by log 1e-4


def remembered(memory: Tensor, index: Tensor, p: Tensor, beta: float) -> Tensor:
    """Updates memory (N, K) at index (B,) to beta t + (1 - beta) p, with p (B, K) clamped and
    scaled to sum to 1, and returns the new rows (B, K). No gradient.
    """
    clamped = p.detach().clamp(_LEAST, 1 - _LEAST)
    t = beta * memory[index] + (1 - beta) * clamped / clamped.sum(1, keepdim=True)
    memory[index] = t
    return t


def early_term(t: Tensor, p: Tensor) -> Tensor:
    """Returns the mean of log(1 - <t, p>) over rows t and p (B, K); it falls as p approaches t. p
    is clamped, without gradient where it is out of bounds.
    """
    return (1 - (t * p.clamp(_LEAST, 1 - _LEAST)).sum(1)).log().mean()


@register_strategy(
    name="elr",
    per_class_memory=True,
    paper="Liu et al. 2020",
    disabled_form="elr(lam=0)",
    cost=ComputeCost(1, 1),
)
@dataclass
class ELR(Strategy):
    """Early-learning regularization: cost + lam * mean log(1 - <t, p>), t (N, K) a memory beta t +
    (1 - beta) p of earlier predictions.

    The memory starts at 0 and is updated before the term is computed. The authors' settings, with
    CE: lam 3, beta 0.7; 1 and 0.9 under asymmetric noise, 7 and 0.9 on CIFAR-100. A bounded loss
    such as GCE or EL has a small gradient for unlikely labels, and lam=3 may outweigh it until only
    one class is predicted, as on digits; lam=1, beta=0.9 does not.
    """

    packable = True
    lam: Annotated[float, Interval("[0, 100]")] = 3.0
    beta: Annotated[float, Interval("[0, 1)")] = 0.7

    def setup(self, info: TrainingInfo) -> None:
        self.state["memory"] = info.full((len(info.labels), info.num_classes), 0)

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        if not self.lam:
            return None
        p = outputs[0][0].log_p.exp()
        return self.lam * early_term(remembered(self.state["memory"], batch.index, p, self.beta), p)


@register_strategy(
    name="elr_plus", per_class_memory=True, paper="Liu et al. 2020", cost=ComputeCost(4, 2)
)
@dataclass
class ElrPlus(Strategy):
    """ELR+: two networks trained on mixed images, each regularized towards a memory of the
    predictions of the other's averaged weights.

    cost + lam * mean log(1 - <t, p>), with t the memory beta t + (1 - beta) p, mixed as the images
    are (Beta(alpha, alpha), the larger share for the example itself). lam 3, beta 0.7; 1 and 0.9
    under asymmetric noise, 7 and 0.9 on CIFAR-100. decay: of the averaged weights, ramped up over
    average_ramp of the run (40,000 steps, half of 200 epochs); ramp: the same for lam, on CIFAR-100
    only. Both ramps are exp(-5 (1 - t)^2), by epoch.

    Differences: the averaged network predicts with averaged batch norm statistics, the authors'
    with those of the batch. On CIFAR-100 they weight the mixed labels by the memory, which is not
    done here. Both networks train on the same batches. To predict, their probabilities are
    averaged; the authors average logits.
    """

    num_networks = 2
    lam: Annotated[float, Interval("[0, 100]")] = 3.0
    beta: Annotated[float, Interval("[0, 1)")] = 0.7
    alpha: Annotated[float, Interval("(0, 100]")] = 1.0
    decay: Annotated[float, Interval("[0, 1)")] = 0.997
    average_ramp: Share = 0.5
    ramp: Share = 0.0

    def setup(self, info: TrainingInfo) -> None:
        super().setup(info)
        memory = info.full((self.num_networks, len(info.labels), info.num_classes), 0)
        self.state.update(memory=memory, averages=[{} for _ in range(self.num_networks)])

    def prepare_batch(self, batch: Batch, networks: Networks) -> Batch:
        mixture = Mixture.draw(
            len(batch.index), self.alpha, batch.generator, own=True, device=batch.index.device
        )
        decay = self.decay * sigmoid_ramp(batch.epoch - 1, self.average_ramp * self.info.epochs)
        self._early = []
        for number, average in enumerate(self.state["averages"]):
            follow(average, networks.networks[number], decay)
            p = networks.predict_log_p(batch.views[0], number, average).exp()
            memory = self.state["memory"][1 - number]  # the target of the other network
            self._early.append(mixture(remembered(memory, batch.index, p, self.beta)))
        self._early.reverse()
        rows = one_hot(batch.labels, self._early[0])
        return replace(batch, views=(mixture(batch.views[0]),), targets=mixture(rows))

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        weight = self.lam * sigmoid_ramp(batch.epoch - 1, self.ramp * self.info.epochs)
        terms: Any = [
            early_term(t, views[0].log_p.exp())
            for t, views in zip(self._early, outputs, strict=True)
        ]
        return weight * sum(terms)
