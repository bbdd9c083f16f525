"""Where nobody knows the noise: estimates by hand and by law, and the runs that find them out first."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np
import pytest

import noisebench as nb
from noisebench.errors import Interrupted, LanguageError
from noisebench.estimates import anchored_transition, confident_joint, noise_rate
from noisebench.losses import LOSSES
from noisebench.sitting import Conduct
from noisebench.truth import estimated_facts
from noisebench.warmup import folds, warmup_epochs
from tests.test_runner import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def log(rows: list[list[float]]) -> np.ndarray:
    return np.log(np.array(rows))


def test_the_confident_joint_by_hand() -> None:
    p = log([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9], [0.6, 0.4]])
    recorded = np.array([0, 0, 0, 1, 1, 1])
    # Thresholds: 0.6 for class 0, (0.6 + 0.9 + 0.4) / 3 = 0.633 for class 1. The fourth is as of neither: counted nowhere.
    # Recorded 0: two as of 0, one as of 1; recorded 1: one as of 1, one (0.6) as of 0; rows scaled to three each of six.
    np.testing.assert_allclose(confident_joint(p, recorded), [[2 / 6, 1 / 6], [1.5 / 6, 1.5 / 6]])
    assert noise_rate(p, recorded) == pytest.approx(2.5 / 6)


def test_an_example_above_two_thresholds_is_of_the_likelier_class() -> None:
    p = log([[0.55, 0.45], [0.3, 0.7], [0.5, 0.5], [0.8, 0.2]])
    joint = confident_joint(p, np.array([0, 0, 1, 1]))  # thresholds 0.425 and 0.35: the first example is above both
    np.testing.assert_allclose(joint, [[0.25, 0.25], [0.5, 0.0]])


def test_a_class_that_nothing_is_recorded_as_is_never_the_true_one() -> None:
    joint = confident_joint(log([[0.6, 0.1, 0.3], [0.1, 0.6, 0.3]]), np.array([0, 1]))
    np.testing.assert_allclose(joint, np.diag([0.5, 0.5, 0]))


@pytest.mark.parametrize("noise", ["symmetric(0.2)", "symmetric(0.6)", "asymmetric(0.4, map='cifar10')", "pairflip(0.45)"])
def test_whoever_knows_the_clean_labels_counts_the_noise_exactly(noise: str) -> None:
    clean = np.arange(5000) % 10
    recorded = nb.corrupt(clean, noise, num_classes=10)
    p = np.full((5000, 10), 0.001)
    p[np.arange(5000), clean] = 0.991
    assert noise_rate(np.log(p), recorded) == pytest.approx(np.mean(recorded != clean), abs=1e-12)


@pytest.mark.parametrize("noise", ["symmetric(0.4)", "asymmetric(0.4, map='cifar10')"])
def test_anchors_of_the_noisy_posterior_give_the_transition(noise: str) -> None:
    clean, T = np.arange(5000) % 10, nb.transition(noise, 10)
    np.testing.assert_allclose(anchored_transition(np.log(T[clean] + 1e-12)), T, atol=1e-9)


def test_the_anchor_is_the_next_above_the_97th_percentile() -> None:
    p = np.linspace(0.001, 0.999, 200)
    found = anchored_transition(np.log(np.stack([p, 1 - p], 1)))
    place = int(np.ceil(0.97 * 199))  # counted from the smallest
    np.testing.assert_allclose(found, [[p[place], 1 - p[place]], [1 - (1 - p)[::-1][place], (1 - p)[::-1][place]]])


def test_among_a_hundred_classes_the_anchor_is_the_largest() -> None:
    generator = np.random.default_rng(0)
    p = generator.dirichlet(np.full(100, 0.1), 400)
    np.testing.assert_allclose(anchored_transition(np.log(p)), p[p.argmax(0)], rtol=1e-6)


def test_the_folds_are_halves_of_the_training_examples(desk: Desk) -> None:
    which = folds(desk.plan(loss="el(eps=estimated)"))
    assert sorted(np.bincount(which)) == [648, 649] and len(which) == 1297


@pytest.mark.parametrize("epochs", [1, 2, 40, 120])
def test_the_warm_up_takes_a_quarter_of_the_epochs(epochs: int, desk: Desk) -> None:
    assert warmup_epochs(desk.plan(loss="el(eps=estimated)", changes={"epochs": epochs})) == max(1, round(epochs / 4))
    assert warmup_epochs(desk.plan(loss="el(eps=0.4)", changes={"epochs": epochs})) == 0


@pytest.mark.parametrize("noise", ["symmetric(rate=0.2)", "symmetric(rate=0.4)", "asymmetric(rate=0.4, map='digits')"])
def test_a_run_finds_the_noise_rate_and_says_the_truth_beside_it(noise: str, desk: Desk) -> None:
    run = desk.plan(noise, loss="el(eps=estimated)", changes={"epochs": 20})
    rate = desk.execute(run)["estimates"]["rate"]
    assert rate["truth"] == run.manifest.meta["realised_rate"]
    assert rate["estimate"] == pytest.approx(rate["truth"], abs=0.05)
    assert not run.oracle and run.method == "el_estimated"


def test_a_run_finds_the_transition(desk: Desk) -> None:
    run = desk.plan("asymmetric(rate=0.4, map='digits')", loss="forward(ce, T=estimated)", changes={"epochs": 20})
    found = desk.execute(run)["estimates"]["transition"]
    T = np.array(found["estimate"])
    np.testing.assert_allclose(T.sum(1), 1, atol=1e-4)
    np.testing.assert_allclose(found["truth"], run.manifest.empirical_transition, atol=1e-6)
    assert np.abs(T - found["truth"]).sum(1).mean() < 0.3 < np.abs(np.eye(10) - found["truth"]).sum(1).mean() + 0.1
    assert not run.oracle


def test_a_run_trains_with_what_it_found(desk: Desk) -> None:
    settings = {"changes": {"epochs": 8}}
    found = desk.execute(desk.plan(loss="el(eps=estimated)", **settings))
    typed = desk.plan(loss=f"el(eps={found['estimates']['rate']['estimate']!r})", **settings)
    told = desk.execute(typed)
    assert found["metrics"]["test_acc"] == told["metrics"]["test_acc"]
    assert desk.plan(loss="el(eps=estimated)", **settings).key != typed.key


def test_where_the_truth_is_unknown_none_is_said(desk: Desk) -> None:
    record = desk.execute(desk.plan("imported(file='own')", loss="el(eps=estimated)", changes={"epochs": 8}))
    assert record["estimates"]["rate"]["truth"] is None
    assert record["estimates"]["rate"]["estimate"] < 0.05


@pytest.mark.parametrize("stops", [(3,), (15,), (3, 7, 30), (21, 21)])
def test_a_warm_up_that_is_interrupted_ends_as_if_it_had_not_been(stops: tuple[int, ...], tmp_path: Path) -> None:
    straight, stopped = Desk(tmp_path / "straight"), Desk(tmp_path / "stopped")
    run = straight.plan(loss="el(eps=estimated)", changes={"epochs": 4})  # 1 epoch of 11 steps a fold, then 4 of 21
    whole = straight.execute(run)
    for steps in stops:
        asked = count()
        with pytest.raises(Interrupted):
            stopped.execute(run, Conduct(stop=lambda n=steps, asked=asked: next(asked) >= n))  # type: ignore[misc]
    record = stopped.execute(run)
    assert record["estimates"] == whole["estimates"]
    assert straight.folder(run).weights.read_bytes() == stopped.folder(run).weights.read_bytes()


def test_an_interruption_says_that_it_was_in_the_warm_up(desk: Desk) -> None:
    with pytest.raises(Interrupted, match=r"epoch 1 of 2 of the warm-up"):
        desk.execute(desk.plan(loss="el(eps=estimated)", changes={"epochs": 8}), Conduct(stop=lambda: True))


def test_no_clean_or_test_label_has_a_part_in_an_estimate(desk: Desk) -> None:
    run = desk.plan(loss="el(eps=estimated)", changes={"epochs": 4})
    first = desk.execute(run)["estimates"]["rate"]["estimate"]
    desk.images.test_labels[:] = 0
    assert desk.execute(run, Conduct(anew=True))["estimates"]["rate"]["estimate"] == first


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
