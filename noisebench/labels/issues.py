"""Label issues: given labels that a network's predictions or the neighbours in feature space
contradict, ranked by label quality without use of true labels; and the manifest after a review of
their list.
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
from ..datasets import UNDECIDED, ImageArray, Labels
from ..errors import DataError
from ..metrics import scores
from ..metrics.feature_neighbours import (
    NUM_NEIGHBOURS,
    hoc,
    nearest,
    simifeat_rank,
    simifeat_votes,
)
from ..metrics.predictions import Predictions
from ..noise import NOISES, NoisyLabels, normal_noise
from ..noise.given import DROP, RELABEL, after_review
from .build import DatasetInputs, as_recorded, rates
from .manifest import Manifest

SCORES = ("early", "last")  # of the predictions of a run
AUM = "aum"  # of the margins of its training
NEIGHBOUR_SCORES = SIMIFEAT, SIMIFEAT_RANK = "simifeat", "simifeat_rank"  # of its features
_FORGOTTEN = 2 / 3  # share of the early issues below which labels count as memorized


@dataclass(frozen=True)
class LabelQuality:
    """Of N given labels: quality (N,), low for label issues; the suggested class (N,); a mask (N,)
    of the label issues. rank_by (N,): has the order of quality, where that rounds to 0; NaN for
    labels without a score.
    """

    quality: np.ndarray
    suggested: np.ndarray
    issues: np.ndarray
    rank_by: np.ndarray

    @classmethod
    def of(cls, predictions: Predictions, given: np.ndarray) -> LabelQuality:
        """Quality is p of the given label (N,); label issues are labels that are not predicted."""
        predicted, log_p = predictions.predicted, predictions.recorded_log_p
        return cls(np.exp(log_p.astype(np.float64)), predicted, predicted != given, log_p)


def quality_by_neighbours(
    features: ImageArray, manifest: Manifest, *, ranked: bool
) -> LabelQuality:
    """SimiFeat's label quality from the features (N, D) of a manifest's examples, without dropped
    ones; ranked: the number of issues of each class is that which HOC estimates. Raises DataError.
    """
    included, num_classes = manifest.included, manifest.num_classes
    labels = manifest.labels[included]
    neighbours = nearest(np.asarray(features[included]), NUM_NEIGHBOURS)
    if ranked:
        found = hoc(neighbours, labels, num_classes, subsamples=0)
        scored = simifeat_rank(neighbours, labels, found.transition, found.prior)
    else:
        scored = simifeat_votes(neighbours, labels, num_classes)
    n = len(included)
    quality, suggested, issues = np.full(n, np.nan), manifest.labels.copy(), np.zeros(n, bool)
    quality[included], suggested[included] = scored.quality, scored.suggested
    issues[included] = scored.issues
    return LabelQuality(quality, suggested, issues, quality)


def quality_by_aum(arrays: dict[str, np.ndarray]) -> LabelQuality:
    """The mean margin of the given label over the epochs of a run, from its checked arrays; label
    issues have one below 0. Pleiss et al. 2020, without threshold examples.

    The suggested class is the likeliest other one. Raises DataError for a run of an older version.
    """
    if AUM not in arrays:
        raise DataError(
            "the run has no AUM (it is of an older version): use --score early or last, or train "
            "it again with --force"
        )
    aum, given = arrays[AUM].astype(np.float64), arrays["recorded_labels"]
    classes = score_labels(arrays, "early" if "early_classes" in arrays else "last").classes
    other = np.where(classes[:, 0] == given, classes[:, 1], classes[:, 0])
    return LabelQuality(aum, other, aum < 0, aum)


def score_labels(arrays: dict[str, np.ndarray], score: str) -> Predictions:
    """A run's predictions for its training examples, from its checked arrays: `last`, by the final
    network; `early`, mean p over the first half of the epochs, since networks learn correct labels
    before they memorize incorrect ones (Arpit et al. 2017).

    The validation split is predicted by the final network in both. Raises DataError if the run has
    no early predictions: it is of an older version, or has more than 100 classes.
    """
    if score == "early" and "early_classes" not in arrays:
        raise DataError(
            "the run has no early predictions (more than 100 classes, or an older "
            "version): use --score last"
        )
    given = arrays["recorded_labels"].astype(np.int64)
    return Predictions.load(arrays, "early" if score == "early" else "train", given, given)


def combine(runs: Sequence[Predictions], given: np.ndarray) -> Predictions:
    """The mean p of several runs for the same examples with given labels (N,). With more than 100
    classes each run stores the likeliest ones only; the others count as 0.
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
    """`early` if the final network has fewer than two thirds of the early label issues, since it
    has memorized the others; else `last`. Uses no true labels.
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


def label_issues(labels: LabelQuality, excluded: np.ndarray | None = None) -> np.ndarray:
    """The label issues (m,), lowest label quality first, ties by index; without those excluded
    (N,).
    """
    issues = np.flatnonzero(labels.issues if excluded is None else labels.issues & ~excluded)
    return issues[np.argsort(labels.rank_by[issues], kind="stable")]


def verified_or_dropped(manifest: Manifest) -> np.ndarray:
    """Mask (N,) of examples that are never listed: trusted or dropped."""
    return ~manifest.included if manifest.trusted is None else ~manifest.included | manifest.trusted


def write_suspects(
    path: Path, labels: LabelQuality, manifest: Manifest, confident: np.ndarray | None = None
) -> np.ndarray:
    """Write a CSV of the label issues; returns these examples (m,), in order.

    Columns: rank, index, path if the examples are files, given_label and predicted_label by
    name, label_quality, confident if given, split if there is a validation split. confident (N,):
    mask of the issues that come first.
    """
    listed = label_issues(labels, verified_or_dropped(manifest))
    if confident is not None:
        listed = listed[np.argsort(~confident[listed], kind="stable")]
    names = [as_cell(name) for name in manifest.meta["classes"]]
    columns: dict[str, list[Any]] = {
        "rank": list(range(1, len(listed) + 1)),
        "index": listed.tolist(),
    }
    if manifest.ids:
        columns["path"] = [path_as_cell(manifest.ids[example]) for example in listed]
    columns["given_label"] = [names[k] for k in manifest.labels[listed]]
    columns["predicted_label"] = [names[k] for k in labels.suggested[listed]]
    columns["label_quality"] = [f"{quality:.6f}" for quality in labels.quality[listed]]
    if confident is not None:
        columns["confident"] = confident[listed].tolist()
    if manifest.val is not None:
        columns["split"] = ["val" if held_out else "train" for held_out in manifest.val[listed]]
    write_text(path, as_csv([columns, *zip(*columns.values(), strict=True)]))
    return listed


def precision_text(labels: LabelQuality, manifest: Manifest) -> dict[str, Any]:
    """How well the label issues find incorrect labels, by known true labels: AUROC and others over
    all examples that can be listed, and the precision of the list; None if unknown.
    """
    listable = ~verified_or_dropped(manifest) & ~np.isnan(labels.rank_by)
    known = listable & (manifest.true_labels != scores.UNKNOWN)
    incorrect = manifest.labels != manifest.true_labels
    of_listed = incorrect[known & labels.issues]
    return {
        "listed": int((labels.issues & listable).sum()),
        "of": int(listable.sum()),
        **scores.detection(-labels.rank_by[known], incorrect[known]),
        "precision": float(of_listed.mean()) if len(of_listed) else None,
    }


@dataclass(frozen=True)
class Reviewed:
    """A review: the manifests before and after, the number of listed examples, the changed examples
    (c,), and notes on how the list was read.
    """

    before: Manifest
    after: Manifest
    listed: int
    changed: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> dict[str, Any]:
        """Counts; those of incorrect labels are None if no true label is known."""
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
    """Drop or relabel the listed examples, or do what the list decides about each; the validation
    split is not dropped. Raises DataError if the list does not fit the manifest, changes a trusted
    label, or leaves no training example.
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
    effective = np.ones(len(review.examples), bool)
    notes = review.notes
    if review.decisions is not None:
        effective = np.isin(review.decisions, (DROP, RELABEL))
        if count := int((review.decisions == UNDECIDED).sum()):
            notes = (*notes, f"not changed: {count} of {len(review.examples)}, which are undecided")
    changed = review.examples[effective]
    if before.trusted is not None and (verified := before.trusted[changed]).any():
        raise DataError(
            f"{suspects}: the label of example {changed[verified][0]} is trusted "
            "(verified): delete its line"
        )
    noisy = NoisyLabels(before.labels, source=before.source, dropped=before.dropped)
    noisy = after_review(noisy, action, review)
    if action != RELABEL and before.val is not None and noisy.dropped is not None:
        if count := int((noisy.dropped & before.val).sum()):
            notes = (*notes, f"not dropped: {count} of the validation split")
        noisy = replace(noisy, dropped=noisy.dropped & ~before.val)
    # the list is stored without its directory; the inner noise as in the manifest
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
            f"{suspects} lists every training example: no example would remain for training"
        )
    changed = np.flatnonzero((after.labels != before.labels) | (after.included != before.included))
    return Reviewed(before, after, len(review.examples), changed, notes)
