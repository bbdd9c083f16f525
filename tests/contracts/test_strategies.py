"""Contracts over the registry of strategies, and the five powers of the interface, each proved by a
small strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from noisebench.core.plugins import load_plugins
from noisebench.strategies import STRATEGIES, Batch, ModelOutput, build_strategy, normal_strategy
from noisebench.training.trainer import Trainer
from tests.conftest import Case, same, weights

load_plugins([str(Path(__file__).parents[1] / "support" / "strategies_of_five_powers.py")])
NAMES = [entry.name for entry in STRATEGIES]


def text_of(name: str) -> str:
    """The strategy by default; a rate that only a manifest knows is that of the labels of
    `make_trainer`, of which 28 are trusted.
    """
    told = f"{name}(rate=0.33)" if any(p.auto for p in STRATEGIES[name].parameters) else name
    return _OTHERS.get(name, told)


_OTHERS = {
    "distill": "distill(share=0.8)",  # by default it needs more trusted labels
    # T^-1 of so few examples has costs that fall without end
    "backward_estimated": "backward_estimated(first=0.9)",
    # An epoch has eight steps here: a warm-up of one epoch leaves nothing to divide by.
    "gmm_split": "gmm_split(warmup=0.34)",
    "dividemix": "dividemix(warmup=0.34)",
    "forward_revision": "forward_revision(first=0.25)",  # nor to see T by
    # The gradient of a bounded loss falls with p, and the larger weight leaves nothing of it: as
    # for asymmetric noise, then.
    "elr": "elr(lam=1, beta=0.9)",
    "elr_plus": "elr_plus(lam=1, beta=0.9)",
    # The paper's ten epochs of 15, and its lam for much noise: agreement at 0.9 leaves a bounded
    # loss too little.
    "jocor": "jocor(rate=0.33, ramp=0.67, lam=0.65)",
    "curriculum": "curriculum(rate=0.33, burn_in=0.34)",  # the paper's five epochs on MNIST, of 15
    "nlnl": "nlnl(draws=10)",  # one complementary label a step teaches little in so few epochs
}


POWERS = [name for name in NAMES if name.startswith("test_")]
# those that are another strategy
KINDS = ["mentornet(kind='data_driven')", "forward_revision(kind='reweight', first=0.5)"]
TEXTS = [*map(text_of, NAMES), *KINDS]
LOSSES = ["ce", "el(eps=0.3)", "lsr(gce)"]


def run(trainer: Trainer, epochs: int) -> Trainer:
    for _ in range(epochs):
        trainer.run_epoch()
    return trainer


def watch_beliefs(trainer: Trainer) -> Iterator[tuple[Batch, list]]:
    """Every (batch, beliefs) of one epoch."""
    seen, believe = [], trainer.strategy.supervise

    def spy(batch: Batch, outputs: list[list[ModelOutput]]) -> list:
        beliefs = believe(batch, outputs)
        seen.append((batch, beliefs))
        return beliefs

    trainer.strategy.supervise = spy  # type: ignore[method-assign]
    trainer.run_epoch()
    return iter(seen)


def test_beliefs_are_probabilities_and_weights_are_not_negative(
    make_trainer: Callable[..., Trainer], case: Case
) -> None:
    for text in (
        text for text in TEXTS if "proper" in STRATEGIES[normal_strategy(text).name].properties
    ):
        trainer = run(make_trainer(strategy=text, batch_size=64), 1)
        for _, beliefs in watch_beliefs(trainer):
            for targets, trust, _ in beliefs:
                with case(strategy=text):
                    assert trust is None or (trust >= 0).all()
                    assert targets.dim() == 1 or (targets >= 0).all()
                    assert targets.dim() == 1 or (targets.sum(1) - 1).abs().max() < 1e-5


def test_a_strategy_switched_off_is_plain_training_bit_for_bit(
    make_trainer: Callable[..., Trainer], case: Case
) -> None:
    plain = weights(run(make_trainer(batch_size=64), 2))
    for entry in (entry for entry in STRATEGIES if "disabled_form" in entry.facts):
        with case(strategy=entry.name):
            off = run(make_trainer(strategy=entry.facts["disabled_form"], batch_size=64), 2)
            assert same(weights(off)[: len(plain)], plain)  # of two networks the first


def learns(trainer: Trainer) -> bool:
    """Whether it predicts most of the noisy labels after 15 epochs, and hardly any before."""
    shares = []
    for epochs in (0, 15):
        predicted = run(trainer, epochs).predict(trainer.train).argmax(1)
        shares.append(float((predicted == trainer.state.labels).float().mean()))
    return shares[0] < 0.25 < 0.5 < shares[1]


def stable(text: str) -> bool:
    """The cost of `backward_estimated`, with the inverse of a T from so few examples, has no lower
    bound.
    """
    return not text.startswith("backward_estimated")


@pytest.mark.parametrize("number", range(len(LOSSES)))
def test_every_strategy_learns_under_one_of_the_losses(
    number: int, make_trainer: Callable[..., Trainer], case: Case
) -> None:
    """Of the package's own; under each of them: `make soak`."""
    for place, text in enumerate(
        text for text in TEXTS if stable(text) and not text.startswith(tuple(POWERS))
    ):
        if place % len(LOSSES) == number:
            loss = LOSSES[(place // len(LOSSES) + number) % len(LOSSES)]
            with case(strategy=text, loss=loss):
                assert learns(make_trainer(loss, text, lr=0.1, epochs=15))


@pytest.mark.soak
@pytest.mark.parametrize("loss", LOSSES)
def test_every_strategy_learns_under_any_loss(
    loss: str, make_trainer: Callable[..., Trainer], case: Case
) -> None:
    for text in filter(stable, TEXTS):
        with case(strategy=text):
            assert learns(make_trainer(loss, text, lr=0.1, epochs=15))


def test_a_checkpoint_in_mid_epoch_resumes_bit_for_bit(
    make_trainer: Callable[..., Trainer], case: Case
) -> None:
    for text in TEXTS:
        with case(strategy=text):
            straight, saved = make_trainer(strategy=text, batch_size=64), {}
            straight.run_epoch()

            def save_at_step_two(trainer: Trainer = straight, saved: dict = saved) -> None:
                if trainer.state.step == 2:
                    saved.update(deepcopy(trainer.state_dict()))

            straight.run_epoch(save_at_step_two)
            straight.run_epoch()
            resumed = make_trainer(strategy=text, batch_size=64)
            resumed.load_state_dict(saved)
            ends = [resumed.run_epoch(), resumed.run_epoch()]
            assert same(weights(resumed), weights(straight))
            assert (ends[0].epoch, ends[1].epoch) == (2, 3)


def test_strategies_train_any_backbone(make_trainer: Callable[..., Trainer], case: Case) -> None:
    """All a convolutional network with batch norm; those that read its features, and two others, a
    transformer as well.
    """
    reading = [
        text
        for text in TEXTS
        if text.startswith(("standard", "d2l", "cleannet", "test_refit", "coteaching("))
    ]
    for model, text in [
        *(("timm:test_resnet", text) for text in TEXTS),
        *(("timm:test_vit", text) for text in reading),
    ]:
        with case(model=model, strategy=text):
            trainer = make_trainer(strategy=text, model=model, batch_size=128, epochs=1)
            before = weights(trainer)
            assert np.isfinite(trainer.run_epoch().loss)
            assert not same(before, weights(trainer))


def test_strategies_survive_a_short_run(make_trainer: Callable[..., Trainer], case: Case) -> None:
    # a last batch of one, which is left out; one batch
    for epochs, batch_size in ((1, 85), (2, 85), (2, 512)):
        for text in TEXTS:
            with case(strategy=text, epochs=epochs, batch_size=batch_size):
                trainer = run(
                    make_trainer(strategy=text, epochs=epochs, batch_size=batch_size), epochs
                )
                assert all(np.isfinite(value).all() for value in weights(trainer))


def test_hard_bootstrap_mixes_the_label_with_the_predicted_class(
    make_trainer: Callable[..., Trainer],
) -> None:
    strategy = build_strategy("bootstrap(kind='hard', beta=0.8)")
    log_p = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]]).log()
    labels = torch.tensor([0, 0])
    batch = Batch((), labels, torch.arange(2), labels, 1, torch.Generator())
    targets, trust, _ = strategy.supervise(batch, [[ModelOutput(log_p, log_p, -log_p)]])[0]
    torch.testing.assert_close(targets, torch.tensor([[0.8, 0.2, 0.0], [1.0, 0.0, 0.0]]))
    assert trust is None


