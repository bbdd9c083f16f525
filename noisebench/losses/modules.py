"""Losses as torch.nn.Module, for other training loops."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..core.expressions import Call
from ..core.registry import Entry
from ..errors import ConfigError, LanguageError
from . import LOSSES, build_loss, build_penalty, cost_of

_REDUCTIONS = ("mean", "sum", "none")


class LossModule(nn.Module):
    """Drop-in replacement for nn.CrossEntropyLoss: `LossModule("gce(q=0.7)")(logits, target)`.

    logits: (K,), (N, K) or (N, K, d1, ...). target: class numbers of that shape without K, or
    probabilities of the same shape as logits. weight (K,): scales each class; the mean then divides
    by the sum of the targets' weights. Examples of class `ignore_index` have no cost. reduction:
    mean, sum or none.

    Raises LanguageError for an `auto`, since the noise is known only with a manifest, and for a
    penalty on parameters.
    """

    weight: Tensor | None

    def __init__(
        self,
        text: str,
        reduction: str = "mean",
        ignore_index: int = -100,
        weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        if reduction not in _REDUCTIONS:
            raise ConfigError(f"reduction is one of {', '.join(_REDUCTIONS)}, got {reduction!r}")
        self.text, self.reduction, self.ignore_index = (
            LOSSES.canonical(text),
            reduction,
            ignore_index,
        )
        self.register_buffer("weight", weight)
        self._loss = build_loss(self.text)
        if build_penalty(self.text):
            raise LanguageError(
                f"{self.text}: a loss module does not see the network; add the "
                "penalty to what it returns"
            )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        by_class = logits.dim() == 1
        rows = (
            logits
            if logits.dim() == 2
            else logits.unsqueeze(0)
            if by_class
            else logits.movedim(1, -1)
        )
        flat = rows if rows.dim() == 2 else rows.reshape(-1, rows.shape[-1])
        divisor: Tensor | int  # of a mean
        if target.is_floating_point():
            goal = (target.unsqueeze(0) if by_class else target.movedim(1, -1)).reshape(flat.shape)
            cost = cost_of(self._loss, flat)
            weighted = cost if self.weight is None else cost * self.weight
            costs, divisor = (weighted * goal).sum(1), len(cost)
        else:
            labels = target.reshape(-1)
            ignored = labels == self.ignore_index
            labels = labels.masked_fill(ignored, 0)
            costs = cost_of(self._loss, flat, labels).masked_fill(ignored, 0)
            divisor = ignored.logical_not().sum()
            if self.weight is not None:
                weights = self.weight[labels].masked_fill(ignored, 0)
                costs, divisor = costs * weights, weights.sum()
        if self.reduction == "none":
            return costs.reshape(() if by_class else rows.shape[:-1])
        return costs.sum() if self.reduction == "sum" else costs.sum() / divisor

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return LossModule, (self.text, self.reduction, self.ignore_index, self.weight)

    def extra_repr(self) -> str:
        return f"{self.text!r}, reduction={self.reduction!r}"


def module_class(entry: Entry, name: str) -> type[LossModule]:
    """Returns the class of a loss, whose keywords are the loss's parameters and LossModule's:
    `EqualLoss(eps=0.4, reduction="sum")`.
    """
    parameters = [
        inspect.Parameter(p.name, inspect.Parameter.KEYWORD_ONLY, default=p.default)
        for p in entry.parameters
    ]
    shared = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for p in list(inspect.signature(LossModule).parameters.values())[1:]
    ]

    def construct(self: LossModule, **given: Any) -> None:
        module = {p.name: given.pop(p.name) for p in shared if p.name in given}
        LossModule.__init__(
            self, str(LOSSES.normal(Call(entry.name, (), tuple(given.items())))), **module
        )

    facts = {
        "__doc__": entry.doc,
        "__module__": "noisebench.losses",
        "__signature__": inspect.Signature([*parameters, *shared]),
    }
    return type(name, (LossModule,), {"__init__": construct, **facts})
