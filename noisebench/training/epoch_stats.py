"""The predictions for training examples in the step that learns from them, on augmented images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..metrics.predictions import DENSE

_MAX_WAITING = 1 << 23  # numbers, 32 MB


@dataclass(frozen=True)
class EpochPredictions:
    """Of each example since the epoch began: the class predicted (N,) (-1: not seen yet), p of its
    recorded label (N,), the L1 norm of the gradient of its share of the step's cost by its logits
    (N,), at most 2 under plain CE, and p of every class (N, K) where it is kept, else (N, 0) (NaN:
    not seen yet).
    """

    predicted: Tensor
    p: Tensor
    gradient: Tensor
    whole: Tensor

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "predicted": self.predicted,
            "p": self.p,
            "gradient": self.gradient,
            "whole": self.whole,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])


class OnlinePredictions:
    """Collects them for R runs in lockstep. A step only appends its logits: to process them one by
    one would slow small networks down.
    """

    def __init__(self, labels: Tensor, num_classes: int) -> None:
        """labels (R, N), as recorded. num_classes: of which p is kept, for up to 100; 0 for
        none.
        """
        self._labels = labels
        self._predicted = torch.full_like(labels, -1)
        self._p = torch.full(labels.shape, torch.nan, device=labels.device)
        self._gradient = self._p.clone()
        kept = num_classes if num_classes <= DENSE else 0
        self._whole = torch.full((*labels.shape, kept), torch.nan, device=labels.device)
        self._waiting: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def watch(self, logits: Tensor) -> None:
        """Before the backward pass: keep the gradient of logits (R, B, K), or (B, K) of one run."""
        if logits.requires_grad:
            logits.retain_grad()

    def note(self, index: Tensor, logits: Tensor) -> None:
        """After it. index (R, B) or (B,): the examples of the first rows; others may follow."""
        rows = index.shape[-1]
        kept = logits.detach()[..., :rows, :]
        grad = None if logits.grad is None else logits.grad[..., :rows, :]
        if kept.is_cuda:  # a recorded step overwrites the result of the one before
            kept, grad = kept.clone(), None if grad is None else grad.clone()
        if grad is not None and rows < logits.shape[-2]:  # a step's cost is a mean over all rows
            grad = grad * (logits.shape[-2] / rows)
        self._waiting.append((index, kept, grad))
        if len(self._waiting) * kept.numel() > _MAX_WAITING:
            self._process()

    def of(self, run: int) -> EpochPredictions:
        """Of one run, as views."""
        self._process()
        return EpochPredictions(
            self._predicted[run], self._p[run], self._gradient[run], self._whole[run]
        )

    def _process(self) -> None:
        if not self._waiting:
            return
        runs, K = len(self._labels), self._waiting[0][1].shape[-1]
        index = torch.cat([index.view(runs, -1) for index, _, _ in self._waiting], 1)
        logits = torch.cat([logits.view(runs, -1, K) for _, logits, _ in self._waiting], 1)
        grads = [
            torch.zeros_like(logits) if grad is None else grad for _, logits, grad in self._waiting
        ]
        norms = torch.cat([grad.view(runs, -1, K) for grad in grads], 1).abs().sum(2)
        # a step's cost is a mean
        sizes = torch.tensor([grad.shape[-2] for grad in grads], device=norms.device)
        largest, predicted = logits.max(2)
        # softmax along so few classes would take three times as long
        p = (logits - largest[..., None]).exp_()
        p /= p.sum(2, keepdim=True)
        self._predicted.scatter_(1, index, predicted)
        self._p.scatter_(1, index, p.gather(2, self._labels.gather(1, index)[..., None])[..., 0])
        if self._whole.shape[2]:
            rows = index + self._labels.shape[1] * torch.arange(runs, device=index.device)[:, None]
            self._whole.view(-1, K).index_copy_(0, rows.flatten(), p.flatten(0, 1))
        self._gradient.scatter_(1, index, norms * sizes.repeat_interleave(sizes))
        self._waiting.clear()
