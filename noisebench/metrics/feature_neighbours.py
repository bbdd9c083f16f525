"""Label issues, noise rate and transition matrix from nearest neighbours in feature space, without
training. Loads torch only for the matrix products of `nearest`.

Similar features usually share a true class (clusterability), so the given labels of an example and
of its neighbours are several noisy labels of one class. Shapes: features (N, D), labels (N,),
neighbours (N, k), votes (N, K).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import permutations
from typing import NamedTuple

import numpy as np

from ..core.expressions import BY_HOC, BY_NEIGHBOURS
from ..errors import DataError
from .confident_learning import Estimates

VERSION = 1  # of everything that affects estimates of the noise
NUM_NEIGHBOURS = 10  # of SimiFeat and of `neighbour_log_p`
_BLOCK = 4096  # examples per side of a block of similarities: 64 MB
_SPARE = 6  # candidates beyond k, so that ties rarely reach the end of the list
_ROUNDING = 1e-5  # more than a float32 similarity is wrong by
_DECIMALS = 6  # of similarities that tie
_STEPS, _STEPS_AGAIN, _LEARNING_RATE = 1000, 150, 0.1  # of Adam
_MOST_CLASSES = 200  # (K, K, K) in float64 is 64 MB, and needed several times
_TINY = 1e-12  # a probability of 0, so that its logarithm is finite
_SMOOTH = 1e-20  # of squared distances: exact shares have distance 0, which has no gradient


class Neighbours(NamedTuple):
    """The k nearest other examples of each example: indices and cosine similarities, both (N, k),
    most similar first.
    """

    indices: np.ndarray
    similarities: np.ndarray


def nearest(features: np.ndarray, k: int, *, standardize: bool = True) -> Neighbours:
    """The k examples with the highest cosine similarity to each example of features (N, D), without
    the example itself; exact. Similarities that are equal in six decimals tie; ties by index.

    standardize: first subtract the mean of each dimension and divide by its standard deviation. A
    vector of zeros has similarity 0 to all. Copies of an example are neighbours like any others.
    The similarities are computed in blocks, never as one (N, N) matrix. Raises DataError if there
    are not more than k examples, or if features are not finite or all equal.
    """
    import torch

    unit = torch.from_numpy(_unit_vectors(features, k, standardize))
    n, width = len(unit), min(k + _SPARE, len(unit) - 1)
    values = torch.full((n, width), -torch.inf)
    indices = torch.zeros((n, width), dtype=torch.int64)

    def merge(rows: slice, similarities: torch.Tensor, first: int) -> None:
        top, columns = similarities.topk(min(width, similarities.shape[1]), 1)
        both = torch.cat([values[rows], top], 1)
        every = torch.cat([indices[rows], columns + first], 1)
        values[rows], order = both.topk(width, 1)
        indices[rows] = every.gather(1, order)

    for low in range(0, n, _BLOCK):
        rows = slice(low, min(low + _BLOCK, n))
        for start in range(low, n, _BLOCK):  # the similarities of a block serve both of its sides
            columns = slice(start, min(start + _BLOCK, n))
            block = unit[rows] @ unit[columns].T
            if start == low:
                block.fill_diagonal_(-torch.inf)
            else:
                merge(columns, block.T.contiguous(), low)
            merge(rows, block, start)
    return _sorted(unit.numpy(), values.numpy(), indices.numpy(), k)


def _unit_vectors(features: np.ndarray, k: int, standardize: bool) -> np.ndarray:
    """Checked features of length 1, (N, D) float32; vectors of zeros stay."""
    if features.ndim != 2:
        raise DataError(f"features must have the shape (N, D), got {features.shape}")
    if not 0 < k < len(features):
        raise DataError(
            f"{len(features)} examples have at most {len(features) - 1} neighbours each, but k is "
            f"{k}: choose k from 1 to {len(features) - 1}"
        )
    rows = features.astype(np.float32)
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
        raise DataError(
            f"the features of example {bad} are not finite (NaN, infinite or beyond float32): "
            "extract them again, or leave the example out"
        )
    if (rows == rows[0]).all():
        raise DataError("all examples have the same features: no example is nearer than another")
    if standardize:
        rows -= rows.mean(0, dtype=np.float64).astype(np.float32)
        scale = np.sqrt(np.square(rows, dtype=np.float64).mean(0)).astype(np.float32)
        np.divide(rows, scale, out=rows, where=scale > 0)
    rows /= np.maximum(np.abs(rows).max(1, keepdims=True), np.finfo(np.float32).tiny)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=rows, where=norms > 0)


def _sorted(unit: np.ndarray, values: np.ndarray, indices: np.ndarray, k: int) -> Neighbours:
    """The first k of the candidates (N, m), sorted by similarity, ties by index.

    Float32 products of equal pairs can differ in their last bits. Where similarities are closer
    than that, they are computed again in float64; where the last candidate is that close to the
    k-th, with all examples that are.
    """
    n, width = values.shape
    close = np.diff(values[:, : k + 1], axis=1) > -_ROUNDING
    for row in np.flatnonzero(close.any(1)):
        threshold = values[row, k - 1] - _ROUNDING
        candidates = indices[row]
        if width < n - 1 and values[row, -1] > threshold:
            candidates = np.flatnonzero(unit @ unit[row] > threshold - _ROUNDING)
            candidates = candidates[candidates != row]
        exact = np.concatenate(
            [
                (unit[part].astype(np.float64) * unit[row]).sum(1)
                for part in np.array_split(candidates, -(-len(candidates) // _BLOCK))
            ]
        ).round(_DECIMALS)
        order = np.lexsort((candidates, -exact))[:k]
        values[row, :k], indices[row, :k] = exact[order], candidates[order]
    return Neighbours(indices[:, :k].copy(), values[:, :k].copy())


@dataclass(frozen=True)
class NeighbourIssues:
    """Label quality (N,) in [0, 1], the suggested class (N,), and a mask (N,) of the label issues.

    The suggested class has the most votes; of a label issue, the most among the other classes.
    """

    quality: np.ndarray
    suggested: np.ndarray
    issues: np.ndarray


def count_votes(neighbours: Neighbours, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(N, K): the sum of the similarities of the neighbours with each given label; the example's
    own label has the similarity 2 s_1 - s_2.

    As in the authors' code; the paper counts all k + 1 labels alike. Negative similarities count 0.
    """
    _check(neighbours, labels, num_classes, 1)
    rows, weights = np.arange(len(labels)), np.maximum(neighbours.similarities, 0)
    own = 2 * weights[:, 0] - weights[:, min(1, weights.shape[1] - 1)]
    # all similarities 0 or below: equal votes
    weights, own = np.where(own[:, None] > 0, weights, 1), np.where(own > 0, own, 1)
    votes = np.zeros((len(labels), num_classes))
    votes[rows, labels] = own
    for column in range(weights.shape[1]):
        votes[rows, labels[neighbours.indices[:, column]]] += weights[:, column]
    return votes


