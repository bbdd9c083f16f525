"""Anyone's own labels for a data set: a .csv, .txt, .npy or .pt, by index or by path, with clean labels or without."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..classes import NoClass, class_numbers
from ..errors import DataError
from ..storing import read_checked
from .pickled import read_object_npy, read_pt

ROOM, WIDEST = 1 << 24, 4096  # bytes that any file of labels may have, and an example's row: two paths fit
_LONGEST = 256  # letters of a label, or of the longest class
MOST_COLUMNS = 1000
_INDEX = ("index", "idx", "i")
_PATH = ("path", "file", "filename", "image", "id")
_RECORDED = ("label", "recorded_label", "recorded", "noisy_label", "noise_label", "given_label", "target", "class", "y")
_CLEAN = ("clean_label", "clean", "true_label", "true", "ground_truth", "gt")


@dataclass(frozen=True)
class Shape:
    """What the labels must fit: how many examples, their classes, their paths where they are files."""

    n: int
    classes: tuple[str, ...]
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Columns:
    """As read: one value an example, still as written; `keys` name the examples where they do not come in order."""

    recorded: Sequence[Any]
    clean: Sequence[Any] | None = None
    keys: Sequence[str] | None = None
    by_path: bool = False


def split_column(text: str) -> tuple[Path, str | None]:
    """`FILE` or `FILE:COLUMN`."""
    name, colon, column = text.rpartition(":")
    return (Path(name), column) if colon and not Path(text).exists() and Path(name).suffix else (Path(text), None)


def read_annotations(text: str, shape: Shape, sha256: str | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Recorded labels (N,) and, where the file has them, clean ones (N,), -1 where empty. Raises DataError."""
    path, column = split_column(text)
    if path.suffix not in _READERS:
        raise DataError(f"{path}: labels are a .csv, .txt, .npy or .pt")
    raw = read_checked(path, sha256, ROOM + shape.n * WIDEST)
    try:
        columns = _READERS[path.suffix](raw, path, column, shape)
        return _arranged(columns, shape)
    except DataError:
        raise
    except (ValueError, TypeError, EOFError, csv.Error) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}") from None


def _arranged(columns: _Columns, shape: Shape) -> tuple[np.ndarray, np.ndarray | None]:
    recorded = _numbers(columns.recorded, shape.classes, "label", may_be_empty=False)
    clean = None if columns.clean is None else _numbers(columns.clean, shape.classes, "clean label", may_be_empty=True)
    for labels, what in ((recorded, "labels"), (clean, "clean labels")):
        if labels is not None and len(labels) != shape.n:
            raise ValueError(f"it has {len(labels)} {what}, the data have {shape.n} examples")
    if columns.keys is None:
        return recorded, clean
    place = _places(columns, shape)
    order = np.empty(shape.n, np.int64)
    order[place] = np.arange(shape.n)
    return recorded[order], None if clean is None else clean[order]


def _numbers(values: Sequence[Any], classes: tuple[str, ...], what: str, *, may_be_empty: bool) -> np.ndarray:
    """Classes by name or number -> numbers (N,), -1 for an empty one. Raises ValueError, naming the row."""
    longest = max(_LONGEST, *map(len, classes))
    if isinstance(values, list | tuple) and (long := next((word for word in values if isinstance(word, str) and len(word) > longest), "")):
        raise ValueError(f"a {what} has {len(long)} letters: {long[:20]!r}...")
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"expected one {what} an example, got shape {array.shape}")
    if array.dtype.kind in "iu":
        return _checked(array.astype(np.int64), classes, what, least=-1 if may_be_empty else 0)
    kinds, place = np.unique(array.astype(str) if array.dtype.kind != "f" else array, return_inverse=True)
    place, known = place.reshape(-1), np.array([not (may_be_empty and _is_empty(kind)) for kind in kinds.tolist()], bool)
    number = np.full(len(kinds), -1, np.int64)
    try:
        words = [kind for kind, there in zip(kinds.tolist(), known, strict=True) if there]
        number[known] = class_numbers(words, classes, names_win=isinstance(values, np.ndarray))
    except NoClass as error:
        raise _wrong(what, int((place == known.nonzero()[0][error.place]).argmax()), str(error)) from None
    return number[place]


def _checked(numbers: np.ndarray, classes: tuple[str, ...], what: str, least: int) -> np.ndarray:
    """Class numbers as they are, in range."""
    bad = (numbers < least) | (numbers >= len(classes))
    if bad.any():
        row = int(bad.argmax())
        raise _wrong(what, row, str(NoClass(str(numbers[row]), row, classes)))
    return numbers


def _wrong(what: str, row: int, reason: str) -> ValueError:
    return ValueError(f"the {what} of row {row} is " + ("empty" if reason.startswith("''") else f"wrong: {reason}"))


def _is_empty(value: Any) -> bool:
    return str(value).strip() in ("", "nan", "-1", "-1.0")


def _places(columns: _Columns, shape: Shape) -> np.ndarray:
    """Which example each row is. Raises ValueError for one that is none, or twice there."""
    keys = columns.keys or []
    found = find_examples(keys, shape, by_path=columns.by_path)
    if -1 in found:
        what = "path" if columns.by_path else "index"
        raise ValueError(f"row {found.index(-1)} has the {what} {keys[found.index(-1)]!r}, which no training example has")
    place = np.array(found, np.int64)
    counts = np.bincount(place, minlength=shape.n)
    if (counts > 1).any():
        raise ValueError(f"{keys[found.index(int(counts.argmax()))]!r} has more than one row")
    return place


