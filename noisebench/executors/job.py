"""What executors share: their names and options, the jobs and events that they exchange with a
worker, and what follows when a worker ends. Imports none of their packages.

Jobs and events are lines of JSON. A line goes through a pipe, or batches and their events are files
on a shared directory, `runs/.jobs/NAME/`. A Slurm submission outlives the command: the same
command, run again, finds its runs under way, watches them, and submits the rest.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ..core.files.atomic import write_text
from ..core.files.untrusted import MAX_BYTES, open_regular, read_json, read_text
from ..errors import ConfigError, DataError
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
        suite_run, folder = replace(item.suite_run, settings=settings), str(item.folder.path)
        key, facts = item.run.key, {"key": item.run.key, **item.run.facts}
        return cls(number, suite_run, key, folder, facts, item.status == "done")

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

    def retry(self, jobs: Sequence[Job]) -> JobBatch:
        """The jobs that remain, for another worker."""
        return replace(self, jobs=tuple(jobs), started_before=True)

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
        reason = {"message": "stopped before it began"}
        numbers = [job.number for job in self.unfinished]
        events = [self.ends.get(number, Event(number, "interrupted", reason)) for number in numbers]
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
            batch = replace(self.batch.retry(jobs), machines_lost=lost)
            events = [
                Event(job.number, "again", {"message": f"{job.title} goes on elsewhere: {message}"})
                for job in jobs
            ]
            return Outcome([batch] if jobs else [], events)
        taken = {number: event for number, event in self.ends.items() if event.kind == "taken"}
        others = [job for job in jobs if job.number not in taken]
        failed = _failed(others, "WorkerLost", f"{message}, {lost} times")
        return Outcome([], [*taken.values(), *failed])


def _failed(jobs: Sequence[Job], kind: str, message: str) -> Iterator[Event]:
    """Write the failure into the run's folder, which the worker could not, and report it."""
    for job in jobs:
        RunFolder(Path(job.folder)).note_failure(job.facts, kind, message)
        yield Event(job.number, "failed", {"message": f"{job.title} failed: {message}"})


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

    @property
    def started(self) -> bool:
        """Whether a worker has started on the batch."""
        return self.path.exists() and self.path.stat().st_size > 0

    def append(self, line: str) -> None:
        """Write an event's line, or an empty one as a worker starts, which also ends a line that
        an earlier worker died in. On the file server when this returns.
        """
        with self.path.open("ab", buffering=0) as file:
            file.write(line.encode())
            os.fsync(file.fileno())


@dataclass(frozen=True)
class Submission:
    """One directory of batches."""

    path: Path

    @classmethod
    def make(
        cls, executor: str, config: WorkerConfig, batches: Sequence[JobBatch]
    ) -> tuple[Submission, list[JobBatch]]:
        """Write the batches, and return them too: each has got a name."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:12]}"
        submission = cls(_jobs_folder(config) / name)
        named = [
            replace(batch, name=batch.name or f"{executor}-{name}-{number}")
            for number, batch in enumerate(batches)
        ]
        for number, batch in enumerate(named):
            write_text(submission.batch_file(number), config.line() + batch.line())
        return submission, named

    @classmethod
    def accepted_ones(cls, config: WorkerConfig) -> list[Submission]:
        """The accepted submissions of a workspace, in order."""
        return [cls(path.parent) for path in sorted(_jobs_folder(config).glob("*/jobs.json"))]

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

    def accepted(self) -> list[tuple[str, int, str]]:
        """Cluster, batch number and cluster job of each batch; none where another command has
        deleted the submission meanwhile.
        """
        try:
            content = read_json(self.path / "jobs.json")
        except FileNotFoundError:
            return []
        return [(content["cluster"], number, job) for number, job in enumerate(content["jobs"])]

    def forget(self) -> None:
        """Delete it, logs and all."""
        shutil.rmtree(self.path, ignore_errors=True)


def _jobs_folder(config: WorkerConfig) -> Path:
    return Path(config.workspace).absolute() / "runs" / JOBS


class Executor(Protocol):
    """Where runs execute. Every job ends, however its worker does: done, failed, interrupted, or
    taken by another process. What a subclass does not define, it need not do.
    """

    config: WorkerConfig

    def max_parallel(self, count: int) -> int:
        """How many of `count` batches run at a time. Raises ConfigError if a cluster does not
        answer.
        """

    def prepare(self) -> None:
        """Start what takes a moment, while the runs are planned."""

    def run(self, batches: list[JobBatch], stopped: Callable[[], bool] = ...) -> Iterator[Event]:
        """Every job's events as they come. When `stopped()` turns true all is saved and stopped."""

    def stop(self) -> None:
        """Ask the running workers to save and end; start nothing more."""

    def tidy(self) -> None:
        """Delete what earlier commands left for a cluster, since no run is left to do."""


