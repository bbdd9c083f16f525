"""A run from where it was left to its end or to where it is stopped: what is checkpointed, when,
and how long it will take.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files.torch_files import load_torch
from ..core.files.untrusted import open_regular
from ..errors import DataError, Interrupted, NoisebenchError, RunFailed
from ..experiments.resolve import RunConfig
from ..metrics.confident_learning import Estimates
from ..metrics.dynamics import Dynamics
from .folder import RunFolder
from .noise_estimation import NUM_FOLDS

if TYPE_CHECKING:
    import torch

    from ..training.trainer import EpochResult, Trainer

_CHECKPOINT_EVERY = 30.0  # seconds between checkpoints; what is lost at a sudden death
# times as long as the last checkpoint took: at most a twentieth of the time goes into them
_CHECKPOINT_COST = 20.0
_RESUMES = "the same command resumes it"
# as torch says it, and another process
_NO_MEMORY = "out of memory", "can't allocate memory", "not enough memory", "memoryerror"
_NEEDS_MEMORY = (
    "out of memory: the same command goes on from the last checkpoint; train "
    "--accumulate N needs less, for the same curve"
)
_MOST_PACKED = 256  # places; more than any pack has
_JUDGE_AFTER = 5.0  # seconds of training from which the whole duration is estimated


@dataclass(frozen=True)
class Progress:
    """Said after every epoch. lines: of metrics.csv, those that were not said yet in this sitting,
    the latest last; seconds spent on this run, images a second in this epoch.
    """

    epoch: int
    epochs: int
    lines: list[dict[str, Any]]
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class RunOptions:
    """How a run is executed; nothing here changes its result. `anew`: though it is finished.
    `stop()` is asked between steps; `estimate` is told once, after some seconds, how many seconds
    the whole run will take.
    """

    resume: bool = True
    force: bool = False
    on_epoch_end: Callable[[Progress], object] = lambda progress: None
    should_stop: Callable[[], bool] = lambda: False
    on_time_estimate: Callable[[float], object] = lambda seconds: None


@dataclass
class RunState:
    """What accumulates over a run; travels with the checkpoint. folds: what the warm-up's networks
    said; state: of the training that was interrupted, until it is taken up again; found: what it
    found out of the noise; packed: the places of the pack that it trains in, 1 for a run by itself;
    end: what the last epoch left; said: lines of the history that were said in this sitting.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    folds: list[np.ndarray] = field(default_factory=list)
    trainer_state: dict[str, Any] | None = None
    noise_estimate: Estimates | None = None
    pack_width: int = 1
    last_epoch: EpochResult | None = None
    dynamics: Dynamics = field(default_factory=Dynamics)
    reported: int = 0

    def news(self) -> list[dict[str, Any]]:
        """The lines of the history that were not said yet; now they are."""
        lines, self.reported = self.history[self.reported :], len(self.history)
        return lines


