"""Plain convolutional networks: the 8-layer CNN of the literature and its small sister for
28x28.
"""

from __future__ import annotations

from torch import Tensor, nn

from ...errors import DataError


class CNN(nn.Module):
    """Stages of 3x3 convolutions (with bias, batch norm, ReLU), each ended by 2x2 max pooling;
    dense; dense K.
    """

    def __init__(
        self,
        stages: tuple[tuple[int, ...], ...],
        dense: int,
        num_classes: int,
        shape: tuple[int, int, int],
    ) -> None:
        super().__init__()
        height, width, channels = shape
        layers: list[nn.Module] = []
        for stage in stages:
            for out in stage:
                layers += [
                    nn.Conv2d(channels, out, 3, padding=1),
                    nn.BatchNorm2d(out),
                    nn.ReLU(inplace=True),
                ]
                channels = out
            # Before the last ReLU in place of after it: the same function and gradient, with a
            # quarter of the ReLU to compute.
            layers.insert(-1, nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        if not height * width:
            raise DataError(
                f"images of {shape[0]}x{shape[1]} are too small for this network: take --model mlp"
            )
        self.body = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Linear(channels * height * width, dense),
            nn.BatchNorm1d(dense),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(dense, num_classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


def _initialise(layer: nn.Module) -> None:
    """He et al. 2015 for convolutions, as Keras' he_normal and the 2019 baselines; Glorot & Bengio
    2010 for dense layers.
    """
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    elif isinstance(layer, nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)


def cnn8(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Six convolutions (64, 128, 196 twice each), dense 256, dense K."""
    return CNN(((64, 64), (128, 128), (196, 196)), 256, num_classes, shape)


def cnn4(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Two convolutions (32, 64), dense 128, dense K."""
    return CNN(((32,), (64,)), 128, num_classes, shape)
