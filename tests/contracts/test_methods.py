"""The literature as a table: every preset against the formula of its source, in its source's
notation.
"""

import math

import numpy as np
import pytest
import torch

from noisebench.errors import LanguageError
from noisebench.experiments.methods import METHODS, Method, Preset
from noisebench.losses import LOSSES, build_loss, build_penalty, cost_of
from noisebench.strategies import build_strategy, normal_strategy
from noisebench.strategies.base import whole_epochs
from noisebench.strategies.dividemix import DivideMix
from tests.conftest import Case
from tests.contracts.test_losses import a_batch
from tests.unit.test_runner import Desk

A = math.log(1e-4)  # what the authors of SL clip the one-hot label at
LOG_PMIN = math.log(1e-7)


class Source:
    """The formulas of the papers, over p (N, K) and labels k, as they write them; float64."""

    def __init__(self, p):
        self.p, self.log_p, self.K = p, np.log(p), p.shape[1]

    def ce(self):
        return -self.log_p

    def mae(self):
        """Ma et al.: 1 - p."""
        return 1 - self.p

    def rce(self):
        return -A * (1 - self.p)

    def fl(self, gamma=0.5):
        return -((1 - self.p) ** gamma) * self.log_p

    def nce(self):
        return self.log_p / self.log_p.sum(1, keepdims=True)

    def nfl(self):
        return self.fl() / self.fl().sum(1, keepdims=True)

    def nnce(self):
        above = np.maximum(self.log_p, LOG_PMIN) - LOG_PMIN
        return 1 - above / above.sum(1, keepdims=True)

    def agce(self, a, q):
        return ((a + 1) ** q - (a + self.p) ** q) / q

    def aul(self, a, q):
        return ((a - self.p) ** q - (a - 1) ** q) / q

    def ael(self, a):
        return np.exp(-self.p / a)

    def amse(self, a):
        return np.stack([((a * np.eye(self.K)[k] - self.p) ** 2).mean(1) for k in range(self.K)], 1)

    def gce(self, q):
        return (1 - self.p**q) / q

    def js(self, pi):
        """JS of the one-hot label (weight pi) and p, over -(1 - pi) log(1 - pi), by its definition
        as entropies.
        """

        def entropy(rows):
            return -(rows * np.log(np.maximum(rows, 1e-300))).sum(1)

        eye = np.eye(self.K)
        each = [
            entropy(pi * eye[k] + (1 - pi) * self.p) - (1 - pi) * entropy(self.p)
            for k in range(self.K)
        ]
        return np.stack(each, 1) / (-(1 - pi) * math.log(1 - pi))

    def at_eps(self, m):
        """Epsilon-softmax: m more for the largest, normalised, and at least 1e-8."""
        return Source(
            np.maximum((self.p + m * (self.p == self.p.max(1, keepdims=True))) / (1 + m), 1e-8)
        )

    def phuber(self, tau):
        return np.where(self.p > 1 / tau, -self.log_p, -tau * self.p + math.log(tau) + 1)


def clipped(z, delta):
    """As the code does: what is longer than 1 / delta gets the length delta."""
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return Source(softmax(np.where(length > 1 / delta, z / length * delta, z)))


