"""What an executor and a worker exchange, as lines of JSON; and what follows when a worker ends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..experiments.suite import SuiteRun
from ..runs.folder import RunFolder
from ..runs.queue import QueuedRun, make_packs

WORKER = ("-m", "noisebench.executors.worker")
INTERRUPTED = 130  # exit code of a worker that was stopped before the end of its batch
STOP = "stop"  # a file beside the batch's: the worker is not to be started again
MAX_LOST = 3  # machines lost by one batch; the next one fails its runs, which may be the cause


class _Message:
    """A dataclass that is written as a line of JSON."""

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"  # type: ignore[call-overload]


@dataclass(frozen=True)
class WorkerConfig(_Message):
    """What a worker needs to know of the command.

    `workers` is the number of processes that read images ahead; None: one per thread.
    """

    workspace: str
    data_dir: str
    offline: bool
    plugins: tuple[str, ...] = ()
    device: str = "auto"
    resume: bool = True
    workers: int | None = None

    @classmethod
    def read(cls, line: str) -> WorkerConfig:
        content = json.loads(line)
        return cls(**{**content, "plugins": tuple(content["plugins"])})


@dataclass(frozen=True)
class Job:
    """A run of a suite, with the key and the facts computed by the command that planned it.

    `force` trains a finished run again.
    """

    number: int
    suite_run: SuiteRun
    key: str
    folder: str
    facts: dict[str, Any]
    force: bool = False

    @classmethod
    def of(cls, number: int, item: QueuedRun) -> Job:
        """The precision is fixed here: `auto` may be another on the worker's machine, and with it
        the key.
        """
        settings = {**item.suite_run.settings, "precision": item.run.precision}
        suite_run = replace(item.suite_run, settings=settings)
        folder, force = str(item.folder.path), item.status == "done"
        return cls(number, suite_run, item.run.key, folder, item.run.facts, force)

    @property
    def title(self) -> str:
        return str(self.facts["title"])


@dataclass(frozen=True)
class JobBatch(_Message):
    """What a worker does at once: one job, or the jobs of a pack of this width.

    `name` is the same over all tries. `started_before`: a worker of this command began it, whose
    checkpoints are resumed. `machines_lost`: how many machines stopped responding during it.
    """

    jobs: tuple[Job, ...]
    width: int = 1
    name: str = ""
    started_before: bool = False
    machines_lost: int = 0

    def retry(self, jobs: Sequence[Job], machines_lost: int | None = None) -> JobBatch:
        """The jobs that remain, for another worker."""
        lost = self.machines_lost if machines_lost is None else machines_lost
        return replace(self, jobs=tuple(jobs), started_before=True, machines_lost=lost)

    @classmethod
    def read(cls, line: str) -> JobBatch:
        content = json.loads(line)
        jobs = (
            Job(**{**job, "suite_run": SuiteRun(**job["suite_run"])}) for job in content["jobs"]
        )
        return cls(**{**content, "jobs": tuple(jobs)})


def make_batches(items: Sequence[QueuedRun], todo: Sequence[QueuedRun]) -> list[JobBatch]:
    """The runs of a suite that are to be done, each job numbered by its index in `todo`."""
    numbers = {id(item): number for number, item in enumerate(todo)}
    return [
        JobBatch(tuple(Job.of(numbers[id(item)], item) for item in pack.items), pack.width)
        for pack in make_packs(items, todo)
    ]


@dataclass(frozen=True)
class Event(_Message):
    """What a worker reports of a job.

    `kind` is progress, done, failed, interrupted, taken (by another process), or again (on another
    machine); `content` is Progress, the record's accuracy, or the message.
    """

    number: int
    kind: str
    content: dict[str, Any]

    @classmethod
    def read(cls, line: str | bytes) -> Event | None:
        """None for an empty line, or one that a killed worker wrote in part."""
        try:
            event = cls(**json.loads(line))
        except (ValueError, TypeError, RecursionError):
            return None
        return event if isinstance(event.number, int) and isinstance(event.content, dict) else None


@dataclass(frozen=True)
class Outcome:
    """The batches for another worker, and the events to pass on now."""

    retry: list[JobBatch]
    events: list[Event]


@dataclass
class Attempt:
    """One batch at one worker.

    Call `on_event` for every event. When the worker has ended, ask once what follows: `died` or
    `lost` where it ended badly, `stopped` when all is being stopped, else `ended`.
    """

    batch: JobBatch
    ends: dict[int, Event] = field(default_factory=dict)

    def on_event(self, event: Event) -> Iterator[Event]:
        """Note an event; pass it on, except for ends that another worker may still change."""
        if event.kind == "progress":
            self.ends.pop(event.number, None)  # it was resumed
        else:
            self.ends[event.number] = event
        if not self._is_open(event):
            yield event

    def _is_open(self, event: Event) -> bool:
        """Interrupted; or locked by the worker on the lost machine, which saves and ends, or whose
        lock expires.
        """
        lock_expires = event.kind == "taken" and self.batch.machines_lost > 0
        return event.kind == "interrupted" or lock_expires

    @property
    def answered(self) -> bool:
        """Whether the worker reported an end of every job."""
        return len(self.ends) == len(self.batch.jobs)

    @property
    def unfinished(self) -> list[Job]:
        """The jobs for another worker."""
        return [
            job
            for job in self.batch.jobs
            if job.number not in self.ends or self._is_open(self.ends[job.number])
        ]

    def ended(self) -> Outcome:
        """The worker ended normally, or it alone was stopped: another one resumes what is left."""
        jobs = self.unfinished
        return Outcome([self.batch.retry(jobs)] if jobs else [], [])

    def stopped(self) -> Outcome:
        """All is being stopped."""
        default = Event(-1, "interrupted", {"message": "stopped before it began"})
        events = [
            replace(self.ends.get(job.number, default), number=job.number)
            for job in self.unfinished
        ]
        return Outcome([], events)

    def died(self, message: str) -> Outcome:
        """The worker died during the jobs without an end: they are retried in halves, until one by
        itself has failed.
        """
        silent = [job for job in self.batch.jobs if job.number not in self.ends]
        interrupted = [job for job in self.unfinished if job.number in self.ends]
        if len(self.batch.jobs) == 1:
            parts, events = [interrupted], list(_failed(silent, "WorkerDied", message))
        else:
            middle = -(-len(silent) // 2)
            parts, events = [interrupted, silent[:middle], silent[middle:]], []
        return Outcome([self.batch.retry(jobs) for jobs in parts if jobs], events)

    def lost(self, message: str) -> Outcome:
        """The machine stopped responding, which is seldom its runs' fault: they are resumed on
        another one, up to MAX_LOST times.
        """
        jobs, lost = self.unfinished, self.batch.machines_lost + 1
        if lost <= MAX_LOST:
            events = [
                Event(job.number, "again", {"message": f"{job.title} goes on elsewhere: {message}"})
                for job in jobs
            ]
            return Outcome([self.batch.retry(jobs, machines_lost=lost)] if jobs else [], events)
        taken = [
            self.ends[job.number]
            for job in jobs
            if job.number in self.ends and self.ends[job.number].kind == "taken"
        ]
        numbers = {event.number for event in taken}
        others = [job for job in jobs if job.number not in numbers]
        return Outcome([], [*taken, *_failed(others, "WorkerLost", f"{message}, {lost} times")])


def _failed(jobs: Sequence[Job], kind: str, message: str) -> Iterator[Event]:
    """Write the failure into the run's folder, which the worker could not, and report it."""
    for job in jobs:
        RunFolder(Path(job.folder)).note_failure(job.facts, kind, message)
        yield Event(job.number, "failed", {"message": f"{job.title} failed: {message}"})
