"""A whole step on a GPU as one recorded graph: launched one by one, the kernels of a small network
wait for Python.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_FIRST = 3  # steps that are made one by one, in which libraries make what they need


@dataclass(frozen=True)
class StepInput:
    """What changes from step to step: index (B,), of each view and example shift (views, B, 2) and
    flip (views, B), and the share of the learning rate.
    """

    index: Tensor
    shifts: Tensor
    flips: Tensor | None
    lr_factor: float | Tensor

    def copied(self) -> StepInput:
        """The same in memory of its own, the number too."""
        flips = None if self.flips is None else self.flips.clone()
        return StepInput(
            self.index.clone(),
            self.shifts.clone(),
            flips,
            torch.tensor(self.lr_factor, device=self.index.device),
        )

    def take(self, new: StepInput) -> None:
        """Write another step's over it."""
        self.index.copy_(new.index)
        self.shifts.copy_(new.shifts)
        if self.flips is not None and new.flips is not None:
            self.flips.copy_(new.flips)
        assert isinstance(self.lr_factor, Tensor), "it was copied"
        self.lr_factor.fill_(new.lr_factor)


class StepResult(NamedTuple):
    """What a step leaves: its cost (), the logits (B, K) of the first network and view, with their
    gradient, and, once it is made, a number () that is finite where all gradients are.
    """

    cost: Tensor
    logits: Tensor
    finite_probe: Tensor | None = None


class CudaGraphStep:
    """A step that is made a few times, recorded, and from then on played; every batch has the
    shapes of the first.

    It must be the same computation each time, on the same memory: what it decides in Python is
    decided once. Recorded are the kernels as they are launched, without a compiler: the losses of a
    step are those of one that is not recorded.
    """

    def __init__(self, step: Callable[[StepInput], StepResult], device: torch.device) -> None:
        """device: the GPU that the step computes on, which need not be torch's current one: there a
        recording would be of nothing.
        """
        self._step, self._made = step, 0
        self._graph, self._stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
        self._recorded: tuple[StepInput, StepResult] | None = None

    def __call__(self, given: StepInput) -> StepResult:
        """The next step. What it leaves is overwritten by the one after it."""
        with torch.cuda.device(self._stream.device):
            if self._made < _FIRST:
                self._made += 1
                return self._aside(given)
            mine, left = self._recorded = self._recorded or self._record(given.copied())
            mine.take(given)
            self._graph.replay()
            return left

    def _record(self, given: StepInput) -> tuple[StepInput, StepResult]:
        """Nothing is computed yet."""
        with torch.cuda.graph(self._graph, stream=self._stream):
            left = _freed(self._step(given))
        return given, left

    def _aside(self, given: StepInput) -> StepResult:
        """On the stream on which it will be recorded."""
        here = torch.cuda.current_stream()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            left = _freed(self._step(given))
        here.wait_stream(self._stream)
        return left


def _freed(made: StepResult) -> StepResult:
    """Without the way back to the weights, which would tie them to the stream that it was made
    on.
    """
    logits = made.logits.detach()
    logits.grad = made.logits.grad
    return made._replace(logits=logits)
