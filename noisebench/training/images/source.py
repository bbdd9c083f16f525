"""The images of a training: in memory, or in files that are read as they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ...datasets import ImageArray, LazyImages
from .pixels import EpochPlan, InMemoryImages, Normalisation, StreamTransform

# the usual ones of ImageNet's pixels in [0, 1]
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageSource(Protocol):
    """Images (n, H, W, C) as batches on the device; `shape` is (H, W, C)."""

    normalise: Normalisation
    device: torch.device
    shape: tuple[int, int, int]

    def __len__(self) -> int: ...

    def start_epoch(self, plan: EpochPlan, ats: Iterable[slice]) -> None:
        """Called once an epoch, and after a resume: the rows of the plan to come, in order."""

    def views(self, plan: EpochPlan, at: slice) -> tuple[Tensor, ...]:
        """All views (B, C, H, W) of some rows of the plan."""

    def eval_batches(self, index: Tensor | None = None) -> Iterator[Tensor]:
        """The images as they are, in large batches."""

    def close(self) -> None:
        """End the processes that read ahead."""


def normalisation_of(images: ImageArray) -> Normalisation:
    """Counted over images in memory; for images in files ImageNet's: to count a million would
    take hours.
    """
    if not isinstance(images, LazyImages):
        return Normalisation.of(images)
    mean, std = (torch.tensor(values, dtype=torch.float64) * 255 for values in (_MEAN, _STD))
    return Normalisation(mean.float(), std.float())


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


def same_images(a: ImageArray, b: ImageArray) -> bool:
    """Whether two trainings may share what they read of these; streamed ones may not, since each
    has its own readers.
    """
    if isinstance(a, LazyImages) or isinstance(b, LazyImages):
        return False
    return (a.ctypes.data, a.shape, a.strides) == (
        b.ctypes.data,
        b.shape,
        b.strides,
    ) or np.array_equal(a, b)
