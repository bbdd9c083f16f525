"""ELR+: early-learning regularisation of two networks, each with a memory of the other one's
averaged weights, and mixup.
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
from .elr import early_term, remembered
from .mixup import Mixture


@register_strategy(
    name="elr_plus", per_class_memory=True, paper="Liu et al. 2020", cost=ComputeCost(4, 2)
)
@dataclass
class ElrPlus(Strategy):
    """ELR+: two networks on mixed images. Each is pulled towards a memory of the predictions by the
    other one's averaged weights.

    cost + lam * mean log(1 - <t, p>), with t the memory beta t + (1 - beta) p, mixed as the images
    are (Beta(alpha, alpha), the larger share for the example itself). lam 3, beta 0.7; 1 and 0.9
    under asymmetric noise, 7 and 0.9 on CIFAR-100. decay: of the averaged weights, ramped up over
    average_ramp of the run (40,000 steps, half of 200 epochs); ramp: the same for lam, on CIFAR-100
    only. Both by exp(-5 (1 - t)^2), by epoch.

    The averaged network predicts by the average of its batch norm's statistics, the authors' by
    those of the batch. On CIFAR-100 they weigh the mixed labels by the memory, which is not done
    here. Both networks see the same batches; to predict, their probabilities are averaged, where
    the authors average logits.
    """

    num_networks = 2
    lam: Annotated[float, Interval("[0, 100]")] = 3.0
    beta: Annotated[float, Interval("[0, 1)")] = 0.7
    alpha: Annotated[float, Interval("(0, 100]")] = 1.0
    decay: Annotated[float, Interval("[0, 1)")] = 0.997
    average_ramp: Share = 0.5
    ramp: Share = 0.0

    def setup(self, info: TrainingInfo) -> None:
        self._epochs = info.epochs
        memory = info.full((self.num_networks, len(info.labels), info.num_classes), 0)
        self.state.update(memory=memory, averages=[{} for _ in range(self.num_networks)])

    def prepare_batch(self, batch: Batch, networks: Networks) -> Batch:
        mixture = Mixture.draw(
            len(batch.index), self.alpha, batch.generator, own=True, device=batch.index.device
        )
        decay = self.decay * sigmoid_ramp(batch.epoch - 1, self.average_ramp * self._epochs)
        self._early = []
        for number, average in enumerate(self.state["averages"]):
            follow(average, networks.networks[number], decay)
            p = networks.predict_log_p(batch.views[0], number, average).exp()
            memory = self.state["memory"][1 - number]  # which is the other network's
            self._early.append(mixture(remembered(memory, batch.index, p, self.beta)))
        self._early.reverse()
        rows = one_hot(batch.labels, self._early[0])
        return replace(batch, views=(mixture(batch.views[0]),), targets=mixture(rows))

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        weight = self.lam * sigmoid_ramp(batch.epoch - 1, self.ramp * self._epochs)
        terms: Any = [
            early_term(t, views[0].log_p.exp())
            for t, views in zip(self._early, outputs, strict=True)
        ]
        return weight * sum(terms)
