"""The one draw: clean labels (N,) and P(recorded | example) -> recorded labels (N,). Nothing here
is N x K large.

Randomness is raw PCG64 bits, so that the labels are the same on every platform and numpy version.
Every step goes over the examples in chunks, so that a hundred million of them need little more
memory than their labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypeVar

import numpy as np

from ..core.expressions import Value
from ..core.hardware import cpu_count
from ..errors import LanguageError

Rows: TypeAlias = Iterable[tuple[slice | np.ndarray, np.ndarray]]
"""Pieces (which examples (n,), their rows of probabilities (n, K)), in any order, every example
once; a row sums to 1.
"""

Seed: TypeAlias = int | tuple[int, ...]
T = TypeVar("T")

OVER = ("class", "set", "pair")  # what exact counts are exact over
EQUAL = "equal"  # the same count in every class, of symmetric noise
_CHUNK = 1 << 20  # examples handled at a time
_THREADS = 8  # at most: each holds a chunk
_CELLS = 1 << 10  # of the grid that spares a search


def complete_counts(values: dict[str, Value]) -> dict[str, Value]:
    """Counts are exact in each class, which goes without saying; refuse to say over what they are
    exact when they are not.
    """
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
    """Recorded labels (N,), in the dtype of `labels`. `probabilities`: T (K, K) by clean class, or
    `Rows` by example.

    exact (T only): the number of wrong labels is the expected one, rounded; which examples and
    which wrong labels is random. Otherwise each example is drawn by itself, so that adding examples
    changes none before. over (exact only): in each "class"; in the "set": exactly `rate` of all
    examples are drawn anew, what falls on each class is chance; for each "pair" of clean and
    recorded class, rounded down; "equal", the same count in every class whatever its size, rounded
    down. Exact in each of the `parts` (N,), if given.
    """
    labels = np.asarray(labels)
    if not isinstance(probabilities, np.ndarray):
        return _draw_rows(labels, probabilities, seed)
    if not exact:
        return _draw_alone(labels, probabilities, seed)
    K = len(probabilities)
    if exact_over == "pair":
        return _draw_pairs(labels, probabilities, grouped(labels, K, parts), seed)
    if exact_over == "set":
        table, groups, shares = (
            probabilities - (1 - rate) * np.eye(K),
            np.zeros_like(labels),
            [rate],
        )
    else:
        table = probabilities.copy()
        np.fill_diagonal(table, 0)
        groups, shares = labels, [math.fsum(row[row > 0].tolist()) for row in table]
    chosen = choose(grouped(groups, len(shares), parts), shares, seed, equal=exact_over == EQUAL)
    recorded = labels.copy()

    def redraw(part: slice) -> None:
        _pick_each(recorded[part], chosen[part].nonzero()[0], table, _words(seed, part)[:, 1])

    _each_chunk(len(labels), redraw)
    return recorded


def uniforms(seed: Seed, n: int, stream: int = 1) -> np.ndarray:
    """(n,) numbers in [0, 1); example i has the same one whatever n is. Stream 0 chooses examples,
    1 their labels.
    """
    return np.concatenate(
        [_uniform(_words(seed, part)[:, stream]) for part in chunks(n)] or [np.empty(0)]
    )


def chunks(n: int, size: int | None = None) -> Iterator[slice]:
    """[0, n) in slices."""
    size = size or _CHUNK
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def members(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """The examples of each class, in order."""
    # which numpy sorts in linear time
    small = np.uint16 if num_classes <= 1 << 16 else labels.dtype
    order = np.argsort(labels.astype(small), kind="stable")
    return np.split(order, np.bincount(labels, minlength=num_classes).cumsum()[:-1])


def expected(share: float, n: int) -> int:
    """The expected number, rounded half up."""
    return math.floor(n * share + 0.5 + 1e-9)


def _words(seed: Seed, part: slice) -> np.ndarray:
    """Two random 64-bit words for each example (n, 2)."""
    return np.random.PCG64(seed).advance(2 * part.start).random_raw((part.stop - part.start, 2))


def _uniform(words: np.ndarray) -> np.ndarray:
    """64-bit words -> [0, 1) with 53 bits."""
    return (words >> np.uint64(11)) * 2.0**-53


def _pick(row: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The classes that the uniforms choose from one row of weights."""
    edges = row.cumsum()
    # rounding may leave edges[-1] below the sum: never pick a class of weight 0
    last = row.nonzero()[0][-1]
    at = uniform * edges[-1]
    if len(at) < 8 * _CELLS:
        return np.minimum(np.searchsorted(edges, at, side="right"), last)
    # Most cells of a fine grid lie within one class and need no search, which is slow for the
    # processor's guesses are wrong.
    cell = (uniform * _CELLS).astype(np.int64)
    borders = np.searchsorted(edges, np.arange(_CELLS + 1) / _CELLS * edges[-1], side="right")
    inside = np.where(borders[:-1] == borders[1:], borders[:-1], -1)
    inside[0] = inside[-1] = -1
    found = inside[cell]
    astride = (found < 0).nonzero()[0]
    found[astride] = np.searchsorted(edges, at[astride], side="right")
    return np.minimum(found, last)


