"""Critical-difference diagrams: mean ranks of methods over noises, and which of them differ
significantly. Demšar 2006.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ConfigError
from ..table import NOT_RIVALS, Table
from .style import Figure

_ALPHA = 0.05


@dataclass(frozen=True)
class Ranking:
    """Mean ranks over n columns in which every method has a mean; two that differ by less than
    `critical` do not differ significantly.
    """

    title: str
    names: tuple[str, ...]  # the best first
    ranks: tuple[float, ...]
    n: int
    critical: float

    @property
    def cliques(self) -> list[tuple[int, int]]:
        """First and last position of each largest group without a significant difference."""
        groups = []
        for i, rank in enumerate(self.ranks):
            near = [j for j in range(i, len(self.ranks)) if self.ranks[j] - rank < self.critical]
            groups.append((i, max(near)))
        return [(i, j) for i, j in groups if j > i and not any(a < i and j <= b for a, b in groups)]


def critical_difference(k: int, n: int, alpha: float = _ALPHA) -> float:
    """Nemenyi's: by how much the mean ranks of k methods over n columns must differ."""
    from scipy.stats import studentized_range

    quantile = float(studentized_range.ppf(1 - alpha, k, math.inf))
    return quantile / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))


def ranking(table: Table) -> Ranking:
    """Raises ConfigError where fewer than two methods, or no column in which all have a mean."""
    n, k = len(table.ranked), len(table.rows)
    if not n or k < 2:
        raise ConfigError(
            f"--figure ranks: {table.title} has {k} methods and {n} columns in "
            "which each of them has a result"
        )
    pairs = sorted((table.mean_rank(row) or 0.0, table.row_head(row)) for row in table.rows)
    ranks, names = zip(*pairs, strict=True)
    return Ranking(table.title, names, ranks, n, critical_difference(k, n))


@dataclass(frozen=True)
class RankFigure(Figure):
    """One diagram a table."""

    rankings: tuple[Ranking, ...]
    name: str = "ranks"
    caption: str = (
        "Mean rank over the columns of each table; bars join methods that do not differ "
        f"significantly by Nemenyi's test ({100 * _ALPHA:g} %). "
        "Columns share images, so that they are not as independent as the test supposes."
    )
    columns: ClassVar = ("table", "method", "mean_rank", "columns", "critical_difference")

    def rows(self) -> Iterator[list[Any]]:
        """A line a method."""
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
    def inches(self) -> tuple[float, float]:
        return 6.0, sum(map(_height, self.rankings))

    def draw(self, fig: Any) -> None:
        heights = list(map(_height, self.rankings))
        grid = fig.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
        for ranking, ax in zip(self.rankings, grid[:, 0], strict=True):
            _draw(ranking, ax)


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


def _draw(ranking: Ranking, ax: Any) -> None:
    """An axis of ranks, the best at the left; names left and right of it, each with a line to its
    rank.
    """
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