class RunSession:
    """A run from where it was left to its end, or to where it is stopped: one training after
    another.
    """

    def __init__(
        self, run: RunConfig, folder: RunFolder, conduct: RunOptions, course: RunState
    ) -> None:
        self.run, self.folder, self.conduct, self.course = run, folder, conduct, course
        self.clock = RunTimer(course.seconds)

    def train(
        self, trainer: Trainer, note: Callable[[float], object] = lambda seconds: None
    ) -> None:
        """One training, taken up again where it was interrupted. `note` is told, after every epoch,
        its seconds for as many images as an epoch has.
        """
        self.restore(trainer)
        run_epoch = (
            _in_its_pack(trainer, self.course.pack_width)
            if self.course.pack_width > 1
            else trainer.run_epoch
        )
        while trainer.epoch < trainer.task.recipe.epochs:
            begun, before = time.monotonic(), trainer.step
            end = run_epoch(lambda: self._on_step(trainer))
            self.course.seconds, self.course.last_epoch = self.clock.spent, end
            whole = trainer.steps_per_epoch / (trainer.steps_per_epoch - before)
            trained = time.monotonic()
            note((trained - begun) * whole)
            self.clock.exclude(time.monotonic() - trained)

    def restore(self, trainer: Trainer) -> None:
        """Put a training to where its checkpoint left it."""
        if self.course.trainer_state is not None:
            _restore(self.folder, trainer, self.course.trainer_state)
            self.course.trainer_state = None

    def _on_step(self, trainer: Trainer) -> None:
        self.course.seconds = self.clock.spent
        self.clock.count(lambda: self._steps_left(trainer), self.conduct)
        if trainer.ranks.any(self.conduct.should_stop()):
            trainer.ranks.on_rank_zero(lambda: save(self.folder, trainer, self.course))
            raise interrupted(trainer, self.conduct, " of the warm-up" if self._warming_up else "")
        if trainer.ranks.rank == 0 and self.clock.checkpoint_due():
            with self.clock.checkpoint():
                save(self.folder, trainer, self.course)

    @property
    def _warming_up(self) -> bool:
        return bool(self.run.unknown_noise) and len(self.course.folds) < NUM_FOLDS

    def _steps_left(self, trainer: Trainer) -> float:
        """Of this training and those after it, in steps of about the same length."""
        left = (trainer.task.recipe.epochs - trainer.epoch) * trainer.steps_per_epoch - trainer.step
        if not self._warming_up:
            return left
        after = NUM_FOLDS - 1 - len(self.course.folds)
        return left + trainer.steps_per_epoch * (
            after * trainer.task.recipe.epochs
            + NUM_FOLDS / (NUM_FOLDS - 1) * self.run.recipe.epochs
        )


def _in_its_pack(trainer: Trainer, width: int) -> Callable[[Callable[[], object]], EpochResult]:
    """The epochs of a run that began in a pack and goes on by itself: in a pack still, whose other
    places are filled.
    """
    from ..training.packed import PackedTrainer

    pack = PackedTrainer([trainer], width)

    def run_epoch(on_step: Callable[[], object]) -> EpochResult:
        (end,) = pack.run_epoch(on_step)
        if isinstance(end, RunFailed):
            raise end
        return end

    return run_epoch


def interrupted(trainer: Trainer, conduct: RunOptions, of_what: str = "") -> Interrupted:
    """The error of a run that was stopped after it was saved."""
    next_time = (
        "the same command begins anew, and without --force the result that there is stays"
        if conduct.force
        else _RESUMES
    )
    return Interrupted(
        f"stopped in epoch {trainer.epoch + 1} of "
        f"{trainer.task.recipe.epochs}{of_what}; {next_time}"
    )


class RunTimer:
    """Seconds spent on a run over all its sittings; when to save; how long it will take."""

    def __init__(self, before: float) -> None:
        self._before, self._started = before, time.monotonic()
        self._saved, self._cost, self._steps, self._told = self._started, 0.0, 0, False

    @property
    def spent(self) -> float:
        return self._before + time.monotonic() - self._started

    def exclude(self, seconds: float) -> None:
        """So many were not the run's: whoever listens took them, such as a tracker's server."""
        self._started += seconds

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
        try:
            yield
        finally:
            self._saved = time.monotonic()
            self._cost = self._saved - begun

    def count(self, left: Callable[[], float], conduct: RunOptions) -> None:
        """Called before every step; says the estimate once there are seconds to judge by, from the
        steps that are left.
        """
        elapsed = time.monotonic() - self._started
        if not self._told and self._steps and elapsed > _JUDGE_AFTER:
            self._told = True
            conduct.on_time_estimate(elapsed + left() * elapsed / self._steps)
        self._steps += 1


def save(folder: RunFolder, trainer: Trainer, course: RunState) -> None:
    """Write the checkpoint, whole or not at all. Raises RunTaken where the run is another's
    meanwhile, RunFailed where what would be saved is not finite.
    """
    import torch

    trainer.state.check()
    buffer = io.BytesIO()
    folds = [torch.from_numpy(rows) for rows in course.folds]
    dynamics = {
        name: torch.from_numpy(array) for name, array in course.dynamics.state_dict().items()
    }
    so_far = {
        "history": course.history,
        "seconds": course.seconds,
        "folds": folds,
        "packed": course.pack_width,
        "dynamics": dynamics,
    }
    torch.save(
        _by_itself({"run": folder.path.name, "trainer": trainer.state_dict(), **so_far}), buffer
    )
    folder.write(
        folder.resume, lambda file: file.writelines([_seal(buffer.getbuffer()), buffer.getbuffer()])
    )


