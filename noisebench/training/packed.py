"""Trains several networks of one shape in lockstep, as one network: a small network alone does not
use a whole processor.

Each run keeps its own Trainer with order, noise, statistics, strategy and checkpoint; only passes
through the network and optimizer steps are computed together. The width is fixed: empty rows are
filled, so that all computations have the same shape and no run depends on the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor

from ..errors import RunFailed
from ..strategies import Batch
from .images import InMemoryFeatures, InMemoryImages
from .inference import ImageSource, autocast, every, repeatable
from .networks.packed import pack_networks
from .optimizer import SGD
from .state import OnlinePredictions, finite_probe
from .trainer import EpochResult, Trainer

# numbers: tensors with a multiple of this size are computed in full vectors, without a remainder
# that is rounded differently
_VECTOR = 64
_MAX_PREDICTIONS = 1 << 29  # numbers, 2 GB


class PackedTrainer:
    """Trainers in lockstep. All must have the same images, network, recipe and precision, and be at
    the same step.

    kinds: one text per trainer, equal for the same loss and strategy. Raises ValueError if images
    differ.
    """

    def __init__(self, trainers: Sequence[Trainer], width: int, kinds: Sequence[str] = ()) -> None:
        states = [trainer.state for trainer in trainers]
        if not all(
            trainer.train is trainers[0].train or trainer.task.same_images_as(trainers[0].task)
            for trainer in trainers
        ):
            raise ValueError("the trainers of a pack must have the same images")
        self._all, self._states = list(trainers), states
        self._kinds: list[object] = list(kinds) or [object() for _ in trainers]
        self.running = list(range(len(trainers)))  # rows of the trainers that have not failed
        first = trainers[0]
        assert isinstance(first.train, InMemoryImages | InMemoryFeatures), "streamed: not packed"
        self._images, self._recipe = first.train, first.task.recipe
        self._device, self._precision = first.device, first.task.precision
        networks = [trainer.networks[0] for trainer in trainers]
        self._filled = [*states, *[states[0]] * (width - len(states))]
        networks += [deepcopy(networks[0]) for _ in self._filled[len(networks) :]]
        self.network = pack_networks(networks).train()
        self.optimizer = SGD([{"params": list(self.network.parameters())}], self._recipe)
        (packed,) = self.optimizer.groups
        for number, velocities in enumerate(packed.velocities):
            for row, state in enumerate(states):  # becomes a view of the packed tensor
                of_state = state.optimizer.groups[0].velocities
                velocities[row].copy_(of_state[number])
                of_state[number] = velocities[row]
        self._labels = torch.stack([state.labels for state in self._filled])
        self._begin_epoch()

    @property
    def first(self) -> Trainer:
        """The first trainer that has not failed."""
        return self._all[self.running[0]]

    def run_epoch(
        self, on_step: Callable[[], object] = lambda: None
    ) -> list[EpochResult | RunFailed]:
        """Train the rest of the current epoch; returns a result for every running trainer. A
        trainer that fails leaves `running`.
        """
        with repeatable(self._device):
            while self.first.state.step < len(self.first.state.batches):
                on_step()
                self.make_step()
        tensors = [self._costs, self._finite_probes]
        tensors += [*self.network.parameters(), *self.network.buffers()]
        numbers = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
        finite = finite_probe(numbers, self._device).isfinite()
        results: dict[int, EpochResult | RunFailed] = {}
        for row in self.running:
            try:
                if not finite:
                    self._states[row].check()
                self._all[row].end_training()
            except RunFailed as failure:
                results[row] = failure
        log_p = self._log_p(self.first.test)
        for row in [row for row in self.running if row not in results]:
            trainer = self._all[row]
            try:
                results[row] = trainer.end_epoch(trainer.strategy.predict([log_p[row]]))
            except RunFailed as failure:
                results[row] = failure
        ended = [results[row] for row in self.running]
        for row, result in results.items():
            if isinstance(result, RunFailed):
                self.running.remove(row)
                state = self._states[row]
                tensors = [*state.networks[0].state_dict().values(), *state.optimizer.velocities()]
                for tensor in tensors:  # non-finite numbers slow down a CPU
                    tensor.detach().zero_()
        if self.running:
            self._begin_epoch()
        return ended

    def _begin_epoch(self) -> None:
        states = [
            state if row in self.running else self.first.state
            for row, state in enumerate(self._filled)
        ]
        plans = [state.plan for state in states]
        self._order = torch.stack([plan.order for plan in plans])
        # features without augmentation: runs in the same order read each batch once
        self._shared = isinstance(self._images, InMemoryFeatures) and bool(
            (self._order == self._order[:1]).all()
        )
        self._shifts = torch.stack([plan.shifts[0] for plan in plans])
        flips = [plan.flips[0] for plan in plans if plan.flips is not None]
        self._flips = torch.stack(flips) if flips else None
        self._costs = torch.stack([state.costs for state in states])
        self._finite_probes = torch.stack([state.finite_probes for state in states])
        self._online = OnlinePredictions(self._labels, states[0].online.kept)
        self._rows = torch.tensor(self.running, device=self._device)
        for row in self.running:
            state = self._states[row]
            state.costs, state.finite_probes = self._costs[row], self._finite_probes[row]
            single = state.predictions if state.step else None  # of steps before a checkpoint
            state.online, state.online_row = self._online, row
            for packed, part in zip(state.predictions, single, strict=True) if single else ():
                packed.copy_(part)
        # One call for adjacent runs of equal loss and strategy, if the strategy is stateless.
        self._pools: list[list[int]] = []
        for row in self.running:
            pool = self._pools[-1] if self._pools else []
            alike = pool and pool[-1] == row - 1 and self._kinds[pool[-1]] == self._kinds[row]
            if alike and self._all[row].strategy.stateless:
                pool.append(row)
            else:
                self._pools.append([row])

    def make_step(self) -> None:
        """The next step of every trainer."""
        first, size = self.first.state, self._recipe.batch_size
        step = first.step
        rows = slice(step * size, (step + 1) * size)
        index = self._order[:, rows]
        # images (R, B, C, H, W) or features (R, B, D), in one gather
        if self._shared:
            images = self._images.augmented(index[0], self._shifts, None).expand(*index.shape, -1)
        else:
            flips = None if self._flips is None else self._flips[:, rows].flatten()
            images = self._images.augmented(
                index.flatten(), self._shifts[:, rows].flatten(0, 1), flips
            ).unflatten(0, index.shape)
        pools = self._pools
        if index.shape[1] * first.task.num_classes % _VECTOR:
            pools = [[row] for row in self.running]
        batches = []
        for pool in pools:
            of_pool, state = slice(pool[0], pool[-1] + 1), self._states[pool[0]]
            labels = self._labels[of_pool].gather(1, index[of_pool]).flatten()
            # a stateless strategy does not read the images
            view = images[pool[0]] if len(pool) > 1 else images[of_pool].flatten(0, 1)
            views, examples = (view,), index[of_pool].flatten()
            batch = Batch(views, labels, examples, labels, state.epoch + 1, state.generator)
            batch = state.strategy.prepare_batch(batch, self._all[pool[0]])
            batches.append(batch)
            if batch.views[0].data_ptr() != images[of_pool].data_ptr():
                images = images.clone()
                images[of_pool] = batch.views[0].unflatten(0, images[of_pool].shape[:2])
        with autocast(self._device, self._precision):
            logits = self.network(_side_by_side(images)).float()
        logits.retain_grad()
        # (B, K) of each run; of a shared product (K, B), as it lies in memory
        of_runs = (logits.transpose(1, 2) if self._shared else logits).unbind()
        objectives = []
        for pool, batch in zip(pools, batches, strict=True):
            parts = [of_runs[row] for row in pool]
            pool_logits = torch.cat(parts, int(self._shared)) if len(parts) > 1 else parts[0]
            pool_logits = pool_logits.T if self._shared else pool_logits
            step_of_first = self._all[pool[0]].training_step
            objectives.append(step_of_first.objective(batch, [[pool_logits]], len(pool)))
        objective = torch.cat(objectives)
        objective.sum().backward()
        costs, probes = objective.detach(), self._clipped(logits)
        self._costs[self._rows, step], self._finite_probes[:, step] = costs, probes
        if self._device.type == "cpu" and not math.isfinite((costs.sum() + probes.sum()).item()):
            self._check_previous(step)
        self.optimizer.step(first.lr_factor(step))
        self._online.note(index, logits)
        for row in self.running:
            self._states[row].step += 1

    def _clipped(self, logits: Tensor) -> Tensor:
        """Clip the gradients of each network if the recipe has `clip`, as nn.utils.clip_grad_norm_
        does; returns a number (R,) per network that is finite if its gradient is: the norm.

        On a CPU, the norm takes 3 % of a small network's step. Without clipping, the sum of the
        logits' gradient is used instead, and `_check_previous` finds later overflows.
        """
        clip = self._recipe.clip
        if not clip and self._device.type == "cpu":
            assert logits.grad is not None, "retain_grad was called"
            return logits.grad.flatten(1).sum(1)
        grads = [p.grad for p in self.network.parameters() if p.grad is not None]
        norms = torch.stack([grad.flatten(1).norm(dim=1) for grad in grads]).norm(dim=0)
        scales = (clip / (norms + 1e-6)).clamp_max(1)
        for grad in grads if clip else ():
            grad.mul_(scales.view(-1, *[1] * (grad.dim() - 1)))
        return norms

    def _check_previous(self, step: int) -> None:
        """Called before an update: if this is the first step that is not finite, and the weights
        are not finite either, marks the gradient of the previous step as not finite.
        """
        for row in self.running if step else ():
            state = self._states[row]
            costs, probes = state.costs[: step + 1], state.finite_probes[: step + 1]
            wrong = ~(costs.isfinite() & probes.isfinite())
            if wrong[step] and not wrong[:step].any() and state.nonfinite_weights():
                state.finite_probes[step - 1] = torch.nan

    def train_log_p(self) -> list[Tensor] | None:
        """log_p (N, K) of every running trainer on the features that all share; None if they share
        no batches, or if the predictions would take more than 2 GB.
        """
        numbers = len(self._filled) * len(self._images) * self.first.task.num_classes
        if not self._shared or numbers > _MAX_PREDICTIONS:
            return None
        log_p = self._log_p(self._images)
        return [log_p[row] for row in self.running]

    @torch.no_grad()
    def _log_p(self, images: ImageSource) -> Tensor:
        """log_p (R, M, K) of every network on the same images."""
        self.network.eval()
        logits = []
        with autocast(self._device, self._precision):
            for batch in every(images):
                repeated = batch.expand(len(self._filled), *batch.shape)
                logits.append(self.network(_side_by_side(repeated)).float())
        self.network.train()
        if self._shared:  # with the classes first, as they lie in memory, softmax is much faster
            classes_first = torch.cat([part.transpose(1, 2) for part in logits], 2)
            return classes_first.log_softmax(1).transpose(1, 2)
        return torch.cat(logits, 1).log_softmax(2)


def _side_by_side(images: Tensor) -> Tensor:
    """Images (R, B, C, H, W) -> (B, R * C, H, W); features (R, B, D) unchanged."""
    return images if images.dim() == 3 else images.transpose(0, 1).flatten(1, 2)
