"""The one draw: clean labels (N,) and P(recorded | example) -> recorded labels (N,). Nothing here is N x K large.

Randomness is raw PCG64 bits, so that the labels are the same on every platform and numpy version.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

Rows: TypeAlias = Callable[[slice], np.ndarray]
"""examples [start:stop) -> rows of probabilities (n, K); a row must sum to 1."""

_CHUNK = 4096  # rows of probabilities held at a time


def draw(labels: np.ndarray, probabilities: np.ndarray | Rows, seed: int, *, exact: bool = True) -> np.ndarray:
    """Recorded labels (N,), int64. `probabilities`: T (K, K) by clean class, or `Rows` by example.

    exact (T only): in each class the number of wrong labels is the expected one, rounded; which examples and which
    wrong labels is random. Otherwise each example is drawn by itself, so that adding examples changes none before.
    """
    labels = np.asarray(labels, np.int64)
    if callable(probabilities):
        return _draw_rows(labels, probabilities, seed)
    return _draw_exact(labels, probabilities, seed) if exact else _draw_alone(labels, probabilities, seed)


def _uniform(bits: np.ndarray) -> np.ndarray:
    """Raw 64-bit words -> [0, 1) with 53 bits."""
    return (bits >> np.uint64(11)) * 2.0**-53


def _bits(seed: int, n: int, streams: int) -> list[np.ndarray]:
    """`streams` random words for each of n examples; example i has the same words whatever n is."""
    return list(np.random.PCG64(seed).random_raw((n, streams)).T)


def _pick(row: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The classes that the uniforms choose from one row of probabilities."""
    edges = row.cumsum()
    last = row.nonzero()[0][-1]  # rounding may leave edges[-1] below 1: never pick a class of probability 0
    return np.minimum(np.searchsorted(edges, uniform * edges[-1], side="right"), last)


def _members(labels: np.ndarray) -> list[np.ndarray]:
    """The examples of each class, in order."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.bincount(labels).cumsum()[:-1])


def _draw_alone(labels: np.ndarray, transition: np.ndarray, seed: int) -> np.ndarray:
    recorded = labels.copy()
    uniform = _uniform(_bits(seed, len(labels), 2)[1])
    for k, members in enumerate(_members(labels)):
        recorded[members] = _pick(transition[k], uniform[members])
    return recorded


def _draw_exact(labels: np.ndarray, transition: np.ndarray, seed: int) -> np.ndarray:
    recorded = labels.copy()
    keys, words = _bits(seed, len(labels), 2)
    uniform = _uniform(words)
    for k, members in enumerate(_members(labels)):
        wrong = transition[k].copy()
        wrong[k] = 0
        count = math.floor(len(members) * math.fsum(wrong) + 0.5 + 1e-9)
        if count:
            chosen = members[np.argsort(keys[members], kind="stable")[:count]]
            recorded[chosen] = _pick(wrong, uniform[chosen])
    return recorded


def _draw_rows(labels: np.ndarray, rows: Rows, seed: int) -> np.ndarray:
    recorded = np.empty_like(labels)
    uniform = _uniform(_bits(seed, len(labels), 2)[1])
    for start in range(0, len(labels), _CHUNK):
        part = slice(start, min(start + _CHUNK, len(labels)))
        edges = rows(part).cumsum(1)
        reached = edges > (uniform[part] * edges[:, -1])[:, None]
        recorded[part] = reached.argmax(1)
    return recorded
