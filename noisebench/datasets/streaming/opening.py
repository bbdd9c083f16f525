"""The file of one picture of a listing, without torch: for thumbnails, and for noise that looks at
images. A training reads by timm.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from .hub import load_table
from .images import Opener
from .index import ImageIndex


def opener(listing: ImageIndex) -> Opener:
    """What opens a picture by its place. Nothing stays open between two calls."""
    return {"folder": _from_folder, "tar": _from_tar, "hfds": _from_table}[listing.kind](listing)


def _from_folder(listing: ImageIndex) -> Opener:
    root = Path(listing.root)
    return lambda place: open_regular(root / listing.names[place])


def open_regular(path: Path) -> Any:
    """A file's bytes. Raises OSError for a pipe or a device, which one could wait for without
    end.
    """
    if not path.is_file():
        raise OSError("it is no file")
    return path.open("rb")


def _from_tar(listing: ImageIndex) -> Opener:
    assert listing.shard is not None and listing.offsets is not None and listing.sizes is not None
    shard, offsets, sizes = listing.shard, listing.offsets, listing.sizes

    def read(place: int) -> io.BytesIO:
        with (Path(listing.root) / listing.shards[int(shard[place])]).open("rb") as file:
            file.seek(int(offsets[place]))
            return io.BytesIO(file.read(int(sizes[place])))

    return read


def _from_table(listing: ImageIndex) -> Opener:
    tables: dict[str, Any] = {}

    def read(place: int) -> Any:
        split, _, row = listing.names[place].partition("/")
        if split not in tables:
            tables[split] = load_table(listing.root, split, listing.columns[0])
        image = tables[split][int(row)][listing.columns[0]]
        return (
            io.BytesIO(image["bytes"]) if image.get("bytes") else open_regular(Path(image["path"]))
        )

    return read
