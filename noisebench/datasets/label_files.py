"""Label files: a table in any common format -> given labels (N,), matched to the examples by key,
else by row order.

A list of label issues: as `evaluate --suspects` writes it and somebody has edited it, or as
cleanlab gives it.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np

from ..core.classes import NoClass, class_numbers
from ..core.files.arrays import npz_arrays, read_npy
from ..core.files.atomic import read_checked
from ..core.files.torch_files import load_torch
from ..core.files.untrusted import MAX_BYTES, parse_json
from ..core.sanitize import from_cell
from ..errors import DataError

ROOM, WIDEST = 1 << 24, 4096  # bytes that any label file may have, and an example's row: two paths
_LONGEST = 256  # letters of a label, or of the longest class
_MOST_ROWS = 1 << 16  # rows of images that are no training examples
MOST_COLUMNS = 1000
_SHOWN, _LONGEST_SHOWN = 12, 100  # columns or classes that a sentence names, letters of a cell
_MARKS = ",;\t"

# Columns are recognised by the words of their names: `label_noisy` is a label, `image_id` a key.
_LABEL = {
    "label",
    "labels",
    "target",
    "targets",
    "class",
    "classes",
    "category",
    "recorded",
    "noisy",
    "given",
    "y",
}
_CLEAN = {"clean", "true", "truth", "gt", "gold"}
_CLEAN_NAMES = ("clean_label", "clean", "true_label", "true", "ground_truth", "gt")
_INDEX = {"index", "idx", "i"}
_PATH = {"path", "file", "filename", "filepath"}
_KEY = _INDEX | _PATH | {"id", "image", "img", "name", "key", "unnamed"}

# Columns that say which rows are for training: words, or flags of what is not, or of what is.
_PARTS = {"split", "subset", "partition", "phase", "set"}
_HELD_OUT = {"is_valid", "is_val", "is_validation", "is_test", "valid", "validation", "val", "test"}
_IN_TRAINING = {"is_train", "is_training", "train", "training"}
_TRAIN, _OTHER = (
    {"train", "training"},
    {"val", "valid", "validation", "dev", "test", "testing", "dropped"},
)
_YES, _NO = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no"}

TEST, NONE = -2, -1  # in the place of a training example: a test image, or nothing


@dataclass(frozen=True)
class Shape:
    """The examples that labels are for: their number and classes; `ids`, their paths where they are
    files, and `test_ids`, those of the test images."""

    n: int
    classes: tuple[str, ...]
    ids: Sequence[str] = ()
    test_ids: Sequence[str] = ()


@dataclass(frozen=True)
class Annotations:
    """Given labels (N,), -1 where `left_out` (N,) says that the file has none; true labels (N,), -1
    where unknown, or None. notes: sentences on how the file was read."""

    labels: np.ndarray
    clean: np.ndarray | None
    left_out: np.ndarray | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LabelTable:
    """The columns of a label file by name, each with one cell per row, as written.

    label, clean, split: the names of the columns of given labels, of true labels, and of the one
    that marks rows which are not for training. notes: sentences on what was not used.
    """

    columns: Mapping[str, Sequence[Any]]
    label: str
    clean: str | None = None
    split: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> Sequence[Any]:
        return self.columns[self.label]

    @property
    def keys(self) -> dict[str, list[str]]:
        """Every other column: each may name the examples."""
        others = (name for name in self.columns if name not in (self.label, self.clean, self.split))
        return {
            name: [str(cell).strip() for cell in _as_list(self.columns[name])] for name in others
        }

    @property
    def for_training(self) -> np.ndarray:
        """Rows (m,) that the split column does not exclude."""
        marked = (
            None if self.split is None else _rows_for_training(self.split, self.columns[self.split])
        )
        return np.ones(len(self.labels), bool) if marked is None else marked


def split_column(text: str) -> tuple[Path, str | None]:
    """`FILE` or `FILE:COLUMN`."""
    name, colon, column = text.rpartition(":")
    return (
        (Path(name), column)
        if colon and not Path(text).exists() and Path(name).suffix
        else (Path(text), None)
    )


def read_label_table(
    path: Path,
    column: str | None = None,
    *,
    classes: Sequence[str] = (),
    n: int | None = None,
    sha256: str | None = None,
) -> LabelTable:
    """The columns of a label file, and which of them are labels. Raises DataError.

    column: the column of given labels. classes: their names, which decide between columns whose
    names do not; n: the number of examples, which bounds the file's size.
    """
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise DataError(f"{path}: a label file is a {', '.join(_READERS)}")
    raw = read_checked(path, sha256, MAX_BYTES if n is None else ROOM + n * WIDEST)
    try:
        content = _READERS[suffix](raw, path, _Expected(n, classes, column))
        return _recognised(content, column, classes)
    except DataError:
        raise
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8: save it as CSV UTF-8") from None
    except (ValueError, TypeError, EOFError, csv.Error) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}") from None


def read_annotations(text: str, shape: Shape, sha256: str | None = None) -> Annotations:
    """The labels of a FILE or FILE:COLUMN for these examples. Raises DataError."""
    path, column = split_column(text)
    table = read_label_table(path, column, classes=shape.classes, n=shape.n, sha256=sha256)
    try:
        return _arranged(table, shape)
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}") from None


@dataclass(frozen=True)
class ImageLabels:
    """Given labels of images (N,) by path, -1 where the file has none, and their classes. clean
    (N,): true labels, -1 where unknown, None without a column of them, whose name is
    `clean_column`. in_test (N,): marked as not for training, None where no column says so. note:
    how the file was read, and what of it is not used.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    in_test: np.ndarray | None
    note: str
    clean: np.ndarray | None = None
    clean_column: str | None = None


