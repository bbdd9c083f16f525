"""Results CSV: one line per run with everything that tables need, to publish with a paper and to
read instead of run directories. Each column has a path in the facts of a run, and a type.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
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

LARGEST = 1 << 26  # bytes, some 40,000 runs
_MAKE = "noisebench report --format runs -o FILE.csv creates one"
_OTHERS = {  # first columns of files that are mistaken for a results CSV
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
    """A run of a results CSV. failed: the type of its error, empty if it finished; name: of its run
    directory.
    """

    known: RunValues
    ended: float
    name: str
    failed: str

    def about(self) -> RunValues:
        """The facts of the run, as `RunFolder.about` has them."""
        return self.known

    @property
    def key(self) -> str:
        return str(self.known.get("key", ""))


RunLike = RunFolder | RunRecord


def runs_at(paths: Iterable[Path]) -> list[RunLike]:
    """The runs at some paths, sorted by name: results CSVs, run directories, directories of them,
    workspaces.

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
                f"{path} does not exist; expected a run directory, a workspace or a results CSV"
            )
    return sorted(runs, key=lambda run: run.name)


def finished_runs(path: Path) -> dict[str, RunRecord]:
    """The finished runs of a results CSV, by key. Raises DataError."""
    return {line.key: line for line in read_runs(path) if line.key and not line.failed}


def read_runs(path: Path) -> list[RunRecord]:
    """The runs of a results CSV, in the order of its lines. Raises DataError with the first line
    that is invalid.
    """
    start = 0  # line of the current row; 0: the header
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
                raise ValueError(f"it has {len(row)} cells, expected {len(names)}")
            cells = dict(zip(names, row, strict=True))
            words = {name: read_word(cells[name]) for name in (FAILED, RUN)}
            check_form(words, dict[str, Name])
            facts = _facts_of(cells)
            run = RunRecord(facts, _seconds(cells[FINISHED]), words[RUN], words[FAILED])
            if (other := line_of.setdefault(run.key, start)) != start and run.key:
                raise ValueError(f"it repeats the key of line {other}")
            runs.append(run)
            start = reader.line_num + 1
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): {_MAKE}") from None
    except (ValueError, csv.Error) as error:
        if start:
            text = f"line {start}: {error}: correct or delete the line"
            raise DataError(f"{path}, {text}; {_MAKE}") from None
        raise DataError(f"{path} is not a results CSV ({error}): {_MAKE}") from None
    return runs


def _check_names(names: list[str]) -> None:
    for other, content in _OTHERS.items():
        if tuple(names[: len(other)]) == other:
            raise ValueError(f"it holds {content}")
    if names and not set(names) & set(COLUMNS):
        raise ValueError("its first line has none of the columns, which are separated by commas")
    if not names:
        raise ValueError("it is empty, or begins with an empty line")
    if lacking := [name for name in COLUMNS if name in NEEDED and name not in names]:
        raise ValueError(
            f"it lacks the column{'' if len(lacking) == 1 else 's'} {', '.join(lacking)}"
        )
    counts = Counter(names)
    if unknown := [name for name in names if name not in COLUMNS or counts[name] > 1]:
        raise ValueError(f"the column {shown(unknown[0])} is repeated, or unknown to this version")


def runs_as_text(runs: Iterable[RunLike]) -> str:
    """The file: one line per run, sorted by data, settings and seed. Raises DataError for a damaged
    run, ConfigError for more runs than a file holds.
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
                f"the record of {run.name} is incomplete ({error}): delete its directory and rerun"
            ) from None
        rows.append(
            cells | {FAILED: word_of(failed), FINISHED: _date(ended), RUN: word_of(run.name)}
        )
    rows.sort(key=_order)
    text = as_csv([COLUMNS, *([cells[name] for name in COLUMNS] for cells in rows)])
    if len(text.encode()) > LARGEST:
        raise ConfigError(
            f"{len(rows)} runs need more than {LARGEST} bytes: write several files with --filter"
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
        raise ValueError("expected text")
    return value


def _as_json(value: Any) -> str:
    """JSON with numbers as Python writes them, so that they are read back unchanged."""
    return printable_json(json.dumps(value, allow_nan=False))


def _mapping(cell: str) -> dict[str, Any]:
    return dict(_parsed(cell))


@lru_cache(maxsize=64)  # runs of one suite have equal cells
def _parsed(cell: str) -> dict[str, Any]:
    content: dict[str, Any] = parse_json(cell.encode())
    check_form(content, dict)
    return content


def _number(cell: str) -> float:
    if not _NUMERAL.fullmatch(cell):
        raise ValueError(f"expected a number, got {shown(cell)}")
    value = int(cell) if cell.lstrip("-").isdigit() else float(cell)
    if not is_number(value):
        raise ValueError(f"expected a finite number, got {shown(value)}")
    return value


def _flag(cell: str) -> bool:
    if cell.lower() not in ("true", "false"):  # spreadsheets write TRUE
        raise ValueError(f"expected true or false, got {shown(cell)}")
    return cell.lower() == "true"


@dataclass(frozen=True)
class _Way:
    """How values of a type are written, read and recognized."""

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
NEEDED = frozenset(COLUMNS) - {TEST_IMAGES, *RECORDED}  # a metric may be newer than a file
_NAMING = ("dataset", "model", "noise", "method")  # required for every table
# a mapping before the columns of its entries
_FROM_OUTSIDE = sorted(_FACTS.items(), key=lambda item: len(item[1][0]))
_REST = set(RunFacts.__annotations__) - {path[0] for path, _ in _FACTS.values() if path}


def _cells_of(known: RunValues) -> dict[str, str]:
    """The facts of a run as cells. Raises KeyError, TypeError or AttributeError for an invalid
    record.
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
    except NoisebenchError:  # an expression of a later version
        cells[COMMAND] = ""
    return cells


def _facts_of(cells: dict[str, str]) -> RunValues:
    """The facts of a run from its cells. Raises ValueError."""
    if empty := [name for name in _NAMING if not cells[name]]:
        raise ValueError(f"{empty[0]}: empty")
    known: RunValues = {**_EMPTY, **({} if cells[FAILED] else {"metrics": {}})}
    for name, (path, way) in _FROM_OUTSIDE:
        if not cells.get(name):
            continue
        try:
            value = way.read(cells[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if path[:1] == ("metrics",) and cells[FAILED]:
            raise ValueError(f"{name}: must be empty for a failed run")
        if name in RECORDED and METRICS[name].percent and not 0 <= value <= 1:
            raise ValueError(f"{name}: expected a share between 0 and 1, got {value}")
        if not path:
            if unknown := set(value) - _REST:
                names = ", ".join(sorted(_REST))
                raise ValueError(f"{name}: unknown key {min(unknown)!r}; keys: {names}")
            known.update(value)
            continue
        parent = known
        for key in path[:-1]:
            parent = parent.setdefault(key, {})
        if len(path) > 1 and path[0] != "metrics" and parent.get(path[-1], value) != value:
            raise ValueError(
                f"{name}: {value!r} here, but {parent[path[-1]]!r} in the JSON of this line"
            )
        parent[path[-1]] = value
    entry = None if {"path", "test_path"} & set(known) else DATASETS.get(known["dataset"])
    # a file from before this column
    if TEST_IMAGES not in cells and not cells[FAILED] and entry and not entry.reader:
        known["test_images"] = entry.n_test
    check_known(known)
    return known
