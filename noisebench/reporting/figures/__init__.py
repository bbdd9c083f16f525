"""Figures by name. Each is the same numbers as a picture (matplotlib, the extra `plot`), as CSV and
as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import UnknownName

if TYPE_CHECKING:
    from ..table import Table

__all__ = ["FIGURES", "Figure", "FigureSpec", "find_figure"]


class Figure(Protocol):
    """What every figure can be turned into."""

    name: str

    @property
    def caption(self) -> str: ...

    def as_csv(self) -> str: ...

    def as_dict(self) -> Any: ...

    def picture(self, form: str) -> bytes: ...


@dataclass(frozen=True)
class FigureSpec:
    """A figure that can be asked for. of: `runs`, `losses` or `manifests`, which `module:function`
    is called with; epoch: and with one.
    """

    summary: str
    of: str
    where: str
    epoch: bool = False

    def of_runs(self, tables: Sequence[Table], epoch: int | None = None) -> Figure:
        """A figure of runs; at the epoch where it is of one. Raises ConfigError, DataError."""
        return self.make(tables, epoch) if self.epoch else self.make(tables)

    @property
    def make(self) -> Callable[..., Figure]:
        module, _, name = self.where.partition(":")
        return getattr(import_module(f"{__name__}.{module}"), name)


FIGURES = {
    "rates": FigureSpec(
        "accuracy (or another --metric) against the noise rate, with bands over seeds",
        "runs",
        "rates:rates",
    ),
    "curves": FigureSpec(
        "test accuracy and memorised wrong labels, epoch by epoch", "runs", "curves:curves"
    ),
    "density": FigureSpec(
        "p of the recorded label, right and wrong ones, at an epoch (Equal Loss, Figure 1a)",
        "runs",
        "dynamics:density",
        True,
    ),
    "gradient": FigureSpec(
        "density of p times the gradient's norm at an epoch (Equal Loss, Figure 1b)",
        "runs",
        "dynamics:gradient",
        True,
    ),
    "reliability": FigureSpec(
        "test accuracy against confidence", "runs", "reliability:reliability"
    ),
    "optimum": FigureSpec(
        "mean p of the right and the wrong class beside what the loss teaches in the limit",
        "runs",
        "optimum:optimum",
    ),
    "ranks": FigureSpec(
        "critical-difference diagram of mean ranks (Demšar 2006)", "runs", "ranks:ranks"
    ),
    "paper": FigureSpec(
        "all figures of the Equal Loss paper, from runs of ce and el", "runs", "paper:paper", True
    ),
    "loss": FigureSpec(
        "any --loss against the target's probability (Equal Loss, Figure 2)",
        "losses",
        "losses:loss",
    ),
    "norm": FigureSpec(
        "any --loss's gradient norm, and its ratio to CE's (Equal Loss, Figure 3)",
        "losses",
        "losses:norm",
    ),
    "transition": FigureSpec(
        "which clean class is recorded as which", "manifests", "transition:transition"
    ),
}


def find_figure(name: str) -> FigureSpec:
    """Raises UnknownName."""
    if name not in FIGURES:
        raise UnknownName("figure", name, FIGURES, "figures")
    return FIGURES[name]
