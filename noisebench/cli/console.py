"""Printing. Data goes to stdout; progress and warnings go to stderr: a bar or a live table on a
terminal, plain lines elsewhere, at most one every ten seconds. Output that is not a terminal has no
colour and is never truncated. Untrusted text is escaped on both.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from threading import RLock, Timer
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from ..core.sanitize import printable_json, printable_line

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live
    from rich.progress import Progress as Bar
    from rich.progress import ProgressColumn, Task, TaskID
    from rich.table import Table

    from ..core.console import Screen, Text
    from ..executors.job import Event
    from ..runs.checkpoint import Progress
    from ..runs.queue import QueuedRun

_SIZES = ((10**12, "T "), (10**9, "G "), (10**6, "M "), (10**3, "k "), (1, ""))
_EVERY = 10.0  # seconds between plain lines
_DELAY = 1.0  # seconds after which the bar of an operation appears
_LONG = 600.0  # seconds; the estimated runtime of longer runs is shown


def console(stream: TextIO) -> Screen:
    """A Rich console that writes to a stream. Rich honours NO_COLOR."""
    from ..core.console import ENDLESS, Screen

    return Screen(file=stream, width=None if stream.isatty() else ENDLESS, soft_wrap=False)


def show(*things: Any) -> None:
    """Print text and rendered Rich objects on stdout, without trailing blanks."""
    from ..core.console import drawn

    if sys.stdout.isatty():
        console(sys.stdout).print(*things, sep="\n")
    else:
        sys.stdout.write(drawn(*things))


def write_json(content: Any) -> None:
    """Print the JSON document of a command on stdout."""
    sys.stdout.write(printable_json(json.dumps(content, indent=1)) + "\n")


def say(text: str, *, quiet: bool = False, live: Bar | Live | None = None) -> None:
    """Print a line of progress or a warning on stderr, above `live` if it is shown there."""
    if live:
        live.console.print(text)
    elif not quiet:
        sys.stderr.write(printable_line(text) + "\n")


def facts_table(rows: Iterable[Sequence[str]]) -> Table:
    """A table of names and values; a value may have several lines."""
    from rich.table import Table

    from ..core.console import Text

    facts = Table.grid(padding=(0, 2))
    for name, *lines in rows:
        facts.add_row(Text(name, style="dim"), Text(*lines))
    return facts


def text_table(
    heads: Iterable[str],
    rows: Iterable[Iterable[str]],
    *,
    right: Container[str] = (),
    title: str | None = None,
) -> Table:
    """A table of text with column heads; right: the heads of columns aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ..core.console import Text

    bold = None if title is None else Text(title, style="bold")
    table = Table(title=bold, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        justify: Any = "right" if head in right else "left"
        table.add_column(head, justify=justify, overflow="fold", no_wrap=head == "name")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def plural(count: int, noun: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float) -> str:
    """`48 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    if minutes:
        return f"{minutes} min {rest} s"
    return f"{rest} s" if seconds >= 10 else f"{seconds:.1f} s"


def images(count: int | None) -> str:
    """`52 k images`, `1.3 G images`: two significant digits; – where unknown."""
    if count is None:
        return "–"
    rounded = float(f"{count:.1e}")
    size, unit = next(step for step in _SIZES if rounded >= step[0] or step[0] == 1)
    return f"{rounded / size:g} {unit}images"


def percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.2f} %"


def estimated(record: dict[str, Any]) -> str:
    """The estimated noise of a run with the accuracy that it is based on, and the true noise where
    it is known; empty for a run without estimates.
    """
    estimates, parts = record.get("estimates", {}), []
    if rate := estimates.get("rate"):
        text = f"noise rate {percent(rate['estimate'])}"
        if "interval" in rate:
            low, high = rate["interval"]
            text += f", 95 % interval {100 * low:.2f} to {percent(high)}"
        parts.append(f"{text} (true {percent(rate['truth'])})")
    if T := estimates.get("transition"):
        parts.append("T")
        if T["truth"] is not None:
            # mean over the rows
            distance = np.abs(np.subtract(T["estimate"], T["truth"])).sum(1).mean() / 2
            parts.append(f"mean total variation distance from the true T {percent(distance)}")
    text = f"estimated {', '.join(parts)}" if parts else ""
    if parts and "accuracy" in estimates:
        text += f"; out-of-fold accuracy on the given labels {percent(estimates['accuracy'])}"
    return text


def _start_bar(first: ProgressColumn | str, third: ProgressColumn | str) -> Bar:
    from rich.progress import BarColumn, Progress, TimeRemainingColumn

    columns = (first, BarColumn(10), third, TimeRemainingColumn())
    # stdout is data: Rich would print it on the console of the bar
    bar = Progress(*columns, console=console(sys.stderr), transient=True, redirect_stdout=False)
    bar.start()
    return bar


def _text_column() -> ProgressColumn:
    """The text of an operation, which is cut in a narrow terminal."""
    from rich.progress import ProgressColumn

    from ..core.console import Text

    class TextColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(task.description, no_wrap=True, overflow="ellipsis")

    return TextColumn()


class RunProgress:
    """Shows the progress of a run. Inside `with`, call `step` within an epoch and `update` after
    each.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet, self._printed, self._text = quiet, time.monotonic(), ""
        self._bar: Bar | None = None

    def __enter__(self) -> RunProgress:
        if sys.stderr.isatty() and not self._quiet:
            from rich.progress import MofNCompleteColumn
            from rich.table import Column

            # in a narrow terminal the bar shrinks first
            count = MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=7))
            self._bar = _start_bar(count, "{task.description}")
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        say(text, quiet=self._quiet, live=self._bar)

    def say_duration(self, seconds: float, what: str = "this run") -> None:
        """Print the estimated runtime, in seconds, of a long run."""
        if seconds > _LONG:
            self.say(
                f"estimated runtime of {what}: {duration(seconds)}; Ctrl-C saves, the same command "
                "resumes"
            )

    def step(self, what: str, done: float, epochs: int) -> None:
        """Show a training within an epoch. what: a training that precedes the run's own, or empty;
        done: epochs.
        """
        if self._bar:
            self._draw(what or self._text, done, epochs)
        elif not self._quiet and time.monotonic() - self._printed > _EVERY:
            self._printed = time.monotonic()
            say(f"{what or 'training'}: {done:.2f} of {plural(epochs, 'epoch')}")

    def _draw(self, text: str, done: float, epochs: int) -> None:
        assert self._bar is not None
        if not self._bar.task_ids:
            self._bar.add_task(text, total=epochs)
        self._bar.update(self._bar.task_ids[0], completed=done, total=epochs, description=text)

    def update(self, progress: Progress) -> None:
        line = progress.lines[-1]
        text = self._text = (
            f"loss {line['loss']:.4f}, test {percent(line['test_acc'])}, "
            f"{progress.images_per_second:.0f} images/s"
        )
        if self._bar:
            self._draw(text, progress.epoch, progress.epochs)
        elif not self._quiet and (
            time.monotonic() - self._printed > _EVERY or progress.epoch == progress.epochs
        ):
            self._printed = time.monotonic()
            say(f"epoch {progress.epoch}/{progress.epochs}: {text}, {duration(progress.seconds)}")