def grouped(
    labels: np.ndarray, num_groups: int, parts: np.ndarray | None
) -> tuple[np.ndarray, int]:
    """Which group of exact counts each example is in, and how many groups there are; the parts one
    after the other.
    """
    if parts is None:
        return labels, num_groups
    return parts.astype(np.int64) * num_groups + labels, num_groups * (
        int(parts.max(initial=0)) + 1
    )


def _each_chunk(n: int, work: Callable[[slice], T]) -> list[T]:
    """What `work` says of each chunk, in order; several at a time, as numpy lets threads run."""
    parts = list(chunks(n))
    if len(parts) < 2:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(min(len(parts), cpu_count(), _THREADS)) as pool:
        return list(pool.map(work, parts))


def _draw_alone(labels: np.ndarray, transition: np.ndarray, seed: Seed) -> np.ndarray:
    recorded = labels.copy()
    _each_chunk(
        len(labels),
        lambda part: _pick_each(recorded[part], slice(None), transition, _words(seed, part)[:, 1]),
    )
    return recorded


def _pick_each(
    recorded: np.ndarray, chosen: np.ndarray | slice, table: np.ndarray, words: np.ndarray
) -> None:
    """Draw the chosen examples anew, class by class, in place."""
    own, uniform = recorded[chosen], _uniform(words[chosen])
    drawn = own.copy()
    for k, places in enumerate(members(own, len(table))):
        if len(places):
            drawn[places] = _pick(table[k], uniform[places])
    recorded[chosen] = drawn


