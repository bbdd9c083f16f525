"""Equal Loss by the equations of its paper, and what it learns in the limit."""

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from noisebench.losses import equal_loss_optimum
from tests.contracts.test_losses import a_batch, cost, learned, learned_alone, mp_el

EPS = [0, 1e-12, 1e-8, 1e-3, 0.1, 0.4, 1, 1e3, 1e8, 1e30, math.inf]


# Eq. 1-3: the loss


def test_the_loss_is_stable_from_nought_to_infinity(case):
    for eps in EPS:
        with case(eps=eps):
            logits = torch.tensor([[0.0, gap] for gap in (-100, -20, -8, -3, 0, 3, 8, 20, 80)])
            said, target = cost(f"el(eps={eps})", logits)[:, 0], torch.zeros(len(logits), dtype=int)
            with mpmath.workdps(80):
                p = [1 / (1 + mpmath.exp(gap)) for gap in logits[:, 1].tolist()]
                exact = torch.tensor([float(mp_el(q, mpmath.mpf(eps))) for q in p])
                slopes = [
                    0 if math.isinf(eps) else float((1 + mpmath.mpf(eps)) * q / (q + eps) * (1 - q))
                    for q in p
                ]
            torch.testing.assert_close(said, exact, rtol=1e-5, atol=1e-6)
            for way in (learned, learned_alone):
                _, gradient = way(f"el(eps={eps})", logits, target)
                if math.isinf(eps):
                    slopes = [float(q * (1 - q)) for q in p]
                torch.testing.assert_close(
                    gradient[:, 0], -torch.tensor(slopes), rtol=1e-5, atol=1e-6
                )


def test_between_ce_and_half_of_mae_it_falls_as_eps_grows(case):
    for K in [2, 10, 1000]:
        with case(K=K):
            logits = a_batch(20, K)
            values = [
                cost(f"el(eps={eps})", logits) for eps in (0, 0.01, 0.1, 0.4, 1, 10, math.inf)
            ]
            torch.testing.assert_close(values[0], cost("ce", logits))
            torch.testing.assert_close(2 * values[-1], cost("mae", logits))
            for greater, smaller in pairwise(values):
                assert (smaller <= greater + 1e-6).all()


def test_the_way_to_half_of_mae_is_of_first_order(case):
    for eps in [1e4, 1e5, 1e6]:
        with case(eps=eps):
            logits = a_batch(20, 10)
            p = logits.double().softmax(1)
            beyond = cost(f"el(eps={eps})", logits).double() - (1 - p)
            torch.testing.assert_close(eps * beyond, ((1 - p) ** 2) / 2, rtol=1e-2, atol=eps * 1e-6)


def test_its_largest_value_is_known(case):
    for eps in [0.1, 0.4, 2.0]:
        with case(eps=eps):
            worst = cost(f"el(eps={eps})", torch.tensor([[0.0, 1000.0]]))[0, 0]
            assert worst.item() == pytest.approx((1 + eps) * math.log((1 + eps) / eps), rel=1e-6)


def test_it_is_the_limit_of_agce(case):
    for eps in [0.05, 0.1, 0.4, 2.0]:
        with case(eps=eps):
            logits = a_batch(30, 10)
            p, q = logits.double().softmax(1), 1e-6
            agce = ((eps + 1) ** q - (eps + p) ** q) / q
            torch.testing.assert_close(
                cost(f"el(eps={eps})", logits).double(), (1 + eps) * agce, rtol=1e-4, atol=1e-5
            )
            torch.testing.assert_close(
                cost(f"el(eps={eps})", logits),
                (1 + eps) * cost(f"agce(a={eps}, q=1e-8)", logits),
                rtol=1e-4,
                atol=1e-5,
            )


# Eq. 4-6: the gradient


def test_the_gradient_of_each_logit_is_that_of_the_paper(case):
    for eps in [1e-9, 1e-3, 0.1, 0.4, 2.0, 100.0]:
        with case(eps=eps):
            logits, target = a_batch(50, 10, spread=5), torch.arange(50) % 10
            p = logits.double().softmax(1)
            p_y = p.gather(1, target[:, None])
            factor = (1 + eps) * p_y / (p_y + eps)
            at_label, elsewhere = -factor * (1 - p), factor * p
            expected = at_label.where(torch.nn.functional.one_hot(target, 10).bool(), elsewhere)
            torch.testing.assert_close(
                learned(f"el(eps={eps})", logits, target)[1].double(),
                expected,
                rtol=1e-5,
                atol=1e-6,
            )


