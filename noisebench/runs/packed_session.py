"""Trains several runs at once, as one network; each ends independently: finished, stopped or
failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..datasets import Images
from ..errors import DataError, NoisebenchError, RunFailed, RunTaken
from ..experiments.oracle import transitions
from ..experiments.resolve import RunConfig
from ..losses import LOSSES
from .checkpoint import RunOptions, RunTimer, save
from .folder import RunFolder
from .result import finalize_run
from .session import RunSession, make_trainer, record_failure

if TYPE_CHECKING:
    from torch import Tensor

OnResult = Callable[[int, "dict[str, Any] | NoisebenchError"], object]
"""Called once for each run, with its number and its record, or the error that ended it."""


@dataclass(frozen=True)
class PackedRun:
    """A run of a pack. number: identifies it in the results."""

    number: int
    run: RunConfig
    images: Images
    folder: RunFolder
    options: RunOptions


@dataclass
class Slot:
    """The session of a run in a pack, until the run ends."""

    packed_run: PackedRun
    session: RunSession
    on_result: OnResult
    ended: bool = False
    train_log_p: Tensor | None = None  # (N, K), at the end, if the pack predicts for all its runs

    @property
    def position(self) -> tuple[int, int, int, int]:
        """Must be equal for the runs of a pack: the pack's width, and the step."""
        trainer = self.session.trainer
        return (
            self.session.state.pack_width,
            trainer.state.epoch,
            trainer.state.step,
            trainer.state.schedule_start,
        )

    def end(self, outcome: dict[str, Any] | NoisebenchError) -> None:
        self.ended = True
        self.on_result(self.packed_run.number, outcome)

    def fail(self, error: Exception) -> None:
        """Record a failure of this run."""
        try:
            self.end(record_failure(self.session.run, self.session.folder, error))
        except DataError as unwritten:  # another process took over, or the disk is full
            self.end(unwritten)

    def finish(self) -> None:
        session = self.session
        try:
            record = finalize_run(
                session.run,
                session.images,
                session.folder,
                session.trainer,
                session.state,
                train_log_p=self.train_log_p,
            )
            self.end(record)
        except DataError as error:  # as above
            self.end(error)

    def save(self, *, stopped: bool) -> None:
        """Write the checkpoint; if `stopped`, the run ends."""
        session = self.session
        try:
            save(session.folder, session.trainer, session.state)
        except RunTaken as error:
            self.end(error)
        except RunFailed as failure:
            if stopped:  # else it ends with the epoch, while the other runs continue
                self.fail(failure)
        else:
            if stopped:
                self.end(session.interrupted(session.trainer))


def run_packed(runs: Sequence[PackedRun], width: int, device: str, on_result: OnResult) -> None:
    """Train all runs to the end. An interrupted run resumes in a pack of the width that it started
    in, with the runs at the same step.
    """
    with ExitStack() as locks:
        # all locks first: another process then finds the whole pack locked, not half of it
        locked = []
        for packed_run in runs:
            try:
                folder = locks.enter_context(packed_run.folder.locked())
                options = packed_run.options
                record = None if options.force else folder.finished(packed_run.run.key)
                if record is None:
                    locked.append((replace(packed_run, folder=folder), width))
                else:
                    on_result(packed_run.number, record)
            except NoisebenchError as error:
                on_result(packed_run.number, error)
        _train_all(locked, device, on_result)


def _train_all(runs: Iterable[tuple[PackedRun, int]], device: str, on_result: OnResult) -> None:
    """Start or resume each run, in a pack of this width; train those at the same step together."""
    slots: list[Slot] = []
    for packed_run, width in runs:
        run, images = packed_run.run, packed_run.images
        first = slots[0].session.trainer if slots else None
        try:
            trainer = make_trainer(run, images, device, share_images_with=first)
            session = RunSession(
                run, images, packed_run.folder, packed_run.options, trainer, pack_width=width
            )
            session.restore(trainer)
            slots.append(Slot(packed_run, session, on_result))
        except NoisebenchError as error:
            on_result(packed_run.number, error)
    slots.sort(key=lambda slot: slot.position)
    for _, group in groupby(slots, key=lambda slot: slot.position):
        _train(list(group), device)


def _train(slots: list[Slot], device: str) -> None:
    """Train runs at the same step to their ends. If one raises an error, they are resumed in
    halves, until the one that raises it is alone and fails.
    """
    try:
        for slot in _run_epochs(slots):
            slot.finish()
    except _Stopped:
        return
    except DataError as error:
        # such as a full disk, which is not the fault of a run: all checkpoints are kept
        for slot in slots:
            if not slot.ended:
                slot.end(error)
    except Exception as error:  # an error of a loss, a strategy or a device fails only its run
        if len(slots) == 1:
            slots[0].fail(error)
            return
        left = [slot for slot in slots if not slot.ended]
        for half in (left[: len(left) // 2], left[len(left) // 2 :]):
            runs = []
            for slot in half:
                # from the checkpoints of this session, even with --no-resume
                options = replace(slot.packed_run.options, resume=True, force=False)
                again = replace(slot.packed_run, options=options)
                runs.append((again, slot.session.state.pack_width))
            _train_all(runs, device, slots[0].on_result)


class _Stopped(Exception):
    """All runs of a pack are saved and have ended."""


def _run_epochs(slots: list[Slot]) -> list[Slot]:
    """Train the runs as one network; returns those that reached the end. Raises _Stopped.

    A run that another process took over stays in the pack, but is not recorded.
    """
    from ..training.packed import PackedTrainer

    sessions = [slot.session for slot in slots]
    trainers = [session.trainer for session in sessions]
    kinds = [kind_of_step(session.run) for session in sessions]
    pack, timer = PackedTrainer(trainers, sessions[0].state.pack_width, kinds), RunTimer(0.0)

    def on_step() -> None:
        stopped = any(slot.session.options.should_stop() for slot in slots)
        if stopped or timer.checkpoint_due():
            with timer.checkpoint():
                for slot in slots:
                    if not slot.ended:
                        slot.save(stopped=stopped)
            if all(slot.ended for slot in slots):
                raise _Stopped

    while slots and pack.first.state.epoch < pack.first.task.recipe.epochs:
        started, share = time.monotonic(), 1 - pack.first.state.step / len(pack.first.state.batches)
        ends = pack.run_epoch(on_step)
        seconds = (time.monotonic() - started) / len(ends)
        for slot, end in zip(slots, ends, strict=True):
            if slot.ended:
                continue
            if isinstance(end, RunFailed):
                slot.fail(end)
            else:
                slot.session.state.seconds += seconds
                slot.session.record_epoch(end, seconds / share)
        slots = [
            slot for slot, end in zip(slots, ends, strict=True) if not isinstance(end, RunFailed)
        ]
        if all(slot.ended for slot in slots):  # other processes took over all remaining runs
            break
    for slot, log_p in zip(slots, pack.train_log_p() or (), strict=False):
        slot.train_log_p = log_p
    return [slot for slot in slots if not slot.ended]


def kind_of_step(run: RunConfig) -> str:
    """A text that is equal for runs whose costs are equal for equal logits: loss, strategy, and T
    if the loss has one.
    """
    words = {value for call in LOSSES.calls(run.loss) for key, value in call.kwargs if key == "T"}
    tables = {
        word: table.tolist()
        for word, table in transitions(run.manifest, run.loss).items()
        if word in words
    }
    return f"{run.loss}, {run.strategy}, {tables}"
