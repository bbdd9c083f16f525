"""Stops a training between two steps on Ctrl-C, SIGTERM, a closed terminal or a time limit, so that
its state is saved.
"""

from __future__ import annotations

import math
import signal
import time
from types import FrameType

from ..errors import ConfigError

_HANGUP = getattr(signal, "SIGHUP", None)


class TimeLimit:
    """A time limit in minutes from now; None is no limit. Raises ConfigError for a number that is
    not positive and finite.
    """

    def __init__(self, minutes: float | None = None) -> None:
        if minutes is not None and not 0 < minutes < math.inf:
            raise ConfigError(f"--time-limit must be a number above 0, got {minutes:g}")
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes

    @property
    def up(self) -> bool:
        return time.monotonic() >= self._end


class StopSignals:
    """Inside `with`, the first SIGINT, SIGTERM or SIGHUP sets `stopped`; the second one raises
    KeyboardInterrupt at once.
    """

    _NUMBERS = tuple(
        getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
    )

    def __init__(self) -> None:
        self.stopped = False

    def __enter__(self) -> StopSignals:
        self._before = {}
        for number in self._NUMBERS:
            # nohup ignores SIGHUP
            if number != _HANGUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True


class PatientSignals(StopSignals):
    """For workers: further signals do not prevent saving; Slurm sends several."""

    _NUMBERS = (
        *StopSignals._NUMBERS,
        *(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)),
    )

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
