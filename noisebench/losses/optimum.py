"""The predictions that minimize the expected loss, from the probabilities of the given labels: of
any loss that is registered with a closed form. numpy.
"""

from __future__ import annotations

import math

import numpy as np

from ..core.expressions import AUTO, Call, Expression, Value, terms
from ..core.parameters import Parameter
from ..noise import build_noise
from .registry import LOSSES


def equal_loss_optimum(w: np.ndarray, eps: float) -> np.ndarray:
    """The probabilities (..., K) that minimise the expected Equal Loss under label probabilities w
    (..., K), by water-filling.

    p_k = max(0, (1 + m eps) w_k / (sum of w over the m active classes) - eps), the active ones
    being the largest; Eq. 8-12 of the paper with their number solved for. w itself (what CE learns)
    at eps = 0; its largest class, ties in equal parts, at eps = inf. Raises ValueError for rows
    that are no probabilities or a negative eps.
    """
    w = np.asarray(w, np.float64)
    if not (w >= 0).all() or not np.allclose(w.sum(-1), 1) or not eps >= 0:
        raise ValueError("w must be probabilities in its last axis, eps at least 0")
    ordered = -np.sort(-w, axis=-1)
    m = np.arange(1, w.shape[-1] + 1)
    total = ordered.cumsum(-1)
    if math.isinf(eps):
        share = (w == ordered[..., :1]).astype(np.float64)
        return share / share.sum(-1, keepdims=True)
    # p_m > 0 in the form that cancels nothing where eps is large
    last = np.sum(ordered + eps * (m * ordered - total) > 0, -1, keepdims=True) - 1
    active, sum_active = last + 1, np.take_along_axis(total, last, -1)
    return np.maximum(0, (w + eps * (active * w - sum_active)) / sum_active)


def power_optimum(w: np.ndarray, q: float, k: float | None = None) -> np.ndarray | None:
    """The same of generalised cross entropy: p_k in proportion to w_k^(1 / (1 - q)), the largest
    class at q = 1.

    None where it is truncated at k, below which there is no gradient, so that the result depends on
    the initial network.
    """
    if k:
        return None
    if q == 1:
        return equal_loss_optimum(w, math.inf)
    share = (w / w.max(-1, keepdims=True)) ** (1 / (1 - q))
    return share / share.sum(-1, keepdims=True)


def predicted(
    noise: str | Expression, loss: str | Expression, num_classes: int
) -> np.ndarray | None:
    """p (K, K), rows = clean class, that a network learns which sees of an image its class alone,
    under noise by class.

    None for a loss without a closed form, or with a value that only data decide; eps=auto is the
    noise's nominal rate. Raises LanguageError or UnknownName for a text that is no noise by class,
    or no loss.
    """
    model = build_noise(noise, num_classes)

    def fill(call: Call, parameter: Parameter, value: Value) -> Value:
        is_rate = parameter.auto == "rate" and value == AUTO
        return model.rate if is_rate and model.rate is not None else value

    return optimum_of(LOSSES.map_arguments(LOSSES.normal(loss), fill), model.transition)


def optimum_of(loss: str | Expression, w: np.ndarray) -> np.ndarray | None:
    """The probabilities (..., K) at which the expected cost under label probabilities w (..., K) is
    least; None as above.
    """
    ((weight, call), *others) = terms(LOSSES.normal(loss))
    facts, values = LOSSES[call.name].facts, dict(call.kwargs)
    if others or weight < 0 or any(isinstance(value, str) for value in values.values()):
        return None
    if call.args:
        inner = call.args[0]
        return (
            optimum_of(inner, facts["target"](w, **values))
            if "target" in facts and isinstance(inner, Expression)
            else None
        )
    return facts["optimum"](w, **values) if "optimum" in facts else None
