"""Images and classes of a directory: one scan for sets in memory, streamed sets and published sets.
No image is read.

* Parts: `train/` and, as test set, the first of test/, validation/, val/ and valid/ that has
  class folders, in upper or lower case. Without a training part the folder itself is the training
  set.
* Classes: the folders directly in a part that contain images at any depth. A class without training
  images is an error if it has test images, and is skipped otherwise.
* Images: files with an image's suffix, in upper or lower case. Hidden files and folders, and those
  of operating systems, are skipped.
* A folder without class folders needs a label file, whose rows name images by path or file name;
  its labels are the classes. A column such as `split` or `is_valid` marks the test set; without one
  it is test/ if the other images are in train/.
* Links to files and folders are followed, each folder once.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..core.files.atomic import is_text
from ..errors import DataError
from .images import ImageIndex, Listed, Names
from .label_files import read_image_labels, read_label_table, split_column

Rows = list[tuple[str, int]]  # paths and class numbers

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

# Reasons to skip files
HIDDEN = "hidden or system file{s} or folder{s}"
STRAY = "image{s} next to the class folders, without a class"
OUTSIDE = "image{s} outside the training and the test part"
UNLABELLED = "image{s} without a row in the label file"
LABEL_FILE = "labels.csv"  # the default in a folder without class folders


@dataclass
class Skipped:
    """Names that a scan skips, by reason. used: names that are never skipped."""

    used: frozenset[str] = frozenset()
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        if name not in self.used:
            self.names.setdefault(reason, []).append(name)

    def lines(self) -> tuple[str, ...]:
        """`skipped: 2 files without an image's suffix (notes.txt, b.md)`, a line per reason."""
        return tuple(f"skipped: {counted(*reason)}" for reason in self.names.items())


def counted(what: str, names: Sequence[str]) -> str:
    """`12 image{s}: do this` -> `12 images (a, b, c, ...): do this`."""
    one = len(names) == 1
    kind, colon, advice = what.format(s="" if one else "s", es="" if one else "es").partition(":")
    more = ", ..." if len(names) > _NAMED else ""
    return f"{len(names)} {kind} ({', '.join(names[:_NAMED])}{more}){colon}{advice}"


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or belongs to an operating system: `._0.png`,
    `__MACOSX`.
    """
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in _SYSTEM


def is_image(name: str, passed: Skipped) -> bool:
    """Whether a path has an image's suffix; if not, it is added to the skipped files."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 faster, for a million files
    if suffix not in SUFFIXES:
        passed.add(
            "image{s} in an unsupported format: convert to PNG or JPEG"
            if suffix in _UNREAD
            else "file{s} without an image's suffix",
            name,
        )
    return suffix in SUFFIXES


def images_below(root: Path, part: str, passed: Skipped) -> list[str]:
    """Images at any depth below `part`, sorted, as paths from the root. Raises DataError for a name
    that is not text.
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
                    passed.add("link{s} to a folder that is already read", folder)
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
            names = [(entry.name, entry.is_dir()) for entry in entries]
    except OSError as error:
        raise DataError(f"{root / part} cannot be read: {error.strerror or error}") from None
    folders: list[str] = []
    files: list[str] = []
    for name, is_folder in sorted(names):
        path = f"{part}/{name}" if part else name
        if not is_text(name):
            raise DataError(f"{root} contains a file whose name is not UTF-8, {path!a}: rename it")
        if is_hidden(name):
            passed.add(HIDDEN, f"{path}/" if is_folder else path)
        else:
            (folders if is_folder else files).append(path)
    return folders, files


def find_parts(root: Path, passed: Skipped) -> tuple[str, str | None]:
    """The training part, "" for the folder itself, and the test part or None: the folders with the
    usual names that contain folders. Raises DataError if two folders could be the same part.
    """
    folders, files = _entries(root, "", Skipped())
    inside = {
        folder: {name.rpartition("/")[2] for name in _entries(root, folder, Skipped())[0]}
        for folder in folders
        if folder.lower() in (*TRAIN_PARTS, *TEST_PARTS)
    }
    parts = []
    for names in (TRAIN_PARTS, *((name,) for name in TEST_PARTS)):
        chosen = [name for name in inside if name.lower() in names and inside[name]]
        if len(chosen) > 1:
            raise DataError(
                f"{root} has {' and '.join(f'{part}/' for part in chosen)}: rename the one "
                f"that is not the {names[0]} part"
            )
        parts.append(chosen[0] if chosen else None)
    train, tests = parts[0], [part for part in parts[1:] if part]
    if train is None:
        for part in tests:
            if both := inside[part] & set(folders):
                where = f"{root / part / min(both)} and {root / min(both)}"
                raise DataError(
                    f"both {where} exist, but no training part: move the class folders into "
                    f"{root / 'train'}"
                )
        return "", None
    _entries(root, "", passed)
    for name in files:
        if is_image(name, passed):
            passed.add(OUTSIDE, name)
    for folder in folders:
        if folder not in (train, *tests[:1]):
            passed.add("folder{s} next to the training and the test part", f"{folder}/")
    return train, tests[0] if tests else None


