"""Mean predictions on test images and the optimum of the training loss under class-conditional
noise (Equal Loss, Eq. 8-13), as a dot plot (Cleveland 1984).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, zip_longest
from textwrap import fill
from typing import Any, ClassVar

import numpy as np

from ...errors import ConfigError, NoisebenchError
from ...losses import predicted
from ...noise import FILES, normal_noise, transition
from ...runs.result import load_predictions
from ..aggregate import Cell
from ..table import Table
from .panels import LineStyle, PanelFigure, column_title, columns, filled, shared, split_evenly

_TRUE, _WRONG = "correct class", "likeliest other class (sym: all)"
_STANDARD = "standard"  # changes no label; the optimum is known only for it
_CAPTION = (
    "Mean predicted probability over the test images of the classes whose labels flip: of the "
    "correct class, and of its most frequent noisy label (under symmetric noise: of all others "
    "together). Bar: ± sample standard deviation over seeds. Expected: the optimum of the loss for "
    "a network of unlimited capacity that knows only the class of an image; not shown where no "
    "closed form is known."
)
# inches: width of a panel, height of a row, width of a character of a row's name
_PANEL, _ROW, _LETTER = 1.75, 0.27, 0.06
_LETTERS = 32  # per line of a panel's title
_OFFSET = 0.17  # in rows, between a row's center and its dots


@dataclass(frozen=True)
class Point:
    """A number of one row: its values by seed, and the expected value, if known."""

    row: str
    series: str
    values: tuple[float, ...]
    expected: float | None = None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """The sample standard deviation; None below two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class DotPanel:
    """A panel: the names of its rows from the top, including those without a point, so that rows of
    neighbouring panels are aligned.
    """

    title: str
    heads: tuple[str, ...]
    points: tuple[Point, ...]
    y_label: str = ""

    @property
    def names(self) -> list[str]:
        """The names of its series."""
        return [point.series for point in self.points]

    def rows(self) -> Iterator[list[Any]]:
        """One line per point."""
        for point in self.points:
            numbers = [point.mean, point.std, len(point.values), point.expected]
            yield [self.title, point.row, point.series, *numbers]

    def as_dict(self) -> dict[str, Any]:
        """The panel as a JSON object, with the value of each seed."""
        points = [{**asdict(point), "mean": point.mean, "std": point.std} for point in self.points]
        return {"title": self.title, "x": "probability", "points": points}

    def draw(self, ax: Any, styles: dict[str, LineStyle]) -> None:
        """Draws on matplotlib axes."""
        series = list(styles)
        for point in self.points:
            style = styles[point.series]
            side = 2 * series.index(point.series) / max(len(series) - 1, 1) - 1
            level = self.heads.index(point.row) + _OFFSET * side
            shown = {"color": style.color, "clip_on": False}
            ax.plot(
                point.mean, level, style.mark, markersize=4, zorder=3, label=point.series, **shown
            )
            if point.std is not None:
                ends = [point.mean - point.std, point.mean + point.std]
                ax.plot(ends, [level, level], linewidth=1.2, **shown)
            if point.expected is not None:
                wide = {"markersize": 9, "markeredgewidth": 3.5, "alpha": 0.45}
                label = f"{point.series}, expected"
                ax.plot(point.expected, level, "|", label=label, **wide, **shown)
        ax.set(
            title=fill(self.title, _LETTERS),
            xlim=(0, 1),
            ylim=(len(self.heads) - 0.5, -0.5),
            xticks=(0, 0.25, 0.5, 0.75, 1),
        )
        ax.set_xticklabels(("0", "", "0.5", "", "1"))
        ax.set_yticks(range(len(self.heads)), self.heads)
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        for edge in range(len(self.heads) - 1):
            ax.axhline(edge + 0.5, color="0.9", linewidth=0.6, zorder=0)


class DotFigure(PanelFigure):
    """Panels of rows over an axis of probabilities; only the outer panels show the row names."""

    columns: ClassVar[tuple[str, ...]] = ("panel", "row", "series", "mean", "std", "n", "expected")

    @property
    def heights(self) -> list[float]:
        return [0.75 + _ROW * max(len(panel.heads) for panel in line) for line in self.panels]

    @property
    def inches(self) -> tuple[float, float]:
        names = _LETTER * max(len(head) for panel in self.flat for head in panel.heads)
        return _PANEL * max(map(len, self.panels)) + names, sum(self.heights) + 0.5

    def draw(self, fig: Any) -> None:
        super().draw(fig)
        axes, width = iter(fig.axes), max(map(len, self.panels))
        for line, below in zip_longest(self.panels, self.panels[1:], fillvalue=()):
            for number, ax in enumerate(islice(axes, width)):
                if 0 < number < len(line) and line[number].heads == line[number - 1].heads:
                    ax.tick_params(labelleft=False)
                if len(below) <= number < len(line):
                    ax.set_xlabel("probability")


