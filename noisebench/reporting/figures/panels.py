"""Figures of panels of lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .style import Figure, LineStyle, add_legend, check_count, line_styles, split_evenly


@dataclass(frozen=True)
class Series:
    """A line y over x, both (n,), with a band from low to high where these are given.

    form: `line`; `dots`, a line with a mark at each of few points; `steps` and `bins`, a density
    over equal bins, x their middles, the latter filled.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    form: str = "line"

    def rows(self) -> Iterator[list[Any]]:
        """x, y, low and high of each point that has a value."""
        nothing = np.full(len(self.x), np.nan)
        edges = [nothing if edge is None else edge for edge in (self.low, self.high)]
        for point in np.stack([self.x, self.y, *edges], axis=1).tolist():
            if not np.isnan(point[1]):
                yield [None if np.isnan(value) else value for value in point]

    def draw(self, ax: Any, style: LineStyle) -> None:
        """On matplotlib's axes."""
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
    """Lines over common axes, whose labels say the units. x_range, y_range: where they are to begin
    and end, None where the lines do; within: what y cannot leave, though a band may.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_range: tuple[float | None, float | None] = (None, None)
    y_range: tuple[float | None, float | None] = (None, None)
    within: tuple[float, float] | None = None
    x_ticks: tuple[float, ...] = ()
    diagonal: bool = False  # where y would be x

    def rows(self) -> Iterator[list[Any]]:
        """A line of the CSV for each point."""
        for series in self.series:
            for row in series.rows():
                yield [self.title, series.name, *row]

    def draw(self, ax: Any, styles: dict[str, LineStyle]) -> None:
        """On matplotlib's axes."""
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
    """Rows of panels."""

    name: str
    caption: str
    panels: tuple[tuple[Panel, ...], ...]
    columns: ClassVar = ("panel", "series", "x", "y", "low", "high")

    def __post_init__(self) -> None:
        check_count(self.name, len(self.flat))

    @classmethod
    def in_rows(cls, name: str, caption: str, panels: Sequence[Panel]) -> PanelFigure:
        """With rows of at most four panels, as even as can be."""
        return cls(name, caption, tuple(map(tuple, split_evenly(panels, 4))))

    @property
    def flat(self) -> list[Panel]:
        return [panel for row in self.panels for panel in row]

    @property
    def inches(self) -> tuple[float, float]:
        return 2.9 * max(map(len, self.panels)), 2.3 * len(self.panels) + 0.4

    def draw(self, fig: Any) -> None:
        names = dict.fromkeys(series.name for panel in self.flat for series in panel.series)
        styles = line_styles(names)  # the same in all panels
        grid = fig.subplots(len(self.panels), max(map(len, self.panels)), squeeze=False)
        for row, row_axes in zip(self.panels, grid, strict=True):
            for number, ax in enumerate(row_axes):
                if number >= len(row):
                    ax.set_axis_off()
                    continue
                row[number].draw(ax, styles)
                if number and row[number].y_label == row[number - 1].y_label:
                    ax.set_ylabel("")
        add_legend(fig, self.inches[0])

    def rows(self) -> Iterator[list[Any]]:
        """A line a point."""
        yield from (row for panel in self.flat for row in panel.rows())

    def as_dict(self) -> dict[str, Any]:
        """The same as one document."""
        panels = [
            {"title": panel.title, "x": panel.x_label, "y": panel.y_label,
             "points": [dict(zip(self.columns[1:], row[1:], strict=True)) for row in panel.rows()]}
            for panel in self.flat
        ]  # fmt: skip
        return {"figure": self.name, "caption": self.caption, "panels": panels}
