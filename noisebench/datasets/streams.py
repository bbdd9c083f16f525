"""Sets of pictures that are streamed, by path: `folder:DIR`, `tar:FILE|DIR`, `wds:PATTERN|DIR`, `hfds:NAME|DIR`.

Training and test part are found by the usual names: train, and test, else validation or val.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import DataError
from .archive import fingerprint
from .catalogue import AREA, CENTRE, Dataset
from .hub import list_table
from .layouts import LAYOUTS, by_folder
from .listing import Listed, Listing, Names
from .pictures import SIDE
from .tarred import Index, index_tars

READERS = ("folder", "tar", "wds", "hfds")
_TEST_PARTS = ("test", "validation", "val", "valid")  # the first that is there
_WORD = re.compile(rf"(?<![a-z])(train|{'|'.join(_TEST_PARTS)})(?![a-z])", re.IGNORECASE)


def split_reader(name: str) -> tuple[str, str]:
    """`folder:pets` -> ("folder", "pets"); of any other name the reader is empty."""
    reader, colon, rest = name.partition(":")
    return (reader, rest) if colon and reader in READERS and rest else ("", name)


def describe_stream(reader: str, where: Path, cache: Path, test: Path | None = None, *, offline: bool = False) -> Dataset:
    """What is known of a streamed set without a picture being read. cache: where what tars hold is kept. Raises DataError."""
    if test is not None and reader != "folder":
        raise DataError(f"--test is for a folder of images: {reader}:{where} has its own test part")
    if reader == "folder":
        listed = _folder(where, test)
    elif reader == "tar":
        listed = _tar(where, cache)
    elif reader == "wds":
        listed = _shards(where, cache)
    else:
        listed = list_table(str(where), offline=offline)
    _check(listed, f"{reader}:{where}")
    place = where.resolve()
    stem = re.sub(r"[^\w.-]+", "_", place.parent.name if re.search(r"[{*]", place.name) else place.stem)
    name = f"{stem}-{reader}-{fingerprint(listed.train_labels)[:6]}"  # the same labels in memory are another set: of other pixels
    sizes = len(listed.train), len(listed.test)
    return Dataset(name, "by path", listed.classes, (SIDE, SIDE, 3), *sizes, "timm:resnet18", "apl", flip=True, path=where, test=test,
                   reader=reader, area=AREA, centre=CENTRE, listed=listed)  # fmt: skip


def found_of(entry: Dataset, *roots: Path) -> Dataset:
    """A catalogue's streamed set with what lies in the folder of its name, if there is one. Raises DataError."""
    where = next((root / entry.name for root in roots if (root / entry.name).is_dir()), None)
    if where is None:
        return entry
    listed = LAYOUTS[entry.name](where)
    _check(listed, str(where))
    return replace(entry, classes=listed.classes, n_train=len(listed.train), n_test=len(listed.test), listed=listed)


def _check(listed: Listed, where: str) -> None:
    for labels, names, part in ((listed.train_labels, listed.train.names, "training"), (listed.test_labels, listed.test.names, "test")):
        if labels.max() >= len(listed.classes):
            raise DataError(f"{where}: a {part} label is {labels.max()}, the classes go from 0 to {len(listed.classes) - 1}")
        if len(set(names)) < len(names):
            raise DataError(f"{where}: two {part} pictures have one name")


def _folder(where: Path, test: Path | None) -> Listed:
    """train/class/picture, and test/ or val/ beside it, or elsewhere."""
    from .foreign import class_names

    if not where.is_dir():
        raise DataError(f"folder:{where} is no folder: expected train/class/picture and test/ or val/ in it")
    classes = class_names(where)
    own = "train" if (where / "train").is_dir() else ""
    part = next((part for part in _TEST_PARTS if own and (where / part).is_dir()), None)
    if test is None and part is None:
        raise DataError(f"folder:{where} has no test pictures: put them into {where / 'test'}/class/ beside train/, or name --test")
    rows = [(where, by_folder(where, own, classes)), (test or where, by_folder(test or where, "" if test else str(part), classes))]
    for place, found in rows:
        if not found:
            raise DataError(f"{place}: no pictures in its class folders")
    sides = [(Listing("folder", str(place), Names.of(name for name, _ in found)), np.array([k for _, k in found], np.int64))
             for place, found in rows]  # fmt: skip
    return Listed(*sides[0], *sides[1], classes)


