"""A run -> a record: from the plan to the training, and what becomes of it. Prints nothing."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ..core.files.untrusted import yaml_dumper
from ..datasets import Images, images_fingerprint
from ..errors import ConfigError, NoisebenchError, RunFailed
from ..experiments.oracle import transitions, with_estimates
from ..experiments.recipes import fitting_of
from ..experiments.resolve import RunConfig
from ..losses import LOSSES, build_loss, build_penalty
from ..metrics.confident_learning import Estimates
from ..strategies import STRATEGIES, Strategy, build_strategy
from ..training.distributed.processes import ParallelConfig, SingleProcess
from .checkpoint import (
    Progress,
    RunOptions,
    RunSession,
    RunState,
    course_of,
    is_out_of_memory,
    read,
    reason,
)
from .folder import RunFolder
from .noise_estimation import estimate_noise
from .result import epoch_metrics, finalize_run, progress
from .workspace import Workspace

if TYPE_CHECKING:
    import torch

    from ..training.trainer import Trainer


def execute_run(
    run: RunConfig, images: Images, trainer: Trainer, folder: RunFolder, conduct: RunOptions
) -> dict[str, Any]:
    """Train to the end, write the run folder, return the record; of a run that is finished just the
    record.

    Raises Interrupted (state saved), RunFailed (error.json written) or another NoisebenchError
    (nothing written): RunTaken too where another process, which thought this one dead, took the run
    over.
    """
    ranks = trainer.ranks
    with _claimed(folder, ranks) as ours:
        if (
            record := None if conduct.force else ranks.on_rank_zero(lambda: ours.finished(run.key))
        ) is not None:
            return record
        ranks.in_emergency(lambda error: record_failure_in_emergency(run, ours, error))
        try:
            return _train(run, images, ours, trainer, conduct)
        except Exception as error:
            # whatever a loss, a strategy or a device throws fails this run alone
            if (ended := _ended(run, ours, error, ranks)) is error:
                raise
            raise ended from error


@contextmanager
def _claimed(folder: RunFolder, ranks: SingleProcess) -> Iterator[RunFolder]:
    """Hold the run, by the first of its processes; the folder, for the others to read. Raises
    RunTaken in all of them.
    """
    with ExitStack() as claim:
        held: list[RunFolder] = []
        ranks.on_rank_zero(lambda: held.append(claim.enter_context(folder.locked())))
        yield held[0] if held else folder


def _ended(run: RunConfig, folder: RunFolder, error: Exception, ranks: SingleProcess) -> Exception:
    """The error to raise for one that ended a run; written down where it is the run's own."""
    judged = ranks.root_cause(error)
    if isinstance(judged, NoisebenchError) and not isinstance(judged, RunFailed):
        return judged  # stopped, or nothing that is the run's own: what is saved stays
    return record_failure(run, folder, judged) if ranks.rank == 0 else RunFailed(reason(judged))


def record_failure_in_emergency(run: RunConfig, folder: RunFolder, error: Exception) -> None:
    """The same for another process, by one that cannot be reached any more: written down, and the
    claim given back.
    """
    if isinstance(error, RunFailed):
        record_failure(run, folder, error)
    folder.release()


def record_failure(run: RunConfig, folder: RunFolder, error: Exception) -> RunFailed:
    """Write error.json; the error to raise. Raises RunTaken where the run is another's
    meanwhile.
    """
    folder.check()
    if not is_out_of_memory(error):
        folder.resume.unlink(missing_ok=True)  # it may lead straight back into the failure
    # of another process, as it came from there
    trace = getattr(error, "trace", None) or "".join(traceback.format_exception(error))
    batch = error.batch if isinstance(error, RunFailed) else ()
    folder.write_error(
        run.facts, getattr(error, "kind", type(error).__name__), reason(error), trace, batch
    )
    return RunFailed(f"{run.title} failed: {reason(error)} ({folder.error})")