def images_by_class(root: Path, part: str, passed: Skipped) -> dict[str, list[str]]:
    """Class -> its images, as paths from the root; classes sorted by name. Folders without images
    are not classes.
    """
    folders, files = _entries(root, part, passed)
    for name in files:
        if is_image(name, passed):
            passed.add(STRAY, name)
    images = {}
    for folder in folders:
        if paths := images_below(root, folder, passed):
            images[folder.rpartition("/")[2]] = paths
        else:
            passed.add("folder{s} without images: not a class", f"{folder}/")
    return images


def list_folder(root: Path, test: Path | None = None, labels: str | None = None) -> Listed:
    """A folder of images, `[train/]class/image`, or of any layout with a label file. The test set
    is `test`, a folder elsewhere, else its own test part; empty if there is neither. Raises
    DataError.

    labels: FILE or FILE:COLUMN; not read if the class folders are its labels, since these define
    the classes. Default: labels.csv in a folder without class folders.
    """
    passed = Skipped()
    part, own_test = find_parts(root, passed)
    images = images_by_class(root, part, passed)
    classes = tuple(images)
    by_folder = len(classes) > 1 and not all(
        name.lower() in (*TRAIN_PARTS, *TEST_PARTS) for name in classes
    )
    if not by_folder and labels is None and (root / LABEL_FILE).is_file():
        labels = str(root / LABEL_FILE)
    if labels is not None and not (by_folder and _folders_are_labels(labels, classes)):
        return _list_labelled(root, test, labels, classes if by_folder else ())
    if not by_folder:
        raise _too_few(root, part, images, passed)
    depth = 2 if part else 1  # slashes in train/class/image
    inner = [name for paths in images.values() for name in paths if name.count("/") > depth]
    notes = alike(classes)
    if inner:
        below = counted("image{s} in subfolders of them", inner)
        notes.insert(0, f"classes: the folders directly in {part or 'the folder'}; {below}")
    test_images: dict[str, list[str]] = {}
    test_root, test_part = (root, own_test) if test is None else (test, "")
    if test_part is None:
        notes.append("test set: none")
    else:
        test_images = _test_images(test_root, test_part, classes, passed)
        not_used = f", instead of {own_test}/" if test is not None and own_test else ""
        number = sum(map(len, test_images.values()))
        notes.append(f"test set: {number} images in {test or f'{own_test}/'}{not_used}")
        if missing := [name for name in classes if name not in test_images]:
            notes.append(f"test set: no images of {counted('class{es}', missing)}")
    return Listed(
        *as_listing(root, numbered(images, classes)),
        *as_listing(test_root, numbered(test_images, classes)),
        classes,
        decisions=(*passed.lines(), *notes),
    )


