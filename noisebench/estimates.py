"""What out-of-sample predictions tell of the noise, when nobody knows it: its rate and its transition matrix. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VERSION = 1  # of the way from a run to its estimates
_PERCENTILE = 97.0
_MANY_CLASSES = 100  # from here a percentile of so few examples a class says nothing: the largest


@dataclass(frozen=True)
class Estimates:
    """The share of wrong labels in [0, 1), and P(recorded | clean) (K, K)."""

    rate: float
    transition: np.ndarray

    @classmethod
    def of(cls, log_p: np.ndarray, recorded: np.ndarray) -> Estimates:
        """From log_p (N, K) of networks that were not trained on these examples, and recorded labels (N,)."""
        return cls(noise_rate(log_p, recorded), anchored_transition(log_p))


def confident_joint(log_p: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """The joint distribution (K, K) of recorded (rows) and true class. Northcutt et al. 2021, confident learning.

    An example counts as of class j where p_j is at least the mean p_j of the examples that are recorded as j; of several such
    classes the likeliest. Rows are scaled to the counts of the recorded labels; one without a count has its examples right.
    """
    n, num_classes = log_p.shape
    p, counts = np.exp(log_p.astype(np.float64)), np.bincount(recorded, minlength=log_p.shape[1])
    thresholds = np.array([p[recorded == j, j].mean() if counts[j] else np.inf for j in range(num_classes)])
    confident = np.where(p >= thresholds, p, -1)
    sure = confident.max(1) > 0
    joint = np.zeros((num_classes, num_classes))
    np.add.at(joint, (recorded[sure], confident[sure].argmax(1)), 1)
    empty = joint.sum(1) == 0
    joint[empty, empty] = 1
    return joint / joint.sum(1, keepdims=True) * counts[:, None] / n


def noise_rate(log_p: np.ndarray, recorded: np.ndarray) -> float:
    """The share of wrong labels by the confident joint."""
    return float(1 - np.trace(confident_joint(log_p, recorded)))


def anchored_transition(log_p: np.ndarray) -> np.ndarray:
    """T (K, K): each row is what the network says of the class's anchor, an example that is hardly in doubt. Patrini et al. 2017.

    The anchor is at the 97th percentile of p_k, the next above it, which an outlier does not decide; from 100 classes on the largest.
    """
    p = np.exp(log_p.astype(np.float64))
    num_classes = p.shape[1]
    share = _PERCENTILE if num_classes < _MANY_CLASSES else 100.0
    anchors = [int((p[:, k] == np.percentile(p[:, k], share, method="higher")).argmax()) for k in range(num_classes)]
    rows: np.ndarray = p[anchors]
    return rows / rows.sum(1, keepdims=True)
