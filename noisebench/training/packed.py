"""Several trainings of one shape in lockstep, their networks as one: a small network alone leaves a
processor idle.

Each stays a Trainer of its own, with its own order, noise, statistics, strategy and checkpoint;
only the passes through the network and the steps of the optimiser are made together. The width is
fixed: places that no training takes are filled, so that all computations have the shape they always
have and no training depends on the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import groupby

import torch
from torch import Tensor

from ..errors import RunFailed
from ..strategies import Batch
from .epoch_stats import OnlinePredictions
from .images.pixels import InMemoryImages
from .images.source import ImageSource
from .inference import every, repeatable
from .networks.packed import pack_networks
from .numerics import finite_probe_of, wrong_weights
from .optimizer import SGD
from .trainer import EpochResult, Trainer

# numbers: a tensor of a multiple of these is worked off in full vectors, without a rest that rounds
# otherwise
_VECTOR = 64


class PackedTrainer:
    """Trainings in lockstep. All have the same images, network, recipe and precision, and stand at
    the same step.

    kinds: a text for each; neighbours of the same have the same loss and strategy. Raises
    ValueError for images that differ.
    """

    def __init__(self, trainers: Sequence[Trainer], width: int, kinds: Sequence[str] = ()) -> None:
        assert (
            0 < len(trainers) <= width and len({(t.epoch, t.step, t.since) for t in trainers}) == 1
        )
        if not all(
            trainer.train is trainers[0].train or trainer.task.same_images_as(trainers[0].task)
            for trainer in trainers
        ):
            raise ValueError("trainings of a pack see the same images, and these do not")
        self._all = list(trainers)
        self._kinds: list[object] = list(kinds) or [object() for _ in trainers]
        self.places = list(range(len(trainers)))  # of the trainings that go on
        networks = [trainer.networks[0] for trainer in trainers]
        networks += [deepcopy(networks[0]) for _ in range(width - len(trainers))]
        self.network = pack_networks(networks).train()
        self.optimizer = SGD([{"params": list(self.network.parameters())}], self.first.task.recipe)
        self._join_velocities()
        filled = [*trainers, *[trainers[0]] * (width - len(trainers))]
        self._labels = torch.stack([trainer.labels for trainer in filled])
        self._filled = filled
        self._begin_epoch()

    @property
    def trainers(self) -> list[Trainer]:
        """Those that go on."""
        return [self._all[place] for place in self.places]

    @property
    def first(self) -> Trainer:
        return self._all[self.places[0]]

    def run_epoch(
        self, on_step: Callable[[], object] = lambda: None
    ) -> list[EpochResult | RunFailed]:
        """The rest of the current epoch of every training that goes on; one that failed is in it no
        longer.
        """
        with repeatable(self.first.device):
            while self.first.step < self.first.steps_per_epoch:
                on_step()
                self.make_step()
        acts = (
            (Trainer.end_training,) if self._all_finite else (Trainer.check, Trainer.end_training)
        )
        failures = {
            place: failure for place in self.places if (failure := _failure(self._all[place], acts))
        }
        log_p = self._log_p(self.first.test)
        ends = [failures.get(place) or self._end(place, log_p[place]) for place in self.places]
        for place, end in zip(self.places, ends, strict=True):
            if isinstance(end, RunFailed):
                self._clear(place)
        self.places = [
            place
            for place, end in zip(self.places, ends, strict=True)
            if isinstance(end, EpochResult)
        ]
        if self.places:
            self._begin_epoch()
        return ends

    def _end(self, place: int, log_p: Tensor) -> EpochResult | RunFailed:
        trainer = self._all[place]
        try:
            return trainer.end_epoch(trainer.strategy.predict([log_p]))
        except RunFailed as failure:
            return failure

    def _join_velocities(self) -> None:
        """The momenta of each training become views of the joint ones."""
        (joint,) = self.optimizer.groups
        for number, together in enumerate(joint.velocities):
            for place, trainer in enumerate(self._all):
                own = trainer.optimizer.groups[0].velocities
                together[place].copy_(own[number])
                own[number] = together[place]

    def _begin_epoch(self) -> None:
        going = [
            trainer if place in self.places else self.first
            for place, trainer in enumerate(self._filled)
        ]
        plans = [trainer.plan for trainer in going]
        self._order = torch.stack([plan.order for plan in plans])
        self._shifts = torch.stack([plan.shifts[0] for plan in plans])
        self._flips = (
            None
            if plans[0].flips is None
            else torch.stack([plan.flips[0] for plan in plans if plan.flips is not None])
        )
        self._costs, self._sound = (
            torch.stack([getattr(trainer, name) for trainer in going])
            for name in ("costs", "sound")
        )
        passed = [trainer.passed for trainer in going]
        self._passing = OnlinePredictions(self._labels, passed[0].whole.shape[1])
        self._going = torch.tensor(self.places, device=self.first.device)
        for place in self.places:
            trainer = self._all[place]
            trainer.costs, trainer.sound = self._costs[place], self._sound[place]
            trainer.passing, trainer.place = self._passing, place
            trainer.passed.load_state_dict(passed[place].state_dict())
        # One call for the runs of one loss and strategy that stand side by side, where the strategy
        # allows it.
        self._pools = [
            [place for _, place in group]
            for _, group in groupby(enumerate(self.places), self._pool)
        ]

    def _pool(self, numbered: tuple[int, int]) -> object:
        """What places have in common that are worked off together: kind, and no gap between
        them.
        """
        number, place = numbered
        return (
            (self._kinds[place], place - number) if self._all[place].strategy.stateless else place
        )

    def make_step(self) -> None:
        """The next step of every training."""
        step, size = self.first.step, self.first.task.recipe.batch_size
        index = self._order[:, step * size : (step + 1) * size]
        images = self._images(index, slice(step * size, (step + 1) * size))
        pools = (
            self._pools
            if index.shape[1] * self.first.task.num_classes % _VECTOR == 0
            else [[place] for place in self.places]
        )
        batches = [self._batch(pool, index, images) for pool in pools]
        images = self._prepared(images, pools, batches)
        with self.first.autocast():
            logits = self.network(images.transpose(0, 1).flatten(1, 2)).float()
        self._passing.watch(logits)
        objectives = torch.cat(
            [
                self._objective(pool, batch, logits)
                for pool, batch in zip(pools, batches, strict=True)
            ]
        )
        objectives.sum().backward()
        costs, sound = objectives.detach(), self._clipped(logits)
        self._costs[self._going, step], self._sound[:, step] = costs, sound
        if self.first.device.type == "cpu" and not math.isfinite(
            (costs.sum() + sound.sum()).item()
        ):
            self._look_back(step)
        self.optimizer.step(self.first.lr_factor(step))
        self._passing.note(index, logits)
        for trainer in self.trainers:
            trainer.step += 1

    def _images(self, index: Tensor, at: slice) -> Tensor:
        """Augmented images (R, B, C, H, W), in one gather."""
        assert isinstance(self.first.train, InMemoryImages), "what is streamed trains by itself"
        flips = None if self._flips is None else self._flips[:, at].flatten()
        return self.first.train.augmented(
            index.flatten(), self._shifts[:, at].flatten(0, 1), flips
        ).unflatten(0, index.shape)

    def _batch(self, pool: list[int], index: Tensor, images: Tensor) -> Batch:
        """The examples of one training, or of several that share a loss and a strategy, as the
        strategy wants them.
        """
        own, rows = self._all[pool[0]], slice(pool[0], pool[-1] + 1)
        labels = self._labels[rows].gather(1, index[rows]).flatten()
        batch = Batch(
            (images[rows].flatten(0, 1),),
            labels,
            index[rows].flatten(),
            labels,
            own.epoch + 1,
            own.generator,
        )
        return own.strategy.prepare_batch(batch, own)

    def _objective(self, pool: list[int], batch: Batch, logits: Tensor) -> Tensor:
        rows = logits[pool[0] : pool[-1] + 1].flatten(0, 1)
        return self._all[pool[0]].objective(batch, [[rows]], len(pool))

    def _prepared(self, images: Tensor, pools: list[list[int]], batches: list[Batch]) -> Tensor:
        """The images with those that a strategy changed."""
        for pool, batch in zip(pools, batches, strict=True):
            rows = images[pool[0] : pool[-1] + 1]
            if batch.views[0].data_ptr() != rows.data_ptr():
                images = images.clone()
                images[pool[0] : pool[-1] + 1] = batch.views[0].unflatten(0, rows.shape[:2])
        return images

    def _clipped(self, logits: Tensor) -> Tensor:
        """A number (R,) that is finite where a network's gradient is: its norm, by which gradients
        are clipped where the recipe says so, each network's by themselves, as
        nn.utils.clip_grad_norm_ does.

        A norm of so many weights would take a processor 3 % of a small network's step, so where it
        is not asked for that of the logits' gradient stands for it, and `_look_back` finds the
        gradients that became too large on their way from there.
        """
        largest = self.first.task.recipe.clip
        if not largest and self.first.device.type == "cpu":
            assert logits.grad is not None, "it is watched"
            return logits.grad.flatten(1).sum(1)
        grads = [p.grad for p in self.network.parameters() if p.grad is not None]
        norms = torch.stack([grad.flatten(1).norm(dim=1) for grad in grads]).norm(dim=0)
        shares = (largest / (norms + 1e-6)).clamp_max(1)
        for grad in grads if largest else ():
            grad.mul_(shares.view(-1, *[1] * (grad.dim() - 1)))
        return norms

    def _look_back(self, step: int) -> None:
        """Before the networks move again: where this is the first step that something is wrong
        with, but the weights that it began with are not finite, it was the gradient of the step
        before.
        """
        for trainer in self.trainers if step else ():
            wrong = ~(trainer.costs[: step + 1].isfinite() & trainer.sound[: step + 1].isfinite())
            if wrong[step] and not wrong[:step].any() and wrong_weights(trainer):
                trainer.sound[step - 1] = torch.nan

    @property
    def _all_finite(self) -> bool:
        """Costs, gradients and networks."""
        state = [self._costs, self._sound, *self.network.parameters(), *self.network.buffers()]
        return bool(
            finite_probe_of(
                [each.detach() for each in state if each.is_floating_point()], self.first.device
            ).isfinite()
        )

    def _clear(self, place: int) -> None:
        """A training has failed: its network goes on without numbers that are not finite, with
        which a processor is slow.
        """
        with torch.no_grad():
            for each in (
                *self._all[place].networks[0].state_dict().values(),
                *self._all[place].optimizer.velocities(),
            ):
                each.zero_()

    @torch.no_grad()
    def _log_p(self, pixels: ImageSource) -> Tensor:
        """log_p (R, n, K) of every network."""
        self.network.eval()
        with self.first.autocast():
            logits = [
                self.network(images.repeat(1, len(self._filled), 1, 1)).float()
                for images in every(pixels)
            ]
        self.network.train()
        return torch.cat(logits, 1).log_softmax(2)


def _failure(trainer: Trainer, acts: Sequence[Callable[[Trainer], None]]) -> RunFailed | None:
    try:
        for act in acts:
            act(trainer)
    except RunFailed as failure:
        return failure
    return None