@dataclass
class _Operation:
    """An operation that has begun: what was reported last, and its row of the bar."""

    begun: float
    done: int = 0
    total: int = 0
    unit: str = ""
    row: TaskID | None = None

    @property
    def count(self) -> str:
        """`1,200 of 50,000 images`, `1.2 of 170.5 MB`; empty if nothing is counted."""
        if not self.total:
            return ""
        if self.unit == "bytes":
            return f"{self.done / 1e6:.1f} of {self.total / 1e6:.1f} MB"
        return f"{self.done:,} of {self.total:,} {self.unit}"


class TaskProgress:
    """Shows the progress of operations; called as a `ProgressCallback`.

    On a terminal a bar appears on stderr after a second, with a row for each nested operation, and
    is erased at the end. Elsewhere an operation that takes longer than ten seconds prints lines,
    and a download does when it begins.
    """

    def __init__(self) -> None:
        self._operations: dict[str, _Operation] = {}  # the outermost first
        self._printed = 0.0
        self._bar: Bar | None = None
        self._timer: Timer | None = None  # shows the bar although nothing is reported meanwhile
        self._lock = RLock()

    def __call__(self, text: str, done: int, total: int, unit: str) -> None:
        with self._lock:
            if text:
                self._update(text, done, total, unit)
            elif len(self._operations) > 1:
                self._end(next(reversed(self._operations)))
            else:
                self.close()

    def close(self) -> None:
        """End all operations, also those that an error has ended."""
        with self._lock:
            self._operations.clear()
            if self._timer:
                self._timer.cancel()
            if self._bar:
                self._bar.stop()
            self._timer = self._bar = None

    def _update(self, text: str, done: int, total: int, unit: str) -> None:
        now = time.monotonic()
        if not self._operations:
            self._printed = now
            if sys.stderr.isatty():
                self._timer = Timer(_DELAY, self._show)
                self._timer.daemon = True
                self._timer.start()
        operation = self._operations.setdefault(text, _Operation(now))
        download_began = unit == "bytes" and done > operation.done == 0
        for inner in reversed(list(self._operations)):
            if inner == text:
                break
            self._end(inner)  # ended by an error
        operation.done, operation.total, operation.unit = done, total, unit
        if self._bar and now - operation.begun >= _DELAY:
            self._draw(text, operation)
        elif not self._timer and (download_began or now - self._printed > _EVERY):
            self._printed = now
            lines = (
                f"{name}: {one.count}" if one.total else name
                for name, one in self._operations.items()
            )
            say("; ".join(lines))

    def _show(self) -> None:
        with self._lock:
            if self._operations and not self._bar:
                self._bar = _start_bar(_text_column(), "{task.fields[count]}")
                for text, operation in self._operations.items():
                    self._draw(text, operation)

    def _draw(self, text: str, operation: _Operation) -> None:
        assert self._bar is not None
        if operation.row is None:
            operation.row = self._bar.add_task(text, total=None, count="")
        self._bar.update(
            operation.row,
            completed=operation.done,
            total=operation.total or None,
            count=operation.count,
        )

    def _end(self, text: str) -> None:
        operation = self._operations.pop(text)
        if self._bar and operation.row is not None:
            self._bar.remove_task(operation.row)


