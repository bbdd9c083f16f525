"""Losses with a way of their own from logits to log_p."""

from __future__ import annotations

from typing import Annotated

from ..parameters import Interval
from .catalogue import register_loss
from .scores import Loss, Tensor


@register_loss(paper="Wei et al. 2023", laws=("equivariant", "nonnegative"))
def logitclip(loss: Loss, tau: Annotated[float, Interval("(0, 1e6]")] = 1.0) -> Loss:
    """LogitClip, the loss of z min(1, tau / |z|): logits no longer than tau."""
    # The paper clips at tau; the authors' code rescales longer logits to 1/tau, which is equal only at tau = 1.

    def clip(logits: Tensor) -> Tensor:
        length = logits.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return logits * (tau / length).clamp_max(1)

    return lambda scores: loss(scores.with_logits(clip))
