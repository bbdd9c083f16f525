"""A worker process: reads a Place, then Jobs, from stdin; answers Events on stdout. Imports torch once for many runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ..agenda import plan_one
from ..errors import Interrupted, NoisebenchError, RunTaken
from ..plugins import load_plugins
from ..results import RunFolder
from ..runner import Conduct, Progress, execute, make_trainer
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
        while not signals.stopped and (line := sys.stdin.readline()):
            job = Job.read(line)

            def answer(kind: str, content: dict[str, object], number: int = job.number) -> None:
                answers.write(Event(number, kind, content).line())

            _serve(job, workspace, place, answer, lambda: signals.stopped)


def _serve(job: Job, workspace: Workspace, place: Place, answer: Callable[..., None], stop: Callable[[], bool]) -> None:
    def listen(progress: Progress) -> None:
        answer("progress", asdict(progress))

    try:
        run = plan_one(workspace, job.wanted)
        if run.key != job.key:
            raise NoisebenchError(f"{job.title}: the data, a plugin or the code changed while the suite was running; run it again")
        images, folder = workspace.images(run.dataset), RunFolder(Path(job.folder))
        if folder.result.exists():  # another process was faster
            record = folder.record()
        else:
            record = execute(run, images, make_trainer(run, images, place.device), folder, Conduct(place.resume, listen, stop))
        answer("done", {"test_acc": record["metrics"]["test_acc"]["last"], "seconds": record["seconds"]})
    except Interrupted as error:
        answer("interrupted", {"message": str(error)})
    except RunTaken as error:
        answer("taken", {"message": str(error)})
    except NoisebenchError as error:
        answer("failed", {"message": str(error)})


if __name__ == "__main__":
    work()
