"""A run -> a record. Holds what the loop must not see: the clean labels and the test labels. Prints nothing."""

from __future__ import annotations

import io
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from . import metrics
from .datasets import Images, fingerprint
from .environment import environment
from .errors import ConfigError, Interrupted, NoisebenchError, RunFailed
from .losses import build_loss, build_penalty
from .manifest import Manifest
from .plan import Run
from .predictions import Predictions
from .runfolder import SCHEMA, RunFolder
from .storing import write_text, write_whole
from .strategies import build_strategy
from .truth import transitions

if TYPE_CHECKING:
    import torch

    from .training.trainer import EpochEnd, Trainer

_CHECKPOINT_EVERY = 30.0  # seconds between checkpoints; what is lost at a sudden death
_JUDGE_AFTER = 5.0  # seconds of training from which the whole duration is estimated
_MEAN_OF_LAST = 10  # epochs


@dataclass(frozen=True)
class Progress:
    """Said after every epoch. Accuracies in [0, 1]; seconds spent on this run, images a second in this epoch."""

    epoch: int
    epochs: int
    loss: float
    test_acc: float
    memorised: float | None
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class Conduct:
    """How a run is executed; nothing here changes its result. `anew`: though it is finished. `stop()` is asked between
    steps; `estimate` is told once, after some seconds, how many seconds the whole run will take."""

    resume: bool = True
    anew: bool = False
    listen: Callable[[Progress], object] = lambda progress: None
    stop: Callable[[], bool] = lambda: False
    estimate: Callable[[float], object] = lambda seconds: None


@dataclass
class _Course:
    """What accumulates over a run's epochs; travels with the checkpoint."""

    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


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
            _fail(run, folder, error)
            raise RunFailed(f"{run.title} failed: {_reason(error)} ({folder.error})") from error


def _reason(error: Exception) -> str:
    text = str(error) if isinstance(error, NoisebenchError) else f"{type(error).__name__}: {error}"
    return text.splitlines()[0]


def _fail(run: Run, folder: RunFolder, error: Exception) -> None:
    folder.resume.unlink(missing_ok=True)  # it may lead straight back into the failure
    folder.write_error(run.about, type(error).__name__, _reason(error), traceback.format_exc())


def make_trainer(run: Run, images: Images, device: str) -> Trainer:
    """The run's training, not yet begun; nothing is written. Raises NoisebenchError for what cannot be trained."""
    from .training.trainer import Task, Trainer

    manifest = run.manifest
    seen = fingerprint(images.train_images) if "images_sha256" in manifest.meta else None
    manifest.verify(images.train_labels, images.ids, seen)
    training = slice(None) if manifest.val is None else manifest.in_training
    task = Task(
        images.train_images[training],
        manifest.labels[training],
        images.test_images,
        run.dataset.num_classes,
        run.model,
        build_loss(run.loss, transitions(manifest, run.loss), num_classes=run.dataset.num_classes),
        build_strategy(run.strategy),
        run.recipe,
        run.seed,
        run.precision,
        build_penalty(run.loss),
        None if manifest.val is None else images.train_images[manifest.val],
    )
    return Trainer(task, find_device(device))


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


def _train(run: Run, images: Images, folder: RunFolder, trainer: Trainer, conduct: Conduct) -> dict[str, Any]:
    course = _load(folder, trainer) if conduct.resume and not conduct.anew else _Course()
    folder.error.unlink(missing_ok=True)
    write_text(folder.path / "config.yaml", yaml.safe_dump({"key": run.key, "title": run.title, **run.config}, sort_keys=False))
    clock = _Clock(course.seconds)

    def on_step() -> None:
        course.seconds = clock.spent
        clock.count(trainer, run, conduct)
        if conduct.stop():
            _save(folder, trainer, course)
            raise Interrupted(f"stopped in epoch {trainer.epoch + 1} of {run.recipe.epochs}; the same command resumes it")
        if clock.checkpoint_due():
            _save(folder, trainer, course)

    while trainer.epoch < run.recipe.epochs:
        begun, resumed_at = time.monotonic(), trainer.step * run.recipe.batch_size
        end = trainer.run_epoch(on_step)
        seconds, seen = time.monotonic() - begun, int((end.train_predicted >= 0).sum()) - resumed_at
        course.seconds = clock.spent
        course.history.append(_line(run, images, end, seconds))
        conduct.listen(_progress(run, course, end, seen / max(seconds, 1e-9)))
    return _finish(run, images, folder, trainer, course)


