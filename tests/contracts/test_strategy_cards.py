"""The strategies of the literature against their cards: schedules, choices and updates by hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from noisebench.errors import ConfigError, RunFailed
from noisebench.strategies import Batch, ModelOutput, Strategy, TrainingInfo, build_strategy
from noisebench.strategies.correction import local_dimension, risen
from noisebench.strategies.selection import forgotten, smallest
from noisebench.training.step import weighted_cost
from noisebench.training.trainer import Trainer
from tests.conftest import Case, same, weights


def a_batch(labels: list[int], epoch: int = 1) -> Batch:
    recorded = torch.tensor(labels)
    return Batch((), recorded, torch.arange(len(labels)), recorded, epoch, torch.Generator())


def started(text: str, labels: list[int], num_classes: int = 2, epochs: int = 10) -> Strategy:
    strategy = build_strategy(text)
    strategy.setup(
        TrainingInfo(torch.tensor(labels), num_classes, epochs, torch.Generator().manual_seed(0))
    )
    return strategy


def said(p: list[list[float]]) -> ModelOutput:
    """What a network says, in probabilities, with CE's cost."""
    log_p = torch.tensor(p).log()
    return ModelOutput(log_p, log_p, -log_p)


# Co-teaching


def test_the_share_that_is_forgotten_grows_to_the_rate() -> None:
    shares = [forgotten(0.4, epoch, 0.05, 200, 1.0) for epoch in (1, 2, 6, 11, 12, 200)]
    np.testing.assert_allclose(shares, [0, 0.04, 0.2, 0.4, 0.4, 0.4])  # T_k = 10 of 200 epochs
    assert forgotten(0.4, 6, 0.05, 200, 2.0) == pytest.approx(0.4 * 0.25)
    # a short run reaches it
    assert [forgotten(0.4, epoch, 0.05, 40, 1.0) for epoch in (1, 2, 3)] == pytest.approx(
        [0, 0.2, 0.4]
    )
    assert forgotten(0.4, 1, 0.0, 40, 1.0) == 0.4


def test_the_smallest_costs_are_chosen_ties_by_place() -> None:
    cost = torch.tensor([2.0, 1.0, 1.0, 3.0, 1.0])
    assert smallest(cost, 2).tolist() == [0, 1, 1, 0, 0]
    assert smallest(cost, 0).tolist() == [0] * 5
    assert smallest(cost, 1, torch.tensor([True, False, False, True, False])).tolist() == [
        1,
        0,
        0,
        0,
        0,
    ]


def test_each_network_learns_what_costs_the_other_least() -> None:
    labels = [0, 0, 0, 0]
    strategy = started("coteaching(rate=0.5, ramp=0)", labels)
    first = said([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]])
    second = said([[0.1, 0.9], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    beliefs = strategy.supervise(a_batch(labels), [[first], [second]])
    assert beliefs[0].sample_weights.tolist() == [
        0,
        1,
        1,
        0,
    ]  # network 1 trusts the choice of network 2
    assert beliefs[1].sample_weights.tolist() == [1, 1, 0, 0]


def test_co_teaching_keeps_the_rest(case: Case) -> None:
    for rate, size, kept in [
        (0.4, 128, 76),
        (0.2, 10, 8),
        (0.45, 128, 70),
        (0.0, 7, 7),
        (0.9, 5, 0),
    ]:
        with case(rate=rate, size=size, kept=kept):
            strategy = started(f"coteaching(rate={rate}, ramp=0)", [0] * size)
            assert strategy.kept(size, 1) == kept == math.floor((1 - rate) * size + 1e-9)


def test_co_teaching_plus_chooses_among_the_examples_of_disagreement() -> None:
    labels = [0, 0, 0, 0]
    strategy = started("coteaching_plus(rate=0.5, ramp=0, warmup=0.1)", labels)
    first = said([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]])
    # they differ on the second and third
    second = said([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.1, 0.9]])
    after = strategy.supervise(a_batch(labels, epoch=2), [[first], [second]])
    assert [belief.sample_weights.tolist() for belief in after] == [[0, 0, 1, 0], [0, 1, 0, 0]]
    before = strategy.supervise(a_batch(labels, epoch=1), [[first], [second]])
    assert [belief.sample_weights.tolist() for belief in before] == [[1, 0, 1, 0], [1, 1, 0, 0]]


