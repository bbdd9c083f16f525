"""What features cost, each beside its reference in the same run.

python tests/perf/bench_features.py extraction [WEIGHTS.safetensors]   # one minute
python tests/perf/bench_features.py heads [RUNS] [WORKSPACE]           # 224 linear runs; ten minutes
python tests/perf/bench_features.py stream                             # 10 million x 512; 11 GB of disk
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import timm
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from noisebench.datasets import Fitting, fit_images
from noisebench.experiments.backbones import initial_of
from noisebench.experiments.features import FeatureNetwork
from noisebench.training.features import FeatureExtractor, extract_to_file

MODEL, SIZE, IMAGES = "tf_efficientnet_lite0", 128, 1536
N, M, D, K, EPOCHS = 50_000, 10_000, 1280, 10, 30
SUITE = """
version: 1
suites:
  heads:
    defaults: {dataset: ./made.npz, model: linear, seeds: [%s]}
    matrix:
      noise: [%s]
      method: [ce, lsr, bootstrap, forward, sl, d2l, gce, el]
"""
NOISES = ", ".join(
    [f"symmetric(rate={rate})" for rate in (0.2, 0.4, 0.6, 0.8)]
    + [f"\"asymmetric(rate={rate}, map='next')\"" for rate in (0.2, 0.3, 0.4)]
)


def seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def extraction(weights: str | None = None) -> None:
    """Images/s of the whole extraction (resizing, network, file), beside the network's forward
    passes on tensors that are ready: same batch, precision and layout, alternating.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(weights or f"{folder}/random.safetensors")
        if weights is None:
            save_file(timm.create_model(MODEL).state_dict(), path)
        network = FeatureNetwork(f"timm:{MODEL}", initial_of(path.name, path))
        images = np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
        fitting = Fitting(SIZE, SIZE)
        print("| precision | forward only, images/s | extraction, images/s | share |")
        print("| --- | ---: | ---: | ---: |")
        for precision in ("fp32", "bf16"):
            extractor = FeatureExtractor(network.at(SIZE, "crop", precision), torch.device("cpu"))
            model = timm.create_model(MODEL, num_classes=0).eval()
            model = model.to(memory_format=torch.channels_last)
            batch = torch.randn(extractor.batch_size, 3, SIZE, SIZE)
            batch = batch.contiguous(memory_format=torch.channels_last)

            def forward(
                model: nn.Module = model,
                batch: torch.Tensor = batch,
                bf16: bool = precision == "bf16",
            ) -> None:
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    for _ in range(IMAGES // len(batch)):
                        model(batch)

            def whole(number: int, extractor: FeatureExtractor = extractor) -> None:
                file = Path(folder) / f"{extractor.extraction.precision}{number}.npy"
                extract_to_file(
                    extractor, lambda a, b: fit_images(images[a:b], fitting, 3), IMAGES, file
                )

            forward()
            pairs = [(seconds(forward), seconds(lambda n=n: whole(n))) for n in range(3)]
            alone, ours = (IMAGES / median(times) for times in zip(*pairs, strict=True))
            print(f"| {precision} | {alone:.0f} | {ours:.0f} | {ours / alone:.0%} |", flush=True)


def made(path: Path) -> None:
    """Features of ten classes, Gaussian around their means."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, N + M)
    features = rng.normal(size=(K, D))[labels] * 0.22 + rng.normal(size=(N + M, D))
    features = features.astype(np.float16)
    np.savez(
        path,
        train_features=features[:N],
        train_labels=labels[:N],
        test_features=features[N:],
        test_labels=labels[N:],
    )


def heads(runs: str = "224", workspace: str | None = None) -> None:
    """The suite `heads` by noisebench, with everything that a run records, beside one run by a plain
    PyTorch loop and one by scikit-learn.
    """
    seeds = int(runs) // 56
    with tempfile.TemporaryDirectory() as folder:
        place = Path(workspace or folder)
        made(place / "made.npz")
        listed = ", ".join(map(str, range(seeds)))
        (place / "benchmarks.yaml").write_text(SUITE % (listed, NOISES), encoding="utf-8")
        command = [sys.executable, "-m", "noisebench", "-q", "run", "heads"]
        ours = seconds(lambda: subprocess.run(command, cwd=place, check=True, capture_output=True))
        arrays = np.load(place / "made.npz")
        x = torch.from_numpy(arrays["train_features"]).float()
        y = torch.from_numpy(arrays["train_labels"])
        loop = seconds(lambda: plain_loop(x, y))
        solver = LogisticRegression(max_iter=100)
        sklearn = seconds(lambda: solver.fit(x.numpy(), y.numpy()))
    print(f"{56 * seeds} linear runs of {N:,} x {D:,}, {EPOCHS} epochs, two cores\n")
    print("| | seconds | a run | x ours |")
    print("| --- | ---: | ---: | ---: |")
    each = ours / (56 * seeds)
    for name, total, one in (
        ("noisebench, all runs with their records", ours, each),
        ("a plain PyTorch loop with a DataLoader, one run, no evaluation", loop, loop),
        ("scikit-learn's LogisticRegression, one run, no evaluation", sklearn, sklearn),
    ):
        print(f"| {name} | {total:.1f} | {one:.2f} | {one / each:.1f} |")


def plain_loop(x: torch.Tensor, y: torch.Tensor) -> None:
    loader = DataLoader(TensorDataset(x, y), 512, shuffle=True)
    head = nn.Linear(D, K)
    optimizer = torch.optim.SGD(head.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
    for _ in range(EPOCHS):
        for features, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(features), labels).backward()
            optimizer.step()
            schedule.step()


def stream() -> None:
    """One epoch on 10 million x 512 features that stay in their file, by a process that may have
    4 GB of memory of its own (RLIMIT_DATA); pages of the file are not counted, since the system
    may drop them at any time.
    """
    n, dimensions = 10_000_000, 512
    with tempfile.TemporaryDirectory(dir=".") as folder:
        write_large(Path(folder) / "large.npz", n, dimensions)
        code = """if True:
            from noisebench.cli import main
            code = main("train ./large.npz --sym 0.4 --epochs 1 --batch-size 4096".split())
            assert code == 0
            print(*[line for line in open("/proc/self/status") if line.startswith("VmHWM")])
        """
        taken = seconds(
            lambda: subprocess.run(
                [sys.executable, "-c", code], cwd=folder, check=True, preexec_fn=limit
            )
        )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(
        f"{n:,} x {dimensions}: {taken:.0f} s, resident at most {peak:.1f} GB with the file's pages"
    )


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))


def write_large(path: Path, n: int, dimensions: int) -> None:
    """An uncompressed .npz, written in parts."""
    import zipfile

    rng, rows = np.random.default_rng(0), 100_000
    means = rng.normal(size=(K, dimensions)).astype(np.float32) * 0.3
    labels = rng.integers(0, K, n)
    with zipfile.ZipFile(path, "w") as archive:
        parts = {"train": labels, "test": labels[:rows]}
        for part, values in parts.items():
            with archive.open(f"{part}_features.npy", "w", force_zip64=True) as file:
                header = {
                    "descr": "<f2",
                    "fortran_order": False,
                    "shape": (len(values), dimensions),
                }
                np.lib.format.write_array_header_1_0(file, header)
                for start in range(0, len(values), rows):
                    of_rows = values[start : start + rows]
                    noise = rng.standard_normal((len(of_rows), dimensions), np.float32)
                    file.write((means[of_rows] + noise).astype(np.float16).tobytes())
            with archive.open(f"{part}_labels.npy", "w") as file:
                np.lib.format.write_array(file, values)


if __name__ == "__main__":
    {"extraction": extraction, "heads": heads, "stream": stream}[sys.argv[1]](*sys.argv[2:])
