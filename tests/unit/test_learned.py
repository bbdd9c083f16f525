"""VolMinNet and T-Revision: their matrices, volume, weights and gradients by hand, and that T comes
nearer to the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from noisebench.datasets import Images
from noisebench.experiments.recipes import Recipe
from noisebench.losses import build_loss
from noisebench.strategies import Strategy, TrainingInfo, build_strategy
from noisebench.strategies.transition import (
    importance,
    log_volume,
    revised,
    through,
    with_unit_diagonal,
)
from noisebench.training.trainer import Task, Trainer
from tests.conftest import DEVICE, Case, same, weights
from tests.contracts.test_strategy_cards import a_batch, said, started

T = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)


def drawn(size: int, spread: float = 1.0, seed: int = 0) -> torch.Tensor:
    return spread * torch.randn(
        size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def is_stochastic(rows: torch.Tensor) -> bool:
    return bool((rows >= 0).all()) and torch.allclose(
        rows.sum(1), torch.ones(len(rows), dtype=rows.dtype)
    )


# What a network learns through


def test_what_is_recorded_is_a_mixture_of_rows() -> None:
    torch.testing.assert_close(
        through(torch.tensor([[0.9, 0.1]]).log(), T).exp(), torch.tensor([[0.75, 0.25]])
    )


def test_through_a_transition_saturated_logits_stay_finite() -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    recorded = through(logits.log_softmax(1), torch.eye(2, dtype=torch.float64))
    recorded.sum().backward()
    assert recorded.isfinite().all() and logits.grad is not None and logits.grad.isfinite().all()


# VolMinNet


def test_free_parameters_give_the_papers_matrix() -> None:
    # sigmoids of 1/2 and 1/4; a diagonal of no effect
    w = torch.tensor([[5.0, 0.0], [float(np.log(1 / 3)), -7.0]], dtype=torch.float64)
    torch.testing.assert_close(
        with_unit_diagonal(w), torch.tensor([[2 / 3, 1 / 3], [1 / 5, 4 / 5]], dtype=torch.float64)
    )


def test_any_parameters_give_probabilities_whose_largest_is_on_the_diagonal(case: Case) -> None:
    for spread in [0.1, 3.0, 100.0]:
        with case(spread=spread):
            rows = with_unit_diagonal(drawn(10, spread))
            assert is_stochastic(rows) and (rows.diagonal() >= rows.max(1).values).all()


def test_the_volume_is_that_of_the_determinant(case: Case) -> None:
    for size in [2, 10, 100, 1000]:
        with case(size=size):
            rows = with_unit_diagonal(drawn(size) - 4.5)
            assert log_volume(rows).item() == pytest.approx(
                np.linalg.slogdet(rows.numpy()).logabsdet, rel=1e-9
            )


def test_the_volume_of_symmetric_noise_is_known() -> None:
    rate, size = 0.4, 10  # eigenvalues 1, and 1 - rate K / (K - 1) of the rest
    rows = torch.full((size, size), rate / (size - 1), dtype=torch.float64).fill_diagonal_(1 - rate)
    assert log_volume(rows).item() == pytest.approx(9 * np.log(1 - rate * 10 / 9))


def test_the_gradient_of_the_volume_is_the_transposed_inverse() -> None:
    rows = with_unit_diagonal(drawn(6)).requires_grad_()
    log_volume(rows).backward()
    torch.testing.assert_close(rows.grad, torch.linalg.inv(rows.detach()).T)


def test_volminnet_adds_lam_times_the_volume_and_learns_through_its_matrix() -> None:
    strategy, output = started("volminnet(lam=0.01, init=0)", [0, 1]), said([[0.9, 0.1]])
    volume = np.log(np.linalg.det([[2 / 3, 1 / 3], [1 / 3, 2 / 3]]))
    assert strategy.regularizer(a_batch([0]), [[output]]).item() == pytest.approx(0.01 * volume)  # type: ignore[union-attr]
    torch.testing.assert_close(
        strategy.transform_log_p(output.log_p, a_batch([0]), 0).exp(),
        torch.tensor([[1.9 / 3, 1.1 / 3]]),
    )


def test_the_matrix_has_its_own_rate_and_no_weight_decay(
    make_trainer: Callable[..., Trainer], case: Case
) -> None:
    for text, lr in [("volminnet", 0.05), ("volminnet(lr=0.3)", 0.3), ("forward_revision", 0.01)]:
        with case(text=text, lr=lr):
            group = make_trainer(strategy=text, weight_decay=0.1).state.optimizer.groups[-1]
            assert (group.lr, group.weight_decay, len(group.params)) == (lr, 0.0, 1)


# T-Revision


def test_a_revision_is_the_matrix_at_first_and_probabilities_always() -> None:
    rows = with_unit_diagonal(drawn(7))
    torch.testing.assert_close(revised(rows, torch.zeros(7, 7, dtype=torch.float64)), rows)
    assert is_stochastic(revised(rows, drawn(7, 1000.0, seed=1)))


def test_a_small_slack_changes_a_row_by_its_share_less_the_rows_mean() -> None:
    slack = drawn(2, 1e-6)
    expected = T * (slack - (T * slack).sum(1, keepdim=True))
    torch.testing.assert_close(revised(T, slack) - T, expected, rtol=1e-4, atol=0)


def test_importance_is_the_clean_chance_over_the_recorded() -> None:
    log_p = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
    torch.testing.assert_close(
        importance(log_p, torch.tensor([0, 1]), T), torch.tensor([0.9 / 0.75, 0.5 / 0.45])
    )


def test_the_gradient_of_the_importance_reaches_the_matrix_alone() -> None:
    log_p, rows = torch.tensor([[0.9, 0.1]]).log().requires_grad_(), T.clone().requires_grad_()
    importance(log_p, torch.tensor([0]), rows).sum().backward()
    assert log_p.grad is None
    torch.testing.assert_close(
        rows.grad, torch.tensor([[0.9, 0], [0.1, 0]], dtype=torch.float64) * -0.9 / 0.75**2
    )


def test_a_class_that_the_matrix_has_lost_weighs_no_more_than_the_number_of_classes() -> None:
    lost = torch.tensor([[1e-6, 1 - 1e-6], [1e-6, 1 - 1e-6]], dtype=torch.float64)
    assert importance(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([0]), lost).item() == 2


def after_the_first_stage(text: str) -> tuple[Strategy, list[str]]:
    """The strategy when its network says T's rows of the training set, and what was asked of the
    trainer.
    """
    strategy, asked = started(text, [0] * 100, epochs=8), []
    network = torch.nn.Linear(1, 1)
    before = network.weight.item()

    def restart() -> None:
        asked.append("restart")
        torch.nn.init.zeros_(network.weight)

    strategy.on_epoch_end(
        2, SimpleNamespace(log_p=T.float().repeat(50, 1).log, restart=restart, networks=[network])
    )  # type: ignore[arg-type]
    asked += ["kept"] * (network.weight.item() == before)
    return strategy, asked


def test_the_network_goes_on_while_its_rate_begins_anew(case: Case) -> None:
    for kind in ["forward", "reweight"]:
        with case(kind=kind):
            strategy, asked = after_the_first_stage(
                f"forward_revision(kind={kind!r}, first=0.25, second=0.5)"
            )
            torch.testing.assert_close(strategy.state["T"], T, rtol=1e-6, atol=1e-7)
            assert asked == ["restart", "kept"]


def test_forward_revision_lets_the_slack_in_after_the_second_stage() -> None:
    strategy, _ = after_the_first_stage("forward_revision(first=0.25, second=0.5)")
    strategy.state["slack"].data[0, 1] = np.log(3)  # the first row becomes 0.8 : 0.6
    log_p = torch.tensor([[0.9, 0.1]]).log()
    fixed, free = (strategy.transform_log_p(log_p, a_batch([0], epoch), 0) for epoch in (6, 7))
    torch.testing.assert_close(fixed.exp(), torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(free.exp()[0, 0], torch.tensor(0.9 * 4 / 7 + 0.1 * 0.3))
    assert not fixed.requires_grad and free.requires_grad


def test_reweight_revision_weighs_and_changes_no_prediction() -> None:
    strategy, _ = after_the_first_stage("forward_revision(kind='reweight', first=0.25, second=0.5)")
    output, batch = said([[0.9, 0.1], [0.5, 0.5]]), a_batch([0, 1], 6)
    [belief] = strategy.supervise(batch, [[output]])
    torch.testing.assert_close(belief.sample_weights, torch.tensor([0.9 / 0.75, 0.5 / 0.45]))
    assert belief.mean_over and strategy.transform_log_p(output.log_p, batch, 0) is output.log_p
    assert belief.sample_weights is not None and not belief.sample_weights.requires_grad
    assert strategy.supervise(a_batch([0, 1], 7), [[output]])[0].sample_weights.requires_grad  # type: ignore[union-attr]


def test_an_anchor_that_excludes_its_class_leaves_finite_weights() -> None:
    strategy = build_strategy("forward_revision(kind='reweight')")
    strategy.setup(TrainingInfo(torch.tensor([0, 1]), 2, 10, torch.Generator()))
    rows = torch.from_numpy(strategy.prepared(np.array([[0.0, 1.0], [0.0, 1.0]])))  # type: ignore[attr-defined]
    assert (
        is_stochastic(rows)
        and importance(torch.tensor([[0.0, -200.0]]), torch.tensor([0]), rows).isfinite().all()
    )


# In training


def symmetric_trainer(digits: Images, text: str, epochs: int) -> tuple[Trainer, torch.Tensor]:
    """The digits with 40 % of symmetric noise, and their true T."""
    labels, clean = digits.train_labels.copy(), np.asarray(digits.train_labels)
    random = np.random.default_rng(0)
    wrong = random.random(len(labels)) < 0.4
    labels[wrong] = (labels + random.integers(1, 10, len(labels)))[wrong] % 10
    truth = np.zeros((10, 10))
    np.add.at(truth, (clean, labels), 1)
    recipe = Recipe(epochs, batch_size=64, lr=0.1, nesterov=True)
    task = Task(
        digits.train_images,
        labels,
        digits.test_images,
        10,
        "mlp",
        build_loss("ce"),
        build_strategy(text),
        recipe,
    )
    return Trainer(task, DEVICE), torch.from_numpy(truth / truth.sum(1, keepdims=True))


def test_volminnets_matrix_comes_near_the_true_one(digits: Images) -> None:
    trainer, truth = symmetric_trainer(digits, "volminnet", 25)
    w = trainer.strategy.state["w"]
    before = (with_unit_diagonal(w.detach()) - truth).abs().sum(1).mean()
    for _ in range(25):
        trainer.run_epoch()
    after = with_unit_diagonal(w.detach())
    assert (after - truth).abs().sum(1).mean() < 0.6 * before
    assert is_stochastic(after) and (after.diagonal() == after.max(1).values).all()


def test_the_revision_brings_the_matrix_nearer_to_the_true_one(digits: Images) -> None:
    trainer, truth = symmetric_trainer(digits, "forward_revision(first=0.2, second=0.3)", 10)
    for _ in range(10):
        trainer.run_epoch()
    state = trainer.strategy.state
    before, after = (
        (rows - truth).abs().sum(1).mean()
        for rows in (state["T"], revised(state["T"], state["slack"].detach()))
    )
    assert 0 < after < before


def test_the_slack_rests_until_the_revision_and_then_moves(
    make_trainer: Callable[..., Trainer], case: Case
) -> None:
    for kind in ["forward", "reweight"]:
        with case(kind=kind):
            trainer = make_trainer(
                strategy=f"forward_revision(kind={kind!r}, first=0.25, second=0.25)", epochs=4
            )
            moved = []
            for _ in range(4):
                trainer.run_epoch()
                moved.append(bool(trainer.strategy.state["slack"].any()))
            assert moved == [False, False, True, True]


def test_the_networks_weights_survive_the_first_stage(make_trainer: Callable[..., Trainer]) -> None:
    plain, trainer = (
        make_trainer(epochs=4),
        make_trainer(strategy="forward_revision(first=0.25)", epochs=4),
    )
    for each in (plain, trainer):
        each.run_epoch()
    assert same(weights(plain), weights(trainer)) and (
        trainer.state.schedule_start,
        plain.state.schedule_start,
    ) == (1, 0)
    assert not any(velocity.any() for velocity in trainer.state.optimizer.velocities())


def test_the_stages_of_t_revision_are_the_papers(case: Case) -> None:
    """T is estimated after the first stage, and moves with its slack after the second."""
    network = SimpleNamespace(state_dict=dict, load_state_dict=lambda state: None)
    whole = SimpleNamespace(log_p=T.repeat(50, 1).log, restart=lambda: None, networks=[network])
    for text, epochs, first, second in (
        ("forward_revision", 420, 20, 220),
        ("forward_revision(first=0.0625, second=0.3125)", 320, 20, 120),
        ("forward_revision(first=0.036, second=0.482)", 415, 15, 215),
    ):
        with case(strategy=text):
            strategy = started(text, [0] * 100, epochs=epochs)
            known = []
            for epoch in (first - 1, first):
                strategy.on_epoch_end(epoch, whole)  # type: ignore[arg-type]
                known.append(bool(strategy.state["known"]))
            assert known == [False, True]
            strategy.state["slack"].data[0, 0] = 1.0
            moved = [
                not torch.equal(strategy.transition(epoch), strategy.state["T"])
                for epoch in (second, second + 1)
            ]  # type: ignore[attr-defined]
            assert moved == [False, True]