@dataclass(frozen=True)
class ExecutorOptions:
    """How runs are to be executed.

    jobs: at a time; address: of a Ray cluster; cpus, gpus: of each run; slurm: KEY=VALUE; detach:
    submit, and do not wait.
    """

    jobs: int | None = None
    address: str | None = None
    cpus: int | None = None
    gpus: float | None = None
    slurm: tuple[str, ...] = ()
    detach: bool = False


_OPTIONS = {
    "address": "--address",
    "cpus": "--cpus-per-run",
    "gpus": "--gpus-per-run",
    "slurm": "--slurm",
    "detach": "--detach",
}


@dataclass(frozen=True)
class ExecutorInfo:
    """One executor: a class of (config, options) in the module of its name. `supported`: the
    options that only some executors have.
    """

    name: str
    factory: str
    summary: str
    supported: tuple[str, ...] = ()


# the extra that installs an executor's package has its name
EXECUTORS = {
    info.name: info
    for info in (
        ExecutorInfo("local", "LocalPool", "worker processes on this machine"),
        ExecutorInfo(
            "ray",
            "RayPool",
            "a Ray cluster, or one of its own on this machine",
            ("address", "cpus", "gpus"),
        ),
        ExecutorInfo(
            "slurm",
            "SlurmPool",
            "array jobs on Slurm, by submitit",
            ("cpus", "gpus", "slurm", "detach"),
        ),
    )
}


def open_executor(name: str, config: WorkerConfig, options: ExecutorOptions) -> Executor:
    """An executor. Raises ConfigError for an unknown name, an option without effect there, or a
    package that is missing.
    """
    if name not in EXECUTORS:
        raise ConfigError(f"--executor is one of {', '.join(EXECUTORS)}, got {name!r}")
    for key, option in _OPTIONS.items():
        if getattr(options, key) not in (None, (), False) and key not in EXECUTORS[name].supported:
            supporting = [info.name for info in EXECUTORS.values() if key in info.supported]
            raise ConfigError(
                f"{option} has an effect with --executor {' and '.join(supporting)} only"
            )
    device, gpus = config.device, options.gpus
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise ConfigError(
            f"--gpus-per-run is a share of one GPU, such as 0.25, or a whole number, got {gpus:g}"
        )
    if gpus and device == "cpu":
        raise ConfigError("--gpus-per-run has no effect with --device cpu")
    if name != "local" and device.startswith("cuda:"):
        raise ConfigError(
            f"--executor {name} says itself which GPU is whose: --device cuda, got {device!r}"
        )
    if name != "local" and device == "cuda" and not gpus:
        raise ConfigError("--device cuda needs --gpus-per-run 1, or a share of one")
    try:
        module = import_module(f"{__package__}.{name}")
        executor: Executor = getattr(module, EXECUTORS[name].factory)(config, options)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--executor {name} needs {(error.name or name).partition('.')[0]}: pip "
            f"install 'noisebench[{name}]'"
        ) from None
    return executor