class GridProgress:
    """Shows the progress of a suite. Inside `with`, call `update` with each event."""

    def __init__(self, items: list[QueuedRun], jobs: int, *, quiet: bool = False) -> None:
        from ..experiments.backbones import NONE
        from ..reporting.table import noise_order

        self._items, self._quiet = items, quiet
        axes = [
            {
                "dataset": item.run.dataset.name,
                "subset": str(item.run.manifest.num_examples),
                "model": item.run.model,
                "init": item.run.init.label if item.run.init else NONE,
                "features": item.run.features.label if item.run.features else NONE,
            }
            for item in items
        ]
        self._several = [axis for axis in axes[0] if len({values[axis] for values in axes}) > 1]
        self._cells: dict[tuple[str, str], list[int]] = {}
        for number, (item, values) in enumerate(zip(items, axes, strict=True)):
            row = ", ".join([*(values[axis] for axis in self._several), item.run.method])
            noise = item.run.manifest.meta["noise"]
            self._cells.setdefault((row, noise), []).append(number)
        self._dataset = "" if "dataset" in self._several else items[0].run.dataset.name
        self._cols = sorted({col for _, col in self._cells}, key=noise_order)
        self._rows = list(dict.fromkeys(row for row, _ in self._cells))
        self._accuracy: dict[int, float] = {}
        self._failed: set[int] = set()
        self._share: dict[int, float] = {}  # of each run's epochs
        self._images = 0  # trained on so far, counted once per epoch
        self._started = self._printed = time.monotonic()
        self._live: Live | None = None
        say(f"{plural(len(items), 'run')}, {jobs} at a time", quiet=quiet)

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
        message = ""
        if event.kind != "again":
            self._share[event.number] = 1.0
        if event.kind == "progress":
            self._share[event.number] = event.content["epoch"] / event.content["epochs"]
            self._images += int(self._items[event.number].run.manifest.in_training.sum())
        elif event.kind == "again":
            message = f"warning: {event.content['message']}"
        elif event.kind == "done":
            self._accuracy[event.number] = event.content["test_acc"]
        elif event.kind == "failed":
            self._failed.add(event.number)
            message = f"error: {event.content['message']}"
        if message:
            say(message, live=self._live)  # even when quiet
        finished = len(self._accuracy) + len(self._failed)
        if self._live:
            self._live.update(self._drawn())
        elif time.monotonic() - self._printed > _EVERY or finished == len(self._items):
            self._printed = time.monotonic()
            say(self.status(), quiet=self._quiet)

    def status(self) -> str:
        """`12/56 runs, 1 failed, 40 s, 18 runs/min, 45,000 images/s, about 2 min 20 s left`."""
        spent, finished = time.monotonic() - self._started, len(self._accuracy) + len(self._failed)
        share = sum(self._share.values()) / len(self._items)
        failed = [f"{len(self._failed)} failed"] if self._failed else []
        parts = [f"{finished}/{len(self._items)} runs", *failed, duration(spent)]
        parts += [f"{60 * finished / spent:.3g} runs/min"] if finished and spent else []
        parts += [f"{self._images / spent:,.0f} images/s"] if self._images and spent else []
        left = spent * (1 - share) / share if share else 0.0
        return ", ".join([*parts, f"about {duration(left)} left"] if left else parts)

    def _drawn(self) -> Group:
        """Status and table; the status comes first, since the end is cut if the terminal is too
        low.
        """
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
        """Mean accuracy and number of finished seeds; before the first one, the progress of the
        runs.
        """
        from ..core.console import Text

        numbers = self._cells.get((row, col), [])
        if not numbers:
            return Text("–", style="dim")
        done = [self._accuracy[n] for n in numbers if n in self._accuracy]
        failed = sum(n in self._failed for n in numbers)
        begun = sum(self._share.get(n, 0.0) for n in numbers) / len(numbers)
        text = f"{len(done)}/{len(numbers)}"
        if done:
            text = f"{100 * sum(done) / len(done):.1f} {text}"
        elif begun and not failed:
            text = f"{begun:.0%} {text}"
        style = "red" if failed else "dim"
        if failed:
            text += f" ✗{failed}"
        return Text(text, style="bold" if len(done) == len(numbers) else style)
