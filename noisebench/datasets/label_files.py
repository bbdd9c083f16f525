"""Label files: a table in any common format -> given labels (N,), matched to the examples by a key
column, else by row order.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.classes import NoClass, class_numbers
from ..core.files.arrays import load_torch, npz_arrays, read_npy
from ..core.files.atomic import read_checked
from ..core.files.untrusted import MAX_BYTES, parse_json
from ..errors import DataError
from .label_keys import (
    KEY_WORDS,
    LABEL_WORDS,
    TEST,
    Match,
    Shape,
    find_key,
    holds_classes,
    join_names,
    words_of,
)

ROOM, WIDEST = 1 << 24, 4096  # bytes that any label file may have, and an example's row: two paths
_LONGEST = 256  # letters of a label, or of the longest class
_MOST_ROWS = 1 << 16  # rows of images that are no training examples
MOST_COLUMNS = 1000
_MARKS = ",;\t"

_CLEAN_WORDS = {"clean", "true", "truth", "gt", "gold"}
_CLEAN_NAMES = ("clean_label", "clean", "true_label", "true", "ground_truth", "gt")

# Columns that say which rows are for training: words, or flags of what is not, or of what is.
_PARTS = {"split", "subset", "partition", "phase", "set"}
_HELD_OUT = {"is_valid", "is_val", "is_validation", "is_test", "valid", "validation", "val", "test"}
_IN_TRAINING = {"is_train", "is_training", "train", "training"}
_TRAIN, _OTHER = (
    {"train", "training"},
    {"val", "valid", "validation", "dev", "test", "testing", "dropped"},
)
_YES, _NO = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no"}


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
    """The columns of a label file by name, each with one cell per row: numbers, or texts as
    written.

    label, clean, split: the names of the columns of given labels, of true labels, and of the one
    that marks rows which are not for training. notes: sentences on what was not used.
    """

    columns: Mapping[str, np.ndarray]
    label: str
    clean: str | None = None
    split: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> np.ndarray:
        return self.columns[self.label]

    @property
    def keys(self) -> dict[str, list[str]]:
        """Every other column: each may name the examples."""
        others = (name for name in self.columns if name not in (self.label, self.clean, self.split))
        return {
            name: [str(cell).strip() for cell in self.columns[name].tolist()] for name in others
        }

    @property
    def for_training(self) -> np.ndarray:
        """Rows (m,) that the split column does not exclude."""
        if self.split is None:
            return np.ones(len(self.labels), bool)
        marked = _rows_for_training(self.split, self.columns[self.split])
        assert marked is not None
        return marked


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
        return _recognize(content, column, classes)
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
    names = [_class_name(cell) for cell in table.labels.tolist()]
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
            table.keys, Shape(len(images), classes, images, others), np.ones(len(names), bool)
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
        cell = _class_name(table.columns[str(table.clean)][row])
        if not _is_empty(cell) and cell not in number:
            raise DataError(
                f"{path}: the true label of row {row} is {cell!r}, and no given label "
                f"is; the classes are {join_names(classes)}"
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

    columns: Mapping[str, Any]
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

    if not lines:
        return ","
    return max(_MARKS, key=lambda mark: (width(mark) > 1, mark in lines[0], width(mark)))


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
        bool(words_of(cell))
        and not re.search(r"[\d./\\]", cell)
        and words_of(cell) <= LABEL_WORDS | _CLEAN_WORDS | KEY_WORDS
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
        return _from_object(read_npy(io.BytesIO(raw), len(raw)))
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
        f"{path} is refused: it is damaged, or holds Python or numpy objects, which could run "
        "code "
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
    values = list(content.values() if isinstance(content, dict) else content) if content else []
    kinds = {dict if isinstance(v, dict) else list if isinstance(v, list) else str for v in values}
    if isinstance(content, dict) and kinds == {str}:
        return _Content({"key": list(content), "label": values})
    if isinstance(content, dict) and kinds == {dict}:  # as pandas writes a table
        if any(list(column) != list(values[0]) for column in values):
            raise ValueError("its columns have different keys")
        cells = {name: list(column.values()) for name, column in content.items()}
        return _Content({"": list(values[0]), **cells})
    if isinstance(content, list) and kinds == {dict}:
        if any(row.keys() != values[0].keys() for row in values):
            raise ValueError("its records have different names")
        return _Content({name: [row[name] for row in values] for name in values[0]})
    if isinstance(content, list) and kinds == {list}:
        rows = iter([[str(cell) for cell in row] for row in values])
        return _named(_even(rows, expected.most_rows), expected)
    return _from_object(content)


def _from_object(content: Any) -> _Content:
    if isinstance(content, dict):
        return _Content(content)
    return _Content({"labels": content}, named=False)


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


def _recognize(content: _Content, column: str | None, classes: Sequence[str]) -> LabelTable:
    """Which column holds given labels, which true ones. Raises ValueError where that is not
    clear.
    """
    columns, notes = _of_one_length(content.columns, column)
    names = list(columns)
    if not len(columns[names[0]]):
        raise ValueError("it has no rows")
    if column is not None and not content.named:
        raise ValueError(f"its labels have no names: leave :{column} out")
    label = _same_name(column, names)
    if column is not None and label is None:
        raise ValueError(f"it has no column {column!r}; it has {join_names(names)}")
    clean = _clean_column([name for name in names if name != label])
    splits = [
        name
        for name in names
        if name not in (label, clean) and _rows_for_training(name, columns[name]) is not None
    ]
    if label is None:
        others = [name for name in names if name != clean and name not in splits]
        label = _label_column(columns, others, classes, named=content.named)
    split = splits[0] if splits else None
    return LabelTable(columns, label, clean, split, (*content.notes, *notes))


def _same_name(column: str | None, names: Iterable[str]) -> str | None:
    """The name that a user means by `column`, in upper or lower case."""
    if column is None:
        return None
    return next((name for name in names if name.lower() == column.lower()), None)


def _of_one_length(
    columns: Mapping[str, Any], column: str | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The columns that have as many cells as the labels, and a sentence on the others."""
    arrays = {str(name): _as_column(values) for name, values in columns.items()}
    flat = {name: array for name, array in arrays.items() if array.ndim == 1}
    if len(arrays) == 1 and not flat:
        (array,) = arrays.values()
        raise ValueError(f"expected one label an example, got shape {array.shape}")
    by_name = (name for name in flat if words_of(name) & LABEL_WORDS)
    first = _same_name(column, flat) if column else next(by_name, None)
    first = first or next(iter(flat), None)
    if first is None:
        raise ValueError(f"it has no column of labels; it has {join_names(list(arrays))}")
    n, clean = len(flat[first]), _clean_column([name for name in flat if name != first])
    if clean is not None and len(flat[clean]) != n:
        raise ValueError(f"it has {len(flat[clean])} clean labels and {n} labels")
    kept = {name: array for name, array in flat.items() if len(array) == n}
    odd = [name for name in arrays if name not in kept]
    return kept, [f"not used, since of another length: {join_names(odd)}"] if odd else []


