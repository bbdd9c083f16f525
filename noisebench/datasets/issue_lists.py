"""Reads lists of label issues: written by `evaluate --suspects` and edited by the user, or made by
cleanlab.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..core.classes import NoClass, class_numbers
from ..core.files.arrays import read_npy
from ..core.files.atomic import read_checked
from ..core.files.untrusted import parse_json
from ..core.sanitize import from_cell
from ..errors import DataError
from .label_files import MOST_COLUMNS, ROOM, WIDEST, decode, errors_of, sniff
from .label_keys import NONE, Shape, find_key, match_keys

GIVEN, PREDICTED = "given_label", "predicted_label"
_OLD_NAMES = {"recorded": GIVEN, "suggested": PREDICTED}
_KEYS = ("path", "index")
_ISSUE = "is_label_issue"
_DECISION = "decision"
UNDECIDED = "undecided"
DECISIONS = ("keep", "drop", "relabel", UNDECIDED)
# columns without effect
_IGNORED = {"rank", "score", "split", "label_quality", "label_score", "confident"}
_FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_TABLES, _ARRAYS = (".csv", ".tsv"), (".npy", ".txt", ".json")
_EMPTY = "it lists no example"


def read_review(
    path: Path, shape: Shape, given: np.ndarray, sha256: str | None = None
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...], np.ndarray | None]:
    """Returns the listed examples (m,), their predicted classes (m,), notes on how it was read, and
    the decision about each example (m,), one of DECISIONS; None for a list without classes or
    decisions. Raises DataError, naming the line.

    A table has the columns given_label and predicted_label, like cleanlab's, or recorded and
    suggested, as in older versions; its given labels must equal `given` (N,). The column decision,
    of the review page, is optional; an empty cell is undecided. An array contains indices of
    examples, or a flag for each.
    """
    suffix = path.suffix.lower()
    if suffix not in (*_TABLES, *_ARRAYS):
        raise DataError(
            f"{path}: a list of label issues must be one of {', '.join((*_TABLES, *_ARRAYS))}"
        )
    raw = read_checked(path, sha256, ROOM + shape.n * WIDEST)
    with errors_of(path):
        if suffix in _ARRAYS:
            note = "the list does not contain the labels that it belongs to"
            return _from_array(raw, suffix, shape), None, (note,), None
        columns, lines = _read_table(decode(raw), shape.n)
        examples, key = _examples(columns, lines, shape)
        given = given[examples]
        listed = _classes(columns, lines, GIVEN, shape)
        if (differs := listed != given).any():
            at = int(differs.argmax())
            now, then = (shape.classes[labels[at]] for labels in (given, listed))
            raise ValueError(
                f"line {lines[at]}: the label in this manifest is {now}, not "
                f"{then}: the list belongs to other labels"
            )
        issues = np.arange(len(lines))
        if _ISSUE in columns:  # without the rows that cleanlab marks as correct
            flags = [_FLAGS.get(cell.lower()) for cell in columns[_ISSUE]]
            if None in flags:
                at = flags.index(None)
                raise ValueError(
                    f"line {lines[at]}: {_ISSUE} must be True or False, not {columns[_ISSUE][at]!r}"
                )
            issues = np.flatnonzero(np.array(flags, bool))
        if not len(issues):
            raise ValueError(_EMPTY)
        columns[PREDICTED] = [columns[PREDICTED][at] for at in issues]
        predicted = _classes(columns, [lines[at] for at in issues], PREDICTED, shape)
        decisions = None
        if _DECISION in columns:
            words = [cell.lower() or UNDECIDED for cell in columns[_DECISION]]
            if (unknown := ~np.isin(words, DECISIONS)).any():
                at = int(unknown.argmax())
                raise ValueError(
                    f"line {lines[at]}: {_DECISION} must be one of {', '.join(DECISIONS)}, not "
                    f"{words[at]!r}"
                )
            decisions = np.array(words)[issues]
            if (decisions == UNDECIDED).all():
                raise ValueError("it has no decision: all its examples are undecided")
    used = {GIVEN, PREDICTED, *_KEYS, *_IGNORED, _ISSUE, _DECISION, key}
    unused = [name or "''" for name in columns if name not in used]
    notes = (f"not used: {', '.join(unused)}",) if unused else ()
    return examples[issues], predicted, notes, decisions


def _from_array(raw: bytes, suffix: str, shape: Shape) -> np.ndarray:
    """The examples (m,) of indices, or of flags (N,)."""
    if suffix == ".npy":
        values = read_npy(io.BytesIO(raw), len(raw))
    else:
        words = parse_json(raw) if suffix == ".json" else re.split(r"[\s,;]+", decode(raw).strip())
        if not isinstance(words, list):
            raise ValueError("expected a list of indices, or of true and false")
        flags = [_FLAGS.get(str(word).lower()) for word in words]
        as_flags = None not in flags and any(
            str(word).lower() in ("true", "false") for word in words
        )
        values = np.array(flags, bool) if as_flags else np.array(list(map(float, words)))
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"expected indices of examples, or a flag for each of the {shape.n}, got "
            f"shape {values.shape}"
        )
    if values.dtype.kind not in "biuf" or not np.isin(values % 1, 0).all():
        raise ValueError("expected indices of examples, or flags, got fractional numbers")
    if values.dtype == bool or (len(values) == shape.n > 2 and np.isin(values, (0, 1)).all()):
        if len(values) != shape.n:
            raise ValueError(f"it has {len(values)} flags, the data have {shape.n} examples")
        if not values.any():
            raise ValueError(_EMPTY)
        return np.flatnonzero(values)
    if (strange := (values < 0) | (values >= shape.n)).any():
        raise ValueError(
            f"no training example has the index {values[strange][0]:.0f}: indices are "
            f"0 to {shape.n - 1}"
        )
    if len(np.unique(values)) < len(values):
        raise ValueError("an index occurs twice")
    return values.astype(np.int64)


def _read_table(text: str, n: int) -> tuple[dict[str, list[str]], list[int]]:
    """The columns by their current names, and the line where each row ends. The separator is a
    comma, or a semicolon or tab, which spreadsheets use in some countries.
    """
    mark = sniff(text.splitlines()[:1])
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    names = [name.strip().lower() for name in next(rows, [])]
    if len(names) > MOST_COLUMNS:
        raise ValueError(f"it has {len(names)} columns, the limit is {MOST_COLUMNS}")
    names = [
        name if _OLD_NAMES.get(name) in names else _OLD_NAMES.get(name, name) for name in names
    ]
    if twice := next((name for name in names if names.count(name) > 1 and name), None):
        raise ValueError(f"its first line has the column {twice!r} twice")
    if missing := [name for name in (GIVEN, PREDICTED) if name not in names]:
        if not set(_KEYS) & set(names):
            missing.insert(0, "index or path")
        raise ValueError(
            f"it has no column {', '.join(missing)}: use a list written by noisebench evaluate RUN "
            "--suspects FILE, or cleanlab's table"
        )
    cells: list[list[str]] = []
    lines: list[int] = []
    for row in rows:
        if not any(row):
            continue  # an empty line, or the ,,,, that a spreadsheet writes for one
        if len(row) != len(names):
            raise ValueError(
                f"line {rows.line_num} has {len(row)} fields, the first has {len(names)}"
            )
        if len(lines) == n:
            raise ValueError(f"it has more lines than the data set has examples ({n})")
        lines.append(rows.line_num)
        cells.append([cell.strip() for cell in row])
    if not lines:
        raise ValueError(_EMPTY)
    return dict(zip(names, map(list, zip(*cells, strict=True)), strict=True)), lines


def _classes(
    columns: Mapping[str, Sequence[str]], lines: Sequence[int], name: str, shape: Shape
) -> np.ndarray:
    """A column of classes by name or number (m,). Raises ValueError."""
    words = [from_cell(cell) for cell in columns[name]]
    try:
        return np.array(class_numbers(words, shape.classes, names_win=True), np.int64)
    except NoClass as error:
        reason = (
            f"is wrong: {error}"
            if words[error.place]
            else "is empty: delete the line, or write a class"
        )
        raise ValueError(f"line {lines[error.place]}: {name} {reason}") from None


def _examples(
    columns: Mapping[str, Sequence[str]], lines: Sequence[int], shape: Shape
) -> tuple[np.ndarray, str | None]:
    """The example of each row: by path and index, which must agree; else by a table's unnamed index
    or another key column, whose name is returned. A table with a row for every example needs no
    key. Raises ValueError.
    """
    needed = np.ones(len(lines), bool)
    by = {}
    for name in _KEYS:
        if name not in columns or (name == "path" and not shape.ids):
            continue
        cells = columns[name]
        matches = match_keys(cells, shape, needed, name)
        by[name] = matches[0].examples if matches else np.full(len(cells), NONE)
        if (strange := by[name] < 0).any():
            at = int(strange.argmax())
            allowed = "" if name == "path" else f": indices are 0 to {shape.n - 1}"
            raise ValueError(
                f"line {lines[at]}: no training example has the {name} {cells[at]!r}{allowed}"
            )
    if not by and "path" in columns:
        raise ValueError("its key is path, but the examples of this data set have no paths")
    if not by:
        ignored = {GIVEN, PREDICTED, *_IGNORED, _ISSUE, _DECISION}
        others = {name: cells for name, cells in columns.items() if name not in ignored}
        key = find_key(others, shape, needed)
        if key is not None and (key[1].examples >= 0).all():
            return key[1].examples, key[0]
        if key is not None or len(lines) != shape.n:
            raise ValueError(
                f"no column identifies the examples of its {len(lines)} rows: add a column "
                "index or path"
            )
        return np.arange(shape.n), None
    examples = next(iter(by.values()))
    if len(by) > 1 and (differs := examples != by["index"]).any():
        at = int(differs.argmax())
        raise ValueError(
            f"line {lines[at]}: {columns['path'][at]} is example "
            f"{examples[at]}, not {by['index'][at]}"
        )
    first = dict[int, int]()
    for line, example in zip(lines, examples.tolist(), strict=True):
        if first.setdefault(example, line) != line:
            raise ValueError(f"line {line}: example {example} is already in line {first[example]}")
    return examples, None
