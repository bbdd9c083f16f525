"""Sets of images that are streamed, by path: `folder:DIR`, `tar:FILE|DIR`, `wds:PATTERN|DIR`,
`hfds:NAME|DIR`.

Training and test part are found by the usual names: train, and test, else validation or val.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import DataError
from ..image_folder import OUTSIDE, TEST_PARTS, TRAIN_PARTS, Skipped, list_folder
from ..images import CENTRE, SIDE
from ..index import ImageIndex, Listed, Names
from ..npz import class_count, fingerprint
from ..published import LAYOUTS
from ..registry import AREA, Dataset
from .hub import list_table
from .tars import Index, index_tars

READERS = ("folder", "tar", "wds", "hfds")
_WORD = re.compile(rf"(?<![a-z])({'|'.join((*TRAIN_PARTS, *TEST_PARTS))})(?![a-z])", re.IGNORECASE)


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
    """What is known of a streamed set without an image being read. cache: where what tars hold is
    kept. Raises DataError.
    """
    if test is not None and reader != "folder":
        raise DataError(f"--test is for a folder of images: {reader}:{where} has its own test part")
    if reader == "folder":
        listed = _folder(where, test, labels)
    elif reader == "tar":
        listed = _tar(where, cache)
    elif reader == "wds":
        listed = _shards(where, cache)
    else:
        listed = list_table(str(where), offline=offline)
    _check(listed, f"{reader}:{where}")
    location = where.resolve()
    is_pattern = re.search(r"[{*]", location.name)
    stem = location.parent.name if is_pattern else location.stem
    stem = re.sub(r"[^\w.-]+", "_", stem)
    # the same labels in memory are another set: of other pixels
    name = f"{stem}-{reader}-{fingerprint(listed.train_labels)[:6]}"
    sizes = len(listed.train), len(listed.test)
    return Dataset(
        name,
        "by path",
        listed.classes,
        (SIDE, SIDE, 3),
        *sizes,
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


def found_of(entry: Dataset, *roots: Path) -> Dataset:
    """A catalogue's streamed set with what lies in the folder of its name, if there is one. Raises
    DataError.
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
                f"{where}: a {part} label is {labels.max()}, the classes go from 0 to "
                f"{len(listed.classes) - 1}"
            )
        if len(set(names)) < len(names):
            raise DataError(f"{where}: two {part} images have one name")


def _folder(where: Path, test: Path | None, labels: str | None) -> Listed:
    """train/class/image, and test/ or val/ beside it, or elsewhere."""
    if not where.is_dir():
        raise DataError(
            f"folder:{where} is no folder: expected train/class/image and test/ or val/ in it"
        )
    listed = list_folder(where, test, labels)
    if not len(listed.test):
        raise DataError(
            f"folder:{where} has no test images: put them into "
            f"{where / 'test'}/class/ beside train/, or name --test"
        )
    return listed


def _tar(where: Path, cache: Path) -> Listed:
    """One tar with train/class/image in it, or a folder of tars, whose names are the beginning of
    their members' paths.
    """
    root, tars = (where.parent, [where.name]) if where.is_file() else (where, _tars_in(where))
    if not tars:
        raise DataError(f"tar:{where} is no tar, and no folder of tars")
    index = index_tars(root, tars, cache, keyed=False)
    paths = [name.split("/") for name in index.names]
    at = [
        next((i for i, word in enumerate(path[:-2]) if _WORD.match(word)), None) for path in paths
    ]
    parts = np.array(
        ["" if i is None else _part(path[i]) for path, i in zip(paths, at, strict=True)]
    )
    labels = np.array(["" if i is None else path[i + 1] for path, i in zip(paths, at, strict=True)])
    train, test = _two_parts(
        parts,
        f"tar:{where}",
        "members such as train/class/image.jpg, or tars named train.tar and val.tar",
    )
    passed, used = Skipped(), {parts[train[0]], parts[test[0]]}
    for place in np.flatnonzero(~np.isin(parts, list(used))).tolist():
        passed.add(OUTSIDE, index.names[place])
    classes = sorted(set(labels[train].tolist()))
    if strange := sorted(set(labels[test].tolist()) - set(classes)):
        raise DataError(
            f"tar:{where}: its test part has the class {strange[0]!r}, the training part has not"
        )
    number = np.searchsorted(np.array(classes), labels)
    sides = [
        (_of_tars(root, tars, index, places), number[places].astype(np.int64))
        for places in (train, test)
    ]
    return Listed(*sides[0], *sides[1], tuple(classes), decisions=(*index.passed, *passed.lines()))