def test_decoupling_learns_where_the_networks_disagree() -> None:
    strategy = started("decoupling(warmup=0.1)", [0, 0, 1])
    outputs = [
        [said([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])],
        [said([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]])],
    ]
    after = strategy.supervise(a_batch([0, 0, 1], epoch=2), outputs)
    assert [belief.sample_weights.tolist() for belief in after] == [[0, 1, 1], [0, 1, 1]]
    assert [
        belief.sample_weights for belief in strategy.supervise(a_batch([0, 0, 1], epoch=1), outputs)
    ] == [None, None]
    # Two of three examples count, divided by the three of the batch.
    cost = -(math.log(0.8) + math.log(0.7)) / 3
    assert weighted_cost(outputs[0][0].cost, after[0]).item() == pytest.approx(cost)


def test_where_two_networks_agree_on_all_a_step_changes_nothing() -> None:
    strategy = started("decoupling(warmup=0)", [0, 1])
    outputs = [[said([[0.9, 0.1], [0.8, 0.2]])], [said([[0.6, 0.4], [0.7, 0.3]])]]
    for belief in strategy.supervise(a_batch([0, 1]), outputs):
        assert weighted_cost(outputs[0][0].cost, belief).item() == 0


def test_a_warm_up_of_a_share_is_that_many_epochs(case: Case) -> None:
    for text in ["decoupling(warmup=0.29)", "coteaching_plus(rate=0.5, ramp=0, warmup=0.29)"]:
        with case(text=text):
            strategy = started(text, [0, 0], epochs=100)  # 0.29 * 100 is 28.999999999999996
            # which agree
            outputs = [[said([[0.9, 0.1], [0.8, 0.2]])], [said([[0.6, 0.4], [0.7, 0.3]])]]
            warm, after = (
                strategy.supervise(a_batch([0, 0], epoch), outputs)[0].sample_weights
                for epoch in (29, 30)
            )
            assert (warm is None or warm.any()) and not after.any()


# MentorNet


def test_self_paced_learning_leaves_out_what_costs_more_than_the_threshold() -> None:
    labels = [0, 0, 0, 0, 0]
    strategy = started("mentornet(percentile=0.5, burn_in=0)", labels)
    output = said([[0.9, 0.1], [0.7, 0.3], [0.5, 0.5], [0.3, 0.7], [0.1, 0.9]])
    [belief] = strategy.supervise(a_batch(labels), [[output]])
    assert belief.sample_weights.tolist() == [1, 1, 1, 0, 0]  # the median is the threshold


def test_the_predefined_curriculum_falls_linearly_beyond_the_threshold() -> None:
    labels = [0, 0, 0, 0, 0]
    strategy = started("mentornet(kind='predefined', percentile=0.5, burn_in=0, width=1)", labels)
    cost = torch.tensor([0.5, 1.0, 2.0, 3.0, 5.0])
    output = ModelOutput(
        cost[:, None].repeat(1, 2), -cost[:, None].repeat(1, 2), cost[:, None].repeat(1, 2)
    )
    [belief] = strategy.supervise(a_batch(labels), [[output]])
    torch.testing.assert_close(belief.sample_weights, torch.tensor([1.0, 1.0, 1.0, 0.5, 0.0]))


def test_the_threshold_is_a_moving_average_and_waits_for_the_burn_in() -> None:
    strategy = started("mentornet(percentile=1, decay=0.5, burn_in=0.2)", [0])
    for value, threshold, epoch in ((4.0, 4.0, 1), (2.0, 3.0, 2), (1.0, 2.0, 3)):
        cost = torch.tensor([[value, value]])
        [belief] = strategy.supervise(a_batch([0], epoch), [[ModelOutput(cost, -cost, cost)]])
        assert strategy.state["threshold"].item() == threshold
        assert (belief.sample_weights is None) == (epoch <= 2)


# D2L


def brute_force_dimension(points: np.ndarray, k: int) -> np.ndarray:
    found = []
    for i, point in enumerate(points):
        distances = sorted(math.dist(point, other) for j, other in enumerate(points) if j != i)[:k]
        found.append((k - 2) / sum(math.log(distances[-1] / r) for r in distances[:-1]))
    return np.array(found)


def test_the_local_dimension_is_that_of_its_formula(case: Case) -> None:
    for k in [3, 10, 20]:
        with case(k=k):
            points = np.random.default_rng(0).normal(size=(60, 5))
            found = local_dimension(torch.from_numpy(points), k)
            np.testing.assert_allclose(found, brute_force_dimension(points, k), rtol=1e-6)


