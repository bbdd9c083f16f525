"""A network's passes on a GPU as recorded graphs: launched one by one, the kernels of a small network wait for Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_HOW: dict[str, dict[str, Any]] = {"cuda": {"mode": "reduce-overhead", "dynamic": False}}
_WORTH_IT = 5000  # steps; compiling takes about as long as these would take alone


def training_forward(network: nn.Module, device: torch.device, steps: int) -> Callable[[Tensor], Tensor]:
    """The network for a training of so many steps: itself, or on a GPU, where it pays, compiled. It computes with the same parameters."""
    if device.type not in _HOW or steps < _WORTH_IT:
        return network
    return torch.compile(network, **_HOW[device.type])


def begin_step(forward: Callable[[Tensor], Tensor], network: nn.Module) -> None:
    """Between two steps of a compiled network: what the graphs of the last one returned is needed no longer."""
    if forward is not network:
        torch.compiler.cudagraph_mark_step_begin()
