"""Images in files that are read, decoded and cropped during the training, by worker processes ahead
of it; they become numbers on the device.

The augmentation of an image depends on (the epoch's seed, its place in the epoch's order, view)
alone, so that any number of workers gives the same training, and a resumed epoch is the same one.

timm opens a file, a member of a tar and a row of a table, each by its index in one process alone.
Which there are, and in which order, is given by the listing, since a manifest goes by names. timm's
webdataset reader is not used: it reads shards in a row, and cannot fetch one image.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tarfile
import warnings
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch
from timm.data.readers.reader_factory import create_reader
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar, TarState
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ..core.hardware import cpu_count
from ..core.seeds import derived_seed
from ..datasets import LazyImages
from ..datasets.images import Fitting, decoded
from ..datasets.index import ImageIndex, Names, Opener
from ..errors import DataError
from .distributed.processes import rank_info
from .images import EpochPlan, Normalisation, StreamTransform

# images that a worker hands over at once: a batch of 2,048 would wait for one worker, and fill the
# memory
_PIECE = 128
_EVALUATION_BATCH = 256
_MOST_WORKERS = 16  # by default
# A fork server, the default from Python 3.14 on, outlives a training that is killed, and with it
# the workers, which watch their parent.
_START = "fork" if sys.platform == "linux" else None
# seconds a worker lives after SIGTERM, so that the training can save first
_GRACE = 30
# example, place in the order, the epoch's seed, views; -1 for the seed: without augmentation
_Item = tuple[int, int, int, int]


class StreamedImages:
    """Images (n, side, side, 3) out of files, on the device as they are needed."""

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
        if images.workers is None:  # one a core, shared with the other processes on this machine
            self.workers = max(1, min(cpu_count() // rank_info().local_size, _MOST_WORKERS))
        else:
            self.workers = images.workers
        # what the workers read, batch by batch; changed from epoch to epoch while they live
        self._order: list[list[_Item]] = []
        self._loader: DataLoader[Any] | None = None
        self._ahead: Iterator[Any] | None = None
        self._plan: EpochPlan | None = None
        self._expected: deque[tuple[slice, list[list[_Item]]]] = deque()
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __len__(self) -> int:
        return len(self._reader)

    def start_epoch(self, plan: EpochPlan, ats: Iterable[slice]) -> None:
        """Which rows of the plan will be taken, in order. Nothing is read before the first is."""
        self._plan, self._ahead = plan, None
        order = plan.order.cpu()
        self._expected = deque((at, _pieces(plan, order, at)) for at in ats)

    def views(self, plan: EpochPlan, at: slice) -> tuple[Tensor, ...]:
        """All views (B, 3, H, W) of some rows of the plan. Raises DataError, naming an image that
        cannot be read.
        """
        if plan is self._plan and self._expected and self._expected[0][0] == at:
            parts = self._next()
        else:  # they were not announced
            parts = [self._here(piece) for piece in _pieces(plan, plan.order.cpu(), at)]
        whole = torch.cat([self._moved(part) for part in parts])
        return tuple(self.normalise(whole[:, view]) for view in range(whole.shape[1]))

    def eval_batches(self, index: Tensor | None = None) -> Iterator[Tensor]:
        """The images as they are, the middle of each, in large batches."""
        examples = range(len(self)) if index is None else index.tolist()
        batches = [[(example, 0, -1, 1) for example in examples[start : start + _EVALUATION_BATCH]]
                   for start in range(0, len(examples), _EVALUATION_BATCH)]  # fmt: skip
        for part in self._read(batches):
            yield self.normalise(self._moved(part)[:, 0])

    def close(self) -> None:
        """End the workers."""
        if self._loader is not None and (running := self._loader._iterator) is not None:
            running._shutdown_workers()  # type: ignore[attr-defined]
        self._loader = self._ahead = None

    def _next(self) -> list[Tensor]:
        """The pieces of the next slice that was expected, read ahead of time."""
        _, pieces = self._expected[0]
        if self.workers and self._ahead is None:
            self._order[:] = [piece for _, later in self._expected for piece in later]
            self._loader = self._loader or self._make_loader(self._order, persistent=True)
            with _ignored_worker_warning():
                self._ahead = iter(self._loader)
        self._expected.popleft()
        return [
            self._here(piece) if self._ahead is None else _raised(_next_part(self._ahead))
            for piece in pieces
        ]

    def _read(self, batches: list[list[_Item]]) -> Iterator[Tensor]:
        """Batches by workers of their own, which end with the last."""
        if not self.workers or len(batches) < 2:
            yield from map(self._here, batches)
            return
        loader = self._make_loader(batches, persistent=False)
        with _ignored_worker_warning():
            ahead = iter(loader)
        try:
            for _ in batches:
                yield _raised(_next_part(ahead))
        finally:
            ahead._shutdown_workers()  # type: ignore[attr-defined]

    def _make_loader(self, order: list[list[_Item]], *, persistent: bool) -> DataLoader[Any]:
        """persistent: its workers live on for orders to come, which may be longer: the first may be
        the rest of an epoch.
        """
        workers = self.workers if persistent else min(self.workers, len(order))
        with _ignored_worker_warning():
            return DataLoader(
                self._reader,
                batch_sampler=order,
                num_workers=workers,
                collate_fn=_collate,
                multiprocessing_context=_START if workers else None,
                pin_memory=self.device.type == "cuda",
                persistent_workers=persistent,
                worker_init_fn=_begin_worker,
            )

    def _here(self, items: list[_Item]) -> Tensor:
        """Read in this process, whose randomness stays as it was."""
        with _own_randomness():
            return _raised(_collate([self._reader[item] for item in items]))

    def _moved(self, part: Tensor) -> Tensor:
        """Bytes on the device; on a GPU copied while it computes."""
        if self._copies is None:
            return part.to(self.device)
        with torch.cuda.stream(self._copies):
            moved = part.to(self.device, non_blocking=True)
        torch.cuda.current_stream(self.device).wait_stream(self._copies)
        moved.record_stream(torch.cuda.current_stream(self.device))
        return moved


class _Reader(Dataset[Any]):
    """An item -> its views (V, H, W, 3), uint8; or the DataError that it is. Goes to worker
    processes as a handle on shared memory.
    """

    def __init__(self, images: LazyImages, transform: StreamTransform) -> None:
        self._listing, self._places = _shared(images.listing), torch.from_numpy(images.places)
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
        self._transform = transform
        self._opened: tuple[int, Opener] | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def __getitem__(self, item: _Item) -> Tensor | DataError:
        example, place, seed, views = item
        try:
            image = decoded(self._opener, _plain(self._listing), int(self._places[example]))
        except DataError as error:
            return error
        if seed < 0:
            return self._evaluated(image)[None]
        if self._transform.fit != "crop":  # the random crop is of a square
            side = max(image.size) if self._transform.fit == "pad" else min(image.size)
            image = Fitting(side, side, self._transform.fit)(image)
        augmented = []
        for view in range(views):
            view_seed = derived_seed(seed, place, view)
            random.seed(view_seed)
            torch.default_generator.manual_seed(view_seed)
            augmented.append(_bytes(self._train(image)))
        return torch.stack(augmented)

    def _evaluated(self, image: Any) -> Tensor:
        side, fit = self._transform.side, self._transform.fit
        if fit == "crop":
            return _bytes(self._test(image))
        return torch.from_numpy(np.array(Fitting(side, side, fit)(image)))

    @property
    def _opener(self) -> Opener:
        """This process's own: a file that is open in two of them has one place to read at."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), timm_opener(_plain(self._listing))
        return self._opened[1]


