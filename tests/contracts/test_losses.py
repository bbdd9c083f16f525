"""Losses: contracts over the registry, identities between them, and references of fifty digits."""

import math
import subprocess
import sys
from functools import cache

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

import noisebench as nb
from noisebench.core.expressions import Call, parse
from noisebench.core.parameters import Interval
from noisebench.errors import LanguageError, NoisebenchError
from noisebench.losses import LOSSES, build_loss, cost_of

torch.set_num_threads(1)

POINTWISE = [
    entry
    for entry in LOSSES
    if not any(p.is_expression for p in entry.parameters) and not entry.facts.get("penalty")
]
COMBINATORS = [entry for entry in LOSSES if any(p.is_expression for p in entry.parameters)]
EXAMPLE = {"rate": 0.4, "transition": "true"}  # what stands for auto


def values_of(parameter):
    """Values worth trying: the default first, then the closed ends of the range, or the other way
    of a switch.
    """
    if parameter.type is bool:
        return [parameter.default, not parameter.default]
    if parameter.auto:
        default = EXAMPLE[parameter.auto]
    elif parameter.required:
        low, high = (float(end) for end in parameter.allowed.text[1:-1].split(","))
        default = max(low, -1.0) if math.isinf(high) else (max(low, -1.0) + high) / 2
    else:
        default = parameter.default
    if not isinstance(parameter.allowed, Interval):
        return [default]
    ends = [float(end) for end in parameter.allowed.text[1:-1].split(",")]
    return [default, *(end for end in ends if end in parameter.allowed and end != default)]


def texts_of(entry, *losses):
    """The entry's texts with one parameter at a time at each of its values, around the given
    losses.
    """
    own = [p for p in entry.parameters if not p.is_expression]
    plain = {p.name: values_of(p)[0] for p in own}
    variants = [plain, *({**plain, p.name: value} for p in own for value in values_of(p)[1:])]
    return [
        str(Call(entry.name, tuple(map(parse, losses)), tuple(values.items())))
        for values in variants
    ]


def variants_of(entries, law=None):
    """The texts of every pointwise loss that declares the law."""
    return [
        text
        for entry in entries
        if law is None or law in entry.properties
        for text in texts_of(entry)
    ]


def combined(law=None):
    """The texts of every combinator around every pointwise loss, where both declare the law."""
    pairs = [
        (outer, inner)
        for outer in COMBINATORS
        for inner in POINTWISE
        if law is None or (law in outer.properties and law in inner.properties)
    ]
    pairs = [
        (outer, inner)
        for outer, inner in pairs
        if outer.name != "normalized" or "nonnegative" in inner.properties
    ]
    return [text for outer, inner in pairs for text in texts_of(outer, texts_of(inner)[0])]


@cache
def symmetric(K, rate=0.3):
    return nb.transition(f"symmetric({rate})", K)


@cache
def built(text, K):
    return build_loss(text, {"true": symmetric(K), "empirical": symmetric(K)})


def cost(text, logits):
    return cost_of(built(text, logits.shape[1]), logits)


def cost_at(text, logits, target):
    """The cost (N,) of one class each, asked for alone."""
    return cost_of(built(text, logits.shape[1]), logits, target)


