"""A worker process: reads a Place, then Bundles, from stdin; answers Events on stdout. Imports torch once for many runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..agenda import plan_one
from ..errors import Interrupted, NoisebenchError, RunFailed, RunTaken
from ..lockstep import Wanted, execute_together
from ..plugins import load_plugins
from ..runfolder import RunFolder
from ..runner import execute, make_trainer
from ..sitting import Conduct, Progress
from ..workspace import Workspace
from .job import Bundle, Event, Job, Place
from .signals import StopSignals


def work() -> None:
    """Serve until stdin ends or a signal comes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not stand among the answers
    place = Place(**json.loads(sys.stdin.readline()))
    load_plugins(place.plugins)
    workspace = Workspace(place.workspace, place.data_dir, offline=place.offline, workers=place.workers)
    with StopSignals() as signals:

        def answer(event: Event) -> None:
            try:
                answers.write(event.line())
            except BrokenPipeError:  # whoever asked is gone: save and stop
                signals.stopped = True

        server = _Server(workspace, place, answer, lambda: signals.stopped)
        while not signals.stopped and (line := sys.stdin.readline()):
            server.serve(Bundle.read(line))
    with suppress(BrokenPipeError):
        answers.close()


class _Server:
    """Does what it is told, one bundle after the other. Events go to `answer`; `stop()` is asked between steps."""

    def __init__(self, workspace: Workspace, place: Place, answer: Callable[[Event], None], stop: Callable[[], bool]) -> None:
        self._workspace, self._place, self._answer, self._stop = workspace, place, answer, stop

    def serve(self, bundle: Bundle) -> None:
        """One bundle; of each job how it ended."""
        jobs = {job.number: job for job in bundle.jobs}
        wanted = [each for job in bundle.jobs if (each := self._wanted(job)) is not None]

        def tell(number: int, outcome: dict[str, Any] | NoisebenchError) -> None:
            self._answer(_ended(jobs[number], outcome))

        if bundle.width > 1:
            execute_together(wanted, bundle.width, self._place.device, tell)
        for each in wanted if bundle.width == 1 else ():
            tell(each.number, self._alone(each))

    def _wanted(self, job: Job) -> Wanted | None:
        """The job as it is planned here; None, and told why, where it cannot be."""

        def listen(progress: Progress) -> None:
            self._answer(Event(job.number, "progress", asdict(progress)))

        try:
            run = plan_one(self._workspace, job.wanted, self._place.device)
            if run.key != job.key:
                raise NoisebenchError(f"{job.title}: the data, a plugin or the code changed while the suite was running; run it again")
            images = self._workspace.training_images(run.dataset, run.manifest)
            conduct = Conduct(self._place.resume, job.anew, listen, self._stop)
            return Wanted(job.number, run, images, RunFolder(Path(job.folder)), conduct)
        except NoisebenchError as error:
            self._answer(_ended(job, error))
            return None

    def _alone(self, each: Wanted) -> dict[str, Any] | NoisebenchError:
        try:
            trainer = make_trainer(each.run, each.images, self._place.device)
            return execute(each.run, each.images, trainer, each.folder, each.conduct)
        except NoisebenchError as error:
            return error


def _ended(job: Job, outcome: dict[str, Any] | NoisebenchError) -> Event:
    """How a job ended; of a failure that nobody has written down yet, error.json."""
    if isinstance(outcome, dict):
        return Event(job.number, "done", {"test_acc": outcome["metrics"]["test_acc"]["last"], "seconds": outcome["seconds"]})
    kind = "interrupted" if isinstance(outcome, Interrupted) else "taken" if isinstance(outcome, RunTaken) else "failed"
    if kind == "failed" and not isinstance(outcome, RunFailed):
        RunFolder(Path(job.folder)).write_error(job.about, type(outcome).__name__, str(outcome))
    return Event(job.number, kind, {"message": str(outcome)})


if __name__ == "__main__":
    work()