def simifeat_votes(neighbours: Neighbours, labels: np.ndarray, num_classes: int) -> NeighbourIssues:
    """SimiFeat-V: the label issues are the examples whose given label is not the class with the
    most votes of the neighbours and the example itself. Zhu, Dong, Liu 2022.

    Label quality is the share of the votes for the given label. A tie is decided for the given
    label, then for the class of the nearest neighbour, so that nothing is random. The paper and
    the code repeat this with features of augmented images; here the features are those given.
    """
    votes = count_votes(neighbours, labels, num_classes)
    rows = np.arange(len(labels))
    voted = _most_votes(votes, neighbours, labels)
    return NeighbourIssues(votes[rows, labels] / votes.sum(1), voted, voted != labels)


def simifeat_rank(
    neighbours: Neighbours, labels: np.ndarray, transition: np.ndarray, prior: np.ndarray
) -> NeighbourIssues:
    """SimiFeat-R: of the examples given as j, the round(N_j P(true != j | given j)) with the lowest
    label quality are label issues, ties by index. Zhu, Dong, Liu 2022.

    Label quality is the cosine between the votes (N, K) and the given label's one-hot vector. By
    Bayes' rule P(true j | given j) = T_jj p_j / P(given j), with T (K, K) and the prior p (K,) as
    `hoc` estimates them. The code perturbs that by up to 0.05 at random and keeps the share of
    issues in [0.05, 0.95]; the paper and this function do not.
    """
    num_classes = len(prior)
    votes = count_votes(neighbours, labels, num_classes)
    given = np.bincount(labels, minlength=num_classes)
    quality = votes[np.arange(len(labels)), labels] / np.linalg.norm(votes, axis=1)
    issues = np.zeros(len(labels), bool)
    for k in np.flatnonzero(given):
        correct = min(transition[k, k] * prior[k] * len(labels) / given[k], 1.0)
        of_class = np.flatnonzero(labels == k)
        number = round(len(of_class) * (1 - correct))
        issues[of_class[np.argsort(quality[of_class], kind="stable")[:number]]] = True
    votes[issues, labels[issues]] = -1
    return NeighbourIssues(quality, _most_votes(votes, neighbours, labels), issues)


