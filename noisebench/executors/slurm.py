"""The executor `slurm`: array jobs over the batches, submitted with submitit.

Each task is the command of a worker, a tuple of words, and returns its exit code. Events are files
in the shared directory. `--slurm KEY=VALUE` sets sbatch's options by their long names.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import submitit
from submitit.helpers import DelayedSubmission

from ..core.files.atomic import write_text
from ..errors import ConfigError
from .job import (
    INTERRUPTED,
    STOP,
    Attempt,
    Event,
    EventFile,
    Executor,
    ExecutorOptions,
    JobBatch,
    Outcome,
    Submission,
    WorkerConfig,
)
from .local import describe_exit, worker_environment

_CLUSTERS = ("slurm", "local")  # local: submitit's own, processes on this machine; for tests
_OTHER_OPTIONS = {
    "cpus_per_task": "--cpus-per-run",
    "gpus_per_node": "--gpus-per-run",
    "gpus_per_task": "--gpus-per-run",
    "gpus": "--gpus-per-run",
    "array": "--jobs",
    "array_parallelism": "--jobs",
    "requeue": "noisebench, always on",
    "nodes": "noisebench, a run is one process",
    "ntasks": "noisebench, a run is one process",
    "ntasks_per_node": "noisebench, a run is one process",
}
_SUBMITIT = {
    *("partition", "qos", "account", "constraint", "exclude", "nodelist", "gres", "mem"),
    *("mem_per_gpu", "mem_per_cpu", "comment", "mail_type", "mail_user", "dependency"),
    *("exclusive", "wckey", "job_name", "use_srun"),
}
_LISTS = {"setup", "teardown", "srun_args"}  # lines of the script; may be repeated
_MINUTES = "60"  # default time limit of a job, which is requeued until it is done
_REQUEUES = 1000  # number of times that a job may reach its time limit
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<a>\d+)(?::(?P<b>\d+))?(?::(?P<c>\d+))?")


def read_settings(options: ExecutorOptions) -> tuple[str, dict[str, Any]]:
    """The cluster, and the parameters of submitit's AutoExecutor. Raises ConfigError for a value
    that is not KEY=VALUE, given twice, or set by another option.
    """
    if options.gpus is not None and options.gpus != int(options.gpus):
        raise ConfigError(
            f"--executor slurm needs a whole number for --gpus-per-run, got {options.gpus:g}"
        )
    values = _pairs(options.slurm)
    cluster = values.pop("cluster", "slurm")
    if cluster not in _CLUSTERS:
        raise ConfigError(
            f"--slurm cluster must be one of {', '.join(_CLUSTERS)}, got {cluster!r}; to choose "
            "between several clusters: --slurm clusters=NAME"
        )
    parameters: dict[str, Any] = {
        "timeout_min": _minutes(values.pop("time", _MINUTES)),
        "cpus_per_task": options.cpus or 1,
        "slurm_job_name": "noisebench",
    }
    if options.gpus:
        parameters["gpus_per_node"] = int(options.gpus)
    for_sbatch: dict[str, Any] = {"requeue": True}
    for key, text in values.items():
        if key in _LISTS:
            parameters[f"slurm_{key}"] = text.split("\n")
        elif key == "signal_delay_s":
            if not text.isdigit() or not int(text):
                raise ConfigError(
                    f"--slurm signal_delay_s must be a whole number of seconds, got {text!r}"
                )
            parameters[f"slurm_{key}"] = int(text)
        else:
            value = {"true": True, "false": False}.get(text, text)
            if key in _SUBMITIT:
                parameters[f"slurm_{key}"] = value
            else:
                for_sbatch[key.replace("_", "-")] = value
    return cluster, {**parameters, "slurm_additional_parameters": for_sbatch}


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    values: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip().lstrip("-").replace("-", "_")
        if not equals or not key or not value:
            raise ConfigError(
                "--slurm must be KEY=VALUE with the long name of an sbatch option, such "
                f"as partition=gpu; got {text!r}"
            )
        if key in _OTHER_OPTIONS:
            raise ConfigError(f"--slurm {key} is not allowed: it is set by {_OTHER_OPTIONS[key]}")
        if key in values and key not in _LISTS:
            raise ConfigError(f"--slurm {key} is given twice: {values[key]} and {value}")
        values[key] = f"{values[key]}\n{value}" if key in values else value
    return values


def _minutes(text: str) -> int:
    """Minutes, rounded up, of a time in Slurm's formats: minutes, minutes:seconds,
    hours:minutes:seconds, days-hours[:minutes[:seconds]].
    """
    match = _TIME.fullmatch(text)
    if not match:
        raise ConfigError(
            "--slurm time must be minutes, hours:minutes:seconds or days-hours, in "
            f"Slurm's format; got {text!r}"
        )
    days, a, b, c = (int(match[name] or 0) for name in ("days", "a", "b", "c"))
    if match["days"] is not None or match["c"] is not None:
        hours, minutes, seconds = 24 * days + a, b, c
    else:
        hours, minutes, seconds = 0, a, b
    total = 60 * hours + minutes + (seconds + 59) // 60
    if not total:
        raise ConfigError(f"--slurm time must be above 0, got {text!r}")
    return total


# seconds to wait for what Slurm announced by SIGTERM: preemption, or the end of the job
_UNTIL_THE_END = 600.0
# exit codes of a worker that received a signal before it could handle it
_STOPPED_EARLY = {
    -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGUSR1, -signal.SIGUSR2,
}  # fmt: skip


class Command:
    """The task: runs a command to its end and returns the exit code. When preempted or out of time,
    it lets the command save, and submitit requeues it.
    """

    _child, _terminated = 0, False  # class attributes: only the words are pickled

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words

    def __call__(self) -> int:
        # submitit ignores SIGTERM, and Slurm may send it to the batch script alone
        before = signal.signal(signal.SIGTERM, self._terminate)
        try:
            while (code := self._run()) == INTERRUPTED and not self._terminated:
                pass  # only the worker was stopped
            interrupted = time.monotonic()
            while code == INTERRUPTED and time.monotonic() - interrupted < _UNTIL_THE_END:
                time.sleep(0.2)  # until the end, or submitit's signal
            return code
        finally:
            signal.signal(signal.SIGTERM, before)

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit to requeue the task; the worker saves first.

        Runs in a signal handler, so it does not use Popen, which may be inside a method.
        """
        child = self._child
        self._terminate()
        if child:
            _await(child)
        return DelayedSubmission(Command(self.words))

    def _run(self) -> int:
        process = subprocess.Popen(self.words, start_new_session=True)  # noqa: S603 - our own words
        self._child = process.pid
        _await(process.pid)
        self._child = 0
        code = process.wait()
        return INTERRUPTED if code in _STOPPED_EARLY else code

    def _terminate(self, *_: object) -> None:
        self._terminated = True
        if self._child:
            with suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGTERM)


