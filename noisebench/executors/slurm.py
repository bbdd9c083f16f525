"""`--slurm KEY=VALUE`: sbatch's own options, by their long names.

What is submitted to Slurm: a command, that is a tuple of words, and nothing else; and the exit code
that it leaves.

Runs on Slurm, by submitit: an array job over the bundles, each a worker's command; what it says
comes by files on the shared folder.
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import submitit
from submitit.helpers import DelayedSubmission

from ..errors import ConfigError
from .attempt import Attempt, Outcome
from .job import INTERRUPTED, Event, Job, JobBatch, WorkerConfig
from .local import WORKER, environment, how
from .registry import ExecutorOptions
from .submission import EventFile, Submission

_CLUSTERS = ("slurm", "local")  # local: submitit's own, processes on this machine; for tests
_OURS = {
    "cpus_per_task": "--cpus-per-run",
    "gpus_per_node": "--gpus-per-run",
    "gpus_per_task": "--gpus-per-run",
    "gpus": "--gpus-per-run",
    "array": "--jobs",
    "array_parallelism": "--jobs",
    "requeue": "nothing, it is on",
    "nodes": "nothing, a run is one process",
    "ntasks": "nothing, a run is one process",
    "ntasks_per_node": "nothing, a run is one process",
}
_SUBMITIT = {
    "partition",
    "qos",
    "account",
    "constraint",
    "exclude",
    "nodelist",
    "gres",
    "mem",
    "mem_per_gpu",
    "mem_per_cpu",
    "comment",
    "mail_type",
    "mail_user",
    "dependency",
    "exclusive",
    "wckey",
    "job_name",
}
_LISTS = {"setup", "teardown", "srun_args"}  # lines of the script, may be repeated
_MINUTES = 60  # of a job, unless --slurm time says: it is queued again until it is done
_REQUEUES = 1000  # times that a job may run out of its time


@dataclass(frozen=True)
class SlurmSettings:
    """What is asked of Slurm for each job. cpus, gpus: whole; minutes: its time; own: submitit's
    parameters; more: sbatch's others.
    """

    cluster: str = "slurm"
    cpus: int = 1
    gpus: int = 0
    minutes: int = _MINUTES
    own: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    requeues: int = _REQUEUES

    @classmethod
    def read(cls, request: ExecutorOptions) -> SlurmSettings:
        """Raises ConfigError for what is no KEY=VALUE, said twice, or another option's to say."""
        if request.gpus is not None and request.gpus != int(request.gpus):
            raise ConfigError(
                f"--executor slurm gives whole GPUs: --gpus-per-run 1, got {request.gpus:g}"
            )
        given = _pairs(request.slurm)
        cluster = given.pop("cluster", "slurm")
        if cluster not in _CLUSTERS:
            raise ConfigError(
                f"--slurm cluster is one of {', '.join(_CLUSTERS)}, got {cluster!r}; of several "
                "clusters: --slurm clusters=NAME"
            )
        minutes = _minutes(given.pop("time")) if "time" in given else _MINUTES
        own: dict[str, Any] = {
            key: _value(value) for key, value in given.items() if key in _SUBMITIT
        }
        own |= {key: value.split("\n") for key, value in given.items() if key in _LISTS}
        own |= (
            {"signal_delay_s": _number("signal_delay_s", given["signal_delay_s"])}
            if "signal_delay_s" in given
            else {}
        )
        own |= {"use_srun": _value(given["use_srun"])} if "use_srun" in given else {}
        more = {
            key.replace("_", "-"): _value(value) for key, value in given.items() if key not in own
        }
        return cls(cluster, request.cpus or 1, int(request.gpus or 0), minutes, own, more)

    def parameters(self, at_once: int) -> dict[str, Any]:
        """As submitit's AutoExecutor takes them."""
        gpus = {"gpus_per_node": self.gpus} if self.gpus else {}
        named = {
            "slurm_job_name": "noisebench",
            **{f"slurm_{key}": value for key, value in self.own.items()},
        }
        more = {"slurm_additional_parameters": {"requeue": True, **self.more}}
        return {
            "timeout_min": self.minutes,
            "cpus_per_task": self.cpus,
            **gpus,
            "slurm_array_parallelism": at_once,
            **named,
            **more,
        }


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip().lstrip("-").replace("-", "_")
        if not equals or not key or not value:
            raise ConfigError(
                "--slurm is KEY=VALUE, an option of sbatch by its long name, such "
                f"as partition=gpu; got {text!r}"
            )
        if key in _OURS:
            raise ConfigError(f"--slurm {key} is said by {_OURS[key]}")
        if key in found and key not in _LISTS:
            raise ConfigError(f"--slurm {key} is given twice: {found[key]} and {value}")
        found[key] = f"{found[key]}\n{value}" if key in found else value
    return found


