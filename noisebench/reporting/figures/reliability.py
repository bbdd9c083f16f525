"""Reliability diagrams: how often a network is right that is so sure. Guo et al. 2017."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import DataError
from ...metrics.scores import ECE_BINS, calibration
from ...runs.folder import RunFolder
from ...runs.predictions import load_predictions
from ..aggregate import Cell
from ..render.text import row_head
from ..table import Table
from .grid import column_title, columns, filled
from .panels import Panel, PanelFigure, Series

_LEAST = 10  # images of a bin


def reliability(tables: Sequence[Table]) -> PanelFigure:
    """A panel a noise, a line a method: test accuracy over mean confidence in 15 equal bins, all
    seeds together.
    """
    panels = [
        Panel(
            column_title(table, col),
            "confidence (%)",
            "test accuracy (%)",
            tuple(_line(row_head(table, row), table.cells[row, col]) for row in filled(table, col)),
            (0, 100),
            (0, 100),
            diagonal=True,
        )
        for table, col in columns(tables)
    ]
    caption = (
        f"Test images in {ECE_BINS} equal bins of the likeliest class's probability, all seeds "
        f"together; bins of fewer than {_LEAST} "
        "have no point. Below the diagonal a network is surer than it is right."
    )
    return PanelFigure.in_rows("reliability", caption, panels)


def _line(name: str, cell: Cell) -> Series:
    confidence, right = (
        np.concatenate(parts) for parts in zip(*map(_answers, cell.finished), strict=True)
    )
    counts, sure, hits = calibration(confidence, right)
    held = counts >= _LEAST
    return Series(
        name, 100 * sure[held] / counts[held], 100 * hits[held] / counts[held], form="dots"
    )


def _answers(run: RunFolder) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and whether it was right, of each test image (M,)."""
    said = load_predictions(run, _classes(run))
    said.check()
    return np.exp(said.test.log_p[:, 0].astype(np.float64)), said.test.predicted == said.labels[
        "test"
    ]


def _classes(run: RunFolder) -> int:
    try:
        return int(run.full_record()["data"]["num_classes"])
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{run.result} does not say how many classes there are: run it again with --force"
        ) from None