def _as_column(values: Any) -> np.ndarray:
    """Numbers as they are, and other lists as objects: as texts of one width they could fill the
    memory.
    """
    if isinstance(values, list | tuple) and not all(
        isinstance(value, int | float) for value in values
    ):
        return np.fromiter(values, object, len(values))
    array = np.asarray(values)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _clean_column(names: Sequence[str]) -> str | None:
    """The column of true labels, by its name."""
    exact = [name for name in names if name.lower() in _CLEAN_NAMES]
    near = [
        name for name in names if words_of(name) & _CLEAN_WORDS and not words_of(name) & KEY_WORDS
    ]
    candidates = exact if exact else near
    return candidates[0] if len(candidates) == 1 else None


def _label_column(
    columns: Mapping[str, np.ndarray], names: list[str], classes: Sequence[str], *, named: bool
) -> str:
    """The one column that could be the label: by its name, or since most of its cells are
    classes.
    """
    if len(columns) == 1 and names:
        return names[0]
    by_name = [name for name in names if words_of(name) & LABEL_WORDS] if named else []
    by_cells = [
        name for name in names if classes and holds_classes(columns[name].tolist(), classes)
    ]
    candidates = [
        name
        for name in names
        if name in by_cells and (name in by_name or not (named and words_of(name) & KEY_WORDS))
    ]
    candidates = candidates or by_name or ([] if named or classes else names[-1:])
    if (
        len(candidates) > 1
        and classes
        and _mean_the_same([columns[name] for name in candidates], classes)
    ):
        candidates = candidates[:1]
    if not named and len(candidates) != 1:
        raise ValueError(
            f"its {len(columns)} columns have no names, and {len(candidates)} of them could be the "
            "label: add a first line such as index,label,clean_label"
        )
    if len(candidates) > 1:
        raise ValueError(
            f"{len(candidates)} of its columns could be the label, {join_names(candidates)}: name "
            "one as FILE:COLUMN; a column of true labels is called clean_label"
        )
    if not candidates:
        raise ValueError(
            f"it has no column 'label'; it has {join_names(list(columns))}: name one as FILE:COLUMN"
        )
    return candidates[0]


