"""A plugin: a checkpoint at every step; in the second epoch what MISHAP says happens to the
processes VICTIMS, once.
"""

import os
import signal

import torch

from noisebench.errors import DataError
from noisebench.runs import checkpoint
from noisebench.training.step import TrainingStep

checkpoint.RunTimer.checkpoint_due = lambda clock: True  # type: ignore[method-assign]
make_step = TrainingStep.run


def happen(what: str, step: TrainingStep) -> None:
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stop":
        os.kill(os.getppid(), signal.SIGTERM)
    if what == "out of memory":
        raise MemoryError("no more of it")
    if what == "damaged picture":
        raise DataError("picture 7 is damaged")
    if what == "nan":
        with torch.no_grad():
            next(step.networks[0].parameters()).fill_(float("nan"))
    if what == "infinite gradient":
        next(step.networks[0].parameters()).register_hook(
            lambda gradient: gradient.fill_(float("inf"))
        )


def step_with_mishap(self: TrainingStep) -> None:
    meant = (
        os.environ.get("RANK", "0") in os.environ.get("VICTIMS", "")
        and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    )
    if meant and (self.state.epoch, self.state.step) == (1, 3):
        happen(os.environ["MISHAP"], self)
    make_step(self)


TrainingStep.run = step_with_mishap  # type: ignore[method-assign]
