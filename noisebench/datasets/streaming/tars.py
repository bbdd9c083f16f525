"""Images in tars, and in webdataset's shards: each tar is looked through once, and what it holds
is kept beside the data.

timm's reader of shards goes through them in a row and cannot fetch an image by name, which a
manifest asks for; so shards are read as tars are, by where their members lie.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...core.files.arrays import npz_arrays, packed_npz
from ...core.files.atomic import atomic_write, is_text
from ...core.files.schema import MOST_CLASSES
from ...errors import DataError
from ..image_folder import BESIDE, HIDDEN, LINK, SUFFIXES, Skipped, is_hidden, is_image
from ..index import Names

_COLUMNS = ("letters", "ends", "offsets", "sizes", "shard", "labels", "passed")
_LINK = -1  # the offset of what is no regular file
_LARGEST_HEAD = 1 << 20  # bytes of a long name
_LARGEST_LABEL = 1 << 20  # bytes of a .cls or .json
_LARGEST_INDEX = 1 << 33  # bytes of a column
_FORMAT = 4


@dataclass(frozen=True)
class Index:
    """What some tars hold, in order: names (N,), where each image begins and its size (N,), in
    which tar (N,), and of shards its label (N,), -1 elsewhere; and a line for each reason for which
    something was passed over.
    """

    names: Names
    offsets: np.ndarray
    sizes: np.ndarray
    shard: np.ndarray
    labels: np.ndarray
    passed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Member:
    name: str
    offset: int
    size: int
    label: int = -1


def index_tars(root: Path, tars: Sequence[str], cache: Path, *, keyed: bool) -> Index:
    """The images of tars at paths in the root. keyed: as webdataset has them, `key.jpg` beside
    `key.cls` or `key.json`.

    What was found is kept in the folder `cache` for as long as the tars are of the same size and
    time. Raises DataError.
    """
    cache_file = cache / f"{_stamp(root, tars, keyed=keyed)}.npz"
    if (cached := _kept(cache_file)) is not None:
        return cached
    look, passed = _keyed if keyed else _named, Skipped()
    members = [
        (number, member)
        for number, name in enumerate(tars)
        for member in look(root / name, "" if keyed else _stem(name, tars), passed)
    ]
    columns = [
        [getattr(member, column) for _, member in members] for column in ("offset", "size", "label")
    ]
    offsets, sizes, labels = (np.array(column, np.int64) for column in columns)
    shard = np.array([number for number, _ in members], np.int64)
    index = Index(
        Names.of(member.name for _, member in members),
        offsets,
        sizes,
        shard,
        labels,
        passed.lines(),
    )
    text = np.frombuffer("\n".join(index.passed).encode(), np.uint8)
    arrays: dict[str, np.ndarray] = dict(
        zip(
            _COLUMNS,
            (index.names.letters, index.names.ends, offsets, sizes, shard, labels, text),
            strict=True,
        )
    )
    with suppress(DataError):  # where one cannot write it is looked for again
        atomic_write(cache_file, lambda file: file.write(packed_npz(arrays)))
    return index


def _kept(path: Path) -> Index | None:
    """What an earlier look found; None where there was none, or it is damaged."""
    try:
        letters, ends, offsets, sizes, shard, labels, text = npz_arrays(
            io.BytesIO(path.read_bytes()), _COLUMNS, _LARGEST_INDEX
        ).values()
        passed = tuple(bytes(text).decode().splitlines())
    except (OSError, ValueError):
        return None
    return Index(Names(letters, ends), offsets, sizes, shard, labels, passed)


def _stamp(root: Path, tars: Sequence[str], *, keyed: bool) -> str:
    """Of the tars as they lie there now."""
    try:
        facts = [
            (name, (root / name).stat().st_size, (root / name).stat().st_mtime_ns) for name in tars
        ]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror or error}") from None
    return hashlib.sha256(
        json.dumps([_FORMAT, str(root.resolve()), keyed, facts]).encode()
    ).hexdigest()[:32]


def _stem(name: str, tars: Sequence[str]) -> str:
    """One of several tars is a folder to its members, called as it is."""
    return f"{name.removesuffix('.tar')}/" if len(tars) > 1 else ""


def _members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of every file. Raises DataError."""
    try:
        with path.open("rb") as file:
            members = list(_regular_members(file, path.stat().st_size))
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path} cannot be read as a tar that is not compressed ({error})"
        ) from None
    for name, offset, size in members:
        yield name.removeprefix("./"), offset, size