def read_image_labels(text: str, images: Sequence[str], others: Sequence[str] = ()) -> ImageLabels:
    """The labels of a FILE or FILE:COLUMN for images by path or file name; the classes are the
    labels that occur, in order.

    others: images that rows may name too, and that are passed over. Raises DataError.
    """
    path, column = split_column(text)
    table = read_label_table(path, column)
    names = [_class_name(cell) for cell in _as_list(table.labels)]
    if "" in names:
        raise DataError(
            f"{path}: the label of row {names.index('')} is empty: delete the row, or write a label"
        )
    numbers = all(name.isdecimal() for name in names)
    classes = tuple(sorted(set(names), key=lambda name: (int(name) if numbers else 0, name)))
    if len(classes) == 1 or (len(classes) == len(names) and len(names) > 2):
        what = (
            f"every row has the label {classes[0]!r}"
            if len(classes) == 1
            else ("no two rows have the same label")
        )
        raise DataError(
            f"{path}: {what} in its column {table.label!r}: name the column of labels "
            "as FILE:COLUMN"
        )
    try:
        key = find_key(
            table, Shape(len(images), classes, images, others), np.ones(len(names), bool)
        )
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    if key is None:
        raise DataError(
            f"{path} has no column of paths or file names, so that no label is known "
            "to be an image's"
        )
    name, match = key
    rows = np.flatnonzero(match.examples >= 0)
    number = {name: at for at, name in enumerate(classes)}
    labels = np.full(len(images), -1, np.int64)
    labels[match.examples[rows]] = [number[names[row]] for row in rows.tolist()]
    clean = None
    if table.clean is not None:
        clean = np.full(len(images), -1, np.int64)
        clean[match.examples[rows]] = _clean_numbers(table, rows, classes, path)
    in_test = None
    if table.split is not None:
        in_test = np.zeros(len(images), bool)
        in_test[match.examples[rows]] = ~table.for_training[rows]
    notes = [*table.notes, *_unused_columns(table, name), *_rows_of_tests(match)]
    note = "; ".join([f"{_read_as(table, name, match)} of {path.name}", *notes])
    return ImageLabels(classes, labels, in_test, note, clean, table.clean)


def _clean_numbers(
    table: LabelTable, rows: np.ndarray, classes: tuple[str, ...], path: Path
) -> list[int]:
    """True labels of some rows as numbers of the classes, -1 for an empty one. Raises DataError for
    another class.
    """
    number, numbers = {name: at for at, name in enumerate(classes)}, []
    for row in rows.tolist():
        cell = _class_name(_as_list(table.columns[str(table.clean)])[row])
        if not _is_empty(cell) and cell not in number:
            raise DataError(
                f"{path}: the true label of row {row} is {cell!r}, and no given label "
                f"is; the classes are {_listed(classes)}"
            )
        numbers.append(number.get(cell, -1))
    return numbers


def _class_name(cell: Any) -> str:
    """A label as written; a whole number without its `.0`, which pandas adds."""
    text = str(cell).strip()
    return text.removesuffix(".0") if re.fullmatch(r"\d+\.0", text) else text


# From a file to columns


@dataclass(frozen=True)
class _Expected:
    """What is known of a file before it is read: the number of examples, the classes, the
    column.
    """

    n: int | None
    classes: Sequence[str]
    column: str | None

    @property
    def most_rows(self) -> int | None:
        return None if self.n is None else 2 * self.n + _MOST_ROWS


@dataclass(frozen=True)
class _Content:
    """Columns as read; `named`: whether their names are the file's own."""

    columns: dict[str, Sequence[Any]]
    named: bool = True
    notes: tuple[str, ...] = ()


def decode(raw: bytes) -> str:
    """Text in UTF-8, or in UTF-16 where it begins with its mark. Raises UnicodeDecodeError, or
    ValueError for zero bytes.
    """
    utf_16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = raw.decode("utf-16" if utf_16 else "utf-8-sig")
    if "\0" in text:
        raise ValueError(
            "it holds zero bytes, as UTF-16 without its mark does: save it as CSV UTF-8"
        )
    return text


def sniff(lines: Sequence[str]) -> str:
    """The delimiter of a table's first lines: a comma, semicolon or tab that makes rows of one
    width.
    """

    def width(mark: str) -> int:
        try:
            widths = {len(row) for row in csv.reader(lines, delimiter=mark) if row}
        except csv.Error:  # a whole line as one field may be too long
            return 1
        return widths.pop() if len(widths) == 1 else 1

    return (
        max(_MARKS, key=lambda mark: (width(mark) > 1, mark in lines[0], width(mark)))
        if lines
        else ","
    )


def _from_csv(raw: bytes, path: Path, expected: _Expected) -> _Content:
    lines, notes = _without_comments(io.StringIO(decode(raw), newline="").readlines())
    mark = "\t" if path.suffix.lower() == ".tsv" else sniff(lines[:20])
    if lines and re.fullmatch(r"sep=[,;\t]\s*", lines[0]):  # as Excel writes and reads it
        mark = lines.pop(0)[4]
    return _named(_even(csv.reader(lines, delimiter=mark), expected.most_rows), expected, notes)