def find_examples(keys: Sequence[str], shape: Shape, *, by_path: bool) -> list[int]:
    """The example of each key, a path or an index; -1 for a key that is none's."""
    if not by_path:
        number = {str(at): at for at in range(shape.n)}
        return [number.get(str(key).strip(), -1) for key in keys]
    number = {name: at for at, name in enumerate(shape.ids)}
    names = [key.strip().replace("\\", "/").removeprefix("./") for key in keys]
    prefix = "" if names and names[0] in number else "train/"
    return [number.get(prefix + name, -1) for name in names]


def _from_csv(raw: bytes, path: Path, column: str | None, shape: Shape) -> _Columns:
    lines = (line for line in io.StringIO(raw.decode("utf-8-sig")) if not line.startswith("#"))
    rows = _even(csv.reader(lines), shape.n)
    head = [name.strip().lower() for name in rows[0]]
    known = {*_INDEX, *_PATH, *_RECORDED, *_CLEAN, *([column.lower()] if column else [])}
    if set(head) & known - set(shape.classes):
        columns = list(zip(*rows[1:], strict=True)) or [()] * len(head)
        return _named(head, dict(zip(head, columns, strict=True)), column, shape)
    if column:
        raise ValueError(f"it has no column {column!r}")
    return _unnamed(list(zip(*rows, strict=True)), shape)


def _check_rows(count: int, n: int) -> None:
    """Raises ValueError for more than are worth reading; of a few too many it is said later how many they are."""
    if count > 2 * n + 2:
        raise ValueError(f"it has more than {2 * n} rows, the data have {n} examples")


def _even(lines: Iterable[list[str]], n: int) -> list[list[str]]:
    """The rows of a table for n examples, empty ones left out. Raises ValueError for none, too many, or such as are not alike."""
    rows: list[list[str]] = []
    for row in filter(None, lines):
        rows.append(row)
        if len(row) != len(rows[0]):
            raise ValueError(f"row {len(rows) - 1} has {len(row)} fields, the first has {len(rows[0])}")
        if len(row) > MOST_COLUMNS:
            raise ValueError(f"it has {len(row)} columns, and may have {MOST_COLUMNS}")
        _check_rows(len(rows), n)
    if not rows:
        raise ValueError("it is empty")
    return rows


def _named(head: list[str], table: dict[str, Sequence[str]], column: str | None, shape: Shape) -> _Columns:
    if len(set(head)) < len(head):
        raise ValueError("a column's name stands twice in its first line")
    recorded = _first(table, (column.lower(),) if column else _RECORDED)
    if recorded is None:
        raise ValueError(f"it has no column {column or 'label'!r}; it has {', '.join(head)}: name one as FILE:COLUMN")
    clean = _first(table, _CLEAN)
    paths = _first(table, _PATH if shape.ids else _PATH[:-1])  # without paths an id is an index
    if paths is not None and not shape.ids:
        raise ValueError("it goes by path, but the examples of these data have none: give an index, or labels in order")
    if paths is not None:
        return _Columns(recorded, clean, paths, by_path=True)
    return _Columns(recorded, clean, _first(table, (*_INDEX, "id")))


def _first(table: dict[str, Sequence[str]], names: Sequence[str]) -> Sequence[str] | None:
    return next((table[name] for name in names if name in table), None)


def _unnamed(columns: list[Sequence[str]], shape: Shape) -> _Columns:
    """Without names: labels alone; or a key and labels; or a key, labels and clean labels."""
    if len(columns) == 1:
        return _Columns(columns[0])
    by_index = sorted(columns[0]) == sorted(map(str, range(shape.n)))
    if len(columns) > 3 or not (by_index or shape.ids):
        raise ValueError("its columns have no names and the first is no index: add a first line such as index,label,clean_label")
    return _Columns(columns[1], columns[2] if len(columns) == 3 else None, columns[0], by_path=not by_index)


def _from_txt(raw: bytes, path: Path, column: str | None, shape: Shape) -> _Columns:
    """A label a line, or a path or index and a label."""
    _no_column(column)
    lines = [line.strip() for line in raw.decode("utf-8-sig").splitlines() if line.strip() and not line.startswith("#")]
    _check_rows(len(lines), shape.n)
    pairs = [line.rsplit(maxsplit=1) for line in lines]
    if any(len(pair) == 2 for pair in pairs) and not set(lines) <= set(shape.classes):
        short = next((at for at, pair in enumerate(pairs) if len(pair) < 2), None)
        if short is not None:
            raise ValueError(f"line {short} has no label")
        return _unnamed(list(zip(*pairs, strict=True)), shape)
    return _Columns(lines)


def _from_npy(raw: bytes, path: Path, column: str | None, shape: Shape) -> _Columns:
    return _from_object(read_object_npy(raw, path), column)


def _from_pt(raw: bytes, path: Path, column: str | None, shape: Shape) -> _Columns:
    return _from_object(read_pt(raw, path), column)


def _from_object(content: Any, column: str | None) -> _Columns:
    if not isinstance(content, dict):
        _no_column(column)
        return _Columns(content)
    recorded = _first(content, (column,) if column else _RECORDED)
    if recorded is None:
        raise ValueError(f"it has no {column or 'label'!r}; it has {', '.join(map(str, content))}: name one as FILE:COLUMN")
    return _Columns(recorded, _first(content, _CLEAN))


def _no_column(column: str | None) -> None:
    if column:
        raise ValueError(f"its labels have no names: leave :{column} out")


_READERS: dict[str, Callable[[bytes, Path, str | None, Shape], _Columns]] = {
    ".csv": _from_csv,
    ".txt": _from_txt,
    ".npy": _from_npy,
    ".pt": _from_pt,
    ".pth": _from_pt,
}