def test_soft_bootstrap_has_the_gradient_of_its_formula() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0]], requires_grad=True)
    log_p, labels = logits.log_softmax(1), torch.tensor([1])
    batch = Batch((), labels, torch.arange(1), labels, 1, torch.Generator())
    belief = build_strategy("bootstrap(kind='soft')").supervise(
        batch, [[ModelOutput(logits, log_p, -log_p)]]
    )[0]
    (belief.targets * -log_p).sum().backward()
    again = logits.detach().clone().requires_grad_()
    q = again.softmax(1)
    (-(0.95 * torch.tensor([[0.0, 1.0, 0.0]]) + 0.05 * q) * q.log()).sum().backward()
    torch.testing.assert_close(logits.grad, again.grad)


def test_a_mixed_batch_has_mixed_images_and_mixed_targets(
    make_trainer: Callable[..., Trainer],
) -> None:
    trainer = make_trainer(strategy="test_mixing(share=0.25)")
    batch, _ = next(watch_beliefs(trainer))
    assert set(batch.targets.unique().tolist()) == {0.0, 0.25, 0.75, 1.0}
    (plain,) = trainer.train.eval_batches(batch.index)
    moved = (batch.views[0] - plain).abs().flatten(1).sum(1) > 0
    assert moved.float().mean() > 0.8