def _shared(listing: ImageIndex) -> dict[str, Any]:
    """A listing's arrays as tensors, which torch hands to a new process without copying them."""
    arrays = {
        "letters": listing.names.letters,
        "ends": listing.names.ends,
        "sizes": listing.sizes,
        "shard": listing.shard,
        "offsets": listing.offsets,
    }
    tensors = {
        name: torch.from_numpy(np.require(array, requirements="W"))
        for name, array in arrays.items()
        if array is not None
    }
    return {
        **tensors,
        "kind": listing.kind,
        "root": listing.root,
        "shards": listing.shards,
        "columns": listing.columns,
    }


def _plain(shared: dict[str, Any]) -> ImageIndex:
    """Back from `_shared`."""
    fields: dict[str, Any] = {
        name: value.numpy() if isinstance(value, Tensor) else value
        for name, value in shared.items()
    }
    return ImageIndex(names=Names(fields.pop("letters"), fields.pop("ends")), **fields)


def _bytes(image: Tensor) -> Tensor:
    """(H, W, 3), as in PIL: timm's last transform only permutes the axes."""
    return image.permute(1, 2, 0)


def _pieces(plan: EpochPlan, order: Tensor, at: slice) -> list[list[_Item]]:
    """The items of some rows, in pieces of even size."""
    start, stop, _ = at.indices(len(order))
    views = len(plan.shifts)
    items = [
        (example, start + number, plan.seed, views)
        for number, example in enumerate(order[start:stop].tolist())
    ]
    count = -(-len(items) // _PIECE)
    cuts = [len(items) * number // count for number in range(count + 1)]
    return [items[cuts[n] : cuts[n + 1]] for n in range(count)]


def _collate(items: list[Tensor | DataError]) -> Tensor | DataError:
    """Items (B, V, H, W, 3), in a worker straight into shared memory; or the first that could not
    be read.
    """
    error = next((item for item in items if isinstance(item, DataError)), None)
    return error or default_collate(items)


def _raised(part: Tensor | DataError) -> Tensor:
    if isinstance(part, DataError):
        raise part
    return part


def _next_part(ahead: Iterator[Any]) -> Any:
    """The workers' next part. Raises DataError where one of them is dead."""
    try:
        return next(ahead)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"a process that reads pictures ended ({reason}): out of memory? fewer "
            "--workers may help"
        ) from None


@contextmanager
def _ignored_worker_warning() -> Iterator[None]:
    """torch warns of more workers than cores, which are useful where reading is slow."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        yield


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Python's and torch's global randomness as before, afterwards."""
    plain, torchs = random.getstate(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(plain)
        torch.set_rng_state(torchs)


def _begin_worker(number: int) -> None:
    """Ctrl-C, and a signal to all processes of a job, are for the training process, which saves
    first and then ends its workers.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, _end_worker)
        signal.signal(signal.SIGTERM, _end_soon)


def _end_soon(number: int, frame: FrameType | None) -> None:
    signal.alarm(_GRACE)


def _end_worker(number: int, frame: FrameType | None) -> None:
    os._exit(0)


# tars a process keeps open: a set of a thousand shards would take all the files that one may have
_MOST_OPEN = 64


def timm_opener(listing: ImageIndex) -> Opener:
    """The function that opens an image by its index."""
    if listing.kind == "hfds":
        return _Tables(listing)
    reader = _ListedFolder(listing) if listing.kind == "folder" else _ListedTars(listing)
    return lambda index: reader[index][0]


class _ListedFolder(ReaderImageFolder):
    """timm's reader of folders without its walk through the folder."""

    def __init__(self, listing: ImageIndex) -> None:
        self.root, self.class_to_idx, self.samples = listing.root, {}, _Paths(listing)


class _Paths(Sequence[Any]):
    """(path, class) of each image, made on access; the class is not used."""

    def __init__(self, listing: ImageIndex) -> None:
        self._listing = listing

    def __len__(self) -> int:
        return len(self._listing)

    def __getitem__(self, index: Any) -> tuple[str, int]:
        return f"{self._listing.root}/{self._listing.names[index]}", -1


class _ListedTars(ReaderImageInTar):
    """timm's reader of tars without its look through all of them, and with few of them open at a
    time.
    """

    def __init__(self, listing: ImageIndex) -> None:
        self.root, self.root_is_tar, self.cache_tarfiles = listing.root, False, True
        self.samples, self.targets = _TarMembers(listing), np.broadcast_to(-1, len(listing))
        self.tar_state = _OpenTars()


class _TarMembers(Sequence[Any]):
    """(member, tar, no inner tar) of each image, made on access."""

    def __init__(self, listing: ImageIndex) -> None:
        assert (
            listing.sizes is not None and listing.shard is not None and listing.offsets is not None
        )
        self._names, self._shards = listing.names, listing.shards
        self._sizes, self._shard, self._offsets = listing.sizes, listing.shard, listing.offsets

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> tuple[tarfile.TarInfo, str, None]:
        member = tarfile.TarInfo(self._names[index])
        member.size, member.offset_data = int(self._sizes[index]), int(self._offsets[index])
        return member, self._shards[int(self._shard[index])], None


class _OpenTars(OrderedDict[str, Any]):
    """The tars that are open, by name; the one that was used longest ago is closed first."""

    def __missing__(self, name: str) -> Any:
        state = self[name] = TarState()
        if len(self) > _MOST_OPEN:
            self._close(self.popitem(last=False)[1])
        return state

    def __del__(self) -> None:
        for state in self.values():
            self._close(state)

    @staticmethod
    def _close(state: Any) -> None:
        if state.tf is not None:
            state.tf.close()

    def __getitem__(self, name: str) -> Any:
        state = super().__getitem__(name)
        self.move_to_end(name)
        return state


class _Tables:
    """timm's reader of tables, one for each split."""

    def __init__(self, listing: ImageIndex) -> None:
        self._listing, self._readers = listing, dict[str, Any]()

    def __call__(self, index: int) -> Any:
        split, _, row = self._listing.names[index].partition("/")
        if split not in self._readers:
            image, label = self._listing.columns
            self._readers[split] = create_reader(
                f"hfds/{self._listing.root}", split=split, input_key=image, target_key=label
            )
        return self._readers[split][int(row)][0]
