"""Runs on this machine: worker processes, each with its share of the cores, fed one bundle of jobs at a time."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from json import dumps
from pathlib import Path

from ..environment import cores
from ..runfolder import RunFolder
from . import memory
from .job import Bundle, Event, Job, Place

_MOST_BY_DEFAULT = 8  # a worker holds torch and a data set: memory, not cores, is the limit on large machines


def default_jobs(count: int) -> int:
    """How many runs at a time: one a core, no more than there are runs, and not too many for the memory."""
    return max(1, min(cores(), count, _MOST_BY_DEFAULT))


class LocalPool:
    """`jobs` workers. A worker that dies is replaced, and fails the run alone that it died of."""

    def __init__(self, place: Place, jobs: int) -> None:
        self.place, self.jobs = place, jobs
        self._threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // jobs))
        self._todo: queue.SimpleQueue[Bundle] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._processes: set[subprocess.Popen[str]] = set()
        self._stopping = threading.Event()

    def run(self, bundles: list[Bundle], stopped: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Every job's events as they come. When `stopped()` turns true the workers save and stop."""
        for bundle in bundles:
            self._todo.put(bundle)
        keepers = [threading.Thread(target=self._keep_worker, daemon=True) for _ in range(min(self.jobs, len(bundles)))]
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

    def stop(self) -> None:
        """Ask every worker, once, to save its run and end; start no further job."""
        if self._stopping.is_set():
            return  # a second signal would not let it save
        self._stopping.set()
        for process in list(self._processes):
            process.send_signal(signal.SIGTERM)

    def _keep_worker(self) -> None:
        """Feed one worker, replacing it when it dies."""
        try:
            while not self._stopping.is_set() and not self._todo.empty():
                self._feed(self._start())
        finally:
            self._events.put(None)

    def _start(self) -> subprocess.Popen[str]:
        environment = {**memory.ENVIRONMENT, **os.environ, "OMP_NUM_THREADS": self._threads, "MKL_NUM_THREADS": self._threads}
        process = subprocess.Popen(
            [sys.executable, "-m", "noisebench.executors.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches the parent, which asks once; a worker must not be told twice
        )  # fmt: skip
        self._processes.add(process)
        return process

    def _feed(self, process: subprocess.Popen[str]) -> None:
        """Bundles one by one until there is none left, the worker dies or all is stopped."""
        assert process.stdin and process.stdout
        try:
            self._tell(process, dumps(asdict(self.place)) + "\n")
            while not self._stopping.is_set():
                try:
                    bundle = self._todo.get_nowait()
                except queue.Empty:
                    return
                ends = self._listen(process, bundle) if self._tell(process, bundle.line()) else {}
                left = [job for job in bundle.jobs if job.number not in ends]
                self._bury(process, left, bundle)
                again = [job for job in bundle.jobs if job.number in ends and ends[job.number].kind == "interrupted"]
                if again and not self._stopping.is_set():  # somebody stopped this worker alone: its runs go on in another
                    self._todo.put(Bundle(tuple(again), bundle.width))
                    return
                for job in again:
                    self._events.put(ends[job.number])
                if left:
                    return
        finally:
            with suppress(BrokenPipeError):  # a dead worker's last line may still be on its way
                process.stdin.close()
            process.wait()
            process.stdout.close()
            self._processes.discard(process)

    @staticmethod
    def _tell(process: subprocess.Popen[str], line: str) -> bool:
        assert process.stdin
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def _listen(self, process: subprocess.Popen[str], bundle: Bundle) -> dict[int, Event]:
        """Pass on what is said of the jobs, but interruptions; their last events, fewer where the worker's output ended before."""
        assert process.stdout
        ends: dict[int, Event] = {}
        while len(ends) < len(bundle.jobs) and (line := process.stdout.readline()):
            event = Event.read(line)
            if event.kind != "progress":
                ends[event.number] = event
            if event.kind != "interrupted":
                self._events.put(event)
        return ends

    def _bury(self, process: subprocess.Popen[str], left: list[Job], bundle: Bundle) -> None:
        """What becomes of the jobs that a worker died over: several are tried again in halves, until one by itself has failed."""
        if len(bundle.jobs) > 1 and not self._stopping.is_set():
            middle = -(-len(left) // 2)
            for half in (left[:middle], left[middle:]):
                if half:
                    self._todo.put(Bundle(tuple(half), bundle.width))
            return
        for job in left:
            self._events.put(self._death(process, job))

    def _death(self, process: subprocess.Popen[str], job: Job) -> Event:
        """What is said of a job whose worker ended without a word."""
        code = process.wait()
        if self._stopping.is_set():
            return Event(job.number, "interrupted", {"message": "stopped before it began"})
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        message = f"its worker process died ({how}): out of memory? fewer --jobs may help"
        RunFolder(Path(job.folder)).write_error(job.about, "WorkerDied", message)
        return Event(job.number, "failed", {"message": f"{job.title} failed: {message}"})
