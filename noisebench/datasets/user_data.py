"""Sets that are not in the catalogue: any .npz in MedMNIST's layout, any folder of images
`[train/]class/picture`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..core.files.untrusted import free_memory
from ..errors import DataError
from .image_folder import list_folder
from .images import SIDE, Changed, Fitting, Sizes, orientation, read_changed, read_picture
from .index import Listed, Names, open_regular
from .npz import (
    KERAS,
    as_labels,
    class_count,
    fingerprint,
    image_shape,
    read_arrays,
    read_shape,
    unused_arrays,
)
from .registry import Dataset

T = TypeVar("T")

_SHARE = 0.45  # of the free memory, for images that are copied once on their way to the device
_SMALLEST_SIDE = 8  # pixels
_QUARTER_TURNS = (5, 6, 7, 8)  # of EXIF's orientations, those that exchange width and height


def describe_user_data(path: Path, test: Path | None = None, labels: str | None = None) -> Dataset:
    """What can be known of a user data set from its labels and one image. Raises DataError.

    Its name is the path's last part and the beginning of its labels' fingerprint: two sets of one
    name stay apart, and one set has one name wherever it lies.
    """
    listed, file_sizes = None, None
    decisions: tuple[str, ...] = ()
    if path.is_dir():
        listed = by_path(list_folder(path, test, labels))
        decisions = listed.decisions
        train_labels, classes = listed.train_labels, listed.classes
        sizes = len(listed.train), len(listed.test)
        file_sizes = picture_sizes(path, list(listed.train.names))
        shape = default_shape(file_sizes)
    elif test is not None:
        raise DataError(f"--test is for a folder of images: {path} has its own test arrays")
    elif path.suffix == ".npz":
        arrays = read_arrays(path, ("train_labels", "test_labels"))
        train_labels, test_labels = (
            as_labels(arrays[f"{part}_labels"], str(path)) for part in ("train", "test")
        )
        sizes = len(train_labels), len(test_labels)
        classes = tuple(map(str, range(class_count(train_labels, test_labels, str(path)))))
        shape = image_shape(read_shape(path, "train_images"), str(path))
        if unused := unused_arrays(path, tuple(KERAS)):
            decisions = (f"passed over: arrays that are not read: {', '.join(unused)}",)
    else:
        raise DataError(
            f"{path}: a data set is a catalogue name, a .npz in MedMNIST's layout or "
            "a folder of images"
        )
    stem = re.sub(r"[^\w.-]+", "_", path.resolve().stem)
    name = f"{stem}-{fingerprint(train_labels)[:6]}"
    return Dataset(
        name,
        "by path",
        classes,
        shape,
        *sizes,
        _default_model(shape),
        "apl",
        path=path,
        test=test,
        labels=labels,
        mixed=file_sizes is not None and not file_sizes.equal,
        sizes=file_sizes,
        listed=listed,
        decisions=decisions,
    )


def _default_model(shape: tuple[int, ...]) -> str:
    if max(shape[:2]) <= 16:
        return "mlp"
    if max(shape[:2]) <= 64:
        return "cnn4" if shape[2] == 1 else "cnn8"
    return "timm:resnet18"


def by_path(listed: Listed) -> Listed:
    """The images of both parts in the order of their paths, as sets in memory have them:
    `a-b/0.png` comes before `a/0.png`.
    """
    orders = [
        np.array(sorted(range(len(part)), key=list(part.names).__getitem__), np.int64)
        for part in (listed.train, listed.test)
    ]
    train, test = (
        replace(part, names=Names.of(part.names[at] for at in order.tolist()))
        for part, order in zip((listed.train, listed.test), orders, strict=True)
    )
    clean = None if listed.clean is None else listed.clean[orders[0]]
    labels = listed.train_labels[orders[0]], listed.test_labels[orders[1]]
    return replace(
        listed, train=train, test=test, train_labels=labels[0], test_labels=labels[1], clean=clean
    )


def picture_sizes(path: Path, files: list[str]) -> Sizes:
    """Width and height of each image, from its first bytes; without those that cannot be read,
    which `check_files` names all at once.

    Raises DataError where none can be read.
    """

    def upright(picture: Any) -> tuple[int, int]:
        turned = "exif" in picture.info and orientation(picture) in _QUARTER_TURNS
        return picture.size[::-1] if turned else picture.size

    names, pixels, error = [], [], None
    for file in files:
        try:
            pixels.append(_open(path / file, upright))
            names.append(file)
        except DataError as broken:
            error = broken
    if error is not None and not names:
        raise error
    return Sizes(names, np.array(pixels))


def default_shape(sizes: Sizes) -> tuple[int, int, int]:
    """Images that are all of one size, square or not, keep it; others become squares of the median
    shorter side, of at most 224.
    """
    if sizes.equal:
        return int(sizes.pixels[0, 1]), int(sizes.pixels[0, 0]), 3
    side = min(max(sizes.median, _SMALLEST_SIDE), SIDE)
    return side, side, 3


def check_memory(path: Path | str, n: int, height: int, width: int, channels: int = 3) -> None:
    """Raises DataError where n images would not fit into what is free of the memory; says what to
    do.
    """
    needed, free = n * height * width * channels, free_memory()
    if free is not None and needed > _SHARE * free:
        stream = f", or stream them as folder:{path}" if isinstance(path, Path) else ""
        raise DataError(
            f"{path}: {n} images of {height}x{width} are {needed / 1e9:.1f} GB in memory, of "
            f"which {free / 1e9:.1f} GB are free: "
            f"give a smaller --img-size{stream}"
        )


def read_pictures(
    path: Path, files: list[str], fitting: Fitting
) -> tuple[np.ndarray, list[Changed]]:
    """Images (N, height, width, 3), uint8, and what was changed of each (without its pixels).
    Raises DataError.
    """
    images = np.empty((len(files), fitting.height, fitting.width, 3), np.uint8)
    changed = []
    for i, file in enumerate(files):
        decoded = _open(path / file, lambda picture: read_changed(picture, fitting))
        images[i] = np.asarray(decoded.image)
        changed.append(replace(decoded, image=None))
    return images, changed


def _open(file: Path, read: Callable[[Any], T]) -> T:
    """What `read` makes of an image. Raises DataError."""
    return read_picture(lambda: open_regular(file), read, lambda: file)
