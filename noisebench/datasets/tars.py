"""Images in tars and in webdataset's shards: each tar is scanned once, and its index is cached.

Shards are read like tars, by the positions of their members: timm's reader reads shards
sequentially and cannot find an image by name, which a manifest requires.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..core.files.arrays import npz_arrays, packed_npz
from ..core.files.atomic import atomic_write, is_text
from ..core.files.schema import MOST_CLASSES
from ..errors import DataError
from .image_folder import HIDDEN, SUFFIXES, Skipped, is_hidden, is_image
from .images import ImageIndex, Names

_COLUMNS = ("letters", "ends", "offsets", "sizes", "shard", "labels", "passed")
_LARGEST_HEAD = 1 << 20  # bytes of a long name
_LARGEST_LABEL = 1 << 20  # bytes of a .cls or .json
_LARGEST_INDEX = 1 << 33  # bytes of a column
_FORMAT = 4


def index_tars(
    root: Path, tars: Sequence[str], cache: Path, *, keyed: bool
) -> tuple[ImageIndex, np.ndarray, tuple[str, ...]]:
    """The images of tars at paths in the root, in order, their labels (N,), -1 for none, and a line
    for each reason to skip members. keyed: webdataset's layout, `key.jpg` next to `key.cls` or
    `key.json`.

    The result is cached in the directory `cache` as long as the tars have the same size and time.
    Raises DataError.
    """
    try:
        states = [(root / name).stat() for name in tars]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror or error}") from None
    facts = [
        (name, state.st_size, state.st_mtime_ns) for name, state in zip(tars, states, strict=True)
    ]
    stamp = json.dumps([_FORMAT, str(root.resolve()), keyed, facts])
    cache_file = cache / f"{hashlib.sha256(stamp.encode()).hexdigest()[:32]}.npz"
    try:
        with cache_file.open("rb") as file:
            columns = npz_arrays(file, _COLUMNS, _LARGEST_INDEX)
        passed = tuple(bytes(columns["passed"]).decode().splitlines())
    except (OSError, ValueError):  # missing or damaged
        columns, passed = _look_through(root, tars, keyed=keyed)
        with suppress(DataError):  # not writable: they are scanned again next time
            atomic_write(cache_file, lambda file: file.write(packed_npz(columns)))
    index = ImageIndex(
        "tar",
        str(root),
        Names(columns["letters"], columns["ends"]),
        columns["sizes"],
        tuple(tars),
        columns["shard"],
        columns["offsets"],
    )
    return index, columns["labels"], passed


def _look_through(
    root: Path, tars: Sequence[str], *, keyed: bool
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The columns of the cached file, and the last of them as lines."""
    skipped = Skipped()
    rows: list[tuple[str, int, int, int, int]] = []
    for number, name in enumerate(tars):
        # each of several tars is a folder for its members, with the tar's name
        stem = f"{name.removesuffix('.tar')}/" if len(tars) > 1 else ""
        if keyed:
            rows += [
                (key, offset, size, number, label)
                for key, offset, size, label in _keyed(root / name, skipped)
            ]
        else:
            rows += [
                (stem + member, offset, size, number, -1)
                for member, offset, size in _members(root / name, skipped)
                if is_image(stem + member, skipped)
            ]
    names = Names.of(row[0] for row in rows)
    numbers = np.array([row[1:] for row in rows], np.int64).reshape(-1, 4).T.copy()
    text = np.frombuffer("\n".join(skipped.lines()).encode(), np.uint8)
    columns = dict(zip(_COLUMNS, (names.letters, names.ends, *numbers, text), strict=True))
    return columns, skipped.lines()