def optimum(tables: Sequence[Table]) -> DotFigure:
    """A panel per noise, a row per method. Raises ConfigError if no noise has a known transition
    matrix, DataError without predictions.
    """
    several, cols = len({table.short_title for table in tables}) > 1, list(columns(tables))
    panels = [panel for table, col in cols if (panel := _panel(table, col, several=several))]
    if cols and not panels:
        raise ConfigError(
            "--figure optimum needs runs of noise with a known transition matrix: "
            "symmetric, asymmetric or pairflip"
        )
    return DotFigure("optimum", f"{shared(tables)}. {_CAPTION}", split_evenly(panels))


def likeliest_wrong(table: np.ndarray) -> np.ndarray:
    """The most frequent noisy labels of each true class, (K, K); none for a class that never
    flips.
    """
    others = table * (1 - np.eye(len(table)))
    most = others.max(1, keepdims=True)
    return np.isclose(others, most, rtol=1e-9, atol=0) & (most > 0)


def _panel(table: Table, col: str, *, several: bool) -> DotPanel | None:
    """None for noise that flips no class, or without a known matrix. several: whether other panels
    are of other data; if not, the caption names the data.
    """
    rows = filled(table, col)
    noise = table.axes(rows[0], col)["noise"]
    num_classes = int(table.cells[rows[0], col].finished[0].full_record()["data"]["num_classes"])
    try:
        call = normal_noise(noise)
        if set(FILES) & {name for name, _ in call.kwargs}:
            return None
        wrong = likeliest_wrong(transition(call, num_classes))
    except NoisebenchError:  # not class-conditional, or of a plugin that is not loaded
        return None
    points = tuple(
        point
        for row in rows
        for point in _points(table.row_head(row), table.cells[row, col], noise, wrong)
    )
    if not points:
        return None
    title = column_title(table, col) if several else table.col_head(col)
    return DotPanel(title, tuple(map(table.row_head, table.rows)), points)


def _points(name: str, cell: Cell, noise: str, wrong: np.ndarray) -> list[Point]:
    """The mean p of the correct class and of the other ones over the test images of classes that
    flip, the latter if it was stored; none without such images.
    """
    means: list[tuple[float, float]] = []
    for run in cell.finished:
        predictions = load_predictions(run, len(wrong))
        predictions.check()
        test, labels = predictions.test, predictions.labels["test"]
        others = wrong.sum(1)[labels]
        flips = others > 0
        if not flips.any():
            return []
        true = float(np.exp(test.clean_log_p[flips].astype(np.float64)).mean())
        other = float("nan")
        if (others[flips] == len(wrong) - 1).all():
            other = 1 - true
        elif test.dense is not None:
            p = np.exp(test.dense[flips].astype(np.float64))
            other = float((p * wrong[labels[flips]]).sum(1).mean())
        means.append((true, other))
    limits = [_limit(inputs, noise, labels[flips], wrong) for inputs in cell.inputs.values()]
    known = [limit for limit in limits if limit is not None]
    expected = np.mean(known, axis=0).tolist() if len(known) == len(limits) else (None, None)
    return [
        Point(name, series, values, limit)
        for series, values, limit in zip(
            (_TRUE, _WRONG), zip(*means, strict=True), expected, strict=True
        )
        if np.isfinite(values).all()
    ]


def _limit(
    inputs: Mapping[str, Any], noise: str, flipping: np.ndarray, wrong: np.ndarray
) -> tuple[float, float] | None:
    """The same for the optimum, over images of these classes (n,); None without a closed form."""
    if inputs["strategy"] != _STANDARD:
        return None
    try:
        p = predicted(noise, inputs["loss"], len(wrong))
    except NoisebenchError:  # a loss of a plugin that is not loaded
        return None
    if p is None:
        return None
    return float(np.diag(p)[flipping].mean()), float((p * wrong).sum(1)[flipping].mean())
