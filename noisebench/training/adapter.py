"""A loss of the language as a torch.nn.Module, for anyone's loop."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import ConfigError
from ..losses import LOSSES, build_loss, cost_of

_REDUCTIONS = ("mean", "sum", "none")


class LossModule(nn.Module):
    """`LossModule("gce(q=0.7)")(logits, target)`: logits (N, K); target classes (N,) or probabilities (N, K).

    Raises LanguageError for an `auto`: without a manifest nobody knows the noise.
    """

    def __init__(self, text: str, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in _REDUCTIONS:
            raise ConfigError(f"reduction is one of {', '.join(_REDUCTIONS)}, got {reduction!r}")
        self.text, self.reduction = LOSSES.canonical(text), reduction
        self._loss = build_loss(self.text)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        cost = cost_of(self._loss, logits)
        each = (cost * target).sum(1) if target.dim() == 2 else cost.gather(1, target[:, None])[:, 0]
        return each if self.reduction == "none" else each.mean() if self.reduction == "mean" else each.sum()

    def extra_repr(self) -> str:
        return f"{self.text!r}, reduction={self.reduction!r}"
