"""A worker process: reads a Place, then Bundles, from stdin; answers Events on stdout. Imports
torch once for many runs.

Where nobody can hold a pipe to it, a bundle is a file and so are its events: `--bundle FILE
--events FILE`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
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
from .attempt import Attempt
from .job import INTERRUPTED, STOP, Event, Job, JobBatch, WorkerConfig
from .submission import EventFile


def work(is_orphan: Callable[[], bool] | None = None) -> None:
    """Serve bundles until stdin ends, a signal comes or the command has ended, which is asked of
    `is_orphan` between two steps.
    """
    is_orphan = is_orphan or _is_orphan()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not stand among the answers
    if not (first := _line()):
        return
    place = WorkerConfig.read(first)
    with PatientSignals() as signals:

        def answer(event: Event) -> None:
            try:
                answers.write(event.line())
            except BrokenPipeError:  # whoever asked is gone: save and stop
                signals.stopped = True

        server = _Server(place, answer, lambda: signals.stopped or is_orphan())
        while not signals.stopped and (line := _line()):
            server.serve(JobBatch.read(line))
    with suppress(BrokenPipeError):
        answers.close()


def _line() -> str:
    """The next of stdin; empty where whoever writes it is gone, in the midst of it too."""
    line = sys.stdin.readline()
    return line if line.endswith("\n") else ""


def work_on(bundle_file: Path, events_file: Path) -> int:
    """Do the bundle of a file, after the place in its first line; append events to another, going
    on where that ends.
    """
    place_line, bundle_line = bundle_file.read_text(encoding="utf-8").splitlines()
    events = EventFile(events_file)
    attempt = Attempt(JobBatch.read(bundle_line))
    for event in events.read():
        list(attempt.on_event(event))
    bundle = attempt.bundle.retry(attempt.unfinished) if events.begin() else attempt.bundle

    def answer(event: Event) -> None:
        list(attempt.on_event(event))
        events.append(event)

    is_orphan = _is_orphan()
    with PatientSignals() as signals:
        _Server(
            WorkerConfig.read(place_line), answer, lambda: signals.stopped or is_orphan()
        ).serve(bundle)
    return 0 if attempt.complete or (bundle_file.parent / STOP).exists() else INTERRUPTED


def _is_orphan() -> Callable[[], bool]:
    """Whether the parent has died since."""
    parent = os.getppid()
    return lambda: os.getppid() != parent


def _threads() -> int:
    """What this worker was given of the machine."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() else cpu_count()


class _Server:
    """Does what it is told, one bundle after the other. Events go to `answer`; `stop()` is asked
    between steps.
    """

    def __init__(
        self, place: WorkerConfig, answer: Callable[[Event], None], stop: Callable[[], bool]
    ) -> None:
        load_plugins(place.plugins)
        workers = _threads() if place.workers is None else place.workers
        self._workspace = Workspace(
            place.workspace, place.data_dir, offline=place.offline, workers=workers
        )
        self._place, self._answer, self._stop = place, answer, stop

    def serve(self, bundle: JobBatch) -> None:
        """One bundle; of each job how it ended."""
        jobs = {job.number: job for job in bundle.jobs}
        wanted = [
            each
            for job in bundle.jobs
            if (each := self._wanted(job, begun=bundle.started_before)) is not None
        ]

        def tell(number: int, outcome: dict[str, Any] | NoisebenchError) -> None:
            self._answer(_ended(jobs[number], outcome))

        if bundle.width > 1:
            run_packed(wanted, bundle.width, self._place.device, tell)
        for each in wanted if bundle.width == 1 else ():
            tell(each.number, self._alone(each))

    def _wanted(self, job: Job, *, begun: bool) -> PackedRun | None:
        """The job as it is planned here; None, and told why, where it cannot be."""

        def listen(progress: Progress) -> None:
            self._answer(Event(job.number, "progress", asdict(progress)))

        try:
            run = resolve_suite_run(self._workspace, job.wanted, self._place.device)
            if run.key != job.key:
                raise NoisebenchError(
                    f"{job.title}: the data, a plugin or the code changed while "
                    "the suite was running; run it again"
                )
            images = self._workspace.training_images(run.dataset, run.manifest, run.recipe)
            resume = begun or (self._place.resume and not job.anew)
            conduct = RunOptions(resume, job.anew, listen, self._stop)
            return PackedRun(job.number, run, images, RunFolder(Path(job.folder)), conduct)
        except NoisebenchError as error:
            self._answer(_ended(job, error))
            return None

    def _alone(self, each: PackedRun) -> dict[str, Any] | NoisebenchError:
        try:
            trainer = make_trainer(each.run, each.images, self._place.device)
            return execute_run(each.run, each.images, trainer, each.folder, each.options)
        except NoisebenchError as error:
            return error


def _ended(job: Job, outcome: dict[str, Any] | NoisebenchError) -> Event:
    """How a job ended; of a failure that nobody has written down yet, error.json."""
    if isinstance(outcome, dict):
        return Event(
            job.number,
            "done",
            {"test_acc": outcome["metrics"]["test_acc"]["last"], "seconds": outcome["seconds"]},
        )
    kind = (
        "interrupted"
        if isinstance(outcome, Interrupted)
        else "taken"
        if isinstance(outcome, RunTaken)
        else "failed"
    )
    if kind == "failed" and not isinstance(outcome, RunFailed):
        RunFolder(Path(job.folder)).note_failure(job.about, type(outcome).__name__, str(outcome))
    return Event(job.number, kind, {"message": str(outcome)})


def main() -> None:
    """The command `python -m noisebench.executors.worker`."""
    parser = argparse.ArgumentParser(
        prog="python -m noisebench.executors.worker", description=__doc__
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="FILE",
        help="a place and a bundle, a line each, instead of stdin",
    )
    parser.add_argument(
        "--events", type=Path, metavar="FILE", help="where to append what is said of that bundle"
    )
    options = parser.parse_args()
    if (options.bundle is None) != (options.events is None):
        parser.error("--bundle and --events go together")
    if options.bundle is None:
        work()
    else:
        sys.exit(work_on(options.bundle, options.events))


if __name__ == "__main__":
    main()
