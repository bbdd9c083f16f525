"""The processes of one run: which of them this is, what they do together, and how the rows of a
step are spread over them. Imports no torch.
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
LEAST = 2  # rows of a process: of one alone batch norm knows no variance


@dataclass(frozen=True)
class RankInfo:
    """Which of how many processes this is, in all and on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that writes files and prints."""
        return self.rank == 0


def rank_info() -> RankInfo:
    """By torchrun's environment variables; without them the only process."""
    values = [os.environ.get(name, "") for name in _VARIABLES]
    numbers = values[:4]
    if not all(values) or not all(number.isdecimal() for number in numbers):
        return RankInfo()
    return RankInfo(*map(int, numbers))


def cut(n: int, count: int) -> list[slice]:
    """n rows in so many parts, one after the other, whose sizes differ by at most one."""
    ends = [n * number // count for number in range(count + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


@dataclass
class SingleProcess:
    """The processes of a run where there is one; ProcessGroup where there are several, all of which
    call the same methods in the same order.
    """

    rank: int = 0
    size: int = 1
    device: str | None = None  # of this process, where that is decided

    def local_slice(self, n: int) -> slice:
        """Which of n rows this process computes. Fewer than two for each are computed by all, and
        those of the first count.
        """
        return slice(0, n)

    def gather(self, rows: Tensor, n: int) -> Tensor:
        """All n rows, of which each process brings its share. No gradient."""
        return rows

    def local_gradient(self, gradient: Tensor) -> Tensor:
        """Of a gradient by all rows what this process hands back for its share."""
        return gradient

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag

    def on_rank_zero(self, act: Callable[[], T]) -> T:
        """What the first process gets from `act`, which the others do not call; its NoisebenchError
        is raised in all.
        """
        return act()

    def rank_zero_first(self, act: Callable[[], T]) -> T:
        """`act` in every process: in the first one, then in the others, which find the files it
        wrote.
        """
        return act()

    def root_cause(self, error: Exception) -> Exception:
        """Where another process has failed, its error in place of that of the broken connection."""
        return error

    def in_emergency(self, act: Callable[[Exception], object]) -> None:
        """What the first process still does if another one has failed and it cannot be reached
        itself.
        """


@dataclass(frozen=True)
class ParallelConfig:
    """How the work of a step is spread, which no run's key knows: over processes, and over parts
    one after the other to save memory.

    sync_bn: batch norm's statistics are those of all processes, not each one's own. least: rows of
    a part in one process.
    """

    ranks: SingleProcess = field(default_factory=SingleProcess)
    accumulate: int = 1
    sync_bn: bool = False
    least: int = LEAST

    @property
    def alone(self) -> bool:
        """Whether a step is one pass in one process."""
        return self.ranks.size == self.accumulate == 1

    def parts(self, n: int) -> list[slice]:
        """n rows in parts; the rest of an epoch in fewer, where a part would get too few rows."""
        least = LEAST * self.ranks.size if self.ranks.size > 1 else self.least
        return cut(n, max(1, min(self.accumulate, n // least)))

    def facts(self) -> dict[str, Any]:
        """For a record, what is not as in one process."""
        facts = {
            "processes": self.ranks.size,
            "accumulate": self.accumulate,
            "sync_bn": self.sync_bn,
        }
        return {name: value for name, value in facts.items() if value != 1 and value is not False}


def check_spread(batch: int, spread: ParallelConfig) -> None:
    """Raises ConfigError where so many processes and parts cannot share a batch, or a setting would
    have no effect.
    """
    size = spread.ranks.size
    if spread.sync_bn and size == 1:
        raise ConfigError(
            "--sync-bn has an effect with several processes only: torchrun "
            "--nproc-per-node=2 -m noisebench train ..."
        )
    if size > 1 and batch < LEAST * size:
        most = batch // LEAST
        hint = (
            f"at most {most} processes, or a larger --batch-size"
            if most > 1
            else "take a larger --batch-size"
        )
        raise ConfigError(
            f"{size} processes cannot share batches of {batch}, each needs {LEAST} examples: {hint}"
        )
    check_parts(batch, spread, LEAST if size > 1 else 1)


def check_parts(batch: int, spread: ParallelConfig, least: int) -> None:
    """Raises ConfigError for more parts of a batch than have `least` examples in every process."""
    size, most = spread.ranks.size, batch // (least * spread.ranks.size)
    if spread.accumulate > max(most, 1):
        whose = f" in each of {size} processes" if size > 1 else ""
        few = f"fewer than {least} examples{whose}" if least > 1 else "no example"
        hint = f"at most {most}" if most > 1 else "leave it out"
        raise ConfigError(
            f"--accumulate {spread.accumulate} leaves parts of a batch of {batch} {few}: {hint}"
        )