def _mean_the_same(columns: Sequence[np.ndarray], classes: Sequence[str]) -> bool:
    try:
        first, *others = (
            _numbers(cells, tuple(classes), "label", np.arange(len(cells)), may_be_empty=True)
            for cells in columns
        )
    except ValueError:
        return False
    return all(np.array_equal(first, other) for other in others)


def _rows_for_training(name: str, cells: np.ndarray) -> np.ndarray | None:
    """The rows (m,) for training by a column such as split or is_valid; None for any other
    column.
    """
    name, words = name.lower(), [str(cell).strip().lower() for cell in cells.tolist()]
    kinds = ((_PARTS, _TRAIN, _OTHER), (_HELD_OUT, _NO, _YES), (_IN_TRAINING, _YES, _NO))
    yes, no = next(((yes, no) for names, yes, no in kinds if name in names), (set(), set()))
    return np.array([word in yes for word in words]) if words and set(words) <= yes | no else None


def _count(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


# Labels in the order of the examples


def _arranged(table: LabelTable, shape: Shape) -> Annotations:
    """The rows in the order of the examples. Raises ValueError."""
    for_training = table.for_training
    key = find_key(table.keys, shape, for_training)
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
    labels[match.examples[rows]] = _numbers(table.labels[rows], shape.classes, "label", rows)
    clean = None
    if table.clean is not None:
        clean = np.full(shape.n, -1, np.int64)
        clean[match.examples[rows]] = _numbers(
            table.columns[table.clean][rows],
            shape.classes,
            "clean label",
            rows,
            may_be_empty=True,
        )
    left_out = labels < 0
    notes = [
        _read_as(table, name, match),
        *table.notes,
        *_passed_over(table, name, match, for_training),
        *_missing(labels, shape),
    ]
    return Annotations(labels, clean, left_out if left_out.any() else None, tuple(notes))


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
        yield f"not used: {join_names(unused)}"


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
            f"{join_names([shape.classes[k] for k in np.flatnonzero(counts == 0)])}"
        )


def _numbers(
    values: np.ndarray,
    classes: tuple[str, ...],
    what: str,
    rows: np.ndarray,
    *,
    may_be_empty: bool = False,
) -> np.ndarray:
    """Classes by name or number -> numbers (m,), -1 for an empty one. Raises ValueError, naming the
    row.
    """
    if values.dtype.kind in "iu":
        bad = (values < (-1 if may_be_empty else 0)) | (values >= len(classes))
        if bad.any():
            at = int(bad.argmax())
            raise _wrong(what, int(rows[at]), str(NoClass(str(values[at]), at, classes)))
        return values.astype(np.int64)
    if values.dtype == object:
        longest = max(_LONGEST, *map(len, classes))
        if long := next((word for word in map(str, values) if len(word) > longest), ""):
            raise ValueError(f"a {what} has {len(long)} letters: {long[:20]!r}...")
    texts = values if values.dtype.kind == "f" else values.astype(str)
    kinds, place = np.unique(texts, return_inverse=True)
    known = np.array([not (may_be_empty and _is_empty(kind)) for kind in kinds.tolist()], bool)
    number = np.full(len(kinds), -1, np.int64)
    try:
        # words of an array are names: its numbers would be numbers
        names_win = values.dtype != object
        number[known] = class_numbers(kinds[known].tolist(), classes, names_win=names_win)
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
