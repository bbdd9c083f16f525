"""The area under the margin, against a second derivation in loops."""

from __future__ import annotations

import numpy as np
import pytest

from noisebench.errors import DataError
from noisebench.metrics.aum import (
    AreaUnderMargin,
    find_issues,
    margins,
    mean_p_margins,
    threshold_examples,
)


def by_hand(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    return [
        float(row[y]) - max(float(z) for k, z in enumerate(row) if k != y)
        for row, y in zip(logits, labels, strict=True)
    ]


def test_margins_against_loops_and_log_p() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(margins(logits, labels), by_hand(logits, labels))
    np.testing.assert_allclose(margins(log_p, labels), by_hand(logits, labels))
    np.testing.assert_allclose(mean_p_margins(np.exp(log_p), labels), by_hand(logits, labels))
    assert margins(np.zeros((1, 2)), np.array([1])) == 0
    with pytest.raises(DataError, match="two classes"):
        margins(np.zeros((3, 1)), np.zeros(3, int))


def test_the_mean_counts_only_the_epochs_in_which_an_example_was_seen() -> None:
    aum = AreaUnderMargin()
    for epoch in ([1.0, np.nan, np.nan], [3.0, -4.0, np.nan], [2.0, -2.0, np.nan]):
        aum.update(np.array(epoch))
    np.testing.assert_array_equal(aum.scores, [2, -3, np.nan])
    with pytest.raises(DataError, match="2 margins for 3"):
        aum.update(np.zeros(2))


def test_a_restored_sum_continues_as_if_uninterrupted() -> None:
    rng = np.random.default_rng(1)
    epochs = rng.normal(size=(6, 20))
    whole, first = AreaUnderMargin(), AreaUnderMargin()
    for epoch in epochs:
        whole.update(epoch)
    for epoch in epochs[:3]:
        first.update(epoch)
    state = first.state_dict()
    first.update(epochs[0])  # the state is a copy
    second = AreaUnderMargin.load(state)
    for epoch in epochs[3:]:
        second.update(epoch)
    np.testing.assert_array_equal(whole.scores, second.scores)
    np.testing.assert_allclose(whole.scores, epochs.mean(0))
    with pytest.raises(DataError, match="expected total and seen"):
        AreaUnderMargin.load({"total": np.zeros(3), "seen": np.zeros(2)})


def test_threshold_examples_are_two_disjoint_sets_of_the_size_of_a_class() -> None:
    first, second = threshold_examples(110, 10, np.random.default_rng(0))
    assert len(first) == len(second) == 10
    assert len({*first.tolist(), *second.tolist()}) == 20
    again, _ = threshold_examples(110, 10, np.random.default_rng(0))
    np.testing.assert_array_equal(first, again)
    with pytest.raises(DataError, match="too few"):
        threshold_examples(10, 10, np.random.default_rng(0))


def test_issues_lie_at_or_below_the_99th_percentile_of_the_threshold_examples() -> None:
    rng = np.random.default_rng(2)
    scores = rng.normal(size=1000)
    threshold = rng.choice(1000, 101, replace=False)
    sorted_scores = sorted(scores[threshold])
    cut = sorted_scores[99]  # of 101 values, 99 % lie at or below the one at index 99
    expected = [bool(s <= cut) and n not in threshold for n, s in enumerate(scores)]
    np.testing.assert_array_equal(find_issues(scores, threshold), expected)
    for damaged in (np.array([], int), threshold):
        with pytest.raises(DataError, match="threshold"):
            find_issues(np.where(scores < 0, np.nan, scores), damaged)
