"""The images of a training, in memory or in files; predictions for them without augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from ..datasets import ImageArray, LazyImages
from ..errors import DataError
from .images import InMemoryImages, Normalisation, StreamTransform

if TYPE_CHECKING:
    from .streamed import StreamedImages


ImageSource: TypeAlias = "InMemoryImages | StreamedImages"
"""Images (n, H, W, C) as batches on the device; `shape` is (H, W, C)."""


def source_of(
    images: ImageArray,
    normalise: Normalisation,
    device: torch.device,
    transform: StreamTransform,
    crop: int = 0,
) -> ImageSource:
    """crop: padding of images in memory, in pixels; transform: of images in files."""
    if isinstance(images, LazyImages):
        from .streamed import StreamedImages  # timm takes a second to load

        return StreamedImages(images, normalise, device, transform)
    return InMemoryImages(images, normalise, device, crop)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Inside `with`, networks compute in the precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Inside, a GPU's convolutions add in the same order each time, and float32 is float32: no
    TF32.
    """
    cudnn, cuda = torch.backends.cudnn, device.type == "cuda"
    before = cudnn.deterministic, cudnn.allow_tf32
    cudnn.deterministic, cudnn.allow_tf32 = before[0] or cuda, before[1] and not cuda
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.allow_tf32 = before


def every(pixels: ImageSource, index: Tensor | None = None) -> Iterator[Tensor]:
    """Some images or all, one part after the other. Raises DataError where their number is
    another one.
    """
    expected, count = len(pixels) if index is None else len(index), 0
    for images in pixels.eval_batches(index):
        count += len(images)
        if count > expected:
            break
        yield images
    if count != expected:
        raise DataError(
            f"{expected} images to predict, {count} read: the data changed under the run"
        )


def log_p_parts(
    networks: Sequence[nn.Module], pixels: ImageSource, precision: str, index: Tensor | None = None
) -> Iterator[list[Tensor]]:
    """log_p (n, K) of each network on some images or all, one part of them after the other: each
    image is read once, and all predictions are never in memory. Leaves the networks in evaluation
    mode.
    """
    for network in networks:
        network.eval()
    for images in every(pixels, index):
        with torch.no_grad(), repeatable(pixels.device), autocast(pixels.device, precision):
            logits = [network(images).float() for network in networks]
        yield [network_logits.log_softmax(1) for network_logits in logits]
