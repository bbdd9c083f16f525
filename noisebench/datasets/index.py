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

from ..errors import DataError

Opener = Callable[[int], Any]
"""The file of an image, by its place in the index."""


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

    def __getitem__(self, place: int) -> str:  # type: ignore[override]
        start = int(self.ends[place - 1]) if place else 0
        return bytes(self.letters[start : int(self.ends[place])]).decode()


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

    def where(self, place: int) -> str:
        """An image as an error names it."""
        name = self.names[place]
        if self.shard is not None:
            return f"{name} in {Path(self.root) / self.shards[int(self.shard[place])]}"
        return f"{name} of {self.root}" if self.kind == "hfds" else str(Path(self.root) / name)

    def sized(self) -> ImageIndex:
        """With the sizes of the files. Raises DataError, naming the first that is not there."""
        if self.sizes is not None:
            return self
        root, sizes = Path(self.root), np.empty(len(self), np.int64)
        for place in range(len(self)):
            try:
                status = (root / self.names[place]).stat()
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{self.where(place)} is listed, and cannot be read: "
                    f"{getattr(error, 'strerror', None) or error}"
                ) from None
            if not S_ISREG(status.st_mode):
                raise DataError(f"{self.where(place)} is listed, and is no file")
            sizes[place] = status.st_size
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
    whole: whether what was verified is a fair sample, incorrect labels and all, so that its share
    of wrong ones is a rate. decisions: what was passed over, and what was chosen, a line each;
    notes: sentences on how a table was read.
    """

    train: ImageIndex
    train_labels: np.ndarray
    test: ImageIndex
    test_labels: np.ndarray
    classes: tuple[str, ...]
    clean: np.ndarray | None = field(default=None)
    whole: bool = True
    decisions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.train.names)


def opener(index: ImageIndex) -> Opener:
    """What opens an image by its place, without torch. No file stays open between two calls."""
    root = Path(index.root)
    if index.kind == "folder":
        return lambda place: open_regular(root / index.names[place])
    if index.kind == "tar":
        return lambda place: _open_member(index, place)
    tables: dict[str, Any] = {}

    def open_row(place: int) -> Any:
        split, _, row = index.names[place].partition("/")
        if split not in tables:
            tables[split] = load_table(index.root, split, index.columns[0])
        image = tables[split][int(row)][index.columns[0]]
        if image.get("bytes"):
            return io.BytesIO(image["bytes"])
        return open_regular(Path(image["path"]))

    return open_row


def open_regular(path: Path) -> Any:
    """A file's bytes. Raises OSError for a pipe or a device, which may never end."""
    if not path.is_file():
        raise OSError("it is no file")
    return path.open("rb")


def _open_member(index: ImageIndex, place: int) -> io.BytesIO:
    assert index.shard is not None and index.offsets is not None and index.sizes is not None
    with (Path(index.root) / index.shards[int(index.shard[place])]).open("rb") as file:
        file.seek(int(index.offsets[place]))
        return io.BytesIO(file.read(int(index.sizes[place])))


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
