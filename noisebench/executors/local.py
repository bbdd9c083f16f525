"""Worker processes on this machine, each with its share of the cores, one batch at a time."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from ..core.hardware import ENVIRONMENT, cpu_count
from . import warm
from .job import WORKER, Attempt, Event, JobBatch, WorkerConfig
from .registry import ExecutorOptions

# a worker holds torch and a data set: memory, not cores, is the limit on large machines
_MOST_BY_DEFAULT = 8


def worker_environment(threads: int | str, name: str = "") -> dict[str, str]:
    """Environment variables of a worker. `name` locks runs, the same over all tries."""
    count = str(threads)
    job = {"NOISEBENCH_JOB": name} if name else {}
    return {**ENVIRONMENT, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, **job}


def describe_exit(code: int) -> str:
    """A process's exit code in words: `SIGKILL`, `exit code 1`."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class WorkerProcess:
    """A worker that has started; call `close()` at the end."""

    def __init__(self, config: WorkerConfig, threads: int | str) -> None:
        self._process = _start({**os.environ, **worker_environment(threads)})
        self._write(config.line())

    def serve(self, batch: JobBatch) -> Iterator[Event]:
        """Its events, until each job or the worker has ended."""
        if not self._write(batch.line()):
            return
        assert self._process.stdout
        ended: set[int] = set()
        while len(ended) < len(batch.jobs) and (line := self._process.stdout.readline()):
            if (event := Event.read(line)) is None:
                continue  # half a line, the last of a worker that was killed
            if event.kind != "progress":
                ended.add(event.number)
            yield event

    def stop(self) -> None:
        """Ask it to save its run and end."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit code, once its output has ended."""
        return self._process.wait()

    def close(self) -> None:
        """Let it end, and wait for that."""
        assert self._process.stdin and self._process.stdout
        with suppress(BrokenPipeError):  # the last line for a dead worker may still be buffered
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _write(self, line: str) -> bool:
        assert self._process.stdin
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            return False
        return True


def _start(environment: dict[str, str]) -> warm.ForkedProcess | subprocess.Popen[str]:
    if warm.AVAILABLE:
        with suppress(OSError):  # the server was killed, or Linux is too old
            return warm.server().fork(environment)
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, *WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches the parent, which asks once
    )


def open_pool(config: WorkerConfig, options: ExecutorOptions) -> LocalPool:
    """The executor `local`."""
    return LocalPool(config, options.jobs)


class LocalPool:
    """`jobs` workers, by default one per core. A worker that dies is replaced, and only the run
    that it died of fails.
    """

    def __init__(self, config: WorkerConfig, jobs: int | None = None) -> None:
        self.config, self.jobs = config, jobs
        self._todo: queue.SimpleQueue[JobBatch] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._workers: set[WorkerProcess] = set()
        self._stopping = threading.Event()

    def max_parallel(self, count: int) -> int:
        """`jobs`; by default one per core, at most `count`, and not too many for the memory."""
        return self.jobs or max(1, min(cpu_count(), count, _MOST_BY_DEFAULT))

    def prepare(self) -> None:
        """Start the process that workers are forked from, which imports torch meanwhile."""
        with suppress(OSError):  # no process can be started now; if it stays so, the workers fail
            if warm.AVAILABLE:
                warm.server()

    def run(
        self, batches: list[JobBatch], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Every job's events as they come; once `stopped()` is true, workers save and stop."""
        self.prepare()
        for batch in batches:
            self._todo.put(batch)
        jobs = self.max_parallel(len(batches))
        threads = os.environ.get("OMP_NUM_THREADS") or max(1, cpu_count() // jobs)
        busy = min(jobs, len(batches))
        for _ in range(busy):
            threading.Thread(target=self._keep_worker, args=(threads,), daemon=True).start()
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
        """Nothing: no worker outlives its command."""

    def stop(self) -> None:
        """Ask every worker to save its run and end; start no further job."""
        if not self._stopping.is_set():
            self._stopping.set()
            for worker in list(self._workers):
                worker.stop()

    def _keep_worker(self, threads: int | str) -> None:
        """Give batches to one worker, and replace it when it dies."""
        try:
            while not self._stopping.is_set() and not self._todo.empty():
                worker = WorkerProcess(self.config, threads)
                self._workers.add(worker)
                try:
                    self._feed(worker)
                finally:
                    worker.close()
                    self._workers.discard(worker)
        finally:
            self._events.put(None)

    def _feed(self, worker: WorkerProcess) -> None:
        """Batch by batch until none is left, the worker ends or all is stopped."""
        while not self._stopping.is_set():
            try:
                attempt = Attempt(self._todo.get_nowait())
            except queue.Empty:
                return
            for event in worker.serve(attempt.batch):
                for passed_on in attempt.on_event(event):
                    self._events.put(passed_on)
            if attempt.unfinished:
                if self._stopping.is_set():
                    outcome = attempt.stopped()
                elif attempt.answered:
                    outcome = attempt.ended()
                else:
                    outcome = attempt.died(
                        f"its worker process died ({describe_exit(worker.wait())}): out of memory? "
                        "fewer --jobs may help"
                    )
                for batch in outcome.retry:
                    self._todo.put(batch)
                for event in outcome.events:
                    self._events.put(event)
                return
