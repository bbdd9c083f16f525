"""One run from its configuration to its record: the loop over its epochs, checkpoints, failures.
Prints nothing.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ..core.files.untrusted import yaml_dumper
from ..datasets import Images, images_fingerprint
from ..errors import ConfigError, Interrupted, NoisebenchError, RunFailed
from ..experiments.oracle import transitions, with_estimates
from ..experiments.recipes import fitting_of
from ..experiments.resolve import RunConfig
from ..losses import LOSSES, build_loss, build_penalty
from ..metrics.confident_learning import Estimates
from ..strategies import STRATEGIES, Strategy, build_strategy
from ..training.distributed.processes import ParallelConfig
from . import noise_estimation
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
from .noise_estimation import NUM_FOLDS
from .result import epoch_metrics, finalize_run
from .workspace import Workspace

if TYPE_CHECKING:
    import torch

    from ..training.trainer import EpochResult, Trainer


class RunSession:
    """A run from where its checkpoint left it to its end, or to where it is stopped."""

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
        """Reads the checkpoint, if there is one, and writes config.yaml; of several processes the
        first one reads and writes. pack_width: of a run that starts.

        Raises ConfigError for a run that began in a pack and cannot be resumed in one.
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
                f"{folder.path} began beside other runs, as one network: go on in one "
                "process, or anew with --no-resume"
            )
        ranks.on_rank_zero(self._write_config)
        self._timer = RunTimer(self.state.seconds)

    def _write_config(self) -> None:
        self.folder.error.unlink(missing_ok=True)
        config = {"key": self.run.key, "title": self.run.title, **self.run.config}
        text = yaml.dump(config, Dumper=yaml_dumper(), sort_keys=False)
        self.folder.write_text(self.folder.path / "config.yaml", text)

    def restore(self, trainer: Trainer) -> None:
        """Put a trainer to where its checkpoint left it."""
        saved, self.state.trainer_state = self.state.trainer_state, None
        if saved is not None:
            try:
                trainer.load_state_dict(saved)
            except Exception as error:  # whatever does not fit
                raise not_resumable(self.folder, error) from None

    def train(self, trainer: Trainer) -> None:
        """One training to its end, from its checkpoint if it was interrupted: the run's own, whose
        epochs are recorded, or one that estimates its noise.
        """
        self.restore(trainer)
        packed = None
        if self.state.pack_width > 1:
            # a run that began in a pack goes on in one, whose other places are filled
            from ..training.packed import PackedTrainer

            packed = PackedTrainer([trainer], self.state.pack_width)
        while trainer.epoch < trainer.task.recipe.epochs:
            started, share = time.monotonic(), 1 - trainer.step / trainer.steps_per_epoch
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
                self._timer.exclude(time.monotonic() - ended)

    def record_epoch(self, end: EpochResult, seconds: float) -> None:
        """Add an epoch to the history, to metrics.csv and to the dynamics, and report it. seconds:
        that a whole epoch takes.
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
        lines, state.reported = state.history[state.reported :], len(state.history)
        rate = int((end.train_predicted >= 0).sum()) / max(seconds, 1e-9)
        epochs = self.run.recipe.epochs
        self.options.on_epoch_end(Progress(end.epoch, epochs, lines, state.seconds, rate))

    def estimate_noise(self) -> None:
        """Train the networks that judge each other's labels, as far as the checkpoint does not hold
        their predictions; then the run's own trainer, which uses the estimates.
        """
        run, first, folds = self.run, self.trainer, self.state.folds
        while self._estimates_noise:
            trainer = noise_estimation.fold_trainer(
                run, self.images, len(folds), first.device, first.spread
            )
            with closing(trainer):
                try:
                    self.train(trainer)
                except RunFailed as failure:
                    raise RunFailed(
                        f"while the noise was estimated, {failure}", failure.batch
                    ) from failure
                folds.append(trainer.predict(trainer.test).cpu().numpy())
        self.state.noise_estimate = found = noise_estimation.estimates(run, folds)
        device = str(first.device)
        self.trainer = make_trainer(run, self.images, device, found, spread=first.spread)

    @property
    def _estimates_noise(self) -> bool:
        """Whether what is trained now estimates the noise for the run's own training."""
        return bool(self.run.unknown_noise) and len(self.state.folds) < NUM_FOLDS

    def _on_step(self, trainer: Trainer) -> None:
        timer, ranks = self._timer, trainer.ranks
        self.state.seconds = timer.spent
        if timer.should_estimate():
            self.options.on_time_estimate(timer.estimate(self._steps_left(trainer)))
        if ranks.any(self.options.should_stop()):
            ranks.on_rank_zero(lambda: save(self.folder, trainer, self.state))
            raise self.interrupted(trainer)
        if ranks.rank == 0 and timer.checkpoint_due():
            with timer.checkpoint():
                save(self.folder, trainer, self.state)

    def _steps_left(self, trainer: Trainer) -> float:
        """Of this training and those after it, in steps of about the same length."""
        epochs, steps = trainer.task.recipe.epochs, trainer.steps_per_epoch
        left: float = (epochs - trainer.epoch) * steps - trainer.step
        if self._estimates_noise:
            folds_after = NUM_FOLDS - 1 - len(self.state.folds)
            # the run's own training sees all folds an epoch, a fold's all but one
            own_epochs = NUM_FOLDS / (NUM_FOLDS - 1) * self.run.recipe.epochs
            left += steps * (folds_after * epochs + own_epochs)
        return left

    def interrupted(self, trainer: Trainer) -> Interrupted:
        """The error of a run that was stopped after it was saved."""
        what = " of the warm-up" if self._estimates_noise else ""
        next_time = "the same command resumes it"
        if self.options.force:
            next_time = (
                "the same command begins anew, and without --force the result that there is stays"
            )
        epochs = trainer.task.recipe.epochs
        return Interrupted(f"stopped in epoch {trainer.epoch + 1} of {epochs}{what}; {next_time}")


