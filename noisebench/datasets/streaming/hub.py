"""Tables of Hugging Face's `datasets`, by a hub's name or by a folder of parquet files: labels,
names and sizes; no image is decoded.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..image_folder import counted
from ..index import ImageIndex, Listed, Names, hub_library, load_table, unreadable_table
from ..npz import as_labels, class_count

_PARTS = (("train",), ("test", "validation", "val", "valid"))
_IMAGES = ("image", "img", "jpg", "png", "webp")
# seconds in which the hub answers, or is not there: its own client tries for half a minute
_WAIT = 5.0
_LABELS = ("label", "labels", "cls", "fine_label", "target")


def list_table(name: str, *, offline: bool = False) -> Listed:
    """The splits `train` and `test` (or validation) of a table. Raises DataError."""
    splits = _splits(name, offline=offline)
    chosen = [next((part for part in parts if part in splits), None) for parts in _PARTS]
    if chosen[0] is None or chosen[1] is None:
        raise DataError(
            f"hfds:{name} has the splits {', '.join(splits)}: expected train, and "
            "test or validation"
        )
    sides = [_listing(name, split) for split in chosen if split]
    (train, train_values, classes, unused), (test, test_values, _, _) = sides
    train_labels, test_labels, classes = _numbered(name, train_values, test_values, classes)
    image, label = train.columns
    read_as = f"hfds:{name}: images from {image!r}, labels from {label!r}" + (
        (f"; not used: {', '.join(unused)}") if unused else ""
    )
    rest = [split for split in splits if split not in chosen]
    decisions = (
        (
            "passed over: "
            + counted("split{s} that are neither the training nor the test part", rest, len(rest)),
        )
        if rest
        else ()
    )
    return _occurring(
        Listed(
            train, train_labels, test, test_labels, classes, decisions=decisions, notes=(read_as,)
        ),
        name,
    )


def _numbered(
    name: str, train: np.ndarray, test: np.ndarray, classes: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Labels of both parts as class numbers, and the classes, which of a column of texts are those
    of the training part.
    """
    where = f"hfds:{name}"
    if train.dtype == object and all(isinstance(label, str) for label in (*train, *test)):
        classes = tuple(sorted(set(train)))
        number = {label: at for at, label in enumerate(classes)}
        if strange := sorted(set(test) - set(classes)):
            raise DataError(
                f"{where}: its test part has the class {strange[0]!r}, the training part has not"
            )
        train, test = (
            np.array([number[label] for label in part], np.int64) for part in (train, test)
        )
        return train, test, classes
    for part, values in (("training", train), ("test", test)):
        if values.dtype != object and values.size and values.min() < 0:
            raise DataError(
                f"{where}: the labels of its {part} part are not published: name a "
                "table with labels"
            )
        if values.dtype == object or (values.dtype.kind == "f" and np.isnan(values).any()):
            raise DataError(
                f"{where}: a label of its {part} part is missing, or neither a number nor a text"
            )
    train, test = (
        as_labels(part.astype(np.int64) if part.dtype == bool else part, where)
        for part in (train, test)
    )
    return train, test, classes or tuple(map(str, range(class_count(train, test, where))))


def _occurring(listed: Listed, name: str) -> Listed:
    """Without the classes that have no training image. Raises DataError where one of them has test
    images.
    """
    if listed.train_labels.max(initial=0) >= len(listed.classes):
        raise DataError(
            f"hfds:{name}: a label is {listed.train_labels.max()}, the classes go "
            f"from 0 to {len(listed.classes) - 1}"
        )
    occurs = np.bincount(listed.train_labels, minlength=len(listed.classes)) > 0
    if occurs.all():
        return listed
    if len(beyond := listed.test_labels[~occurs[listed.test_labels]]):
        raise DataError(
            f"hfds:{name}: {len(beyond)} test images are of "
            f"{listed.classes[beyond[0]]!r}, of which there is no training image"
        )
    number, without = np.cumsum(occurs) - 1, [listed.classes[k] for k in np.flatnonzero(~occurs)]
    note = f"passed over: {counted('class{es} without training images', without, len(without))}"
    return replace(
        listed,
        train_labels=number[listed.train_labels],
        test_labels=number[listed.test_labels],
        classes=tuple(listed.classes[k] for k in np.flatnonzero(occurs)),
        decisions=(*listed.decisions, note),
    )


def _splits(name: str, *, offline: bool) -> list[str]:
    datasets = hub_library()
    away = (
        ""
        if Path(name).exists()
        else "and --offline forbids to fetch it"
        if offline
        else unreachable(datasets.config.HF_ENDPOINT)
    )
    if away:
        datasets.config.HF_HUB_OFFLINE = True  # what is in its cache can still be read
    try:
        return list(datasets.get_dataset_split_names(name))
    except Exception as error:  # the library documents no exceptions
        if away:
            raise DataError(
                f"hfds:{name} is not in the hub's cache {away}: get it elsewhere and "
                "name a folder of parquet files"
            ) from None
        raise unreadable_table(name, error) from None


def _listing(name: str, split: str) -> tuple[ImageIndex, np.ndarray, tuple[str, ...], list[str]]:
    """The images of a split, their labels as they stand there, the classes where the table names
    them, and the columns that are neither.
    """
    import pyarrow.compute as pc

    table = load_table(name, split)
    image, label = (_column(name, table, names) for names in (_IMAGES, _LABELS))
    labels = table.data.column(label).to_numpy()
    raw = load_table(name, split, image).data.column(image)
    sizes = _lengths(raw, pc)
    names = Names.of(f"{split}/{row}" for row in range(len(table)))
    classes = tuple(getattr(table.features[label], "names", None) or ())
    unused = [column for column in table.column_names if column not in (image, label)]
    return ImageIndex("hfds", name, names, sizes, columns=(image, label)), labels, classes, unused


def _lengths(images: Any, compute: Any) -> np.ndarray:
    """Bytes of each image of a column (N,); 0 of one that lies outside the table."""
    return (
        compute.fill_null(compute.binary_length(compute.struct_field(images, "bytes")), 0)
        .to_numpy()
        .astype(np.int64)
    )


def _column(name: str, table: Any, names: tuple[str, ...]) -> str:
    column_found = next((column for column in names if column in table.column_names), None)
    if column_found is None:
        raise DataError(
            f"hfds:{name} has the columns {', '.join(table.column_names)}: expected "
            f"one of {', '.join(names)}"
        )
    return column_found


def unreachable(endpoint: str) -> str:
    """Why the hub cannot be reached; empty where it answers."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=_WAIT):  # noqa: S310 the hub's own address
            return ""
    except HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return f"and {endpoint} cannot be reached ({getattr(error, 'reason', error)})"