def _without_comments(lines: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """The lines that do not begin with #, and a sentence on the others."""
    kept = [line for line in lines if not line.startswith("#")]
    comments = len(lines) - len(kept)
    return kept, (f"{_count(comments, 'line')} beginning with # passed over",) if comments else ()


def _named(rows: list[list[str]], expected: _Expected, notes: tuple[str, ...] = ()) -> _Content:
    """Rows as columns, named by the first row where that holds names and no class or number."""
    head = [name.strip() for name in rows[0]]
    is_head = any(map(_is_name, head)) and not any(
        _is_cell(name, expected.classes) for name in head
    )
    is_head |= expected.column is not None and expected.column.lower() in map(str.lower, head)
    if is_head and len(set(map(str.lower, head))) < len(head):
        raise ValueError("a column's name stands twice in its first line")
    names = head if is_head else [f"column {at + 1}" for at in range(len(head))]
    body = rows[1:] if is_head else rows
    columns = list(zip(*body, strict=True)) or [()] * len(names)
    return _Content(dict(zip(names, columns, strict=True)), is_head, notes)


def _is_name(cell: str) -> bool:
    """Whether every word of a cell is one that columns are named by: `image_id`, not
    `image_0001`.
    """
    return (
        bool(_words(cell))
        and not re.search(r"[\d./\\]", cell)
        and _words(cell) <= _LABEL | _CLEAN | _KEY
    )


def _is_cell(cell: str, classes: Sequence[str]) -> bool:
    return cell in classes or bool(re.fullmatch(r"-?\d+(\.\d+)?", cell))


def _even(lines: Iterator[list[str]], most: int | None) -> list[list[str]]:
    """The rows of a table, empty ones left out, but not between the labels of a single column,
    where one would move all that follow.

    Raises ValueError for none, too many, or rows of different widths.
    """
    rows: list[list[str]] = []
    empty = False
    for row in lines:
        if not any(row):
            empty |= bool(rows)
            continue
        if empty and len(row) == 1:
            raise ValueError(
                f"line {len(rows) + 1} is empty, and others follow: write its label, "
                "or add a column of file names or indices"
            )
        rows.append(row)
        if len(row) != len(rows[0]):
            raise ValueError(
                f"row {len(rows) - 1} has {len(row)} fields, the first has {len(rows[0])}"
            )
        if len(row) > MOST_COLUMNS:
            raise ValueError(f"it has {len(row)} columns, and may have {MOST_COLUMNS}")
        if most is not None and len(rows) > most:
            raise ValueError(f"it has more than {most} rows, too many for these data")
    if not rows:
        raise ValueError("it is empty")
    return rows


def _from_txt(raw: bytes, path: Path, expected: _Expected) -> _Content:
    """A label a line; or a key and a label, separated by blanks or as in a CSV."""
    all_lines, notes = _without_comments([line.strip() for line in decode(raw).splitlines()])
    lines = [line for line in all_lines if line]
    if set(lines) <= set(expected.classes) or not any(re.search(r"[\s,;]", line) for line in lines):
        return _named(
            _even(iter([[line] for line in all_lines]), expected.most_rows), expected, notes
        )
    if any(mark in line for mark in _MARKS for line in lines[:1]):
        return _from_csv(raw, path, expected)
    pairs = [line.rsplit(maxsplit=1) for line in lines]
    if (short := next((at for at, pair in enumerate(pairs) if len(pair) < 2), None)) is not None:
        raise ValueError(f"line {short} has no label")
    return _named(_even(iter(pairs), expected.most_rows), expected, notes)


def _from_npy(raw: bytes, path: Path, expected: _Expected) -> _Content:
    try:
        return _from_object(read_npy(raw))
    except ValueError as error:
        raise _refused(path, error) from None


def _from_npz(raw: bytes, path: Path, expected: _Expected) -> _Content:
    arrays = npz_arrays(io.BytesIO(raw))
    return _from_object(next(iter(arrays.values())) if len(arrays) == 1 else arrays)


def _from_pt(raw: bytes, path: Path, expected: _Expected) -> _Content:
    """Tensors, lists and numbers, or a dict of them. Raises DataError."""
    try:
        content = load_torch(raw)
    except Exception as error:  # torch.load documents no exceptions
        raise _refused(path, error) from None
    if isinstance(content, dict):
        return _from_object({str(name): _as_numpy(value) for name, value in content.items()})
    return _from_object(_as_numpy(content))


def _as_numpy(value: Any) -> Any:
    return value.detach().numpy() if hasattr(value, "detach") else value


def _refused(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split()).partition(". ")[0][:100]
    return DataError(
        f"{path} is refused: it is damaged, or holds Python or numpy objects, which could run code "
        f"({reason}): save tensors and lists by torch.save, arrays by numpy.savez, or a .csv"
    )


def _from_json(raw: bytes, path: Path, expected: _Expected) -> _Content:
    """A list of labels, of rows or of records, in .jsonl one a line; or a mapping from keys to
    labels, or from names to columns.
    """
    if path.suffix.lower() == ".jsonl":
        content: Any = [parse_json(line) for line in raw.splitlines() if line.strip()]
    else:
        content = parse_json(raw)
    if (
        isinstance(content, dict)
        and content
        and all(not isinstance(value, dict | list) for value in content.values())
    ):
        return _Content({"key": list(content), "label": list(content.values())})
    # as pandas writes one
    if (
        isinstance(content, dict)
        and content
        and all(isinstance(value, dict) for value in content.values())
    ):
        keys = list(next(iter(content.values())))
        if any(list(column) != keys for column in content.values()):
            raise ValueError("its columns have different keys")
        return _Content(
            {"": keys, **{name: list(column.values()) for name, column in content.items()}}
        )
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        if any(row.keys() != content[0].keys() for row in content):
            raise ValueError("its records have different names")
        return _Content({name: [row[name] for row in content] for name in content[0]})
    if isinstance(content, list) and content and all(isinstance(row, list) for row in content):
        return _named(
            _even(iter([[str(cell) for cell in row] for row in content]), expected.most_rows),
            expected,
        )
    return _from_object(content)


def _from_object(content: Any) -> _Content:
    return (
        _Content(content)
        if isinstance(content, dict)
        else _Content({"labels": content}, named=False)
    )


_READERS: dict[str, Callable[[bytes, Path, _Expected], _Content]] = {
    ".csv": _from_csv,
    ".tsv": _from_csv,
    ".txt": _from_txt,
    ".json": _from_json,
    ".jsonl": _from_json,
    ".npy": _from_npy,
    ".npz": _from_npz,
    ".pt": _from_pt,
    ".pth": _from_pt,
}


# Which columns are labels


def _words(name: str) -> set[str]:
    return set(re.findall("[a-z]+", name.lower())) or ({"unnamed"} if not name else set())


def _recognised(content: _Content, column: str | None, classes: Sequence[str]) -> LabelTable:
    """Which column holds given labels, which true ones. Raises ValueError where that is not
    clear.
    """
    columns, odd = _of_one_length(content.columns, column)
    if not len(next(iter(columns.values()))):
        raise ValueError("it has no rows")
    names, notes = list(columns), list(content.notes)
    if column is not None and not content.named:
        raise ValueError(f"its labels have no names: leave :{column} out")
    label = next(
        (name for name in names if column is not None and name.lower() == column.lower()), None
    )
    if column is not None and label is None:
        raise ValueError(f"it has no column {column!r}; it has {_listed(names)}")
    clean = _clean_column([name for name in names if name != label])
    splits = [
        name
        for name in names
        if name not in (label, clean) and _rows_for_training(name, columns[name]) is not None
    ]
    split = next(iter(splits), None)
    if label is None:
        others = [name for name in names if name != clean and name not in splits]
        label = _label_column(columns, others, classes, named=content.named)
    if odd:
        notes.append(f"not used, since of another length: {_listed(odd)}")
    return LabelTable(columns, label, clean, split, tuple(notes))


def _of_one_length(
    columns: dict[str, Any], column: str | None
) -> tuple[dict[str, Sequence[Any]], list[str]]:
    """The columns that have as many cells as the labels, and the names of the others."""
    flat = {str(name): _flat(values) for name, values in columns.items()}
    if len(flat) == 1:
        (values,) = flat.values()
        if np.ndim(values) != 1:
            raise ValueError(f"expected one label an example, got shape {np.shape(values)}")
        return flat, []
    lengths = {name: len(values) for name, values in flat.items() if np.ndim(values) == 1}
    first = next(
        (name for name in lengths if column is not None and name.lower() == column.lower()), None
    )
    first = (
        first
        or next((name for name in lengths if _words(name) & _LABEL), None)
        or next(iter(lengths), None)
    )
    if first is None:
        raise ValueError(f"it has no column of labels; it has {_listed(list(flat))}")
    clean = _clean_column([name for name in lengths if name != first])
    if clean is not None and lengths[clean] != lengths[first]:
        raise ValueError(f"it has {lengths[clean]} clean labels and {lengths[first]} labels")
    kept = {name: flat[name] for name in lengths if lengths[name] == lengths[first]}
    return kept, [name for name in flat if name not in kept]


def _flat(values: Any) -> Any:
    array = values if isinstance(values, list | tuple) else np.asarray(values)
    return (
        array[:, 0]
        if isinstance(array, np.ndarray) and array.ndim == 2 and array.shape[1] == 1
        else array
    )


def _clean_column(names: Sequence[str]) -> str | None:
    """The column of true labels, by its name."""
    exact = [name for name in names if name.lower() in _CLEAN_NAMES]
    near = [name for name in names if _words(name) & _CLEAN and not _words(name) & _KEY]
    found = exact if exact else near
    return found[0] if len(found) == 1 else None


def _label_column(
    columns: dict[str, Sequence[Any]], names: list[str], classes: Sequence[str], *, named: bool
) -> str:
    """The one column that could be the label: by its name, or since most of its cells are
    classes.
    """
    if len(columns) == 1 and names:
        return names[0]
    by_name = [name for name in names if _words(name) & _LABEL] if named else []
    by_cells = [name for name in names if classes and _holds_classes(columns[name], classes)]
    found = [
        name
        for name in names
        if name in by_cells and (name in by_name or not (named and _words(name) & _KEY))
    ]
    found = found or by_name or ([] if named or classes else names[-1:])
    if len(found) > 1 and classes and _mean_the_same([columns[name] for name in found], classes):
        found = found[:1]
    if not named and len(found) != 1:
        raise ValueError(
            f"its {len(columns)} columns have no names, and {len(found)} of them could be the "
            "label: "
            "add a first line such as index,label,clean_label"
        )
    if len(found) > 1:
        raise ValueError(
            f"{len(found)} of its columns could be the label, {_listed(found)}: name one as "
            "FILE:COLUMN; "
            "a column of true labels is called clean_label"
        )
    if not found:
        raise ValueError(
            f"it has no column 'label'; it has {_listed(list(columns))}: name one as FILE:COLUMN"
        )
    return found[0]


def _holds_classes(cells: Sequence[Any], classes: Sequence[str]) -> bool:
    """Whether most cells are classes, by name or number."""
    K = range(len(classes))
    known = {*(name.strip() for name in classes), *map(str, K), *(f"{k}.0" for k in K)}
    return 2 * sum(str(cell).strip() in known for cell in _as_list(cells)) > len(cells)


def _mean_the_same(columns: Sequence[Sequence[Any]], classes: Sequence[str]) -> bool:
    try:
        first, *others = (
            _numbers(cells, tuple(classes), "label", may_be_empty=True) for cells in columns
        )
    except ValueError:
        return False
    return all(np.array_equal(first, other) for other in others)


def _rows_for_training(name: str, cells: Sequence[Any]) -> np.ndarray | None:
    """The rows (m,) for training by a column such as split or is_valid; None for any other
    column.
    """
    name, words = name.lower(), [str(cell).strip().lower() for cell in _as_list(cells)]
    kinds = ((_PARTS, _TRAIN, _OTHER), (_HELD_OUT, _NO, _YES), (_IN_TRAINING, _YES, _NO))
    yes, no = next(((yes, no) for names, yes, no in kinds if name in names), (set(), set()))
    return np.array([word in yes for word in words]) if words and set(words) <= yes | no else None


def _as_list(cells: Sequence[Any]) -> list[Any]:
    return cells.tolist() if isinstance(cells, np.ndarray) else list(cells)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name or repr(name) for name in names[:_SHOWN]) + (
        " ..." if len(names) > _SHOWN else ""
    )


