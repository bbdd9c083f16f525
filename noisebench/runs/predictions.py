"""What a finished run says of its images, read from its own files, and all numbers that come of it.
Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from ..metrics import scores
from ..metrics.predictions import Predictions
from .folder import RunFolder

_ABOVE = 0.01  # by which rounding may lift a logarithm above that of 1


@dataclass(frozen=True)
class RunPredictions:
    """predictions.npz: of every training example (N,), those held out too, and of the test set
    (M,); `labels`: recorded and clean (N,), test (M,); parts: which examples (N,) were trained on,
    held out and dropped, as "train", "val" and "dropped".
    """

    train: Predictions
    test: Predictions
    labels: dict[str, np.ndarray]
    parts: dict[str, np.ndarray]

    def metrics(self, num_classes: int) -> dict[str, Any]:
        """As they stand in result.json. Raises DataError as `check` does."""
        self.check()
        return scores.of_run(self.train, self.test, self.labels, num_classes, self.parts)

    def check(self) -> None:
        """Raises DataError where a prediction is not finite: no number comes of it."""
        for part, each in (("training", self.train), ("test", self.test)):
            if bad := int(
                (~np.isfinite(each.log_p if each.dense is None else each.dense)).any(1).sum()
            ):
                raise DataError(
                    f"of the {part} examples {bad} have a prediction that is not "
                    "finite: run it again with --force"
                )


def load_predictions(folder: RunFolder, num_classes: int) -> RunPredictions:
    """Raises DataError where predictions.npz is missing, damaged, or does not hold what a run
    writes.
    """
    return _said(folder, folder.read_arrays(), num_classes)


def checked_arrays(folder: RunFolder, num_classes: int) -> dict[str, np.ndarray]:
    """Everything in predictions.npz, once it is known to be what a run writes. Raises DataError."""
    arrays = folder.read_arrays()
    n = len(_said(folder, arrays, num_classes).labels["recorded"])
    try:
        if any(
            arrays[name].dtype != bool or arrays[name].shape != (n,)
            for name in ("dropped", "trusted")
            if name in arrays
        ):
            raise ValueError("what is dropped or trusted is not said of every example")
        if "early_classes" in arrays:
            recorded = arrays["recorded_labels"].astype(np.int64)
            _check_sizes(Predictions.load(arrays, "early", recorded, recorded), n, num_classes)
    except (KeyError, ValueError, IndexError) as error:
        raise DataError(
            f"{folder.predictions} is damaged ({error}): run it again with --force"
        ) from None
    return arrays


def _said(folder: RunFolder, arrays: dict[str, np.ndarray], num_classes: int) -> RunPredictions:
    try:
        labels = {
            part: arrays[f"{part}_labels"].astype(np.int64)
            for part in ("recorded", "clean", "test")
        }
        parts = scores.parts_of(arrays, len(labels["recorded"]))
        _check_labels(labels, parts, num_classes)
        train = Predictions.load(arrays, "train", labels["recorded"], labels["clean"])
        test = Predictions.load(arrays, "test", labels["test"], labels["test"])
        _check_sizes(train, len(labels["recorded"]), num_classes)
        _check_sizes(test, len(labels["test"]), num_classes)
    except KeyError as error:
        raise DataError(f"{folder.predictions} lacks {error}: run it again with --force") from None
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{folder.predictions} is damaged ({error}): run it again with --force"
        ) from None
    return RunPredictions(train, test, labels, parts)


def check_counts(record: dict[str, Any], said: RunPredictions) -> dict[str, dict[str, int]]:
    """As many examples have a prediction as there were to evaluate; both numbers. Raises DataError
    where they differ.

    Of an older record, which does not say what was expected, what the labels are of.
    """
    labels = {"train": int(said.parts["train"].sum()), "test": len(said.labels["test"])}
    expected = {part: int(record.get("expected", labels)[part]) for part in labels}
    seen = {
        "train": len(said.train.take(said.parts["train"]).classes),
        "test": len(said.test.classes),
    }
    if unlike := [
        f"{seen[part]} of {n} {part} examples" for part, n in expected.items() if seen[part] != n
    ]:
        raise DataError(
            f"{record['path']}: its predictions are of {' and '.join(unlike)}: run it "
            "again with --force"
        )
    return {"expected": expected, "seen": seen}


def _check_labels(
    labels: dict[str, np.ndarray], parts: dict[str, np.ndarray], num_classes: int
) -> None:
    for part, least in (("recorded", 0), ("clean", -2), ("test", 0)):
        values = labels[part]
        if (
            values.ndim != 1
            or not len(values)
            or values.min() < least
            or values.max() >= num_classes
        ):
            raise ValueError(
                f"its {part} labels are not classes from 0 to {num_classes - 1}, one an example"
            )
    whole = all(
        part.dtype == bool and len(part) == len(labels["recorded"]) for part in parts.values()
    )
    if not whole or len(labels["recorded"]) != len(labels["clean"]) or not parts["train"].any():
        raise ValueError("its training labels are not of the same examples")


def _check_sizes(said: Predictions, n: int, num_classes: int) -> None:
    if (
        said.classes.ndim != 2
        or said.classes.shape != said.log_p.shape
        or not said.classes.size
        or said.classes.max() >= num_classes
    ):
        raise ValueError("its predictions are no classes with a log_p each")
    wide = said.dense is not None and said.dense.shape != (n, num_classes)
    if wide or not len(said.classes) == len(said.recorded_log_p) == len(said.clean_log_p) == n:
        raise ValueError(f"its predictions are not of {n} examples and {num_classes} classes")
    if said.classes.min() < 0 or any(
        (log_p > _ABOVE).any() for log_p in (said.log_p, said.dense) if log_p is not None
    ):
        raise ValueError("its predictions are no logarithms of probabilities")
