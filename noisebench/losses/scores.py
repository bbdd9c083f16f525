"""The input of a loss: logits on their way to log_p. Shapes: logits, log_p, cost (N, K); (N, 1)
where the cost of one class each is requested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from ..core.parameters import Inner

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any

__all__ = [
    "Loss",
    "Penalty",
    "Scores",
    "Tensor",
    "TensorMap",
    "at_loss_precision",
    "log_softmax",
    "log_through",
]

TensorMap: TypeAlias = Callable[[Tensor], Tensor]

_FEW = 2**14
_TINY = 1e-300  # floor before the logarithm; float64
_LEAST = 1e-37  # float32's smallest sum whose inverse is finite


def at_loss_precision(values: Tensor, logits: Tensor) -> Tensor:
    """The values in the precision in which a loss of these logits is computed: float64 for float64
    logits, else float32.
    """
    from torch import float64

    return values.double() if logits.dtype == float64 else values.float()


def log_softmax(logits: Tensor) -> Tensor:
    """The default link: float32 whatever the autocast dtype (float64 for float64 logits), and never
    softmax then log.
    """
    # In float64 inside: float32's own is off by 6e-8 where a class is nearly sure, and rce
    # multiplies that by -A = 9.21.
    return at_loss_precision(logits.double().log_softmax(1), logits)


def log_through(p: Tensor, T: Tensor) -> Tensor:
    """log(p T) (N, K), of recorded labels where p (N, K) is of clean ones and T (K, K), both
    float64; never -inf.
    """
    return (p @ T).clamp_min(_TINY).log()


def log_softmax_at(logits: Tensor, classes: Tensor) -> Tensor:
    """log_p (N, 1) of one class each, to float32's full relative accuracy where p is nearly 1
    too.
    """
    from torch import arange, float64
    from torch.compiler import is_compiling
    from torch.nn.functional import cross_entropy, softplus

    compiled = is_compiling()
    if logits.dtype == float64 or (logits.numel() < _FEW and not compiled):
        # A small batch takes less time in one call in float64 than in seven in float32.
        log_p = -cross_entropy(logits.double(), classes.squeeze(1), reduction="none").unsqueeze(1)
        return at_loss_precision(log_p, logits)
    logits = logits.float()  # by the odds of all the others, which cancel nothing
    largest = logits.detach().amax(1, keepdim=True)
    odds = (logits - largest).exp()
    # A compiler melts a mask into the sum, but not a scatter, which alone is the cheaper.
    others = (
        odds.masked_fill(classes == arange(odds.shape[1], device=odds.device), 0)
        if compiled
        else odds.scatter(1, classes, 0)
    )
    return -softplus(
        others.sum(1, keepdim=True).clamp_min(_LEAST).log() + (largest - logits.gather(1, classes))
    )


def unchanged(log_p: Tensor) -> Tensor:
    return log_p


@dataclass
class Scores:
    """A batch's logits, the link to log_p, and a strategy's adaptation of log_p (a learned T, SOP's
    u and v).

    classes (N, 1): those whose cost alone is requested, which is cheaper; None for all.
    """

    logits: Tensor
    link: TensorMap = log_softmax
    transform: TensorMap = unchanged
    classes: Tensor | None = None
    _log_p: Tensor | None = field(default=None, init=False, repr=False)

    @property
    def log_p(self) -> Tensor:
        if self._log_p is None:  # a cached_property would break a compiled graph
            self._log_p = self.transform(self.link(self.logits))
        return self._log_p

    @property
    def log_p_of_requested(self) -> Tensor:
        """log_p of the requested classes: (N, K), or (N, 1)."""
        if self.classes is not None and self.link is log_softmax and self.transform is unchanged:
            return log_softmax_at(self.logits, self.classes)
        return self.select(self.log_p)

    def select(self, values: Tensor) -> Tensor:
        """Of (N, K) the requested classes."""
        return values if self.classes is None else values.gather(1, self.classes)

    @property
    def all_classes(self) -> Scores:
        """The same with all classes requested."""
        return self if self.classes is None else replace(self, classes=None)

    def with_log_p(self, change: TensorMap) -> Scores:
        """The same with a further change of log_p."""
        return replace(self, transform=lambda log_p: change(self.transform(log_p)))


Loss: TypeAlias = Annotated[Callable[[Scores], Tensor], Inner()]
"""scores -> cost (N, K) of each possible label, or (N, 1) of the requested ones. A pure function
without labels or device.
"""

Penalty: TypeAlias = Callable[[Sequence[Tensor]], Tensor]
"""A network's parameters -> a scalar."""
