"""The run folder: its files, written whole or not at all, and all records read as one table.

`config.yaml`, `metrics.csv` (a line an epoch, growing while the run is under way), `dynamics.npz`,
`predictions.npz`, `model.safetensors`, `resume.pt` while running, `result.json` only when complete,
`error.json` only when failed, `claim`, the lock, while a process trains it, `trackers.json` with
the run's identities in trackers.
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
_READABLE = (1,)  # every schema that was ever written; tests keep a record of each
_RUN_FILES = ("result.json", "error.json", "config.yaml")  # one of which each run has
_DEPTH = 10  # of config.yaml
_LARGEST_HISTORY = 1 << 24  # bytes of metrics.csv: of 100,000 epochs


@dataclass(unsafe_hash=True)
class RunFolder:
    """One run's folder. lock: this process's, while it holds it; checked: whether the files of a
    finished run are compared with the checksums of its record as they are read.
    """

    path: Path
    lock: RunLock | None = field(default=None, compare=False, repr=False)
    checked: bool = field(default=True, compare=False, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        # as a text that can be written
        self.name = self.path.name.encode(errors="replace").decode()
        self.result, self.error = self.path / "result.json", self.path / "error.json"
        self.resume, self.weights = self.path / "resume.pt", self.path / "model.safetensors"
        self.predictions, self.dynamics = self.path / "predictions.npz", self.path / "dynamics.npz"
        self.history, self.config = self.path / "metrics.csv", self.path / "config.yaml"
        self.claim, self.trackers = self.path / "claim", self.path / "trackers.json"

    @property
    def ended(self) -> float | None:
        """When the run finished or failed, in seconds of the epoch to a millionth; None where it
        has not. Raises OSError.
        """
        path = self.result if self.result.exists() else self.error
        return round(path.stat().st_mtime, 6) if path.exists() else None

    def status(self) -> str:
        """`done`, `failed`, `resume` or `run`; `damaged` where it would be one of the first two by
        a file that is no valid record: cut short, empty, or of another form.
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
        """The folder with a lock, also against other machines on a shared folder; it writes only as
        long as it holds the lock.

        Raises RunTaken where another process has it; so do the writers once another process has
        taken it over. DataError where the folder is a link, which may come from others: a run
        writes into its own folder alone. `runs/` itself may be one, onto another disk.
        """
        if self.path.is_symlink():
            raise DataError(
                f"{self.path} is a link, and a run writes into its own folder alone: "
                "remove the link"
            )
        with acquire(self.claim) as lock:
            yield RunFolder(self.path, lock, checked=self.checked)

    def lock_owner(self) -> str:
        """The process that holds the lock; empty where none does, or that cannot be told."""
        with suppress(OSError):
            lock = find_lock(self.claim)
            return str(lock.owner) if lock and lock.owner.is_alive() is not False else ""
        return ""

    def finished(self, key: str) -> dict[str, Any] | None:
        """The record of the run with this key, if it is complete.

        Raises DataError where it is of another version, or of another run.
        """
        if self.status() != "done":
            return None
        self.clean_up()
        record = self.record()
        if record["key"] != key:
            raise DataError(
                f"{self.path} holds the run {record['key'][:12]}, not {key[:12]}: "
                "move it away, or give --force"
            )
        return record

    def clean_up(self) -> None:
        """Remove from a finished run what a process left that died after writing its last file;
        nothing where another process has the lock, or the folder cannot be written.
        """
        if self.lock is not None:
            self.resume.unlink(missing_ok=True)
        elif (self.claim.exists() or self.resume.exists()) and self.status() == "done":
            with suppress(DataError), self.locked() as locked:
                locked.clean_up()

    def check(self) -> None:
        """Raises RunTaken where this process had the lock and another has it now."""
        if self.lock is not None:
            self.lock.check()

    def write(self, path: Path, *parts: bytes | memoryview) -> None:
        """Write one of the files, whole or not at all, and only with the lock. Raises RunTaken,
        DataError.
        """

        def fill(file: IO[bytes]) -> None:
            file.writelines(parts)
            self.check()  # as late as can be: a process may sleep between any two lines

        try:
            atomic_write(path, fill)
        except DataError:
            self.check()  # a process that took over removes what is half written
            raise

    def write_json(self, path: Path, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=1, allow_nan=False)
        self.write(path, f"{text}\n".encode())

    def write_result(self, record: dict[str, Any]) -> None:
        """result.json, the last of the files: from here on the run is finished, whatever happens to
        the machine. Its checkpoint is deleted.

        Raises DataError where it cannot be written: the run has not failed for that.
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
        """error.json: the run is failed, not unfinished; `about`: the facts that a table needs;
        batch: the examples of the step.
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
        """error.json by a process that does not train the run; nothing where another process does,
        or has finished it, and where the folder cannot be written.
        """
        with suppress(DataError), self.locked() as folder:
            if folder.status() != "done":
                folder.write_error(about, kind, message)

    def failure(self) -> dict[str, Any]:
        """error.json. Raises DataError where it is damaged."""
        return self._read(self.error, _check_failure)

    def read_arrays(self) -> dict[str, np.ndarray]:
        """Everything in predictions.npz. Raises DataError."""
        self.check_written(self.predictions)
        return read_arrays(self.predictions)

    def read_dynamics(self) -> Dynamics:
        """Raises DataError where there is none, as of a run of an older version."""
        if not self.dynamics.exists():
            raise DataError(
                f"{self.path} has no dynamics.npz: it is unfinished or of an older "
                "version; run it again with --force"
            )
        self.check_written(self.dynamics)
        try:
            return Dynamics.load(read_arrays(self.dynamics, ("counts", "gradients")))
        except DataError as error:
            raise DataError(
                f"{self.dynamics} is damaged ({error}): run it again with --force"
            ) from None

    def write_history(self, history: list[dict[str, Any]]) -> None:
        """metrics.csv: one line an epoch."""
        lines = [_csv_line(history[0]), *(_csv_line(row.values()) for row in history)]
        self.write(self.history, b"".join(lines))

    def show_history(self, history: list[dict[str, Any]], *, begin: bool) -> None:
        """metrics.csv while the run is under way, to watch it: the last line is added to the same
        file. begin: the file is written anew, since an earlier session may have left lines that are
        in no checkpoint.

        A finished run's file stays until its successor is complete. What cannot be written now is
        an error when the run is saved.
        """
        if self.lock is None or self.result.exists():
            return
        with suppress(DataError, OSError):
            if begin:
                self.write_history(history)
                return
            self.check()
            with self.history.open("ab", buffering=0) as file:  # the one that this session made
                file.write(_csv_line(history[-1].values()))

    def read_history(self) -> list[dict[str, float | None]]:
        """metrics.csv, a line an epoch, None where a number is not known. Raises DataError."""
        self.check_written(self.history)
        try:
            lines = read_text(self.history, _LARGEST_HISTORY).splitlines()
            names, *rows = csv.reader(lines, strict=True)
            if not rows or "epoch" not in names or len(set(names)) < len(names):
                raise ValueError("it holds no epochs")
            numbers = [[float(value) if value else None for value in row] for row in rows]
            return [dict(zip(names, row, strict=True)) for row in numbers]
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f"{self.history} cannot be read ({error})") from None

    def checksums(self) -> dict[str, str]:
        """The sha256 of each file that a finished run leaves beside its record, of those that are
        there. Raises DataError.
        """
        files = (self.history, self.dynamics, self.predictions, self.weights)
        return {path.name: _sha256(path) for path in files if path.exists()}

    def check_written(self, path: Path) -> None:
        """Raises DataError where a file that is there is not the one of which a finished run's
        record has the checksum: copied in part, or of a run that was to replace it and did not end.
        """
        if not self.checked or not self.result.exists() or not path.exists():
            return
        recorded = self.record().get("files")
        if recorded is not None and recorded.get(path.name, "") != _sha256(path):
            raise DataError(
                f"{path} is not the file that belongs to {self.result.name}, or only a part of "
                "it: copy the folder again, or run it again with --force"
            )

    def record(self) -> dict[str, Any]:
        """result.json. Raises DataError where it is damaged or of another schema."""
        return {**self._read(self.result, check_record), "path": str(self.path)}

    def full_record(self) -> dict[str, Any]:
        """As `record`, one that names its classes, as every run's does that can be evaluated.
        Raises DataError.
        """
        record = self.record()
        if not {"classes", "num_classes"} <= set(record["data"]):
            raise DataError(
                f"{self.result} is damaged (it names no classes): delete the folder "
                "and run it again"
            )
        return record

    def about(self) -> dict[str, Any]:
        """The facts of the run that a table needs, by the same names if it finished or failed.
        Raises DataError.
        """
        if self.result.exists() or not self.error.exists():
            return facts_of_record(self.record())
        about = self.failure()["about"]
        try:
            check_known(about)
            if about.get("metrics") is not None:
                raise ValueError("a failed run has no metrics")
        except ValueError as error:
            raise DataError(
                f"{self.error} is damaged ({error}): delete the folder and run it again"
            ) from None
        return dict(about)

    def configuration(self) -> dict[str, Any]:
        """config.yaml: what the key was made of. Raises DataError where it cannot be read."""
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
            raise DataError(f"{self.path} holds no finished run: no {path.name}") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged ({error}): run it again") from None
        if content["schema"] not in _READABLE:
            raise DataError(
                f"{path} has schema {content['schema']}, this version reads "
                f"{', '.join(map(str, _READABLE))}"
            )
        return content


