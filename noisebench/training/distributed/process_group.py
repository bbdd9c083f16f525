"""The processes of one run, started by torchrun: communication in a step, and how all processes end
if one of them fails.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from ...errors import ConfigError, Interrupted, NoisebenchError, ProcessLost, RunFailed
from .processes import LEAST, RankInfo, SingleProcess, cut

T = TypeVar("T")

_FAILED, _LEFT = "failed", "left"  # keys of the store
_POLL = 0.5  # seconds between two checks of the store for a failure
# seconds to wait for the first process to end; after a failure it may wait for this one in turn
_PATIENCE = 3.0
_LONG = 20.0  # the same without a failure: torchrun kills 30 s after it sends SIGTERM
_GRACE = 10.0  # seconds for a process to end by itself after another one has failed
_LOST = (
    "another process of this run was lost (killed, out of memory?); the same command resumes "
    "from the last checkpoint"
)


@contextmanager
def open_process_group(info: RankInfo, device: str) -> Iterator[ProcessGroup]:
    """A context in which the processes are one group. An error in one of them ends all within
    seconds, with the same exit code.

    Raises ConfigError if there is no device for each process.
    """
    store, _, _ = next(rendezvous("env://"))
    failures = FailurePropagation(store, info.rank)
    try:
        own_device = device_of(device, info)
        if own_device.type == "cuda":
            torch.cuda.set_device(own_device)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if own_device.type == "cuda" else "gloo",
            store=PrefixStore("group", store),
            rank=info.rank,
            world_size=info.size,
        )
        yield ProcessGroup(info.rank, info.size, own_device, failures)
    except (Exception, KeyboardInterrupt) as error:
        if (cause := failures.root_cause(error)) is error:
            raise
        raise cause from error
    finally:
        failures.leave()
    dist.destroy_process_group()


def device_of(name: str, info: RankInfo) -> torch.device:
    """The device of this process; with GPUs, one per process. Raises ConfigError."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise ConfigError(
            "with several processes, each uses its own GPU, or all use the CPU: give "
            f"--device cuda or cpu, got {name!r}"
        )
    count = torch.cuda.device_count()
    if info.local_size > count:
        hint = f"--nproc-per-node={count}, or --device cpu" if count else "--device cpu"
        raise ConfigError(
            f"{info.local_size} processes on this machine and {count} "
            f"GPU{'' if count == 1 else 's'}: {hint}"
        )
    return torch.device("cuda", info.local_rank)


