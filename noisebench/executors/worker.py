"""A worker process: reads a Place, then Jobs, from stdin; answers Events on stdout. Imports torch once for many runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ..agenda import plan_one
from ..errors import Interrupted, NoisebenchError, RunFailed, RunTaken
from ..plugins import load_plugins
from ..runfolder import RunFolder
from ..runner import execute, make_trainer
from ..sitting import Conduct, Progress
from ..workspace import Workspace
from .job import Event, Job, Place
from .signals import StopSignals


def work() -> None:
    """Serve until stdin ends or a signal comes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not stand among the answers
    place = Place(**json.loads(sys.stdin.readline()))
    load_plugins(place.plugins)
    workspace = Workspace(place.workspace, place.data_dir, offline=place.offline)
    with StopSignals() as signals:

        def answer(event: Event) -> None:
            try:
                answers.write(event.line())
            except BrokenPipeError:  # whoever asked is gone: save and stop
                signals.stopped = True

        while not signals.stopped and (line := sys.stdin.readline()):
            answer(_serve(Job.read(line), workspace, place, answer, lambda: signals.stopped))
    with suppress(BrokenPipeError):
        answers.close()


def _serve(job: Job, workspace: Workspace, place: Place, answer: Callable[[Event], None], stop: Callable[[], bool]) -> Event:
    """Do one job; how it ended."""
    folder = RunFolder(Path(job.folder))

    def listen(progress: Progress) -> None:
        answer(Event(job.number, "progress", asdict(progress)))

    try:
        run = plan_one(workspace, job.wanted)
        if run.key != job.key:
            raise NoisebenchError(f"{job.title}: the data, a plugin or the code changed while the suite was running; run it again")
        images = workspace.training_images(run.dataset, run.manifest)
        trainer = make_trainer(run, images, place.device)
        record = execute(run, images, trainer, folder, Conduct(place.resume, job.anew, listen, stop))
        return Event(job.number, "done", {"test_acc": record["metrics"]["test_acc"]["last"], "seconds": record["seconds"]})
    except Interrupted as error:
        return Event(job.number, "interrupted", {"message": str(error)})
    except RunTaken as error:
        return Event(job.number, "taken", {"message": str(error)})
    except NoisebenchError as error:
        if not isinstance(error, RunFailed):  # which has said so in its folder already
            folder.write_error(job.about, type(error).__name__, str(error))
        return Event(job.number, "failed", {"message": str(error)})


if __name__ == "__main__":
    work()
