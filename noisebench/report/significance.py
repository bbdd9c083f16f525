"""Whether one cell beats another by more than the noise of its seeds."""

from __future__ import annotations

import math
import statistics

from .cells import Cell

# One-sided 5 % points of Student's t for 1 to 30 degrees of freedom; beyond, the normal's 1.645 is near enough.
_T95 = (
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753,
    1.746, 1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697,
)  # fmt: skip


def beats(best: Cell, other: Cell, *, higher_is_better: bool = True) -> bool:
    """A one-sided t test at 5 %: paired over the seeds that both have, Welch's where they share fewer than two."""
    sign = 1 if higher_is_better else -1
    shared = sorted(set(best.values) & set(other.values))
    if len(shared) > 1:
        gaps = [sign * (best.values[seed] - other.values[seed]) for seed in shared]
        return _exceeds(statistics.fmean(gaps), statistics.variance(gaps) / len(gaps), len(gaps) - 1)
    if best.std is None or other.std is None or best.mean is None or other.mean is None:
        return False
    a, b = best.std**2 / best.n, other.std**2 / other.n
    freedom = (a + b) ** 2 / (a**2 / (best.n - 1) + b**2 / (other.n - 1)) if a + b else 1
    return _exceeds(sign * (best.mean - other.mean), a + b, max(1, int(freedom)))


def _exceeds(gap: float, variance: float, freedom: int) -> bool:
    point = _T95[freedom - 1] if freedom <= len(_T95) else 1.645
    return gap > point * math.sqrt(variance)
