"""From a backbone's name to a network: `factory(num_classes, shape)` with shape (height, width,
channels).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...experiments.backbones import TIMM, canonical_backbone
from . import backbones


def make_network(
    name: str, num_classes: int, shape: tuple[int, int, int], seed: int, *, enlarged: bool = False
) -> nn.Module:
    """A freshly initialised network (N, C, H, W) -> logits (N, K); torch's global randomness is
    left as it was.

    enlarged: one of timm's as it is, for which small images are enlarged; else its stem is opened
    for them.

    Raises UnknownName, or DataError where the network cannot take images of this shape.
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
    """As networks are trained: their weights in the order in which images lie in memory."""
    return network.to(device).to(memory_format=torch.channels_last)


def classifier(network: nn.Module) -> nn.Module:
    """The layer whose input are the features: the head of ours, timm's own classifier."""
    find: Any = getattr(network, "get_classifier", None)
    head = find() if find else network.head
    assert isinstance(head, nn.Module)
    return head
