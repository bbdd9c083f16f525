"""What several strategies are made of: costs and weights, schedules, sharpening, and how far
predictions are from where they should be.

A network's weights averaged over its steps, to be asked in its place. Tarvainen & Valpola 2017.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

from .base import Batch, ModelOutput

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any


def one_hot(classes: Tensor, like: Tensor) -> Tensor:
    """Rows (B, K) of the classes (B,), as `like` (B, K)."""
    return like.new_zeros(like.shape).scatter_(1, classes[:, None], 1.0)


def recorded_cost(output: ModelOutput, batch: Batch) -> Tensor:
    """The cost (B,) of the recorded labels, of no gradient."""
    return output.cost.detach().gather(1, batch.labels[:, None])[:, 0]


def averaged(chosen: Tensor, scale: float = 1.0) -> Tensor:
    """Weights (B,) by which a mean over the batch is `scale` times the mean over the chosen (B,),
    of weight 0 or 1.
    """
    return chosen * (scale * len(chosen) / chosen.sum().clamp_min(1))


def linear_ramp(done: float, length: float) -> float:
    """From 0 to 1 over `length`, then 1."""
    return min(1.0, max(0.0, done / length)) if length else 1.0


def sigmoid_ramp(done: float, length: float) -> float:
    """exp(-5 (1 - done / length)^2), from 0.0067 to 1 over `length`, then 1. Laine & Aila 2017."""
    return math.exp(-5 * (1 - linear_ramp(done, length)) ** 2)


def sharpened(p: Tensor, temperature: float) -> Tensor:
    """p^(1/T) (n, K), scaled to sum to 1 again. Berthelot et al. 2019."""
    return (p.clamp_min(1e-38).log() / temperature).softmax(1)


def balance(log_p: Tensor) -> Tensor:
    """KL(uniform | mean p) of log_p (n, K). In logarithms: a class that nobody is said to be of
    must find back.
    """
    return math.log(len(log_p) / log_p.shape[1]) - log_p.logsumexp(0).mean()


def entropy(log_p: Tensor) -> Tensor:
    """Mean entropy of predictions log_p (n, K)."""
    return -(log_p.exp() * log_p).sum(1).mean()


def consistency(first: Tensor, second: Tensor) -> Tensor:
    """Mean KL of what is said of a second view from what is said of the first, both log_p (B, K);
    the second moves, the first does not.
    """
    first = first.detach()
    return (first.exp() * (first - second)).sum(1).mean()


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
else:
    Module = Tensor = Any

Average: TypeAlias = dict[str, Tensor]


def follow(average: Average, network: Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * network, in place: parameters and, where they are
    no counts, what batch norm keeps. An average that is empty becomes the network.
    """
    now = {name: value.detach() for name, value in network.state_dict().items()}
    if not average:
        average.update({name: value.clone() for name, value in now.items()})
        return
    for name, value in now.items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)
        else:
            average[name].copy_(value)
