"""Reads label files: a table in any common format -> given labels (N,), matched to the examples by
a key column, else by row order.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
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

ROOM, WIDEST = 1 << 24, 4096  # bytes: of any label file, and of each example's row with two paths
_MOST_ROWS = 1 << 16  # rows of images that are not training examples
MOST_COLUMNS = 1000
_MARKS = ",;\t"
_TEXTS, _JSON, _ARRAYS = (".csv", ".tsv", ".txt"), (".json", ".jsonl"), (".npy", ".npz")
_SUFFIXES = (*_TEXTS, *_JSON, *_ARRAYS, ".pt", ".pth")

_CLEAN_WORDS = {"clean", "true", "truth", "gt", "gold"}
_CLEAN_NAMES = ("clean_label", "clean", "true_label", "true", "ground_truth", "gt")

# Columns that select the rows for training: by words, or by flags.
_YES, _NO = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no"}
_SPLIT_WORDS = {  # name of a column -> words of its rows for training, and of the others
    **dict.fromkeys(
        ("split", "subset", "partition", "phase", "set"),
        (
            {"train", "training"},
            {"val", "valid", "validation", "dev", "test", "testing", "dropped"},
        ),
    ),
    **dict.fromkeys(
        ("is_valid", "is_val", "is_validation", "is_test", "valid", "validation", "val", "test"),
        (_NO, _YES),
    ),
    **dict.fromkeys(("is_train", "is_training", "train", "training"), (_YES, _NO)),
}


@dataclass(frozen=True)
class Annotations:
    """Given labels (N,), -1 for the examples `left_out` (N,) without a label; true labels (N,), -1
    where unknown, or None. notes: how the file was read."""

    labels: np.ndarray
    clean: np.ndarray | None
    left_out: np.ndarray | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LabelTable:
    """The columns of a label file by name, each with one cell per row: numbers or texts.

    label, clean, split: names of the columns with given labels, with true labels, and with marks of
    rows that are not for training; for_training: mask (m,) of the other rows. notes: what was not
    used.
    """

    columns: Mapping[str, np.ndarray]
    label: str
    clean: str | None
    split: str | None
    for_training: np.ndarray
    notes: tuple[str, ...]

    @property
    def labels(self) -> np.ndarray:
        return self.columns[self.label]

    def find_key(self, shape: Shape, needed: np.ndarray) -> tuple[str, Match] | None:
        """The column that names the examples. Raises ValueError, see `label_keys.find_key`."""
        others = [name for name in self.columns if name not in (self.label, self.clean, self.split)]
        keys = {
            name: [str(cell).strip() for cell in self.columns[name].tolist()] for name in others
        }
        return find_key(keys, shape, needed)


@dataclass(frozen=True)
class ImageLabels:
    """Given labels of images (N,), -1 where the file has none, and their classes. clean (N,): true
    labels, -1 where unknown, None without such a column. in_test (N,): marked as not for training,
    None without such a column. note: how the file was read, and what is not used.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    in_test: np.ndarray | None
    note: str
    clean: np.ndarray | None

    @property
    def best(self) -> np.ndarray:
        """The true labels (N,) where known, else the given labels."""
        clean = self.labels if self.clean is None else self.clean
        return np.where(clean >= 0, clean, self.labels)


def split_column(text: str) -> tuple[Path, str | None]:
    """`FILE` or `FILE:COLUMN`."""
    name, colon, column = text.rpartition(":")
    if colon and not Path(text).exists() and Path(name).suffix:
        return Path(name), column
    return Path(text), None


@contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Converts errors of reading a table into a DataError that names the file."""
    try:
        yield
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8: save it as CSV UTF-8") from None
    except (ValueError, TypeError, EOFError, csv.Error) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}") from None


def read_label_table(
    path: Path,
    column: str | None = None,
    *,
    classes: Sequence[str] = (),
    n: int | None = None,
    sha256: str | None = None,
) -> LabelTable:
    """Reads the columns of a label file and finds the labels among them. Raises DataError.

    column: the column of given labels. classes: class names, which help to find the labels; n: the
    number of examples, which limits the file's size.
    """
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise DataError(f"{path}: a label file must be one of {', '.join(_SUFFIXES)}")
    raw = read_checked(path, sha256, MAX_BYTES if n is None else ROOM + n * WIDEST)
    comments = 0
    content: Any
    with errors_of(path):
        if suffix in _TEXTS:
            content, comments = _read_text(decode(raw), suffix, classes)
        elif suffix in _JSON:
            content = _read_json(raw, suffix)
        else:
            content = _read_arrays(raw, suffix, path)
        named = isinstance(content, dict)
        if isinstance(content, Iterator):
            content, named = _columns_of(content, n, classes, column)
        elif not named:
            content = {"labels": content}
        table = _recognize(content, column, classes, named=named)
    passed = (f"{_count(comments, 'line')} beginning with # skipped",) if comments else ()
    return replace(table, notes=(*passed, *table.notes))


def read_annotations(text: str, shape: Shape, sha256: str | None = None) -> Annotations:
    """Reads the labels of a FILE or FILE:COLUMN for these examples. Raises DataError."""
    path, column = split_column(text)
    table = read_label_table(path, column, classes=shape.classes, n=shape.n, sha256=sha256)
    with errors_of(path):
        key = table.find_key(shape, table.for_training)
        if key is None and len(table.labels) != shape.n:
            raise ValueError(
                f"it has {len(table.labels)} labels, the data set has {shape.n} examples, "
                "and no column identifies the examples"
            )
        name, match = key or (None, Match("row order", np.arange(shape.n)))
        rows = np.flatnonzero(table.for_training & (match.examples >= 0))
        if not len(rows):
            raise ValueError("none of its rows belongs to a training example")
        labels, clean, notes = _arrange(table, shape, name, match, rows)
    if marked := int((~table.for_training & (match.examples != TEST)).sum()):
        rows_marked = f"{_count(marked, 'row')} skipped"
        notes.append(f"{rows_marked} that {table.split!r} marks as not for training")
    left_out = labels < 0
    if left_out.any():
        missing = f"{left_out.sum()} of {shape.n} training images"
        notes.append(f"{missing} have no row and are excluded from training")
    counts = np.bincount(labels[~left_out], minlength=len(shape.classes))
    if not counts.all():
        unused = [shape.classes[k] for k in np.flatnonzero(counts == 0)]
        notes.append(f"no example has the label {join_names(unused)}")
    return Annotations(labels, clean, left_out if left_out.any() else None, tuple(notes))


def read_image_labels(text: str, images: Sequence[str], others: Sequence[str] = ()) -> ImageLabels:
    """Reads the labels of a FILE or FILE:COLUMN for images by path or file name; the classes are
    the labels that occur, sorted.

    others: images that rows can name too, whose rows are skipped. Raises DataError.
    """
    path, column = split_column(text)
    table = read_label_table(path, column)
    with errors_of(path):
        columns = {
            name: np.array([_class_name(cell) for cell in table.columns[name].tolist()])
            for name in (table.label, table.clean)
            if name is not None
        }
        table = replace(table, columns={**table.columns, **columns})
        names = table.labels.tolist()
        if "" in names:
            row = names.index("")
            raise ValueError(f"the label of row {row} is empty: delete the row, or write a label")
        numbers = all(name.isdecimal() for name in names)
        classes = tuple(sorted(set(names), key=lambda name: (int(name) if numbers else 0, name)))
        if len(classes) == 1 or (len(classes) == len(names) and len(names) > 2):
            every = f"every row has the label {classes[0]!r}"
            what = every if len(classes) == 1 else "no two rows have the same label"
            raise ValueError(
                f"{what} in its column {table.label!r}: name the column of labels as FILE:COLUMN"
            )
        shape = Shape(len(images), classes, images, others)
        key = table.find_key(shape, np.ones(len(names), bool))
        if key is None:
            raise ValueError(
                "it has no column of paths or file names, which is needed to assign labels to "
                "images"
            )
        rows = np.flatnonzero(key[1].examples >= 0)
        labels, clean, notes = _arrange(table, shape, *key, rows)
    in_test = None
    if table.split is not None:
        examples = key[1].examples[rows]
        in_test = _scatter(~table.for_training[rows], examples, len(images)) == 1
    note = "; ".join([f"{notes[0]} of {path.name}", *notes[1:]])
    return ImageLabels(classes, labels, in_test, note, clean)


def _class_name(cell: Any) -> str:
    """A label as text; a whole number without the `.0` that pandas adds."""
    text = str(cell).strip()
    return text.removesuffix(".0") if re.fullmatch(r"\d+\.0", text) else text


# From a file to columns. A reader returns an iterator of rows, a dict of columns, or labels alone.


def decode(raw: bytes) -> str:
    """Decodes UTF-8, or UTF-16 with a byte order mark. Raises UnicodeDecodeError, or ValueError for
    zero bytes.
    """
    utf_16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = raw.decode("utf-16" if utf_16 else "utf-8-sig")
    if "\0" in text:
        raise ValueError(
            "it contains zero bytes, as UTF-16 without byte order mark: save it as CSV UTF-8"
        )
    return text


def sniff(lines: Sequence[str]) -> str:
    """The delimiter of a table's first lines: the comma, semicolon or tab that gives rows of equal
    width.
    """
    ranks = {}
    for mark in _MARKS if lines else "":
        widths = set[int]()
        with suppress(csv.Error):  # a whole line as one field can be too long
            widths = {len(row) for row in csv.reader(lines, delimiter=mark) if row}
        width = widths.pop() if len(widths) == 1 else 1
        ranks[mark] = (width > 1, mark in lines[0], width)
    return max(ranks, key=ranks.__getitem__, default=",")


def _read_text(text: str, suffix: str, classes: Sequence[str]) -> tuple[Iterator[list[str]], int]:
    """The rows of a table; of a .txt one label per line, a key and a label separated by blanks, or
    like a CSV; and the number of lines beginning with #, which are skipped.
    """
    all_lines = io.StringIO(text, newline="").readlines()
    lines = [line for line in all_lines if not line.lstrip().startswith("#")]
    comments = len(all_lines) - len(lines)
    if suffix == ".txt":
        labels = [line.strip() for line in lines]
        filled = [line for line in labels if line]
        if set(filled) <= set(classes) or not any(re.search(r"[\s,;]", line) for line in filled):
            return iter([[line] for line in labels]), comments
        if not any(mark in filled[0] for mark in _MARKS):
            pairs = [line.rsplit(maxsplit=1) for line in filled]
            for at, pair in enumerate(pairs):
                if len(pair) < 2:
                    raise ValueError(f"line {at} has no label")
            return iter(pairs), comments
    mark = "\t" if suffix == ".tsv" else sniff(lines[:20])
    if lines and re.fullmatch(r"sep=[,;\t]\s*", lines[0]):  # written and read by Excel
        mark = lines.pop(0)[4]
    return csv.reader(lines, delimiter=mark), comments


def _columns_of(
    lines: Iterator[list[str]], n: int | None, classes: Sequence[str], column: str | None
) -> tuple[dict[str, Sequence[str]], bool]:
    """Converts rows to columns; also returns whether the first row names them, that is, contains
    names but no class or number. Empty rows are skipped, but are an error between the labels of a
    single column, whose order matters.

    Raises ValueError for no rows, too many, or rows of different widths.
    """
    rows: list[list[str]] = []
    empty = False
    for row in lines:
        if not any(row):
            empty |= bool(rows)
            continue
        if empty and len(row) == 1:
            raise ValueError(
                f"line {len(rows) + 1} is empty, but others follow: write its label, "
                "or add a column of file names or indices"
            )
        rows.append(row)
        if len(row) != len(rows[0]):
            raise ValueError(
                f"row {len(rows) - 1} has {len(row)} fields, the first has {len(rows[0])}"
            )
        if len(row) > MOST_COLUMNS:
            raise ValueError(f"it has {len(row)} columns, the limit is {MOST_COLUMNS}")
        if n is not None and len(rows) > 2 * n + _MOST_ROWS:
            raise ValueError(f"it has more than {len(rows) - 1} rows, too many for this data set")
    if not rows:
        raise ValueError("it is empty")
    head = [name.strip() for name in rows[0]]
    names_of_columns = LABEL_WORDS | _CLEAN_WORDS | KEY_WORDS
    is_head = any(
        # all words are typical of column names: `image_id`, not `image_0001`
        words_of(name) and words_of(name) <= names_of_columns and not re.search(r"[\d./\\]", name)
        for name in head
    ) and not any(name in classes or re.fullmatch(r"-?\d+(\.\d+)?", name) for name in head)
    is_head |= column is not None and column.lower() in map(str.lower, head)
    if is_head and len(set(map(str.lower, head))) < len(head):
        raise ValueError("a column's name occurs twice in its first line")
    names = head if is_head else [f"column {at + 1}" for at in range(len(head))]
    columns = list(zip(*rows[is_head:], strict=True)) or [()] * len(names)
    return dict(zip(names, columns, strict=True)), is_head


def _read_arrays(raw: bytes, suffix: str, path: Path) -> Any:
    """Arrays, tensors, lists and numbers, or a dict of them. Raises DataError."""
    if suffix == ".npz":
        arrays = npz_arrays(io.BytesIO(raw))
        return next(iter(arrays.values())) if len(arrays) == 1 else arrays
    try:
        return read_npy(io.BytesIO(raw), len(raw)) if suffix == ".npy" else load_torch(raw)
    except Exception as error:  # torch.load documents no exceptions
        reason = " ".join(str(error).split()).partition(". ")[0][:100]
        raise DataError(
            f"{path} is refused: it is damaged, or contains Python or numpy objects, which could "
            f"run code ({reason}): save tensors and lists by torch.save, arrays by numpy.savez, or "
            "a .csv"
        ) from None


def _read_json(raw: bytes, suffix: str) -> Any:
    """A list of labels, rows or records, in .jsonl one per line; or a mapping from keys to labels,
    or from names to columns.
    """
    if suffix == ".jsonl":
        content: Any = [parse_json(line) for line in raw.splitlines() if line.strip()]
    else:
        content = parse_json(raw)
    is_dict = isinstance(content, dict)
    values = list(content.values() if is_dict else content) if content else []
    kinds = {dict if isinstance(v, dict) else list if isinstance(v, list) else str for v in values}
    if kinds == {dict} and any(value.keys() != values[0].keys() for value in values):
        raise ValueError(f"its {'columns' if is_dict else 'records'} have different keys")
    if is_dict and kinds == {str}:
        return {"key": list(content), "label": values}
    if is_dict and kinds == {dict}:  # as pandas writes a table
        return {
            "": list(values[0]),
            **{k: [cells[key] for key in values[0]] for k, cells in content.items()},
        }
    if kinds == {dict}:
        return {name: [row[name] for row in values] for name in values[0]}
    if kinds == {list} and not is_dict:
        return iter([[str(cell) for cell in row] for row in values])
    return content


# Finding the columns of labels


def _recognize(
    content: Mapping[str, Any], column: str | None, classes: Sequence[str], *, named: bool
) -> LabelTable:
    """Finds the columns of given and of true labels; columns of another length are omitted. Raises
    ValueError if the columns are ambiguous.
    """
    arrays = {str(name): _as_column(values) for name, values in content.items()}
    flat = {name: array for name, array in arrays.items() if array.ndim == 1}
    if len(arrays) == 1 and not flat:
        (array,) = arrays.values()
        raise ValueError(f"expected one label per example, got shape {array.shape}")
    label = next((name for name in flat if column and name.lower() == column.lower()), None)
    others = [name for name in flat if name != label]
    exact = [name for name in others if name.lower() in _CLEAN_NAMES]
    near = [
        name for name in others if words_of(name) & _CLEAN_WORDS and not words_of(name) & KEY_WORDS
    ]
    candidates = exact or near
    clean = candidates[0] if len(candidates) == 1 else None
    by_name = [name for name in others if words_of(name) & LABEL_WORDS and name != clean]
    first = label or next(iter([*by_name, *flat]), None)
    if first is None:
        raise ValueError(f"it has no column of labels; it has {join_names(list(arrays))}")
    n = len(flat[first])
    if clean is not None and len(flat[clean]) != n:
        raise ValueError(f"it has {len(flat[clean])} clean labels and {n} labels")
    if not n:
        raise ValueError("it has no rows")
    columns = {name: array for name, array in flat.items() if len(array) == n}
    if column is not None and not named:
        raise ValueError(f"its columns have no names: omit :{column}")
    if column is not None and label is None:
        raise ValueError(f"it has no column {column!r}; it has {join_names(list(columns))}")
    splits = {}
    for name, cells in columns.items():
        words = [str(cell).strip().lower() for cell in cells.tolist()]
        train, other = _SPLIT_WORDS.get(name.lower(), (set(), set()))
        if name not in (label, clean) and set(words) <= train | other:
            splits[name] = np.array([word in train for word in words])
    if label is None:
        unclear = [name for name in columns if name != clean and name not in splits]
        label = _label_column(columns, unclear, classes, named=named)
    odd = [name for name in arrays if name not in columns]
    notes = (f"not used because of another length: {join_names(odd)}",) if odd else ()
    split, for_training = next(iter(splits.items()), (None, np.ones(n, bool)))
    return LabelTable(columns, label, clean, split, for_training, notes)


def _as_column(values: Any) -> np.ndarray:
    """Numbers unchanged, other lists as objects: as texts of fixed width they could fill the
    memory.
    """
    if isinstance(values, list | tuple) and not all(
        isinstance(value, int | float) for value in values
    ):
        return np.fromiter(values, object, len(values))
    array = np.asarray(values.detach() if hasattr(values, "detach") else values)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _label_column(
    columns: Mapping[str, np.ndarray], names: list[str], classes: Sequence[str], *, named: bool
) -> str:
    """The only column that could be the label, by its name or because most of its cells are
    classes.
    """
    if len(columns) == 1 and names:
        return names[0]
    by_name = [name for name in names if named and words_of(name) & LABEL_WORDS]
    candidates = [
        name
        for name in names
        if (name in by_name or not (named and words_of(name) & KEY_WORDS))
        and classes
        and holds_classes(columns[name].tolist(), classes)
    ]
    candidates = candidates or by_name or ([] if named or classes else names[-1:])
    if len(candidates) > 1 and classes:
        rows = np.arange(len(columns[candidates[0]]))
        with suppress(ValueError):  # one of them contains words other than classes
            first, *others = (
                _numbers(columns[name], rows, tuple(classes), "true label") for name in candidates
            )
            if all(np.array_equal(first, other) for other in others):
                return candidates[0]
    if not named and len(candidates) != 1:
        raise ValueError(
            f"its {len(columns)} columns have no names, and {len(candidates)} of them could be the "
            "label: add a first line such as index,label,clean_label"
        )
    if len(candidates) > 1:
        raise ValueError(
            f"{len(candidates)} of its columns could be the label, {join_names(candidates)}: name "
            "one as FILE:COLUMN; name a column of true labels clean_label"
        )
    if not candidates:
        raise ValueError(
            f"it has no column 'label'; it has {join_names(list(columns))}: name one as FILE:COLUMN"
        )
    return candidates[0]


def _count(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


# Labels in the order of the examples


def _arrange(
    table: LabelTable, shape: Shape, key: str | None, match: Match, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Given and true labels (N,) in the order of the examples, from the matching rows; and notes on
    how the table was read. Raises ValueError.
    """
    examples = match.examples[rows]
    given = _numbers(table.labels, rows, shape.classes, "label")
    labels, clean = _scatter(given, examples, shape.n), None
    if table.clean is not None:
        true = _numbers(table.columns[table.clean], rows, shape.classes, "clean label")
        clean = _scatter(true, examples, shape.n)
    parts = [f"labels from {table.label!r}" if len(table.columns) > 1 else "labels"]
    if table.clean is not None:
        parts.append(f"true labels from {table.clean!r}")
    parts.append(f"examples by {key!r} ({match.how})" if key is not None else "by row order")
    notes = [", ".join(parts), *table.notes]
    used = (table.label, table.clean, table.split, key)
    if unused := [name for name in table.columns if name not in used]:
        notes.append(f"not used: {join_names(unused)}")
    if count := int((match.examples == TEST).sum()):
        notes.append(f"{_count(count, 'row')} of test images skipped")
    return labels, clean, notes