def softmax(z):
    powers = np.exp(z - z.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def ldr(z, lam):
    """Scores softplus(z) over their mean, margin 0.1."""
    softplus = np.log1p(np.exp(z))
    s, K = softplus / softplus.mean(1, keepdims=True), z.shape[1]
    return np.stack(
        [
            lam * np.log(np.exp((s - s[:, [k]] + 0.1 * (np.arange(K) != k)) / lam).mean(1))
            for k in range(K)
        ],
        1,
    )


def eps_plus_mae(alpha, beta, m, inner):
    """MAE is 2 (1 - p) here."""
    return lambda s, z: (
        alpha * (s.at_eps(m).ce() if inner == "ce" else s.at_eps(m).fl(0.1)) + beta * 2 * s.mae()
    )


SYM, ASYM = "symmetric", "asymmetric"
# (method, data set, noise, rate) -> what the source writes. A method's own text stands under "".
SOURCES = {
    ("sl", ""): lambda s, z: 0.1 * s.ce() + s.rce(),
    ("sl", "mnist"): lambda s, z: 0.01 * s.ce() + s.rce(),
    ("sl", "cifar10"): lambda s, z: 0.1 * s.ce() + s.rce(),
    ("sl", "cifar100"): lambda s, z: 6 * s.ce() + 0.1 * s.rce(),
    ("sl", "webvision"): lambda s, z: 10 * s.ce() + s.rce(),
    ("sl", "clothing1m"): lambda s, z: 10 * s.ce() + s.rce(),
    ("agce", ""): lambda s, z: s.agce(0.6, 0.6),
    ("agce", "mnist"): lambda s, z: s.agce(4, 0.2),
    ("agce", "webvision"): lambda s, z: s.agce(1e-5, 0.5),
    ("aul", ""): lambda s, z: s.aul(5.5, 3),
    ("aul", "mnist"): lambda s, z: s.aul(3, 0.1),
    ("ael", ""): lambda s, z: s.ael(2.5),
    ("ael", "mnist"): lambda s, z: s.ael(3.5),
    ("nce_agce", ""): lambda s, z: s.nce() + 4 * s.agce(6, 1.5),
    ("nce_agce", "mnist"): lambda s, z: s.agce(4, 0.2),
    ("nce_aul", "mnist"): lambda s, z: s.aul(3, 0.1),
    ("nce_ael", "mnist"): lambda s, z: s.ael(3.5),
    ("nce_agce", "cifar100"): lambda s, z: 10 * s.nce() + 0.1 * s.agce(1.8, 3),
    ("nce_agce", "webvision"): lambda s, z: 50 * s.nce() + 0.1 * s.agce(2.5, 3),
    ("nce_aul", ""): lambda s, z: s.nce() + 4 * s.aul(6.3, 1.5),
    ("nce_aul", "cifar100"): lambda s, z: 10 * s.nce() + 0.015 * s.aul(6, 3),
    ("nce_ael", ""): lambda s, z: s.nce() + 4 * s.ael(5),
    ("nce_ael", "cifar100"): lambda s, z: 10 * s.nce() + 0.1 * s.ael(1.5),
    ("anl_ce", ""): lambda s, z: 5 * s.nce() + 5 * s.nnce(),
    ("anl_ce", "mnist"): lambda s, z: s.nce() + s.nnce(),
    ("anl_ce", "cifar100"): lambda s, z: 10 * s.nce() + s.nnce(),
    ("anl_ce", "webvision"): lambda s, z: 20 * s.nce() + s.nnce(),
    ("jal_nce", ""): lambda s, z: s.nce() + s.amse(30),
    ("jal_nce", "cifar100"): lambda s, z: 5 * s.nce() + s.amse(20),
    ("jal_nce", "webvision"): lambda s, z: 50 * s.nce() + s.amse(30),
    ("jal_nce", "clothing1m"): lambda s, z: 5 * s.nce() + 0.1 * s.amse(5),
    ("jal_nfl", "webvision"): lambda s, z: 50 * s.nfl() + s.amse(30),
    ("jal_nfl", "clothing1m"): lambda s, z: 5 * s.nfl() + 0.1 * s.amse(5),
    ("jal_nfl", ""): lambda s, z: s.nfl() + s.amse(30),
    ("jal_nfl", "cifar100"): lambda s, z: 5 * s.nfl() + s.amse(20),
    ("js", ""): lambda s, z: s.js(0.5),
    ("js", "cifar100", ASYM): lambda s, z: s.js(0.5),
    ("ldr_kl", ""): lambda s, z: ldr(z, 10),
    ("ldr_kl", "mnist"): lambda s, z: ldr(z, 10),
    ("ldr_kl", "cifar10"): lambda s, z: ldr(z, 10),
    ("ldr_kl", "cifar100"): lambda s, z: ldr(z, 1),
    ("ldr_kl", "clothing1m"): lambda s, z: ldr(z, 1),
    ("nce_mae_light", ""): lambda s, z: s.nce() + s.mae(),
    ("nce_mae_light", "cifar100"): lambda s, z: 10 * s.nce() + 0.1 * s.mae(),
    ("phuber", ""): lambda s, z: s.phuber(10),
    ("phuber", "cifar10"): lambda s, z: s.phuber(2),
    ("phuber", "cifar100"): lambda s, z: s.phuber(10),
    ("gce_tuned", ""): lambda s, z: s.gce(0.7),
    ("logitclip_ce", ""): lambda s, z: clipped(z, 1).ce(),
    ("logitclip_ce", "cifar10", ASYM): lambda s, z: clipped(z, 2.5).ce(),
    ("logitclip_ce", "cifar100", SYM): lambda s, z: clipped(z, 0.5).ce(),
    ("logitclip_ce", "cifar100", ASYM): lambda s, z: clipped(z, 2.5).ce(),
    ("logitclip_ce", "cifar10", "dependent"): lambda s, z: clipped(z, 2).ce(),
    ("logitclip_ce", "cifar100", "dependent"): lambda s, z: clipped(z, 0.5).ce(),
    ("logitclip_ce", "cifar10", "human"): lambda s, z: clipped(z, 2.5).ce(),
    ("logitclip_ce", "cifar100", "human"): lambda s, z: clipped(z, 0.5).ce(),
    ("logitclip_ce", "webvision"): lambda s, z: clipped(z, 1.2).ce(),
}  # fmt: skip
# their factor of the focal loss is a constant: tested with its gradient in test_losses.py
for active in ("nce", "nfl"):
    for passive, c100 in (("rce", 0.1), ("mae", 1.0)):
        for dataset, (alpha, beta) in {
            "": (1, 1),
            "mnist": (1, 10),
            "cifar100": (10, c100),
            "webvision": (50, c100),
        }.items():
            SOURCES[f"{active}_{passive}", dataset] = (
                lambda s, z, a=active, b=passive, alpha=alpha, beta=beta: (
                    alpha * getattr(s, a)() + beta * getattr(s, b)()
                )
            )
for rate, q in {0.0: 0.5, 0.2: 0.5, 0.4: 0.7, 0.6: 0.7, 0.8: 0.9}.items():
    SOURCES["gce_tuned", "cifar100", SYM, rate] = lambda s, z, q=q: s.gce(q)
for dataset, pis in {
    "cifar10": (0.1, 0.7, 0.7, 0.9, 0.9),
    "cifar100": (0.1, 0.1, 0.3, 0.5, 0.3),
}.items():
    for rate, pi in zip((0.0, 0.2, 0.4, 0.6, 0.8), pis, strict=True):
        SOURCES["js", dataset, SYM, rate] = lambda s, z, pi=pi: s.js(pi)
SOURCES["js", "cifar10", ASYM] = lambda s, z: s.js(0.3)
for rate, tau in {0.0: 1, 0.2: 1, 0.4: 1, 0.5: 1.5, 0.6: 1.5, 0.8: 1.5}.items():
    SOURCES["logitclip_ce", "cifar10", SYM, rate] = lambda s, z, tau=tau: clipped(z, tau).ce()
for name, inner in (("eps_ce_mae", "ce"), ("eps_fl_mae", "fl")):
    SOURCES[name, ""] = SOURCES[name, "cifar10", SYM] = eps_plus_mae(0.01, 5, 1e5, inner)
    SOURCES[name, "cifar10", ASYM] = eps_plus_mae(0.02, 5, 1e3, inner)
    SOURCES[name, "cifar10", "dependent"] = eps_plus_mae(0.045, 10, 1e5, inner)
    for rate, alpha in {0.0: 0.1, 0.2: 0.05, 0.4: 0.03, 0.6: 0.00125, 0.8: 0.0075}.items():
        SOURCES[name, "cifar100", SYM, rate] = eps_plus_mae(alpha, 1, 1e4, inner)
    for rate, alpha in {0.1: 0.015, 0.2: 0.007, 0.3: 0.005, 0.4: 0.004}.items():
        SOURCES[name, "cifar100", ASYM, rate] = eps_plus_mae(alpha, 1, 1e2, inner)
    SOURCES[name, "webvision"] = eps_plus_mae(0.015, 0.3, 1e3, inner)
    SOURCES[name, "clothing1m"] = eps_plus_mae(0.012, 0.1, 1e3, inner)

# One loss by its default, which has its own tests.
PLAIN = {
    "ce", "lsr", "bootstrap", "bootstrap_soft", "forward", "backward", "forward_estimated", "backward_estimated", "mae", "gce", "focal",
    "el", "lsr_el", "el_overall", "el_estimated", "taylor", "bitempered",
}  # fmt: skip


def place(preset: Preset) -> tuple:
    return tuple(
        part for part in (preset.dataset, preset.noise or None, preset.rate) if part is not None
    )


WRITTEN = {
    (method.name, *place(preset)): preset.loss
    for method in METHODS.values()
    for preset in (*method.presets, Preset("", method.loss, ""))
    if method.name not in PLAIN and method.strategy == "standard"
}


def test_every_preset_has_its_source_here() -> None:
    assert set(WRITTEN) == set(SOURCES)
    assert {name for name in PLAIN if METHODS[name].presets} == {"el", "lsr_el"}
    assert {preset.loss for name in ("el", "lsr_el") for preset in METHODS[name].presets} == {
        "el(eps=0.1)",
        "lsr(el(eps=0.1))",
    }


def test_a_preset_is_what_its_source_writes(case: Case) -> None:
    for where in sorted(WRITTEN, key=str):
        with case(where=where):
            logits = a_batch(40, 10, spread=2)
            z = logits.double().numpy()
            expected = SOURCES[where](Source(softmax(z)), z)
            cost = cost_of(build_loss(WRITTEN[where]), logits)
            # -9.21 for log 1e-4 = -9.2103
            rounded = (
                2e-5 if "ce(" in WRITTEN[where] and "A=" in LOSSES.canonical(WRITTEN[where]) else 0
            )
            torch.testing.assert_close(
                cost.double(), torch.from_numpy(expected), rtol=1e-4 + 5 * rounded, atol=1e-5
            )


def test_the_penalty_of_a_preset_is_its_sources(case: Case) -> None:
    for name, dataset, weight in [
        ("anl_ce", "cifar10", 5e-5),
        ("anl_ce", "cifar100", 5e-7),
        ("jal_nce", "cifar10", 5e-5),
        ("jal_nfl", "cifar100", 5e-6),
    ]:
        with case(name=name, dataset=dataset, weight=weight):
            penalty = build_penalty(METHODS[name].preset(dataset).loss)
            assert penalty is not None
            assert penalty(
                [torch.tensor([1.0, -2.0]), torch.tensor([[3.0]])]
            ).item() == pytest.approx(6 * weight)


def test_the_two_scales_of_reverse_cross_entropy_differ_by_their_ratio() -> None:
    paper, code = (cost_of(build_loss(f"rce(A={A})"), a_batch()) for A in (-4, -9.21))
    torch.testing.assert_close(code, paper * 9.21 / 4)
    assert pytest.approx(math.log(1e-4), abs=1e-3) == -9.21


def test_the_most_particular_preset_is_taken() -> None:
    method = Method("m", "", "ce", presets=(
        Preset("a", "mae", "any"), Preset("a", "gce", "kind", SYM), Preset("a", "focal", "rate", SYM, 0.4)))  # fmt: skip
    asked = [("a", SYM, 0.4), ("a", SYM, 0.2), ("a", ASYM, 0.4), ("a", "", None), ("b", SYM, 0.4)]
    assert [method.preset(*which).loss for which in asked] == ["focal", "gce", "mae", "mae", "ce"]
    assert [method.preset(*which).tuned for which in asked] == [True, True, False, False, False]


def test_every_method_is_written_in_the_language() -> None:
    for method in METHODS.values():
        for preset in (*method.presets, Preset("", method.loss, "the method's own")):
            assert (
                LOSSES.canonical(preset.loss)
                and normal_strategy(preset.strategy or method.strategy)
                and preset.source
            )


def test_dividemix_is_set_as_its_table_says(case: Case) -> None:
    for dataset, noise, rate, lambda_u, threshold, warmup, confidence in [
        ("cifar10", SYM, 0.2, 0, 0.5, 10, 0),
        ("cifar10", SYM, 0.5, 25, 0.5, 10, 0),
        ("cifar10", SYM, 0.8, 25, 0.5, 10, 0),
        ("cifar10", SYM, 0.9, 50, 0.6, 10, 0),
        ("cifar10", ASYM, 0.4, 0, 0.5, 10, 1),
        ("cifar10", SYM, 0.4, 25, 0.5, 10, 0),
        ("cifar100", SYM, 0.2, 25, 0.5, 30, 0),
        ("cifar100", SYM, 0.5, 150, 0.5, 30, 0),
        ("cifar100", SYM, 0.8, 150, 0.5, 30, 0),
        ("cifar100", SYM, 0.9, 150, 0.6, 30, 0),
        ("cifar100", ASYM, 0.4, 150, 0.5, 30, 1),
        ("clothing1m", "", None, 25, 0.5, 10, 0),
    ]:
        with case(
            dataset=dataset,
            noise=noise,
            rate=rate,
            lambda_u=lambda_u,
            threshold=threshold,
            warmup=warmup,
            confidence=confidence,
        ):
            strategy = build_strategy(METHODS["dividemix"].preset(dataset, noise, rate).strategy)
            assert isinstance(strategy, DivideMix)
            assert (strategy.lambda_u, strategy.threshold, strategy.confidence) == (
                lambda_u,
                threshold,
                confidence,
            )
            assert whole_epochs(strategy.warmup, 300) == warmup and round(strategy.ramp * 300) == 16
            assert strategy.window == (5 if rate == 0.9 else 1) and (
                strategy.alpha,
                strategy.temperature,
            ) == (4, 0.5)


def test_a_preset_that_was_chosen_by_the_rate_makes_an_oracle_however_it_is_asked_for(
    tmp_path,
) -> None:
    desk, tuned = (
        Desk(tmp_path),
        Method("tuned", "", "ce", presets=(Preset("digits", "gce(q=0.31)", "s", SYM, 0.4),)),
    )
    METHODS["tuned"] = tuned
    try:
        named, typed = desk.plan(method="tuned"), desk.plan(loss="gce(q=0.31)")
        elsewhere = desk.plan("symmetric(rate=0.2)", loss="gce(q=0.31)")
    finally:
        del METHODS["tuned"]
    assert named.key == typed.key and (named.method, typed.method) == ("tuned", "tuned")
    assert named.oracle and typed.oracle and not elsewhere.oracle


def test_a_penalty_is_a_term_beside_a_loss(case: Case) -> None:
    for text in ["l1(1)", "lsr(ce + l1(1))", "normalized(l1(1))", "2*l1(0.1) + l1(3)"]:
        with (
            case(text=text),
            pytest.raises(LanguageError, match="penalty on the network's parameters"),
        ):
            build_loss(text)


def test_a_penalty_is_no_part_of_the_cost() -> None:
    torch.testing.assert_close(
        cost_of(build_loss("ce + 2*l1(0.5)"), a_batch()), cost_of(build_loss("ce"), a_batch())
    )
    assert build_penalty("ce + nce") is None
    penalty = build_penalty("ce + 2*l1(0.5) + 3*mae + l1(1)")
    assert penalty is not None
    assert penalty([torch.tensor([1.0, -4.0])]).item() == 10


def test_a_penalty_pulls_every_parameter(make_trainer) -> None:
    plain, pulled = (
        make_trainer(lr=1e-3, momentum=0.0, nesterov=False, weight_decay=0.0) for _ in range(2)
    )
    pulled.training_step.penalty = build_penalty("ce + l1(0.25)")
    before = [parameter.detach().clone() for parameter in plain.networks[0].parameters()]
    for trainer in (plain, pulled):
        trainer.training_step.run()
    lr = 1e-3
    for start, one, other in zip(
        before, plain.networks[0].parameters(), pulled.networks[0].parameters(), strict=True
    ):
        torch.testing.assert_close(
            other.detach(), one.detach() - lr * 0.25 * start.sign(), rtol=0, atol=1e-6
        )
