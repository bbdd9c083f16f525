"""A run -> a record: from the plan to the training, and what becomes of it. Prints nothing."""

from __future__ import annotations

import traceback
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from .datasets import Images, images_fingerprint
from .errors import ConfigError, NoisebenchError, RunFailed
from .estimates import Estimates
from .losses import LOSSES, build_loss, build_penalty
from .plan import Run
from .record import epoch_line, finish, progress
from .runfolder import RunFolder
from .sitting import Conduct, Course, Sitting, load, reason
from .storing import write_text
from .strategies import STRATEGIES, build_strategy
from .truth import transitions, with_estimates
from .warmup import judge_folds

if TYPE_CHECKING:
    import torch

    from .training.trainer import Trainer


def execute(run: Run, images: Images, trainer: Trainer, folder: RunFolder, conduct: Conduct) -> dict[str, Any]:
    """Train to the end, write the run folder, return the record; of a run that is finished just the record.

    Raises Interrupted (state saved), RunFailed (error.json written) or another NoisebenchError (nothing written).
    """
    with folder.claimed():
        if folder.result.exists() and not conduct.anew:
            return folder.record()
        try:
            return _train(run, images, folder, trainer, conduct)
        except Exception as error:  # whatever a loss, a strategy or a device throws fails this run alone
            if isinstance(error, NoisebenchError) and not isinstance(error, RunFailed):
                raise  # stopped, or nothing that is the run's own: what is saved stays
            raise failed(run, folder, error) from error


def failed(run: Run, folder: RunFolder, error: Exception) -> RunFailed:
    """Write error.json; the error to raise."""
    folder.resume.unlink(missing_ok=True)  # it may lead straight back into the failure
    trace = "".join(traceback.format_exception(error))
    folder.write_error(run.about, type(error).__name__, reason(error), trace)
    return RunFailed(f"{run.title} failed: {reason(error)} ({folder.error})")


def begin(run: Run, folder: RunFolder, conduct: Conduct, device: torch.device, packed: int = 1) -> Course:
    """What the folder says of where the run stands, and its config written anew."""
    course = load(folder, device, packed) if conduct.resume and not conduct.anew else Course(packed=packed)
    folder.error.unlink(missing_ok=True)
    write_text(folder.path / "config.yaml", yaml.safe_dump({"key": run.key, "title": run.title, **run.config}, sort_keys=False))
    return course


def note(run: Run, images: Images, course: Course, conduct: Conduct, seconds: float) -> None:
    """The epoch that just ended, which took so many seconds: into the history, and to whoever listens."""
    assert course.end is not None
    training, end = run.manifest.in_training, course.end
    course.history.append(epoch_line(run, images, end, seconds))
    if end.train_whole.size:
        course.dynamics.add_early(end.train_whole)
    course.dynamics.add(end.train_p, end.train_gradient, run.manifest.labels[training], run.manifest.truth[training])
    conduct.listen(progress(run, course, course.end, seconds))


def _train(run: Run, images: Images, folder: RunFolder, trainer: Trainer, conduct: Conduct) -> dict[str, Any]:
    course = begin(run, folder, conduct, trainer.device)
    sitting = Sitting(run, folder, conduct, course)
    if run.estimated:
        course.found = judge_folds(run, images, trainer.device, course.folds, sitting.follow)
        trainer = make_trainer(run, images, str(trainer.device), course.found)
    with closing(trainer):
        sitting.follow(trainer, lambda seconds: note(run, images, course, conduct, seconds))
        return finish(run, images, folder, trainer, course)


def make_trainer(run: Run, images: Images, device: str, estimates: Estimates | None = None, beside: Trainer | None = None) -> Trainer:
    """The run's training, not yet begun; nothing is written. Raises NoisebenchError for what cannot be trained.

    A run with something to find out first gets a stand-in for it until there are `estimates`. beside: one to share images with.
    """
    from .training.trainer import Task, Trainer

    manifest = run.manifest
    seen = images_fingerprint(images.train_images) if "images_sha256" in manifest.meta else None
    manifest.verify(images.train_labels, images.ids, seen)
    training = slice(None) if manifest.in_training.all() else manifest.in_training
    if run.estimated and estimates is None:
        estimates = Estimates(0.5, np.eye(run.dataset.num_classes))
    loss = with_estimates(LOSSES, run.loss, estimates)
    task = Task(
        images.train_images[training],
        manifest.labels[training],
        images.test_images,
        run.dataset.num_classes,
        run.model,
        build_loss(loss, transitions(manifest, run.loss, estimates), num_classes=run.dataset.num_classes),
        build_strategy(with_estimates(STRATEGIES, run.strategy, estimates)),
        run.recipe,
        run.seed,
        run.precision,
        build_penalty(run.loss),
        None if manifest.val is None or not manifest.val.any() else images.train_images[manifest.val],
        None if manifest.trusted is None else manifest.trusted[training],
    )
    return Trainer(task, find_device(device), beside)


def find_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one. Raises ConfigError for a device that is not there."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"no such device here: {name!r} ({str(error).splitlines()[0]}); --device auto takes what there is") from None
    return device
