"""How far a run is: a bar on a terminal, elsewhere one plain line an epoch, at most every ten seconds. On stderr."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from .console import console, duration, percent, say

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from ..sitting import Progress

_EVERY = 10.0  # seconds between plain lines


class RunProgress:
    """Inside `with`, `update` shows an epoch."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet, self._said = quiet, 0.0
        self._bar: Bar | None = None
        self._task: Any = None

    def __enter__(self) -> RunProgress:
        if sys.stderr.isatty() and not self._quiet:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
            from rich.table import Column

            whole = Column(no_wrap=True, min_width=7)  # in a narrow terminal the bar shrinks first
            columns = (MofNCompleteColumn(table_column=whole), BarColumn(10), TextColumn("{task.description}"), TimeRemainingColumn())
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
        text = f"loss {line['loss']:.4f}, test {percent(line['test_acc'])}, {progress.images_per_second:.0f} images/s"
        if self._bar:
            if self._task is None:
                self._task = self._bar.add_task(text, total=progress.epochs)
            self._bar.update(self._task, completed=progress.epoch, description=text)
        elif not self._quiet and (time.monotonic() - self._said > _EVERY or progress.epoch == progress.epochs):
            self._said = time.monotonic()
            say(f"epoch {progress.epoch}/{progress.epochs}: {text}, {duration(progress.seconds)}")
