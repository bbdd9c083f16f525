"""The backbones of `list backbones`, each a function of (num_classes, shape) with shape (height,
width, channels). The residual networks are for 32x32 images; the literature uses three variants,
which have different names here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import DataError

Block: TypeAlias = Callable[[int, int, int], nn.Module]
"""inputs, outputs, stride -> a residual block"""


_SMOOTHING = 0.1  # votes added to each class, so that no class has probability 0


class Classifier(nn.Module):
    """Images (N, C, H, W) -> body -> features (N, D) -> head -> logits (N, K)."""

    def __init__(self, body: nn.Sequential, head: nn.Linear) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


def linear(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """A linear layer on features (N, D) or the flattened image."""
    return Classifier(nn.Sequential(nn.Flatten()), nn.Linear(prod(shape), num_classes))


class NearestNeighbours(nn.Module):
    """Votes of the k nearest training examples by cosine similarity: features (B, D) -> log of the
    smoothed shares (B, K). An example does not vote on itself: of the neighbours with exactly the
    same features, the first is left out.
    """

    keys: Tensor  # (N, D) float16, unit norm
    labels: Tensor  # (N,)

    def __init__(self, num_classes: int, dimensions: int, k: int = 20) -> None:
        super().__init__()
        self.num_classes, self.k = num_classes, k
        self.register_buffer("keys", torch.empty(0, dimensions, dtype=torch.float16))
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))
        # the optimizer needs a parameter; this one has no gradient
        self.unused = nn.Parameter(torch.zeros(()))

    def memorize(self, features: Iterator[Tensor], labels: Tensor) -> None:
        """Store the training examples: batches of features (n, D), and labels (N,)."""
        self.keys = torch.cat([self._key(rows) for rows in features])
        self.labels = labels

    def _key(self, features: Tensor) -> Tensor:
        return functional.normalize(features.float().flatten(1), dim=1).half()

    def forward(self, features: Tensor) -> Tensor:
        queries = self._key(features)
        with torch.autocast(queries.device.type, enabled=False):
            similarity = queries.float() @ self.keys.float().T
        nearest = similarity.topk(min(self.k + 1, len(self.keys))).indices  # (B, k + 1)
        itself = (self.keys[nearest] == queries[:, None]).all(2)
        last = itself.shape[1] - 1
        left_out = torch.where(itself.any(1), itself.int().argmax(1), last)
        votes = functional.one_hot(self.labels[nearest], self.num_classes).float()
        votes.scatter_(1, left_out[:, None, None].expand(-1, 1, self.num_classes), 0.0)
        shares = votes.sum(1) + _SMOOTHING
        return (shares / shares.sum(1, keepdim=True)).log() + 0 * self.unused

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        self.keys = state_dict[f"{prefix}keys"].to(self.keys.device)
        self.labels = state_dict[f"{prefix}labels"].to(self.labels.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


def knn(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """The 20 nearest neighbours, without training."""
    return NearestNeighbours(num_classes, prod(shape))


def mlp(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Two hidden layers of 256 on the flattened image; one of 512 on features (N, D)."""
    if shape[:2] == (1, 1):
        body = nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), 512), nn.ReLU())
        return Classifier(body, nn.Linear(512, num_classes))
    first, second = nn.Linear(prod(shape), 256), nn.Linear(256, 256)
    body = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU())
    return Classifier(body, nn.Linear(256, num_classes))


