"""The state that accumulates over a run, its checkpoints, and its timer."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files.arrays import load_torch
from ..core.files.untrusted import open_regular
from ..errors import DataError, NoisebenchError, RunFailed
from ..metrics.confident_learning import Estimates
from ..metrics.dynamics import Dynamics
from .folder import RunFolder

if TYPE_CHECKING:
    import torch

    from ..training.trainer import EpochResult, Trainer

_CHECKPOINT_EVERY = 30.0  # seconds between checkpoints; what is lost at a sudden death
# times as long as the last checkpoint took: at most a twentieth of the time goes into them
_CHECKPOINT_COST = 20.0
# as torch says it, and another process
_NO_MEMORY = "out of memory", "can't allocate memory", "not enough memory", "memoryerror"
_NEEDS_MEMORY = (
    "out of memory: the same command goes on from the last checkpoint; train "
    "--accumulate N needs less, for the same curve"
)
_JUDGE_AFTER = 5.0  # seconds of training from which the whole duration is estimated


@dataclass(frozen=True)
class Progress:
    """Reported after every epoch. lines: of metrics.csv, those that this session has not reported
    yet, the latest last; seconds spent on this run, images per second in this epoch.
    """

    epoch: int
    epochs: int
    lines: list[dict[str, Any]]
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class RunOptions:
    """How a run is executed; nothing here changes its result. force: though it is finished.
    `should_stop()` is called between steps; `on_time_estimate` once, after some seconds, with the
    seconds that the whole run will take.
    """

    resume: bool = True
    force: bool = False
    on_epoch_end: Callable[[Progress], object] = lambda progress: None
    should_stop: Callable[[], bool] = lambda: False
    on_time_estimate: Callable[[float], object] = lambda seconds: None


@dataclass
class RunState:
    """What accumulates over a run; a checkpoint holds it. folds: log_p of the networks that
    estimate the noise; trainer_state: of the training that was interrupted, until it is restored;
    pack_width: the slots of the pack that it trains in, 1 for a run by itself; reported: the number
    of lines of the history that this session has reported.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    folds: list[np.ndarray] = field(default_factory=list)
    trainer_state: dict[str, Any] | None = None
    noise_estimate: Estimates | None = None
    pack_width: int = 1
    last_epoch: EpochResult = field(init=False)  # set when an epoch has ended
    dynamics: Dynamics = field(default_factory=Dynamics)
    reported: int = 0


class RunTimer:
    """Seconds spent on a run over all its sessions; when to save; how long it will take. started:
    later by the seconds that callbacks took, which do not count.
    """

    def __init__(self, before: float) -> None:
        self._before, self.started = before, time.monotonic()
        self._saved, self._cost, self._steps, self._estimated = self.started, 0.0, 0, False

    @property
    def spent(self) -> float:
        return self._before + time.monotonic() - self.started

    def checkpoint_due(self) -> bool:
        return time.monotonic() - self._saved > max(
            _CHECKPOINT_EVERY, _CHECKPOINT_COST * self._cost
        )

    @contextmanager
    def checkpoint(self) -> Iterator[None]:
        """Inside `with` a checkpoint is written: the next one is due by its end and by how long it
        took.
        """
        begun = time.monotonic()
        yield
        self._saved = time.monotonic()
        self._cost = self._saved - begun

    def estimate(self, steps_left: float) -> float | None:
        """Called before every step: the seconds of the whole run, once, as soon as enough have
        passed to judge by.
        """
        elapsed, steps = self.spent - self._before, self._steps
        self._steps += 1
        if self._estimated or steps == 0 or elapsed <= _JUDGE_AFTER:
            return None
        self._estimated = True
        return elapsed + steps_left * elapsed / steps


def save(folder: RunFolder, trainer: Trainer, state: RunState) -> None:
    """Write the checkpoint, whole or not at all. Raises RunTaken where another process took over,
    RunFailed where what would be saved is not finite.
    """
    import torch

    trainer.state.check()
    buffer = io.BytesIO()
    dynamics = state.dynamics.state_dict().items()
    content = {
        "run": folder.path.name,
        "trainer": trainer.state_dict(),
        "history": state.history,
        "seconds": state.seconds,
        "folds": [torch.from_numpy(rows) for rows in state.folds],
        "packed": state.pack_width,
        "dynamics": {name: torch.from_numpy(array) for name, array in dynamics},
    }
    torch.save(_without_shared_memory(content), buffer)
    with buffer.getbuffer() as written:
        folder.write(folder.resume, _header(written), written)


def _header(content: bytes | memoryview) -> bytes:
    """The first line of a checkpoint, without which torch would read changed numbers in silence."""
    return f"noisebench checkpoint {hashlib.sha256(content).hexdigest()}\n".encode()


def _without_shared_memory(value: Any) -> Any:
    """The same value; a tensor that is part of a larger one is copied, of which torch would save
    all.
    """
    if isinstance(value, dict):
        return {key: _without_shared_memory(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_without_shared_memory(item) for item in value)
    shared = hasattr(value, "untyped_storage") and value.untyped_storage().nbytes() > value.nbytes
    return value.clone() if shared else value


def read(folder: RunFolder, *, resume: bool = True) -> bytes | None:
    """The checkpoint, if there is one; without `resume` it is deleted. Raises NoisebenchError for
    one that cannot be read.
    """
    try:
        if not resume:
            folder.resume.unlink(missing_ok=True)
        with open_regular(folder.resume) as file:
            return file.read()  # of any size: it may hold a memory of every example
    except FileNotFoundError:
        return None
    except OSError as error:
        raise not_resumable(folder, error) from None


def load_state(folder: RunFolder, saved: bytes, device: torch.device) -> RunState:
    """The state as its checkpoint has it. Raises NoisebenchError for one that is damaged, or
    another run's.
    """
    header, _, content = saved.partition(b"\n")
    try:
        if header + b"\n" != _header(content):
            raise DataError(
                "it is damaged, cut short or of another version: its checksum does not match"
            )
        state = load_torch(content, device)
        if state["run"] != folder.path.name:
            raise ValueError(f"it is of the run {state['run']}")
        dynamics = {name: array.cpu().numpy() for name, array in state["dynamics"].items()}
        return RunState(
            state["history"],
            state["seconds"],
            [rows.cpu().numpy() for rows in state["folds"]],
            state["trainer"],
            pack_width=state["packed"],
            dynamics=Dynamics.load(dynamics),
        )
    except Exception as error:
        # torch.load documents no exceptions; a checkpoint that cannot be read is not resumed
        if is_out_of_memory(error):
            raise
        raise not_resumable(folder, error) from None


def not_resumable(folder: RunFolder, error: Exception) -> NoisebenchError:
    """The error to raise for a checkpoint that cannot be read or does not fit."""
    return NoisebenchError(
        f"{folder.resume} cannot be resumed ({reason(error)}): delete it, or give --no-resume"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python's, a processor's or a GPU's memory ran out, here or in another process; the
    run itself is sound and can be resumed.
    """
    if isinstance(error, RuntimeError | RunFailed):
        return any(words in str(error).lower() for words in _NO_MEMORY)
    return isinstance(error, MemoryError)


def reason(error: Exception) -> str:
    """An error in one line."""
    text = str(error) if isinstance(error, NoisebenchError) else f"{type(error).__name__}: {error}"
    line = " ".join(text.splitlines()[0].split()).rstrip(": ")
    if is_out_of_memory(error) and not line.startswith(_NEEDS_MEMORY):
        return f"{_NEEDS_MEMORY} [{line}]"
    return line
