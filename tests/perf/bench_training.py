"""Images a second of one training: `python tests/perf/bench_training.py [MODEL ...] [--device
cuda]`.

On a processor beside the loop that the field's repositories have (DataLoader, torchvision's
transforms, eager float32, NCHW), and beside the rate of a matrix product; on a GPU beside the floor
that its matrix rate and its memory's bandwidth set. All in turn in the same minutes, medians of the
rounds. Images and labels are drawn at random: only time counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from noisebench.core.hardware import resolve_precision
from noisebench.experiments.recipes import make_recipe
from noisebench.losses import build_loss
from noisebench.strategies import build_strategy
from noisebench.training.networks import make_network
from noisebench.training.trainer import Task, Trainer

BATCH, ROUNDS, SIDE, MATRIX = 128, 5, 32, 4096
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Pictures(Dataset):
    """What torchvision's CIFAR10 is: a picture at a time, transformed in Python."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        steps = [transforms.RandomCrop(SIDE, 4), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
                 transforms.Normalize((0.5,) * 3, (0.25,) * 3)]  # fmt: skip
        self.images, self.labels, self.change = (
            images,
            labels,
            transforms.Compose([transforms.ToPILImage(), *steps]),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int):
        return self.change(self.images[place]), int(self.labels[place])


def peers_loop(model: str, images: np.ndarray, labels: np.ndarray) -> Callable[[], float]:
    """Seconds of an epoch of the usual loop."""
    network, loss = make_network(model, 10, (SIDE, SIDE, 3), 0), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(Pictures(images, labels), BATCH, shuffle=True, num_workers=2)

    def epoch() -> float:
        batches = iter(loader)
        begun = time.perf_counter()
        for pictures, classes in batches:
            optimizer.zero_grad()
            cost = loss(network(pictures), classes)
            cost.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            cost.item()  # as they do, for a mean
        return time.perf_counter() - begun

    return epoch


def our_loop(
    model: str, images: np.ndarray, labels: np.ndarray, precision: str, device: torch.device
) -> Callable[[], float]:
    """Seconds of the steps of an epoch of ours, under the recipe `apl`."""
    recipe = replace(
        make_recipe("apl", "cifar10", augment={"crop": 4, "flip": True}, changes={}), epochs=10_000
    )
    task = Task(
        images,
        labels,
        images[:1],
        10,
        model,
        build_loss("ce"),
        build_strategy("standard"),
        recipe,
        0,
        precision,
    )
    trainer = Trainer(task, device)

    def epoch() -> float:
        begun = time.perf_counter()
        trainer.run_epoch()
        return time.perf_counter() - begun

    return epoch


def matrix_rate(precision: str, device: torch.device) -> float:
    """FLOP/s of a product of two square matrices, the best of ten."""
    a = torch.randn(MATRIX, MATRIX, device=device).to(DTYPES[precision])
    seconds = []
    for _ in range(11):
        _wait(device)
        begun = time.perf_counter()
        a @ a
        _wait(device)
        seconds.append(time.perf_counter() - begun)
    return 2 * MATRIX**3 / min(seconds[1:])


def bandwidth(device: torch.device) -> float:
    """Bytes a second of a copy of 1 GiB, read and written."""
    a = torch.empty(2**28, device=device)
    b = torch.empty_like(a)
    _wait(device)
    begun = time.perf_counter()
    for _ in range(10):
        b.copy_(a)
    _wait(device)
    return 20 * 4 * len(a) / (time.perf_counter() - begun)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def work_of_an_image(model: str) -> tuple[float, float]:
    """FLOP forward and backward, and bytes of activations in bf16: each written and read forward,
    read backward, its gradient likewise.
    """
    network, images, seen = (
        make_network(model, 10, (SIDE, SIDE, 3), 0),
        torch.randn(2, 3, SIDE, SIDE),
        [],
    )
    leaves = [layer for layer in network.modules() if not [*layer.children()]]
    hooks = [
        layer.register_forward_hook(lambda _, __, out: seen.append(out.numel())) for layer in leaves
    ]
    with FlopCounterMode(display=False) as counter:
        network(images).sum().backward()
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() / 2, sum(seen) * 2 * 5 / 2


def on_processor(model: str, count: int) -> None:
    """Print a table of the loops, in turn."""
    cpu, auto = torch.device("cpu"), resolve_precision("auto", "cpu")
    generator = np.random.default_rng(0)
    images, labels = (
        generator.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8),
        generator.integers(0, 10, count),
    )
    loops = {
        "the usual loop": peers_loop(model, images, labels),
        "ours, fp32": our_loop(model, images, labels, "fp32", cpu),
    }
    if auto != "fp32":
        loops[f"ours, {auto} (auto)"] = our_loop(model, images, labels, auto, cpu)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    rates: dict[str, list[float]] = {name: [] for name in DTYPES}
    for _ in range(ROUNDS + 1):
        for name, rate in rates.items():
            rate.append(matrix_rate(name, cpu))
        for name, loop in loops.items():
            seconds[name].append(loop())
    flop, _ = work_of_an_image(model)
    speed = {name: count / statistics.median(values[1:]) for name, values in seconds.items()}
    rate = {name: statistics.median(values[1:]) for name, values in rates.items()}
    print(
        f"{model}: {flop / 1e9:.2f} GFLOP an image; matrix products "
        + ", ".join(f"{k} {v / 1e9:.0f} GFLOP/s" for k, v in rate.items())
    )
    print(
        "| loop | images/s | x the usual loop | GFLOP/s | share of the matrix rate |\n| --- | "
        "---: | ---: | ---: | ---: |"
    )
    for name, each in speed.items():
        share = each * flop / rate["bf16" if "bf16" in name else "fp32"]
        print(
            f"| {name} | {each:.0f} | {each / speed['the usual loop']:.1f} | "
            f"{each * flop / 1e9:.0f} | {100 * share:.0f} % |"
        )


def on_gpu(model: str, device: torch.device, count: int) -> None:
    """Print a line: images/s against the floor."""
    generator = np.random.default_rng(0)
    images, labels = (
        generator.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8),
        generator.integers(0, 10, count),
    )
    loop = our_loop(model, images, labels, "bf16", device)
    seconds = [loop() for _ in range(ROUNDS + 2)][2:]
    flop, traffic = work_of_an_image(model)
    bound = min(matrix_rate("bf16", device) / flop, bandwidth(device) / traffic)
    speed = count / statistics.median(seconds)
    print(f"| {model} | {speed:,.0f} | {bound:,.0f} | {100 * speed / bound:.0f} % |", flush=True)


def main() -> None:
    """One table a model, or on a GPU one line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["cnn8"])
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cpu":
        print(
            f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {BATCH}, "
            f"{SIDE} x {SIDE}, medians of {ROUNDS} epochs"
        )
        for model in arguments.models:
            on_processor(model, 10 * BATCH)
        return
    print(
        f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}, batch {BATCH}\n| "
        "model | images/s | floor | share |"
    )
    print("| --- | ---: | ---: | ---: |")
    for model in arguments.models:
        on_gpu(model, device, 50_000)


if __name__ == "__main__":
    main()
