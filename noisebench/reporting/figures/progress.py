"""Figures of accuracy: against the noise rate, against the epoch, and against confidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import ConfigError, DataError
from ...metrics.scores import ECE_BINS, calibration
from ...runs.folder import RunFolder
from ...runs.result import load_predictions
from ..aggregate import Cell
from ..table import Table
from .columns import column_title, columns, filled, kinds_of_noise, shared
from .panels import Panel, PanelFigure, Series

_WIDTH = 4  # panels side by side
_CURVES = {"test_acc": "test accuracy (%)", "memorised": "noisy labels predicted (%)"}
_FEWEST_IMAGES = 10  # of a bin


def rates(tables: Sequence[Table]) -> PanelFigure:
    """A panel a kind of noise of every table whose columns are noises with a rate; a line a method,
    its band ± the sample standard deviation over seeds.

    Raises ConfigError where no noise has a rate.
    """
    kinds_of = [(table, kinds_of_noise(table)) for table in tables]
    if tables and not any(kinds for _, kinds in kinds_of):
        noises = dict.fromkeys(table.col_head(col) for table in tables for col in table.cols)
        raise ConfigError(
            "--figure rates: there is nothing to draw: it needs noise with a rate, "
            f"and these runs have {', '.join(noises)}"
        )
    panels = [
        _rate_panel(table, kind, cols) for table, kinds in kinds_of for kind, cols in kinds.items()
    ]
    caption = f"{shared(tables)}. Band: ± sample standard deviation."
    return PanelFigure.in_rows("rates", caption, [panel for panel in panels if panel.series])


def _rate_panel(table: Table, kind: str, cols: dict[float, str]) -> Panel:
    metric, series = table.metric, []
    for row in table.rows:
        cells = {
            rate: cell
            for rate, col in cols.items()
            if (cell := table.cells.get((row, col))) and cell.values
        }
        if cells:
            mean = metric.scale * np.array([cell.mean or 0.0 for cell in cells.values()])
            stds = [np.nan if cell.std is None else cell.std for cell in cells.values()]
            spread, x = metric.scale * np.array(stds), 100 * np.array(list(cells))
            name = table.row_head(row)
            series.append(Series(name, x, mean, mean - spread, mean + spread, "dots"))
    return Panel(
        ", ".join(filter(None, [table.short_title, kind])),
        "nominal noise rate (%)",
        metric.title + (" (%)" if metric.percent else ""),
        tuple(series),
        within=(0, 100) if metric.is_share else None,
        x_ticks=tuple(100 * rate for rate in cols),
    )


def curves(tables: Sequence[Table]) -> PanelFigure:
    """A column a noise, a line a method: its seeds' mean and, around it, their standard
    deviation.
    """
    histories = [
        (table, col, [(row, _histories(table.cells[row, col])) for row in filled(table, col)])
        for table, col in columns(tables)
    ]
    rows = []
    for start in range(0, len(histories), _WIDTH):
        for name in _CURVES:
            row = tuple(_curve_panel(name, *entry) for entry in histories[start : start + _WIDTH])
            rows += [row] if any(panel.series for panel in row) else []
    caption = (
        f"{shared(tables)}. Noisy labels: those that the network predicts in passing, "
        "memorized. Band: ± sample standard deviation."
    )
    return PanelFigure("curves", caption, tuple(rows))


_Histories = list[list[dict[str, float | None]]]


def _histories(cell: Cell) -> _Histories:
    return [folder.read_history() for folder in cell.finished]


def _curve_panel(
    name: str, table: Table, col: str, histories_of: list[tuple[str, _Histories]]
) -> Panel:
    series = []
    for row, histories in histories_of:
        length = min(map(len, histories))
        values = np.array(  # percent (seeds, epochs), NaN where nothing is known
            [
                [np.nan if (value := line.get(name)) is None else 100 * value for line in history]
                for history in (history[:length] for history in histories)
            ]
        )
        if not np.isfinite(values).any():
            continue
        x, mean, spread = np.arange(1, length + 1), values.mean(0), None
        if len(values) > 1:
            spread = values.std(0, ddof=1)
        series.append(
            Series(table.row_head(row), x, mean)
            if spread is None
            else Series(table.row_head(row), x, mean, mean - spread, mean + spread)
        )
    title = column_title(table, col)
    return Panel(title, "epoch", _CURVES[name], tuple(series), (0, None), within=(0, 100))


def reliability(tables: Sequence[Table]) -> PanelFigure:
    """A panel a noise, a line a method: test accuracy over mean confidence in 15 equal bins, all
    seeds together.
    """
    panels = []
    for table, col in columns(tables):
        lines = (
            _reliability(table.row_head(row), table.cells[row, col]) for row in filled(table, col)
        )
        labels = column_title(table, col), "confidence (%)", "test accuracy (%)"
        panels.append(Panel(*labels, tuple(lines), (0, 100), (0, 100), diagonal=True))
    caption = (
        f"Test images in {ECE_BINS} equal bins of the likeliest class's probability, all seeds "
        f"together; bins of fewer than {_FEWEST_IMAGES} "
        "have no point. Below the diagonal a network is overconfident."
    )
    return PanelFigure.in_rows("reliability", caption, panels)


def _reliability(name: str, cell: Cell) -> Series:
    confidence, right = (
        np.concatenate(parts) for parts in zip(*map(_predictions, cell.finished), strict=True)
    )
    counts, confident, correct = calibration(confidence, right)
    large = counts >= _FEWEST_IMAGES
    x, y = (100 * sums[large] / counts[large] for sums in (confident, correct))
    return Series(name, x, y, form="dots")


def _predictions(run: RunFolder) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and correctness of each test image (M,)."""
    try:
        num_classes = int(run.full_record()["data"]["num_classes"])
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{run.result} does not say how many classes there are: run it again with --force"
        ) from None
    predictions = load_predictions(run, num_classes)
    predictions.check()
    test = predictions.test
    confidence = np.exp(test.log_p[:, 0].astype(np.float64))
    return confidence, test.predicted == predictions.labels["test"]
