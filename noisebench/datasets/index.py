"""Which images a data set has and where they lie: files of a folder, members of tars, rows of a
table; and how one of them is opened. No image is decoded.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np

from ..core.files.untrusted import open_regular
from ..errors import DataError

Opener = Callable[[int], Any]  # the file of an image, by its position in the index


class Names(Sequence[str]):
    """Many texts in two arrays: a million of them are one object, which worker processes share
    instead of copying.
    """

    def __init__(self, letters: np.ndarray, ends: np.ndarray) -> None:
        """letters: UTF-8, uint8, one text after the other; ends (N,): where each ends."""
        self.letters, self.ends = letters, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Names:
        """Texts as they come."""
        raw = [text.encode() for text in texts]
        ends = np.cumsum(np.array([len(word) for word in raw], np.int64))
        return cls(np.frombuffer(b"".join(raw), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> str:  # type: ignore[override]
        start = int(self.ends[i - 1]) if i else 0
        return bytes(self.letters[start : int(self.ends[i])]).decode()


@dataclass(frozen=True)
class ImageIndex:
    """N images. kind: `folder`, `tar` or `hfds`; root: of the files, the folder of the tars, or
    the table's name or folder.

    names (N,): paths in the root, members of tars, or `split/row`; sizes (N,), bytes, None where
    they were not read yet; of tars also `shards`, their paths in the root, which of them (N,), and
    where in it the image begins (N,). columns: of a table, image and label.
    """

    kind: str
    root: str
    names: Names
    sizes: np.ndarray | None = None
    shards: tuple[str, ...] = ()
    shard: np.ndarray | None = None
    offsets: np.ndarray | None = None
    columns: tuple[str, str] = ("image", "label")

    def __len__(self) -> int:
        return len(self.names)

    def where(self, i: int) -> str:
        """An image as an error names it."""
        name = self.names[i]
        if self.shard is not None:
            return f"{name} in {Path(self.root) / self.shards[int(self.shard[i])]}"
        return f"{name} of {self.root}" if self.kind == "hfds" else str(Path(self.root) / name)

    def take(self, places: np.ndarray) -> ImageIndex:
        """Some of the images (n,), or all of them in another order."""
        return replace(
            self,
            names=Names.of(self.names[i] for i in places.tolist()),
            sizes=None if self.sizes is None else self.sizes[places],
            shard=None if self.shard is None else self.shard[places],
            offsets=None if self.offsets is None else self.offsets[places],
        )

    def sized(self) -> ImageIndex:
        """With the sizes of the files. Raises DataError, naming the first that is not there."""
        if self.sizes is not None:
            return self
        root, sizes = Path(self.root), np.empty(len(self), np.int64)
        for i in range(len(self)):
            try:
                status = (root / self.names[i]).stat()
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{self.where(i)} is listed, and cannot be read: "
                    f"{getattr(error, 'strerror', None) or error}"
                ) from None
            if not S_ISREG(status.st_mode):
                raise DataError(f"{self.where(i)} is listed, and is no file")
            sizes[i] = status.st_size
        return replace(self, sizes=sizes)

    def fingerprint(self, labels: np.ndarray) -> str:
        """sha256 over names, labels (N,) and sizes in their order; where the images lie does not
        matter.
        """
        sized = self.sized()
        digest = hashlib.sha256(f"{len(self)} pictures\n".encode())
        for array in (sized.names.ends, sized.sizes, labels):
            digest.update(np.ascontiguousarray(array, "<i8").data)
        digest.update(np.ascontiguousarray(sized.names.letters).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Listed:
    """A streamed set: images and labels (N,) of training, images and labels (M,) of the test,
    classes in order.

    clean (N,): the verified labels, -1 for the others; None where none were verified.
    fair: whether what was verified is a fair sample, incorrect labels and all, so that its share
    of wrong ones is a rate. decisions: what was passed over, and what was chosen, a line each;
    notes: sentences on how a table was read.
    """

    train: ImageIndex
    train_labels: np.ndarray
    test: ImageIndex
    test_labels: np.ndarray
    classes: tuple[str, ...]
    clean: np.ndarray | None = field(default=None)
    fair: bool = True
    decisions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def opener(index: ImageIndex) -> Opener:
    """What opens an image by its position, without torch; training reads by timm. Nothing stays open
    between two calls.
    """
    root, tables = Path(index.root), dict[str, Any]()

    def open_image(i: int) -> Any:
        name = index.names[i]
        if index.kind == "folder":
            return open_regular(root / name)
        if index.kind == "tar":
            assert index.shard is not None and index.offsets is not None and index.sizes is not None
            with (root / index.shards[int(index.shard[i])]).open("rb") as file:
                file.seek(int(index.offsets[i]))
                return io.BytesIO(file.read(int(index.sizes[i])))
        split, _, row = name.partition("/")
        if split not in tables:
            tables[split] = load_table(index.root, split, index.columns[0])
        image = tables[split][int(row)][index.columns[0]]
        return (
            io.BytesIO(image["bytes"]) if image.get("bytes") else open_regular(Path(image["path"]))
        )

    return open_image


def load_table(name: str, split: str, column: str | None = None) -> Any:
    """One split; its images as bytes. Raises DataError."""
    datasets = hub_library()
    try:
        table = datasets.load_dataset(name, split=split)
    except Exception as error:  # the library documents no exceptions
        raise unreadable_table(name, error) from None
    return table if column is None else table.cast_column(column, datasets.Image(decode=False))


def hub_library() -> Any:
    """Hugging Face's `datasets`. Raises DataError where it is not installed."""
    try:
        import datasets
    except ImportError:
        raise DataError(
            "hfds: needs Hugging Face's datasets: pip install 'noisebench[stream]'"
        ) from None
    datasets.disable_progress_bars()
    # versions below 4 would ask whether to run a table's own script
    datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = False
    return datasets


def unreadable_table(name: str, error: Exception) -> DataError:
    """The error for a table that the library cannot read."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(
        f"hfds:{name} cannot be read ({reason}): a name of the hub, or a folder of parquet files"
    )