def _value(text: str) -> str | bool:
    return {"true": True, "false": False}.get(text, text)


def _number(key: str, text: str) -> int:
    if not text.isdigit() or not int(text):
        raise ConfigError(f"--slurm {key} is a whole number of seconds, got {text!r}")
    return int(text)


_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<a>\d+)(?::(?P<b>\d+))?(?::(?P<c>\d+))?")


def _minutes(text: str) -> int:
    """Slurm's ways to write a time: minutes, minutes:seconds, hours:minutes:seconds,
    days-hours[:minutes[:seconds]]; rounded up.
    """
    found = _TIME.fullmatch(text)
    if not found:
        raise ConfigError(
            "--slurm time is minutes, hours:minutes:seconds or days-hours, as "
            f"Slurm writes them; got {text!r}"
        )
    days, a, b, c = (int(found[name] or 0) for name in ("days", "a", "b", "c"))
    if found["days"] is not None:
        hours, minutes, seconds = 24 * days + a, b, c
    elif found["c"] is not None:
        hours, minutes, seconds = a, b, c
    else:
        hours, minutes, seconds = 0, a, b
    total = 60 * hours + minutes + (seconds + 59) // 60
    if not total:
        raise ConfigError(f"--slurm time must be longer than nothing, got {text!r}")
    return total


# seconds in which Slurm does what it announced by SIGTERM: take the node away, or end the job
_UNTIL_THE_END = 600.0
# told before it could listen
_WISHES = {-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGUSR1, -signal.SIGUSR2}


class Command:
    """Called, it runs its words to their end and returns their exit code. Preempted or out of time,
    it lets them save, and is queued again by submitit as it is.
    """

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self._child = 0
        self._told = False

    def __getstate__(self) -> dict[str, object]:
        return {"words": self.words}

    def __setstate__(self, state: dict[str, tuple[str, ...]]) -> None:
        self.__init__(state["words"])  # type: ignore[misc]

    def __call__(self) -> int:
        with self._heeding_slurm():
            while (code := self._run()) == INTERRUPTED and not self._told:
                pass  # somebody stopped the worker alone
            begun = time.monotonic()
            while code == INTERRUPTED and time.monotonic() - begun < _UNTIL_THE_END:
                time.sleep(0.2)  # the end, or submitit's signal
            return code

    def checkpoint(self) -> DelayedSubmission:
        """submitit's wish: what is to be queued again, once all is saved."""
        self._stop()
        return DelayedSubmission(Command(self.words))

    def _run(self) -> int:
        process = subprocess.Popen(self.words, start_new_session=True)  # noqa: S603 - whoever submitted wrote them
        self._child = process.pid
        _await(process.pid)
        self._child = 0
        code = process.wait()
        return INTERRUPTED if code in _WISHES else code

    def _stop(self) -> None:
        """Let the worker save, and wait for that. From a signal's handler: Popen, which may be in
        the midst of something, is not asked.
        """
        if child := self._child:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
            _await(child)

    @contextmanager
    def _heeding_slurm(self) -> Iterator[None]:
        """SIGTERM, which submitit passes over, goes on to the worker: Slurm does not tell it where
        it tells the batch script alone.
        """

        def receive(number: int, frame: FrameType | None) -> None:
            self._told = True
            if self._child:
                with suppress(ProcessLookupError):
                    os.kill(self._child, signal.SIGTERM)

        before = signal.signal(signal.SIGTERM, receive)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def _await(child: int) -> None:
    """Until it has ended; it stays to be asked for its exit code."""
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)


