"""Writes the `photos/` of the second chapter of the README here: `python results/photos.py`, then
the commands of that chapter.

The first 5,000 training images of CIFAR-10, in one folder per human label (CIFAR-N's `worse`), and
the first 2,000 test images, in one folder per correct label. Missing data are downloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import noisebench as nb
from noisebench.cli import main as command
from noisebench.datasets import find_dataset, read_images
from noisebench.runs.workspace import Workspace

MANIFEST = Path("manifests/cifar10-worse.csv")
TRAIN, TEST = 5000, 2000


def write(root: Path, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """Writes images (N, H, W, C) as PNG, one folder for each class of the labels (N,)."""
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:05}.png")


def main() -> int:
    """The exit code of `corrupt`."""
    if code := command(["corrupt", "cifar10", "--human", "worse", "--out", str(MANIFEST)]):
        return code
    human_labels, data = nb.read_manifest(MANIFEST).labels, find_dataset("cifar10")
    images = read_images(data, Workspace().data_dir)
    write(Path("photos/train"), images.train_images[:TRAIN], human_labels[:TRAIN], data.classes)
    write(Path("photos/test"), images.test_images[:TEST], images.test_labels[:TEST], data.classes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
