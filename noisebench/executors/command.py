"""What is submitted to Slurm: a command, that is a tuple of words, and nothing else; and the exit code that it leaves."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from submitit.helpers import DelayedSubmission

from .job import INTERRUPTED

_UNTIL_THE_END = 600.0  # seconds in which Slurm does what it announced by SIGTERM: take the node away, or end the job
_WISHES = {-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGUSR1, -signal.SIGUSR2}  # told before it could listen


class Command:
    """Called, it runs its words to their end and returns their exit code. Preempted or out of time, it lets them save, and is queued
    again by submitit as it is."""

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
        """Let the worker save, and wait for that. From a signal's handler: Popen, which may be in the midst of something, is not asked."""
        if child := self._child:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
            _await(child)

    @contextmanager
    def _heeding_slurm(self) -> Iterator[None]:
        """SIGTERM, which submitit passes over, goes on to the worker: Slurm does not tell it where it tells the batch script alone."""

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
    """Out of the pickle that submitit leaves, of which no code is run: anybody may have put it there.

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
