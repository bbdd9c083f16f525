"""Figures of accuracy: against the noise rate, epochs and confidence, and as mean ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import ConfigError, DataError
from ...metrics.scores import ECE_BINS, calibration
from ...runs.result import load_predictions
from ..aggregate import Cell
from ..table import NOT_RIVALS, Table
from .panels import (
    Figure,
    Panel,
    PanelFigure,
    Series,
    column_title,
    columns,
    filled,
    kinds_of_noise,
    shared,
    split_evenly,
)

_WIDTH = 4  # panels per row
_CURVES = {"test_acc": "test accuracy (%)", "memorised": "incorrect labels memorized (%)"}
_FEWEST_IMAGES = 10  # per bin
_ALPHA = 0.05


def rates(tables: Sequence[Table]) -> PanelFigure:
    """A panel per table and kind of noise with a rate; a line per method, with a band of ± the
    sample standard deviation over seeds.

    Raises ConfigError if no noise has a rate.
    """
    kinds_of = [(table, kinds_of_noise(table)) for table in tables]
    if tables and not any(kinds for _, kinds in kinds_of):
        noises = dict.fromkeys(table.col_head(col) for table in tables for col in table.cols)
        raise ConfigError(
            "--figure rates: nothing to draw: it needs noise with a rate, "
            f"and these runs have {', '.join(noises)}"
        )
    panels = [
        _rate_panel(table, kind, cols) for table, kinds in kinds_of for kind, cols in kinds.items()
    ]
    caption = f"{shared(tables)}. Band: ± sample standard deviation."
    panels = [panel for panel in panels if panel.series]
    return PanelFigure("rates", caption, split_evenly(panels))


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
        series,
        within=(0, 100) if metric.is_share else None,
        x_ticks=tuple(100 * rate for rate in cols),
    )


_Histories = list[list[dict[str, float | None]]]


def curves(tables: Sequence[Table]) -> PanelFigure:
    """A column per noise, a line per method: the mean over seeds ± the standard deviation."""
    histories_of: list[tuple[str, dict[str, _Histories]]] = []
    for table, col in columns(tables):
        cells = {table.row_head(row): table.cells[row, col] for row in filled(table, col)}
        histories = {
            name: [folder.read_history() for folder in cell.finished]
            for name, cell in cells.items()
        }
        histories_of.append((column_title(table, col), histories))
    rows = []
    for start in range(0, len(histories_of), _WIDTH):
        for name in _CURVES:
            row = [_curve_panel(name, *entry) for entry in histories_of[start : start + _WIDTH]]
            rows += [row] if any(panel.series for panel in row) else []
    caption = (
        f"{shared(tables)}. Memorized: incorrect labels that the network predicts during "
        "training. Band: ± sample standard deviation."
    )
    return PanelFigure("curves", caption, rows)


def _curve_panel(name: str, title: str, histories_of: dict[str, _Histories]) -> Panel:
    series = []
    for head, histories in histories_of.items():
        length = min(map(len, histories))
        values = np.array(  # percent (seeds, epochs), NaN where unknown
            [
                [np.nan if (value := line.get(name)) is None else 100 * value for line in history]
                for history in (history[:length] for history in histories)
            ]
        )
        if not np.isfinite(values).any():
            continue
        mean, low, high = values.mean(0), None, None
        if len(values) > 1:
            spread = values.std(0, ddof=1)
            low, high = mean - spread, mean + spread
        series.append(Series(head, np.arange(1, length + 1), mean, low, high))
    return Panel(title, "epoch", _CURVES[name], series, (0, None), within=(0, 100))


def reliability(tables: Sequence[Table]) -> PanelFigure:
    """A panel per noise, a line per method: test accuracy over mean confidence in 15 equal bins,
    all seeds together.
    """
    panels = []
    for table, col in columns(tables):
        lines = [
            _reliability(table.row_head(row), table.cells[row, col]) for row in filled(table, col)
        ]
        labels = column_title(table, col), "confidence (%)", "test accuracy (%)"
        panels.append(Panel(*labels, lines, (0, 100), (0, 100), diagonal=True))
    caption = (
        f"Test images in {ECE_BINS} equal bins of confidence, the probability of the predicted "
        f"class, all seeds together; bins with fewer than {_FEWEST_IMAGES} images are not shown. "
        "Below the diagonal a network is overconfident."
    )
    return PanelFigure("reliability", caption, split_evenly(panels))


def _reliability(name: str, cell: Cell) -> Series:
    confidences, hits = [], []
    for run in cell.finished:
        try:
            num_classes = int(run.full_record()["data"]["num_classes"])
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{run.result} has no number of classes: rerun with --force") from None
        predictions = load_predictions(run, num_classes)
        predictions.check()
        test = predictions.test
        confidences.append(np.exp(test.log_p[:, 0].astype(np.float64)))
        hits.append(test.predicted == predictions.labels["test"])
    counts, confident, correct = calibration(np.concatenate(confidences), np.concatenate(hits))
    large = counts >= _FEWEST_IMAGES
    x, y = (100 * sums[large] / counts[large] for sums in (confident, correct))
    return Series(name, x, y, form="dots")


@dataclass(frozen=True)
class Ranking:
    """Mean ranks over n columns in which every method has a mean; critical: the difference from
    which two are significantly different.
    """

    title: str
    names: tuple[str, ...]  # the best first
    ranks: tuple[float, ...]
    n: int
    critical: float

    @property
    def cliques(self) -> list[tuple[int, int]]:
        """First and last position of each maximal group without significant differences."""
        groups = []
        for i, rank in enumerate(self.ranks):
            near = [j for j in range(i, len(self.ranks)) if self.ranks[j] - rank < self.critical]
            groups.append((i, max(near)))
        return [(i, j) for i, j in groups if j > i and not any(a < i and j <= b for a, b in groups)]


def critical_difference(k: int, n: int, alpha: float = _ALPHA) -> float:
    """The critical difference of mean ranks of k methods over n columns. Nemenyi 1963."""
    from scipy.stats import studentized_range

    quantile = float(studentized_range.ppf(1 - alpha, k, math.inf))
    return quantile / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))


@dataclass(frozen=True)
class RankFigure(Figure):
    """One diagram per table."""

    rankings: tuple[Ranking, ...]
    name: str = "ranks"
    caption: str = (
        "Mean rank over the columns of each table; bars join methods that do not differ "
        f"significantly (Nemenyi test, {100 * _ALPHA:g} %). "
        "Columns share images, so that they are less independent than the test assumes."
    )
    columns: ClassVar = ("table", "method", "mean_rank", "columns", "critical_difference")

    def rows(self) -> Iterator[list[Any]]:
        """One line per method."""
        for ranking in self.rankings:
            for pair in zip(ranking.names, ranking.ranks, strict=True):
                yield [ranking.title, *pair, ranking.n, ranking.critical]

    def as_dict(self) -> dict[str, Any]:
        tables = [
            {
                "table": ranking.title,
                "ranks": dict(zip(ranking.names, ranking.ranks, strict=True)),
                "columns": ranking.n,
                "critical_difference": ranking.critical,
            }
            for ranking in self.rankings
        ]
        return {"figure": self.name, "caption": self.caption, "tables": tables}

    @property
    def heights(self) -> list[float]:
        """Height of each diagram in inches: names in two columns below the axis, bars between."""
        return [
            0.9 + 0.2 * (-(-len(ranking.names) // 2)) + 0.1 * len(ranking.cliques)
            for ranking in self.rankings
        ]

    @property
    def inches(self) -> tuple[float, float]:
        return 6.0, sum(self.heights)

    def draw(self, fig: Any) -> None:
        heights = self.heights
        grid = fig.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
        for ranking, ax in zip(self.rankings, grid[:, 0], strict=True):
            _draw(ranking, ax)


def ranks(tables: Sequence[Table]) -> RankFigure:
    """The ranks of each table with several methods of the same data and metric. Raises ConfigError
    if there is none.
    """
    rivals = [
        table for table in tables if not {*NOT_RIVALS, "metric"} & set(table.row_axis.split(","))
    ]
    tables = [table for table in rivals if table.ranked and len(table.rows) > 1]
    if rivals and not tables:
        raise ConfigError(
            f"--figure ranks: nothing to rank: {rivals[0].title} has {len(rivals[0].rows)} methods "
            f"and {len(rivals[0].ranked)} columns with results of all of them"
        )
    if not tables:
        raise ConfigError("--figure ranks: nothing to rank: none of these runs has finished")
    rankings = []
    for table in tables:
        pairs = sorted((table.mean_rank(row) or 0.0, table.row_head(row)) for row in table.rows)
        means, names = zip(*pairs, strict=True)
        n = len(table.ranked)
        critical = critical_difference(len(names), n)
        rankings.append(Ranking(table.title, names, means, n, critical))
    return RankFigure(tuple(rankings))


def _draw(ranking: Ranking, ax: Any) -> None:
    """An axis of ranks, the best on the left, and names on both sides with lines to their ranks."""
    k, bars, critical = len(ranking.names), len(ranking.cliques), ranking.critical
    first_name, half = 0.5 + 0.3 * bars, -(-k // 2)
    ax.set(
        xlim=(1 - 0.32 * (k - 1), k + 0.32 * (k - 1)),
        ylim=(first_name + 0.6 * half + 0.2, -1.6),
    )
    ax.set_axis_off()
    ax.set_title(f"{ranking.title}: mean rank over {ranking.n} columns")
    black, centred = {"color": "black", "linewidth": 1}, {"ha": "center", "va": "bottom"}
    ax.plot([1, k], [0, 0], **black)
    for tick in range(1, k + 1):
        ax.plot([tick, tick], [0, -0.15], **black)
        ax.text(tick, -0.25, str(tick), **centred)
    bracket = {"color": "black", "linewidth": 1.5, "marker": "|", "markersize": 5}
    ax.plot([1, 1 + critical], [-1.05, -1.05], clip_on=False, **bracket)
    ax.text(1 + critical / 2, -1.15, f"critical difference {critical:.2f}", **centred)
    for number, (i, j) in enumerate(ranking.cliques):
        ends = [ranking.ranks[i] - 0.04, ranking.ranks[j] + 0.04]
        level = 0.35 + 0.3 * number
        ax.plot(ends, [level, level], color="#0072B2", linewidth=3, solid_capstyle="butt")
    for position, (name, rank) in enumerate(zip(ranking.names, ranking.ranks, strict=True)):
        left = position < half
        level = first_name + 0.6 * ((position if left else k - 1 - position) + 0.5)
        edge = 1 - 0.06 * (k - 1) if left else k + 0.06 * (k - 1)
        text = f"{name}  {rank:.2f} " if left else f" {rank:.2f}  {name}"
        ax.plot([rank, rank, edge], [0, level, level], color="0.45", linewidth=0.8)
        ax.text(edge, level, text, ha="right" if left else "left", va="center")
