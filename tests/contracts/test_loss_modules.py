"""Losses as modules for anyone's loop: in the place of torch's own, of all its shapes."""

import inspect
import math
import os
import pickle
import shutil
import time
from random import Random

import pytest
import torch
from torch.nn.functional import cross_entropy

import noisebench as nb
from noisebench.errors import ConfigError, LanguageError
from noisebench.losses import LOSSES, build_loss, cost_of
from tests.contracts.test_losses import POINTWISE, a_batch, cost, symmetric


def test_the_module_takes_the_cost_of_the_target():
    logits, target = a_batch(7, 10), torch.arange(7)
    torch.testing.assert_close(
        nb.loss("gce", "none")(logits, target), cost("gce", logits)[torch.arange(7), target]
    )


def test_the_module_stands_in_the_place_of_cross_entropy():
    logits, target = a_batch(7, 10), torch.arange(7)
    torch.testing.assert_close(
        nb.loss("ce")(logits, target), torch.nn.CrossEntropyLoss()(logits, target)
    )


def test_probabilities_are_targets_too(case):
    for reduction in ["mean", "sum", "none"]:
        with case(reduction=reduction):
            logits, target = a_batch(7, 10), a_batch(7, 10, seed=1).softmax(1)
            torch.testing.assert_close(
                nb.loss("ce", reduction)(logits, target),
                cross_entropy(logits, target, reduction=reduction),
            )


def test_a_one_hot_target_is_its_class():
    logits, target = a_batch(7, 10), torch.arange(7)
    module = nb.loss("lsr(el(eps=0.2))")
    torch.testing.assert_close(module(logits, torch.eye(10)[target]), module(logits, target))


def test_the_reductions_are_mean_sum_and_none_of_one_cost():
    logits, target = a_batch(7, 10), torch.arange(7)
    mean, total, each = (
        nb.loss("mae", reduction)(logits, target) for reduction in ("mean", "sum", "none")
    )
    torch.testing.assert_close(mean, each.mean())
    torch.testing.assert_close(total, each.sum())


SHAPES = [(10,), (7, 10), (4, 10, 3), (2, 10, 3, 5), (0, 10)]


def test_the_module_takes_every_shape_that_torchs_own_takes(case):
    for weighted in [False, True]:
        for reduction in ["mean", "sum", "none"]:
            for shape in SHAPES:
                with case(shape=shape, reduction=reduction, weighted=weighted):
                    generator = torch.Generator().manual_seed(0)
                    logits, weight = (
                        torch.randn(shape, generator=generator),
                        torch.rand(10, generator=generator) + 0.5 if weighted else None,
                    )
                    target = torch.randint(
                        0, 10, shape[:1] + shape[2:] if len(shape) > 1 else (), generator=generator
                    )
                    soft = logits.flip(0).softmax(1 if len(shape) > 1 else 0)
                    for goal in (target, soft):
                        expected = cross_entropy(logits, goal, weight, reduction=reduction)
                        torch.testing.assert_close(
                            nb.loss("ce", reduction, weight=weight)(logits, goal),
                            expected,
                            equal_nan=True,
                        )


def test_examples_of_the_ignored_class_cost_nothing(case):
    for weighted in [False, True]:
        for reduction in ["mean", "sum", "none"]:
            with case(reduction=reduction, weighted=weighted):
                logits, target = a_batch(8, 10), torch.tensor([1, -100, 3, 7, -100, 0, 2, 2])
                weight = torch.linspace(0.5, 2, 10) if weighted else None
                torch.testing.assert_close(
                    nb.loss("ce", reduction, weight=weight)(logits, target),
                    cross_entropy(logits, target, weight, reduction=reduction),
                )
                torch.testing.assert_close(
                    nb.loss("ce", ignore_index=2)(logits.abs(), target.abs() % 100),
                    cross_entropy(logits.abs(), target.abs() % 100, ignore_index=2),
                )


