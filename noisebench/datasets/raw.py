"""Reads published files, also as torchvision stores them: MNIST's idx files, CIFAR's pickled
batches and CIFAR-N's human annotations (CC BY-NC 4.0, not shipped). Files are unpickled only if
their checksum is the published one.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import tarfile
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files.atomic import read_checked
from ..core.progress import ProgressCallback, silent
from ..errors import DataError
from .download import (
    DOWNLOADS,
    FILES,
    HUMAN_HOSTS,
    NoHost,
    download_lock,
    fetch,
    human_file,
)
from .npz import as_labels

FOLDERS = {"mnist": "MNIST/raw", "fashionmnist": "FashionMNIST/raw"}
_IDX = {
    "train_images": ("train-images-idx3-ubyte", (60_000, 28, 28)),
    "train_labels": ("train-labels-idx1-ubyte", (60_000,)),
    "test_images": ("t10k-images-idx3-ubyte", (10_000, 28, 28)),
    "test_labels": ("t10k-labels-idx1-ubyte", (10_000,)),
}


@dataclass(frozen=True)
class Batches:
    """CIFAR's archive: its directory, the training and test batches with their md5, and the key of
    the labels.
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
    """The path of a set as stored by torchvision, or of the published archive; None if it is
    missing or incomplete.
    """
    if name in BATCHES:
        folder, archive = data_dir / BATCHES[name].folder, data_dir / FILES[name][0].name
        if all((folder / batch).exists() for batch in BATCHES[name].train | BATCHES[name].test):
            return folder
        return archive if _length(archive) == FILES[name][0].size else None
    raw = data_dir / FOLDERS[name] if name in FOLDERS else None
    return raw if raw and all(_idx_file(name, raw, part) for part in _IDX) else None


def read_raw(name: str, path: Path) -> dict[str, np.ndarray]:
    """Reads images and labels, {train,test}_{images,labels}, uint8. Raises DataError if a file is
    not the published one.

    path: the archive or its unpacked directory for CIFAR, the directory of the files for MNIST.
    """
    if name not in BATCHES:
        return {part: _read_idx(name, path, part) for part in _IDX}
    batches = BATCHES[name]
    if path.is_dir():
        contents = {
            batch: pickle.loads(_checked(path / batch, md5), encoding="latin1")  # noqa: S301
            for batch, md5 in (batches.train | batches.test).items()
        }
    else:
        contents = _from_archive(name, path, batches)
    arrays = {}
    for part, names in (("train", batches.train), ("test", batches.test)):
        pixels = np.concatenate([contents[batch]["data"] for batch in names])
        labels = [np.array(contents[batch][batches.labels], np.uint8) for batch in names]
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        arrays[f"{part}_images"] = np.ascontiguousarray(images)
        arrays[f"{part}_labels"] = np.concatenate(labels)
    return arrays


def _from_archive(name: str, archive: Path, batches: Batches) -> dict[str, Any]:
    """Reads the batches from the archive without unpacking it to disk."""
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
        raise DataError(f"{folder} has neither a complete {stem} nor its .gz")
    raw = read_checked(path)
    if path.suffix == ".gz":
        file = next(file for file in FILES[name] if file.name == path.name)
        if not file.is_at(path):
            raise _other(path, f"its checksum is not {file.checksum}")
        raw = gzip.decompress(raw)
    header = _header(shape)
    if not raw.startswith(header) or len(raw) != len(header) + prod(shape):
        raise _other(path, f"it does not contain {shape} bytes")
    return np.frombuffer(raw, np.uint8, offset=len(header)).reshape(shape)


def _header(shape: tuple[int, ...]) -> bytes:
    """The header of an idx file of bytes."""
    return bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)


def _idx_file(name: str, folder: Path, part: str) -> Path | None:
    """The unpacked or the published file, whichever is complete."""
    stem, shape = _IDX[part]
    if _length(folder / stem) == len(_header(shape)) + prod(shape):
        return folder / stem
    size = next(file.size for file in FILES[name] if file.name == f"{stem}.gz")
    return folder / f"{stem}.gz" if _length(folder / f"{stem}.gz") == size else None


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _checked(path: Path, md5: str) -> bytes:
    """Reads a file that is safe to unpickle. Raises DataError if it is not the published one."""
    raw = read_checked(path)
    if (actual := hashlib.md5(raw, usedforsecurity=False).hexdigest()) != md5:
        raise _other(path, f"its md5 is {actual}, not {md5}")
    return raw


def _other(path: Path, why: str) -> DataError:
    return DataError(f"{path} is not the published file: {why}; delete it to download it again")


# CIFAR-10N and CIFAR-100N


