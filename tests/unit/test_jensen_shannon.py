"""The generalised Jensen-Shannon loss of a label and two views, against its definition by entropies
in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from noisebench.experiments.methods import METHODS
from noisebench.losses import Scores, build_loss
from noisebench.strategies import Batch, ModelOutput, build_strategy
from noisebench.training.step import weighted_cost
from noisebench.training.trainer import Trainer
from tests.conftest import Case

B, K = 5, 4


def two_views(spread: float = 1.0) -> torch.Tensor:
    """Logits (2B, K), view after view."""
    return spread * torch.randn(2 * B, K, generator=torch.Generator().manual_seed(0))


def stacked_batch() -> Batch:
    labels = torch.tensor([0, 1, 2, 3, 1])
    views = torch.zeros(B, 1, 2, 2), torch.ones(B, 1, 2, 2)
    return Batch(views, labels, torch.arange(B), labels, 1, torch.Generator()).stacked()


def objective(logits: torch.Tensor, loss: str, pi: float) -> torch.Tensor:
    """What the training loop makes of a loss and the strategy."""
    strategy, batch = build_strategy(f"gjs(pi={pi})"), stacked_batch()
    scores = Scores(logits, transform=lambda log_p: strategy.transform_log_p(log_p, batch, 0))
    outputs = [[ModelOutput(logits, scores.log_p, build_loss(loss)(scores))]]
    [belief] = strategy.supervise(batch, outputs)
    return weighted_cost(outputs[0][0].cost, belief)[0] + strategy.regularizer(batch, outputs)


def entropy(p: torch.Tensor) -> torch.Tensor:
    return -torch.special.xlogy(p, p).sum(1)


def by_definition(logits: torch.Tensor, pi: float) -> torch.Tensor:
    """H(sum of w_i p_i) - sum of w_i H(p_i), w = (pi, (1 - pi) / 2, (1 - pi) / 2), over -(1 - pi)
    log(1 - pi).
    """
    parts = [
        torch.eye(K, dtype=torch.float64)[stacked_batch().labels[:B]],
        *logits.softmax(1).chunk(2),
    ]
    shares = [pi, (1 - pi) / 2, (1 - pi) / 2]
    mixed = sum(w * p for w, p in zip(shares, parts, strict=True))
    divergence = entropy(mixed) - sum(w * entropy(p) for w, p in zip(shares, parts, strict=True))  # type: ignore[arg-type]
    return divergence.mean() / (-(1 - pi) * math.log(1 - pi))


def test_js_and_gjs_are_the_divergence_of_three_distributions(case: Case) -> None:
    for pi in [0.1, 0.3, 0.5, 0.9]:
        with case(pi=pi):
            logits = two_views(2).requires_grad_()
            found = objective(logits, f"js(pi={pi})", pi)
            again = logits.detach().double().requires_grad_()
            expected = by_definition(again, pi)
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
            found.backward(), expected.backward()
            torch.testing.assert_close(logits.grad.double(), again.grad, rtol=1e-4, atol=1e-6)


def test_under_another_loss_it_is_paid_on_the_mean_prediction() -> None:
    logits = two_views()
    first, second = logits.softmax(1).chunk(2)
    mean = (first + second) / 2
    cost = -mean.gather(1, stacked_batch().labels[:B, None]).log().mean()
    expected = cost + (entropy(mean) - entropy(first) / 2 - entropy(second) / 2).mean() / math.log(
        2
    )
    torch.testing.assert_close(objective(logits, "ce", 0.5), expected)


def test_views_that_are_said_the_same_have_the_loss_of_one() -> None:
    logits = two_views()[:B].repeat(2, 1)
    log_p, labels = logits[:B].log_softmax(1), stacked_batch().labels[:B]
    torch.testing.assert_close(
        objective(logits, "ce", 0.3), -log_p.gather(1, labels[:, None]).mean()
    )


def test_far_logits_have_a_finite_gradient() -> None:
    logits = two_views(1e4).requires_grad_()
    total = objective(logits, "ce", 0.5)
    total.backward()
    assert total.isfinite() and logits.grad.isfinite().all()


def test_stacked_views_stand_one_after_the_other() -> None:
    batch = stacked_batch()
    [images] = batch.views
    assert images.shape == (2 * B, 1, 2, 2) and not images[:B].any() and images[B:].all()
    for rows in (batch.labels, batch.index, batch.targets):
        assert len(rows) == 2 * B and torch.equal(rows[:B], rows[B:])


def test_it_trains_on_views_that_differ(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer("js(pi=0.5)", "gjs", lr=0.1, epochs=15, crop=1, batch_size=64)
    ends = [trainer.run_epoch() for _ in range(15)]
    assert ends[-1].loss < ends[0].loss and (ends[-1].train_predicted >= 0).all()


def test_the_presets_are_the_authors(case: Case) -> None:
    for dataset, noise, rate, pi in [
        ("cifar10", "symmetric", 0.4, 0.9),
        ("cifar10", "asymmetric", 0.2, 0.3),
        ("cifar100", "asymmetric", 0.2, 0.5),
        ("cifar100", "asymmetric", 0.4, 0.1),
        ("cifar100", "symmetric", 0.6, 0.9),
    ]:
        with case(dataset=dataset, noise=noise, rate=rate, pi=pi):
            preset = METHODS["gjs"].preset(dataset, noise, rate)
            assert (preset.loss, preset.strategy, preset.tuned) == (
                f"js(pi={pi})",
                f"gjs(pi={pi})",
                True,
            )
