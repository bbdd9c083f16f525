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
from .archive import as_labels, class_count, fingerprint, image_shape, read_arrays, read_shape
from .catalogue import Dataset
from .folders import list_folder
from .listing import Listed, Names
from .opening import open_regular
from .pictures import as_rgb, read_picture

T = TypeVar("T")

_SHARE = 0.45  # of the free memory, for images that are copied once on their way to the device
_LARGEST_SIDE = 224  # pixels; pictures of different sizes are brought to one square no larger than this


def describe_foreign(path: Path, test: Path | None = None, labels: str | None = None) -> Dataset:
    """What can be known of a foreign set from its labels and one image. Raises DataError.

    Its name is the path's last part and the beginning of its labels' fingerprint: two sets of one name stay apart, and one
    set has one name wherever it lies.
    """
    listed = None
    if path.is_dir():
        listed = by_path(list_folder(path, test, labels))
        train_labels, classes = listed.train_labels, listed.classes
        sizes = len(listed.train), len(listed.test)
        shape = read_pictures(path, [listed.train.names[0]]).shape[1:]
    elif test is not None:
        raise DataError(f"--test is for a folder of images: {path} has its own test arrays")
    elif path.suffix == ".npz":
        arrays = read_arrays(path, ("train_labels", "test_labels"))
        train_labels, test_labels = (as_labels(arrays[f"{part}_labels"], str(path)) for part in ("train", "test"))
        sizes = len(train_labels), len(test_labels)
        classes = tuple(map(str, range(class_count(train_labels, test_labels, str(path)))))
        shape = image_shape(read_shape(path, "train_images"), str(path))
    else:
        raise DataError(f"{path}: a data set is a catalogue name, a .npz in MedMNIST's layout or a folder of images")
    stem = re.sub(r"[^\w.-]+", "_", path.resolve().stem)
    name = f"{stem}-{fingerprint(train_labels)[:6]}"
    return Dataset(name, "by path", classes, shape, *sizes, _default_model(shape), "apl", path=path, test=test, labels=labels,
                   listed=listed, decisions=listed.decisions if listed else ())  # fmt: skip


def _default_model(shape: tuple[int, ...]) -> str:
    if max(shape[:2]) <= 16:
        return "mlp"
    if max(shape[:2]) <= 64:
        return "cnn4" if shape[2] == 1 else "cnn8"
    return "timm:resnet18"


def by_path(listed: Listed) -> Listed:
    """The images of both parts in the order of their paths, as sets in memory have them: `a-b/0.png` comes before `a/0.png`."""
    orders = [np.array(sorted(range(len(part)), key=list(part.names).__getitem__), np.int64) for part in (listed.train, listed.test)]
    train, test = (replace(part, names=Names.of(part.names[at] for at in order.tolist()))
                   for part, order in zip((listed.train, listed.test), orders, strict=True))  # fmt: skip
    return replace(listed, train=train, test=test, train_labels=listed.train_labels[orders[0]], test_labels=listed.test_labels[orders[1]])


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
