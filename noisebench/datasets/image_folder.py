"""Which images and classes a folder holds: one scan for sets in memory, streamed sets and published
ones. No image is read.

* Parts: `train/` and, as test set, the first of test/, validation/, val/ and valid/ that has
  class folders, in upper or lower case.
  Without a training part the folder itself is the training set.
* Classes: the folders directly below a part that hold an image, at any depth. A class without
  training images is refused where there
  are test images of it, and else left out.
* Images: files by their suffix, in upper or lower case. Hidden files and folders, and those
  of operating systems, are passed over.
* A folder without class folders is a data set with a label file, whose rows name images by
  path or file name: the classes are its labels.
  Its test set is what a column such as `split` or `is_valid` marks, else what lies below test/
  where the rest lies below train/.
* Links to files and folders are followed, each folder once.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..core.files.atomic import is_text
from ..errors import DataError
from .index import ImageIndex, Listed, Names
from .label_files import read_image_labels, read_label_table, split_column

Rows = list[tuple[str, int]]
"""Paths and class numbers."""

SUFFIXES = frozenset(
    {
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".bmp",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    }
)
TRAIN_PARTS, TEST_PARTS = ("train", "training"), ("test", "testing", "validation", "val", "valid")
_UNREAD = frozenset(
    {
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".jp2",
        ".svg",
        ".ico",
        ".tga",
        ".psd",
        ".eps",
        ".raw",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".dng",
        ".orf",
        ".rw2",
        ".exr",
        ".dcm",
    }
)
_SYSTEM = frozenset(
    {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"}
)
_NAMED = 3  # names in a line

# Reasons for which something is passed over
HIDDEN = "hidden or system file{s} or folder{s}"
OTHER = "file{s} without an image's suffix"
UNREAD = "image{s} of a format that is not read: convert to PNG or JPEG"
STRAY = "image{s} beside the class folders, without a class"
EMPTY = "folder{s} without images: no class"
UNUSED = "folder{s} beside the training and the test part"
LOOP = "link{s} to a folder that is read already"
LINK = "link{s} or device{s} in a tar"
BESIDE = "image{s} of a shard beside those of their keys, such as masks"
OUTSIDE = "image{s} outside the training and the test part"
UNLABELLED = "image{s} without a row in the label file"
LABEL_FILE = "labels.csv"  # that of a folder without class folders, where none is named


@dataclass
class Skipped:
    """What a scan leaves out: how much for each reason, and the first names. used: names that are
    not left out, whatever they are.
    """

    used: frozenset[str] = frozenset()
    counts: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        if name in self.used:
            return
        self.counts[reason] += 1
        if len(self.names.setdefault(reason, [])) < _NAMED:
            self.names[reason].append(name)

    def lines(self) -> tuple[str, ...]:
        """`passed over: 2 files without an image's suffix (notes.txt, b.md)`, a line for each
        reason.
        """
        return tuple(
            f"passed over: {counted(reason, self.names[reason], count)}"
            for reason, count in self.counts.items()
        )


def counted(what: str, names: Iterable[str], count: int) -> str:
    """`12 image{s}: do this` -> `12 images (a, b, c, ...): do this`."""
    first = list(names)[:_NAMED]
    kind, colon, advice = what.format(
        s="" if count == 1 else "s", es="" if count == 1 else "es"
    ).partition(":")
    return (
        f"{count} {kind} ({', '.join(first)}{', ...' if count > len(first) else ''}){colon}{advice}"
    )


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or an operating system's own: `._0.png`,
    `__MACOSX`.
    """
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in _SYSTEM


def is_image(name: str, passed: Skipped) -> bool:
    """Whether a path is an image's by its suffix; of one that is not it is noted that it is passed
    over.
    """
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 a million of them
    if suffix not in SUFFIXES:
        passed.add(UNREAD if suffix in _UNREAD else OTHER, name)
    return suffix in SUFFIXES


