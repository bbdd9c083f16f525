"""SOP: what moves u and v, by hand; what they find; and SOP+'s two terms."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch

from noisebench.experiments.methods import METHODS
from noisebench.losses import Scores, build_loss
from noisebench.strategies import Batch, ModelOutput, Strategy
from noisebench.strategies.sop import explained
from noisebench.training.packed import PackedTrainer
from noisebench.training.trainer import Trainer
from tests.conftest import Case, same, weights
from tests.contracts.test_strategy_cards import a_batch, started

LABELS = [0, 2, 1]


def with_noise(text: str = "sop(lr_u=10, lr_v=10)") -> tuple[Strategy, torch.Tensor, torch.Tensor]:
    """The strategy in the midst of a training: u (3, 1) and v (3, 3) of some size."""
    strategy, generator = started(text, LABELS, num_classes=3), torch.Generator().manual_seed(1)
    u, v = (
        0.1 + 0.4 * torch.rand(3, 1, generator=generator),
        0.1 * torch.rand(3, 3, generator=generator),
    )
    strategy.state.update(u=u.clone(), v=v.clone())
    return strategy, u, v


def stepped(strategy: Strategy, logits: torch.Tensor, batch: Batch | None = None) -> ModelOutput:
    """What the network says, after the step that learns from it under CE."""
    batch = batch or a_batch(LABELS)
    log_p = strategy.transform_log_p(logits.log_softmax(1), batch, 0)
    output = ModelOutput(logits, log_p, -log_p)
    penalty = strategy.regularizer(batch, [[output]])
    (output.cost.gather(1, batch.labels[:, None]).mean() + penalty).backward()
    return output


def some_logits() -> torch.Tensor:
    return torch.tensor([[0.5, -0.5, 1.0], [1.5, 0.0, 0.2], [0.0, 0.9, -0.3]], requires_grad=True)


def test_the_loss_is_paid_on_p_and_what_the_label_has_wrong() -> None:
    strategy, u, v = with_noise()
    p, y = some_logits().softmax(1), torch.eye(3)[LABELS]
    q = p + u**2 * y - v**2 * (1 - y)
    torch.testing.assert_close(
        stepped(strategy, some_logits()).log_p.exp(), q / q.sum(1, keepdim=True)
    )


def test_u_steps_down_the_gradient_of_the_loss_in_closed_form() -> None:
    strategy, u, v = with_noise()
    p, y = some_logits().softmax(1), torch.eye(3)[LABELS]
    q = p + u**2 * y - v**2 * (1 - y)
    gradient = 2 * u * (1 / q.sum(1, keepdim=True) - 1 / (q * y).sum(1, keepdim=True)) / 3
    stepped(strategy, some_logits())
    torch.testing.assert_close(strategy.state["u"], u - 10 * gradient)


def test_v_steps_down_the_gradient_of_the_squared_error_alone_in_closed_form() -> None:
    strategy, _, v = with_noise()
    predicted, y = torch.eye(3)[some_logits().argmax(1)], torch.eye(3)[LABELS]
    gradient = 2 * (predicted - v**2) * -2 * v * (1 - y) / 3
    stepped(strategy, some_logits())
    torch.testing.assert_close(strategy.state["v"], v - 10 * gradient)


def test_the_network_learns_nothing_from_the_squared_error() -> None:
    strategy, _, _ = with_noise()
    logits = some_logits()
    stepped(strategy, logits)
    again, (u, v) = some_logits(), with_noise()[1:]
    y = torch.eye(3)[LABELS]
    (-explained(again.log_softmax(1), u**2 * y - v**2 * (1 - y)) * y).sum(1).mean().backward()
    torch.testing.assert_close(logits.grad, again.grad)


def test_all_parts_of_a_loss_move_u() -> None:
    """A part with a link of its own, as logitclip, asks for log_p anew."""

    def moved(loss: str) -> torch.Tensor:
        strategy, u, _ = with_noise()
        scores = Scores(
            some_logits(),
            transform=lambda log_p: strategy.transform_log_p(log_p, a_batch(LABELS), 0),
        )
        build_loss(loss)(scores).gather(1, torch.tensor(LABELS)[:, None]).mean().backward()
        return strategy.state["u"] - u

    together, apart = (
        moved("ce + logitclip(ce, tau=0.5)"),
        moved("ce") + moved("logitclip(ce, tau=0.5)"),
    )
    torch.testing.assert_close(together, apart)


def test_only_the_batch_moves() -> None:
    strategy, u, v = with_noise()
    batch = Batch((), torch.tensor([2]), torch.tensor([1]), torch.tensor([2]), 1, torch.Generator())
    stepped(strategy, some_logits().detach()[1:2].requires_grad_(), batch)
    moved = (strategy.state["u"] != u).any(1) | (strategy.state["v"] != v).any(1)
    assert moved.tolist() == [False, True, False]


def test_without_noise_the_loss_is_that_of_plain_training() -> None:
    logits = some_logits()
    strategy = started("sop", LABELS, num_classes=3)
    torch.testing.assert_close(
        stepped(strategy, logits).log_p, logits.log_softmax(1), rtol=0, atol=1e-6
    )
    assert 0 < strategy.state["u"].abs().max() < 1e-6


def test_a_network_that_is_sure_of_the_wrong_class_costs_no_more_than_the_floor(case: Case) -> None:
    for classes in [2, 1000]:
        with case(classes=classes):
            strategy = started("sop", [0], num_classes=classes)
            logits = torch.zeros(1, classes).index_fill_(1, torch.tensor([1]), 1e4).requires_grad_()
            output = stepped(strategy, logits, a_batch([0]))
            assert output.cost.max().item() == pytest.approx(
                -torch.tensor(1e-4).log().item(), abs=0.01
            )
            assert logits.grad.isfinite().all() and all(
                value.isfinite().all() for value in strategy.state.values()
            )


def test_u_grows_on_wrong_labels_which_the_network_contradicts(
    make_trainer: Callable[..., Trainer],
) -> None:
    trainer = make_trainer(strategy="sop", epochs=30)
    for _ in range(30):
        trainer.run_epoch()
    u, right = trainer.strategy.state["u"].square()[:, 0], torch.arange(256) % 3 != 0
    assert u[~right].mean() > 0.01 and u[~right].mean() > 5 * u[right].mean()


def test_u_and_v_resume_bit_for_bit(make_trainer: Callable[..., Trainer]) -> None:
    straight, resumed = (make_trainer(strategy="sop(lr_v=100)", epochs=8) for _ in range(2))
    for _ in range(4):
        straight.run_epoch()
    resumed.load_state_dict(deepcopy(straight.state_dict()))
    for trainer in (straight, resumed):
        for _ in range(4):
            trainer.run_epoch()
    assert straight.strategy.state["v"].square().max() > 0.1
    assert all(
        torch.equal(straight.strategy.state[name], resumed.strategy.state[name])
        for name in ("u", "v")
    )


def test_runs_in_lockstep_move_their_own_u_and_v(make_trainer: Callable[..., Trainer]) -> None:
    alone, *together = (
        make_trainer(strategy="sop(lr_u=100, lr_v=100)", seed=seed) for seed in (0, 0, 1)
    )
    for trainers in ([alone], together):
        PackedTrainer(trainers, 2).run_epoch()
    for name in ("u", "v"):
        assert torch.equal(together[0].strategy.state[name], alone.strategy.state[name])
        assert not torch.equal(together[1].strategy.state[name], alone.strategy.state[name])


def test_sop_without_steps_of_one_of_its_two_leaves_it_where_it_was(
    make_trainer: Callable[..., Trainer],
) -> None:
    trainer = make_trainer(strategy="sop(lr_u=0)")
    before = trainer.strategy.state["u"].clone()
    trainer.run_epoch()
    assert torch.equal(trainer.strategy.state["u"], before)


def test_sop_plus_adds_consistency_and_balance() -> None:
    strategy = started("sop_plus(lr_u=0, lr_v=0)", LABELS, num_classes=3)
    first, second = some_logits(), some_logits().detach().flip(1).requires_grad_()
    views = [ModelOutput(z, z.log_softmax(1), -z.log_softmax(1)) for z in (first, second)]
    p, q = (z.detach().softmax(1) for z in (first, second))
    mean = p.mean(0)
    expected = (
        0.9 * (p * (p / q).log()).sum(1).mean()
        + 0.1 * (torch.full((3,), 1 / 3) * (1 / 3 / mean).log()).sum()
    )
    found = strategy.regularizer(a_batch(LABELS), [views])
    torch.testing.assert_close(found, expected)
    found.backward()  # type: ignore[union-attr]
    # of CE with p for a target, which stands still
    torch.testing.assert_close(second.grad, 0.9 * (q - p) / 3)


def test_sop_plus_of_nothing_but_sop_is_sop(make_trainer: Callable[..., Trainer]) -> None:
    plus, alone = (
        make_trainer(strategy=text) for text in ("sop_plus(consistency=0, balance=0)", "sop")
    )
    plus.run_epoch(), alone.run_epoch()
    assert same(weights(plus), weights(alone)) and torch.equal(
        plus.strategy.state["u"], alone.strategy.state["u"]
    )


def test_the_presets_are_the_authors() -> None:
    for name in ("sop", "sop_plus"):
        assert METHODS[name].preset("cifar10", "symmetric", 0.4).strategy == name
        assert (
            METHODS[name].preset("cifar100", "symmetric", 0.4).strategy
            == f"{name}(lr_u=1, lr_v=10)"
        )
        assert (
            METHODS[name].preset("cifar100", "asymmetric", 0.4).strategy
            == f"{name}(lr_u=1, lr_v=100)"
        )


def test_u_and_v_count_up_to_one_and_do_not_move_beyond() -> None:
    strategy, _, v = with_noise()
    strategy.state["u"].fill_(1.2)
    strategy.state["v"][0, 1] = -1.3
    p, y = some_logits().softmax(1), torch.eye(3)[LABELS]
    v[0, 1] = 1.0
    q = (p + y - v**2 * (1 - y)).clamp_min(1e-4)
    torch.testing.assert_close(
        stepped(strategy, some_logits()).log_p.exp(), (q / q.sum(1, keepdim=True)).clamp_min(1e-4)
    )
    assert (strategy.state["u"] == 1.2).all() and strategy.state["v"][0, 1] == -1.3
