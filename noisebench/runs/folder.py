"""The run folder: what lies in it, written whole or not at all, and all records read back as one
table.

`config.yaml`, `metrics.csv` (a line an epoch, growing while the run is under way), `dynamics.npz`,
`predictions.npz`, `model.safetensors`, `resume.pt` while running, `result.json` only when complete,
`error.json` only when failed, `claim` while somebody is at it, `trackers.json` where the run is
logged to trackers: by what they know it.
"""

from __future__ import annotations

import csv
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..core.files.arrays import packed_npz
from ..core.files.atomic import atomic_write, fsync_dir
from ..core.files.lock import RunLock, acquire, find_lock
from ..core.files.schema import COUNT, check_form, check_plain
from ..core.files.untrusted import hash_of, read_json, read_text, read_yaml
from ..datasets.npz import read_arrays
from ..errors import DataError
from ..experiments.resolve import PATH_KEYS
from ..metrics.dynamics import Dynamics
from .schema import check_about, check_failure, check_record

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
_READABLE = (1,)  # every schema that was ever written; tests keep a record of each
_DEPTH = 10  # of config.yaml
_LARGEST_HISTORY = 1 << 24  # bytes of metrics.csv: of 100,000 epochs


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. held: this process's claim to it, while it has one; checked: whether the
    files of a finished run are held against the checksums of its record as they are read.
    """

    path: Path
    lock: RunLock | None = field(default=None, compare=False, repr=False)
    checked: bool = field(default=True, compare=False, repr=False)

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def error(self) -> Path:
        return self.path / "error.json"

    @property
    def resume(self) -> Path:
        return self.path / "resume.pt"

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.npz"

    @property
    def dynamics(self) -> Path:
        return self.path / "dynamics.npz"

    @property
    def history(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def claim(self) -> Path:
        return self.path / "claim"

    @property
    def trackers(self) -> Path:
        return self.path / "trackers.json"

    @property
    def name(self) -> str:
        """What the folder is called, as a text that can be written."""
        return self.path.name.encode(errors="replace").decode()

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
            ("failed", self.error, check_failure),
        ):
            if path.exists():
                return "damaged" if _is_damaged(path, check) else name
        return "resume" if self.resume.exists() else "run"

    @contextmanager
    def locked(self) -> Iterator[RunFolder]:
        """The folder while one holds the run, also against other machines on a shared folder; it
        writes only as long as one does.

        Raises RunTaken where somebody has it; so do its writers once somebody has taken it over.
        DataError where the folder is a link, which a stranger may have made: a run writes into its
        own alone. `runs/` itself may be one, onto another disk.
        """
        if self.path.is_symlink():
            raise DataError(
                f"{self.path} is a link, and a run writes into its own folder alone: "
                "remove the link"
            )
        with acquire(self.claim) as claim:
            yield replace(self, lock=claim)

    def lock_owner(self) -> str:
        """Who is at the run; empty where nobody is, or nobody can tell."""
        with suppress(OSError):
            found = find_lock(self.claim)
            return str(found.holder) if found and not found.holder.is_dead() else ""
        return ""

    def finished(self, key: str) -> dict[str, Any] | None:
        """The record of the run with this key, if there is a whole one.

        Raises DataError where it is of another version, or of another run.
        """
        if self.status() != "done":
            return None
        self.clean_up()
        return self.record_of(key)

    def clean_up(self) -> None:
        """Of a finished run: away with what a process left that died after writing its last file;
        nothing where another is at it, or nobody can write.
        """
        if self.lock is not None:
            self.resume.unlink(missing_ok=True)
        elif (self.claim.exists() or self.resume.exists()) and self.status() == "done":
            with suppress(DataError), self.locked() as ours:
                ours.clean_up()

    def check(self) -> None:
        """Raises RunTaken where the run was claimed and is so no longer."""
        if self.lock is not None:
            self.lock.check()

    def release(self) -> None:
        """The claim, if it is ours still, by a process that will not come back to end it."""
        if self.lock is not None:
            self.lock.end()

    def write(self, path: Path, write: Callable[[IO[bytes]], object]) -> None:
        """Fill one of the files by `write(file)`, whole or not at all, and not once the run is
        another's. Raises RunTaken, DataError.
        """

        def guarded(file: IO[bytes]) -> None:
            write(file)
            self.check()  # as late as can be: a process may sleep between any two lines

        try:
            atomic_write(path, guarded)
        except DataError:
            self.check()  # whoever took over sweeps away what is half written
            raise

    def write_text(self, path: Path, content: str) -> None:
        self.write(path, lambda file: file.write(content.encode()))

    def write_json(self, path: Path, content: dict[str, Any]) -> None:
        self.write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def write_result(self, record: dict[str, Any]) -> None:
        """result.json, the last of the files: from here on the run is finished, whatever happens to
        the machine. Its checkpoint goes.

        Raises DataError where one cannot write: the run has not failed for that.
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
        """error.json: the run is failed, not unfinished; `about` is what a table must know of it;
        batch: the examples of the step.
        """
        content = {
            "schema": SCHEMA,
            "about": about,
            "type": kind,
            "message": message,
            "traceback": trace,
        }
        self.write_json(self.error, {**content, **({"batch": list(batch)} if batch else {})})

    def note_failure(self, about: dict[str, Any], kind: str, message: str) -> None:
        """error.json by somebody who is not at the run, and says it anyway; nothing where another
        process is, or has finished it, and where one cannot write.
        """
        with suppress(DataError), self.locked() as folder:
            if folder.status() != "done":
                folder.write_error(about, kind, message)

    def failure(self) -> dict[str, Any]:
        """error.json. Raises DataError where it is damaged."""
        return self._read(self.error, check_failure)

    def write_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        self.write(self.predictions, lambda file: file.write(packed_npz(arrays)))

    def read_arrays(self) -> dict[str, np.ndarray]:
        """Everything in predictions.npz. Raises DataError."""
        self.check_written(self.predictions)
        return read_arrays(self.predictions)

    def write_dynamics(self, dynamics: Dynamics) -> None:
        self.write(
            self.dynamics, lambda file: file.write(packed_npz(dynamics.arrays(), deflated=True))
        )

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
        self.write_text(
            self.history,
            _csv_line(history[0]) + "".join(_csv_line(row.values()) for row in history),
        )

    def show_history(self, history: list[dict[str, Any]], *, begin: bool) -> None:
        """metrics.csv while the run is under way, so that one can watch it: the last line is added
        to the same file. begin: the file is made anew, since an earlier session may have left lines
        that are in no checkpoint.

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
                file.write(_csv_line(history[-1].values()).encode())

    def read_history(self) -> list[dict[str, float | None]]:
        """metrics.csv, a line an epoch, None where a number is not known. Raises DataError."""
        self.check_written(self.history)
        try:
            names, *rows = csv.reader(
                read_text(self.history, _LARGEST_HISTORY).splitlines(), strict=True
            )
            if not rows or "epoch" not in names or len(set(names)) < len(names):
                raise ValueError("it holds no epochs")
            return [
                {
                    name: float(value) if value else None
                    for name, value in zip(names, row, strict=True)
                }
                for row in rows
            ]
        except (OSError, ValueError, csv.Error) as error:
            raise DataError(f"{self.history} cannot be read ({error})") from None

    def checksums(self) -> dict[str, str]:
        """The sha256 of each file that a finished run leaves beside its record, of those that are
        there. Raises DataError.
        """
        return {
            path.name: _sha256(path)
            for path in (self.history, self.dynamics, self.predictions, self.weights)
            if path.exists()
        }

    def check_written(self, path: Path) -> None:
        """Raises DataError where a file that is there is not the one of which a finished run's
        record has the checksum: copied in part, or of a run that was to replace it and did not end.
        """
        if not self.checked or not self.result.exists() or not path.exists():
            return
        recorded = self.record().get("files")
        if isinstance(recorded, dict) and recorded.get(path.name, "") != _sha256(path):
            raise DataError(f"{path} is not the file that belongs to {self.result.name}, or only "
                            "a part of it: copy the folder again, or "
                            "run it again with --force")  # fmt: skip

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

    def record_of(self, key: str) -> dict[str, Any]:
        """The record, of the run that has this key. Raises DataError as `record` does, or where the
        folder holds another run.
        """
        record = self.record()
        if record["key"] != key:
            raise DataError(
                f"{self.path} holds the run {record['key'][:12]}, not {key[:12]}: "
                "move it away, or give --force"
            )
        return record

    def about(self) -> dict[str, Any]:
        """What a table must know of the run, by the same names whether it is finished or failed.
        Raises DataError.
        """
        if self.result.exists() or not self.error.exists():
            return _about(self.record())
        about = self.failure()["about"]
        try:
            check_about(about)
        except ValueError as error:
            raise DataError(
                f"{self.error} is damaged ({error}): delete the folder and run it again"
            ) from None
        return dict(about)

    def configuration(self) -> dict[str, Any]:
        """config.yaml: what the key was made of. Raises DataError where it cannot be read."""
        path = self.path / "config.yaml"
        try:
            content = read_yaml(read_text(path), _DEPTH)
            check_form(content, {})
            check_plain(content)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error})") from None
        return dict(content)

    def _read(self, path: Path, check: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        try:
            content = read_json(path)
            check_form(content, {"schema": COUNT})
            if content["schema"] not in _READABLE:
                raise DataError(
                    f"{path} has schema {content['schema']}, this version reads "
                    f"{', '.join(map(str, _READABLE))}"
                )
            check(content)
        except FileNotFoundError:
            raise DataError(f"{self.path} holds no finished run: no {path.name}") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged ({error}): run it again") from None
        return dict(content)


def _about(record: dict[str, Any]) -> dict[str, Any]:
    """A record's facts under the names that error.json uses for a failed run."""
    recipe = dict(record["recipe"])
    noise = record["noise"]
    return {
        **{
            key: record[key]
            for key in (
                "key",
                "method",
                "loss",
                "strategy",
                "precision",
                "seed",
                "oracle",
                "metrics",
            )
        },
        "recipe_name": recipe.pop("name"),
        "recipe": recipe,
        "dataset": record["data"]["name"],
        **{key: record["data"][key] for key in PATH_KEYS if key in record["data"]},
        "data_sha256": record["data"].get("sha256"),
        "model": record["model"]["name"],
        **({"init": record["init"]} if "init" in record else {}),
        "noise": noise["text"],
        "noise_seed": noise["seed"],
        "realised_rate": noise["realised_rate"],
        "held_out": noise.get("held_out", ""),
        **({"subset": noise["subset"]} if "subset" in noise else {}),
        "source_sha256": noise.get("source_sha256", ""),
        "known": noise.get("known", 1.0),
        "labels": noise.get("manifest_sha256", ""),
        "versions": _versions(record),
        **(
            {"test_images": images}
            if (images := record["metrics"].get("test", {}).get("n"))
            else {}
        ),
        "seconds": record["seconds"],
        "environment": record.get("environment", {}),
    }