def _regular_members(file: IO[bytes], length: int) -> Iterator[tuple[str, int, int]]:
    """Each file that lies within the tar, behind the one before; links and devices at _LINK. Raises
    ValueError, tarfile's errors.
    """
    heads: Any = _Heads(file)
    with tarfile.open(fileobj=heads, mode="r:") as tar:
        before = -1
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # the library would keep them all, a kilobyte each
            end = member.offset_data + max(member.size, 0)
            if member.offset <= before or member.size < 0 or end > length:
                raise ValueError(f"{member.name!r} lies outside it: it is damaged or truncated")
            if member.sparse is not None:
                raise ValueError(f"{member.name!r} is stored with holes")
            valid = "\0" not in member.name and is_text(member.name)
            if member.isreg() and not valid:
                raise ValueError(f"the name {member.name!a} is not UTF-8")
            if member.isreg():
                yield member.name, member.offset_data, member.size
            elif not member.isdir() and valid:
                yield member.name, _LINK, 0
            before = member.offset
        file.seek(tar.offset)
        # the library stops silently at what is neither a member nor the end
        if any(file.read(min(tarfile.BLOCKSIZE, max(length - tar.offset, 0)))):
            raise ValueError(f"it is damaged at byte {tar.offset}")


class _Heads:
    """A file of which only heads are read: a head that says it is gigantic is none."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _LARGEST_HEAD:
            raise ValueError(f"a head of {count} bytes")
        return self._file.read(count)


def _visible(path: Path, passed: Skipped) -> Iterator[tuple[str, int, int]]:
    """The members that are neither hidden nor below a hidden folder."""
    for name, offset, size in _members(path):
        if any(map(is_hidden, name.split("/"))):
            passed.add(HIDDEN, name)
        elif offset == _LINK:
            passed.add(LINK, name)
        elif name.lower().endswith(".tar"):
            raise DataError(f"{path}: {name} is a tar within a tar: unpack it first")
        else:
            yield name, offset, size


def _named(path: Path, stem: str, passed: Skipped) -> Iterator[_Member]:
    """Images by their paths."""
    for name, offset, size in _visible(path, passed):
        if is_image(stem + name, passed):
            yield _Member(stem + name, offset, size)


def _keyed(path: Path, _: str, passed: Skipped) -> Iterator[_Member]:
    """Images of a shard by their keys, each with the label beside it. Raises DataError, naming a
    key without one.
    """
    images: dict[str, tuple[int, int]] = {}
    texts: dict[str, dict[str, tuple[int, int]]] = {"cls": {}, "json": {}}
    labels: dict[str, int] = {}
    with path.open("rb") as file:
        for name, offset, size in _visible(path, passed):
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
                    passed.add(BESIDE, name)
            elif size <= _LARGEST_LABEL:
                texts[suffix][key] = (offset, size)
        for suffix, places in texts.items():
            for key, (offset, size) in places.items():
                file.seek(offset)
                label = _label(key, suffix, file.read(size), path, needed=key not in labels)
                if label is not None and labels.setdefault(key, label) != label:
                    raise DataError(
                        f"{path}: the label of {key!r} is {labels[key]} in its .cls "
                        f"and {label} in its .json: correct one"
                    )
    if missing := [key for key in images if key not in labels]:
        raise DataError(
            f"{path}: the image {missing[0]!r} has no label: expected "
            f"{missing[0]}.cls, or .json with a label"
        )
    for key, (offset, size) in images.items():
        yield _Member(key, offset, size, labels[key])


def _label(key: str, suffix: str, raw: bytes, path: Path, *, needed: bool) -> int | None:
    """The class number in a .cls or .json, None where there is none. Raises DataError for another
    label, if one is `needed`.
    """
    try:
        found = int(raw) if suffix == "cls" else json.loads(raw).get("label")
        if found is None:
            return None
        if not 0 <= int(found) < MOST_CLASSES:
            raise ValueError
        return int(found)
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
        if not needed:
            return None
        raise DataError(
            f"{path}: {key}.{suffix} holds no class number from 0 to {MOST_CLASSES - 1}"
        ) from None