def test_the_local_dimension_of_a_flat_manifold_is_known(case: Case) -> None:
    for dimension in [1, 2, 4]:
        with case(dimension=dimension):
            generator = np.random.default_rng(dimension)
            flat = (
                generator.uniform(size=(2000, dimension))
                @ np.linalg.qr(generator.normal(size=(16, 16)))[0][:dimension]
            )
            unbiased = local_dimension(torch.from_numpy(flat), 20).mean().item()
            assert unbiased == pytest.approx(dimension, rel=0.08)


def test_the_local_dimension_of_a_curved_manifold_is_that_of_its_surface() -> None:
    points = np.random.default_rng(0).normal(size=(2000, 4))
    sphere = points / np.linalg.norm(points, axis=1, keepdims=True)  # three-dimensional, in four
    assert local_dimension(torch.from_numpy(sphere), 20).mean().item() == pytest.approx(3, rel=0.1)


def test_the_authors_estimator_adds_one_and_divides_otherwise() -> None:
    points = np.random.default_rng(0).normal(size=(40, 3))
    distances = np.sqrt(((points[:, None] - points) ** 2).sum(2) + 1)
    np.fill_diagonal(distances, np.inf)
    nearest = np.sort(distances, 1)[:, :10]
    expected = 10 / np.log(nearest[:, -1:] / nearest[:, :-1]).sum(1)
    np.testing.assert_allclose(
        local_dimension(torch.from_numpy(points), 10, authors=True), expected, rtol=1e-6
    )


def test_points_that_coincide_have_a_finite_dimension() -> None:
    assert local_dimension(torch.zeros(30, 4), 5).isfinite().all()
    assert local_dimension(torch.randn(15, 4).repeat(2, 1), 5).isfinite().all()


def test_a_dimension_has_risen_two_deviations_above_the_last_five() -> None:
    last = [3.0, 1.0, 2.0, 3.0, 1.0]  # mean 2, standard deviation sqrt(0.8)
    assert not risen(last, 2 + 2 * math.sqrt(0.8) - 1e-9)
    assert risen(last, 2 + 2 * math.sqrt(0.8) + 1e-9)
    assert risen([100.0, *last], 4.0)  # the sixth before is forgotten
    assert not risen(last[:4], 1000.0)


def turned(dimensions: list[float], epochs: int = 10) -> tuple[Strategy, list[str]]:
    """D2L after epochs with these dimensions, and what happened to the network."""
    strategy, log, found = (
        started("d2l(wait=0, neighbours=3)", [0, 1] * 2, epochs=epochs),
        [],
        iter(dimensions),
    )
    network = SimpleNamespace(
        state_dict=lambda: {"w": torch.tensor(0.0)},
        load_state_dict=lambda state: log.append("back"),
    )
    strategy._dimension = lambda whole: next(found)  # type: ignore[method-assign, attr-defined]
    for epoch in range(1, epochs + 1):
        try:
            strategy.on_epoch_end(epoch, SimpleNamespace(networks=[network]))  # type: ignore[arg-type]
        except StopIteration:
            break
    return strategy, log


def test_d2l_turns_once_goes_back_and_trusts_by_its_formula() -> None:
    # at the sixth epoch; 2.5 after going back, 5 at the seventh
    strategy, log = turned([3.0, 2.0, 2.0, 3.0, 2.0, 9.0, 2.5, 5.0])
    assert log == ["back"] and strategy.state["turned"] == 6
    assert strategy.state["dimensions"] == [3, 2, 2, 3, 2, 2.5, 5]
    assert strategy.state["trust"] == pytest.approx(math.exp(-0.7 * 5 / 2))


def test_d2l_does_not_turn_where_nothing_is_left_to_learn() -> None:
    strategy, log = turned([3.0, 2.0, 2.0, 3.0, 2.0, 9.0], epochs=6)
    assert not log and not strategy.state["turned"]


def test_d2l_wants_more_examples_than_neighbours() -> None:
    with pytest.raises(ConfigError, match="more examples than its 20 neighbours, got 20"):
        started("d2l", [0] * 20)
    assert started("d2l", [0] * 21).state["trust"] == 1


def test_d2l_without_a_turn_is_plain_training() -> None:
    strategy, log = turned([5.0, 4.0, 3.0, 2.0, 1.0, 0.9, 0.8, 0.7])
    assert not log and strategy.state["trust"] == 1
    output = said([[0.9, 0.1], [0.2, 0.8]])
    [belief] = strategy.supervise(a_batch([0, 0]), [[output]])
    assert belief.targets.tolist() == [0, 0] and belief.sample_weights is None


