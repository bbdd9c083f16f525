"""Data sets as they were published, and as torchvision leaves them: CIFAR's pickled batches, of
which nothing is run, and MNIST's idx.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from ..core.files.atomic import read_checked
from ..errors import DataError
from .download import FILES, Published
from .npz import as_labels
from .pickled import read_batch

_BATCH = 3 * 32 * 32  # bytes of an image
_LARGEST = 1 << 28  # bytes of a batch
_RAW = {"mnist": "MNIST/raw", "fashionmnist": "FashionMNIST/raw"}
_IDX = {
    "train_images": ("train-images-idx3-ubyte", (60_000, 28, 28)),
    "train_labels": ("train-labels-idx1-ubyte", (60_000,)),
    "test_images": ("t10k-images-idx3-ubyte", (10_000, 28, 28)),
    "test_labels": ("t10k-labels-idx1-ubyte", (10_000,)),
}


@dataclass(frozen=True)
class Batches:
    """CIFAR's archive: its folder, which batches are training and test, with their md5, and what
    they call the labels.
    """

    folder: str
    train: dict[str, str]
    test: dict[str, str]
    labels: str


BATCHES = {
    "cifar10": Batches(
        "cifar-10-batches-py",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        {"test_batch": "40351d587109b95175f43aff81a1287e"},
        "labels",
    ),
    "cifar100": Batches(
        "cifar-100-python",
        {"train": "16019d7e3df5f24257cddd939b257f8d"},
        {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        "fine_labels",
    ),
}


def find_raw(name: str, data_dir: Path) -> Path | None:
    """Where torchvision left a set, or somebody its archive; None where it is not, or in part: of a
    download that was broken off.
    """
    if name in BATCHES:
        folder, archive = data_dir / BATCHES[name].folder, data_dir / FILES[name][0].name
        if all((folder / batch).exists() for batch in BATCHES[name].train | BATCHES[name].test):
            return folder
        return archive if _length(archive) == FILES[name][0].size else None
    raw = data_dir / _RAW[name] if name in _RAW else None
    return raw if raw and all(_idx_file(name, raw, part) for part in _IDX) else None


def raw_path(name: str) -> str:
    """Where in the data directory somebody may put it."""
    return f"{_RAW[name]}/" if name in _RAW else FILES[name][0].name


def read_raw(name: str, place: Path) -> dict[str, np.ndarray]:
    """Its images and labels, {train,test}_{images,labels}, uint8. Raises DataError where a file is
    not what was published.

    place: of CIFAR the archive or its unpacked folder, of MNIST the folder of its four files.
    """
    if name not in BATCHES:
        return {part: _read_idx(name, place, part) for part in _IDX}
    batches = BATCHES[name]
    files = _from_folder(place, batches) if place.is_dir() else _from_archive(name, place, batches)
    content = {batch: _read_batch(raw, place, batches.labels) for batch, raw in files}
    if missing := [batch for batch in batches.train | batches.test if batch not in content]:
        raise DataError(f"{place} has no {batches.folder}/{missing[0]}")
    return {
        f"{part}_{what}": np.concatenate([content[batch][at] for batch in names])
        for part, names in (("train", batches.train), ("test", batches.test))
        for at, what in enumerate(("images", "labels"))
    }


def _from_folder(folder: Path, batches: Batches) -> Iterator[tuple[str, bytes]]:
    for batch, md5 in (batches.train | batches.test).items():
        raw = read_checked(folder / batch)
        if (found := hashlib.md5(raw, usedforsecurity=False).hexdigest()) != md5:
            raise _other(folder / batch, f"its md5 is {found}, not {md5}")
        yield batch, raw


def _from_archive(name: str, archive: Path, batches: Batches) -> Iterator[tuple[str, bytes]]:
    """The named members alone, read where they are: nothing is unpacked onto the disk."""
    wanted = {f"{batches.folder}/{batch}": batch for batch in batches.train | batches.test}
    try:
        if not FILES[name][0].is_at(archive):
            raise _other(archive, f"its checksum is not {FILES[name][0].checksum}")
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                if (
                    member.name in wanted
                    and member.size <= _LARGEST
                    and (file := tar.extractfile(member))
                ):
                    yield wanted[member.name], file.read()
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} cannot be read: {error}") from None


def _read_batch(raw: bytes, where: Path, labels: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 32, 32, 3) and labels (n,)."""
    content = read_batch(raw, where)
    data, found = (
        content.get(key) if isinstance(content, dict) else None for key in ("data", labels)
    )
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.shape[1:] != (_BATCH,)
        or not isinstance(found, list)
    ):
        raise _other(where, f"a batch has no data (n, {_BATCH}) and {labels}")
    if not all(type(label) is int for label in found) or len(found) != len(data):
        raise _other(where, f"its {labels} are not one class number an image")
    images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), as_labels(np.array(found), str(where)).astype(np.uint8)


def _read_idx(name: str, folder: Path, part: str) -> np.ndarray:
    path, (_, shape) = _idx_file(name, folder, part), _IDX[part]
    if path is None:
        raise DataError(f"{folder} has no whole {_IDX[part][0]}, nor its .gz")
    raw, header = _unpacked(name, path, part), _header(shape)
    if not raw.startswith(header) or len(raw) != len(header) + prod(shape):
        raise _other(path, f"it does not hold {shape} bytes")
    return np.frombuffer(raw, np.uint8, offset=len(header)).reshape(shape)


def _unpacked(name: str, path: Path, part: str) -> bytes:
    """No more of it than there is to be."""
    raw = read_checked(path)
    if path.suffix != ".gz":
        return raw
    file = _published_idx(name, part)
    try:
        if not file.is_at(path):
            raise _other(path, f"its checksum is not {file.checksum}")
        return gzip.GzipFile(fileobj=io.BytesIO(raw)).read(
            len(_header(_IDX[part][1])) + prod(_IDX[part][1]) + 1
        )
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _header(shape: tuple[int, ...]) -> bytes:
    """What an idx file of bytes begins with."""
    return bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)


def _idx_file(name: str, folder: Path, part: str) -> Path | None:
    """Unpacked, or as published; either is there only whole."""
    path, file = folder / _IDX[part][0], _published_idx(name, part)
    if _length(path) == len(_header(_IDX[part][1])) + prod(_IDX[part][1]):
        return path
    return folder / file.name if _length(folder / file.name) == file.size else None


def _published_idx(name: str, part: str) -> Published:
    return next(file for file in FILES[name] if file.name == f"{_IDX[part][0]}.gz")


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _other(path: Path, why: str) -> DataError:
    return DataError(f"{path} is not the published file: {why}; delete it to have it fetched again")
