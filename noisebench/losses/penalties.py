"""Penalties on the network's parameters: terms of a loss that no example has a share in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from ..core.parameters import Interval
from .catalogue import register_loss
from .scores import Tensor


@register_loss(paper="Ye et al. 2023", laws=(), penalty=True)
def l1(parameters: Iterable[Tensor], weight: Annotated[float, Interval("(0, 1e3]")]) -> Tensor:
    """L1 penalty on the network's parameters, weight sum |theta| over all of them, those of normalisation layers too: `ce + l1(5e-5)`."""
    return weight * sum(parameter.abs().sum() for parameter in parameters)  # type: ignore[return-value]
