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
from ..metrics.aum import AreaUnderMargin
from ..metrics.confident_learning import Estimates
from ..metrics.dynamics import Dynamics
from .folder import RunFolder

if TYPE_CHECKING:
    import torch

    from ..training.trainer import EpochResult, Trainer

_CHECKPOINT_EVERY = 30.0  # seconds between checkpoints; lost if the process is killed
# multiple of the last checkpoint's duration: checkpoints take at most 2 % of the time
_CHECKPOINT_COST = 50.0
# messages of torch and of other processes
_NO_MEMORY = "out of memory", "can't allocate memory", "not enough memory", "memoryerror"
_NEEDS_MEMORY = (
    "out of memory: the same command resumes from the last checkpoint; train "
    "--accumulate N needs less memory, for the same result"
)
_JUDGE_AFTER = 5.0  # seconds of training before the total duration is estimated


@dataclass(frozen=True)
class Progress:
    """Reported after every epoch.

    lines: the lines of metrics.csv that this session has not reported yet, the latest last;
    seconds: training time of this run so far; images_per_second: in this epoch.
    """

    epoch: int
    epochs: int
    lines: list[dict[str, Any]]
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class RunOptions:
    """How a run is executed; nothing here changes its result.

    resume: from the checkpoint, if there is one; force: train a finished run again.
    `should_stop()` is called between steps; `on_time_estimate` once, after some seconds, with the
    estimated seconds of the whole run; `on_step` between steps, with a text on the training that
    precedes the run's own, empty for that one, and its epochs so far and in total.
    """

    resume: bool = True
    force: bool = False
    on_epoch_end: Callable[[Progress], object] = lambda progress: None
    should_stop: Callable[[], bool] = lambda: False
    on_time_estimate: Callable[[float], object] = lambda seconds: None
    on_step: Callable[[str, float, int], object] = lambda what, done, epochs: None


@dataclass
class RunState:
    """The state that accumulates over a run, saved in its checkpoint.

    folds: log_p of the networks that estimate the noise; trainer_state: of an interrupted training,
    until it is restored; pack_width: the number of slots in the run's pack, 1 for a run by itself;
    aum: None if the run was resumed from a checkpoint of a version without it; reported: the number
    of history lines that this session has reported.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    folds: list[np.ndarray] = field(default_factory=list)
    trainer_state: dict[str, Any] | None = None
    noise_estimate: Estimates | None = None
    pack_width: int = 1
    last_epoch: EpochResult = field(init=False)  # set when an epoch has ended
    dynamics: Dynamics = field(default_factory=Dynamics)
    aum: AreaUnderMargin | None = field(default_factory=AreaUnderMargin)
    reported: int = 0


class RunTimer:
    """Training time of a run over all its sessions, when to save, and the estimated total time.

    started: start of this session, shifted by the duration of callbacks, which do not count.
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
        """Measures a checkpoint written inside `with`, to schedule the next one."""
        begun = time.monotonic()
        yield
        self._saved = time.monotonic()
        self._cost = self._saved - begun

    def estimate(self, steps_left: float) -> float | None:
        """Called before every step: returns the estimated seconds of the whole run, once, as soon
        as enough steps were timed; else None.
        """
        elapsed, steps = self.spent - self._before, self._steps
        self._steps += 1
        if self._estimated or steps == 0 or elapsed <= _JUDGE_AFTER:
            return None
        self._estimated = True
        return elapsed + steps_left * elapsed / steps


def save(folder: RunFolder, trainer: Trainer, state: RunState) -> None:
    """Write the checkpoint atomically. Raises RunTaken if another process took over the run,
    RunFailed if the state is not finite.
    """
    import torch

    trainer.state.check()
    buffer = io.BytesIO()
    dynamics = state.dynamics.state_dict().items()
    aum = {} if state.aum is None else state.aum.state_dict()
    content = {
        "run": folder.path.name,
        "trainer": trainer.state_dict(),
        "history": state.history,
        "seconds": state.seconds,
        "folds": [torch.from_numpy(rows) for rows in state.folds],
        "packed": state.pack_width,
        "dynamics": {name: torch.from_numpy(array) for name, array in dynamics},
        "aum": {name: torch.from_numpy(array) for name, array in aum.items()},
    }
    torch.save(_without_shared_memory(content), buffer)
    with buffer.getbuffer() as written:
        folder.write(folder.resume, _header(written), written)


def _header(content: bytes | memoryview) -> bytes:
    """The first line of a checkpoint: a checksum, since torch.load does not detect changed
    bytes.
    """
    return f"noisebench checkpoint {hashlib.sha256(content).hexdigest()}\n".encode()


def _without_shared_memory(value: Any) -> Any:
    """The same value, with views of larger tensors copied: torch would save the larger tensor."""
    if isinstance(value, dict):
        return {key: _without_shared_memory(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_without_shared_memory(item) for item in value)
    shared = hasattr(value, "untyped_storage") and value.untyped_storage().nbytes() > value.nbytes
    return value.clone() if shared else value


def read(folder: RunFolder, *, resume: bool = True) -> bytes | None:
    """The checkpoint, if there is one; without `resume` it is deleted. Raises NoisebenchError if it
    cannot be read.
    """
    try:
        if not resume:
            folder.resume.unlink(missing_ok=True)
        with open_regular(folder.resume) as file:
            return file.read()  # no size limit: a strategy may store a table of every example
    except FileNotFoundError:
        return None
    except OSError as error:
        raise not_resumable(folder, error) from None


def load_state(folder: RunFolder, saved: bytes, device: torch.device) -> RunState:
    """The state of a checkpoint. Raises NoisebenchError if it is damaged or belongs to another
    run.
    """
    header, _, content = saved.partition(b"\n")
    try:
        if header + b"\n" != _header(content):
            raise DataError(
                "it is damaged, truncated or from another version: its checksum does not match"
            )
        state = load_torch(content, device)
        if state["run"] != folder.path.name:
            raise ValueError(f"it belongs to the run {state['run']}")
        dynamics, aum = (
            {name: array.cpu().numpy() for name, array in state.get(key, {}).items()}
            for key in ("dynamics", "aum")
        )
        return RunState(
            state["history"],
            state["seconds"],
            [rows.cpu().numpy() for rows in state["folds"]],
            state["trainer"],
            pack_width=state["packed"],
            dynamics=Dynamics.load(dynamics),
            aum=AreaUnderMargin.load(aum) if aum else None,
        )
    except Exception as error:
        # torch.load documents no exceptions; a checkpoint that cannot be read is not resumed
        if is_out_of_memory(error):
            raise
        raise not_resumable(folder, error) from None


def not_resumable(folder: RunFolder, error: Exception) -> NoisebenchError:
    """The error to raise for a checkpoint that cannot be read or does not fit."""
    return NoisebenchError(
        f"{folder.resume} cannot be resumed ({reason(error)}): delete it, or use --no-resume"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error is an out-of-memory error of Python, the CPU or a GPU, here or in another
    process; such a run can be resumed.
    """
    if isinstance(error, RuntimeError | RunFailed):
        return any(words in str(error).lower() for words in _NO_MEMORY)
    return isinstance(error, MemoryError)


def reason(error: Exception) -> str:
    """The error's message in one line."""
    text = str(error) if isinstance(error, NoisebenchError) else f"{type(error).__name__}: {error}"
    line = " ".join(text.splitlines()[0].split()).rstrip(": ")
    if is_out_of_memory(error) and not line.startswith(_NEEDS_MEMORY):
        return f"{_NEEDS_MEMORY} [{line}]"
    return line
