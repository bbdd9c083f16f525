"""The labels that a run doubts most, each with its picture where the data are at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DataError
from ...labels.issues import better_score, label_issues, score_labels
from ...labels.manifest import OPEN
from ...metrics.predictions import Predictions
from ...runs.folder import RunFolder
from ...runs.predictions import checked_arrays
from .pictures import Pictures

_SHOWN = 12
_VERDICTS = {True: "wrong", False: "right", None: "unknown"}


@dataclass(frozen=True)
class Doubt:
    """One doubted label; `p` is the recorded label's, `verdict` wrong, right or unknown; `picture`
    a name, empty without one.
    """

    index: int
    recorded: str
    suggested: str
    p: str
    verdict: str
    picture: str


@dataclass(frozen=True)
class Doubts:
    """The first doubted labels of one run and a sentence on all of them; `when` they were doubted;
    `lacking`: why there is nothing, or no picture.
    """

    said: str = ""
    when: str = ""
    shown: tuple[Doubt, ...] = ()
    lacking: str = ""


@dataclass(frozen=True)
class _Labels:
    """What a run predicts of the training examples, their labels (N,), which are kept (N,), and
    which it doubts (m,).
    """

    train: Predictions
    recorded: np.ndarray
    clean: np.ndarray
    kept: np.ndarray
    doubted: np.ndarray
    early: bool

    @classmethod
    def read(cls, folder: RunFolder, num_classes: int) -> _Labels:
        arrays = checked_arrays(folder, num_classes)
        recorded, clean = (
            arrays[f"{name}_labels"].astype(np.int64) for name in ("recorded", "clean")
        )
        score, nobody = better_score(arrays), np.zeros(len(recorded), bool)
        train = score_labels(arrays, score)
        dropped = arrays.get("dropped", nobody)
        found = label_issues(train, recorded, dropped | arrays.get("trusted", nobody))
        return cls(train, recorded, clean, ~dropped, found, score == "early")


def doubts_of(folder: RunFolder, record: dict[str, Any], pictures: Pictures) -> Doubts:
    """Of one finished run."""
    try:
        return _doubts(_Labels.read(folder, len(record["data"]["classes"])), record, pictures)
    except DataError as error:
        return Doubts(lacking=str(error))
    except (KeyError, ValueError, IndexError, TypeError) as error:  # somebody else's file
        return Doubts(lacking=f"{folder.predictions.name} is not of this version: {error}")


def _doubts(labels: _Labels, record: dict[str, Any], pictures: Pictures) -> Doubts:
    shown, classes = labels.doubted[:_SHOWN], record["data"]["classes"]
    try:
        names, lacking = pictures.names(record, shown), ""
    except DataError as error:
        names, lacking = [""] * len(shown), str(error)
    entries = []
    for index, name in zip(shown.tolist(), names, strict=True):
        recorded, likely = labels.recorded[index], float(np.exp(labels.train.recorded_log_p[index]))
        verdict = _verdict(recorded, labels.clean[index])
        entries.append(
            Doubt(
                index,
                classes[recorded],
                classes[labels.train.predicted[index]],
                f"{likely:.1g}",
                verdict,
                name,
            )
        )
    return Doubts(
        _said(labels),
        " in the first half of the epochs" if labels.early else "",
        tuple(entries),
        lacking,
    )


def _verdict(recorded: int, clean: int) -> str:
    return _VERDICTS[None if clean == -1 else bool(clean != recorded)]


def _said(labels: _Labels) -> str:
    """`419 of 1297 labels doubted; 410 of these are wrong, out of 518 wrong labels.`"""
    recorded, clean, found = labels.recorded, labels.clean, labels.doubted
    known = ((clean >= 0) | (clean == OPEN)) & labels.kept
    wrong = known & (clean != recorded)
    count = f"{len(found)} of {int(labels.kept.sum())} labels doubted"
    if not known.any():
        return f"{count}; nobody knows which are wrong."
    whole = "" if known[labels.kept].all() else " of those that are known"
    return (
        f"{count}; {int(wrong[found].sum())} of these are wrong, out of {int(wrong.sum())} "
        f"wrong labels{whole}."
    )