def test_a_learned_transition_moves_and_lets_the_gradient_through(
    make_trainer: Callable[..., Trainer],
) -> None:
    trainer = make_trainer(strategy="test_learned_transition")
    before = trainer.strategy.state["logits_T"].detach().clone()
    run(trainer, 2)
    moved = trainer.strategy.state["logits_T"].detach() - before
    assert moved.abs().max() > 1e-3
    group = next(
        g
        for g in trainer.state.optimizer.groups
        if g.params[0] is trainer.strategy.state["logits_T"]
    )
    assert (group.lr, group.weight_decay) == (0.1, 0.0)


def test_two_networks_start_apart_and_the_penalty_brings_them_together(
    make_trainer: Callable[..., Trainer],
) -> None:
    def gap(weight: float) -> float:
        trainer = run(make_trainer(strategy=f"test_agreement(weight={weight})", epochs=4), 4)
        first, second = (trainer.log_p(number).exp() for number in range(2))
        return float((first - second).abs().mean())

    assert 0 < gap(5.0) < 0.8 * gap(0.0)


def test_each_of_two_networks_gets_its_own_belief(make_trainer: Callable[..., Trainer]) -> None:
    _, beliefs = next(watch_beliefs(make_trainer(strategy="test_agreement(keep=0.5)")))
    assert [int(belief.sample_weights.sum()) for belief in beliefs] == [16, 16]
    assert not torch.equal(beliefs[0].sample_weights, beliefs[1].sample_weights)


def test_two_networks_predict_by_their_mean_probability(
    make_trainer: Callable[..., Trainer],
) -> None:
    trainer = make_trainer(strategy="test_agreement")
    mean = torch.stack([trainer.log_p(number).exp() for number in range(2)]).mean(0)
    torch.testing.assert_close(trainer.predict(trainer.train).exp(), mean)


def test_two_networks_without_exchange_are_two_plain_trainings(
    make_trainer: Callable[..., Trainer],
) -> None:
    both = run(make_trainer(strategy="test_agreement(keep=1, weight=0)", clip=0.5), 1)
    alone = run(make_trainer(clip=0.5), 1)
    assert same(weights(both)[: len(weights(alone))], weights(alone))


def test_a_memory_holds_every_example_after_an_epoch(make_trainer: Callable[..., Trainer]) -> None:
    trainer = run(make_trainer(strategy="test_memory"), 1)
    torch.testing.assert_close(trainer.strategy.state["mean"].sum(1), torch.full((256,), 0.3))


def test_a_refit_sees_the_whole_set_between_epochs(make_trainer: Callable[..., Trainer]) -> None:
    trainer = run(make_trainer(strategy="test_refit(share=1)"), 1)
    torch.testing.assert_close(trainer.strategy.state["targets"], trainer.log_p().exp())
    assert trainer.features().shape == (256, 256)