class _Plain(pickle.Unpickler):
    """Reads words and numbers, and nothing that could be called."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it would call {module}.{name}")


def exit_code(left: Path) -> int:
    """Out of the pickle that submitit leaves, of which no code is run: anybody may have put it
    there.

    Raises RuntimeError with what was thrown in the job, or where it is damaged.
    """
    try:
        with left.open("rb") as file:
            how, result = _Plain(file).load()
    except Exception as error:  # a broken pickle may throw anything
        raise RuntimeError(f"{left} is refused: {error}") from None
    if how != "success" or not isinstance(result, int):
        raise RuntimeError(str(result))
    return result


_ARRAY = 1000  # bundles of one array; Slurm's MaxArraySize is 1001 unless somebody changed it
_AT_ONCE = 256  # tasks of an array at a time, where --jobs does not say
_LOOK = 1.0  # seconds between two looks at the files of up to 200 bundles
_ASK = 10.0  # seconds between two questions about a bundle's cluster job
_LAST = 5.0  # seconds in which a cluster job whose run is done has ended
# seconds in which whoever is stopped has saved: Slurm gives them KillWait, 30 unless somebody
# changed it
_SAVING = 60.0


def open_pool(place: WorkerConfig, request: ExecutorOptions) -> SlurmPool:
    """The executor `slurm`."""
    logging.getLogger("submitit").setLevel(logging.CRITICAL)  # it writes to stdout, which is data
    return SlurmPool(place, request)


@dataclass
class _Watched:
    """A bundle that a cluster job has, and where to look what it says. numbers: of jobs there ->
    here.
    """

    attempt: Attempt
    submission: Submission
    events: EventFile
    task: Any
    numbers: dict[int, int]
    asked: float = field(default_factory=time.monotonic)

    def news(self) -> Iterator[Event]:
        for event in self.events.read():
            if event.number in self.numbers:
                yield from self.attempt.on_event(replace(event, number=self.numbers[event.number]))

    def gone(self) -> bool:
        """Whether its cluster job has ended; asked now and then."""
        if time.monotonic() - self.asked < _ASK and not self.task.paths.result_pickle.exists():
            return False
        self.asked = time.monotonic()
        return _ended(self.task)


class SlurmPool:
    """Slurm's nodes. They need the same Python environment, and the workspace, the data and the
    plugins at the same paths.
    """

    def __init__(self, place: WorkerConfig, request: ExecutorOptions) -> None:
        self.place, self.request = place, request
        self.settings = SlurmSettings.read(request)
        self._runs = Path(place.workspace) / "runs"
        self._watched: list[_Watched] = []
        self._finished: set[Submission] = set()
        self._stopping: float | None = None  # since when

    def max_parallel(self, count: int) -> int:
        """As many as wanted; Slurm says how many of them have room."""
        return max(1, min(self.request.jobs or _AT_ONCE, count))

    def prepare(self) -> None:
        """Nothing: workers are the cluster's."""

    def run(
        self, bundles: list[JobBatch], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Every job's events as they come. When `stopped()` turns true the cluster jobs are
        cancelled, what runs is saved first.
        """
        self.submit(bundles)
        while self._watched:
            if stopped():
                self.stop()
            for watched in list(self._watched):
                yield from watched.news()
                if (fate := self._fate(watched)) is not None:
                    self._leave(watched)
                    yield from fate.events
                    self._submit(fate.retry)
            self._wait(stopped)
        self._forget_done()

    def submit(self, bundles: list[JobBatch]) -> tuple[int, int]:
        """Find what is under way by earlier commands, and submit the rest; the numbers of jobs of
        the one and of the other.
        """
        wanted = {job.key: job for bundle in bundles for job in bundle.jobs}
        self._attach(wanted)
        found = {job.number for watched in self._watched for job in watched.attempt.bundle.jobs}
        rest = [
            replace(bundle, jobs=tuple(job for job in bundle.jobs if job.number not in found))
            for bundle in bundles
        ]
        self._submit([bundle for bundle in rest if bundle.jobs])
        return len(found), len(wanted) - len(found)

    def stop(self) -> None:
        """Cancel the cluster jobs, once; Slurm tells them so, and they save."""
        if self._stopping is not None:
            return
        self._stopping = time.monotonic()
        for submission in {watched.submission for watched in self._watched}:
            submission.stop()
        for watched in self._watched:
            watched.task.cancel(check=False)

    def tidy(self) -> None:
        self._finished.update(Submission.all(self._runs))
        self._forget_done()

    def _attach(self, wanted: dict[str, Job]) -> None:
        """Watch what cluster jobs of earlier commands are at, or will be."""
        for submission in Submission.all(self._runs):
            for cluster, number, task_id in submission.accepted():
                bundle = submission.bundle(number)
                jobs = {job.number: wanted[job.key] for job in bundle.jobs if job.key in wanted}
                task = _task(cluster, submission.path, task_id)
                if jobs and not _ended(task):
                    numbers = {there: here.number for there, here in jobs.items()}
                    attempt = Attempt(replace(bundle, jobs=tuple(jobs.values())))
                    self._watched.append(
                        _Watched(attempt, submission, submission.events(number), task, numbers)
                    )

    def _submit(self, bundles: list[JobBatch]) -> None:
        for start in range(0, len(bundles) if self._stopping is None else 0, _ARRAY):
            self._submit_array(bundles[start : start + _ARRAY])

    def _submit_array(self, bundles: list[JobBatch]) -> None:
        submission = Submission.make(self._runs, self.place, bundles)
        try:
            tasks = self._executor(submission.path).submit_array(
                [self._command(submission, n) for n in range(len(bundles))]
            )
        except Exception as error:
            # whatever sbatch, or submitit on its way to it, has against the settings
            submission.forget()
            raise ConfigError(
                f"Slurm did not take the jobs: {_last(error)} (--slurm KEY=VALUE, "
                "noisebench run --help)"
            ) from None
        submission.accept(self.settings.cluster, [task.job_id for task in tasks])
        for number, (bundle, task) in enumerate(zip(bundles, tasks, strict=True)):
            numbers = {job.number: job.number for job in bundle.jobs}
            self._watched.append(
                _Watched(
                    Attempt(submission.bundle(number)),
                    submission,
                    submission.events(number),
                    task,
                    numbers,
                )
            )

    def _executor(self, folder: Path) -> Any:
        timeouts = {f"{self.settings.cluster}_max_num_timeout": self.settings.requeues}
        executor = submitit.AutoExecutor(folder, self.settings.cluster, **timeouts)
        executor.update_parameters(**self.settings.parameters(self.max_parallel(_ARRAY)))
        return executor

    def _command(self, submission: Submission, number: int) -> Command:
        """The worker's, its environment among the words: a command that anybody can run again by
        hand.
        """
        named = environment(self.settings.cpus, submission.bundle(number).name)
        files = (
            "--bundle",
            str(submission.bundle_file(number)),
            "--events",
            str(submission.event_file(number)),
        )
        return Command(
            (
                "env",
                *(f"{key}={value}" for key, value in named.items()),
                sys.executable,
                *WORKER,
                *files,
            )
        )

    def _fate(self, watched: _Watched) -> Outcome | None:
        """What becomes of a bundle whose cluster job will say no more; None while it may."""
        attempt = watched.attempt
        if attempt.complete:
            return Outcome([], [])
        if self._stopping is not None:
            asleep = not watched.events.begun or time.monotonic() - self._stopping > _SAVING
            return attempt.stopped() if attempt.answered or asleep or _ended(watched.task) else None
        if not watched.gone():
            return None
        heard = list(watched.news())  # what it said between the last look and its end
        fate = attempt.ended() if attempt.complete else _fate_of(attempt, watched.task)
        return replace(fate, events=[*heard, *fate.events])

    def _leave(self, watched: _Watched) -> None:
        self._watched.remove(watched)
        self._finished.add(watched.submission)

    def _forget_done(self) -> None:
        """Keep nothing of submissions all of whose runs are done, once their cluster jobs have
        written their last.
        """
        until = time.monotonic() + _LAST
        for submission in filter(_is_done, self._finished):
            tasks = [
                _task(cluster, submission.path, task_id)
                for cluster, _, task_id in submission.accepted()
            ]
            while (
                not (over := all(task.paths.result_pickle.exists() for task in tasks))
                and time.monotonic() < until
            ):
                time.sleep(0.1)
            if over:
                submission.forget()

    def _wait(self, stopped: Callable[[], bool]) -> None:
        until = time.monotonic() + _LOOK * max(1.0, len(self._watched) / 200)
        while (
            self._watched
            and time.monotonic() < until
            and not (stopped() and self._stopping is None)
        ):
            time.sleep(0.1)


def _is_done(submission: Submission) -> bool:
    for _, number, _ in submission.accepted():
        done = {event.number for event in submission.events(number).read() if event.kind == "done"}
        if len(done) < len(submission.bundle(number).jobs):
            return False
    return True


def _fate_of(attempt: Attempt, task: Any) -> Outcome:
    """By what the cluster says of its job."""
    try:
        code = exit_code(task.paths.result_pickle) if task.paths.result_pickle.exists() else None
    except RuntimeError as error:  # what was thrown there, as text
        return attempt.lost(f"its Slurm job {task.job_id} ended early ({_last(error)})")
    if code in (0, INTERRUPTED):
        return attempt.ended()
    if code is not None:
        return attempt.died(
            f"its worker process died ({how(code)}; {task.paths.stderr}): out of "
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
    """A cluster job by its name, from another process than the one that submitted it."""
    return (submitit.LocalJob if cluster == "local" else submitit.SlurmJob)(folder, task_id)


def _ended(task: Any) -> bool:
    """Whether a cluster job is over. One of submitit's local ones is a process, known to its parent
    or by its number.
    """
    if task.paths.result_pickle.exists():
        return True
    if isinstance(task, submitit.LocalJob) and task._process is None:
        return not Path(f"/proc/{task.job_id}").exists()
    return bool(task.done(force_check=False))


def _last(error: Exception) -> str:
    """The last line of what an error says that says something."""
    lines = [
        line.strip()
        for line in str(error).splitlines()
        if line.strip() and set(line.strip()) != {"-"}
    ]
    trace = [line for line in lines if not line.startswith(("You can check full logs", "- /"))]
    return (trace or [type(error).__name__])[-1]
