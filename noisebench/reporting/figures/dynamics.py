"""The figures of the Equal Loss paper (Cui et al.) of runs: how training treats correct and noisy
labels at an epoch (Figure 1), and all of its figures together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...errors import ConfigError
from ...metrics.dynamics import BINS, EDGES, GROUPS, Dynamics
from ..aggregate import Cell
from ..table import Table
from .columns import column_title, columns, filled
from .losses import PAPER, loss_panel, norm_panel, ratio_panel, respond
from .panels import Panel, PanelFigure, Series

_MIDDLES = (EDGES[1:] + EDGES[:-1]) / 2
_X = "probability p_y of the given label"
_IN_PASSING = "Predictions in passing, on the augmented images of the step that learned from them"
_PREFERRED = "symmetric(rate=0.4)"


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
        title, panels = column_title(table, col), []
        for row in filled(table, col):
            runs = read(table.cells[row, col])
            name = f"{table.row_head(row)}, {title}"
            panels.append(density_panel(runs, epoch_of(runs, epoch), name))
        rows.append(tuple(panels))
    return PanelFigure("density", f"{_IN_PASSING}; {BINS} bins, all seeds together.", tuple(rows))


def gradient(tables: Sequence[Table], epoch: int | None = None) -> PanelFigure:
    """A panel a noise, a line a method."""
    panels = []
    for table, col in columns(tables):
        runs_of = {table.row_head(row): read(table.cells[row, col]) for row in filled(table, col)}
        chosen = epoch_of([run for runs in runs_of.values() for run in runs], epoch)
        panels.append(gradient_panel(runs_of, chosen, column_title(table, col)))
    caption = f"{_IN_PASSING}; the norm is of an example's share of the step's cost."
    return PanelFigure.in_rows("gradient", caption, panels)


def paper(tables: Sequence[Table], epoch: int | None) -> PanelFigure:
    """Figures 1a and 1b (symmetric noise of 0.4 where there is one, else the first noise with both
    methods), 2, 3a and 3b.

    Raises ConfigError where no noise has a run of CE and one of EL.
    """
    table, col, ce, el = _choose_column(tables)
    # the loss that all its runs have, else EL by name: eps may be each manifest's own rate
    losses = {str(inputs["loss"]) for inputs in table.cells[el, col].inputs.values()}
    loss = losses.pop() if len(losses) == 1 else "el"
    runs_of = {"ce": read(table.cells[ce, col]), loss: read(table.cells[el, col])}
    chosen = epoch_of([run for runs in runs_of.values() for run in runs], epoch)
    title = column_title(table, col)
    texts = dict.fromkeys(["ce", *([loss] if loss.startswith("el(") else []), *PAPER])
    responses = [respond(text) for text in texts]
    above = (
        density_panel(runs_of["ce"], chosen, f"1a: CE, {title}"),
        density_panel(runs_of[loss], chosen, f"EL, {title}"),
        gradient_panel(runs_of, chosen, f"1b: {title}"),
    )
    below = (
        loss_panel(responses, "2: loss"),
        norm_panel(responses, "3a: gradient"),
        ratio_panel(responses, "3b: gradient, ratio to CE's"),
    )
    caption = (
        f"Numbered as in Cui et al., Equal Loss; {table.title}, {table.varied}. Figure 1 in "
        "passing, all seeds together."
    )
    return PanelFigure("paper", caption, (above, below))


def _choose_column(tables: Sequence[Table]) -> tuple[Table, str, str, str]:
    """Table, column, and the rows of CE and EL."""
    candidates = []
    for table in tables:
        for col in table.cols:
            rows = filled(table, col)
            el = [row for row in rows if row == "el" or row.startswith("el(")]
            if "ce" in rows and el:
                candidates.append((table, col, "ce", el[0]))
    if not candidates:
        raise ConfigError(
            "--figure paper needs runs of ce and of el on the same noise: "
            "noisebench run quick makes them"
        )
    preferred = (c for c in candidates if c[0].axes(c[3], c[1]).get("noise") == _PREFERRED)
    return next(preferred, candidates[0])
