"""A list of doubted labels that somebody has worked on: lines deleted, suggestions mended, by a spreadsheet or by hand."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..classes import NoClass, class_numbers
from ..errors import DataError
from ..spreadsheet import from_cell
from ..storing import read_checked
from .annotations import MOST_COLUMNS, ROOM, WIDEST, Shape, find_examples

_NEEDED = ("recorded", "suggested")
_KEYS = ("path", "index")


@dataclass(frozen=True)
class _Table:
    """Columns by name, as written; `lines` (m,) say where in the file each row ends."""

    columns: dict[str, list[str]]
    lines: list[int]


def read_review(path: Path, shape: Shape, recorded: np.ndarray, sha256: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Which examples (m,) are listed, and the class (m,) suggested for each. Raises DataError, naming the line.

    A list that was made for other recorded labels (N,) is refused.
    """
    raw = read_checked(path, sha256, ROOM + shape.n * WIDEST)
    try:
        table = _read(raw.decode("utf-8-sig"), shape.n)
        examples = _examples(table, shape)
        _check_recorded(table, shape, recorded[examples])
        return examples, _classes(table, "suggested", shape)
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8: save it as CSV UTF-8") from None
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}") from None


def _read(text: str, n: int) -> _Table:
    """The columns that are needed. Between them stand commas; or semicolons, or tabs, as spreadsheets of some countries write."""
    head, _, _ = text.partition("\n")
    mark = next((mark for mark in ",;\t" if mark in head), ",")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    names = [name.strip().lower() for name in next(rows, [])]
    if len(names) > MOST_COLUMNS:
        raise ValueError(f"it has {len(names)} columns, and may have {MOST_COLUMNS}")
    _check_names(names)
    wanted = {name: names.index(name) for name in (*_KEYS, *_NEEDED) if name in names}
    table = _Table({name: [] for name in wanted}, [])
    for row in _full(rows, len(names)):
        if len(table.lines) == n:
            raise ValueError(f"it has more lines than the data have examples, which are {n}")
        table.lines.append(rows.line_num)
        for name, place in wanted.items():
            table.columns[name].append(row[place].strip())
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
    if not set(_KEYS) & set(names):
        missing.insert(0, "index or path")
    if missing:
        raise ValueError(f"it has no column {', '.join(missing)}: a list is what noisebench evaluate RUN --suspects FILE writes")


def _examples(table: _Table, shape: Shape) -> np.ndarray:
    """Which example each row is: by path where there is one, and an index beside it must mean the same."""
    found = [_found(table, name, shape) for name in _KEYS if name in table.columns and (name == "index" or shape.ids)]
    if not found:
        raise ValueError("it goes by path, but the examples of these data have none")
    if (differs := found[0] != found[-1]).any():
        at = int(differs.argmax())
        raise ValueError(f"line {table.lines[at]}: {table.columns['path'][at]} is example {found[0][at]}, not {found[-1][at]}")
    first = dict[int, int]()
    for line, example in zip(table.lines, found[0].tolist(), strict=True):
        if example in first:
            raise ValueError(f"line {line}: example {example} stands in line {first[example]} already")
        first[example] = line
    return found[0]


def _found(table: _Table, name: str, shape: Shape) -> np.ndarray:
    keys = table.columns[name]
    found = find_examples(keys, shape, by_path=name == "path")
    if -1 in found:
        at = found.index(-1)
        allowed = "" if name == "path" else f": they go from 0 to {shape.n - 1}"
        raise ValueError(f"line {table.lines[at]}: no training example has the {name} {keys[at]!r}{allowed}")
    return np.array(found, np.int64)


def _check_recorded(table: _Table, shape: Shape, recorded: np.ndarray) -> None:
    said = _classes(table, "recorded", shape)
    if (differs := said != recorded).any():
        at = int(differs.argmax())
        now, then = (shape.classes[labels[at]] for labels in (recorded, said))
        raise ValueError(f"line {table.lines[at]}: the label is {now} in this manifest, not {then}: the list was made for other labels")


def _classes(table: _Table, column: str, shape: Shape) -> np.ndarray:
    """A column of classes by name or number (m,)."""
    words = [from_cell(cell) for cell in table.columns[column]]
    try:
        return np.array(class_numbers(words, shape.classes, names_win=True), np.int64)
    except NoClass as error:
        empty = not words[error.place]
        reason = "is empty: delete the line, or name a class" if empty else f"is wrong: {error}"
        raise ValueError(f"line {table.lines[error.place]}: {column} {reason}") from None
