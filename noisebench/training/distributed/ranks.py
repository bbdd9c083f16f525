"""The processes of one run, as torchrun started them: what each brings to a step, and how all end
where one of them fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from ...errors import ConfigError, NoisebenchError
from .alarm import FailurePropagation
from .processes import LEAST, RankInfo, SingleProcess, cut

T = TypeVar("T")

_BETWEEN_LOOKS = 0.02  # seconds, at the store


@contextmanager
def open_process_group(seat: RankInfo, device: str) -> Iterator[ProcessGroup]:
    """The processes joined; at the end they part. What fails in one of them ends all, within
    seconds, with the same exit code.

    Raises ConfigError for a device that is not there for each of them.
    """
    if not dist.is_available():
        raise ConfigError("this torch was built without torch.distributed: start one process")
    store, _, _ = next(rendezvous("env://"))
    store = PrefixStore(_word_of_this_meeting(store, seat), store)
    with FailurePropagation(store, seat.rank) as alarm:
        try:
            own = device_of(device, seat)
            _join(seat, own, store)
            yield ProcessGroup(seat.rank, seat.size, own, alarm)
        except (Exception, KeyboardInterrupt) as error:
            if (judged := alarm.judged(error)) is error:
                raise
            raise judged from error
        finally:
            alarm.leave()
    dist.destroy_process_group()


def _word_of_this_meeting(store: Store, seat: RankInfo) -> str:
    """What all processes of this start know, and none of an earlier one: after a restart torchrun's
    store still holds what that wrote.
    """
    own = uuid4().hex
    if seat.first:
        missing = set(range(1, seat.size))
        while missing:
            missing -= {rank for rank in missing if _answered(store, rank, own)}
            time.sleep(_BETWEEN_LOOKS)
        return own
    store.set(f"hello{seat.rank}", own)
    while not (said := _found(store, f"word{seat.rank}")).startswith(own):
        time.sleep(_BETWEEN_LOOKS)
    word = said.removeprefix(own)
    store.set(f"{word}{seat.rank}", "heard")
    return word


def _answered(store: Store, rank: int, word: str) -> bool:
    """Tell a process the word, by the latest name that it gave; whether it has heard."""
    if name := _found(store, f"hello{rank}"):
        store.set(f"word{rank}", name + word)
    return bool(_found(store, f"{word}{rank}"))


def _found(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""


def device_of(name: str, seat: RankInfo) -> torch.device:
    """The device of this process: where there are GPUs one of its own. Raises ConfigError."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise ConfigError(
            "of several processes each takes a GPU of its own, or all the "
            f"processor: --device cuda or cpu, got {name!r}"
        )
    count = torch.cuda.device_count()
    if seat.local_size > count:
        hint = f"--nproc-per-node={count}, or --device cpu" if count else "--device cpu"
        raise ConfigError(
            f"{seat.local_size} processes on this machine and {count} "
            f"GPU{'' if count == 1 else 's'}: {hint}"
        )
    return torch.device("cuda", seat.local_rank)


def _join(seat: RankInfo, device: torch.device, store: Store) -> None:
    """One group for tensors on the GPU and for those in memory."""
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend, store=PrefixStore("group", store), rank=seat.rank, world_size=seat.size
    )


class ProcessGroup(SingleProcess):
    """The processes of one run, of which this is one. What is gathered or agreed upon is the same
    in all of them, bit for bit.
    """

    def __init__(
        self, rank: int, size: int, device: torch.device, alarm: FailurePropagation
    ) -> None:
        super().__init__(rank, size)
        self.device, self._own, self._alarm = str(device), device, alarm

    def shared(self, n: int) -> bool:
        """Whether there are enough rows for all."""
        return n >= LEAST * self.size

    def local_slice(self, n: int) -> slice:
        return cut(n, self.size)[self.rank] if self.shared(n) else slice(0, n)

    @torch.no_grad()
    def gather(self, rows: Tensor, n: int) -> Tensor:
        rows = rows.contiguous()
        if not self.shared(n):
            whole = rows.clone()
            dist.broadcast(whole, 0)
            return whole
        sizes = [part.stop - part.start for part in cut(n, self.size)]
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def gather_with_grad(self, parts: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
        joined: tuple[Tensor, ...] = _Joined.apply(self, tuple(sizes), *parts)
        return list(joined)

    def local_gradient(self, gradient: Tensor) -> Tensor:
        """Times the number of processes, over which the mean is taken. Of rows that all computed
        those of the first count.
        """
        if self.shared(len(gradient)):
            return self.size * gradient[self.local_slice(len(gradient))]
        return self.size * gradient if self.rank == 0 else torch.zeros_like(gradient)

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        alike: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            alike.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
        for group in alike.values():  # as one message
            flat = torch.cat([tensor.flatten() for tensor in group])
            dist.broadcast(flat.view(torch.uint8), 0)  # of any type: gloo knows few
            for tensor, part in zip(
                group, flat.split([tensor.numel() for tensor in group]), strict=True
            ):
                tensor.copy_(part.view(tensor.shape))

    def any(self, flag: bool) -> bool:
        found = torch.tensor(int(flag))
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def on_rank_zero(self, act: Callable[[], T]) -> T:
        error, answer = None, None
        if self.rank == 0:
            try:
                answer = act()
            except NoisebenchError as raised:
                error = raised
        told = [(answer, None if error is None else (str(error), error.exit_code))]
        dist.broadcast_object_list(told, 0, device=torch.device("cpu"))
        if error is not None:
            raise error
        answer, said = told[0]
        if said is not None:
            raise _as_said(*said)
        return answer  # type: ignore[return-value]

    def rank_zero_first(self, act: Callable[[], T]) -> T:
        mine: list[T] = []
        self.on_rank_zero(lambda: mine.append(act()))
        return mine[0] if mine else act()

    def wrapped(self, network: nn.Module, images: Tensor) -> Any:
        ids = [self._own.index] if self._own.type == "cuda" else None
        wrapper = DistributedDataParallel(
            network, device_ids=ids, find_unused_parameters=_leaves_some_unused(network, images)
        )
        # they are given round where they are needed: between the passes of a step they must not
        # change
        wrapper.broadcast_buffers = False
        return wrapper

    def root_cause(self, error: Exception) -> Exception:
        judged = self._alarm.judged(error)
        assert isinstance(judged, Exception)
        return judged

    def in_emergency(self, act: Callable[[Exception], object]) -> None:
        if self.rank == 0:
            self._alarm.in_emergency = act


class _Joined(torch.autograd.Function):
    """Rows of all processes. One function for all networks and views, so that each of them has a
    gradient, if of nothing.
    """

    @staticmethod
    def forward(
        context: Any, ranks: ProcessGroup, sizes: tuple[int, ...], *parts: Tensor
    ) -> tuple[Tensor, ...]:
        context.ranks = ranks
        return tuple(ranks.gather(part, size) for part, size in zip(parts, sizes, strict=True))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(context.ranks.own(gradient) for gradient in gradients)


def _as_said(message: str, exit_code: int) -> NoisebenchError:
    """The first process's error in another one."""
    error = NoisebenchError(message)
    error.exit_code = exit_code
    return error


def _leaves_some_unused(network: nn.Module, images: Tensor) -> bool:
    """Whether a pass leaves parameters out, which the others would wait for; found on a copy."""
    trial = deepcopy(network).eval()
    moved = [parameter for parameter in trial.parameters() if parameter.requires_grad]
    return any(
        grad is None for grad in torch.autograd.grad(trial(images).sum(), moved, allow_unused=True)
    )
