"""Ctrl-C and SIGTERM as a wish to stop between two steps, so that the state is saved."""

from __future__ import annotations

import signal
from types import FrameType


class StopSignals:
    """Inside `with`, the first SIGINT or SIGTERM sets `stopped`; the second one raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.stopped = False

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
