"""One run from its configuration to its record: the loop over epochs, checkpoints and failures; the
networks that estimate its noise; cross-validation, where each of K networks is trained without one
fold and predicts its labels. Prints nothing.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ..core.files.untrusted import yaml_dumper
from ..core.seeds import CROSS_VALIDATION_FOLD, ESTIMATION_FOLD, derived_seed
from ..datasets import Images, images_fingerprint
from ..errors import ConfigError, DataError, Interrupted, NoisebenchError, RunFailed
from ..experiments.oracle import estimators, transitions, with_estimates
from ..experiments.resolve import RunConfig
from ..losses import LOSSES, build_loss, build_penalty
from ..metrics.confident_learning import Estimates
from ..metrics.feature_neighbours import ESTIMATORS
from ..metrics.predictions import Predictions
from ..strategies import STRATEGIES, build_strategy
from ..training.distributed.processes import ParallelConfig
from .checkpoint import (
    Progress,
    RunOptions,
    RunState,
    RunTimer,
    is_out_of_memory,
    load_state,
    not_resumable,
    read,
    reason,
    save,
)
from .folder import RunFolder
from .result import epoch_metrics, finalize_run, load_predictions, warmup_epochs
from .workspace import Workspace

if TYPE_CHECKING:
    import torch

    from ..training.trainer import EpochResult, Trainer

NUM_FOLDS = 2  # of the training examples, to estimate the noise


class RunSession:
    """Trains a run, from its checkpoint if there is one, until it ends or is stopped."""

    def __init__(
        self,
        run: RunConfig,
        images: Images,
        folder: RunFolder,
        options: RunOptions,
        trainer: Trainer,
        *,
        pack_width: int = 1,
    ) -> None:
        """Reads the checkpoint, if there is one, and writes config.yaml; with several processes,
        the first one does. pack_width: used for a run without a checkpoint.

        Raises ConfigError for a run that started in a pack and cannot be resumed in one.
        """
        self.run, self.images, self.folder, self.options = run, images, folder, options
        self.trainer, ranks = trainer, trainer.ranks
        saved = ranks.on_rank_zero(lambda: read(folder, resume=options.resume))
        if saved is None:
            self.state = RunState(pack_width=pack_width)
        else:
            self.state = load_state(folder, saved, trainer.device)
        if self.state.pack_width > 1 and not trainer.spread.alone:
            raise ConfigError(
                f"{folder.path} started in a pack with other runs: resume it in one process "
                "without --accumulate, or restart it with --no-resume"
            )
        ranks.on_rank_zero(self._write_config)
        self._timer = RunTimer(self.state.seconds)

    def _write_config(self) -> None:
        self.folder.error.unlink(missing_ok=True)
        config = {"key": self.run.key, "title": self.run.title, **self.run.config}
        text = yaml.dump(config, Dumper=yaml_dumper(), sort_keys=False)
        self.folder.write(self.folder.config, text.encode())

    def restore(self, trainer: Trainer) -> None:
        """Restore a trainer from the checkpoint."""
        saved, self.state.trainer_state = self.state.trainer_state, None
        if saved is not None:
            try:
                trainer.load_state_dict(saved)
            except Exception as error:  # any state that does not fit
                raise not_resumable(self.folder, error) from None

    def train(self, trainer: Trainer) -> None:
        """Train to the end, from the checkpoint if there is one: the run's own trainer, whose
        epochs are recorded, or one that estimates the noise.
        """
        self.restore(trainer)
        packed = None
        if self.state.pack_width > 1:
            # a run that started in a pack resumes in one, with its other slots filled
            from ..training.packed import PackedTrainer

            packed = PackedTrainer([trainer], self.state.pack_width)
        while trainer.state.epoch < trainer.task.recipe.epochs:
            started, share = time.monotonic(), 1 - trainer.state.step / len(trainer.state.batches)
            if packed is None:
                end = trainer.run_epoch(lambda: self._on_step(trainer))
            else:
                (outcome,) = packed.run_epoch(lambda: self._on_step(trainer))
                if isinstance(outcome, RunFailed):
                    raise outcome
                end = outcome
            self.state.seconds, ended = self._timer.spent, time.monotonic()
            if not self._estimates_noise:
                self.record_epoch(end, (ended - started) / share)
                self._timer.started += time.monotonic() - ended  # a tracker's server may be slow

    def record_epoch(self, end: EpochResult, seconds: float) -> None:
        """Add an epoch to the history, to metrics.csv and to the dynamics, and report it. seconds:
        duration of the whole epoch.
        """
        state, manifest = self.state, self.run.manifest
        state.last_epoch = end
        state.history.append(epoch_metrics(self.run, self.images, end, seconds))
        self.folder.show_history(state.history, begin=state.reported == 0)
        if end.train_probs.size:
            state.dynamics.add_early(end.train_probs)
        labels, true_labels = (
            array[manifest.in_training] for array in (manifest.labels, manifest.true_labels)
        )
        state.dynamics.add(end.train_p, end.train_gradient, labels, true_labels)
        if state.aum is not None:
            state.aum.update(end.train_margin)
        lines, state.reported = state.history[state.reported :], len(state.history)
        rate = int((end.train_predicted >= 0).sum()) / max(seconds, 1e-9)
        epochs = self.run.recipe.epochs
        self.options.on_epoch_end(Progress(end.epoch, epochs, lines, state.seconds, rate))

    def estimate_noise(self) -> None:
        """Estimate the noise, then create the run's own trainer, which uses the estimates."""
        run, first = self.run, self.trainer
        if run.trains_estimators:
            estimates = self._estimate_by_folds()
        else:
            self.options.on_step("estimating the noise", 0, run.recipe.epochs)
            estimates = first.ranks.on_rank_zero(self._estimate_from_features)
        self.state.noise_estimate = estimates
        device = str(first.device)
        self.trainer = make_trainer(run, self.images, device, estimates, spread=first.spread)

    def _estimate_from_features(self) -> Estimates:
        """From the features and the given labels of the training examples."""
        run, training = self.run, self.run.manifest.in_training
        (word,) = estimators(run.loss, run.strategy)
        features = np.asarray(self.images.train_images[training])
        return ESTIMATORS[word](features, run.manifest.labels[training], run.dataset.num_classes)

    def _estimate_by_folds(self) -> Estimates:
        """Train one network per fold without it and predict its labels, unless the checkpoint holds
        the predictions.
        """
        run, first, folds = self.run, self.trainer, self.state.folds
        while self._estimates_noise:
            trainer = fold_trainer(run, self.images, len(folds), first.device, first.spread)
            with closing(trainer):
                try:
                    self.train(trainer)
                except RunFailed as failure:
                    raise RunFailed(
                        f"while the noise was estimated, {failure}", failure.batch
                    ) from failure
                folds.append(trainer.predict(trainer.test).cpu().numpy())
        fold_of = estimation_folds(run)
        log_p = np.empty((len(fold_of), run.dataset.num_classes), np.float32)
        for fold, rows in enumerate(folds):
            log_p[fold_of == fold] = rows
        return Estimates.of(log_p, run.manifest.labels[run.manifest.in_training])

    @property
    def _estimates_noise(self) -> bool:
        """Whether the current training estimates the noise for the run's own training."""
        return self.run.trains_estimators and len(self.state.folds) < NUM_FOLDS

    def _on_step(self, trainer: Trainer) -> None:
        timer, ranks = self._timer, trainer.ranks
        self.state.seconds = timer.spent
        # of this training and the following ones, in steps of about the same length
        epochs, steps = trainer.task.recipe.epochs, len(trainer.state.batches)
        done, what = trainer.state.epoch + trainer.state.step / steps, ""
        steps_left = (epochs - done) * steps
        if self._estimates_noise:
            what = f"estimating the noise, fold {len(self.state.folds) + 1} of {NUM_FOLDS}"
            folds_after = NUM_FOLDS - 1 - len(self.state.folds)
            # an epoch of the run's own training has all folds, of these networks all but one
            own_epochs = NUM_FOLDS / (NUM_FOLDS - 1) * self.run.recipe.epochs
            steps_left += steps * (folds_after * epochs + own_epochs)
        self.options.on_step(what, done, epochs)
        estimate = timer.estimate(steps_left)
        if estimate is not None:
            self.options.on_time_estimate(estimate)
        if ranks.any(self.options.should_stop()):
            ranks.on_rank_zero(lambda: save(self.folder, trainer, self.state))
            raise self.interrupted(trainer)
        if ranks.rank == 0 and timer.checkpoint_due():
            with timer.checkpoint():
                save(self.folder, trainer, self.state)

    def interrupted(self, trainer: Trainer) -> Interrupted:
        """The error of a run that was saved and stopped."""
        part = " of the warm-up" if self._estimates_noise else ""
        next_time = (
            "the same command restarts it; without --force the existing result is kept"
            if self.options.force
            else "the same command resumes it"
        )
        epochs = trainer.task.recipe.epochs
        epoch = trainer.state.epoch + 1
        return Interrupted(f"stopped in epoch {epoch} of {epochs}{part}; {next_time}")


