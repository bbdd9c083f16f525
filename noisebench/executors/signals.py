"""Ctrl-C, SIGTERM and a closed terminal as a wish to stop between two steps, so that the state is saved."""

from __future__ import annotations

import signal
from types import FrameType


class StopSignals:
    """Inside `with`, the first SIGINT, SIGTERM or SIGHUP sets `stopped`; the second one raises KeyboardInterrupt at once."""

    _NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

    def __init__(self) -> None:
        self.stopped = False

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._receive) for number in self._NUMBERS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