def a_batch(n=6, K=10, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(n, K, generator=generator)


def extreme(K, far=1e4):
    """Rows of logits up to `far` apart: equal, one high, one low, a ramp, both ends, random."""
    rows = torch.zeros(6, K)
    rows[1, 0], rows[2, -1] = far, -far
    rows[3] = torch.linspace(-far / 2, far / 2, K)
    rows[4, ::2] = far
    rows[5] = far * torch.rand(K, generator=torch.Generator().manual_seed(0))
    return rows


def learned(text, logits, target):
    """The cost of target (N,) and its gradient, as a training step sees them."""
    logits = logits.clone().requires_grad_()
    chosen = cost(text, logits).gather(1, target[:, None])[:, 0]
    (gradient,) = torch.autograd.grad(chosen.sum(), logits)
    return chosen.detach(), gradient


def learned_alone(text, logits, target):
    """As `learned`, when the target's cost alone is asked for."""
    logits = logits.clone().requires_grad_()
    chosen = cost_at(text, logits, target)
    (gradient,) = torch.autograd.grad(chosen.sum(), logits)
    return chosen.detach(), gradient


def many(rows, least=2**14):
    """The rows again and again, more than `least` numbers of them."""
    return rows.repeat(-(-(least + 1) // rows[0].numel() // len(rows)) + 1, *[1] * (rows.dim() - 1))


def raised(log_p, y, amount):
    """log_p with p_y raised, the others in proportion."""
    p = log_p.double().exp()
    new = p[:, [y]] + amount * (1 - p[:, [y]])
    rest = p * (1 - new) / (1 - p[:, [y]])
    rest[:, [y]] = new
    return rest.log().float()


def every_target(logits):
    """The logits three times, with the likeliest class, the least likely one and one in the middle
    as targets.
    """
    middle = torch.full((len(logits),), logits.shape[1] // 2)
    return logits.repeat(3, 1), torch.cat([logits.argmax(1), logits.argmin(1), middle])


# Contracts over the registry


@pytest.mark.parametrize("K", [2, 10, 1000])
def test_value_and_gradient_are_finite_at_extreme_logits(K, case):
    small, large = every_target(extreme(K)), every_target(many(extreme(K), 2**14 // 3))
    for text in variants_of(POINTWISE):
        with case(loss=text):
            for found in (
                learned(text, *small),
                learned_alone(text, *small),
                learned_alone(text, *large),
            ):
                assert all(values.isfinite().all() for values in found)
    for text in combined() if K < 1000 else [texts_of(entry, "ce")[0] for entry in COMBINATORS]:
        with case(loss=text):
            # the inverse of T takes K^3
            logits = small if K < 1000 or "backward" not in text else every_target(extreme(200))
            assert all(values.isfinite().all() for values in learned(text, *logits))


@pytest.mark.parametrize("K", [2, 10, 1000])
def test_a_loss_is_a_float32_cost_of_every_class_and_rows_are_independent(K, case):
    logits = a_batch(6, K)
    for text in variants_of(POINTWISE) + (combined() if K == 10 else []):
        with case(loss=text):
            costs = cost(text, logits)
            assert costs.shape == (6, K) and costs.dtype == torch.float32
            torch.testing.assert_close(costs[2:4], cost(text, logits[2:4]), rtol=1e-6, atol=1e-6)


def test_the_order_of_the_logits_in_memory_changes_no_cost(case):
    logits = torch.cat([a_batch(6, 10), a_batch(6, 10, spread=20)])
    classes_first = logits.T.contiguous().T
    target = torch.arange(len(logits)) % 10
    for text in variants_of(POINTWISE) + combined():
        with case(loss=text):
            for learn in (learned, learned_alone):
                found, expected = learn(text, classes_first, target), learn(text, logits, target)
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


def test_the_cost_of_one_class_is_its_cost_among_all(case):
    small = torch.cat([a_batch(6, 10), a_batch(6, 10, spread=20)])
    large = (
        variants_of(POINTWISE) + texts_of(LOSSES["forward"], "ce") + texts_of(LOSSES["lsr"], "ce")
    )
    for logits, texts in ((small, variants_of(POINTWISE) + combined()), (many(small), large)):
        target = torch.arange(len(logits)) % 10
        for text in texts:
            with case(loss=text, rows=len(logits)):
                value, gradient = learned(text, logits, target)
                alone, its_gradient = learned_alone(text, logits, target)
                torch.testing.assert_close(alone, value, rtol=1e-5, atol=2e-6)
                torch.testing.assert_close(its_gradient, gradient, rtol=1e-4, atol=1e-5)


def test_a_pointwise_cost_depends_on_the_probability_of_its_class_alone(case):
    p = a_batch(20, 10, spread=1).double().softmax(1)
    shared = p.clone()
    shared[:, 1:] = p[:, 1:].sum(1, keepdim=True) / 9
    for text in variants_of([entry for entry in POINTWISE if entry.facts.get("pointwise")]):
        with case(loss=text):
            torch.testing.assert_close(
                cost(text, shared.log())[:, 0], cost(text, p.log())[:, 0], rtol=1e-5, atol=1e-6
            )


def test_the_pointwise_losses():
    named = {entry.name for entry in LOSSES if entry.facts.get("pointwise")}
    assert named == {
        "ce", "mae", "gce", "rce", "sce", "el", "focal", "agce", "aul", "ael", "taylor", "phuber", "js", "forward", "logitclip",
        "eps_softmax",
    }  # fmt: skip


def test_the_cost_of_a_class_falls_as_its_probability_grows(case):
    log_p = a_batch(20, 10, spread=1).log_softmax(1)
    rising = torch.stack([log_p, *(raised(log_p, 3, amount) for amount in (0.1, 0.5, 0.9))])
    for text in variants_of(POINTWISE, "falls") + combined("falls"):
        with case(loss=text):
            costs = cost(text, rising.flatten(0, 1))[:, 3].view(4, 20)
            assert (costs[1:] < costs[:-1]).all()


def test_permuting_the_classes_permutes_the_costs(case):
    logits, order = a_batch(6, 10), torch.randperm(10, generator=torch.Generator().manual_seed(1))
    for text in variants_of(POINTWISE, "equivariant") + combined("equivariant"):
        with case(loss=text):
            torch.testing.assert_close(
                cost(text, logits[:, order]), cost(text, logits)[:, order], rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("K", [2, 10])
def test_a_cost_is_not_negative(K, case):
    logits = torch.cat([a_batch(20, K), a_batch(20, K, spread=30), extreme(K)])
    for text in variants_of(POINTWISE, "nonnegative") + combined("nonnegative"):
        with case(loss=text):
            assert (cost(text, logits) >= -1e-6).all()


@pytest.mark.parametrize("K", [2, 10, 1000])
def test_the_costs_of_all_classes_sum_to_a_constant(K, case):
    logits = torch.cat([a_batch(20, K), a_batch(20, K, spread=30)])
    for text in variants_of(POINTWISE, "constant_sum") + texts_of(LOSSES["normalized"], "ce"):
        with case(loss=text):
            sums = cost(text, logits).double().sum(1)
            torch.testing.assert_close(sums, sums[:1].expand_as(sums), rtol=1e-5, atol=1e-5)


def test_a_loss_has_a_summary_and_declares_laws_that_exist(case):
    for entry in [*POINTWISE, *COMBINATORS]:
        with case(loss=entry.name):
            assert entry.summary.rstrip(".") and entry.properties <= {
                "falls",
                "equivariant",
                "nonnegative",
                "constant_sum",
            }


# Identities

IDENTITIES = [
    ("2*gce(q=1)", "mae"),
    ("focal(gamma=0)", "ce"),
    ("el(eps=0)", "ce"),
    ("2*el(eps=inf)", "mae"),
    ("el(eps=1e7)", "el(eps=inf)"),
    ("gce(q=1e-5)", "ce"),
    ("sce(alpha=0.3, beta=2, A=-4)", "0.3*ce + 2*rce(A=-4)"),
    ("sce(alpha=1, beta=0)", "ce"),
    ("gce(q=0.7, k=0)", "gce"),
    ("lsr(taylor(t=1))", "lsr(aul(a=2, q=1))"),
    ("ldr_kl(lam=1) + ldr_kl(lam=1)", "2*ldr_kl"),
    ("eps_softmax(ce, m=0, floor=0)", "ce"),
    ("focal(gamma=0.7, detach=True)", "focal(gamma=0.7)"),
    ("bitempered(t1=1, t2=1)", "ce"),
    ("lsr(eps_softmax(mae, m=2))", "eps_softmax(lsr(mae), m=2)"),
    ("2*taylor(t=1)", "mae"),
    ("2*aul(a=3, q=1)", "mae"),
    ("2*agce(a=3, q=1)", "mae"),
    ("1.4*agce(a=0.4, q=1e-6)", "el(eps=0.4)"),
    ("normalized(nnce)", "0.1111111111111111*nnce"),
    ("rce(A=-2)", "mae"),
    ("lsr(gce, alpha=0)", "gce"),
    ("lsr(lsr(ce, alpha=0.2), alpha=0.5)", "lsr(ce, alpha=0.6)"),
    ("lsr(ce + 2*mae)", "lsr(ce) + 2*lsr(mae)"),
    ("normalized(normalized(ce))", "normalized(ce)"),
    ("normalized(5*gce)", "normalized(gce)"),
    ("logitclip(ce, tau=1e6)", "ce"),
    ("logitclip(ce, tau=1, rescale=True)", "logitclip(ce, tau=1)"),
    ("backward(ce + 3*mae, T='true')", "backward(ce, T='true') + 3*backward(mae, T='true')"),
]


def test_two_texts_are_the_same_cost(case):
    logits = a_batch(30, 10, spread=4)
    for one, other in IDENTITIES:
        with case(f"{one} = {other}"):
            torch.testing.assert_close(cost(one, logits), cost(other, logits), rtol=3e-4, atol=1e-5)


def test_rows_of_a_normalized_loss_sum_to_one(case):
    for text in variants_of(POINTWISE, "nonnegative"):
        with case(loss=text):
            torch.testing.assert_close(
                cost(f"normalized({text})", a_batch(20, 10)).sum(1), torch.ones(20)
            )


def test_backward_and_then_the_noise_is_the_loss_itself(case):
    logits, T = a_batch(20, 10), torch.tensor(symmetric(10), dtype=torch.float32)
    for text in variants_of(POINTWISE):
        with case(loss=text):
            corrected = cost(f"backward({text}, T='true')", logits)
            torch.testing.assert_close(corrected @ T.T, cost(text, logits), rtol=1e-4, atol=1e-4)


def test_correcting_for_no_noise_changes_nothing(case):
    for text in variants_of(POINTWISE):
        for name in ("forward", "backward"):
            with case(loss=f"{name}({text})"):
                loss = build_loss(f"{name}({text}, T='true')", {"true": np.eye(10)})
                torch.testing.assert_close(
                    cost_of(loss, a_batch()), cost(text, a_batch()), rtol=1e-5, atol=1e-6
                )


def test_forward_is_ce_of_the_probability_of_the_noisy_label():
    T = np.array([[0.7, 0.2, 0.1], [0.0, 0.9, 0.1], [0.3, 0.3, 0.4]])
    logits = a_batch(20, 3)
    expected = -(logits.softmax(1).double() @ torch.tensor(T)).log()
    torch.testing.assert_close(
        cost_of(build_loss(f"forward(ce, T={T.tolist()})"), logits).double(),
        expected,
        rtol=1e-5,
        atol=1e-6,
    )


def test_backward_is_the_inverse_of_the_noise_times_the_costs():
    T = np.array([[0.7, 0.2, 0.1], [0.0, 0.9, 0.1], [0.3, 0.3, 0.4]])
    logits = a_batch(20, 3)
    expected = -logits.log_softmax(1).double() @ torch.tensor(np.linalg.inv(T)).T
    torch.testing.assert_close(
        cost_of(build_loss(f"backward(ce, T={T.tolist()})"), logits).double(),
        expected,
        rtol=1e-5,
        atol=1e-5,
    )


def test_backward_is_unbiased_for_the_clean_cost():
    T = nb.transition("asymmetric(0.4, map='cifar10')", 10)
    logits = a_batch(5, 10)
    corrected = cost_of(build_loss("backward(ce, T='true')", {"true": T}), logits).double()
    expectation = corrected @ torch.tensor(T).T  # row k of T: the noisy labels of class k
    torch.testing.assert_close(expectation.float(), cost("ce", logits), rtol=1e-4, atol=1e-4)


def test_cross_entropy_and_label_smoothing_are_those_of_torch(case):
    for K in (2, 10, 1000):
        logits, target = a_batch(30, K), torch.arange(30) % K
        for text, alpha in (
            ("ce", 0.0),
            *((f"lsr(ce, alpha={alpha})", alpha) for alpha in (0.0, 0.1, 0.5, 1.0)),
        ):
            with case(loss=text, K=K):
                expected = cross_entropy(logits, target, reduction="none", label_smoothing=alpha)
                torch.testing.assert_close(
                    learned(text, logits, target)[0], expected, rtol=1e-5, atol=1e-5
                )


def test_logitclip_shortens_long_logits_and_leaves_short_ones():
    logits = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    torch.testing.assert_close(
        cost("logitclip(ce, tau=1)", logits), cost("ce", torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
    )


def test_logitclip_as_in_the_code_sets_what_is_longer_than_one_over_tau_to_length_tau():
    # of length 5, 1 and 0.5; 1 / tau is 2 / 3
    logits = torch.tensor([[3.0, 4.0], [0.6, 0.8], [0.3, 0.4]])
    clipped = torch.tensor([[0.9, 1.2], [0.9, 1.2], [0.3, 0.4]])
    torch.testing.assert_close(
        cost("logitclip(ce, tau=1.5, rescale=True)", logits), cost("ce", clipped)
    )


def test_a_sum_evaluates_each_term_through_its_own_link():
    logits = a_batch(10, 5)
    expected = 2 * cost("logitclip(ce, tau=1)", logits) + cost("mae", logits)
    torch.testing.assert_close(cost("mae + 2*logitclip(ce, tau=1)", logits), expected)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=3, max_size=6), st.floats(-100, 100))
def test_a_constant_added_to_the_logits_changes_no_cost(row, shift):
    logits = torch.tensor([row])
    torch.testing.assert_close(
        cost("el(eps=0.3) + gce", logits + shift),
        cost("el(eps=0.3) + gce", logits),
        rtol=1e-4,
        atol=1e-4,
    )


def direct(name, p, **values):
    """The formulas over a whole row, in float64, as one reads them."""
    K = p.shape[1]
    if name == "nnce":
        scores = -math.log(values["pmin"]) + p.clamp_min(values["pmin"]).log()
        return 1 - scores / scores.sum(1, keepdim=True)
    if name == "amse":
        return torch.stack(
            [((values["a"] * torch.eye(K, dtype=p.dtype)[k] - p) ** 2).mean(1) for k in range(K)], 1
        )
    raise AssertionError(name)


def test_a_cost_over_the_row_is_that_of_its_formula(case):
    for text in ("nnce", "nnce(pmin=1e-30)", "amse", "amse(a=1)", "amse(a=20)"):
        for K in (2, 10, 100):
            with case(loss=text, K=K):
                logits, call = a_batch(30, K), LOSSES.normal(text)
                expected = direct(call.name, logits.double().softmax(1), **dict(call.kwargs))
                torch.testing.assert_close(
                    cost(text, logits).double(), expected, rtol=1e-5, atol=1e-6
                )


def test_truncated_gce_has_no_gradient_below_its_threshold():
    logits = torch.tensor([[math.log(0.3 / 0.7), 0.0], [math.log(0.6 / 0.4), 0.0]])
    value, gradient = learned("gce(q=0.7, k=0.5)", logits, torch.zeros(2, dtype=int))
    expected = [(1 - 0.5**0.7) / 0.7, (1 - 0.6**0.7) / 0.7]
    torch.testing.assert_close(value, torch.tensor(expected))
    assert gradient[0].abs().sum() == 0 and gradient[1].abs().sum() > 0


def test_below_its_threshold_phuber_is_the_tangent_of_ce():
    # p = 0.1 and just beside it
    edge = torch.tensor([[0.0, math.log(9)], [1e-4, math.log(9)], [-1e-4, math.log(9)]])
    value, gradient = learned("phuber(tau=10)", edge, torch.zeros(3, dtype=int))
    torch.testing.assert_close(value, cost("ce", edge)[:, 0])
    torch.testing.assert_close(gradient[1], gradient[2], rtol=1e-3, atol=1e-5)


def test_a_family_reaches_its_limit_where_p_is_not_small(case):
    logits = a_batch(30, 3, spread=0.5)
    for text, limit, far in (
        ("phuber(tau=1e6)", "ce", 1e-5),
        ("js(pi=1e-6)", "ce", 1e-4),
        ("taylor(t=100)", "ce", 1e-2),
    ):
        with case(loss=text):
            torch.testing.assert_close(cost(text, logits), cost(limit, logits), rtol=far, atol=far)


def test_epsilon_softmax_adds_m_to_the_likeliest_class_and_of_equal_ones_to_the_first():
    logits = torch.cat([a_batch(20, 5), torch.zeros(1, 5), torch.tensor([[0.0, 3, 1, 3, 3]])])
    p = logits.double().softmax(1)
    expected = (p + 3 * torch.eye(5)[p.argmax(1)]) / 4
    torch.testing.assert_close(
        cost("eps_softmax(ce, m=3)", logits).double(), -expected.log(), rtol=1e-5, atol=1e-6
    )


def bisected(z, t2):
    """The tempered softmax (N, K) of z, its normalizer found by bisection."""
    low, high = z.max(1).values, z.max(1).values + (z.shape[1] ** (t2 - 1) - 1) / (t2 - 1)
    for _ in range(100):
        middle = (low + high) / 2
        too_much = (1 + (t2 - 1) * (middle[:, None] - z)).pow(-1 / (t2 - 1)).sum(1) > 1
        low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
    return (1 + (t2 - 1) * (low[:, None] - z)).pow(-1 / (t2 - 1))


def test_bitempered_is_its_formula_at_a_normalizer_found_by_bisection(case):
    for t1, t2 in ((0.8, 1.2), (0.2, 4), (0.5, 2), (1, 1.5), (0, 1.01)):
        for K in (2, 10, 1000):
            with case(t1=t1, t2=t2, K=K):
                logits = a_batch(20, K)
                p = bisected(logits.double(), t2)
                log_t1 = p.log() if t1 == 1 else (p ** (1 - t1) - 1) / (1 - t1)
                expected = -log_t1 - (1 - p.pow(2 - t1).sum(1, keepdim=True)) / (2 - t1)
                torch.testing.assert_close(
                    cost(f"bitempered(t1={t1}, t2={t2})", logits).double(),
                    expected,
                    rtol=1e-5,
                    atol=1e-6,
                )


# another gradient on purpose; six digits of the value lost to the division by pi
UNCHECKED = ("detach=True", "js(pi=1e-06)")
SMOOTH = [
    *(text for entry in POINTWISE for text in texts_of(entry) if not any(part in text for part in UNCHECKED)),
    *(text for entry in COMBINATORS for inner in ("ce", "gce") for text in texts_of(entry, inner)[:1]),
    "logitclip(ce, tau=1.5, rescale=True)", "ldr_kl(lam=1, margin=0.1, normalize=False)", "bitempered(t1=0.5, t2=2)", "nce + 3*rce",
]  # fmt: skip


def test_float64_logits_cost_float64_and_autograd_agrees_with_differences(case):
    """As nn.CrossEntropyLoss; of all classes, and of one in a small batch and in a large one."""
    logits, target = a_batch(2, 4, spread=1).double().requires_grad_(), torch.tensor([1, 3])
    large = many(logits.detach()).requires_grad_()
    for text in SMOOTH:
        with case(loss=text):
            assert cost(text, logits).dtype == cost_at(text, logits, target).dtype == torch.float64
            assert cost_at(text, large, target.repeat(len(large) // 2)).dtype == torch.float64
            assert torch.autograd.gradcheck(lambda z, text=text: cost(text, z), logits)
            assert torch.autograd.gradcheck(lambda z, text=text: cost_at(text, z, target), logits)


def test_the_detached_factor_of_the_focal_loss_scales_the_gradient_of_ce():
    logits, target = a_batch(20, 10).double(), torch.arange(20) % 10
    p = logits.softmax(1).gather(1, target[:, None])
    by_ce = learned("ce", logits, target)[1]
    torch.testing.assert_close(
        learned("focal(gamma=0.5, detach=True)", logits, target)[1], (1 - p).sqrt() * by_ce
    )
    # and of its normalised form, by the rule for a quotient
    weights = (1 - logits.softmax(1)).sqrt()
    whole = -(weights * logits.log_softmax(1)).sum(1, keepdim=True)
    slope = weights.gather(1, target[:, None]) * by_ce / whole
    share = -weights.gather(1, target[:, None]) * p.log() / whole
    of_whole = torch.stack(
        [
            weights[:, k, None] * learned("ce", logits, torch.full_like(target, k))[1]
            for k in range(10)
        ]
    ).sum(0)
    torch.testing.assert_close(
        learned("nfl(detach=True)", logits, target)[1], slope - share * of_whole / whole
    )


def test_a_floor_under_epsilon_softmax_removes_the_gradient_of_unlikely_labels():
    # p below and above 1e-8 (1 + m)
    logits = torch.tensor([[0.998, 0.9e-3, 1.1e-3]]).double().log()
    for name, label, teaches in (
        ("eps_softmax(ce)", 1, False),
        ("eps_softmax(ce)", 2, True),
        ("eps_softmax(ce, floor=0)", 1, True),
    ):
        value, gradient = learned(f"{name[:-1]}, m=1e5)", logits, torch.tensor([label]))
        assert bool(gradient.abs().sum() > 0) == teaches
        assert teaches or value.item() == pytest.approx(-math.log(1e-8))


def test_ldr_kl_of_the_logits_is_ce_at_a_temperature():
    for K in (2, 100):
        logits = a_batch(30, K).double()
        for lam in (0.5, 1, 10):
            expected = lam * (cost("ce", logits / lam) - math.log(K))
            torch.testing.assert_close(
                cost(f"ldr_kl(lam={lam}, margin=0, normalize=False)", logits), expected
            )


def test_the_likeliest_class_is_that_of_the_scores_of_ldr_kl():
    """So that accuracy is theirs, though p is the plain softmax."""
    for spread in (0.1, 3, 30):
        logits = a_batch(200, 10, spread=spread) - spread
        least = cost("ldr_kl(lam=10)", logits).argmin(1)
        assert (least == logits.argmax(1)).all()


# References of fifty digits


def mp_el(p, eps):
    if eps == 0:
        return -mpmath.log(p)
    return 1 - p if mpmath.isinf(eps) else -(1 + eps) * mpmath.log((p + eps) / (1 + eps))


def mp_js(p, pi):
    """The definition: entropies of the mixture and of p, the other classes as one mass that the
    mixture scales by 1 - pi.
    """
    at, rest = pi + (1 - pi) * p, 1 - p
    label = -pi * mpmath.log(at)
    own = (1 - pi) * (p * mpmath.log(p / at) - rest * mpmath.log(1 - pi))
    return (label + own) / (-(1 - pi) * mpmath.log(1 - pi))


FORMULAS = {
    "ce": lambda p: -mpmath.log(p),
    "mae": lambda p: 2 * (1 - p),
    "gce": lambda p, q: (1 - p**q) / q,
    "rce": lambda p, A: -A * (1 - p),
    "sce": lambda p, alpha, beta, A: -alpha * mpmath.log(p) - beta * A * (1 - p),
    "el": mp_el,
    "focal": lambda p, gamma: -((1 - p) ** gamma) * mpmath.log(p),
    "agce": lambda p, a, q: ((a + 1) ** q - (a + p) ** q) / q,
    "aul": lambda p, a, q: ((a - p) ** q - (a - 1) ** q) / q,
    "ael": lambda p, a: mpmath.exp(-p / a),
    "taylor": lambda p, t: mpmath.fsum((1 - p) ** i / i for i in range(1, int(t) + 1)),
    "phuber": lambda p, tau: -mpmath.log(p) if p > 1 / tau else mpmath.log(tau) + 1 - tau * p,
    "js": mp_js,
}
REFERENCED = [
    "ce", "mae", "gce", "gce(q=0.01)", "gce(q=0.1)", "gce(q=1)", "rce", "rce(A=-4)", "sce", "sce(alpha=6, beta=0.1)", "el(eps=0)",
    "el(eps=1e-12)", "el(eps=1e-9)", "el(eps=1e-6)", "el(eps=0.1)", "el(eps=0.4)", "el(eps=0.9)", "el(eps=100)", "el(eps=1e6)",
    "el(eps=inf)", "agce", "agce(a=1e-5, q=0.5)", "agce(a=6, q=1.5)", "agce(a=1.8, q=3)", "agce(a=4, q=0.2)", "aul",
    "aul(a=6.3, q=1.5)", "aul(a=1.5, q=0.9)", "aul(a=3, q=0.1)", "ael", "ael(a=5)", "ael(a=1.5)", "taylor", "taylor(t=1)",
    "taylor(t=6)", "taylor(t=50)", "phuber", "phuber(tau=2)", "phuber(tau=50)", "js", "js(pi=0.1)", "js(pi=0.9)", "js(pi=0.001)",
    "js(pi=0.999)", "focal", "focal(gamma=0)", "focal(gamma=0.5)", "focal(gamma=1)", "focal(gamma=5)",
]  # fmt: skip
GAPS = (0, 2, 3, 4, 5, 6, 7, 8, 12, 16, 17, 20, 50, 87, 100)


def mp_softmax(row):
    powers = {z: mpmath.exp(z) for z in set(row)}
    total = mpmath.fsum(powers[z] for z in row)
    shares = {z: power / total for z, power in powers.items()}
    return [shares[z] for z in row]


def row_with_gap(K, gap, y):
    """Logits whose label y leads (gap > 0) or trails (gap < 0) all others by about |gap|."""
    row = torch.zeros(K)
    row[y] = gap
    return row


@cache
def reference_rows(K):
    """Logits (n, K) and labels (n,): gaps both ways, and some random rows up to 100 apart; of 10
    classes all, else every third.
    """
    gaps = [gap for size in GAPS for gap in (size, -size)]
    rows = [row_with_gap(K, gap, i % K) for i, gap in enumerate(gaps)]
    rows += list(a_batch(4, K, spread=100 / 8).clamp(-50, 50))
    step = 1 if K == 10 else 3 if K < 10 else 5
    return torch.stack(rows[::step]), torch.arange(0, len(rows), step) % K


@cache
def exact_rows(K):
    """log p_y of each reference row to far more than fifty digits, and its gradient (n, K) by the
    logits.
    """
    logits, target = reference_rows(K)
    slopes = torch.empty(logits.shape, dtype=torch.float64)
    log_p = []
    with mpmath.workdps(110):
        for i, (row, y) in enumerate(zip(logits.double().tolist(), target.tolist(), strict=True)):
            p = mp_softmax([mpmath.mpf(z) for z in row])
            log_p.append(mpmath.log(p[y]))
            slopes[i] = torch.tensor(list(map(float, p)), dtype=torch.float64).neg()
            slopes[i, y] = float(1 - p[y])
    return log_p, slopes


def reference(text, K):
    """Value (n,) and gradient (n, K) by the formula in p, differentiated numerically to fifty
    digits.
    """
    call = LOSSES.normal(text)
    values = {key: mpmath.mpf(value) for key, value in call.kwargs}
    log_p, slopes = exact_rows(K)

    def cost_at(log_p):
        return FORMULAS[call.name](mpmath.exp(log_p), **values)

    with mpmath.workdps(110):
        value = [float(cost_at(each)) for each in log_p]
        by_log_p = [float(mpmath.diff(cost_at, each)) for each in log_p]
    return torch.tensor(value, dtype=torch.float64), torch.tensor(by_log_p, dtype=torch.float64)[
        :, None
    ] * slopes


@pytest.mark.parametrize("K", [2, 10, 1000])
def test_value_and_gradient_agree_with_fifty_digits(K, case):
    logits, target = reference_rows(K)
    large = many(logits)
    for text in REFERENCED:
        exact = reference(text, K)
        for way, found in (
            ("among all", learned(text, logits, target)),
            ("alone", learned_alone(text, logits, target)),
            (
                "alone in a large batch",
                learned_alone(text, large, target.repeat(len(large) // len(target))),
            ),
        ):
            with case(way, loss=text):
                for values, expected in zip(found, exact, strict=True):
                    torch.testing.assert_close(
                        values[: len(expected)].double(), expected, rtol=1e-5, atol=1e-6
                    )


def mp_row_cost(text, row, y):
    """The formulas that look at a whole row, or change it first, at label y."""
    p, K = mp_softmax(row), len(row)
    if text.startswith("ldr_kl"):
        values = dict(LOSSES.normal(text).kwargs)
        lam, margin = mpmath.mpf(values["lam"]), mpmath.mpf(values["margin"])
        softplus = [mpmath.log(1 + mpmath.exp(z)) for z in row]
        s = (
            [K * each / mpmath.fsum(softplus) for each in softplus]
            if values.get("normalize", True)
            else row
        )
        return lam * mpmath.log(
            mpmath.fsum(mpmath.exp((z - s[y] + margin * (k != y)) / lam) for k, z in enumerate(s))
            / K
        )
    if text == "nnce":
        above = [mpmath.log(max(q, mpmath.mpf("1e-7"))) + mpmath.log(1e7) for q in p]
        return 1 - above[y] / mpmath.fsum(above)
    if text == "amse":
        return mpmath.fsum((30 * (k == y) - q) ** 2 for k, q in enumerate(p)) / K
    if text == "nce":
        return mpmath.log(p[y]) / mpmath.fsum(mpmath.log(q) for q in p)
    if text == "nfl":
        each = [-mpmath.sqrt(1 - q) * mpmath.log(q) for q in p]
        return each[y] / mpmath.fsum(each)
    if text == "lsr(ce)":
        return -(
            0.9 * mpmath.log(p[y]) + mpmath.mpf("0.1") / K * mpmath.fsum(mpmath.log(q) for q in p)
        )
    if text == "forward(ce, T='true')":
        return -mpmath.log(
            mpmath.fsum(
                q * mpmath.mpf(float(t)) for q, t in zip(p, symmetric(K)[:, y], strict=True)
            )
        )
    if text.startswith("eps_softmax(ce"):
        m, floor = (mpmath.mpf(dict(LOSSES.normal(text).kwargs)[name]) for name in ("m", "floor"))
        return -mpmath.log(max((p[y] + m * (y == p.index(max(p)))) / (1 + m), floor))
    assert text.startswith("logitclip(ce")
    values, length = dict(LOSSES.normal(text).kwargs), mpmath.sqrt(mpmath.fsum(z * z for z in row))
    tau = mpmath.mpf(values["tau"])
    longer = length > (1 / tau if "rescale" in values else tau)
    return -mpmath.log(mp_softmax([z * tau / length if longer else z for z in row])[y])


OVER_ROWS = [
    "ldr_kl(lam=1)", "ldr_kl(lam=10)", "ldr_kl(lam=0.5)", "ldr_kl(lam=0.1)", "ldr_kl(lam=2, margin=2)",
    "ldr_kl(lam=1, margin=0, normalize=False)", "nnce", "amse", "nce", "nfl", "lsr(ce)", "forward(ce, T='true')",
    "eps_softmax(ce, m=3)", "eps_softmax(ce, m=1e5)", "eps_softmax(ce, m=1e5, floor=0)", "logitclip(ce, tau=1)",
    "logitclip(ce, tau=2.2)", "logitclip(ce, tau=2.2, rescale=True)", ("logitclip(ce, tau=0.5, "
                                                                      "rescale=True)"),
]  # fmt: skip


@pytest.mark.parametrize("K", [2, 10])
def test_a_cost_over_the_row_agrees_with_fifty_digits(K, case):
    logits, target = reference_rows(K)
    # no two logits are the same: of equal ones none is the largest
    logits = logits + torch.linspace(0, 0.4, K)
    for text in OVER_ROWS:
        value, gradient = learned(text, logits, target)
        with case(loss=text), mpmath.workdps(50):
            for row, y, found, slope in zip(
                logits.double().tolist(),
                target.tolist(),
                value.tolist(),
                gradient.tolist(),
                strict=True,
            ):
                exact = [mpmath.mpf(z) for z in row]
                assert found == pytest.approx(
                    float(mp_row_cost(text, exact, y)), rel=1e-5, abs=1e-6
                )
                for j in {y, (y + 1) % K}:
                    step = mpmath.mpf("1e-15")
                    up, down = (
                        [z + sign * step * (k == j) for k, z in enumerate(exact)]
                        for sign in (1, -1)
                    )
                    expected = (mp_row_cost(text, up, y) - mp_row_cost(text, down, y)) / (2 * step)
                    assert slope[j] == pytest.approx(float(expected), rel=1e-5, abs=1e-6)


# Mistakes


def test_a_matrix_that_is_no_transition_for_these_classes_is_refused(case):
    for name in ("forward", "backward"):
        for T in ("[]", "[[0.5, 0.4], [0, 1]]", "[[1.5, -0.5], [0, 1]]", "[[inf, 0], [0, 1]]"):
            with case(name, T=T), pytest.raises(LanguageError):
                build_loss(f"{name}(ce, T={T})")
        with case(name), pytest.raises(LanguageError, match="2 classes, the data 3"):
            cost_of(build_loss(f"{name}(ce, T=[[0.9, 0.1], [0.2, 0.8]])"), torch.zeros(1, 3))


def test_backward_refuses_a_matrix_without_inverse():
    with pytest.raises(LanguageError, match="not invertible"):
        build_loss("backward(ce, T='true')", {"true": np.full((10, 10), 0.1)})


def test_forward_refuses_a_class_that_is_never_recorded():
    with pytest.raises(LanguageError, match="column 1 of T is all zero"):
        build_loss("forward(ce, T=[[1, 0], [1, 0]])")


def test_what_only_a_manifest_knows_is_refused_without_one(case):
    for text in (
        "el",
        "el(eps=auto)",
        "forward(ce)",
        "lsr(el)",
        "ce + 2*backward(ce)",
        "forward(ce, T='true')",
    ):
        with case(loss=text), pytest.raises(LanguageError, match="known only with a manifest"):
            build_loss(text)


def test_a_parameter_at_the_edge_of_its_range_is_finite_or_refused(case):
    for text in (
        "el(eps=1e30)",
        "el(eps=1e300)",
        "focal(gamma=1e20)",
        "gce(q=1e-41)",
        "gce(q=1e-46)",
        "logitclip(ce, tau=1e39)",
    ):
        with case(loss=text):
            try:
                costs = cost(text, a_batch())
            except NoisebenchError:
                continue
            assert costs.isfinite().all()


def test_gce_with_a_tiny_q_is_ce(case):
    for q in (1e-8, 1e-30, 1e-41):
        with case(q=q):
            torch.testing.assert_close(cost(f"gce(q={q})", a_batch()), cost("ce", a_batch()))


def test_equal_loss_with_a_huge_eps_is_half_of_mae():
    torch.testing.assert_close(cost("2*el(eps=1e30)", a_batch()), cost("mae", a_batch()))


def test_importing_the_losses_loads_no_torch():
    code = (
        "import sys, noisebench.losses as l; l.build_loss('forward(ce, T=[[1, 0], [0, 1]])'); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Combinators of one's own


def test_a_combinator_needs_no_annotation():
    @nb.register_loss
    def test_twice(loss, by=2.0):
        """A multiple of a loss."""
        return lambda scores: by * loss(scores)

    logits = a_batch()
    torch.testing.assert_close(cost("test_twice(gce)", logits), cost("2*gce", logits))
    torch.testing.assert_close(
        cost("lsr(test_twice(ce + mae, by=3))", logits), cost("3*lsr(ce) + 3*lsr(mae)", logits)
    )
    with pytest.raises(LanguageError, match="test_twice: loss must be a loss, got 3"):
        LOSSES.canonical("test_twice(3)")


def test_a_combinator_that_returns_no_loss_is_told_what_to_return():
    @nb.register_loss
    def test_product(loss):
        """Not a loss."""
        return 3 * loss

    @nb.register_loss
    def test_constant(loss):
        """Not a loss either."""
        return 3.0

    for name in ("test_product", "test_constant"):
        with pytest.raises(
            LanguageError,
            match=rf"{name} does not return a loss.*return lambda scores: "
            r"2 \* loss\(scores\)",
        ):
            build_loss(f"{name}(ce)")
