"""DivideMix and what it is made of: the mixture fit, sharpening, co-refinement, co-guessing, ramps,
the squared error, by hand.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from noisebench.errors import RunFailed
from noisebench.strategies import build_strategy
from noisebench.strategies.base import (
    Batch,
    ModelOutput,
    TrainingInfo,
    balance,
    entropy,
    linear_ramp,
    sharpened,
    sigmoid_ramp,
)
from noisebench.strategies.dividemix import (
    DivideMix,
    chance_clean,
    co_guessed,
    co_refined,
    scaled_cost,
)
from noisebench.strategies.mixup import Mixture
from noisebench.training.step import weighted_cost
from noisebench.training.trainer import Trainer
from tests.conftest import Case


def two_groups(n: int = 4000, wrong: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Costs of right and wrong labels, each normal, and which are right."""
    rng = np.random.default_rng(0)
    right = np.arange(n) >= wrong * n
    return np.where(right, rng.normal(0.15, 0.05, n), rng.normal(0.7, 0.1, n)), right


def test_the_chance_is_that_of_the_mixture_the_costs_were_drawn_from() -> None:
    costs, _ = two_groups()
    lower = 0.6 * np.exp(-((costs - 0.15) ** 2) / (2 * 0.05**2)) / 0.05
    upper = 0.4 * np.exp(-((costs - 0.7) ** 2) / (2 * 0.1**2)) / 0.1
    found = chance_clean(torch.from_numpy(costs))
    np.testing.assert_allclose(found, lower / (lower + upper), atol=0.05)


def test_the_chance_is_scikit_learns_from_its_own_beginning_too() -> None:
    """Wherever it begins, EM ends at one maximum here: k-means' beginning and other seeds give the
    same division.
    """
    costs, right = two_groups()
    found = chance_clean(torch.from_numpy(costs)).numpy()
    for seed in range(3):
        theirs = GaussianMixture(2, reg_covar=5e-4, tol=1e-6, max_iter=500, random_state=seed).fit(
            costs[:, None]
        )
        chance = theirs.predict_proba(costs[:, None])[:, theirs.means_.argmin()]
        np.testing.assert_allclose(found, chance, atol=0.02)
    assert ((found > 0.5) == right).mean() > 0.995


def test_the_division_of_any_share_converges_and_is_the_same_each_time(case: Case) -> None:
    for wrong in [0.02, 0.5, 0.9]:
        with case(wrong=wrong):
            costs, right = two_groups(wrong=wrong)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                first, second = (chance_clean(torch.from_numpy(costs).float()) for _ in range(2))
            assert torch.equal(first, second) and first.dtype == torch.float32
            assert ((first.numpy() > 0.5) == right).mean() > 0.99


def test_where_all_cost_the_same_all_are_clean() -> None:
    assert chance_clean(torch.full((7,), 0.3)).tolist() == [1.0] * 7
    log_p = torch.full((4, 3), 1 / 3).log()
    assert scaled_cost(log_p, torch.tensor([0, 1, 2, 0])).tolist() == [0.0] * 4


def test_costs_are_scaled_to_between_zero_and_one() -> None:
    log_p = torch.tensor([[0.5, 0.5], [0.25, 0.75], [0.125, 0.875]]).log()
    torch.testing.assert_close(
        scaled_cost(log_p, torch.tensor([0, 0, 0])),
        torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64),
    )


def test_sharpening_is_the_power_and_keeps_certainty() -> None:
    p = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(
        sharpened(p, 0.5), torch.tensor([[0.04, 0.09, 0.25], [0.38, 0.0, 0.0]]) / 0.38
    )
    torch.testing.assert_close(sharpened(p, 1.0), p)


def test_a_label_is_refined_by_its_doubt() -> None:
    recorded, said = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.1, 0.9], [0.1, 0.9]])
    refined = co_refined(recorded, said, torch.tensor([1.0, 0.75]), 1.0)
    torch.testing.assert_close(refined, torch.tensor([[1.0, 0.0], [0.775, 0.225]]))
    squares = torch.tensor([0.775, 0.225]) ** 2
    torch.testing.assert_close(
        co_refined(recorded, said, torch.tensor([1.0, 0.75]), 0.5)[1], squares / squares.sum()
    )


def test_a_guess_is_both_networks_mean() -> None:
    guess = co_guessed([torch.tensor([[0.2, 0.8]]), torch.tensor([[0.6, 0.4]])], 0.5)
    torch.testing.assert_close(guess, torch.tensor([[0.16, 0.36]]) / 0.52)


def test_ramps() -> None:
    assert [linear_ramp(done, 16) for done in (-1, 0, 4, 16, 20)] == [0, 0, 0.25, 1, 1]
    assert linear_ramp(0, 0) == sigmoid_ramp(0, 0) == 1
    assert [sigmoid_ramp(done, 10) for done in (0, 5, 10, 11)] == pytest.approx(
        [np.exp(-5), np.exp(-1.25), 1, 1]
    )