class _Clock:
    """Seconds spent on a run over all its sittings; when to save; how long it will take."""

    def __init__(self, before: float) -> None:
        self._before, self._started = before, time.monotonic()
        self._saved, self._steps, self._told = self._started, 0, False

    @property
    def spent(self) -> float:
        return self._before + time.monotonic() - self._started

    def checkpoint_due(self) -> bool:
        now = time.monotonic()
        if now - self._saved <= _CHECKPOINT_EVERY:
            return False
        self._saved = now
        return True

    def count(self, trainer: Trainer, run: Run, conduct: Conduct) -> None:
        """Called before every step; says the estimate once there are seconds to judge by."""
        elapsed = time.monotonic() - self._started
        if not self._told and self._steps and elapsed > _JUDGE_AFTER:
            self._told = True
            left = run.recipe.epochs * trainer.steps_per_epoch - trainer.epoch * trainer.steps_per_epoch - trainer.step
            conduct.estimate(elapsed + left * elapsed / self._steps)
        self._steps += 1


def _line(run: Run, images: Images, end: EpochEnd, seconds: float) -> dict[str, Any]:
    """One line of metrics.csv. The training columns are what the network said in passing, on augmented images."""
    manifest, training = run.manifest, run.manifest.in_training
    seen = end.train_predicted >= 0
    predicted, recorded, clean = end.train_predicted[seen], manifest.labels[training][seen], manifest.truth[training][seen]
    known = clean >= 0
    return {
        "epoch": end.epoch,
        "lr": end.lr,
        "loss": end.loss,
        "train_recorded": metrics.accuracy(predicted, recorded),
        "train_clean": metrics.accuracy(predicted[known], clean[known]),
        "memorised": metrics.memorised(predicted, recorded, clean),
        **({} if end.val_log_p is None else {"val_recorded": metrics.accuracy(end.val_log_p.argmax(1), manifest.labels[~training])}),
        "test_acc": metrics.accuracy(end.test_log_p.argmax(1), images.test_labels),
        "seconds": round(seconds, 4),
    }


def _progress(run: Run, course: _Course, end: EpochEnd, rate: float) -> Progress:
    line = course.history[-1]
    return Progress(end.epoch, run.recipe.epochs, end.loss, line["test_acc"], line["memorised"], course.seconds, rate)


def _finish(run: Run, images: Images, folder: RunFolder, trainer: Trainer, course: _Course) -> dict[str, Any]:
    manifest = run.manifest
    train = Predictions.of(_of_all(manifest, trainer), manifest.labels, manifest.truth)
    test = Predictions.of(trainer.predict(trainer.test).cpu().numpy(), images.test_labels, images.test_labels)
    labels = {"recorded": manifest.labels, "clean": manifest.truth, "test": images.test_labels}
    arrays = {f"{name}_labels": values.astype(np.int32) for name, values in labels.items()}
    folder.write_arrays({**train.arrays("train"), **test.arrays("test"), **arrays, "in_training": manifest.in_training})
    _write_weights(folder.weights, trainer)
    folder.write_history(course.history)
    record = _record(run, trainer, course, metrics.of_run(train, test, labels, run.dataset.num_classes, manifest.in_training))
    folder.write_json(folder.result, record)
    folder.resume.unlink(missing_ok=True)
    return {**record, "path": str(folder.path)}


