"""A network's predictions for N examples, as in `predictions.npz`: every class for K <= 100, else
the top five; and teacher files: the top classes of every training example, from which
instance-dependent noise is generated.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files.arrays import npz_arrays, packed_npz, read_npy
from ..core.files.atomic import atomic_write, read_checked
from ..errors import DataError

TOP = 5
DENSE = 100  # classes up to which p of every class is stored
_CHUNK = 4096  # examples whose probabilities are in memory at once


@dataclass(frozen=True)
class Predictions:
    """`classes` (N, <= 5), likeliest first, with `log_p` (N, <= 5); log_p of the given and the true
    label (N,) (NaN if unknown); `dense` (N, K) for K <= 100. All float32, rounded to float16 as on
    disk.

    squared (N,): the sum of p^2 over all classes, for the Brier score, float64; None in an older
    file with K > 100.
    """

    classes: np.ndarray
    log_p: np.ndarray
    recorded_log_p: np.ndarray
    clean_log_p: np.ndarray
    squared: np.ndarray | None
    dense: np.ndarray | None = None

    @property
    def predicted(self) -> np.ndarray:
        return self.classes[:, 0]

    def passed(self, through: Callable[[np.ndarray], np.ndarray]) -> Predictions:
        """Applies a function to each array."""
        columns: dict[str, Any] = {
            key: None if array is None else through(array) for key, array in vars(self).items()
        }
        return Predictions(**columns)

    def take(self, which: np.ndarray) -> Predictions:
        """The predictions of some examples: indices, or a mask (N,)."""
        return self.passed(itemgetter(which))

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """The predictions of several sets of examples, concatenated."""
        columns: list[Any] = [
            None if arrays[0] is None else np.concatenate(arrays)
            for arrays in zip(*(vars(part).values() for part in parts), strict=True)
        ]
        return cls(*columns)

    @classmethod
    def of(cls, log_p: np.ndarray, recorded: np.ndarray, clean: np.ndarray) -> Predictions:
        """From log_p (N, K), float32; the classes are ranked before rounding."""
        classes = np.argsort(-log_p, axis=1, kind="stable")[:, :TOP]
        kept = rounded(log_p)
        squared = None if log_p.shape[1] <= DENSE else rounded(_squared(log_p))
        return cls._of_all(classes, kept, squared, recorded, clean)

    @classmethod
    def _of_all(
        cls,
        classes: np.ndarray,
        log_p: np.ndarray,
        squared: np.ndarray | None,
        recorded: np.ndarray,
        clean: np.ndarray,
    ) -> Predictions:
        """From log_p of every class (N, K), rounded; squared: None to compute it from these."""
        labels = np.stack([recorded, clean], 1)
        chosen = np.take_along_axis(log_p, np.maximum(labels, 0), 1)
        of_recorded, of_clean = np.where(labels >= 0, chosen, np.nan).astype(np.float32).T.copy()
        return cls(
            classes,
            np.take_along_axis(log_p, classes, 1),
            of_recorded,
            of_clean,
            _squared(log_p) if squared is None else squared,
            log_p if log_p.shape[1] <= DENSE else None,
        )

    def arrays(self, part: str) -> dict[str, np.ndarray]:
        """The arrays for `predictions.npz`, with names starting with `part`."""
        arrays = {"classes": self.classes.astype(np.uint16)}
        if self.dense is not None:
            arrays["log_p"] = self.dense.astype(np.float16)
        else:
            arrays["top_log_p"] = self.log_p.astype(np.float16)
            arrays["recorded_log_p"] = self.recorded_log_p.astype(np.float16)
            arrays["clean_log_p"] = self.clean_log_p.astype(np.float16)
            if self.squared is not None:
                arrays["squared"] = self.squared.astype(np.float16)
        return {f"{part}_{name}": array for name, array in arrays.items()}

    @classmethod
    def load(
        cls, arrays: dict[str, np.ndarray], part: str, recorded: np.ndarray, clean: np.ndarray
    ) -> Predictions:
        """From `arrays`. Raises KeyError if one is missing."""
        classes = arrays[f"{part}_classes"].astype(np.int64)
        if f"{part}_log_p" in arrays:
            dense = arrays[f"{part}_log_p"].astype(np.float32)
            return cls._of_all(classes, dense, None, recorded, clean)
        squared = arrays.get(f"{part}_squared")
        names = ("top_log_p", "recorded_log_p", "clean_log_p")
        top, of_recorded, of_clean = (arrays[f"{part}_{name}"].astype(np.float32) for name in names)
        return cls(
            classes,
            top,
            of_recorded,
            of_clean,
            None if squared is None else squared.astype(np.float64),
        )


def rounded(values: np.ndarray) -> np.ndarray:
    """Rounded to float16 as on disk, clipped to its range."""
    return np.maximum(values, np.finfo(np.float16).min).astype(np.float16).astype(values.dtype)


def _squared(log_p: np.ndarray) -> np.ndarray:
    """The sum of p^2 (N,) over the classes of log_p (N, K)."""
    parts = np.split(log_p, range(_CHUNK, len(log_p), _CHUNK))
    return np.concatenate([np.exp(2 * part.astype(np.float64)).sum(1) for part in parts])


@dataclass(frozen=True)
class Teaching:
    """The likeliest classes of each example: `classes` (N, >= 2), likeliest first, and their
    probabilities `p`.
    """

    classes: np.ndarray
    p: np.ndarray


def write_teacher(
    path: Path, train: Predictions, num_classes: int, labels_sha256: str, run: str
) -> None:
    """Writes an .npz with `classes`, `p`, `num_classes`, `labels_sha256` (the fingerprint of the
    true labels) and `run` (its name).
    """
    arrays: dict[str, Any] = {
        "classes": train.classes.astype(np.uint16),
        "p": np.exp(train.log_p.astype(np.float64)).astype(np.float32),
        "num_classes": np.int64(num_classes),
        "labels_sha256": np.bytes_(labels_sha256.encode()),
        "run": np.bytes_(run.encode()),
    }
    atomic_write(path, lambda file: file.write(packed_npz(arrays)))


def write_probabilities(path: Path, predictions: Predictions) -> None:
    """Writes p (N, K) of every class as .npy, float32, rows of sum 1, for other tools. Raises
    DataError if K is too large.
    """
    if predictions.dense is None:
        raise DataError(
            f"{path}: with more than {DENSE} classes a run stores only the top {TOP}: "
            "write an .npz instead"
        )
    p = np.exp(predictions.dense.astype(np.float64))
    p = (p / p.sum(1, keepdims=True)).astype(np.float32)
    atomic_write(path, lambda file: np.save(file, p))


def read_teacher(
    path: Path, n: int, num_classes: int, labels_sha256: str, sha256: str | None = None
) -> Teaching:
    """Reads a file of `write_teacher`, or probabilities (N, K) as .npy. Raises DataError if it does
    not fit the data.
    """
    raw = read_checked(path, sha256)
    try:
        if raw.startswith(b"PK"):
            largest = 1024 + 8 * max(n, 8) * num_classes
            arrays = npz_arrays(io.BytesIO(raw), ("classes", "p", "labels_sha256"), largest)
            classes, p = arrays["classes"].astype(np.int64), arrays["p"].astype(np.float64)
            if arrays["labels_sha256"].tobytes().rstrip(b"\0").decode() != labels_sha256:
                raise ValueError("its network was trained on other data")
        else:
            dense = read_npy(io.BytesIO(raw), len(raw))
            if dense.shape[1:] != (num_classes,) or not np.issubdtype(dense.dtype, np.floating):
                raise ValueError(
                    f"expected probabilities (N, {num_classes}), got {dense.shape} of {dense.dtype}"
                )
            one = np.abs(dense.sum(1, dtype=np.float64) - 1) <= 1e-3
            if not one.all() or (dense < 0).any():
                raise ValueError("its rows are not probabilities: finite, at least 0, with sum 1")
            classes = np.argsort(-dense, axis=1, kind="stable")[:, :TOP]
            p = np.take_along_axis(dense, classes, 1).astype(np.float64)
        if classes.ndim != 2 or classes.shape != p.shape or classes.shape[1] < 2:
            raise ValueError(
                "expected at least two classes per example and their probabilities, got "
                f"{classes.shape} and {p.shape}"
            )
        if len(classes) != n:
            raise ValueError(f"it has {len(classes)} predictions, but the data {n} examples")
        in_range = classes.min() >= 0 and classes.max() < num_classes
        if not in_range or not ((p >= 0) & (p <= 1 + 1e-3)).all():
            raise ValueError("a class is out of range, or a probability not in [0, 1]")
        if (classes[:, 0] == classes[:, 1]).any():
            raise ValueError("an example's first and second class are the same")
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path} has no predictions for these data ({' '.join(str(error).split())})"
        ) from None
    return Teaching(classes, p)
