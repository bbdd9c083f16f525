"""timm's readers for a listing of images, each opened by its index in this process alone.

timm opens a file, a member of a tar and a row of a table. Which there are, and in which order, is
given by the listing, since a manifest goes by names. timm's webdataset reader is not used: it reads
shards in a row, and cannot fetch one image.
"""

from __future__ import annotations

import tarfile
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from timm.data.readers.reader_factory import create_reader
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar, TarState

from ...datasets.images import ImageIndex, Opener

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
