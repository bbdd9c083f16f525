"""What a run that knows no noise rate does first: networks trained by halves, each of which judges
the other half's labels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..core.seeds import ESTIMATION_FOLD, derived_seed
from ..datasets import Images
from ..experiments.resolve import RunConfig, epochs_of_estimates
from ..losses import build_loss
from ..metrics.confident_learning import Estimates
from ..strategies import build_strategy
from ..training.distributed.processes import ParallelConfig

if TYPE_CHECKING:
    import torch

    from ..training.trainer import Trainer

NUM_FOLDS = 2


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
    order = np.random.default_rng([run.seed, ESTIMATION_FOLD]).permutation(n)
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
    from ..training.networks.factory import weights_of
    from ..training.trainer import Task, Trainer

    training, held = run.manifest.in_training, folds(run) == fold
    pixels, labels = images.train_images[training], run.manifest.labels[training]
    recipe = replace(run.recipe, epochs=warmup_epochs(run), schedule="cosine")
    loss, strategy = build_loss("ce"), build_strategy("standard")
    seed = derived_seed(run.seed, ESTIMATION_FOLD, fold)
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