def execute_run(
    run: RunConfig, images: Images, trainer: Trainer, folder: RunFolder, options: RunOptions
) -> dict[str, Any]:
    """Train to the end and write the run directory; returns the record. A finished run is not
    trained again.

    Raises Interrupted (state saved), RunFailed (error.json written) or another NoisebenchError
    (nothing written), such as RunTaken if another process took over the run because this one seemed
    dead.
    """
    ranks = trainer.ranks
    with ExitStack() as stack:
        locked = [folder]  # the first process locks the folder, the others only read it
        ranks.on_rank_zero(lambda: locked.append(stack.enter_context(folder.locked())))
        folder = locked[-1]
        if not options.force:
            record = ranks.on_rank_zero(lambda: folder.finished(run.key))
            if record is not None:
                return record

        def give_up(error: Exception) -> None:
            if isinstance(error, RunFailed):
                record_failure(run, folder, error)
            if folder.lock is not None:
                folder.lock.end()

        ranks.in_emergency(give_up)
        try:
            session = RunSession(run, images, folder, options, trainer)
            if run.unknown_noise:
                session.estimate_noise()
            with closing(session.trainer) as trained:
                session.train(trained)
                return finalize_run(run, images, folder, trained, session.state)
        except Exception as error:
            # an error of a loss, a strategy or a device fails only this run
            cause = ranks.root_cause(error)
            if not isinstance(cause, NoisebenchError) or isinstance(cause, RunFailed):
                failed = ranks.rank == 0
                cause = record_failure(run, folder, cause) if failed else RunFailed(reason(cause))
            if cause is error:
                raise
            raise cause from error


