"""Which recorded labels a network doubts: the list that somebody takes to label anew. It asks for
no clean label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files.atomic import write_text
from ..core.sanitize import as_cell, as_csv, path_as_cell
from ..errors import DataError
from ..metrics import scores
from ..metrics.predictions import Predictions
from .manifest import Manifest

SCORES = ("early", "last")
_FORGOTTEN = 2 / 3  # of its early doubts, below which a network has learned the others by heart


def score_labels(arrays: dict[str, np.ndarray], score: str) -> Predictions:
    """What a training run says of its labels, from predictions.npz: `last`, at the end; `early`,
    mean p over the first half of the epochs, in passing, since networks learn right labels before
    they learn wrong ones by heart (Arpit et al. 2017).

    What is held out is judged at the end in both. Raises DataError where no mean was kept: an older
    run, or more than 100 classes.
    """
    if score == "early" and not knows_early(arrays):
        raise DataError(
            "what a run said early is kept for up to 100 classes, and not by older "
            "versions: --score last"
        )
    recorded = arrays["recorded_labels"].astype(np.int64)
    try:
        said = Predictions.load(
            arrays, "early" if score == "early" else "train", recorded, recorded
        )
    except (ValueError, IndexError) as error:  # where they are not of as many examples
        raise DataError(
            f"predictions.npz is damaged ({error}): run it again with --force"
        ) from None
    if not len(said.classes) == len(said.recorded_log_p) == len(recorded):
        raise DataError(
            f"{len(said.classes)} of {len(recorded)} examples have a prediction: run "
            "it again with --force"
        )
    return said


def combine(said: Sequence[Predictions], recorded: np.ndarray) -> Predictions:
    """What several runs say of the same examples (N,): the mean of their p. Of more than 100
    classes these are the likeliest that each run kept; what a run did not keep counts as nothing.
    """
    if len(said) == 1:
        return said[0]
    if all(each.dense is not None for each in said):
        mean = np.mean(
            [np.exp(each.dense.astype(np.float64)) for each in said if each.dense is not None], 0
        )
        return Predictions.of(_log(mean), recorded, recorded)
    classes = np.concatenate([each.classes for each in said], 1)
    p = np.concatenate([np.exp(each.log_p.astype(np.float64)) for each in said], 1) / len(said)
    summed = np.stack(
        [
            np.where(classes == classes[:, [column]], p, 0).sum(1)
            for column in range(classes.shape[1])
        ],
        1,
    )
    again = np.stack(
        [
            (classes[:, :column] == classes[:, [column]]).any(1)
            for column in range(classes.shape[1])
        ],
        1,
    )
    order = np.argsort(np.where(again, np.inf, -summed), 1, kind="stable")[
        :, : said[0].classes.shape[1]
    ]
    of_recorded = _log(
        np.mean([np.exp(each.recorded_log_p.astype(np.float64)) for each in said], 0)
    )
    top = [np.take_along_axis(each, order, 1) for each in (classes, _log(summed))]
    return Predictions(top[0], top[1], of_recorded, of_recorded, None)


def _log(p: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(p, np.finfo(np.float32).tiny)).astype(np.float32)


def better_score(arrays: dict[str, np.ndarray]) -> str:
    """`early` where the network at its end doubts fewer than two thirds of as many labels as it did
    early: it has learned the rest by heart, or is on the way to. Else `last`, since a network that
    goes on doubting has learned more. No clean label is asked for.
    """
    if not knows_early(arrays):
        return "last"
    kept, recorded = (
        ~arrays.get("dropped", np.zeros(len(arrays["recorded_labels"]), bool)),
        arrays["recorded_labels"],
    )
    late, early = (
        int(((arrays[f"{part}_classes"][:, 0] != recorded) & kept).sum())
        for part in ("train", "early")
    )
    return "early" if late < _FORGOTTEN * early else "last"


def knows_early(arrays: dict[str, np.ndarray]) -> bool:
    """Whether a run kept what it said early."""
    return "early_classes" in arrays


def label_issues(
    said: Predictions, recorded: np.ndarray, beyond_doubt: np.ndarray | None = None
) -> np.ndarray:
    """The examples (m,) whose recorded label (N,) is not the likeliest, the least likely label
    first, ties by index; none of those that are beyond doubt (N,).
    """
    unlike = said.predicted != recorded
    found = np.flatnonzero(unlike if beyond_doubt is None else unlike & ~beyond_doubt)
    return found[np.argsort(said.recorded_log_p[found], kind="stable")]


def verified_or_dropped(manifest: Manifest) -> np.ndarray:
    """Verified labels (N,), and what is dropped: nobody trains on it, and what a review dropped has
    been looked at.
    """
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


def precision_text(said: Predictions, manifest: Manifest) -> dict[str, Any]:
    """How well the doubts find wrong labels, where clean ones are known: AUROC ... over all that is
    open to doubt, and the share of the list that is wrong; None where nobody knows.
    """
    among, found = (
        ~verified_or_dropped(manifest),
        label_issues(said, manifest.labels, verified_or_dropped(manifest)),
    )
    known = found[manifest.true_labels[found] != scores.UNKNOWN]
    detection = scores.of_training(
        said.take(among), manifest.labels[among], manifest.true_labels[among]
    )["detection"]
    wrong = manifest.labels[known] != manifest.true_labels[known]
    return {
        "listed": len(found),
        "of": int(among.sum()),
        **detection,
        "precision": float(wrong.mean()) if len(known) else None,
    }
