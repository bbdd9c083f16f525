"""Which recorded labels a run doubts: the list that somebody takes to label anew. It asks for no clean label."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .predictions import Predictions
from .storing import write_text

COLUMNS = ("rank", "index", "recorded", "suggested", "score")


def doubted(train: Predictions, recorded: np.ndarray) -> np.ndarray:
    """The examples (m,) whose recorded label (N,) is not the likeliest, the least likely label first, ties by index."""
    found = np.flatnonzero(train.predicted != recorded)
    return found[np.argsort(train.recorded_log_p[found], kind="stable")]


def write_suspects(path: Path, train: Predictions, recorded: np.ndarray, classes: Sequence[str]) -> int:
    """A CSV of the doubted labels, classes by name, and how many they are. score: 1 - p of the recorded label, in [0, 1]."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    found = doubted(train, recorded)
    scores = -np.expm1(train.recorded_log_p[found].astype(np.float64))
    for rank, (index, score) in enumerate(zip(found.tolist(), scores.tolist(), strict=True), 1):
        writer.writerow([rank, index, classes[recorded[index]], classes[train.predicted[index]], f"{score:.6f}"])
    write_text(path, text.getvalue())
    return len(found)
