"""The training loop. It uses the given labels, never true labels or test labels. Prints nothing.

An epoch: sample its plan -> one training step per batch -> the strategy's on_epoch_end, with the
full training set -> predictions for the test and validation images. Between steps the state is
consistent and can be saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.seeds import NETWORK, derived_seed
from ..datasets import ImageArray
from ..errors import RunFailed
from .distributed.process_group import ProcessGroup
from .distributed.processes import ParallelConfig
from .images import Normalisation, StreamTransform
from .inference import (
    ImageSource,
    log_p_parts,
    repeatable,
    source_of,
)
from .networks import classifier, on_device
from .networks.backbones import NearestNeighbours
from .networks.factory import NetworkFactory
from .parallel import ParallelStep, fit_to_networks, per_process_tensors
from .state import Task, TrainingState
from .step import TrainingStep

__all__ = ["EpochResult", "Task", "Trainer"]


@dataclass(frozen=True)
class EpochResult:
    """The result of an epoch.

    loss: mean cost; train_predicted (N,), train_p, train_gradient, train_probs, train_margin:
    predictions in the training steps, see EpochPredictions; train_probs is (N, 0) in late epochs or
    for K > 100;
    test_log_p (M, K): of the test images; val_log_p: of the validation split.
    """

    epoch: int
    lr: float
    loss: float
    train_predicted: np.ndarray
    train_p: np.ndarray
    train_gradient: np.ndarray
    train_probs: np.ndarray
    train_margin: np.ndarray
    test_log_p: np.ndarray
    val_log_p: np.ndarray | None = None


class Trainer:
    """A training in progress. Implements the strategies' protocol FullTrainingSet."""

    def __init__(
        self,
        task: Task,
        device: torch.device,
        share_images_with: Trainer | None = None,
        *,
        spread: ParallelConfig = ParallelConfig(),
    ) -> None:
        """share_images_with: a trainer on the same device; its images are reused if they are equal.
        Raises ConfigError for a configuration that the network does not support.
        """
        self.task, self.device, self.strategy = task, device, task.strategy
        recipe = task.recipe
        self._transform = transform = StreamTransform(
            recipe.size, recipe.centre, recipe.area, recipe.flip, recipe.fit
        )
        self.train: ImageSource
        self.test: ImageSource
        if share_images_with and task.same_images_as(share_images_with.task):
            self.train, self.test = share_images_with.train, share_images_with.test
        else:
            normalise = Normalisation.of(task.images)
            self.train = source_of(task.images, normalise, device, transform, recipe.crop)
            self.test = source_of(task.test_images, self.train.normalise, device, transform)
        self.val = None if task.val_images is None else self.pixels(task.val_images)
        self.adapted: list[str] = []  # how the initial weights were adapted
        self._factory = NetworkFactory(
            task.model, task.num_classes, self.train.shape, task.init, self.strategy.num_networks
        )
        networks = [self._new_network(n) for n in range(self.strategy.num_networks)]
        if not spread.alone:
            batch_size = min(recipe.batch_size, len(self.train))
            spread = fit_to_networks(networks, spread, task.model, batch_size)
        self.spread, self.ranks = spread, spread.ranks
        self.networks: Sequence[nn.Module] = networks
        for network in networks:
            if isinstance(network, NearestNeighbours):
                network.memorize(
                    self.train.eval_batches(), torch.tensor(task.labels, device=device)
                )
        self.state = TrainingState(task, device, self.networks)
        if spread.alone:
            self.training_step = TrainingStep(self.state, self.train)
        else:
            self.training_step = ParallelStep(self.state, self.train, spread)
        self.training_step.start_epoch()

    def run_epoch(self, on_step: Callable[[], object] = lambda: None) -> EpochResult:
        """Train the rest of the current epoch. `on_step` is called between steps; if it raises an
        error, the state is consistent.

        Raises RunFailed, with step and examples, if a cost or a gradient is not finite.
        """
        state = self.state
        with torch.random.fork_rng(state.cuda_devices), repeatable(self.device):
            # inside, torch's global random state (for dropout) is that of the training
            torch.set_rng_state(state.randomness[0])
            for device, saved in zip(state.cuda_devices, state.randomness[1:], strict=True):
                torch.cuda.set_rng_state(saved, device)
            state.running = True
            try:
                while state.step < len(state.batches):
                    on_step()
                    self.training_step.run()
            finally:
                state.randomness, state.running = state.current_randomness(), False
        state.check()
        self.end_training()
        return self.end_epoch(self.predict(self.test))

    def end_training(self) -> None:
        """After an epoch's last step: call the strategy's on_epoch_end, before the test set is
        predicted, since the strategy may restore earlier weights.
        """
        state = self.state
        self._lr_factor = state.lr_factor(state.step - 1)
        state.epoch, state.step = state.epoch + 1, 0
        if isinstance(self.ranks, ProcessGroup):
            self.ranks.broadcast(per_process_tensors(state))
        self.strategy.on_epoch_end(state.epoch, self)

    def end_epoch(self, test: Tensor) -> EpochResult:
        """The result of the epoch. test: log_p (M, K) of the test set. Starts the next epoch.
        Raises RunFailed.
        """
        state, log_ps = self.state, [test]
        if self.val is not None:
            log_ps.append(self.predict(self.val))
        for log_p in log_ps:
            self._check_finite(log_p)
        result = EpochResult(
            state.epoch,
            self._lr_factor * self.task.recipe.lr,
            state.costs.mean().item(),
            *(part.cpu().numpy() for part in state.predictions),
            *(log_p.cpu().numpy() for log_p in log_ps),
        )
        state.begin_epoch()
        self.training_step.start_epoch()
        return result

    def predict(self, pixels: ImageSource) -> Tensor:
        """log_p (n, K), combined over the networks."""
        return self.ranks.gather(torch.cat(list(self.predict_parts(pixels))), len(pixels))

    def predict_parts(self, pixels: ImageSource) -> Iterator[Tensor]:
        """The same for this process's share, batch by batch."""
        return map(self.strategy.predict, self._log_p_parts(self.networks, pixels))

    def pixels(self, images: ImageArray) -> ImageSource:
        """A source of images (n, H, W, C), uint8, for predictions."""
        return source_of(images, self.train.normalise, self.device, self._transform)

    def predict_log_p(
        self, images: Tensor, network: int = 0, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """log_p (B, K) of images (B, C, H, W), with the network's weights or with `weights`."""
        return self.training_step.predict_log_p(images, network, weights)

    def log_p(self, network: int = 0) -> Tensor:
        """log_p (N, K) of one network on the training set, without augmentation. Raises
        RunFailed.
        """
        parts = self._log_p_parts([self.networks[network]], self.train)
        log_p = self.ranks.gather(torch.cat([part for (part,) in parts]), len(self.train))
        self._check_finite(log_p)
        return log_p

    def features(self, network: int = 0, index: Tensor | None = None) -> Tensor:
        """The features (n, D), the classifier's input, of training images without augmentation."""
        parts: list[Tensor] = []
        head = classifier(self.networks[network])
        hook = head.register_forward_pre_hook(
            lambda _, inputs: parts.append(inputs[0].flatten(1).float())
        )
        try:
            for _ in self._log_p_parts([self.networks[network]], self.train, index):
                pass
        finally:
            hook.remove()
        n = len(self.train) if index is None else len(index)
        return self.ranks.gather(torch.cat(parts), n)

    def restart(self) -> None:
        """Reinitialize the networks, reset the momentum, and restart the learning rate schedule
        over the remaining epochs.
        """
        self.state.schedule_start = self.state.epoch
        for number, network in enumerate(self.networks):
            new = self._new_network(number, self.state.epoch)
            network.load_state_dict(new.state_dict())
        self.state.optimizer.forget()

    def close(self) -> None:
        """End the processes that read images ahead."""
        for source in (self.train, self.test, self.val):
            if source is not None:
                source.close()

    def state_dict(self) -> dict[str, Any]:
        """All state that the remaining training depends on."""
        return self.state.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state.load_state_dict(state)
        self.training_step.start_epoch()

    def _new_network(self, number: int, *epoch: int) -> nn.Module:
        """An initial network; a different one for each restart epoch."""
        seed = derived_seed(self.task.seed, NETWORK, number, *epoch)
        network, adapted = self._factory.network(number, seed)
        self.adapted = list(dict.fromkeys([*self.adapted, *adapted]))
        return on_device(network, self.device)

    def _log_p_parts(
        self, networks: Sequence[nn.Module], pixels: ImageSource, index: Tensor | None = None
    ) -> Iterator[list[Tensor]]:
        """log_p of each network on this process's share of some images or all, batch by batch."""
        if index is None:
            index = torch.arange(len(pixels))
        share = index[self.ranks.local_slice(len(index))].to(self.device)
        return log_p_parts(networks, pixels, self.task.precision, share)

    def _check_finite(self, log_p: Tensor) -> None:
        if not log_p.isfinite().all():
            raise RunFailed(f"the network's output is not finite after epoch {self.state.epoch}")
