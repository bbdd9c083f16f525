"""Early-learning regularisation: its memory and its gradient by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch

from noisebench.experiments.methods import METHODS
from noisebench.strategies import ModelOutput
from noisebench.strategies.elr import early_term, remembered
from noisebench.training.trainer import Trainer
from tests.conftest import Case
from tests.contracts.test_strategy_cards import a_batch, said, started


def some_rows(n: int = 4, k: int = 3) -> torch.Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_after_n_sure_epochs_the_memory_is_all_but_beta_to_the_n_of_the_prediction() -> None:
    memory, p = torch.zeros(3, 3), torch.eye(3)
    for _ in range(4):
        remembered(memory, torch.arange(3), p, 0.7)
    # p is kept 1e-4 off 0 and 1
    torch.testing.assert_close(memory, (1 - 0.7**4) * p, rtol=0, atol=3e-4)
    torch.testing.assert_close(memory.sum(1), torch.full((3,), 1 - 0.7**4))


def test_the_memory_is_a_moving_average_of_the_asked_rows_alone() -> None:
    memory = torch.tensor([[0.5, 0.3], [0.1, 0.2], [0.0, 0.0]])
    t = remembered(
        memory,
        torch.tensor([2, 0]),
        torch.tensor([[0.9, 0.1], [0.2, 0.8]], requires_grad=True),
        0.9,
    )
    torch.testing.assert_close(t, torch.tensor([[0.09, 0.01], [0.47, 0.35]]))
    torch.testing.assert_close(memory, torch.tensor([[0.47, 0.35], [0.1, 0.2], [0.09, 0.01]]))
    assert not t.requires_grad and not memory.requires_grad


def test_the_term_has_the_gradient_of_its_formula() -> None:
    logits, t = some_rows().requires_grad_(), 0.8 * some_rows().flip(0).softmax(1)
    early_term(t, logits.softmax(1)).backward()
    p = logits.detach().softmax(1)
    agreed = (t * p).sum(1, keepdim=True)
    torch.testing.assert_close(logits.grad, -p * (t - agreed) / (1 - agreed) / len(p))


def test_the_penalty_looks_at_a_memory_that_knows_the_step() -> None:
    strategy = started("elr(lam=3, beta=0.7)", [0, 1])
    p = torch.tensor([[0.6, 0.4], [0.9, 0.1]])
    expected = 3 * (1 - 0.3 * (p * p).sum(1)).log().mean()
    torch.testing.assert_close(
        strategy.regularizer(a_batch([0, 1]), [[said(p.tolist())]]), expected
    )


def test_the_penalty_is_finite_however_sure_the_network_is(case: Case) -> None:
    for far in [0.0, 1e2, 1e4]:
        with case(far=far):
            strategy, k = started("elr(lam=7, beta=0)", [0], num_classes=1000), torch.arange(1000.0)
            logits = (far * (k == 3).float())[None].requires_grad_()
            log_p = logits.log_softmax(1)
            term = strategy.regularizer(a_batch([0]), [[ModelOutput(logits, log_p, -log_p)]])
            term.backward()  # type: ignore[union-attr]
            assert term.isfinite() and logits.grad.isfinite().all()  # type: ignore[union-attr]


def test_elr_learns_less_of_the_wrong_labels_than_plain_training(
    make_trainer: Callable[..., Trainer],
) -> None:
    def fit(strategy: str) -> float:
        trainer = make_trainer(strategy=strategy, lr=0.1, epochs=15)
        for _ in range(15):
            trainer.run_epoch()
        return (
            (trainer.predict(trainer.train).argmax(1) == trainer.state.labels)[::3]
            .float()
            .mean()
            .item()
        )

    assert fit("elr") < 0.5 < 0.7 < fit("standard")


def test_the_presets_are_the_authors() -> None:
    elr = METHODS["elr"]
    assert elr.preset("cifar10", "symmetric", 0.4).strategy == "elr"
    assert elr.preset("cifar10", "asymmetric", 0.4).strategy == "elr(lam=1, beta=0.9)"
    assert elr.preset("cifar100", "asymmetric", 0.4).strategy == "elr(lam=7, beta=0.9)"
