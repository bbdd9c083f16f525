"""Runs of a suite as a line of JSON, and what a worker answers, line by line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..experiments.suite import SuiteRun
from ..runs.queue import QueuedRun, make_packs

INTERRUPTED = 130  # the exit code of a worker that was told to stop before its bundle's end
STOP = "stop"  # the file beside a bundle's that says: stopping is for good


@dataclass(frozen=True)
class WorkerConfig:
    """Where a worker finds and puts things; workers: processes of its own that read pictures ahead;
    None for one a thread.
    """

    workspace: str
    data_dir: str
    offline: bool
    plugins: tuple[str, ...] = ()
    device: str = "auto"
    resume: bool = True
    workers: int | None = None

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def read(cls, line: str) -> WorkerConfig:
        content = json.loads(line)
        return cls(**{**content, "plugins": tuple(content["plugins"])})


@dataclass(frozen=True)
class Job:
    """A run of a suite, with the key and the facts that whoever planned it computed. `anew`: though
    it is finished.
    """

    number: int
    wanted: SuiteRun
    key: str
    folder: str
    about: dict[str, Any]
    anew: bool = False

    @classmethod
    def of(cls, number: int, item: QueuedRun) -> Job:
        """The precision is settled here: `auto` may be another where the run is executed, and with
        it the key.
        """
        wanted = replace(
            item.suite_run, settings={**item.suite_run.settings, "precision": item.run.precision}
        )
        return cls(
            number,
            wanted,
            item.run.key,
            str(item.folder.path),
            item.run.facts,
            item.status == "done",
        )

    @property
    def title(self) -> str:
        return str(self.about["title"])

    @classmethod
    def of_content(cls, content: dict[str, Any]) -> Job:
        return cls(**{**content, "wanted": SuiteRun(**content["wanted"])})


@dataclass(frozen=True)
class JobBatch:
    """What a worker does at once: one job, or several in the places of a pack of this width.

    name: the same over all tries, another for each bundle of a submission; begun: a worker of this
    command was at it before, whose checkpoints are taken up; lost: of how many machines one heard
    no more while they were at it.
    """

    jobs: tuple[Job, ...]
    width: int = 1
    name: str = ""
    started_before: bool = False
    machines_lost: int = 0

    def retry(self, jobs: Iterable[Job]) -> JobBatch:
        """What is left of it, for another worker."""
        return replace(self, jobs=tuple(jobs), started_before=True)

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def read(cls, line: str) -> JobBatch:
        content = json.loads(line)
        return cls(**{**content, "jobs": tuple(Job.of_content(job) for job in content["jobs"])})


def make_batches(items: Sequence[QueuedRun], todo: Sequence[QueuedRun]) -> list[JobBatch]:
    """What is to be done of a suite, each job numbered by its place in `todo`."""
    numbers = {id(item): number for number, item in enumerate(todo)}
    return [
        JobBatch(tuple(Job.of(numbers[id(item)], item) for item in load.items), load.width)
        for load in make_packs(items, todo)
    ]


@dataclass(frozen=True)
class Event:
    """`kind`: progress, done, failed, interrupted, taken by another process, or again, on another
    machine; `content` is Progress, the record's accuracy, or the message.
    """

    number: int
    kind: str
    content: dict[str, Any]

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def read(cls, line: str | bytes) -> Event | None:
        """None for a line that is not an event: empty, or only half written by a worker that was
        killed.
        """
        try:
            event = cls(**json.loads(line))
        except (ValueError, TypeError, RecursionError):
            return None
        return event if isinstance(event.number, int) and isinstance(event.content, dict) else None