def test_where_all_weights_are_zero_a_step_costs_nothing() -> None:
    from noisebench.strategies import Supervision
    from noisebench.training.step import weighted_cost

    cost = torch.tensor([[1.0, float("inf")], [2.0, 3.0]], requires_grad=True)
    nothing = weighted_cost(cost, Supervision(torch.tensor([1, 0]), torch.zeros(2)))
    nothing.backward()
    assert nothing.item() == 0 and cost.grad is not None and not cost.grad.any()


def test_weights_make_a_weighted_mean() -> None:
    from noisebench.strategies import Supervision
    from noisebench.training.step import weighted_cost

    cost = torch.tensor([[1.0, 9.0], [9.0, 3.0]])
    targets = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    assert weighted_cost(
        cost, Supervision(targets, torch.tensor([3.0, 1.0]))
    ).item() == pytest.approx((3 * 5 + 3) / 4)


def test_a_strategy_declares_what_it_costs() -> None:
    for entry in STRATEGIES:
        if not entry.name.startswith("test_"):
            cost = entry.facts["cost"]
            assert cost.forward >= cost.backward >= 1 and 0 <= cost.full_set < cost.forward, (
                entry.name
            )
    assert STRATEGIES["standard"].facts["cost"].share == 1
    assert STRATEGIES["coteaching"].facts["cost"].share == 2


def test_asking_a_network_leaves_no_trace(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer(model="timm:test_resnet")
    trainer.networks[0].train()
    before, images = weights(trainer), next(trainer.train.eval_batches(torch.arange(20)))
    said = trainer.predict_log_p(images)
    assert (
        trainer.networks[0].training and same(before, weights(trainer)) and not said.requires_grad
    )
    torch.testing.assert_close(said, trainer.log_p()[:20])
    others = make_trainer(model="timm:test_resnet", seed=1)
    torch.testing.assert_close(
        trainer.predict_log_p(images, weights=others.networks[0].state_dict()),
        others.predict_log_p(images),
    )
    assert same(before, weights(trainer))


def test_the_recorded_predictions_are_those_of_the_first_of_several_views(
    make_trainer: Callable[..., Trainer],
) -> None:
    stacked, plain = (
        make_trainer(strategy=f"test_stacking(copies={copies})", epochs=1).run_epoch()
        for copies in (3, 1)
    )
    assert (stacked.train_predicted >= 0).all()
    for name in ("train_predicted", "train_p", "train_gradient", "train_probs", "train_margin"):
        assert np.allclose(
            getattr(stacked, name), getattr(plain, name), atol=1e-4, equal_nan=True
        ), name


def test_the_declared_traits_agree_with_the_behaviour(
    make_trainer: Callable[..., Trainer], case: Case
) -> None:
    """Each strategy over a short run: the networks and views it is given, what it remembers, moves
    and restarts.
    """
    for text in TEXTS:
        with case(strategy=text):
            trainer = make_trainer(strategy=text, epochs=6, batch_size=64)
            strategy, restarts, rows = trainer.strategy, [], []
            restart, supervise = trainer.restart, strategy.supervise

            def count_restarts(restart=restart, restarts=restarts) -> None:
                restarts.append(restart())

            def spy(batch, outputs, supervise=supervise, rows=rows):
                rows.append((len(outputs), len(batch.views), len(outputs[0][0].logits)))
                return supervise(batch, outputs)

            trainer.restart = count_restarts  # type: ignore[method-assign]
            strategy.supervise = spy  # type: ignore[method-assign]
            groups = len(trainer.state.optimizer.groups) - trainer.state.num_network_groups
            run(trainer, 6)
            assert bool(restarts) == strategy.restarts
            assert {networks for networks, _, _ in rows} == {strategy.num_networks}
            assert trainer.state.plan.shifts.shape[0] == strategy.num_views
            assert set(strategy.per_example_parameters) <= set(strategy.state)
            assert not strategy.stateless or not strategy.state
            one_of_each = strategy.num_networks == strategy.num_views == 1
            as_many_rows = {n for _, _, n in rows} <= {64}
            assert strategy.packable == (
                one_of_each and not restarts and not groups and as_many_rows
            )
