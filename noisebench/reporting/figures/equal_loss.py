"""The figures of the Equal Loss paper (Cui et al.): p of correct and incorrect labels at an epoch
of runs (Figure 1), value and gradient of losses by the target's probability (Figures 2 and 3, which
load torch), and all of them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import ConfigError, LanguageError
from ...losses import LOSSES, build_loss, cost_of
from ...metrics.dynamics import BINS, EDGES, GROUPS, Dynamics
from ..aggregate import Cell
from ..table import Table
from .panels import Panel, PanelFigure, Series, column_title, columns, filled, split_evenly

_PAPER = ("ce", "el(eps=0.1)", "el(eps=0.4)", "el(eps=1)", "0.5*mae")
_CLASSES = 10
_P = (np.arange(400) + 0.5) / 400
_CAPTION = f"{_CLASSES} classes; the other {_CLASSES - 1} share the remaining probability equally."
_TARGET, _GIVEN = "probability p of the target class", "probability p_y of the given label"
_PREFERRED = "symmetric(rate=0.4)"
_MIDDLES = (EDGES[1:] + EDGES[:-1]) / 2
_ONLINE = "Predictions during training, on the augmented images of each step"


@dataclass(frozen=True)
class Response:
    """A loss over p: its value in nats, and the L1 norm of its gradient with respect to the logits,
    (n,) each.
    """

    name: str
    cost: np.ndarray
    norm: np.ndarray


def respond(text: str) -> Response:
    """A loss expression over a grid of p. Raises NoisebenchError for an invalid one, or for one
    that needs more than p.
    """
    import torch

    others = np.log((1 - _P) / (_CLASSES - 1))
    rows = np.repeat(others[:, None], _CLASSES, 1)
    rows[:, 0] = np.log(_P)
    logits = torch.tensor(rows, dtype=torch.float32, requires_grad=True)
    try:
        cost = cost_of(build_loss(text, num_classes=_CLASSES), logits)[:, 0]
    except LanguageError as error:
        raise LanguageError(f"--loss {text}: {error}") from None
    cost.sum().backward()
    assert logits.grad is not None
    return Response(LOSSES.canonical(text), cost.detach().numpy(), logits.grad.abs().sum(1).numpy())


def _loss_panel(responses: Sequence[Response], title: str = "loss") -> Panel:
    """The loss over p; the y axis ends at the largest median near p = 0, at most 5."""
    top = max(float(np.median(response.cost[:8])) for response in responses)
    series = [Series(response.name, _P, response.cost) for response in responses]
    highest = min(top, 5.0) if top > 0 else None
    return Panel(title, _TARGET, "loss (nats)", series, (0, 1), (None, highest))


def _norm_panel(responses: Sequence[Response], title: str = "gradient") -> Panel:
    """The gradient norm over p."""
    series = [Series(response.name, _P, response.norm) for response in responses]
    return Panel(title, _TARGET, "L1 norm of the gradient (logits)", series, (0, 1), (0, None))


def _ratio_panel(
    responses: Sequence[Response], title: str = "gradient norm relative to CE"
) -> Panel:
    """The gradient norm divided by CE's, which is 2 (1 - p)."""
    series = [Series(response.name, _P, response.norm / (2 * (1 - _P))) for response in responses]
    return Panel(title, _TARGET, "ratio to CE's norm", series, (0, 1), (0, None))


def loss(texts: Sequence[str]) -> PanelFigure:
    """Figure 2 of the Equal Loss paper, for any losses."""
    responses = [respond(text) for text in texts or _PAPER]
    return PanelFigure("loss", _CAPTION, [[_loss_panel(responses)]])


def norm(texts: Sequence[str]) -> PanelFigure:
    """Figure 3 of the Equal Loss paper, for any losses."""
    responses = [respond(text) for text in texts or _PAPER]
    return PanelFigure("norm", _CAPTION, [[_norm_panel(responses), _ratio_panel(responses)]])


def _read(cell: Cell) -> list[Dynamics]:
    """The dynamics of each run of a cell. Raises DataError for a run of an older version."""
    return [folder.read_dynamics() for folder in cell.finished]


