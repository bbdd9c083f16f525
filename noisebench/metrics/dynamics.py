"""Training dynamics of correct and incorrect labels per epoch, for the figures of p_y and of the
gradient.

p_y is the probability of the given label predicted during training; the gradient is the L1 norm of
the gradient of an example's share of the batch loss with respect to its logits. Known true labels
are used here, never in training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..errors import DataError
from .scores import UNKNOWN

GROUPS = ("correct", "incorrect", "unknown")
BINS = 50  # equal bins of p_y in [0, 1]
EDGES = np.linspace(0, 1, BINS + 1)


def early_epochs(epochs: int) -> int:
    """The number of early epochs, half of all, before most incorrect labels are memorized."""
    return -(-epochs // 2)


@dataclass
class Dynamics:
    """Per epoch: the number of examples of each group in each bin of p_y, and the sum of their
    gradient norms, (3, BINS) each.

    p_sum (N, K), seen (N,): for each example the sum of p over the early epochs in which it was
    seen, and the number of these; K is 0 if there are too many classes.
    """

    counts: list[np.ndarray] = field(default_factory=list)
    gradients: list[np.ndarray] = field(default_factory=list)
    p_sum: np.ndarray = field(default_factory=partial(np.zeros, (0, 0), np.float32))
    seen: np.ndarray = field(default_factory=partial(np.zeros, 0, np.int64))

    def add(
        self, p: np.ndarray, gradient: np.ndarray, recorded: np.ndarray, clean: np.ndarray
    ) -> None:
        """Add an epoch of n examples, all (n,); p and gradient NaN for an example that was not
        seen, clean -1 if unknown.
        """
        passed = ~np.isnan(p)
        group = np.where(clean == UNKNOWN, 2, recorded != clean)[passed]
        cell = group * BINS + np.minimum((p[passed] * BINS).astype(np.int64), BINS - 1)
        self.counts.append(np.bincount(cell, minlength=3 * BINS).reshape(3, BINS))
        self.gradients.append(np.bincount(cell, gradient[passed], 3 * BINS).reshape(3, BINS))

    def add_early(self, p: np.ndarray) -> None:
        """Add p of every class at an early epoch, (n, K), NaN for an example that was not seen."""
        if not len(self.seen):
            self.p_sum, self.seen = np.zeros(p.shape, np.float32), np.zeros(len(p), np.int64)
        passed = ~np.isnan(p[:, :1])
        self.p_sum += p if passed.all() else np.where(passed, p, 0)
        self.seen += passed.any(1)

    @property
    def early_p(self) -> np.ndarray:
        """(N, K): mean p of every class over the early epochs, NaN for an example that was not
        seen.
        """
        seen = self.seen[:, None]
        return np.divide(
            self.p_sum, seen, out=np.full(self.p_sum.shape, np.nan, np.float32), where=seen > 0
        )

    def density(self, epoch: int) -> np.ndarray:
        """(3, BINS): the density of p_y at an epoch (from 1) in each group, integral 1; 0 for a
        group without examples.
        """
        counts = self._of(self.counts, epoch)
        return counts * BINS / np.maximum(counts.sum(1, keepdims=True), 1)

    def gradient_density(self, epoch: int) -> np.ndarray:
        """(BINS,): the density of p_y over all examples times their mean gradient norm at an epoch;
        the integral is the mean norm of all.
        """
        return (
            self._of(self.gradients, epoch).sum(0)
            * BINS
            / max(int(self._of(self.counts, epoch).sum()), 1)
        )

    def _of(self, epochs: list[np.ndarray], epoch: int) -> np.ndarray:
        if not 1 <= epoch <= len(epochs):
            raise DataError(f"epoch {epoch} does not exist; the run has {len(epochs)} epochs")
        return epochs[epoch - 1]

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays to store: counts (E, 3, BINS) and gradients (E, 3, BINS) of all epochs."""
        shape = (len(self.counts), len(GROUPS), BINS)
        counts, gradients = np.array(self.counts, np.int64), np.array(self.gradients, np.float32)
        return {"counts": counts.reshape(shape), "gradients": gradients.reshape(shape)}

    @classmethod
    def load(cls, arrays: dict[str, np.ndarray]) -> Dynamics:
        """From `arrays`, without sums of single examples, or from `state_dict`. Raises DataError
        for another shape.
        """
        shapes = {arrays[name].shape for name in ("counts", "gradients")}
        if len(shapes) != 1 or {shape[1:] for shape in shapes} != {(len(GROUPS), BINS)}:
            raise DataError(
                f"expected counts and gradients (epochs, {len(GROUPS)}, {BINS}), got "
                f"{' and '.join(map(str, shapes))}"
            )
        counts, gradients = arrays["counts"], arrays["gradients"]
        of_examples = {name: arrays[name] for name in ("p_sum", "seen") if name in arrays}
        return cls(list(counts.astype(np.int64)), list(gradients.astype(np.float64)), **of_examples)

    def state_dict(self) -> dict[str, Any]:
        """All arrays, for a checkpoint."""
        return {**self.arrays(), "p_sum": self.p_sum, "seen": self.seen}
