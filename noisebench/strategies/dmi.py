"""The determinant-based mutual information of predictions and given labels, as a loss of the whole
batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..core.parameters import Interval, Share
from .base import (
    Batch,
    ComputeCost,
    Outputs,
    Strategy,
    Supervision,
    Tensor,
    TrainingInfo,
    first_epochs,
    one_hot,
    register_strategy,
)


def determinant_loss(log_p: Tensor, targets: Tensor, delta: float) -> Tensor:
    """-log |det K U| (scalar) of the joint U = P^T Y / B (K, K) of log_p (B, K) and targets (B, K),
    kept finite by delta.

    -1/2 sum log(s^2 + delta^2) over the singular values s of K U, as -1/2 log det(K^2 U U^T +
    delta^2 I), in float64.
    """
    from torch import eye
    from torch.linalg import slogdet

    p = log_p.double().exp()
    joint = p.T @ targets.double() * (p.shape[1] / len(p))
    floor = delta**2 * eye(len(joint), dtype=joint.dtype, device=joint.device)
    return (-slogdet(joint @ joint.T + floor).logabsdet / 2).to(log_p.dtype)


@register_strategy(
    name="dmi", paper="Xu et al. 2019", disabled_form="dmi(warmup=1)", cost=ComputeCost(1, 1)
)
@dataclass
class DMI(Strategy):
    """L_DMI: after a warm-up with the loss of the run, -log |det U| of each batch's joint U of
    prediction and given label.

    Noise by class, T, only shifts it, by -log |det T|, so that the best network is that of clean
    labels. No permutation of the classes changes it at all: the warm-up says which is which (the
    authors begin with CE's best network by noisy validation, and keep DMI's best; we go on from the
    last and keep the last). The paper: 120 + 100 epochs on CIFAR-10, 10 + 10 on Clothing1M.

    weight: times the loss. In place of a learning rate of its own, the authors' 1e-6 after CE's
    1e-3: the recipe's is so large for a loss of such gradients that with weight 1 classes change
    places (on the digits). delta: what keeps it finite, by -1/2 sum log(s^2 + delta^2) over the
    singular values s of K U, which are 1 where predictions are sure and right and classes of one
    size. A class without an example in the batch has s = 0, and with it all beyond the batch's
    size: they cost the same for every prediction, without gradient. At 0.01 the shift is exact to a
    thousandth of each s of 0.2 and the gradient in s at most 50. The authors add 0.001 to |det|,
    which for many classes is far below it, and so kills the gradient; or, of a U not over B, does
    nothing.
    """

    packable = True
    warmup: Share = 0.5455
    weight: Annotated[float, Interval("[0, 100]")] = 0.01
    delta: Annotated[float, Interval("(0, 1]")] = 0.01

    def setup(self, info: TrainingInfo) -> None:
        self._warm = first_epochs(self.warmup, info.epochs)

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        if batch.epoch <= self._warm:
            return super().supervise(batch, outputs)
        return [
            Supervision(
                batch.targets, outputs[0][0].cost.new_zeros(len(batch.labels)), mean_over=True
            )
        ]

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        if batch.epoch <= self._warm:
            return None
        log_p = outputs[0][0].log_p
        return self.weight * determinant_loss(log_p, one_hot(batch.labels, log_p), self.delta)
