"""A step of training: from a batch to gradients and an update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from ..losses import Scores
from ..strategies import Batch, ModelOutput, Supervision
from ..strategies.plain import Standard
from .cuda_graph import CudaGraphStep, StepInput, StepResult
from .images import InMemoryFeatures, InMemoryImages
from .inference import ImageSource, autocast
from .state import TrainingState, finite_probe, first_nonfinite

_CHECK_EVERY = 64  # steps: reading a result waits for the GPU
_LEAST_TOTAL = 1e-30  # of the weights: a step without any costs 0 instead of 0 / 0


def weighted_cost(cost: Tensor, supervision: Supervision, runs: int = 1) -> Tensor:
    """The mean cost (runs,) of the targets for each of several runs, whose examples are
    concatenated: sum_n w_n (sum_k targets_nk cost_nk) / sum_n w_n, or / N with `mean_over`.

    cost (B, K), targets (B,) or (B, K), weights (B,) or None.
    """
    targets, weights, mean_over = supervision
    if targets.dim() == 1:
        costs = cost.gather(1, targets[:, None]).squeeze(1)
    else:
        costs = (targets * cost).sum(1)
    costs = costs.view(runs, -1)
    if weights is None:
        return costs.mean(1)
    weights = weights.view(runs, -1)
    # exclude NaN and inf of examples with weight 0: 0 * inf is NaN
    weighted = torch.where(weights > 0, costs, torch.zeros_like(costs))
    total = costs.shape[1] if mean_over else weights.sum(1).clamp_min(_LEAST_TOTAL)
    return (weights * weighted).sum(1) / total


class TrainingStep:
    """Runs the training steps: batch -> logits -> objective -> gradients -> update. Implements the
    strategies' protocol Networks.

    On a GPU, the step of a stateless strategy on images in memory is recorded as a CUDA graph and
    replayed, since it is the same computation each time.
    """

    def __init__(self, state: TrainingState, images: ImageSource) -> None:
        self.state, self.images = state, images
        self.loss, self.penalty = state.task.loss, state.task.penalty
        self.strategy, self.networks, self.device = state.strategy, state.networks, state.device
        # On features the loss takes most of a step: with plain training, only the cost of the
        # given labels is computed. On images all costs are, as for the results of older runs.
        self._given_labels_only = (
            isinstance(images, InMemoryFeatures)
            and type(self.strategy) is Standard
            and self.penalty is None
        )
        recordable = self.device.type == "cuda" and isinstance(images, InMemoryImages)
        # a ParallelStep gathers the logits of other processes or parts
        if recordable and type(self) is TrainingStep and self.strategy.stateless:
            self.recorded: CudaGraphStep | None = CudaGraphStep(self._recorded_step, self.device)
        else:
            self.recorded = None

    def run(self) -> None:
        """Run the next step of the epoch. On a CPU, raises RunFailed if its cost or a gradient is
        not finite.
        """
        state = self.state
        for number in range(len(self.networks)):
            state.train_mode(number)
        index, lr_factor = state.batches[state.step], state.lr_factor(state.step)
        if self.recorded and len(index) == state.task.recipe.batch_size:
            plan, rows = state.plan, state.rows[state.step]
            flips = None if plan.flips is None else plan.flips[:, rows]
            result = self.recorded(StepInput(index, plan.shifts[:, rows], flips, lr_factor))
        else:
            result = self._update(self._backward(None), index, lr_factor)
        assert result.finite_probe is not None, "_update sets it"
        state.costs[state.step] = result.cost
        state.finite_probes[state.step] = result.finite_probe
        state.online.note(index, result.logits)
        state.step += 1
        if self.device.type != "cpu" and state.step % _CHECK_EVERY == 0:
            state.check_steps()

    def start_epoch(self) -> None:
        """Announce to the images which rows of the plan this process will use, in order."""
        state = self.state
        steps = range(state.step, len(state.batches))
        self.images.start_epoch(state.plan, (rows for step in steps for rows in self.slices(step)))

    def slices(self, step: int) -> list[slice]:
        """The rows of the epoch's order that this process uses in a step, in order."""
        return [self.state.rows[step]]

    def batch(self) -> Batch:
        """The examples of the next step, prepared by the strategy."""
        state = self.state
        views = self.images.views(state.plan, state.rows[state.step])
        return self._prepared(views, state.batches[state.step])

    def objective(self, batch: Batch, logits: Sequence[Sequence[Tensor]], runs: int = 1) -> Tensor:
        """The objective (runs,) that each of several runs minimizes; the batch is the concatenation
        of their examples. logits: (B, K) float32 for each network and view.
        """
        if self._given_labels_only:
            cost = self.loss(Scores(logits[0][0], classes=batch.labels[:, None]))
            return cost.view(runs, -1).mean(1)
        outputs: list[list[ModelOutput]] = []
        for number, views in enumerate(logits):
            transform = partial(self.strategy.transform_log_p, batch=batch, network=number)
            outputs.append([])
            for view in views:
                scores = Scores(view, transform=transform)
                outputs[-1].append(ModelOutput(view, scores.log_p, self.loss(scores)))
        objective: Any = 0
        supervisions = self.strategy.supervise(batch, outputs)
        for (first_view, *_), supervision in zip(outputs, supervisions, strict=True):
            objective = objective + weighted_cost(first_view.cost, supervision, runs)
        regularizer = self.strategy.regularizer(batch, outputs)
        if regularizer is not None:
            objective = objective + regularizer
        if self.penalty is not None:
            parameters = [p for network in self.networks for p in network.parameters()]
            objective = objective + self.penalty([p for p in parameters if p.requires_grad])
        return objective

    @torch.no_grad()
    def predict_log_p(
        self, images: Tensor, network: int = 0, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """log_p (B, K) of images (B, C, H, W), with the network's weights or with `weights`."""
        model = self.networks[network]
        training = model.training
        model.eval()
        with autocast(self.device, self.state.task.precision):
            logits = (
                model(images)
                if weights is None
                else functional_call(model, dict(weights), (images,))
            )
        if training:
            self.state.train_mode(network)
        return logits.float().log_softmax(1)

    def _prepared(self, views: tuple[Tensor, ...], index: Tensor) -> Batch:
        state, labels = self.state, self.state.labels[index]
        batch = Batch(views, labels, index, labels, state.epoch + 1, state.generator)
        return self.strategy.prepare_batch(batch, self)

    def _recorded_step(self, step_input: StepInput) -> StepResult:
        """A step whose inputs are all tensors."""
        assert isinstance(self.images, InMemoryImages), "only steps on these are recorded"
        index, shifts, flips = step_input.index, step_input.shifts, step_input.flips
        views = tuple(
            self.images.augmented(index, shifts[view], None if flips is None else flips[view])
            for view in range(self.strategy.num_views)
        )
        result = self._backward(self._prepared(views, index))
        return self._update(result, index, step_input.lr_factor)

    def _backward(self, batch: Batch | None) -> StepResult:
        """Compute the gradients of a batch; None: the next batch."""
        batch = batch or self.batch()
        with autocast(self.device, self.state.task.precision):
            logits = [[network(view).float() for view in batch.views] for network in self.networks]
        logits[0][0].retain_grad()
        objective = self.objective(batch, logits).sum()
        objective.backward()
        return StepResult(objective.detach(), logits[0][0])

    def _update(self, result: StepResult, index: Tensor, lr_factor: float | Tensor) -> StepResult:
        """Update the parameters. index (B,): the step's examples. On a CPU, where the check is
        cheap, raises RunFailed if a gradient is not finite.
        """
        state, clip = self.state, self.state.task.recipe.clip
        networks = [list(network.parameters()) for network in self.networks] if clip else []
        norms = [
            get_total_norm([p.grad for p in parameters if p.grad is not None])
            for parameters in networks
        ]
        groups = state.optimizer.groups[state.num_network_groups if clip else 0 :]
        gradients = [p.grad for group in groups for p in group.params if p.grad is not None]
        moved = [self.strategy.state[name][index] for name in self.strategy.per_example_parameters]
        probe = finite_probe([*norms, *gradients, *moved], self.device)
        if self.device.type == "cpu" and not math.isfinite(result.cost.item() + probe.item()):
            self._check(result.cost.item())
        # each network separately: networks must not affect each other
        for parameters, norm in zip(networks, norms, strict=True):
            clip_grads_with_norm_(parameters, clip, norm)
        state.optimizer.step(lr_factor)
        return result._replace(finite_probe=probe)

    def _check(self, cost: float) -> None:
        """Raises RunFailed if the cost or a gradient of this step is not finite, with the
        parameter.
        """
        state = self.state
        if not math.isfinite(cost):
            raise state.failure(state.step, f"the cost became {cost}")
        parameters = state.trained_parameters()
        moved = {name: p if p.grad is None else p.grad for name, p in parameters.items()}
        if nonfinite := first_nonfinite(moved):
            raise state.failure(state.step, f"the gradient of {nonfinite}")
        if state.task.recipe.clip:
            raise state.failure(state.step, "the gradient's norm became inf")
