"""Networks of one shape as one network: every layer computes for all of them at once, each with its
own weights.

Images have the shape (B, R * C, H, W), with R networks side by side in the channels; rows (R, B,
D). The weights of the single networks become views of the packed ones, so that each network can
still be saved, loaded and used for predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def pack_networks(networks: Sequence[nn.Module]) -> nn.Module:
    """A module (B, R * C, H, W) -> logits (R, B, K). The parameters of the networks become views of
    its parameters.

    Raises TypeError if a layer cannot be packed.
    """
    packed = deepcopy(networks[0])
    for path, layer in networks[0].named_modules():
        kind = type(layer)
        if kind in _SHARED or list(layer.children()):
            continue
        if kind not in _PACKED:
            raise TypeError(f"{kind.__name__} layers cannot be packed")
        layers = [network.get_submodule(path) for network in networks]
        packed.set_submodule(path, _PACKED[kind](layers))
    return packed


def _stacked(layers: list[Any], name: str) -> Tensor:
    """The stacked tensor (R, ...) of all layers, whose tensors become views of it."""
    together = torch.stack([getattr(layer, name).detach() for layer in layers])
    for number, layer in enumerate(layers):
        getattr(layer, name).data = together[number]
    return together


class PackedFlatten(nn.Module):
    """(B, R * C, H, W) -> (R, B, C * H * W); features (R, B, D) unchanged."""

    def __init__(self, layers: list[nn.Flatten]) -> None:
        super().__init__()
        self.count = len(layers)

    def forward(self, images: Tensor) -> Tensor:
        if images.dim() == 3:
            return images
        return images.unflatten(1, (self.count, -1)).transpose(0, 1).flatten(2)


class PackedLinear(nn.Module):
    """(R, B, D) -> (R, B, out)."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(_stacked(layers, "weight"))
        self.bias = nn.Parameter(_stacked(layers, "bias"))

    def forward(self, rows: Tensor) -> Tensor:
        kind = rows.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype
        if not rows.requires_grad and len(rows) > 1 and rows.stride(0) == 0:
            out: Tensor = _SharedAffine.apply(rows[0].to(dtype), self.weight, self.bias)
        else:
            out = _Affine.apply(rows.to(dtype), self.weight, self.bias)
        return out


class _Affine(torch.autograd.Function):
    """x W' + b for stacks of each, in x's dtype. Unlike torch's, the gradient of W has the memory
    layout of W.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weight = weight.to(rows.dtype)
        ctx.save_for_backward(rows, weight)
        return torch.baddbmm(bias.to(rows.dtype).unsqueeze(1), rows, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        (grad,) = grads
        rows, weight = ctx.saved_tensors
        of_rows = torch.bmm(grad, weight) if ctx.needs_input_grad[0] else None
        return of_rows, torch.bmm(grad.transpose(1, 2), rows).float(), grad.float().sum(1)


class _SharedAffine(torch.autograd.Function):
    """x W' + b of the same rows x (B, D) for R networks, as one matrix product: (R, B, out). x has
    no gradient.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        product = weight.to(rows.dtype).flatten(0, 1) @ rows.T
        out = product.unflatten(0, weight.shape[:2]).transpose(1, 2)
        return out + bias.to(rows.dtype).unsqueeze(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor]:
        (grad,), (rows,) = grads, ctx.saved_tensors
        of_weight = grad.transpose(1, 2).flatten(0, 1) @ rows
        of_weight = of_weight.unflatten(0, (len(grad), -1))
        return None, of_weight.float(), grad.float().sum(1)


class PackedConv2d(nn.Module):
    """(B, R * C, H, W) -> (B, R * out, H', W'), as one grouped convolution."""

    def __init__(self, layers: list[nn.Conv2d]) -> None:
        super().__init__()
        first = layers[0]
        self.weight = nn.Parameter(_stacked(layers, "weight"))
        self.bias = None if first.bias is None else nn.Parameter(_stacked(layers, "bias"))
        self.options: dict[str, Any] = {
            name: getattr(first, name) for name in ("stride", "padding", "dilation")
        }
        self.groups = first.groups * len(layers)

    def forward(self, images: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.flatten()
        weight = self.weight.flatten(0, 1)
        return functional.conv2d(images, weight, bias, groups=self.groups, **self.options)


class PackedBatchNorm(nn.Module):
    """Batch norm with separate statistics for each network, on (B, R * C, H, W) or (R, B, D)."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layers: list[nn.BatchNorm1d | nn.BatchNorm2d]) -> None:
        super().__init__()
        self.weight = nn.Parameter(_stacked(layers, "weight"))
        self.bias = nn.Parameter(_stacked(layers, "bias"))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, _stacked(layers, name))
        self.momentum, self.eps = layers[0].momentum, layers[0].eps

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked += 1
        channels = x if x.dim() == 4 else x.transpose(0, 1).flatten(1)
        mean, var, weight, bias = (
            each.view(-1) for each in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        out = functional.batch_norm(
            channels, mean, var, weight, bias, self.training, self.momentum or 0.0, self.eps
        )
        return out if x.dim() == 4 else out.unflatten(1, (len(x), -1)).transpose(0, 1)


_SHARED = (nn.ReLU, nn.Identity, nn.MaxPool2d, nn.AdaptiveAvgPool2d)
_PACKED: dict[type[nn.Module], Callable[[list[Any]], nn.Module]] = {
    nn.Flatten: PackedFlatten,
    nn.Linear: PackedLinear,
    nn.Conv2d: PackedConv2d,
    nn.BatchNorm1d: PackedBatchNorm,
    nn.BatchNorm2d: PackedBatchNorm,
}
