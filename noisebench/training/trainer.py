"""The only training loop. It knows recorded labels, never clean ones, nor the test labels; it
prints nothing.

An epoch: draw its plan -> for each batch: prepare, forward, believe, penalty, one SGD step -> the
strategy looks at the whole set -> predictions for whoever holds the labels. Between any two steps
the state is whole and can be saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..core.seeds import EPOCH, NETWORK, RANK, STRATEGY, derived_seed
from ..datasets import ImageArray
from ..errors import RunFailed
from ..experiments.recipes import Recipe, read_schedule
from ..losses import Loss, Penalty, Scores
from ..metrics.dynamics import early_epochs
from ..strategies import Batch, ModelOutput, Strategy, TrainingInfo
from .cuda_graph import CudaGraphStep, StepInput, StepResult
from .distributed.processes import ParallelConfig
from .distributed.sharing import batch_of, fitted, given, kept_by_each, make_batch, places
from .epoch_stats import EpochPredictions, OnlinePredictions
from .images.pixels import EpochPlan, InMemoryImages
from .images.source import ImageSource, StreamTransform, normalisation_of, same_images, source_of
from .inference import autocast, log_p_parts, network_log_p, repeatable
from .networks import classifier, on_device
from .networks.factory import InitialState, NetworkFactory
from .networks.groups import freeze, parameter_groups
from .numerics import check_state, check_steps
from .objective import learning_rate_factor, weighted_cost
from .optimizer import SGD
from .step import backward, of_batch, training_forwards, update

_LOOK_EVERY = 64  # steps: to look at what a GPU has found is to wait for it


@dataclass(frozen=True)
class Task:
    """All that decides a training. Images (N, H, W, C) uint8, of pictures in files in the recipe's
    size; labels (N,) as recorded.
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
    val_images: ImageArray | None = None  # held out: predicted after each epoch, never trained on
    trusted: np.ndarray | None = None  # which labels (N,) somebody has verified
    init: InitialState | None = None  # what the networks begin from; None: they are freshly made
    # what a failure calls the examples (N,); None: as they stand here
    numbers: np.ndarray | None = None

    def same_images_as(self, other: Task) -> bool:
        """Whether both train and are tested on the same images, which then need to lie there
        once.
        """
        return same_images(self.images, other.images) and same_images(
            self.test_images, other.test_images
        )


@dataclass(frozen=True)
class EpochResult:
    """What an epoch leaves: mean cost; of the training set, in passing, the classes predicted (N,)
    (-1: not seen), p of the recorded label, the gradient's norm, and p of every class (N, K) (NaN:
    not seen), (N, 0) late and for more than 100; and log_p of the test images (M, K) and of those
    held out for validation.
    """

    epoch: int
    lr: float
    loss: float
    train_predicted: np.ndarray
    train_p: np.ndarray
    train_gradient: np.ndarray
    train_probs: np.ndarray
    test_log_p: np.ndarray
    val_log_p: np.ndarray | None = None


