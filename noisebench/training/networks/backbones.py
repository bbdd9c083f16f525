"""The backbones of `list backbones`, each a function of (num_classes, shape) with the shape
(height, width, channels). The residual networks are for 32x32; the field uses three that differ:
do not put them under one name.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TypeAlias

from torch import Tensor, nn

from ...errors import DataError

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


Block: TypeAlias = Callable[[int, int, int], nn.Module]


def _conv3(inputs: int, outputs: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


class PostBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, plus the shortcut (1x1 conv and BN where the shape changes), ReLU. He
    et al. 2016a.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv3(inputs, outputs, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            _conv3(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


class PreBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv, plus the shortcut of the activated input (1x1 conv where the shape
    changes). He et al. 2016b.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.activate = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.body = nn.Sequential(
            _conv3(inputs, outputs, stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            _conv3(outputs, outputs),
        )
        self.project = (
            None
            if stride == 1 and inputs == outputs
            else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        active = self.activate(x)
        shortcut = x if self.project is None else self.project(active)
        out: Tensor = self.body(active) + shortcut
        return out


class KerasBlock(nn.Module):
    """The baselines' pre-activation block: biases everywhere, projection of the input that is not
    activated.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, first: bool = False) -> None:
        super().__init__()
        lead: list[nn.Module] = [] if first else [nn.BatchNorm2d(inputs), nn.ReLU()]
        rest = [
            _conv3(inputs, outputs, stride, bias=True),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            _conv3(outputs, outputs, bias=True),
        ]
        self.body = nn.Sequential(*lead, *rest)
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class ResNet(nn.Module):
    """A 3x3 stem, four stages of blocks of widths 64 to 512, global average pooling, dense K."""

    def __init__(
        self,
        block: Block,
        depths: tuple[int, ...],
        num_classes: int,
        channels: int,
        *,
        preactivated: bool,
    ) -> None:
        super().__init__()
        stem, top = (
            (nn.Identity(), _norm_relu(512)) if preactivated else (_norm_relu(64), nn.Identity())
        )
        stages, inputs = [], 64
        for stage, depth in enumerate(depths):
            outputs = 64 * 2**stage
            for place in range(depth):
                stages.append(block(inputs, outputs, 2 if stage and not place else 1))
                inputs = outputs
        self.body = nn.Sequential(
            _conv3(channels, 64), stem, *stages, top, nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(512, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


class ResNet44(nn.Module):
    """Three stages of seven KerasBlocks of widths 16, 32, 64; final BN-ReLU; global average
    pooling; dense K.
    """

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        inputs = 16
        for stage, outputs in enumerate((16, 32, 64)):
            for place in range(7):
                stride = 2 if stage and not place else 1
                stages.append(KerasBlock(inputs, outputs, stride, first=not stage and not place))
                inputs = outputs
        stem = [_conv3(channels, 16, bias=True), *_norm_relu(16)]
        self.body = nn.Sequential(
            *stem, *stages, _norm_relu(64), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(64, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


def _norm_relu(width: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())


def resnet44(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """The baselines' ResNet-44, for any image size."""
    return ResNet44(num_classes, shape[2])


def resnet18(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """ResNet-18 of widths 64 to 512."""
    return ResNet(PostBlock, (2, 2, 2, 2), num_classes, shape[2], preactivated=False)


def resnet34(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """ResNet-34 of widths 64 to 512."""
    return ResNet(PostBlock, (3, 4, 6, 3), num_classes, shape[2], preactivated=False)


def preact_resnet18(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Pre-activation ResNet-18 of widths 64 to 512."""
    return ResNet(PreBlock, (2, 2, 2, 2), num_classes, shape[2], preactivated=True)
