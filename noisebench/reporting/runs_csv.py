"""Results CSV: a line a run with all that a table needs, to be kept with a paper and read in place
of run folders. Each column has a path in the facts of a run, and is written and read by its type.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..core.files.schema import Name, check_form, is_number, shown
from ..core.files.untrusted import parse_json, read_text
from ..core.sanitize import as_cell, as_csv, from_cell, printable_json, word_as_cell
from ..datasets import DATASETS
from ..errors import ConfigError, DataError, NoisebenchError, printable
from ..experiments.command import repro_command
from ..experiments.run_facts import RunFacts
from ..runs.folder import RunFolder, run_folders
from ..runs.schema import check_known
from .metrics import METRICS, RECORDED, RunValues, value_at

LARGEST = 1 << 26  # bytes: of some 40,000 runs
_MAKE = "noisebench report --format runs -o FILE.csv writes one"
_OTHERS = {  # how files begin that are taken for one
    ("index", "label", "clean_label"): "a manifest's rows",
    (
        "dataset",
        "model",
        "recipe",
        "noise",
        "method",
    ): "the cells of tables (--format csv), not runs",
}


@dataclass(frozen=True, eq=False)
class RunRecord:
    """A run of a results CSV. failed: the type of its error, empty for a finished one; name: of its
    folder.
    """

    known: RunValues
    ended: float
    name: str
    failed: str

    def about(self) -> RunValues:
        """The facts of the run, as RunFolder has them."""
        return self.known

    @property
    def key(self) -> str:
        return str(self.known.get("key", ""))


RunLike = RunFolder | RunRecord


def runs_at(paths: Iterable[Path]) -> list[RunLike]:
    """The runs at some paths: files of runs, run folders, folders of them, workspaces; by the names
    of their folders, wherever they lie.

    Raises DataError for a wrong path or file.
    """
    runs: list[RunLike] = []
    for path in paths:
        if path.is_dir():
            runs += run_folders([path])
        elif path.exists() or path.is_symlink():
            runs += read_runs(path)
        else:
            raise DataError(
                f"no such folder: {path} (a run, a folder of runs, or a workspace), nor "
                "such a file of runs"
            )
    return sorted(runs, key=lambda run: run.name)


def finished_runs(path: Path) -> dict[str, RunRecord]:
    """The finished runs in a file of runs, by key. Raises DataError."""
    return {line.key: line for line in read_runs(path) if line.key and not line.failed}


def read_runs(path: Path) -> list[RunRecord]:
    """The runs in a file, in the order of its lines. Raises DataError for the first thing in it
    that cannot be read, and says where.
    """
    start = 0  # of the row that is read; 0: of the heads
    try:
        text = read_text(path, LARGEST).removeprefix("\ufeff")
        if text.startswith("# "):
            raise ValueError("it is a manifest, or begins with a comment")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        names = next(reader, [])
        _check_names(names)
        runs: list[RunRecord] = []
        line_of: dict[str, int] = {}
        start = reader.line_num + 1
        for row in reader:
            if len(row) != len(names):
                raise ValueError(f"it has {len(row)} cells, the columns are {len(names)}")
            cells = dict(zip(names, row, strict=True))
            words = {name: read_word(cells[name]) for name in (FAILED, RUN)}
            check_form(words, dict[str, Name])
            facts = _facts_of(cells)
            run = RunRecord(facts, _seconds(cells[FINISHED]), words[RUN], words[FAILED])
            if (other := line_of.setdefault(run.key, start)) != start and run.key:
                raise ValueError(f"it has the key of line {other}, and no two runs have one")
            runs.append(run)
            start = reader.line_num + 1
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): {_MAKE}") from None
    except (ValueError, csv.Error) as error:
        if start:
            text = f"line {start}: {error}: mend it or take the line out"
            raise DataError(f"{path}, {text}; {_MAKE}") from None
        raise DataError(f"{path} is no file of runs ({error}): {_MAKE}") from None
    return runs


def _check_names(names: list[str]) -> None:
    for other, content in _OTHERS.items():
        if tuple(names[: len(other)]) == other:
            raise ValueError(f"it holds {content}")
    if names and not set(names) & set(COLUMNS):
        raise ValueError(
            "its first line names no column of one; they stand with commas between them"
        )
    if not names:
        raise ValueError("it is empty, or begins with an empty line")
    if lacking := [name for name in COLUMNS if name in NEEDED and name not in names]:
        raise ValueError(
            f"it lacks the column{'' if len(lacking) == 1 else 's'} {', '.join(lacking)}"
        )
    unknown = [name for name in names if name not in COLUMNS or names.count(name) > 1]
    if unknown:
        raise ValueError(
            f"the column {shown(unknown[0])} stands twice, or this version does not know it"
        )


def runs_as_text(runs: Iterable[RunLike]) -> str:
    """The file: of each run a line, in an order that their names and settings decide. Raises
    DataError for a damaged run, ConfigError where they are more than a file holds.
    """
    rows = []
    for run in runs:
        failed = run.failed if isinstance(run, RunRecord) else ""
        try:
            if isinstance(run, RunFolder) and not run.result.exists():
                failed = str(run.failure().get("type") or "error")
            facts, ended = run.about(), run.ended or 0.0
        except OSError as error:
            raise DataError(f"{run.name} cannot be read ({error.strerror or error})") from None
        try:
            cells = _cells_of(facts)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"the record of {run.name} lacks {error}: delete its folder and run it again"
            ) from None
        rows.append(
            cells | {FAILED: word_of(failed), FINISHED: _date(ended), RUN: word_of(run.name)}
        )
    rows.sort(key=_order)
    text = as_csv([COLUMNS, *([cells[name] for name in COLUMNS] for cells in rows)])
    if len(text.encode()) > LARGEST:
        raise ConfigError(
            f"{len(rows)} runs are more than a file of {LARGEST} bytes holds: write "
            "several, each with its --filter"
        )
    return text


def _order(cells: dict[str, str]) -> tuple[Any, ...]:
    subset = float(cells["subset"] or math.inf)
    seeds = [float(cells[name] or -1) for name in ("seed", "noise_seed")]
    words = [cells[name] for name in ("model", "recipe", "noise", "method")]
    return (cells["dataset"], subset, *words, *seeds, cells["key"], cells[RUN])


def _date(seconds: float) -> str:
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def _seconds(cell: str) -> float:
    try:
        moment = datetime.fromisoformat(cell)
        _date(moment.timestamp())
    except (ValueError, OverflowError):
        raise ValueError(
            f"{FINISHED} must be a time such as {_date(0)}, not {shown(cell)}"
        ) from None
    if moment.tzinfo is None:
        raise ValueError(f"{FINISHED} must say of which zone it is: {cell}Z")
    return moment.timestamp()


_NUMERAL = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?")


def word_of(value: str) -> str:
    """A word as it is; as JSON has it where something in it cannot be seen, or commands a build's
    log.
    """
    return as_cell(value if printable(value) == value and value[:1] != '"' else _as_json(value))


def read_word(cell: str) -> str:
    """The word of a cell that `word_of` made. Raises ValueError."""
    text = from_cell(cell)
    value = parse_json(text.encode()) if text[:1] == '"' else text
    if not isinstance(value, str):
        raise ValueError("it must be a text")
    return value


def _as_json(value: Any) -> str:
    """Numbers as Python writes them, so that they come back as they were."""
    return printable_json(json.dumps(value, allow_nan=False))


def _mapping(cell: str) -> dict[str, Any]:
    return dict(_parsed(cell))


@lru_cache(maxsize=64)  # runs of one suite say the same
def _parsed(cell: str) -> dict[str, Any]:
    content: dict[str, Any] = parse_json(cell.encode())
    check_form(content, dict)
    return content


def _number(cell: str) -> float:
    if not _NUMERAL.fullmatch(cell):
        raise ValueError(f"it must be a number, not {shown(cell)}")
    value = int(cell) if cell.lstrip("-").isdigit() else float(cell)
    if not is_number(value):
        raise ValueError(f"it must be a finite number, not {shown(value)}")
    return value


def _flag(cell: str) -> bool:
    if cell.lower() not in ("true", "false"):  # TRUE, where a spreadsheet has written it
        raise ValueError(f"it must be true or false, not {shown(cell)}")
    return cell.lower() == "true"


@dataclass(frozen=True)
class _Way:
    """How values of a kind are written and read, and which are."""

    write: Callable[[Any], str]
    read: Callable[[str], Any]
    fits: Callable[[Any], bool]


_WORD = _Way(word_of, read_word, lambda value: isinstance(value, str) and value != "")
_NUMBER = _Way(_as_json, _number, is_number)
_FLAG = _Way(_as_json, _flag, lambda value: isinstance(value, bool))
_JSON = _Way(_as_json, _mapping, lambda value: isinstance(value, dict))
TEST_IMAGES = "test_images"
_FACTS: dict[str, tuple[tuple[str, ...], _Way]] = {
    "dataset": (("dataset",), _WORD),
    "subset": (("subset",), _NUMBER),
    "model": (("model",), _WORD),
    "recipe": (("recipe_name",), _WORD),
    "epochs": (("recipe", "epochs"), _NUMBER),
    "noise": (("noise",), _WORD),
    "method": (("method",), _WORD),
    "loss": (("loss",), _WORD),
    "strategy": (("strategy",), _WORD),
    "seed": (("seed",), _NUMBER),
    "noise_seed": (("noise_seed",), _NUMBER),
    "realised_rate": (("realised_rate",), _NUMBER),
    "oracle": (("oracle",), _FLAG),
    TEST_IMAGES: (("test_images",), _NUMBER),
    **{name: (("metrics", *path), _NUMBER) for name, path in RECORDED.items()},
    "seconds": (("seconds",), _NUMBER),
    "key": (("key",), _WORD),
    "precision": (("precision",), _WORD),
    **{
        name: (("environment", name), _WORD)
        for name in ("device", "processor", "python", "torch", "noisebench")
    },
    **{name: (("environment", name), _NUMBER) for name in ("threads", "packed")},
    "settings": (("recipe",), _JSON),
    "versions": (("versions",), _JSON),
    "environment": (("environment",), _JSON),
    "data": ((), _JSON),
}
_EMPTY: RunValues = {path[0]: "" if way is _WORD else None for path, way in _FACTS.values()
                 if way in (_WORD, _NUMBER) and path[0] in RunFacts.__required_keys__}  # fmt: skip
FAILED, COMMAND, FINISHED, RUN = "failed", "command", "finished", "run"
COLUMNS = (
    *list(_FACTS)[: list(_FACTS).index("key")],
    FAILED,
    "key",
    COMMAND,
    "precision",
    "device",
    "threads",
    "packed",
    "processor",
    "python",
    "torch",
    "noisebench",
    FINISHED,
    RUN,
    "settings",
    "versions",
    "environment",
    "data",
)
NEEDED = frozenset(COLUMNS) - {TEST_IMAGES, *RECORDED}  # a number may be younger than a file
_NAMING = ("dataset", "model", "noise", "method")  # without which no table has a place for a run
# a mapping before the columns of what is in it
_FROM_OUTSIDE = sorted(_FACTS.items(), key=lambda item: len(item[1][0]))
_REST = set(RunFacts.__annotations__) - {path[0] for path, _ in _FACTS.values() if path}


def _cells_of(known: RunValues) -> dict[str, str]:
    """The facts of a run, in cells. Raises KeyError, TypeError or AttributeError for a record that
    is not as ours are.
    """
    values = {
        name: METRICS[name].value(known) if name in RECORDED else value_at(known, path)
        for name, (path, _) in _FACTS.items()
    }
    in_columns = {
        path[1]
        for name, (path, way) in _FACTS.items()
        if path[:1] == ("environment",) and path[1:] and way.fits(values[name])
    }
    if environment := known.get("environment"):
        values["environment"] = {
            name: value for name, value in environment.items() if name not in in_columns
        }
    values["data"] = {name: known[name] for name in known if name in _REST}
    cells = {
        name: way.write(values[name]) if way.fits(values[name]) else ""
        for name, (_, way) in _FACTS.items()
    }
    try:
        cells[COMMAND] = word_as_cell(repro_command(known).command)
    except NoisebenchError:  # a text of a later version
        cells[COMMAND] = ""
    return cells


def _facts_of(cells: dict[str, str]) -> RunValues:
    """The facts of a run, back from its cells. Raises ValueError."""
    if empty := [name for name in _NAMING if not cells[name]]:
        raise ValueError(f"{empty[0]}: it is empty")
    known: RunValues = {**_EMPTY, **({} if cells[FAILED] else {"metrics": {}})}
    for name, (path, way) in _FROM_OUTSIDE:
        if not cells.get(name):
            continue
        try:
            value = way.read(cells[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if path[:1] == ("metrics",) and cells[FAILED]:
            raise ValueError(f"{name}: a failed run has no such number")
        if name in RECORDED and METRICS[name].percent and not 0 <= value <= 1:
            raise ValueError(f"{name}: it is a share between 0 and 1, not {value}")
        if not path:
            if unknown := set(value) - _REST:
                names = ", ".join(sorted(_REST))
                raise ValueError(f"{name}: it has {min(unknown)!r}, which is none of {names}")
            known.update(value)
            continue
        parent = known
        for key in path[:-1]:
            parent = parent.setdefault(key, {})
        if len(path) > 1 and path[0] != "metrics" and parent.get(path[-1], value) != value:
            raise ValueError(
                f"{name}: it is {value!r} here, and {parent[path[-1]]!r} in the JSON of its line"
            )
        parent[path[-1]] = value
    entry = None if {"path", "test_path"} & set(known) else DATASETS.get(known["dataset"])
    # a file older than the column
    if TEST_IMAGES not in cells and not cells[FAILED] and entry and not entry.reader:
        known["test_images"] = entry.n_test
    check_known(known)
    return known
