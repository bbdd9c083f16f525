"""L_DMI against determinants of known matrices, its law under noise by class, and that it stays
finite.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from noisebench.strategies.transition import determinant_loss
from noisebench.training.step import weighted_cost
from tests.conftest import Case
from tests.contracts.test_strategy_cards import a_batch, said, started

TINY = 1e-7


def a_saying(count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """log_p (B, K), float64, and one-hot rows (B, K) of labels that it knows something of."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    targets = torch.nn.functional.one_hot(labels, classes).double()
    logits = torch.randn(count, classes, dtype=torch.float64, generator=generator) + 3 * targets
    return logits.log_softmax(1), targets


def test_without_its_floor_it_is_the_determinant(case: Case) -> None:
    for count, classes in [(20, 2), (64, 10), (300, 50)]:
        with case(count=count, classes=classes):
            log_p, targets = a_saying(count, classes)
            joint = log_p.exp().numpy().T @ targets.numpy() / count
            expected = -np.linalg.slogdet(joint).logabsdet - classes * np.log(classes)
            assert determinant_loss(log_p, targets, TINY).item() == pytest.approx(
                expected, rel=1e-6
            )


def test_two_classes_by_hand() -> None:
    log_p = torch.tensor(
        [[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]], dtype=torch.float64
    ).log()
    # U = [[0.45, 0.1], [0.05, 0.4]]
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert determinant_loss(log_p, targets, TINY).item() == pytest.approx(-np.log(4 * 0.175))


def test_the_floor_is_under_every_singular_value(case: Case) -> None:
    for delta in [0.01, 0.3]:
        with case(delta=delta):
            log_p, targets = a_saying(64, 10)
            values = np.linalg.svd(
                10 * log_p.exp().numpy().T @ targets.numpy() / 64, compute_uv=False
            )
            assert determinant_loss(log_p, targets, delta).item() == pytest.approx(
                -np.log(values**2 + delta**2).sum() / 2
            )


def test_a_perfect_prediction_of_classes_of_one_size_costs_nothing() -> None:
    targets = torch.eye(10).repeat(3, 1)
    assert determinant_loss((targets + 1e-30).log(), targets, TINY).item() == pytest.approx(
        0, abs=1e-5
    )


def test_noise_by_class_shifts_it_by_the_logarithm_of_its_determinant() -> None:
    transition = torch.full((10, 10), 0.4 / 9, dtype=torch.float64).fill_diagonal_(0.6)
    shifts = []
    for seed in range(3):
        log_p, targets = a_saying(64, 10, seed)
        shifts.append(
            (
                determinant_loss(log_p, targets @ transition, TINY)
                - determinant_loss(log_p, targets, TINY)
            ).item()
        )
    assert shifts == pytest.approx([-np.linalg.slogdet(transition.numpy()).logabsdet] * 3, rel=1e-6)


def test_noise_by_class_leaves_its_gradient_alone() -> None:
    transition = torch.full((10, 10), 0.4 / 9, dtype=torch.float64).fill_diagonal_(0.6)
    log_p, targets = a_saying(64, 10)
    gradients = []
    for rows in (targets, targets @ transition):
        leaf = log_p.clone().requires_grad_()
        determinant_loss(leaf, rows, TINY).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)


def test_no_permutation_of_the_classes_changes_it() -> None:
    log_p, targets = a_saying(64, 10)
    torch.testing.assert_close(
        determinant_loss(log_p.roll(3, 1), targets, 0.01), determinant_loss(log_p, targets, 0.01)
    )


def test_with_classes_missing_and_saturated_logits_it_is_finite(case: Case) -> None:
    for scale in [0.0, 1.0, 200.0]:
        for classes in [2, 10, 100, 1000]:
            with case(classes=classes, scale=scale):
                logits = (
                    scale * torch.randn(32, classes, generator=torch.Generator().manual_seed(0))
                ).requires_grad_()
                targets = torch.nn.functional.one_hot(torch.arange(32) % (classes - 1), classes)
                cost = determinant_loss(logits.log_softmax(1), targets, 0.01)
                cost.backward()
                assert cost.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_a_class_that_is_missing_has_no_part_in_the_gradient() -> None:
    log_p, targets = a_saying(60, 3)
    wider = torch.cat([log_p, torch.full((60, 1), -300.0, dtype=torch.float64)], 1)
    leaves = [rows.clone().requires_grad_() for rows in (log_p, wider)]
    determinant_loss(leaves[0], targets, TINY).backward()
    determinant_loss(leaves[1], torch.cat([targets, torch.zeros(60, 1)], 1), TINY).backward()
    assert leaves[0].grad is not None and leaves[1].grad is not None
    torch.testing.assert_close(leaves[1].grad[:, :3], leaves[0].grad)


def test_after_the_warm_up_the_determinant_is_all_that_counts() -> None:
    strategy = started("dmi(warmup=0.5, weight=2)", [0, 1])
    output = said([[0.9, 0.1], [0.2, 0.8]])
    early, late = a_batch([0, 1], 5), a_batch([0, 1], 6)
    assert (
        strategy.regularizer(early, [[output]]) is None
        and strategy.supervise(early, [[output]])[0].sample_weights is None
    )
    [belief] = strategy.supervise(late, [[output]])
    assert weighted_cost(output.cost, belief).item() == 0
    expected = 2 * determinant_loss(output.log_p, torch.eye(2), 0.01)
    torch.testing.assert_close(strategy.regularizer(late, [[output]]), expected)


def test_the_warm_up_is_the_papers_and_at_least_an_epoch() -> None:
    for epochs, warm in ((220, 120), (1, 1)):
        strategy, output = started("dmi", [0, 1], epochs=epochs), said([[0.9, 0.1], [0.2, 0.8]])
        assert strategy.regularizer(a_batch([0, 1], warm), [[output]]) is None
        assert strategy.regularizer(a_batch([0, 1], warm + 1), [[output]]) is not None