def test_d2l_mixes_the_label_with_the_predicted_class() -> None:
    strategy = started("d2l(neighbours=3)", [0] * 4)
    strategy.state["trust"] = 0.7
    [belief] = strategy.supervise(a_batch([0, 0]), [[said([[0.9, 0.1], [0.2, 0.8]])]])
    torch.testing.assert_close(belief.targets, torch.tensor([[1.0, 0.0], [0.7, 0.3]]))


def test_d2l_goes_back_to_the_weights_of_the_epoch_before(
    make_trainer: Callable[..., Trainer],
) -> None:
    trainer = make_trainer(strategy="d2l(wait=0)", epochs=8)
    measured = iter([3.0, 2.0, 3.0, 2.0, 3.0, 50.0, 2.0])
    trainer.strategy._dimension = lambda whole: next(measured)  # type: ignore[method-assign, attr-defined]
    for _ in range(5):
        trainer.run_epoch()
    before = weights(trainer)
    trainer.run_epoch()
    assert trainer.strategy.state["turned"] == 6 and same(weights(trainer), before)


# Joint optimisation


def after_epochs(p: list[list[list[float]]], text: str) -> Iterator[tuple[Strategy, int]]:
    """The strategy after each epoch in which the network said p[epoch]; the second number counts
    its restarts.
    """
    labels = [0] * len(p[0])
    strategy, restarts = started(text, labels, epochs=len(p)), []
    whole = SimpleNamespace(restart=lambda: restarts.append(1))
    for epoch, rows in enumerate(p, 1):
        strategy.supervise(a_batch(labels, epoch), [[said(rows)]])
        strategy.on_epoch_end(epoch, whole)  # type: ignore[arg-type]
        yield strategy, len(restarts)


def test_joint_labels_are_the_mean_of_the_last_predictions() -> None:
    p = [
        [[0.9, 0.1]],
        [[0.8, 0.2]],
        [[0.6, 0.4]],
        [[0.2, 0.8]],
        [[0.1, 0.9]],
        [[0.1, 0.9]],
        [[0.5, 0.5]],
        [[0.5, 0.5]],
    ]
    seen = [
        (strategy.state["targets"].tolist()[0], restarts)
        for strategy, restarts in after_epochs(p, "joint(wait=0.5, first=0.75, window=0.25)")
    ]
    targets, restarts = zip(*seen, strict=True)
    # as recorded until half of the eight epochs
    np.testing.assert_allclose(targets[:3], [[1, 0]] * 3)
    # means of two
    np.testing.assert_allclose(targets[3:6], [[0.4, 0.6], [0.15, 0.85], [0.1, 0.9]], rtol=1e-5)
    # the second network does not change them
    np.testing.assert_allclose(targets[6:], [[0.1, 0.9]] * 2, rtol=1e-5)
    assert restarts == (0, 0, 0, 0, 0, 1, 1, 1)


def test_hard_joint_labels_are_the_largest_class_of_the_mean() -> None:
    p = [[[0.9, 0.1]], [[0.8, 0.2]], [[0.3, 0.7]], [[0.4, 0.6]]]
    *_, (strategy, _) = after_epochs(p, "joint(kind='hard', wait=0.5, first=1, window=0.5)")
    assert strategy.state["targets"].tolist() == [[0, 1]]


def test_an_example_that_joint_has_not_looked_at_keeps_its_label() -> None:
    strategy = started("joint(wait=0, first=0.8, window=0.1)", [0, 1], epochs=10)
    # the second stands in a last batch of one, which is left out
    strategy.supervise(a_batch([0]), [[said([[0.3, 0.7]])]])
    strategy.on_epoch_end(1, SimpleNamespace())  # type: ignore[arg-type]
    torch.testing.assert_close(strategy.state["targets"], torch.tensor([[0.3, 0.7], [0.0, 1.0]]))


def test_the_penalty_of_joint_is_that_of_its_formula() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
    strategy = started("joint(alpha=1.2, beta=0.8)", [0, 1], num_classes=3)
    mean = p.mean(0)
    uneven = (torch.full((3,), 1 / 3) * ((1 / 3) / mean).log()).sum()
    expected = 1.2 * uneven - 0.8 * (p * p.log()).sum(1).mean()
    torch.testing.assert_close(
        strategy.regularizer(a_batch([0, 1]), [[said(p.tolist())]]), expected
    )
    # the second network learns labels alone
    assert strategy.regularizer(a_batch([0, 1], epoch=8), [[said(p.tolist())]]) is None


