"""How long what is left of a suite will take: by finished runs of the same sort, else by a few
steps of each sort, made here.
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
    loads: Sequence[Pack],
    records: Iterable[dict[str, Any]],
    jobs: int,
    device: str,
) -> float:
    """Seconds until all are done, `jobs` at a time. Makes two epochs or three steps of each sort
    that no record knows.
    """
    known = _per_epoch(records)
    begun = time.perf_counter()
    import torch

    start = time.perf_counter() - begun  # workers are forked from a process that imports it once
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // jobs))
    try:
        _learn(workspace, loads, known, device)
    finally:
        torch.set_num_threads(threads)
    seconds = [
        sum(
            known[_sort(item.run, load.width)] * item.run.recipe.epochs + _WRITING
            for item in load.items
        )
        for load in loads
    ]
    return start + makespan(seconds, jobs)


def makespan(seconds: Iterable[float], jobs: int) -> float:
    """When the last is done, if each worker takes the next as soon as it is free."""
    free = [0.0] * jobs
    for each in seconds:
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)


def _sort(run: RunConfig, width: int) -> tuple[Any, ...]:
    """What decides how long an epoch takes, near enough."""
    data, strategy = (run.dataset.name, run.manifest.meta.get("subset")), run.strategy.name  # type: ignore[union-attr]
    # images may be enlarged for its weights; what is frozen asks for no gradient
    beginning = run.init is not None, run.recipe.freeze
    return (
        *data,
        run.model,
        *beginning,
        run.recipe.size,
        run.recipe.batch_size,
        run.precision,
        strategy,
        width,
        bool(run.unknown_noise),
    )


def _per_epoch(records: Iterable[dict[str, Any]]) -> dict[tuple[Any, ...], float]:
    """Seconds an epoch of a run, by sort, the mean over the finished ones."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for record in records:
        if any(name in record.get("environment", {}) for name in ("processes", "accumulate")):
            continue  # a suite's runs are made otherwise
        recipe, model = record["recipe"], record["model"]["name"]
        strategy = record["strategy"].partition("(")[0]
        width = record.get("environment", {}).get("packed", 1)
        estimated = "estimates" in record
        data = record["data"]["name"], record["noise"].get("subset")
        beginning = "init" in record, recipe.get("freeze", 0)
        key = (
            *data,
            model,
            *beginning,
            recipe.get("size", 0),
            recipe.get("batch_size"),
            record["precision"],
            strategy,
            width,
            estimated,
        )
        found.setdefault(key, []).append(record["seconds"] / recipe["epochs"])
    return {key: sum(values) / len(values) for key, values in found.items()}


def _learn(
    workspace: Workspace, loads: Sequence[Pack], known: dict[tuple[Any, ...], float], device: str
) -> None:
    """Measure what is not known yet, of each sort as many runs together as go together."""
    for load in loads:
        for sort in dict.fromkeys(_sort(item.run, load.width) for item in load.items):
            if sort not in known:
                runs = _of_sort(loads, sort, load.width)
                # The warm-up of a run that estimates its noise sees as many images as these epochs.
                warmup = 1 + warmup_epochs(runs[0]) / runs[0].recipe.epochs
                known[sort] = warmup * _measured(workspace, runs, load.width, device) / len(runs)


def _of_sort(loads: Sequence[Pack], sort: tuple[Any, ...], width: int) -> list[RunConfig]:
    """Runs of a sort, of one recipe, that fill a pack."""
    runs = [
        item.run for load in loads for item in load.items if _sort(item.run, load.width) == sort
    ]
    return [run for run in runs if run.recipe == runs[0].recipe][:width]


def _measured(workspace: Workspace, runs: list[RunConfig], width: int, device: str) -> float:
    """Seconds of an epoch of these runs together, after one step or epoch that only warms up."""
    trainers: list[Trainer] = []
    for run in runs:
        images = workspace.training_images(run.dataset, run.manifest, run.recipe)
        trainers.append(make_trainer(run, images, device, beside=trainers[0] if trainers else None))
    way: Trainer | PackedTrainer = trainers[0]
    make_step = trainers[0].training_step.run
    if width > 1:
        from ..training.packed import PackedTrainer

        way = pack = PackedTrainer(trainers, width)
        make_step = pack.make_step
    with closing(trainers[0]) as first:
        step = _timed(make_step)
        more = min(_STEPS, first.steps_per_epoch - 1)
        if step < _LONG and more:
            step = _timed(lambda: [make_step() for _ in range(more)]) / more
        if step * first.steps_per_epoch <= _SHORT and first.steps_per_epoch > _STEPS + 1:
            _timed(way.run_epoch)
            return _timed(way.run_epoch)
        between = _timed(lambda: first.strategy.on_epoch_end(1, first))
        return step * first.steps_per_epoch + len(runs) * (_test_seconds(first) + between)


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
