"""What of a training is shared out among the processes of a run, what each keeps for itself, and
what its networks must be for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ...strategies import Batch
from ..cuda_graph import StepInput
from ..images.pixels import InMemoryImages
from .processes import LEAST, ParallelConfig, check_parts

if TYPE_CHECKING:
    from ..trainer import Trainer


def fitted(trainer: Trainer, spread: ParallelConfig) -> ParallelConfig:
    """The networks made for the spread, and the spread for the networks. Raises ConfigError for one
    that they do not allow.
    """
    if spread.sync_bn:
        trainer.networks = [
            synchronised(network, trainer.task.model, trainer.device)
            for network in trainer.networks
        ]
    least = LEAST if has_batch_norm(trainer.networks[0]) else 1
    if spread.ranks.size == 1:
        check_parts(min(trainer.task.recipe.batch_size, len(trainer.train)), spread, least)
    return replace(spread, least=least)


def has_batch_norm(network: nn.Module) -> bool:
    """Whether an example's logits depend on the batch that it stands in."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def synchronised(network: nn.Module, model: str, device: torch.device) -> nn.Module:
    """The network, of the same parameters and names, with SyncBatchNorm. Raises ConfigError where
    that cannot be or changes nothing.
    """
    if not has_batch_norm(network):
        raise ConfigError(
            f"--sync-bn has no effect on {model}, which has no batch norm: leave it out"
        )
    if device.type != "cuda":
        raise ConfigError(
            "--sync-bn needs GPUs, torch synchronises batch norm nowhere else: "
            "leave it out, or take --device cuda"
        )
    # torch's own would lose the activation in timm's layers
    from timm.layers.norm_act import convert_sync_batchnorm

    converted: nn.Module = convert_sync_batchnorm(network)
    return converted


def places(trainer: Trainer, step: int) -> list[slice]:
    """The places of the epoch's order whose images this process takes in a step, part after
    part.
    """
    at = _places_of(trainer, step)
    parts = (
        [slice(0, at.stop - at.start)]
        if trainer.changes_images
        else trainer.spread.parts(at.stop - at.start)
    )
    shares = [trainer.ranks.local_slice(part.stop - part.start) for part in parts]
    begins = [at.start + part.start for part in parts]
    return [
        slice(begin + share.start, begin + share.stop)
        for begin, share in zip(begins, shares, strict=True)
    ]


def make_batch(trainer: Trainer, part: int | None = None) -> Batch:
    """The examples of the next step, or of a part of it, as the strategy wants them. The images are
    those of this process's share, but for a strategy that changes them: it has them all.
    """
    at, own = _places_of(trainer, trainer.step), places(trainer, trainer.step)
    if part is not None:
        rows = trainer.spread.parts(at.stop - at.start)[part]
        at, own = slice(at.start + rows.start, at.start + rows.stop), own[part : part + 1]
    index = trainer.plan.order[at]
    return _prepared(trainer, _images(trainer, own, len(index)), index)


def given(trainer: Trainer) -> StepInput:
    """What the next step is told, where it is one of a whole batch in one process."""
    at = _places_of(trainer, trainer.step)
    shifts, flips = trainer.plan.augmentation(slice(None), at)
    return StepInput(trainer.plan.order[at], shifts, flips, trainer.lr_factor(trainer.step))


def batch_of(trainer: Trainer, given: StepInput) -> Batch:
    """Its examples."""
    flips = given.flips
    views = range(trainer.strategy.num_views)
    assert isinstance(trainer.train, InMemoryImages), "only what is in memory is recorded"
    images = tuple(
        trainer.train.augmented(given.index, given.shifts[n], None if flips is None else flips[n])
        for n in views
    )
    return _prepared(trainer, images, given.index)


def _prepared(trainer: Trainer, images: tuple[Tensor, ...], index: Tensor) -> Batch:
    """A batch of these examples, as the strategy wants it."""
    labels = trainer.labels[index]
    return trainer.strategy.prepare_batch(
        Batch(images, labels, index, labels, trainer.epoch + 1, trainer.generator), trainer
    )


def kept_by_each(trainer: Trainer) -> Iterator[Tensor]:
    """What every process keeps for itself: batch norm's statistics, which are of its own examples,
    and what a strategy remembers and learns, which may round otherwise on a GPU.
    """
    yield from _statistics(trainer)
    yield from _tensors(trainer.strategy.state)
    for group in trainer.optimizer.groups[trainer.groups_of_networks :]:
        yield from group.velocities


def _places_of(trainer: Trainer, step: int) -> slice:
    start = step * trainer.task.recipe.batch_size
    return slice(start, start + len(trainer.batches[step]))


def _images(trainer: Trainer, places: list[slice], n: int) -> tuple[Tensor, ...]:
    """Of these places, each view (B, C, H, W); of all n of the batch where the strategy changes
    them.
    """
    taken = [trainer.train.views(trainer.plan, each) for each in places]
    images = (
        taken[0]
        if len(taken) == 1
        else tuple(torch.cat(pieces) for pieces in zip(*taken, strict=True))
    )
    if not trainer.changes_images:
        return images
    trainer.ranks.broadcast(_statistics(trainer))  # it may ask the networks
    # in memory still channels last
    return tuple(trainer.ranks.gather(view.movedim(1, -1), n).movedim(-1, 1) for view in images)


def _statistics(trainer: Trainer) -> Iterator[Tensor]:
    return (buffer for network in trainer.networks for buffer in network.buffers())


def _tensors(value: object) -> Iterator[Tensor]:
    """All in nested dicts and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each)
