"""Checks of the images of a user data set: unreadable images, duplicates, and test images that are
also training images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files.atomic import write_text
from ..core.progress import ProgressCallback, silent, track
from ..errors import DataError
from .image_folder import counted
from .images import ImageIndex, Listed, Opener, as_rgb, opener, read_picture

_FORMAT = 2
_LARGEST_OVERLAP = 0.01  # share of the test images that may also be training images
_SEVERAL = 100  # images from which the result is cached
_THREADS = 8  # readers: each can hold an image of 270 MB
# pixels of the shorter side from which an eighth of them still distinguishes images
_SMALLEST_DRAFT = 256
_MOST_BROKEN = 20  # unreadable files that an error names


def check_files(listed: Listed, cache: Path, tell: ProgressCallback = silent) -> tuple[str, ...]:
    """Read every image once; returns a line for each kind of duplicates and changes.

    For larger sets the result is cached in the directory `cache` as long as the files have the same
    names, sizes, times and labels. Raises DataError for images that cannot be read, and if more
    than 1 % of the test images are training images, pixel for pixel.
    """
    sides = (listed.train, listed.train_labels), (listed.test, listed.test_labels)
    stamps = [str(_FORMAT), *(_stamp(index, labels) for index, labels in sides)]
    stamp = hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:32]
    cache_file = cache / f"{stamp}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        return tuple(json.loads(cache_file.read_text(encoding="utf-8"))["decisions"])
    digests: list[list[bytes]] = []
    names_of: dict[str, list[str]] = {}
    for index, _ in sides:
        looked = _read_all(index, tell)
        digests.append([digest for digest, _ in looked])
        for i, (_, changes) in enumerate(looked):
            for change in changes:
                names_of.setdefault(change, []).append(index.names[i])
    train, test = digests
    lines = (
        *(f"images: {change}: {counted('image{s}', names)}" for change, names in names_of.items()),
        *repeated(train, test, listed.train_labels, listed.train.names, listed.test.names),
    )
    if len(listed.train) + len(listed.test) >= _SEVERAL:
        with suppress(DataError, OSError):  # not writable: they are read again next time
            write_text(cache_file, json.dumps({"decisions": lines}))
    return lines


def _stamp(index: ImageIndex, labels: np.ndarray) -> str:
    """A hash of names, labels and modification times; arbitrary if files are missing, which reading
    them reports.
    """
    paths = index.names if index.kind == "folder" else index.shards
    with suppress(OSError, DataError):
        times = [(Path(index.root) / path).stat().st_mtime_ns for path in paths]
        digest = hashlib.sha256(np.array(times, "<i8").tobytes()).hexdigest()
        return f"{index.fingerprint(labels)} {digest}"
    return "incomplete"


# the digest of an image's pixels, and the changes made when it is decoded
Looked = tuple[bytes, tuple[str, ...]]


def _read_all(index: ImageIndex, tell: ProgressCallback) -> list[Looked]:
    """Read every image. Raises DataError, naming those that cannot be read."""
    look, n = partial(_look, opener(index), index), len(index)
    with ThreadPoolExecutor(_THREADS) as threads:
        # a table of the hub is opened at first use, in this thread
        looked = (map if index.kind == "hfds" else threads.map)(look, range(n))
        results = list(track(looked, "checking images", tell, total=n, unit="images"))
    broken = [result for result in results if isinstance(result, DataError)]
    if len(broken) == 1:
        raise broken[0]
    if broken:
        more = f", and {len(broken) - _MOST_BROKEN} more" if len(broken) > _MOST_BROKEN else ""
        first = "; ".join(map(str, broken[:_MOST_BROKEN]))
        raise DataError(f"{len(broken)} images cannot be read: {first}{more}")
    return [result for result in results if not isinstance(result, DataError)]


def _look(opened: Opener, index: ImageIndex, i: int) -> Looked | DataError:
    try:
        return read_picture(opened, index, i, _pixels)
    except DataError as error:
        return error


def _pixels(picture: Any) -> Looked:
    """Decode an image completely, a large JPEG at an eighth of its size. Raises ValueError."""
    if min(picture.size) >= _SMALLEST_DRAFT:
        picture.draft(None, (1, 1))
    image, changes = as_rgb(picture)
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()[:16], changes


def check_arrays(train: np.ndarray, test: np.ndarray, labels: np.ndarray) -> tuple[str, ...]:
    """Like `check_files`, for training images (N, H, W, C) with labels (N,) and test images (M, H,
    W, C).
    """
    return repeated(
        _of_rows(train),
        _of_rows(test),
        labels,
        [f"train {i}" for i in range(len(train))],
        [f"test {i}" for i in range(len(test))],
    )


def number_in(images: np.ndarray, others: np.ndarray) -> int:
    """The number of images (M, H, W, C) that are among others (N, H, W, C), pixel for pixel."""
    known = set(_of_rows(others))
    return sum(digest in known for digest in _of_rows(images))


def _of_rows(images: np.ndarray) -> list[bytes]:
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest()[:16] for image in images]


def repeated(
    train: Sequence[bytes],
    test: Sequence[bytes],
    labels: np.ndarray,
    train_names: Sequence[str],
    test_names: Sequence[str],
) -> tuple[str, ...]:
    """A line for each kind of duplicate images, by their digests. Raises DataError if too many test
    images are training images.
    """
    first: dict[bytes, int] = {}
    copies: list[tuple[int, int]] = []  # index of an image and of its earlier copy
    for i, digest in enumerate(train):
        if (before := first.setdefault(digest, i)) != i:
            copies.append((i, before))
    apart = [(i, before) for i, before in copies if labels[i] != labels[before]]
    both = [(i, first[digest]) for i, digest in enumerate(test) if digest in first]
    lines = []
    for what, names, pairs in (
        ("training image{s} with an earlier copy in the training set", train_names, copies),
        (
            "of them with another label than the earlier copy: one of the two is incorrect",
            train_names,
            apart,
        ),
        (f"of {len(test)} test images also in the training set", test_names, both),
    ):
        if pairs:
            equal = [f"{names[i]} = {train_names[before]}" for i, before in pairs]
            lines.append(f"duplicates: {counted(what, equal)}")
    if len(both) > _LARGEST_OVERLAP * len(test):
        raise DataError(
            f"{lines[-1].removeprefix('duplicates: ')}: accuracy on training images is not test "
            "accuracy; remove them from one of the two, or choose another test set"
        )
    return tuple(lines)
