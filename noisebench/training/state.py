"""The state of a training: all that changes from step to step and is saved in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ..core.seeds import EPOCH, STRATEGY, derived_seed
from ..datasets import ImageArray, LazyImages
from ..errors import RunFailed
from ..experiments.recipes import Recipe, read_schedule
from ..losses import Loss, Penalty
from ..metrics.dynamics import early_epochs
from ..metrics.predictions import DENSE
from ..strategies import Strategy, TrainingInfo
from .images import EpochPlan
from .networks.factory import InitialState
from .optimizer import SGD, freeze, learning_rate_factor, parameter_groups


def finite_probe(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """A number () that is finite if all numbers in the tensors are: on a CPU their sum, elsewhere
    their norm, which needs fewer calls.
    """
    if device.type != "cpu" or not tensors:
        return get_total_norm(tensors)
    return torch.stack([tensor.sum() for tensor in tensors]).sum()


def first_nonfinite(tensors: Mapping[str, Tensor]) -> str:
    """The first tensor with a number that is not finite, such as `head.weight became inf`; empty if
    all are finite.
    """
    for name, tensor in tensors.items():
        nonfinite = tensor[~tensor.isfinite()]
        if len(nonfinite):
            return f"{name} became {nonfinite[0].item()}"
    return ""


def named_tensors(networks: Sequence[nn.Module], *, buffers: bool = False) -> dict[str, Tensor]:
    """The parameters or buffers by name: `head.weight`, or with several networks `head.weight of
    network 2`.
    """
    tensors: dict[str, Tensor] = {}
    for number, network in enumerate(networks, 1):
        suffix = f" of network {number}" if len(networks) > 1 else ""
        named = network.named_buffers() if buffers else network.named_parameters()
        tensors.update((name + suffix, tensor) for name, tensor in named)
    return tensors


_SHOWN = 3  # examples of a batch that an error names
_IN_CACHE = 1 << 18  # numbers, 1 MB: larger tensors of logits are read from memory in each pass
_MAX_WAITING = 1 << 23  # numbers, 32 MB


class EpochPredictions(NamedTuple):
    """Predictions made during the training steps of this epoch.

    predicted (N,): class, -1 if not yet seen; p (N,): of the given label; gradient (N,): L1 norm of
    the gradient of the example's cost by its logits, at most 2 with CE; whole (N, K): p of every
    class, or (N, 0) if not kept; margin (N,): the logit of the given label minus the largest other
    one. NaN: not yet seen.
    """

    predicted: Tensor
    p: Tensor
    gradient: Tensor
    whole: Tensor
    margin: Tensor


class OnlinePredictions:
    """Collects EpochPredictions for R runs in lockstep. Small steps only append their logits, since
    processing them in every step would slow down small networks.
    """

    def __init__(self, labels: Tensor, num_classes: int) -> None:
        """labels (R, N): given labels. num_classes: K, to keep p of every class if K is at most
        100; 0: do not keep it.
        """
        self._labels = labels
        self.kept = num_classes if num_classes <= DENSE else 0
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._processed: list[tuple[Tensor, EpochPredictions]] = []

    @cached_property
    def _all(self) -> EpochPredictions:
        p = torch.full(self._labels.shape, torch.nan, device=self._labels.device)
        whole = p.new_full((*p.shape, self.kept), torch.nan)
        return EpochPredictions(torch.full_like(self._labels, -1), p, p.clone(), whole, p.clone())

    def note(self, index: Tensor, logits: Tensor) -> None:
        """Note the logits (R, B, K), or (B, K) of one run, with their gradient, after the backward
        pass; both may be changed. index (R, B) or (B,): the examples of the first rows; further
        rows are ignored.
        """
        rows = index.shape[-1]
        kept = logits.detach()[..., :rows, :]
        grad = gradient_of(logits)[..., :rows, :]
        if kept.is_cuda:  # a recorded step overwrites the result of the one before
            kept, grad = kept.clone(), grad.clone()
        if rows < logits.shape[-2]:  # a step's cost is a mean over all rows
            grad = grad * (logits.shape[-2] / rows)
        self._waiting.append((index, kept, grad))
        if len(self._waiting) * kept.numel() > _IN_CACHE:
            self._process()

    def of(self, run: int) -> EpochPredictions:
        """The predictions of one run, as views."""
        self._process()
        self._write()
        return EpochPredictions(*(part[run] for part in self._all))

    def _process(self) -> None:
        """Compute the predictions of the waiting steps."""
        if not self._waiting:
            return
        (runs, _), K = self._labels.shape, self._waiting[0][1].shape[-1]
        # with the classes before the examples, reductions over the classes run along vectors
        index = torch.cat([index.view(runs, -1) for index, _, _ in self._waiting], 1)
        logits, grads = (
            _joined([step[part].view(runs, -1, K).transpose(1, 2) for step in self._waiting])
            for part in (1, 2)
        )
        sizes = torch.tensor([grad.shape[-2] for *_, grad in self._waiting], device=logits.device)
        given = self._labels.gather(1, index)[:, None]  # (R, 1, n)
        of_given = logits.gather(1, given)
        of_other = logits.scatter_(1, given, -torch.inf).amax(1, keepdim=True)
        logits.scatter_(1, given, of_given)
        largest = torch.maximum(of_given, of_other)
        # the first of equal logits; argmax would take ten times as long
        ranks = torch.arange(K, 0, -1, dtype=torch.int32, device=logits.device)[:, None]
        predicted = K - ((logits == largest) * ranks).amax(1)
        p = logits.sub_(largest).exp_()
        p /= p.sum(1, keepdim=True)
        results = EpochPredictions(
            predicted.long(),
            p.gather(1, given)[:, 0],
            # a step's cost is a mean
            grads.abs_().sum(1) * sizes.repeat_interleave(sizes),
            p if self.kept else p[:, :0],
            (of_given - of_other)[:, 0],
        )
        self._waiting.clear()
        self._processed.append((index, results))
        if len(self._processed) * logits.numel() > _MAX_WAITING:
            self._write()

    def _write(self) -> None:
        """Write the processed predictions in the order of the examples, for many steps at once."""
        if not self._processed:
            return
        index = torch.cat([index for index, _ in self._processed], 1)
        parts = zip(*(results for _, results in self._processed), strict=True)
        for name, part, target in zip(EpochPredictions._fields, parts, self._all, strict=True):
            if name != "whole":
                target.scatter_(1, index, torch.cat(part, 1))
            elif self.kept:
                runs, n, K = target.shape
                rows = index + n * torch.arange(runs, device=index.device)[:, None]
                p = torch.cat([of_step.transpose(1, 2) for of_step in part], 1)
                target.view(-1, K).index_copy_(0, rows.flatten(), p.flatten(0, 1))
        self._processed.clear()


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def gradient_of(logits: Tensor) -> Tensor:
    """The gradient of logits; 0 if the objective does not depend on them."""
    return torch.zeros_like(logits) if logits.grad is None else logits.grad


@dataclass(frozen=True)
class Task:
    """All inputs of a training. Images are (N, H, W, C) uint8, streamed ones in the recipe's size;
    labels (N,) are the given labels.
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
    trusted: np.ndarray | None = None  # mask (N,) of verified labels
    init: InitialState | None = None  # initial weights; None: random
    numbers: np.ndarray | None = None  # numbers of the examples (N,) for errors; None: their index

    def same_images_as(self, other: Task) -> bool:
        """Whether both have the same training and test images, which then can share memory."""
        pairs = ((self.images, other.images), (self.test_images, other.test_images))
        # streamed images cannot be shared: each training has its own readers
        return all(
            not isinstance(a, LazyImages) and not isinstance(b, LazyImages) and _same_array(a, b)
            for a, b in pairs
        )