def _members(path: Path, passed: Skipped) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each file in the tar; links, devices and hidden files are skipped.
    Raises DataError, also for members that overlap or are incomplete.
    """
    try:
        with path.open("rb") as file:
            length = path.stat().st_size
            heads: Any = _Heads(file)
            with tarfile.open(fileobj=heads, mode="r:") as tar:
                before = -1
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # saves a kilobyte per member
                    end = member.offset_data + max(member.size, 0)
                    if member.offset <= before or member.size < 0 or end > length:
                        raise ValueError(
                            f"{member.name!r} is outside of it: it is damaged or truncated"
                        )
                    if member.sparse is not None:
                        raise ValueError(f"{member.name!r} is a sparse file")
                    before, name = member.offset, member.name.removeprefix("./")
                    is_valid = "\0" not in name and is_text(name)
                    if member.isreg() and not is_valid:
                        raise ValueError(f"the name {member.name!a} is not UTF-8")
                    if member.isdir() or not is_valid:
                        continue
                    if any(map(is_hidden, name.split("/"))):
                        passed.add(HIDDEN, name)
                    elif not member.isreg():
                        passed.add("link{s} or device{s} in a tar", name)
                    elif name.lower().endswith(".tar"):
                        raise DataError(f"{path}: {name} is a tar inside a tar: unpack it first")
                    else:
                        yield name, member.offset_data, member.size
                file.seek(tar.offset)
                # the library stops silently at damaged members
                if any(file.read(min(tarfile.BLOCKSIZE, max(length - tar.offset, 0)))):
                    raise ValueError(f"it is damaged at byte {tar.offset}")
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise DataError(f"{path} cannot be read as an uncompressed tar ({error})") from None


class _Heads:
    """A file of which only headers are read; a header that claims to be huge is refused."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _LARGEST_HEAD:
            raise ValueError(f"a header of {count} bytes")
        return self._file.read(count)


def _keyed(path: Path, passed: Skipped) -> Iterator[tuple[str, int, int, int]]:
    """Images of a shard by key, each with offset, size and label. Raises DataError, naming a key
    without a label.
    """
    images: dict[str, tuple[int, int]] = {}
    texts: dict[str, dict[str, tuple[int, int]]] = {"cls": {}, "json": {}}
    labels: dict[str, int] = {}
    with path.open("rb") as file:
        for name, offset, size in _members(path, passed):
            head, _, tail = name.rpartition("/")
            base, _, suffix = tail.partition(".")
            key, suffix = f"{head}/{base}" if head else base, suffix.lower()
            if f".{suffix}" in SUFFIXES:
                if key in images:
                    raise DataError(
                        f"{path}: two images have the key {key!r}, the second is "
                        f"{name}: keep one of them"
                    )
                images[key] = (offset, size)
            elif suffix not in ("cls", "json"):
                if is_image(name, passed):
                    passed.add("additional image{s} of a key, such as masks", name)
            elif size <= _LARGEST_LABEL:
                texts[suffix][key] = (offset, size)
        for suffix, places in texts.items():
            for key, (offset, size) in places.items():
                file.seek(offset)
                label = _label(key, suffix, file.read(size), path, needed=key not in labels)
                if label is not None and labels.setdefault(key, label) != label:
                    raise DataError(
                        f"{path}: the label of {key!r} is {labels[key]} in its .cls "
                        f"but {label} in its .json: correct one"
                    )
    if missing := [key for key in images if key not in labels]:
        raise DataError(
            f"{path}: the image {missing[0]!r} has no label: expected "
            f"{missing[0]}.cls, or .json with a label"
        )
    for key, (offset, size) in images.items():
        yield key, offset, size, labels[key]


def _label(key: str, suffix: str, raw: bytes, path: Path, *, needed: bool) -> int | None:
    """The class number in a .cls or .json, None if there is none. Raises DataError for another
    label, if one is `needed`.
    """
    with suppress(ValueError, AttributeError, TypeError, OverflowError, RecursionError):
        label = int(raw) if suffix == "cls" else json.loads(raw).get("label")
        if label is None or 0 <= int(label) < MOST_CLASSES:
            return None if label is None else int(label)
    if needed:
        classes = f"from 0 to {MOST_CLASSES - 1}"
        raise DataError(f"{path}: {key}.{suffix} contains no class number {classes}")
    return None