def test_a_module_is_pickled_by_what_it_was_made_of(case):
    for text in [
        "el(eps=0.4)",
        "10*nce + 0.1*agce(a=1.8, q=3)",
        ("forward(ce, T=[[0.9, 0.1], [0.2, 0.8]])"),
    ]:
        with case(text=text):
            module = nb.loss(text, "sum", ignore_index=1, weight=torch.tensor([1.0, 3.0]))
            again, logits, target = (
                pickle.loads(pickle.dumps(module)),
                a_batch(6, 2),
                torch.arange(6) % 2,
            )
            torch.testing.assert_close(again(logits, target), module(logits, target))
            assert repr(again) == repr(module)


def test_the_module_leaves_its_inputs_alone():
    logits, target = a_batch(6, 10), torch.tensor([0, 1, -100, 3, 4, 5])
    before = logits.clone(), target.clone()
    nb.loss("nce + taylor")(logits, target)
    assert torch.equal(logits, before[0]) and torch.equal(target, before[1])


def test_a_module_of_float64_is_float64_and_so_are_both_its_gradients():
    logits, target = a_batch(3, 4, spread=1).double().requires_grad_(), torch.tensor([0, 2, -100])
    soft, weight = a_batch(3, 4, seed=1).double().softmax(1), torch.linspace(0.5, 2, 4)
    for text in (
        "ce",
        "el(eps=0.4)",
        "agce",
        "taylor",
        "nce + rce",
        "ldr_kl(lam=10)",
        "eps_softmax(ce, m=3)",
        "bitempered",
    ):
        for module, goal in (
            (nb.loss(text), target),
            (nb.loss(text, "none"), target),
            (nb.loss(text, weight=weight.double()), soft),
        ):
            assert module(logits, goal).dtype == torch.float64
            assert torch.autograd.gradcheck(
                lambda z, module=module, goal=goal: module(z, goal), logits
            )
        assert torch.autograd.gradgradcheck(lambda z, text=text: nb.loss(text)(z, target), logits)
    with torch.autocast("cpu", torch.bfloat16):
        assert nb.loss("logitclip(ce)")(logits, target).dtype == torch.float64


def test_a_loss_by_class_is_the_loss_by_text():
    logits, target = a_batch(7, 10), torch.arange(7)
    for module, text in (
        (nb.losses.EqualLoss(eps=0.4), "el(eps=0.4)"),
        (nb.losses.GceLoss(q=0.5), "gce(q=0.5)"),
        (nb.losses.TaylorLoss(), "taylor"),
    ):
        torch.testing.assert_close(module(logits, target), nb.loss(text)(logits, target))
        torch.testing.assert_close(
            pickle.loads(pickle.dumps(module))(logits, target), module(logits, target)
        )


def test_a_class_shows_its_parameters_and_its_formula():
    assert list(inspect.signature(nb.losses.EqualLoss).parameters) == [
        "eps",
        "reduction",
        "ignore_index",
        "weight",
    ]
    assert "log((p + eps) / (1 + eps))" in nb.losses.EqualLoss.__doc__ and "EqualLoss" in dir(
        nb.losses
    )
    with pytest.raises(LanguageError, match="known only with a manifest"):
        nb.losses.EqualLoss()
    with pytest.raises(LanguageError, match="el has no parameter 'q'"):
        nb.losses.EqualLoss(q=1)
    with pytest.raises(AttributeError, match="no attribute 'SquaredLoss'"):
        _ = nb.losses.SquaredLoss


def test_short_names_are_written_out():
    assert LOSSES.canonical("nce") == "normalized(ce)"
    assert LOSSES.canonical("10*nfl + 0.1*mae") == "10*normalized(focal(gamma=0.5)) + 0.1*mae"
    assert LOSSES.canonical("lsr(nfl(gamma=2))") == "lsr(normalized(focal(gamma=2)), alpha=0.1)"
    with pytest.raises(LanguageError, match="focal has no parameter 'q'"):
        LOSSES.canonical("nfl(q=1)")


def test_another_reduction_is_refused():
    with pytest.raises(ConfigError, match=r"mean, sum, none.*'median'"):
        nb.loss("ce", "median")


def test_the_module_refuses_auto(case):
    for text in ["el", "lsr(el)", "forward(ce)"]:
        with case(text=text), pytest.raises(LanguageError, match="give a value"):
            nb.loss(text)


def test_the_module_shows_its_canonical_text():
    assert "'gce(q=0.7)', reduction='mean'" in repr(nb.loss("gce"))


