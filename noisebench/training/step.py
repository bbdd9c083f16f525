"""A step along the gradient, and its passes, forward and backward: of this process's share of its
rows, at once or, to save memory, part after part.

What stands after the networks, strategy, loss and penalty, is of all rows in every process: it is
the same in all of them, and so is what a strategy remembers of each example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_

from .cuda_graph import StepResult
from .numerics import check_step, finite_probe_of_step, norm_of

if TYPE_CHECKING:
    from ..strategies import Batch
    from .trainer import Trainer

Forward: TypeAlias = Callable[[Tensor], Tensor]


def training_forwards(trainer: Trainer) -> list[Forward]:
    """Each network as it is trained."""
    if trainer.spread.alone:
        return list(trainer.networks)
    images = next(
        iter(
            trainer.train.eval_batches(
                torch.arange(min(2, len(trainer.train)), device=trainer.device)
            )
        )
    )
    return [trainer.ranks.wrapped(network, images) for network in trainer.networks]


def backward(trainer: Trainer, forwards: Sequence[Forward]) -> StepResult:
    """The gradients of the next step, and what it leaves, of all rows."""
    if trainer.spread.accumulate == 1:
        return of_batch(trainer, forwards, trainer.batch())
    if trainer.strategy.stateless and not trainer.changes_images:
        return _of_each_part(trainer, forwards)
    return _in_two_passes(trainer, forwards)


def update(
    trainer: Trainer, made: StepResult, index: Tensor, lr_factor: float | Tensor
) -> StepResult:
    """One step along the gradients. Raises RunFailed where they are not finite and a look takes no
    time: on a processor. index (B,): the step's examples.
    """
    clip = trainer.task.recipe.clip
    networks = [list(network.parameters()) for network in trainer.networks] if clip else []
    norms = [
        norm_of([p.grad for p in parameters if p.grad is not None], trainer.device)
        for parameters in networks
    ]
    sound = finite_probe_of_step(trainer, norms, index)
    if trainer.device.type == "cpu":
        check_step(trainer, made.cost, sound)
    # each by itself: two networks must not brake each other
    for parameters, norm in zip(networks, norms, strict=True):
        clip_grads_with_norm_(parameters, clip, norm)
    trainer.optimizer.step(lr_factor)
    return made._replace(finite_probe=sound)


def of_batch(
    trainer: Trainer, forwards: Sequence[Forward], batch: Batch, part: int = 0, share: float = 1.0
) -> StepResult:
    """All rows, or one part of them that is such a share of the cost, in one pass."""
    rows = len(batch.views[0]) if trainer.changes_images else len(batch.index)
    (views,) = _own_views(trainer, batch, [slice(0, rows)])
    logits = _joined(trainer, _logits(trainer, forwards, views, part), rows)
    trainer.passing.watch(logits[0][0])
    objective = trainer.objective(batch, logits).sum()
    (objective if share == 1 else share * objective).backward()
    return StepResult(objective.detach(), logits[0][0])


def _of_each_part(trainer: Trainer, forwards: Sequence[Forward]) -> StepResult:
    """One part after the other, where a cost is a mean over examples that do not look at each
    other.
    """
    n = len(trainer.batches[trainer.step])
    shares = [(part.stop - part.start) / n for part in trainer.spread.parts(n)]
    found = []
    for number, share in enumerate(shares):
        with _between_parts(forwards, last=number == len(shares) - 1):
            found.append(of_batch(trainer, forwards, trainer.batch(number), number, share))
    cost: Any = sum(share * made.cost for share, made in zip(shares, found, strict=True))
    return StepResult(cost, _with_gradient([made.logits for made in found]))


def _in_two_passes(trainer: Trainer, forwards: Sequence[Forward]) -> StepResult:
    """First the logits of all parts, without gradient, and what the cost is of them; then, by its
    gradient, part after part again.
    """
    batch = trainer.batch()
    rows = len(batch.views[0]) if trainer.changes_images else len(batch.index)
    parts = trainer.spread.parts(rows)
    own = _own_views(trainer, batch, parts)
    with _without_trace(trainer):
        said = [
            _logits(trainer, trainer.networks, views, number) for number, views in enumerate(own)
        ]
        said = [_gathered(trainer, logits, part) for logits, part in zip(said, parts, strict=True)]
    logits = [
        [torch.cat(pieces).requires_grad_() for pieces in zip(*views, strict=True)]
        for views in zip(*said, strict=True)
    ]
    objective = trainer.objective(batch, logits).sum()
    objective.backward()
    for number, (views, part) in enumerate(zip(own, parts, strict=True)):
        with _between_parts(forwards, last=number == len(parts) - 1):
            _hand_back(trainer, _logits(trainer, forwards, views, number), logits, part)
    return StepResult(objective.detach(), logits[0][0])


def _own_views(trainer: Trainer, batch: Batch, parts: Sequence[slice]) -> list[list[Tensor]]:
    """The views of this process's share of each part of the rows; a strategy that changes images
    has those of all rows.
    """
    if trainer.spread.alone:
        return [list(batch.views)]
    shares = [trainer.ranks.local_slice(part.stop - part.start) for part in parts]
    if not trainer.changes_images:
        sizes = [share.stop - share.start for share in shares]
        return [
            list(views) for views in zip(*(view.split(sizes) for view in batch.views), strict=True)
        ]
    places = [
        slice(part.start + share.start, part.start + share.stop)
        for part, share in zip(parts, shares, strict=True)
    ]
    return [[view[place] for view in batch.views] for place in places]


def _logits(
    trainer: Trainer, forwards: Sequence[Forward], views: Sequence[Tensor], part: int
) -> list[list[Tensor]]:
    """Of each network and view, float32."""
    with trainer.own_draws(part), trainer.autocast():
        return [[forward(view).float() for view in views] for forward in forwards]


def _joined(trainer: Trainer, logits: list[list[Tensor]], rows: int) -> list[list[Tensor]]:
    """Of all processes, with a gradient."""
    flat = [each for views in logits for each in views]
    joined = iter(trainer.ranks.gather_with_grad(flat, [rows] * len(flat)))
    return [[next(joined) for _ in views] for views in logits]


def _gathered(trainer: Trainer, logits: list[list[Tensor]], part: slice) -> list[list[Tensor]]:
    """A part's of all processes, without one."""
    return [
        [trainer.ranks.gather(each, part.stop - part.start) for each in views] for views in logits
    ]


