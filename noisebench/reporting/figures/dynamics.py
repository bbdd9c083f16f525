"""How trainings treat right and wrong labels at an epoch: Figure 1 of the Equal Loss paper, from
any runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...errors import ConfigError
from ...metrics.dynamics import BINS, EDGES, GROUPS, Dynamics
from ..aggregate import Cell
from ..render.text import row_head
from ..table import Table
from .grid import column_title, columns, filled
from .panels import Panel, PanelFigure, Series

_MIDDLES = (EDGES[1:] + EDGES[:-1]) / 2
_X = "probability p_y of the recorded label"
_IN_PASSING = (
    "As the network said it in passing, on the augmented images of the step that learned from them"
)


def read(cell: Cell) -> list[Dynamics]:
    """Of each run of a cell. Raises DataError for a run of an older version."""
    return [folder.read_dynamics() for folder in cell.finished]


def epoch_of(runs: Sequence[Dynamics], epoch: int | None) -> int:
    """The epoch asked for, else that after a quarter of the training, as the paper's 30 of its
    baselines' 120. Raises ConfigError.
    """
    last = min(len(run.counts) for run in runs)
    if epoch is not None and not 1 <= epoch <= last:
        raise ConfigError(f"--epoch {epoch}: the runs have {last} epochs")
    return epoch or -(-last // 4)


def density_panel(runs: Sequence[Dynamics], epoch: int, title: str) -> Panel:
    """The density of p_y in each group that has examples, over all runs together."""
    together = _together(runs)
    shares = together.density(epoch)
    named = zip((f"{group} labels" for group in GROUPS), shares, strict=True)
    series = tuple(
        Series(name, _MIDDLES, share, form="bins") for name, share in named if share.any()
    )
    return Panel(f"{title}, epoch {epoch}", _X, "density", series, (0, 1), (0, None))


def gradient_panel(runs: Mapping[str, Sequence[Dynamics]], epoch: int, title: str) -> Panel:
    """For each name the density of p_y times the gradient's mean norm there."""
    series = tuple(
        Series(name, _MIDDLES, _together(found).gradient_density(epoch), form="steps")
        for name, found in runs.items()
    )
    return Panel(
        f"{title}, epoch {epoch}", _X, "density x gradient's L1 norm", series, (0, 1), (0, None)
    )


def _together(runs: Sequence[Dynamics]) -> Dynamics:
    """All examples of several runs as one, epoch by epoch."""
    counts, gradients = (
        [np.sum(each, axis=0) for each in zip(*(getattr(run, name) for run in runs), strict=False)]
        for name in ("counts", "gradients")
    )
    return Dynamics(counts, gradients)


def density(tables: Sequence[Table], epoch: int | None) -> PanelFigure:
    """A panel a cell: methods side by side, noises below one another."""
    rows = []
    for table, col in columns(tables):
        found = [(row, read(table.cells[row, col])) for row in filled(table, col)]
        title = column_title(table, col)
        rows.append(
            tuple(
                density_panel(runs, epoch_of(runs, epoch), f"{row_head(table, row)}, {title}")
                for row, runs in found
            )
        )
    return PanelFigure("density", f"{_IN_PASSING}; {BINS} bins, all seeds together.", tuple(rows))


def gradient(tables: Sequence[Table], epoch: int | None) -> PanelFigure:
    """A panel a noise, a line a method."""
    panels = []
    for table, col in columns(tables):
        found = {row_head(table, row): read(table.cells[row, col]) for row in filled(table, col)}
        chosen = epoch_of([run for runs in found.values() for run in runs], epoch)
        panels.append(gradient_panel(found, chosen, column_title(table, col)))
    return PanelFigure.in_rows(
        "gradient", f"{_IN_PASSING}; the norm is of an example's share of the step's cost.", panels
    )