def test_its_gradient_is_that_of_ce_times_a_factor_that_grows_from_nought_to_one(case):
    for eps in [1e-12, 1e-9, 1e-3, 0.1, 0.4, 2.0, 100.0]:
        with case(eps=eps):
            logits, target = (
                torch.stack([torch.linspace(-30, 30, 61), torch.zeros(61)], 1),
                torch.zeros(61, dtype=int),
            )
            p = logits.double().softmax(1)[:, 0]
            ours, ces = (
                learned(text, logits, target)[1].double() for text in (f"el(eps={eps})", "ce")
            )
            factor = (1 + eps) * p / (p + eps)
            torch.testing.assert_close(ours, factor[:, None] * ces, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(
                ours.abs().sum(1), factor * ces.abs().sum(1), rtol=1e-5, atol=1e-6
            )
            assert (
                (factor.diff() >= -1e-12).all()
                and factor[0] <= (1 + eps) * 1e-13 / eps + 1e-12
                and 1 - factor[-1] < 1e-9
            )


# Eq. 8-13: what it learns


def a_simplex(seed, K, concentration=1.0):
    return np.random.default_rng(seed).dirichlet(np.full(K, concentration))


def by_bisection(w, eps):
    """The p of Eq. 10 whose sum is 1: p = max(0, w / level - eps)."""
    low, high = 1e-30, 1e30
    for _ in range(400):
        level = math.sqrt(low * high)
        low, high = (level, high) if np.maximum(0, w / level - eps).sum() > 1 else (low, level)
    return np.maximum(0, w / low - eps)


def minimised(w, eps, steps=20_000):
    """p that minimises the expected cost under w, by exponentiated gradient, from the formula
    alone.
    """
    p = np.full(len(w), 1 / len(w))
    for step in range(steps):
        p = p * np.exp((1 + eps) * w / (p + eps) / (10 + 0.01 * step))
        p /= p.sum()
    return p


def test_the_optimum_is_that_of_a_numeric_solver(case):
    for eps in [1e-6, 1e-3, 0.1, 0.4, 1, 10]:
        for K in [2, 3, 10, 20]:
            with case(K=K, eps=eps):
                for seed in range(10):
                    w = a_simplex(seed, K)
                    np.testing.assert_allclose(
                        equal_loss_optimum(w, eps), by_bisection(w, eps), atol=1e-9
                    )


def test_no_descent_finds_a_lower_cost(case):
    for K, eps in [(2, 0.4), (4, 0.2), (4, 1.0), (10, 0.1)]:
        with case(K=K, eps=eps):
            for seed in range(3):
                w = a_simplex(seed, K, 3)
                np.testing.assert_allclose(equal_loss_optimum(w, eps), minimised(w, eps), atol=5e-3)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(2, 30),
    st.sampled_from([0, 1e-8, 1e-3, 0.1, 0.4, 1.0, 7.0, 1e3]),
)
def test_the_optimum_obeys_the_papers_conditions(seed, K, eps):
    w = a_simplex(seed, K, 0.5)
    p = equal_loss_optimum(w, eps)
    assert (p >= 0).all() and p.sum() == pytest.approx(1, abs=1e-9)
    active = p > 0
    m, total = active.sum(), w[active].sum()
    level = total / (1 + m * eps)  # Eq. 11
    closed = np.maximum(0, (1 + m * eps) * w / total - eps)
    np.testing.assert_allclose(p, closed, atol=1e-9 * (1 + K * eps))
    multiplier = level * (p + eps) - w  # Eq. 10: w = level (p + eps) - u eps
    assert (multiplier >= -1e-9 * (1 + eps)).all() and (
        np.abs(multiplier[active]) <= 1e-9 * (1 + eps)
    ).all()
    assert (np.diff(p[np.argsort(w)]) >= -1e-12).all()  # in the order of w


