"""Critical-difference diagrams: mean ranks of methods over noises, and which of them differ by more
than chance. Demšar 2006.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ConfigError
from ..render.text import row_head
from ..table import NOT_RIVALS, Table
from .style import as_csv, drawn

_ALPHA = 0.05


@dataclass(frozen=True)
class Ranking:
    """Mean ranks over n columns in which every method has a mean; two that differ by less than
    `critical` are not told apart.
    """

    title: str
    names: tuple[str, ...]  # the best first
    ranks: tuple[float, ...]
    n: int
    critical: float

    @property
    def cliques(self) -> list[tuple[int, int]]:
        """First and last place of each largest group that is not told apart."""
        groups = [
            (
                i,
                max(
                    j
                    for j in range(i, len(self.ranks))
                    if self.ranks[j] - self.ranks[i] < self.critical
                ),
            )
            for i in range(len(self.ranks))
        ]
        return [(i, j) for i, j in groups if j > i and not any(a < i and j <= b for a, b in groups)]


def studentized_range(k: int, alpha: float = _ALPHA) -> float:
    """What the range of k standard normal values exceeds with probability alpha."""
    z = np.linspace(-9, 9, 3601)
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    normal = np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)))
    above = normal(z)
    low, high = 0.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        within = k * np.trapezoid(density * (above - normal(z - middle)) ** (k - 1), z)
        low, high = (middle, high) if within < 1 - alpha else (low, middle)
    return (low + high) / 2


def critical_difference(k: int, n: int, alpha: float = _ALPHA) -> float:
    """Nemenyi's: by how much the mean ranks of k methods over n columns must differ."""
    return studentized_range(k, alpha) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))


def ranking(table: Table) -> Ranking:
    """Raises ConfigError where fewer than two methods, or no column in which all have a mean."""
    n, k = len(table.ranked), len(table.rows)
    if not n or k < 2:
        raise ConfigError(
            f"--figure ranks: {table.title} has {k} methods and {n} columns in "
            "which each of them has a result"
        )
    found = sorted((table.mean_rank(row) or 0.0, row_head(table, row)) for row in table.rows)
    return Ranking(
        table.title,
        tuple(name for _, name in found),
        tuple(rank for rank, _ in found),
        n,
        critical_difference(k, n),
    )


@dataclass(frozen=True)
class RankFigure:
    """One diagram a table."""

    rankings: tuple[Ranking, ...]
    name: str = "ranks"

    @property
    def caption(self) -> str:
        return (
            "Mean rank over the columns of each table; bars join methods that Nemenyi's test "
            f"does not tell apart ({100 * _ALPHA:g} %). "
            "Columns share images, so that they are not as independent as the test supposes."
        )

    def as_csv(self) -> str:
        """A line a method."""
        pairs = (
            (ranking, pair)
            for ranking in self.rankings
            for pair in zip(ranking.names, ranking.ranks, strict=True)
        )
        rows = ([ranking.title, *pair, ranking.n, ranking.critical] for ranking, pair in pairs)
        return as_csv(("table", "method", "mean_rank", "columns", "critical_difference"), rows)

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

    def picture(self, form: str) -> bytes:
        """Raises ConfigError without matplotlib."""
        heights = [_height(ranking) for ranking in self.rankings]

        def fill(canvas: Any) -> None:
            places = canvas.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
            for ranking, axes in zip(self.rankings, places, strict=True):
                _paint(ranking, axes)

        return drawn(fill, (6.0, sum(heights)), form)


def ranks(tables: Sequence[Table]) -> RankFigure:
    """Of each table that can be ranked, and whose rows are of the same data and metric. Raises
    ConfigError where none can.
    """
    rivals = [
        table for table in tables if not {*NOT_RIVALS, "metric"} & set(table.row_axis.split(","))
    ]
    several = [table for table in rivals if table.ranked and len(table.rows) > 1] or rivals[:1]
    if not several:
        raise ConfigError(
            "--figure ranks: there is nothing to rank: none of these runs has finished"
        )
    return RankFigure(tuple(ranking(table) for table in several))


def _height(ranking: Ranking) -> float:
    """Inches: names in two columns below the axis, bars between."""
    return 0.9 + 0.2 * (-(-len(ranking.names) // 2)) + 0.1 * len(ranking.cliques)


def _paint(ranking: Ranking, axes: Any) -> None:
    """An axis of ranks, the best at the left; names left and right of it, each led to its place."""
    k, bars = len(ranking.names), len(ranking.cliques)
    first_name = 0.5 + 0.3 * bars
    axes.set(
        xlim=(1 - 0.32 * (k - 1), k + 0.32 * (k - 1)),
        ylim=(first_name + 0.6 * (-(-k // 2)) + 0.2, -1.6),
    )
    axes.set_axis_off()
    axes.set_title(f"{ranking.title}: mean rank over {ranking.n} columns")
    axes.plot([1, k], [0, 0], color="black", linewidth=1)
    for tick in range(1, k + 1):
        axes.plot([tick, tick], [0, -0.15], color="black", linewidth=1)
        axes.text(tick, -0.25, str(tick), ha="center", va="bottom")
    axes.plot(
        [1, 1 + ranking.critical],
        [-1.05, -1.05],
        color="black",
        linewidth=1.5,
        marker="|",
        markersize=5,
        clip_on=False,
    )
    axes.text(
        1 + ranking.critical / 2,
        -1.15,
        f"critical difference {ranking.critical:.2f}",
        ha="center",
        va="bottom",
    )
    for number, (i, j) in enumerate(ranking.cliques):
        bar = 0.35 + 0.3 * number
        axes.plot(
            [ranking.ranks[i] - 0.04, ranking.ranks[j] + 0.04],
            [bar, bar],
            color="#0072B2",
            linewidth=3,
            solid_capstyle="butt",
        )
    for place, (name, rank) in enumerate(zip(ranking.names, ranking.ranks, strict=True)):
        left = place < -(-k // 2)
        level = first_name + 0.6 * ((place if left else k - 1 - place) + 0.5)
        edge = 1 - 0.06 * (k - 1) if left else k + 0.06 * (k - 1)
        axes.plot([rank, rank, edge], [0, level, level], color="0.45", linewidth=0.8)
        axes.text(
            edge,
            level,
            f"{name}  {rank:.2f} " if left else f" {rank:.2f}  {name}",
            ha="right" if left else "left",
            va="center",
        )
