"""A subset of the training images: which images, noise on these only, and a manifest with a row for
every image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.progress import ProgressCallback
from ..core.seeds import SUBSET
from ..datasets import Labels
from ..errors import ConfigError, DataError
from ..metrics.predictions import Teaching
from ..noise import NoisyLabels, Review
from ..noise.registry import NoiseInputs
from ..noise.sampling import choose_smallest, expected
from .manifest import Manifest

_SEED = (0, SUBSET)  # of every subset, regardless of the seed of the noise


def check_subset(count: int, name: str, n: int) -> None:
    """Raises ConfigError if a data set has fewer than `count` images."""
    if count > n:
        raise ConfigError(f"--subset {count}: {name} has {n} training images")


def subset_of(data: Labels, count: int | None) -> np.ndarray | None:
    """The examples (n,) of a subset with `count` images, in order; None for all images.

    Sampled at random and stratified by the data set's labels (largest remainder), with a fixed
    seed: the same for every noise, method and seed. A smaller subset is contained in a larger one,
    except for at most one example per class if the shares are not whole numbers. Raises ConfigError
    if there are too few images, or a class would have none.
    """
    if count is None or count == len(data.labels):
        return None
    check_subset(count, data.dataset.name, len(data.labels))
    sizes = np.bincount(data.labels, minlength=data.dataset.num_classes)
    chosen = share_of_each(data.labels, count / len(data.labels), _SEED, data.dataset.num_classes)
    lost = (sizes > 0) & (np.bincount(data.labels[chosen], minlength=len(sizes)) == 0)
    if lost.any():
        name = data.dataset.classes[int(lost.argmax())]
        enough = -(-len(data.labels) // int(sizes[sizes > 0].min()))
        raise ConfigError(
            f"--subset {count} of {len(data.labels)} leaves no image of the class {name}: use "
            f"{enough} or more"
        )
    return chosen.nonzero()[0]


def share_of_each(
    labels: np.ndarray, fraction: float, seed: tuple[int, int], num_classes: int
) -> np.ndarray:
    """A stratified random mask (N,): the expected number overall, and per class up to one."""
    sizes = np.bincount(labels, minlength=num_classes)
    shares = fraction * sizes
    counts = np.floor(shares + 1e-9).astype(np.int64)
    left = expected(fraction, len(labels)) - counts.sum()
    counts[np.argsort(counts - shares, kind="stable")[:left]] += 1
    return choose_smallest(labels, counts, seed)


@dataclass(frozen=True)
class SubsetInputs:
    """The inputs of a noise on a subset: the inputs for all examples at `indices` (n,); `labels`
    (N,) are those of all examples.
    """

    full: NoiseInputs
    labels: np.ndarray
    indices: np.ndarray

    @property
    def tell(self) -> ProgressCallback:
        return self.full.tell

    def images(self) -> Callable[[np.ndarray], np.ndarray]:
        rows = self.full.images()
        return lambda which: rows(self.indices[which])

    def images_sha256(self) -> str:
        """Fingerprint of all images: a training on some of them reads all."""
        return self.full.images_sha256()

    def teacher(self, path: str, sha256: str | None) -> Teaching:
        teacher = self.full.teacher(path, sha256)
        return Teaching(teacher.classes[self.indices], teacher.p[self.indices])

    def human(self, column: str) -> np.ndarray:
        return self.full.human(column)[self.indices]

    def imported(self, path: str, sha256: str | None) -> NoisyLabels:
        noisy = self.full.imported(path, sha256)
        left_out = None if noisy.left_out is None else noisy.left_out[self.indices]
        return replace(
            noisy,
            labels=noisy.labels[self.indices],
            clean=None if noisy.clean is None else noisy.clean[self.indices],
            dropped=left_out,
            left_out=left_out,
        )

    def other(self, dataset: str) -> tuple[dict[str, Any], int]:
        return self.full.other(dataset)

    def review(self, path: str, sha256: str | None, given: np.ndarray) -> Review:
        review = self.full.review(path, sha256, scatter(given, self.indices, self.labels))
        if (beyond := ~np.isin(review.examples, self.indices)).any():
            raise DataError(
                f"{path}: example {review.examples[beyond][0]} is not in the subset: delete its "
                "line"
            )
        return replace(review, examples=np.searchsorted(self.indices, review.examples))


def scatter(values: np.ndarray, indices: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns `others` (N,) with `values` (n,) at `indices`."""
    full = others.copy()
    full[indices] = values
    return full


def expand_to_full(
    part: Manifest, data: Labels, indices: np.ndarray, beyond: NoisyLabels
) -> Manifest:
    """The manifest of a subset with a row for every example, so that an index means the same image;
    examples outside the subset are dropped and have the labels `beyond` (N,).
    """
    n = len(data.labels)

    def expand(values: np.ndarray | None, other: int) -> np.ndarray | None:
        return None if values is None else scatter(values, indices, np.full(n, other, values.dtype))

    return Manifest(
        {**part.meta, "n": n, "labels_sha256": data.fingerprint, "subset": len(indices)},
        scatter(part.labels, indices, beyond.labels),
        scatter(part.clean_labels, indices, data.labels if beyond.clean is None else beyond.clean),
        data.ids,
        expand(part.val, False),
        expand(part.source, -1),
        expand(part.trusted, False),
        expand(~part.included, True),
    )