def record_failure(run: RunConfig, folder: RunFolder, error: Exception) -> RunFailed:
    """Write error.json; returns the error to raise. Raises RunTaken if another process took
    over.
    """
    folder.check()
    if not is_out_of_memory(error):
        folder.resume.unlink(missing_ok=True)  # resuming could fail again at once
    # an error of another process has the trace of that process
    trace = getattr(error, "trace", None) or "".join(traceback.format_exception(error))
    batch = error.batch if isinstance(error, RunFailed) else ()
    kind = getattr(error, "kind", type(error).__name__)
    folder.write_error({"key": run.key, **run.facts}, kind, reason(error), trace, batch)
    return RunFailed(f"{run.title} failed: {reason(error)} ({folder.error})")


def make_trainer(
    run: RunConfig,
    images: Images,
    device: str,
    estimates: Estimates | None = None,
    share_images_with: Trainer | None = None,
    *,
    spread: ParallelConfig = ParallelConfig(),
) -> Trainer:
    """A trainer for the run, before its first step; nothing is written. Raises NoisebenchError if
    the run cannot be trained.

    For a run that estimates its noise, placeholders are used unless `estimates` are given.
    """
    from ..training.inference import find_device
    from ..training.networks.factory import weights_of
    from ..training.trainer import Task, Trainer

    manifest = run.manifest
    # else the workspace has compared the images, in the size that the noise depends on
    own_size = run.fitting is None
    has_sha256 = "images_sha256" in manifest.meta and own_size
    seen = images_fingerprint(images.train_images) if has_sha256 else None
    manifest.verify(images.train_labels, images.ids, seen, classes=images.dataset.num_classes)
    training = slice(None) if manifest.in_training.all() else manifest.in_training
    if run.unknown_noise and estimates is None:
        estimates = Estimates(0.5, np.eye(run.dataset.num_classes))
    loss = with_estimates(LOSSES, run.loss, estimates)
    task = Task(
        images.train_images[training],
        manifest.labels[training],
        images.test_images,
        run.dataset.num_classes,
        run.model,
        build_loss(
            loss, transitions(manifest, run.loss, estimates), num_classes=run.dataset.num_classes
        ),
        build_strategy(with_estimates(STRATEGIES, run.strategy, estimates)),
        run.recipe,
        run.seed,
        run.precision,
        build_penalty(run.loss),
        None
        if manifest.val is None or not manifest.val.any()
        else images.train_images[manifest.val],
        None if manifest.trusted is None else manifest.trusted[training],
        weights_of(run.init),
        np.flatnonzero(manifest.in_training),
    )
    return Trainer(task, find_device(device), share_images_with, spread=spread)