def _hand_back(
    trainer: Trainer, own: list[list[Tensor]], logits: list[list[Tensor]], part: slice
) -> None:
    """The gradient of a part of the logits, through this process's share of it."""
    pairs = [
        pair
        for views, all_rows in zip(own, logits, strict=True)
        for pair in zip(views, all_rows, strict=True)
    ]
    # others wait for a gradient
    moved = [
        (mine, whole) for mine, whole in pairs if whole.grad is not None or trainer.ranks.size > 1
    ]
    gradients = [
        torch.zeros_like(whole[part]) if whole.grad is None else whole.grad[part]
        for _, whole in moved
    ]
    torch.autograd.backward(
        [mine for mine, _ in moved], list(map(trainer.ranks.local_gradient, gradients))
    )


def _with_gradient(pieces: Sequence[Tensor]) -> Tensor:
    """Logits of the parts as those of a whole batch."""
    whole = torch.cat([piece.detach() for piece in pieces])
    whole.grad = torch.cat(
        [torch.zeros_like(piece) if piece.grad is None else piece.grad for piece in pieces]
    )
    return whole


@contextmanager
def _between_parts(forwards: Sequence[Forward], *, last: bool) -> Iterator[None]:
    """Gradients add up; the mean over the processes is taken with those of the last part."""
    with ExitStack() as stack:
        for forward in forwards:
            if isinstance(forward, DistributedDataParallel) and not last:
                stack.enter_context(forward.no_sync())
        yield


@contextmanager
def _without_trace(trainer: Trainer) -> Iterator[None]:
    """Passes that leave batch norm's statistics and torch's randomness as they were."""
    buffers = [buffer for network in trainer.networks for buffer in network.buffers()]
    before = [buffer.clone() for buffer in buffers]
    devices = [trainer.device] if trainer.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        yield
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
