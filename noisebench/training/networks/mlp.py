"""The multi-layer perceptron for the embedded digits."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn

WIDTH = 256


class MLP(nn.Module):
    """(N, C, H, W) -> (N, K): two hidden layers."""

    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()
        )
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


def mlp(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Two hidden layers of 256 on the flattened image."""
    return MLP(prod(shape), num_classes)
