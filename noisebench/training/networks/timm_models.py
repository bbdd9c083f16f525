"""timm's models for any image size, number of channels and classes. For small images, the stride of
the stem is reduced by 4, or, with weights for timm's stem, images are enlarged 4 times.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import DataError, UnknownName

SMALL = 64  # pixels: up to this size, the stem of an ImageNet model loses too much detail
# factor for small images: ResNet's 7x7/2 and pool/2 lose their stride, patches of 16 become 4
_LESS = 4


class Enlarge(nn.Module):
    """Enlarges images 4 times in height and width. Its buffer marks saved networks that have it,
    since their other tensors would fit networks without it.
    """

    times: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("times", torch.tensor(_LESS))

    def forward(self, images: Tensor) -> Tensor:
        return functional.interpolate(images, scale_factor=_LESS, mode="bilinear")


def timm_network(
    name: str, num_classes: int, shape: tuple[int, int, int], *, enlarged: bool = False
) -> nn.Module:
    """A timm model with random weights for images of `shape` (height, width, channels). enlarged:
    keep timm's stem and enlarge small images.

    Raises UnknownName, or DataError if the model does not support such images.
    """
    if not timm.is_model(name.partition(".")[0]):
        raise UnknownName("timm model", name, timm.list_models(), "models timm")
    height, width, channels = shape
    small = max(height, width) <= SMALL
    times = _LESS if enlarged and small else 1
    try:
        network = _create(
            name,
            num_classes,
            channels,
            (times * height, times * width),
            open_stem=small and times == 1,
        )
        if times > 1:
            network.enlarge = Enlarge()
            network.register_forward_pre_hook(lambda module, images: module.enlarge(*images))
        with torch.no_grad(), _strides_without_effect_taken(network):
            logits = network.eval()(torch.zeros(2, channels, height, width))
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"timm:{name} does not support {height}x{width} images ({reason}): choose another model"
        ) from None
    if logits.shape != (2, num_classes):
        raise DataError(
            f"timm:{name} is not a classifier of images: its output is {tuple(logits.shape)}"
        )
    return network.train()


@contextmanager
def _strides_without_effect_taken(network: nn.Module) -> Iterator[None]:
    """A context in which convolutions on a single pixel lose their stride after a pass. The stride
    has no effect there, but with it oneDNN's bf16 gradient reads uninitialized memory (torch 2.14,
    with AVX-512 bf16 or AMX).
    """

    def watch(layer: nn.Conv2d, inputs: tuple[Tensor]) -> None:
        padding = (0, 0) if isinstance(layer.padding, str) else layer.padding
        even = all(
            2 * p == d * (k - 1)
            for p, d, k in zip(padding, layer.dilation, layer.kernel_size, strict=True)
        )
        if even and inputs[0].shape[2:] == (1, 1):
            layer.stride = (1, 1)

    hooks = [
        layer.register_forward_pre_hook(watch)
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def timm_translated(
    name: str, num_classes: int, shape: tuple[int, int, int], state: dict[str, Tensor]
) -> nn.Module:
    """timm's network with weights that timm converts: from the format of their authors, or for
    another image size. Raises any error of timm if the weights are not for this network.
    """
    times = _LESS if max(shape[:2]) <= SMALL else 1
    source = {
        "pretrained": True,
        "pretrained_cfg_overlay": {
            "state_dict": state,
            "num_classes": num_classes,
            "label_offset": 0,
        },
    }
    about: Any = timm.create_model(name).pretrained_cfg
    channels = about["input_size"][0]
    return _create(
        name,
        num_classes,
        channels,
        (times * shape[0], times * shape[1]),
        open_stem=False,
        source=source,
    )


def _create(
    name: str,
    num_classes: int,
    channels: int,
    size: tuple[int, int],
    *,
    open_stem: bool,
    source: dict[str, Any] | None = None,
) -> nn.Module:
    """The model for an image size, with smaller patches or a less strided stem for small images."""
    common: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels, **(source or {})}
    side: Any = size[0] if size[0] == size[1] else size
    plain = timm.create_model(name, **common)
    patch = getattr(getattr(plain, "patch_embed", None), "patch_size", None)
    choices: list[dict[str, Any]] = [{"img_size": side}]
    if patch and open_stem:
        choices.insert(0, {"img_size": side, "patch_size": max(1, patch[0] // _LESS)})
    for choice in choices:
        try:
            return timm.create_model(name, **common, **choice)
        except (TypeError, RuntimeError, AssertionError):  # most models have no such argument
            continue
    if open_stem and not patch:
        _open_stem(plain, channels)
    return plain


def _open_stem(network: nn.Module, channels: int) -> None:
    """Reduce the stride of a convolutional stem by a factor of up to 4: of the first strided
    convolution, then of a max pool.
    """
    left = _LESS
    for path, layer in list(network.named_modules()):
        if left == 1 or not isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            continue
        if isinstance(layer, nn.MaxPool2d) and left < _LESS:
            network.set_submodule(path, nn.Identity())
            return
        if isinstance(layer, nn.Conv2d) and layer.in_channels == channels and layer.stride[0] > 1:
            left //= min(left, layer.stride[0])
            # 3x3 if it overlapped, else patches as small as the stride
            stride = max(1, layer.stride[0] // _LESS)
            kernel, padding = (3, 1) if layer.kernel_size[0] > layer.stride[0] else (stride, 0)
            sizes = layer.in_channels, layer.out_channels, kernel, stride, padding
            network.set_submodule(path, nn.Conv2d(*sizes, bias=layer.bias is not None))
        elif left < _LESS:
            return  # past the stem
