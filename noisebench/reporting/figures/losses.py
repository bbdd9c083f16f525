"""Losses as functions of the target's probability: their cost, and how hard they pull at the
logits. Loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import LanguageError
from ...losses import LOSSES, build_loss, cost_of
from .panels import Panel, PanelFigure, Series

PAPER = ("ce", "el(eps=0.1)", "el(eps=0.4)", "el(eps=1)", "0.5*mae")
_CLASSES = 10
_P = (np.arange(400) + 0.5) / 400
_REST = f"the other {_CLASSES - 1} classes share the rest in equal parts"
_X = "probability p of the target class"


@dataclass(frozen=True)
class Response:
    """Of one loss over p: its cost in nats, and the L1 norm of its gradient by the logits, (n,)
    each.
    """

    name: str
    cost: np.ndarray
    norm: np.ndarray


def respond(text: str) -> Response:
    """A loss of the language over a grid of p. Raises NoisebenchError for a text that is none, or
    has no value where nothing is known.
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


def loss_panel(responses: Sequence[Response], title: str = "loss") -> Panel:
    """Cost over p, cut where all but the steepest have ended."""
    top = max(float(np.median(response.cost[:8])) for response in responses)
    series = tuple(Series(response.name, _P, response.cost) for response in responses)
    return Panel(
        title, _X, "cost (nats)", series, (0, 1), (None, min(top, 5.0)) if top > 0 else (None, None)
    )


def norm_panel(responses: Sequence[Response], title: str = "gradient") -> Panel:
    """The gradient's norm over p."""
    series = tuple(Series(response.name, _P, response.norm) for response in responses)
    return Panel(title, _X, "L1 norm of the logits' gradient", series, (0, 1), (0, None))


def ratio_panel(
    responses: Sequence[Response], title: str = "gradient, as a share of CE's"
) -> Panel:
    """The norm as a share of CE's, which is 2 (1 - p)."""
    series = tuple(
        Series(response.name, _P, response.norm / (2 * (1 - _P))) for response in responses
    )
    return Panel(title, _X, "ratio of the norm to CE's", series, (0, 1), (0, None))


def _of(
    name: str, texts: Sequence[str], *panels: Callable[[Sequence[Response]], Panel]
) -> PanelFigure:
    responses = [respond(text) for text in texts or PAPER]
    return PanelFigure(
        name, f"{_CLASSES} classes; {_REST}.", (tuple(panel(responses) for panel in panels),)
    )


def loss(texts: Sequence[str]) -> PanelFigure:
    """Figure 2 of the Equal Loss paper for any losses."""
    return _of("loss", texts, loss_panel)


def norm(texts: Sequence[str]) -> PanelFigure:
    """Its Figure 3."""
    return _of("norm", texts, norm_panel, ratio_panel)
