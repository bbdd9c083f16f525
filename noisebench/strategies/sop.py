"""Sparse over-parameterisation (SOP): the label noise of each example is modelled by parameters
that are learned jointly with the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from ..core.parameters import Interval
from .base import (
    Batch,
    ComputeCost,
    Outputs,
    Strategy,
    Tensor,
    TrainingInfo,
    balance,
    consistency,
    one_hot,
    register_strategy,
)

_SPREAD = 1e-8  # standard deviation of the initial u and v
_FLOOR = 1e-4  # lower bound of a probability


def explained(log_p: Tensor, noise: Tensor) -> Tensor:
    """Returns the log (B, K) of p + noise (B, K), clamped to at least 1e-4 and scaled to sum to 1.
    Clamped probabilities have no gradient, as in the authors' code.
    """
    q = (log_p.exp() + noise).clamp_min(_FLOOR)
    return (q / q.sum(1, keepdim=True)).clamp_min(_FLOOR).log()


@register_strategy(
    name="sop",
    per_class_memory=True,
    paper="Liu et al. 2022",
    disabled_form="sop(lr_u=0, lr_v=0)",
    cost=ComputeCost(1, 1),
)
@dataclass
class SOP(Strategy):
    """Sparse over-parameterisation: the loss of p + s, s = u^2 y - v^2 (1 - y), where s models the
    label noise of each example.

    u (N, 1) is trained by the loss, v (N, K) only by the squared error |(predicted class) + s -
    y|^2. Both start at random within about 1e-8 and grow in proportion to themselves, so s stays
    sparse, and near 0 for the first tens of epochs. lr_u, lr_v: 10 and 10 on CIFAR-10, 1 and 10 on
    CIFAR-100 (asymmetric noise: 1 and 100), 300 epochs in batches of 128.

    Both are updated by plain gradient descent without momentum, weight decay or schedule, as in the
    authors' code, only for the rows of the batch: a step costs B x K numbers, the memory is N x K.
    In the authors' later code the squared error trains u too (then 0.1 and 100).
    """

    packable = True
    per_example_parameters = ("u", "v")
    lr_u: Annotated[float, Interval("[0, 1e4]")] = 10.0
    lr_v: Annotated[float, Interval("[0, 1e4]")] = 10.0

    def setup(self, info: TrainingInfo) -> None:
        from torch import randn

        for name, columns in (("u", 1), ("v", info.num_classes)):
            initial = _SPREAD * randn(len(info.labels), columns, generator=info.generator)
            self.state[name] = initial.to(info.labels.device)

    def transform_log_p(self, log_p: Tensor, batch: Batch, network: int) -> Tensor:
        if not (self.lr_u or self.lr_v):
            return log_p
        return explained(
            log_p, self._noise(log_p, batch, u=self._moving("u", batch.index, self.lr_u))
        )

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        if not (self.lr_u or self.lr_v):
            return None
        logits = outputs[0][0].logits.detach()
        noise = self._noise(logits, batch, v=self._moving("v", batch.index, self.lr_v))
        return (
            (one_hot(logits.argmax(1), logits) + noise - one_hot(batch.labels, logits))
            .square()
            .sum(1)
            .mean()
        )

    def _noise(
        self, like: Tensor, batch: Batch, u: Tensor | None = None, v: Tensor | None = None
    ) -> Tensor:
        """Returns s (B, K), differentiable in u (B, 1) or v (B, K) if that is given."""
        u = self.state["u"][batch.index] if u is None else u
        v = self.state["v"][batch.index] if v is None else v
        y = one_hot(batch.labels, like)
        return u.square().clamp_max(1) * y - v.square().clamp_max(1) * (1 - y)

    def _moving(self, name: str, index: Tensor, lr: float) -> Tensor:
        """Returns rows of u or v that are updated as soon as their gradient is computed. Called
        once for each link of the loss.
        """
        rows: Tensor = self.state[name][index].requires_grad_()
        rows.register_post_accumulate_grad_hook(partial(self._move, name=name, index=index, lr=lr))
        return rows

    def _move(self, rows: Tensor, *, name: str, index: Tensor, lr: float) -> None:
        assert rows.grad is not None, "the hook runs after the gradient is accumulated"
        self.state[name][index] -= lr * rows.grad


@register_strategy(
    name="sop_plus", per_class_memory=True, paper="Liu et al. 2022", cost=ComputeCost(2, 2)
)
@dataclass
class SOPPlus(SOP):
    """SOP+: SOP with a consistency term between two views and a balance term over the classes.

    cost of the first view + consistency * KL(p of the first | p of the second) + balance *
    KL(uniform | mean p + s). Both views use the recipe's augmentation; the authors' second view
    uses AutoAugment with cutout. The uniform prior assumes balanced classes.
    """

    num_views = 2
    packable = False
    consistency: Annotated[float, Interval("[0, 100]")] = 0.9
    balance: Annotated[float, Interval("[0, 100]")] = 0.1

    def regularizer(self, batch: Batch, outputs: Outputs) -> Tensor | None:
        first, second = outputs[0]
        log_ps = [view.logits.log_softmax(1) for view in (first, second)]
        total = self.consistency * consistency(*log_ps) + self.balance * balance(first.log_p)
        squared = super().regularizer(batch, outputs)
        return total if squared is None else total + squared
