"""Samples noisy labels (N,) from true labels (N,) and P(noisy label | example). The full (N, K)
table is never in memory.

Randomness comes from raw PCG64 bits, so that the labels are the same on every platform and numpy
version. Each example has two 64-bit words: the first decides whether it is chosen, the second its
label.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np

from ..core.expressions import Value
from ..errors import LanguageError

Rows: TypeAlias = Iterable[tuple[slice | np.ndarray, np.ndarray]]
"""Chunks (examples (n,), their rows of probabilities (n, K)) in any order, each example exactly
once; rows sum to 1.
"""

Seed: TypeAlias = int | tuple[int, ...]

OVER = ("class", "set", "pair")  # groups in which counts are exact
EQUAL = "equal"  # symmetric noise: the same count in every class


def complete_counts(values: dict[str, Value]) -> dict[str, Value]:
    """Omits the default of `exact_over`. Raises LanguageError if it has no effect."""
    if values["exact_over"] == OVER[0]:
        return {**values, "exact_over": None}
    if values["exact_over"] is not None and values["exact"] is False:
        raise LanguageError("exact_over has no effect with exact=False")
    return values


def sample(
    labels: np.ndarray,
    probabilities: np.ndarray | Rows,
    seed: Seed,
    *,
    exact: bool = True,
    exact_over: str = "class",
    rate: float = 0.0,
    parts: np.ndarray | None = None,
) -> np.ndarray:
    """Returns noisy labels (N,), in the dtype of `labels`. `probabilities`: T (K, K) by true class,
    or `Rows` by example.

    exact (T only): the number of incorrect labels equals the expected number, rounded; which
    examples get which incorrect labels is random. Otherwise each example is sampled independently,
    so that adding examples does not change earlier ones. exact_over (exact only): "class", the
    counts of each class; "set", exactly `rate` of all examples are resampled, the count of each
    class is random; "pair", the counts of each pair of true and noisy class, rounded down; "equal",
    the same count in every class regardless of its size, rounded down. With `parts` (N,), counts
    are exact within each part.
    """
    labels = np.asarray(labels)
    if not isinstance(probabilities, np.ndarray):
        return _sample_rows(labels, probabilities, seed)
    if not exact:
        return _resample(labels, np.ones(len(labels), bool), probabilities, seed)
    K = len(probabilities)
    if exact_over == "pair":
        return _sample_pairs(labels, probabilities, grouped(labels, K, parts), seed)
    if exact_over == "set":
        table = probabilities - (1 - rate) * np.eye(K)
        groups, shares = np.zeros_like(labels), [rate]
    else:
        table = probabilities.copy()
        np.fill_diagonal(table, 0)
        groups, shares = labels, [math.fsum(row[row > 0].tolist()) for row in table]
    chosen = choose(grouped(groups, len(shares), parts), shares, seed, equal=exact_over == EQUAL)
    return _resample(labels, chosen, table, seed)


def uniforms(seed: Seed, n: int) -> np.ndarray:
    """(n,) numbers in [0, 1) with 53 bits; the number of example i does not depend on n."""
    return (np.random.PCG64(seed).random_raw((n, 2))[:, 1] >> np.uint64(11)) * 2.0**-53


def chunks(n: int, size: int) -> Iterator[slice]:
    """Splits [0, n) into slices."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def members(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """The examples of each class, in order."""
    # numpy sorts 16-bit integers in linear time
    small = np.uint16 if num_classes <= 1 << 16 else labels.dtype
    order = np.argsort(labels.astype(small), kind="stable")
    return np.split(order, np.bincount(labels, minlength=num_classes).cumsum()[:-1])


def expected(share: float, n: int) -> int:
    """The expected number, rounded half up."""
    return math.floor(n * share + 0.5 + 1e-9)


def grouped(
    labels: np.ndarray, num_groups: int, parts: np.ndarray | None
) -> tuple[np.ndarray, int]:
    """The group in which each example (N,) is counted, and the number of groups: those of the first
    part, then those of the next.
    """
    if parts is None:
        return labels, num_groups
    num_parts = int(parts.max(initial=0)) + 1
    return parts.astype(np.int64) * num_groups + labels, num_groups * num_parts


def _resample(labels: np.ndarray, chosen: np.ndarray, table: np.ndarray, seed: Seed) -> np.ndarray:
    """Resamples the chosen examples class by class from rows of weights (K, K)."""
    noisy, before = labels.copy(), labels[chosen]
    uniform, after = uniforms(seed, len(labels))[chosen], before.copy()
    for k, of_class in enumerate(members(before, len(table))):
        if len(of_class):
            edges = table[k].cumsum()
            picked = np.searchsorted(edges, uniform[of_class] * edges[-1], side="right")
            # rounding may leave edges[-1] below the sum: never pick a class of weight 0
            after[of_class] = np.minimum(picked, table[k].nonzero()[0][-1])
    noisy[chosen] = after
    return noisy


def choose(
    grouped: tuple[np.ndarray, int], shares: list[float], seed: Seed, *, equal: bool = False
) -> np.ndarray:
    """Which examples (N,) are resampled: the expected number of each group, those with the smallest
    first words.

    equal: the same number of each class, rounded down. Raises LanguageError if a class has fewer
    examples.
    """
    groups, num_groups = grouped
    sizes, K = np.bincount(groups, minlength=num_groups), len(shares)
    counts = np.array([expected(shares[g % K], size) for g, size in enumerate(sizes.tolist())])
    if equal:
        in_part = sizes.reshape(-1, K).sum(1)
        counts = np.repeat(np.floor(in_part * shares[0] + 1e-9).astype(np.int64) // K, K)
    if (short := (counts > sizes).nonzero()[0]).size:
        k = short[0]
        raise LanguageError(
            f"exact_over='equal' needs {counts[k]} incorrect labels in each class, but class "
            f"{k % K} has {sizes[k]} examples: lower the rate, or omit exact_over"
        )
    return choose_smallest(groups, counts, seed)


def choose_smallest(groups: np.ndarray, counts: np.ndarray, seed: Seed) -> np.ndarray:
    """Which examples (N,) have the `counts` smallest first words of their group; ties go to the
    earlier example.
    """
    order = np.lexsort((np.random.PCG64(seed).random_raw((len(groups), 2))[:, 0], groups))
    sizes = np.bincount(groups, minlength=len(counts))
    rank = np.arange(len(groups)) - np.repeat(sizes.cumsum() - sizes, sizes)
    chosen = np.zeros(len(groups), bool)
    chosen[order[rank < np.repeat(counts, sizes)]] = True
    return chosen


def _sample_pairs(
    labels: np.ndarray, transition: np.ndarray, grouped: tuple[np.ndarray, int], seed: Seed
) -> np.ndarray:
    noisy, K = labels.copy(), len(transition)
    groups, num_groups = grouped
    sizes = np.bincount(groups, minlength=num_groups)
    wrong = np.tile(transition * (1 - np.eye(K)), (num_groups // K, 1))
    pairs = np.floor(sizes[:, None] * wrong + 1e-9).astype(np.int64)
    chosen = choose_smallest(groups, pairs.sum(1), seed)
    keys = np.random.PCG64(seed).random_raw((len(labels), 2))[chosen, 0] >> np.uint64(32)
    order = np.lexsort((keys, groups[chosen]))  # group by group, the smallest words first
    after = np.empty(len(order), noisy.dtype)
    after[order] = np.repeat(np.tile(np.arange(K), len(pairs)), pairs.ravel())
    noisy[chosen] = after
    return noisy


def _sample_rows(labels: np.ndarray, rows: Rows, seed: Seed) -> np.ndarray:
    noisy, count = np.empty_like(labels), np.zeros(len(labels), np.int8)
    uniform = uniforms(seed, len(labels))
    for which, probabilities in rows:
        edges = probabilities.cumsum(1)
        noisy[which] = (edges > (uniform[which] * edges[:, -1])[:, None]).argmax(1)
        count[which] += 1
    if (count != 1).any():
        raise LanguageError(
            f"the noise must give each example one row of probabilities; "
            f"{int((count != 1).sum())} examples have none or several"
        )
    return noisy
