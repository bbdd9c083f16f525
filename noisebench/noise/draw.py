"""The one draw: clean labels (N,) and P(recorded | example) -> recorded labels (N,). Nothing here is N x K large.

Randomness is raw PCG64 bits, so that the labels are the same on every platform and numpy version. Every step goes over
the examples in chunks, so that a hundred million of them need little more memory than their labels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np

from ..errors import LanguageError

Rows: TypeAlias = Iterable[tuple[slice | np.ndarray, np.ndarray]]
"""Pieces (which examples (n,), their rows of probabilities (n, K)), in any order, every example once; a row sums to 1."""

Seed: TypeAlias = int | tuple[int, ...]

OVER = ("class", "set", "pair")  # what exact counts are exact over
_CHUNK = 1 << 20  # examples handled at a time
_MOST_BINS = 20  # log2 of the counters that find who is chosen


def draw(
    labels: np.ndarray,
    probabilities: np.ndarray | Rows,
    seed: Seed,
    *,
    exact: bool = True,
    over: str = "class",
    rate: float = 0.0,
    parts: np.ndarray | None = None,
) -> np.ndarray:
    """Recorded labels (N,), in the dtype of `labels`. `probabilities`: T (K, K) by clean class, or `Rows` by example.

    exact (T only): the number of wrong labels is the expected one, rounded; which examples and which wrong labels is random.
    Otherwise each example is drawn by itself, so that adding examples changes none before.
    over (exact only): in each "class"; in the "set": exactly `rate` of all examples are drawn anew, what falls on each class
    is chance; for each "pair" of clean and recorded class, rounded down. Exact in each of the `parts` (N,), if given.
    """
    labels = np.asarray(labels)
    if not isinstance(probabilities, np.ndarray):
        return _draw_rows(labels, probabilities, seed)
    if not exact:
        return _draw_alone(labels, probabilities, seed)
    K = len(probabilities)
    if over == "pair":
        return _draw_pairs(labels, probabilities, _grouped(labels, K, parts), seed)
    if over == "set":
        table, groups, shares = probabilities - (1 - rate) * np.eye(K), np.zeros_like(labels), [rate]
    else:
        table = probabilities * (1 - np.eye(K))
        groups, shares = labels, [math.fsum(row) for row in table]
    return _redraw(labels, table, _grouped(groups, len(shares), parts), shares, seed)


def uniforms(seed: Seed, n: int, stream: int = 1) -> np.ndarray:
    """(n,) numbers in [0, 1); example i has the same one whatever n is. Stream 0 chooses examples, 1 their labels."""
    return np.concatenate([_uniform(_words(seed, part)[:, stream]) for part in chunks(n)] or [np.empty(0)])


def chunks(n: int, size: int | None = None) -> Iterator[slice]:
    """[0, n) in slices."""
    size = size or _CHUNK
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def members(labels: np.ndarray, num_classes: int) -> list[np.ndarray]:
    """The examples of each class, in order."""
    small = np.uint16 if num_classes <= 1 << 16 else labels.dtype  # which numpy sorts in linear time
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
    last = row.nonzero()[0][-1]  # rounding may leave edges[-1] below the sum: never pick a class of weight 0
    return np.minimum(np.searchsorted(edges, uniform * edges[-1], side="right"), last)


def _grouped(labels: np.ndarray, num_groups: int, parts: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Which group of exact counts each example is in, and how many groups there are; the parts one after the other."""
    if parts is None:
        return labels, num_groups
    return parts.astype(np.int64) * num_groups + labels, num_groups * (int(parts.max(initial=0)) + 1)


def _draw_alone(labels: np.ndarray, transition: np.ndarray, seed: Seed) -> np.ndarray:
    recorded = labels.copy()
    for part in chunks(len(labels)):
        _pick_each(recorded[part], labels[part], np.arange(part.stop - part.start), transition, _words(seed, part)[:, 1])
    return recorded


def _pick_each(recorded: np.ndarray, labels: np.ndarray, chosen: np.ndarray, table: np.ndarray, words: np.ndarray) -> None:
    """Draw the chosen examples anew, class by class, in place."""
    uniform = _uniform(words[chosen])
    for k, places in enumerate(members(labels[chosen], len(table))):
        if len(places):
            recorded[chosen[places]] = _pick(table[k], uniform[places])