def choose(
    grouped: tuple[np.ndarray, int], shares: list[float], seed: Seed, *, equal: bool = False
) -> np.ndarray:
    """Which examples (N,) are drawn anew: the expected number of each group.

    Those of the smallest first words are chosen. equal: the same number of every class, rounded
    down. Raises LanguageError where a class has fewer.
    """
    groups, num_groups = grouped
    sizes, K = _sizes(groups, num_groups), len(shares)
    counts = np.array([expected(shares[g % K], size) for g, size in enumerate(sizes.tolist())])
    if equal:
        in_part = sizes.reshape(-1, K).sum(1)
        counts = np.repeat(np.floor(in_part * shares[0] + 1e-9).astype(np.int64) // K, K)
    if (short := (counts > sizes).nonzero()[0]).size:
        k = short[0]
        raise LanguageError(
            f"exact_over='equal' makes {counts[k]} labels of each class wrong, but class {k % K} "
            f"has {sizes[k]}: lower the rate, or leave exact_over out"
        )
    return choose_smallest(groups, counts, sizes, seed)


def _sizes(groups: np.ndarray, num_groups: int) -> np.ndarray:
    parts = _each_chunk(len(groups), lambda part: np.bincount(groups[part], minlength=num_groups))
    return sum(parts, np.zeros(num_groups, np.int64))


def choose_smallest(
    groups: np.ndarray, counts: np.ndarray, sizes: np.ndarray, seed: Seed, sigmas: float = 5.0
) -> np.ndarray:
    """Which examples (N,) have the `counts` smallest first words of their group; of equal words the
    earlier example.

    Not by sorting, which would need every word at once: the largest word that is chosen must lie
    near the group's share of all words, so only the few words around that are looked at closely.
    """
    share, chosen = counts / np.maximum(sizes, 1), np.zeros(len(groups), bool)
    reach = sigmas * np.sqrt(share * (1 - share) / np.maximum(sizes, 1)) + sigmas / np.maximum(
        sizes, 1
    )
    low, high = _as_words(share - reach), _as_words(share + reach)

    def look(part: slice) -> tuple[np.ndarray, ...]:
        words, own = _words(seed, part)[:, 0], groups[part]
        below = words < low[own]
        chosen[part] = below
        near = ((words <= high[own]) & ~below).nonzero()[0]
        return (
            near + part.start,
            words[near],
            own[near].astype(np.int64),
            np.bincount(own[below], minlength=len(counts)),
        )

    found = _each_chunk(len(groups), look)
    if not found:
        return chosen
    index, words, own = (
        np.concatenate([columns[place] for columns in found]) for place in range(3)
    )
    wanted = counts - sum(columns[3] for columns in found)
    # one group in a million
    if (wanted < 0).any() or (wanted > np.bincount(own, minlength=len(counts))).any():
        return choose_smallest(groups, counts, sizes, seed, 4 * sigmas)
    order = np.lexsort((words, own))  # stable, and `index` rises
    own = own[order]
    rank = np.arange(len(own)) - np.searchsorted(own, own)
    chosen[index[order[rank < wanted[own]]]] = True
    return chosen


def _as_words(share: np.ndarray) -> np.ndarray:
    """Shares of all words -> words; below 0 and above 1 the first and the last."""
    inside = np.clip(share, 0.0, 1.0) * 2.0**53
    return np.where(share >= 1, np.uint64(2**64 - 1), inside.astype(np.uint64) << np.uint64(11))


def _draw_pairs(
    labels: np.ndarray, transition: np.ndarray, grouped: tuple[np.ndarray, int], seed: Seed
) -> np.ndarray:
    recorded = labels.copy()
    groups, num_groups = grouped
    sizes = _sizes(groups, num_groups)
    wrong = np.tile(transition * (1 - np.eye(len(transition))), (num_groups // len(transition), 1))
    pairs = np.floor(sizes[:, None] * wrong + 1e-9).astype(np.int64)
    chosen = choose_smallest(groups, pairs.sum(1), sizes, seed)
    found = [chosen[part].nonzero()[0] for part in chunks(len(labels))]
    keys = [
        (_words(seed, part)[at, 0] >> np.uint64(32)).astype(np.uint32)
        for part, at in zip(chunks(len(labels)), found, strict=True)
    ]
    # group by group, the smallest words first
    order = np.lexsort((np.concatenate([*keys, np.empty(0, np.uint32)]), groups[chosen]))
    drawn = np.empty(len(order), recorded.dtype)
    drawn[order] = np.concatenate(
        [np.repeat(np.arange(len(row), dtype=recorded.dtype), row) for row in pairs]
    )
    recorded[chosen] = drawn
    return recorded


def _draw_rows(labels: np.ndarray, rows: Rows, seed: Seed) -> np.ndarray:
    recorded, seen = np.empty_like(labels), np.zeros(len(labels), np.int8)
    uniform = uniforms(seed, len(labels))
    for which, probabilities in rows:
        edges = probabilities.cumsum(1)
        recorded[which] = (edges > (uniform[which] * edges[:, -1])[:, None]).argmax(1)
        seen[which] += 1
    if (seen != 1).any():
        raise LanguageError(
            f"the noise gives {int((seen != 1).sum())} examples no row of "
            "probabilities, or more than one"
        )
    return recorded
