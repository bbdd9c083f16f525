"""Steps distributed over several processes, or, to save memory, over consecutive parts of a batch.

Strategy, loss and penalty are computed on all rows in every process, so that they and the state of
a strategy are equal in all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..core.seeds import RANK, derived_seed
from ..errors import ConfigError
from ..strategies import Batch, Strategy
from .cuda_graph import StepResult
from .distributed.process_group import ProcessGroup
from .distributed.processes import LEAST, ParallelConfig, check_parts
from .inference import ImageSource, autocast
from .state import TrainingState, gradient_of
from .step import TrainingStep

Forward: TypeAlias = Callable[[Tensor], Tensor]
Logits: TypeAlias = list[list[Tensor]]  # of each network and view (B, K), float32


class ParallelStep(TrainingStep):
    """A step in which this process computes the logits of its share of the rows, part by part.

    A strategy that overrides `prepare_batch` receives the images of all rows.
    """

    def __init__(self, state: TrainingState, images: ImageSource, config: ParallelConfig) -> None:
        super().__init__(state, images)
        self.config, self.ranks = config, config.ranks
        self._all_images = type(self.strategy).prepare_batch is not Strategy.prepare_batch
        self._forwards: list[Forward] = list(self.networks)
        if isinstance(self.ranks, ProcessGroup):
            some = torch.arange(min(2, len(images)), device=self.device)
            trial = next(iter(images.eval_batches(some)))
            self._forwards = [self.ranks.wrapped(network, trial) for network in self.networks]

    def slices(self, step: int) -> list[slice]:
        rows = self.state.rows[step]
        n = rows.stop - rows.start
        parts = [slice(0, n)] if self._all_images else self.config.parts(n)
        return [self._local(slice(rows.start + p.start, rows.start + p.stop)) for p in parts]

    def batch(self, part: int | None = None) -> Batch:
        """The examples of the next step, or of a part of it, with the images of this process's
        share, or all images if the strategy overrides `prepare_batch`.
        """
        state = self.state
        slices, index = self.slices(state.step), state.batches[state.step]
        if part is not None:
            slices, index = [slices[part]], index[self.config.parts(len(index))[part]]
        parts = [self.images.views(state.plan, rows) for rows in slices]
        views = parts[0] if len(parts) == 1 else tuple(map(torch.cat, zip(*parts, strict=True)))
        if self._all_images and isinstance(self.ranks, ProcessGroup):
            # prepare_batch may predict with the networks
            self.ranks.broadcast(_buffers(state))
            # keeps the channels-last memory format
            views = tuple(
                self.ranks.gather(view.movedim(1, -1), len(index)).movedim(-1, 1) for view in views
            )
        return self._prepared(views, index)

    def predict_log_p(
        self, images: Tensor, network: int = 0, weights: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        share = images[self.ranks.local_slice(len(images))]
        return self.ranks.gather(super().predict_log_p(share, network, weights), len(images))

    def _backward(self, batch: Batch | None) -> StepResult:
        assert batch is None, "only steps of a single process are recorded"
        if self.config.accumulate == 1:
            return self._backward_of_part(self.batch(), 0, 1.0)
        if self.strategy.stateless and not self._all_images:
            return self._each_part()
        return self._two_passes()

    def _backward_of_part(self, batch: Batch, part: int, share: float) -> StepResult:
        """One part of the rows in one pass. share: of the cost."""
        rows = self._num_rows(batch)
        (views,) = self._local_views(batch, [slice(0, rows)])
        logits = self._logits(self._forwards, views, part)
        if isinstance(self.ranks, ProcessGroup):
            logits = self.ranks.gather_with_grad(logits, rows)
        logits[0][0].retain_grad()
        objective = self.objective(batch, logits).sum()
        (objective if share == 1 else share * objective).backward()
        return StepResult(objective.detach(), logits[0][0])

    def _each_part(self) -> StepResult:
        """Part by part, for a cost that is a mean over independent examples."""
        n = len(self.state.batches[self.state.step])
        shares = [(part.stop - part.start) / n for part in self.config.parts(n)]
        results = []
        for number, share in enumerate(shares):
            with self._gradient_sync(last=number == len(shares) - 1):
                results.append(self._backward_of_part(self.batch(number), number, share))
        cost: Any = sum(share * result.cost for share, result in zip(shares, results, strict=True))
        logits = torch.cat([result.logits.detach() for result in results])
        logits.grad = torch.cat([gradient_of(result.logits) for result in results])
        return StepResult(cost, logits)

    def _two_passes(self) -> StepResult:
        """First computes the logits of all parts without gradient, and the cost with its gradient
        by the logits; then repeats each part and backpropagates that gradient.
        """
        batch = self.batch()
        parts = self.config.parts(self._num_rows(batch))
        local_views = self._local_views(batch, parts)
        pieces: list[Logits] = []
        # restore batch norm's statistics and torch's random state
        before = [buffer.clone() for buffer in _buffers(self.state)]
        with torch.no_grad(), torch.random.fork_rng(self.state.cuda_devices):
            for number, (views, part) in enumerate(zip(local_views, parts, strict=True)):
                pieces.append(self._logits(self.networks, views, number))
                for network_views in pieces[-1]:
                    n = part.stop - part.start
                    network_views[:] = [self.ranks.gather(view, n) for view in network_views]
            for buffer, value in zip(_buffers(self.state), before, strict=True):
                buffer.copy_(value)
        logits = [
            [torch.cat(views).requires_grad_() for views in zip(*network, strict=True)]
            for network in zip(*pieces, strict=True)
        ]
        objective = self.objective(batch, logits).sum()
        objective.backward()
        gradients = [gradient_of(view) for views in logits for view in views]
        for number, (views, part) in enumerate(zip(local_views, parts, strict=True)):
            with self._gradient_sync(last=number == len(parts) - 1):
                local = self._logits(self._forwards, views, number)
                torch.autograd.backward(
                    [view for network_views in local for view in network_views],
                    [self.ranks.local_gradient(gradient[part]) for gradient in gradients],
                )
        return StepResult(objective.detach(), logits[0][0])

    def _num_rows(self, batch: Batch) -> int:
        return len(batch.views[0]) if self._all_images else len(batch.index)

    def _local(self, rows: slice) -> slice:
        """This process's share of the rows."""
        share = self.ranks.local_slice(rows.stop - rows.start)
        return slice(rows.start + share.start, rows.start + share.stop)

    def _local_views(self, batch: Batch, parts: Sequence[slice]) -> list[list[Tensor]]:
        """The views of this process's share of each part of the rows."""
        local = [self._local(part) for part in parts]
        if self._all_images:
            return [[view[rows] for view in batch.views] for rows in local]
        sizes = [rows.stop - rows.start for rows in local]
        return [
            list(views) for views in zip(*(view.split(sizes) for view in batch.views), strict=True)
        ]

    def _logits(self, forwards: Sequence[Forward], views: Sequence[Tensor], part: int) -> Logits:
        with self._own_draws(part), autocast(self.device, self.state.task.precision):
            return [[forward(view).float() for view in views] for forward in forwards]

    @contextmanager
    def _own_draws(self, part: int) -> Iterator[None]:
        """With several processes, dropout depends only on (seed, epoch, step, process, part), so
        that checkpoints need no random state.
        """
        if self.ranks.size == 1:
            yield
            return
        state = self.state
        with torch.random.fork_rng(state.cuda_devices):
            position = (state.epoch, state.step, self.ranks.rank, part)
            torch.manual_seed(derived_seed(state.task.seed, RANK, *position))
            yield

    @contextmanager
    def _gradient_sync(self, *, last: bool) -> Iterator[None]:
        """Averages gradients over processes only in the last part; until then they accumulate."""
        with ExitStack() as stack:
            for forward in self._forwards:
                if isinstance(forward, DistributedDataParallel) and not last:
                    stack.enter_context(forward.no_sync())
            yield