def _redraw(labels: np.ndarray, table: np.ndarray, grouped: tuple[np.ndarray, int], shares: list[float], seed: Seed) -> np.ndarray:
    """In each group draw the expected number of examples anew, from their class's row of the table."""
    recorded = labels.copy()
    for part, chosen, words in _chosen(grouped, shares, seed):
        _pick_each(recorded[part], labels[part], chosen, table, words[:, 1])
    return recorded


def _chosen(grouped: tuple[np.ndarray, int], shares: list[float], seed: Seed) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """By chunk: the examples chosen in it, and all its words. Chosen are those of the smallest first word in each group.

    Not by sorting, which would need every word at once: the words are counted in bins, and only the bin in which a group's
    count is reached is looked at closely.
    """
    groups, num_groups = grouped
    n = len(groups)
    bits = max(0, min(_MOST_BINS - num_groups.bit_length(), (n // num_groups).bit_length()))
    histogram = np.zeros((num_groups, 1 << bits), np.int64)
    for part in chunks(n):
        at = groups[part].astype(np.int64) << bits | _bins(_words(seed, part)[:, 0], bits)
        histogram += np.bincount(at, minlength=histogram.size).reshape(histogram.shape)
    sizes = histogram.sum(1)
    counts = np.array([expected(shares[g % len(shares)], int(size)) for g, size in enumerate(sizes)])
    reached = histogram.cumsum(1)
    edge = (reached < counts[:, None]).sum(1)  # the bin in which the count is reached
    edge[counts == 0] = -1
    before = np.where(edge > 0, reached[np.arange(num_groups), np.maximum(edge - 1, 0)], 0)
    extra = _smallest_in_bin(groups, edge, counts - before, bits, seed)
    for part in chunks(n):
        words = _words(seed, part)
        below = _bins(words[:, 0], bits) < edge[groups[part]]
        below[extra[(extra >= part.start) & (extra < part.stop)] - part.start] = True
        yield part, below.nonzero()[0], words


def _bins(words: np.ndarray, bits: int) -> np.ndarray:
    return (words >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros(len(words), np.int64)


def _smallest_in_bin(groups: np.ndarray, edge: np.ndarray, wanted: np.ndarray, bits: int, seed: Seed) -> np.ndarray:
    """The examples of the smallest words within each group's edge bin, as many as are wanted."""
    found = []
    for part in chunks(len(groups)):
        words = _words(seed, part)[:, 0]
        here = (_bins(words, bits) == edge[groups[part]]).nonzero()[0]
        found.append((here + part.start, words[here], groups[part][here].astype(np.int64)))
    if not found:
        return np.empty(0, np.int64)
    index, words, own = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((index, words, own))
    own = own[order]
    rank = np.arange(len(own)) - np.searchsorted(own, own)
    return index[order[rank < wanted[own]]]


def _draw_pairs(labels: np.ndarray, transition: np.ndarray, grouped: tuple[np.ndarray, int], seed: Seed) -> np.ndarray:
    recorded = labels.copy()
    groups, num_groups = grouped
    keys = np.concatenate([_words(seed, part)[:, 0] for part in chunks(len(labels))] or [np.empty(0, np.uint64)])
    for group, places in enumerate(members(groups, num_groups)):
        wrong = transition[group % len(transition)].copy()
        wrong[group % len(transition)] = 0
        counts = np.floor(len(places) * wrong + 1e-9).astype(np.int64)
        chosen = places[np.argsort(keys[places], kind="stable")[: counts.sum()]]
        recorded[chosen] = np.repeat(np.arange(len(wrong)), counts)
    return recorded


def _draw_rows(labels: np.ndarray, rows: Rows, seed: Seed) -> np.ndarray:
    recorded, seen = np.empty_like(labels), np.zeros(len(labels), np.int8)
    uniform = uniforms(seed, len(labels))
    for which, probabilities in rows:
        edges = probabilities.cumsum(1)
        recorded[which] = (edges > (uniform[which] * edges[:, -1])[:, None]).argmax(1)
        seen[which] += 1
    if (seen != 1).any():
        raise LanguageError(f"the noise gives {int((seen != 1).sum())} examples no row of probabilities, or more than one")
    return recorded
