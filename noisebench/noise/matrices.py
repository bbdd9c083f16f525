"""A transition matrix T (K, K) from a file, checked row by row."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.classes import check_table, class_numbers
from ..core.files.arrays import read_npy
from ..core.files.atomic import read_checked
from ..core.files.untrusted import check_nesting, yaml_loader
from ..errors import DataError

_SHOWN = 12  # names in an error
_ROOM, _WIDEST = 1 << 20, 64  # bytes that any matrix may have, and each of its numbers and names
_DEPTH = 2  # a list of lists, a mapping of mappings
_TOLERANCE = 1e-6  # by which a row's sum may miss 1


def read_matrix(file: str, classes: Sequence[str], sha256: str | None = None) -> np.ndarray:
    """T (K, K), rows = true class, in the order of `classes`.

    .npy: a table. .csv: a table, bare or with class names or numbers above and at the left. .yaml:
    a list of rows, or `true: {noisy: share}`, where a class without a row stays clean. Raises
    DataError, naming the row.
    """
    path = Path(file)
    check_table(len(classes))
    raw = read_checked(path, sha256, _ROOM + _WIDEST * len(classes) * (len(classes) + 1))
    readers = {".npy": _from_npy, ".csv": _from_csv, ".yaml": _from_yaml, ".yml": _from_yaml}
    if path.suffix not in readers:
        raise DataError(f"{path}: a matrix is a .csv, .npy or .yaml")
    try:
        table = np.asarray(readers[path.suffix](raw, list(classes)))
        if table.dtype.kind not in "iuf":
            raise ValueError(f"it holds {table.dtype}")
        table = table.astype(np.float64)
    except (ValueError, TypeError, OverflowError, csv.Error) as error:
        raise DataError(
            f"{path} is no matrix of numbers ({' '.join(str(error).split())})"
        ) from None
    _check(table, classes, path)
    return table


def _from_npy(raw: bytes, classes: list[str]) -> np.ndarray:
    return read_npy(raw)


def _from_csv(raw: bytes, classes: list[str]) -> Any:
    rows = [
        [cell.strip() for cell in row]
        for row in csv.reader(io.StringIO(raw.decode("utf-8-sig")))
        if any(map(str.strip, row))
    ]
    K = len(classes)
    if not rows:
        raise ValueError("it is empty")
    if len(rows) != K + 1:
        return [[float(cell) for cell in row] for row in rows]
    head, *rows = rows
    columns = places = _each_once(head[-K:], classes)
    if len(rows[0]) == K + 1:  # names at the left, too
        places = _each_once([row[0] for row in rows], classes)
        rows = [row[1:] for row in rows]
    table = np.zeros((K, K))
    for place, row in zip(places, rows, strict=True):
        if len(row) != K:
            raise ValueError(f"row {classes[place]!r} has {len(row)} numbers for {K} classes")
        table[place, columns] = [float(cell) for cell in row]
    return table


def _each_once(names: list[str], classes: list[str]) -> list[int]:
    numbers = class_numbers(names, classes, names_win=True)
    if sorted(numbers) != list(range(len(classes))):
        raise ValueError(f"its {len(names)} names are not the {len(classes)} classes, each once")
    return numbers


def _from_yaml(raw: bytes, classes: list[str]) -> Any:
    import yaml

    try:
        text = raw.decode("utf-8-sig")
        check_nesting(text, _DEPTH)
        root = yaml.compose(text, yaml_loader())
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {getattr(error, 'problem', None) or error}") from None
    if root is None:
        raise ValueError("it is empty")
    if isinstance(root, yaml.ScalarNode):
        return float(root.value)
    if isinstance(root, yaml.SequenceNode):
        return [
            [_share(share) for share in row.value]
            if isinstance(row, yaml.SequenceNode)
            else _share(row)
            for row in root.value
        ]
    table = np.eye(len(classes))
    places = _at_most_once([name.value for name, _ in root.value], classes)
    for place, (name, row) in zip(places, root.value, strict=True):
        if not isinstance(row, yaml.MappingNode):
            raise ValueError(f"row {name.value!r} must be a mapping from noisy class to share")
        columns = _at_most_once([noisy.value for noisy, _ in row.value], classes)
        table[place] = 0
        table[place, columns] = [_share(share) for _, share in row.value]
    return table


def _share(node: Any) -> float:
    if isinstance(node.value, list):
        raise ValueError("a mapping or list stands in place of a number")
    return float(node.value)


def _at_most_once(names: list[str], classes: list[str]) -> list[int]:
    numbers = class_numbers(names, classes, names_win=True)
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"a class stands twice among {', '.join(names[:_SHOWN])}")
    return numbers


def _check(table: np.ndarray, classes: Sequence[str], path: Path) -> None:
    K = len(classes)
    if table.shape != (K, K):
        raise DataError(
            f"{path} holds a table of shape {table.shape}; the data have {K} classes, "
            f"so T must be ({K}, {K})"
        )
    for name, row in zip(classes, table, strict=True):
        if not np.isfinite(row).all():
            raise DataError(f"{path}: row {name!r} holds a value that is not finite")
        if (row < 0).any():
            raise DataError(f"{path}: row {name!r} holds a negative probability, {row.min():g}")
        if abs(row.sum() - 1) > _TOLERANCE:
            hint = "divide each row by its sum"
            if not row.any():
                hint = "a class that never flips has 1 for itself"
            raise DataError(f"{path}: row {name!r} sums to {row.sum():.8g}, not to 1: {hint}")
