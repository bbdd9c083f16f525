"""Gaps and the noise of their seeds: tests and intervals by Student's t, Holm's correction, and
variances that learn from one another.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from .aggregate import Cell
from .metrics import METRICS

FEWEST_SEEDS = 3  # whose variance is believed where it is not known of how many examples a share is
ROUNDING = 1e-24  # a variance of what floating point loses
_LEVEL = 0.05
_TINY = 1e-30
_HALVINGS = 40  # to the last digits
_MOST_FREEDOM = 1e6  # beyond it Student's t is the normal


@dataclass(frozen=True)
class Difference:
    """A cell less another: the mean, its 95 % interval where there is one, and of how many pairs of
    seeds; 0: of all seeds, unpaired.

    floored: the seeds' own variance is below `least_variance`, which stands in its place; exact: it
    is the same in every seed and no count, which is no chance: a time, a cost, a probability.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int
    oracle: bool  # of either cell
    floored: bool = False
    exact: bool = False


class _Gap(NamedTuple):
    """The gap of two means, its own variance, the freedom of that, and the number of seeds (of the
    side with fewer).
    """

    mean: float
    variance: float
    df: float
    seeds: int
    share: float  # the variance of the gap, as a multiple of that of one pair's difference


def significantly_better(best: Cell, other: Cell, *, higher_is_better: bool = True) -> bool:
    """Whether the 95 % interval of their difference lies on the better side of 0, or the difference
    itself where it is exact.
    """
    found = difference(best, other)
    if found is None:
        return False
    low, high = (found.mean, found.mean) if found.exact else (found.low, found.high)
    return low is not None and high is not None and (low > 0 if higher_is_better else high < 0)


def least_variance(difference: float, seeds: int, num_examples: int) -> float:
    """Below which the variance over seeds of a difference of two shares, each of the same m
    examples, is not believed.

    max(1 / m^2, |d| (1 - |d|) / (m (seeds - 1))). Shares move in steps of 1/m, and few seeds may
    agree by chance: a difference d takes at least m |d| examples that only one of the two has
    right, whose number has the binomial variance |d| (1 - |d|) / m. That counts as one of the
    seeds' squared deviations, so that many seeds outweigh it.
    """
    size = min(abs(difference), 1.0)
    return max(1 / num_examples**2, size * (1 - size) / (num_examples * (seeds - 1)))


def difference(own: Cell, other: Cell) -> Difference | None:
    """`own` less `other`, by Student's t over the seeds that pair, by Welch's where none does; None
    where one has no value.

    The variance is at least `least_variance`. No interval where there is one pair, or where none
    pairs and one has a single value; nor, where it is not known of how many examples a share is,
    from two seeds; nor of no width.
    """
    if own.mean is None or other.mean is None:
        return None
    gaps = _gaps(own, other)
    gap = _paired(gaps) if gaps else _unpaired(own, other)
    mean = statistics.fmean(gaps) if gaps else own.mean - other.mean
    oracle = own.oracle or other.oracle
    variance = None if gap is None else _variance(gap, own, other)
    if gap is None or variance is None:
        exact = gap is not None and gap.variance <= ROUNDING and not METRICS[own.metric].counted
        return Difference(mean, None, None, len(gaps), oracle, exact=exact)
    reach = student_quantile(_LEVEL / 2, gap.df) * math.sqrt(variance)
    return Difference(mean, mean - reach, mean + reach, len(gaps), oracle, variance > gap.variance)


def _variance(gap: _Gap, own: Cell, other: Cell) -> float | None:
    """That of the gap, or the least that is believed; None where neither tells anything."""
    if own.num_examples and other.num_examples:
        least = least_variance(gap.mean, gap.seeds, min(own.num_examples, other.num_examples))
        return max(gap.variance, gap.share * least)
    few = METRICS[own.metric].counted and gap.seeds < FEWEST_SEEDS
    return None if few or gap.variance <= ROUNDING else gap.variance


def _gaps(own: Cell, other: Cell) -> list[float]:
    return [own.values[seed] - other.values[seed] for seed in own.paired_with(other)]


def _paired(gaps: Sequence[float]) -> _Gap | None:
    """Student's; None below two pairs."""
    n = len(gaps)
    return (
        _Gap(statistics.fmean(gaps), statistics.variance(gaps) / n, n - 1, n, 1 / n)
        if n > 1
        else None
    )