def test_the_module_keeps_the_gradient():
    logits, target = a_batch(7, 10).requires_grad_(), torch.arange(7)
    nb.loss("el(eps=0.4)")(logits, target).backward()
    assert logits.grad.abs().sum() > 0


COMPILED = [
    "el(eps=0.4)",
    "agce",
    "js",
    "nce + rce",
    "logitclip(ce)",
    ("forward(ce, T=[[0.9, 0.1], [0.2, 0.8]])"),
]


def assert_compiles(text, backend):
    """As one graph, with the same cost and gradient."""
    torch._dynamo.reset()
    module, target = nb.loss(text), torch.arange(40) % 2
    found = []
    for each in (module, torch.compile(module, fullgraph=True, backend=backend)):
        logits = a_batch(40, 2, spread=8).requires_grad_()
        value = each(logits, target)
        value.backward()
        found.append((value.detach(), logits.grad))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


def test_a_compiled_module_returns_the_same(case):
    for text in COMPILED:
        with case(loss=text):
            assert_compiles(text, "eager")


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, torch.compile's C++ compiler")
def test_a_module_compiled_to_machine_code_returns_the_same(case):
    for text in COMPILED:
        with case(loss=text):
            assert_compiles(text, "inductor")


ALONE = [
    str(LOSSES.normal("el(eps=0.4)" if entry.name == "el" else entry.name)) for entry in POINTWISE
]


def test_autocast_and_half_precision_leave_a_module_finite(case):
    for text in ALONE:
        for dtype in [torch.bfloat16, torch.float16]:
            with case(dtype=dtype, text=text):
                logits = torch.tensor(
                    [[100.0, -100, 0], [0, 0, 0], [-100, 100, 100]], dtype=dtype, requires_grad=True
                )
                with torch.autocast("cpu", torch.bfloat16):
                    value = nb.loss(text, "sum")(logits, torch.tensor([0, 1, 2])) + nb.loss(
                        text, "sum"
                    )(logits, torch.tensor([1, 2, 0]))
                value.backward()
                assert (
                    value.dtype == torch.float32
                    and value.isfinite()
                    and logits.grad.isfinite().all()
                    and logits.grad.dtype == dtype
                )


def test_every_module_has_a_finite_gradient_of_its_gradient(case):
    for text in ALONE:
        with case(text=text):
            logits = torch.cat([a_batch(4, 5), 30 * torch.eye(5)[:2]]).requires_grad_()
            value = nb.loss(text)(logits, torch.tensor([0, 1, 2, 3, 0, 3]))
            (gradient,) = torch.autograd.grad(value, logits, create_graph=True)
            gradient.square().sum().backward()
            assert logits.grad.isfinite().all() and logits.grad.abs().sum() > 0


# Torch's and torchvision's own


def test_focal_of_two_classes_is_torchvisions():
    from torchvision.ops import sigmoid_focal_loss

    logits, target = a_batch(30, 2), torch.arange(30) % 2
    theirs = sigmoid_focal_loss(logits[:, 1] - logits[:, 0], target.float(), alpha=-1, gamma=2)
    torch.testing.assert_close(
        nb.loss("focal", "none")(logits, target), theirs, rtol=1e-4, atol=1e-6
    )


def test_mae_and_the_brier_score_are_those_of_torch():
    logits, target = a_batch(30, 10), torch.arange(30) % 10
    p, one_hot = logits.softmax(1), torch.nn.functional.one_hot(target, 10).float()
    torch.testing.assert_close(nb.loss("mae")(logits, target), (p - one_hot).abs().sum(1).mean())
    torch.testing.assert_close(
        nb.loss("amse(a=1)")(logits, target), torch.nn.functional.mse_loss(p, one_hot)
    )


def test_js_is_made_of_torchs_divergences(case):
    for pi in [0.1, 0.5, 0.9]:
        with case(pi=pi):
            logits, target = a_batch(30, 10), torch.arange(30) % 10
            p, one_hot = (
                logits.double().softmax(1),
                torch.nn.functional.one_hot(target, 10).double(),
            )
            mixture = (pi * one_hot + (1 - pi) * p).log()
            parts = [
                torch.nn.functional.kl_div(mixture, q, reduction="none").sum(1)
                for q in (one_hot, p)
            ]
            expected = (pi * parts[0] + (1 - pi) * parts[1]) / (-(1 - pi) * math.log(1 - pi))
            torch.testing.assert_close(
                nb.loss(f"js(pi={pi})", "none")(logits, target).double(),
                expected,
                rtol=1e-5,
                atol=1e-6,
            )


