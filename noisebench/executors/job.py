"""Shared by all executors: their names and options, the jobs and events exchanged with a worker,
and what to do when a worker ends. Imports none of their packages.

Jobs and events are lines of JSON, sent through a pipe or stored as files in a shared directory,
`runs/.jobs/NAME/`. A Slurm submission outlives the command: the same command, rerun, finds the runs
in progress, watches them, and submits the rest.
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
STOP = "stop"  # a file next to the batch's: do not restart the worker
MAX_LOST = 3  # machines lost by one batch; after one more its runs fail, as the likely cause


class _Message:
    """A dataclass that is written as a line of JSON."""

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"  # type: ignore[call-overload]


@dataclass(frozen=True)
class WorkerConfig(_Message):
    """The command's settings for a worker.

    workers: number of processes that read images ahead; None: one per thread.
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
    """A run of a suite, with the key and the facts computed by the command.

    force: train a finished run again.
    """

    number: int
    suite_run: SuiteRun
    key: str
    folder: str
    facts: dict[str, Any]
    force: bool = False

    @classmethod
    def of(cls, number: int, item: QueuedRun) -> Job:
        """The job for an item. The precision is fixed here: `auto` may mean another one on the
        worker's machine, which would change the key.
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
    """The jobs that a worker trains at once: one job, or the jobs of a pack of this width.

    name: the same in all attempts; started_before: a worker of this command started the batch, so
    its checkpoints are resumed; machines_lost: number of machines that stopped responding during
    it.
    """

    jobs: tuple[Job, ...]
    width: int = 1
    name: str = ""
    started_before: bool = False
    machines_lost: int = 0

    def retry(self, jobs: Sequence[Job]) -> JobBatch:
        """A batch of the remaining jobs, for another worker."""
        return replace(self, jobs=tuple(jobs), started_before=True)

    @classmethod
    def read(cls, line: str) -> JobBatch:
        content = json.loads(line)
        jobs = (
            Job(**{**job, "suite_run": SuiteRun(**job["suite_run"])}) for job in content["jobs"]
        )
        return cls(**{**content, "jobs": tuple(jobs)})


def make_batches(items: Sequence[QueuedRun], todo: Sequence[QueuedRun]) -> list[JobBatch]:
    """The batches for the runs to do, each job numbered by its index in `todo`."""
    numbers = {id(item): number for number, item in enumerate(todo)}
    return [
        JobBatch(tuple(Job.of(numbers[id(item)], item) for item in pack.items), pack.width)
        for pack in make_packs(items, todo)
    ]


@dataclass(frozen=True)
class Event(_Message):
    """A worker's report on a job.

    kind: progress, done, failed, interrupted, taken (by another process), or again (on another
    machine); content: Progress, the accuracy, or the message.
    """

    number: int
    kind: str
    content: dict[str, Any]

    @classmethod
    def read(cls, line: str | bytes) -> Event | None:
        """The event in a line; None for an empty line, or a partial one of a killed worker."""
        try:
            event = cls(**json.loads(line))
        except (ValueError, TypeError, RecursionError):
            return None
        return event if isinstance(event.number, int) and isinstance(event.content, dict) else None


@dataclass(frozen=True)
class Outcome:
    """The batches to retry on another worker, and the events to report now."""

    retry: list[JobBatch]
    events: list[Event]


@dataclass
class Attempt:
    """One batch on one worker.

    Call `on_event` for every event. When the worker has ended, call one of these for the outcome:
    `died` or `lost` if it ended abnormally, `stopped` if everything is being stopped, else `ended`.
    """

    batch: JobBatch
    ends: dict[int, Event] = field(default_factory=dict)

    def on_event(self, event: Event) -> Iterator[Event]:
        """Note an event; yields it unless another worker may still change how the job ends."""
        if event.kind == "progress":
            self.ends.pop(event.number, None)  # the job was resumed
        else:
            self.ends[event.number] = event
        if not self._is_open(event):
            yield event

    def _is_open(self, event: Event) -> bool:
        """Whether the job is to be retried: interrupted, or locked by a worker on a lost machine,
        which ends or whose lock expires.
        """
        lock_expires = event.kind == "taken" and self.batch.machines_lost > 0
        return event.kind == "interrupted" or lock_expires

    @property
    def answered(self) -> bool:
        """Whether the worker reported the end of every job."""
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
        """The worker ended normally, or only it was stopped: another one resumes the other jobs."""
        jobs = self.unfinished
        return Outcome([self.batch.retry(jobs)] if jobs else [], [])

    def stopped(self) -> Outcome:
        """Everything is being stopped."""
        reason = {"message": "stopped before it started"}
        numbers = [job.number for job in self.unfinished]
        events = [self.ends.get(number, Event(number, "interrupted", reason)) for number in numbers]
        return Outcome([], events)

    def died(self, message: str) -> Outcome:
        """The worker died: the jobs that have not ended are retried in halves, until a single one
        fails.
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
        """The machine stopped responding, which is rarely caused by its runs: they are resumed on
        another one, up to MAX_LOST times.
        """
        jobs, lost = self.unfinished, self.batch.machines_lost + 1
        if lost <= MAX_LOST:
            batch = replace(self.batch.retry(jobs), machines_lost=lost)
            events = [
                Event(job.number, "again", {"message": f"{job.title} resumes elsewhere: {message}"})
                for job in jobs
            ]
            return Outcome([batch] if jobs else [], events)
        taken = {number: event for number, event in self.ends.items() if event.kind == "taken"}
        others = [job for job in jobs if job.number not in taken]
        failed = _failed(others, "WorkerLost", f"{message}, {lost} times")
        return Outcome([], [*taken.values(), *failed])


