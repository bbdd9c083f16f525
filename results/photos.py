"""Makes the `photos/` of README's second chapter here: `python results/photos.py`, then its
commands.

The first 5,000 training pictures of CIFAR-10, in the folders of the labels that people gave them
(CIFAR-N's `worse`), and its first 2,000 test pictures, labelled right. Both are downloaded where
they are not at hand.
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


def write(place: Path, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """Pictures (N, H, W, C) in folders by the names of their labels (N,)."""
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = place / classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:05}.png")


def main() -> int:
    """The exit code of `corrupt`."""
    if code := command(["corrupt", "cifar10", "--human", "worse", "--out", str(MANIFEST)]):
        return code
    recorded, data = nb.read_manifest(MANIFEST).labels, find_dataset("cifar10")
    images = read_images(data, Workspace().data_dir)
    write(Path("photos/train"), images.train_images[:TRAIN], recorded[:TRAIN], data.classes)
    write(Path("photos/test"), images.test_images[:TEST], images.test_labels[:TEST], data.classes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