def load_or_start(
    run: RunConfig, folder: RunFolder, conduct: RunOptions, trainer: Trainer, packed: int = 1
) -> RunState:
    """What the folder says of where the run stands, and its config written anew; of several
    processes the first one reads and writes.

    Raises ConfigError for a run that began in a pack and cannot go on in one.
    """
    ranks = trainer.ranks
    saved = ranks.on_rank_zero(lambda: _checkpoint(folder, conduct))
    course = (
        RunState(pack_width=packed) if saved is None else course_of(folder, saved, trainer.device)
    )
    if course.pack_width > 1 and not trainer.spread.alone:
        raise ConfigError(
            f"{folder.path} began beside other runs, as one network: go on in one "
            "process, or anew with --no-resume"
        )
    ranks.on_rank_zero(lambda: _open(run, folder))
    return course


def _checkpoint(folder: RunFolder, conduct: RunOptions) -> bytes | None:
    """The one to take up, if there is one; what is not to be taken up is deleted."""
    if not conduct.resume:
        folder.resume.unlink(missing_ok=True)
    return read(folder)


def _open(run: RunConfig, folder: RunFolder) -> None:
    folder.error.unlink(missing_ok=True)
    config = {"key": run.key, "title": run.title, **run.config}
    folder.write_text(
        folder.path / "config.yaml", yaml.dump(config, Dumper=yaml_dumper(), sort_keys=False)
    )


def record_epoch(
    run: RunConfig, images: Images, folder: RunFolder, course: RunState, seconds: float
) -> Progress:
    """Note the epoch that just ended, which took so many seconds, in the history and in
    metrics.csv; what is said of it.
    """
    assert course.last_epoch is not None
    training, end = run.manifest.in_training, course.last_epoch
    course.history.append(epoch_metrics(run, images, end, seconds))
    folder.show_history(course.history, begin=course.reported == 0)
    if end.train_probs.size:
        course.dynamics.add_early(end.train_probs)
    course.dynamics.add(
        end.train_p,
        end.train_gradient,
        run.manifest.labels[training],
        run.manifest.true_labels[training],
    )
    return progress(run, course, end, seconds)


def _train(
    run: RunConfig, images: Images, folder: RunFolder, trainer: Trainer, conduct: RunOptions
) -> dict[str, Any]:
    course = load_or_start(run, folder, conduct, trainer)
    sitting = RunSession(run, folder, conduct, course)
    if run.unknown_noise:
        course.noise_estimate = estimate_noise(
            run, images, trainer.device, course.folds, sitting.train, spread=trainer.spread
        )
        trainer = make_trainer(
            run, images, str(trainer.device), course.noise_estimate, spread=trainer.spread
        )
    with closing(trainer):
        sitting.train(
            trainer,
            lambda seconds: conduct.on_epoch_end(
                record_epoch(run, images, folder, course, seconds)
            ),
        )
        return finalize_run(run, images, folder, trainer, course)


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
            kinds.setdefault(
                (run.dataset, run.model, run.init, *layers, run.recipe.size, str(run.strategy)), run
            )
    said = [
        sentence
        for run in kinds.values()
        for sentence in _check_network(run, _shape(run, workspace))
    ]
    return list(dict.fromkeys(said))


def _shape(run: RunConfig, workspace: Workspace) -> tuple[int, int, int]:
    """Of a run's images: height, width, channels; in a recipe's size they are squares."""
    height, width, channels = workspace.images(
        run.dataset, fitting_of(run.recipe, run.dataset)
    ).train_images.shape[1:]
    side = run.recipe.size
    return side or height, side or width, channels


def _check_network(run: RunConfig, shape: tuple[int, int, int]) -> list[str]:
    from ..training.networks.factory import NetworkFactory, weights_of
    from ..training.networks.groups import freeze, parameter_groups

    count = _strategy(run, Estimates(0.5, np.eye(run.dataset.num_classes))).num_networks
    beginning = NetworkFactory(
        run.model, run.dataset.num_classes, shape, weights_of(run.init), count
    )
    made = [beginning.network(number, 0) for number in range(count)]
    freeze(made[0][0], run.recipe.freeze)
    parameter_groups(made[0][0], run.recipe)
    return [
        f"{run.model} from {run.init.label}: {sentence}"
        for _, said in made
        for sentence in said
        if run.init
    ]


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