def _failed(jobs: Sequence[Job], kind: str, message: str) -> Iterator[Event]:
    """Write the failure to the run directory, which the worker could not do, and report it."""
    for job in jobs:
        RunFolder(Path(job.folder)).note_failure(job.facts, kind, message)
        yield Event(job.number, "failed", {"message": f"{job.title} failed: {message}"})


JOBS = ".jobs"  # in runs/; names of runs never begin with a dot
_READ_BYTES = 1 << 24  # per call; the rest is read in the next one


class EventFile:
    """The events of one batch, one line of JSON each. An empty line: a worker started."""

    def __init__(self, path: Path) -> None:
        self.path, self._offset = path, 0

    def read(self) -> list[Event]:
        """The events since the last call. An incomplete line is read once it is complete, and
        ignored if it never is.
        """
        try:
            # opened each time, since network file systems refresh a file only when it is opened
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
        """Append an event's line, or an empty one when a worker starts, which also ends the partial
        line of a killed worker. The line is on the file server when this returns.
        """
        with self.path.open("ab", buffering=0) as file:
            file.write(line.encode())
            os.fsync(file.fileno())


@dataclass(frozen=True)
class Submission:
    """A directory of submitted batches."""

    path: Path

    @classmethod
    def make(
        cls, executor: str, config: WorkerConfig, batches: Sequence[JobBatch]
    ) -> tuple[Submission, list[JobBatch]]:
        """Write the batches; returns the submission and the batches with names."""
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
        """The accepted submissions of a workspace, oldest first."""
        return [cls(path.parent) for path in sorted(_jobs_folder(config).glob("*/jobs.json"))]

    def batch_file(self, number: int) -> Path:
        return self.path / f"{number}.bundle"

    def events(self, number: int) -> EventFile:
        return EventFile(self.path / f"{number}.events")

    def batch(self, number: int) -> JobBatch:
        """The batch with this number. Raises DataError if its file is missing or damaged."""
        path = self.batch_file(number)
        try:
            return JobBatch.read(read_text(path, MAX_BYTES).splitlines()[1])
        except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise DataError(
                f"{path} is damaged ({error}): delete {self.path} and run the suite again"
            ) from None

    def worker_options(self, number: int) -> tuple[str, ...]:
        """Python's arguments to start a worker for this batch."""
        return (*WORKER, str(self.batch_file(number)), str(self.events(number).path))

    def accept(self, cluster: str, jobs: list[str]) -> None:
        """Write the cluster job of each batch; from now on, `accepted_ones` finds the
        submission.
        """
        write_text(self.path / "jobs.json", json.dumps({"cluster": cluster, "jobs": jobs}) + "\n")

    def accepted(self) -> list[tuple[str, int, str]]:
        """Cluster, batch number and cluster job of each batch; empty if another command has deleted
        the submission.
        """
        try:
            content = read_json(self.path / "jobs.json")
        except FileNotFoundError:
            return []
        return [(content["cluster"], number, job) for number, job in enumerate(content["jobs"])]

    def forget(self) -> None:
        """Delete the submission with its logs."""
        shutil.rmtree(self.path, ignore_errors=True)


