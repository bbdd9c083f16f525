"""The same as on the command line, from Python: numpy in, numpy out; a loss as an ordinary torch.nn.Module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .datasets.archive import as_labels
from .errors import DataError
from .noise import build_noise, draw

if TYPE_CHECKING:
    from .training.adapter import LossModule


def corrupt(labels: np.ndarray, noise: str, *, num_classes: int, seed: int = 0) -> np.ndarray:
    """Recorded labels (N,), int64, for clean labels (N,) under a noise text.

    Raises DataError for labels that are no classes, LanguageError for a noise that does not fit.
    """
    clean = as_labels(np.asarray(labels), "labels")
    if clean.max() >= num_classes:
        raise DataError(f"label {clean.max()} is out of range: num_classes is {num_classes}")
    model = build_noise(noise, num_classes)
    return draw(clean, model.transition, seed, exact=model.exact)


def loss(text: str, reduction: str = "mean") -> LossModule:
    """A loss of the language in the place of nn.CrossEntropyLoss: `loss("el(eps=0.4)")(logits, target)`.

    target: class indices (N,) or probabilities (N, K). reduction: mean, sum or none.
    """
    from .training.adapter import LossModule

    return LossModule(text, reduction)
