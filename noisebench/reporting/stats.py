"""The significance of differences over seeds: Student's t, Welch's t, Holm's correction, and
moderated variances.

scipy.special is imported by the functions that need it, since it takes 0.1 s or more.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .aggregate import Cell
from .metrics import METRICS

# minimum number of seeds for a variance where the number of examples of a share is unknown
FEWEST_SEEDS = 3
ROUNDING = 1e-24  # a variance below it is due to rounding
# Student's t at 97.5 % for 1 to 30 degrees of freedom, as scipy.special.stdtrit gives it
_QUANTILES = (
    12.706204736174694,
    4.302652729749462,
    3.1824463052837078,
    2.7764451051977934,
    2.5705818356363146,
    2.4469118511449786,
    2.364624251592784,
    2.306004135204166,
    2.262157162798205,
    2.228138851986274,
    2.200985160091639,
    2.1788128296672284,
    2.1603686564627913,
    2.144786687917804,
    2.131449545559776,
    2.1199052992212546,
    2.1098155778333156,
    2.1009220402410382,
    2.0930240544083087,
    2.085963447265864,
    2.0796138447276795,
    2.0738730679040254,
    2.0686576104190486,
    2.0638985616280245,
    2.0595385527532972,
    2.0555294386428735,
    2.0518305164802846,
    2.0484071417952454,
    2.045229642132703,
    2.0422724563012378,
)


@dataclass(frozen=True)
class Difference:
    """A cell minus another: the mean, its 95 % interval if there is one, and the number of paired
    seeds (0: unpaired, over all seeds).

    floored: `least_variance` is used because the variance over seeds is smaller; exact: it is the
    same for every seed and not a share of examples, so not by chance: a time, a cost, a
    probability.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int
    oracle: bool  # of either cell
    floored: bool = False
    exact: bool = False


def significantly_better(best: Cell, other: Cell, *, higher_is_better: bool = True) -> bool:
    """Whether the 95 % interval of the difference, or an exact difference itself, is on the better
    side of 0.
    """
    gap = difference(best, other)
    if gap is None:
        return False
    low, high = (gap.mean, gap.mean) if gap.exact else (gap.low, gap.high)
    return low is not None and high is not None and (low > 0 if higher_is_better else high < 0)


def least_variance(difference: float, seeds: int, num_examples: int) -> float:
    """The minimum variance over seeds of a difference of two shares, each of the same m examples.

    max(1 / m^2, |d| (1 - |d|) / (m (seeds - 1))). Shares have steps of 1/m, and few seeds may agree
    by chance: a difference d needs at least m |d| examples that only one of the two predicts
    correctly, whose number has the binomial variance |d| (1 - |d|) / m. It counts as the squared
    deviation of one seed, so that many seeds outweigh it.
    """
    size = min(abs(difference), 1.0)
    return max(1 / num_examples**2, size * (1 - size) / (num_examples * (seeds - 1)))


def difference(cell: Cell, other: Cell) -> Difference | None:
    """`cell` minus `other`, by Student's t over paired seeds, or by Welch's t if there are none;
    None if one has no value.

    The variance is at least `least_variance`. No interval for a single pair, for unpaired cells of
    which one has a single value, for a variance of 0, or for two seeds of a share of an unknown
    number of examples.
    """
    if cell.mean is None or other.mean is None:
        return None
    gaps = [cell.values[seed] - other.values[seed] for seed in cell.paired_with(other)]
    pairs, seeds = len(gaps), len(gaps) or min(cell.n, other.n)
    mean = statistics.fmean(gaps) if gaps else cell.mean - other.mean
    oracle, counted = cell.oracle or other.oracle, METRICS[cell.metric].counted
    # share: the variance as a multiple of the variance of one pair's difference
    if pairs > 1:
        variance, df, share = statistics.variance(gaps) / pairs, float(pairs - 1), 1 / pairs
    elif not pairs and cell.std is not None and other.std is not None:
        a, b, df = cell.std**2 / cell.n, other.std**2 / other.n, float(seeds - 1)
        variance, share = a + b, (1 / cell.n + 1 / other.n) / 2
        if variance > ROUNDING:
            df = variance**2 / (a**2 / (cell.n - 1) + b**2 / (other.n - 1))
    else:
        return Difference(mean, None, None, pairs, oracle)
    least = 0.0
    if cell.num_examples and other.num_examples:
        size = min(cell.num_examples, other.num_examples)
        least = share * least_variance(mean, seeds, size)
    elif variance <= ROUNDING or (counted and seeds < FEWEST_SEEDS):
        exact = variance <= ROUNDING and not counted
        return Difference(mean, None, None, pairs, oracle, exact=exact)
    reach = _quantile(df) * math.sqrt(max(variance, least))
    return Difference(mean, mean - reach, mean + reach, pairs, oracle, least > variance)


