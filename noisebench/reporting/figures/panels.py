"""What a figure is, whatever it shows: panels of lines over numbers, which a picture, a CSV and a
JSON document are made of alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ConfigError
from .style import LineStyle, add_legend, as_csv, drawn, looks

_MOST = 48  # panels that can still be read
COLUMNS = ("panel", "series", "x", "y", "low", "high")


def check_count(name: str, count: int) -> None:
    """Raises ConfigError for a figure without a panel, or of more than can be read."""
    if not count:
        raise ConfigError(
            f"--figure {name}: there is nothing to draw: none of these runs has finished"
        )
    if count > _MOST:
        raise ConfigError(
            f"--figure {name} would have {count} panels: keep some with --where, "
            "such as --where method=ce"
        )


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
        low, high = (
            np.full(len(self.x), np.nan) if edge is None else edge for edge in (self.low, self.high)
        )
        for point in zip(
            self.x.tolist(), self.y.tolist(), low.tolist(), high.tolist(), strict=True
        ):
            if not np.isnan(point[1]):
                yield [None if np.isnan(value) else value for value in point]


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

    @property
    def names(self) -> list[str]:
        return [series.name for series in self.series]

    def paint(self, axes: Any, look: dict[str, LineStyle]) -> None:
        """On matplotlib's axes."""
        for series in self.series:
            _paint(series, axes, look[series.name])
        if self.diagonal:
            axes.axline((0, 0), slope=1, color="0.6", linewidth=0.8, dashes=(4, 3), zorder=0)
        axes.set(
            title=self.title,
            xlabel=self.x_label,
            ylabel=self.y_label,
            xlim=self.x_range,
            ylim=self.y_range,
        )
        if self.within:
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, self.within[0]), min(high, self.within[1]))
        if self.x_ticks:
            axes.set_xticks(self.x_ticks)


def _paint(series: Series, axes: Any, look: LineStyle) -> None:
    if series.form in ("steps", "bins"):
        half = (series.x[1] - series.x[0]) / 2
        edges = np.append(series.x - half, series.x[-1] + half)
        if series.form == "bins":
            axes.stairs(series.y, edges, fill=True, color=look.color, alpha=0.25)
        axes.stairs(series.y, edges, color=look.color, linestyle=look.dash, label=series.name)
        return
    marks = {"marker": look.mark, "markersize": 3.5} if series.form == "dots" else {}
    axes.plot(series.x, series.y, color=look.color, linestyle=look.dash, label=series.name, **marks)
    if series.low is not None and series.high is not None:
        axes.fill_between(
            series.x, series.low, series.high, color=look.color, alpha=0.18, linewidth=0
        )


@dataclass(frozen=True)
class PanelFigure:
    """Rows of panels. caption: what one must know to read it."""

    name: str
    caption: str
    panels: tuple[tuple[Panel, ...], ...]
    size: tuple[float, float] = (2.9, 2.3)  # inches of a panel

    def __post_init__(self) -> None:
        check_count(self.name, sum(map(len, self.panels)))

    @classmethod
    def in_rows(
        cls, name: str, caption: str, panels: Sequence[Panel], width: int = 4
    ) -> PanelFigure:
        """With rows of at most so many panels, as even as can be."""
        rows = -(-len(panels) // width) or 1
        each = -(-len(panels) // rows) or 1
        return cls(
            name,
            caption,
            tuple(tuple(panels[start : start + each]) for start in range(0, len(panels), each)),
        )

    @property
    def flat(self) -> list[Panel]:
        return [panel for row in self.panels for panel in row]

    @property
    def looks(self) -> dict[str, LineStyle]:
        """One look a name, the same in all panels."""
        return looks(list(dict.fromkeys(name for panel in self.flat for name in panel.names)))

    def picture(self, form: str) -> bytes:
        """As svg, png or pdf. Raises ConfigError without matplotlib."""
        rows, width = self.panels, max(map(len, self.panels))

        def fill(canvas: Any) -> None:
            for row, places in zip(
                rows, canvas.subplots(len(rows), width, squeeze=False), strict=True
            ):
                for number, axes in enumerate(places):
                    if number < len(row):
                        row[number].paint(axes, self.looks)
                    else:
                        axes.set_axis_off()
                    if 0 < number < len(row) and row[number].y_label == row[number - 1].y_label:
                        axes.set_ylabel("")
            add_legend(canvas, self.size[0] * width)

        return drawn(fill, (self.size[0] * width, self.size[1] * len(rows) + 0.4), form)

    def as_csv(self) -> str:
        """A line a point."""
        return as_csv(COLUMNS, (row for panel in self.flat for row in panel.rows()))

    def as_dict(self) -> dict[str, Any]:
        """The same as one document."""
        panels = [
            {"title": panel.title, "x": panel.x_label, "y": panel.y_label,
             "points": [dict(zip(COLUMNS[1:], row[1:], strict=True)) for row in panel.rows()]}
            for panel in self.flat
        ]  # fmt: skip
        return {"figure": self.name, "caption": self.caption, "panels": panels}
