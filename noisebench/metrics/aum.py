"""Area under the margin: a label quality from the logits of all epochs. Pleiss et al. 2020. Does
not load torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..errors import DataError

PERCENTILE = 99.0  # of the threshold examples


def margins(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,): the logit of the given label minus the largest other logit, of logits (n, K).

    log_p gives the same, since it is the logits minus a constant per example.
    """
    if logits.shape[1] < 2:
        raise DataError(f"a margin needs two classes or more, got logits {logits.shape}")
    rows = np.arange(len(labels))
    others = logits.astype(np.float64)
    given = others[rows, labels].copy()
    others[rows, labels] = -np.inf
    return given - others.max(1)


def mean_p_margins(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n,): the margin of p (n, K) that was averaged over epochs, on the scale of log p; low values
    are label issues. Another order of mean and margin than AUM.
    """
    return margins(np.log(np.maximum(p.astype(np.float64), np.finfo(np.float64).tiny)), labels)


@dataclass
class AreaUnderMargin:
    """The sum (N,) of each example's margins, and the number (N,) of epochs that had one."""

    total: np.ndarray = field(default_factory=partial(np.zeros, 0))
    seen: np.ndarray = field(default_factory=partial(np.zeros, 0, np.int64))

    def update(self, epoch_margins: np.ndarray) -> None:
        """Add the margins (N,) of an epoch, NaN for an example that was not seen."""
        if not len(self.seen):
            self.total = np.zeros(len(epoch_margins))
            self.seen = np.zeros(len(epoch_margins), np.int64)
        if len(epoch_margins) != len(self.seen):
            raise DataError(
                f"{len(epoch_margins)} margins for {len(self.seen)} examples: give one per "
                "example, NaN where it was not seen"
            )
        passed = ~np.isnan(epoch_margins)
        self.total += epoch_margins if passed.all() else np.where(passed, epoch_margins, 0)
        self.seen += passed

    @property
    def scores(self) -> np.ndarray:
        """(N,): the mean margin; NaN for an example that was never seen."""
        return np.divide(
            self.total, self.seen, out=np.full(len(self.seen), np.nan), where=self.seen > 0
        )

    def state_dict(self) -> dict[str, Any]:
        """Both arrays, for a checkpoint."""
        return {"total": self.total.copy(), "seen": self.seen.copy()}

    @classmethod
    def load(cls, state: dict[str, Any]) -> AreaUnderMargin:
        """From `state_dict`. Raises DataError if the arrays do not fit each other."""
        total = np.array(state["total"], np.float64)
        seen = np.array(state["seen"], np.int64)
        if total.ndim != 1 or total.shape != seen.shape:
            raise DataError(f"expected total and seen (N,), got {total.shape} and {seen.shape}")
        return cls(total, seen)


def threshold_examples(
    num_examples: int, num_classes: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint random sets of N // (K + 1) examples. Training gives those of one set an extra
    class, which is incorrect for each; a second run with the other set scores those of the first.

    As in the paper, the extra class has the size of the average class; the code takes N // K.
    """
    size = num_examples // (num_classes + 1)
    if not size:
        raise DataError(
            f"{num_examples} examples of {num_classes} classes are too few for threshold examples: "
            f"at least {num_classes + 1} are needed"
        )
    order = rng.permutation(num_examples)
    return np.sort(order[:size]), np.sort(order[size : 2 * size])


def find_issues(scores: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """Mask (N,) of the label issues: scores (N,) of at most the 99th percentile of the threshold
    examples, which are not listed themselves. threshold: their mask or indices.
    """
    is_threshold = np.zeros(len(scores), bool)
    is_threshold[threshold] = True
    of_threshold = scores[is_threshold]
    unseen = int(np.isnan(of_threshold).sum())
    if unseen or not len(of_threshold):
        raise DataError(
            f"of {len(of_threshold)} threshold examples {unseen} were never seen in training: a "
            "threshold needs the scores of all, and at least one"
        )
    listed: np.ndarray = (scores <= np.percentile(of_threshold, PERCENTILE)) & ~is_threshold
    return listed
