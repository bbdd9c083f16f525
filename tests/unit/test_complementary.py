"""Negative learning: the complementary labels, what they cost, and the three stages."""

from __future__ import annotations

import pytest
import torch

from noisebench.strategies import Strategy
from noisebench.strategies.selection import negative_cost, other_labels
from noisebench.training.step import weighted_cost
from tests.conftest import Case
from tests.contracts.test_strategy_cards import a_batch, said, started

P = [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.4, 0.35, 0.25]]
LABELS = [0, 0, 0]


def test_complementary_labels_are_the_other_classes_alike() -> None:
    labels = torch.tensor([0, 3, 4])
    others = other_labels(labels, 5, 40_000, torch.Generator().manual_seed(0))
    shares = torch.stack([row.bincount(minlength=5) for row in others]) / 40_000
    expected = (torch.ones(3, 5) - torch.eye(5)[labels]) / 4
    torch.testing.assert_close(shares, expected, rtol=0, atol=4 * (0.25 * 0.75 / 40_000) ** 0.5)
    assert not (others == labels[:, None]).any()


def test_the_negative_cost_is_that_of_not_being_what_was_drawn() -> None:
    cost = negative_cost(torch.tensor(P).log(), torch.tensor([[1, 2], [2, 2], [1, 1]]))
    expected = -torch.tensor([0.8 * 0.9, 0.4 * 0.4, 0.65 * 0.65]).log()
    torch.testing.assert_close(cost, expected)


def test_the_negative_cost_pushes_the_drawn_class_down_by_its_p() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0]], requires_grad=True)
    negative_cost(logits.log_softmax(1), torch.tensor([[1]])).sum().backward()
    p = logits.detach().softmax(1)[0]
    expected = p[1] * torch.stack([-p[0] / (1 - p[1]), torch.tensor(1.0), -p[2] / (1 - p[1])])
    torch.testing.assert_close(logits.grad[0], expected)


def test_the_negative_cost_of_a_sure_class_is_finite() -> None:
    logits = torch.tensor([[100.0, -100.0, -100.0]], requires_grad=True)
    cost = negative_cost(logits.log_softmax(1), torch.tensor([[0, 1]]))
    cost.sum().backward()
    assert (
        cost.item() == pytest.approx(11.5129, rel=1e-4)
        and logits.grad is not None
        and logits.grad.isfinite().all()
    )


def test_negative_stages_learn_from_all_and_then_where_the_label_is_likelier_than_chance(
    case: Case,
) -> None:
    for epoch, chosen in [(1, [0, 1, 2]), (10, [0, 1, 2]), (11, [0, 2]), (20, [0, 2])]:
        with case(epoch=epoch, chosen=chosen):
            output, batch = said(P), a_batch(LABELS, epoch)
            strategy, again = (started("nlnl(draws=2)", LABELS, 3, epochs=30) for _ in range(2))
            assert weighted_cost(output.cost, strategy.supervise(batch, [[output]])[0]).item() == 0
            others = other_labels(batch.labels, 3, 2, torch.Generator().manual_seed(7))
            batch.generator.manual_seed(7)
            expected = negative_cost(output.log_p, others)[chosen].mean()
            torch.testing.assert_close(again.regularizer(batch, [[output]]), expected)


def test_the_positive_stage_learns_the_labels_that_are_sure() -> None:
    output, batch = said(P), a_batch(LABELS, 21)
    strategy = started("nlnl", LABELS, 3, epochs=30)
    assert strategy.regularizer(batch, [[output]]) is None
    [belief] = strategy.supervise(batch, [[output]])
    assert belief.sample_weights.tolist() == [1, 0, 0]
    assert weighted_cost(output.cost, belief).item() == pytest.approx(output.cost[0, 0].item())


def stage(strategy: Strategy, epoch: int) -> str:
    """By what a label less likely than chance costs in an epoch."""
    penalty = strategy.regularizer(a_batch([0], epoch), [[said([[0.1, 0.9]])]])
    return "positive" if penalty is None else "negative" if penalty.item() > 0 else "selective"


def test_the_stages_are_thirds_and_the_first_is_never_left_out(case: Case) -> None:
    for epochs, first, last in ((2160, 720, 1440), (40, 13, 26), (2, 1, 1), (1, 1, 1)):
        with case(epochs=epochs):
            strategy = started("nlnl", [0, 1], epochs=epochs)
            assert stage(strategy, first) == "negative" and stage(strategy, last + 1) == "positive"
            assert (
                first == last or stage(strategy, first + 1) == stage(strategy, last) == "selective"
            )
