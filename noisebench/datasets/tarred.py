"""Pictures in tars, and in webdataset's shards: each tar is looked through once, and what it holds is kept beside the data.

A tar of tars needs nothing more: a member of an inner one lies at one place of the outer one. timm's reader of shards goes through them
in a row and cannot fetch a picture by name, which a manifest asks for; so shards are read as tars are, by where their members lie.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ..arrays import read_npz
from ..errors import DataError
from ..storing import write_whole
from .listing import Names

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_COLUMNS = ("letters", "ends", "offsets", "sizes", "shard", "labels")
_LARGEST_LABEL = 1 << 20  # bytes of a .cls or .json
_LARGEST_INDEX = 1 << 33  # bytes of a column
_FORMAT = 1


@dataclass(frozen=True)
class Index:
    """What some tars hold, in order: names (N,), where each picture begins and its size (N,), in which tar (N,), and of shards its
    label (N,), -1 elsewhere."""

    names: Names
    offsets: np.ndarray
    sizes: np.ndarray
    shard: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class _Member:
    name: str
    offset: int
    size: int
    label: int = -1


def index_tars(root: Path, tars: Sequence[str], cache: Path, *, keyed: bool) -> Index:
    """The pictures of tars at paths in the root. keyed: as webdataset has them, `key.jpg` beside `key.cls` or `key.json`.

    What was found is kept in the folder `cache` for as long as the tars are of the same size and time. Raises DataError.
    """
    kept = cache / f"{_stamp(root, tars, keyed=keyed)}.npz"
    if (found := _kept(kept)) is not None:
        return found
    look = _keyed if keyed else _named
    members = [(number, member) for number, name in enumerate(tars) for member in look(root / name, "" if keyed else _stem(name, tars))]
    columns = [[getattr(member, column) for _, member in members] for column in ("offset", "size", "label")]
    offsets, sizes, labels = (np.array(column, np.int64) for column in columns)
    shard = np.array([number for number, _ in members], np.int64)
    index = Index(Names.of(member.name for _, member in members), offsets, sizes, shard, labels)
    arrays = dict(zip(_COLUMNS, (index.names.letters, index.names.ends, offsets, sizes, shard, labels), strict=True))
    with suppress(DataError):  # where one cannot write it is looked for again
        write_whole(kept, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    return index


def _kept(path: Path) -> Index | None:
    """What an earlier look found; None where there was none, or it is damaged."""
    try:
        letters, ends, *others = read_npz(path.read_bytes(), _COLUMNS, _LARGEST_INDEX).values()
    except (OSError, ValueError):
        return None
    return Index(Names(letters, ends), *others)


def _stamp(root: Path, tars: Sequence[str], *, keyed: bool) -> str:
    """Of the tars as they lie there now."""
    try:
        facts = [(name, (root / name).stat().st_size, (root / name).stat().st_mtime_ns) for name in tars]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror or error}") from None
    return hashlib.sha256(json.dumps([_FORMAT, str(root.resolve()), keyed, facts]).encode()).hexdigest()[:32]


def _stem(name: str, tars: Sequence[str]) -> str:
    """One of several tars is a folder to its members, called as it is."""
    return f"{name.removesuffix('.tar')}/" if len(tars) > 1 else ""


def _members(path: Path, start: int = 0) -> Iterator[tuple[str, int, int]]:
    """Name, offset in the outermost tar and size of every file, of inner tars too, which are taken for folders."""
    with path.open("rb") as file:
        file.seek(start)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                found = [(member.name, member.offset_data, member.size) for member in _in_turn(tar) if member.isreg()]
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataError(f"{path} cannot be read as a tar that is not compressed ({error})") from None
    for name, offset, size in found:
        plain = name.removeprefix("./")
        if plain.endswith(".tar"):
            yield from ((f"{plain.removesuffix('.tar')}/{inner}", at, length) for inner, at, length in _members(path, offset))
        else:
            yield plain, offset, size


def _in_turn(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Each member once; the library would keep them all, a kilobyte each."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        yield member


def _named(path: Path, stem: str) -> Iterator[_Member]:
    """Pictures by their paths."""
    for name, offset, size in _members(path):
        if PurePosixPath(name).suffix.lower() in PICTURES and not PurePosixPath(name).name.startswith("."):
            yield _Member(stem + name, offset, size)


def _keyed(path: Path, _: str) -> Iterator[_Member]:
    """Pictures of a shard by their keys, each with the label beside it. Raises DataError, naming a key without one."""
    pictures: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    with path.open("rb") as file:
        for name, offset, size in _members(path):
            head, _, tail = name.rpartition("/")
            base, _, suffix = tail.partition(".")
            key, suffix = f"{head}/{base}" if head else base, suffix.lower()
            if f".{suffix}" in PICTURES:
                pictures[key] = (offset, size)
            elif suffix in ("cls", "json") and size <= _LARGEST_LABEL and (suffix == "cls" or key not in labels):
                file.seek(offset)
                labels.update(_label(key, suffix, file.read(size), path))
    if missing := [key for key in pictures if key not in labels]:
        raise DataError(f"{path}: the picture {missing[0]!r} has no label: expected {missing[0]}.cls, or .json with a label")
    for key, (offset, size) in pictures.items():
        yield _Member(key, offset, size, labels[key])


def _label(key: str, suffix: str, raw: bytes, path: Path) -> dict[str, int]:
    """The label of a key, if it is said here."""
    try:
        found = int(raw) if suffix == "cls" else json.loads(raw).get("label")
        return {} if found is None else {key: int(found)}
    except (ValueError, AttributeError, TypeError):
        raise DataError(f"{path}: {key}.{suffix} holds no class number") from None