def _part(word: str) -> str:
    """The part that a name is of, as one writes it: `Training` is train, `set-val` val; "" for
    another name.
    """
    match = _WORD.search(word)
    part = match[1].lower() if match else ""
    return TRAIN_PARTS[0] if part in TRAIN_PARTS else part


def _tars_in(where: Path) -> list[str]:
    return sorted(path.relative_to(where).as_posix() for path in where.rglob("*.tar"))


def _shards(where: Path, cache: Path) -> Listed:
    """A folder of shards, or a pattern such as `DIR/set-{train,val}-{000..099}.tar`, whose names
    say the part.
    """
    root, tars = (where, _tars_in(where)) if where.is_dir() else _expanded(where)
    parts = np.array([_part(name.rpartition("/")[2]) or _part(name) for name in tars])
    expected = "shards whose names have train, and test, validation or val in them"
    sides = [
        _part_of_shards(root, [tars[i] for i in places], cache)
        for places in _two_parts(parts, f"wds:{where}", expected)
    ]
    (train, labels, passed), (test, test_labels, more) = sides
    count = class_count(labels, test_labels, f"wds:{where}")
    return Listed(
        train,
        labels,
        test,
        test_labels,
        tuple(map(str, range(count))),
        decisions=tuple(dict.fromkeys((*passed, *more))),
    )


def _expanded(pattern: Path) -> tuple[Path, list[str]]:
    """The files of a pattern with braces and stars, by the folder above all of these marks. Raises
    DataError for one that is not there.
    """
    try:
        from braceexpand import braceexpand
    except ImportError:
        raise DataError("wds: needs webdataset: pip install 'noisebench[stream]'") from None
    plain = next(parent for parent in pattern.parents if not re.search(r"[{}*?\[]", str(parent)))
    names = [str(Path(name).relative_to(plain)) for name in braceexpand(str(pattern))]
    matches = [
        sorted(path.relative_to(plain).as_posix() for path in plain.glob(name)) for name in names
    ]
    if missing := [name for name, files in zip(names, matches, strict=True) if not files]:
        raise DataError(f"wds:{pattern}: there is no {plain / missing[0]}")
    return plain, [name for files in matches for name in files]


def _part_of_shards(
    root: Path, tars: list[str], cache: Path
) -> tuple[ImageIndex, np.ndarray, tuple[str, ...]]:
    index = index_tars(root, tars, cache, keyed=True)
    if not len(index.names):
        raise DataError(
            f"wds:{root}: no images in {tars[0]}: expected key.jpg, .png or .webp beside key.cls"
        )
    listing = _of_tars(root, tars, index, np.arange(len(index.names)))
    if len(set(index.names)) < len(index.names):  # keys that begin anew in each shard
        shards = [
            tars[shard].rpartition("/")[2].removesuffix(".tar") for shard in index.shard.tolist()
        ]
        listing = replace(
            listing,
            names=Names.of(
                f"{shard}/{key}" for shard, key in zip(shards, index.names, strict=True)
            ),
        )
    return listing, index.labels, index.passed


def _two_parts(parts: np.ndarray, where: str, expected: str) -> list[np.ndarray]:
    """The places of the training part and of the first of the test parts. Raises DataError where
    one is missing.
    """
    test = next((part for part in TEST_PARTS if (parts == part).any()), None)
    if test is None or not (parts == "train").any():
        raise DataError(
            f"{where} has no {'test' if (parts == 'train').any() else 'training'} "
            f"part: expected {expected}"
        )
    return [np.flatnonzero(parts == part) for part in ("train", test)]


def _of_tars(root: Path, tars: Sequence[str], index: Index, places: np.ndarray) -> ImageIndex:
    names = Names.of(index.names[place] for place in places.tolist())
    return ImageIndex(
        "tar",
        str(root),
        names,
        index.sizes[places],
        tuple(tars),
        index.shard[places],
        index.offsets[places],
    )