def _versions(record: dict[str, Any]) -> dict[str, str]:
    """Of the parts that trained, and of the noise; an old record has not the latter, nor version 1
    of what the package has.
    """
    noise = record["noise"].get("version", "1")
    name = record["noise"]["text"].partition("(")[0]
    return {**record.get("versions", {}), **({} if noise == "1" else {f"noise:{name}": noise})}


def _csv_line(values: Iterable[Any]) -> str:
    return ",".join("" if value is None else str(value) for value in values) + "\n"


def _is_damaged(path: Path, check: Callable[[dict[str, Any]], None]) -> bool:
    """Whether a record can be read and is not valid. A record of a newer version is not damaged,
    and never replaced by itself.
    """
    try:
        content = read_json(path)
        check_form(content, {"schema": COUNT})
        if content["schema"] in _READABLE:
            check(content)
    except ValueError:
        return True
    except OSError:
        pass  # a file that cannot be read may be valid
    return False


def _sha256(path: Path) -> str:
    try:
        return hash_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from None


def run_folders(paths: Iterable[Path]) -> list[RunFolder]:
    """The run folders at or under some paths: a run, a folder of runs, a workspace. Raises
    DataError for a wrong path.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise DataError(f"no such folder: {path} (a run, a folder of runs, or a workspace)")
        root = path / "runs" if (path / "runs").is_dir() else path
        if _is_run(root):
            found[root] = None
        found.update(dict.fromkeys(child for child in _folders(root) if _is_run(child)))
    return [RunFolder(path) for path in found]


def _folders(root: Path) -> list[Path]:
    """What is in a folder that is a folder, sorted; the listing says so, without a question to the
    file server about each.
    """
    with os.scandir(root) as found:
        return [root / name for name in sorted(entry.name for entry in found if entry.is_dir())]


def _is_run(path: Path) -> bool:
    return any((path / name).exists() for name in ("result.json", "error.json", "config.yaml"))


def read_records(
    folders: Iterable[RunFolder], pass_over: Callable[[DataError], object]
) -> list[dict[str, Any]]:
    """The records of all finished runs among the folders; of a damaged one `pass_over` is told, and
    it is left out.
    """
    records = []
    for folder in folders:
        try:
            records += [folder.record()] if folder.result.exists() else []
        except DataError as error:
            pass_over(error)
    return records


def results(path: str | Path = "runs") -> pd.DataFrame:
    """One row a finished run, nested names joined by dots: `metrics.test_acc.last`, `noise.text`,
    `seed`.

    A damaged result file is warned of and left out.
    """
    import pandas as pd

    def warn(error: DataError) -> None:
        warnings.warn(str(error), stacklevel=4)

    return pd.json_normalize(read_records(run_folders([Path(path)]), warn), max_level=3)
