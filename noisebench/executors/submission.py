"""A submission on the shared folder, `runs/.jobs/NAME/`: for each bundle a file of it and one of its events, and which cluster job has it.

It outlives whoever submitted, so that the same command finds its runs under way: it watches them, and submits the rest.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.files.atomic import write_text
from ..core.files.schema import TEXT, check_form
from ..core.files.untrusted import LARGEST, read_json, read_text
from ..errors import DataError
from .events import EventFile
from .job import STOP, Bundle, Place

JOBS = ".jobs"  # within runs/; no run's name begins with a dot


@dataclass(frozen=True)
class Submission:
    """One folder of bundles."""

    path: Path

    @classmethod
    def make(cls, runs: Path, place: Place, bundles: Iterable[Bundle]) -> Submission:
        """Write the bundles down, each under a name of its own. Raises DataError where one cannot write."""
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

    def bundle(self, number: int) -> Bundle:
        """Raises DataError where its file is missing or damaged."""
        path = self.bundle_file(number)
        try:
            return Bundle.read(read_text(path, LARGEST).splitlines()[1])
        except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise DataError(f"{path} is damaged ({error}): delete {self.path} and run the suite again") from None

    def events(self, number: int) -> EventFile:
        return EventFile(self.event_file(number))

    def accept(self, cluster: str, jobs: list[str]) -> None:
        """Remember which cluster job has which bundle: from now on it is found."""
        write_text(self.path / "jobs.json", json.dumps({"cluster": cluster, "jobs": jobs}) + "\n")

    def accepted(self) -> Iterator[tuple[str, int, str]]:
        """Cluster, bundle number and cluster job, of each bundle; nothing where that cannot be read."""
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
