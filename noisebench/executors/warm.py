"""Workers that start in milliseconds: one process has imported torch, and forks each of them.

multiprocessing's forkserver is not used: it imports the caller's `__main__` into every worker,
belongs to the terminal's process group, and gets no environment of its own, though glibc reads its
settings only as a process starts.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from ..core import hardware

# Elsewhere system libraries may have threads, which do not survive a fork. Some builds of Python
# for Linux know no pidfd.
AVAILABLE = (
    sys.platform == "linux" and hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal")
)
_PRELOADED = (
    "torch",
    "numpy.random",
    "noisebench.training.packed",
    "noisebench.training.networks.mlp",
    "noisebench.executors.worker",
)
_NUMBER = struct.Struct("i")


@cache
def server() -> Server:
    """The server of this process, started by the first call; it ends with this process."""
    return Server()


class Server:
    """A process that forks workers on request."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair()
        # a thread would not survive a fork
        single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                # a pipe that reads the parent's output ends with the parent
                stdout=subprocess.DEVNULL,
                env={**os.environ, **hardware.ENVIRONMENT, **single},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the parent
            )
        self.pid = self._process.pid
        atexit.register(self.close)

    def fork(self, environment: Mapping[str, str]) -> ForkedProcess:
        """A worker in this environment and the working directory. Raises OSError if the server has
        died.
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
        """End it; workers go on."""
        self._requests.close()
        self._process.kill()
        self._process.wait()


class ForkedProcess:
    """A worker, with the part of subprocess.Popen's interface that is needed. Raises OSError where
    Linux is older than 5.3.
    """

    def __init__(self, pid: int, status: socket.socket, stdin: int, stdout: int) -> None:
        self.pid, self._status = pid, status
        # refers to this process even when it has ended and another one has its pid
        self._handle = os.pidfd_open(pid)
        self.stdin = os.fdopen(stdin, "w", encoding="utf-8")
        self.stdout = os.fdopen(stdout, encoding="utf-8", errors="replace")
        self._returncode: int | None = None
        self._lock = threading.Lock()  # signals come from another thread than the one that waits

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError where it has ended."""
        with self._lock:
            if self._returncode is not None:
                raise ProcessLookupError
            signal.pidfd_send_signal(self._handle, number)

    def wait(self) -> int:
        """Its exit code; minus the signal that killed it."""
        if self._returncode is None:
            ended = select.poll()
            ended.register(self._handle, select.POLLIN)
            ended.poll()
            try:
                code = _receive(self._status)
            except ConnectionError:  # the process that waits for it was killed too
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
    gc.freeze()  # no collection touches, and so copies, the pages that workers share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while files := socket.recv_fds(requests, 1, 4)[1]:
        if os.fork() == 0:
            requests.close()
            _wait_for_worker(*files)
        for number in files:
            os.close(number)


def _wait_for_worker(stdin: int, stdout: int, stderr: int, status: int) -> NoReturn:
    """Fork the worker; write its pid, and in the end its exit code, to the socket."""
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
    """Turn this process into the worker."""
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
    # a list is for nested regions
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if threads.isdecimal() and int(threads):
        torch.set_num_threads(int(threads))
    numpy.random.seed()  # another state than every other worker's
    requests = select.poll()
    requests.register(0, select.POLLHUP)  # the other end of stdin was closed: the command has ended
    work(lambda: bool(requests.poll(0)))
    sys.exit()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
