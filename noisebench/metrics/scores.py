"""Metrics from predictions and labels. The only module that compares a network's output with true
labels.

Shapes: predicted and labels (N,), log_p (N, K); every share is in [0, 1]; a share of no examples is
None. A true label of -1 is unknown; -2 is an image of none of the classes, whose given label is
always incorrect.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.classes import check_table
from .predictions import Predictions

ECE_BINS = 15
FIRST = (100, 1000)  # numbers of examples that one may have time to review
UNKNOWN = -1


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float | None:
    """The share of labels that are predicted."""
    return float(np.mean(predicted == labels)) if len(labels) else None


def memorised(predicted: np.ndarray, recorded: np.ndarray, clean: np.ndarray) -> float | None:
    """The share of incorrect given labels that are predicted; None if none is known."""
    wrong = (recorded != clean) & (clean != UNKNOWN)
    return accuracy(predicted[wrong], recorded[wrong])


def ece(log_p: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error over 15 equal bins, open below and closed above: log_p (N,) of the
    predicted class, right (N,). Guo et al. 2017.
    """
    _, sure, hits = calibration(np.exp(log_p.astype(np.float64)), right)
    return float(np.abs(hits - sure).sum() / len(right))


def calibration(
    confidence: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In 15 equal bins of confidence (N,): the number of predictions, the sum of their confidence,
    the number of correct ones (15,).
    """
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    counts, sure, hits = (
        np.bincount(bins, weights, ECE_BINS) for weights in (None, confidence, right)
    )
    return counts, sure, hits


def brier(squared: np.ndarray, log_p: np.ndarray) -> float:
    """Mean over examples of the sum over classes of (p - one-hot)^2, in [0, 2]: sum of p^2 (N,),
    log_p (N,) of the label. Brier 1950.
    """
    return float((squared - 2 * np.exp(log_p.astype(np.float64)) + 1).mean())


def confusion(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts (K, K), rows: label, columns: prediction. Raises DataError if that is too large."""
    check_table(num_classes)
    return np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(
        num_classes, num_classes
    )


def per_class(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> list[float | None]:
    """Accuracy of each class; None for a class without examples."""
    counts, hits = (
        np.bincount(which, minlength=num_classes) for which in (labels, labels[predicted == labels])
    )
    return [float(hit / count) if count else None for hit, count in zip(hits, counts, strict=True)]


def auroc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve, ties counted half; None if one side is empty."""
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        return None
    _, distinct, counts = np.unique(score, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2  # of each distinct score, from 1
    ranks = mean_rank[distinct][positive].sum()
    return float((ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def average_precision(score: np.ndarray, positive: np.ndarray) -> float | None:
    """Mean precision at each true positive, highest score first, ties as one step; None without a
    positive.
    """
    hits, seen = _cumulated(score, positive)
    if not hits.size or not hits[-1]:
        return None
    return float((np.diff(hits, prepend=0) * hits / seen).sum() / hits[-1])


def best_f1(score: np.ndarray, positive: np.ndarray) -> float | None:
    """F1 at the best threshold; None without a positive."""
    hits, seen = _cumulated(score, positive)
    if not hits.size or not hits[-1]:
        return None
    return float((2 * hits / (seen + hits[-1])).max())


def precision_at(n: int, score: np.ndarray, positive: np.ndarray) -> float | None:
    """The share of positives among the n highest scores, ties in order; None with fewer than n
    examples or without a positive.
    """
    if not 0 < n <= len(score) or not positive.any():
        return None
    return float(positive[np.argsort(-score, kind="stable")[:n]].mean())


def detection(score: np.ndarray, positive: np.ndarray) -> dict[str, Any]:
    """How well a score (N,) detects the positives (N,). precision_at "wrong": at n = number of
    positives; chance: their share, the precision of a random order.
    """
    counts = {str(n): n for n in FIRST} | {"wrong": int(positive.sum())}
    return {
        "auroc": auroc(score, positive),
        "average_precision": average_precision(score, positive),
        "f1": best_f1(score, positive),
        "precision_at": {name: precision_at(n, score, positive) for name, n in counts.items()},
        "chance": float(positive.mean()) if positive.any() else None,
    }


def _cumulated(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positives and examples at or above each distinct score, highest first."""
    order = np.argsort(-score, kind="stable")
    last_of_score = np.append(np.diff(score[order]) != 0, True)[: len(score)]
    return positive[order].cumsum()[last_of_score], np.arange(1, len(score) + 1)[last_of_score]


def of_test(predictions: Predictions, labels: np.ndarray, num_classes: int) -> dict[str, Any]:
    """The metrics of a test set with labels (M,)."""
    right = predictions.classes == labels[:, None]
    return {
        "n": len(labels),
        "top1": float(right[:, 0].mean()),
        "top5": float(right.any(1).mean()) if num_classes > right.shape[1] else None,
        "p_true": float(np.exp(predictions.clean_log_p.astype(np.float64)).mean()),
        "nll": float(-predictions.clean_log_p.mean(dtype=np.float64)),
        "brier": None
        if predictions.squared is None
        else brier(predictions.squared, predictions.clean_log_p),
        "ece": ece(predictions.log_p[:, 0], right[:, 0]),
        "per_class": per_class(predictions.predicted, labels, num_classes),
    }


def of_training(
    predictions: Predictions, recorded: np.ndarray, clean: np.ndarray
) -> dict[str, Any]:
    """The metrics of the training set, and how well -log p of the given label detects incorrect
    labels.
    """
    known, has_class = clean != UNKNOWN, clean >= 0
    wrong, suspicion = (recorded != clean)[known], -predictions.recorded_log_p[known]
    return {
        "n": len(recorded),
        "recorded": accuracy(predictions.predicted, recorded),
        "clean": accuracy(predictions.predicted[has_class], clean[has_class]),
        "memorised": memorised(predictions.predicted, recorded, clean),
        "wrong_labels": int(wrong.sum()) if known.any() else None,
        "detection": detection(suspicion, wrong),
    }


def of_run(
    train: Predictions,
    test: Predictions,
    labels: dict[str, np.ndarray],
    num_classes: int,
    parts: dict[str, np.ndarray],
) -> dict[str, Any]:
    """All metrics of a finished run, from its predictions.npz; labels: recorded, clean and test.

    parts: masks (N,) of the examples that were used for training ("train"), reserved ("val") or
    excluded ("dropped"); each part has the same metrics.
    """
    metrics = {"test": of_test(test, labels["test"], num_classes)}
    for name, part in parts.items():
        if part.any():
            metrics[name] = of_training(
                train.take(part), labels["recorded"][part], labels["clean"][part]
            )
    return metrics


def parts_of(arrays: dict[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    """Masks (n,) of the examples used for training, reserved or excluded, from predictions.npz;
    older files only have the first.
    """
    training = arrays.get("in_training", np.ones(n, bool))
    dropped = arrays.get("dropped", np.zeros(n, bool))
    return {"train": training, "val": ~training & ~dropped, "dropped": dropped}