def _scatter(values: np.ndarray, indices: np.ndarray, n: int) -> np.ndarray:
    """An array (n,) with values (m,) at their indices, -1 elsewhere."""
    scattered = np.full(n, -1, np.int64)
    scattered[indices] = values
    return scattered


def _numbers(
    cells: np.ndarray, rows: np.ndarray, classes: tuple[str, ...], what: str
) -> np.ndarray:
    """Class numbers (m,) of the rows (m,) of a column of class names or numbers; an empty cell is
    -1 unless it is a `label`. Raises ValueError, naming the row.
    """
    values = cells[rows].astype(str) if cells.dtype.kind == "S" else cells[rows]
    texts = [str(value) for value in values.tolist()]
    empty = () if what == "label" else ("", "nan", "-1", "-1.0")
    kinds = sorted({text for text in texts if text.strip() not in empty})
    # texts in an array are names; numbers would have a numeric dtype
    known = tuple(map(str, range(len(classes)))) if values.dtype.kind in "iu" else classes
    try:
        numbers = class_numbers(kinds, known, names_win=values.dtype != object)
    except NoClass as error:
        word = kinds[error.place]
        reason = f"wrong: {error}" if word.strip() else "empty"
        raise ValueError(f"the {what} of row {rows[texts.index(word)]} is {reason}") from None
    number_of = dict(zip(kinds, numbers, strict=True))
    return np.array([number_of.get(text, -1) for text in texts], np.int64)