def images_below(root: Path, part: str, passed: Skipped) -> list[str]:
    """Images at any depth below `part`, sorted, as paths from the root. Raises DataError for a name
    that is no text.
    """
    images: list[str] = []
    waiting, linked = [part], {os.path.realpath(root / part)}
    while waiting:
        folders, files = _entries(root, waiting.pop(), passed)
        images += [name for name in files if is_image(name, passed)]
        for folder in folders:
            if os.path.islink(root / folder):  # noqa: PTH114 as above
                target, above = (
                    os.path.realpath(root / folder),
                    os.path.realpath((root / folder).parent),
                )
                if target in linked or Path(above).is_relative_to(target):
                    passed.add(LOOP, folder)
                    continue
                linked.add(target)
            waiting.append(folder)
    return sorted(images)


def _entries(root: Path, part: str, passed: Skipped) -> tuple[list[str], list[str]]:
    """Folders and files directly in `part`, sorted, as paths from the root, without hidden ones.
    Raises DataError.
    """
    try:
        with os.scandir(root / part) as entries:
            entries_found = [(entry.name, entry.is_dir()) for entry in entries]
    except OSError as error:
        raise DataError(f"{root / part} cannot be read: {error.strerror or error}") from None
    folders: list[str] = []
    files: list[str] = []
    for name, is_folder in sorted(entries_found):
        path = f"{part}/{name}" if part else name
        if not is_text(name):
            raise DataError(f"{root} holds a file whose name is not UTF-8, {path!a}: rename it")
        if is_hidden(name):
            passed.add(HIDDEN, f"{path}/" if is_folder else path)
        else:
            (folders if is_folder else files).append(path)
    return folders, files


@dataclass(frozen=True)
class Parts:
    """The parts of a folder: `train`, "" for the folder itself, and `test`, None where it has none;
    as paths from the folder.
    """

    train: str
    test: str | None


def find_parts(root: Path, passed: Skipped) -> Parts:
    """The training and the test part by the usual names, which hold folders. Raises DataError where
    two folders have one of them.
    """
    folders, files = _entries(root, "", Skipped())
    train = _named(root, folders, TRAIN_PARTS)
    tests = [part for name in TEST_PARTS if (part := _named(root, folders, (name,)))]
    if train is None:
        for part in tests:
            if both := _folders_in(root, part) & set(folders):
                where = f"{root / part / min(both)} beside {root / min(both)}"
                raise DataError(
                    f"{where}, and no training part: move the class folders into {root / 'train'}"
                )
        return Parts("", None)
    _entries(root, "", passed)
    for name in files:
        if is_image(name, passed):
            passed.add(OUTSIDE, name)
    for folder in folders:
        if folder not in (train, *tests[:1]):
            passed.add(UNUSED, f"{folder}/")
    return Parts(train, tests[0] if tests else None)


def _named(root: Path, folders: Sequence[str], names: Sequence[str]) -> str | None:
    """The folder of one of these names, in upper or lower case, that holds folders. Raises
    DataError for two.
    """
    parts = [folder for folder in folders if folder.lower() in names and _folders_in(root, folder)]
    if len(parts) > 1:
        raise DataError(
            f"{root} has {' and '.join(f'{part}/' for part in parts)}: rename the one "
            f"that is not the {names[0]} part"
        )
    return parts[0] if parts else None


def _folders_in(root: Path, part: str) -> set[str]:
    folders, _ = _entries(root, part, Skipped())
    return {folder.rpartition("/")[2] for folder in folders}


def images_by_class(root: Path, part: str, passed: Skipped) -> dict[str, list[str]]:
    """Class -> its images, as paths from the root; classes by name. Folders without an image are no
    classes.
    """
    folders, files = _entries(root, part, passed)
    for name in files:
        if is_image(name, passed):
            passed.add(STRAY, name)
    images = {folder.rpartition("/")[2]: images_below(root, folder, passed) for folder in folders}
    for folder in folders:
        if not images[folder.rpartition("/")[2]]:
            passed.add(EMPTY, f"{folder}/")
    return {name: paths for name, paths in images.items() if paths}


