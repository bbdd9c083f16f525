"""Worker processes on this machine, each with its share of the cores, one batch at a time.

Workers start in milliseconds: a process that has imported torch forks each of them.
multiprocessing's forkserver is not used: it imports the caller's `__main__` into every worker,
belongs to the terminal's process group, and cannot have its own environment, though glibc reads its
settings only when a process starts.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import queue
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from ..core.hardware import ENVIRONMENT, cpu_count
from .job import WORKER, Attempt, Event, Executor, ExecutorOptions, JobBatch, WorkerConfig

# every worker has torch and a data set in memory, which limits their number on large machines
_MOST_BY_DEFAULT = 8
# On other systems, libraries may have threads, which do not survive a fork. Some builds of Python
# for Linux lack pidfd.
CAN_FORK = (
    sys.platform == "linux" and hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal")
)
_PRELOADED = (
    "torch",
    "numpy.random",
    "noisebench.training.packed",
    "noisebench.training.networks.backbones",
    "noisebench.executors.worker",
)
_NUMBER = struct.Struct("i")


def worker_environment(threads: int | str, name: str = "") -> dict[str, str]:
    """Environment variables of a worker. name: owner of its locks, the same in all attempts."""
    count = str(threads)
    job = {"NOISEBENCH_JOB": name} if name else {}
    return {**ENVIRONMENT, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, **job}


def describe_exit(code: int) -> str:
    """A process's exit code as text: `SIGKILL`, `exit code 1`."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _start(environment: dict[str, str]) -> Any:
    """Start a worker: a Popen, or a ForkedProcess, which has the required part of its interface."""
    if CAN_FORK:
        with suppress(OSError):  # the server was killed, or Linux is too old
            return fork_server().fork(environment)
    return subprocess.Popen(  # noqa: S603 - our own module
        [sys.executable, *WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches only the parent, which signals the workers
    )


def _send(worker: Any, line: str) -> None:
    """Send a line to a worker. A dead worker is noticed by the end of its output."""
    with suppress(BrokenPipeError):
        worker.stdin.write(line)
        worker.stdin.flush()


class LocalPool(Executor):
    """`jobs` workers, by default one per core. A worker that dies is replaced, and only the run
    that caused it fails.
    """

    def __init__(self, config: WorkerConfig, options: ExecutorOptions) -> None:
        self.config, self.jobs = config, options.jobs
        self._todo: queue.SimpleQueue[JobBatch] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._workers: set[Any] = set()
        self._stopping = threading.Event()

    def max_parallel(self, count: int) -> int:
        """`jobs`; by default one per core, at most `count`, limited by the memory."""
        return self.jobs or max(1, min(cpu_count(), count, _MOST_BY_DEFAULT))

    def prepare(self) -> None:
        """Start the process that forks the workers, which imports torch in the background."""
        if CAN_FORK:
            with suppress(OSError):  # no process can be started now; workers fail if this persists
                fork_server()

    def run(
        self, batches: list[JobBatch], stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Event]:
        """Yields every job's events as they arrive; once `stopped()` is true, workers save and
        stop.
        """
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

    def stop(self) -> None:
        """Signal every worker to save its run and end; start no further job."""
        if not self._stopping.is_set():
            self._stopping.set()
            for worker in list(self._workers):
                with suppress(ProcessLookupError):
                    worker.send_signal(signal.SIGTERM)

    def _keep_worker(self, threads: int | str) -> None:
        """Give batches to one worker, and replace it when it dies."""
        try:
            while not self._stopping.is_set() and not self._todo.empty():
                worker = _start({**os.environ, **worker_environment(threads)})
                self._workers.add(worker)
                try:
                    _send(worker, self.config.line())
                    self._feed(worker)
                finally:
                    with suppress(BrokenPipeError):  # the last line for it may still be buffered
                        worker.stdin.close()
                    worker.wait()
                    worker.stdout.close()
                    self._workers.discard(worker)
        finally:
            self._events.put(None)

    def _feed(self, worker: Any) -> None:
        """Send batches one by one until none is left, the worker ends or everything is stopped."""
        while not self._stopping.is_set():
            try:
                attempt = Attempt(self._todo.get_nowait())
            except queue.Empty:
                return
            _send(worker, attempt.batch.line())
            while not attempt.answered and (line := worker.stdout.readline()):
                event = Event.read(line)
                # a killed worker may leave a partial line
                for passed_on in attempt.on_event(event) if event else ():
                    self._events.put(passed_on)
            if not attempt.unfinished:
                continue
            if self._stopping.is_set():
                outcome = attempt.stopped()
            elif attempt.answered:
                outcome = attempt.ended()
            else:
                outcome = attempt.died(
                    f"its worker process died ({describe_exit(worker.wait())}): out of "
                    "memory? fewer --jobs may help"
                )
            for batch in outcome.retry:
                self._todo.put(batch)
            for event in outcome.events:
                self._events.put(event)
            return


@cache
def fork_server() -> ForkServer:
    """The fork server of this process, started by the first call; it ends with this process."""
    return ForkServer()


class ForkServer:
    """A process that forks workers on request."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair()
        # a thread would not survive a fork
        single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                # else a pipe that reads the parent's output would not end with the parent
                stdout=subprocess.DEVNULL,
                env={**os.environ, **ENVIRONMENT, **single},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C reaches only the parent
            )
        self.pid = self._process.pid
        atexit.register(self.close)

    def fork(self, environment: Mapping[str, str]) -> ForkedProcess:
        """Start a worker with this environment and working directory. Raises OSError if the server
        has died.
        """
        settings = json.dumps([dict(environment), str(Path.cwd())]) + "\n"
        stdin, to_worker = os.pipe()
        from_worker, stdout = os.pipe()
        ours, theirs = socket.socketpair()
        try:
            try:
                with theirs:
                    socket.send_fds(self._requests, [b"."], [stdin, stdout, 2, theirs.fileno()])
            finally:
                os.close(stdin)
                os.close(stdout)
            with os.fdopen(to_worker, "w", encoding="ascii", closefd=False) as file:
                file.write(settings)
            return ForkedProcess(_receive(ours), ours, to_worker, from_worker)
        except OSError:
            ours.close()
            os.close(to_worker)
            os.close(from_worker)
            raise

    def close(self) -> None:
        """End the server; its workers continue."""
        self._requests.close()
        self._process.kill()
        self._process.wait()


class ForkedProcess:
    """A worker, with the required part of subprocess.Popen's interface. Raises OSError on Linux
    before 5.3.
    """

    def __init__(self, pid: int, status: socket.socket, stdin: int, stdout: int) -> None:
        self.pid, self._status = pid, status
        # refers to this process even after another one has its pid
        self._handle = os.pidfd_open(pid)
        self.stdin = os.fdopen(stdin, "w", encoding="utf-8")
        self.stdout = os.fdopen(stdout, encoding="utf-8", errors="replace")
        self._returncode: int | None = None
        self._lock = threading.Lock()  # signals come from another thread than the one that waits

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError if the process has ended."""
        with self._lock:
            if self._returncode is not None:
                raise ProcessLookupError
            signal.pidfd_send_signal(self._handle, number)

    def wait(self) -> int:
        """Wait for the end; returns the exit code, or minus the signal that killed it."""
        if self._returncode is None:
            ended = select.poll()
            ended.register(self._handle, select.POLLIN)
            ended.poll()
            try:
                code = _receive(self._status)
            except ConnectionError:  # the process that waits for the worker was killed too
                code = -signal.SIGKILL
            with self._lock:
                self._returncode = code
                os.close(self._handle)
            self._status.close()
        return self._returncode


def _receive(status: socket.socket) -> int:
    if not (number := status.recv(_NUMBER.size)):
        raise ConnectionError("the process that forks workers has died")
    return int(_NUMBER.unpack(number)[0])


def _serve(requests: socket.socket) -> None:
    """Fork a worker for each request, until the parent's end of the socket is closed."""
    for name in _PRELOADED:
        import_module(name)
    gc.freeze()  # a collection would copy the pages that workers share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while files := socket.recv_fds(requests, 1, 4)[1]:
        if os.fork() == 0:
            requests.close()
            _wait_for_worker(*files)
        for number in files:
            os.close(number)


def _wait_for_worker(stdin: int, stdout: int, stderr: int, status: int) -> NoReturn:
    """Fork the worker; write its pid, and at its end its exit code, to the socket."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if (pid := os.fork()) == 0:
        os.close(status)
        _work(stdin, stdout, stderr)
    for number in (stdin, stdout, stderr):
        os.close(number)
    with suppress(BrokenPipeError):  # the parent has died
        os.write(status, _NUMBER.pack(pid))
        os.write(status, _NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    os._exit(0)


def _work(*files: int) -> NoReturn:
    """Turn this process into a worker."""
    import numpy
    import torch

    from .worker import work

    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    if not (settings := sys.stdin.readline()).endswith("\n"):
        sys.exit()  # the parent was killed meanwhile
    environment, folder = json.loads(settings)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # a list sets nested regions
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if threads.isdecimal() and int(threads):
        torch.set_num_threads(int(threads))
    numpy.random.seed()  # a different state in each worker
    requests = select.poll()
    requests.register(0, select.POLLHUP)  # the other end of stdin closed: the command has ended
    work(lambda: bool(requests.poll(0)))
    sys.exit()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
