"""Figures by name: as an image (matplotlib, the extra `plot`), and their numbers as CSV or JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ...core.progress import ProgressCallback, silent, track
from ...errors import ConfigError, DataError, UnknownName

if TYPE_CHECKING:
    from ..table import Table
    from .panels import Figure

__all__ = ["FIGURES", "FigureSpec", "find_figure", "page_figures"]
# figures of a page, besides its own charts of rates and learning curves
_ON_PAGE = ("gradient", "reliability", "ranks")


@dataclass(frozen=True)
class FigureSpec:
    """A figure by name. of: `runs`, `losses` or `manifests`, the input of `module:function`; epoch:
    whether it also takes an epoch.
    """

    summary: str
    of: str
    where: str
    epoch: bool = False

    def of_runs(self, tables: Sequence[Table], epoch: int | None = None) -> Figure:
        """A figure of runs, at the epoch if it takes one. Raises ConfigError, DataError."""
        return self.make(tables, epoch) if self.epoch else self.make(tables)

    @property
    def make(self) -> Callable[..., Figure]:
        module, _, name = self.where.partition(":")
        return getattr(import_module(f"{__name__}.{module}"), name)


FIGURES = {
    "rates": FigureSpec(
        "accuracy (or another --metric) against the noise rate, with bands over seeds",
        "runs",
        "progress:rates",
    ),
    "curves": FigureSpec(
        "test accuracy and memorized incorrect labels per epoch", "runs", "progress:curves"
    ),
    "density": FigureSpec(
        "p of the given label, correct and incorrect ones, at an epoch (Equal Loss, Figure 1a)",
        "runs",
        "equal_loss:density",
        True,
    ),
    "gradient": FigureSpec(
        "density of p times the gradient norm at an epoch (Equal Loss, Figure 1b)",
        "runs",
        "equal_loss:gradient",
        True,
    ),
    "reliability": FigureSpec("test accuracy against confidence", "runs", "progress:reliability"),
    "optimum": FigureSpec(
        "mean p of the correct and the likeliest other class, and the optimum of the loss",
        "runs",
        "optimum:optimum",
    ),
    "ranks": FigureSpec(
        "critical-difference diagram of mean ranks (Demšar 2006)", "runs", "progress:ranks"
    ),
    "paper": FigureSpec(
        "all figures of the Equal Loss paper, from runs of ce and el",
        "runs",
        "equal_loss:paper",
        True,
    ),
    "loss": FigureSpec(
        "any --loss against the target's probability (Equal Loss, Figure 2)",
        "losses",
        "equal_loss:loss",
    ),
    "norm": FigureSpec(
        "gradient norm of any --loss, and its ratio to CE's (Equal Loss, Figure 3)",
        "losses",
        "equal_loss:norm",
    ),
    "transition": FigureSpec(
        "share of each true class that has each given label", "manifests", "transition:transition"
    ),
}


def find_figure(name: str) -> FigureSpec:
    """Raises UnknownName."""
    if name not in FIGURES:
        raise UnknownName("figure", name, FIGURES, "figures")
    return FIGURES[name]


def page_figures(
    tables: Sequence[Table], tell: ProgressCallback = silent
) -> list[tuple[str, str, str]]:
    """Title, caption and SVG of the figures of a page; none without matplotlib. Skips figures with
    too many panels, or of runs without the numbers.
    """
    if find_spec("matplotlib") is None or not tables:
        return []
    figures = []
    for name in track(_ON_PAGE, "drawing figures", tell, total=len(_ON_PAGE), unit="figures"):
        try:
            figure = FIGURES[name].of_runs(tables)
        except (ConfigError, DataError):
            continue
        summary = FIGURES[name].summary
        title = summary[0].upper() + summary[1:]
        figures.append((title, figure.caption, figure.picture("svg").decode()))
    return figures
