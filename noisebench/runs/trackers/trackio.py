"""Trackio: the Space or server that its environment names, else a database in the workspace."""

from __future__ import annotations

import contextvars
import io
import os
from contextlib import redirect_stdout
from typing import Any

from .base import PROJECT, Ending, Epochs, Numbers, RunInfo, Tracker, TrackerConfig

_REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


def connect(config: TrackerConfig) -> Tracker:
    """One folder a process, since Trackio reads its environment once."""
    # read once, when trackio is imported
    os.environ.setdefault("TRACKIO_DIR", str(config.workspace.resolve() / "trackio"))
    if config.offline:
        # or it asks the Hub for the name of the user who is logged in
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        for name in _REMOTE:
            os.environ.pop(name, None)
    from trackio.utils import TRACKIO_DIR

    remote = next((os.environ[name] for name in _REMOTE if os.environ.get(name)), None)
    show = f"TRACKIO_DIR={TRACKIO_DIR} trackio show --project {PROJECT}"
    return Tracker(remote or show, _start)


def _start(facts: RunInfo, identity: str | None) -> _Run:
    import trackio

    def init() -> Any:
        resume = "allow" if identity else "never"
        return trackio.init(PROJECT, facts.name, config=facts.config, resume=resume, embed=False)

    with redirect_stdout(io.StringIO()):  # several lines a run; what goes wrong is a warning
        # in a context of its own, or it would end the run that was started before
        return _Run(contextvars.Context().run(init))


class _Run:
    def __init__(self, run: Any) -> None:
        self._run = run
        self.identity = run.id
        self.held = max(0, run._next_step - 1)  # it counts on from the last step that the run has

    def log(self, epochs: Epochs) -> None:
        for epoch, numbers in epochs:
            self._run.log(numbers, step=epoch)

    def finish(self, ending: Ending, epoch: int, numbers: Numbers) -> None:
        if numbers:
            self.log([(epoch, numbers)])
        with redirect_stdout(io.StringIO()):
            self._run.finish()
