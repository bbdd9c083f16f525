"""Common parts of figures: columns of tables, colors that colour-blind readers can distinguish,
marks and dashes for greyscale print, files; and figures of line panels.
"""

from __future__ import annotations

import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from ...core.sanitize import as_csv, printable_lines, word_as_cell
from ...errors import ConfigError, NoisebenchError
from ...labels.manifest import short_noise
from ...noise import normal_noise
from ..table import Table

_FORMS = (".svg", ".png", ".pdf", ".csv")
_MOST_PANELS = 48  # that are still readable
# Okabe & Ito 2008, with grey instead of yellow, which is invisible on white.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
_MARKS = "osD^vP*X<>hpd"
_FIXED = {"correct labels": 0, "incorrect labels": 1, "unknown labels": 6}
_STYLE: Any = {
    "svg.hashsalt": "noisebench",  # for identical files
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # no name is a formula
    "text.usetex": False,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "figure.facecolor": "white",
}
_FULL = {"sym": "symmetric", "asym": "asymmetric", "pair": "pair flip"}


T = TypeVar("T")


def columns(tables: Sequence[Table]) -> Iterator[tuple[Table, str]]:
    """The columns with a finished run."""
    for table in tables:
        yield from ((table, col) for col in table.cols if filled(table, col))


def filled(table: Table, col: str) -> list[str]:
    """The rows with a finished run in a column."""
    return [row for row in table.rows if (cell := table.cells.get((row, col))) and cell.finished]


def column_title(table: Table, col: str) -> str:
    """`digits, sym 0.4`."""
    return f"{table.short_title}, {table.col_head(col)}".strip(", ")


def shared(tables: Sequence[Table]) -> str:
    """The titles and seeds of all tables, for a caption."""
    return "; ".join(dict.fromkeys(f"{table.title}: {table.varied}" for table in tables))


def kinds_of_noise(table: Table) -> dict[str, dict[float, str]]:
    """The columns of each kind of noise by nominal rate, in order; of several metrics the first.
    Skips noise without a rate, or of a plugin that is not loaded.
    """
    kinds: dict[str, dict[float, str]] = {}
    for col in table.cols:
        facts = dict(zip(table.col_axis.split(","), table.parts[col], strict=True))
        other_metric = facts.pop("metric", table.metrics[0]) != table.metrics[0]
        if other_metric or set(facts) != {"noise"}:
            continue
        try:
            rate = dict(normal_noise(facts["noise"]).kwargs).get("rate")
        except NoisebenchError:
            continue
        if isinstance(rate, int | float):
            text = short_noise(facts["noise"], table.fixed.get("dataset", ""))
            kind, _, more = text.partition(f" {rate}")
            kinds.setdefault(f"{_FULL.get(kind, kind)}{more}", {})[float(rate)] = col
    return {kind: dict(sorted(cols.items())) for kind, cols in kinds.items()}


@dataclass(frozen=True)
class LineStyle:
    """The color, dashes and mark of a line, as matplotlib expects them."""

    color: str
    dash: Any
    mark: str


def line_styles(names: Iterable[str]) -> dict[str, LineStyle]:
    """A style for each name, colors first; some names have a fixed style."""
    styles = {}
    for number, name in enumerate(names):
        color = _FIXED.get(name, number)
        dash = 0 if name in _FIXED else (color // len(_COLORS) + color) % len(_DASHES)
        styles[name] = LineStyle(
            _COLORS[color % len(_COLORS)], _DASHES[dash], _MARKS[color % len(_MARKS)]
        )
    return styles


class Figure(ABC):
    """A named figure: rows of numbers, and a drawing of them. columns: names of the columns of
    `rows`; caption: explains the figure.
    """

    name: str
    caption: str
    columns: ClassVar[tuple[str, ...]]

    @abstractmethod
    def rows(self) -> Iterable[Iterable[Any]]:
        """The numbers, one row per line."""

    @abstractmethod
    def as_dict(self) -> Any:
        """The numbers as a JSON document."""

    @property
    @abstractmethod
    def inches(self) -> tuple[float, float]:
        """Width and height."""

    @abstractmethod
    def draw(self, fig: Any) -> None:
        """Draws on a matplotlib figure."""

    def as_csv(self) -> str:
        return as_csv(
            [self.columns, *([word_as_cell(value) for value in row] for row in self.rows())]
        )

    def picture(self, form: str) -> bytes:
        """The figure as svg, png or pdf. Raises ConfigError without matplotlib."""
        try:
            from matplotlib import rc_context
            from matplotlib.figure import Figure as Canvas
            from matplotlib.text import Text
        except ImportError:
            raise ConfigError(
                "figures need matplotlib: pip install 'noisebench[plot]', or write a .csv"
            ) from None
        with rc_context(_STYLE), warnings.catch_warnings():
            # text in .svg stays text, shown in fonts of the viewer
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
            fig = Canvas(figsize=self.inches, layout="constrained")
            self.draw(fig)
            for text in fig.findobj(Text):
                text.set_text(printable_lines(text.get_text()))
            output = io.BytesIO()
            stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form, {})
            fig.savefig(output, format=form, dpi=200, metadata=stamp, bbox_inches="tight")
        return output.getvalue()


def form_of(path: Path) -> str:
    """svg, png, pdf or csv, by the suffix. Raises ConfigError."""
    if path.suffix not in _FORMS:
        raise ConfigError(
            f"unknown format of a figure: {path}; write {', '.join(_FORMS[:-1])} or .csv"
        )
    return path.suffix[1:]


