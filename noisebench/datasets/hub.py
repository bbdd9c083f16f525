"""Tables of Hugging Face's `datasets`, by name on the hub or as a directory of parquet files:
labels, names and sizes; no image is decoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .image_folder import counted
from .images import ImageIndex, Listed, Names, hub_library, load_table, unreadable_table
from .npz import as_labels, class_count

_PARTS = (("train",), ("test", "validation", "val", "valid"))
_IMAGES = ("image", "img", "jpg", "png", "webp")
# seconds until the hub counts as unreachable; its own client tries for half a minute
_WAIT = 5.0
_LABELS = ("label", "labels", "cls", "fine_label", "target")


def list_table(name: str, *, offline: bool = False) -> Listed:
    """The splits `train` and `test` (or validation) of a table. Raises DataError."""
    datasets = hub_library()
    away = ""
    if not Path(name).exists() and offline:
        away = "and --offline forbids downloads"
    elif not Path(name).exists():
        away = unreachable(datasets.config.HF_ENDPOINT)
    if away:
        datasets.config.HF_HUB_OFFLINE = True  # its cache can still be read
    try:
        splits = list(datasets.get_dataset_split_names(name))
    except Exception as error:  # the library documents no exceptions
        if away:
            raise DataError(
                f"hfds:{name} is not in the local cache of the hub {away}: use a directory "
                "of parquet files"
            ) from None
        raise unreadable_table(name, error) from None
    train_split, test_split = (
        next((part for part in parts if part in splits), None) for parts in _PARTS
    )
    if train_split is None or test_split is None:
        raise DataError(
            f"hfds:{name} has the splits {', '.join(splits)}: expected train, and "
            "test or validation"
        )
    train, train_values, classes, unused = _listing(name, train_split)
    test, test_values, _, _ = _listing(name, test_split)
    train_labels, test_labels, classes = _numbered(name, train_values, test_values, classes)
    image, label = train.columns
    read_as = f"hfds:{name}: images from {image!r}, labels from {label!r}"
    if unused:
        read_as += f"; not used: {', '.join(unused)}"
    decisions = []
    if rest := [split for split in splits if split not in (train_split, test_split)]:
        neither = counted("split{s} that are neither the training nor the test part", rest)
        decisions.append(f"skipped: {neither}")
    sides = train, train_labels, test, test_labels
    return Listed(*sides, classes, decisions=tuple(decisions), notes=(read_as,))


def _numbered(
    name: str, train: np.ndarray, test: np.ndarray, classes: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Labels of both parts as class numbers, and the classes; of a column of texts, the classes are
    those of the training part.
    """
    where = f"hfds:{name}"
    if train.dtype == object and all(isinstance(label, str) for label in (*train, *test)):
        classes = tuple(sorted(set(train)))
        number = {label: at for at, label in enumerate(classes)}
        if strange := sorted(set(test) - set(classes)):
            raise DataError(
                f"{where}: the test part has the class {strange[0]!r}, the training part does not"
            )
        train, test = (
            np.array([number[label] for label in part], np.int64) for part in (train, test)
        )
        return train, test, classes
    for part, values in (("training", train), ("test", test)):
        if values.dtype != object and values.size and values.min() < 0:
            raise DataError(
                f"{where}: the labels of the {part} part are not published: choose a "
                "table with labels"
            )
        if values.dtype == object or (values.dtype.kind == "f" and np.isnan(values).any()):
            raise DataError(
                f"{where}: a label of the {part} part is missing, or neither a number nor a text"
            )
    train, test = (
        as_labels(part.astype(np.int64) if part.dtype == bool else part, where)
        for part in (train, test)
    )
    return train, test, classes or tuple(map(str, range(class_count(train, test, where))))


def _listing(name: str, split: str) -> tuple[ImageIndex, np.ndarray, tuple[str, ...], list[str]]:
    """The images of a split, their labels unchanged, the classes if the table names them, and the
    unused columns.
    """
    import pyarrow.compute as pc

    table = load_table(name, split)
    columns = []
    for choices in (_IMAGES, _LABELS):
        column = next((column for column in choices if column in table.column_names), None)
        if column is None:
            raise DataError(
                f"hfds:{name} has the columns {', '.join(table.column_names)}: expected "
                f"one of {', '.join(choices)}"
            )
        columns.append(column)
    image, label = columns
    labels = table.data.column(label).to_numpy()
    images: Any = load_table(name, split, image).data.column(image)
    lengths = pc.binary_length(pc.struct_field(images, "bytes"))  # type: ignore[attr-defined]
    # an image outside the table has no bytes in it
    sizes = pc.fill_null(lengths, 0).to_numpy().astype(np.int64)
    names = Names.of(f"{split}/{row}" for row in range(len(table)))
    classes = tuple(getattr(table.features[label], "names", None) or ())
    unused = [column for column in table.column_names if column not in columns]
    return ImageIndex("hfds", name, names, sizes, columns=(image, label)), labels, classes, unused


def unreachable(endpoint: str) -> str:
    """Why the hub cannot be reached; empty if it can."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    request = Request(endpoint, method="HEAD")  # noqa: S310 the hub's own address
    try:
        with urlopen(request, timeout=_WAIT):  # noqa: S310
            return ""
    except HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return f"and {endpoint} cannot be reached ({getattr(error, 'reason', error)})"
