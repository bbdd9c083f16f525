"""Label issues: given labels that a network's predictions contradict, ranked by label quality. No
true label is used.


A manifest and a reviewed list of its label issues -> a new manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.expressions import Call
from ..core.files.atomic import write_text
from ..core.sanitize import as_cell, as_csv, path_as_cell
from ..datasets import Labels
from ..errors import DataError
from ..metrics import scores
from ..metrics.predictions import Predictions
from ..noise import NOISES, NoisyLabels, normal_noise
from ..noise.given import DROP, after_review
from .build import DatasetInputs, as_recorded, rates
from .manifest import Manifest

SCORES = ("early", "last")
_FORGOTTEN = 2 / 3  # of its early issues, below which a network has memorized the others


def score_labels(arrays: dict[str, np.ndarray], score: str) -> Predictions:
    """A run's predictions for its training examples, from its checked arrays: `last`, at the end;
    `early`, mean p over the first half of the epochs, since networks learn correct labels before
    they memorize incorrect ones (Arpit et al. 2017).

    Examples held out for validation are predicted at the end in both. Raises DataError where no
    mean was kept: an older run, or more than 100 classes.
    """
    if score == "early" and "early_classes" not in arrays:
        raise DataError(
            "early predictions are kept for up to 100 classes, and not by older "
            "versions: --score last"
        )
    given = arrays["recorded_labels"].astype(np.int64)
    return Predictions.load(arrays, "early" if score == "early" else "train", given, given)


def combine(runs: Sequence[Predictions], given: np.ndarray) -> Predictions:
    """The mean p of several runs for the same examples with given labels (N,). Of more than 100
    classes these are the likeliest that each run kept; what a run did not keep counts as 0.
    """
    if len(runs) == 1:
        return runs[0]
    if all(run.dense is not None for run in runs):
        dense = [np.exp(np.asarray(run.dense, np.float64)) for run in runs]
        return Predictions.of(_log(np.mean(dense, 0)), given, given)
    classes = np.concatenate([run.classes for run in runs], 1)
    p = np.concatenate([np.exp(run.log_p.astype(np.float64)) for run in runs], 1) / len(runs)
    summed, repeated = np.empty_like(p), np.empty(p.shape, bool)
    for column in range(classes.shape[1]):
        same = classes == classes[:, [column]]
        summed[:, column] = np.where(same, p, 0).sum(1)
        repeated[:, column] = same[:, :column].any(1)
    order = np.argsort(np.where(repeated, np.inf, -summed), 1, kind="stable")
    order = order[:, : runs[0].classes.shape[1]]
    given_p = np.mean([np.exp(run.recorded_log_p.astype(np.float64)) for run in runs], 0)
    top = [np.take_along_axis(array, order, 1) for array in (classes, _log(summed))]
    return Predictions(top[0], top[1], _log(given_p), _log(given_p), None)


def _log(p: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(p, np.finfo(np.float32).tiny)).astype(np.float32)


def better_score(arrays: dict[str, np.ndarray]) -> str:
    """`early` where the network at its end has fewer than two thirds of the label issues that it
    had early, since it has memorized the others; else `last`. No true label is used.
    """
    if "early_classes" not in arrays:
        return "last"
    given = arrays["recorded_labels"]
    included = ~arrays.get("dropped", np.zeros(len(given), bool))
    late, early = (
        int(((arrays[f"{part}_classes"][:, 0] != given) & included).sum())
        for part in ("train", "early")
    )
    return "early" if late < _FORGOTTEN * early else "last"


def label_issues(
    predictions: Predictions, given: np.ndarray, excluded: np.ndarray | None = None
) -> np.ndarray:
    """The examples (m,) whose given label (N,) is not the likeliest class, the lowest label quality
    first, ties by index; without those excluded (N,).
    """
    differs = predictions.predicted != given
    issues = np.flatnonzero(differs if excluded is None else differs & ~excluded)
    return issues[np.argsort(predictions.recorded_log_p[issues], kind="stable")]


def verified_or_dropped(manifest: Manifest) -> np.ndarray:
    """Examples (N,) that are never listed: their label was verified, or they are dropped."""
    return ~manifest.included if manifest.trusted is None else ~manifest.included | manifest.trusted


def write_suspects(path: Path, predictions: Predictions, manifest: Manifest) -> int:
    """Write a CSV of the label issues; returns their number.

    Columns: rank, index, path where the examples are files, given_label and predicted_label by
    name, label_quality (p of the given label, in [0, 1]), split where some are held out.
    """
    listed = label_issues(predictions, manifest.labels, verified_or_dropped(manifest))
    names = [as_cell(name) for name in manifest.meta["classes"]]
    quality = np.exp(predictions.recorded_log_p[listed].astype(np.float64))
    columns: dict[str, list[Any]] = {
        "rank": list(range(1, len(listed) + 1)),
        "index": listed.tolist(),
    }
    if manifest.ids:
        columns["path"] = [path_as_cell(manifest.ids[example]) for example in listed]
    columns["given_label"] = [names[k] for k in manifest.labels[listed]]
    columns["predicted_label"] = [names[k] for k in predictions.predicted[listed]]
    columns["label_quality"] = [f"{p:.6f}" for p in quality]
    if manifest.val is not None:
        columns["split"] = ["val" if held_out else "train" for held_out in manifest.val[listed]]
    write_text(path, as_csv([columns, *zip(*columns.values(), strict=True)]))
    return len(listed)


def precision_text(predictions: Predictions, manifest: Manifest) -> dict[str, Any]:
    """How well the label issues find incorrect labels, where true ones are known: AUROC ... over
    all examples that can be listed, and the precision of the list; None where it is unknown.
    """
    excluded = verified_or_dropped(manifest)
    issues = label_issues(predictions, manifest.labels, excluded)
    known = issues[manifest.true_labels[issues] != scores.UNKNOWN]
    incorrect = manifest.labels[known] != manifest.true_labels[known]
    listable = ~excluded
    metrics = scores.of_training(
        predictions.take(listable), manifest.labels[listable], manifest.true_labels[listable]
    )
    return {
        "listed": len(issues),
        "of": int(listable.sum()),
        **metrics["detection"],
        "precision": float(incorrect.mean()) if len(known) else None,
    }


@dataclass(frozen=True)
class Reviewed:
    """A review: the manifests before and after, the number of listed examples, those that changed
    (c,), and how the list was read.
    """

    before: Manifest
    after: Manifest
    listed: int
    changed: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> dict[str, Any]:
        """Counts. wrong: of the examples whose true label is known; None where none is."""
        truth = self.before.true_labels[self.changed]
        were_wrong = (self.before.labels[self.changed] != truth)[truth != -1]
        return {
            "listed": self.listed,
            "changed": len(self.changed),
            "changed_wrong": int(were_wrong.sum())
            if len(were_wrong) or self.before.known_fraction
            else None,
            "wrong_before": self.before.num_wrong,
            "wrong_after": self.after.num_wrong,
            "trained_on": int(self.after.in_training.sum()),
        }


def review_manifest(
    data: Labels, before: Manifest, suspects: Path, action: str, outside: DatasetInputs
) -> Reviewed:
    """Drop or relabel the listed examples. Raises DataError where the list does not fit the
    manifest, names a verified label, or would leave nothing.

    The validation split stays as it is.
    """
    before.verify(data.labels, data.ids, classes=data.dataset.num_classes)
    call = normal_noise(
        Call(
            "reviewed",
            (normal_noise(before.meta["noise"]),),
            (("action", action), ("suspects", str(suspects))),
        )
    )
    review = outside.review(str(suspects), None, before.labels)
    if before.trusted is not None and (verified := before.trusted[review.examples]).any():
        raise DataError(
            f"{suspects}: the label of example {review.examples[verified][0]} has been "
            "verified: delete its line"
        )
    noisy = NoisyLabels(before.labels, source=before.source, dropped=before.dropped)
    noisy = after_review(noisy, action, review)
    if action == DROP and before.val is not None and noisy.dropped is not None:
        noisy = replace(noisy, dropped=noisy.dropped & ~before.val)
    # a file is named without its folder; the inner noise stands in the manifest as it is
    named = as_recorded(replace(call, args=()), NoisyLabels(noisy.labels))
    clean = before.clean_labels
    if before.source is not None:
        clean = np.where(before.source >= 0, data.labels, clean)
    meta = {
        **{key: value for key, value in before.meta.items() if key != "rates"},
        "noise": str(replace(named, args=(normal_noise(before.meta["noise"]),))),
        "noise_version": NOISES[call.name].fingerprint,
        "nominal_rate": None,
        **rates(noisy, clean, before.num_classes),
        "transition": None,
    }
    after = replace(before, meta=meta, labels=noisy.labels, dropped=noisy.dropped)
    if not after.in_training.any():
        raise DataError(
            f"{suspects} lists every training example: nothing would be left to train on"
        )
    changed = np.flatnonzero((after.labels != before.labels) | (after.included != before.included))
    return Reviewed(before, after, len(review.examples), changed, review.notes)