def smallest_training_set(run: RunConfig) -> int:
    """The number of examples in the smallest training of a run: all, or all but the largest
    fold.
    """
    n = int(run.manifest.in_training.sum())
    return n - -(-n // NUM_FOLDS) if run.trains_estimators else n


def estimation_folds(run: RunConfig) -> np.ndarray:
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
    """A trainer for plain cross entropy on all other folds, with the run's recipe shortened; this
    fold is its test set.

    It starts from the run's --init-weights, if any. Its random weights and the order of examples
    differ for every fold and seed.
    """
    from ..training.networks.factory import weights_of
    from ..training.trainer import Task, Trainer

    training, held = run.manifest.in_training, estimation_folds(run) == fold
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


def check_networks(workspace: Workspace, runs: Iterable[RunConfig]) -> list[str]:
    """Check before training that initial weights fit the networks of these runs; returns sentences
    on how the weights were adapted. Raises NoisebenchError if weights do not fit, or if a recipe
    has `freeze` or `layer_decay` that the network does not support.

    Creates one network of each kind, except for random weights and plain recipes.
    """
    from ..training.networks.factory import NetworkFactory, weights_of
    from ..training.optimizer import freeze, parameter_groups

    kinds: dict[tuple[object, ...], RunConfig] = {}
    for run in runs:
        layers = run.recipe.freeze, run.recipe.layer_decay
        if run.init or layers != (0, 1):
            kind = run.dataset, run.model, run.init, *layers, run.recipe.size, str(run.strategy)
            kinds.setdefault(kind, run)
    sentences: dict[str, None] = {}
    for run in kinds.values():
        images = workspace.images(run.dataset, run.fitting)
        height, width, channels = images.train_images.shape[1:]
        side, num_classes = run.recipe.size, run.dataset.num_classes
        shape = side or height, side or width, channels
        stand_in = Estimates(0.5, np.eye(num_classes))
        strategy = build_strategy(with_estimates(STRATEGIES, run.strategy, stand_in))
        count = strategy.num_networks
        factory = NetworkFactory(run.model, num_classes, shape, weights_of(run.init), count)
        networks = [factory.network(number, 0) for number in range(count)]
        freeze(networks[0][0], run.recipe.freeze)
        parameter_groups(networks[0][0], run.recipe)
        if run.init:
            label = f"{run.model} from {run.init.label}"
            sentences |= {
                f"{label}: {change}": None for _, adapted in networks for change in adapted
            }
    return list(sentences)


@dataclass(frozen=True)
class Fold:
    """The run that is trained without one fold, its directory, and the mask (N,) of the fold."""

    run: RunConfig
    folder: RunFolder
    held_out: np.ndarray


def make_folds(run: RunConfig, folder: RunFolder, count: int) -> list[Fold]:
    """The cross-validation folds of a finished run, with run directories inside its own. Raises
    ConfigError for an invalid number of folds.
    """
    manifest = run.manifest
    training = int(manifest.in_training.sum())
    if not 2 <= count <= training:
        raise ConfigError(
            f"--cv-folds must be from 2 to {training} (the training examples), got {count}"
        )
    which, folds = fold_of(run, count), []
    for number in range(count):
        held_out = which == number
        # reserved for validation, in addition to the run's own validation split
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
    """The fold (N,) of every example, at random: of even size, stratified by given label and by
    whether the example is in training.
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
    """Train the folds that are not done, one after the other. options: called with the number of
    remaining folds, including this one.

    Raises Interrupted (state saved) or RunFailed.
    """
    left = [fold for fold in folds if fold.folder.status() != "done"]
    for done, fold in enumerate(left):
        trainer = make_trainer(fold.run, images, device)
        execute_run(fold.run, images, trainer, fold.folder, options(len(left) - done))


def judged(folds: Sequence[Fold]) -> Predictions:
    """The prediction for every example by the network trained without it. Raises DataError if an
    example has none or several.
    """
    manifest = folds[0].run.manifest
    predictions = [
        load_predictions(fold.folder, manifest.num_classes).train.take(fold.held_out)
        for fold in folds
    ]
    rows = np.concatenate([fold.held_out.nonzero()[0] for fold in folds])
    if not np.array_equal(np.sort(rows), np.arange(len(manifest.labels))):
        raise DataError(
            f"the folds have predictions for {len(rows)} of {len(manifest.labels)} examples: run "
            "them again"
        )
    return Predictions.joined(predictions).take(np.argsort(rows, kind="stable"))
