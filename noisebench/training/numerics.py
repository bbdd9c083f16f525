"""Numbers that are not finite: found without waiting for a device, and named by their tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm


def norm_of(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """The norm () of all numbers of the tensors; 0 of none."""
    return get_total_norm(tensors) if tensors else torch.zeros((), device=device)


def finite_probe(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """A number () that is not finite where a number of the tensors is not: on a CPU their sum,
    elsewhere, in fewer calls, their norm.
    """
    if device.type != "cpu" or not tensors:
        return norm_of(tensors, device)
    return torch.stack([tensor.sum() for tensor in tensors]).sum()


def first_nonfinite(tensors: Mapping[str, Tensor]) -> str:
    """`head.weight became inf`: the first tensor that holds a number which is not finite; empty
    where none does.
    """
    for name, tensor in tensors.items():
        nonfinite = tensor[~tensor.isfinite()]
        if len(nonfinite):
            return f"{name} became {nonfinite[0].item()}"
    return ""


def named_tensors(networks: Sequence[nn.Module], *, buffers: bool = False) -> dict[str, Tensor]:
    """The parameters or the buffers by name: `head.weight`, of several networks `head.weight of
    network 2`.
    """
    tensors: dict[str, Tensor] = {}
    for number, network in enumerate(networks, 1):
        suffix = f" of network {number}" if len(networks) > 1 else ""
        for name, tensor in network.named_buffers() if buffers else network.named_parameters():
            tensors[name + suffix] = tensor
    return tensors
