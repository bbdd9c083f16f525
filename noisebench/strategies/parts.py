"""What several strategies are made of: views as one batch, and how far predictions are from where they should be."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .base import Batch

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any


def stacked(batch: Batch) -> Batch:
    """All views as one of V B rows, those of a view together; labels, index and targets with them."""
    from torch import cat

    labels, index, targets = (cat([rows] * len(batch.views)) for rows in (batch.labels, batch.index, batch.targets))
    return replace(batch, views=(cat(batch.views),), labels=labels, index=index, targets=targets)


def balance(log_p: Tensor) -> Tensor:
    """KL of the mean prediction of log_p (n, K) from the uniform one. In logarithms: a class that nobody is said to be of finds back."""
    return math.log(len(log_p) / log_p.shape[1]) - log_p.logsumexp(0).mean()


def consistency(first: Tensor, second: Tensor) -> Tensor:
    """Mean KL of what is said of a second view from what is said of the first, both log_p (B, K); the second moves, the first does not."""
    first = first.detach()
    return (first.exp() * (first - second)).sum(1).mean()