def _tar(where: Path, cache: Path) -> Listed:
    """One tar with train/class/picture in it, or a folder of tars, whose names are the beginning of their members' paths."""
    root, tars = (where.parent, [where.name]) if where.is_file() else (where, _tars_in(where))
    if not tars:
        raise DataError(f"tar:{where} is no tar, and no folder of tars")
    index = index_tars(root, tars, cache, keyed=False)
    paths = [name.split("/") for name in index.names]
    at = [next((i for i, word in enumerate(path[:-2]) if _WORD.match(word)), None) for path in paths]
    parts = np.array(["" if i is None else _WORD.match(path[i])[1].lower() for path, i in zip(paths, at, strict=True)])  # type: ignore[index]
    labels = np.array([path[-2] if len(path) > 1 else "" for path in paths])
    train, test = _two_parts(parts, f"tar:{where}", "members such as train/class/picture.jpg, or tars named train.tar and val.tar")
    classes = sorted(set(labels[train].tolist()))
    if strange := sorted(set(labels[test].tolist()) - set(classes)):
        raise DataError(f"tar:{where}: its test part has the class {strange[0]!r}, the training part has not")
    number = np.searchsorted(np.array(classes), labels)
    sides = [(_of_tars(root, tars, index, places), number[places].astype(np.int64)) for places in (train, test)]
    return Listed(*sides[0], *sides[1], tuple(classes))


def _tars_in(where: Path) -> list[str]:
    return sorted(path.relative_to(where).as_posix() for path in where.rglob("*.tar"))


def _shards(where: Path, cache: Path) -> Listed:
    """A folder of shards, or a pattern such as `DIR/set-{train,val}-{000..099}.tar`, whose names say the part."""
    root, tars = (where, _tars_in(where)) if where.is_dir() else _expanded(where)
    words = [_WORD.search(name.rpartition("/")[2]) or _WORD.search(name) for name in tars]
    parts = np.array([word[1].lower() if word else "" for word in words])
    expected = "shards whose names have train, and test, validation or val in them"
    sides = [_part_of_shards(root, [tars[i] for i in places], cache) for places in _two_parts(parts, f"wds:{where}", expected)]
    largest = max(int(labels.max()) for _, labels in sides)
    return Listed(*sides[0], *sides[1], tuple(map(str, range(largest + 1))))


def _expanded(pattern: Path) -> tuple[Path, list[str]]:
    """The files of a pattern with braces and stars, by the folder above all of these marks. Raises DataError for one that is not there."""
    try:
        from braceexpand import braceexpand
    except ImportError:
        raise DataError("wds: needs webdataset: pip install 'noisebench[stream]'") from None
    plain = next(parent for parent in pattern.parents if not re.search(r"[{}*?\[]", str(parent)))
    names = [str(Path(name).relative_to(plain)) for name in braceexpand(str(pattern))]
    found = [sorted(path.relative_to(plain).as_posix() for path in plain.glob(name)) for name in names]
    if missing := [name for name, files in zip(names, found, strict=True) if not files]:
        raise DataError(f"wds:{pattern}: there is no {plain / missing[0]}")
    return plain, [name for files in found for name in files]


def _part_of_shards(root: Path, tars: list[str], cache: Path) -> tuple[Listing, np.ndarray]:
    index = index_tars(root, tars, cache, keyed=True)
    if not len(index.names):
        raise DataError(f"wds:{root}: no pictures in {tars[0]}: expected key.jpg, .png or .webp beside key.cls")
    listing = _of_tars(root, tars, index, np.arange(len(index.names)))
    if len(set(index.names)) < len(index.names):  # keys that begin anew in each shard
        shards = [tars[shard].rpartition("/")[2].removesuffix(".tar") for shard in index.shard.tolist()]
        listing = replace(listing, names=Names.of(f"{shard}/{key}" for shard, key in zip(shards, index.names, strict=True)))
    return listing, index.labels


def _two_parts(parts: np.ndarray, where: str, expected: str) -> list[np.ndarray]:
    """The places of the training and of the test part. Raises DataError where one is missing."""
    test = next((part for part in _TEST_PARTS if (parts == part).any()), None)
    if test is None or not (parts == "train").any():
        raise DataError(f"{where} has no {'test' if (parts == 'train').any() else 'training'} part: expected {expected}")
    return [np.flatnonzero(parts == part) for part in ("train", test)]


def _of_tars(root: Path, tars: Sequence[str], index: Index, places: np.ndarray) -> Listing:
    names = Names.of(index.names[place] for place in places.tolist())
    return Listing("tar", str(root), names, index.sizes[places], tuple(tars), index.shard[places], index.offsets[places])
