"""A whole training step as one CUDA graph: for small networks, launching kernels one by one from
Python is slower than running them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_FIRST = 3  # steps before the recording, in which libraries allocate memory


@dataclass(frozen=True)
class StepInput:
    """The inputs of a step: index (B,), shifts (views, B, 2), flips (views, B), and the learning
    rate as a share of the initial one.
    """

    index: Tensor
    shifts: Tensor
    flips: Tensor | None
    lr_factor: float | Tensor

    def copied(self) -> StepInput:
        """A copy in new memory, with the factor as a tensor."""
        lr_factor = torch.tensor(self.lr_factor, device=self.index.device)
        flips = None if self.flips is None else self.flips.clone()
        return StepInput(self.index.clone(), self.shifts.clone(), flips, lr_factor)

    def overwrite(self, new: StepInput) -> None:
        """Copy the values of another step into this one, which was made by `copied`."""
        self.index.copy_(new.index)
        self.shifts.copy_(new.shifts)
        if self.flips is not None and new.flips is not None:
            self.flips.copy_(new.flips)
        assert isinstance(self.lr_factor, Tensor), "it was copied"
        self.lr_factor.fill_(new.lr_factor)


class StepResult(NamedTuple):
    """The result of a step: its cost (), the logits (B, K) of the first network and view with their
    gradient, and, after the update, a number () that is finite if all gradients are.
    """

    cost: Tensor
    logits: Tensor
    finite_probe: Tensor | None = None


class CudaGraphStep:
    """A step that runs normally a few times, is then recorded, and from then on replayed; all
    batches must have the same shapes.

    The step must be the same computation on the same memory each time: Python code runs only once.
    The graph contains the kernels as launched, without a compiler, so that results are equal to
    those of steps that are not recorded.
    """

    def __init__(self, step: Callable[[StepInput], StepResult], device: torch.device) -> None:
        """device: the GPU of the step, which may differ from torch's current one; a recording on
        another device would be empty.
        """
        self._step, self._count = step, 0
        self._graph, self._stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
        self._recorded: tuple[StepInput, StepResult] | None = None

    def __call__(self, step_input: StepInput) -> StepResult:
        """Run the next step. Its result is overwritten by the following step."""
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
        """Run the step without recording, on the stream of the recording."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = _detached(self._step(step_input))
        current.wait_stream(self._stream)
        return result


def _detached(result: StepResult) -> StepResult:
    """The result without its autograd graph, which would bind the weights to the stream."""
    logits = result.logits.detach()
    logits.grad = result.logits.grad
    return result._replace(logits=logits)
