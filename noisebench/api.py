"""The command line's noise and losses for Python: noisy labels as numpy arrays, losses as
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
    """Return noisy labels (N,), int64, for true labels (N,).

    The labels are those that `noisebench corrupt` writes for the same noise and seed.

    Args:
        labels: true labels (N,), integers from 0 to num_classes - 1.
        noise: a noise text, such as `symmetric(rate=0.4)` (`noisebench list noises`).
        num_classes: number of classes K.
        seed: seed for sampling the noise.
        images: (N, H, W) or (N, H, W, C), uint8, C = 1 or 3; for instance-dependent noise such as
            `pdn(rate=0.4)`.
        subset: number of examples to use, the same ones as with `--subset`; the labels of the
            others are -1.

    Raises:
        DataError: labels outside 0 to K - 1, or images that are missing or do not match the labels.
        LanguageError: the noise text is invalid, or the noise does not fit the data.
        ConfigError: subset is larger than N, or leaves a class without an example.

    Example:
        >>> labels = np.arange(1000) % 10
        >>> noisy = nb.corrupt(labels, "symmetric(rate=0.4)", num_classes=10)
        >>> (noisy != labels).mean()
        0.4
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
            "openset replaces images, which labels cannot express: use noisebench corrupt"
        )
    return given


@dataclass(frozen=True)
class _ArrayInputs(DatasetInputs):
    """Inputs of a noise: images from memory, the others from files."""

    pixels: np.ndarray | None = None

    @cached_property
    def train_images(self) -> np.ndarray:
        if self.pixels is None:
            raise DataError("this noise depends on the images: give images=")
        return self.pixels


def loss(
    text: str, reduction: str = "mean", ignore_index: int = -100, weight: Tensor | None = None
) -> LossModule:
    """Return a loss as a drop-in replacement for nn.CrossEntropyLoss.

    The module is called as `loss(logits, target)`, with logits (N, K), or any other input shape of
    nn.CrossEntropyLoss, and target as class indices (N,) or probabilities (N, K).

    Args:
        text: a loss text, such as `10*normalized(ce) + 0.1*mae` (`noisebench list losses`).
        reduction: `mean`, `sum` or `none`.
        ignore_index: examples with this target have no loss.
        weight: weights (K,) of the classes, as in nn.CrossEntropyLoss.

    Raises:
        LanguageError: the text is invalid, or needs a data set, such as T=auto.
        ConfigError: an unknown reduction.

    Example:
        >>> criterion = nb.loss("el(eps=0.4)")
        >>> criterion(logits, target).backward()
    """
    from .losses.modules import LossModule

    return LossModule(text, reduction, ignore_index, weight)