def _unpaired(own: Cell, other: Cell) -> _Gap | None:
    """Welch's; None where one has less than two values."""
    if own.std is None or other.std is None or own.mean is None or other.mean is None:
        return None
    a, b, fewest = own.std**2 / own.n, other.std**2 / other.n, min(own.n, other.n)
    freedom = (
        (a + b) ** 2 / (a**2 / (own.n - 1) + b**2 / (other.n - 1))
        if a + b > ROUNDING
        else fewest - 1
    )
    return _Gap(own.mean - other.mean, a + b, freedom, fewest, (1 / own.n + 1 / other.n) / 2)


def tail_of_gap(gap: float, variance: float, freedom: float) -> float:
    """The chance of a gap this large or larger where there is none; `variance` is that of the gap
    itself.
    """
    if variance <= 0:
        return 0.0 if gap > 0 else 1.0
    return student_tail(gap / math.sqrt(variance), freedom)


def student_tail(t: float, freedom: float) -> float:
    """P(T > t) of Student's t, by the incomplete beta function: I_x(freedom / 2, 1/2) / 2 with x =
    freedom / (freedom + t^2).
    """
    if freedom >= _MOST_FREEDOM:
        return math.erfc(t / math.sqrt(2)) / 2
    half = _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2
    return half if t >= 0 else 1 - half


@lru_cache
def student_quantile(chance: float, freedom: float) -> float:
    """The t with P(T > t) = chance, which is below a half; by halving: the tail falls."""
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > chance:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, freedom) > chance else (low, middle)
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised one, I_x(a, b), by its continued fraction; Press et al., Numerical Recipes,
    6.4.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x > (a + 1) / (a + b + 2):  # there the fraction converges slowly, its mirror image fast
        return 1 - front * _fraction(b, a, 1 - x) / b
    return front * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 10_000):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / ((1 + step * d) or _TINY), (1 + step / c) or _TINY
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def holm(chances: Sequence[float]) -> list[float]:
    """Adjusted p values: refusing those below a level keeps the chance of one false alarm or more
    below it. Holm 1979.
    """
    adjusted, worst = [0.0] * len(chances), 0.0
    for place, number in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        worst = max(worst, min(1.0, (len(chances) - place) * chances[number]))
        adjusted[number] = worst
    return adjusted


def moderated(groups: Sequence[Sequence[tuple[float, int]]]) -> list[list[tuple[float, float]]]:
    """Sample variances with their degrees of freedom, by column -> each drawn towards its column's,
    with the freedom it gains.

    How far is decided by how much the variances of a column differ beyond chance, over all columns.
    Pooling alone would take steady and shaky methods for equally noisy and call the shaky ones'
    chance a drop. The estimate of the prior's freedom is lowered by a standard error, and the prior
    is half way between the geometric and the plain mean: by simulation the false alarms of a suite
    stay below the level then. Smyth 2004.
    """
    logs = [
        [(math.log(v) - _digamma(f / 2) + math.log(f / 2), f) for v, f in group if v > 0]
        for group in groups
    ]
    centres = [statistics.fmean(e for e, _ in group) if group else None for group in logs]
    known = [
        (group, centre) for group, centre in zip(logs, centres, strict=True) if centre is not None
    ]
    free = sum(len(group) - 1 for group, _ in known)
    freedom = 0.0
    if free > 0:
        scatter = sum((e - centre) ** 2 for group, centre in known for e, _ in group) / free
        chance = statistics.fmean(_trigamma(f / 2) for group, _ in known for _, f in group)
        freedom = 2 * _inverse_trigamma(max(scatter * (1 + math.sqrt(2 / free)) - chance, 1e-3))
    return [_drawn(group, centre, freedom) for group, centre in zip(groups, centres, strict=True)]


def _drawn(
    group: Sequence[tuple[float, int]], centre: float | None, prior: float
) -> list[tuple[float, float]]:
    most = sum(f for _, f in group)
    if centre is None or prior == 0:
        return [(v, float(f)) for v, f in group]
    geometric = math.exp(centre + _digamma(prior / 2) - math.log(prior / 2))
    middle = (geometric + sum(v * f for v, f in group) / most) / 2
    return [((prior * middle + f * v) / (prior + f), min(prior + f, float(most))) for v, f in group]


def _digamma(x: float) -> float:
    value = 0.0
    while x < 8:
        value, x = value - 1 / x, x + 1
    y = 1 / (x * x)
    return value + math.log(x) - 0.5 / x - y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y / 240)))


def _trigamma(x: float) -> float:
    value = 0.0
    while x < 8:
        value, x = value + 1 / (x * x), x + 1
    y = 1 / (x * x)
    return value + 1 / x + y / 2 + y / x * (1 / 6 - y * (1 / 30 - y * (1 / 42 - y / 30)))


def _inverse_trigamma(y: float) -> float:
    """By halving: the function falls."""
    low, high = 1e-6, 1e6
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _trigamma(middle) > y else (low, middle)
    return low
