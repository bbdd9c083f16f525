"""A worker as a child process: told a Place and Bundles, line by line; it answers Events.

Runs on this machine: worker processes, each with its share of the cores, fed one bundle of jobs at
a time.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from ..core import hardware
from ..core.hardware import cpu_count
from . import warm
from .attempt import Attempt, Outcome
from .job import Event, JobBatch, WorkerConfig
from .registry import ExecutorOptions

WORKER = ("-m", "noisebench.executors.worker")


def environment(threads: int | str, name: str = "") -> dict[str, str]:
    """What a worker finds in its environment beside what is there. name: by which it claims runs,
    the same over all tries.
    """
    named = {"NOISEBENCH_JOB": name} if name else {}
    return {
        **hardware.ENVIRONMENT,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        **named,
    }


class WorkerProcess:
    """A worker that has started; `close()` is due. folder: its working directory; forked: from a
    process that has imported torch.
    """

    def __init__(
        self,
        place: WorkerConfig,
        threads: int | str,
        name: str = "",
        folder: Path | None = None,
        *,
        forked: bool = False,
    ) -> None:
        settings = {**os.environ, **environment(threads, name)}
        self._process = (_forked(settings, folder) if forked else None) or _started(
            settings, folder
        )
        self._tell(place.line())

    def serve(self, bundle: JobBatch) -> Iterator[Event]:
        """What it says, until each job has ended or its output has."""
        if not self._tell(bundle.line()):
            return
        assert self._process.stdout
        ended: set[int] = set()
        while len(ended) < len(bundle.jobs) and (line := self._process.stdout.readline()):
            if (event := Event.read(line)) is None:
                continue  # half a line, the last of a worker that was killed
            if event.kind != "progress":
                ended.add(event.number)
            yield event

    def stop(self) -> None:
        """Ask it to save its run and end."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def death(self) -> str:
        """What it died of, once its output has ended."""
        return how(self._process.wait())

    def close(self) -> None:
        """Let it end, and wait for that."""
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):  # a dead worker's last line may still be on its way
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _tell(self, line: str) -> bool:
        assert self._process.stdin
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            return False
        return True


def _forked(environment: dict[str, str], folder: Path | None) -> warm.ForkedProcess | None:
    """None where that is not possible, or the process that forks was killed."""
    with suppress(OSError):
        return warm.server().fork(environment, folder) if warm.AVAILABLE else None
    return None


def _started(environment: dict[str, str], folder: Path | None) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, *WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        encoding="utf-8",
        errors="replace",
        cwd=folder,
        start_new_session=True,  # Ctrl-C reaches the parent, which asks once
    )


def how(code: int) -> str:
    """A process's exit code as one says it: `SIGKILL`, `exit code 1`."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


# a worker holds torch and a data set: memory, not cores, is the limit on large machines
_MOST_BY_DEFAULT = 8


def open_pool(place: WorkerConfig, request: ExecutorOptions) -> LocalPool:
    """The executor `local`."""
    return LocalPool(place, request.jobs)


class LocalPool:
    """`jobs` workers, by default one a core. A worker that dies is replaced, and fails the run
    alone that it died of.
    """

    def __init__(self, place: WorkerConfig, jobs: int | None = None) -> None:
        self.place, self.jobs = place, jobs
        self._todo: queue.SimpleQueue[JobBatch] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._workers: set[WorkerProcess] = set()
        self._stopping = threading.Event()

    def max_parallel(self, count: int) -> int:
        """As many as wanted; else one a core, no more than there are, and not too many for the
        memory.
        """
        return self.jobs or max(1, min(cpu_count(), count, _MOST_BY_DEFAULT))

    def prepare(self) -> None:
        """Start the process that workers are forked from, which imports torch meanwhile."""
        with suppress(OSError):  # no process can be started now; the workers say so, if it stays so
            if warm.AVAILABLE:
                warm.server()

    def run(
        self, bundles: list[JobBatch], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Every job's events as they come. When `stopped()` turns true the workers save and
        stop.
        """
        self.prepare()
        for bundle in bundles:
            self._todo.put(bundle)
        jobs = self.max_parallel(len(bundles))
        threads = os.environ.get("OMP_NUM_THREADS") or max(1, cpu_count() // jobs)
        keepers = [
            threading.Thread(target=self._keep_worker, args=(threads,), daemon=True)
            for _ in range(min(jobs, len(bundles)))
        ]
        for keeper in keepers:
            keeper.start()
        busy = len(keepers)
        while busy:
            if stopped():
                self.stop()
            try:
                event = self._events.get(timeout=0.2)
            except queue.Empty:
                continue
            if event is None:
                busy -= 1
            else:
                yield event

    def tidy(self) -> None:
        """Nobody works here for a command that has ended."""

    def stop(self) -> None:
        """Ask every worker to save its run and end; start no further job."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        for worker in list(self._workers):
            worker.stop()

    def _keep_worker(self, threads: int | str) -> None:
        """Feed one worker, replacing it when it dies."""
        try:
            while not self._stopping.is_set() and not self._todo.empty():
                worker = WorkerProcess(self.place, threads, forked=True)
                self._workers.add(worker)
                try:
                    self._feed(worker)
                finally:
                    worker.close()
                    self._workers.discard(worker)
        finally:
            self._events.put(None)

    def _feed(self, worker: WorkerProcess) -> None:
        """Bundles one by one until there is none left, the worker ends or all is stopped."""
        while not self._stopping.is_set():
            try:
                attempt = Attempt(self._todo.get_nowait())
            except queue.Empty:
                return
            for event in worker.serve(attempt.bundle):
                for passed_on in attempt.on_event(event):
                    self._events.put(passed_on)
            if not attempt.complete:
                self._follow(self._fate(attempt, worker))
                return

    def _fate(self, attempt: Attempt, worker: WorkerProcess) -> Outcome:
        if self._stopping.is_set():
            return attempt.stopped()
        if attempt.answered:
            return attempt.ended()
        return attempt.died(
            f"its worker process died ({worker.death()}): out of memory? fewer --jobs may help"
        )

    def _follow(self, fate: Outcome) -> None:
        for bundle in fate.retry:
            self._todo.put(bundle)
        for event in fate.events:
            self._events.put(event)
