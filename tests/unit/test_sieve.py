"""Peer loss and CORES^2: their schedules, what they subtract from the cost, and what the sieve
leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from noisebench.strategies import ModelOutput
from noisebench.strategies.peer import bounded_cost, interpolated
from noisebench.training.step import weighted_cost
from noisebench.training.trainer import Trainer
from tests.conftest import Case, same, weights
from tests.contracts.test_strategy_cards import a_batch, said, started

P = [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.3, 0.4, 0.3], [0.5, 0.25, 0.25]]
LABELS = [0, 0, 1, 2]
WHOLE = SimpleNamespace()


def test_a_schedule_is_linear_between_its_knots_and_jumps_where_two_meet() -> None:
    knots = ((0.2, 0), (0.4, 1), (0.4, 3), (1, 6))
    assert [interpolated(knots, share) for share in (0, 0.2, 0.3, 0.4, 0.7, 1)] == pytest.approx(
        [0, 0, 0.5, 3, 4.5, 6]
    )


def test_the_weight_of_the_peer_term_is_that_of_the_authors_epochs(case: Case) -> None:
    for kind, epochs, alphas in [
        ("uniform", 300, {1: 0, 21: 0, 31: 0.5, 41: 1, 91: 2, 141: 2.5, 241: 3.3}),
        ("sparse", 300, {20: 0, 41: 1, 91: 2, 141: 5, 241: 10}),
        ("late_uniform", 250, {1: 0, 100: 0, 101: 0.95, 250: 0.95}),
        ("late_sparse", 250, {110: 0, 111: 0, 131: 2, 201: 10}),
    ]:
        with case(kind=kind, epochs=epochs, alphas=alphas):
            strategy = started(f"peer(kind='{kind}')", LABELS, 3, epochs=epochs)
            assert {epoch: strategy.alpha(epoch) for epoch in alphas} == pytest.approx(alphas)  # type: ignore[attr-defined]
            half = started(f"peer(kind='{kind}', weight=0.5)", LABELS, 3, epochs=epochs)
            assert half.alpha(epochs) == strategy.alpha(epochs) / 2  # type: ignore[attr-defined]


def objective(
    text: str, epoch: int, output: ModelOutput, recorded: list[int] = LABELS, epochs: int = 100
) -> float:
    strategy = started(text, recorded, 3, epochs=epochs)
    batch = a_batch(LABELS, epoch)
    cost = weighted_cost(output.cost, strategy.supervise(batch, [[output]])[0])[0]
    penalty = strategy.regularizer(batch, [[output]])
    return float(cost if penalty is None else cost + penalty)


def test_where_all_labels_are_one_class_the_peer_term_is_its_mean_cost() -> None:
    output = said(P)
    own = output.cost[torch.arange(4), torch.tensor(LABELS)].mean()
    alpha = 0.95
    expected = (own - alpha * output.cost[:, 1].mean()) / (1 + alpha)
    assert objective("peer(kind='late_uniform')", 41, output, recorded=[1] * 10) == pytest.approx(
        float(expected)
    )
    assert objective("peer(kind='late_uniform')", 40, output) == pytest.approx(float(own))


def test_the_mean_peer_term_is_the_expected_cost_of_a_recorded_label() -> None:
    recorded = [0] * 5 + [1] * 3 + [2] * 2
    strategy, output, batch = (
        started("peer(kind='late_uniform')", recorded, 3),
        said(P),
        a_batch(LABELS, 10),
    )
    terms = [float(strategy.regularizer(batch, [[output]])) for _ in range(4000)]
    expected = -0.95 / 1.95 * (output.cost @ torch.tensor([0.5, 0.3, 0.2])).mean()
    assert np.mean(terms) == pytest.approx(
        float(expected), abs=4 * np.std(terms) / np.sqrt(len(terms))
    )


def test_a_class_that_is_out_of_the_question_is_not_pushed_further() -> None:
    logits = torch.tensor([[0.0, -8.0, -30.0]], requires_grad=True)
    log_p = logits.log_softmax(1)
    cost = bounded_cost(ModelOutput(logits, log_p, -log_p), 1e-5)
    torch.testing.assert_close(cost, -log_p)
    assert torch.autograd.grad(cost[0, 1], logits, retain_graph=True)[0].abs().max() > 0.9
    assert not torch.autograd.grad(cost.sum() - cost[0, :2].sum(), logits)[0].any()


def test_at_logits_without_doubt_the_gradient_is_finite(case: Case) -> None:
    for text in ["peer(kind='sparse')", "cores2"]:
        with case(text=text):
            logits = (torch.eye(3)[[0, 1, 2, 0]] * 200 - 100).requires_grad_()
            log_p = logits.log_softmax(1)
            output, strategy, batch = (
                ModelOutput(logits, log_p, -log_p),
                started(text, LABELS, 3),
                a_batch(LABELS, 10),
            )
            cost = weighted_cost(output.cost, strategy.supervise(batch, [[output]])[0])[
                0
            ] + strategy.regularizer(batch, [[output]])
            cost.backward()
            assert cost.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_beta_waits_for_the_warm_up_and_grows_as_in_the_paper() -> None:
    strategy = started("cores2", LABELS, 3, epochs=100)
    betas = [strategy.beta_in(epoch) for epoch in (1, 10, 11, 26, 41, 100)]  # type: ignore[attr-defined]
    assert betas == pytest.approx([0, 0, 0, 1, 2, 2])


def test_before_the_sieve_cores2_is_the_cost_less_that_of_any_label() -> None:
    output, prior = said(P), torch.tensor([0.5, 0.25, 0.25])
    own = output.cost[torch.arange(4), torch.tensor(LABELS)]
    assert objective("cores2", 10, output) == pytest.approx(float(own.mean()))
    expected = (own - 1 * (output.cost * prior).sum(1)).mean() / (1 + 1)
    assert objective("cores2", 26, output) == pytest.approx(float(expected))


def test_the_sieve_leaves_out_labels_that_cost_more_than_the_mean_class() -> None:
    output, prior = said(P), torch.tensor([0.5, 0.25, 0.25])
    own = output.cost[torch.arange(4), torch.tensor(LABELS)]
    kept = own <= output.cost.mean(1)
    assert kept.tolist() == [True, False, True, False]
    assert objective("cores2", 100, output) == pytest.approx(
        float((own - 2 * output.cost @ prior)[kept].mean() / 3)
    )
    assert objective("cores2(wait=1)", 100, output) == pytest.approx(
        float((own - 2 * output.cost @ prior).mean() / 3)
    )


def test_the_prior_is_that_of_the_labels_not_sieved_out_in_the_epoch_before() -> None:
    strategy = started("cores2(wait=0)", LABELS, 3)
    torch.testing.assert_close(strategy.state["prior"], torch.tensor([0.5, 0.25, 0.25]))
    strategy.supervise(a_batch(LABELS, 1), [[said(P)]])  # which leaves out a 0 and the 2
    strategy.on_epoch_end(1, WHOLE)  # type: ignore[arg-type]
    torch.testing.assert_close(strategy.state["prior"], torch.tensor([0.5, 0.5, 0.0]))
    strategy.on_epoch_end(2, WHOLE)  # type: ignore[arg-type]
    torch.testing.assert_close(strategy.state["prior"], torch.tensor([0.5, 0.25, 0.25]))


def test_where_the_sieve_holds_nobody_a_step_costs_nothing() -> None:
    output = said([[0.1, 0.6, 0.3], [0.1, 0.3, 0.6], [0.6, 0.1, 0.3], [0.3, 0.6, 0.1]])
    assert objective("cores2", 100, output) == 0


def test_peer_loss_remembers_fewer_wrong_labels(make_trainer: Callable[..., Trainer]) -> None:
    def fitted(strategy: str) -> float:
        trainer = make_trainer(strategy=strategy, lr=0.1, epochs=30)
        for _ in range(30):
            trainer.run_epoch()
        # the wrong third
        return float((trainer.log_p().argmax(1) == trainer.state.labels)[::3].float().mean())

    assert fitted("peer(kind='sparse')") < 0.5 * fitted("standard")


def test_a_sieve_resumes_with_its_prior_and_what_it_has_left_out_so_far(
    make_trainer: Callable[..., Trainer],
) -> None:
    straight, saved = make_trainer(strategy="cores2(warmup=0, ramp=0.2, wait=0.2)", epochs=5), {}

    def save_at_step_three() -> None:
        if (straight.state.epoch, straight.state.step) == (3, 3):
            saved.update(deepcopy(straight.state_dict()))

    for _ in range(5):
        straight.run_epoch(save_at_step_three)
    assert saved["strategy"]["left_out"].any()
    resumed = make_trainer(strategy="cores2(warmup=0, ramp=0.2, wait=0.2)", epochs=5)
    resumed.load_state_dict(saved)
    resumed.run_epoch()
    resumed.run_epoch()
    assert same(weights(resumed), weights(straight))


def test_cores_pushes_what_is_unlikely_and_not_what_is_impossible(case: Case) -> None:
    for logit, pushed in [(-15.0, True), (-25.0, False)]:
        with case(logit=logit, pushed=pushed):
            logits = torch.tensor([[0.0, logit, -1.0]], requires_grad=True)
            log_p = logits.log_softmax(1)
            strategy = started("cores2(warmup=0, ramp=0, wait=1)", [0, 1, 2], 3)
            strategy.regularizer(
                a_batch([0], 10), [[ModelOutput(logits, log_p, -log_p)]]
            ).backward()  # type: ignore[union-attr]
            assert logits.grad is not None and (logits.grad[0, 1].abs() > 0.1) == pushed


def test_all_pass_the_sieve_for_its_share_of_the_run_and_at_least_an_epoch(case: Case) -> None:
    def sieved(epochs: int, epoch: int) -> bool:
        strategy, output = started("cores2", [0], 2, epochs=epochs), said([[0.1, 0.9]])
        return not strategy.supervise(a_batch([0], epoch), [[output]])[0].sample_weights.any()  # type: ignore[union-attr]

    for epochs, kept in ((100, 30), (10, 3), (2, 1), (1, 1)):
        with case(epochs=epochs, kept=kept):
            assert not sieved(epochs, kept) and sieved(epochs, kept + 1)