def test_balance_is_the_divergence_from_the_uniform_and_entropy_the_entropy() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]])
    mean = torch.tensor([0.6, 0.3, 0.1])
    torch.testing.assert_close(balance(p.log()), (torch.log(1 / (3 * mean)) / 3).sum())
    torch.testing.assert_close(entropy(p.log()), -(p * p.log()).sum() / 2)
    assert abs(balance(torch.full((5, 4), 0.25).log())) < 1e-6


class Told:
    """Networks that always say the same of each view."""

    def __init__(self, said: list) -> None:
        self.said, self.networks = [torch.tensor(rows).log() for rows in said], [None] * len(said)

    def predict_log_p(
        self, images: torch.Tensor, network: int = 0, weights: object = None
    ) -> torch.Tensor:
        said = self.said[network]
        return said if said.dim() == 2 else said[int(images.min() >= 100)]  # by view


def prepared(
    strategy: DivideMix, labels: list[int], clean: list[list[float]], said: list, epoch: int = 200
) -> Batch:
    recorded = torch.tensor(labels)
    strategy.setup(TrainingInfo(recorded, 2, 300, torch.Generator()))
    strategy.state["clean"].copy_(torch.tensor(clean))
    views = tuple(
        torch.arange(len(labels) * 4.0).view(-1, 1, 2, 2) + 100 * view for view in range(2)
    )
    batch = Batch(
        views,
        recorded,
        torch.arange(len(labels)),
        recorded,
        epoch,
        torch.Generator().manual_seed(3),
    )
    return strategy.prepare_batch(batch, Told(said))  # type: ignore[arg-type]


def test_each_network_learns_the_mixtures_of_its_own_division() -> None:
    strategy = build_strategy("dividemix(temperature=1, lambda_u=10)")
    assert isinstance(strategy, DivideMix)
    batch = prepared(
        strategy, [0, 1, 0], [[1, 0.8, 0.1], [0.3, 1, 1]], [[[0.6, 0.4]] * 3, [[0.2, 0.8]] * 3]
    )
    targets = torch.tensor([  # refined where likely right, else both networks' mean, (0.4, 0.6)
        [[1.0, 0.0], [0.12, 0.88], [0.4, 0.6]],
        [[0.4, 0.6], [0.0, 1.0], [1.0, 0.0]],
    ])  # fmt: skip
    mixture = Mixture.draw(6, 4.0, torch.Generator().manual_seed(3), own=True)
    assert batch.index.tolist() == [0, 1, 2, 0, 1, 2]
    torch.testing.assert_close(
        batch.views[0],
        mixture(torch.cat([torch.arange(12.0), torch.arange(12.0) + 100]).view(6, 1, 2, 2)),
    )
    log_p = torch.tensor([[0.3, 0.7]] * 6).log()
    outputs = [[ModelOutput(log_p, log_p, -log_p)]] * 2
    beliefs = strategy.supervise(batch, outputs)
    for number, belief in enumerate(beliefs):
        torch.testing.assert_close(belief.targets, mixture(targets[number].repeat(2, 1)))
    assert [belief.sample_weights.tolist() for belief in beliefs] == [[1, 1, 0] * 2, [0, 1, 1] * 2]

    p = log_p.exp()
    unlabelled = [
        (p - beliefs[n].targets).square()[[row, row + 3]].mean() for n, row in ((0, 2), (1, 0))
    ]
    torch.testing.assert_close(
        strategy.regularizer(batch, outputs),
        10 * sum(unlabelled) + 2 * balance(log_p),
        rtol=1e-4,
        atol=1e-5,
    )
    cost = weighted_cost(-log_p, beliefs[0]).item()
    assert cost == pytest.approx(
        float(-(beliefs[0].targets * log_p).sum(1)[[0, 1, 3, 4]].mean()), rel=1e-5
    )


def test_the_warm_up_learns_one_view_and_punishes_confidence_if_asked_to() -> None:
    plain, asymmetric = build_strategy("dividemix"), build_strategy("dividemix(confidence=1)")
    log_p = torch.tensor([[0.3, 0.7], [0.9, 0.1]]).log()
    outputs, labels = [[ModelOutput(log_p, log_p, -log_p)]] * 2, torch.tensor([0, 1])
    for strategy in (plain, asymmetric):
        strategy.setup(TrainingInfo(labels, 2, 300, torch.Generator()))
    batch = Batch(
        (torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)),
        labels,
        torch.arange(2),
        labels,
        10,
        torch.Generator(),
    )
    assert len(plain.prepare_batch(batch, Told([])).views) == 1  # type: ignore[arg-type]
    assert plain.regularizer(batch, outputs) is None
    torch.testing.assert_close(asymmetric.regularizer(batch, outputs), -2 * entropy(log_p))


