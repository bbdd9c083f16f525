"""Sets that are not in the catalogue: any .npz in MedMNIST's layout, any folder of images `[train/]class/picture`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..bounded import free_memory
from ..errors import DataError
from ..storing import is_text
from .archive import as_labels, fingerprint, image_shape, read_arrays, read_shape
from .catalogue import Dataset
from .opening import open_regular
from .pictures import as_rgb, read_picture
from .tarred import PICTURES

T = TypeVar("T")

_SHARE = 0.45  # of the free memory, for images that are copied once on their way to the device
_LARGEST_SIDE = 224  # pixels; pictures of different sizes are brought to one square no larger than this


def describe_foreign(path: Path, test: Path | None = None) -> Dataset:
    """What can be known of a foreign set from its labels and one image. Raises DataError.

    Its name is the path's last part and the beginning of its labels' fingerprint: two sets of one name stay apart, and one
    set has one name wherever it lies.
    """
    if path.is_dir():
        train, held_out = picture_files(path, test)
        labels = picture_labels(path, train)
        sizes, classes = (len(train), len(held_out)), class_names(path)
        shape = read_pictures(path, train[:1]).shape[1:]
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
    return Dataset(name, "by path", classes, shape, *sizes, _default_model(shape), "apl", path=path, test=test)


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


def common_side(path: Path, files: list[str]) -> int | None:
    """The side of the square to which pictures of different sizes are brought, in pixels; None where all are of one size."""
    sizes = {size for file in files for size in [_open(path / file, lambda picture: picture.size)]}
    return min(_LARGEST_SIDE, *(min(size) for size in sizes)) if len(sizes) > 1 else None


def check_memory(path: Path, n: int, height: int, width: int) -> None:
    """Raises DataError where n images would not fit into what is free of the memory; says how to stream them."""
    needed, free = n * height * width * 3, free_memory()
    if free is not None and needed > _SHARE * free:
        raise DataError(
            f"{path}: {n} images of {height}x{width} are {needed / 1e9:.1f} GB in memory, of which {free / 1e9:.1f} GB are free: "
            f"stream them as folder:{path}"
        )


def read_pictures(path: Path, files: list[str], side: int | None = None) -> np.ndarray:
    """Images (N, height, width, 3), uint8. With a side: the shorter side resized to it, the centre cut to a square."""
    from PIL import ImageOps

    def read(picture: Any) -> np.ndarray:
        picture, _ = as_rgb(picture)
        return np.asarray(ImageOps.fit(picture, (side, side)) if side else picture)

    return np.stack([_open(path / file, read) for file in files])


def _open(file: Path, read: Callable[[Any], T]) -> T:
    """What `read` makes of a picture. Raises DataError."""
    return read_picture(lambda: open_regular(file), read, lambda: file)
