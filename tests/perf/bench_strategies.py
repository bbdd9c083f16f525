"""What a strategy costs beside plain training: `python tests/perf/bench_strategies.py [MODEL]`.

Seconds an epoch of the loop, strategies in turn with `standard` and with a bare loop (forward, cross entropy, backward, step
on the same batches), medians as ratios to the bare one. Labels and images are drawn at random: only time counts.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import torch
from torch import nn

from noisebench.losses import build_loss
from noisebench.recipes import Recipe
from noisebench.strategies import build_strategy
from noisebench.training.trainer import Task, Trainer

TEXTS = [
    "standard", "bootstrap", "mentornet(burn_in=0)", "d2l(wait=0)", "joint", "decoupling(warmup=0)", "coteaching(rate=0.4)",
    "coteaching_plus(rate=0.4, warmup=0)", "cleannet(wait=0)", "distill",
]  # fmt: skip
N, ROUNDS = 6400, 5


def trainer(text: str, model: str) -> Trainer:
    """One that has time to train."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, 10, N)
    task = Task(
        images, labels, images[:1], 10, model, build_loss("ce"), build_strategy(text), Recipe(epochs=50), trusted=np.arange(N) % 10 == 0
    )
    return Trainer(task, torch.device("cpu"))


def bare(plain: Trainer) -> float:
    """Seconds of an epoch without any of the loop's own work but the images."""
    network, loss = plain.networks[0].train(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    started = time.perf_counter()
    for index in torch.randperm(N).split(128):
        optimizer.zero_grad()
        loss(network(next(iter(plain.train.plain(index)))), plain.labels[index]).backward()
        optimizer.step()
    return time.perf_counter() - started


def epoch(each: Trainer) -> float:
    """Seconds of one epoch of the loop."""
    started = time.perf_counter()
    each.run_epoch()
    return time.perf_counter() - started


def main() -> None:
    """Print one line a strategy."""
    model = sys.argv[1] if len(sys.argv) > 1 else "cnn4"
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {model}, {N} images of 32 x 32 an epoch, batch 128, medians of {ROUNDS}")
    trainers = {text: trainer(text, model) for text in TEXTS}
    reference = trainer("standard", model)
    seconds: dict[str, list[float]] = {text: [] for text in ("bare", *TEXTS)}
    for _ in range(ROUNDS + 1):
        seconds["bare"].append(bare(reference))
        for text, each in trainers.items():
            seconds[text].append(epoch(each))
    base = statistics.median(seconds["bare"][1:])
    print(f"| strategy | x the bare loop ({base:.2f} s) |\n| --- | ---: |")
    for text in TEXTS:
        print(f"| {text} | {statistics.median(seconds[text][1:]) / base:.2f} |")


if __name__ == "__main__":
    main()
