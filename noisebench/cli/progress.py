"""The progress of a run, a suite or a download: a bar or a live table on a terminal, elsewhere
plain lines, at most every ten seconds. On stderr.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from ..experiments.backbones import NONE
from .console import console, duration, percent, say

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live
    from rich.progress import Progress as Bar

    from ..core.console import Text
    from ..executors.job import Event
    from ..runs.checkpoint import Progress
    from ..runs.queue import QueuedRun

_EVERY = 10.0  # seconds between plain lines


class RunProgress:
    """Inside `with`, `update` shows an epoch."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet, self._printed = quiet, 0.0
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

            column = Column(no_wrap=True, min_width=7)  # in a narrow terminal the bar shrinks first
            columns = (
                MofNCompleteColumn(table_column=column),
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
            time.monotonic() - self._printed > _EVERY or progress.epoch == progress.epochs
        ):
            self._printed = time.monotonic()
            say(f"epoch {progress.epoch}/{progress.epochs}: {text}, {duration(progress.seconds)}")


class DownloadProgress:
    """Called with the name of a download and its bytes so far and in all; with an empty text at its
    end.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet, self._text, self._printed = quiet, "", 0.0
        self._bar: Bar | None = None

    def __call__(self, text: str, done: int, size: int) -> None:
        if self._quiet:
            return
        new, self._text = text != self._text, text
        if new:
            self._end()
        if size and sys.stderr.isatty():
            self._draw(text, done, size)
        elif text and (new or (size and time.monotonic() - self._printed > _EVERY)):
            self._printed = time.monotonic()
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


class GridProgress:
    """Inside `with`, `update` takes every event of the pool."""

    def __init__(self, items: list[QueuedRun], jobs: int, *, quiet: bool = False) -> None:
        from ..reporting.table import noise_order

        self._items, self._quiet = items, quiet
        self._several = [
            axis
            for axis in ("dataset", "subset", "model", "init")
            if len({_axes(item)[axis] for item in items}) > 1
        ]
        self._cells: dict[tuple[str, str], list[int]] = {}
        for number, item in enumerate(items):
            self._cells.setdefault((self._row(item), item.run.manifest.meta["noise"]), []).append(
                number
            )
        self._dataset = "" if "dataset" in self._several else items[0].run.dataset.name
        self._cols = sorted({col for _, col in self._cells}, key=noise_order)
        self._rows = list(dict.fromkeys(row for row, _ in self._cells))
        self._accuracy: dict[int, float] = {}
        self._failed: set[int] = set()
        self._share: dict[int, float] = {}  # of each run's epochs
        self._images = 0  # trained on so far, each as often as it was
        self._started = self._printed = time.monotonic()
        self._live: Live | None = None
        say(f"{len(items)} runs, {jobs} at a time", quiet=quiet)

    def _row(self, item: QueuedRun) -> str:
        return ", ".join([*(_axes(item)[axis] for axis in self._several), item.run.method])

    def __enter__(self) -> GridProgress:
        if sys.stderr.isatty() and not self._quiet:
            from rich.live import Live

            self._live = Live(
                self._drawn(), console=console(sys.stderr), transient=True, refresh_per_second=4
            )
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def update(self, event: Event) -> None:
        if event.kind == "progress":
            self._share[event.number] = event.content["epoch"] / event.content["epochs"]
            self._images += int(self._items[event.number].run.manifest.in_training.sum())
        elif event.kind == "again":
            self._print(f"warning: {event.content['message']}")
        else:
            self._share[event.number] = 1.0
        if event.kind == "done":
            self._accuracy[event.number] = event.content["test_acc"]
        elif event.kind == "failed":
            self._failed.add(event.number)
            self._print(f"error: {event.content['message']}")
        if self._live:
            self._live.update(self._drawn())
        elif time.monotonic() - self._printed > _EVERY or self._finished == len(self._items):
            self._printed = time.monotonic()
            say(self.status(), quiet=self._quiet)

    @property
    def _finished(self) -> int:
        return len(self._accuracy) + len(self._failed)

    def _print(self, text: str) -> None:
        if self._live:
            self._live.console.print(text)
        else:
            say(text)  # even when quiet

    def status(self) -> str:
        """`12/56 runs, 1 failed, 40 s, 18 runs/min, 45,000 images/s, about 2 min 20 s left`."""
        spent = time.monotonic() - self._started
        share = sum(self._share.values()) / len(self._items)
        parts = [f"{self._finished}/{len(self._items)} runs"]
        parts += [f"{len(self._failed)} failed"] if self._failed else []
        parts.append(duration(spent))
        parts += [f"{60 * self._finished / spent:.3g} runs/min"] if self._finished and spent else []
        parts += [f"{self._images / spent:,.0f} images/s"] if self._images and spent else []
        left = spent * (1 - share) / share if share else 0.0
        return ", ".join([*parts, f"about {duration(left)} left"] if left else parts)

    def _drawn(self) -> Group:
        """The status first: of a table higher than the terminal the end is cut."""
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.table import Table

        from ..core.console import Text
        from ..labels.manifest import short_noise

        grid = Table(box=SIMPLE_HEAD, pad_edge=False)
        grid.add_column(", ".join([*self._several, "method"]))
        for col in self._cols:
            grid.add_column(Text(short_noise(col, self._dataset)), justify="right")
        for row in self._rows:
            grid.add_row(Text(row), *(self._cell(row, col) for col in self._cols))
        return Group(Text(self.status()), grid)

    def _cell(self, row: str, col: str) -> Text:
        """Mean so far, how many of how many seeds are done; where none is, how far the runs under
        way are.
        """
        from ..core.console import Text

        numbers = self._cells.get((row, col), [])
        if not numbers:
            return Text("–", style="dim")
        done = [self._accuracy[n] for n in numbers if n in self._accuracy]
        failed = sum(n in self._failed for n in numbers)
        begun = statistics.fmean(self._share.get(n, 0.0) for n in numbers)
        mean = (
            f"{100 * statistics.fmean(done):.1f} "
            if done
            else f"{begun:.0%} "
            if begun and not failed
            else ""
        )
        text = f"{mean}{len(done)}/{len(numbers)}" + (f" ✗{failed}" if failed else "")
        return Text(text, style="bold" if len(done) == len(numbers) else "red" if failed else "dim")


def _axes(item: QueuedRun) -> dict[str, str]:
    run = item.run
    return {
        "dataset": run.dataset.name,
        "subset": str(run.manifest.num_examples),
        "model": run.model,
        "init": run.init.label if run.init else NONE,
    }