class ProcessGroup(SingleProcess):
    """The processes of one run, seen from one of them. Gathered and reduced values are equal in all
    processes, bit for bit.
    """

    def __init__(
        self, rank: int, size: int, device: torch.device, failures: FailurePropagation
    ) -> None:
        super().__init__(rank, size, str(device))
        self._device, self._failures = device, failures

    def shared(self, n: int) -> bool:
        """Whether there are enough rows to share."""
        return n >= LEAST * self.size

    def local_slice(self, n: int) -> slice:
        return cut(n, self.size)[self.rank] if self.shared(n) else slice(0, n)

    @torch.no_grad()
    def gather(self, rows: Tensor, n: int) -> Tensor:
        rows = rows.contiguous()
        if not self.shared(n):
            of_first = rows.clone()
            dist.broadcast(of_first, 0)
            return of_first
        sizes = [part.stop - part.start for part in cut(n, self.size)]
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def gather_with_grad(self, logits: list[list[Tensor]], n: int) -> list[list[Tensor]]:
        """All n rows of each network's and view's logits, with gradients: the mean over processes
        of the local gradients equals the gradient of all rows.
        """
        flat = [view for views in logits for view in views]
        gathered = iter(_Gather.apply(self, n, *flat))
        return [[next(gathered) for _ in views] for views in logits]

    def local_gradient(self, gradient: Tensor) -> Tensor:
        """The local gradient times the number of processes, since the mean is taken. If all
        processes computed all rows, only the first process contributes.
        """
        if self.shared(len(gradient)):
            return self.size * gradient[self.local_slice(len(gradient))]
        return self.size * gradient if self.rank == 0 else torch.zeros_like(gradient)

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors the first process's values."""
        by_type: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
        for group in by_type.values():  # one message per type and device
            flat = torch.cat([tensor.flatten() for tensor in group])
            dist.broadcast(flat.view(torch.uint8), 0)  # as bytes: gloo supports few types
            parts = flat.split([tensor.numel() for tensor in group])
            for tensor, part in zip(group, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def any(self, flag: bool) -> bool:
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def on_rank_zero(self, act: Callable[[], T]) -> T:
        error, answer = None, None
        if self.rank == 0:
            try:
                answer = act()
            except NoisebenchError as raised:
                error = raised
        message = [(answer, None if error is None else (str(error), error.exit_code))]
        dist.broadcast_object_list(message, 0, device=torch.device("cpu"))
        if error is not None:
            raise error
        answer, failure = message[0]
        if failure is not None:
            raise _error_of(*failure)
        return answer  # type: ignore[return-value]

    def rank_zero_first(self, act: Callable[[], T]) -> T:
        answers: list[T] = []
        self.on_rank_zero(lambda: answers.append(act()))
        return answers[0] if answers else act()

    def wrapped(self, network: nn.Module, images: Tensor) -> DistributedDataParallel:
        """The network for training, with gradients averaged over all processes. images: some images
        for a trial pass.
        """
        # processes would wait for the gradients of unused parameters
        trial = deepcopy(network).eval()
        trained = [parameter for parameter in trial.parameters() if parameter.requires_grad]
        grads = torch.autograd.grad(trial(images).sum(), trained, allow_unused=True)
        wrapper = DistributedDataParallel(
            network,
            device_ids=[self._device.index] if self._device.type == "cuda" else None,
            find_unused_parameters=any(grad is None for grad in grads),
        )
        # buffers are broadcast explicitly: they must not change between the passes of a step
        wrapper.broadcast_buffers = False
        return wrapper

    def root_cause(self, error: Exception) -> Exception:
        cause = self._failures.root_cause(error)
        assert isinstance(cause, Exception)
        return cause

    def in_emergency(self, act: Callable[[Exception], object]) -> None:
        if self.rank == 0:
            self._failures.in_emergency = act


class _Gather(torch.autograd.Function):
    """Gathers rows of all processes. One function for all networks and views, so that each of them
    has a gradient, possibly zero.
    """

    @staticmethod
    def forward(context: Any, ranks: ProcessGroup, n: int, *parts: Tensor) -> tuple[Tensor, ...]:
        context.ranks = ranks
        return tuple(ranks.gather(part, n) for part in parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *map(context.ranks.local_gradient, gradients)


class RemoteFailure(RunFailed):
    """A failure of the run in another process. kind, trace: type and traceback of its error."""

    def __init__(self, message: str, kind: str, trace: str) -> None:
        super().__init__(message)
        self.kind, self.trace = kind, trace


class FailurePropagation:
    """Sends the failure of one process to the others through torchrun's store, since a broken
    connection does not show the cause. Until `leave`, a process that waits for a failed one is
    ended after some seconds.

    torchrun ends all processes as soon as one fails: SIGTERM is ignored once this process is ending
    by itself.
    """

    def __init__(self, store: Store, rank: int) -> None:
        self._store, self._rank = PrefixStore("alarm", store), rank
        # a second connection, since the first may be blocked
        self._watched = PrefixStore("alarm", store.clone())
        self._closed, self._leaving, self._patience = threading.Event(), False, _LONG
        self.in_emergency: Callable[[Exception], object] = lambda error: None
        signal.signal(signal.SIGTERM, self._on_sigterm)
        threading.Thread(target=self._watch, daemon=True).start()

    def root_cause(self, error: BaseException) -> BaseException:
        """This process's own error, which is sent to the others, or the error of another process if
        it caused this one.
        """
        self._leaving = True
        self._closed.set()  # this process ends by itself
        self._patience = _LONG if isinstance(error, Interrupted) else _PATIENCE
        if isinstance(error, RemoteFailure | ProcessLost):
            return error
        cut_off = _is_of_connection(error)
        if cut_off or isinstance(error, KeyboardInterrupt):
            with suppress(RuntimeError):  # the store may be gone
                if self._store.check([_FAILED]):
                    return _error_from(self._store.get(_FAILED))
        cause = ProcessLost(_LOST) if cut_off else error
        interrupted = isinstance(cause, KeyboardInterrupt)
        report = {
            "rank": self._rank,
            "message": str(cause),
            "kind": type(cause).__name__,
            "trace": "".join(traceback.format_exception(cause)),
            "code": Interrupted.exit_code if interrupted else getattr(cause, "exit_code", None),
        }
        with suppress(RuntimeError):  # the store may be gone
            self._store.compare_set(_FAILED, "", json.dumps(report))
        return cause

    def leave(self) -> None:
        """Wait, for a limited time, until the first process has written its files and released its
        lock.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with suppress(RuntimeError):  # the store may be gone
            if self._rank == 0:
                self._store.set(_LEFT, "")
            else:
                self._store.wait([_LEFT], timedelta(seconds=self._patience))
        self._closed.set()

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        if not self._leaving:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        with suppress(RuntimeError):
            while not self._closed.wait(_POLL):
                if self._watched.check([_FAILED]):
                    if self._closed.wait(_GRACE):
                        return
                    error = _error_from(self._watched.get(_FAILED))
                    with suppress(Exception):  # the process ends in any case
                        self.in_emergency(error)
                    os._exit(error.exit_code)


def _error_from(text: bytes) -> NoisebenchError:
    """The error sent by another process."""
    report = json.loads(text)
    kind, message, code = report["kind"], report["message"], report["code"]
    if kind == ProcessLost.__name__:
        return ProcessLost(message)
    reason = f"{kind}: {message}" if code is None else message or kind
    located = f"in process {report['rank']}: {reason}"
    if code in (None, RunFailed.exit_code):
        return RemoteFailure(located, kind, report["trace"])
    return _error_of(located, code)


def _error_of(message: str, exit_code: int) -> NoisebenchError:
    error = NoisebenchError(message)
    error.exit_code = exit_code
    return error


def _is_of_connection(error: BaseException | None) -> bool:
    """Whether the error only means that another process cannot be reached."""
    if error is None or isinstance(error, NoisebenchError):
        return False
    backend = isinstance(error, RuntimeError) and re.search("gloo|nccl", str(error).lower())
    return bool(backend) or isinstance(error, dist.DistError) or _is_of_connection(error.__cause__)
