"""Batches and their events as files on a shared directory, `runs/.jobs/NAME/`.

A Slurm submission outlives the command: the same command, run again, finds its runs under way,
watches them, and submits the rest.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from typing_extensions import TypedDict

from ..core.files.atomic import write_text
from ..core.files.schema import check_form
from ..core.files.untrusted import MAX_BYTES, open_regular, read_json, read_text
from ..errors import DataError
from .job import STOP, WORKER, Event, JobBatch, WorkerConfig

JOBS = ".jobs"  # in runs/; no run's name begins with a dot
_READ_BYTES = 1 << 24  # at once; the rest is read the next time


class EventFile:
    """The events of one batch, a line of JSON each. An empty line: a worker started."""

    def __init__(self, path: Path) -> None:
        self.path, self._offset = path, 0

    def read(self) -> list[Event]:
        """The events since the last call. An incomplete line is read when it is complete, and left
        out if it never is.
        """
        try:
            # opened again each time, since only then does a network file system look again
            with open_regular(self.path) as file:
                file.seek(self._offset)
                lines, newline, _ = file.read(_READ_BYTES).rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offset += len(lines) + len(newline)
        return [event for line in lines.splitlines() if (event := Event.read(line)) is not None]

    def begin(self) -> bool:
        """Write that a worker starts; whether one did before. Ends the line that one died in."""
        started = self.started
        self._write(b"\n")
        return started

    @property
    def started(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > 0

    def append(self, event: Event) -> None:
        self._write(event.line().encode())

    def _write(self, line: bytes) -> None:
        """In one write, which is on the file server when this returns."""
        with self.path.open("ab", buffering=0) as file:
            file.write(line)
            os.fsync(file.fileno())


class _Accepted(TypedDict):
    """jobs.json: the cluster, and its job of each batch."""

    cluster: str
    jobs: list[str]


@dataclass(frozen=True)
class Submission:
    """One directory of batches."""

    path: Path

    @classmethod
    def make(cls, executor: str, config: WorkerConfig, batches: Iterable[JobBatch]) -> Submission:
        """Write the batches, each under a name of its own. Raises DataError."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:12]}"
        submission = cls(_folder(config) / name)
        for number, batch in enumerate(batches):
            named = replace(batch, name=batch.name or f"{executor}-{name}-{number}")
            write_text(submission.batch_file(number), config.line() + named.line())
        return submission

    @classmethod
    def accepted_ones(cls, config: WorkerConfig) -> list[Submission]:
        """The accepted submissions of a workspace, in order."""
        return [cls(path.parent) for path in sorted(_folder(config).glob("*/jobs.json"))]

    def batch_file(self, number: int) -> Path:
        return self.path / f"{number}.bundle"

    def events(self, number: int) -> EventFile:
        return EventFile(self.path / f"{number}.events")

    def batch(self, number: int) -> JobBatch:
        """Raises DataError where its file is missing or damaged."""
        path = self.batch_file(number)
        try:
            return JobBatch.read(read_text(path, MAX_BYTES).splitlines()[1])
        except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise DataError(
                f"{path} is damaged ({error}): delete {self.path} and run the suite again"
            ) from None

    def worker_options(self, number: int) -> tuple[str, ...]:
        """What Python is called with for a worker of this batch."""
        return (*WORKER, str(self.batch_file(number)), str(self.events(number).path))

    def accept(self, cluster: str, jobs: list[str]) -> None:
        """Write which cluster job has which batch; `accepted_ones` finds it from now on."""
        write_text(self.path / "jobs.json", json.dumps({"cluster": cluster, "jobs": jobs}) + "\n")

    def accepted(self) -> Iterator[tuple[str, int, str]]:
        """Cluster, batch number and cluster job of each batch; nothing if that cannot be read."""
        try:
            content = read_json(self.path / "jobs.json")
            check_form(content, _Accepted)
        except (OSError, ValueError):
            return
        jobs = enumerate(content["jobs"])
        yield from ((content["cluster"], number, job) for number, job in jobs)

    def stop(self) -> None:
        """Tell all workers that they are not started again after they were stopped."""
        write_text(self.path / STOP, "")

    def forget(self) -> None:
        """Delete it, logs and all."""
        shutil.rmtree(self.path, ignore_errors=True)


def _folder(config: WorkerConfig) -> Path:
    return Path(config.workspace).absolute() / "runs" / JOBS
