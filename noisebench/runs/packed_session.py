"""Several runs at once, in the places of one pack; each ends as it would by itself: finished,
stopped or failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..datasets import Images
from ..errors import DataError, NoisebenchError, RunFailed, RunTaken
from ..experiments.oracle import transitions
from ..experiments.resolve import RunConfig
from ..losses import LOSSES
from .checkpoint import RunOptions, RunSession, RunState, RunTimer, interrupted, save
from .folder import RunFolder
from .result import finalize_run
from .session import load_or_start, make_trainer, record_epoch, record_failure

if TYPE_CHECKING:
    from ..training.packed import PackedTrainer
    from ..training.trainer import EpochResult, Trainer

OnResult = Callable[[int, "dict[str, Any] | NoisebenchError"], object]
"""Told once of each run, by its number: its record, or the error that it ended in."""


@dataclass(frozen=True)
class PackedRun:
    """A run of a pack. number: what it is called in what is told of it."""

    number: int
    run: RunConfig
    images: Images
    folder: RunFolder
    conduct: RunOptions


@dataclass
class Slot:
    """A run of a pack, and where it stands."""

    wanted: PackedRun
    trainer: Trainer
    course: RunState
    ended: bool = False

    def end(self, outcome: dict[str, Any] | NoisebenchError, tell: OnResult) -> None:
        """Say how the run ended."""
        self.ended = True
        tell(self.wanted.number, outcome)

    @property
    def place(self) -> tuple[int, int, int, int]:
        """What runs of one pack must have in common: where they stand, and how wide the pack is."""
        return (
            self.course.pack_width,
            self.trainer.epoch,
            self.trainer.step,
            self.trainer.state.schedule_start,
        )


def run_packed(wanted: Sequence[PackedRun], width: int, device: str, tell: OnResult) -> None:
    """Train all to the end. A run that was interrupted goes on as wide as it began, beside those
    that stand where it stands.
    """
    with ExitStack() as claims:
        # all at once: who comes a moment later finds the whole pack taken, not half
        claimed = list(_claimed(wanted, claims, tell))
        _train_all(list(_lanes([(each, width) for each in claimed], device, tell)), device, tell)


def _train_all(lanes: list[Slot], device: str, tell: OnResult) -> None:
    """Those that stand at the same step together."""
    for _, group in groupby(
        sorted(lanes, key=lambda lane: lane.place), key=lambda lane: lane.place
    ):
        _train(list(group), device, tell)


def _claimed(wanted: Sequence[PackedRun], claims: ExitStack, tell: OnResult) -> Iterator[PackedRun]:
    """The runs that are to be had and not finished."""
    for each in wanted:
        try:
            folder = claims.enter_context(each.folder.locked())
            if (
                record := None if each.conduct.force else folder.finished(each.run.key)
            ) is not None:
                tell(each.number, record)
            else:
                yield replace(each, folder=folder)
        except NoisebenchError as error:
            tell(each.number, error)


def _lanes(wanted: Iterable[tuple[PackedRun, int]], device: str, tell: OnResult) -> Iterator[Slot]:
    """A lane of each run, in a pack of so many places, put to where it was left."""
    first: Trainer | None = None
    for each, width in wanted:
        try:
            lane = _lane(each, width, device, first)
        except NoisebenchError as error:
            tell(each.number, error)
            continue
        first = first or lane.trainer
        yield lane


def _lane(wanted: PackedRun, width: int, device: str, beside: Trainer | None) -> Slot:
    trainer = make_trainer(wanted.run, wanted.images, device, beside=beside)
    course = load_or_start(wanted.run, wanted.folder, wanted.conduct, trainer, width)
    RunSession(wanted.run, wanted.folder, wanted.conduct, course).restore(trainer)
    return Slot(wanted, trainer, course)


def _train(lanes: list[Slot], device: str, tell: OnResult) -> None:
    """Lanes at the same step, to their ends. Where something throws, they go on in halves, until
    who threw it is alone and fails.
    """
    from ..training.packed import PackedTrainer

    try:
        pack = PackedTrainer(
            [lane.trainer for lane in lanes],
            lanes[0].course.pack_width,
            [kind_of_step(lane.wanted.run) for lane in lanes],
        )
        for lane in _followed(pack, lanes, tell):
            lane.end(_finished(lane), tell)
    except _Stopped:
        return
    except _Lost:
        _go_on([lane for lane in lanes if not lane.ended], device, tell)
    except DataError as error:
        # of a disk that is full, say: it is no run's own, and what was saved of all stays
        for lane in lanes:
            if not lane.ended:
                lane.end(error, tell)
    except Exception as error:  # whatever a loss, a strategy or a device throws fails its run alone
        if len(lanes) == 1:
            lanes[0].end(_failed(lanes[0], error), tell)
            return
        left = [lane for lane in lanes if not lane.ended]
        for half in (left[: len(left) // 2], left[len(left) // 2 :]):
            _go_on(half, device, tell)


def _go_on(lanes: list[Slot], device: str, tell: OnResult) -> None:
    """Resume them from the checkpoints of this session, whatever was asked at first (such as
    --no-resume).
    """
    resumed = [
        replace(lane.wanted, conduct=replace(lane.wanted.conduct, resume=True, force=False))
        for lane in lanes
    ]
    widths = [lane.course.pack_width for lane in lanes]
    _train_all(list(_lanes(zip(resumed, widths, strict=True), device, tell)), device, tell)


def _finished(lane: Slot) -> dict[str, Any] | DataError:
    try:
        return finalize_run(
            lane.wanted.run, lane.wanted.images, lane.wanted.folder, lane.trainer, lane.course
        )
    except DataError as error:  # taken over by another, or not to be written
        return error


def _failed(lane: Slot, error: Exception) -> RunFailed | DataError:
    try:
        return record_failure(lane.wanted.run, lane.wanted.folder, error)
    except DataError as unwritten:  # as above
        return unwritten


def kind_of_step(run: RunConfig) -> str:
    """What two runs have in common whose labels cost the same for the same logits: loss and
    strategy, and T where it has one.
    """
    words = {value for call in LOSSES.calls(run.loss) for key, value in call.kwargs if key == "T"}
    tables = {
        word: table.tolist()
        for word, table in transitions(run.manifest, run.loss).items()
        if word in words
    }
    return f"{run.loss}, {run.strategy}, {tables}"


class _Stopped(Exception):
    """All runs of a pack were saved and told of."""


class _Lost(Exception):
    """Runs of a pack were taken over by others, and told of; the rest were saved."""


def _followed(pack: PackedTrainer, lanes: list[Slot], tell: OnResult) -> list[Slot]:
    """The pack epoch by epoch to its end; the runs that did not fail on the way. Raises _Stopped,
    _Lost.
    """
    watch = PackMonitor(lanes, tell)
    while watch.lanes and pack.first.epoch < pack.first.task.recipe.epochs:
        begun, before = time.monotonic(), pack.first.step
        ends = pack.run_epoch(watch.on_step)
        seconds = (time.monotonic() - begun) / len(ends)
        share = 1 - before / pack.first.steps_per_epoch
        watch.lanes = [
            lane
            for lane, end in zip(watch.lanes, ends, strict=True)
            if _noted(lane, end, seconds, share, tell)
        ]
    return watch.lanes


def _noted(
    lane: Slot, end: EpochResult | RunFailed, seconds: float, share: float, tell: OnResult
) -> bool:
    """Write down an epoch, or that the run failed in it; whether it goes on. seconds: its part of
    them; share: of a whole epoch.
    """
    wanted, course = lane.wanted, lane.course
    if isinstance(end, RunFailed):
        lane.end(_failed(lane, end), tell)
        return False
    course.last_epoch, course.seconds = end, course.seconds + seconds
    wanted.conduct.on_epoch_end(
        record_epoch(wanted.run, wanted.images, wanted.folder, course, seconds / share)
    )
    return True


class PackMonitor:
    """Between two steps: save the runs now and then, and when asked to stop."""

    def __init__(self, lanes: list[Slot], tell: OnResult) -> None:
        self.lanes = lanes
        self._tell, self._clock = tell, RunTimer(0.0)

    def on_step(self) -> None:
        """Raises _Stopped, _Lost."""
        stopped = any(lane.wanted.conduct.should_stop() for lane in self.lanes)
        if not stopped and not self._clock.checkpoint_due():
            return
        with self._clock.checkpoint():
            for lane in self.lanes:
                self._save(lane, stopped=stopped)
        if stopped:
            raise _Stopped
        if any(lane.ended for lane in self.lanes):
            raise _Lost

    def _save(self, lane: Slot, *, stopped: bool) -> None:
        try:
            save(lane.wanted.folder, lane.trainer, lane.course)
        except RunTaken as taken:
            lane.end(taken, self._tell)
            return
        except RunFailed as failure:
            if stopped:  # else it ends with the epoch, in which the others go on
                lane.end(_failed(lane, failure), self._tell)
            return
        if stopped:
            lane.end(interrupted(lane.trainer, lane.wanted.conduct), self._tell)
