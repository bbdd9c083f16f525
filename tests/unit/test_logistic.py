"""The classification layer at its optimum: logistic regression as scikit-learn's."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from noisebench.experiments.recipes import Recipe
from noisebench.losses import build_loss
from noisebench.strategies import TrainingInfo, build_strategy
from noisebench.strategies.logistic import _GRID, _cross_validated, fit
from noisebench.training.trainer import Task, Trainer
from tests.conftest import CPU
from tests.unit.test_features import wine


def standardized() -> tuple[torch.Tensor, np.ndarray, TrainingInfo]:
    x, y = wine()
    rng = np.random.default_rng(1)
    noisy = np.where(rng.random(len(y)) < 0.3, rng.integers(0, 3, len(y)), y)
    rows = torch.from_numpy((x - x.mean(0)) / x.std(0))
    return rows, noisy, TrainingInfo(torch.from_numpy(noisy), 3, 2, torch.Generator())


def test_it_is_scikit_learns_logistic_regression() -> None:
    rows, labels, info = standardized()
    for C in (1e-3, 0.1, 1.0):
        found = fit(rows, info, C).numpy()
        reference = LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit(rows.numpy(), labels)
        assert np.allclose(found[:, :-1], reference.coef_, atol=3e-3)
        # equal up to a constant, which the softmax does not see
        bias = found[:, -1] - found[:, -1].mean()
        assert np.allclose(bias, reference.intercept_ - reference.intercept_.mean(), atol=3e-3)


def test_c_is_that_of_the_best_folds() -> None:
    rows, labels, info = standardized()
    permuted = np.random.default_rng(0).permutation(len(labels)) % 5
    correct = []
    for C in _GRID:
        hits = 0
        for fold in range(5):
            train, held_out = permuted != fold, permuted == fold
            model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000)
            model.fit(rows[train].numpy(), labels[train])
            hits += (model.predict(rows[held_out].numpy()) == labels[held_out]).sum()
        correct.append(hits)
    found = _cross_validated(rows, info)
    assert correct[_GRID.index(found)] >= max(correct) - 1


def test_the_trained_network_is_the_optimum_whatever_the_seed() -> None:
    x, y = wine()
    log_ps = []
    for seed in (0, 1):
        task = Task(
            x[:120],
            y[:120],
            x[120:],
            3,
            "linear",
            build_loss("ce"),
            build_strategy("logistic(C=0.1)"),
            Recipe(2, batch_size=32, lr=0.05),
            seed,
        )
        trainer = Trainer(task, CPU)
        log_ps.append([trainer.run_epoch() for _ in range(2)][-1].test_log_p)
    assert np.allclose(*log_ps, atol=2e-2)
    rows = (x - x[:120].mean(0)) / x[:120].std(0)
    reference = LogisticRegression(C=0.1, tol=1e-8, max_iter=10_000).fit(rows[:120], y[:120])
    assert np.allclose(np.exp(log_ps[0]), reference.predict_proba(rows[120:]), atol=1e-2)
