"""The first label issues of a run, with their images if the data are on this machine."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...datasets import at_hand, image_rows
from ...errors import DataError, NoisebenchError
from ...labels.issues import LabelQuality, better_score, label_issues, score_labels
from ...labels.manifest import OPEN
from ...runs.folder import RunFolder
from ...runs.result import load_predictions
from ...runs.workspace import Workspace

_SHOWN = 12
_SIDE = 96  # pixels; larger images are scaled down


@dataclass(frozen=True)
class Issue:
    """A suspected label error. p: probability of the given label; status: wrong, right or unknown;
    image: its name, or empty.
    """

    index: int
    given: str
    predicted: str
    p: str
    status: str
    image: str


@dataclass(frozen=True)
class IssueList:
    """The first label issues of a run and a summary of all. when: the epochs of the scores;
    missing: why there is no list, or no image.
    """

    summary: str = ""
    when: str = ""
    shown: tuple[Issue, ...] = ()
    missing: str = ""


class PageImages:
    """`encoded`: images of training examples as data URIs, by a short name. Reads each data set
    once; downloads nothing.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = Workspace(workspace.root, workspace.data_dir, offline=True)
        self._sources: dict[tuple[str, str, str], _ImageSource] = {}
        self._names: dict[tuple[str, str, str, int], str] = {}
        self.encoded: dict[str, str] = {}

    def names(self, record: dict[str, Any], which: np.ndarray) -> list[str]:
        """The names of the images of a run's training examples (n,). Raises DataError if they
        cannot be read.
        """
        if "source" in record["noise"]:
            raise DataError(
                f"no images: images of {record['noise']['source']} replaced some of them"
            )
        data = record["data"]
        key = (
            str(data.get("path") or data["name"]),
            str(data.get("labels_path") or ""),
            str(record["noise"].get("labels_sha256")),
        )
        if key not in self._sources:
            self._sources[key] = self._open(*key)
        source = self._sources[key]
        if source.read is None:
            raise DataError(f"no images: {source.error}")
        if len(which) and which.max() >= source.n:
            raise DataError(f"no images: the run has more examples than the {source.n} here")
        missing = [index for index in which.tolist() if (*key, index) not in self._names]
        for index, image in zip(missing, source.read(np.asarray(missing, np.int64)), strict=True):
            name = self._names[*key, index] = f"p{len(self._names)}"
            self.encoded[name] = _data_uri(image)
        return [self._names[*key, index] for index in which.tolist()]

    def _open(self, name: str, labels_path: str, labels_sha256: str) -> _ImageSource:
        data_dir = self._workspace.data_dir
        try:
            dataset = self._workspace.dataset(name, labels=labels_path or None)
            if not at_hand(dataset, data_dir):
                suffix = "/" if dataset.reader else ".npz"
                return _ImageSource(error=f"{name}{suffix} is not in the data directory")
            labels = self._workspace.labels(dataset)
            if labels.fingerprint != labels_sha256:
                return _ImageSource(error=f"the labels of {name} here differ from the run's")
            return _ImageSource(image_rows(dataset, data_dir, offline=True), len(labels.labels))
        except NoisebenchError as error:
            return _ImageSource(error=str(error))


@dataclass(frozen=True)
class _ImageSource:
    """A function that reads images by index, and their number; or why there is none."""

    read: Callable[[np.ndarray], np.ndarray] | None = None
    n: int = 0
    error: str = ""


def _data_uri(image: np.ndarray) -> str:
    """An image (H, W, 1 or 3), uint8, as PNG."""
    from PIL import Image

    thumbnail = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    thumbnail.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    thumbnail.save(file, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def list_issues(folder: RunFolder, record: dict[str, Any], images: PageImages) -> IssueList:
    """The label issues of a finished run."""
    try:
        return _list_issues(folder, record, images)
    except DataError as error:
        return IssueList(missing=str(error))
    except (KeyError, ValueError, IndexError, TypeError) as error:  # not a file of ours
        return IssueList(missing=f"{folder.predictions.name} is not of this version: {error}")


def _list_issues(folder: RunFolder, record: dict[str, Any], images: PageImages) -> IssueList:
    classes = record["data"]["classes"]
    arrays = load_predictions(folder, len(classes)).arrays
    given, clean = (arrays[f"{name}_labels"].astype(np.int64) for name in ("recorded", "clean"))
    score, none = better_score(arrays), np.zeros(len(given), bool)
    train = score_labels(arrays, score)
    dropped = arrays.get("dropped", none)
    issues = label_issues(LabelQuality.of(train, given), dropped | arrays.get("trusted", none))
    shown = issues[:_SHOWN]
    names, missing = [""] * len(shown), ""
    try:
        names = images.names(record, shown)
    except DataError as error:
        missing = str(error)
    entries = []
    for index, name in zip(shown.tolist(), names, strict=True):
        status = "right" if clean[index] == given[index] else "wrong"
        entries.append(
            Issue(
                index,
                classes[given[index]],
                classes[train.predicted[index]],
                f"{float(np.exp(train.recorded_log_p[index])):.1g}",
                "unknown" if clean[index] == -1 else status,
                name,
            )
        )
    when = " in the first half of the epochs" if score == "early" else ""
    return IssueList(_summary(issues, given, clean, ~dropped), when, tuple(entries), missing)


def _summary(issues: np.ndarray, given: np.ndarray, clean: np.ndarray, kept: np.ndarray) -> str:
    """`419 label issues in 1297 labels; 410 of them are incorrect, of 518 incorrect labels.`"""
    known = ((clean >= 0) | (clean == OPEN)) & kept
    wrong = known & (clean != given)
    count = f"{len(issues)} label issues in {int(kept.sum())} labels"
    if not known.any():
        return f"{count}; the true labels are unknown."
    scope = "" if known[kept].all() else "known "
    return (
        f"{count}; {int(wrong[issues].sum())} of them are incorrect, of "
        f"{int(wrong.sum())} {scope}incorrect labels."
    )
