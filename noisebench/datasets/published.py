"""Published data sets in their authors' layout, in `<data-dir>/<name>/`: images, labels and
verified labels. Only lists and directories are read, no image.

Layouts: Clothing1M, its README (key lists and `*_label_kv.txt`, at its root or in annotations/);
WebVision 1.0, info/*.txt, of which papers take Google's images of the first 50 classes;
Animal-10N, the label as first character of the name; Food-101N, meta/*.tsv; Food-101,
meta/test.txt; Tiny ImageNet, wnids.txt and val_annotations.txt; ILSVRC 2012, a folder a class, or
Kaggle's copy of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from .image_folder import Rows, Skipped, as_listing, images_below, images_by_class, numbered
from .images import Listed
from .registry import ANIMAL10N, CLOTHING1M, FOOD101, IMAGENET, WNIDS


def imagenet(root: Path) -> Listed:
    """train/WNID/image and val/WNID/image; or under ILSVRC/Data/CLS-LOC, where val/ is flat and
    LOC_val_solution.csv has its labels.
    """
    passed = Skipped()
    folders = ("", "ILSVRC/Data/CLS-LOC/", "Data/CLS-LOC/")
    below = next((part for part in folders if (root / part / "train").is_dir()), None)
    if below is None:
        raise DataError(f"{root} has no train/ with a folder for each class of ImageNet")
    solution = root / "LOC_val_solution.csv"
    if solution.exists():
        rows = [line.split(",", 1) for line in _lines(solution)[1:]]
        test = [
            (f"{below}val/{name}.JPEG", _number(WNIDS, label.split()[0], solution))
            for name, label in rows
        ]
    else:
        test = by_folder(root, f"{below}val", WNIDS, passed)
    train = by_folder(root, f"{below}train", WNIDS, passed)
    return _listed(root, train, test, IMAGENET, passed=passed)


def clothing1m(root: Path) -> Listed:
    """The million noisy images and the clean test set; training labels that are also in
    clean_label_kv.txt are verified.
    """
    lists = root / "annotations" if (root / "annotations").is_dir() else root
    noisy, clean = (dict(_pairs(lists / f"{kind}_label_kv.txt")) for kind in ("noisy", "clean"))
    sides: list[Rows] = []
    for name, labels in (("noisy_train", noisy), ("clean_test", clean)):
        keys = list(filter(None, _lines(lists / f"{name}_key_list.txt")))
        if missing := [key for key in keys if key not in labels]:
            raise DataError(f"{lists}: {missing[0]} is in a key list but has no label")
        sides.append([(key, labels[key]) for key in keys])
    train, test = sides
    verified = np.array([clean.get(key, -1) for key, _ in train], np.int64)
    return _listed(root, train, test, CLOTHING1M, verified)


def webvision(root: Path) -> Listed:
    """Google's images of the first 50 classes; the test set is their part of the validation set."""
    folders = [
        name
        for name in ("val_images_256", "val_images_resized", "val_images")
        if (root / name).is_dir()
    ]
    folder = folders[0] if folders else "val_images_256"
    train, test = (
        [(name, label) for name, label in _pairs(root / "info" / file) if label < 50]
        for file in ("train_filelist_google.txt", "val_filelist.txt")
    )
    test = [(f"{folder}/{name}", label) for name, label in test]
    return _listed(root, train, test, IMAGENET[:50])


def animal10n(root: Path) -> Listed:
    """training/ and testing/, flat; a name begins with the class number."""
    passed = Skipped()
    sides: list[Rows] = []
    for part in ("training", "testing"):
        names = images_below(root, part, passed)
        digits = [name.rpartition("/")[2][0] for name in names]
        for name, digit in zip(names, digits, strict=True):
            if not digit.isdigit():
                where = root / name
                raise DataError(f"{where}: its name does not begin with its class, a digit")
        sides.append(list(zip(names, map(int, digits), strict=True)))
    train, test = sides
    return _listed(root, train, test, ANIMAL10N, passed=passed)


