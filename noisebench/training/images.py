"""Images as one tensor of bytes on the device, and batches of it: cropped, flipped and normalised
all at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..datasets import ImageArray, LazyImages

# the usual mean and standard deviation of ImageNet's pixels in [0, 1]
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_EVALUATION_BATCH = 1024
_CPU_BATCH = 256  # as fast on a CPU as more, in about the memory that a training step of 128 takes
_HISTOGRAM_CHUNK = 4096  # images whose bytes are counted at a time
# numbers: so small a set is normalised once and kept as float32, 16 MB; a larger one stays bytes
_FEW = 2**22


@dataclass(frozen=True)
class Normalisation:
    """Per channel, from the training set: (byte - mean) / std, in bytes."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, images: ImageArray) -> Normalisation:
        """Of images in memory from exact counts of every byte value, so that it is the same on
        every machine; for images in files ImageNet's: to count a million would take hours.
        """
        if isinstance(images, LazyImages):
            mean, std = (torch.tensor(part, dtype=torch.float64) * 255 for part in _IMAGENET)
            return cls(mean.float(), std.float())
        values, channels = torch.arange(256, dtype=torch.float64), images.shape[3]
        counts = torch.zeros(channels, 256, dtype=torch.float64)
        for start in range(0, len(images), _HISTOGRAM_CHUNK):
            part = torch.from_numpy(images[start : start + _HISTOGRAM_CHUNK])
            counts += torch.stack(
                [torch.bincount(part[..., c].flatten(), minlength=256) for c in range(channels)]
            )
        mean = counts @ values / counts.sum(1)
        # an even image stays finite
        variance = (counts @ values.square() / counts.sum(1) - mean.square()).clamp_min(1.0)
        return cls(mean.float(), variance.sqrt().float())

    @classmethod
    def read(cls, written: dict[str, list[float]]) -> Normalisation:
        """From `written`, bit for bit."""
        return cls(torch.tensor(written["mean"]), torch.tensor(written["std"]))

    @property
    def written(self) -> dict[str, list[float]]:
        """For a record."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    def to(self, device: torch.device) -> Normalisation:
        return Normalisation(self.mean.to(device), self.std.to(device))

    def __call__(self, images: Tensor) -> Tensor:
        """(B, H, W, C) bytes -> (B, C, H, W) float32, in memory still channels last."""
        width = images.shape[2]
        # so long a last axis is worked off in vectors; one of C numbers takes three times as long
        rows = images.float().flatten(2)
        return (
            rows.sub_(self.mean.repeat(width))
            .div_(self.std.repeat(width))
            .view(images.shape)
            .permute(0, 3, 1, 2)
        )


@dataclass(frozen=True)
class EpochPlan:
    """What an epoch will do, all of it drawn beforehand: the order (N,), and per view and example
    shift and flip.
    """

    order: Tensor
    shifts: Tensor  # (views, N, 2), 0 to 2 * crop
    flips: Tensor | None  # (views, N); None: no image is mirrored
    seed: int = 0  # of the epoch

    @classmethod
    def draw(
        cls,
        n: int,
        views: int,
        crop: int,
        flip: bool,
        generator: torch.Generator,
        *,
        device: torch.device = torch.device("cpu"),
    ) -> EpochPlan:
        """On the device, from a generator of the CPU."""
        order = torch.randperm(n, generator=generator).to(device)
        shifts = torch.randint(0, 2 * crop + 1, (views, n, 2), generator=generator).to(device)
        flips = torch.rand(views, n, generator=generator).to(device) < 0.5 if flip else None
        return cls(order, shifts, flips, generator.initial_seed())


@dataclass(frozen=True)
class StreamTransform:
    """How an image is brought to a square of `side` pixels: by `fit` and `centre` (see Fitting);
    in training a crop of at least a share `area` of it, mirrored at random where `flip`.
    """

    side: int
    centre: float
    area: float = 1.0
    flip: bool = False
    fit: str = "crop"


class InMemoryImages:
    """A set of images (N, H, W, C), uint8, on the device; padded once for random crops, and a small
    set normalised once.
    """

    def __init__(
        self, images: np.ndarray, normalise: Normalisation, device: torch.device, crop: int = 0
    ) -> None:
        self.normalise, self.crop = normalise.to(device), crop
        self.device = device
        self.shape: tuple[int, int, int] = (images.shape[1], images.shape[2], images.shape[3])
        self.height, self.width = images.shape[1:3]
        data = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        padded = torch.nn.functional.pad(data, (0, 0, crop, crop, crop, crop)) if crop else data
        self._data = (
            self.normalise(padded).permute(0, 2, 3, 1) if padded.numel() <= _FEW else padded
        )

    def __len__(self) -> int:
        return len(self._data)

    def start_epoch(self, plan: EpochPlan, ats: Iterable[slice]) -> None:
        """Which rows of the plan will be taken: here all are in memory."""

    def close(self) -> None:
        """There are no processes to end."""

    def views(self, plan: EpochPlan, at: slice) -> tuple[Tensor, ...]:
        """All views (B, C, H, W) of some rows of the plan's order."""
        flips = [None] * len(plan.shifts) if plan.flips is None else plan.flips[:, at]
        return tuple(
            self.augmented(plan.order[at], shifts[at], view_flips)
            for shifts, view_flips in zip(plan.shifts, flips, strict=True)
        )

    def augmented(self, index: Tensor, shifts: Tensor, flips: Tensor | None) -> Tensor:
        """Images (B, C, H, W) of index (B,), shifted by shifts (B, 2) and mirrored where flips
        (B,), in one gather.
        """
        if not self.crop and flips is None:
            return self._normalised(self._data.index_select(0, index))
        rows = torch.arange(self.height, device=index.device) + shifts[:, :1]
        columns = torch.arange(self.width, device=index.device).expand(len(index), -1)
        if flips is not None:
            columns = torch.where(flips[:, None], columns.flip(1), columns)
        columns = columns + shifts[:, 1:]
        return self._normalised(
            self._data[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        )

    def eval_batches(self, index: Tensor | None = None) -> Iterator[Tensor]:
        """The images as they are, in large batches; on a CPU, each in equal parts of at most
        _CPU_BATCH images.
        """
        index = torch.arange(len(self), device=self.device) if index is None else index
        c = self.crop
        for batch in index.split(_EVALUATION_BATCH):
            # Equal parts: matrix products of one to three rows may differ from those of more in the
            # last bits.
            parts = max(1, -(-len(batch) // _CPU_BATCH)) if self.device.type == "cpu" else 1
            for part in batch.tensor_split(parts):
                yield self._normalised(
                    self._data.index_select(0, part)[:, c : c + self.height, c : c + self.width]
                )

    def _normalised(self, images: Tensor) -> Tensor:
        """(B, H, W, C) of the set -> (B, C, H, W) float32."""
        return (
            images.contiguous().permute(0, 3, 1, 2)
            if images.is_floating_point()
            else self.normalise(images)
        )
