"""Runs on Slurm, by submitit: an array job over the bundles, each a worker's command; what it says comes by files on the shared folder."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import submitit

from ..errors import ConfigError
from .attempt import Attempt, Fate
from .catalogue import Request
from .command import Command, exit_code
from .events import EventFile
from .job import INTERRUPTED, Bundle, Event, Job, Place
from .process import WORKER, environment, how
from .settings import SlurmSettings
from .submission import Submission

_ARRAY = 1000  # bundles of one array; Slurm's MaxArraySize is 1001 unless somebody changed it
_AT_ONCE = 256  # tasks of an array at a time, where --jobs does not say
_LOOK = 1.0  # seconds between two looks at the files of up to 200 bundles
_ASK = 10.0  # seconds between two questions about a bundle's cluster job
_LAST = 5.0  # seconds in which a cluster job whose run is done has ended
_SAVING = 60.0  # seconds in which whoever is stopped has saved: Slurm gives them KillWait, 30 unless somebody changed it


def open_pool(place: Place, request: Request) -> SlurmPool:
    """The executor `slurm`."""
    logging.getLogger("submitit").setLevel(logging.CRITICAL)  # it writes to stdout, which is data
    return SlurmPool(place, request)


@dataclass
class _Watched:
    """A bundle that a cluster job has, and where to look what it says. numbers: of jobs there -> here."""

    attempt: Attempt
    submission: Submission
    events: EventFile
    task: Any
    numbers: dict[int, int]
    asked: float = field(default_factory=time.monotonic)

    def news(self) -> Iterator[Event]:
        for event in self.events.read():
            if event.number in self.numbers:
                yield from self.attempt.hear(replace(event, number=self.numbers[event.number]))

    def gone(self) -> bool:
        """Whether its cluster job has ended; asked now and then."""
        if time.monotonic() - self.asked < _ASK and not self.task.paths.result_pickle.exists():
            return False
        self.asked = time.monotonic()
        return _ended(self.task)


class SlurmPool:
    """Slurm's nodes. They need the same Python environment, and the workspace, the data and the plugins at the same paths."""

    def __init__(self, place: Place, request: Request) -> None:
        self.place, self.request = place, request
        self.settings = SlurmSettings.read(request)
        self._runs = Path(place.workspace) / "runs"
        self._watched: list[_Watched] = []
        self._finished: set[Submission] = set()
        self._stopping: float | None = None  # since when

    def at_once(self, count: int) -> int:
        """As many as wanted; Slurm says how many of them have room."""
        return max(1, min(self.request.jobs or _AT_ONCE, count))

    def prepare(self) -> None:
        """Nothing: workers are the cluster's."""

    def run(self, bundles: list[Bundle], stopped: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Every job's events as they come. When `stopped()` turns true the cluster jobs are cancelled, what runs is saved first."""
        self.submit(bundles)
        while self._watched:
            if stopped():
                self.stop()
            for watched in list(self._watched):
                yield from watched.news()
                if (fate := self._fate(watched)) is not None:
                    self._leave(watched)
                    yield from fate.said
                    self._submit(fate.again)
            self._wait(stopped)
        self._forget_done()

    def submit(self, bundles: list[Bundle]) -> tuple[int, int]:
        """Find what is under way by earlier commands, and submit the rest; the numbers of jobs of the one and of the other."""
        wanted = {job.key: job for bundle in bundles for job in bundle.jobs}
        self._attach(wanted)
        found = {job.number for watched in self._watched for job in watched.attempt.bundle.jobs}
        rest = [replace(bundle, jobs=tuple(job for job in bundle.jobs if job.number not in found)) for bundle in bundles]
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
                    self._watched.append(_Watched(attempt, submission, submission.events(number), task, numbers))

    def _submit(self, bundles: list[Bundle]) -> None:
        for start in range(0, len(bundles) if self._stopping is None else 0, _ARRAY):
            self._submit_array(bundles[start : start + _ARRAY])

    def _submit_array(self, bundles: list[Bundle]) -> None:
        submission = Submission.make(self._runs, self.place, bundles)
        try:
            tasks = self._executor(submission.path).submit_array([self._command(submission, n) for n in range(len(bundles))])
        except Exception as error:  # whatever sbatch, or submitit on its way to it, has against the settings
            submission.forget()
            raise ConfigError(f"Slurm did not take the jobs: {_last(error)} (--slurm KEY=VALUE, noisebench run --help)") from None
        submission.accept(self.settings.cluster, [task.job_id for task in tasks])
        for number, (bundle, task) in enumerate(zip(bundles, tasks, strict=True)):
            numbers = {job.number: job.number for job in bundle.jobs}
            self._watched.append(_Watched(Attempt(submission.bundle(number)), submission, submission.events(number), task, numbers))

    def _executor(self, folder: Path) -> Any:
        timeouts = {f"{self.settings.cluster}_max_num_timeout": self.settings.requeues}
        executor = submitit.AutoExecutor(folder, self.settings.cluster, **timeouts)
        executor.update_parameters(**self.settings.parameters(self.at_once(_ARRAY)))
        return executor

    def _command(self, submission: Submission, number: int) -> Command:
        """The worker's, its environment among the words: a command that anybody can run again by hand."""
        named = environment(self.settings.cpus, submission.bundle(number).name)
        files = ("--bundle", str(submission.bundle_file(number)), "--events", str(submission.event_file(number)))
        return Command(("env", *(f"{key}={value}" for key, value in named.items()), sys.executable, *WORKER, *files))

    def _fate(self, watched: _Watched) -> Fate | None:
        """What becomes of a bundle whose cluster job will say no more; None while it may."""
        attempt = watched.attempt
        if attempt.complete:
            return Fate([], [])
        if self._stopping is not None:
            asleep = not watched.events.begun or time.monotonic() - self._stopping > _SAVING
            return attempt.stopped() if attempt.answered or asleep or _ended(watched.task) else None
        if not watched.gone():
            return None
        heard = list(watched.news())  # what it said between the last look and its end
        fate = attempt.ended() if attempt.complete else _fate_of(attempt, watched.task)
        return replace(fate, said=[*heard, *fate.said])

    def _leave(self, watched: _Watched) -> None:
        self._watched.remove(watched)
        self._finished.add(watched.submission)

    def _forget_done(self) -> None:
        """Keep nothing of submissions all of whose runs are done, once their cluster jobs have written their last."""
        until = time.monotonic() + _LAST
        for submission in filter(_is_done, self._finished):
            tasks = [_task(cluster, submission.path, task_id) for cluster, _, task_id in submission.accepted()]
            while not (over := all(task.paths.result_pickle.exists() for task in tasks)) and time.monotonic() < until:
                time.sleep(0.1)
            if over:
                submission.forget()

    def _wait(self, stopped: Callable[[], bool]) -> None:
        until = time.monotonic() + _LOOK * max(1.0, len(self._watched) / 200)
        while self._watched and time.monotonic() < until and not (stopped() and self._stopping is None):
            time.sleep(0.1)


def _is_done(submission: Submission) -> bool:
    for _, number, _ in submission.accepted():
        done = {event.number for event in submission.events(number).read() if event.kind == "done"}
        if len(done) < len(submission.bundle(number).jobs):
            return False
    return True


def _fate_of(attempt: Attempt, task: Any) -> Fate:
    """By what the cluster says of its job."""
    try:
        code = exit_code(task.paths.result_pickle) if task.paths.result_pickle.exists() else None
    except RuntimeError as error:  # what was thrown there, as text
        return attempt.lost(f"its Slurm job {task.job_id} ended early ({_last(error)})")
    if code in (0, INTERRUPTED):
        return attempt.ended()
    if code is not None:
        return attempt.died(f"its worker process died ({how(code)}; {task.paths.stderr}): out of memory? --slurm mem=16G gives more")
    state = str(task.state).upper()
    if state.startswith("CANCELLED"):
        return attempt.stopped()
    if state.startswith(("OUT_OF_MEMORY", "FAILED")):
        return attempt.died(f"its Slurm job {task.job_id} ended as {state} ({task.paths.stderr}): --slurm mem=16G gives more memory")
    return attempt.lost(f"its Slurm job {task.job_id} ended as {state}")


def _task(cluster: str, folder: Path, task_id: str) -> Any:
    """A cluster job by its name, from another process than the one that submitted it."""
    return (submitit.LocalJob if cluster == "local" else submitit.SlurmJob)(folder, task_id)


def _ended(task: Any) -> bool:
    """Whether a cluster job is over. One of submitit's local ones is a process, known to its parent or by its number."""
    if task.paths.result_pickle.exists():
        return True
    if isinstance(task, submitit.LocalJob) and task._process is None:
        return not Path(f"/proc/{task.job_id}").exists()
    return bool(task.done(force_check=False))


def _last(error: Exception) -> str:
    """The last line of what an error says that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and set(line.strip()) != {"-"}]
    trace = [line for line in lines if not line.startswith(("You can check full logs", "- /"))]
    return (trace or [type(error).__name__])[-1]