def list_folder(root: Path, test: Path | None = None, labels: str | None = None) -> Listed:
    """A folder of images, `[train/]class/image`, or of any form with a label file; its test set is
    its own test part, or `test`, a folder elsewhere; empty where there is neither. Raises
    DataError.

    labels: FILE or FILE:COLUMN; of a folder with class folders whose names are labels in it it is
    not read, since the folders say the classes. Default: labels.csv in a folder without class
    folders.
    """
    passed = Skipped()
    parts = find_parts(root, passed)
    images = images_by_class(root, parts.train, passed)
    classes = tuple(images)
    by_folder = len(classes) > 1 and not all(
        name.lower() in (*TRAIN_PARTS, *TEST_PARTS) for name in classes
    )
    if not by_folder and labels is None and (root / LABEL_FILE).is_file():
        labels = str(root / LABEL_FILE)
    if labels is not None and not (by_folder and _folders_are_labels(labels, classes)):
        return _list_labelled(root, test, labels, classes if by_folder else ())
    if not by_folder:
        raise _too_few(root, parts, images, passed)
    notes = [*_nested(images, parts.train), *alike(classes)]
    if test is None and parts.test is None:
        train, none = as_listing(root, numbered(images, classes)), as_listing(root, [])
        return Listed(*train, *none, classes, decisions=(*passed.lines(), *notes, "test set: none"))
    test_root, test_part = (root, str(parts.test)) if test is None else (test, "")
    test_images = _test_images(test_root, test_part, classes, passed)
    not_used = f", in the place of {parts.test}/" if test is not None and parts.test else ""
    notes.append(
        f"test set: {sum(map(len, test_images.values()))} images in "
        f"{test or f'{test_part}/'}{not_used}"
    )
    if missing := [name for name in classes if name not in test_images]:
        notes.append(f"test set: without {counted('class{es}', missing, len(missing))}")
    sides = (
        as_listing(root, numbered(images, classes)),
        as_listing(test_root, numbered(test_images, classes)),
    )
    return Listed(*sides[0], *sides[1], classes, decisions=(*passed.lines(), *notes))


def _folders_are_labels(labels: str, classes: Sequence[str]) -> bool:
    """Whether a label file labels by the class folders: where any of its cells is one, or the
    number of one; what is no table of text never names an image.
    """
    path, column = split_column(labels)
    if path.suffix.lower() not in (".csv", ".tsv", ".txt", ".json", ".jsonl"):
        return True
    cells = {
        str(cell).strip().lower() for cell in read_label_table(path, column, classes=classes).labels
    }
    return not cells.isdisjoint(
        (*(name.strip().lower() for name in classes), *map(str, range(len(classes))))
    )


