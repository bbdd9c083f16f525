"""Creates networks by the name of their backbone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...experiments.backbones import TIMM, canonical_backbone
from . import backbones


def make_network(
    name: str, num_classes: int, shape: tuple[int, int, int], seed: int, *, enlarged: bool = False
) -> nn.Module:
    """A randomly initialized network (N, C, H, W) -> logits (N, K); torch's global random state is
    not changed. shape: (height, width, channels).

    enlarged: for networks of timm, enlarge small images instead of reducing the stride of the stem.

    Raises UnknownName, or DataError if the network does not support images of this shape.
    """
    name = canonical_backbone(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name.startswith(TIMM):
            from .timm_models import timm_network

            return timm_network(name.removeprefix(TIMM), num_classes, shape, enlarged=enlarged)
        network: nn.Module = getattr(backbones, name)(num_classes, shape)
        return network


def on_device(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on the device, in channels-last memory format as the images."""
    return network.to(device).to(memory_format=torch.channels_last)


def classifier(network: nn.Module) -> nn.Module:
    """The layer whose input are the features: timm's classifier, or the head of our networks."""
    find: Any = getattr(network, "get_classifier", None)
    head = find() if find else network.head
    assert isinstance(head, nn.Module)
    return head
