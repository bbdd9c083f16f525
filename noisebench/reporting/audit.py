"""The five answers of an audit, as one JSON document and as sections of a page."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import Images
from ..datasets.images import opener
from ..runs.audit import FOLDS, HIGH_RATE, Audit, reliable
from .review import Neighbour, ReviewItem, Section

SCHEMA = 1
_MOST_NEAR = 4  # neighbours shown beside an image
_MOST_ROWS = 20


def audit_document(
    audit: Audit, listed: np.ndarray, manifest: Path, folder: Path, *, features: str
) -> dict[str, Any]:
    """The JSON document. listed (m,): the label issues in order; features: what the runs are
    trained on.
    """
    labels, meta = audit.manifest, audit.manifest.meta
    counts = np.bincount(labels.labels[labels.included], minlength=labels.num_classes).tolist()
    estimates, names = audit.estimates, meta["classes"]
    confident = int(audit.confident[listed].sum())
    noise: dict[str, Any] = {
        "rate": None if estimates is None else estimates.rate,
        "interval": None if estimates is None else list(estimates.interval),
        "by": "out-of-fold predictions",
        "second_opinion": {
            name: {"rate": rate, "interval": list(interval)}
            for name, (rate, interval) in audit.second.items()
        },
        "confused": [
            {"given": names[given], "suggested": names[other], "issues": number}
            for given, other, number in audit.confused_pairs()
        ],
    }
    reviewed = shlex.quote(str(folder / "reviewed.csv"))
    methods = [
        {
            "method": score.method,
            "accuracy_on_given_labels": score.accuracy,
            "interval": list(score.interval),
            "best_minus_this": None if score.lead is None else list(score.lead),
            "distinguishable": not score.ties,
            "test_accuracy": score.test_accuracy,
            "run": str(score.run.path),
        }
        for score in audit.methods
    ]
    return {
        "schema": SCHEMA,
        "data": {
            "dataset": meta["dataset"],
            "examples": int(labels.included.sum()),
            "test_is_noisy": any(
                "test accuracy is on their given labels" in line
                for line in meta.get("decisions", ())
            ),
            "classes": [
                {"class": name, "examples": count}
                for name, count in zip(names, counts, strict=True)
            ],
            "findings": list(meta.get("decisions", ())),
            "trained_on": features,
        },
        "noise": noise,
        "issues": {"listed": len(listed), "confident": confident},
        "methods": methods,
        "advice": _advice(audit, confident, len(listed)),
        "next": [
            f"open {shlex.quote(str(folder / 'review.html'))}",
            f"noisebench corrupt --manifest {shlex.quote(str(manifest))} --suspects "
            f"{shlex.quote(str(folder / 'review-decisions.csv'))} -o {reviewed}",
            f"noisebench train --manifest {reviewed} {_method_option(audit.chosen.method)}"
            f"{_features_options(audit)}",
        ],
        "files": {
            "manifest": str(manifest),
            "issues": str(folder / "issues.csv"),
            "page": str(folder / "review.html"),
        },
    }


def _method_option(name: str) -> str:
    from ..experiments.methods import METHODS

    return f"{'--method' if name in METHODS else '--loss'} {shlex.quote(name)}"


def _features_options(audit: Audit) -> str:
    features = audit.chosen.run.full_record().get("features")
    if features is None:
        return ""
    text = f" --features {features['model']} --feature-weights {shlex.quote(features['text'])}"
    return f"{text} --img-size {features['size']}"


def _advice(audit: Audit, confident: int, listed: int) -> dict[str, Any]:
    """One line of advice, and the decision whether labels may be changed without a look."""
    estimates, chosen = audit.estimates, audit.chosen
    rate = "unknown (more than 100 classes)"
    if estimates is not None:
        low, high = estimates.interval
        rate = f"{estimates.rate:.1%} (95 % interval {low:.1%} to {high:.1%})"
    if estimates is not None and estimates.rate >= HIGH_RATE:
        text = (
            f"Estimated noise rate {rate}: most given labels may be incorrect, so neither the list "
            "nor the comparison of methods is reliable. Look at a random sample of labels first."
        )
        return {"text": text, "decision": "look first", "method": None}
    if estimates is not None and not reliable(estimates):
        text = (
            f"Estimated noise rate {rate}: the predictions are too uncertain for the list and for "
            "a comparison of methods. Give --features or more images, and look at a random sample "
            "of labels first."
        )
        return {"text": text, "decision": "look first", "method": None}
    ties = [score.method for score in audit.methods if score.ties]
    tied = f"; not distinguishable: {', '.join(ties)}" if len(ties) > 1 else ""
    if confident:
        what = f"look at the confident label issues ({confident}) first, then at the others "
        what += f"({listed - confident}); do not relabel without looking"
    elif listed:
        issues = "label issue" if listed == 1 else f"{listed} label issues"
        what = f"look at the {issues} before you change labels; none is confident"
    else:
        what = "no label issue was found: nothing to change"
    text = f"Estimated noise rate {rate}; train with {chosen.method}{tied}; {what}."
    decision = "look first" if listed else "keep"
    return {"text": text, "decision": decision, "method": chosen.method}


def audit_sections(document: dict[str, Any], sizes: str) -> list[Section]:
    """The five answers of an audit's document. sizes: of the images."""
    data, noise, issues = document["data"], document["noise"], document["issues"]
    counts = [entry["examples"] for entry in data["classes"]]
    order = np.argsort(counts, kind="stable")[::-1][:_MOST_ROWS].tolist()
    most, least = max(counts), min(counts)
    found = [
        f"{data['examples']:,} examples in {len(counts)} classes{sizes}; the largest class has "
        f"{most:,}, the smallest {least:,} examples.",
        *data["findings"],
    ]
    amount = ["The noise rate is not estimated: there are more than 100 classes."]
    if noise["rate"] is not None:
        low, high = noise["interval"]
        amount = [
            f"Estimated noise rate: {noise['rate']:.1%}, 95 % interval {low:.1%} to {high:.1%}, by "
            "confident learning on out-of-fold predictions of all methods."
        ]
    for name, second in noise["second_opinion"].items():
        low, high = second["interval"]
        amount.append(
            f"Second estimate, by {name}: {second['rate']:.1%} ({low:.1%} to {high:.1%})."
        )
        if noise["rate"] is not None and not low <= noise["rate"] <= high:
            amount.append(f"The estimates disagree: {noise['rate']:.1%} is outside this interval.")
    rows = [
        (
            entry["method"],
            f"{100 * entry['accuracy_on_given_labels']:.2f}",
            "{:.2f} to {:.2f}".format(*(100 * end for end in entry["interval"])),
            "best"
            if entry["best_minus_this"] is None
            else "{:.2f} to {:.2f}".format(*(100 * end for end in entry["best_minus_this"])),
            "–" if entry["test_accuracy"] is None else f"{100 * entry['test_accuracy']:.2f}",
        )
        for entry in document["methods"]
    ]
    test = "test (given labels)" if data["test_is_noisy"] else "test"
    return [
        Section(
            "What is there",
            tuple(found),
            ("class", "examples"),
            tuple((data["classes"][k]["class"], f"{counts[k]:,}") for k in order),
        ),
        Section(
            "How many labels are incorrect",
            tuple(amount),
            ("given label", "suggested label", "label issues"),
            tuple(
                (pair["given"], pair["suggested"], str(pair["issues"]))
                for pair in noise["confused"]
            ),
        ),
        Section(
            "Which labels",
            (
                f"{issues['listed']:,} label issues, {issues['confident']:,} of them confident. "
                "The confident ones come first.",
            ),
        ),
        Section(
            "Which method",
            (
                f"Accuracy on the given labels in {FOLDS}-fold cross-validation. The test accuracy "
                "is not used to choose. Of methods that are not "
                "distinguishable from the best, the simplest is recommended.",
            ),
            ("method", "accuracy", "95 % interval", "best minus this", test),
            tuple(rows),
        ),
        Section("What to do next", (document["advice"]["text"], *document["next"])),
    ]


