"""How far a run is, or a download: a bar on a terminal, elsewhere plain lines, at most every ten
seconds. On stderr.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from .console import console, duration, percent, say

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from ..runs.checkpoint import Progress

_EVERY = 10.0  # seconds between plain lines


class RunProgress:
    """Inside `with`, `update` shows an epoch."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet, self._said = quiet, 0.0
        self._bar: Bar | None = None
        self._task: Any = None

    def __enter__(self) -> RunProgress:
        if sys.stderr.isatty() and not self._quiet:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )
            from rich.table import Column

            whole = Column(no_wrap=True, min_width=7)  # in a narrow terminal the bar shrinks first
            columns = (
                MofNCompleteColumn(table_column=whole),
                BarColumn(10),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console(sys.stderr), transient=True)
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line beside the bar."""
        if self._bar:
            self._bar.console.print(text)
        else:
            say(text, quiet=self._quiet)

    def update(self, progress: Progress) -> None:
        line = progress.lines[-1]
        text = (
            f"loss {line['loss']:.4f}, test {percent(line['test_acc'])}, "
            f"{progress.images_per_second:.0f} images/s"
        )
        if self._bar:
            if self._task is None:
                self._task = self._bar.add_task(text, total=progress.epochs)
            self._bar.update(self._task, completed=progress.epoch, description=text)
        elif not self._quiet and (
            time.monotonic() - self._said > _EVERY or progress.epoch == progress.epochs
        ):
            self._said = time.monotonic()
            say(f"epoch {progress.epoch}/{progress.epochs}: {text}, {duration(progress.seconds)}")


class DownloadProgress:
    """Called with what goes on, and how many bytes of how many are there; with an empty text when
    that has ended.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet, self._text, self._said = quiet, "", 0.0
        self._bar: Bar | None = None

    def __call__(self, text: str, done: int, size: int) -> None:
        if self._quiet:
            return
        new, self._text = text != self._text, text
        if new:
            self._end()
        if size and sys.stderr.isatty():
            self._draw(text, done, size)
        elif text and (new or (size and time.monotonic() - self._said > _EVERY)):
            self._said = time.monotonic()
            say(f"{text}: {done / 1e6:.1f} of {size / 1e6:.1f} MB" if size else text)

    def _draw(self, text: str, done: int, size: int) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        if self._bar is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(10),
                DownloadColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=console(sys.stderr), transient=True)
            self._bar.add_task(text, completed=done, total=size)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=size)

    def _end(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None
