"""Weights & Biases: online with a key, else offline in the workspace, from where `wandb sync` takes
it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .base import PROJECT, Ending, Epochs, Numbers, RunInfo, TrackerConfig

_EXIT_CODE: dict[Ending, int] = {"finished": 0, "failed": 1, "interrupted": 130}


def connect(config: TrackerConfig) -> _Tracker:
    """Asks nobody anything: neither a person for a key nor a server whether it is there."""
    if config.offline:
        # it would report over the network, offline or not
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb  # noqa: F401  reads its environment

    return _Tracker(
        Path(os.environ.get("WANDB_DIR") or config.workspace), _mode(offline=config.offline)
    )


def _mode(*, offline: bool) -> str:
    """As WANDB_MODE says; offline where noisebench is, or where there is no key, so that nobody is
    asked for one.
    """
    import wandb

    asked = os.environ.get("WANDB_MODE") or "online"
    if asked != "online":
        return asked
    return "online" if not offline and wandb.login(prompt=False, verify=False) else "offline"


class _Tracker:
    def __init__(self, place: Path, mode: str) -> None:
        self._place, self._mode = place, mode
        folder = place / "wandb"
        self.where = (
            f"offline in {folder}: wandb sync {folder / 'offline-run-*'}"
            if mode == "offline"
            else mode
        )

    def start(self, facts: RunInfo, known: str | None) -> _Page:
        import wandb

        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=facts.name,
            notes=facts.title,
            config=facts.config,
            dir=self._place.resolve(),  # its service has a working folder of its own
            mode=self._mode,
            id=known,
            resume="allow" if known else None,
            reinit="create_new",  # a suite has several runs open
            settings=wandb.Settings(silent=True, console="off"),
        )
        return _Page(run)


class _Page:
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
