"""Early-learning regularisation: an example's earlier predictions keep its prediction in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..core.parameters import Interval
from .base import (
    Batch,
    ComputeCost,
    Outputs,
    Strategy,
    Tensor,
    TrainingInfo,
    register_strategy,
)

_LEAST = 1e-4  # the authors keep p this far from 0 and 1, and with it the term above log 1e-4


def remembered(memory: Tensor, index: Tensor, p: Tensor, beta: float) -> Tensor:
    """t (B, K) of the examples index (B,): beta t + (1 - beta) p, p (B, K) scaled to sum to 1,
    written into memory (N, K). No gradient.
    """
    clamped = p.detach().clamp(_LEAST, 1 - _LEAST)
    t = beta * memory[index] + (1 - beta) * clamped / clamped.sum(1, keepdim=True)
    memory[index] = t
    return t


def early_term(t: Tensor, p: Tensor) -> Tensor:
    """Mean log(1 - <t, p>) over rows t and p (B, K): the lower, the more p agrees with t. p is
    clamped, and has no gradient where that changes it.
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
    """Early-learning regularisation: cost + lam * mean log(1 - <t, p>), t (N, K) a memory beta t +
    (1 - beta) p of earlier predictions.

    The memory starts at 0 and is brought up to date before the term. The authors, with CE: lam 3,
    beta 0.7; 1 and 0.9 under asymmetric noise, 7 and 0.9 on CIFAR-100. A bounded loss, as GCE or
    EL, teaches the less the less likely the label, and lam=3 may outweigh it until one class is
    left, as on digits; lam=1, beta=0.9 does not.
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