def _same_array(a: np.ndarray, b: np.ndarray) -> bool:
    in_place = a.shape == b.shape and a.strides == b.strides and a.ctypes.data == b.ctypes.data
    return in_place or np.array_equal(a, b)


class TrainingState:
    """Networks, optimizer, strategy, labels (N,) and random generators, after `epoch` epochs and
    `step` steps of the current one.

    For the current epoch: `plan`, `batches` (the index (B,) of each step), `costs` and
    `finite_probes` (one number per step), and the `online` predictions. The learning rate schedule
    starts at epoch `schedule_start`.
    """

    def __init__(self, task: Task, device: torch.device, networks: Sequence[nn.Module]) -> None:
        """Raises ConfigError if a setting of the recipe has no effect on the networks."""
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
        self.running = False  # whether torch's global randomness is that of the training
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Start an epoch. Its order and augmentation depend only on (seed, epoch), so that a
        resumed epoch is the same.
        """
        recipe = self.task.recipe
        seed = derived_seed(self.task.seed, EPOCH, self.epoch)
        generator, views = torch.Generator().manual_seed(seed), self.strategy.num_views
        self.plan = EpochPlan.draw(
            len(self.labels), views, recipe.crop, recipe.flip, generator, device=self.device
        )
        n, size = len(self.labels), recipe.batch_size
        # a last batch of one example is left out: batch norm cannot learn from it
        stop = n - 1 if n > size > 1 and n % size == 1 else n
        # the rows of the epoch's order that each step takes
        self.rows = [slice(start, min(start + size, n)) for start in range(0, stop, size)]
        self.batches = [self.plan.order[rows] for rows in self.rows]
        self.costs = torch.zeros(len(self.batches), device=self.device)
        # finite if the gradients of a step are; steps before a checkpoint were checked
        self.finite_probes = torch.zeros_like(self.costs)
        early = self.epoch < early_epochs(recipe.epochs)
        self.online = OnlinePredictions(self.labels[None], self.task.num_classes if early else 0)
        self.online_row = 0
        self.randomness = [
            torch.Generator(device).manual_seed(seed).get_state()
            for device in (torch.device("cpu"), *self.cuda_devices)
        ]

    @property
    def predictions(self) -> EpochPredictions:
        """The predictions made in the steps of this epoch."""
        return self.online.of(self.online_row)

    def lr_factor(self, step: int) -> float:
        """The learning rate at a step of this epoch, as a share of the initial one."""
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

    def current_randomness(self) -> list[Tensor]:
        """The states of torch's global generators, on the CPU and the GPU."""
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self.cuda_devices)]

    def state_dict(self) -> dict[str, Any]:
        """All state that the remaining training depends on."""
        return {
            "networks": [network.state_dict() for network in self.networks],
            "optimizer": self.optimizer.state_dict(),
            "strategy": self.strategy.state,
            "generator": self.generator.get_state(),
            "randomness": self.current_randomness() if self.running else self.randomness,
            "epoch": self.epoch,
            "step": self.step,
            "since": self.schedule_start,
            "costs": self.costs,
            "passed": self.predictions._asdict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for network, saved in zip(self.networks, state["networks"], strict=True):
            network.load_state_dict(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in state["strategy"].items():
            old = self.strategy.state.get(name)
            if isinstance(old, Tensor) and isinstance(value, Tensor):
                old.data.copy_(value)  # the same tensor, since the optimizer holds some of them
            else:
                self.strategy.state[name] = value
        self.generator.set_state(state["generator"].cpu())
        self.epoch, self.step, self.schedule_start = state["epoch"], state["step"], state["since"]
        self.begin_epoch()
        self.randomness = [saved.cpu() for saved in state["randomness"]]
        self.costs.copy_(state["costs"])
        for name, tensor in self.predictions._asdict().items():
            if name in state["passed"]:  # checkpoints of older versions have no margins
                tensor.copy_(state["passed"][name])

    def trained_parameters(self) -> dict[str, Tensor]:
        """All trained parameters by name, of the networks and then of the strategy."""
        of_strategy = {
            f"the strategy's {name}": value
            for name, value in self.strategy.state.items()
            if isinstance(value, Tensor)
            and (value.requires_grad or name in self.strategy.per_example_parameters)
        }
        return {**named_tensors(self.networks), **of_strategy}

    def failure(self, step: int, what: str) -> RunFailed:
        """The error for a step of this epoch, with its examples."""
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
        """Raises RunFailed if a step of this epoch had a cost or a gradient that is not finite, or
        if the weights are not finite.
        """
        self.check_steps()
        if wrong := self.nonfinite_weights():
            raise self.failure(max(self.step - 1, 0), f"{wrong}, because a step was too large,")

    def nonfinite_weights(self) -> str:
        """The first parameter or buffer that is not finite, as `head.weight became inf`; empty if
        all are finite.
        """
        tensors = self.trained_parameters() | named_tensors(self.networks, buffers=True)
        numbers = [t.detach() for t in tensors.values() if t.is_floating_point()]
        if finite_probe(numbers, self.device).isfinite():
            return ""
        return first_nonfinite(tensors)
