"""Strategies without state: standard training and bootstrapping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ..core.expressions import Value
from ..core.parameters import Interval, OneOf
from .base import (
    Batch,
    ComputeCost,
    Outputs,
    Strategy,
    Supervision,
    one_hot,
    register_strategy,
)

_BETA = {"hard": 0.8, "soft": 0.95}  # the paper's


@register_strategy(name="standard", disabled_form="standard", cost=ComputeCost(1, 1))
@dataclass
class Standard(Strategy):
    """Plain training on the given labels, with equal weights."""

    packable = True
    stateless = True


def _complete(values: dict[str, Value]) -> dict[str, Value]:
    return values if values["beta"] is not None else {**values, "beta": _BETA[str(values["kind"])]}


@register_strategy(
    name="bootstrap",
    paper="Reed et al. 2015",
    fill_defaults=_complete,
    disabled_form="bootstrap(beta=1)",
    cost=ComputeCost(1, 1),
)
@dataclass
class Bootstrap(Strategy):
    """Bootstrapping, the target beta y + (1 - beta) q, q being the predicted class (hard, beta 0.8)
    or p itself (soft, beta 0.95).
    """

    packable = True
    stateless = True
    kind: Annotated[str, OneOf(("hard", "soft"))] = "hard"
    beta: Annotated[float | None, Interval("[0, 1]")] = None

    def supervise(self, batch: Batch, outputs: Outputs) -> list[Supervision]:
        assert self.beta is not None, "fill_defaults sets beta"
        log_p = outputs[0][0].log_p
        given = one_hot(batch.labels, log_p)
        # The soft target is not detached: the paper's cost is -sum (beta y + (1 - beta) q) log q, a
        # minimum-entropy term.
        predicted = log_p.exp() if self.kind == "soft" else one_hot(log_p.max(1).indices, log_p)
        return [Supervision(self.beta * given + (1 - self.beta) * predicted)]
