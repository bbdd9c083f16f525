"""Curriculum loss: its base loss bounds the 0-1 loss, its choice is the best of all, and it bounds
the errors tighter than a sum.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from noisebench.strategies import ModelOutput
from noisebench.strategies.selection import cheapest_within, margin, soft_hinge
from noisebench.training.step import weighted_cost
from tests.conftest import Case
from tests.contracts.test_strategy_cards import a_batch, started

COSTS = st.lists(st.one_of(st.just(0.0), st.floats(0, 8)), min_size=1, max_size=8)


def bound(cost: torch.Tensor, v: torch.Tensor, threshold: float) -> float:
    return max(float((v * cost).sum()), threshold - float(v.sum()))


def least_bound(cost: torch.Tensor, threshold: float) -> float:
    """Over all v in {0, 1}^n, one by one."""
    every = itertools.product((0.0, 1.0), repeat=len(cost))
    return min(bound(cost, torch.tensor(v, dtype=cost.dtype), threshold) for v in every)


@given(COSTS, st.floats(0, 16))
def test_no_other_choice_has_a_lower_bound(costs: list[float], threshold: float) -> None:
    cost = torch.tensor(costs, dtype=torch.float64)
    found = bound(cost, cheapest_within(cost, threshold), threshold)
    assert found == pytest.approx(least_bound(cost, threshold), abs=1e-9)


def test_the_cheapest_are_chosen_as_long_as_they_fit() -> None:
    cost = torch.tensor([3.0, 0.0, 1.0, 9.0, 1.0])  # together, in order: 0, 1, 2, 5, 14
    assert cheapest_within(cost, 4.0).tolist() == [0, 1, 1, 0, 1]  # C + 1 - i: 4, 3, 2, 1, 0
    assert cheapest_within(cost, 3.0).tolist() == [0, 1, 1, 0, 0]  # ties by place
    assert cheapest_within(cost, 100.0).tolist() == [1] * 5
    assert cheapest_within(cost, 0.0).tolist() == [0, 1, 0, 0, 0]


def some_logits(scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(400, 6, generator=generator), torch.randint(
        6, (400,), generator=generator
    )


def test_the_base_loss_is_nowhere_below_the_0_1_loss(case: Case) -> None:
    for scale in [0.01, 1.0, 30.0]:
        with case(scale=scale):
            logits, labels = some_logits(scale)
            wrong = logits.argmax(1) != labels
            assert torch.equal(margin(logits, labels) < 0, wrong)
            assert (soft_hinge(logits, labels) >= wrong.float()).all()


def test_the_base_loss_is_a_hinge_where_right_and_cross_entropy_where_wrong() -> None:
    logits, labels = (
        torch.tensor([[3.0, 1.0, 0.0], [1.5, 1.0, 0.0], [0.0, 2.0, 1.0]]),
        torch.tensor([0, 0, 0]),
    )
    ce = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(
        soft_hinge(logits, labels), torch.stack([torch.tensor(0.0), torch.tensor(0.5), 1 + ce[2]])
    )


def test_the_curriculum_loss_bounds_the_errors_tighter_than_the_sum() -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        logits, labels = (
            3 * torch.randn(12, 4, generator=generator),
            torch.randint(4, (12,), generator=generator),
        )
        cost, errors = soft_hinge(logits, labels), int((margin(logits, labels) < 0).sum())
        threshold = 12.0 + errors
        assert (
            errors
            <= bound(cost, cheapest_within(cost, threshold), threshold)
            <= float(cost.sum()) + 1e-4
        )


def an_output(logits: torch.Tensor) -> ModelOutput:
    log_p = logits.log_softmax(1)
    return ModelOutput(logits, log_p, -log_p)


def test_after_the_burn_in_the_threshold_is_by_the_rate_and_the_errors() -> None:
    logits = torch.tensor([[4.0, 0.0], [2.0, 1.5], [0.0, 0.4], [0.0, 6.0]])
    labels, output = [0, 0, 0, 0], an_output(logits)
    strategy = started("curriculum(rate=0.5, burn_in=0.5)", labels, epochs=10)
    assert strategy.supervise(a_batch(labels, 5), [[output]])[0].sample_weights is None
    [belief] = strategy.supervise(a_batch(labels, 6), [[output]])
    # C = 0.25 * 4 + 0.5 * 2 = 2; the costs 0, 0.5, 1.91, 7.0 together: 0, 0.5, 2.41 against 2, 1, 0
    assert belief.sample_weights.tolist() == [1, 1, 0, 0]
    cost = (output.cost[0, 0] + output.cost[1, 0]) / 4
    assert weighted_cost(output.cost, belief).item() == pytest.approx(cost.item())


def test_of_labels_that_are_known_the_share_that_is_pruned_is_the_rate(case: Case) -> None:
    for rate in [0.0, 0.3, 0.6]:
        with case(rate=rate):
            labels = [0] * 100
            wrong = torch.arange(100) < 100 * rate
            logits = torch.stack([torch.where(wrong, -60.0, 60.0), torch.zeros(100)], 1)
            [belief] = started(f"curriculum(rate={rate}, burn_in=0)", labels).supervise(
                a_batch(labels), [[an_output(logits)]]
            )
            assert torch.equal(belief.sample_weights == 0, wrong)
