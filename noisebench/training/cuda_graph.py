"""A whole step on a GPU as one recorded graph: launched one by one, the kernels of a small network
wait for Python.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_FIRST = 3  # steps that are launched one by one, in which libraries allocate what they need


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
        lr_factor = torch.tensor(self.lr_factor, device=self.index.device)
        flips = None if self.flips is None else self.flips.clone()
        return StepInput(self.index.clone(), self.shifts.clone(), flips, lr_factor)

    def overwrite(self, new: StepInput) -> None:
        """Copy the values of another step into this one, which `copied` has made."""
        self.index.copy_(new.index)
        self.shifts.copy_(new.shifts)
        if self.flips is not None and new.flips is not None:
            self.flips.copy_(new.flips)
        assert isinstance(self.lr_factor, Tensor), "it was copied"
        self.lr_factor.fill_(new.lr_factor)


class StepResult(NamedTuple):
    """Of a step: its cost (), the logits (B, K) of the first network and view, with their gradient,
    and, after the update, a number () that is finite where all gradients are.
    """

    cost: Tensor
    logits: Tensor
    finite_probe: Tensor | None = None


class CudaGraphStep:
    """A step that is run a few times, recorded, and from then on replayed; every batch has the
    shapes of the first.

    It must be the same computation each time, on the same memory: what it decides in Python is
    decided once. Recorded are the kernels as they are launched, without a compiler: the losses of a
    step are those of one that is not recorded.
    """

    def __init__(self, step: Callable[[StepInput], StepResult], device: torch.device) -> None:
        """device: the GPU that the step computes on, which need not be torch's current one: a
        recording on another device would be empty.
        """
        self._step, self._count = step, 0
        self._graph, self._stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
        self._recorded: tuple[StepInput, StepResult] | None = None

    def __call__(self, step_input: StepInput) -> StepResult:
        """The next step. Its result is overwritten by that of the step after it."""
        with torch.cuda.device(self._stream.device):
            if self._count < _FIRST:
                self._count += 1
                return self._on_own_stream(step_input)
            if self._recorded is None:  # recording computes nothing yet
                memory = step_input.copied()
                with torch.cuda.graph(self._graph, stream=self._stream):
                    self._recorded = memory, _detached(self._step(memory))
            memory, result = self._recorded
            memory.overwrite(step_input)
            self._graph.replay()
            return result

    def _on_own_stream(self, step_input: StepInput) -> StepResult:
        """The step one by one, on the stream on which it will be recorded."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = _detached(self._step(step_input))
        current.wait_stream(self._stream)
        return result


def _detached(result: StepResult) -> StepResult:
    """Without the graph that leads back to the weights, which would tie them to the stream that it
    was computed on.
    """
    logits = result.logits.detach()
    logits.grad = result.logits.grad
    return result._replace(logits=logits)
