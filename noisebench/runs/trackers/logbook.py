"""Logs runs to trackers. Changes no run, and ends none: a tracker that fails is dropped."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.files.atomic import write_text
from ...core.files.schema import check_form
from ...core.files.untrusted import read_json
from ...errors import DataError, RunFailed
from ...experiments.resolve import RunConfig
from ..folder import RunFolder
from .base import Ending, Epochs, Numbers, RunInfo, Tracker, TrackerRun

_NO_NUMBERS = ("epoch", "seconds")  # the step, and a fact of the machine


def facts_of(run: RunConfig, folder: RunFolder) -> RunInfo:
    """The run's settings, flat: `loss`, `noise`, `recipe.lr`, `key` ..., without empty ones."""
    about = {"key": run.key, **run.facts, "nominal_rate": run.manifest.meta["nominal_rate"]}
    nested = {
        f"{part}.{name}": value
        for part in ("recipe", "init")
        for name, value in about.pop(part, {}).items()
    }
    config = {
        name: value
        for name, value in {**about, **nested}.items()
        if value not in (None, "") and name != "versions"
    }
    return RunInfo(folder.path.name, config.pop("title"), folder.path, config)


def epoch_numbers(line: dict[str, Any]) -> Numbers:
    """The numbers of a line of metrics.csv, without missing ones."""
    return {
        name: float(value)
        for name, value in line.items()
        if name not in _NO_NUMBERS and value is not None
    }


def final_numbers(record: dict[str, Any]) -> Numbers:
    """The metrics of a record under `final/`; the best epoch on test is called optimistic."""
    metrics = record["metrics"]
    test_acc, test = metrics["test_acc"], metrics["test"]
    named = {
        "test_acc_last": test_acc["last"],
        "test_acc_mean_last10": test_acc["mean_last10"],
        "test_acc_at_noisy_val": test_acc["at_noisy_val"],
        "test_acc_best_optimistic": test_acc["best"],
        "nll": test["nll"],
        "ece": test["ece"],
        "memorised": metrics["memorised"],
        "detection_auroc": metrics["train"]["detection"]["auroc"],
    }
    return {f"final/{name}": float(value) for name, value in named.items() if value is not None}


# seconds between two writes to a tracker, which take longer than an epoch of a small network
_EVERY = 5.0


@dataclass
class _LoggedRun:
    """A run in the trackers, by their names; its last epoch; the epochs that were not logged yet,
    and when the others were.
    """

    runs: dict[str, TrackerRun] = field(default_factory=dict)
    epoch: int = 0
    waiting: Epochs = field(default_factory=list)
    logged_at: float = field(default_factory=time.monotonic)


class RunLogger:
    """Logs any number of runs at once to every tracker.

    Inside `with`: a run that is open at its end was interrupted, or failed where that ended it. Of
    a tracker that throws `warn` is called, once, and it is dropped.
    """

    def __init__(self, trackers: dict[str, Tracker], warn: Callable[[str], object]) -> None:
        self._trackers, self._warn = dict(trackers), warn
        self._open: dict[Path, _LoggedRun] = {}

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        failed = kind is not None and issubclass(kind, RunFailed)
        for path in list(self._open):
            self._close(path, "failed" if failed else "interrupted", {})

    def log(self, run: RunConfig, folder: RunFolder, lines: list[dict[str, Any]]) -> None:
        """Log new lines of metrics.csv; an epoch that is trained again has the same numbers."""
        if not self._trackers:
            return
        if folder.path not in self._open:
            self._open[folder.path] = self._start(run, folder, resumed=len(lines) > 1)
        logged = self._open[folder.path]
        new = [
            (line["epoch"], epoch_numbers(line)) for line in lines if line["epoch"] > logged.epoch
        ]
        logged.waiting += new
        logged.epoch = new[-1][0] if new else logged.epoch
        if time.monotonic() - logged.logged_at > _EVERY:
            self._flush(logged)

    def finish(self, folder: RunFolder) -> None:
        """A run is complete; nothing happens to one that was complete before."""
        if folder.path in self._open:
            self._close(folder.path, "finished", final_numbers(folder.record()))

    def fail(self, folder: RunFolder) -> None:
        """A run has failed."""
        if folder.path in self._open:
            self._close(folder.path, "failed", {})

    def _start(self, run: RunConfig, folder: RunFolder, *, resumed: bool) -> _LoggedRun:
        """The run in every tracker: the same one as in an earlier session, if it is resumed."""
        known: dict[str, str] = {}
        if resumed:
            with suppress(OSError, ValueError):
                content = read_json(folder.trackers)
                check_form(content, dict[str, str])
                known = dict(content)
        facts, logged = facts_of(run, folder), _LoggedRun()
        for name, tracker in list(self._trackers.items()):
            with self._guarded(name):
                logged.runs[name] = tracker.start(facts, known.get(name))
        identities = {name: tracked.identity for name, tracked in logged.runs.items()}
        try:
            write_text(folder.trackers, json.dumps({**known, **identities}, indent=1) + "\n")
        except DataError as error:
            self._warn(f"{error}; if this run is interrupted, trackers will see another one")
        return logged

    def _flush(self, logged: _LoggedRun) -> None:
        """Log the epochs that wait, but for those that a tracker has from an earlier session."""
        for name, run in list(logged.runs.items()):
            with self._guarded(name):
                run.log([(epoch, numbers) for epoch, numbers in logged.waiting if epoch > run.held])
        logged.waiting, logged.logged_at = [], time.monotonic()

    def _close(self, path: Path, ending: Ending, numbers: Numbers) -> None:
        logged = self._open[path]
        self._flush(logged)
        for name, run in list(logged.runs.items()):
            with self._guarded(name):
                run.finish(ending, logged.epoch, numbers)
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
            for logged in self._open.values():
                logged.runs.pop(name, None)
            message = (
                f"{name} failed and logs no more, training goes on: {type(error).__name__}: {error}"
            )
            self._warn(message.splitlines()[0])