def _check_failure(content: dict[str, Any]) -> None:
    check_form(content, Failure)


def _csv_line(values: Iterable[Any]) -> bytes:
    return (",".join("" if value is None else str(value) for value in values) + "\n").encode()


def _read_version(path: Path, check: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """A file of JSON, checked unless it is of a newer version. Raises OSError, ValueError."""
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
    """The run folders at or under some paths: a run, a folder of runs, a workspace. Raises
    DataError for a wrong path.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise DataError(f"no such folder: {path} (a run, a folder of runs, or a workspace)")
        root = path / "runs" if (path / "runs").is_dir() else path
        with os.scandir(root) as entries:  # says what is a folder without asking the file server
            names = sorted(entry.name for entry in entries if entry.is_dir())
        for candidate in (root, *(root / name for name in names)):
            if any((candidate / name).exists() for name in _RUN_FILES):
                folders[candidate] = None
    return [RunFolder(path) for path in folders]


def read_records(
    folders: Iterable[RunFolder], on_damaged: Callable[[DataError], object]
) -> list[dict[str, Any]]:
    """The records of all finished runs among the folders; a damaged one is left out, and passed to
    `on_damaged` as an error.
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
    """One row a finished run, nested names joined by dots: `metrics.test_acc.last`, `noise.text`,
    `seed`.

    A damaged result file is warned of and left out.
    """
    import pandas as pd

    records = read_records(
        run_folders([Path(path)]), lambda error: warnings.warn(str(error), stacklevel=4)
    )
    return pd.json_normalize(records, max_level=3)