def execute_run(
    run: RunConfig, images: Images, trainer: Trainer, folder: RunFolder, options: RunOptions
) -> dict[str, Any]:
    """Train to the end, write the run folder, return the record; of a finished run just the record.

    Raises Interrupted (state saved), RunFailed (error.json written) or another NoisebenchError
    (nothing written): RunTaken too where another process, which took this one for dead, took the
    run over.
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
            folder.release()

        ranks.in_emergency(give_up)
        try:
            session = RunSession(run, images, folder, options, trainer)
            if run.unknown_noise:
                session.estimate_noise()
            with closing(session.trainer) as trained:
                session.train(trained)
                return finalize_run(run, images, folder, trained, session.state)
        except Exception as error:
            # whatever a loss, a strategy or a device throws fails this run alone
            cause = ranks.root_cause(error)
            if not isinstance(cause, NoisebenchError) or isinstance(cause, RunFailed):
                failed = ranks.rank == 0
                cause = record_failure(run, folder, cause) if failed else RunFailed(reason(cause))
            if cause is error:
                raise
            raise cause from error


def record_failure(run: RunConfig, folder: RunFolder, error: Exception) -> RunFailed:
    """Write error.json; the error to raise. Raises RunTaken where another process took over."""
    folder.check()
    if not is_out_of_memory(error):
        folder.resume.unlink(missing_ok=True)  # it may lead straight back into the failure
    # of another process, as it came from there
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
    beside: Trainer | None = None,
    *,
    spread: ParallelConfig = ParallelConfig(),
) -> Trainer:
    """The run's training, not yet begun; nothing is written. Raises NoisebenchError for what cannot
    be trained.

    A run with something to find out first gets a stand-in for it until there are `estimates`.
    beside: one to share images with.
    """
    from ..training.networks.factory import weights_of
    from ..training.trainer import Task, Trainer

    manifest = run.manifest
    # else the workspace has compared them, in the size that the noise looked at
    own_size = fitting_of(run.recipe, run.dataset) is None
    seen = (
        images_fingerprint(images.train_images)
        if "images_sha256" in manifest.meta and own_size
        else None
    )
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
        _strategy(run, estimates),
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
    return Trainer(task, find_device(device), beside, spread=spread)


def _strategy(run: RunConfig, estimates: Estimates | None) -> Strategy:
    return build_strategy(with_estimates(STRATEGIES, run.strategy, estimates))


def check_networks(workspace: Workspace, runs: Iterable[RunConfig]) -> list[str]:
    """What is done so that initial weights fit the networks of these runs, each thing once, in
    sentences. Raises NoisebenchError, before any of them is trained, where weights do not fit, or a
    recipe freezes or slows what a network has not.

    Makes one network of each kind that does not just begin afresh.
    """
    kinds: dict[tuple[object, ...], RunConfig] = {}
    for run in runs:
        layers = run.recipe.freeze, run.recipe.layer_decay
        if run.init or layers != (0, 1):
            kind = run.dataset, run.model, run.init, *layers, run.recipe.size, str(run.strategy)
            kinds.setdefault(kind, run)
    sentences = [line for run in kinds.values() for line in _check_network(run, workspace)]
    return list(dict.fromkeys(sentences))


def _check_network(run: RunConfig, workspace: Workspace) -> list[str]:
    from ..training.networks.factory import NetworkFactory, weights_of
    from ..training.networks.groups import freeze, parameter_groups

    images = workspace.images(run.dataset, fitting_of(run.recipe, run.dataset))
    height, width, channels = images.train_images.shape[1:]
    side, num_classes = run.recipe.size, run.dataset.num_classes
    shape = side or height, side or width, channels
    count = _strategy(run, Estimates(0.5, np.eye(num_classes))).num_networks
    factory = NetworkFactory(run.model, num_classes, shape, weights_of(run.init), count)
    networks = [factory.network(number, 0) for number in range(count)]
    freeze(networks[0][0], run.recipe.freeze)
    parameter_groups(networks[0][0], run.recipe)
    if not run.init:
        return []
    label = f"{run.model} from {run.init.label}"
    return [f"{label}: {sentence}" for _, adapted in networks for sentence in adapted]


def find_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one. Raises ConfigError for a device that is not there."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"no such device here: {name!r} ({str(error).splitlines()[0]}); "
            "--device auto takes what there is"
        ) from None
    return device
