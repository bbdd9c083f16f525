"""Cross-validation of labels: K networks by a run's method, each trained without one fold, whose
labels it predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..core.seeds import CROSS_VALIDATION_FOLD
from ..datasets import Images
from ..errors import ConfigError, DataError
from ..experiments.resolve import RunConfig
from ..metrics.predictions import Predictions
from .checkpoint import RunOptions
from .folder import RunFolder
from .predictions import load_predictions
from .session import execute_run, make_trainer


@dataclass(frozen=True)
class Fold:
    """The run that is trained without a fold, its folder, and which examples (N,) it judges."""

    run: RunConfig
    folder: RunFolder
    held_out: np.ndarray


def make_folds(run: RunConfig, folder: RunFolder, count: int) -> list[Fold]:
    """The folds of a finished run, as run folders of their own within its folder. Raises
    ConfigError for an impossible number.
    """
    manifest = run.manifest
    training = int(manifest.in_training.sum())
    if not 2 <= count <= training:
        raise ConfigError(
            f"--cv-folds is a number from 2 to the {training} training examples, got {count}"
        )
    which, folds = fold_of(run, count), []
    for number in range(count):
        held_out = which == number
        # held out for validation, beside what is held out already
        val = (held_out if manifest.val is None else held_out | manifest.val) & manifest.included
        changed = {
            "val_fraction": round(float(val.sum() / manifest.num_examples), 6),
            "val_split": f"as fold {number + 1} of {count}, after",
        }
        labels = replace(manifest, meta={**manifest.meta, **changed}, val=val)
        without = replace(run, manifest=labels)
        path = folder.path / "folds" / str(count) / f"{number + 1}__{without.key[:8]}"
        folds.append(Fold(without, RunFolder(path), held_out))
    return folds


def fold_of(run: RunConfig, count: int) -> np.ndarray:
    """The fold (N,) of every example, at random: of even size, stratified by noisy label and by
    whether the example is trained on.
    """
    manifest = run.manifest
    draws = np.random.default_rng([run.seed, CROSS_VALIDATION_FOLD]).permutation(
        len(manifest.labels)
    )
    order = np.lexsort((draws, manifest.labels, manifest.in_training))
    which = np.empty(len(order), np.int64)
    which[order] = np.arange(len(order)) % count
    return which


def train_folds(
    folds: Sequence[Fold], images: Images, device: str, options: Callable[[int], RunOptions]
) -> None:
    """Train the folds that are not done, one after the other. options: of a fold, by the number of
    folds left with it.

    Raises Interrupted (state saved) or RunFailed.
    """
    left = [fold for fold in folds if fold.folder.status() != "done"]
    for done, fold in enumerate(left):
        trainer = make_trainer(fold.run, images, device)
        execute_run(fold.run, images, trainer, fold.folder, options(len(left) - done))


def judged(folds: Sequence[Fold]) -> Predictions:
    """The prediction for every example by the network that was trained without it. Raises DataError
    where an example has none, or several.
    """
    manifest = folds[0].run.manifest
    predictions = [
        load_predictions(fold.folder, manifest.num_classes).train.take(fold.held_out)
        for fold in folds
    ]
    rows = np.concatenate([fold.held_out.nonzero()[0] for fold in folds])
    if not np.array_equal(np.sort(rows), np.arange(len(manifest.labels))):
        raise DataError(
            f"{len(rows)} of {len(manifest.labels)} examples were judged by a fold: run them again"
        )
    return Predictions.joined(predictions).take(np.argsort(rows, kind="stable"))
