"""Sets that are not in the catalogue: any .npz in MedMNIST's layout, any folder of images `[train/]class/picture`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..bounded import free_memory
from ..errors import DataError
from ..storing import is_text
from .archive import as_labels, fingerprint, image_shape, read_arrays, read_shape
from .catalogue import Dataset
from .opening import open_regular
from .pictures import SIDE, Changed, Fitting, Sizes, orientation, read_changed, read_picture
from .tarred import PICTURES

T = TypeVar("T")

_SHARE = 0.45  # of the free memory, for images that are copied once on their way to the device
_SMALLEST_SIDE = 8  # pixels
_QUARTER_TURNS = (5, 6, 7, 8)  # of EXIF's orientations, those that exchange width and height


def describe_foreign(path: Path, test: Path | None = None) -> Dataset:
    """What can be known of a foreign set from its labels and one image. Raises DataError.

    Its name is the path's last part and the beginning of its labels' fingerprint: two sets of one name stay apart, and one
    set has one name wherever it lies.
    """
    file_sizes = None
    if path.is_dir():
        train, held_out = picture_files(path, test)
        labels = picture_labels(path, train)
        sizes, classes = (len(train), len(held_out)), class_names(path)
        file_sizes = picture_sizes(path, train)
        shape = default_shape(file_sizes)
    elif test is not None:
        raise DataError(f"--test is for a folder of images: {path} has its own test arrays")
    elif path.suffix == ".npz":
        arrays = read_arrays(path, ("train_labels", "test_labels"))
        labels, test_labels = (as_labels(arrays[f"{part}_labels"], str(path)) for part in ("train", "test"))
        sizes = len(labels), len(test_labels)
        classes = tuple(map(str, range(int(max(labels.max(), test_labels.max())) + 1)))
        shape = image_shape(read_shape(path, "train_images"), str(path))
    else:
        raise DataError(f"{path}: a data set is a catalogue name, a .npz in MedMNIST's layout or a folder of images")
    stem = re.sub(r"[^\w.-]+", "_", path.resolve().stem)
    name = f"{stem}-{fingerprint(labels)[:6]}"
    return Dataset(name, "by path", classes, shape, *sizes, _default_model(shape), "apl", path=path, test=test,
                   mixed=file_sizes is not None and not file_sizes.equal, sizes=file_sizes)  # fmt: skip


def _default_model(shape: tuple[int, ...]) -> str:
    if max(shape[:2]) <= 16:
        return "mlp"
    if max(shape[:2]) <= 64:
        return "cnn4" if shape[2] == 1 else "cnn8"
    return "timm:resnet18"


def _train_root(path: Path) -> Path:
    return path / "train" if (path / "train").is_dir() else path


def class_names(path: Path) -> tuple[str, ...]:
    """The folders of the training part, sorted."""
    names = sorted(folder.name for folder in _train_root(path).iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if len(names) < 2:
        raise DataError(f"{path} is not a folder of images: expected class/picture.png or train/class/picture.png, two classes at least")
    return tuple(names)


def picture_files(path: Path, test: Path | None = None) -> tuple[list[str], list[str]]:
    """Training and test pictures as sorted paths, relative to `path`; test is `test/` or `val/`, else nothing.

    With `test`, a folder `class/picture` of its own, test pictures are relative to that.
    """
    root, names = _train_root(path), class_names(path)
    train = _pictures(path, root, names)
    if not train:
        raise DataError(f"{path}: no pictures in its class folders ({', '.join(sorted(PICTURES))})")
    for root_of_test in [test] if test is not None and test.is_dir() else []:
        if strange := sorted(other.name for other in root_of_test.iterdir() if other.is_dir() and other.name not in names):
            raise DataError(f"--test {test}: {path} has no class {strange[0]!r}")
    if test is not None:
        held_out = _pictures(test, test, names) if test.is_dir() else []
        if not held_out:
            raise DataError(f"--test {test}: no pictures in folders named as the classes of {path}: {', '.join(names[:5])} ...")
        return train, held_out
    test_root = next((path / part for part in ("test", "val") if root != path and (path / part).is_dir()), None)
    return train, _pictures(path, test_root, names) if test_root else []


def _pictures(path: Path, root: Path, names: tuple[str, ...]) -> list[str]:
    files = (file for name in names for file in (root / name).rglob("*") if file.suffix.lower() in PICTURES)
    found = sorted(file.relative_to(path).as_posix() for file in files)
    if wrong := [name for name in found if not is_text(name)]:
        raise DataError(f"{path} holds a file whose name is not UTF-8, {wrong[0]!a}: rename it")
    return found


def picture_labels(path: Path, files: list[str], depth: int = 1) -> np.ndarray:
    """The class number of each picture, by its folder: the one at `depth`, in a set without train/ the first."""
    number = {name: k for k, name in enumerate(class_names(path))}
    depth = depth if _train_root(path) != path else 0
    return np.array([number[file.split("/")[depth]] for file in files], np.int64)


def picture_sizes(path: Path, files: list[str]) -> Sizes:
    """Width and height of each picture, from its first bytes. Raises DataError."""

    def upright(picture: Any) -> tuple[int, int]:
        turned = "exif" in picture.info and orientation(picture) in _QUARTER_TURNS
        return picture.size[::-1] if turned else picture.size

    return Sizes(files, np.array([_open(path / file, upright) for file in files]))


def default_shape(sizes: Sizes) -> tuple[int, int, int]:
    """Images that are all of one size, square or not, keep it; others become squares of the median shorter side, of at most 224."""
    if sizes.equal:
        return int(sizes.pixels[0, 1]), int(sizes.pixels[0, 0]), 3
    side = min(max(sizes.median, _SMALLEST_SIDE), SIDE)
    return side, side, 3


def check_memory(path: Path | str, n: int, height: int, width: int, channels: int = 3) -> None:
    """Raises DataError where n images would not fit into what is free of the memory; says what to do."""
    needed, free = n * height * width * channels, free_memory()
    if free is not None and needed > _SHARE * free:
        stream = f", or stream them as folder:{path}" if isinstance(path, Path) else ""
        raise DataError(
            f"{path}: {n} images of {height}x{width} are {needed / 1e9:.1f} GB in memory, of which {free / 1e9:.1f} GB are free: "
            f"give a smaller --img-size{stream}"
        )


def read_pictures(path: Path, files: list[str], fitting: Fitting) -> tuple[np.ndarray, list[Changed]]:
    """Images (N, height, width, 3), uint8, and what was changed of each (without its pixels). Raises DataError."""
    images = np.empty((len(files), fitting.height, fitting.width, 3), np.uint8)
    changed = []
    for i, file in enumerate(files):
        each = _open(path / file, lambda picture: read_changed(picture, fitting))
        images[i] = np.asarray(each.image)
        changed.append(replace(each, image=None))
    return images, changed


def _open(file: Path, read: Callable[[Any], T]) -> T:
    """What `read` makes of a picture. Raises DataError."""
    return read_picture(lambda: open_regular(file), read, lambda: file)
