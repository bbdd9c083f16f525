"""The state of a training: all that changes from step to step, and all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.seeds import EPOCH, STRATEGY, derived_seed
from ..datasets import ImageArray
from ..errors import RunFailed
from ..experiments.recipes import Recipe, read_schedule
from ..losses import Loss, Penalty
from ..metrics.dynamics import early_epochs
from ..strategies import Strategy, TrainingInfo
from .epoch_stats import EpochPredictions, OnlinePredictions
from .images.pixels import EpochPlan
from .images.source import same_images
from .networks.factory import InitialState
from .networks.groups import freeze, parameter_groups
from .numerics import finite_probe, first_nonfinite, named_tensors
from .optimizer import SGD, learning_rate_factor

_SHOWN = 3  # examples of a batch that an error names


@dataclass(frozen=True)
class Task:
    """All that decides a training. Images (N, H, W, C) uint8, of image files in the recipe's size;
    labels (N,) as given.
    """

    images: ImageArray
    labels: np.ndarray
    test_images: ImageArray
    num_classes: int
    model: str
    loss: Loss
    strategy: Strategy
    recipe: Recipe
    seed: int = 0
    precision: str = "fp32"
    penalty: Penalty | None = None
    val_images: ImageArray | None = None  # predicted after each epoch, never trained on
    trusted: np.ndarray | None = None  # which labels (N,) are verified
    init: InitialState | None = None  # initial weights; None: random ones
    numbers: np.ndarray | None = None  # names of the examples (N,) in errors; None: their index

    def same_images_as(self, other: Task) -> bool:
        """Whether both train and test on the same images, which then need to be in memory once."""
        return same_images(self.images, other.images) and same_images(
            self.test_images, other.test_images
        )


class TrainingState:
    """Networks, optimizer, strategy, labels (N,) and random generators, after `epoch` epochs and
    `step` steps of the next one.

    Of that epoch: `plan`, `batches` (the index (B,) of each step), `costs` and `finite_probes`, one
    number a step, and the `online` predictions. The learning rate's schedule counts from the epoch
    `schedule_start`.
    """

    def __init__(self, task: Task, device: torch.device, networks: Sequence[nn.Module]) -> None:
        """Raises ConfigError where a setting of the recipe has no effect on the networks."""
        recipe, self.strategy = task.recipe, task.strategy
        self.task, self.device, self.networks = task, device, networks
        self.labels = torch.from_numpy(task.labels.astype(np.int64)).to(device)
        self._frozen = [freeze(network, recipe.freeze) for network in networks]
        self.generator = torch.Generator().manual_seed(derived_seed(task.seed, STRATEGY))
        trusted = None if task.trusted is None else torch.from_numpy(task.trusted).to(device)
        self.strategy.setup(
            TrainingInfo(self.labels, task.num_classes, recipe.epochs, self.generator, trusted)
        )
        groups = [group for network in networks for group in parameter_groups(network, recipe)]
        self.num_network_groups = len(groups)  # the other groups are the strategy's
        self.optimizer = SGD([*groups, *self.strategy.parameter_groups()], recipe)
        self.epoch = self.step = self.schedule_start = 0
        self._schedule = read_schedule(recipe.schedule)
        self.cuda_devices = [device] if device.type == "cuda" else []
        self._running = False
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """The epoch's order and augmentation depend on (seed, epoch) alone, so that a resumed epoch
        is the same one.
        """
        recipe = self.task.recipe
        seed = derived_seed(self.task.seed, EPOCH, self.epoch)
        generator, views = torch.Generator().manual_seed(seed), self.strategy.num_views
        self.plan = EpochPlan.draw(
            len(self.labels), views, recipe.crop, recipe.flip, generator, device=self.device
        )
        self.batches = self.plan.batches(recipe.batch_size)
        self.costs = torch.zeros(len(self.batches), device=self.device)
        # finite where the gradients of a step are; the steps before a checkpoint were checked
        self.finite_probes = torch.zeros_like(self.costs)
        early = self.epoch < early_epochs(recipe.epochs)
        self.online = OnlinePredictions(self.labels[None], self.task.num_classes if early else 0)
        self.online_row = 0
        self._randomness = [
            torch.Generator(device).manual_seed(seed).get_state()
            for device in (torch.device("cpu"), *self.cuda_devices)
        ]

    @property
    def predictions(self) -> EpochPredictions:
        """The predictions in the steps of this epoch."""
        return self.online.of(self.online_row)

    def rows(self, step: int) -> slice:
        """The rows of the epoch's order that a step takes."""
        start = step * self.task.recipe.batch_size
        return slice(start, start + len(self.batches[step]))

    def lr_factor(self, step: int) -> float:
        """The share of the learning rate at a step of this epoch."""
        done = self.epoch - self.schedule_start + step / len(self.batches)
        epochs = self.task.recipe.epochs - self.schedule_start
        return learning_rate_factor(self._schedule, done, epochs)

    def train_mode(self, number: int) -> None:
        """Prepare a network for training; frozen parts stay in evaluation mode, so that their batch
        norm keeps its statistics.
        """
        self.networks[number].train()
        for part in self._frozen[number]:
            part.eval()

    @contextmanager
    def own_randomness(self) -> Iterator[None]:
        """Inside, torch's global randomness (for dropout) is that of the training; outside it is
        the caller's again.
        """
        with torch.random.fork_rng(self.cuda_devices):
            torch.set_rng_state(self._randomness[0])
            for device, state in zip(self.cuda_devices, self._randomness[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            self._running = True
            try:
                yield
            finally:
                self._randomness = self._current_randomness()
                self._running = False

    def _current_randomness(self) -> list[Tensor]:
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self.cuda_devices)]

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on."""
        return {
            "networks": [network.state_dict() for network in self.networks],
            "optimizer": self.optimizer.state_dict(),
            "strategy": self.strategy.state,
            "generator": self.generator.get_state(),
            "randomness": self._current_randomness() if self._running else self._randomness,
            "epoch": self.epoch,
            "step": self.step,
            "since": self.schedule_start,
            "costs": self.costs,
            "passed": self.predictions.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for network, saved in zip(self.networks, state["networks"], strict=True):
            network.load_state_dict(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        _restore(self.strategy.state, state["strategy"])
        self.generator.set_state(state["generator"].cpu())
        self.epoch, self.step, self.schedule_start = state["epoch"], state["step"], state["since"]
        self.begin_epoch()
        self._randomness = [saved.cpu() for saved in state["randomness"]]
        self.costs.copy_(state["costs"])
        self.predictions.load_state_dict(state["passed"])

    def per_example_parameters(self) -> dict[str, Tensor]:
        """By name, what the strategy updates by itself."""
        return {
            f"the strategy's {name}": self.strategy.state[name]
            for name in self.strategy.per_example_parameters
        }

    def trained_parameters(self) -> dict[str, Tensor]:
        """All that is trained, by name: of the networks, then of the strategy."""
        of_strategy = {
            f"the strategy's {name}": value
            for name, value in self.strategy.state.items()
            if isinstance(value, Tensor) and value.requires_grad
        }
        return {**named_tensors(self.networks), **of_strategy, **self.per_example_parameters()}

    def failure(self, step: int, what: str) -> RunFailed:
        """The error that names a step of this epoch and its examples."""
        index = self.batches[step].cpu().numpy()
        examples = index if self.task.numbers is None else self.task.numbers[index]
        shown = ", ".join(map(str, examples[:_SHOWN]))
        if len(examples) > _SHOWN:
            shown += f" and {len(examples) - _SHOWN} more"
        return RunFailed(
            f"{what} at epoch {self.epoch + 1}, step {step + 1}, on examples {shown}",
            batch=examples.tolist(),
        )

    def check_steps(self) -> None:
        """Raises RunFailed for the first step of the epoch whose cost or gradient is not finite."""
        finite = self.costs.isfinite() & self.finite_probes.isfinite()
        if finite.all():
            return
        step = int((~finite).nonzero()[0])
        cost = self.costs[step]
        what = "a gradient became infinite or nan" if cost.isfinite() else f"the cost became {cost}"
        raise self.failure(step, what)

    def check(self) -> None:
        """Raises RunFailed where a step of this epoch had a cost or a gradient that is not finite,
        or was too large, so that the weights are not.
        """
        self.check_steps()
        if wrong := self.nonfinite_weights():
            raise self.failure(max(self.step - 1, 0), f"{wrong}, since a step was too large,")

    def nonfinite_weights(self) -> str:
        """`head.weight became inf`: the first parameter or buffer that is not finite; empty where
        all are.
        """
        groups = self.optimizer.groups[self.num_network_groups :]
        tensors = [p for group in groups for p in group.params]
        tensors += [self.strategy.state[name] for name in self.strategy.per_example_parameters]
        for network in self.networks:
            tensors += [*network.parameters(), *network.buffers()]
        numbers = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
        if finite_probe(numbers, self.device).isfinite():
            return ""
        buffers = named_tensors(self.networks, buffers=True)
        return first_nonfinite({**self.trained_parameters(), **buffers})


def _restore(state: dict[str, Any], saved: dict[str, Any]) -> None:
    """Tensors keep their identity, since the optimizer holds some of them; the rest is replaced."""
    for key in state.keys() - saved.keys():
        del state[key]
    for key, value in saved.items():
        old = state.get(key)
        if isinstance(old, Tensor) and isinstance(value, Tensor) and old.shape == value.shape:
            old.data.copy_(value)
        else:
            state[key] = value
