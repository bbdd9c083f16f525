"""The predictions of a finished run, read from its files, and their metrics. Needs no torch."""

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
    held out and dropped, as "train", "val" and "dropped"; arrays: everything in the file.
    """

    train: Predictions
    test: Predictions
    labels: dict[str, np.ndarray]
    parts: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]

    def metrics(self, num_classes: int) -> dict[str, Any]:
        """As they stand in result.json. Raises DataError as `check` does."""
        self.check()
        return scores.of_run(self.train, self.test, self.labels, num_classes, self.parts)

    def check(self) -> None:
        """Raises DataError where a prediction is not finite, of which no metric can be computed."""
        for part, predictions in (("training", self.train), ("test", self.test)):
            log_p = predictions.log_p if predictions.dense is None else predictions.dense
            if bad := int((~np.isfinite(log_p)).any(1).sum()):
                raise DataError(
                    f"of the {part} examples {bad} have a prediction that is not "
                    "finite: run it again with --force"
                )


def load_predictions(folder: RunFolder, num_classes: int) -> RunPredictions:
    """Raises DataError where predictions.npz is missing, damaged, or does not hold what a run
    writes.
    """
    arrays = folder.read_arrays()
    try:
        labels = {
            part: arrays[f"{part}_labels"].astype(np.int64)
            for part in ("recorded", "clean", "test")
        }
        n = len(labels["recorded"])
        parts = scores.parts_of(arrays, n)
        _check_labels(labels, parts, num_classes)
        train = Predictions.load(arrays, "train", labels["recorded"], labels["clean"])
        test = Predictions.load(arrays, "test", labels["test"], labels["test"])
        _check_sizes(train, n, num_classes)
        _check_sizes(test, len(labels["test"]), num_classes)
        for name in {"dropped", "trusted"} & arrays.keys():
            if arrays[name].dtype != bool or arrays[name].shape != (n,):
                raise ValueError("what is dropped or trusted is not given for every example")
        if "early_classes" in arrays:
            recorded = labels["recorded"]
            _check_sizes(Predictions.load(arrays, "early", recorded, recorded), n, num_classes)
    except KeyError as error:
        raise DataError(f"{folder.predictions} lacks {error}: run it again with --force") from None
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{folder.predictions} is damaged ({error}): run it again with --force"
        ) from None
    return RunPredictions(train, test, labels, parts, arrays)


def check_counts(record: dict[str, Any], stored: RunPredictions) -> dict[str, dict[str, int]]:
    """The numbers of expected and of evaluated examples. Raises DataError where they differ.

    Of an older record, without the expected ones, the number of labels.
    """
    train = stored.parts["train"]
    labels = {"train": int(train.sum()), "test": len(stored.labels["test"])}
    expected = {part: int(record.get("expected", labels)[part]) for part in labels}
    seen = {"train": len(stored.train.take(train).classes), "test": len(stored.test.classes)}
    missing = [
        f"{seen[part]} of {n} {part} examples" for part, n in expected.items() if seen[part] != n
    ]
    if missing:
        raise DataError(
            f"{record['path']}: its predictions are of {' and '.join(missing)}: run it "
            "again with --force"
        )
    return {"expected": expected, "seen": seen}


def _check_labels(
    labels: dict[str, np.ndarray], parts: dict[str, np.ndarray], num_classes: int
) -> None:
    for part, least in (("recorded", 0), ("clean", -2), ("test", 0)):
        values = labels[part]
        is_list = values.ndim == 1 and len(values)
        if not is_list or values.min() < least or values.max() >= num_classes:
            raise ValueError(
                f"its {part} labels are not classes from 0 to {num_classes - 1}, one an example"
            )
    n = len(labels["recorded"])
    fit = all(part.dtype == bool and len(part) == n for part in parts.values())
    if not fit or n != len(labels["clean"]) or not parts["train"].any():
        raise ValueError("its training labels are not of the same examples")


def _check_sizes(predictions: Predictions, n: int, num_classes: int) -> None:
    classes, log_p, dense = predictions.classes, predictions.log_p, predictions.dense
    is_table = classes.ndim == 2 and classes.shape == log_p.shape and classes.size
    if not is_table or classes.max() >= num_classes:
        raise ValueError("its predictions are no classes with a log_p each")
    lengths = {len(classes), len(predictions.recorded_log_p), len(predictions.clean_log_p)}
    if lengths != {n} or (dense is not None and dense.shape != (n, num_classes)):
        raise ValueError(f"its predictions are not of {n} examples and {num_classes} classes")
    above = (log_p > _ABOVE).any() or (dense is not None and (dense > _ABOVE).any())
    if classes.min() < 0 or above:
        raise ValueError("its predictions are no logarithms of probabilities")