class Trainer:
    """A training in progress: networks, optimiser, strategy, and where it stands."""

    def __init__(
        self,
        task: Task,
        device: torch.device,
        beside: Trainer | None = None,
        *,
        spread: ParallelConfig = ParallelConfig(),
    ) -> None:
        """beside: one on the same device, whose images are shared where they are the same ones.
        Raises ConfigError for a spread that the network does not allow.
        """
        self.task, self.device, self.strategy = task, device, task.strategy
        # and so has to see those of the whole batch
        self.changes_images = type(task.strategy).prepare_batch is not Strategy.prepare_batch
        if beside and task.same_images_as(beside.task):
            train, test = beside.train, beside.test
        else:
            look = StreamTransform.of(task.recipe)
            train = source_of(
                task.images, normalisation_of(task.images), device, look, task.recipe.crop
            )
            test = source_of(task.test_images, train.normalise, device, look)
        self.train: ImageSource = train
        self.test: ImageSource = test
        self.val = None if task.val_images is None else self.pixels(task.val_images)
        self.labels = torch.from_numpy(task.labels.astype(np.int64)).to(device)
        self.beginning = NetworkFactory(
            task.model, task.num_classes, train.shape, task.init, self.strategy.num_networks
        )
        # what was done so that the weights fit that the networks began from
        self.adapted: list[str] = []
        self.networks: Sequence[nn.Module] = [
            self._network(number) for number in range(self.strategy.num_networks)
        ]
        self.spread, self.ranks = fitted(self, spread), spread.ranks
        self._still = [freeze(network, task.recipe.freeze) for network in self.networks]
        self.generator = torch.Generator().manual_seed(derived_seed(task.seed, STRATEGY))
        trusted = None if task.trusted is None else torch.from_numpy(task.trusted).to(device)
        self.strategy.setup(
            TrainingInfo(self.labels, task.num_classes, task.recipe.epochs, self.generator, trusted)
        )
        own = [dict(group) for group in self.strategy.parameter_groups()]
        groups = [
            group for network in self.networks for group in parameter_groups(network, task.recipe)
        ]
        self.groups_of_networks = len(groups)  # the others are the strategy's
        self.optimizer = SGD([*groups, *own], task.recipe)
        self.schedule = read_schedule(task.recipe.schedule)
        self.epoch = self.step = 0  # epochs done; steps done of the next one
        self.since = 0  # the epoch from which the schedule counts
        self._running = False
        self._begin_epoch()
        self._forwards = training_forwards(self)
        # What looks at each example alone, and at nothing else, is one computation that can be
        # played again.
        alike = (
            device.type == "cuda"
            and self.spread.alone
            and self.strategy.stateless
            and isinstance(self.train, InMemoryImages)
        )
        self._recorded = CudaGraphStep(self._learn_given, device) if alike else None

    @property
    def steps_per_epoch(self) -> int:
        return len(self.batches)

    def run_epoch(self, on_step: Callable[[], object] = lambda: None) -> EpochResult:
        """The rest of the current epoch. `on_step` is called between steps; what it raises leaves a
        whole state.

        Raises RunFailed at a cost or a gradient that is not finite, naming step and examples.
        """
        with self._own_randomness(), repeatable(self.device):
            while self.step < self.steps_per_epoch:
                on_step()
                self.make_step()
        self.check()
        self.end_training()
        return self.end_epoch(self.predict(self.test))

    @torch.no_grad()
    def predict_log_p(
        self, images: Tensor, network: int = 0, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """log_p (B, K) of images as they are given, with the network's weights or others
        (strategies' Networks).
        """
        asked = self.networks[network]
        training = asked.training
        asked.eval()
        own = images if self.spread.alone else images[self.ranks.local_slice(len(images))]
        with self.autocast():
            logits = (
                asked(own) if weights is None else functional_call(asked, dict(weights), (own,))
            )
        if training:
            self._train_mode(network)
        return self.ranks.gather(logits.float().log_softmax(1), len(images))

    def log_p(self, network: int = 0) -> Tensor:
        """log_p (N, K) of one network on the training set, without augmentation (strategies'
        WholeSet). Raises RunFailed.
        """
        return self._finite(self._log_p(self.networks[network], self.train))

    def features(self, network: int = 0, index: Tensor | None = None) -> Tensor:
        """The input (n, D) of the classifier on training images, without augmentation (strategies'
        WholeSet).
        """
        seen: list[Tensor] = []
        head = classifier(self.networks[network])
        hook = head.register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0].flatten(1).float())
        )
        try:
            self._log_p(self.networks[network], self.train, index)
        finally:
            hook.remove()
        return self.ranks.gather(torch.cat(seen), len(self.train) if index is None else len(index))

    def restart(self) -> None:
        """New networks, an optimiser without memory, and the schedule from its beginning over what
        is left (strategies' WholeSet).
        """
        self.since = self.epoch
        for number, network in enumerate(self.networks):
            network.load_state_dict(self._network(number, self.epoch).state_dict())
        self.optimizer.forget()

    def pixels(self, images: ImageArray) -> ImageSource:
        """Images (n, H, W, C), uint8, that are not trained on, as the networks are asked about
        them.
        """
        return source_of(
            images, self.train.normalise, self.device, StreamTransform.of(self.task.recipe)
        )

    def predict(self, pixels: ImageSource) -> Tensor:
        """log_p (n, K) of the networks together."""
        return self.ranks.gather(torch.cat(list(self.predict_parts(pixels))), len(pixels))

    def predict_parts(self, pixels: ImageSource) -> Iterator[Tensor]:
        """The same of this process's share, one part of the images after the other."""
        return map(
            self.strategy.predict,
            log_p_parts(self.networks, pixels, self.task.precision, self._share(len(pixels))),
        )

    def close(self) -> None:
        """Nothing more is asked for: end what reads images ahead."""
        for source in (self.train, self.test, *([] if self.val is None else [self.val])):
            source.close()

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
            "since": self.since,
            "costs": self.costs,
            "passed": self.passed.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for network, saved in zip(self.networks, state["networks"], strict=True):
            network.load_state_dict(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        _restore(self.strategy.state, state["strategy"])
        self.generator.set_state(state["generator"].cpu())
        self.epoch, self.step, self.since = state["epoch"], state["step"], state["since"]
        self._begin_epoch()
        self._randomness = [saved.cpu() for saved in state["randomness"]]
        self.costs.copy_(state["costs"])
        self.passed.load_state_dict(state["passed"])

    def _network(self, number: int, *since: int) -> nn.Module:
        """A network as it begins; after a restart another one."""
        network, said = self.beginning.network(
            number, derived_seed(self.task.seed, NETWORK, number, *since)
        )
        self.adapted = list(dict.fromkeys([*self.adapted, *said]))
        return on_device(network, self.device)

    def _train_mode(self, number: int) -> None:
        """Ready to learn; what is frozen stays in evaluation mode, so that its batch norm learns
        nothing either.
        """
        self.networks[number].train()
        for part in self._still[number]:
            part.eval()

    def _begin_epoch(self) -> None:
        """The epoch's order and augmentation depend on (seed, epoch) alone, so that a resumed epoch
        is the same one.
        """
        recipe = self.task.recipe
        seed = derived_seed(self.task.seed, EPOCH, self.epoch)
        plan = EpochPlan.draw(
            len(self.train),
            self.strategy.num_views,
            recipe.crop,
            recipe.flip,
            torch.Generator().manual_seed(seed),
        )
        self.plan = plan.to(self.device)
        self.batches = self.plan.batches(recipe.batch_size)
        self.train.start_epoch(
            self.plan,
            (at for step in range(self.step, len(self.batches)) for at in places(self, step)),
        )
        self.costs: Tensor = torch.zeros(len(self.batches), device=self.device)
        # finite where a step's gradients are; those before a checkpoint were looked at
        self.sound = torch.zeros_like(self.costs)
        early = self.epoch < early_epochs(recipe.epochs)
        self.passing, self.place = (
            OnlinePredictions(self.labels[None], self.task.num_classes if early else 0),
            0,
        )
        self._randomness = [
            torch.Generator(device).manual_seed(seed).get_state()
            for device in (torch.device("cpu"), *self._cuda)
        ]

    @property
    def passed(self) -> EpochPredictions:
        """What the network said in passing since the epoch began."""
        return self.passing.of(self.place)

    @property
    def _cuda(self) -> list[torch.device]:
        return [self.device] if self.device.type == "cuda" else []

    def _current_randomness(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._cuda)]

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """torch's global randomness (dropout needs it) is the trainer's inside and the caller's
        again outside.
        """
        with torch.random.fork_rng(self._cuda):
            torch.set_rng_state(self._randomness[0])
            for device, state in zip(self._cuda, self._randomness[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            self._running = True
            try:
                yield
            finally:
                self._randomness = self._current_randomness()
                self._running = False

    @contextmanager
    def own_draws(self, part: int) -> Iterator[None]:
        """Where there are several processes, dropout in this one, in a part of a step: a matter of
        (seed, epoch, step, process, part) alone, so that a checkpoint need not know of it.
        """
        if self.ranks.size == 1:
            yield
            return
        with torch.random.fork_rng(self._cuda):
            torch.manual_seed(
                derived_seed(self.task.seed, RANK, self.epoch, self.step, self.ranks.rank, part)
            )
            yield

    def end_training(self) -> None:
        """After an epoch's last step: the strategy looks at the whole set, before the test set is
        looked at, since it may roll the networks back.
        """
        self._lr_factor = self.lr_factor(self.step - 1)
        self.epoch, self.step = self.epoch + 1, 0
        self.ranks.broadcast(kept_by_each(self))
        self.strategy.on_epoch_end(self.epoch, self)

    def end_epoch(self, test: Tensor) -> EpochResult:
        """What the epoch leaves, with log_p (M, K) of the test set, and the next one begun. Raises
        RunFailed.
        """
        self._finite(test)
        val = None if self.val is None else self._finite(self.predict(self.val)).cpu().numpy()
        lr, cost = self._lr_factor * self.task.recipe.lr, self.costs.mean().item()
        predicted, p, gradient, whole = (
            part.cpu().numpy() for part in self.passed.state_dict().values()
        )
        end = EpochResult(
            self.epoch, lr, cost, predicted, p, gradient, whole, test.cpu().numpy(), val
        )
        self._begin_epoch()
        return end

    def check(self) -> None:
        """Raises RunFailed where a step of this epoch had a cost or a gradient that is not finite,
        or the networks are not.
        """
        check_steps(self)
        check_state(self)

    def _finite(self, log_p: Tensor) -> Tensor:
        """What a network says after an epoch. Raises RunFailed where that is not finite."""
        if not log_p.isfinite().all():
            raise RunFailed(f"the network's output is not finite after epoch {self.epoch}")
        return log_p

    def batch(self, part: int | None = None) -> Batch:
        """The examples of the next step, or of a part of it, as the strategy wants them."""
        return make_batch(self, part)

    def objective(self, batch: Batch, logits: Sequence[Sequence[Tensor]], runs: int = 1) -> Tensor:
        """What each of so many runs (runs,) is to lower, whose examples stand one run after the
        other in the batch.

        logits: of each network and view, (B, K), float32.
        """
        outputs = [
            [self._output(number, rows, batch) for rows in views]
            for number, views in enumerate(logits)
        ]
        beliefs = self.strategy.supervise(batch, outputs)
        cost: Any = sum(
            weighted_cost(views[0].cost, belief, runs)
            for views, belief in zip(outputs, beliefs, strict=True)
        )
        objective: Tensor = cost
        for penalty in (self.strategy.regularizer(batch, outputs), self._penalty()):
            objective = objective if penalty is None else objective + penalty
        return objective

    def lr_factor(self, step: int) -> float:
        """The share of the learning rate at a step of this epoch."""
        done = self.epoch - self.since + step / self.steps_per_epoch
        return learning_rate_factor(self.schedule, done, self.task.recipe.epochs - self.since)

    def make_step(self) -> None:
        """The next step of the epoch."""
        for number in range(len(self.networks)):
            self._train_mode(number)
        whole = len(self.batches[self.step]) == self.task.recipe.batch_size
        made = self._recorded(given(self)) if self._recorded and whole else self._learn()
        assert made.finite_probe is not None, "it is made"
        self.costs[self.step], self.sound[self.step] = made.cost, made.finite_probe
        self.passing.note(self.batches[self.step], made.logits)
        self.step += 1
        if self.device.type != "cpu" and self.step % _LOOK_EVERY == 0:
            check_steps(self)

    def _learn(self) -> StepResult:
        """The passes of a step, and the step."""
        made = backward(self, self._forwards)
        return update(self, made, self.batches[self.step], self.lr_factor(self.step))

    def _learn_given(self, given: StepInput) -> StepResult:
        """The same with all that changes from step to step in tensors."""
        made = of_batch(self, self._forwards, batch_of(self, given))
        return update(self, made, given.index, given.lr_factor)

    def _penalty(self) -> Tensor | None:
        """The loss's own, of all that is trained of all networks."""
        if self.task.penalty is None:
            return None
        return self.task.penalty(
            [
                weight
                for network in self.networks
                for weight in network.parameters()
                if weight.requires_grad
            ]
        )

    def _output(self, number: int, logits: Tensor, batch: Batch) -> ModelOutput:
        scores = Scores(
            logits, transform=partial(self.strategy.transform_log_p, batch=batch, network=number)
        )
        return ModelOutput(scores.logits, scores.log_p, self.task.loss(scores))

    def autocast(self) -> torch.autocast:
        """Inside `with`, networks compute in the task's precision."""
        return autocast(self.device, self.task.precision)

    def _log_p(
        self, network: nn.Module, pixels: ImageSource, index: Tensor | None = None
    ) -> Tensor:
        n = len(pixels) if index is None else len(index)
        return self.ranks.gather(
            network_log_p(network, pixels, self.task.precision, self._share(n, index)), n
        )

    def _share(self, n: int, index: Tensor | None = None) -> Tensor | None:
        """Which of n images this process looks at; None for all."""
        if self.ranks.size == 1:
            return index
        return (torch.arange(n, device=self.device) if index is None else index)[
            self.ranks.local_slice(n)
        ]


def _restore(state: dict[str, Any], saved: dict[str, Any]) -> None:
    """Tensors keep their identity (the optimiser holds some of them); the rest is replaced."""
    for key in state.keys() - saved.keys():
        del state[key]
    for key, value in saved.items():
        mine = state.get(key)
        if isinstance(mine, Tensor) and isinstance(value, Tensor) and mine.shape == value.shape:
            mine.data.copy_(value)
        else:
            state[key] = value
