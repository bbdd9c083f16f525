"""What it costs to keep p_y and the gradient's norm of every example: `python
tests/perf/bench_dynamics.py`.

Epochs of two trainings in turn, one that keeps them and one that keeps the predicted class alone;
medians of the rounds and of their ratio. The histograms of an epoch and their file are part of the
first.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from noisebench.core.hardware import resolve_precision
from noisebench.datasets import DATASETS, read_images
from noisebench.experiments.recipes import make_recipe
from noisebench.losses import build_loss
from noisebench.metrics.dynamics import Dynamics
from noisebench.noise import build_noise, sample
from noisebench.strategies import build_strategy
from noisebench.training import packed, state
from noisebench.training.packed import PackedTrainer
from noisebench.training.state import OnlinePredictions
from noisebench.training.trainer import Task, Trainer

ROUNDS, WIDTH = 41, 16


class ClassAlone(OnlinePredictions):
    """What was kept before: the predicted class, written down in every step."""

    def note(self, index: Tensor, logits: Tensor) -> None:
        runs = len(self._labels)
        self._all.predicted.scatter_(
            1, index.view(runs, -1), logits.detach().argmax(-1).view(runs, -1)
        )


def training(model: str, runs: int, kind: type[OnlinePredictions]) -> Callable[[], float]:
    """Seconds of an epoch on digits, of one run or of a pack."""
    state.OnlinePredictions = packed.OnlinePredictions = kind  # type: ignore[misc]
    data = read_images(DATASETS["digits"], Path("unused"))
    recorded = sample(data.train_labels, build_noise("symmetric(rate=0.4)", 10).transition, 0)
    recipe = replace(make_recipe("digits", "digits", augment={}, changes={}), epochs=100_000)
    tasks = [Task(data.train_images, recorded, data.test_images, 10, model, build_loss("ce"), build_strategy("standard"), recipe, seed,
                  resolve_precision("auto", "cpu")) for seed in range(runs)]  # fmt: skip
    trainers = [Trainer(task, torch.device("cpu")) for task in tasks]
    step = (
        PackedTrainer(trainers, WIDTH, ["same"] * runs).run_epoch
        if runs > 1
        else lambda: [trainers[0].run_epoch()]
    )

    def epoch() -> float:
        state.OnlinePredictions = packed.OnlinePredictions = kind  # type: ignore[misc]
        begun = time.perf_counter()
        for end in step():
            if kind is OnlinePredictions:
                dynamics = Dynamics()
                dynamics.add_early(end.train_probs)
                dynamics.add(end.train_p, end.train_gradient, recorded, data.train_labels)
        return time.perf_counter() - begun

    return epoch


def main() -> None:
    torch.set_num_threads(1)
    print(
        "| training | epoch, class alone (ms) | with p_y and gradient | ratio |\n| --- | ---: | "
        "---: | ---: |"
    )
    for model, runs in (("mlp", 1), ("mlp", WIDTH), ("cnn4", 1)):
        before, after = training(model, runs, ClassAlone), training(model, runs, OnlinePredictions)
        pairs = [(before(), after()) for _ in range(ROUNDS)][1:]
        medians = [1000 * statistics.median(side) for side in zip(*pairs, strict=True)]
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"| {model} x {runs}, digits | {medians[0]:.2f} | {medians[1]:.2f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
