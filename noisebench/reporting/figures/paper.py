"""The figures of the Equal Loss paper, from runs of CE and EL on the same labels. Cui et al."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...errors import ConfigError
from ..aggregate import Cell
from ..table import Table
from .dynamics import density_panel, epoch_of, gradient_panel, read
from .grid import column_title, filled
from .losses import PAPER, loss_panel, norm_panel, ratio_panel, respond
from .panels import PanelFigure

_PREFERRED = "symmetric(rate=0.4)"


def paper(tables: Sequence[Table], epoch: int | None) -> PanelFigure:
    """Figures 1a and 1b (symmetric noise of 0.4 where there is one, else the first noise with both
    methods), 2, 3a and 3b.

    Raises ConfigError where no noise has a run of CE and one of EL.
    """
    table, col, ce, el = _chosen(tables)
    loss = _loss(table.cells[el, col])
    runs = {"ce": read(table.cells[ce, col]), loss: read(table.cells[el, col])}
    chosen = epoch_of([run for found in runs.values() for run in found], epoch)
    where = column_title(table, col)
    responses = [
        respond(text)
        for text in dict.fromkeys(["ce", *([loss] if loss.startswith("el(") else []), *PAPER])
    ]
    above = (
        density_panel(runs["ce"], chosen, f"1a: CE, {where}"),
        density_panel(runs[loss], chosen, f"EL, {where}"),
        gradient_panel(runs, chosen, f"1b: {where}"),
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


def _loss(cell: Cell) -> str:
    """The one that all its runs have, else EL by name: eps may be each manifest's own rate."""
    texts = {str(inputs["loss"]) for inputs in cell.inputs.values()}
    return texts.pop() if len(texts) == 1 else "el"


def _chosen(tables: Sequence[Table]) -> tuple[Table, str, str, str]:
    """Table, column, and the rows of CE and EL."""
    places = sorted(
        _places(tables),
        key=lambda place: place[0].axes(place[2], place[1]).get("noise") != _PREFERRED,
    )
    if not places:
        raise ConfigError(
            "--figure paper needs runs of ce and of el on the same noise: "
            "noisebench run quick makes them"
        )
    return places[0]


def _places(tables: Sequence[Table]) -> Iterator[tuple[Table, str, str, str]]:
    for table in tables:
        for col in table.cols:
            held = filled(table, col)
            ce = [row for row in held if row == "ce"]
            el = [row for row in held if row == "el" or row.startswith("el(")]
            if ce and el:
                yield table, col, ce[0], el[0]