def fit_to_networks(
    networks: list[nn.Module], config: ParallelConfig, model: str, batch_size: int
) -> ParallelConfig:
    """The configuration for these networks; with `sync_bn`, converts their batch norm to
    SyncBatchNorm. Raises ConfigError if the networks do not support it.
    """
    if config.sync_bn:
        device = next(networks[0].parameters()).device
        networks[:] = [synchronised(network, model, device) for network in networks]
    least = LEAST if has_batch_norm(networks[0]) else 1
    if config.ranks.size == 1:
        check_parts(batch_size, config, least)
    return replace(config, least=least)


def has_batch_norm(network: nn.Module) -> bool:
    """Whether the logits of an example depend on its batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def synchronised(network: nn.Module, model: str, device: torch.device) -> nn.Module:
    """The network with SyncBatchNorm, with the same parameters and names. Raises ConfigError if
    that is impossible or has no effect.
    """
    if not has_batch_norm(network):
        raise ConfigError(
            f"--sync-bn has no effect on {model}, which has no batch norm: leave it out"
        )
    if device.type != "cuda":
        raise ConfigError("--sync-bn needs GPUs: leave it out, or use --device cuda")
    # torch's own would lose the activation in timm's layers
    from timm.layers.norm_act import convert_sync_batchnorm

    converted: nn.Module = convert_sync_batchnorm(network)
    return converted


def per_process_tensors(state: TrainingState) -> Iterator[Tensor]:
    """Tensors that may differ between processes: batch norm's statistics of their own examples, and
    a strategy's state and parameters, due to rounding on GPUs.
    """
    yield from _buffers(state)
    yield from _tensors(state.strategy.state)
    for group in state.optimizer.groups[state.num_network_groups :]:
        yield from group.velocities


def _buffers(state: TrainingState) -> Iterator[Tensor]:
    return (buffer for network in state.networks for buffer in network.buffers())


def _tensors(value: object) -> Iterator[Tensor]:
    """All tensors in nested dicts and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
