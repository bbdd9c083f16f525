"""A file of runs: a line a run, all that a table needs of it, to be kept beside a paper, added to and read in the place of run folders."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..core.files.schema import NAME, check_form, shown
from ..core.files.untrusted import read_text
from ..core.sanitize import as_csv
from ..errors import ConfigError, DataError
from ..runs.folder import RunFolder, run_folders
from .columns import COLUMNS, FAILED, FINISHED, NEEDED, RUN, cells_of, known_of, read_word, word_of
from .measures import Known

LARGEST = 1 << 26  # bytes: of some 40,000 runs
_MAKE = "noisebench report --format runs -o FILE.csv writes one"
_OTHERS = {  # how files begin that are taken for one
    ("index", "label", "clean_label"): "a manifest's rows",
    ("dataset", "model", "recipe", "noise", "method"): "the cells of tables (--format csv), not runs",
}


@dataclass(frozen=True, eq=False)
class RunLine:
    """A run as a file of runs says it. failed: the kind of its error, empty for a finished one; name: what its folder was called."""

    known: Known
    ended: float
    name: str
    failed: str

    def about(self) -> Known:
        """What a table must know of the run, as RunFolder says it."""
        return self.known

    @property
    def key(self) -> str:
        return str(self.known.get("key", ""))


KeptRun = RunFolder | RunLine


def runs_at(paths: Iterable[Path]) -> list[KeptRun]:
    """The runs at some paths: files of runs, run folders, folders of them, workspaces; by the names of their folders, wherever they lie.

    Raises DataError for a wrong path or file.
    """
    found = [run for path in paths for run in _runs_at(path)]
    return sorted(found, key=lambda run: run.name)


def _runs_at(path: Path) -> list[KeptRun]:
    if path.is_dir():
        return [*run_folders([path])]
    if not path.exists() and not path.is_symlink():
        raise DataError(f"no such folder: {path} (a run, a folder of runs, or a workspace), nor such a file of runs")
    return [*read_runs(path)]


def finished_runs(path: Path) -> dict[str, RunLine]:
    """The finished runs in a file of runs, by key. Raises DataError."""
    return {line.key: line for line in read_runs(path) if line.key and not line.failed}


def read_runs(path: Path) -> list[RunLine]:
    """The runs in a file, in the order of its lines. Raises DataError for the first thing in it that cannot be read, and says where."""
    try:
        text = read_text(path, LARGEST).removeprefix("\ufeff")
        if text.startswith("# "):
            raise ValueError("it is a manifest, or begins with a comment")
        return list(_lines(text))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): {_MAKE}") from None
    except _WrongLine as error:
        raise DataError(f"{path}, {error}: mend it or take the line out; {_MAKE}") from None
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is no file of runs ({error}): {_MAKE}") from None


class _WrongLine(Exception):
    """A line of a file of runs is not as it must be."""


def _lines(text: str) -> Iterator[RunLine]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    names = next(reader, [])
    _check_names(names)
    start = reader.line_num + 1
    seen: dict[str, int] = {}
    try:
        for row in reader:
            line = _line(names, row)
            if (other := seen.setdefault(line.key, start)) != start and line.key:
                raise ValueError(f"it has the key of line {other}, and no two runs have one")
            yield line
            start = reader.line_num + 1
    except (ValueError, csv.Error) as error:
        raise _WrongLine(f"line {start}: {error}") from None


def _check_names(names: list[str]) -> None:
    for other, said in _OTHERS.items():
        if tuple(names[: len(other)]) == other:
            raise ValueError(f"it holds {said}")
    if names and not set(names) & set(COLUMNS):
        raise ValueError("its first line names no column of one; they stand with commas between them")
    if not names:
        raise ValueError("it is empty, or begins with an empty line")
    if lacking := [name for name in COLUMNS if name in NEEDED and name not in names]:
        raise ValueError(f"it lacks the column{'' if len(lacking) == 1 else 's'} {', '.join(lacking)}")
    if strange := next((name for name in names if name not in COLUMNS or names.count(name) > 1), None):
        raise ValueError(f"the column {shown(strange)} stands twice, or this version does not know it")


def _line(names: list[str], row: list[str]) -> RunLine:
    """Raises ValueError."""
    if len(row) != len(names):
        raise ValueError(f"it has {len(row)} cells, the columns are {len(names)}")
    cells = dict(zip(names, row, strict=True))
    said = {name: read_word(cells[name]) for name in (FAILED, RUN)}
    check_form(said, {FAILED: NAME, RUN: NAME})
    return RunLine(known_of(cells), _seconds(cells[FINISHED]), said[RUN], said[FAILED])


def runs_as_text(runs: Iterable[KeptRun]) -> str:
    """The file: of each run a line, in an order that their names and settings decide. Raises DataError for a damaged run, ConfigError
    where they are more than a file holds."""
    rows = sorted((_cells(run) for run in runs), key=_place)
    text = as_csv([COLUMNS, *([cells[name] for name in COLUMNS] for cells in rows)])
    if len(text.encode()) > LARGEST:
        raise ConfigError(f"{len(rows)} runs are more than a file of {LARGEST} bytes holds: write several, each with its --where")
    return text


def _cells(run: KeptRun) -> dict[str, str]:
    line = run if isinstance(run, RunLine) else line_of(run)
    try:
        facts = cells_of(line.known)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the record of {line.name} lacks {error}: delete its folder and run it again") from None
    return {**facts, FAILED: word_of(line.failed), FINISHED: _date(line.ended), RUN: word_of(line.name)}


def line_of(folder: RunFolder) -> RunLine:
    """What a line says of the run in a folder. Raises DataError where it is damaged."""
    try:
        failed = "" if folder.result.exists() else str(folder.failure().get("type") or "error")
        return RunLine(folder.about(), folder.ended or 0.0, folder.name, failed)
    except OSError as error:
        raise DataError(f"{folder.path} cannot be read ({error.strerror or error})") from None


def _place(cells: dict[str, str]) -> tuple[Any, ...]:
    subset, seeds = float(cells["subset"] or math.inf), [float(cells[name] or -1) for name in ("seed", "noise_seed")]
    words = [cells[name] for name in ("model", "recipe", "noise", "method")]
    return (cells["dataset"], subset, *words, *seeds, cells["key"], cells[RUN])


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _seconds(cell: str) -> float:
    try:
        moment = datetime.fromisoformat(cell)
        _date(moment.timestamp())
    except (ValueError, OverflowError):
        raise ValueError(f"{FINISHED} must be a time such as {_date(0)}, not {shown(cell)}") from None
    if moment.tzinfo is None:
        raise ValueError(f"{FINISHED} must say of which zone it is: {cell}Z")
    return moment.timestamp()
