"""A list of label issues: as `evaluate --suspects` writes it and somebody has edited it, or as cleanlab gives it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.classes import NoClass, class_numbers
from ..core.files.arrays import read_npy
from ..core.files.atomic import read_checked
from ..core.files.untrusted import parse_json
from ..core.sanitize import from_cell
from ..errors import DataError
from .annotations import MOST_COLUMNS, NONE, ROOM, WIDEST, LabelTable, Shape, decode, find_key, match_keys, sniff

_NEEDED = {"recorded": ("recorded", "given_label"), "suggested": ("suggested", "predicted_label")}  # ours, cleanlab's
_KEYS = ("path", "index")
_ISSUE = "is_label_issue"
_KNOWN = {"rank", "score", "split", "label_quality", "label_score"}  # columns that say nothing of what is to be done
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
    """Which examples (m,) are listed, the class (m,) suggested for each, None where the list suggests none,
    and sentences on how it was read. Raises DataError, naming the line.

    A table has the columns recorded and suggested, or cleanlab's given_label and predicted_label; one made
    for other recorded labels (N,) is refused. An array holds the indices of examples, or a flag for each.
    """
    suffix = path.suffix.lower()
    if suffix not in (*_TABLES, *_ARRAYS):
        raise DataError(f"{path}: a list of label issues is a {', '.join((*_TABLES, *_ARRAYS))}")
    raw = read_checked(path, sha256, ROOM + shape.n * WIDEST)
    try:
        if suffix in _ARRAYS:
            return _listed(_array(raw, suffix), shape), None, ("it does not say for which labels it was made",)
        table = _read(decode(raw), shape.n)
        examples, key = _examples(table, shape)
        _check_recorded(table, shape, recorded[examples])
        listed = _issues(table)
        unused = [name or "''" for name in table.columns if name not in {*_NEEDED, *_KEYS, *_KNOWN, _ISSUE, key}]
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


def _listed(values: np.ndarray, shape: Shape) -> np.ndarray:
    """The examples (m,) of indices, or of flags (N,)."""
    if values.ndim != 1 or not values.size:
        raise ValueError(f"expected indices of examples, or a flag for each of the {shape.n}, got shape {values.shape}")
    if values.dtype.kind not in "biuf" or not np.isin(values % 1, 0).all():
        raise ValueError("expected indices of examples, or flags, got numbers that are not whole")
    if values.dtype == bool or (len(values) == shape.n > 2 and np.isin(values, (0, 1)).all()):
        if len(values) != shape.n:
            raise ValueError(f"it has {len(values)} flags, the data have {shape.n} examples")
        values = np.flatnonzero(values)
        if not len(values):
            raise ValueError("it lists no example: there is nothing to do")
    elif (strange := (values < 0) | (values >= shape.n)).any():
        raise ValueError(f"no training example has the index {values[strange][0]:.0f}: they go from 0 to {shape.n - 1}")
    elif len(np.unique(values)) < len(values):
        raise ValueError("an index stands in it twice")
    return values.astype(np.int64)


def _read(text: str, n: int) -> _Table:
    """The columns, cleanlab's under our names. Between them stand commas; or semicolons, or tabs, as spreadsheets of some countries
    write."""
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
            f"it has no column {', '.join(missing)}: a list is what noisebench evaluate RUN --suspects FILE writes, "
            "or cleanlab's table with given_label and predicted_label"
        )


def _examples(table: _Table, shape: Shape) -> tuple[np.ndarray, str | None]:
    """Which example each row is: by path where there is one, and an index beside it must mean the same; and another column that says
    so."""
    found = [_found(table, name, shape) for name in _KEYS if name in table.columns and (name == "index" or shape.ids)]
    if not found and "path" in table.columns:
        raise ValueError("it goes by path, but the examples of these data have none")
    if not found:
        return _by_any_key(table, shape)
    if (differs := found[0] != found[-1]).any():
        at = int(differs.argmax())
        raise ValueError(f"line {table.lines[at]}: {table.columns['path'][at]} is example {found[0][at]}, not {found[-1][at]}")
    first = dict[int, int]()
    for line, example in zip(table.lines, found[0].tolist(), strict=True):
        if example in first:
            raise ValueError(f"line {line}: example {example} stands in line {first[example]} already")
        first[example] = line
    return found[0], None


def _by_any_key(table: _Table, shape: Shape) -> tuple[np.ndarray, str | None]:
    """By a table's own index, which has no name, or another column that names the examples; a row for every
    example needs none."""
    columns = {name: cells for name, cells in table.columns.items() if name not in {"suggested", *_KNOWN, _ISSUE}}
    key = find_key(LabelTable(columns, "recorded"), shape, np.ones(len(table.lines), bool))
    if key is not None and (key[1].examples >= 0).all():
        return key[1].examples, key[0]
    if key is not None or len(table.lines) != shape.n:
        raise ValueError(f"no column names the examples of its {len(table.lines)} rows: add a column index or path")
    return np.arange(shape.n), None


def _found(table: _Table, name: str, shape: Shape) -> np.ndarray:
    keys = table.columns[name]
    found = match_keys(keys, shape, np.ones(len(keys), bool), name)
    examples = found[0].examples if found else np.full(len(keys), NONE)
    if (strange := examples < 0).any():
        at = int(strange.argmax())
        allowed = "" if name == "path" else f": they go from 0 to {shape.n - 1}"
        raise ValueError(f"line {table.lines[at]}: no training example has the {name} {keys[at]!r}{allowed}")
    return examples


def _check_recorded(table: _Table, shape: Shape, recorded: np.ndarray) -> None:
    said = _classes(table, "recorded", shape, range(len(table.lines)))
    if (differs := said != recorded).any():
        at = int(differs.argmax())
        now, then = (shape.classes[labels[at]] for labels in (recorded, said))
        raise ValueError(f"line {table.lines[at]}: the label is {now} in this manifest, not {then}: the list was made for other labels")


def _issues(table: _Table) -> list[int]:
    """The rows that list a label issue: all, but those that cleanlab says are none."""
    if _ISSUE not in table.columns:
        return list(range(len(table.lines)))
    flags = [_FLAGS.get(cell.lower()) for cell in table.columns[_ISSUE]]
    if None in flags:
        at = flags.index(None)
        raise ValueError(f"line {table.lines[at]}: {_ISSUE} must be True or False, not {table.columns[_ISSUE][at]!r}")
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
