"""What a network says of images as they are, without augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .pixels import Pixels


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Inside `with`, networks compute in the precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Inside, a GPU's convolutions add in the same order each time; as fast, where it was measured."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


@torch.no_grad()
def network_log_p(network: nn.Module, pixels: Pixels, precision: str, index: Tensor | None = None) -> Tensor:
    """log_p (n, K), of some images or all. Leaves the network in evaluation mode."""
    network.eval()
    with autocast(pixels.data.device, precision):
        logits = torch.cat([network(images).float() for images in pixels.plain(index)])
    return logits.log_softmax(1)
