"""Streamed images: worker processes read, decode and crop image files ahead of the training;
normalization is done on the device.

The augmentation of an image depends only on (the epoch's seed, its position in the epoch's order,
view), so that training is the same for any number of workers and for a resumed epoch.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ..core.hardware import cpu_count
from ..core.seeds import derived_seed
from ..datasets import LazyImages
from ..datasets.images import Fitting, Opener, decoded, opener
from ..errors import DataError
from .distributed.processes import cut, rank_info
from .images import EpochPlan, Normalisation, StreamTransform

# images per message of a worker: with a batch of 2,048, training would wait for one worker, and
# memory would fill up
_PIECE = 128
_EVALUATION_BATCH = 256
_MOST_WORKERS = 16  # by default
# A fork server, the default since Python 3.14, and so its workers, which watch their parent, would
# survive a killed training.
_START = "fork" if sys.platform == "linux" else None
# seconds that a worker continues after SIGTERM, so that the training can save first
_GRACE = 30
# example, position in the order, the epoch's seed, views; -1 for the seed: without augmentation
_Item = tuple[int, int, int, int]


class StreamedImages:
    """Images (n, side, side, 3) read from files when they are needed."""

    def __init__(
        self,
        images: LazyImages,
        normalise: Normalisation,
        device: torch.device,
        transform: StreamTransform,
    ) -> None:
        self.normalise, self.device = normalise.to(device), device
        self.shape = (transform.side, transform.side, 3)
        self._reader = _Reader(images, transform)
        if images.workers is None:  # one per core, divided among the processes on this machine
            self.workers = max(1, min(cpu_count() // rank_info().local_size, _MOST_WORKERS))
        else:
            self.workers = images.workers
        # the items that the workers read, batch by batch; replaced in every epoch
        self._order: list[list[_Item]] = []
        self._loader: _Loader | None = None
        self._ahead: Iterator[Any] | None = None
        self._plan: EpochPlan | None = None
        self._expected: deque[tuple[slice, list[list[_Item]]]] = deque()
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __len__(self) -> int:
        return len(self._reader)

    def start_epoch(self, plan: EpochPlan, ats: Iterable[slice]) -> None:
        """Announce which rows of the plan will be used, in order. Reading starts with the first."""
        self._plan, self._ahead = plan, None
        order = plan.order.cpu()
        self._expected = deque((at, _pieces(plan, order, at)) for at in ats)

    def views(self, plan: EpochPlan, at: slice) -> tuple[Tensor, ...]:
        """All views (B, 3, H, W) of some rows of the plan. Raises DataError with the path of an
        image that cannot be read.
        """
        if plan is self._plan and self._expected and self._expected[0][0] == at:
            if self.workers and self._ahead is None:
                self._order[:] = [piece for _, pieces in self._expected for piece in pieces]
                self._loader = self._loader or self._make_loader(self._order, persistent=True)
                self._ahead = iter(self._loader)
            _, pieces = self._expected.popleft()
            ahead = self._ahead
        else:  # they were not announced
            pieces, ahead = _pieces(plan, plan.order.cpu(), at), None
        parts = [self._read(piece) if ahead is None else _next_part(ahead) for piece in pieces]
        images = torch.cat([self._moved(part) for part in parts])
        return tuple(self.normalise(images[:, view]) for view in range(images.shape[1]))

    def eval_batches(self, index: Tensor | None = None) -> Iterator[Tensor]:
        """The center crops of the images, without augmentation, in large batches."""
        items = [(n, 0, -1, 1) for n in (range(len(self)) if index is None else index.tolist())]
        starts = range(0, len(items), _EVALUATION_BATCH)
        batches = [items[start : start + _EVALUATION_BATCH] for start in starts]
        if not self.workers or len(batches) < 2:
            for batch in batches:
                yield self.normalise(self._moved(self._read(batch))[:, 0])
            return
        ahead = iter(self._make_loader(batches, persistent=False))
        try:
            for _ in batches:
                yield self.normalise(self._moved(_next_part(ahead))[:, 0])
        finally:
            ahead._shutdown_workers()  # type: ignore[attr-defined]

    def close(self) -> None:
        """End the workers."""
        if self._loader is not None and (running := self._loader._iterator) is not None:
            running._shutdown_workers()  # type: ignore[attr-defined]
        self._loader = self._ahead = None

    def _make_loader(self, order: list[list[_Item]], *, persistent: bool) -> _Loader:
        """persistent: the workers are kept for later orders, which may be longer, since the first
        may be the rest of an epoch.
        """
        workers = self.workers if persistent else min(self.workers, len(order))
        return _Loader(
            self._reader,
            batch_sampler=order,
            num_workers=workers,
            collate_fn=_collate,
            multiprocessing_context=_START if workers else None,
            pin_memory=self.device.type == "cuda",
            persistent_workers=persistent,
            worker_init_fn=_begin_worker,
        )

    def _read(self, items: list[_Item]) -> Tensor:
        """Read in this process, without changing its random state."""
        before = random.getstate()
        try:
            with torch.random.fork_rng(devices=[]):
                return _raised(_collate([self._reader[item] for item in items]))
        finally:
            random.setstate(before)

    def _moved(self, part: Tensor) -> Tensor:
        """The bytes on the device; copied to a GPU while it computes."""
        if self._copies is None:
            return part.to(self.device)
        with torch.cuda.stream(self._copies):
            moved = part.to(self.device, non_blocking=True)
        torch.cuda.current_stream(self.device).wait_stream(self._copies)
        moved.record_stream(torch.cuda.current_stream(self.device))
        return moved


class _Loader(DataLoader[Any]):
    def check_worker_number_rationality(self) -> None:
        """Suppress the warning on more workers than cores: they help if reading is slow."""


class _Reader(Dataset[Any]):
    """An item -> its views (V, H, W, 3), uint8, or a DataError."""

    def __init__(self, images: LazyImages, transform: StreamTransform) -> None:
        self._listing, self._places, self._transform = images.listing, images.places, transform
        shape = (3, transform.side, transform.side)
        common: dict[str, Any] = {
            "use_prefetcher": True,
            "interpolation": "bilinear",
            "color_jitter": None,
        }
        flip = 0.5 if transform.flip else 0.0
        self._train = create_transform(
            shape, is_training=True, scale=(transform.area, 1.0), hflip=flip, **common
        )
        self._test = create_transform(shape, crop_pct=transform.centre, **common)
        self._opener: Opener | None = None  # of this process

    def __len__(self) -> int:
        return len(self._places)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opener": None}

    def __getitem__(self, item: _Item) -> Tensor | DataError:
        example, position, seed, views = item
        side, fit = self._transform.side, self._transform.fit
        self._opener = self._opener or opener(self._listing)
        try:
            image = decoded(self._opener, self._listing, int(self._places[example]))
        except DataError as error:
            return error
        if seed < 0 and fit != "crop":
            return torch.from_numpy(np.array(Fitting(side, side, fit)(image)))[None]
        # timm's last transform only permutes the axes of PIL's (H, W, 3)
        if seed < 0:
            return self._test(image).permute(1, 2, 0)[None]
        if fit != "crop":  # the random crop is of a square
            side = max(image.size) if fit == "pad" else min(image.size)
            image = Fitting(side, side, fit)(image)
        augmented = []
        for view in range(views):
            view_seed = derived_seed(seed, position, view)
            random.seed(view_seed)
            torch.default_generator.manual_seed(view_seed)
            augmented.append(self._train(image).permute(1, 2, 0))
        return torch.stack(augmented)


def _pieces(plan: EpochPlan, order: Tensor, at: slice) -> list[list[_Item]]:
    """The items of some rows of the order, in pieces of even size."""
    start, stop, _ = at.indices(len(order))
    views = len(plan.shifts)
    items = [
        (example, position, plan.seed, views)
        for position, example in enumerate(order[start:stop].tolist(), start)
    ]
    return [items[part] for part in cut(len(items), -(-len(items) // _PIECE))]


def _collate(items: list[Tensor | DataError]) -> Tensor | DataError:
    """The items as (B, V, H, W, 3), in shared memory if in a worker; or the first error."""
    error = next((item for item in items if isinstance(item, DataError)), None)
    return error or default_collate(items)


def _raised(part: Tensor | DataError) -> Tensor:
    if isinstance(part, DataError):
        raise part
    return part


def _next_part(ahead: Iterator[Any]) -> Tensor:
    """The workers' next part. Raises DataError if a worker has died."""
    try:
        return _raised(next(ahead))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"a process that reads images ended ({reason}): out of memory? fewer --workers may help"
        ) from None


def _begin_worker(number: int) -> None:
    """Ignore Ctrl-C and signals to all processes of a job: the training process saves first and
    then ends its workers.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_GRACE))
