"""Events in a file that one process appends to and others read, on whatever machines."""

from __future__ import annotations

import os
from pathlib import Path

from ..core.files.untrusted import opened
from .job import Event

_AT_ONCE = 1 << 24  # bytes; what is beyond is read the next time


class EventFile:
    """One bundle's events, a line of JSON each. An empty line says that a worker began."""

    def __init__(self, path: Path) -> None:
        self.path, self._at = path, 0

    def read(self) -> list[Event]:
        """What was appended since it was last asked. A line that is not yet whole waits; one that never got whole is left out."""
        try:
            with opened(self.path) as file:  # opened anew each time: that is when a network file system looks again
                file.seek(self._at)
                whole, newline, _ = file.read(_AT_ONCE).rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._at += len(whole) + len(newline)
        return [event for line in whole.splitlines() if (event := Event.read(line)) is not None]

    def begin(self) -> bool:
        """Say that a worker begins; whether one did before. Ends the line that one died over."""
        before = self.begun
        self._write(b"\n")
        return before

    @property
    def begun(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > 0

    def append(self, event: Event) -> None:
        self._write(event.line().encode())

    def _write(self, line: bytes) -> None:
        """At once, and so that it is at the file server when this returns."""
        with self.path.open("ab", buffering=0) as file:
            file.write(line)
            os.fsync(file.fileno())