def _folders_are_labels(labels: str, classes: Sequence[str]) -> bool:
    """Whether the labels of a file are the class folders: if any cell is the name or number of one,
    or the file is not a table of text, which cannot name images.
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
    """Images at any depth of a folder, labelled by a file. folders_of: class folders that are not
    used as classes.
    """
    file = split_column(labels)[0].resolve()
    inside = file.is_relative_to(root.resolve())
    used = [file.relative_to(root.resolve()).as_posix()] if inside else []
    passed, test_passed = Skipped(frozenset(used)), Skipped(frozenset({LABEL_FILE}))
    images = images_below(root, "", passed)
    others = images_below(test, "", test_passed) if test is not None else []
    if not images:
        raise DataError(f"{root} contains no images{'; '.join(['', *passed.lines()])}")
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
        train, held_out = np.isin(folders, TRAIN_PARTS), np.isin(folders, tests[0])
        where = f"in {tests[0]}/"
    labelled = read.labels >= 0
    for at in np.flatnonzero(~labelled).tolist():
        passed.add(UNLABELLED, images[at])
    for at in np.flatnonzero(labelled & ~train & ~held_out).tolist():
        passed.add(OUTSIDE, images[at])
    train, held_out = train & labelled, held_out & labelled
    if not train.any():
        raise DataError(f"{root}: {labels} labels no training image")
    rows = [(images[at], int(read.labels[at])) for at in np.flatnonzero(train)]
    test_rows = [(images[at], int(read.best[at])) for at in np.flatnonzero(held_out)]
    notes = [f"labels: {read.note}", *alike(read.classes)]
    if folders_of:
        folders_unused = counted("folder{s}", folders_of)
        notes.append(f"classes: the labels in the file; none is the name of its {folders_unused}")
    if test is not None:
        where = f"in {test}" + (f", instead of those {where}" if test_rows else "")
        test_rows = _labelled_test(test, others, read.classes, test_passed)
    notes.append(f"test set: {len(test_rows)} images {where}" if test_rows else "test set: none")
    listed = Listed(
        *as_listing(root, rows),
        *as_listing(test or root, test_rows),
        read.classes,
        None if read.clean is None else read.clean[train],
        decisions=(*passed.lines(), *(test_passed.lines() if test else ()), *notes),
    )
    return without_absent(listed, str(root))


def without_absent(listed: Listed, where: str) -> Listed:
    """Removes classes without training images. Raises DataError if one of them has test images or
    is a true label.
    """
    occurs = np.bincount(listed.train_labels, minlength=len(listed.classes)) > 0
    if occurs.all():
        return listed
    absent = [listed.classes[k] for k in np.flatnonzero(~occurs)]
    number = np.where(occurs, np.cumsum(occurs) - 1, -1)
    train_labels, test_labels = number[listed.train_labels], number[listed.test_labels]
    if (test_labels < 0).any():
        raise DataError(
            f"{where}: there are test images but no training images of "
            f"{counted('class{es}', absent)}"
        )
    clean = listed.clean
    if clean is not None:
        beyond = clean[(clean >= 0) & (number[clean] < 0)]
        if len(beyond):
            raise DataError(
                f"{where}: {listed.classes[beyond[0]]!r} is the true label of {len(beyond)} "
                "training images, but not a given label"
            )
        clean = np.where(clean >= 0, number[clean], -1)
    return replace(
        listed,
        train_labels=train_labels,
        test_labels=test_labels,
        classes=tuple(name for name in listed.classes if name not in absent),
        clean=clean,
        decisions=(
            *listed.decisions,
            f"skipped: {counted('class{es} without training images', absent)}",
        ),
    )


def alike(classes: Sequence[str]) -> list[str]:
    """A line if names of classes differ in upper and lower case only."""
    folded = Counter(name.casefold() for name in classes)
    twice = [name for name in classes if folded[name.casefold()] > 1]
    if not twice:
        return []
    text = "name{s} that differ in upper and lower case only"
    return [f"classes: {counted(text, twice)}"]


def _labelled_test(
    test: Path, images: list[str], classes: tuple[str, ...], passed: Skipped
) -> Rows:
    """Test images of a folder elsewhere: by its labels.csv, else by class folders. Raises
    DataError.
    """
    if not (test / LABEL_FILE).is_file():
        return numbered(_test_images(test, "", classes, passed), classes)
    read = read_image_labels(str(test / LABEL_FILE), images)
    if unknown := sorted(set(read.classes) - set(classes)):
        raise DataError(
            f"{test / LABEL_FILE}: no training image has the label {unknown[0]!r}; the "
            f"classes are {_some(classes)}"
        )
    for at in np.flatnonzero(read.labels < 0).tolist():
        passed.add(UNLABELLED, images[at])
    return [
        (name, classes.index(read.classes[k]))
        for name, k in zip(images, read.best.tolist(), strict=True)
        if k >= 0
    ]


def _test_images(
    root: Path, part: str, classes: tuple[str, ...], passed: Skipped
) -> dict[str, list[str]]:
    """Test images by class. Raises DataError for a class without training images, and if there are
    no images.
    """
    where = root / part
    if not where.is_dir():
        raise DataError(
            f"{where} is not a directory: expected class/image in it, for the classes "
            f"{_some(classes)}"
        )
    images = images_by_class(root, part, passed)
    if unknown := [name for name in images if name not in classes]:
        count = sum(len(images[name]) for name in unknown)
        raise DataError(
            f"{where} has {counted('class{es}', unknown)} without training images, "
            f"and {count} test "
            f"image{'s' if count > 1 else ''} there; the classes are {_some(classes)}: add "
            "training images, or remove the folder"
        )
    if not images:
        raise DataError(
            f"{where} has no images in folders named like the classes: {_some(classes)}"
        )
    return images


def _too_few(root: Path, part: str, images: dict[str, list[str]], passed: Skipped) -> DataError:
    """The error for a folder that is not a data set: what it contains, and what is expected."""
    where = root / part
    if len(images) == 1:
        (name,) = images
        inner = where / name
        if find_parts(inner, Skipped())[0] or len(images_by_class(inner, "", Skipped())) > 1:
            return DataError(
                f"{where} contains a single folder {name}, which has class folders: use {inner}"
            )
        there = f"images of one class only, {name}"
    elif images:
        there = f"no class folders in {_some(tuple(images))}"
    else:
        there = "images without class folders" if STRAY in passed.names else "no images"
    details = f" ({'; '.join(passed.lines())})" if passed.names else ""
    return DataError(
        f"{where} is not a folder of images by class: {there}; expected class/image.png or "
        "train/class/image.png, at least two classes, or a label file "
        f"(--labels FILE, or {LABEL_FILE} in it){details}"
    )


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")


def numbered(images: dict[str, list[str]], classes: Sequence[str]) -> Rows:
    """Paths with their class numbers, by class and name."""
    return [(path, number) for number, name in enumerate(classes) for path in images.get(name, ())]


def as_listing(root: Path, rows: Rows) -> tuple[ImageIndex, np.ndarray]:
    """Converts rows to images and class numbers (N,)."""
    return ImageIndex("folder", str(root), Names.of(name for name, _ in rows)), np.array(
        [number for _, number in rows], np.int64
    )
