"""The processes of one run: their ranks, their collective operations, and how the rows of a step
are distributed over them. Does not import torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LEAST = 2  # rows per process: batch norm has no variance with one


@dataclass(frozen=True)
class RankInfo:
    """The rank of this process and the number of processes, in total and on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0


def rank_info() -> RankInfo:
    """From torchrun's environment variables; without them, a single process."""
    values = [os.environ.get(name, "") for name in _VARIABLES]
    numbers = values[:4]
    if not all(values) or not all(number.isdecimal() for number in numbers):
        return RankInfo()
    return RankInfo(*map(int, numbers))


def cut(n: int, count: int) -> list[slice]:
    """Splits n rows into `count` consecutive parts whose sizes differ by at most one."""
    ends = [n * number // count for number in range(count + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


@dataclass
class SingleProcess:
    """The operations of a run in a single process. With several processes, a ProcessGroup has the
    same methods, which all processes must call in the same order.
    """

    rank: int = 0
    size: int = 1
    device: str | None = None  # of this process, if fixed

    def local_slice(self, n: int) -> slice:
        """The rows, of n, that this process computes. With fewer than two rows per process, all
        processes compute all rows, and the first one's results are used.
        """
        return slice(0, n)

    def gather(self, rows: Tensor, n: int) -> Tensor:
        """All n rows, gathered from the shares of all processes. No gradient."""
        return rows

    def local_gradient(self, gradient: Tensor) -> Tensor:
        """The gradient to backpropagate in this process, from the gradient by all rows."""
        return gradient

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag

    def on_rank_zero(self, act: Callable[[], T]) -> T:
        """The result of `act`, called only in the first process; its NoisebenchError is raised in
        all processes.
        """
        return act()

    def rank_zero_first(self, act: Callable[[], T]) -> T:
        """Call `act` in the first process, then in the others, which can use the files it wrote."""
        return act()

    def root_cause(self, error: Exception) -> Exception:
        """The error, or if it is a broken connection, the error of the process that failed."""
        return error

    def in_emergency(self, act: Callable[[Exception], object]) -> None:
        """Set what the first process does if another process has failed and it is blocked
        itself.
        """


@dataclass(frozen=True)
class ParallelConfig:
    """How a step is distributed over processes, and over consecutive parts to save memory; not part
    of a run's key.

    sync_bn: compute batch norm's statistics over all processes; least: minimum rows of a part in
    one process.
    """

    ranks: SingleProcess = field(default_factory=SingleProcess)
    accumulate: int = 1
    sync_bn: bool = False
    least: int = LEAST

    @property
    def alone(self) -> bool:
        """Whether a step is a single pass in a single process."""
        return self.ranks.size == self.accumulate == 1

    def parts(self, n: int) -> list[slice]:
        """Splits n rows into parts; fewer parts for the last batch if it is too small."""
        least = LEAST * self.ranks.size if self.ranks.size > 1 else self.least
        return cut(n, max(1, min(self.accumulate, n // least)))

    def facts(self) -> dict[str, Any]:
        """The settings for a record that differ from those of a single process."""
        facts = {
            "processes": self.ranks.size,
            "accumulate": self.accumulate,
            "sync_bn": self.sync_bn,
        }
        return {name: value for name, value in facts.items() if value != 1 and value is not False}


def check_spread(batch: int, spread: ParallelConfig) -> None:
    """Raises ConfigError if the batch is too small for the processes and parts, or if a setting has
    no effect.
    """
    size = spread.ranks.size
    if spread.sync_bn and size == 1:
        raise ConfigError(
            "--sync-bn has no effect in a single process: use torchrun "
            "--nproc-per-node=2 -m noisebench train ..."
        )
    if size > 1 and batch < LEAST * size:
        most = batch // LEAST
        hint = (
            f"at most {most} processes, or a larger --batch-size"
            if most > 1
            else "use a larger --batch-size"
        )
        raise ConfigError(
            f"{size} processes cannot share batches of {batch}, each needs {LEAST} examples: {hint}"
        )
    check_parts(batch, spread, LEAST if size > 1 else 1)


def check_parts(batch: int, spread: ParallelConfig, least: int) -> None:
    """Raises ConfigError if parts of a batch have fewer than `least` examples in every process."""
    size, most = spread.ranks.size, batch // (least * spread.ranks.size)
    if spread.accumulate > max(most, 1):
        whose = f" in each of {size} processes" if size > 1 else ""
        few = f"fewer than {least} examples{whose}" if least > 1 else "no examples"
        hint = f"at most {most}" if most > 1 else "leave it out"
        raise ConfigError(
            f"--accumulate {spread.accumulate}: parts of a batch of {batch} have {few}: {hint}"
        )