def _list_labelled(root: Path, test: Path | None, labels: str, folders_of: Sequence[str]) -> Listed:
    """Images at any depth of a folder, by a label file. folders_of: its folders that could be
    classes, and are none.
    """
    passed = Skipped(_within(root, labels))
    images = images_below(root, "", passed)
    test_passed = Skipped(frozenset({LABEL_FILE}))
    others = images_below(test, "", test_passed) if test is not None else []
    if not images:
        raise DataError(f"{root} holds no images{'; '.join(['', *passed.lines()])}")
    read = read_image_labels(
        labels, images, [f"{test.name}/{name}" for name in others] if test else ()
    )
    folders = [name.partition("/")[0].lower() for name in images]
    tests = [part for part in TEST_PARTS if part in folders]
    train = np.ones(len(images), bool)
    held_out = np.zeros(len(images), bool)
    where = ""
    if read.in_test is not None:
        train, held_out, where = ~read.in_test, read.in_test, "marked in the label file"
    elif tests and not set(TRAIN_PARTS).isdisjoint(folders):
        train = np.array([folder in TRAIN_PARTS for folder in folders])
        held_out, where = np.array([folder == tests[0] for folder in folders]), f"below {tests[0]}/"
    for at in np.flatnonzero(read.labels < 0).tolist():
        passed.add(UNLABELLED, images[at])
    for at in np.flatnonzero((read.labels >= 0) & ~train & ~held_out).tolist():
        passed.add(OUTSIDE, images[at])
    chosen = [np.flatnonzero(part & (read.labels >= 0)) for part in (train, held_out)]
    if not len(chosen[0]):
        raise DataError(f"{root}: {labels} labels no training image")
    test_labels = (
        read.labels if read.clean is None else np.where(read.clean >= 0, read.clean, read.labels)
    )
    sides = [(root, [(images[at], int(numbers[at])) for at in part.tolist()])
             for part, numbers in zip(chosen, (read.labels, test_labels), strict=True)]  # fmt: skip
    notes = [f"labels: {read.note}", *alike(read.classes)]
    if folders_of:
        notes.append(
            "classes: the labels; none is the name of one of its "
            f"{counted('folder{s}', folders_of, len(folders_of))}"
        )
    if test is not None:
        sides[1] = test, _labelled_test(test, others, read.classes, test_passed)
        where = f"in {test}" + (f", in the place of those {where}" if len(chosen[1]) else "")
    rows = sides[1][1]
    notes.append(f"test set: {len(rows)} images {where}" if rows else "test set: none")
    occurring = np.bincount(read.labels[chosen[0]], minlength=len(read.classes)) > 0
    if not occurring.all():
        number, classes = (
            np.cumsum(occurring) - 1,
            [name for name, there in zip(read.classes, occurring, strict=True) if there],
        )
        absent = [name for name in read.classes if name not in classes]
        if any(not occurring[k] for _, k in rows):
            raise DataError(
                f"{root}: there are test images and no training image of "
                f"{counted('class{es}', absent, len(absent))}"
            )
        sides = [(place, [(name, int(number[k])) for name, k in part]) for place, part in sides]
    else:
        number, classes = np.arange(len(read.classes)), list(read.classes)
    clean = (
        None
        if read.clean is None
        else _true_labels(
            root, read.clean[chosen[0]], np.where(occurring, number, -1), read.classes
        )
    )
    lines = (*passed.lines(), *(test_passed.lines() if test else ()), *notes)
    return Listed(
        *as_listing(*sides[0]), *as_listing(*sides[1]), tuple(classes), clean, decisions=lines
    )


def _true_labels(
    root: Path, clean: np.ndarray, number: np.ndarray, classes: tuple[str, ...]
) -> np.ndarray:
    """True labels (N,) by the new number of each class, -1 where unknown. Raises DataError for a
    class without a given label.
    """
    known = clean >= 0
    if len(beyond := clean[known][number[clean[known]] < 0]):
        raise DataError(
            f"{root}: the true label of {len(beyond)} training images is "
            f"{classes[beyond[0]]!r}, and no given label is"
        )
    return np.where(known, number[clean], -1)


def alike(classes: Sequence[str]) -> list[str]:
    """A line where names of classes differ in nothing but upper and lower case."""
    folded = Counter(name.casefold() for name in classes)
    twice = [name for name in classes if folded[name.casefold()] > 1]
    if not twice:
        return []
    text = "name{s} that differ in upper and lower case only"
    return [f"classes: {counted(text, twice, len(twice))}"]


def _within(root: Path, labels: str) -> frozenset[str]:
    """A label file as a path from the folder, where it lies in it."""
    path, top = split_column(labels)[0].resolve(), root.resolve()
    return frozenset({path.relative_to(top).as_posix()} if path.is_relative_to(top) else ())


