"""A worker as a child process: told a Place and Bundles, line by line; it answers Events."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..core import hardware as memory
from . import warm
from .job import Bundle, Event, Place

WORKER = ("-m", "noisebench.executors.worker")


def environment(threads: int | str, name: str = "") -> dict[str, str]:
    """What a worker finds in its environment beside what is there. name: by which it claims runs, the same over all tries."""
    named = {"NOISEBENCH_JOB": name} if name else {}
    return {**memory.ENVIRONMENT, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **named}


class WorkerProcess:
    """A worker that has started; `close()` is due. folder: its working directory; forked: from a process that has imported torch."""

    def __init__(self, place: Place, threads: int | str, name: str = "", folder: Path | None = None, *, forked: bool = False) -> None:
        settings = {**os.environ, **environment(threads, name)}
        self._process = (_forked(settings, folder) if forked else None) or _started(settings, folder)
        self._tell(place.line())

    def serve(self, bundle: Bundle) -> Iterator[Event]:
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
