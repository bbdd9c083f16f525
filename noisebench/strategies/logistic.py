"""The classification layer at its optimum: logistic regression by L-BFGS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from ..core.parameters import Interval
from .base import ComputeCost, FullTrainingSet, Strategy, Tensor, TrainingInfo, register_strategy

_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # of C, as in the authors' code
_FOLDS = 5
_ITERATIONS = 200
_TOLERANCE = 1e-4  # of the largest component of the gradient of the mean cost


@register_strategy(
    name="logistic",
    paper="Zhu et al. 2024",
    cost=ComputeCost(1, 1, note="without the logistic regressions, which use L-BFGS"),
)
@dataclass
class Logistic(Strategy):
    """After the last epoch, the classification layer is replaced by logistic regression on its
    inputs, fitted to convergence by L-BFGS.

    With --model linear this is NI-ERM, which ignores the noise: the result depends on neither the
    epochs nor the seed. Minimizes sum CE + ||W||^2 / (2 C), without penalty on the bias, as
    scikit-learn's LogisticRegression. C, by default, is that of 1e-4, 1e-3 ... 100 with the best
    accuracy on the given labels in five-fold cross-validation, as in the authors' code.
    Differences: their features are not standardized; their number of iterations (10 to 100) is
    cross-validated too, here all are run to convergence.

    - C: inverse of the penalty; 0: chosen by cross-validation.
    """

    packable = True
    C: Annotated[float, Interval("[0, inf)")] = 0.0

    def on_epoch_end(self, epoch: int, whole: FullTrainingSet) -> None:
        if epoch < self.info.epochs:
            return
        import torch

        features = whole.features()
        head = _last_linear(whole.networks[0])
        fitted = fit(features, self.info, self.C or _cross_validated(features, self.info))
        with torch.no_grad():
            head.weight.copy_(fitted[:, :-1])
            head.bias.copy_(fitted[:, -1])


def _last_linear(network: Any) -> Any:
    from torch.nn import Linear

    return [layer for layer in network.modules() if isinstance(layer, Linear)][-1]


def _cross_validated(features: Tensor, info: TrainingInfo) -> float:
    """The C of the grid with the best accuracy on the given labels of the folds left out."""
    import torch

    n = len(features)
    fold_of = torch.from_numpy(np.random.default_rng(0).permutation(n) % _FOLDS)
    correct = dict.fromkeys(_GRID, 0)
    for fold in range(_FOLDS):
        held_out = (fold_of == fold).to(features.device)
        start = None
        for C in _GRID:  # each solution is the start of the next
            start = fit(features, info, C, ~held_out, start)
            logits = features[held_out] @ start[:, :-1].T + start[:, -1]
            correct[C] += int((logits.argmax(1) == info.labels[held_out]).sum())
    return max(_GRID, key=lambda C: (correct[C], -C))


def fit(
    features: Tensor,
    info: TrainingInfo,
    C: float,
    which: Tensor | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Weights and, in the last column, biases (K, D + 1) of the logistic regression on features
    (N, D) and the given labels, or on the examples of a mask (N,). start: initial values.
    """
    import torch
    from scipy.optimize import minimize

    rows, labels = features, info.labels
    if which is not None:
        rows, labels = rows[which], labels[which]
    n, shape = len(rows), (info.num_classes, rows.shape[1] + 1)

    def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(flat.reshape(shape)).to(rows)
        log_p = torch.addmm(weights[:, -1], rows, weights[:, :-1].T).log_softmax(1)
        residual = log_p.exp()
        residual[torch.arange(n, device=rows.device), labels] -= 1
        gradient = torch.cat([residual.T @ rows, residual.sum(0)[:, None]], 1).double() / n
        gradient[:, :-1] += weights[:, :-1] / (C * n)
        mean = -log_p.gather(1, labels[:, None]).double().mean()
        penalty = weights[:, :-1].double().square().sum() / (2 * C * n)
        return float(mean + penalty), gradient.cpu().numpy().ravel()

    zeros = np.zeros(shape) if start is None else start.double().cpu().numpy()
    options = {"maxiter": _ITERATIONS, "gtol": _TOLERANCE, "ftol": 1e-9}
    found = minimize(cost, zeros.ravel(), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(found.x.reshape(shape)).to(rows)