def test_the_shares_of_joint_are_the_papers_epochs() -> None:
    """Of 320: from 70 to 200 a label is the mean of ten predictions, and then another network
    learns it.
    """
    p = np.linspace(0.1, 0.9, 320)
    seen = [
        (strategy.state["targets"][0, 0].item(), restarts)
        for strategy, restarts in after_epochs([[[q, 1 - q]] for q in p.tolist()], "joint")
    ]
    targets, restarts = zip(*seen, strict=True)
    last = [min(epoch, 200) for epoch in range(1, 321)]
    np.testing.assert_allclose(
        targets, [1 if at < 70 else p[at - 10 : at].mean() for at in last], rtol=1e-5
    )
    assert restarts == tuple(int(epoch >= 200) for epoch in range(1, 321))


def test_a_restart_is_another_network_with_the_schedule_from_its_beginning(
    make_trainer: Callable[..., Trainer],
) -> None:
    trainer = make_trainer(epochs=6)
    first = weights(trainer)
    for _ in range(3):
        last = trainer.run_epoch()
    assert last.lr < 0.05 * 0.6
    trainer.restart()
    fresh = weights(trainer)
    assert not same(fresh, first) and not any(v.any() for v in trainer.state.optimizer.velocities())
    end = trainer.run_epoch()
    steps = len(trainer.state.batches)
    assert end.lr == pytest.approx(0.05 * 0.5 * (1 + math.cos(math.pi * (steps - 1) / steps / 3)))


def test_a_checkpoint_of_any_epoch_resumes_bit_for_bit(
    make_trainer: Callable[..., Trainer], case: Case
) -> None:
    for text in [
        "d2l(wait=0.1)",
        "joint(wait=0.3, first=0.6)",
        "coteaching_plus(rate=0.3)",
        "mentornet(burn_in=0.2)",
        "mentornet(kind='data_driven', burn_in=0.5)",
        "cleannet",
        "distill(first=0.5)",
        "forward_estimated(first=0.4)",
        "forward_revision(first=0.4, second=0.2)",
        "forward_revision(kind='reweight', first=0.4, second=0.2)",
    ]:
        with case(strategy=text):
            straight = make_trainer(strategy=text, epochs=10, batch_size=64)
            saved = []
            for _ in range(10):
                saved.append(deepcopy(straight.state_dict()))
                straight.run_epoch()
            for epoch in (4, 6, 8):
                resumed = make_trainer(strategy=text, epochs=10, batch_size=64)
                resumed.load_state_dict(saved[epoch])
                for _ in range(10 - epoch):
                    resumed.run_epoch()
                assert same(weights(resumed), weights(straight))


# Corrections with a T that is found out


def after_the_first_stage(text: str, p: torch.Tensor) -> tuple[Strategy, list[int]]:
    """The strategy when its first network says p (N, K) of the training set, and its restarts."""
    strategy, restarts = started(text, [0] * len(p), num_classes=p.shape[1], epochs=8), []
    whole = SimpleNamespace(log_p=p.log, restart=lambda: restarts.append(1))
    strategy.on_epoch_end(1, whole)  # type: ignore[arg-type]
    assert not restarts and not strategy.state["known"]
    strategy.on_epoch_end(2, whole)  # type: ignore[arg-type]
    return strategy, restarts


T = torch.tensor([[0.8, 0.2], [0.3, 0.7]])


def test_forward_estimated_learns_through_the_transition_at_the_anchors() -> None:
    strategy, restarts = after_the_first_stage("forward_estimated", T.repeat(50, 1))
    log_p = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
    torch.testing.assert_close(
        strategy.transform_log_p(log_p, a_batch([0, 0]), 0).exp(),
        torch.tensor([[0.75, 0.25], [0.55, 0.45]]),
    )
    assert restarts == [1]


def test_backward_estimated_pays_the_row_of_the_inverse() -> None:
    strategy, _ = after_the_first_stage("backward_estimated", T.repeat(50, 1))
    output = said([[0.9, 0.1], [0.4, 0.6]])
    [belief] = strategy.supervise(a_batch([0, 1]), [[output]])
    torch.testing.assert_close(belief.targets @ T, torch.eye(2), rtol=1e-5, atol=1e-6)
    expected = (torch.linalg.inv(T) * output.cost).sum(1).mean()
    torch.testing.assert_close(weighted_cost(output.cost, belief)[0], expected)


def test_a_transition_without_an_inverse_fails_the_run() -> None:
    with pytest.raises(RunFailed, match="no usable inverse"):
        after_the_first_stage("backward_estimated", torch.full((50, 2), 0.5))
