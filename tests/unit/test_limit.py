"""What losses learn in the limit, by their texts and a noise's: laws over the registry, and the
borders of Equal Loss.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import noisebench as nb
from noisebench.errors import LanguageError, UnknownName
from noisebench.losses import LOSSES, build_loss, cost_of, optimum_of, predicted
from tests.contracts.test_losses import POINTWISE, texts_of

NOISES = [
    "symmetric(rate=0.4)",
    "symmetric(rate=0.85)",
    "pairflip(rate=0.3)",
    "asymmetric(rate=0.4, map='cifar10')",
]
CLOSED = [entry for entry in POINTWISE if "optimum" in entry.facts]
TEXTS = [
    text
    for entry in CLOSED
    for text in texts_of(entry)
    if optimum_of(text, np.full(2, 0.5)) is not None
]


def simplex(seed, K, n=()):
    return np.random.default_rng(seed).dirichlet(np.full(K, 0.7), n)


def expected_cost(text, w, p):
    """Of each p (n, K), from the loss that training uses."""
    return cost_of(build_loss(text), logits_of(p)).double().numpy() @ w


def logits_of(p):
    return torch.from_numpy(np.log(np.maximum(p, 1e-12))).float()


def pull(text, w, p):
    """The gradient (K,) of the expected cost at the logits, which training follows."""
    logits = logits_of(p[None]).requires_grad_()
    (cost_of(build_loss(text), logits).double() @ torch.from_numpy(w)).sum().backward()
    return logits.grad[0].numpy()


def test_which_losses_have_a_closed_form():
    assert {entry.name for entry in LOSSES if {"optimum", "target"} & set(entry.facts)} == {
        "ce",
        "mae",
        "rce",
        "gce",
        "el",
        "lsr",
    }


def test_no_other_probabilities_cost_less_and_no_logit_is_pulled(case):
    for K in [2, 10]:
        for text in [
            *TEXTS,
            *(f"lsr({entry.name}, alpha=0.3)" for entry in CLOSED if entry.name != "el"),
            "lsr(el(eps=0.4))",
            "lsr(lsr(el(eps=2), alpha=0.2), alpha=0.5)",
            "3*lsr(0.5*gce(q=0.3))",
        ]:
            with case(text=text, K=K):
                for seed in range(5):
                    w = simplex(seed, K)
                    p = optimum_of(text, w)
                    assert (p >= 0).all() and p.sum() == pytest.approx(1)
                    others = simplex(seed + 100, K, 200)
                    rivals = np.concatenate(
                        [others, *((1 - t) * p + t * others for t in (0.3, 0.05))]
                    )
                    (least,), costs = (
                        expected_cost(text, w, p[None]),
                        expected_cost(text, w, rivals),
                    )
                    scale = max(1, abs(costs).max())
                    assert (
                        least <= costs.min() + 1e-6 * scale
                        and abs(pull(text, w, p)).max() <= 1e-5 * scale
                    )


def test_ce_learns_the_transition_itself(case):
    for noise in NOISES:
        with case(noise=noise):
            np.testing.assert_allclose(predicted(noise, "ce", 10), nb.transition(noise, 10))


def test_rows_are_probabilities(case):
    for loss in [*TEXTS, "el", "lsr(el)"]:
        for noise in NOISES:
            with case(noise=noise, loss=loss):
                p = predicted(noise, loss, 10)
                assert p.shape == (10, 10) and (p >= 0).all()
                np.testing.assert_allclose(p.sum(1), 1)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 20), st.sampled_from([1e-3, 0.1, 0.4, 1.0, 7.0]))
def test_el_is_one_hot_exactly_where_the_largest_exceeds_the_others_by_one_plus_eps_over_eps(
    seed, K, eps
):
    w = np.sort(simplex(seed, K))[::-1]
    ratio, border = w[0] / w[1], (1 + eps) / eps
    if abs(ratio / border - 1) > 1e-9:
        assert (optimum_of(f"el(eps={eps})", w)[0] >= 1 - 1e-12) == (ratio > border)


def test_symmetric_noise_up_to_one_minus_two_in_k_leaves_el_one_hot(case):
    for K, border in [(10, 0.8), (100, 0.98)]:
        with case(K=K, border=border):
            np.testing.assert_allclose(
                predicted(f"symmetric(rate={border})", "el", K), np.eye(K), atol=1e-9
            )
            np.testing.assert_allclose(
                predicted(f"symmetric(rate={border / 2})", "el", K), np.eye(K), atol=1e-12
            )
            beyond = predicted(f"symmetric(rate={border + 1e-4})", "el", K)
            assert (np.diag(beyond) < 1 - 1e-5).all() and (np.diag(beyond) > 1 - border).all()


def test_pair_flips_of_two_fifths_need_an_eps_of_two():
    rows = {
        eps: predicted("pairflip(rate=0.4)", f"el(eps={eps})", 10)[3] for eps in (0, 0.4, 1.99, 2)
    }
    assert [rows[eps][3:5] for eps in (0, 0.4)] == [
        pytest.approx([0.6, 0.4]),
        pytest.approx([0.68, 0.32]),
    ]
    assert rows[1.99][3] < 1 - 1e-3 and rows[2] == pytest.approx(np.eye(10)[3])
    np.testing.assert_allclose(predicted("pairflip(rate=0.4)", "el", 10)[3], rows[0.4])


def test_an_eps_of_the_rate_is_never_enough_for_pair_flips(case):
    for rate in [0.05, 0.2, 0.4, 0.49]:
        with case(rate=rate):
            p = predicted(f"pairflip(rate={rate})", "el", 10)
            np.testing.assert_allclose(
                p,
                (1 - 2 * rate**2) * np.eye(10) + 2 * rate**2 * np.roll(np.eye(10), 1, axis=1),
                atol=1e-12,
            )


def test_the_likeliest_class_gains_as_eps_grows(case):
    for noise in NOISES:
        with case(noise=noise):
            p = np.array(
                [
                    predicted(noise, f"el(eps={eps})", 10).diagonal()
                    for eps in (0, 0.01, 0.1, 0.4, 1, 2, 10, math.inf)
                ]
            )
            flips = p[0] < 1
            assert (
                (np.diff(p, axis=0) >= -1e-12).all()
                and (p[0] < p[3])[flips].all()
                and (p[-1] == 1).all()
            )


def test_losses_that_are_another_learn_the_same(case):
    for text, as_much in [
        ("gce(q=1)", "mae"),
        ("rce", "mae"),
        ("el(eps=inf)", "mae"),
        ("el(eps=0)", "ce"),
        ("lsr(el, alpha=0)", "el"),
        ("7*el", "el"),
        ("gce(q=1e-13)", "ce"),
    ]:
        with case(text=text, as_much=as_much):
            for noise in NOISES:
                np.testing.assert_allclose(
                    predicted(noise, text, 10), predicted(noise, as_much, 10), atol=1e-9
                )


def test_without_a_closed_form_nothing_is_predicted(case):
    for text in [
        "js",
        "gce(k=0.5)",
        "ce + mae",
        "-1*ce",
        "forward(ce)",
        "lsr(js)",
        "ce + l1(weight=0.1)",
        "el(eps=estimated)",
        "normalized(ce)",
    ]:
        with case(text=text):
            assert predicted("symmetric(rate=0.4)", text, 10) is None


def test_what_is_no_noise_by_class_or_no_loss_is_refused(case):
    for noise, loss, error in [
        ("pdn(rate=0.4)", "ce", LanguageError),
        ("symetric(rate=0.4)", "ce", UnknownName),
        ("symmetric(rate=0.4)", "cee", UnknownName),
    ]:
        with case(noise=noise, loss=loss, error=error), pytest.raises(error):
            predicted(noise, loss, 10)
