"""Data sets as they were published, and as torchvision leaves them: CIFAR's pickled batches, which
are unpickled only after their checksum matched, and MNIST's idx files.
"""

from __future__ import annotations

import gzip
import hashlib
import pickle
import tarfile
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files.atomic import read_checked
from ..errors import DataError
from .download import FILES

_RAW = {"mnist": "MNIST/raw", "fashionmnist": "FashionMNIST/raw"}
_IDX = {
    "train_images": ("train-images-idx3-ubyte", (60_000, 28, 28)),
    "train_labels": ("train-labels-idx1-ubyte", (60_000,)),
    "test_images": ("t10k-images-idx3-ubyte", (10_000, 28, 28)),
    "test_labels": ("t10k-labels-idx1-ubyte", (10_000,)),
}


@dataclass(frozen=True)
class Batches:
    """CIFAR's archive: its folder, the training and test batches with their md5, and the key of the
    labels.
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
    """Where torchvision left a set, or the archive as published; None where it is missing or
    incomplete.
    """
    if name in BATCHES:
        folder, archive = data_dir / BATCHES[name].folder, data_dir / FILES[name][0].name
        if all((folder / batch).exists() for batch in BATCHES[name].train | BATCHES[name].test):
            return folder
        return archive if _length(archive) == FILES[name][0].size else None
    raw = data_dir / _RAW[name] if name in _RAW else None
    return raw if raw and all(_idx_file(name, raw, part) for part in _IDX) else None


def raw_path(name: str) -> str:
    """Where in the data directory the published files may be put."""
    return f"{_RAW[name]}/" if name in _RAW else FILES[name][0].name


def read_raw(name: str, path: Path) -> dict[str, np.ndarray]:
    """Its images and labels, {train,test}_{images,labels}, uint8. Raises DataError where a file is
    not what was published.

    path: of CIFAR the archive or its unpacked folder, of MNIST the folder of its four files.
    """
    if name not in BATCHES:
        return {part: _read_idx(name, path, part) for part in _IDX}
    batches = BATCHES[name]
    contents = _from_folder(path, batches) if path.is_dir() else _from_archive(name, path, batches)
    arrays = {}
    for part, names in (("train", batches.train), ("test", batches.test)):
        pixels = np.concatenate([contents[batch]["data"] for batch in names])
        labels = [np.array(contents[batch][batches.labels], np.uint8) for batch in names]
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        arrays[f"{part}_images"] = np.ascontiguousarray(images)
        arrays[f"{part}_labels"] = np.concatenate(labels)
    return arrays


def _from_folder(folder: Path, batches: Batches) -> dict[str, Any]:
    contents = {}
    for batch, md5 in (batches.train | batches.test).items():
        raw = read_checked(folder / batch)
        if (actual := hashlib.md5(raw, usedforsecurity=False).hexdigest()) != md5:
            raise _other(folder / batch, f"its md5 is {actual}, not {md5}")
        contents[batch] = pickle.loads(raw, encoding="latin1")  # noqa: S301 the published bytes
    return contents


def _from_archive(name: str, archive: Path, batches: Batches) -> dict[str, Any]:
    """The batches alone, read from the archive: nothing is unpacked onto the disk."""
    contents = {}
    try:
        if not FILES[name][0].is_at(archive):
            raise _other(archive, f"its checksum is not {FILES[name][0].checksum}")
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                folder, _, batch = member.name.rpartition("/")
                file = tar.extractfile(member)
                if folder == batches.folder and batch in batches.train | batches.test and file:
                    contents[batch] = pickle.loads(file.read(), encoding="latin1")  # noqa: S301
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{archive} cannot be read: {error}") from None
    return contents


def _read_idx(name: str, folder: Path, part: str) -> np.ndarray:
    path, (stem, shape) = _idx_file(name, folder, part), _IDX[part]
    if path is None:
        raise DataError(f"{folder} has no complete {stem}, nor its .gz")
    raw = read_checked(path)
    if path.suffix == ".gz":
        checksum = next(file.checksum for file in FILES[name] if file.name == path.name)
        if hashlib.sha256(raw).hexdigest() != checksum.removeprefix("sha256:"):
            raise _other(path, f"its checksum is not {checksum}")
        raw = gzip.decompress(raw)
    header = _header(shape)
    if not raw.startswith(header) or len(raw) != len(header) + prod(shape):
        raise _other(path, f"it does not hold {shape} bytes")
    return np.frombuffer(raw, np.uint8, offset=len(header)).reshape(shape)


def _header(shape: tuple[int, ...]) -> bytes:
    """The first bytes of an idx file of bytes."""
    return bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)


def _idx_file(name: str, folder: Path, part: str) -> Path | None:
    """The unpacked file or the published one, whichever has its full length."""
    stem, shape = _IDX[part]
    if _length(folder / stem) == len(_header(shape)) + prod(shape):
        return folder / stem
    size = next(file.size for file in FILES[name] if file.name == f"{stem}.gz")
    return folder / f"{stem}.gz" if _length(folder / f"{stem}.gz") == size else None


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _other(path: Path, why: str) -> DataError:
    return DataError(f"{path} is not the published file: {why}; delete it to have it fetched again")
