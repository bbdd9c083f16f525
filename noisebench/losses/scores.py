"""What a loss is given: logits on their way to log_p. Shapes: logits, log_p, cost (N, K)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from ..parameters import Inner

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any

__all__ = ["Loss", "Scores", "Tensor", "TensorMap", "log_softmax"]

TensorMap: TypeAlias = Callable[[Tensor], Tensor]


def log_softmax(logits: Tensor) -> Tensor:
    """The default link: float32 whatever the autocast dtype, and never softmax then log."""
    # In float64 inside: float32's own is off by 6e-8 where a class is nearly sure, and rce multiplies that by -A = 9.21.
    return logits.double().log_softmax(1).float()


def unchanged(log_p: Tensor) -> Tensor:
    return log_p


@dataclass(frozen=True)
class Scores:
    """A batch's logits, the link to log_p, and a strategy's adaptation of log_p (a learned T, SOP's u and v)."""

    logits: Tensor
    link: TensorMap = log_softmax
    adapt: TensorMap = unchanged

    @cached_property
    def log_p(self) -> Tensor:
        return self.adapt(self.link(self.logits))

    def with_logits(self, change: TensorMap) -> Scores:
        """The same on changed logits: a link of one's own."""
        return replace(self, logits=change(self.logits.float()))

    def with_link(self, link: TensorMap) -> Scores:
        """The same with another way from logits to log_p."""
        return replace(self, link=link)

    def with_log_p(self, change: TensorMap) -> Scores:
        """The same with a further change of log_p."""
        return replace(self, adapt=lambda log_p: change(self.adapt(log_p)))


Loss: TypeAlias = Annotated[Callable[[Scores], Tensor], Inner()]
"""scores -> cost (N, K): what would each label cost? Pure; knows no labels and no device."""