def review_items(audit: Audit, listed: np.ndarray) -> list[ReviewItem]:
    """The label issues (m,) for the review page."""
    manifest, quality = audit.manifest, audit.quality
    ids = manifest.ids
    row_of = np.cumsum(manifest.in_training) - 1
    items = []
    for i in listed.tolist():
        near: list[Neighbour] = []
        if audit.neighbours is not None and manifest.in_training[i]:
            indices = audit.neighbours.indices[row_of[i]].tolist()
            near = [
                Neighbour(j, int(manifest.labels[j]), ids[j] if ids else "")
                for j in indices
                if manifest.labels[j] != manifest.labels[i]
            ][:_MOST_NEAR]
        items.append(
            ReviewItem(
                i,
                ids[i] if ids else "",
                int(manifest.labels[i]),
                int(quality.suggested[i]),
                float(quality.quality[i]),
                bool(audit.confident[i]),
                tuple(near),
            )
        )
    return items


def picture_of(images: Images) -> Callable[[int], bytes | None]:
    """A function that returns the file of a training image, or a PNG of one in memory; None for
    features.
    """
    listed = images.dataset.listed
    if images.dataset.dimensions:
        return lambda index: None
    if listed:
        opened = opener(listed.train)

        def from_file(index: int) -> bytes | None:
            with opened(index) as file:
                return bytes(file.read())

        return from_file

    def from_array(index: int) -> bytes | None:
        from PIL import Image

        pixels, file = np.asarray(images.train_images[index : index + 1])[0], io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "png")
        return file.getvalue()

    return from_array