def _jobs_folder(config: WorkerConfig) -> Path:
    return Path(config.workspace).absolute() / "runs" / JOBS


class Executor(Protocol):
    """Executes runs. Every job ends as done, failed, interrupted, or taken by another process,
    however its worker ends. Subclasses may omit methods that they do not need.
    """

    config: WorkerConfig

    def max_parallel(self, count: int) -> int:
        """The number of `count` batches that run at a time. Raises ConfigError if a cluster does
        not respond.
        """

    def prepare(self) -> None:
        """Start slow preparations in the background, while the runs are planned."""

    def run(self, batches: list[JobBatch], stopped: Callable[[], bool] = ...) -> Iterator[Event]:
        """Yields every job's events as they arrive. Once `stopped()` is true, saves and stops
        all.
        """

    def stop(self) -> None:
        """Signal the running workers to save and end; start no more batches."""

    def tidy(self) -> None:
        """Delete files of earlier submissions; called when no run is left to do."""


@dataclass(frozen=True)
class ExecutorOptions:
    """How to execute runs.

    jobs: number at a time; address: of a Ray cluster; cpus, gpus: per run; slurm: KEY=VALUE;
    detach: submit and do not wait.
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
    """An available executor. factory: its class, called with (config, options), in the module of
    its name; supported: which of the optional options it has.
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
            "a Ray cluster, or a temporary one on this machine",
            ("address", "cpus", "gpus"),
        ),
        ExecutorInfo(
            "slurm",
            "SlurmPool",
            "Slurm array jobs, submitted with submitit",
            ("cpus", "gpus", "slurm", "detach"),
        ),
    )
}


def open_executor(name: str, config: WorkerConfig, options: ExecutorOptions) -> Executor:
    """Create an executor. Raises ConfigError for an unknown name, an option without effect, or a
    missing package.
    """
    if name not in EXECUTORS:
        raise ConfigError(f"--executor must be one of {', '.join(EXECUTORS)}, got {name!r}")
    for key, option in _OPTIONS.items():
        if getattr(options, key) not in (None, (), False) and key not in EXECUTORS[name].supported:
            supporting = [info.name for info in EXECUTORS.values() if key in info.supported]
            raise ConfigError(
                f"{option} has no effect here: use it with --executor {' or '.join(supporting)}"
            )
    device, gpus = config.device, options.gpus
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise ConfigError(
            f"--gpus-per-run must be a share of one GPU (0.25) or a whole number, got {gpus:g}"
        )
    if gpus and device == "cpu":
        raise ConfigError("--gpus-per-run has no effect with --device cpu")
    if name != "local" and device.startswith("cuda:"):
        raise ConfigError(
            f"--executor {name} assigns the GPUs itself: use --device cuda, got {device!r}"
        )
    if name != "local" and device == "cuda" and not gpus:
        raise ConfigError("--device cuda needs --gpus-per-run, such as 1 or 0.25")
    try:
        module = import_module(f"{__package__}.{name}")
        executor: Executor = getattr(module, EXECUTORS[name].factory)(config, options)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--executor {name} needs {(error.name or name).partition('.')[0]}: pip "
            f"install 'noisebench[{name}]'"
        ) from None
    return executor