def _of_all(manifest: Manifest, trainer: Trainer) -> np.ndarray:
    """log_p (N, K) of every example of the manifest, those held out too, in its order."""
    log_p: np.ndarray = trainer.predict(trainer.train).cpu().numpy()
    if trainer.val is None:
        return log_p
    together, training = np.empty((len(manifest.labels), log_p.shape[1]), log_p.dtype), manifest.in_training
    together[training], together[~training] = log_p, trainer.predict(trainer.val).cpu().numpy()
    return together


def _record(run: Run, trainer: Trainer, course: _Course, evaluated: dict[str, Any]) -> dict[str, Any]:
    meta, curve = run.manifest.meta, [line["test_acc"] for line in course.history]
    test_acc = {
        "last": evaluated["test"]["top1"],
        "mean_last10": float(np.mean(curve[-_MEAN_OF_LAST:])),
        "at_noisy_val": _at_best_val(course.history),
        "best": max(curve),
    }
    return {
        "schema": SCHEMA,
        "key": run.key,
        "title": run.title,
        "data": {"name": run.dataset.name, "sha256": run.data_sha256, "num_classes": run.dataset.num_classes,
                 "classes": list(run.dataset.classes)},
        "noise": {"text": meta["noise"], "seed": run.manifest.noise_seed, "nominal_rate": meta["nominal_rate"],
                  "realised_rate": meta["realised_rate"], "labels_sha256": meta["labels_sha256"],
                  "manifest_sha256": run.manifest.identity,
                  "held_out": run.manifest.held_out, "known": run.manifest.known, "source_sha256": run.source_sha256,
                  **{key: meta[key] for key in ("convention", "source") if key in meta}},
        "method": run.method,
        "loss": str(run.loss),
        "strategy": str(run.strategy),
        "model": {"name": run.model, "parameters": sum(p.numel() for p in trainer.networks[0].parameters())},
        "recipe": {"name": run.recipe_name, **run.recipe.asdict()},
        "seed": run.seed,
        "precision": run.precision,
        "oracle": run.oracle,
        "versions": run.config["versions"],
        "metrics": {"test_acc": test_acc, "memorised": evaluated["train"]["memorised"], **evaluated},
        "expected": {"train": int(run.manifest.in_training.sum()), "test": run.dataset.n_test},
        "seconds": course.seconds,
        "images_per_second": run.recipe.epochs * int(run.manifest.in_training.sum()) / max(course.seconds, 1e-9),
        "environment": {**environment(), **_device_facts(trainer.device)},
    }  # fmt: skip


def _at_best_val(history: list[dict[str, Any]]) -> float | None:
    """Test accuracy at the first epoch with the best accuracy on held-out recorded labels; None without these."""
    if "val_recorded" not in history[0]:
        return None
    return float(max(history, key=lambda line: line["val_recorded"])["test_acc"])


def _device_facts(device: torch.device) -> dict[str, Any]:
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "threads": torch.get_num_threads()}


def _save(folder: RunFolder, trainer: Trainer, course: _Course) -> None:
    import torch

    buffer = io.BytesIO()
    torch.save({"trainer": trainer.state_dict(), "history": course.history, "seconds": course.seconds}, buffer)
    write_whole(folder.resume, lambda file: file.write(buffer.getbuffer()))


def _load(folder: RunFolder, trainer: Trainer) -> _Course:
    import torch

    if not folder.resume.exists():
        return _Course()
    try:
        saved = torch.load(folder.resume, map_location=trainer.device, weights_only=True)
        trainer.load_state_dict(saved["trainer"])
    except Exception as error:  # torch.load documents no exceptions; a checkpoint that cannot be read is not resumed
        raise NoisebenchError(f"{folder.resume} cannot be resumed ({_reason(error)}): delete it, or give --no-resume") from None
    return _Course(saved["history"], saved["seconds"])


def _write_weights(path: Path, trainer: Trainer) -> None:
    from safetensors.torch import save

    state = {f"network{i}.{k}": v.contiguous().cpu() for i, n in enumerate(trainer.networks) for k, v in n.state_dict().items()}
    write_whole(path, lambda file: file.write(save(state)))
