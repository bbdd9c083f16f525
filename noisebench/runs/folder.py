"""The run directory: its files, each written atomically, and all records as one table.

`config.yaml`; `metrics.csv`, one line per epoch, growing during the run; `dynamics.npz`;
`predictions.npz`; `model.safetensors`; `resume.pt`, the checkpoint, while the run is unfinished;
`result.json`, only when finished; `error.json`, only when failed; `claim`, the lock, while a
process trains the run; `trackers.json`, the run's ids in trackers.
"""

from __future__ import annotations

import csv
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..core.files.atomic import atomic_write, fsync_dir
from ..core.files.lock import RunLock, acquire, find_lock
from ..core.files.schema import check_form, check_plain
from ..core.files.untrusted import hash_of, read_json, read_text, read_yaml
from ..datasets.npz import read_arrays
from ..errors import DataError
from ..experiments.run_facts import facts_of_record
from ..metrics.dynamics import Dynamics
from .schema import Failure, Versioned, check_known, check_record

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
_READABLE = (1,)  # every schema that was ever written; the tests read a record of each
_RUN_FILES = ("result.json", "error.json", "config.yaml")  # every run has at least one
_DEPTH = 10  # of config.yaml
_LARGEST_HISTORY = 1 << 24  # bytes of metrics.csv: 100,000 epochs


