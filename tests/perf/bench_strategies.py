"""What a strategy costs beside plain training: `python tests/perf/bench_strategies.py [MODEL [TEXT
...]]`; without texts every strategy.

Each runs from its first epoch to its last, one epoch in turn with a bare loop (forward, cross
entropy, backward, step on the same batches), its networks' passes counted. Shown is the phase in
which it costs most, whichever part of the run that is: the two or more epochs with the most passes,
to a fiftieth, but the first, which warms up. A look at the whole set once in a run is no phase.
What the strategy declares stands before what was counted. Images are a picture a class under noise,
two labels in five are wrong, one in ten is verified, so that a strategy's choices are as in
earnest.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from noisebench.core.registry import Entry
from noisebench.errors import RunFailed
from noisebench.experiments.recipes import Recipe
from noisebench.losses import build_loss
from noisebench.strategies import STRATEGIES, ComputeCost, build_strategy, normal_strategy
from noisebench.training.trainer import Task, Trainer

N, EPOCHS, BATCH = 3200, 8, 128
_AS_MANY = 0.98  # of the most passes of an epoch, from which on one is of the same phase


def text_of(entry: Entry) -> str:
    """The strategy by default; the rate that only a manifest knows is told."""
    told = ", ".join(f"{p.name}=0.4" for p in entry.parameters if p.auto == "rate")
    return f"{entry.name}({told})" if told else entry.name


def trainer(text: str, model: str) -> Trainer:
    """One with nothing done."""
    generator = np.random.default_rng(0)
    clean = generator.integers(0, 10, N)
    pictures = generator.integers(0, 256, (10, 32, 32, 3))
    images = ((pictures[clean] + generator.integers(0, 256, (N, 32, 32, 3))) // 2).astype(np.uint8)
    trusted, wrong = np.arange(N) % 10 == 0, np.arange(N) % 5 < 2
    labels = np.where(wrong & ~trusted, (clean + generator.integers(1, 10, N)) % 10, clean)
    recipe = Recipe(epochs=EPOCHS, batch_size=BATCH)
    task = Task(
        images,
        labels,
        images[:1],
        10,
        model,
        build_loss("ce"),
        build_strategy(text),
        recipe,
        trusted=trusted,
    )
    return Trainer(task, torch.device("cpu"))


@dataclass
class Watched:
    """A training, its networks' passes counted; of each epoch forward and backward passes an
    example, and seconds.
    """

    trainer: Trainer
    epochs: list[tuple[float, float, float]] = field(default_factory=list)
    failed: str = ""
    forward: int = 0
    backward: int = 0

    def __post_init__(self) -> None:
        for network in self.trainer.networks:
            network.register_forward_hook(self._count)

    def _count(
        self, network: nn.Module, inputs: tuple[torch.Tensor, ...], logits: torch.Tensor
    ) -> None:
        self.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)

    def _count_backward(self, gradient: torch.Tensor) -> None:
        self.backward += len(gradient)

    def run_epoch(self) -> None:
        """One more, unless it has failed."""
        if self.failed:
            return
        # less the one test image
        self.forward, self.backward, started = -len(self.trainer.networks), 0, time.perf_counter()
        try:
            self.trainer.run_epoch()
        except RunFailed as error:
            self.failed = str(error)
            return
        self.epochs.append((self.forward / N, self.backward / N, time.perf_counter() - started))

    def dearest(self) -> list[tuple[float, float, float]]:
        """The epochs of the phase that costs most; one by itself is a phase only if all are."""
        work = {epoch: epoch[0] + 2 * epoch[1] for epoch in self.epochs[1:]}
        phases = [
            [epoch for epoch, cost in work.items() if _AS_MANY * most <= cost <= most]
            for most in sorted(work.values(), reverse=True)
        ]
        return next((phase for phase in phases if len(phase) > 1), phases[0])


def bare(plain: Trainer) -> float:
    """Seconds of an epoch without any of the loop's own work but the images."""
    network, loss = plain.networks[0].train(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    started = time.perf_counter()
    for index in torch.randperm(N).split(BATCH):
        optimizer.zero_grad()
        loss(
            network(next(iter(plain.train.eval_batches(index)))), plain.state.labels[index]
        ).backward()
        optimizer.step()
    return time.perf_counter() - started


def line(text: str, watched: Watched, base: float) -> str:
    """One row of the table."""
    passes = STRATEGIES[normal_strategy(text).name].facts.get("cost")
    declared = (
        [f"{value:.3g}" for value in (passes.forward, passes.backward, passes.share)]
        if isinstance(passes, ComputeCost)
        else ["", "", ""]
    )
    epochs = watched.dearest() if len(watched.epochs) > 1 else []
    if not epochs:
        return f"| {text} | {' | '.join(declared)} | | | failed: {watched.failed} |"
    forward, backward, seconds = (statistics.median(values) for values in zip(*epochs, strict=True))
    return (
        f"| {text} | {' | '.join(declared)} | {forward:.2f} | {backward:.2f} | "
        f"{seconds / base:.2f} |"
    )


def main() -> None:
    """Print one line a strategy."""
    model = sys.argv[1] if len(sys.argv) > 1 else "cnn4"
    texts = sys.argv[2:] or [
        text_of(entry) for entry in sorted(STRATEGIES, key=lambda entry: entry.name != "standard")
    ]
    torch.set_num_threads(1)
    print(
        f"torch {torch.__version__}, one thread, {model}, {N} images of 32 x 32 an epoch, batch "
        f"{BATCH}, {EPOCHS} epochs"
    )
    reference, trainings = (
        trainer("standard", model),
        {text: Watched(trainer(text, model)) for text in texts},
    )
    seconds = []
    for _ in range(EPOCHS):
        seconds.append(bare(reference))
        for watched in trainings.values():
            watched.run_epoch()
    base = statistics.median(seconds[1:])
    print(
        "| strategy | forward | backward | work (x CE) | counted forward | counted backward | "
        f"x the bare loop ({base:.2f} s) |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for text, watched in trainings.items():
        print(line(text, watched, base))


if __name__ == "__main__":
    main()
