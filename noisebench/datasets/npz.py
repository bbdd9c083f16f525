"""Reads arrays from a .npz without pickle, in the layout of MedMNIST, {train,test}_{images,labels},
or Keras; and computes fingerprints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..core.files.arrays import npz_arrays, npz_header, npz_names
from ..core.files.schema import MOST_CLASSES
from ..core.files.untrusted import open_regular
from ..errors import DataError

KERAS = {
    "train_images": "x_train",
    "train_labels": "y_train",
    "test_images": "x_test",
    "test_labels": "y_test",
}
_CHUNK = 1 << 20  # examples hashed at a time
_SHOWN = 10  # names in an error


def read_arrays(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Reads the named arrays, also by Keras' names, or all. Raises DataError if the file is
    missing, damaged or lacks an array.
    """
    with _opened(path, names) as (file, keys):
        arrays = npz_arrays(file, keys.values())
    return {name: arrays[key] for name, key in keys.items()}


def unused_arrays(path: Path, names: Iterable[str]) -> list[str]:
    """The names of all other arrays, in either layout. Raises DataError."""
    with _opened(path, names) as (file, keys):
        return [name for name in npz_names(file) if name not in keys.values()]


@contextmanager
def _opened(path: Path, names: Iterable[str] | None) -> Iterator[tuple[IO[bytes], dict[str, str]]]:
    """An open .npz file, and the key of each of the named arrays, or of all. Raises DataError for
    another file, and if it lacks an array.
    """
    try:
        with open_regular(path) as file:
            stored = npz_names(file)
            names = tuple(stored if names is None else names)
            layouts = (
                {name: name for name in names},
                {name: KERAS.get(name, name) for name in names},
            )
            matches = [len(set(layout.values()) & set(stored)) for layout in layouts]
            keys = layouts[matches.index(max(matches))]  # MedMNIST's if both match equally
            if missing := [key for key in keys.values() if key not in stored]:
                layout = f": expected {', '.join(KERAS)}, or Keras' {', '.join(KERAS.values())}"
                raise DataError(
                    f"{path} lacks {', '.join(missing)}; it has "
                    f"{', '.join(stored[:_SHOWN]) or 'no array'}"
                    f"{layout if set(names) <= set(KERAS) else ''}"
                )
            yield file, keys
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as .npz ({error}): it may be truncated: save it again"
        ) from None


def as_labels(values: np.ndarray, where: str) -> np.ndarray:
    """Class numbers (N,), int64, from (N,) or (N, 1). Raises DataError for anything else."""
    values = np.asarray(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    is_whole = values.ndim == 1 and values.size > 0 and values.dtype.kind in "iuf"
    is_whole = is_whole and bool((values == np.floor(values)).all())
    if not is_whole or values.min() < 0:
        raise DataError(
            f"{where}: labels must be one class number >= 0 per example, got shape "
            f"{values.shape} of {values.dtype}"
        )
    if float(values.max()) >= MOST_CLASSES:
        raise DataError(
            f"{where}: the label {values.max()} is too large: classes are 0 to {MOST_CLASSES - 1}"
        )
    return values.astype(np.int64)


def class_count(labels: np.ndarray, test_labels: np.ndarray, where: str) -> int:
    """The number of classes. Raises DataError for a class without a training example."""
    counts = np.bincount(labels)
    if len(missing := np.flatnonzero(counts == 0)):
        raise DataError(
            f"{where}: no training label is {_first(missing)}, but the largest is "
            f"{labels.max()}: number the classes consecutively from 0"
        )
    if len(beyond := np.unique(test_labels[test_labels >= len(counts)])):
        count = int((test_labels >= len(counts)).sum())
        raise DataError(
            f"{where}: {count} test labels are {_first(beyond)}, but no training label is: the "
            f"classes are 0 to {len(counts) - 1}"
        )
    return len(counts)


def _first(numbers: np.ndarray) -> str:
    return ", ".join(map(str, numbers[:3])) + (", ..." if len(numbers) > 3 else "")


def read_shape(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of one array, from its first bytes. Raises DataError."""
    with _opened(path, (name,)) as (file, keys):
        return npz_header(file, keys[name])


def image_shape(header: tuple[tuple[int, ...], np.dtype[Any]], where: str) -> tuple[int, int, int]:
    """(height, width, channels) of images uint8 (N, height, width), or with 1 or 3 channels. Raises
    DataError.
    """
    shape, dtype = header
    full = (*shape, 1) if len(shape) == 3 else shape
    if len(full) != 4 or dtype != np.uint8 or full[3] not in (1, 3):
        raise DataError(
            f"{where}: images must be uint8 (N, height, width) or (N, height, width, "
            f"1 or 3), 0 to 255, got {shape} {dtype}"
        )
    return full[1], full[2], full[3]


def as_images(values: np.ndarray, where: str) -> np.ndarray:
    """Images (N, height, width, channels), uint8, from (N, height, width) or with 1 or 3 channels.
    Raises DataError.
    """
    return values.reshape(len(values), *image_shape((values.shape, values.dtype), where))


def fingerprint(*arrays: np.ndarray) -> str:
    """sha256 of arrays, by shape and value; of floats also by type."""
    digest = hashlib.sha256()
    for array in arrays:
        is_float = array.dtype.kind == "f"
        kind = f" {array.dtype}" if is_float else ""
        digest.update(f"{array.shape}{kind}".encode())
        as_is = is_float or (array.dtype == np.uint8 and array.ndim > 1)
        for start in range(0, len(array), _CHUNK):
            part = array[start : start + _CHUNK]
            digest.update(np.ascontiguousarray(part if as_is else part.astype("<i8")).data)
    return digest.hexdigest()