def test_weights_and_smoothing_together_are_those_of_torch(case):
    for smoothing in [0.0, 0.1]:
        with case(smoothing=smoothing):
            logits, target, weight = (
                a_batch(30, 10),
                torch.arange(30) % 10,
                torch.linspace(0.5, 2, 10),
            )
            soft = (1 - smoothing) * torch.nn.functional.one_hot(target, 10) + smoothing / 10
            ours = nb.loss("ce", weight=weight)(logits, soft)
            torch.testing.assert_close(ours, cross_entropy(logits, soft, weight))


# A hunt for what is not finite: NOISEBENCH_HUNT=600 makes it ten minutes long


OURS = [entry for entry in LOSSES if entry.build.__module__.startswith("noisebench.")]


def hunted_logits(random):
    """Rows of any kind: equal, far apart, tiny, minus nought."""
    K = random.randint(2, 12)
    scale = 10 ** random.uniform(-40, 4)
    kinds = [0.0, -0.0, 1e-45, 1e4, -1e4, 100.0, 88.7, -88.7, 103.0]
    rows = [
        [
            random.choice(kinds) if random.random() < 0.3 else random.uniform(-scale, scale)
            for _ in range(K)
        ]
        for _ in range(4)
    ]
    return torch.tensor([*rows, [random.uniform(-1e4, 1e4)] * K]).clamp(-1e4 / 2, 1e4 / 2)


def hunted_text(random, depth=2):
    """A sum of calls with any values that their ranges allow, weights and infinities of the absurd
    kind left out.
    """
    calls = []
    for _ in range(random.randint(1, 3)):
        entry = random.choice(
            POINTWISE if not depth else [e for e in OURS if not e.facts.get("penalty")]
        )
        args = [hunted_text(random, depth - 1) for p in entry.parameters if p.is_expression]
        args += [
            f"{p.name}={hunted_value(random, p)}"
            for p in entry.parameters
            if not p.is_expression and p.name != "k"
        ]
        calls.append(f"{random.choice(['', '2*', '0.1*', '10*'])}{entry.name}({', '.join(args)})")
    return " + ".join(calls)


def hunted_value(random, parameter):
    if parameter.auto == "transition":
        return "'true'"
    if parameter.type is bool:
        return str(random.random() < 0.5)
    low, high = (float(end) for end in parameter.allowed.text[1:-1].split(","))
    low, high = max(low, -10), min(high, 1e3)
    if parameter.type is int:
        return random.randint(int(low), int(min(high, 12)))
    ends = [end for end in (low, high) if end in parameter.allowed]
    inside = [
        low + (high - low) * random.random(),
        min(high, max(low, 10 ** random.uniform(-6, 2))),
    ]
    return repr(random.choice([value for value in (*ends, *inside) if value in parameter.allowed]))


def test_no_text_and_no_logits_make_a_loss_infinite():
    random = Random(int(os.environ.get("NOISEBENCH_HUNT_SEED", "0")))
    until = time.monotonic() + float(os.environ.get("NOISEBENCH_HUNT", "0"))
    tried = 0
    while tried < 300 or time.monotonic() < until:
        text, logits = hunted_text(random), hunted_logits(random)
        try:
            loss = build_loss(text, {"true": symmetric(logits.shape[1])})
        except LanguageError:
            continue
        tried += 1
        target = torch.tensor([random.randrange(logits.shape[1]) for _ in logits])
        for ask in (
            lambda z, loss=loss, target=target: cost_of(loss, z, target),
            lambda z, loss=loss: cost_of(loss, z),
        ):
            z = logits.clone().requires_grad_()
            said = ask(z)
            said.sum().backward()
            assert said.isfinite().all() and z.grad.isfinite().all(), (
                text,
                logits.tolist(),
                target.tolist(),
            )
