"""JoCoR: the joint loss, which examples it chooses, and what both networks learn of them."""

from __future__ import annotations

import pytest
import torch

from noisebench.core.registry import Entry
from noisebench.strategies import STRATEGIES
from noisebench.strategies.base import averaged
from noisebench.strategies.selection import divergence
from noisebench.training.step import weighted_cost
from tests.conftest import Case
from tests.contracts.test_strategy_cards import a_batch, said, started

FIRST = [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]
SECOND = [[0.8, 0.2], [0.7, 0.3], [0.1, 0.9], [0.3, 0.7]]


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(1)


def test_the_divergence_is_kl_both_ways() -> None:
    p, q = torch.tensor(FIRST), torch.tensor(SECOND)
    torch.testing.assert_close(divergence(p.log(), q.log()), kl(p, q) + kl(q, p))
    assert divergence(p.log(), p.log()).tolist() == [0, 0, 0, 0]


def test_networks_that_are_sure_of_opposite_classes_diverge_finitely() -> None:
    logits = torch.tensor([[100.0, -100.0]], requires_grad=True)
    apart = divergence(logits.log_softmax(1), -logits.detach().log_softmax(1).flip(1).neg())
    apart.sum().backward()
    assert apart.isfinite().all() and logits.grad is not None and logits.grad.isfinite().all()


def test_the_objective_of_jocor_is_the_mean_joint_loss_of_the_chosen(case: Case) -> None:
    for lam in [0.3, 0.9]:
        with case(lam=lam):
            labels = [0, 0, 0, 0]
            strategy = started(f"jocor(rate=0.5, ramp=0, lam={lam})", labels)
            outputs = [[said(FIRST)], [said(SECOND)]]
            p, q = torch.tensor(FIRST), torch.tensor(SECOND)
            joint = (1 - lam) * (-p[:, 0].log() - q[:, 0].log()) + lam * (kl(p, q) + kl(q, p))
            beliefs = strategy.supervise(a_batch(labels), outputs)
            cost = sum(
                weighted_cost(views[0].cost, belief)[0]
                for views, belief in zip(outputs, beliefs, strict=True)
            )
            penalty = strategy.regularizer(a_batch(labels), outputs)
            torch.testing.assert_close(cost + penalty, joint.sort().values[:2].mean())


def test_agreement_decides_with_the_costs_which_examples_are_chosen() -> None:
    labels = [0, 0]
    # the second costs less, and is in dispute
    outputs = [[said([[0.6, 0.4], [0.98, 0.02]])], [said([[0.6, 0.4], [0.6, 0.4]])]]
    for lam, chosen in ((0, [0, 1]), (0.9, [1, 0])):
        beliefs = started(f"jocor(rate=0.5, ramp=0, lam={lam})", labels).supervise(
            a_batch(labels), outputs
        )
        assert [(belief.sample_weights > 0).int().tolist() for belief in beliefs] == [
            chosen,
            chosen,
        ]


def test_a_mean_over_the_batch_by_these_weights_is_one_over_the_chosen() -> None:
    values, chosen = torch.tensor([1.0, 5.0, 3.0, 100.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert (averaged(chosen, 0.5) * values).mean().item() == pytest.approx(0.5 * 3)
    assert averaged(torch.zeros(4)).tolist() == [0] * 4
    assert averaged(torch.ones(7)).tolist() == [1] * 7


def test_the_rate_of_jocor_is_known_to_the_manifest() -> None:
    entry: Entry = STRATEGIES["jocor"]
    assert [(p.name, p.auto) for p in entry.parameters] == [
        ("rate", "share"),
        ("ramp", None),
        ("power", None),
        ("lam", None),
    ]


def test_by_default_the_left_out_grow_over_the_papers_ten_epochs() -> None:
    strategy = started("jocor(rate=0.4)", [0] * 10, epochs=200)
    assert [strategy.kept(100, epoch) for epoch in (1, 6, 10, 11, 200)] == [100, 80, 64, 60, 60]  # type: ignore[attr-defined]