@dataclass(frozen=True)
class HumanFile:
    """A published file and its md5; if published, also the same labels in TensorFlow's order, and
    that order, each a file and its md5.
    """

    name: str
    md5: str
    ordered: tuple[str, str] | None = None
    order: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class HumanColumn:
    """One set of labels: its data set, its file and its names there (in the .npy the second)."""

    dataset: str
    file: HumanFile
    names: tuple[str, ...]
    clean: str = "clean_label"


_TEN = HumanFile("CIFAR-10_human.pt", "96644db5574813cae939af5f7f2a0aec")
_HUNDRED = HumanFile(
    "CIFAR-100_human.pt",
    "a67b45c1d7992051865b5c755bd68bb1",
    ("CIFAR-100_human_ordered.npy", "db19a14c196dd715b66b0578f8ed7f9f"),
    ("image_order_c100.npy", "713651330c6a78c4aa31ca07c9fade18"),
)

HUMAN = {
    "aggre_label": HumanColumn("cifar10", _TEN, ("aggre_label",)),
    "random_label1": HumanColumn("cifar10", _TEN, ("random_label1",)),
    "random_label2": HumanColumn("cifar10", _TEN, ("random_label2",)),
    "random_label3": HumanColumn("cifar10", _TEN, ("random_label3",)),
    "worse_label": HumanColumn("cifar10", _TEN, ("worse_label",)),
    "noisy_label": HumanColumn("cifar100", _HUNDRED, ("noisy_label", "noise_label")),
    "noisy_coarse_label": HumanColumn(
        "cifar20", _HUNDRED, ("noisy_coarse_label",), "clean_coarse_label"
    ),
}


def check_column(name: str, dataset: str) -> None:
    """Raises DataError for an unknown column, or one of another data set."""
    if name not in HUMAN:
        raise DataError(f"there are no human annotations {name!r}; available: {', '.join(HUMAN)}")
    if HUMAN[name].dataset != dataset:
        columns = ", ".join(key for key, other in HUMAN.items() if other.dataset == dataset)
        hint = f"; {dataset} has {columns}" if columns else ""
        raise DataError(
            f"the human annotations {name!r} are for {HUMAN[name].dataset}, not {dataset}{hint}"
        )


def read_human(
    name: str,
    dataset: str,
    clean: np.ndarray,
    data_dir: Path,
    *,
    offline: bool = False,
    tell: ProgressCallback = silent,
) -> np.ndarray:
    """Reads a column's labels (N,). Raises DataError, also if the file's true labels differ from
    `clean` (N,).
    """
    check_column(name, dataset)
    column, file = HUMAN[name], HUMAN[name].file
    path = data_dir / file.name
    if file.ordered and not path.exists() and (data_dir / file.ordered[0]).exists():
        path = data_dir / file.ordered[0]
        raw = _checked(path, file.ordered[1])
        order = _checked(data_dir / file.order[0], file.order[1])
        content = np.load(io.BytesIO(raw), allow_pickle=True).item()  # checksum verified
        indices = np.argsort(np.load(io.BytesIO(order), allow_pickle=False))
        content = {key: np.asarray(labels)[indices] for key, labels in content.items()}
    else:
        hint = f"put {file.name} from {HUMAN_HOSTS[0]}{file.name} there (CC BY-NC 4.0)"
        if offline and not path.exists():
            raise DataError(
                f"{path} does not exist: {hint}; without --offline it would be downloaded"
            )
        folder = data_dir / DOWNLOADS / "human"
        if not path.exists():
            with download_lock(folder, tell):
                try:
                    if not path.exists():  # else another process has downloaded it meanwhile
                        fetch(human_file(file.name, file.md5), folder, tell).replace(path)
                except NoHost as error:
                    raise DataError(f"{path} does not exist, and {error}: {hint}") from None
        import torch

        content = torch.load(io.BytesIO(_checked(path, file.md5)), weights_only=False)
    arrays = []
    for names in ((column.clean,), column.names):
        key = next((key for key in names if key in content), None)
        if key is None:
            columns = ", ".join(map(str, content))
            raise DataError(f"{path} has no column {names[0]!r}; it has {columns}")
        arrays.append(as_labels(content[key], f"{path}, {key}"))
    published, labels = arrays
    if not np.array_equal(published, clean):
        raise DataError(
            f"{path}: its clean labels differ from those of {dataset} in number, order "
            "or value, so it cannot be used"
        )
    if len(labels) != len(clean) or labels.max() > clean.max():
        raise DataError(
            f"{path}: its {name} are not {len(clean)} labels of {clean.max() + 1} classes"
        )
    return labels