def test_networks_divide_for_each_other(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(strategy="dividemix(warmup=0.34)")
    trainer.run_epoch()
    for number in range(2):
        chance = chance_clean(scaled_cost(trainer.log_p(number), trainer.state.labels).float())
        torch.testing.assert_close(trainer.strategy.state["clean"][1 - number], chance)


def test_costs_are_averaged_over_a_window(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(strategy="dividemix(warmup=0.1, window=2)", epochs=5)
    costs = []
    for _ in range(3):
        trainer.run_epoch()
        costs.append(scaled_cost(trainer.log_p(0), trainer.state.labels).float())
        torch.testing.assert_close(
            trainer.strategy.state["clean"][1], chance_clean(torch.stack(costs[-2:]).mean(0))
        )


def test_a_split_alone_learns_what_is_likely_right(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(strategy="gmm_split(warmup=0.34, threshold=0.7)")
    trainer.run_epoch()
    chance = chance_clean(scaled_cost(trainer.log_p(), trainer.state.labels).float())
    batch = Batch(
        (),
        trainer.state.labels[:50],
        torch.arange(50),
        trainer.state.labels[:50],
        2,
        torch.Generator(),
    )
    log_p = trainer.log_p()[:50]
    [belief] = trainer.strategy.supervise(batch, [[ModelOutput(log_p, log_p, -log_p)]])
    assert (
        torch.equal(belief.sample_weights, (chance[:50] > 0.7).float())
        and 0 < belief.sample_weights.mean() < 1
    )


def test_the_squared_error_is_ramped_up_from_the_warm_up_on() -> None:
    """Over 16 of 300 epochs after ten, each epoch as much as its middle."""
    weights = []
    for epoch in (11, 18, 26, 27, 300):
        strategy = build_strategy("dividemix(temperature=1, lambda_u=10)")
        assert isinstance(strategy, DivideMix)
        batch = prepared(strategy, [0, 1], [[1, 0], [1, 0]], [[[0.6, 0.4]] * 2] * 2, epoch)
        log_p = torch.tensor([[0.3, 0.7]] * 4).log()
        outputs = [[ModelOutput(log_p, log_p, -log_p)]] * 2
        squared = (
            (log_p.exp() - strategy.supervise(batch, outputs)[0].targets).square()[[1, 3]].mean()
        )
        weights.append(
            float((strategy.regularizer(batch, outputs) - 2 * balance(log_p)) / (2 * squared))
        )
    assert weights == pytest.approx(
        [10 * 0.5 / 16, 10 * 7.5 / 16, 10 * 15.5 / 16, 10, 10], rel=2e-3
    )


def test_both_views_are_asked() -> None:
    strategy = build_strategy("dividemix(temperature=1)")
    assert isinstance(strategy, DivideMix)
    views = [[[0.6, 0.4]], [[0.2, 0.8]]]
    batch = prepared(strategy, [0], [[0], [0]], [views, views])
    belief = strategy.supervise(batch, [[ModelOutput(*[torch.zeros(2, 2)] * 3)]] * 2)[0]
    torch.testing.assert_close(belief.targets, torch.tensor([[0.4, 0.6]] * 2))


def weighed(trainer: Trainer, epochs: int) -> dict[int, bool]:
    """By epoch whether the examples of the first network have weights."""
    inner, seen = trainer.strategy.supervise, {}

    def spy(batch: Batch, outputs: list[list[ModelOutput]]) -> list:
        beliefs = inner(batch, outputs)
        seen[batch.epoch] = beliefs[0].sample_weights is not None
        return beliefs

    trainer.strategy.supervise = spy  # type: ignore[method-assign]
    for _ in range(epochs):
        trainer.run_epoch()
    return seen


def test_the_division_begins_with_the_epoch_after_the_warm_up(
    make_trainer: Callable[..., Trainer], case: Case
) -> None:
    for text in ("gmm_split", "dividemix"):
        with case(strategy=text):
            trainer = make_trainer(strategy=f"{text}(warmup=0.5)", epochs=4)
            assert weighed(trainer, 4) == {1: False, 2: False, 3: True, 4: True}


def spoil_the_last_step(trainer: Trainer) -> None:
    """The last step of an epoch leaves a parameter that is not a number."""
    step = trainer.state.optimizer.step

    def spoiled(factor: float) -> None:
        step(factor)
        if trainer.state.step == len(trainer.state.batches) - 1:
            next(iter(trainer.networks[0].parameters())).data.fill_(float("nan"))

    trainer.state.optimizer.step = spoiled  # type: ignore[method-assign]


def test_a_network_that_is_not_finite_before_the_division_fails_by_name(
    make_trainer: Callable[..., Trainer], case: Case
) -> None:
    for text in ("gmm_split", "dividemix"):
        with case(strategy=text):
            trainer = make_trainer(strategy=text)
            spoil_the_last_step(trainer)
            with pytest.raises(
                RunFailed,
                match=r"body\.1\.weight.* became nan, because a step was "
                r"too large, at epoch 1, step 8",
            ):
                trainer.run_epoch()