def _await(child: int) -> None:
    """Wait until the child has ended; its exit code can still be read."""
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)


class _PlainUnpickler(pickle.Unpickler):
    """Reads only plain values, nothing that could be called."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it contains code: {module}.{name}")


def exit_code(path: Path) -> int:
    """The exit code in submitit's result pickle; never runs pickled code, since the directory is
    shared.

    Raises RuntimeError with the error of the job, or if the file is damaged.
    """
    try:
        with path.open("rb") as file:
            kind, result = _PlainUnpickler(file).load()
    except Exception as error:  # a broken pickle may raise anything
        raise RuntimeError(f"{path} cannot be read: {error}") from None
    if kind != "success" or not isinstance(result, int):
        raise RuntimeError(str(result))
    return result


_ARRAY = 1000  # batches of one array; Slurm's MaxArraySize is 1001 by default
_PARALLEL = 256  # tasks of an array that run at a time, by default
_POLL = 1.0  # seconds between two reads of the files of up to 200 batches
_ASK = 10.0  # seconds between two queries for a batch's cluster job
_LAST = 5.0  # seconds to wait for the end of a cluster job whose runs are done
# seconds to wait for stopped jobs to save: Slurm kills them after KillWait, 30 by default
_SAVING = 60.0


@dataclass
class _Watched:
    """A batch in a cluster job. numbers: job numbers in the submission -> in this command."""

    attempt: Attempt
    submission: Submission
    events: EventFile
    task: Any
    numbers: dict[int, int]
    asked_at: float = field(default_factory=time.monotonic)

    def new_events(self) -> Iterator[Event]:
        for event in self.events.read():
            if event.number in self.numbers:
                yield from self.attempt.on_event(replace(event, number=self.numbers[event.number]))


class SlurmPool(Executor):
    """Runs batches as Slurm jobs. All nodes need the same Python environment, and the workspace,
    the data and the plugins at the same paths.
    """

    def __init__(self, config: WorkerConfig, options: ExecutorOptions) -> None:
        # submitit writes to stdout, which is for data
        logging.getLogger("submitit").setLevel(logging.CRITICAL)
        self.config, self.jobs = config, options.jobs
        self._cluster, self._parameters = read_settings(options)
        self._watched: list[_Watched] = []
        self._finished: set[Submission] = set()
        self._stopped_at: float | None = None

    def max_parallel(self, count: int) -> int:
        """`--jobs`; Slurm decides how many of them run at once."""
        return max(1, min(self.jobs or _PARALLEL, count))

    def run(
        self, batches: list[JobBatch], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Yields every job's events as they arrive. Once `stopped()` is true, running jobs save,
        and all cluster jobs are cancelled.
        """
        self.submit(batches)
        while self._watched:
            if stopped():
                self.stop()
            for watched in list(self._watched):
                yield from watched.new_events()
                if (outcome := self._outcome(watched)) is not None:
                    self._watched.remove(watched)
                    self._finished.add(watched.submission)
                    yield from outcome.events
                    self._submit(outcome.retry)
            until = time.monotonic() + _POLL * max(1.0, len(self._watched) / 200)
            while self._watched and time.monotonic() < until:
                if stopped() and self._stopped_at is None:
                    break
                time.sleep(0.1)
        self._forget_done()

    def submit(self, batches: list[JobBatch]) -> tuple[int, int]:
        """Attach to the jobs of earlier submissions, and submit the rest; returns the numbers of
        attached and of submitted jobs.
        """
        jobs = {job.key: job for batch in batches for job in batch.jobs}
        for submission in Submission.accepted_ones(self.config):
            for cluster, number, task_id in submission.accepted():
                batch = submission.batch(number)
                matching = {job.number: jobs[job.key] for job in batch.jobs if job.key in jobs}
                task = _task(cluster, submission.path, task_id)
                if matching and not _has_ended(task):
                    attempt = Attempt(replace(batch, jobs=tuple(matching.values())))
                    numbers = {there: job.number for there, job in matching.items()}
                    events = submission.events(number)
                    self._watched.append(_Watched(attempt, submission, events, task, numbers))
        attached = {job.number for watched in self._watched for job in watched.attempt.batch.jobs}
        remaining = [
            replace(batch, jobs=tuple(job for job in batch.jobs if job.number not in attached))
            for batch in batches
        ]
        self._submit([batch for batch in remaining if batch.jobs])
        return len(attached), len(jobs) - len(attached)

    def stop(self) -> None:
        """Cancel the cluster jobs, once; Slurm signals them, so that they save."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            for submission in {watched.submission for watched in self._watched}:
                # prevents stopped workers from being restarted
                write_text(submission.path / STOP, "")
            for watched in self._watched:
                watched.task.cancel(check=False)

    def tidy(self) -> None:
        self._finished.update(Submission.accepted_ones(self.config))
        self._forget_done()

    def _submit(self, batches: list[JobBatch]) -> None:
        while batches and self._stopped_at is None:
            submission, array = Submission.make("slurm", self.config, batches[:_ARRAY])
            batches = batches[_ARRAY:]
            timeouts = {f"{self._cluster}_max_num_timeout": _REQUEUES}
            commands = []
            for number, batch in enumerate(array):
                # the environment is part of the command, so that it can be rerun by hand
                environment = worker_environment(self._parameters["cpus_per_task"], batch.name)
                variables = (f"{key}={value}" for key, value in environment.items())
                options = submission.worker_options(number)
                commands.append(Command(("env", *variables, sys.executable, *options)))
            try:
                executor = submitit.AutoExecutor(submission.path, self._cluster, **timeouts)
                executor.update_parameters(
                    **self._parameters, slurm_array_parallelism=self.max_parallel(_ARRAY)
                )
                tasks = executor.submit_array(commands)
            except Exception as error:  # sbatch, or submitit before it, refuses the settings
                submission.forget()
                raise ConfigError(
                    f"Slurm rejected the jobs: {_last_line(error)} (check --slurm KEY=VALUE, see "
                    "noisebench run --help)"
                ) from None
            submission.accept(self._cluster, [task.job_id for task in tasks])
            for number, (batch, task) in enumerate(zip(array, tasks, strict=True)):
                numbers = {job.number: job.number for job in batch.jobs}
                events = submission.events(number)
                self._watched.append(_Watched(Attempt(batch), submission, events, task, numbers))

    def _outcome(self, watched: _Watched) -> Outcome | None:
        """The outcome of a batch whose cluster job has ended; None while it may still run."""
        attempt = watched.attempt
        if not attempt.unfinished:
            return Outcome([], [])
        if self._stopped_at is not None:
            over = time.monotonic() - self._stopped_at > _SAVING
            if attempt.answered or over or not watched.events.started or _has_ended(watched.task):
                return attempt.stopped()
            return None
        is_recent = time.monotonic() - watched.asked_at < _ASK
        if is_recent and not watched.task.paths.result_pickle.exists():
            return None
        watched.asked_at = time.monotonic()
        if not _has_ended(watched.task):
            return None
        events = list(watched.new_events())  # written between the last read and the job's end
        outcome = attempt.ended()
        if attempt.unfinished:
            outcome = _outcome_of_task(attempt, watched.task)
        return replace(outcome, events=[*events, *outcome.events])

    def _forget_done(self) -> None:
        """Delete submissions whose runs are all done, once their cluster jobs have ended."""
        until = time.monotonic() + _LAST
        for submission in self._finished:
            tasks = []
            for cluster, number, task_id in submission.accepted():
                events = submission.events(number).read()
                done = {event.number for event in events if event.kind == "done"}
                if len(done) < len(submission.batch(number).jobs):
                    break
                tasks.append(_task(cluster, submission.path, task_id))
            else:
                left = [task.paths.result_pickle for task in tasks]
                while not all(path.exists() for path in left) and time.monotonic() < until:
                    time.sleep(0.1)
                if all(path.exists() for path in left):
                    submission.forget()


def _outcome_of_task(attempt: Attempt, task: Any) -> Outcome:
    """The outcome, from the exit code or the state of the cluster job."""
    try:
        code = exit_code(task.paths.result_pickle) if task.paths.result_pickle.exists() else None
    except RuntimeError as error:  # the error of the job, as text
        return attempt.lost(f"its Slurm job {task.job_id} ended early ({_last_line(error)})")
    if code in (0, INTERRUPTED):
        return attempt.ended()
    if code is not None:
        return attempt.died(
            f"its worker process died ({describe_exit(code)}; {task.paths.stderr}): out of "
            "memory? --slurm mem=16G gives more"
        )
    state = str(task.state).upper()
    if state.startswith("CANCELLED"):
        return attempt.stopped()
    if state.startswith(("OUT_OF_MEMORY", "FAILED")):
        return attempt.died(
            f"its Slurm job {task.job_id} ended as {state} ({task.paths.stderr}): "
            "--slurm mem=16G gives more memory"
        )
    return attempt.lost(f"its Slurm job {task.job_id} ended as {state}")


def _task(cluster: str, folder: Path, task_id: str) -> Any:
    """A cluster job by its id, also if another process submitted it."""
    return (submitit.LocalJob if cluster == "local" else submitit.SlurmJob)(folder, task_id)


def _has_ended(task: Any) -> bool:
    """Whether a cluster job has ended. A local job of submitit is a process, known only to its
    parent or by its pid.
    """
    if task.paths.result_pickle.exists():
        return True
    if isinstance(task, submitit.LocalJob) and task._process is None:
        return not Path(f"/proc/{task.job_id}").exists()
    return bool(task.done(force_check=False))


def _last_line(error: Exception) -> str:
    """The last meaningful line of a message."""
    lines = [
        line.strip()
        for line in str(error).splitlines()
        if line.strip().strip("-")
        and not line.strip().startswith(("You can check full logs", "- /"))
    ]
    return (lines or [type(error).__name__])[-1]
