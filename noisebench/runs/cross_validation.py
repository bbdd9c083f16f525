"""A run's labels judged out of fold: K networks by the run's own method, each trained without one
fold, whose labels it judges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..datasets import Images
from ..errors import ConfigError, DataError
from ..experiments.resolve import RunConfig
from ..labels.manifest import Manifest
from ..metrics.predictions import Predictions
from .checkpoint import RunOptions
from .folder import RunFolder
from .predictions import load_predictions
from .session import execute_run, make_trainer

_FOLD = 41  # what a derived seed is for


@dataclass(frozen=True)
class Fold:
    """The run that is trained without a fold, its folder, and which examples (N,) it judges."""

    run: RunConfig
    folder: RunFolder
    held_out: np.ndarray

    @property
    def done(self) -> bool:
        return self.folder.status() == "done"


def make_folds(run: RunConfig, folder: RunFolder, count: int) -> list[Fold]:
    """The folds of a finished run, as run folders of their own within its folder. Raises
    ConfigError for a count that cannot be.
    """
    training = int(run.manifest.in_training.sum())
    if not 2 <= count <= training:
        raise ConfigError(
            f"--cv-folds is a number from 2 to the {training} training examples, got {count}"
        )
    which = fold_of(run, count)
    return [
        _fold(run, folder, which == number, f"{number + 1} of {count}") for number in range(count)
    ]


def fold_of(run: RunConfig, count: int) -> np.ndarray:
    """The fold (N,) of every example, by lot: of even size, each with its share of each recorded
    class and of who is trained on.
    """
    manifest = run.manifest
    lot = np.random.default_rng([run.seed, _FOLD]).permutation(len(manifest.labels))
    order = np.lexsort((lot, manifest.labels, manifest.in_training))
    which = np.empty(len(order), np.int64)
    which[order] = np.arange(len(order)) % count
    return which


def _fold(run: RunConfig, folder: RunFolder, judges: np.ndarray, name: str) -> Fold:
    without = replace(run, manifest=_held_out(run.manifest, judges, name))
    place = (
        folder.path
        / "folds"
        / name.rpartition(" ")[2]
        / f"{name.partition(' ')[0]}__{without.key[:8]}"
    )
    return Fold(without, RunFolder(place), judges)


def _held_out(manifest: Manifest, judged: np.ndarray, name: str) -> Manifest:
    """The same labels with a fold held out for validation, beside what is held out already."""
    val = (judged if manifest.val is None else judged | manifest.val) & manifest.included
    about = {
        "val_fraction": round(float(val.sum() / manifest.num_examples), 6),
        "val_split": f"as fold {name}, after",
    }
    return replace(manifest, meta={**manifest.meta, **about}, val=val)


def train_folds(
    folds: Sequence[Fold], images: Images, device: str, conduct: Callable[[int], RunOptions]
) -> None:
    """Train what is not trained yet, one after the other. conduct: of a fold, told how many are
    left with it.

    Raises Interrupted (state saved) or RunFailed.
    """
    left = [fold for fold in folds if not fold.done]
    for done, fold in enumerate(left):
        trainer = make_trainer(fold.run, images, device)
        execute_run(fold.run, images, trainer, fold.folder, conduct(len(left) - done))


def judged(folds: Sequence[Fold]) -> Predictions:
    """What is said of every example by the network that was trained without it. Raises DataError
    where one is not judged once.
    """
    manifest = folds[0].run.manifest
    said = [
        load_predictions(fold.folder, manifest.num_classes).train.take(fold.held_out)
        for fold in folds
    ]
    judges = np.concatenate([fold.held_out.nonzero()[0] for fold in folds])
    if not np.array_equal(np.sort(judges), np.arange(len(manifest.labels))):
        raise DataError(
            f"{len(judges)} of {len(manifest.labels)} examples were judged by a fold: "
            "run them again"
        )
    return Predictions.joined(said).take(np.argsort(judges, kind="stable"))
