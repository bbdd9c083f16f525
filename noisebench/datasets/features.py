"""Data sets of feature vectors instead of images, in a `.npz` or `.parquet` file: embeddings of
text, audio or images, or the columns of a table.

`.npz`: `train_features` (N, D), `train_labels` (N,); optional `test_features` (M, D), `test_labels`
(M,), `ids` (N,), `classes` (K,). `.parquet`: one row per example; see `_of_parquet`. Arrays of an
uncompressed .npz are mapped into memory, so that a file can be larger than the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files.arrays import map_npz_array, npz_arrays, npz_names
from ..core.files.schema import MOST_CLASSES
from ..core.files.untrusted import open_regular
from ..core.seeds import TEST_SPLIT
from ..errors import DataError
from .image_folder import TEST_PARTS, TRAIN_PARTS
from .npz import as_labels

_KNOWN = ("train_features", "train_labels", "test_features", "test_labels", "ids", "classes")
_TEST_SHARE = 0.2  # of the examples of each class, reserved if the file has no test part
_CHUNK = 1 << 24  # numbers checked at a time
_SHOWN = 5  # names or rows in a sentence
_LABELS, _SPLITS, _IDS = ("label", "labels", "class", "target"), ("split", "part"), ("id", "ids")


@dataclass(frozen=True)
class FeatureTable:
    """The content of a file: features (N, D) float16 or float32, labels (N,) int64, and the same of
    the test part (M).

    rows (N,), test_rows (M,): the row of each example in `features` and `test_features`, None for
    all in order; decisions: what was converted, skipped and chosen, one line each.
    """

    features: np.ndarray
    labels: np.ndarray
    test_features: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]
    ids: tuple[str, ...] = ()
    rows: np.ndarray | None = None
    test_rows: np.ndarray | None = None
    decisions: tuple[str, ...] = field(default=())

    def train(self) -> np.ndarray:
        """Features (N, D) of the training part."""
        return self.features if self.rows is None else self.features[self.rows]

    def test(self) -> np.ndarray:
        """Features (M, D) of the test part."""
        return self.test_features if self.test_rows is None else self.test_features[self.test_rows]


def is_feature_file(path: Path) -> bool:
    """Whether a file is a `.parquet`, or a `.npz` with features and without images."""
    if path.suffix == ".parquet":
        return True
    if path.suffix != ".npz":
        return False
    with suppress(OSError, ValueError), open_regular(path) as file:
        names = npz_names(file)
        return "train_features" in names and "train_images" not in names
    return False


def open_features(path: Path) -> FeatureTable:
    """Opens a file of features and checks it, except for the numbers, which `check_finite` does.
    Raises DataError.
    """
    try:
        table = _of_parquet(path) if path.suffix == ".parquet" else _of_npz(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a file of features ({error})") from None
    parts = (
        ("train", table.features, table.labels),
        ("test", table.test_features, table.test_labels),
    )
    for part, features, labels in parts:
        if (
            features.ndim != 2
            or not features.size
            or features.dtype not in (np.float16, np.float32)
        ):
            raise DataError(
                f"{path}: {part}_features must be numbers (N, D), got {features.shape} of "
                f"{features.dtype}"
            )
        if len(features) != len(labels):
            raise DataError(f"{path}: {len(features)} {part}_features, but {len(labels)} labels")
    dimensions = table.features.shape[1], table.test_features.shape[1]
    if dimensions[0] != dimensions[1]:
        raise DataError(
            f"{path}: the training features have {dimensions[0]} dimensions, the test features "
            f"{dimensions[1]}"
        )
    if table.test_features is table.features:  # no test part
        table = _with_reserved_test(table)
    num_classes = len(table.classes)
    counts = np.bincount(table.labels, minlength=num_classes)
    if (counts == 0).any():
        missing = [table.classes[k] for k in np.flatnonzero(counts == 0)[:_SHOWN]]
        raise DataError(f"{path}: no training example has the class {', '.join(missing)}")
    if table.ids and len(set(table.ids)) != len(table.ids):
        raise DataError(f"{path}: two examples have the same id")
    return table


def check_finite(features: np.ndarray, path: Path, part: str) -> None:
    """Raises DataError, naming the first rows with NaN or infinity."""
    for start, rows in _chunks(features):
        finite = np.isfinite(rows).all(1)
        if not finite.all():
            first = ", ".join(map(str, (start + np.flatnonzero(~finite))[:_SHOWN].tolist()))
            raise DataError(
                f"{path}: {part} features are not finite in {int((~finite).sum())} or more rows "
                f"(row {first}): remove or replace NaN and infinite values"
            )


def _chunks(features: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    size = max(1, _CHUNK // features.shape[1])
    for start in range(0, len(features), size):
        yield start, features[start : start + size]


def _of_npz(path: Path) -> FeatureTable:
    with open_regular(path) as file:
        names = npz_names(file)
        small = [name for name in names if name in _KNOWN and "features" not in name]
        arrays = npz_arrays(file, small)
    if "train_labels" not in arrays:
        raise ValueError("it lacks train_labels")
    if ("test_features" in names) != ("test_labels" in names):
        raise ValueError("it has only one of test_features and test_labels")
    features, decisions = _numbers(map_npz_array(path, "train_features"), "train_features")
    test, more = features, list[str]()
    if "test_features" in names:
        test, more = _numbers(map_npz_array(path, "test_features"), "test_features")
    if unused := [name for name in names if name not in _KNOWN]:
        more.append(f"skipped: unknown arrays: {', '.join(unused[:_SHOWN])}")
    test_labels = arrays.get("test_labels", arrays["train_labels"])
    given = None if "classes" not in arrays else tuple(map(str, arrays["classes"].tolist()))
    classes, labels, test_labels = _numbered(arrays["train_labels"], test_labels, given, path)
    ids = tuple(map(str, arrays["ids"].tolist())) if "ids" in arrays else ()
    if ids and len(ids) != len(labels):
        raise ValueError(f"it has {len(ids)} ids for {len(labels)} training examples")
    lines = (*decisions, *more)
    return FeatureTable(features, labels, test, test_labels, classes, ids, decisions=lines)


def _of_parquet(path: Path) -> FeatureTable:
    """A table with one row per example. Columns: `label`, text or class number; `features`, a list
    of numbers per row, or else every other column of numbers is one feature; optional `id`, and
    `split` with values such as train and test.
    """
    try:
        from pyarrow import lib, parquet, types  # type: ignore[attr-defined]
    except ImportError:
        raise DataError(
            f"{path} needs pyarrow: pip install 'noisebench[parquet]', or save a .npz"
        ) from None
    try:
        table = parquet.read_table(path)
    except (lib.ArrowException, OSError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None
    columns: list[str] = table.column_names

    def first_of(names: tuple[str, ...]) -> str:
        return next((column for name in names for column in columns if column.lower() == name), "")

    label, split, ident = first_of(_LABELS), first_of(_SPLITS), first_of(_IDS)
    if not label:
        raise ValueError(f"it has no column `label`; its columns are {', '.join(columns[:20])}")
    decisions = [f"labels: column {label}"]
    kinds = {column: table.schema.field(column).type for column in columns}
    lists = [
        c for c, kind in kinds.items() if types.is_list(kind) or types.is_fixed_size_list(kind)
    ]
    rest = [column for column in columns if column not in (label, split, ident)]
    if "features" in lists or len(lists) == 1:
        chosen = "features" if "features" in lists else lists[0]
        values = _of_lists(table.column(chosen).combine_chunks(), chosen)
        used = [chosen]
        decisions.append(f"features: column {chosen}")
    else:
        used = [c for c in rest if types.is_floating(kinds[c]) or types.is_integer(kinds[c])]
        if not used:
            raise ValueError("it has no column of numbers besides the label")
        values = np.stack([table.column(c).to_numpy() for c in used], 1)
        shown = ", ".join(used[:_SHOWN]) + (", ..." if len(used) > _SHOWN else "")
        decisions.append(f"features: the {len(used)} columns of numbers: {shown}")
    if skipped := [column for column in rest if column not in used]:
        decisions.append(f"skipped: columns {', '.join(skipped[:_SHOWN])}")
    features, more = _numbers(values, "features")
    labels = np.array(table.column(label).to_pylist())
    ids = tuple(map(str, table.column(ident).to_pylist())) if ident else ()
    train = test = np.arange(len(labels))
    if split:
        train, test = _parts(table.column(split).to_pylist(), split)
        decisions.append(f"parts: column {split}")
    has_test = bool(split) and len(test) > 0
    test = test if has_test else train
    classes, train_labels, test_labels = _numbered(labels[train], labels[test], None, path)
    of_train = features[train] if has_test else features
    return FeatureTable(
        of_train,
        train_labels,
        features[test] if has_test else of_train,
        test_labels,
        classes,
        tuple(ids[i] for i in train) if ids else (),
        decisions=(*decisions, *more),
    )


def _parts(names: list[Any], column: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the training part and of the test part, by their names. Raises ValueError."""
    parts = np.array([str(name).lower() for name in names])
    train = np.flatnonzero(np.isin(parts, TRAIN_PARTS))
    test = np.flatnonzero(np.isin(parts, TEST_PARTS))
    if len(train) + len(test) < len(parts) or not len(train):
        raise ValueError(
            f"column {column} must name a training part ({', '.join(TRAIN_PARTS)}) or a test part "
            f"({', '.join(TEST_PARTS)}) in each row, got {', '.join(sorted(set(parts)))}"
        )
    return train, test


