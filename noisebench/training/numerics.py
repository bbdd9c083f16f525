"""What a step leaves that is not finite: found without waiting for a device, and named by what it
is, epoch, step and examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from ..errors import RunFailed

if TYPE_CHECKING:
    from .trainer import Trainer

_SHOWN = 3  # examples of a batch that a line names


def norm_of(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """The norm () of all their numbers; 0 of none."""
    return get_total_norm(tensors) if tensors else torch.zeros((), device=device)


def finite_probe_of(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """A number () that is not finite where one of theirs is not: on a processor their sum,
    elsewhere, in fewer calls, their norm.
    """
    if device.type != "cpu" or not tensors:
        return norm_of(tensors, device)
    return torch.stack([tensor.sum() for tensor in tensors]).sum()


def finite_probe_of_step(trainer: Trainer, norms: Sequence[Tensor], index: Tensor) -> Tensor:
    """The same of a step's gradients, and of what the strategy moves by itself. norms: of each
    network's, where they are known already; index (B,): the step's examples.
    """
    groups = trainer.optimizer.groups[trainer.groups_of_networks if norms else 0 :]
    gradients = [
        parameter.grad
        for group in groups
        for parameter in group.params
        if parameter.grad is not None
    ]
    moved = [
        trainer.strategy.state[name][index] for name in trainer.strategy.per_example_parameters
    ]
    return finite_probe_of([*norms, *gradients, *moved], trainer.device)


def check_step(trainer: Trainer, cost: Tensor, sound: Tensor) -> None:
    """Raises RunFailed where the cost or a gradient of the step that is being made is not finite,
    naming the parameter.
    """
    if not math.isfinite(cost.item()):
        raise _failure(trainer, trainer.step, f"the cost became {cost.item()}")
    if math.isfinite(sound.item()):
        return
    if wrong := first_wrong(_gradients(trainer)):
        raise _failure(trainer, trainer.step, f"the gradient of {wrong}")
    if trainer.task.recipe.clip:
        raise _failure(trainer, trainer.step, "the gradient's norm became inf")


def check_steps(trainer: Trainer) -> None:
    """Raises RunFailed for the first step of the epoch whose cost or gradient was not finite."""
    sound = trainer.costs.isfinite() & trainer.sound.isfinite()
    if sound.all():
        return
    step = int((~sound).nonzero()[0])
    cost = trainer.costs[step].item()
    raise _failure(
        trainer,
        step,
        "a gradient became infinite or nan" if math.isfinite(cost) else f"the cost became {cost}",
    )


def check_state(trainer: Trainer) -> None:
    """Raises RunFailed for what a finite gradient has moved too far."""
    if wrong := wrong_weights(trainer):
        raise _failure(trainer, max(trainer.step - 1, 0), f"{wrong}, since a step was too large,")


def wrong_weights(trainer: Trainer) -> str:
    """`head.weight became inf`: the first of what is trained, or of what networks remember, that is
    not finite; empty where all is.
    """
    state = {
        **_named(trainer),
        **_of_networks([dict(network.named_buffers()) for network in trainer.networks]),
    }
    numbers = {
        name: tensor.detach() for name, tensor in state.items() if tensor.is_floating_point()
    }
    return (
        ""
        if finite_probe_of(list(numbers.values()), trainer.device).isfinite()
        else first_wrong(numbers)
    )


def first_wrong(tensors: Mapping[str, Tensor]) -> str:
    """`head.weight became inf`: the first of them that holds a number which is not finite; empty
    where none does.
    """
    found = ((name, tensor[~tensor.isfinite()]) for name, tensor in tensors.items())
    return next((f"{name} became {wrong[0].item()}" for name, wrong in found if len(wrong)), "")


def _failure(trainer: Trainer, step: int, what: str) -> RunFailed:
    index = trainer.batches[step].cpu().numpy()
    examples = index if trainer.task.numbers is None else trainer.task.numbers[index]
    shown = ", ".join(map(str, examples[:_SHOWN])) + (
        f" and {len(examples) - _SHOWN} more" if len(examples) > _SHOWN else ""
    )
    return RunFailed(
        f"{what} at epoch {trainer.epoch + 1}, step {step + 1}, on examples {shown}",
        batch=examples.tolist(),
    )


def _gradients(trainer: Trainer) -> dict[str, Tensor]:
    """By name; of numbers that a strategy moves by itself, these."""
    found = {
        name: each if name in _moved(trainer) else each.grad
        for name, each in _named(trainer).items()
    }
    return {name: each for name, each in found.items() if each is not None}


def _named(trainer: Trainer) -> dict[str, Tensor]:
    """All that is trained."""
    state = trainer.strategy.state.items()
    own = {
        f"the strategy's {name}": each
        for name, each in state
        if isinstance(each, Tensor) and each.requires_grad
    }
    return {
        **_of_networks([dict(network.named_parameters()) for network in trainer.networks]),
        **own,
        **_moved(trainer),
    }


def _moved(trainer: Trainer) -> dict[str, Tensor]:
    return {
        f"the strategy's {name}": trainer.strategy.state[name]
        for name in trainer.strategy.per_example_parameters
    }


def _of_networks(named: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """`head.weight`, of several networks `head.weight of network 2`."""
    if len(named) == 1:
        return dict(named[0])
    return {
        f"{name} of network {number}": each
        for number, tensors in enumerate(named, 1)
        for name, each in tensors.items()
    }