def _seal(content: bytes | memoryview) -> bytes:
    """The first line of a checkpoint: torch would read changed numbers without a word."""
    return f"noisebench checkpoint {hashlib.sha256(content).hexdigest()}\n".encode()


def _unsealed(saved: bytes) -> bytes:
    """What stands below the first line. Raises DataError where it is not what was written."""
    head, _, content = saved.partition(b"\n")
    if head + b"\n" != _seal(content):
        raise DataError(
            "it is damaged, cut short or of another version: its checksum does not match"
        )
    return content


def _by_itself(value: Any) -> Any:
    """The same without memory that is shared: of a tensor that is part of a larger one, torch would
    save the whole.
    """
    if isinstance(value, dict):
        return {key: _by_itself(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_by_itself(each) for each in value)
    shared = hasattr(value, "untyped_storage") and value.untyped_storage().nbytes() > value.nbytes
    return value.clone() if shared else value


def read(folder: RunFolder) -> bytes | None:
    """The checkpoint, if there is one. Raises NoisebenchError for one that cannot be read."""
    try:
        with open_regular(folder.resume) as file:
            return file.read()  # of any size: it may hold a memory of every example
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _not_resumable(folder, error) from None


def course_of(folder: RunFolder, saved: bytes, device: torch.device) -> RunState:
    """The course as its checkpoint has it. Raises NoisebenchError for one that is damaged, or
    another run's.
    """
    try:
        found = load_torch(_unsealed(saved), device)
        _check_run(found, folder)
        folds = [rows.cpu().numpy() for rows in found["folds"]]
        dynamics = Dynamics.resume(
            {name: array.cpu().numpy() for name, array in found["dynamics"].items()}
        )
        return RunState(
            found["history"],
            found["seconds"],
            folds,
            found["trainer"],
            pack_width=found["packed"],
            dynamics=dynamics,
        )
    except Exception as error:
        # torch.load documents no exceptions; a checkpoint that cannot be read is not resumed
        if is_out_of_memory(error):
            raise
        raise _not_resumable(folder, error) from None


def _check_run(found: dict[str, Any], folder: RunFolder) -> None:
    """Raises ValueError for what is no checkpoint of this run."""
    if found.get("run") != folder.path.name:
        raise ValueError(f"it is of the run {found.get('run')}")
    history, seconds, packed = found["history"], found["seconds"], found["packed"]
    lines = isinstance(history, list) and all(isinstance(line, dict) for line in history)
    if (
        not lines
        or not isinstance(packed, int)
        or not 1 <= packed <= _MOST_PACKED
        or not 0 <= seconds < float("inf")
    ):
        raise ValueError("it holds no course of a run")


def _restore(folder: RunFolder, trainer: Trainer, state: dict[str, Any]) -> None:
    try:
        trainer.load_state_dict(state)
    except Exception as error:  # as above: whatever does not fit
        raise _not_resumable(folder, error) from None


def _not_resumable(folder: RunFolder, error: Exception) -> NoisebenchError:
    return NoisebenchError(
        f"{folder.resume} cannot be resumed ({reason(error)}): delete it, or give --no-resume"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Of Python, of a processor's or of a GPU's memory; the run is as well as it was, and what it
    saved of use.
    """
    text = str(error).lower()
    # RunFailed: in another process
    said = isinstance(error, RuntimeError | RunFailed) and any(
        words in text for words in _NO_MEMORY
    )
    return said or isinstance(error, MemoryError)


def reason(error: Exception) -> str:
    """An error in one line."""
    text = str(error) if isinstance(error, NoisebenchError) else f"{type(error).__name__}: {error}"
    line = " ".join(text.splitlines()[0].split()).rstrip(": ")
    return (
        f"{_NEEDS_MEMORY} [{line}]"
        if is_out_of_memory(error) and not line.startswith(_NEEDS_MEMORY)
        else line
    )
