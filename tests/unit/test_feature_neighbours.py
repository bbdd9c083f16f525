"""Neighbours in feature space, SimiFeat and HOC, each against a second derivation of its formulas in
loops.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from noisebench.errors import DataError
from noisebench.metrics import feature_neighbours
from noisebench.metrics.confident_learning import Estimates
from noisebench.metrics.feature_neighbours import (
    Neighbours,
    count_consensus,
    count_votes,
    hoc,
    nearest,
    neighbour_log_p,
    simifeat_rank,
    simifeat_votes,
    solve_consensus,
)


def transition_of(num_classes: int, rng: np.random.Generator, correct: float = 0.6) -> np.ndarray:
    """(K, K): correct on the diagonal, the rest at random and never 0."""
    off = rng.uniform(0.5, 1.5, (num_classes, num_classes)) * (1 - np.eye(num_classes))
    rows: np.ndarray = correct * np.eye(num_classes) + (1 - correct) * off / off.sum(1)[:, None]
    return rows


def clusters(n: int, num_classes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, D) in far clusters, and their true classes."""
    true = rng.integers(0, num_classes, n)
    return 30 * np.eye(num_classes, num_classes + 3)[true] + rng.normal(
        size=(n, num_classes + 3)
    ), true


def noisy(true: np.ndarray, transition: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    cumulated = transition.cumsum(1)[true]
    return (rng.random(len(true))[:, None] > cumulated[:, :-1]).sum(1)


def random_case(
    seed: int, n: int = 60, num_classes: int = 4, k: int = 5
) -> tuple[Neighbours, np.ndarray]:
    rng = np.random.default_rng(seed)
    return nearest(rng.normal(size=(n, 3)) + 1, k), rng.integers(0, num_classes, n)


# ---- nearest


def neighbours_in_loops(features: np.ndarray, k: int) -> list[list[int]]:
    rows = [[float(x) for x in row] for row in features]
    norms = [math.sqrt(math.fsum(x * x for x in row)) for row in rows]
    lists = []
    for a, row in enumerate(rows):
        similar = []
        for b, other in enumerate(rows):
            product = math.fsum(x * y for x, y in zip(row, other, strict=True))
            length = norms[a] * norms[b]
            similar.append((-round(product / length, 6) if length else 0.0, b))
        lists.append([b for _, b in sorted(similar) if b != a][:k])
    return lists


def test_neighbours_against_loops(
    monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(90, 7))
    copies = np.concatenate([features[:40], features[:40], features[:10]])
    grid = rng.integers(0, 2, (90, 3)).astype(float)  # equal directions, ties and zeros
    many = np.ones((90, 2))
    many[0] = 1, -1
    for name, rows in {"random": features, "copies": copies, "grid": grid, "many": many}.items():
        for block in (4096, 17, 90):
            monkeypatch.setattr(feature_neighbours, "_BLOCK", block)
            for k in (1, 4, 89):
                with subtests.test(name, block=block, k=k):
                    got = nearest(rows, k, standardize=False)
                    assert got.indices.tolist() == neighbours_in_loops(rows, k)
                    assert (np.diff(got.similarities, axis=1) <= 0).all()


def test_standardized_neighbours_ignore_the_scale_of_a_dimension() -> None:
    features = np.random.default_rng(0).normal(size=(50, 4))
    centred = (features - features.mean(0)) / features.std(0)
    scaled = features * [1, 1000, 0.01, 1] + [5, -700, 0, 0]
    constant = np.column_stack([scaled, np.full(50, 3.0)])
    expected = nearest(centred, 6, standardize=False)
    for rows in (features, scaled, constant):
        got = nearest(rows, 6)
        np.testing.assert_array_equal(got.indices, expected.indices)
        np.testing.assert_allclose(got.similarities, expected.similarities, atol=1e-5)


def test_neighbours_of_permuted_examples_are_permuted() -> None:
    rng = np.random.default_rng(3)
    features, order = rng.normal(size=(70, 5)).astype(np.float16), rng.permutation(70)
    plain, permuted = nearest(features, 8), nearest(features[order], 8)
    np.testing.assert_array_equal(order[permuted.indices], plain.indices[order])


def test_features_without_neighbours_are_refused_in_a_sentence() -> None:
    good = np.random.default_rng(0).normal(size=(10, 3))
    damaged = good.copy()
    damaged[4, 1] = np.nan
    for features, k, message in (
        (good, 10, "choose k from 1 to 9"),
        (good, 0, "choose k from 1 to 9"),
        (damaged, 2, "features of example 4 are not finite"),
        (good * 1e300, 2, "not finite"),
        (np.ones((10, 3)), 2, "all examples have the same features"),
        (good[0], 1, "shape"),
    ):
        with pytest.raises(DataError, match=message), np.errstate(over="ignore"):
            nearest(features, k)


# ---- SimiFeat


def votes_in_loops(
    neighbours: Neighbours, labels: np.ndarray, num_classes: int
) -> list[list[float]]:
    table = []
    for n, y in enumerate(labels):
        votes = [0.0] * num_classes
        weights = [max(float(s), 0.0) for s in neighbours.similarities[n]]
        own = 2 * weights[0] - weights[min(1, len(weights) - 1)]
        if own <= 0:
            weights, own = [1.0] * len(weights), 1.0
        votes[y] += own
        for m, weight in zip(neighbours.indices[n], weights, strict=True):
            votes[labels[m]] += weight
        table.append(votes)
    return table


def test_votes_against_loops(subtests: pytest.Subtests) -> None:
    for k in (1, 2, 9):
        with subtests.test(k=k):
            neighbours, labels = random_case(k, k=k)
            votes = votes_in_loops(neighbours, labels, 4)
            np.testing.assert_allclose(count_votes(neighbours, labels, 4), votes, rtol=1e-6)
            found = simifeat_votes(neighbours, labels, 4)
            for n, (y, row) in enumerate(zip(labels, votes, strict=True)):
                assert row[found.suggested[n]] == pytest.approx(max(row))
                assert found.issues[n] == (found.suggested[n] != y)
                assert found.quality[n] == pytest.approx(row[y] / sum(row))


def test_a_tie_is_decided_for_the_given_label_then_for_the_nearer_neighbour() -> None:
    # examples 0 to 3 are given as 2, 0, 1, 1; all similarities are equal, so votes are counts
    labels = np.array([2, 0, 1, 1])
    neighbours = Neighbours(
        np.array([[2, 1], [2, 3], [3, 0], [1, 0]]), np.full((4, 2), 0.5, np.float32)
    )
    found = simifeat_votes(neighbours, labels, 3)
    assert found.suggested.tolist() == [2, 1, 1, 1]
    ranked = simifeat_rank(neighbours, labels, np.full((3, 3), 1 / 3), np.full(3, 1e-9))
    assert ranked.issues.all()
    assert ranked.suggested.tolist() == [1, 1, 2, 0]


def test_one_neighbour_never_outvotes_the_example() -> None:
    neighbours, labels = random_case(0, k=1)
    assert not simifeat_votes(neighbours, labels, 4).issues.any()


def test_the_ranking_against_loops() -> None:
    rng = np.random.default_rng(5)
    neighbours, labels = random_case(7, n=80, k=6)
    transition, prior = transition_of(4, rng), rng.dirichlet(np.full(4, 9.0))
    found = simifeat_rank(neighbours, labels, transition, prior)
    votes = votes_in_loops(neighbours, labels, 4)
    expected = set()
    quality = [
        row[y] / math.sqrt(sum(v * v for v in row)) for row, y in zip(votes, labels, strict=True)
    ]
    np.testing.assert_allclose(found.quality, quality, rtol=1e-6)
    for j in range(4):
        of_class = [n for n in range(80) if labels[n] == j]
        correct = min(transition[j, j] * prior[j] / (len(of_class) / 80), 1)
        of_class.sort(key=lambda n: (round(quality[n], 9), n))
        expected |= set(of_class[: round(len(of_class) * (1 - correct))])
    assert set(np.flatnonzero(found.issues).tolist()) == expected
    assert expected
    for n in expected:
        others = [v for k, v in enumerate(votes[n]) if k != labels[n]]
        assert max(others) == 0 or votes[n][found.suggested[n]] == pytest.approx(max(others))
        assert max(others) == 0 or found.suggested[n] != labels[n]


def test_classes_have_no_order() -> None:
    rng = np.random.default_rng(8)
    neighbours, labels = random_case(9)
    transition, prior, order = transition_of(4, rng), np.full(4, 0.25), rng.permutation(4)
    inverse = np.argsort(order)
    pairs = (
        (simifeat_votes(neighbours, labels, 4), simifeat_votes(neighbours, order[labels], 4)),
        (
            simifeat_rank(neighbours, labels, transition, prior),
            simifeat_rank(
                neighbours, order[labels], transition[np.ix_(inverse, inverse)], prior[inverse]
            ),
        ),
    )
    for plain, renamed in pairs:
        np.testing.assert_allclose(plain.quality, renamed.quality)
        np.testing.assert_array_equal(order[plain.suggested], renamed.suggested)
        np.testing.assert_array_equal(plain.issues, renamed.issues)


def test_correct_labels_in_clusters_have_no_issues() -> None:
    rng = np.random.default_rng(0)
    features, labels = clusters(300, 3, rng)
    neighbours = nearest(features, 10)
    estimate = hoc(neighbours, labels, 3, subsamples=3)
    np.testing.assert_allclose(estimate.transition, np.eye(3), atol=2e-3)
    assert estimate.rate < 2e-3
    for found in (
        simifeat_votes(neighbours, labels, 3),
        simifeat_rank(neighbours, labels, estimate.transition, estimate.prior),
    ):
        assert not found.issues.any()
        np.testing.assert_array_equal(found.suggested, labels)
        np.testing.assert_allclose(found.quality, 1)


def test_incorrect_labels_in_clusters_are_found() -> None:
    rng = np.random.default_rng(1)
    features, true = clusters(900, 3, rng)
    labels = noisy(true, transition_of(3, rng, 0.8), rng)
    neighbours = nearest(features, 12)
    estimate = hoc(neighbours, labels, 3)
    assert estimate.interval[0] <= (labels != true).mean() <= estimate.interval[1]
    votes = simifeat_votes(neighbours, labels, 3)
    ranked = simifeat_rank(neighbours, labels, estimate.transition, estimate.prior)
    assert (votes.issues == (labels != true)).mean() > 0.97
    assert (ranked.issues == (labels != true)).mean() > 0.93
    assert (votes.suggested == true).mean() > 0.97


# ---- HOC


def consensus_in_loops(
    transition: np.ndarray, prior: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The shares that T and the prior give, by the paper's sums over true classes."""
    num_classes = len(prior)
    first, second, third = (np.zeros((num_classes,) * order) for order in (1, 2, 3))
    for k in range(num_classes):
        for a in range(num_classes):
            first[a] += prior[k] * transition[k, a]
            for b in range(num_classes):
                second[a, b] += prior[k] * transition[k, a] * transition[k, b]
                for c in range(num_classes):
                    third[a, b, c] += (
                        prior[k] * transition[k, a] * transition[k, b] * transition[k, c]
                    )
    return first, second, third


def test_counts_of_consensus_against_loops() -> None:
    triples = np.random.default_rng(0).integers(0, 3, (40, 3))
    for order, share in enumerate(count_consensus(triples, 3), 1):
        expected = np.zeros((3,) * order)
        for row in triples.tolist():
            expected[tuple(row[:order])] += 1 / 40
        np.testing.assert_allclose(share, expected)


def test_exact_consensus_gives_the_exact_transition(subtests: pytest.Subtests) -> None:
    rng = np.random.default_rng(4)
    for num_classes in (2, 3, 10):
        for correct in (0.7, 0.85):
            with subtests.test(num_classes=num_classes, correct=correct):
                transition = transition_of(num_classes, rng, correct)
                prior = rng.dirichlet(np.full(num_classes, 20.0))
                got, got_prior = solve_consensus(consensus_in_loops(transition, prior))
                np.testing.assert_allclose(got, transition, atol=2e-3)
                np.testing.assert_allclose(got_prior, prior, atol=1e-3)


def test_sampled_consensus_gives_the_minimum_of_the_objective() -> None:
    rng = np.random.default_rng(1)
    true = rng.choice(3, 400, p=[0.2, 0.3, 0.5])
    triples = [noisy(true, transition_of(3, rng, correct), rng) for correct in (1, 0.6, 0.7)]
    shares = count_consensus(np.stack(triples, 1), 3)  # no T fits: they are not symmetric

    def objective(logits: np.ndarray) -> float:
        p = np.exp(logits) / np.exp(logits).sum(0)
        model = consensus_in_loops(p[:, :-1].T, p[:, -1])
        return sum(
            math.sqrt(((share - m) ** 2).sum()) for share, m in zip(shares, model, strict=True)
        )

    solution = np.log(np.column_stack([m.T for m in solve_consensus(shares)]))
    least = objective(solution)
    for size in (0.3, 0.03, 0.01, 0.001):
        for _ in range(40):
            assert least < objective(solution + size * rng.normal(size=solution.shape)) + 1e-7


def test_rows_are_in_the_order_for_which_most_labels_are_correct() -> None:
    transition, prior = np.array([[0.6, 0.4], [0.4, 0.6]]), np.array([0.39, 0.61])
    got, got_prior = solve_consensus(consensus_in_loops(transition, prior))
    np.testing.assert_allclose(got, transition, atol=1e-3)
    np.testing.assert_allclose(got_prior, prior, atol=1e-3)


def test_hoc_of_permuted_examples_and_classes_is_permuted() -> None:
    rng = np.random.default_rng(6)
    features, true = clusters(600, 3, rng)
    labels = noisy(true, transition_of(3, rng), rng)
    order, renamed = rng.permutation(600), np.array([2, 0, 1])
    inverse = np.argsort(renamed)
    plain = hoc(nearest(features, 2), labels, 3, subsamples=0)
    assert plain.interval == (0, 1)
    shuffled = hoc(nearest(features[order], 2), labels[order], 3, subsamples=0)
    np.testing.assert_allclose(plain.transition, shuffled.transition, atol=1e-6)
    other = hoc(nearest(features, 2), renamed[labels], 3, subsamples=0)
    np.testing.assert_allclose(
        other.transition, plain.transition[np.ix_(inverse, inverse)], atol=2e-3
    )


def test_the_interval_is_as_wide_as_estimates_of_new_samples_differ() -> None:
    rng = np.random.default_rng(2)
    transition = transition_of(2, rng, 0.8)
    rates, widths = list[float](), list[float]()
    for n in (400,) * 12 + (6400,):
        true = rng.integers(0, 2, n)
        triples = np.stack([noisy(true, transition, rng) for _ in range(3)], 1)
        labels = triples.T.ravel()  # example n has the neighbours N + n and 2 N + n
        indices = (np.arange(3 * n)[:, None] + [n, 2 * n]) % (3 * n)
        estimate = hoc(Neighbours(indices, np.ones((3 * n, 2))), labels, 2)
        rates.append(estimate.rate)
        widths.append(estimate.interval[1] - estimate.interval[0])
    typical = float(np.median(widths[:12]))
    assert 2 < typical / widths[12] < 8  # 4 by the square root of 16
    # triples that share their labels make it too narrow: here each counts three times
    assert 0.6 < typical * math.sqrt(3) / (2 * 2.23 * np.std(rates[:12], ddof=1)) < 1.6


def test_classes_without_or_with_one_example() -> None:
    rng = np.random.default_rng(0)
    features, labels = clusters(200, 3, rng)
    labels[0] = 3  # of 5 classes, one has a single example and one none
    neighbours = nearest(features, 5)
    estimate = hoc(neighbours, labels, 5, subsamples=2)
    np.testing.assert_allclose(estimate.transition.sum(1), 1)
    assert estimate.prior.sum() == pytest.approx(1)
    assert estimate.rate < 0.05
    votes = simifeat_votes(neighbours, labels, 5)
    assert np.flatnonzero(votes.issues).tolist() == [0]
    ranked = simifeat_rank(neighbours, labels, estimate.transition, estimate.prior)
    assert np.isfinite(ranked.quality).all()


def test_labels_that_do_not_fit_are_refused() -> None:
    neighbours, labels = random_case(0)
    for arguments, message in (
        ((neighbours, labels[1:], 4), "59 labels for the neighbours of 60"),
        ((neighbours, labels, 3), "classes from 0 to 2"),
    ):
        for function in (hoc, count_votes, simifeat_votes, neighbour_log_p):
            with pytest.raises(DataError, match=message):
                function(*arguments)
    with pytest.raises(DataError, match="2 neighbours per example"):
        hoc(random_case(0, k=1)[0], labels, 4)
    with pytest.raises(DataError, match="at most 200 classes"):
        hoc(neighbours, labels, 1000)


# ---- predictions of the neighbours


def test_predictions_of_the_neighbours_against_loops() -> None:
    neighbours, labels = random_case(2)
    p = np.exp(neighbour_log_p(neighbours, labels, 4))
    for n, indices in enumerate(neighbours.indices.tolist()):
        counts = [0.25 + sum(labels[m] == k for m in indices) for k in range(4)]
        np.testing.assert_allclose(p[n], np.array(counts) / 6)


def test_neighbours_of_other_classes_count_as_noise_in_hoc_alone() -> None:
    """Two overlapping classes with correct labels: HOC's documented bias, and the alternative."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    features = np.column_stack([rng.normal(size=2000) + 2 * labels, np.ones(2000)])
    angle = np.column_stack([np.cos(features[:, 0] / 4), np.sin(features[:, 0] / 4)])
    neighbours = nearest(angle, 20, standardize=False)
    biased = hoc(neighbours, labels, 2, subsamples=0).rate
    estimate = Estimates.of(neighbour_log_p(neighbours, labels, 2), labels)
    assert biased > 0.1
    assert estimate.rate < biased / 2
