"""Mixup, averaged weights, and ELR+ which is made of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from noisebench.strategies.base import Average, follow, sigmoid_ramp
from noisebench.strategies.elr import early_term
from noisebench.strategies.mixup import Mixture
from noisebench.training.trainer import Trainer
from tests.conftest import same, weights


def test_shares_are_of_the_beta_distribution_and_orders_permute() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [Mixture.draw(5, 4.0, generator) for _ in range(3000)]
    shares = np.array([each.share for each in drawn])
    # 1 / (4 (2 alpha + 1))
    assert shares.mean() == pytest.approx(0.5, abs=0.01) and shares.var() == pytest.approx(
        1 / 36, abs=0.002
    )
    assert all(sorted(each.order.tolist()) == list(range(5)) for each in drawn[:20])
    assert len({tuple(each.order.tolist()) for each in drawn}) == 120
    own = [Mixture.draw(5, 4.0, generator, own=True).share for _ in range(500)]
    assert min(own) >= 0.5


def test_a_mixture_mixes_rows_of_any_shape() -> None:
    mixture = Mixture(torch.tensor([1, 2, 0]), 0.75)
    rows = torch.tensor([[4.0], [8.0], [0.0]])
    assert mixture(rows).tolist() == [[5.0], [6.0], [1.0]]
    assert mixture(rows.view(3, 1, 1, 1)).flatten().tolist() == [5.0, 6.0, 1.0]


def test_mixup_mixes_images_and_targets_alike(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(strategy="mixup")
    before = trainer.state.generator.get_state()
    batch = trainer.training_step.batch()
    after = trainer.state.generator.get_state()
    trainer.state.generator.set_state(before)
    mixture = Mixture.draw(32, 1.0, trainer.state.generator)
    assert torch.equal(after, trainer.state.generator.get_state()) and 0 < mixture.share < 1
    index = trainer.state.batches[0]
    torch.testing.assert_close(
        batch.views[0], mixture(next(iter(trainer.train.eval_batches(index))))
    )
    torch.testing.assert_close(batch.targets, mixture(torch.eye(10)[trainer.state.labels[index]]))


def test_an_average_follows_a_network() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    average: Average = {}
    follow(average, network, 0.9)
    first = {name: value.clone() for name, value in network.state_dict().items()}
    assert all(torch.equal(average[name], value) for name, value in first.items())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
        network[1].running_mean.add_(2.0)
        network[1].num_batches_tracked.add_(7)
    assert torch.equal(average["0.weight"], first["0.weight"])  # a copy
    for _ in range(3):
        follow(average, network, 0.9)
    torch.testing.assert_close(average["0.weight"], first["0.weight"] + 1 - 0.9**3)
    torch.testing.assert_close(
        average["1.running_mean"], first["1.running_mean"] + 2 * (1 - 0.9**3)
    )
    assert average["1.num_batches_tracked"] == 7


def test_elr_plus_remembers_what_the_other_ones_average_says(
    make_trainer: Callable[..., Trainer],
) -> None:
    trainer = make_trainer(strategy="elr_plus(beta=0.6, decay=0.5, average_ramp=0)")
    strategy, index = trainer.strategy, trainer.state.batches[0]
    images = next(iter(trainer.train.eval_batches(index)))
    # at first the average is the network
    says = [
        trainer.predict_log_p(images, number).exp().clamp(1e-4, 1 - 1e-4) for number in range(2)
    ]
    trainer.training_step.run()
    for number in range(2):
        other = says[1 - number] / says[1 - number].sum(1, keepdim=True)
        torch.testing.assert_close(strategy.state["memory"][number][index], 0.4 * other)
    name = next(iter(trainer.networks[0].state_dict()))
    averages = [average[name].clone() for average in strategy.state["averages"]]
    now = [network.state_dict()[name].clone() for network in trainer.networks]
    trainer.training_step.run()
    for number in range(2):
        torch.testing.assert_close(
            strategy.state["averages"][number][name], (averages[number] + now[number]) / 2
        )


def test_elr_plus_pulls_towards_the_mixed_memory(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(strategy="elr_plus(lam=2, ramp=0.5)", epochs=4)
    before = trainer.state.generator.get_state()
    batch = trainer.training_step.batch()
    trainer.state.generator.set_state(before)
    mixture = Mixture.draw(32, 1.0, trainer.state.generator, own=True)
    with torch.no_grad():
        log_ps = [network(batch.views[0]).log_softmax(1) for network in trainer.networks]
        memory = trainer.strategy.state["memory"][:, trainer.state.batches[0]]
        cost: torch.Tensor = sum(-(batch.targets * log_p).sum(1).mean() for log_p in log_ps)  # type: ignore[assignment]
        pull: torch.Tensor = sum(early_term(mixture(memory[n]), log_ps[n].exp()) for n in range(2))  # type: ignore[assignment]
        expected = cost + 2 * sigmoid_ramp(0, 2) * pull
        found = trainer.training_step.objective(batch, [[log_p] for log_p in log_ps])
    torch.testing.assert_close(found[0], expected)


def test_elr_plus_without_a_pull_is_two_mixups(make_trainer: Callable[..., Trainer]) -> None:
    def trained(lam: float, beta: float) -> list[np.ndarray]:
        trainer = make_trainer(strategy=f"elr_plus(lam={lam}, beta={beta})")
        trainer.run_epoch()
        return weights(trainer)

    assert same(trained(0, 0.7), trained(0, 0.1)) and not same(trained(0, 0.7), trained(3, 0.7))


def test_elr_plus_lets_its_average_follow_closely_at_first(
    make_trainer: Callable[..., Trainer],
) -> None:
    trainer = make_trainer(strategy="elr_plus(decay=0.9, average_ramp=1)", epochs=4)
    name = next(iter(trainer.networks[0].state_dict()))
    for epoch in (1, 2):
        trainer.training_step.run()
        before = trainer.strategy.state["averages"][0][name].clone()
        now = trainer.networks[0].state_dict()[name].clone()
        trainer.training_step.run()
        decay = 0.9 * np.exp(-5 * (1 - (epoch - 1) / 4) ** 2)
        torch.testing.assert_close(
            trainer.strategy.state["averages"][0][name], decay * before + (1 - decay) * now
        )
        while trainer.state.step < len(trainer.state.batches):
            trainer.training_step.run()
        trainer.end_training()
        trainer.end_epoch(trainer.predict(trainer.test))
