"""What networks say of test images beside what their loss teaches in the limit, under noise by
class: Equal Loss, Eq. 8-13.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import ConfigError, NoisebenchError
from ...losses import predicted
from ...noise import FILES, normal_noise, transition
from ...runs.predictions import RunPredictions, load_predictions
from ..aggregate import Cell
from ..render.text import col_head, row_head
from ..table import Table
from .dots import DotFigure, DotPanel, Point
from .grid import column_title, columns, filled, shared

_RIGHT, _WRONG = "right class", "likeliest wrong (sym: all others)"
_PLAIN = "standard"  # the strategy that believes every label: of it alone the optimum is known
_CAPTION = (
    "Mean probability over the test images of the classes whose labels flip: of the right class, "
    "and of the one that it is recorded as "
    "most often (of all others together under symmetric noise). Bar: ± sample standard deviation "
    "over seeds. Expected: what the loss "
    "teaches a network that can say anything and sees of an image its class alone; not shown "
    "where no closed form is known."
)


def optimum(tables: Sequence[Table]) -> DotFigure:
    """A panel a noise, a row a method. Raises ConfigError where no noise's text says its matrix,
    DataError without predictions.
    """
    several, found = len({table.short_title for table in tables}) > 1, list(columns(tables))
    places = tuple(place for table, col in found if (place := _place(table, col, several=several)))
    if found and not places:
        raise ConfigError(
            "--figure optimum needs runs of noise whose text says its matrix: "
            "symmetric, asymmetric or pairflip"
        )
    return DotFigure("optimum", f"{shared(tables)}. {_CAPTION}", "probability", places)


def likeliest_wrong(table: np.ndarray) -> np.ndarray:
    """Of each clean class the wrong ones that it is recorded as most often, (K, K); none of a class
    that never flips.
    """
    others = table * (1 - np.eye(len(table)))
    most = others.max(1, keepdims=True)
    return np.isclose(others, most, rtol=1e-9, atol=0) & (most > 0)


def _place(table: Table, col: str, *, several: bool) -> DotPanel | None:
    """None for noise that flips no class, or of which the text does not say how. several: whether
    other panels are of other data, else the caption says it for all.
    """
    rows = filled(table, col)
    noise = table.axes(rows[0], col)["noise"]
    cells = {row_head(table, row): table.cells[row, col] for row in rows}
    matrix = _matrix(noise, _classes(table.cells[rows[0], col]))
    if matrix is None or not (wrong := likeliest_wrong(matrix)).any():
        return None
    dots = tuple(dot for name, cell in cells.items() for dot in _dots(name, cell, noise, wrong))
    title = column_title(table, col) if several else col_head(table, col)
    return (
        DotPanel(title, tuple(row_head(table, row) for row in table.rows), dots) if dots else None
    )


def _classes(cell: Cell) -> int:
    return int(cell.finished[0].full_record()["data"]["num_classes"])


def _matrix(noise: str, num_classes: int) -> np.ndarray | None:
    """T (K, K), where the text alone says it."""
    try:
        call = normal_noise(noise)
        return (
            None
            if set(FILES) & {name for name, _ in call.kwargs}
            else transition(call, num_classes)
        )
    except NoisebenchError:  # no noise by class, or one of a plugin that is not loaded
        return None


def _dots(name: str, cell: Cell, noise: str, wrong: np.ndarray) -> list[Point]:
    """Of the right class and of the wrong ones, the latter where they were kept; none without a
    test image of a class that flips.
    """
    said = [load_predictions(run, len(wrong)) for run in cell.finished]
    labels = said[0].labels["test"]
    flipping = labels[wrong.sum(1)[labels] > 0]
    if not len(flipping):
        return []
    found = zip(*(_means(each, wrong) for each in said), strict=True)
    limits = [_limit(inputs, noise, flipping, wrong) for inputs in cell.inputs.values()]
    known = [limit for limit in limits if limit is not None]
    expected = np.mean(known, axis=0).tolist() if len(known) == len(limits) else (None, None)
    named = zip((_RIGHT, _WRONG), found, expected, strict=True)
    return [
        Point(name, series, values, limit)
        for series, values, limit in named
        if np.isfinite(values).all()
    ]


def _means(said: RunPredictions, wrong: np.ndarray) -> tuple[float, float]:
    """Mean p of the right class and of the wrong ones over the test images of classes that flip;
    NaN where the file lacks it.
    """
    said.check()
    test, labels = said.test, said.labels["test"]
    others = wrong.sum(1)[labels]
    flips = others > 0
    right = float(np.exp(test.clean_log_p[flips].astype(np.float64)).mean())
    if (others[flips] == len(wrong) - 1).all():
        return right, 1 - right
    if test.dense is None:
        return right, float("nan")
    p = np.exp(test.dense[flips].astype(np.float64))
    return right, float((p * wrong[labels[flips]]).sum(1).mean())


def _limit(
    inputs: Mapping[str, Any], noise: str, flipping: np.ndarray, wrong: np.ndarray
) -> tuple[float, float] | None:
    """The same of the optimum, over images of these classes (n,); None without a closed form."""
    try:
        p = predicted(noise, inputs["loss"], len(wrong)) if inputs["strategy"] == _PLAIN else None
    except NoisebenchError:  # a loss of a plugin that is not loaded
        return None
    return (
        None
        if p is None
        else (float(np.diag(p)[flipping].mean()), float((p * wrong).sum(1)[flipping].mean()))
    )
