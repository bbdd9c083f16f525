"""A manifest and a reviewed list of its label issues -> a new manifest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.expressions import Call
from ..datasets import Labels
from ..errors import DataError
from ..noise import NOISES, NoisyLabels, normal_noise
from ..noise.given import DROP, after_review
from .build import DatasetInputs, as_recorded, rates
from .manifest import Manifest


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
