"""Losses as functions log_p (N, K) -> cost (N, K), with p = exp(log_p) and 1 - p = -expm1(log_p).
First losses whose cost of a class depends only on the probability of that class, then losses of all
probabilities of an example, then penalties on the network's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

import numpy as np

from ..core.expressions import AUTO, Value
from ..core.parameters import Auto, Interval
from ..errors import LanguageError
from .registry import Tensor, register_loss

_TINY = 1e-30  # floor of 1 - p under a fractional power, far below float32's resolution of 1 - p
_SMALL_EPS = 1e-8
_NOT_SMALL = 0.1  # from here on p + eps is computed as 1 + eps - (1 - p) without loss of digits
_LARGEST_POWER = 80.0  # exp(80) = 5.5e34 is still a float32
_NEARLY_ZERO = 1e-12  # below it float32 cannot distinguish a loss from its limit


def equal_loss_optimum(w: np.ndarray, eps: float) -> np.ndarray:
    """The probabilities (..., K) that minimise the expected Equal Loss under label probabilities w
    (..., K), by water-filling.

    p_k = max(0, (1 + m eps) w_k / (sum of w over the m active classes) - eps), where the active
    classes are the m largest; Eq. 8-12 of the paper, solved for m. At eps = 0 it is w, the optimum
    of CE; at eps = inf the largest class, with ties in equal parts. Raises ValueError if rows are
    not probabilities or eps is negative.
    """
    w = np.asarray(w, np.float64)
    if not (w >= 0).all() or not np.allclose(w.sum(-1), 1) or not eps >= 0:
        raise ValueError("the last axis of w must be probabilities, and eps at least 0")
    ordered = -np.sort(-w, axis=-1)
    m = np.arange(1, w.shape[-1] + 1)
    total = ordered.cumsum(-1)
    if math.isinf(eps):
        share = (w == ordered[..., :1]).astype(np.float64)
        return share / share.sum(-1, keepdims=True)
    # p_m > 0, in a form without cancellation for large eps
    last = np.sum(ordered + eps * (m * ordered - total) > 0, -1, keepdims=True) - 1
    active, sum_active = last + 1, np.take_along_axis(total, last, -1)
    return np.maximum(0, (w + eps * (active * w - sum_active)) / sum_active)


def power_optimum(w: np.ndarray, q: float, k: float | None = None) -> np.ndarray | None:
    """Returns the optimum of generalized cross entropy: p_k proportional to w_k^(1 / (1 - q)), the
    largest class at q = 1.

    None for the loss truncated at k: below k there is no gradient, so the result depends on the
    initial network.
    """
    if k:
        return None
    if q == 1:
        return equal_loss_optimum(w, math.inf)
    share = (w / w.max(-1, keepdims=True)) ** (1 / (1 - q))
    return share / share.sum(-1, keepdims=True)


@register_loss(pointwise=True, optimum=lambda w: w)
def ce(log_p: Tensor) -> Tensor:
    """Cross entropy, -log p."""
    return -log_p


@register_loss(
    pointwise=True,
    paper="Ghosh et al. 2017",
    properties=("falls", "equivariant", "nonnegative", "constant_sum"),
    optimum=lambda w: equal_loss_optimum(w, math.inf),
)
def mae(log_p: Tensor) -> Tensor:
    """Mean absolute error of the one-hot target, 2 (1 - p). Papers that write 1 - p have half of
    this value.
    """
    return -2 * log_p.expm1()


@register_loss(pointwise=True, paper="Zhang & Sabuncu 2018", optimum=power_optimum)
def gce(
    log_p: Tensor,
    q: Annotated[float, Interval("(0, 1]")] = 0.7,
    k: Annotated[float | None, Interval("[0, 1)")] = None,
) -> Tensor:
    """Generalized cross entropy, (1 - p^q) / q: CE as q -> 0, MAE / 2 at q = 1.

    k: the loss is constant, without gradient, for p <= k (truncated GCE). The paper uses k = 0.5.
    """
    if k:
        log_p = log_p.clamp_min(math.log(k))
    return ce(log_p) if q < _NEARLY_ZERO else (q * log_p).expm1() * (-1 / q)


@register_loss(
    pointwise=True,
    paper="Wang et al. 2019",
    properties=("falls", "equivariant", "nonnegative", "constant_sum"),
    optimum=lambda w, A: equal_loss_optimum(w, math.inf),
)
def rce(log_p: Tensor, A: Annotated[float, Interval("[-1e6, 0)")] = -9.21) -> Tensor:
    """Reverse cross entropy, -A (1 - p), where A replaces log 0."""
    # The paper has A = -4; the authors' code clips the one-hot label at 1e-4, A = log(1e-4) =
    # -9.21. The default follows the code.
    return A * log_p.expm1()


def _some_weight(values: dict[str, Value]) -> dict[str, Value]:
    if not values["alpha"] and not values["beta"]:
        raise LanguageError("sce: alpha and beta are both 0: set one of them above 0")
    return values


@register_loss(
    pointwise=True, paper="Wang et al. 2019", aliases=("sl",), fill_defaults=_some_weight
)
def sce(
    log_p: Tensor,
    alpha: Annotated[float, Interval("[0, 1e6]")] = 0.1,
    beta: Annotated[float, Interval("[0, 1e6]")] = 1.0,
    A: Annotated[float, Interval("[-1e6, 0)")] = -9.21,
) -> Tensor:
    """Symmetric cross entropy (SL), alpha CE + beta RCE."""
    return alpha * ce(log_p) + beta * rce(log_p, A)


@register_loss(
    pointwise=True, paper="Cui et al., Equal Loss", module="EqualLoss", optimum=equal_loss_optimum
)
def el(
    log_p: Tensor,
    eps: Annotated[float, Interval("[0, inf]"), Auto("rate")] = AUTO,  # type: ignore[assignment]
) -> Tensor:
    """Equal Loss, -(1 + eps) log((p + eps) / (1 + eps)): CE at eps = 0, 1 - p (MAE / 2) as eps ->
    inf.

    eps: the noise rate. The gradient is CE's times (1 + eps) p / (p + eps), a factor of at most 1
    that is small for unlikely labels. It equals (1 + eps) AGCE as q -> 0, with a = eps.

    Where the given labels of an image have probabilities w, the loss is minimized by max(0, (1 + m
    eps) w_k / (sum of w over the m active classes) - eps). This is the largest class alone, as with
    clean labels, once (1 + eps) / eps times every other w_k is at most the largest: under symmetric
    noise of rate eps while eps <= 1 - 2 / K; under pair flips of rate r only from eps = r / (1 - 2
    r), which is above r.
    """
    if eps == 0:
        return ce(log_p)
    if eps > 1 / _NEARLY_ZERO:
        return -log_p.expm1()
    if eps < _SMALL_EPS:  # 1 / (p + eps)^2 would overflow in the gradient
        return (1 + eps) * (
            math.log1p(eps) - log_p.logaddexp(log_p.new_tensor(math.log(eps)))
        ).clamp_min(0)
    if eps > _NOT_SMALL:
        return -(1 + eps) * (log_p.expm1() / (1 + eps)).log1p()
    # log1p((1 - p) / (p + eps)) is the same logarithm without cancellation at either end.
    return (1 + eps) * (-log_p.expm1() / (log_p.exp() + eps)).log1p()


@register_loss(pointwise=True, paper="Lin et al. 2017")
def focal(
    log_p: Tensor, gamma: Annotated[float, Interval("[0, 10]")] = 2.0, detach: bool = False
) -> Tensor:
    """Focal loss, -(1 - p)^gamma log p: CE at gamma = 0.

    By default the gradient is that of the formula, as in the paper. With detach=True the factor (1
    - p)^gamma is a constant: the value is the same, the gradient is CE's times (1 - p)^gamma. The
    authors' code of APL (also for nfl), ANL, ALFs, JAL and epsilon-softmax does this, and so do the
    presets that follow them: focal(gamma=0.5, detach=True), nfl(detach=True).
    """
    factor = (-log_p.expm1()).clamp_min(_TINY).pow(gamma)
    return (factor.detach() if detach else factor) * -log_p


def _one_minus_p(log_p: Tensor) -> Tensor:
    """Returns 1 - p with the gradient of -p. The gradient of expm1 is 0 for p below 3e-8, which
    matters after multiplication by a large factor.
    """
    p = log_p.exp()
    return (p.detach() - p) - log_p.detach().expm1()


@register_loss(pointwise=True, paper="Zhou et al. 2021")
def agce(
    log_p: Tensor,
    a: Annotated[float, Interval("[1e-8, 1e3]")] = 0.6,
    q: Annotated[float, Interval("(0, 10]")] = 0.6,
) -> Tensor:
    """Asymmetric generalized cross entropy, ((a + 1)^q - (a + p)^q) / q: EL / (1 + a) with eps = a
    as q -> 0.
    """
    # log((a + p) / (a + 1)) without cancellation: by 1 - p near p = 1, by p near p = 0 for small a
    shrunk = (
        (_one_minus_p(log_p) / -(a + 1)).log1p()
        if a > _NOT_SMALL
        else (log_p.exp() + a).log() - math.log1p(a)
    )
    return -shrunk if q < _NEARLY_ZERO else (q * shrunk).expm1() * (-((a + 1) ** q) / q)


@register_loss(pointwise=True, paper="Zhou et al. 2021")
def aul(
    log_p: Tensor,
    a: Annotated[float, Interval("[1.000001, 1e3]")] = 5.5,
    q: Annotated[float, Interval("(0, 10]")] = 3.0,
) -> Tensor:
    """Asymmetric unhinged loss, ((a - p)^q - (a - 1)^q) / q with a > 1: 1 - p at q = 1."""
    wrong = _one_minus_p(log_p)
    if q * -math.log(a - 1) > _LARGEST_POWER:  # a - 1 is too small for cancellation
        return ((wrong + (a - 1)).pow(q) - (a - 1) ** q) / q
    grown = (wrong / (a - 1)).log1p()
    return grown if q < _NEARLY_ZERO else (q * grown).expm1() * ((a - 1) ** q / q)


@register_loss(pointwise=True, paper="Zhou et al. 2021")
def ael(log_p: Tensor, a: Annotated[float, Interval("[1e-2, 1e3]")] = 2.5) -> Tensor:
    """Asymmetric exponential loss, exp(-p / a): at least e^(-1/a), its value at p = 1."""
    return (-log_p.exp() / a).exp()


@register_loss(pointwise=True, paper="Feng et al. 2020")
def taylor(log_p: Tensor, t: Annotated[int, Interval("[1, 100]")] = 2) -> Tensor:
    """Taylor cross entropy, the sum of (1 - p)^i / i for i = 1 to t: 1 - p (MAE / 2) at t = 1, CE
    as t -> inf.
    """
    wrong = _one_minus_p(log_p)
    total = wrong / t
    for i in range(t - 1, 0, -1):  # Horner's scheme
        total = wrong * (total + 1 / i)
    return total


@register_loss(pointwise=True, paper="Menon et al. 2020")
def phuber(log_p: Tensor, tau: Annotated[float, Interval("(1, 1e6]")] = 10.0) -> Tensor:
    """Partially Huberised cross entropy, -log p for p > 1 / tau, else its tangent log tau + 1 - tau
    p.
    """
    # The paper clips the gradient at tau. Sources: 2 on CIFAR-10, 10 (paper) or 50 (reproduction)
    # on CIFAR-100.
    return (-log_p).where(log_p > -math.log(tau), math.log(tau) + 1 - tau * log_p.exp())


@register_loss(pointwise=True, paper="Englesson & Azizpour 2021")
def js(log_p: Tensor, pi: Annotated[float, Interval("[1e-6, 0.999999]")] = 0.5) -> Tensor:
    """Jensen-Shannon divergence of the one-hot label (weight pi) and p, divided by -(1 - pi) log(1
    - pi): CE as pi -> 0, 1 - p as pi -> 1.
    """
    # the division by about pi needs float64
    dtype, log_p, lost = log_p.dtype, log_p.double(), math.log1p(-pi)
    # 1 + missing: the mixture at the label; elsewhere it is (1 - pi) p
    p, missing = log_p.exp(), (1 - pi) * log_p.expm1()
    return (
        ((1 - pi) * p * log_p - (1 + missing) * missing.log1p() + missing * lost)
        / (-(1 - pi) * lost)
    ).to(dtype)


@register_loss(
    paper="Ye et al. 2023", properties=("falls", "equivariant", "nonnegative", "constant_sum")
)
def nnce(log_p: Tensor, pmin: Annotated[float, Interval("[1e-30, 1e-4]")] = 1e-7) -> Tensor:
    """Normalized negative cross entropy, 1 - (A + log p_k) / sum_j (A + log p_j), with A = -log
    pmin and p clamped to at least pmin.
    """
    above = log_p.clamp_min(math.log(pmin)) - math.log(pmin)
    return 1 - above / above.sum(1, keepdim=True)


@register_loss(paper="JAL, ICCV 2025")
def amse(log_p: Tensor, a: Annotated[float, Interval("[1, 1e3]")] = 30.0) -> Tensor:
    """Asymmetric mean squared error, the mean over the classes of (a e_k - p)^2, with e_k the
    one-hot label: the Brier score divided by K at a = 1.
    """
    p = log_p.exp()
    return (p.square().sum(1, keepdim=True) - 2 * a * p + a * a) / log_p.shape[1]


@register_loss(paper="Ye et al. 2023", properties=(), penalty=True)
def l1(parameters: Iterable[Tensor], weight: Annotated[float, Interval("(0, 1e3]")]) -> Tensor:
    """L1 penalty on the network's parameters, weight times the sum of |theta|, with normalization
    layers included: `ce + l1(5e-5)`.
    """
    return weight * sum(  # type: ignore[return-value]
        parameter.abs().sum() for parameter in parameters
    )