def _quantile(df: float) -> float:
    """Student's t at 97.5 %."""
    if df in range(1, len(_QUANTILES) + 1):
        return _QUANTILES[int(df) - 1]
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.975))


def tail_of_gap(gap: float, variance: float, df: float) -> float:
    """The one-sided p value of a difference; variance: of the difference."""
    if variance <= 0:
        return 0.0 if gap > 0 else 1.0
    from scipy.special import stdtr

    return float(stdtr(df, -gap / math.sqrt(variance)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values: rejecting those below a level keeps the family-wise error rate below it.
    Holm 1979.
    """
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = worst
    return adjusted


def moderated(groups: Sequence[Sequence[tuple[float, int]]]) -> list[list[tuple[float, float]]]:
    """Sample variances and degrees of freedom, by column -> variances shrunk towards their
    column's, with the increased degrees of freedom.

    The amount of shrinkage depends on how much the variances within columns differ beyond chance.
    Full pooling would treat stable and unstable methods as equally noisy, and report chance of the
    unstable ones as a drop. The estimate of the prior's degrees of freedom is lowered by a standard
    error, and the prior is half way between the geometric and the arithmetic mean: in simulations
    the false alarms of a suite then stay below the level. Smyth 2004.
    """
    from scipy.special import digamma, polygamma

    logs = [
        [(math.log(v) - digamma(df / 2) + math.log(df / 2), df) for v, df in group if v > 0]
        for group in groups
    ]
    centres = [statistics.fmean(e for e, _ in group) if group else None for group in logs]
    known = [
        (group, centre) for group, centre in zip(logs, centres, strict=True) if centre is not None
    ]
    free = sum(len(group) - 1 for group, _ in known)
    prior = 0.0
    if free > 0:
        scatter = sum((e - centre) ** 2 for group, centre in known for e, _ in group) / free
        chance = statistics.fmean(
            float(polygamma(1, df / 2)) for group, _ in known for _, df in group
        )
        prior = 2 * _inverse_trigamma(max(scatter * (1 + math.sqrt(2 / free)) - chance, 1e-3))
    shrunk = []
    for group, centre in zip(groups, centres, strict=True):
        if centre is None or prior == 0:
            shrunk.append([(v, float(df)) for v, df in group])
            continue
        total = sum(df for _, df in group)
        geometric = math.exp(centre + digamma(prior / 2) - math.log(prior / 2))
        middle = (geometric + sum(v * df for v, df in group) / total) / 2
        shrunk.append(
            [
                ((prior * middle + df * v) / (prior + df), min(prior + df, float(total)))
                for v, df in group
            ]
        )
    return shrunk


def _inverse_trigamma(y: float) -> float:
    """Newton's method on 1 / trigamma, which increases towards the root. Smyth 2004, appendix."""
    from scipy.special import polygamma

    x, step = 0.5 + 1 / y, math.inf
    while abs(step) > 1e-13 * x:
        trigamma = float(polygamma(1, x))
        step = trigamma * (1 - trigamma / y) / float(polygamma(2, x))
        x += step
    return x
