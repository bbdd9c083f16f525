"""The same as on the command line, from Python: numpy in, numpy out; a loss as an ordinary
torch.nn.Module.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .datasets import Dataset, Labels, find_dataset
from .datasets.npz import as_images, as_labels
from .errors import DataError, LanguageError
from .labels.build import DatasetInputs, LabelRequest, apply_noise
from .labels.subset import SubsetInputs, scatter, subset_of
from .noise import normal_noise

if TYPE_CHECKING:
    from torch import Tensor

    from .losses.modules import LossModule


def corrupt(
    labels: np.ndarray,
    noise: str,
    *,
    num_classes: int,
    seed: int = 0,
    images: np.ndarray | None = None,
    subset: int | None = None,
) -> np.ndarray:
    """Noisy labels (N,), int64, for true labels (N,) under a noise text.

    images (N, H, W) or (N, H, W, 1 or 3), uint8: for instance-dependent noise such as
    `pdn(rate=0.4)`. subset: the number of examples, the same ones as the command line's `--subset`;
    the labels of the others are -1. Raises DataError for labels that are no classes, LanguageError
    for a noise that does not fit, ConfigError for such a subset.
    """
    clean = as_labels(np.asarray(labels), "labels")
    if clean.max() >= num_classes:
        raise DataError(f"label {clean.max()} is out of range: num_classes is {num_classes}")
    pixels = None if images is None else as_images(np.asarray(images), "images")
    if pixels is not None and len(pixels) != len(clean):
        raise DataError(f"{len(pixels)} images but {len(clean)} labels")
    data = Labels(
        Dataset(
            "labels",
            "",
            tuple(map(str, range(num_classes))),
            (0, 0, 0),
            len(clean),
            0,
            "mlp",
            "apl",
        ),
        clean,
    )
    inputs = _ArrayInputs(data, Path(), True, find_dataset, pixels=pixels)
    request = LabelRequest(noise, seed, subset=subset)
    call, indices = normal_noise(request.noise), subset_of(data, request.subset)
    if indices is None:
        noisy = apply_noise(call, data, request.seed, inputs)
        given = noisy.labels
    else:
        sources = SubsetInputs(inputs, data.labels, indices)
        noisy = apply_noise(call, data.take(indices), request.seed, sources)
        given = scatter(noisy.labels, indices, np.full(len(clean), -1))
    if noisy.source is not None:
        raise LanguageError(
            "openset changes images, not labels: make a manifest of it with noisebench corrupt"
        )
    return given


@dataclass(frozen=True)
class _ArrayInputs(DatasetInputs):
    """Images from memory; other inputs of a noise from files by path."""

    pixels: np.ndarray | None = None

    @cached_property
    def train_images(self) -> np.ndarray:
        if self.pixels is None:
            raise DataError("this noise looks at the images: give images=")
        return self.pixels


def loss(
    text: str, reduction: str = "mean", ignore_index: int = -100, weight: Tensor | None = None
) -> LossModule:
    """A loss of the language as a replacement of nn.CrossEntropyLoss: `loss("el(eps=0.4)")(logits,
    target)`.

    logits (N, K), or any shape that CrossEntropyLoss takes; target: class indices (N,) or
    probabilities (N, K). reduction: mean, sum or none; ignore_index and weight (K,) as
    CrossEntropyLoss has them.
    """
    from .losses.modules import LossModule

    return LossModule(text, reduction, ignore_index, weight)