def _epoch_of(runs: Sequence[Dynamics], epoch: int | None) -> int:
    """The given epoch, else the one after a quarter of training, as in the paper (30 of the
    baselines' 120). Raises ConfigError.
    """
    last = min(len(run.counts) for run in runs)
    if epoch is not None and not 1 <= epoch <= last:
        raise ConfigError(f"--epoch {epoch}: the runs have {last} epochs")
    return epoch or -(-last // 4)


def _density_panel(runs: Sequence[Dynamics], epoch: int, title: str) -> Panel:
    """The density of p_y in each group with examples, over all runs."""
    shares = zip(GROUPS, _together(runs).density(epoch), strict=True)
    series = [
        Series(f"{group} labels", _MIDDLES, share, form="bins")
        for group, share in shares
        if share.any()
    ]
    return Panel(f"{title}, epoch {epoch}", _GIVEN, "density", series, (0, 1), (0, None))


def _gradient_panel(runs: Mapping[str, Sequence[Dynamics]], epoch: int, title: str) -> Panel:
    """For each name the density of p_y times the mean gradient norm at p_y."""
    series = [
        Series(name, _MIDDLES, _together(dynamics).gradient_density(epoch), form="steps")
        for name, dynamics in runs.items()
    ]
    y_label = "density x L1 norm of the gradient"
    return Panel(f"{title}, epoch {epoch}", _GIVEN, y_label, series, (0, 1), (0, None))


def _together(runs: Sequence[Dynamics]) -> Dynamics:
    """The examples of several runs together, epoch by epoch."""
    counts = zip(*(run.counts for run in runs), strict=False)
    gradients = zip(*(run.gradients for run in runs), strict=False)
    return Dynamics(
        [np.sum(arrays, axis=0) for arrays in counts],
        [np.sum(arrays, axis=0) for arrays in gradients],
    )


def density(tables: Sequence[Table], epoch: int | None) -> PanelFigure:
    """A panel per cell: methods in columns, noises in rows."""
    rows = []
    for table, col in columns(tables):
        title, panels = column_title(table, col), []
        for row in filled(table, col):
            runs = _read(table.cells[row, col])
            name = f"{table.row_head(row)}, {title}"
            panels.append(_density_panel(runs, _epoch_of(runs, epoch), name))
        rows.append(panels)
    return PanelFigure("density", f"{_ONLINE}; {BINS} bins, all seeds together.", rows)


def gradient(tables: Sequence[Table], epoch: int | None = None) -> PanelFigure:
    """A panel per noise, a line per method."""
    panels = []
    for table, col in columns(tables):
        runs_of = {table.row_head(row): _read(table.cells[row, col]) for row in filled(table, col)}
        chosen = _epoch_of([run for runs in runs_of.values() for run in runs], epoch)
        panels.append(_gradient_panel(runs_of, chosen, column_title(table, col)))
    caption = f"{_ONLINE}; norm: of the gradient of the example's share of the batch loss."
    return PanelFigure("gradient", caption, split_evenly(panels))


def paper(tables: Sequence[Table], epoch: int | None) -> PanelFigure:
    """Figures 1a and 1b (for symmetric noise of 0.4 if there is any, else for the first noise with
    both methods), 2, 3a and 3b.

    Raises ConfigError if no noise has runs of both CE and EL.
    """
    candidates = []
    for table in tables:
        for col in table.cols:
            rows = filled(table, col)
            el = [row for row in rows if row == "el" or row.startswith("el(")]
            if "ce" in rows and el:
                candidates.append((table, col, el[0]))
    if not candidates:
        raise ConfigError(
            "--figure paper needs runs of ce and el on the same noise, such as those of "
            "noisebench run quick"
        )
    preferred = (c for c in candidates if c[0].axes(c[2], c[1]).get("noise") == _PREFERRED)
    table, col, row = next(preferred, candidates[0])
    # the loss of all its runs, else EL by name: eps may be the rate of each manifest
    losses = {str(inputs["loss"]) for inputs in table.cells[row, col].inputs.values()}
    loss = losses.pop() if len(losses) == 1 else "el"
    runs_of = {"ce": _read(table.cells["ce", col]), loss: _read(table.cells[row, col])}
    chosen = _epoch_of([run for runs in runs_of.values() for run in runs], epoch)
    title = column_title(table, col)
    texts = dict.fromkeys(["ce", *([loss] if loss.startswith("el(") else []), *_PAPER])
    responses = [respond(text) for text in texts]
    above = (
        _density_panel(runs_of["ce"], chosen, f"1a: CE, {title}"),
        _density_panel(runs_of[loss], chosen, f"EL, {title}"),
        _gradient_panel(runs_of, chosen, f"1b: {title}"),
    )
    below = (
        _loss_panel(responses, "2: loss"),
        _norm_panel(responses, "3a: gradient"),
        _ratio_panel(responses, "3b: gradient, ratio to CE's"),
    )
    caption = (
        f"Numbered as in Cui et al., Equal Loss; {table.title}, {table.varied}. Figure 1: "
        "predictions during training, all seeds together."
    )
    return PanelFigure("paper", caption, [above, below])