def cnn(
    stages: tuple[tuple[int, ...], ...], dense: int, num_classes: int, shape: tuple[int, int, int]
) -> nn.Module:
    """Stages of 3x3 convolutions (with bias, batch norm, ReLU), each ended by 2x2 max pooling;
    dense; dense K.

    Initialization: He et al. 2015 for convolutions, as Keras' he_normal and the 2019 baselines;
    Glorot & Bengio 2010 for dense layers.
    """
    height, width, channels = shape
    layers: list[nn.Module] = []
    for stage in stages:
        for out in stage:
            conv = nn.Conv2d(channels, out, 3, padding=1)
            layers += [conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
        # Before the last ReLU instead of after it: the same function and gradient, but the ReLU
        # has a quarter of the inputs.
        layers.insert(-1, nn.MaxPool2d(2))
        height, width = height // 2, width // 2
    if not height * width:
        raise DataError(
            f"images of {shape[0]}x{shape[1]} are too small for this network: use --model mlp"
        )
    layers += [nn.Flatten(), nn.Linear(channels * height * width, dense)]
    body = nn.Sequential(*layers, nn.BatchNorm1d(dense), nn.ReLU(inplace=True))
    network = Classifier(body, nn.Linear(dense, num_classes))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return network


def cnn8(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Six convolutions (64, 128, 196 twice each), dense 256, dense K."""
    return cnn(((64, 64), (128, 128), (196, 196)), 256, num_classes, shape)


def cnn4(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Two convolutions (32, 64), dense 128, dense K."""
    return cnn(((32,), (64,)), 128, num_classes, shape)


def _conv3(inputs: int, outputs: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


def _norm_relu(width: int, *, inplace: bool = False) -> list[nn.Module]:
    return [nn.BatchNorm2d(width), nn.ReLU(inplace=inplace)]


class Residual(nn.Module):
    """last(body + shortcut)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.last = body, shortcut, last

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.body(x) + self.shortcut(x))
        return out


def post_block(inputs: int, outputs: int, stride: int) -> nn.Module:
    """conv-BN-ReLU-conv-BN, plus the shortcut (1x1 conv and BN where the shape changes), ReLU. He
    et al. 2016a.
    """
    first = [_conv3(inputs, outputs, stride), *_norm_relu(outputs, inplace=True)]
    body = nn.Sequential(*first, _conv3(outputs, outputs), nn.BatchNorm2d(outputs))
    shortcut: nn.Module = nn.Identity()
    if stride != 1 or inputs != outputs:
        projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))
    return Residual(body, shortcut, nn.ReLU(inplace=True))


def keras_block(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The baselines' pre-activation block: biases everywhere, projection of the input before its
    activation.
    """
    first = [*_norm_relu(inputs), _conv3(inputs, outputs, stride, bias=True)]
    body = nn.Sequential(*first, *_norm_relu(outputs), _conv3(outputs, outputs, bias=True))
    shortcut: nn.Module = nn.Identity()
    if stride != 1 or inputs != outputs:
        shortcut = nn.Conv2d(inputs, outputs, 1, stride)
    return Residual(body, shortcut, nn.Identity())


class PreBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv, plus the shortcut of the activated input (1x1 conv where the shape
    changes). He et al. 2016b.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.activate = nn.Sequential(*_norm_relu(inputs))
        first = [_conv3(inputs, outputs, stride), *_norm_relu(outputs, inplace=True)]
        self.body = nn.Sequential(*first, _conv3(outputs, outputs))
        self.project = None
        if stride != 1 or inputs != outputs:
            self.project = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.activate(x)
        out: Tensor = self.body(active) + (x if self.project is None else self.project(active))
        return out


def _stages(block: Block, widths: tuple[int, ...], depths: tuple[int, ...]) -> list[Any]:
    """The blocks of several stages; each except the first halves the image size."""
    blocks, inputs = [], widths[0]
    for stage, (outputs, depth) in enumerate(zip(widths, depths, strict=True)):
        for number in range(depth):
            blocks.append(block(inputs, outputs, 2 if stage and not number else 1))
            inputs = outputs
    return blocks


def _resnet(block: Block, depths: tuple[int, ...], num_classes: int, channels: int) -> nn.Module:
    """A 3x3 stem, four stages of blocks of widths 64 to 512, global average pooling, dense K."""
    stages = _stages(block, (64, 128, 256, 512), depths)
    # the norm and activation that the blocks lack: before the first or after the last
    ends: list[nn.Module] = [nn.Sequential(*_norm_relu(64)), nn.Identity()]
    if block is PreBlock:
        ends = [nn.Identity(), nn.Sequential(*_norm_relu(512))]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    body = nn.Sequential(_conv3(channels, 64), ends[0], *stages, ends[1], *pool)
    return Classifier(body, nn.Linear(512, num_classes))


def resnet44(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """The baselines' ResNet-44, for any image size: three stages of seven blocks of widths 16, 32,
    64; final BN-ReLU; global average pooling; dense K.
    """
    stages = _stages(keras_block, (16, 32, 64), (7, 7, 7))
    stages[0].body = nn.Sequential(*stages[0].body[2:])  # the stem has activated its input
    stem = [_conv3(shape[2], 16, bias=True), *_norm_relu(16)]
    top = [nn.Sequential(*_norm_relu(64)), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = Classifier(nn.Sequential(*stem, *stages, *top), nn.Linear(64, num_classes))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return network


def resnet18(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """ResNet-18 of widths 64 to 512."""
    return _resnet(post_block, (2, 2, 2, 2), num_classes, shape[2])


def resnet34(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """ResNet-34 of widths 64 to 512."""
    return _resnet(post_block, (3, 4, 6, 3), num_classes, shape[2])


def preact_resnet18(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """Pre-activation ResNet-18 of widths 64 to 512."""
    return _resnet(PreBlock, (2, 2, 2, 2), num_classes, shape[2])
