"""User data sets by path: a .npz in MedMNIST's layout or a folder of images `[train/]class/image`,
in memory; or streamed, `folder:DIR`, `tar:FILE|DIR`, `wds:PATTERN|DIR`, `hfds:NAME|DIR`.

Training and test part are found by the usual names: train, and test, else validation or val.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files.untrusted import free_memory
from ..errors import DataError
from .features import is_feature_file, open_features
from .hub import list_table
from .image_folder import (
    OUTSIDE,
    TEST_PARTS,
    TRAIN_PARTS,
    Skipped,
    list_folder,
    without_absent,
)
from .images import (
    CENTRE,
    SIDE,
    ImageIndex,
    Listed,
    Names,
    Sizes,
    opener,
    orientation,
    read_picture,
)
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
from .published import LAYOUTS
from .registry import AREA, Dataset
from .tars import index_tars

READERS = ("folder", "tar", "wds", "hfds")
_WORD = re.compile(rf"(?<![a-z])({'|'.join((*TRAIN_PARTS, *TEST_PARTS))})(?![a-z])", re.IGNORECASE)
_SHARE = 0.45  # of the free memory: images are copied once on the way to the device
_SMALLEST_SIDE = 8  # pixels
_QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


def describe_user_data(path: Path, test: Path | None = None, labels: str | None = None) -> Dataset:
    """Describes a user data set by its labels and image headers. Raises DataError.

    Its name is the last part of the path and the beginning of the labels' fingerprint, so that sets
    with equal directory names differ, and a set keeps its name when it is moved.
    """
    listed, file_sizes = None, None
    decisions: tuple[str, ...] = ()
    if path.is_dir():
        listed = by_path(list_folder(path, test, labels))
        decisions = listed.decisions
        train_labels, classes = listed.train_labels, listed.classes
        sizes = len(listed.train), len(listed.test)
        file_sizes = image_sizes(listed.train)
        # images of equal size, square or not, are not resized
        height, width = file_sizes.pixels[0, ::-1].tolist()
        if not file_sizes.equal:
            height = width = min(max(file_sizes.median, _SMALLEST_SIDE), SIDE)
        shape = height, width, 3
    elif test is not None:
        raise DataError(f"--test is for folders of images only: {path} has its own test part")
    elif is_feature_file(path):
        return _describe_features(path)
    elif path.suffix == ".npz":
        arrays = read_arrays(path, ("train_labels", "test_labels"))
        train_labels, test_labels = (as_labels(array, str(path)) for array in arrays.values())
        sizes = len(train_labels), len(test_labels)
        classes = tuple(map(str, range(class_count(train_labels, test_labels, str(path)))))
        shape = image_shape(read_shape(path, "train_images"), str(path))
        if unused := unused_arrays(path, KERAS):
            decisions = (f"skipped: unknown arrays: {', '.join(unused)}",)
    else:
        raise DataError(
            f"{path} is not a data set: expected a name, a folder of images, a .npz in MedMNIST's "
            "layout, or features in a .npz or .parquet"
        )
    model = "timm:resnet18"
    if max(shape[:2]) <= 16:
        model = "mlp"
    elif max(shape[:2]) <= 64:
        model = "cnn4" if shape[2] == 1 else "cnn8"
    return Dataset(
        _name_of(path.resolve().stem, train_labels),
        "by path",
        classes,
        shape,
        *sizes,
        model,
        "apl",
        path=path,
        test=test,
        labels=labels,
        mixed=file_sizes is not None and not file_sizes.equal,
        sizes=file_sizes,
        listed=listed,
        decisions=decisions,
    )


def _describe_features(path: Path) -> Dataset:
    table = open_features(path)
    dimensions = table.features.shape[1]
    return Dataset(
        _name_of(path.resolve().stem, table.labels),
        "features, by path",
        table.classes,
        (1, 1, dimensions),
        len(table.labels),
        len(table.test_labels),
        "linear",
        "features",
        path=path,
        dimensions=dimensions,
        decisions=table.decisions,
    )


def _name_of(stem: str, labels: np.ndarray) -> str:
    return re.sub(r"[^\w.-]+", "_", stem) + f"-{fingerprint(labels)[:6]}"


def by_path(listed: Listed) -> Listed:
    """Sorts the images of both parts by path, the order of sets in memory: `a-b/0.png` comes before
    `a/0.png`.
    """
    train, test = (
        np.array(sorted(range(len(part)), key=list(part.names).__getitem__), np.int64)
        for part in (listed.train, listed.test)
    )
    return replace(
        listed,
        train=listed.train.take(train),
        train_labels=listed.train_labels[train],
        test=listed.test.take(test),
        test_labels=listed.test_labels[test],
        clean=None if listed.clean is None else listed.clean[train],
    )


def image_sizes(index: ImageIndex) -> Sizes:
    """Width and height of each image, from its header. Images that cannot be read are omitted here;
    `check_files` reports all of them. Raises DataError if none can be read.
    """

    def upright(picture: Any) -> tuple[int, int]:
        turned = "exif" in picture.info and orientation(picture) in _QUARTER_TURNS
        return picture.size[::-1] if turned else picture.size

    names, pixels, opened = [], [], opener(index)
    for i, name in enumerate(index.names):
        try:
            pixels.append(read_picture(opened, index, i, upright))
            names.append(name)
        except DataError as error:
            unreadable = error
    if not names:
        raise unreadable
    return Sizes(names, np.array(pixels))


def check_memory(path: Path | str, n: int, height: int, width: int, channels: int = 3) -> None:
    """Raises DataError if n images do not fit into the free memory."""
    needed, free = n * height * width * channels, free_memory()
    if free is not None and needed > _SHARE * free:
        stream = f", or stream them as folder:{path}" if isinstance(path, Path) else ""
        raise DataError(
            f"{path}: {n} images of {height}x{width} need {needed / 1e9:.1f} GB of memory, but "
            f"{free / 1e9:.1f} GB are free: "
            f"use a smaller --img-size{stream}"
        )


# Streamed sets


def split_reader(name: str) -> tuple[str, str]:
    """`folder:pets` -> ("folder", "pets"); of any other name the reader is empty."""
    reader, colon, rest = name.partition(":")
    return (reader, rest) if colon and reader in READERS and rest else ("", name)


def describe_stream(
    reader: str,
    where: Path,
    cache: Path,
    test: Path | None = None,
    *,
    labels: str | None = None,
    offline: bool = False,
) -> Dataset:
    """Describes a streamed set without reading images. cache: directory for the index of tars.
    Raises DataError.
    """
    if test is not None and reader != "folder":
        raise DataError(
            f"--test is for folders of images only: {reader}:{where} has its own test part"
        )
    name = f"{reader}:{where}"
    if reader == "folder":
        if not where.is_dir():
            raise DataError(
                f"{name} is not a directory; expected train/class/image and test/ or val/ in it"
            )
        listed = list_folder(where, test, labels)
        if not len(listed.test):
            raise DataError(
                f"{name} has no test images: put them into {where / 'test'}/class/, or use --test"
            )
    elif reader == "tar":
        listed = _tar(where, cache)
    elif reader == "wds":
        listed = _shards(where, cache)
    else:
        listed = list_table(str(where), offline=offline)
    _check(listed, name)
    listed = without_absent(listed, name)
    location = where.resolve()
    stem = location.parent.name if re.search(r"[{*]", location.name) else location.stem
    return Dataset(
        # a streamed set differs from the same set in memory: its pixels differ
        _name_of(f"{stem}-{reader}", listed.train_labels),
        "by path",
        listed.classes,
        (SIDE, SIDE, 3),
        len(listed.train),
        len(listed.test),
        "timm:resnet18",
        "apl",
        flip=True,
        path=where,
        test=test,
        labels=labels,
        reader=reader,
        area=AREA,
        centre=CENTRE,
        listed=listed,
        decisions=listed.decisions,
    )


def with_listing(entry: Dataset, *roots: Path) -> Dataset:
    """A built-in streamed set with the content of its directory in one of the roots, if it exists.
    Raises DataError.
    """
    where = next((root / entry.name for root in roots if (root / entry.name).is_dir()), None)
    if where is None:
        return entry
    listed = LAYOUTS[entry.name](where)
    _check(listed, str(where))
    return replace(
        entry,
        classes=listed.classes,
        n_train=len(listed.train),
        n_test=len(listed.test),
        listed=listed,
        decisions=listed.decisions,
    )


def _check(listed: Listed, where: str) -> None:
    for labels, names, part in (
        (listed.train_labels, listed.train.names, "training"),
        (listed.test_labels, listed.test.names, "test"),
    ):
        if labels.max() >= len(listed.classes):
            raise DataError(
                f"{where}: a {part} label is {labels.max()}, but classes are 0 to "
                f"{len(listed.classes) - 1}"
            )
        if len(set(names)) < len(names):
            raise DataError(f"{where}: two {part} images have the same name")


def _tar(where: Path, cache: Path) -> Listed:
    """A tar that contains train/class/image, or a directory of tars, whose names are prepended to
    their members' paths.
    """
    root, tars = (where.parent, [where.name]) if where.is_file() else (where, _tars_in(where))
    if not tars:
        raise DataError(f"tar:{where} is neither a tar nor a directory with tars")
    index, _, lines = index_tars(root, tars, cache, keyed=False)
    labels, words = [], []
    for name in index.names:
        path = name.split("/")
        # the first folder named like a part, except the last folder, which is a class
        at = next((i for i, word in enumerate(path[:-2]) if _WORD.match(word)), None)
        words.append("" if at is None else _part(path[at]))
        labels.append("" if at is None else path[at + 1])
    parts = np.array(words)
    train, test = _two_parts(
        parts,
        f"tar:{where}",
        "members such as train/class/image.jpg, or tars named train.tar and val.tar",
    )
    passed = Skipped()
    for i in np.flatnonzero(~np.isin(parts, parts[[train[0], test[0]]])).tolist():
        passed.add(OUTSIDE, index.names[i])
    classes = sorted({labels[i] for i in train})
    if strange := sorted({labels[i] for i in test} - set(classes)):
        raise DataError(
            f"tar:{where}: the test part has the class {strange[0]!r}, the training part does not"
        )
    number = {name: at for at, name in enumerate(classes)}
    numbers = np.array([number.get(name, -1) for name in labels], np.int64)
    return Listed(
        index.take(train),
        numbers[train],
        index.take(test),
        numbers[test],
        tuple(classes),
        decisions=(*lines, *passed.lines()),
    )


def _part(word: str) -> str:
    """The part that a name refers to: train for `Training`, val for `set-val`, "" for others."""
    match = _WORD.search(word)
    part = match[1].lower() if match else ""
    return TRAIN_PARTS[0] if part in TRAIN_PARTS else part


def _tars_in(where: Path) -> list[str]:
    return sorted(path.relative_to(where).as_posix() for path in where.rglob("*.tar"))


def _shards(where: Path, cache: Path) -> Listed:
    """A directory of shards, or a pattern such as `DIR/set-{train,val}-{000..099}.tar`; their names
    give the part.
    """
    root, tars = (where, _tars_in(where)) if where.is_dir() else _expanded(where)
    parts = np.array([_part(name.rpartition("/")[2]) or _part(name) for name in tars])
    expected = "shards with train, and with test, validation or val in their names"
    sides: list[tuple[ImageIndex, np.ndarray]] = []
    passed: list[str] = []
    for places in _two_parts(parts, f"wds:{where}", expected):
        chosen = [tars[i] for i in places]
        index, labels, lines = index_tars(root, chosen, cache, keyed=True)
        keys = list(index.names)
        if not keys:
            raise DataError(
                f"wds:{root}: no images in {chosen[0]}: expected key.jpg, .png or .webp next to "
                "key.cls"
            )
        if len(set(keys)) < len(keys):  # keys that start again in each shard
            assert index.shard is not None
            shards = [name.rpartition("/")[2].removesuffix(".tar") for name in chosen]
            unique = (f"{shards[at]}/{key}" for at, key in zip(index.shard, keys, strict=True))
            index = replace(index, names=Names.of(unique))
        sides.append((index, labels))
        passed += lines
    (train, train_labels), (test, test_labels) = sides
    classes = tuple(map(str, range(class_count(train_labels, test_labels, f"wds:{where}"))))
    decisions = tuple(dict.fromkeys(passed))
    return Listed(train, train_labels, test, test_labels, classes, decisions=decisions)


def _expanded(pattern: Path) -> tuple[Path, list[str]]:
    """The files of a pattern with braces and stars, relative to the directory without such
    characters. Raises DataError for a missing file.
    """
    try:
        from braceexpand import braceexpand
    except ImportError:
        raise DataError("wds: needs webdataset: pip install 'noisebench[stream]'") from None
    plain = next(parent for parent in pattern.parents if not re.search(r"[{}*?\[]", str(parent)))
    tars: list[str] = []
    for name in braceexpand(str(pattern)):
        files = plain.glob(str(Path(name).relative_to(plain)))
        if not (matches := sorted(path.relative_to(plain).as_posix() for path in files)):
            raise DataError(f"wds:{pattern}: {name} does not exist")
        tars += matches
    return plain, tars


def _two_parts(parts: np.ndarray, where: str, expected: str) -> list[np.ndarray]:
    """The indices of the training part and of the first of the test parts. Raises DataError if one
    is missing.
    """
    test = next((part for part in TEST_PARTS if (parts == part).any()), None)
    if test is None or not (parts == "train").any():
        raise DataError(
            f"{where} has no {'test' if (parts == 'train').any() else 'training'} "
            f"part: expected {expected}"
        )
    return [np.flatnonzero(parts == part) for part in ("train", test)]
