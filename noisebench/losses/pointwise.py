"""Costs by one probability each: log_p (N, K) -> cost (N, K). Pure tensor methods; p is exp(log_p), 1 - p is -expm1."""

from __future__ import annotations

import math
from typing import Annotated

from ..errors import LanguageError
from ..parameters import Auto, Interval
from ..spec import AUTO, Value
from .catalogue import register_loss
from .scores import Tensor

_TINY = 1e-30  # floor of 1 - p under a fractional power, far below float32's resolution of 1 - p
_SMALL_EPS = 1e-8
_NEARLY_ZERO = 1e-12  # from here float32 cannot tell a limit from its limit case


@register_loss
def ce(log_p: Tensor) -> Tensor:
    """Cross entropy, -log p."""
    return -log_p


@register_loss(paper="Ghosh et al. 2017", laws=("falls", "equivariant", "nonnegative", "constant_sum"))
def mae(log_p: Tensor) -> Tensor:
    """Mean absolute error of the one-hot target, 2 (1 - p). Papers that write 1 - p have half of this."""
    return -2 * log_p.expm1()


@register_loss(paper="Zhang & Sabuncu 2018")
def gce(log_p: Tensor, q: Annotated[float, Interval("(0, 1]")] = 0.7) -> Tensor:
    """Generalised cross entropy, (1 - p^q) / q: CE as q -> 0, MAE / 2 at q = 1."""
    return ce(log_p) if q < _NEARLY_ZERO else -(q * log_p).expm1() / q


@register_loss(paper="Wang et al. 2019", laws=("falls", "equivariant", "nonnegative", "constant_sum"))
def rce(log_p: Tensor, A: Annotated[float, Interval("[-1e6, 0)")] = -9.21) -> Tensor:
    """Reverse cross entropy with log 0 := A, that is -A (1 - p)."""
    # The paper says A = -4; the authors' code clips the one-hot label at 1e-4, A = log(1e-4) = -9.21. The default is the code.
    return A * log_p.expm1()


def _some_weight(values: dict[str, Value]) -> dict[str, Value]:
    if not values["alpha"] and not values["beta"]:
        raise LanguageError("sce: alpha and beta are both 0, which leaves no loss")
    return values


@register_loss(paper="Wang et al. 2019", aliases=("sl",), complete=_some_weight)
def sce(
    log_p: Tensor,
    alpha: Annotated[float, Interval("[0, 1e6]")] = 0.1,
    beta: Annotated[float, Interval("[0, 1e6]")] = 1.0,
    A: Annotated[float, Interval("[-1e6, 0)")] = -9.21,
) -> Tensor:
    """Symmetric cross entropy (SL), alpha CE + beta RCE."""
    return alpha * ce(log_p) + beta * rce(log_p, A)


@register_loss(paper="Cui et al., Equal Loss")
def el(log_p: Tensor, eps: Annotated[float, Interval("[0, inf]"), Auto("rate")] = AUTO) -> Tensor:  # type: ignore[assignment]
    """Equal Loss, -(1 + eps) log((p + eps) / (1 + eps)): CE at eps = 0, 1 - p (MAE / 2) as eps -> inf. eps: the noise rate."""
    if eps == 0:
        return ce(log_p)
    if eps > 1 / _NEARLY_ZERO:
        return -log_p.expm1()
    if eps < _SMALL_EPS:  # 1 / (p + eps)^2 would overflow in the gradient
        return (1 + eps) * (math.log1p(eps) - log_p.logaddexp(log_p.new_tensor(math.log(eps)))).clamp_min(0)
    # log1p((1 - p) / (p + eps)) is the same logarithm without cancellation at either end.
    return (1 + eps) * (-log_p.expm1() / (log_p.exp() + eps)).log1p()


@register_loss(paper="Lin et al. 2017")
def focal(log_p: Tensor, gamma: Annotated[float, Interval("[0, 10]")] = 2.0) -> Tensor:
    """Focal loss, -(1 - p)^gamma log p: CE at gamma = 0."""
    return (-log_p.expm1()).clamp_min(_TINY).pow(gamma) * -log_p