def split_evenly(items: Sequence[T], width: int = 4) -> list[Sequence[T]]:
    """Rows of at most `width` items, as even as possible."""
    rows = -(-len(items) // width) or 1
    length = -(-len(items) // rows) or 1
    return [items[start : start + length] for start in range(0, len(items), length)]


@dataclass(frozen=True)
class Series:
    """A line y over x, both (n,), with a band from low to high if given.

    form: `line`; `dots`, a line with marks; `steps` and `bins`, a density over equal bins with
    centers x, the latter filled.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    form: str = "line"

    def draw(self, ax: Any, style: LineStyle) -> None:
        """Draws on matplotlib axes."""
        line = {"color": style.color, "linestyle": style.dash, "label": self.name}
        if self.form in ("steps", "bins"):
            half = (self.x[1] - self.x[0]) / 2
            edges = np.append(self.x - half, self.x[-1] + half)
            if self.form == "bins":
                ax.stairs(self.y, edges, fill=True, color=style.color, alpha=0.25)
            ax.stairs(self.y, edges, **line)
            return
        marks = {"marker": style.mark, "markersize": 3.5} if self.form == "dots" else {}
        ax.plot(self.x, self.y, **line, **marks)
        if self.low is not None and self.high is not None:
            band = {"color": style.color, "alpha": 0.18, "linewidth": 0}
            ax.fill_between(self.x, self.low, self.high, **band)


@dataclass(frozen=True)
class Panel:
    """Lines over common axes. x_range, y_range: limits of the axes, None for automatic ones;
    within: range of possible y, which a band may exceed.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_range: tuple[float | None, float | None] = (None, None)
    y_range: tuple[float | None, float | None] = (None, None)
    within: tuple[float, float] | None = None
    x_ticks: tuple[float, ...] = ()
    diagonal: bool = False  # whether to draw y = x

    @property
    def names(self) -> list[str]:
        """The names of its lines."""
        return [series.name for series in self.series]

    def rows(self) -> Iterator[list[Any]]:
        """Title, name, x, y, low and high of each point that has a value."""
        for series in self.series:
            nothing = np.full(len(series.x), np.nan)
            edges = [nothing if edge is None else edge for edge in (series.low, series.high)]
            for point in np.stack([series.x, series.y, *edges], axis=1).tolist():
                if not np.isnan(point[1]):
                    numbers = [None if np.isnan(value) else value for value in point]
                    yield [self.title, series.name, *numbers]

    def as_dict(self) -> dict[str, Any]:
        points = [dict(zip(PanelFigure.columns[1:], row[1:], strict=True)) for row in self.rows()]
        return {"title": self.title, "x": self.x_label, "y": self.y_label, "points": points}

    def draw(self, ax: Any, styles: dict[str, LineStyle]) -> None:
        """Draws on matplotlib axes."""
        for series in self.series:
            series.draw(ax, styles[series.name])
        if self.diagonal:
            ax.axline((0, 0), slope=1, color="0.6", linewidth=0.8, dashes=(4, 3), zorder=0)
        ax.set(
            title=self.title,
            xlabel=self.x_label,
            ylabel=self.y_label,
            xlim=self.x_range,
            ylim=self.y_range,
        )
        if self.within:
            low, high = ax.get_ylim()
            ax.set_ylim(max(low, self.within[0]), min(high, self.within[1]))
        if self.x_ticks:
            ax.set_xticks(self.x_ticks)


@dataclass(frozen=True)
class PanelFigure(Figure):
    """Rows of panels with common styles and one legend below."""

    name: str
    caption: str
    panels: Sequence[Sequence[Any]]  # Panel, or a class with the same methods
    columns: ClassVar[tuple[str, ...]] = ("panel", "series", "x", "y", "low", "high")

    def __post_init__(self) -> None:
        """Raises ConfigError for a figure without panels, or with too many."""
        if not self.flat:
            raise ConfigError(
                f"--figure {self.name}: nothing to draw: none of these runs has finished"
            )
        if len(self.flat) > _MOST_PANELS:
            raise ConfigError(
                f"--figure {self.name} would have {len(self.flat)} panels: select runs with "
                "--filter, such as --filter method=ce"
            )

    @property
    def flat(self) -> list[Any]:
        """The panels of all rows."""
        return [panel for row in self.panels for panel in row]

    @property
    def heights(self) -> list[float]:
        """Relative heights of the rows."""
        return [1.0 for _ in self.panels]

    @property
    def inches(self) -> tuple[float, float]:
        return 2.9 * max(map(len, self.panels)), 2.3 * len(self.panels) + 0.4

    def draw(self, fig: Any) -> None:
        names = dict.fromkeys(name for panel in self.flat for name in panel.names)
        styles, width = line_styles(names), max(map(len, self.panels))
        grid = fig.subplots(len(self.panels), width, squeeze=False, height_ratios=self.heights)
        for row, row_axes in zip(self.panels, grid, strict=True):
            for ax in row_axes[len(row) :]:
                ax.set_axis_off()
            for number, panel in enumerate(row):
                panel.draw(row_axes[number], styles)
                if number and panel.y_label == row[number - 1].y_label:
                    row_axes[number].set_ylabel("")
        entries = {
            name: handle
            for ax in fig.axes
            for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        if len(entries) > 1:
            letters = 0.45 + 0.065 * max(map(len, entries))
            ncols = max(1, min(len(entries), int(self.inches[0] / letters)))
            fig.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=ncols)

    def rows(self) -> Iterator[list[Any]]:
        """One line per point."""
        yield from (row for panel in self.flat for row in panel.rows())

    def as_dict(self) -> dict[str, Any]:
        panels = [panel.as_dict() for panel in self.flat]
        return {"figure": self.name, "caption": self.caption, "panels": panels}
