"""A worker process: reads a config and then batches from stdin, and writes events to stdout.

torch is imported once for many runs. On clusters, the batch and its events are files:
`python -m noisebench.executors.worker BATCH EVENTS`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ..core.hardware import cpu_count
from ..core.plugins import load_plugins
from ..core.signals import PatientSignals
from ..errors import Interrupted, NoisebenchError, RunFailed, RunTaken
from ..runs.checkpoint import Progress, RunOptions
from ..runs.folder import RunFolder
from ..runs.packed_session import PackedRun, run_packed
from ..runs.queue import resolve_suite_run
from ..runs.session import execute_run, make_trainer
from ..runs.workspace import Workspace
from .job import INTERRUPTED, STOP, Attempt, Event, EventFile, Job, JobBatch, WorkerConfig


def work(is_orphan: Callable[[], bool]) -> None:
    """Train batches until stdin ends, a signal arrives, or the command has ended, as `is_orphan`
    tells, called between steps.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # keep output of libraries apart from the events
    if not (first := _read_line()):
        return
    with PatientSignals() as signals:

        def answer(event: Event) -> None:
            try:
                answers.write(event.line())
            except BrokenPipeError:  # the command has ended: save and stop
                signals.stopped = True

        config = WorkerConfig(**json.loads(first))
        server = _Server(config, answer, lambda: signals.stopped or is_orphan())
        while not signals.stopped and (line := _read_line()):
            server.serve(JobBatch.read(line))
    with suppress(BrokenPipeError):
        answers.close()


def _read_line() -> str:
    """The next line of stdin; empty at its end, also if the last line is incomplete."""
    line = sys.stdin.readline()
    return line if line.endswith("\n") else ""


def work_on(batch_file: Path, events_file: Path) -> int:
    """Train the batch of a file, whose first line is the config; appends events to another file and
    skips the jobs that have ended there. Returns the exit code.
    """
    config_line, batch_line = batch_file.read_text(encoding="utf-8").splitlines()
    events, attempt = EventFile(events_file), Attempt(JobBatch.read(batch_line))
    for event in events.read():
        list(attempt.on_event(event))
    batch = attempt.batch.retry(attempt.unfinished) if events.started else attempt.batch
    events.append("\n")

    def answer(event: Event) -> None:
        list(attempt.on_event(event))
        events.append(event.line())

    is_orphan = _parent_watch()
    with PatientSignals() as signals:
        config = WorkerConfig(**json.loads(config_line))
        _Server(config, answer, lambda: signals.stopped or is_orphan()).serve(batch)
    is_over = not attempt.unfinished or (batch_file.parent / STOP).exists()
    return 0 if is_over else INTERRUPTED


def _parent_watch() -> Callable[[], bool]:
    """A function that returns whether the parent process has died since."""
    parent = os.getppid()
    return lambda: os.getppid() != parent


# other errors: failed
_ENDS: dict[type, str] = {Interrupted: "interrupted", RunTaken: "taken"}


class _Server:
    """Trains batches. Events are passed to `answer`; `should_stop()` is called between steps."""

    def __init__(
        self,
        config: WorkerConfig,
        answer: Callable[[Event], None],
        should_stop: Callable[[], bool],
    ) -> None:
        load_plugins(config.plugins)
        workers = config.workers
        if workers is None:
            threads = os.environ.get("OMP_NUM_THREADS", "")
            workers = int(threads) if threads.isdecimal() else cpu_count()
        self._workspace = Workspace(
            config.workspace, config.data_dir, offline=config.offline, workers=workers
        )
        self._config, self._answer, self._should_stop = config, answer, should_stop

    def serve(self, batch: JobBatch) -> None:
        """Train the runs of one batch and report how each ended."""
        runs = []
        on_result = partial(self._report, {job.number: job for job in batch.jobs})
        for job in batch.jobs:
            try:
                run = resolve_suite_run(self._workspace, job.suite_run, self._config.device)
                if run.key != job.key:
                    raise NoisebenchError(
                        f"{job.title}: the data, a plugin or the code changed while "
                        "the suite was running; run the suite again"
                    )
                images = self._workspace.training_images(run, self._config.device)
                resume = batch.started_before or (self._config.resume and not job.force)
                on_epoch_end = partial(self._report_progress, job.number)
                options = RunOptions(resume, job.force, on_epoch_end, self._should_stop)
                runs.append(
                    PackedRun(job.number, run, images, RunFolder(Path(job.folder)), options)
                )
            except NoisebenchError as error:
                on_result(job.number, error)
        if batch.width > 1:
            run_packed(runs, batch.width, self._config.device, on_result)
            return
        for packed in runs:
            try:
                trainer = make_trainer(packed.run, packed.images, self._config.device)
                record = execute_run(
                    packed.run, packed.images, trainer, packed.folder, packed.options
                )
                on_result(packed.number, record)
            except NoisebenchError as error:
                on_result(packed.number, error)

    def _report_progress(self, number: int, progress: Progress) -> None:
        self._answer(Event(number, "progress", asdict(progress)))

    def _report(
        self, jobs: dict[int, Job], number: int, result: dict[str, Any] | NoisebenchError
    ) -> None:
        """Report how a job ended; writes error.json for a failure not yet in the run directory."""
        kind = _ENDS.get(type(result), "failed")
        content = {"message": str(result)}
        if isinstance(result, dict):
            kind, content = (
                "done",
                {
                    "test_acc": result["metrics"]["test_acc"]["last"],
                    "seconds": result["seconds"],
                },
            )
        elif kind == "failed" and not isinstance(result, RunFailed):
            folder = RunFolder(Path(jobs[number].folder))
            folder.note_failure(jobs[number].facts, type(result).__name__, str(result))
        self._answer(Event(number, kind, content))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(work_on(Path(sys.argv[1]), Path(sys.argv[2])))
    work(_parent_watch())