def _most_votes(votes: np.ndarray, neighbours: Neighbours, labels: np.ndarray) -> np.ndarray:
    """The class (N,) with the most votes; of equal ones, that of the first voter: the example
    itself, then its neighbours by similarity.
    """
    rows = np.arange(len(labels))
    voters = np.column_stack([labels, labels[neighbours.indices]])
    highest = votes.max(1) * (1 - 1e-12)  # votes are sums of floats
    first = (votes >= highest[:, None])[rows[:, None], voters].argmax(1)
    return voters[rows, first]


def _check(neighbours: Neighbours, labels: np.ndarray, num_classes: int, least: int) -> None:
    n, k = neighbours.indices.shape
    if len(labels) != n:
        raise DataError(f"{len(labels)} labels for the neighbours of {n} examples")
    if k < least:
        raise DataError(f"{least} neighbours per example are needed, got {k}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise DataError(
            f"labels must be classes from 0 to {num_classes - 1}, got {labels.min()} to "
            f"{labels.max()}"
        )


@dataclass(frozen=True)
class HocEstimate:
    """The noise rate, its 95 % interval, T (K, K) = P(given | true class) and the prior (K,)."""

    rate: float
    interval: tuple[float, float]
    transition: np.ndarray
    prior: np.ndarray


Consensus = tuple[np.ndarray, np.ndarray, np.ndarray]


