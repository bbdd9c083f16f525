"""How long the rest of a suite will take: by finished runs of the same kind, else by a few steps of
each kind, trained here.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from ..errors import RunFailed
from ..experiments.resolve import RunConfig
from .noise_estimation import warmup_epochs
from .queue import Pack
from .session import make_trainer
from .workspace import Workspace

if TYPE_CHECKING:
    from ..training.packed import PackedTrainer
    from ..training.trainer import Trainer

_SHORT = 1.0  # seconds: an epoch that takes no longer is made whole, of a longer one two steps
_STEPS = 2
_LONG = 2.0  # seconds: a first step of more, which also warms up, is taken for all
_SOME = 1024  # test images
_WRITING = 0.02  # seconds for the files of a run


def estimate_suite_seconds(
    workspace: Workspace,
    packs: Sequence[Pack],
    records: Iterable[dict[str, Any]],
    jobs: int,
    device: str,
) -> float:
    """Seconds until all are done, `jobs` at a time. Trains two epochs or three steps of each kind
    of which there is no record.
    """
    known = _seconds_per_epoch(records)
    started = time.perf_counter()
    import torch

    start_up = time.perf_counter() - started  # workers are forked from a process that imports once
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // jobs))
    try:
        for pack in packs:
            for kind in dict.fromkeys(_kind(item.run, pack.width) for item in pack.items):
                if kind not in known:
                    known[kind] = _measure(workspace, packs, kind, pack.width, device)
    finally:
        torch.set_num_threads(threads)
    seconds = [
        sum(
            known[_kind(item.run, pack.width)] * item.run.recipe.epochs + _WRITING
            for item in pack.items
        )
        for pack in packs
    ]
    return start_up + makespan(seconds, jobs)


def makespan(seconds: Iterable[float], jobs: int) -> float:
    """When the last is done, if each worker takes the next as soon as it is free."""
    free = [0.0] * jobs
    for duration in seconds:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def _kind(run: RunConfig, width: int) -> tuple[Any, ...]:
    """What decides how long an epoch takes, near enough."""
    return (
        run.dataset.name,
        run.manifest.meta.get("subset"),
        run.model,
        run.init is not None,  # images may be enlarged for initial weights
        run.recipe.freeze,
        run.recipe.size,
        run.recipe.batch_size,
        run.precision,
        run.strategy.name,  # type: ignore[union-attr]
        width,
        bool(run.unknown_noise),
    )


def _seconds_per_epoch(records: Iterable[dict[str, Any]]) -> dict[tuple[Any, ...], float]:
    """Seconds per epoch of a run, by kind, the mean over the finished ones."""
    seconds: dict[tuple[Any, ...], list[float]] = {}
    for record in records:
        recipe, machine = record["recipe"], record.get("environment", {})
        if "processes" in machine or "accumulate" in machine:
            continue  # a suite's runs are trained otherwise
        kind = (
            record["data"]["name"],
            record["noise"].get("subset"),
            record["model"]["name"],
            "init" in record,
            recipe.get("freeze", 0),
            recipe.get("size", 0),
            recipe.get("batch_size"),
            record["precision"],
            record["strategy"].partition("(")[0],
            machine.get("packed", 1),
            "estimates" in record,
        )
        seconds.setdefault(kind, []).append(record["seconds"] / recipe["epochs"])
    return {kind: sum(values) / len(values) for kind, values in seconds.items()}


def _measure(
    workspace: Workspace, packs: Sequence[Pack], kind: tuple[Any, ...], width: int, device: str
) -> float:
    """Seconds per epoch of a run of this kind, with as many of them as a pack takes."""
    runs = [
        item.run for pack in packs for item in pack.items if _kind(item.run, pack.width) == kind
    ]
    runs = [run for run in runs if run.recipe == runs[0].recipe][:width]
    trainers: list[Trainer] = []
    for run in runs:
        images = workspace.training_images(run.dataset, run.manifest, run.recipe)
        trainers.append(make_trainer(run, images, device, beside=trainers[0] if trainers else None))
    trainer: Trainer | PackedTrainer = trainers[0]
    make_step = trainers[0].training_step.run
    if width > 1:
        from ..training.packed import PackedTrainer

        trainer = pack = PackedTrainer(trainers, width)
        make_step = pack.make_step
    with closing(trainers[0]) as first:
        seconds = _epoch_seconds(trainer, make_step, first, len(runs))
    # the networks that estimate the noise see as many images as these epochs
    return seconds * (1 + warmup_epochs(runs[0]) / runs[0].recipe.epochs) / len(runs)


def _epoch_seconds(
    trainer: Trainer | PackedTrainer,
    make_step: Callable[[], object],
    first: Trainer,
    count: int,
) -> float:
    """Seconds of an epoch, after one step or epoch that only warms up."""
    steps = len(first.state.batches)
    step, more = _timed(make_step), min(_STEPS, steps - 1)
    if step < _LONG and more:
        step = _timed(lambda: [make_step() for _ in range(more)]) / more
    if step * steps <= _SHORT and steps > _STEPS + 1:
        _timed(trainer.run_epoch)
        return _timed(trainer.run_epoch)
    between = _timed(lambda: first.strategy.on_epoch_end(1, first))
    return step * steps + count * (_test_seconds(first) + between)


def _test_seconds(trainer: Trainer) -> float:
    """Seconds to predict the test set, from some of it."""
    import torch

    from ..training.inference import autocast

    some = torch.arange(min(len(trainer.test), _SOME), device=trainer.device)
    with torch.no_grad(), autocast(trainer.device, trainer.task.precision):
        network = trainer.networks[0].eval()
        seconds = _timed(lambda: [network(images) for images in trainer.test.eval_batches(some)])
    return seconds * len(trainer.networks) * len(trainer.test) / len(some)


def _timed(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    with suppress(RunFailed):  # a run that diverges ends there when it is executed, too
        act()
    return time.perf_counter() - begun
