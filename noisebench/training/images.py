"""Images as one tensor of bytes on the device; whole batches are cropped, flipped and normalized at
once. Feature vectors in place of images.
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
_CPU_BATCH = 256  # as fast on a CPU as larger batches, with the memory of a training step of 128
_HISTOGRAM_CHUNK = 4096  # images whose bytes are counted at a time
_LARGEST_FEATURES = 1 << 31  # bytes as float32: larger sets are read from their file by batch
# numbers: sets up to this size are normalized once and kept as float32, 16 MB; larger ones as bytes
_FEW = 2**22


@dataclass(frozen=True)
class Normalisation:
    """Per channel: (byte - mean) / std, with mean and std of the training set in bytes; of features
    per dimension.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, images: ImageArray) -> Normalisation:
        """For images in memory, from exact counts of byte values, equal on every machine; for
        streamed images, ImageNet's, since counting a million images would take hours.
        """
        if isinstance(images, LazyImages):
            mean, std = (torch.tensor(part, dtype=torch.float64) * 255 for part in _IMAGENET)
            return cls(mean.float(), std.float())
        if images.ndim == 2:
            return cls._of_features(images)
        values, channels = torch.arange(256, dtype=torch.float64), images.shape[3]
        counts = torch.zeros(channels, 256, dtype=torch.float64)
        for start in range(0, len(images), _HISTOGRAM_CHUNK):
            part = torch.from_numpy(images[start : start + _HISTOGRAM_CHUNK])
            counts += torch.stack(
                [torch.bincount(part[..., c].flatten(), minlength=256) for c in range(channels)]
            )
        mean = counts @ values / counts.sum(1)
        # keep constant images finite
        variance = (counts @ values.square() / counts.sum(1) - mean.square()).clamp_min(1.0)
        return cls(mean.float(), variance.sqrt().float())

    @classmethod
    def _of_features(cls, features: np.ndarray) -> Normalisation:
        """For features (N, D); a constant dimension becomes 0."""
        total, squares = (torch.zeros(features.shape[1], dtype=torch.float64) for _ in range(2))
        # shifted by a row, so that squares of large values lose no digits
        shift = torch.from_numpy(features[0].astype(np.float64))
        for start in range(0, len(features), _HISTOGRAM_CHUNK):
            part = features[start : start + _HISTOGRAM_CHUNK].astype(np.float64)
            rows = torch.from_numpy(part).sub_(shift)
            total += rows.sum(0)
            squares += rows.square_().sum(0)
        mean = total / len(features)
        std = (squares / len(features) - mean.square()).clamp_min(0).sqrt()
        return cls((mean + shift).float(), torch.where(std > 0, std, 1.0).float())

    @classmethod
    def read(cls, written: dict[str, list[float]]) -> Normalisation:
        """The inverse of `written`, bit for bit."""
        return cls(torch.tensor(written["mean"]), torch.tensor(written["std"]))

    @property
    def written(self) -> dict[str, list[float]]:
        """The entry in a record."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    def to(self, device: torch.device) -> Normalisation:
        return Normalisation(self.mean.to(device), self.std.to(device))

    def __call__(self, images: Tensor) -> Tensor:
        """(B, H, W, C) bytes -> (B, C, H, W) float32, in channels-last memory format."""
        width = images.shape[2]
        # a long last axis is vectorized; with C numbers it would take three times as long
        rows = images.float().flatten(2)
        return (
            rows.sub_(self.mean.repeat(width))
            .div_(self.std.repeat(width))
            .view(images.shape)
            .permute(0, 3, 1, 2)
        )


@dataclass(frozen=True)
class EpochPlan:
    """The random choices of an epoch, sampled at its start: the order (N,), and the shift and flip
    for each view and example.
    """

    order: Tensor
    shifts: Tensor  # (views, N, 2), 0 to 2 * crop
    flips: Tensor | None  # (views, N); None: no image is flipped
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
        """Sample a plan with a CPU generator; its tensors are on the device."""
        order = torch.randperm(n, generator=generator).to(device)
        shifts = torch.randint(0, 2 * crop + 1, (views, n, 2), generator=generator).to(device)
        flips = torch.rand(views, n, generator=generator).to(device) < 0.5 if flip else None
        return cls(order, shifts, flips, generator.initial_seed())


@dataclass(frozen=True)
class StreamTransform:
    """How an image is resized to a square of `side` pixels: by `fit` and `centre` (see Fitting); in
    training, by a random crop of at least the share `area`, flipped at random with `flip`.
    """

    side: int
    centre: float
    area: float = 1.0
    flip: bool = False
    fit: str = "crop"


class InMemoryImages:
    """Images (N, H, W, C), uint8, on the device; padded once for random crops. Small sets are also
    normalized once.
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
        """Announce the rows of the plan that will be used; no effect here."""

    def close(self) -> None:
        """No effect: there are no processes to end."""

    def views(self, plan: EpochPlan, at: slice) -> tuple[Tensor, ...]:
        """All views (B, C, H, W) of some rows of the plan's order."""
        flips = [None] * len(plan.shifts) if plan.flips is None else plan.flips[:, at]
        return tuple(
            self.augmented(plan.order[at], shifts[at], view_flips)
            for shifts, view_flips in zip(plan.shifts, flips, strict=True)
        )

    def augmented(self, index: Tensor, shifts: Tensor, flips: Tensor | None) -> Tensor:
        """Images (B, C, H, W) at index (B,), shifted by shifts (B, 2) and flipped where flips (B,)
        is true, in one gather.
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
        """The images without augmentation, in large batches; on a CPU, each is split evenly into
        batches of at most _CPU_BATCH images.
        """
        index = torch.arange(len(self), device=self.device) if index is None else index
        c = self.crop
        for batch in index.split(_EVALUATION_BATCH):
            # Even parts: matrix products of one to three rows may differ from larger ones in the
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


class InMemoryFeatures:
    """Features (N, D), standardized once and kept as float32 on the device; sets of more than 2 GiB
    stay in their file, and each batch is read from it.
    """

    def __init__(
        self, features: np.ndarray, normalise: Normalisation, device: torch.device
    ) -> None:
        self.normalise, self.device = normalise.to(device), device
        self.shape: tuple[int, int, int] = (1, 1, features.shape[1])
        self._file = features if 4 * features.size > _LARGEST_FEATURES else None
        self._length = len(features)
        self._data = torch.empty(0, features.shape[1])
        if self._file is None:
            self._data = torch.empty(features.shape, device=device)
            for start in range(0, len(features), _HISTOGRAM_CHUNK):
                part = np.array(features[start : start + _HISTOGRAM_CHUNK])
                self._data[start : start + len(part)] = self._standardized(torch.from_numpy(part))

    def __len__(self) -> int:
        return self._length

    def start_epoch(self, plan: EpochPlan, ats: Iterable[slice]) -> None:
        """Announce the rows of the plan that will be used; no effect here."""

    def close(self) -> None:
        """No effect: there are no processes to end."""

    def rows(self, index: Tensor) -> Tensor:
        """The features (B, D) at index (B,)."""
        if self._file is None:
            return self._data.index_select(0, index)
        # in the order of the file, which is faster to read
        places, back = np.unique(index.cpu().numpy(), return_inverse=True)
        return self._standardized(torch.from_numpy(np.asarray(self._file[places])[back]))

    def views(self, plan: EpochPlan, at: slice) -> tuple[Tensor, ...]:
        """The features (B, D) of some rows of the plan's order, as a single view."""
        return (self.rows(plan.order[at]),)

    def augmented(self, index: Tensor, shifts: Tensor, flips: Tensor | None) -> Tensor:
        """The features (B, D) at index (B,); there is no augmentation."""
        return self.rows(index)

    def eval_batches(self, index: Tensor | None = None) -> Iterator[Tensor]:
        """The features in large batches, as InMemoryImages."""
        if index is None and self._file is None:
            yield from self._data.split(_EVALUATION_BATCH)
            return
        index = torch.arange(len(self), device=self.device) if index is None else index
        for batch in index.split(_EVALUATION_BATCH):
            yield self.rows(batch)

    def _standardized(self, features: Tensor) -> Tensor:
        rows = features.to(self.device).float()
        return rows.sub_(self.normalise.mean).div_(self.normalise.std)