def test_where_eps_is_huge_the_largest_class_takes_all(case):
    for eps in [1e8, 1e12, math.inf]:
        with case(eps=eps):
            np.testing.assert_allclose(
                equal_loss_optimum(np.array([0.2, 0.5, 0.3]), eps), [0, 1, 0]
            )


def test_ties_share_and_nought_is_cross_entropy():
    np.testing.assert_allclose(
        equal_loss_optimum(np.array([0.4, 0.4, 0.2]), math.inf), [0.5, 0.5, 0]
    )
    np.testing.assert_allclose(equal_loss_optimum(np.array([0.4, 0.4, 0.2]), 1e6), [0.5, 0.5, 0])
    np.testing.assert_allclose(equal_loss_optimum(np.array([0.5, 0.3, 0.2]), 0), [0.5, 0.3, 0.2])
    rows = np.array([[0.6, 0.4], [0.5, 0.5]])
    np.testing.assert_allclose(equal_loss_optimum(rows, 0.4), [[0.68, 0.32], [0.5, 0.5]])


def test_what_is_no_probability_is_refused(case):
    for w, eps in [
        ([0.5, 0.6], 0.1),
        ([1.5, -0.5], 0.1),
        ([0.5, 0.5], -0.1),
        ([0.5, 0.5], math.nan),
    ]:
        with case(w=w, eps=eps), pytest.raises(ValueError, match="w must be probabilities"):
            equal_loss_optimum(np.array(w), eps)


def test_under_symmetric_noise_of_rate_eps_it_is_one_hot_up_to_one_minus_two_in_k(case):
    for K in [3, 10, 100]:
        with case(K=K):
            for rate, alone in ((1 - 2 / K - 1e-6, True), (1 - 2 / K + 1e-6, False)):
                w = np.full(K, rate / (K - 1))
                w[0] = 1 - rate
                p = equal_loss_optimum(w, rate)
                assert (p[0] == 1) == alone


def test_under_pair_flips_it_is_one_hot_from_rate_over_one_minus_twice_the_rate(case):
    for rate in [0.1, 0.2, 0.4, 0.45]:
        with case(rate=rate):
            needed, w = rate / (1 - 2 * rate), np.array([1 - rate, rate, 0.0])
            assert (
                equal_loss_optimum(w, needed * (1 + 1e-6))[0]
                == 1
                > equal_loss_optimum(w, needed * (1 - 1e-6))[0]
            )
            assert needed > rate  # so that eps = rate is never enough


def test_el_trusts_the_true_class_more_than_ce_where_it_is_the_likeliest_label(case):
    for K in [2, 5, 10]:
        for eps in [1e-3, 0.1, 0.4, 1.0, 10.0]:
            with case(eps=eps, K=K):
                for seed in range(200):
                    w = a_simplex(seed, K)
                    k = w.argmax()
                    assert equal_loss_optimum(w, eps)[k] > w[k]


def test_the_papers_claim_fails_where_the_true_class_is_not_the_likeliest_or_nothing_is_to_gain():
    # "p_el > p_ce" of Eq. 13 supposes that the true class (here class 0) has at least the mean
    # share of the active classes.
    beyond = np.array([0.04, *[0.96 / 9] * 9])  # symmetric noise beyond (K - 1) / K
    flipped = np.array([0.4, 0.6])  # pair flips of more than a half
    for w, eps in ((beyond, 0.4), (flipped, 0.4), (flipped, 0.01)):
        assert equal_loss_optimum(w, eps)[0] < w[0]
    for w, eps in (
        (np.full(10, 0.1), 0.4),
        (np.array([1.0, 0, 0]), 0.4),
        (np.array([0.6, 0.4]), 0),
    ):
        assert equal_loss_optimum(w, eps)[0] == pytest.approx(w[0])


def test_how_often_the_papers_claim_fails_over_all_classes():
    failures = dict.fromkeys((0.2, 0.6, 0.8, 0.95), 0)
    for rate in failures:
        w = np.full(10, rate / 9)
        w[0] = 1 - rate
        failures[rate] = sum(equal_loss_optimum(w, eps)[0] <= w[0] for eps in (0.05, 0.1, 0.4, 1.0))
    assert failures == {0.2: 0, 0.6: 0, 0.8: 0, 0.95: 4}
