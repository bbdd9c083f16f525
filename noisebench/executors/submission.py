"""Events in a file that one process appends to and others read, on whatever machines.

A submission on the shared folder, `runs/.jobs/NAME/`: for each bundle a file of it and one of its
events, and which cluster job has it.

It outlives whoever submitted, so that the same command finds its runs under way: it watches them,
and submits the rest.
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

from ..core.files.atomic import write_text
from ..core.files.schema import TEXT, check_form
from ..core.files.untrusted import MAX_BYTES, open_regular, read_json, read_text
from ..errors import DataError
from .job import STOP, Event, JobBatch, WorkerConfig

_AT_ONCE = 1 << 24  # bytes; what is beyond is read the next time


class EventFile:
    """One bundle's events, a line of JSON each. An empty line says that a worker began."""

    def __init__(self, path: Path) -> None:
        self.path, self._at = path, 0

    def read(self) -> list[Event]:
        """What was appended since it was last asked. A line that is not yet whole waits; one that
        never got whole is left out.
        """
        try:
            # opened anew each time: that is when a network file system looks again
            with open_regular(self.path) as file:
                file.seek(self._at)
                whole, newline, _ = file.read(_AT_ONCE).rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._at += len(whole) + len(newline)
        return [event for line in whole.splitlines() if (event := Event.read(line)) is not None]

    def begin(self) -> bool:
        """Say that a worker begins; whether one did before. Ends the line that one died over."""
        before = self.begun
        self._write(b"\n")
        return before

    @property
    def begun(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > 0

    def append(self, event: Event) -> None:
        self._write(event.line().encode())

    def _write(self, line: bytes) -> None:
        """At once, and so that it is at the file server when this returns."""
        with self.path.open("ab", buffering=0) as file:
            file.write(line)
            os.fsync(file.fileno())


JOBS = ".jobs"  # within runs/; no run's name begins with a dot


@dataclass(frozen=True)
class Submission:
    """One folder of bundles."""

    path: Path

    @classmethod
    def make(cls, runs: Path, place: WorkerConfig, bundles: Iterable[JobBatch]) -> Submission:
        """Write the bundles down, each under a name of its own. Raises DataError where one cannot
        write.
        """
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        made = cls(runs.absolute() / JOBS / name)
        for number, bundle in enumerate(bundles):
            named = replace(bundle, name=bundle.name or f"slurm-{name}-{number}")
            write_text(made.bundle_file(number), place.line() + named.line())
        return made

    @classmethod
    def all(cls, runs: Path) -> list[Submission]:
        """Those that lie there, in order."""
        return [cls(path.parent) for path in sorted((runs.absolute() / JOBS).glob("*/jobs.json"))]

    def bundle_file(self, number: int) -> Path:
        return self.path / f"{number}.bundle"

    def event_file(self, number: int) -> Path:
        return self.path / f"{number}.events"

    def bundle(self, number: int) -> JobBatch:
        """Raises DataError where its file is missing or damaged."""
        path = self.bundle_file(number)
        try:
            return JobBatch.read(read_text(path, MAX_BYTES).splitlines()[1])
        except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise DataError(
                f"{path} is damaged ({error}): delete {self.path} and run the suite again"
            ) from None

    def events(self, number: int) -> EventFile:
        return EventFile(self.event_file(number))

    def accept(self, cluster: str, jobs: list[str]) -> None:
        """Remember which cluster job has which bundle: from now on it is found."""
        write_text(self.path / "jobs.json", json.dumps({"cluster": cluster, "jobs": jobs}) + "\n")

    def accepted(self) -> Iterator[tuple[str, int, str]]:
        """Cluster, bundle number and cluster job, of each bundle; nothing where that cannot be
        read.
        """
        try:
            content = read_json(self.path / "jobs.json")
            check_form(content, {"cluster": TEXT, "jobs": [TEXT]})
        except (OSError, ValueError):
            return
        yield from ((content["cluster"], number, job) for number, job in enumerate(content["jobs"]))

    def stop(self) -> None:
        """Say to all its workers that being stopped is for good."""
        write_text(self.path / STOP, "")

    def forget(self) -> None:
        """Delete it, logs and all."""
        shutil.rmtree(self.path, ignore_errors=True)
