"""Runs into trackers: when each is told what, and what becomes of a tracker that fails. Changes no
run, and ends none.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.files.atomic import write_text
from ...core.files.schema import check_form
from ...core.files.untrusted import read_json
from ...errors import DataError, RunFailed
from ...experiments.resolve import RunConfig
from ..folder import RunFolder
from .base import Ending, Epochs, Numbers, Tracker, TrackerRun
from .content import epoch_numbers, facts_of, final_numbers

# seconds between what a run's pages are told: a write takes longer than an epoch of a small network
_EVERY = 5.0


@dataclass
class _Open:
    """A run's pages by tracker; its last epoch; the epochs that the pages were not told yet, and
    when they were told some last.
    """

    pages: dict[str, TrackerRun] = field(default_factory=dict)
    epoch: int = 0
    waiting: Epochs = field(default_factory=list)
    told: float = field(default_factory=time.monotonic)


class RunLogger:
    """A page for each run in every tracker, for as many runs at once as there are.

    Inside `with`: what is open at its end was interrupted, or has failed where that ended it. A
    tracker that throws is said to `warn`, once, and told nothing more.
    """

    def __init__(self, trackers: dict[str, Tracker], warn: Callable[[str], object]) -> None:
        self._trackers, self._warn = dict(trackers), warn
        self._open: dict[Path, _Open] = {}

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        for path in list(self._open):
            self._close(
                path,
                "failed" if kind is not None and issubclass(kind, RunFailed) else "interrupted",
                {},
            )

    def log(self, run: RunConfig, folder: RunFolder, lines: list[dict[str, Any]]) -> None:
        """Lines of metrics.csv, those that are new: an epoch that is trained again has the same
        numbers.
        """
        if not self._trackers:
            return
        if folder.path not in self._open:
            self._open[folder.path] = self._begin(run, folder, goes_on=len(lines) > 1)
        book = self._open[folder.path]
        new = [(line["epoch"], epoch_numbers(line)) for line in lines if line["epoch"] > book.epoch]
        book.waiting += new
        book.epoch = new[-1][0] if new else book.epoch
        if time.monotonic() - book.told > _EVERY:
            self._tell(book)

    def finish(self, folder: RunFolder) -> None:
        """A run is complete; nothing happens to one that was complete before."""
        if folder.path in self._open:
            self._close(folder.path, "finished", final_numbers(folder.record()))

    def fail(self, folder: RunFolder) -> None:
        """A run has failed."""
        if folder.path in self._open:
            self._close(folder.path, "failed", {})

    def _begin(self, run: RunConfig, folder: RunFolder, *, goes_on: bool) -> _Open:
        """A run's pages: those that it had, where it goes on from an earlier sitting, else new
        ones.
        """
        known, facts, book = _known(folder) if goes_on else {}, facts_of(run, folder), _Open()
        for name, tracker in list(self._trackers.items()):
            with self._guarded(name):
                book.pages[name] = tracker.start(facts, known.get(name))
        identities = {name: page.identity for name, page in book.pages.items()}
        try:
            write_text(folder.trackers, json.dumps({**known, **identities}, indent=1) + "\n")
        except DataError as error:
            self._warn(f"{error}; if this run is interrupted, trackers will see another one")
        return book

    def _tell(self, book: _Open) -> None:
        """To each page the epochs that wait, but for those that it has from an earlier sitting."""
        for name, page in list(book.pages.items()):
            with self._guarded(name):
                page.log([(epoch, numbers) for epoch, numbers in book.waiting if epoch > page.held])
        book.waiting, book.told = [], time.monotonic()

    def _close(self, path: Path, ending: Ending, numbers: Numbers) -> None:
        book = self._open[path]
        self._tell(book)
        for name, page in list(book.pages.items()):
            with self._guarded(name):
                page.finish(ending, book.epoch, numbers)
        del self._open[path]

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """What a tracker prints goes to stderr; whatever a library, a server or a full disk throws
        costs the tracker, not the training.
        """
        try:
            with redirect_stdout(sys.stderr):
                yield
        except Exception as error:
            self._trackers.pop(name, None)
            for book in self._open.values():
                book.pages.pop(name, None)
            self._warn(
                (
                    f"{name} failed and logs no more, training goes on: "
                    f"{type(error).__name__}: {error}"
                ).splitlines()[0]
            )


def _known(folder: RunFolder) -> dict[str, str]:
    """A run's identities in trackers; none where nobody wrote them down, or where they cannot be
    read.
    """
    try:
        content = read_json(folder.trackers)
        check_form(content, dict[str, str])
    except (OSError, ValueError):
        return {}
    return dict(content)
