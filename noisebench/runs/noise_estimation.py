"""What a run that knows no noise rate does first: networks trained by halves, each of which judges
the other half's labels.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..datasets import Images
from ..errors import RunFailed
from ..experiments.compute import epochs_of_estimates
from ..experiments.resolve import RunConfig
from ..losses import build_loss
from ..metrics.confident_learning import Estimates
from ..strategies import build_strategy
from ..training.distributed.processes import ParallelConfig

if TYPE_CHECKING:
    import torch

    from ..training.trainer import Trainer

NUM_FOLDS = 2
_FOLD = 37  # what a derived seed is for


def warmup_epochs(run: RunConfig) -> int:
    """How long each fold's network is trained; together they see every example so many times."""
    return epochs_of_estimates(run.recipe.epochs) if run.unknown_noise else 0


def smallest_training_set(run: RunConfig) -> int:
    """The examples that the smallest of a run's trainings sees in an epoch: all, or all but the
    largest fold.
    """
    n = int(run.manifest.in_training.sum())
    return n - -(-n // NUM_FOLDS) if run.unknown_noise else n


def folds(run: RunConfig) -> np.ndarray:
    """The fold (n,) of every training example."""
    n = int(run.manifest.in_training.sum())
    order = np.random.default_rng([run.seed, _FOLD]).permutation(n)
    which = np.empty(n, np.int64)
    which[order] = np.arange(n) % NUM_FOLDS
    return which


def fold_trainer(
    run: RunConfig,
    images: Images,
    fold: int,
    device: torch.device,
    spread: ParallelConfig = ParallelConfig(),
) -> Trainer:
    """Cross entropy by the run's own recipe, shortened, on all other folds; this fold is its test
    set.

    It begins from the run's --init-weights, if any; what that leaves open, and the order of the
    examples, no other fold or seed shares.
    """
    from ..core.seeds import derived_seed
    from ..training.networks.factory import weights_of
    from ..training.trainer import Task, Trainer

    training, held = run.manifest.in_training, folds(run) == fold
    pixels, labels = images.train_images[training], run.manifest.labels[training]
    recipe = replace(run.recipe, epochs=warmup_epochs(run), schedule="cosine")
    loss, strategy = build_loss("ce"), build_strategy("standard")
    seed = derived_seed(run.seed, _FOLD, fold)
    task = Task(
        pixels[~held],
        labels[~held],
        pixels[held],
        run.dataset.num_classes,
        run.model,
        loss,
        strategy,
        recipe,
        seed,
        run.precision,
        init=weights_of(run.init),
        numbers=np.flatnonzero(training)[~held],
    )
    return Trainer(task, device, spread=spread)


def estimates(run: RunConfig, predicted: list[np.ndarray]) -> Estimates:
    """From the log_p of every fold, in order."""
    which = folds(run)
    log_p = np.empty((len(which), run.dataset.num_classes), np.float32)
    for fold, rows in enumerate(predicted):
        log_p[which == fold] = rows
    return Estimates.of(log_p, run.manifest.labels[run.manifest.in_training])


def estimate_noise(
    run: RunConfig,
    images: Images,
    device: torch.device,
    predicted: list[np.ndarray],
    follow: Callable[[Trainer], object],
    *,
    spread: ParallelConfig = ParallelConfig(),
) -> Estimates:
    """Train the folds that `predicted` does not hold yet, adding to it. `follow` runs a trainer to
    its end.
    """
    while len(predicted) < NUM_FOLDS:
        trainer = fold_trainer(run, images, len(predicted), device, spread)
        with closing(trainer):
            try:
                follow(trainer)
            except RunFailed as failure:
                raise RunFailed(
                    f"while the noise was estimated, {failure}", failure.batch
                ) from failure
            predicted.append(trainer.predict(trainer.test).cpu().numpy())
    return estimates(run, predicted)
