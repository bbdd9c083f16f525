"""What any loss learns in the limit, by its text: the optimum that it was registered with, where it has a closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core.expressions import AUTO, Call, Expression, terms
from ..noise import build_noise
from .catalogue import LOSSES


def predicted(noise: str | Expression, loss: str | Expression, num_classes: int) -> np.ndarray | None:
    """p (K, K), rows = clean class, that a network learns which sees of an image its class alone, under noise by class.

    None for a loss without a closed form, or with a value that only data decide; eps=auto is the noise's nominal rate. Raises
    LanguageError or UnknownName for a text that is no noise by class, or no loss.
    """
    model = build_noise(noise, num_classes)
    return optimum_of(LOSSES.substitute(LOSSES.normal(loss), lambda call: _told(call, model.rate)), model.transition)


def optimum_of(loss: str | Expression, w: np.ndarray) -> np.ndarray | None:
    """The probabilities (..., K) at which the expected cost under label probabilities w (..., K) is least; None as above."""
    ((weight, call), *others) = terms(LOSSES.normal(loss))
    facts, values = LOSSES[call.name].facts, dict(call.kwargs)
    if others or weight < 0 or any(isinstance(value, str) for value in values.values()):
        return None
    if call.args:
        inner = call.args[0]
        return optimum_of(inner, facts["target"](w, **values)) if "target" in facts and isinstance(inner, Expression) else None
    return facts["optimum"](w, **values) if "optimum" in facts else None


def _told(call: Call, rate: float | None) -> Call:
    """With each `auto` that means the noise rate replaced by it, where it is known."""
    rates = [p.name for p in LOSSES[call.name].parameters if p.auto == "rate"]
    kwargs = ((name, rate if rate is not None and name in rates and value == AUTO else value) for name, value in call.kwargs)
    return replace(call, kwargs=tuple(kwargs))