def _labelled_test(
    test: Path, images: list[str], classes: tuple[str, ...], passed: Skipped
) -> Rows:
    """Test images of a folder elsewhere: by class folders, else by its own labels.csv. Raises
    DataError.
    """
    if not (test / LABEL_FILE).is_file():
        return numbered(_test_images(test, "", classes, passed), classes)
    read = read_image_labels(str(test / LABEL_FILE), images)
    labels = (
        read.labels if read.clean is None else np.where(read.clean >= 0, read.clean, read.labels)
    )
    if unknown := sorted(set(read.classes) - set(classes)):
        raise DataError(
            f"{test / LABEL_FILE}: no training image is labelled {unknown[0]!r}; the "
            f"classes are {_some(classes)}"
        )
    for at in np.flatnonzero(read.labels < 0).tolist():
        passed.add(UNLABELLED, images[at])
    return [
        (name, classes.index(read.classes[k]))
        for name, k in zip(images, labels.tolist(), strict=True)
        if k >= 0
    ]


def _test_images(
    root: Path, part: str, classes: tuple[str, ...], passed: Skipped
) -> dict[str, list[str]]:
    """Test images by class. Raises DataError for a class that the training images do not have, and
    where there are none.
    """
    where = root / part
    if not where.is_dir():
        raise DataError(
            f"{where} is not a folder: expected class/image in it, for the classes {_some(classes)}"
        )
    images = images_by_class(root, part, passed)
    if unknown := [name for name in images if name not in classes]:
        count = sum(len(images[name]) for name in unknown)
        raise DataError(
            f"{where} has {counted('class{es}', unknown, len(unknown))} without training images, "
            f"and {count} test "
            f"image{'s' if count > 1 else ''} there; the classes are {_some(classes)}: add "
            "training images, or remove the folder"
        )
    if not images:
        raise DataError(f"{where} has no images in folders named as the classes: {_some(classes)}")
    return images


def _too_few(root: Path, parts: Parts, images: dict[str, list[str]], passed: Skipped) -> DataError:
    """What is there, and what is expected."""
    where = root / parts.train
    if len(images) == 1:
        (name,) = images
        if (
            find_parts(where / name, Skipped()).train
            or len(images_by_class(where / name, "", Skipped())) > 1
        ):
            return DataError(
                f"{where} holds the one folder {name}, which has class folders: name {where / name}"
            )
        there = f"images of one class only, {name}"
    elif images:
        there = f"no class folders in {_some(tuple(images))}"
    else:
        there = "no class folders beside its images" if passed.counts[STRAY] else "no images"
    expected = "class/image.png or train/class/image.png, two classes at least"
    details = "; ".join(passed.lines())
    return DataError(
        f"{where} is not a folder of images by class: {there}; expected {expected}, or a label "
        f"file (--labels FILE, or {LABEL_FILE} in "
        f"it){f' ({details})' if details else ''}"
    )


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")


def _nested(images: dict[str, list[str]], part: str) -> list[str]:
    """A line where images lie in folders within class folders."""
    depth = 2 if part else 1  # of the slashes in train/class/image
    inner = [name for paths in images.values() for name in paths if name.count("/") > depth]
    return [(f"classes: the folders directly in {part or 'the folder'}; "
            f"{counted('image{s} in folders below them', inner, len(inner))}")
            ] if inner else []  # fmt: skip


def numbered(images: dict[str, list[str]], classes: Sequence[str]) -> Rows:
    """Paths with their class numbers, by class and name."""
    return [(path, number) for number, name in enumerate(classes) for path in images.get(name, ())]


def as_listing(root: Path, rows: Rows) -> tuple[ImageIndex, np.ndarray]:
    """Rows as what is read of them: images, and class numbers (N,)."""
    return ImageIndex("folder", str(root), Names.of(name for name, _ in rows)), np.array(
        [number for _, number in rows], np.int64
    )
