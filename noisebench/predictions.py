"""What a network says of N examples, as it lies in `predictions.npz`: every class for K <= 100, else the top five."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TOP = 5
_DENSE = 100  # classes up to which all of log_p is kept


@dataclass(frozen=True)
class Predictions:
    """`classes` (N, <= 5), likeliest first, with `log_p` (N, <= 5); log_p of the recorded and the clean label (N,)
    (NaN where it is unknown); `dense` (N, K) for K <= 100. All float32, rounded to float16 as on disk."""

    classes: np.ndarray
    log_p: np.ndarray
    recorded_log_p: np.ndarray
    clean_log_p: np.ndarray
    dense: np.ndarray | None = None

    @property
    def predicted(self) -> np.ndarray:
        return self.classes[:, 0]

    @classmethod
    def of(cls, log_p: np.ndarray, recorded: np.ndarray, clean: np.ndarray) -> Predictions:
        """From log_p (N, K), float32; the classes are ranked before rounding."""
        classes = np.argsort(-log_p, axis=1, kind="stable")[:, :TOP]
        rounded = np.maximum(log_p, np.finfo(np.float16).min).astype(np.float16).astype(np.float32)
        return cls(
            classes,
            np.take_along_axis(rounded, classes, 1),
            _of_label(rounded, recorded),
            _of_label(rounded, clean),
            rounded if log_p.shape[1] <= _DENSE else None,
        )

    def arrays(self, part: str) -> dict[str, np.ndarray]:
        """For `predictions.npz`, names starting with `part`."""
        arrays = {"classes": self.classes.astype(np.uint16)}
        if self.dense is not None:
            arrays["log_p"] = self.dense.astype(np.float16)
        else:
            arrays["top_log_p"] = self.log_p.astype(np.float16)
            arrays["recorded_log_p"] = self.recorded_log_p.astype(np.float16)
            arrays["clean_log_p"] = self.clean_log_p.astype(np.float16)
        return {f"{part}_{name}": array for name, array in arrays.items()}

    @classmethod
    def load(cls, arrays: dict[str, np.ndarray], part: str, recorded: np.ndarray, clean: np.ndarray) -> Predictions:
        """Back from `arrays`. Raises KeyError where one is missing."""
        classes = arrays[f"{part}_classes"].astype(np.int64)
        if f"{part}_log_p" in arrays:
            dense = arrays[f"{part}_log_p"].astype(np.float32)
            return cls(classes, np.take_along_axis(dense, classes, 1), _of_label(dense, recorded), _of_label(dense, clean), dense)
        names = ("top_log_p", "recorded_log_p", "clean_log_p")
        return cls(classes, *(arrays[f"{part}_{name}"].astype(np.float32) for name in names))


def _of_label(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    chosen = np.take_along_axis(log_p, np.maximum(labels, 0)[:, None], 1)[:, 0]
    return np.where(labels >= 0, chosen, np.nan).astype(np.float32)