def _of_lists(column: Any, name: str) -> np.ndarray:
    """The numbers (N, D) of an Arrow column of lists of equal length. Raises ValueError."""
    values: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
    lengths = {len(column[0]), len(column[-1])} if len(column) else {0}
    if not hasattr(column.type, "list_size") and len(column):
        lengths = set(np.diff(column.offsets.to_numpy()).tolist())
    if len(lengths) != 1 or not (length := lengths.pop()) or column.null_count:
        raise ValueError(f"the lists in column {name} have different lengths, or some are missing")
    return values.reshape(len(column), length)


def _numbers(values: np.ndarray, name: str) -> tuple[np.ndarray, list[str]]:
    """The values as float16 or float32, and a line if they were converted."""
    if values.dtype in (np.float16, np.float32):
        return values, []
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be numbers, got {values.dtype}")
    return values.astype(np.float32), [f"{name}: {values.dtype} converted to float32"]


def _numbered(
    train: np.ndarray, test: np.ndarray, classes: tuple[str, ...] | None, path: Path
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """The classes, and the labels of both parts as class numbers; names are numbered in the order
    of `classes`, or alphabetically. Raises DataError.
    """
    if train.dtype.kind not in "US":
        labels, test_labels = as_labels(train, str(path)), as_labels(test, str(path))
        count = int(labels.max()) + 1
        classes = classes or tuple(map(str, range(count)))
    else:
        names = np.asarray(train, str)
        classes = classes or tuple(np.unique(names).tolist())
        number = {name: k for k, name in enumerate(classes)}
        unknown = sorted({*names.tolist(), *np.asarray(test, str).tolist()} - set(number))
        if unknown:
            raise DataError(
                f"{path}: the labels {', '.join(unknown[:_SHOWN])} are not among the classes of "
                "the training part"
            )
        labels = np.array([number[name] for name in names.tolist()], np.int64)
        test_labels = np.array([number[name] for name in np.asarray(test, str).tolist()], np.int64)
    if not 2 <= len(classes) <= MOST_CLASSES or len(set(classes)) != len(classes):
        raise DataError(f"{path}: expected two or more different classes, got {len(classes)}")
    if max(labels.max(), test_labels.max()) >= len(classes):
        raise DataError(
            f"{path}: a label is {max(labels.max(), test_labels.max())}, but the classes are 0 to "
            f"{len(classes) - 1}"
        )
    return classes, labels, test_labels


def _with_reserved_test(table: FeatureTable) -> FeatureTable:
    """The table with a fifth of the examples of each class reserved as its test part."""
    n = len(table.labels)
    draws = np.random.default_rng([0, TEST_SPLIT]).permutation(n)
    order = np.lexsort((draws, table.labels))
    rank = np.empty(n, np.int64)  # of each example within its class
    counts = np.bincount(table.labels)
    rank[order] = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    reserved = rank < np.floor(_TEST_SHARE * counts)[table.labels]
    if not reserved.any():
        raise DataError(f"{n} examples are too few to reserve a test part: add test_features")
    rows, test_rows = np.flatnonzero(~reserved), np.flatnonzero(reserved)
    ids = table.ids or tuple(f"row {row}" for row in range(n))
    line = (
        f"no test part: {len(test_rows)} of {n} examples, a fifth of each class at random, are "
        "reserved; test accuracy is on their given labels"
    )
    return replace(
        table,
        labels=table.labels[rows],
        test_labels=table.labels[test_rows],
        ids=tuple(ids[row] for row in rows),
        rows=rows,
        test_rows=test_rows,
        decisions=(*table.decisions, line),
    )