def hoc(
    neighbours: Neighbours,
    labels: np.ndarray,
    num_classes: int,
    *,
    subsamples: int = 10,
    seed: int = 0,
) -> HocEstimate:
    """HOC: the T and prior that explain how often the given labels of an example and of its two
    nearest neighbours are equal, if the three have the same true class. Zhu, Song, Liu 2021.

    Where they have not, their difference counts as label noise: the labels of neighbours do not
    tell the two apart, and with imperfect features the rate is too high. On CIFAR-10 with frozen
    ImageNet features (65 % of the images have the class of both neighbours) it is 0.13 for correct
    labels. Noise that neighbours share makes it too low, as copies with the same label do.
    `neighbour_log_p` has the alternative.

    The paper averages the counts of random subsets; this takes those of all examples. The interval
    is that of the counts, without these biases: from estimates of random halves, whose spread
    around the whole is that of the whole around the truth.
    """
    _check(neighbours, labels, num_classes, 2)
    if num_classes > _MOST_CLASSES:
        raise DataError(
            f"HOC counts triples of at most {_MOST_CLASSES} classes, here are {num_classes}: "
            f"use {BY_NEIGHBOURS}, or --score simifeat"
        )
    triples = np.column_stack([labels, labels[neighbours.indices[:, :2]]])
    transition, prior = solve_consensus(count_consensus(triples, num_classes))
    rate = _rate(transition, prior)
    rng, errors = np.random.default_rng(seed), []
    for _ in range(subsamples):
        half = rng.choice(len(triples), len(triples) // 2, replace=False)
        part = solve_consensus(count_consensus(triples[half], num_classes), (transition, prior))
        errors.append(_rate(*part) - rate)
    low, high = 0.0, 1.0
    if errors:
        from scipy.stats import t

        deviation = float(t.ppf(0.975, subsamples) * np.sqrt(np.mean(np.square(errors))))
        low, high = max(rate - deviation, 0.0), min(rate + deviation, 1.0)
    return HocEstimate(rate, (low, high), transition, prior)


def neighbour_log_p(neighbours: Neighbours, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """log_p (N, K): the shares of the given labels of the k neighbours, one vote added in all.

    The example's own label is not used, so that these are predictions for examples outside the
    training set: with them `Estimates.of` estimates noise rate and transition matrix, and does not
    count the errors of the neighbours as label noise.
    """
    _check(neighbours, labels, num_classes, 1)
    votes = np.full((len(labels), num_classes), 1 / num_classes)
    for column in neighbours.indices.T:
        votes[np.arange(len(labels)), labels[column]] += 1
    return np.log(votes / votes.sum(1, keepdims=True))


def estimate_by_hoc(features: np.ndarray, labels: np.ndarray, num_classes: int) -> Estimates:
    """Noise rate and T from features (N, D) and given labels (N,) by `hoc`. Raises DataError."""
    found = hoc(nearest(features, 2), labels, num_classes)
    rate = min(found.rate, float(np.nextafter(1, 0)))
    return Estimates(rate, found.transition, found.interval)


def estimate_by_neighbours(features: np.ndarray, labels: np.ndarray, num_classes: int) -> Estimates:
    """Noise rate and T from features (N, D) and given labels (N,) by `Estimates.of` the predictions
    of ten neighbours. Raises DataError.
    """
    log_p = neighbour_log_p(nearest(features, NUM_NEIGHBOURS), labels, num_classes)
    return replace(Estimates.of(log_p, labels), accuracy=None)


ESTIMATORS: dict[str, Callable[[np.ndarray, np.ndarray, int], Estimates]] = {
    BY_HOC: estimate_by_hoc,
    BY_NEIGHBOURS: estimate_by_neighbours,
}


def _rate(transition: np.ndarray, prior: np.ndarray) -> float:
    return float(np.clip(1 - prior @ transition.diagonal(), 0, 1))


def count_consensus(triples: np.ndarray, num_classes: int) -> Consensus:
    """The shares of given labels, of pairs and of triples of them: (K,), (K, K) and (K, K, K), from
    the labels (N, 3) of examples and their two nearest neighbours.
    """
    counts = list[np.ndarray]()
    for order in (1, 2, 3):
        shape = (num_classes,) * order
        code = np.ravel_multi_index(tuple(triples.T[:order]), shape)
        counts.append(np.bincount(code, minlength=num_classes**order).reshape(shape))
    first, second, third = (count / len(triples) for count in counts)
    return first, second, third


def solve_consensus(
    consensus: Consensus, start: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """T (K, K) and the prior p (K,) that minimize |c1 - m1| + |c2 - m2| + |c3 - m3| (L2 norms) with
    m1_i = sum_k p_k T_ki, m2_ij = sum_k p_k T_ki T_kj, m3_ijl = sum_k p_k T_ki T_kj T_kl.

    T and p are softmaxes, found by Adam as in the code; here the learning rate falls to 0, so that
    the end is a minimum. It starts near the identity, or at `start`, a solution for similar shares.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import csr_array

    c1, c2, c3 = consensus
    num_classes = len(c1)
    # m3 is symmetric: it meets the symmetric part of c3, which is mostly zeros with many classes,
    # and of m3 itself only the norm is needed: |m3|^2 = sum_kl p_k p_l (T_k . T_l)^3.
    symmetric2 = (c2 + c2.T) / 2
    symmetric3 = np.mean([c3.transpose(axes) for axes in permutations(range(3))], 0)
    i, j = np.triu_indices(num_classes)
    of_pairs = csr_array((np.where(i == j, 1.0, 2.0)[:, None] * symmetric3[i, j]).T)
    rest2, square3 = np.square(c2 - symmetric2).sum(), np.square(c3).sum()

    if start is None:  # the last column are the logits of p
        logits = np.column_stack([6 * np.eye(num_classes) - 1, np.zeros(num_classes)])
        # flat valleys are long with two classes and steps dear with many
        steps, learning_rate = _STEPS + 4 * _STEPS // num_classes, _LEARNING_RATE
    else:
        logits = np.log(np.maximum(np.column_stack(start), _TINY))
        steps, learning_rate = _STEPS_AGAIN, _LEARNING_RATE / 10
    mean, square = np.zeros_like(logits), np.zeros_like(logits)
    for step in range(steps):
        transition, prior = _softmax(logits[:, :-1], 1), _softmax(logits[:, -1], 0)
        gram = transition @ transition.T
        r1 = prior @ transition - c1
        r2 = transition.T @ (prior[:, None] * transition) - symmetric2
        by3 = (of_pairs @ (transition[:, i] * transition[:, j]).T).T
        cross = (prior[:, None] * by3 * transition).sum()
        distance3 = max(prior @ gram**3 @ prior - 2 * cross + square3, 0)  # of rounded sums
        by1 = r1 / np.sqrt(np.square(r1).sum() + _SMOOTH)
        by2 = transition @ r2 / np.sqrt(np.square(r2).sum() + rest2 + _SMOOTH)
        by3 = ((prior * gram**2) @ transition - by3) / np.sqrt(distance3 + _SMOOTH)
        d_transition = prior[:, None] * (by1 + 2 * by2 + 3 * by3)
        d_prior = transition @ by1 + ((by2 + by3) * transition).sum(1)
        d_rows = transition * (d_transition - (d_transition * transition).sum(1, keepdims=True))
        gradient = np.column_stack([d_rows, prior * (d_prior - d_prior @ prior)])
        mean += 0.1 * (gradient - mean)
        square += 0.001 * (np.square(gradient) - square)
        scale = np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8
        pace = learning_rate * (1 + np.cos(np.pi * step / steps)) / 2
        logits -= pace * mean / (1 - 0.9 ** (step + 1)) / scale
    transition, prior = _softmax(logits[:, :-1], 1), _softmax(logits[:, -1], 0)
    # Any order of the rows fits as well: most labels are assumed to be correct.
    rows, classes = linear_sum_assignment(prior[:, None] * transition, maximize=True)
    order = rows[np.argsort(classes)]
    return transition[order], prior[order]


def _softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    p = np.exp(logits - logits.max(axis, keepdims=True))
    return p / p.sum(axis, keepdims=True)