@dataclass(unsafe_hash=True)
class RunFolder:
    """The directory of one run.

    lock: this process's lock, while it holds one; checked: compare the files of a finished run with
    the checksums in its record when they are read.
    """

    path: Path
    lock: RunLock | None = field(default=None, compare=False, repr=False)
    checked: bool = field(default=True, compare=False, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        # names may hold bytes that cannot be printed
        self.name = self.path.name.encode(errors="replace").decode()
        self.result, self.error = self.path / "result.json", self.path / "error.json"
        self.resume, self.weights = self.path / "resume.pt", self.path / "model.safetensors"
        self.predictions, self.dynamics = self.path / "predictions.npz", self.path / "dynamics.npz"
        self.history, self.config = self.path / "metrics.csv", self.path / "config.yaml"
        self.claim, self.trackers = self.path / "claim", self.path / "trackers.json"

    @property
    def ended(self) -> float | None:
        """When the run finished or failed, in seconds since 1970, rounded to microseconds; None if
        it has not. Raises OSError.
        """
        path = self.result if self.result.exists() else self.error
        return round(path.stat().st_mtime, 6) if path.exists() else None

    def status(self) -> str:
        """`done`, `failed`, `resume` (has a checkpoint) or `run` (new); `damaged` if result.json or
        error.json is not a valid record.
        """
        for name, path, check in (
            ("done", self.result, check_record),
            ("failed", self.error, _check_failure),
        ):
            if path.exists():
                with suppress(OSError):  # a file that cannot be read may be valid
                    try:
                        _read_version(path, check)
                    except ValueError:
                        return "damaged"
                return name
        return "resume" if self.resume.exists() else "run"

    @contextmanager
    def locked(self) -> Iterator[RunFolder]:
        """Locks the directory, also against other machines on a shared file system; yields a
        RunFolder that writes only while it holds the lock.

        Raises RunTaken if another process holds the lock; writing raises it too once another
        process has taken over. Raises DataError if the directory is a symbolic link: a run writes
        only into its own directory. `runs/` itself may be a link, for example to another disk.
        """
        if self.path.is_symlink():
            raise DataError(
                f"{self.path} is a symbolic link, and a run writes only into its own directory: "
                "remove the link"
            )
        with acquire(self.claim) as lock:
            yield RunFolder(self.path, lock, checked=self.checked)

    def lock_owner(self) -> str:
        """The process that holds the lock; empty if there is none, or if it cannot be
        determined.
        """
        with suppress(OSError):
            lock = find_lock(self.claim)
            return str(lock.owner) if lock and lock.owner.is_alive() is not False else ""
        return ""

    def finished(self, key: str) -> dict[str, Any] | None:
        """The record of the run with this key, if it is finished.

        Raises DataError if the record belongs to another version or another run.
        """
        if self.status() != "done":
            return None
        self.clean_up()
        record = self.record()
        if record["key"] != key:
            raise DataError(
                f"{self.path} holds the run {record['key'][:12]}, not {key[:12]}: "
                "move it away, or use --force"
            )
        return record

    def clean_up(self) -> None:
        """Remove the lock and checkpoint that a process left in a finished run because it died
        after writing the record. Does nothing if another process holds the lock, or if the
        directory is read-only.
        """
        if self.lock is not None:
            self.resume.unlink(missing_ok=True)
        elif (self.claim.exists() or self.resume.exists()) and self.status() == "done":
            with suppress(DataError), self.locked() as locked:
                locked.clean_up()

    def check(self) -> None:
        """Raises RunTaken if this process held the lock and has lost it to another one."""
        if self.lock is not None:
            self.lock.check()

    def write(self, path: Path, *parts: bytes | memoryview) -> None:
        """Write one of the files atomically, and only while holding the lock. Raises RunTaken,
        DataError.
        """

        def fill(file: IO[bytes]) -> None:
            file.writelines(parts)
            self.check()  # as late as possible: a process may be suspended between any two lines

        try:
            atomic_write(path, fill)
        except DataError:
            self.check()  # a process that took over removes incomplete files
            raise

    def write_json(self, path: Path, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=1, allow_nan=False)
        self.write(path, f"{text}\n".encode())

    def write_result(self, record: dict[str, Any]) -> None:
        """Write result.json, the last of the files: once it is written, the run is finished.
        Deletes the checkpoint.

        Raises DataError if it cannot be written; the run does not count as failed then.
        """
        self.write_json(self.result, record)
        try:
            fsync_dir(self.path)
            self.resume.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror or error}") from None

    def write_error(
        self,
        about: dict[str, Any],
        kind: str,
        message: str,
        trace: str = "",
        batch: Sequence[int] = (),
    ) -> None:
        """Write error.json, which marks the run as failed.

        about: the RunFacts for tables; batch: the example numbers of the failing step.
        """
        content = {
            "schema": SCHEMA,
            "about": about,
            "type": kind,
            "message": message,
            "traceback": trace,
            **({"batch": list(batch)} if batch else {}),
        }
        self.write_json(self.error, content)

    def note_failure(self, about: dict[str, Any], kind: str, message: str) -> None:
        """Write error.json from a process that does not train the run. Does nothing if another
        process trains or has finished the run, or if the directory is read-only.
        """
        with suppress(DataError), self.locked() as folder:
            if folder.status() != "done":
                folder.write_error(about, kind, message)

    def failure(self) -> dict[str, Any]:
        """Reads error.json. Raises DataError if it is damaged."""
        return self._read(self.error, _check_failure)

    def read_arrays(self) -> dict[str, np.ndarray]:
        """All arrays in predictions.npz. Raises DataError."""
        self.check_written(self.predictions)
        return read_arrays(self.predictions)

    def read_dynamics(self) -> Dynamics:
        """Reads dynamics.npz. Raises DataError if it is missing, as in runs of older versions."""
        if not self.dynamics.exists():
            raise DataError(
                f"{self.path} has no dynamics.npz (unfinished, or from an older version): run it "
                "again with --force"
            )
        self.check_written(self.dynamics)
        try:
            return Dynamics.load(read_arrays(self.dynamics, ("counts", "gradients")))
        except DataError as error:
            raise DataError(
                f"{self.dynamics} is damaged ({error}): run it again with --force"
            ) from None

    def write_history(self, history: list[dict[str, Any]]) -> None:
        """Write metrics.csv, one line per epoch."""
        lines = [_csv_line(history[0]), *(_csv_line(row.values()) for row in history)]
        self.write(self.history, b"".join(lines))

    def show_history(self, history: list[dict[str, Any]], *, begin: bool) -> None:
        """Append the last line to metrics.csv during the run, so that users can watch it.

        begin: rewrite the file, since an earlier session may have written lines after its last
        checkpoint. The file of a finished run is kept until its repetition is finished. Errors are
        ignored here; they are raised when the run is saved.
        """
        if self.lock is None or self.result.exists():
            return
        with suppress(DataError, OSError):
            if begin:
                self.write_history(history)
                return
            self.check()
            with self.history.open("ab", buffering=0) as file:  # the file that this session began
                file.write(_csv_line(history[-1].values()))

    def read_history(self) -> list[dict[str, float | None]]:
        """Reads metrics.csv: one dict per epoch, None for missing numbers. Raises DataError."""
        self.check_written(self.history)
        try:
            lines = read_text(self.history, _LARGEST_HISTORY).splitlines()
            names, *rows = csv.reader(lines, strict=True)
            if not rows or "epoch" not in names or len(set(names)) < len(names):
                raise ValueError("it contains no epochs")
            numbers = [[float(value) if value else None for value in row] for row in rows]
            return [dict(zip(names, row, strict=True)) for row in numbers]
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f"{self.history} cannot be read ({error})") from None

    def checksums(self) -> dict[str, str]:
        """The sha256 of each existing file of a finished run, except its record. Raises
        DataError.
        """
        files = (self.history, self.dynamics, self.predictions, self.weights)
        return {path.name: _sha256(path) for path in files if path.exists()}

    def check_written(self, path: Path) -> None:
        """Raises DataError if a file of a finished run does not have the checksum in its record: a
        partial copy, or a file of an interrupted repetition of the run.
        """
        if not self.checked or not self.result.exists() or not path.exists():
            return
        recorded = self.record().get("files")
        if recorded is not None and recorded.get(path.name, "") != _sha256(path):
            raise DataError(
                f"{path} does not have the checksum in {self.result.name}: copy the directory "
                "again, or run it again with --force"
            )

    def record(self) -> dict[str, Any]:
        """Reads result.json. Raises DataError if it is damaged or has an unknown schema."""
        return {**self._read(self.result, check_record), "path": str(self.path)}

    def full_record(self) -> dict[str, Any]:
        """As `record`, but requires the class names, without which a run cannot be evaluated.
        Raises DataError.
        """
        record = self.record()
        if not {"classes", "num_classes"} <= set(record["data"]):
            raise DataError(
                f"{self.result} is damaged (it has no class names): delete the directory "
                "and run it again"
            )
        return record

    def about(self) -> dict[str, Any]:
        """The RunFacts of the run, with the same names for finished and failed runs. Raises
        DataError.
        """
        if self.result.exists() or not self.error.exists():
            return facts_of_record(self.record())
        about = self.failure()["about"]
        try:
            check_known(about)
            if about.get("metrics") is not None:
                raise ValueError("a failed run must not have metrics")
        except ValueError as error:
            raise DataError(
                f"{self.error} is damaged ({error}): delete the directory and run it again"
            ) from None
        return dict(about)

    def configuration(self) -> dict[str, Any]:
        """Reads config.yaml, the settings that the key is a hash of. Raises DataError."""
        try:
            content = read_yaml(read_text(self.config), _DEPTH)
            check_form(content, dict)
            check_plain(content)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.config} cannot be read ({error})") from None
        return dict(content)

    def _read(self, path: Path, check: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        try:
            content = _read_version(path, check)
        except FileNotFoundError:
            raise DataError(f"{self.path} has no {path.name}: the run is not finished") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged ({error}): run it again") from None
        if content["schema"] not in _READABLE:
            raise DataError(
                f"{path} has schema {content['schema']}, and this version reads "
                f"{', '.join(map(str, _READABLE))}"
            )
        return content


def _check_failure(content: dict[str, Any]) -> None:
    check_form(content, Failure)


def _csv_line(values: Iterable[Any]) -> bytes:
    return (",".join("" if value is None else str(value) for value in values) + "\n").encode()


def _read_version(path: Path, check: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Reads a JSON file, and checks it if its version is known. Raises OSError, ValueError."""
    content = read_json(path)
    check_form(content, Versioned)
    if content["schema"] in _READABLE:
        check(content)
    return dict(content)


def _sha256(path: Path) -> str:
    try:
        return hash_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from None


def run_folders(paths: Iterable[Path]) -> list[RunFolder]:
    """The run directories at or under the paths; each path is a run, a directory of runs, or a
    workspace. Raises DataError for a path that is not a directory.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise DataError(
                f"{path} is not a directory; expected a run directory, a directory of runs or a "
                "workspace"
            )
        root = path / "runs" if (path / "runs").is_dir() else path
        with os.scandir(root) as entries:  # knows the types without a request per entry
            names = sorted(entry.name for entry in entries if entry.is_dir())
        for candidate in (root, *(root / name for name in names)):
            if any((candidate / name).exists() for name in _RUN_FILES):
                folders[candidate] = None
    return [RunFolder(path) for path in folders]


def read_records(
    folders: Iterable[RunFolder], on_damaged: Callable[[DataError], object]
) -> list[dict[str, Any]]:
    """The records of all finished runs in the directories. Damaged records are omitted;
    `on_damaged` is called with the error of each.
    """
    records = []
    for folder in folders:
        try:
            if folder.result.exists():
                records.append(folder.record())
        except DataError as error:
            on_damaged(error)
    return records


def results(path: str | Path = "runs") -> pd.DataFrame:
    """Read all finished runs into a pandas table, one row per run.

    path: a run directory, a directory of runs, or a workspace. Failed and unfinished runs are
    omitted. A damaged result file is omitted with a warning.

    The columns are the keys of `result.json`; nested keys are joined by dots. Shares, such as
    accuracies, are between 0 and 1. Missing values are NaN or None; a column of integers with
    missing values is float64.

    | column | dtype | meaning |
    | --- | --- | --- |
    | `data.name`, `model.name`, `recipe.name` | str | data set, backbone, recipe |
    | `method`, `loss`, `strategy` | str | the method, and its loss and strategy in full |
    | `noise.text` | str | the noise |
    | `noise.realised_rate` | float64 | share of incorrect labels |
    | `noise.seed`, `seed` | int64 | seed of the noise, seed of the training |
    | `oracle` | bool | uses, or was tuned with, the true noise rate or transition matrix |
    | `metrics.test_acc.last` | float64 | test accuracy after the last epoch |
    | `metrics.test_acc.best` | float64 | best test accuracy of any epoch (optimistic) |
    | `metrics.memorised` | float64 | memorization rate |
    | `seconds` | float64 | training time |
    | `key`, `path` | str | the run's key, its directory |

    Example:
        >>> frame = nb.results("runs")
        >>> frame.groupby(["noise.text", "method"])["metrics.test_acc.last"].agg(["mean", "std"])
    """
    import pandas as pd

    records = read_records(
        run_folders([Path(path)]), lambda error: warnings.warn(str(error), stacklevel=4)
    )
    return pd.json_normalize(records, max_level=3)
