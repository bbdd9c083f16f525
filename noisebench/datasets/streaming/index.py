"""Where the pictures of a streamed set lie, one an example: files of a folder, members of tars,
rows of a table. No picture is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISREG

import numpy as np

from ...errors import DataError

_CHUNK = 1 << 16  # names made into bytes at a time


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
    """N pictures. kind: `folder`, `tar` or `hfds`; root: of the files, the folder of the tars, or
    the table's name or folder.

    names (N,): paths in the root, members of tars, or `split/row`; sizes (N,), bytes, None where
    nobody has asked yet; of tars also `shards`, their paths in the root, which of them (N,), and
    where in it the picture begins (N,). columns: of a table, image and label.
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
        """A picture as an error names it."""
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
                found = (root / self.names[place]).stat()
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{self.where(place)} is listed, and cannot be read: "
                    f"{getattr(error, 'strerror', None) or error}"
                ) from None
            if not S_ISREG(found.st_mode):
                raise DataError(f"{self.where(place)} is listed, and is no file")
            sizes[place] = found.st_size
        return replace(self, sizes=sizes)

    def fingerprint(self, labels: np.ndarray) -> str:
        """sha256 over names, labels (N,) and sizes in their order; where the pictures lie does not
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
    """A streamed set: pictures and labels (N,) of training, pictures and labels (M,) of the test,
    classes in order.

    clean (N,): the labels that somebody has verified, -1 for the others; None where nobody has.
    whole: whether what was verified is a fair sample, wrong labels and all, so that its share of
    wrong ones is a rate. decisions: what was passed over, and what was chosen, a line each; notes:
    sentences on how a table was read.
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
