"""Our way of reading pictures beside timm's bare loader: the same files, transforms, workers and
batches, epochs in turn.

    python tests/perf/bench_streaming.py [WORKERS] [BATCH] [EPOCHS] [DEVICE]

Real photographs of scikit-learn's, cut into 768 pictures of 500 x 375 pixels, JPEG at quality 90,
as large as ImageNet's usual ones.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import ImageDataset, create_loader

from noisebench.datasets import find_dataset, read_images
from noisebench.training.images import EpochPlan, Normalisation, StreamTransform
from noisebench.training.inference import source_of

PICTURES, SIZE = 768, (500, 375)


def main(workers: int = 2, batch: int = 64, epochs: int = 7, device: str = "cpu") -> None:
    with tempfile.TemporaryDirectory() as place:
        _write(Path(place))
        ways = {
            "timm's create_loader": _timm(Path(place), workers, batch, device),
            "ours": _ours(Path(place), workers, batch, device),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for epoch in range(epochs + 1):
            for name, run in sorted(ways.items(), reverse=bool(epoch % 2)):
                seconds = _timed(run, device)
                if epoch:  # the first starts the workers
                    found[name].append(PICTURES // batch * batch / seconds)
    ratios = [
        ours / theirs
        for ours, theirs in zip(found["ours"], found["timm's create_loader"], strict=True)
    ]
    print(
        f"{workers} workers, batch {batch}, {epochs} epochs of {PICTURES} pictures in turn, to "
        f"{device}"
    )
    for name, rates in found.items():
        print(f"{name}: {median(rates):.1f} images/s, median; {min(rates):.1f} to {max(rates):.1f}")
    spread = f"{stdev(ratios):.3f} (sample standard deviation of {len(ratios)})"
    print(f"ours / timm's: {mean(ratios):.3f} +- {spread}, median {median(ratios):.3f}")


def _write(place: Path) -> None:
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    for part, n in (("train", PICTURES), ("val", 2)):
        for number in range(n):
            photograph, folder = photographs[number % 2], place / part / "ab"[number % 2]
            left, top = (
                int(rng.integers(0, whole - side))
                for whole, side in zip(photograph.size, SIZE, strict=True)
            )
            folder.mkdir(parents=True, exist_ok=True)
            photograph.crop((left, top, left + SIZE[0], top + SIZE[1])).save(
                folder / f"{number}.jpg", quality=90
            )


def _timm(place: Path, workers: int, batch: int, device: str) -> Callable[[], None]:
    loader = create_loader(
        ImageDataset(str(place / "train")), (3, 224, 224), batch, is_training=True, scale=(0.08, 1.0), hflip=0.5, color_jitter=None,
        interpolation="bilinear", num_workers=workers, pin_memory=device != "cpu", device=torch.device(device),
    )  # fmt: skip

    def run() -> None:
        for images, _ in loader:
            assert images.shape == (batch, 3, 224, 224)

    return run


def _ours(place: Path, workers: int, batch: int, device: str) -> Callable[[], None]:
    pictures = read_images(
        find_dataset(f"folder:{place}", place), place, workers=workers
    ).train_images
    source = source_of(
        pictures,
        Normalisation.of(pictures),
        torch.device(device),
        StreamTransform(224, 0.875, 0.08, flip=True),
    )
    epoch = iter(range(1_000_000))

    def run() -> None:
        plan = EpochPlan.draw(len(source), 1, 0, False, torch.Generator().manual_seed(next(epoch)))
        ats = [slice(start, start + batch) for start in range(0, len(source) - batch + 1, batch)]
        source.start_epoch(plan, ats)
        for at in ats:
            (images,) = source.views(plan, at)
            assert images.shape == (batch, 3, 224, 224)

    return run


def _timed(run: Callable[[], None], device: str) -> float:
    begun = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main(*(int(word) if word.isdigit() else word for word in sys.argv[1:]))  # type: ignore[arg-type]
