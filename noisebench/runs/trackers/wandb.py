"""Weights & Biases: online with a key, else offline in the workspace, from where `wandb sync` takes
it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .base import PROJECT, Ending, Epochs, Numbers, RunInfo, Tracker, TrackerConfig

_EXIT_CODE: dict[Ending, int] = {"finished": 0, "failed": 1, "interrupted": 130}


def connect(config: TrackerConfig) -> Tracker:
    """Asks for nothing: no person for a key, and no server whether it is there. Offline by
    WANDB_MODE, where noisebench is, or without a key.
    """
    if config.offline:
        # it would report over the network, offline or not
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    folder = Path(os.environ.get("WANDB_DIR") or config.workspace)
    mode = os.environ.get("WANDB_MODE") or "online"
    if mode == "online" and (config.offline or not wandb.login(prompt=False, verify=False)):
        mode = "offline"
    where = mode
    if mode == "offline":
        path = folder / "wandb"
        where = f"offline in {path}: wandb sync {path / 'offline-run-*'}"

    def start(facts: RunInfo, identity: str | None) -> _Run:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=facts.name,
            notes=facts.title,
            config=facts.config,
            dir=folder.resolve(),  # its service has a working folder of its own
            mode=mode,
            id=identity,
            resume="allow" if identity else None,
            reinit="create_new",  # a suite has several runs open
            settings=wandb.Settings(silent=True, console="off"),
        )
        return _Run(run)

    return Tracker(where, start)


class _Run:
    def __init__(self, run: Any) -> None:
        self._run = run
        self.identity = run.id
        self.held = run.starting_step - 1 if run.resumed else 0

    def log(self, epochs: Epochs) -> None:
        for epoch, numbers in epochs:
            self._run.log(numbers, step=epoch)

    def finish(self, ending: Ending, epoch: int, numbers: Numbers) -> None:
        self._run.summary.update(numbers)
        self._run.finish(exit_code=_EXIT_CODE[ending])
