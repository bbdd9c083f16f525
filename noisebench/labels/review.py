"""A manifest and a reviewed list of its doubted labels -> a new manifest: from noisy to clean, and
round again.
"""

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
    """What a review made: the manifest, how many examples were listed, which of them (c,) changed,
    and how the list was read.
    """

    before: Manifest
    after: Manifest
    listed: int
    changed: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> dict[str, Any]:
        """In numbers. wrong: as far as one knows; None where nobody does."""
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
    """Drop or relabel what a list names. Raises DataError where the list does not fit the manifest,
    or nothing would be left.

    What is held out for validation stays so; a verified label is right whatever a list says.
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
    _check_verified(before, review.examples, suspects)
    made = after_review(
        NoisyLabels(before.labels, source=before.source, dropped=before.dropped), action, review
    )
    if action == DROP and before.val is not None and made.dropped is not None:
        made = replace(made, dropped=made.dropped & ~before.val)
    after = replace(
        before, meta=_about(data, before, call, made), labels=made.labels, dropped=made.dropped
    )
    if not after.in_training.any():
        raise DataError(
            f"{suspects} lists every training example: nothing would be left to train on"
        )
    changed = np.flatnonzero((after.labels != before.labels) | (after.included != before.included))
    return Reviewed(before, after, len(review.examples), changed, review.notes)


def _check_verified(manifest: Manifest, examples: np.ndarray, suspects: Path) -> None:
    if manifest.trusted is not None and (verified := manifest.trusted[examples]).any():
        raise DataError(
            f"{suspects}: the label of example {examples[verified][0]} has been "
            "verified: delete its line"
        )


def _about(data: Labels, before: Manifest, call: Call, made: NoisyLabels) -> dict[str, Any]:
    """The header: what was true of the old labels alone is not said of the new."""
    clean = (
        before.clean_labels
        if before.source is None
        else np.where(before.source >= 0, data.labels, before.clean_labels)
    )
    meta = {key: value for key, value in before.meta.items() if key != "rates"}
    return {
        **meta,
        "noise": str(_said(call, made, before)),
        "noise_version": NOISES[call.name].fingerprint,
        "nominal_rate": None,
        **rates(made, clean, before.num_classes),
        "transition": None,
    }


def _said(call: Call, made: NoisyLabels, before: Manifest) -> Call:
    """The new noise as a manifest says it; the old one is said already."""
    return replace(
        as_recorded(replace(call, args=()), NoisyLabels(made.labels)),
        args=(normal_noise(before.meta["noise"]),),
    )
