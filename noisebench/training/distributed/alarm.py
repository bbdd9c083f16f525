"""What has failed in one process of a run, told to the others through torchrun's store: a broken
connection says only that, and not why.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import FrameType
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from ...errors import Interrupted, NoisebenchError, ProcessLost, RunFailed

_FAILED, _LEFT = "failed", "left"
_EVERY = 0.5  # seconds between two looks at the store
# seconds for the first process to end first; after a failure it may wait for this one, which then
# has to go
_PATIENCE = 3.0
_LONG = 20.0  # the same where nothing failed: torchrun kills 30 s after it was told to stop
_LOST = (
    "another process of this run is gone (killed, out of memory?); the same command resumes "
    "the last checkpoint"
)
_GRACE = 10.0  # seconds for a process to end by itself after another one has failed


class RemoteFailure(RunFailed):
    """A failure of the run in another process; `kind` and `trace` are those of what happened
    there.
    """

    def __init__(self, message: str, kind: str, trace: str) -> None:
        super().__init__(message)
        self.kind, self.trace = kind, trace


class FailurePropagation:
    """Inside `with`, a process that waits in vain for one that has failed is ended after some
    seconds of grace.

    torchrun ends all processes as soon as one of them fails: SIGTERM is not heard any more once
    this one is ending by itself.
    """

    def __init__(self, store: Store, rank: int) -> None:
        self._store, self._rank = PrefixStore("alarm", store), rank
        # a connection of its own: the other one may be waiting
        self._watched = PrefixStore("alarm", store.clone())
        self._closed, self._leaving, self._patience = threading.Event(), False, _LONG
        self.in_emergency: Callable[[Exception], object] = lambda error: None

    def __enter__(self) -> FailurePropagation:
        signal.signal(signal.SIGTERM, self._hear)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()

    def judged(self, error: BaseException) -> BaseException:
        """What really happened: this process's own error, which the others are told, or that of
        another, which they were told.
        """
        self._leaving = True
        self._closed.set()  # it ends by itself
        self._patience = _LONG if isinstance(error, Interrupted) else _PATIENCE
        if isinstance(error, RemoteFailure | ProcessLost):
            return error
        cut_off = _is_of_connection(error)
        if (cut_off or isinstance(error, KeyboardInterrupt)) and (found := self._heard()):
            return found
        really = ProcessLost(_LOST) if cut_off else error
        self._tell(really)
        return really

    def leave(self) -> None:
        """The first process has files to write and a claim to give back; the others wait for it, if
        not for long.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with suppress(RuntimeError):  # the store may be gone
            if self._rank == 0:
                self._store.set(_LEFT, "")
            else:
                self._store.wait([_LEFT], timedelta(seconds=self._patience))

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self._leaving:
            raise KeyboardInterrupt

    def _tell(self, error: BaseException) -> None:
        said: dict[str, Any] = {
            "rank": self._rank,
            "message": str(error),
            "kind": type(error).__name__,
        }
        said["trace"] = "".join(traceback.format_exception(error))
        if isinstance(error, NoisebenchError | KeyboardInterrupt):
            said["code"] = (
                error.exit_code if isinstance(error, NoisebenchError) else Interrupted.exit_code
            )
        with suppress(RuntimeError):  # as above
            self._store.compare_set(_FAILED, "", json.dumps(said))

    def _heard(self) -> NoisebenchError | None:
        """What another process has told of its failure."""
        with suppress(RuntimeError):
            if self._store.check([_FAILED]):
                return _error(json.loads(self._store.get(_FAILED)))
        return None

    def _watch(self) -> None:
        with suppress(RuntimeError):
            while not self._closed.wait(_EVERY):
                if self._watched.check([_FAILED]):
                    if not self._closed.wait(_GRACE):
                        self._end(_error(json.loads(self._watched.get(_FAILED))))
                    return

    def _end(self, error: NoisebenchError) -> None:
        """By force."""
        with suppress(Exception):  # whatever it was: this process ends
            self.in_emergency(error)
        os._exit(error.exit_code)


def _error(said: dict[str, Any]) -> NoisebenchError:
    """From what was told of it."""
    if said["kind"] == ProcessLost.__name__:
        return ProcessLost(said["message"])
    code, message = (
        said.get("code"),
        (f"in process {said['rank']}: {said['message'] or said['kind']}"),
    )
    if code is None:
        return RemoteFailure(
            f"in process {said['rank']}: {said['kind']}: {said['message']}",
            said["kind"],
            said["trace"],
        )
    if code == RunFailed.exit_code:
        return RemoteFailure(message, said["kind"], said["trace"])
    error = NoisebenchError(message)
    error.exit_code = int(code)
    return error


def _is_of_connection(error: BaseException | None) -> bool:
    """Whether all it says is that another process cannot be reached."""
    if error is None or isinstance(error, NoisebenchError):
        return False
    text = str(error).lower()
    known = isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and ("gloo" in text or "nccl" in text)
    )
    return known or _is_of_connection(error.__cause__)