def food101n(root: Path) -> Listed:
    """All listed images, by folder; the labels verified as correct are known. The test set is
    Food-101's, in food-101/ here or next to this directory.
    """
    root = root / "Food-101N_release" if (root / "Food-101N_release").is_dir() else root
    keys = [
        key
        for key in _lines(root / "meta" / "imagelist.tsv")
        if key and not key.startswith("class_name")
    ]
    right = {
        key
        for part in ("train", "val")
        for key, label in _pairs(root / "meta" / f"verified_{part}.tsv", "\t")
        if label == 1
    }
    train = [
        (f"images/{key}", _number(FOOD101, key.partition("/")[0], root / "meta" / "imagelist.tsv"))
        for key in keys
    ]
    clean = np.array(
        [label if key in right else -1 for key, (_, label) in zip(keys, train, strict=True)],
        np.int64,
    )
    folders = [
        folder / name
        for folder in (root, root.parent, root.parent.parent)
        for name in ("food-101", "food101")
    ]
    other = next((folder for folder in folders if (folder / "meta" / "test.txt").exists()), None)
    if other is None:
        raise DataError(
            f"{root} has no test set: put Food-101 (images/, meta/test.txt) into "
            f"{root / 'food-101'} or next to it"
        )
    test = [
        (f"images/{key}.jpg", _number(FOOD101, key.partition("/")[0], other / "meta" / "test.txt"))
        for key in _lines(other / "meta" / "test.txt")
        if key
    ]
    return _listed(root, train, test, FOOD101, clean, fair=False, test_root=other)


def tinyimagenet(root: Path) -> Listed:
    """train/WNID/images/image; val/images/ with val_annotations.txt, or sorted into val/WNID/.
    Classes in the order of wnids.txt.
    """
    root = root / "tiny-imagenet-200" if (root / "tiny-imagenet-200").is_dir() else root
    wnids = [wnid for wnid in _lines(root / "wnids.txt") if wnid]
    passed = Skipped()
    train = by_folder(root, "train", wnids, passed)
    annotations = root / "val" / "val_annotations.txt"
    if (root / "val" / "images").is_dir():
        rows = [line.split("\t") for line in _lines(annotations) if line]
        test = [(f"val/images/{row[0]}", _number(wnids, row[1], annotations)) for row in rows]
    else:
        test = by_folder(root, "val", wnids, passed)
    names = wnids
    if (root / "words.txt").exists():  # WordNet's first word for each, if it is unique
        words = dict(line.split("\t", 1) for line in _lines(root / "words.txt") if "\t" in line)
        first = [words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
        count = Counter(first)
        names = [wnid if count[name] > 1 else name for name, wnid in zip(first, wnids, strict=True)]
    return _listed(root, train, test, tuple(names), passed=passed)


LAYOUTS: dict[str, Callable[[Path], Listed]] = {
    "imagenet": imagenet,
    "clothing1m": clothing1m,
    "webvision": webvision,
    "animal10n": animal10n,
    "food101n": food101n,
    "tinyimagenet": tinyimagenet,
}


def by_folder(root: Path, part: str, classes: Sequence[str], passed: Skipped) -> Rows:
    """Images in `part/CLASS/`, at any depth, by class and name. Raises DataError for a folder that
    is not a class.
    """
    where = root / part
    if not where.is_dir():
        raise DataError(f"{where} does not exist; expected it to contain a folder for each class")
    images = images_by_class(root, part, passed)
    if strange := sorted(set(images) - set(classes)):
        raise DataError(f"{where / strange[0]} is not a class of this data set")
    return numbered(images, classes)


def _listed(
    root: Path,
    train: Rows,
    test: Rows,
    classes: tuple[str, ...],
    clean: np.ndarray | None = None,
    *,
    fair: bool = True,
    test_root: Path | None = None,
    passed: Skipped | None = None,
) -> Listed:
    """Raises DataError if a part is empty, or a list names files outside the directory."""
    for rows, what in ((train, "training"), (test, "test")):
        if not rows:
            raise DataError(f"{root} contains no {what} images")
        if strange := next(
            (name for name, _ in rows if name.startswith("/") or ".." in name.split("/")), None
        ):
            raise DataError(f"{root} lists {strange!r}, which is outside of it")
    sides = as_listing(root, train), as_listing(test_root or root, test)
    return Listed(*sides[0], *sides[1], classes, clean, fair, passed.lines() if passed else ())


def _lines(path: Path) -> list[str]:
    """The lines of a file. Raises DataError if it cannot be read."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None


def _pairs(path: Path, mark: str = " ") -> Rows:
    """Lines `path number`; with a tab as mark after a header. Raises DataError for other lines."""
    rows = []
    for line in filter(None, _lines(path)[mark == "\t" :]):
        name, _, number = line.rpartition(mark)
        if not name or not number.strip().isdigit():
            raise DataError(f"{path}: expected a path and a number, got {line!r}")
        rows.append((name.strip(), int(number)))
    return rows


def _number(classes: Sequence[str], name: str, path: Path) -> int:
    try:
        return classes.index(name)
    except ValueError:
        raise DataError(f"{path}: {name!r} is not a class of this data set") from None
