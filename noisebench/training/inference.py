"""The images of a training, in memory or in files; predictions for them without augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from ..datasets import ImageArray, LazyImages
from ..errors import ConfigError, DataError
from .images import InMemoryFeatures, InMemoryImages, Normalisation, StreamTransform

if TYPE_CHECKING:
    from .streamed import StreamedImages


ImageSource: TypeAlias = "InMemoryImages | InMemoryFeatures | StreamedImages"
"""Images (n, H, W, C) or features (n, D) as batches on the device; `shape` is (H, W, C) or (1, 1,
D).
"""


def source_of(
    images: ImageArray,
    normalise: Normalisation,
    device: torch.device,
    transform: StreamTransform,
    crop: int = 0,
) -> ImageSource:
    """The source of batches for images. crop: padding of images in memory, in pixels; transform:
    for streamed images.
    """
    if isinstance(images, LazyImages):
        from .streamed import StreamedImages  # timm takes a second to load

        return StreamedImages(images, normalise, device, transform)
    if images.ndim == 2:
        return InMemoryFeatures(images, normalise, device)
    return InMemoryImages(images, normalise, device, crop)


def find_device(name: str) -> torch.device:
    """The torch device; `auto` is the GPU if there is one. Raises ConfigError if it is missing."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {name!r} is not available ({str(error).splitlines()[0]}); use "
            "--device auto for the GPU if there is one, else the CPU"
        ) from None
    return device


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which networks compute in the precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """A context in which convolutions on a GPU are deterministic and do not use TF32."""
    cudnn, cuda = torch.backends.cudnn, device.type == "cuda"
    before = cudnn.deterministic, cudnn.allow_tf32
    cudnn.deterministic, cudnn.allow_tf32 = before[0] or cuda, before[1] and not cuda
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.allow_tf32 = before


def every(pixels: ImageSource, index: Tensor | None = None) -> Iterator[Tensor]:
    """Some images or all, batch by batch. Raises DataError if their number is not as expected."""
    expected, count = len(pixels) if index is None else len(index), 0
    for images in pixels.eval_batches(index):
        count += len(images)
        if count > expected:
            break
        yield images
    if count != expected:
        raise DataError(f"{count} of {expected} images were read: the data changed during the run")


def log_p_parts(
    networks: Sequence[nn.Module], pixels: ImageSource, precision: str, index: Tensor | None = None
) -> Iterator[list[Tensor]]:
    """log_p (n, K) of each network on some images or all, batch by batch: each image is read once,
    and the predictions are not collected in memory. Leaves the networks in evaluation mode.
    """
    for network in networks:
        network.eval()
    for images in every(pixels, index):
        with torch.no_grad(), repeatable(pixels.device), autocast(pixels.device, precision):
            logits = [network(images).float() for network in networks]
        yield [network_logits.log_softmax(1) for network_logits in logits]
