"""Results CSV: a line a run with all that a table needs, to be kept with a paper and read in place
of run folders. Each column has a path in the facts of a run, and is written and read by its type.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
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
from .metrics import METRICS, RECORDED, RunValues

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
    found = [run for path in paths for run in _runs_at(path)]
    return sorted(found, key=lambda run: run.name)


def _runs_at(path: Path) -> list[RunLike]:
    if path.is_dir():
        return [*run_folders([path])]
    if not path.exists() and not path.is_symlink():
        raise DataError(
            f"no such folder: {path} (a run, a folder of runs, or a workspace), nor "
            "such a file of runs"
        )
    return [*read_runs(path)]


def finished_runs(path: Path) -> dict[str, RunRecord]:
    """The finished runs in a file of runs, by key. Raises DataError."""
    return {line.key: line for line in read_runs(path) if line.key and not line.failed}


def read_runs(path: Path) -> list[RunRecord]:
    """The runs in a file, in the order of its lines. Raises DataError for the first thing in it
    that cannot be read, and says where.
    """
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


def _lines(text: str) -> Iterator[RunRecord]:
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
    if strange := next(
        (name for name in names if name not in COLUMNS or names.count(name) > 1), None
    ):
        raise ValueError(
            f"the column {shown(strange)} stands twice, or this version does not know it"
        )


def _line(names: list[str], row: list[str]) -> RunRecord:
    """Raises ValueError."""
    if len(row) != len(names):
        raise ValueError(f"it has {len(row)} cells, the columns are {len(names)}")
    cells = dict(zip(names, row, strict=True))
    words = {name: read_word(cells[name]) for name in (FAILED, RUN)}
    check_form(words, dict[str, Name])
    return RunRecord(known_of(cells), _seconds(cells[FINISHED]), words[RUN], words[FAILED])


def runs_as_text(runs: Iterable[RunLike]) -> str:
    """The file: of each run a line, in an order that their names and settings decide. Raises
    DataError for a damaged run, ConfigError where they are more than a file holds.
    """
    rows = sorted((_cells(run) for run in runs), key=_order)
    text = as_csv([COLUMNS, *([cells[name] for name in COLUMNS] for cells in rows)])
    if len(text.encode()) > LARGEST:
        raise ConfigError(
            f"{len(rows)} runs are more than a file of {LARGEST} bytes holds: write "
            "several, each with its --filter"
        )
    return text


def _cells(run: RunLike) -> dict[str, str]:
    line = run if isinstance(run, RunRecord) else line_of(run)
    try:
        facts = cells_of(line.known)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the record of {line.name} lacks {error}: delete its folder and run it again"
        ) from None
    return {
        **facts,
        FAILED: word_of(line.failed),
        FINISHED: _date(line.ended),
        RUN: word_of(line.name),
    }


def line_of(folder: RunFolder) -> RunRecord:
    """The line of the run in a folder. Raises DataError where it is damaged."""
    try:
        failed = "" if folder.result.exists() else str(folder.failure().get("type") or "error")
        return RunRecord(folder.about(), folder.ended or 0.0, folder.name, failed)
    except OSError as error:
        raise DataError(f"{folder.path} cannot be read ({error.strerror or error})") from None


def _order(cells: dict[str, str]) -> tuple[Any, ...]:
    subset, seeds = (
        float(cells["subset"] or math.inf),
        [float(cells[name] or -1) for name in ("seed", "noise_seed")],
    )
    words = [cells[name] for name in ("model", "recipe", "noise", "method")]
    return (cells["dataset"], subset, *words, *seeds, cells["key"], cells[RUN])


def _date(seconds: float) -> str:
    return (
        datetime.fromtimestamp(seconds, UTC)
        .isoformat(timespec="microseconds")
        .replace("+00:00", "Z")
    )


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
    value = _json(text) if text[:1] == '"' else text
    if not isinstance(value, str):
        raise ValueError("it must be a text")
    return value


def _as_json(value: Any) -> str:
    """Numbers as Python writes them, so that they come back as they were."""
    return printable_json(json.dumps(value, allow_nan=False))


def _json(cell: str) -> Any:
    return parse_json(cell.encode())


def _mapping(cell: str) -> dict[str, Any]:
    _check_mapping(cell)
    content: dict[str, Any] = json.loads(cell)
    return content


@lru_cache(maxsize=64)  # runs of one suite say the same
def _check_mapping(cell: str) -> None:
    check_form(_json(cell), dict)


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
_REST = set(RunFacts.__annotations__) - {path[0] for path, _ in _FACTS.values() if path}


def cells_of(known: RunValues) -> dict[str, str]:
    """What is known of a run, in cells. Raises KeyError, TypeError or AttributeError for a record
    that is not as ours are.
    """
    found = {
        name: METRICS[name].value(known) if name in RECORDED else _at(known, path)
        for name, (path, _) in _FACTS.items()
    }
    found["environment"] = known.get("environment") and _without(known["environment"], found)
    found["data"] = {name: known[name] for name in known if name in _REST}
    cells = {
        name: way.write(found[name]) if way.fits(found[name]) else ""
        for name, (_, way) in _FACTS.items()
    }
    return {**cells, COMMAND: word_as_cell(_command(known))}


def _without(environment: RunValues, found: RunValues) -> RunValues:
    """What of an environment has no column of its own, or does not fit into it."""
    own = {
        path[1]
        for name, (path, way) in _FACTS.items()
        if path[:1] == ("environment",) and path[1:] and way.fits(found[name])
    }
    return {name: value for name, value in environment.items() if name not in own}


def _at(known: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        known = None if known is None else known.get(name)
    return known


def _command(known: RunValues) -> str:
    """The command that reproduces the run; empty for a text of a later version."""
    try:
        return repro_command(known).command
    except NoisebenchError:
        return ""


def known_of(cells: dict[str, str]) -> RunValues:
    """What is known of the run, back from its cells. Raises ValueError."""
    if empty := next((name for name in _NAMING if not cells[name]), None):
        raise ValueError(f"{empty}: it is empty")
    known: RunValues = {**_EMPTY, **({} if cells[FAILED] else {"metrics": {}})}
    for name, path, value in sorted(_values(cells), key=lambda each: len(each[1])):
        _put(known, name, path, value)
    entry = None if {"path", "test_path"} & set(known) else DATASETS.get(known["dataset"])
    # a file older than the column
    if TEST_IMAGES not in cells and not cells[FAILED] and entry and not entry.reader:
        known["test_images"] = entry.n_test
    check_known(known)
    return known


def _values(cells: dict[str, str]) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Column, path and value of each fact that is given."""
    for name, (path, way) in _FACTS.items():
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
        yield name, path, value


def _put(known: RunValues, column: str, path: tuple[str, ...], value: Any) -> None:
    if not path:
        if strange := set(value) - _REST:
            raise ValueError(
                f"{column}: it has {min(strange)!r}, which is none of {', '.join(sorted(_REST))}"
            )
        known.update(value)
        return
    parent = known
    for name in path[:-1]:
        parent = parent.setdefault(name, {})
    if len(path) > 1 and path[0] != "metrics" and parent.get(path[-1], value) != value:
        raise ValueError(
            f"{column}: it is {value!r} here, and {parent[path[-1]]!r} in the JSON of its line"
        )
    parent[path[-1]] = value