def _count(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


# Which example each row is


@dataclass(frozen=True)
class Match:
    """One reading of a column as keys: `how`, and the training example of each row (m,), TEST or
    NONE.
    """

    how: str
    examples: np.ndarray

    @property
    def number(self) -> int:
        """How many rows are an image's."""
        return int((self.examples != NONE).sum())

    def complete(self, needed: np.ndarray) -> bool:
        """Whether every row that is needed (m,) is an image's, and no training example has two
        rows.
        """
        own = self.examples[self.examples >= 0]
        return (
            bool(len(own))
            and not (self.examples[needed] == NONE).any()
            and len(np.unique(own)) == len(own)
        )


def match_keys(
    keys: Sequence[str], shape: Shape, needed: np.ndarray, name: str = ""
) -> list[Match]:
    """Every complete reading of keys as indices or paths; else the one that matches most rows."""
    words = _words(name)
    found = [] if words & _PATH else [_by_index(keys, shape)]
    if shape.ids and not words & _INDEX:
        found += _by_path(keys, shape, needed)
    whole = [match for match in found if match.complete(needed)]
    return whole or sorted(found, key=lambda match: -match.number)[:1]


def _by_index(keys: Sequence[str], shape: Shape) -> Match:
    number = {str(at): at for at in range(shape.n)}
    return Match(
        "index", np.array([number.get(key.removesuffix(".0"), NONE) for key in keys], np.int64)
    )


def _by_path(keys: Sequence[str], shape: Shape, needed: np.ndarray) -> list[Match]:
    """Paths, whole or less their first folder, file names, each with suffix or without; behind
    folders that all keys share. Ends at the first complete one.
    """
    found = []
    keys = [normalize("NFC", key).replace("\\", "/").removeprefix("./") for key in keys]
    number_of = cache(lambda view: _numbered(shape, view))
    for prefix, rest in _behind_prefixes(keys):
        sample = rest[:: max(1, len(rest) // _SAMPLE)]
        for how, view in _VIEWS:
            number = number_of(view)
            if any(key in number for key in sample):
                said = how + (f" behind {prefix}" if prefix else "")
                match = Match(said, np.array([number.get(key, NONE) for key in rest], np.int64))
                found.append(match)
                if match.complete(needed):
                    return [match]
    return found


def _stem(path: str) -> str:
    return path.rpartition(".")[0]


_SAMPLE = 64  # keys that are looked up before all are
_VIEWS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("path", lambda path: path),
    ("path below its first folder", lambda path: path.partition("/")[2]),
    ("file name", lambda path: path.rpartition("/")[2]),
    ("path without suffix", _stem),
    ("path below its first folder, without suffix", lambda path: _stem(path).partition("/")[2]),
    ("file name without suffix", lambda path: _stem(path).rpartition("/")[2]),
)


def _numbered(shape: Shape, view: Callable[[str], str]) -> dict[str, int]:
    """The example of each name, none of a name that two training examples share."""
    # Macs write NFD
    test_ids, ids = (
        [normalize("NFC", path) for path in paths] for paths in (shape.test_ids, shape.ids)
    )
    number = dict.fromkeys(map(view, test_ids), TEST)
    names = [view(path) for path in ids]
    number |= {name: at for at, name in enumerate(names)}
    if len(set(names)) < len(names):
        for name, count in Counter(names).items():
            if count > 1:
                del number[name]
    number.pop("", None)
    return number


def _behind_prefixes(keys: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The keys, then what is behind the folders that all of them share, one folder after the
    other.
    """
    yield "", keys
    first, last = min(keys), max(keys)
    same = takewhile(lambda at: first[at] == last[at], range(min(len(first), len(last))))
    for end in [at + 1 for at in same if first[at] == "/"][:_DEEPEST]:
        yield first[:end], [key[end:] for key in keys]


_DEEPEST = 32  # folders that keys share


def _arranged(table: LabelTable, shape: Shape) -> Annotations:
    """The rows in the order of the examples. Raises ValueError."""
    for_training = table.for_training
    key = find_key(table, shape, for_training)
    if key is None and len(table.labels) != shape.n:
        raise ValueError(
            f"it has {len(table.labels)} labels, the data have {shape.n} examples, "
            "and no column names the examples"
        )
    name, match = key or (None, Match("row order", np.arange(shape.n)))
    rows = np.flatnonzero(for_training & (match.examples >= 0))
    if not len(rows):
        raise ValueError("none of its rows is for a training example")
    labels = np.full(shape.n, -1, np.int64)
    labels[match.examples[rows]] = _numbers(
        _at(table.labels, rows), shape.classes, "label", rows=rows
    )
    clean = None
    if table.clean is not None:
        clean = np.full(shape.n, -1, np.int64)
        clean[match.examples[rows]] = _numbers(
            _at(table.columns[table.clean], rows),
            shape.classes,
            "clean label",
            may_be_empty=True,
            rows=rows,
        )
    left_out = labels < 0
    notes = [
        _read_as(table, name, match),
        *table.notes,
        *_passed_over(table, name, match, for_training),
        *_missing(labels, shape),
    ]
    return Annotations(labels, clean, left_out if left_out.any() else None, tuple(notes))


def _at(cells: Sequence[Any], rows: np.ndarray) -> Sequence[Any]:
    return cells[rows] if isinstance(cells, np.ndarray) else [cells[row] for row in rows.tolist()]


def _read_as(table: LabelTable, key: str | None, match: Match) -> str:
    """Which column is the label, which the key."""
    parts = [f"labels from {table.label!r}" if len(table.columns) > 1 else "labels"]
    if table.clean is not None:
        parts.append(f"true labels from {table.clean!r}")
    by = f"examples by {key!r} ({match.how})" if match.how != "row order" else "by row order"
    return ", ".join([*parts, by])


def _passed_over(
    table: LabelTable, key: str | None, match: Match, for_training: np.ndarray
) -> Iterator[str]:
    """Columns and rows that are not used."""
    yield from _unused_columns(table, key)
    yield from _rows_of_tests(match)
    if marked := int((~for_training & (match.examples != TEST)).sum()):
        yield f"{_count(marked, 'row')} passed over that {table.split!r} marks as not for training"


def _unused_columns(table: LabelTable, key: str | None) -> Iterator[str]:
    if unused := [
        name for name in table.columns if name not in (table.label, table.clean, table.split, key)
    ]:
        yield f"not used: {_listed(unused)}"


def _rows_of_tests(match: Match) -> Iterator[str]:
    if count := int((match.examples == TEST).sum()):
        yield f"{_count(count, 'row')} of test images passed over"


def _missing(labels: np.ndarray, shape: Shape) -> Iterator[str]:
    """Examples without a label, classes without an example."""
    if count := int((labels < 0).sum()):
        yield f"{count} of {shape.n} training images have no row and are left out of training"
    counts = np.bincount(labels[labels >= 0], minlength=len(shape.classes))
    if not counts.all():
        yield (
            "no example is labelled "
            f"{_listed([shape.classes[k] for k in np.flatnonzero(counts == 0)])}"
        )


def find_key(table: LabelTable, shape: Shape, needed: np.ndarray) -> tuple[str, Match] | None:
    """The column that names the examples, whatever it is called; None where the rows come in their
    order.

    Raises ValueError where two columns or readings disagree, or where a column could be a key and
    does not name an example in each row that is needed (m,).
    """
    keys = table.keys
    found = [
        (name, match)
        for name, cells in keys.items()
        for match in match_keys(cells, shape, needed, name)
    ]
    whole = [
        (name, match)
        for name, match in found
        if match.complete(needed) and _is_sure(name, keys[name], match, shape)
    ]
    by_name = [
        (name, match)
        for name, match in whole
        if match.how != "index" and not all(map(str.isdigit, keys[name]))
    ]
    whole = by_name or whole  # beside names of files a number is whatever its author counted
    for name, match in whole[1:]:
        if not np.array_equal(match.examples, whole[0][1].examples):
            if name == whole[0][0]:
                raise ValueError(
                    f"its column {name!r} could hold indices or file names: call it index or file"
                )
            raise ValueError(
                f"its columns {whole[0][0]!r} and {name!r} name different examples: "
                "leave one of them out"
            )
    if whole:
        return whole[0]
    if unknown := [name for name in keys if not _explained(name, keys[name], shape)]:
        raise ValueError(_why_no_key(unknown, keys, dict(found), shape, needed))
    return None


def _counts_rows(cells: Sequence[str]) -> bool:
    """Whether a column only numbers the rows from 0 or 1 on, as a table's own index does."""
    return list(cells[:1]) in (["0"], ["1"]) and all(
        cell == str(at) for at, cell in enumerate(cells, int(cells[0]))
    )


def _is_sure(name: str, cells: Sequence[str], match: Match, shape: Shape) -> bool:
    """Whether a column is a key where its name does not say so: a table's row numbers are none, and
    numbers are indices where they are a table's shuffled index, or each index stands there once.
    """
    words = _words(name)
    if words & (_INDEX | _PATH | {"id", "key"}):
        return True
    if _counts_rows(cells):
        return False
    return match.how != "index" or "unnamed" in words or len(cells) == shape.n


def _explained(name: str, cells: Sequence[str], shape: Shape) -> bool:
    """Whether a column that is no key says nothing of the order of the rows: other labels, or the
    rows' numbers.
    """
    words = _words(name)
    if not words & _KEY and (words & _LABEL or _holds_classes(cells, shape.classes)):
        return True
    return _counts_rows(cells) and len(cells) == shape.n


def _why_no_key(
    names: list[str],
    keys: dict[str, list[str]],
    found: dict[str, Match],
    shape: Shape,
    needed: np.ndarray,
) -> str:
    """What is wrong with the column that comes nearest to a key, and what to do."""
    name = max(
        names,
        key=lambda name: (found[name].number if name in found else 0, bool(_words(name) & _KEY)),
    )
    cells = keys[name]
    match = found.get(name, Match("path", np.full(len(cells), NONE)))
    if not match.number and not (_words(name) & _KEY and shape.ids):
        said = (
            f"its column {name!r} names"
            if len(names) == 1
            else (f"its columns {_listed(names)} name")
        )
        ways = "indices, paths or file names" if shape.ids else "which have indices and no paths"
        return (
            f"{said} none of the examples ({ways}), and rows are not taken in their order: "
            "leave it out, or add a column index"
        )
    what = (
        name
        if name and not name.startswith("column ")
        else "index"
        if match.how == "index"
        else "key"
    )
    if (strange := needed & (match.examples == NONE)).any():
        row = int(strange.argmax())
        hint = f"; indices go from 0 to {shape.n - 1}" if match.how == "index" else ""
        return (
            f"row {row} has the {what} {cells[row][:_LONGEST_SHOWN]!r}, "
            "which no training example has "
            f"({match.number} of {len(cells)} rows name an example{hint})"
        )
    counts = np.bincount(match.examples[match.examples >= 0], minlength=shape.n)
    if (counts > 1).any():
        row = int((match.examples == counts.argmax()).argmax())
        return f"{cells[row][:_LONGEST_SHOWN]!r} has more than one row in {name!r}"
    return (
        f"its column {name!r} could be indices of {len(cells)} of the {shape.n} examples: "
        "call "
        "it index if it is, else leave it out"
    )


# Labels


def _numbers(
    values: Sequence[Any],
    classes: tuple[str, ...],
    what: str,
    *,
    may_be_empty: bool = False,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Classes by name or number -> numbers (m,), -1 for an empty one. Raises ValueError, naming the
    row.
    """
    longest = max(_LONGEST, *map(len, classes))
    if isinstance(values, list | tuple) and (
        long := next((word for word in values if isinstance(word, str) and len(word) > longest), "")
    ):
        raise ValueError(f"a {what} has {len(long)} letters: {long[:20]!r}...")
    array = np.asarray(values)
    rows = np.arange(len(array)) if rows is None else rows
    if array.dtype.kind in "iu":
        bad = (array < (-1 if may_be_empty else 0)) | (array >= len(classes))
        if bad.any():
            at = int(bad.argmax())
            raise _wrong(what, int(rows[at]), str(NoClass(str(array[at]), at, classes)))
        return array.astype(np.int64)
    kinds, place = np.unique(
        array.astype(str) if array.dtype.kind != "f" else array, return_inverse=True
    )
    place, known = (
        place.reshape(-1),
        np.array([not (may_be_empty and _is_empty(kind)) for kind in kinds.tolist()], bool),
    )
    number = np.full(len(kinds), -1, np.int64)
    try:
        words = [kind for kind, there in zip(kinds.tolist(), known, strict=True) if there]
        number[known] = class_numbers(words, classes, names_win=isinstance(values, np.ndarray))
    except NoClass as error:
        at = int((place == known.nonzero()[0][error.place]).argmax())
        raise _wrong(what, int(rows[at]), str(error)) from None
    return number[place]


def _wrong(what: str, row: int, reason: str) -> ValueError:
    return ValueError(
        f"the {what} of row {row} is "
        + ("empty" if reason.startswith("''") else f"wrong: {reason}")
    )


def _is_empty(value: Any) -> bool:
    return str(value).strip() in ("", "nan", "-1", "-1.0")


# ours, cleanlab's
_NEEDED = {"recorded": ("recorded", "given_label"), "suggested": ("suggested", "predicted_label")}
_KEYS = ("path", "index")
_ISSUE = "is_label_issue"
# columns that say nothing of what is to be done
_KNOWN = {"rank", "score", "split", "label_quality", "label_score"}
_FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_TABLES, _ARRAYS = (".csv", ".tsv"), (".npy", ".txt", ".json")


@dataclass(frozen=True)
class _Table:
    """Columns by name, as written; `lines` (m,) say where in the file each row ends."""

    columns: dict[str, list[str]]
    lines: list[int]


def read_review(
    path: Path, shape: Shape, recorded: np.ndarray, sha256: str | None = None
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Which examples (m,) are listed, the class (m,) suggested for each, None where the list
    suggests none, and sentences on how it was read. Raises DataError, naming the line.

    A table has the columns recorded and suggested, or cleanlab's given_label and predicted_label;
    one made for other recorded labels (N,) is refused. An array holds the indices of examples, or a
    flag for each.
    """
    suffix = path.suffix.lower()
    if suffix not in (*_TABLES, *_ARRAYS):
        raise DataError(f"{path}: a list of label issues is a {', '.join((*_TABLES, *_ARRAYS))}")
    raw = read_checked(path, sha256, ROOM + shape.n * WIDEST)
    try:
        if suffix in _ARRAYS:
            return (
                _listed_reviews(_array(raw, suffix), shape),
                None,
                ("it does not say for which labels it was made",),
            )
        table = _read(decode(raw), shape.n)
        examples, key = _examples(table, shape)
        _check_recorded(table, shape, recorded[examples])
        listed = _issues(table)
        unused = [
            name or "''"
            for name in table.columns
            if name not in {*_NEEDED, *_KEYS, *_KNOWN, _ISSUE, key}
        ]
        notes = (f"not used: {', '.join(unused)}",) if unused else ()
        return examples[listed], _classes(table, "suggested", shape, listed), notes
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8: save it as CSV UTF-8") from None
    except (ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}") from None


def _array(raw: bytes, suffix: str) -> np.ndarray:
    """Numbers or flags (m,)."""
    if suffix == ".npy":
        return read_npy(raw)
    words = parse_json(raw) if suffix == ".json" else re.split(r"[\s,;]+", decode(raw).strip())
    if not isinstance(words, list):
        raise ValueError("expected a list of indices, or of true and false")
    flags = [_FLAGS.get(str(word).lower()) for word in words]
    if any(str(word).lower() in ("true", "false") for word in words) and None not in flags:
        return np.array(flags, bool)
    return np.array([float(word) for word in words])


def _listed_reviews(values: np.ndarray, shape: Shape) -> np.ndarray:
    """The examples (m,) of indices, or of flags (N,)."""
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"expected indices of examples, or a flag for each of the {shape.n}, got "
            f"shape {values.shape}"
        )
    if values.dtype.kind not in "biuf" or not np.isin(values % 1, 0).all():
        raise ValueError("expected indices of examples, or flags, got numbers that are not whole")
    if values.dtype == bool or (len(values) == shape.n > 2 and np.isin(values, (0, 1)).all()):
        if len(values) != shape.n:
            raise ValueError(f"it has {len(values)} flags, the data have {shape.n} examples")
        values = np.flatnonzero(values)
        if not len(values):
            raise ValueError("it lists no example: there is nothing to do")
    elif (strange := (values < 0) | (values >= shape.n)).any():
        raise ValueError(
            f"no training example has the index {values[strange][0]:.0f}: they go "
            f"from 0 to {shape.n - 1}"
        )
    elif len(np.unique(values)) < len(values):
        raise ValueError("an index stands in it twice")
    return values.astype(np.int64)


def _read(text: str, n: int) -> _Table:
    """The columns, cleanlab's under our names. Between them stand commas; or semicolons, or tabs,
    as spreadsheets of some countries write.
    """
    mark = sniff(text.splitlines()[:1])
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    names = [name.strip().lower() for name in next(rows, [])]
    if len(names) > MOST_COLUMNS:
        raise ValueError(f"it has {len(names)} columns, and may have {MOST_COLUMNS}")
    for own, others in _NEEDED.items():
        names = [own if name in others and own not in names else name for name in names]
    _check_names(names)
    table = _Table({name: [] for name in names}, [])
    for row in _full(rows, len(names)):
        if len(table.lines) == n:
            raise ValueError(f"it has more lines than the data have examples, which are {n}")
        table.lines.append(rows.line_num)
        for name, cell in zip(names, row, strict=True):
            table.columns[name].append(cell.strip())
    if not table.lines:
        raise ValueError("it lists no example: there is nothing to do")
    return table


def _full(rows: Iterator[list[str]], width: int) -> Iterator[list[str]]:
    for row in rows:
        if not any(row):
            continue  # an empty line, or the ,,,, that a spreadsheet leaves of one
        if len(row) != width:
            raise ValueError(f"line {rows.line_num} has {len(row)} fields, the first has {width}")  # type: ignore[attr-defined]
        yield row


def _check_names(names: list[str]) -> None:
    if twice := next((name for name in names if names.count(name) > 1 and name), None):
        raise ValueError(f"its first line has the column {twice!r} twice")
    missing = [name for name in _NEEDED if name not in names]
    if missing and not set(_KEYS) & set(names):
        missing.insert(0, "index or path")
    if missing:
        raise ValueError(
            f"it has no column {', '.join(missing)}: a list is what noisebench evaluate RUN "
            "--suspects FILE writes, "
            "or cleanlab's table with given_label and predicted_label"
        )


def _examples(table: _Table, shape: Shape) -> tuple[np.ndarray, str | None]:
    """Which example each row is: by path where there is one, and an index beside it must mean the
    same; and another column that says so.
    """
    found = [
        _found(table, name, shape)
        for name in _KEYS
        if name in table.columns and (name == "index" or shape.ids)
    ]
    if not found and "path" in table.columns:
        raise ValueError("it goes by path, but the examples of these data have none")
    if not found:
        return _by_any_key(table, shape)
    if (differs := found[0] != found[-1]).any():
        at = int(differs.argmax())
        raise ValueError(
            f"line {table.lines[at]}: {table.columns['path'][at]} is example "
            f"{found[0][at]}, not {found[-1][at]}"
        )
    first = dict[int, int]()
    for line, example in zip(table.lines, found[0].tolist(), strict=True):
        if example in first:
            raise ValueError(
                f"line {line}: example {example} stands in line {first[example]} already"
            )
        first[example] = line
    return found[0], None


def _by_any_key(table: _Table, shape: Shape) -> tuple[np.ndarray, str | None]:
    """By a table's own index, which has no name, or another column that names the examples; a row
    for every example needs none.
    """
    columns = {
        name: cells
        for name, cells in table.columns.items()
        if name not in {"suggested", *_KNOWN, _ISSUE}
    }
    key = find_key(LabelTable(columns, "recorded"), shape, np.ones(len(table.lines), bool))
    if key is not None and (key[1].examples >= 0).all():
        return key[1].examples, key[0]
    if key is not None or len(table.lines) != shape.n:
        raise ValueError(
            f"no column names the examples of its {len(table.lines)} rows: add a "
            "column index or path"
        )
    return np.arange(shape.n), None


def _found(table: _Table, name: str, shape: Shape) -> np.ndarray:
    keys = table.columns[name]
    found = match_keys(keys, shape, np.ones(len(keys), bool), name)
    examples = found[0].examples if found else np.full(len(keys), NONE)
    if (strange := examples < 0).any():
        at = int(strange.argmax())
        allowed = "" if name == "path" else f": they go from 0 to {shape.n - 1}"
        raise ValueError(
            f"line {table.lines[at]}: no training example has the {name} {keys[at]!r}{allowed}"
        )
    return examples


def _check_recorded(table: _Table, shape: Shape, recorded: np.ndarray) -> None:
    said = _classes(table, "recorded", shape, range(len(table.lines)))
    if (differs := said != recorded).any():
        at = int(differs.argmax())
        now, then = (shape.classes[labels[at]] for labels in (recorded, said))
        raise ValueError(
            f"line {table.lines[at]}: the label is {now} in this manifest, not "
            f"{then}: the list was made for other labels"
        )


def _issues(table: _Table) -> list[int]:
    """The rows that list a label issue: all, but those that cleanlab says are none."""
    if _ISSUE not in table.columns:
        return list(range(len(table.lines)))
    flags = [_FLAGS.get(cell.lower()) for cell in table.columns[_ISSUE]]
    if None in flags:
        at = flags.index(None)
        raise ValueError(
            f"line {table.lines[at]}: {_ISSUE} must be True or False, not "
            f"{table.columns[_ISSUE][at]!r}"
        )
    if not any(flags):
        raise ValueError("it lists no example: there is nothing to do")
    return [at for at, flag in enumerate(flags) if flag]


def _classes(table: _Table, column: str, shape: Shape, rows: Sequence[int]) -> np.ndarray:
    """Some rows of a column of classes by name or number (m,)."""
    words = [from_cell(table.columns[column][row]) for row in rows]
    try:
        return np.array(class_numbers(words, shape.classes, names_win=True), np.int64)
    except NoClass as error:
        empty = not words[error.place]
        reason = "is empty: delete the line, or name a class" if empty else f"is wrong: {error}"
        raise ValueError(f"line {table.lines[rows[error.place]]}: {column} {reason}") from None
