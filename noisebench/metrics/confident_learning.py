"""Estimates of the noise rate and transition matrix from out-of-fold predictions. Does not load
torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VERSION = 2  # of everything that affects the estimates
_CONFIDENT = 100  # examples per class: few enough to be easy, enough for a narrow interval
_Z = 1.959964  # for a 95 % interval
_MOST_FITTED = 10_000  # examples: more take long, and much memory with many classes
_LEAST_LOG_P, _TINY = -30.0, 1e-300
_STEPS, _STEPS_OF_CALIBRATION = 1000, 200  # of EM
_PERCENTILE = 97.0
_MANY_CLASSES = 100  # from here on the maximum: too few examples per class for a percentile


@dataclass(frozen=True)
class Estimates:
    """The noise rate in [0, 1), T (K, K) = P(given | true class), an interval and an accuracy.

    Rate and T are the mean of two estimates that out-of-fold predictions cannot distinguish:
    `confident_transition` assumes that confident predictions are correct, `calibrated_transition`
    attributes as much uncertainty as possible to the classifier. interval: 95 %, from the lower end
    of the lower rate to the upper end of the higher one; accuracy: the share of the given labels
    that are predicted, None without out-of-fold networks.
    """

    rate: float
    transition: np.ndarray
    interval: tuple[float, float] = (0.0, 1.0)
    accuracy: float | None = None

    @classmethod
    def of(cls, log_p: np.ndarray, labels: np.ndarray) -> Estimates:
        """From log_p (N, K) of networks that were not trained on these examples, and the given
        labels (N,)."""
        given = np.bincount(labels, minlength=log_p.shape[1]) / len(labels)
        confident, counts = confident_transition(log_p, labels)
        calibrated = calibrated_transition(log_p, labels)
        shares, rates = class_shares(confident, given), []
        for transition in (confident, calibrated):
            correct = class_shares(transition, given) @ transition.diagonal()
            rates.append(float(np.clip(1 - correct, 0, np.nextafter(1, 0))))
        low, high = (_interval(rate, shares, counts) for rate in sorted(rates))
        accuracy = float((log_p.argmax(1) == labels).mean())
        return cls(sum(rates) / 2, (confident + calibrated) / 2, (low[0], high[1]), accuracy)


def confident_transition(log_p: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """T (K, K), P(given | true class), and the number of examples (K,) behind each row.

    Row k is the distribution of the given labels of the 100 examples predicted as k with the
    highest confidence. Their true class is assumed to be k; predictions of lower confidence are
    more often errors of the classifier. At most half of the examples both predicted and given as k
    are counted. Without any, the row is that of the identity and its number 0.
    """
    num_classes = log_p.shape[1]
    predicted, confidence = log_p.argmax(1), log_p.max(1)
    transition, counts = np.eye(num_classes), np.zeros(num_classes)
    for k in range(num_classes):
        of_class = np.flatnonzero(predicted == k)
        of_class = of_class[np.argsort(-confidence[of_class], kind="stable")]
        agreed = np.flatnonzero(labels[of_class] == k)
        if len(agreed):
            given = labels[of_class[: min(agreed[len(agreed) // 2] + 1, _CONFIDENT)]]
            counts[k] = len(given)
            transition[k] = np.bincount(given, minlength=num_classes) / len(given)
    return transition, counts


def calibrated_transition(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """T (K, K), P(given | true class), by maximum likelihood, together with a calibration of the
    predictions.

    P(true class k) = softmax(t log_p + b)_k and P(given j | true class k) = T_kj; t, b (K,) and T
    have the highest likelihood of the given labels. EM for T (Dempster et al. 1977), with a Newton
    step for t and for b (Guo et al. 2017 calibrate so, without noise). Of more than 10,000 examples
    a random subset is used.
    """
    if len(labels) > _MOST_FITTED:
        part = np.random.default_rng(0).choice(len(labels), _MOST_FITTED, replace=False)
        log_p, labels = log_p[part], labels[part]
    num_classes = log_p.shape[1]
    log_p = np.maximum(log_p.astype(np.float64), _LEAST_LOG_P)
    one_hot, t, b = np.eye(num_classes)[labels], 1.0, np.zeros(num_classes)
    transition = 0.8 * np.eye(num_classes) + 0.2 / num_classes
    for _ in range(_STEPS_OF_CALIBRATION):
        logits = t * log_p + b
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        posterior = p * transition[:, labels].T
        posterior /= np.maximum(posterior.sum(1, keepdims=True), _TINY)
        transition = posterior.T @ one_hot + _TINY * np.eye(num_classes)
        transition /= transition.sum(1, keepdims=True)
        mean, residual = (p * log_p).sum(1), posterior - p
        curvature = (p * log_p**2).sum() - (mean**2).sum()
        t = float(np.clip(t + (residual * log_p).sum() / max(curvature, _TINY), 0.05, 20))
        b += 0.7 * residual.sum(0) / ((p * (1 - p)).sum(0) + 1e-6)
        b -= b.mean()
    return transition


def class_shares(transition: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The shares (K,) of the true classes for which T (K, K) gives the shares of given labels (K,).

    Maximum likelihood by EM, so that no share is negative.
    """
    shares = given.astype(np.float64)
    for _ in range(_STEPS):
        expected = shares @ transition
        ratio = np.divide(given, expected, out=np.zeros_like(expected), where=expected > 0)
        shares = shares * (transition @ ratio)
    return shares / shares.sum()


def wilson_interval(share: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a share of n examples, never a single point. Wilson 1927."""
    centre = share + _Z**2 / (2 * n)
    half = _Z * np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    low, high = (centre - half) / (1 + _Z**2 / n), (centre + half) / (1 + _Z**2 / n)
    return (float(low) if share > 0 else 0.0), (float(high) if share < 1 else 1.0)


def _interval(rate: float, shares: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The rate's 95 % interval, from the shares (K,) of the true classes and the examples per row
    (K,).

    The rate is a mean over classes; n is the number of examples for which a share has the same
    variance. Classes without counted examples may have any rate.
    """
    counted = counts > 0
    known = shares[counted].sum()
    if not known > 0:
        return 0.0, 1.0
    n = known**2 / (shares[counted] ** 2 / counts[counted]).sum()
    low, high = wilson_interval(min(rate / known, 1.0), n)
    return float(known * low), float(min(known * high + 1 - known, 1))


def anchored_transition(log_p: np.ndarray) -> np.ndarray:
    """T (K, K): each row is the prediction for the anchor of the class, an example with high p_k.
    Patrini et al. 2017.

    The anchor is the example at the 97th percentile of p_k, which is robust to outliers; from 100
    classes on the one with the largest p_k.
    """
    p = np.exp(log_p.astype(np.float64))
    num_classes = p.shape[1]
    share = _PERCENTILE if num_classes < _MANY_CLASSES else 100.0
    anchors = [
        int((p[:, k] == np.percentile(p[:, k], share, method="higher")).argmax())
        for k in range(num_classes)
    ]
    rows: np.ndarray = p[anchors]
    return rows / rows.sum(1, keepdims=True)
