"""Where nobody knows the noise: estimates by hand and by law, and the runs that find them out
first.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest

import noisebench as nb
from noisebench.errors import Interrupted, LanguageError
from noisebench.experiments.oracle import estimated_facts
from noisebench.experiments.resolve import RunConfig
from noisebench.losses import LOSSES
from noisebench.metrics.confident_learning import (
    Estimates,
    anchored_transition,
    calibrated_transition,
    class_shares,
    confident_transition,
    wilson_interval,
)
from noisebench.runs.checkpoint import RunOptions
from noisebench.runs.result import warmup_epochs
from noisebench.runs.session import (
    NUM_FOLDS,
    estimation_folds,
    fold_trainer,
    make_trainer,
)
from noisebench.training.inference import find_device
from tests.conftest import Case
from tests.unit.test_runner import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def log(rows: list[list[float]]) -> np.ndarray:
    return np.log(np.array(rows))


def told(classes: np.ndarray, num_classes: int, p: float | np.ndarray = 0.99) -> np.ndarray:
    """log_p (N, K) of a classifier that gives the class (N,) the probability p, or (N,)."""
    rows = np.repeat(
        (1 - np.broadcast_to(p, len(classes)))[:, None] / (num_classes - 1), num_classes, 1
    )
    rows[np.arange(len(classes)), classes] = p
    return np.log(rows)


def test_the_confident_transition_by_hand() -> None:
    p = log([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    given = np.array([0, 1, 0, 0, 0, 1])
    # Predicted 0, the most confident first, are given as 0, 1, 0, 0: half of the three that are
    # given as 0 lies at the third. Predicted 1 are given as 0, 1: the only one that is given as 1
    # lies at the second.
    T, counts = confident_transition(p, given)
    np.testing.assert_allclose(T, [[2 / 3, 1 / 3], [1 / 2, 1 / 2]])
    np.testing.assert_allclose(counts, [3, 2])
    assert Estimates.of(p, given).accuracy == pytest.approx(4 / 6)


def test_no_more_than_a_hundred_examples_of_a_class_are_counted() -> None:
    p = np.linspace(0.9, 0.6, 1000)
    # every tenth is given as 1
    T, counts = confident_transition(np.log(np.stack([p, 1 - p], 1)), np.arange(1000) % 10 // 9)
    np.testing.assert_allclose(T, [[0.9, 0.1], [0, 1]])
    np.testing.assert_allclose(counts, [100, 0])  # nothing is predicted as 1


def test_of_a_perfect_classifier_the_noise_is_within_the_interval(case: Case) -> None:
    """At the very share of wrong labels among those counted, and never outside [0, 1)."""
    for noise in [
        "symmetric(0)",
        "symmetric(0.2)",
        "symmetric(0.6)",
        ("asymmetric(0.4, map='cifar10')"),
        "pairflip(0.45)",
    ]:
        with case(noise=noise):
            clean = np.arange(5000) % 10
            given = nb.corrupt(clean, noise, num_classes=10)
            found = Estimates.of(told(clean, 10), given)
            rate = np.mean(given != clean)
            low, high = found.interval
            assert 0 <= low <= rate <= high < 1 and low <= found.rate <= high and high - low < 0.1
            assert found.accuracy == pytest.approx(1 - rate)
            np.testing.assert_allclose(found.transition.sum(1), 1)


def test_a_classifiers_own_errors_are_hardly_taken_for_noise() -> None:
    """A third of the predictions is a guess, most of them of less confidence; cleanlab, on the same
    probabilities, is further off.
    """
    count = pytest.importorskip("cleanlab.count")
    rng = np.random.default_rng(0)
    clean = np.arange(6000) % 10
    guessed = rng.random(6000) < 0.33
    predicted = np.where(guessed, rng.integers(10, size=6000), clean)
    log_p = told(
        predicted, 10, np.where(guessed, rng.uniform(0.3, 0.8, 6000), rng.uniform(0.4, 1, 6000))
    )
    for rate in (0, 0.1, 0.4):
        given = nb.corrupt(clean, f"symmetric({rate})", num_classes=10)
        theirs = 1 - np.trace(count.estimate_joint(given, np.exp(log_p)))
        ours = Estimates.of(log_p, given)
        assert abs(ours.rate - rate) < 0.03 < 0.06 < theirs - rate
        assert ours.interval[0] <= rate <= ours.interval[1]


def test_the_calibrated_transition_is_the_noise_where_predictions_are_of_the_true_class(
    case: Case,
) -> None:
    """The uncertainty of a calibrated classifier is no noise, nor is that of one which is half as
    sure, or prefers a class.
    """
    for noise in ["symmetric(0)", "symmetric(0.4)", "asymmetric(0.4, map='cifar10')"]:
        with case(noise=noise):
            rng, T = np.random.default_rng(0), nb.transition(noise, 10)
            p = rng.dirichlet(np.full(10, 0.1), 8000)
            clean = (p.cumsum(1) > rng.random((8000, 1))).argmax(1)
            given = (T[clean].cumsum(1) > rng.random((8000, 1))).argmax(1)
            for log_p in (np.log(p), 0.5 * np.log(p) + np.eye(10)[3]):
                found = calibrated_transition(
                    log_p - np.logaddexp.reduce(log_p, axis=1, keepdims=True), given
                )
                assert np.abs(found - T).sum(1).mean() / 2 < 0.05


def test_class_shares_are_those_that_the_transition_turns_into_the_given_ones() -> None:
    T, true = nb.transition("asymmetric(0.4, map='cifar10')", 10), np.arange(1, 11) / 55
    np.testing.assert_allclose(class_shares(T, true @ T), true, atol=1e-6)


def test_the_interval_is_wilsons() -> None:
    stats = pytest.importorskip("scipy.stats")
    for wrong, n in ((0, 600), (3, 50), (45, 100), (50, 50)):
        theirs = stats.binomtest(wrong, n).proportion_ci(0.95, method="wilson")
        np.testing.assert_allclose(
            wilson_interval(wrong / n, n), (theirs.low, theirs.high), atol=1e-6
        )


def test_estimates_of_a_handful_of_examples_are_numbers_and_say_how_little_they_know(
    case: Case,
) -> None:
    for given in [
        [0, 0, 0, 0],
        [1, 1, 1, 1],
        [2, 2, 0, 1],
        [0, 1, 1, 1],
        [1, 0, 2, 2],
        [0, 1, 2, 2],
    ]:
        with case(given=given):
            found = Estimates.of(told(np.array([0, 1, 2, 2]), 3), np.array(given))
            low, high = found.interval
            assert 0 <= found.rate < 1 and 0 <= low <= found.rate <= high <= 1 and high - low > 0.4
            np.testing.assert_allclose(found.transition.sum(1), 1)
            if found.accuracy == 0:
                assert found.interval == (0, 1)


def test_anchors_of_the_noisy_posterior_give_the_transition(case: Case) -> None:
    for noise in ["symmetric(0.4)", "asymmetric(0.4, map='cifar10')"]:
        with case(noise=noise):
            clean, T = np.arange(5000) % 10, nb.transition(noise, 10)
            np.testing.assert_allclose(anchored_transition(np.log(T[clean] + 1e-12)), T, atol=1e-9)


def test_the_anchor_is_the_next_above_the_97th_percentile() -> None:
    p = np.linspace(0.001, 0.999, 200)
    found = anchored_transition(np.log(np.stack([p, 1 - p], 1)))
    place = int(np.ceil(0.97 * 199))  # counted from the smallest
    np.testing.assert_allclose(
        found, [[p[place], 1 - p[place]], [1 - (1 - p)[::-1][place], (1 - p)[::-1][place]]]
    )


def test_among_a_hundred_classes_the_anchor_is_the_largest() -> None:
    generator = np.random.default_rng(0)
    p = generator.dirichlet(np.full(100, 0.1), 400)
    np.testing.assert_allclose(anchored_transition(np.log(p)), p[p.argmax(0)], rtol=1e-6)


def test_the_folds_are_halves_of_the_training_examples(desk: Desk) -> None:
    which = estimation_folds(desk.plan(loss="el(eps=estimated)"))
    assert sorted(np.bincount(which)) == [648, 649] and len(which) == 1297


def test_no_two_seeds_and_folds_begin_from_equal_weights_or_read_in_the_same_order(
    desk: Desk,
) -> None:
    weights, orders = [], []
    for seed in (0, 1, 2):
        run = desk.plan(loss="el(eps=estimated)", seed=seed)
        trainers = [
            fold_trainer(run, desk.images, fold, find_device("cpu")) for fold in range(NUM_FOLDS)
        ]
        for trainer in [*trainers, make_trainer(run, desk.images, "cpu")]:
            weights.append(next(trainer.networks[0].parameters()).detach().numpy().tobytes())
            orders.append(trainer.task.seed)
    assert len(set(weights)) == len(set(orders)) == 9


def test_the_warm_up_takes_a_quarter_of_the_epochs(desk: Desk, case: Case) -> None:
    for epochs in [1, 2, 40, 120]:
        with case(epochs=epochs):
            assert warmup_epochs(
                desk.plan(loss="el(eps=estimated)", changes={"epochs": epochs})
            ) == max(1, round(epochs / 4))
            assert warmup_epochs(desk.plan(loss="el(eps=0.4)", changes={"epochs": epochs})) == 0


def assert_finds_the_rate(run: RunConfig, found: dict) -> None:
    rate = found["rate"]
    low, high = rate["interval"]
    assert rate["truth"] == run.manifest.meta["realised_rate"]
    assert rate["estimate"] == pytest.approx(rate["truth"], abs=0.05)
    assert low < rate["estimate"] < high < low + 0.15
    assert 1 - rate["truth"] - 0.1 < found["accuracy"] < 1 - rate["truth"]
    assert not run.oracle


def test_a_run_finds_the_noise_rate_and_records_the_true_one(desk: Desk) -> None:
    run = desk.plan("symmetric(rate=0.4)", loss="el(eps=estimated)", changes={"epochs": 20})
    assert_finds_the_rate(run, desk.execute(run)["estimates"])
    assert run.method == "el_estimated"


def test_a_run_finds_the_transition(desk: Desk) -> None:
    run = desk.plan(
        "asymmetric(rate=0.4, map='digits')",
        loss="forward(ce, T=estimated)",
        changes={"epochs": 20},
    )
    estimates = desk.execute(run)["estimates"]
    assert_finds_the_rate(run, estimates)
    found = estimates["transition"]
    T = np.array(found["estimate"])
    np.testing.assert_allclose(T.sum(1), 1, atol=1e-4)
    np.testing.assert_allclose(found["truth"], run.manifest.empirical_transition, atol=1e-6)
    assert (
        np.abs(T - found["truth"]).sum(1).mean()
        < 0.15
        < np.abs(np.eye(10) - found["truth"]).sum(1).mean() + 0.1
    )


def test_a_run_trains_with_what_it_found(desk: Desk) -> None:
    settings = {"changes": {"epochs": 8}}
    found = desk.execute(desk.plan(loss="el(eps=estimated)", **settings))
    typed = desk.plan(loss=f"el(eps={found['estimates']['rate']['estimate']!r})", **settings)
    told = desk.execute(typed)
    assert found["metrics"]["test_acc"] == told["metrics"]["test_acc"]
    assert desk.plan(loss="el(eps=estimated)", **settings).key != typed.key


def test_where_the_truth_is_unknown_none_is_said(desk: Desk) -> None:
    record = desk.execute(
        desk.plan("imported(file='own')", loss="el(eps=estimated)", changes={"epochs": 8})
    )
    assert record["estimates"]["rate"]["truth"] is None
    assert record["estimates"]["rate"]["estimate"] < 0.01


def test_a_warm_up_that_is_interrupted_ends_as_if_it_had_not_been(
    tmp_path: Path, case: Case
) -> None:
    straight = Desk(tmp_path / "straight")
    # 1 epoch of 11 steps a fold, then 4 of 21
    run = straight.plan(loss="el(eps=estimated)", changes={"epochs": 4})
    whole = straight.execute(run)
    for number, stops in enumerate([(3,), (15,), (3, 7, 30), (21, 21)]):
        with case(stops=stops):
            stopped = Desk(tmp_path / str(number))
            for steps in stops:
                asked = count()
                with pytest.raises(Interrupted):
                    stopped.execute(
                        run, RunOptions(should_stop=lambda n=steps, asked=asked: next(asked) >= n)
                    )  # type: ignore[misc]
            record = stopped.execute(run)
            assert record["estimates"] == whole["estimates"]
            assert (
                straight.folder(run).weights.read_bytes()
                == stopped.folder(run).weights.read_bytes()
            )


def test_an_interruption_says_that_it_was_in_the_warm_up(desk: Desk) -> None:
    with pytest.raises(Interrupted, match=r"epoch 1 of 2 of the warm-up"):
        desk.execute(
            desk.plan(loss="el(eps=estimated)", changes={"epochs": 8}),
            RunOptions(should_stop=lambda: True),
        )


def test_no_clean_or_test_label_has_a_part_in_an_estimate(desk: Desk) -> None:
    run = desk.plan(loss="el(eps=estimated)", changes={"epochs": 4})
    first = desk.execute(run)["estimates"]["rate"]["estimate"]
    desk.images.test_labels[:] = 0
    assert desk.execute(run, RunOptions(force=True))["estimates"]["rate"]["estimate"] == first


def test_what_is_to_be_found_out_is_read_off_the_text() -> None:
    expression = LOSSES.normal("forward(el(eps=estimated), T=estimated) + el(eps=0.1)")
    assert estimated_facts(LOSSES, expression) == {"rate", "transition"}
    assert str(expression) == "el(eps=0.1) + forward(el(eps=estimated), T=estimated)"
    assert estimated_facts(LOSSES, LOSSES.normal("el + forward(ce)")) == set()


def test_only_facts_of_the_noise_can_be_estimated() -> None:
    with pytest.raises(LanguageError, match="q must be a number"):
        LOSSES.normal("gce(q=estimated)")
    with pytest.raises(LanguageError, match="known only"):
        nb.loss("el(eps=estimated)")
