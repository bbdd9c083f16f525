"""What is written of a run: a line an epoch, and at the end its predictions, weights and record.
Holds what the loop must not see.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files.arrays import packed_npz
from ..core.hardware import environment, resolve_precision
from ..datasets import Fitting, Images, LazyImages
from ..errors import RunFailed
from ..experiments.resolve import PATH_KEYS, PROTOCOL, RunConfig
from ..labels.manifest import LARGEST_T, Manifest
from ..metrics import scores
from ..metrics.confident_learning import Estimates
from ..metrics.predictions import Predictions
from ..training.distributed.processes import SingleProcess
from .checkpoint import RunState
from .folder import SCHEMA, RunFolder
from .noise_estimation import warmup_epochs

if TYPE_CHECKING:
    import torch

    from ..training.images.source import ImageSource
    from ..training.trainer import EpochResult, Trainer

_MEAN_OF_LAST = 10  # epochs
_PARTS = ("train_images", "test_images")


def epoch_metrics(
    run: RunConfig, images: Images, end: EpochResult, seconds: float
) -> dict[str, Any]:
    """One line of scores.csv. The training columns are what the network said in passing, on
    augmented images.
    """
    manifest, training = run.manifest, run.manifest.in_training
    seen = end.train_predicted >= 0
    predicted, recorded, clean = (
        end.train_predicted[seen],
        manifest.labels[training][seen],
        manifest.true_labels[training][seen],
    )
    known = clean >= 0
    return {
        "epoch": end.epoch,
        "lr": end.lr,
        "loss": end.loss,
        "train_recorded": scores.accuracy(predicted, recorded),
        "train_clean": scores.accuracy(predicted[known], clean[known]),
        "memorised": scores.memorised(predicted, recorded, clean),
        **({} if manifest.val is None else {"val_recorded": _val_recorded(manifest, end)}),
        "test_acc": scores.accuracy(end.test_log_p.argmax(1), images.test_labels),
        "seconds": round(seconds, 4),
    }


def _val_recorded(manifest: Manifest, end: EpochResult) -> float | None:
    """The share of validation labels that are predicted."""
    assert manifest.val is not None and end.val_log_p is not None, "what is held out is predicted"
    return scores.accuracy(end.val_log_p.argmax(1), manifest.labels[manifest.val])


def finalize_run(
    run: RunConfig, images: Images, folder: RunFolder, trainer: Trainer, course: RunState
) -> dict[str, Any]:
    """Write all that a finished run leaves; its record. Raises RunTaken where the run is another's
    meanwhile, RunFailed where not every example has a prediction that is finite.
    """
    end = course.last_epoch
    assert end is not None, "a run that is finished has ended an epoch"
    said = _of_all(run.manifest, images, trainer, end)
    _check_seen(run, _seen(run, said, end))
    return trainer.ranks.on_rank_zero(
        lambda: _written(run, images, folder, trainer, course, train=said)
    )


def _written(
    run: RunConfig,
    images: Images,
    folder: RunFolder,
    trainer: Trainer,
    course: RunState,
    *,
    train: Predictions,
) -> dict[str, Any]:
    """train: what is said of every example of the manifest."""
    manifest, end = run.manifest, course.last_epoch
    assert end is not None, "as above"
    test = Predictions.of(end.test_log_p, images.test_labels, images.test_labels)
    labels = {
        "recorded": manifest.labels,
        "clean": manifest.true_labels,
        "test": images.test_labels,
    }
    arrays = {f"{name}_labels": values.astype(np.int32) for name, values in labels.items()}
    masks = {
        "in_training": manifest.in_training,
        "dropped": manifest.dropped,
        "trusted": manifest.trusted,
    }
    known = {name: mask for name, mask in masks.items() if mask is not None}
    early = {} if train.dense is None else _early(manifest, train.dense, course).arrays("early")
    folder.write_arrays(
        {**train.arrays("train"), **test.arrays("test"), **early, **arrays, **known}
    )
    dynamics = packed_npz(course.dynamics.arrays(), deflated=True)
    folder.write(folder.dynamics, lambda file: file.write(dynamics))
    _write_weights(folder, trainer)
    folder.write_history(course.history)
    evaluated = scores.of_run(train, test, labels, run.dataset.num_classes, manifest.splits)
    record = _record(run, trainer, course, _seen(run, train, end), evaluated)
    record["data"]["preprocessing"] = preprocessing(run, images)
    if course.noise_estimate is not None:
        record["estimates"] = _beside_truth(run, course.noise_estimate)
    record["files"] = folder.checksums()
    folder.write_result(record)
    return {**record, "path": str(folder.path)}


def _expected(run: RunConfig) -> dict[str, int]:
    """How many examples there are to evaluate."""
    return {"train": int(run.manifest.in_training.sum()), "test": run.dataset.n_test}


def _seen(run: RunConfig, train: Predictions, end: EpochResult) -> dict[str, int]:
    """How many were."""
    return {
        "train": len(train.classes) - int((~run.manifest.in_training).sum()),
        "test": len(end.test_log_p),
    }


def _check_seen(run: RunConfig, seen: dict[str, int]) -> None:
    """Raises RunFailed where another number of examples was evaluated than there are."""
    if unlike := [
        f"{seen[part]} of {n} {part} examples"
        for part, n in _expected(run).items()
        if seen[part] != n
    ]:
        raise RunFailed(
            f"evaluated were {' and '.join(unlike)}: the data changed under the run; run it again"
        )


def _early(manifest: Manifest, last: np.ndarray, course: RunState) -> Predictions:
    """By log of the mean p (N, K) over the first half of the epochs, of what was trained on; log_p
    at the end of the others.
    """
    log_p, mean = last.copy(), course.dynamics.early_p
    seen = ~np.isnan(mean).any(1)
    log_p[np.flatnonzero(manifest.in_training)[seen]] = np.log(
        np.maximum(mean[seen], np.finfo(np.float32).tiny)
    )
    return Predictions.of(log_p, manifest.labels, manifest.true_labels)


def _beside_truth(run: RunConfig, found: Estimates) -> dict[str, Any]:
    """The estimated rate, and T where the run used it, with what they rest on, and what is true
    where that is known of every example."""
    known = run.manifest.known_fraction == 1
    empirical = run.manifest.empirical_transition.round(6).tolist() if known else None
    share = run.manifest.meta["realised_rate"] if known else None
    few = run.dataset.num_classes <= LARGEST_T
    values = {
        "rate": {"estimate": found.rate, "interval": list(found.interval), "truth": share},
        "transition": {"estimate": found.transition.round(6).tolist(), "truth": empirical}
        if few
        else {},
    }
    return {
        **{fact: values[fact] for fact in values if fact == "rate" or fact in run.unknown_noise},
        "accuracy": found.accuracy,
    }


def _of_all(manifest: Manifest, images: Images, trainer: Trainer, end: EpochResult) -> Predictions:
    """What is said of every example of the manifest, those held out and dropped too, in its order.
    Worked off in parts: of a million examples and a thousand classes, log_p (N, K) would be 5 GB.
    """
    said, places = [], []
    for which, parts in _parts(manifest, images, trainer, end):
        rows = np.flatnonzero(which)
        left, own = rows[trainer.ranks.local_slice(len(rows))], []
        for log_p in parts:
            here, left = left[: len(log_p)], left[len(log_p) :]
            own.append(Predictions.of(log_p, manifest.labels[here], manifest.true_labels[here]))
        said.append(Predictions.joined(own).passed(partial(_gathered, trainer.ranks, len(rows))))
        places.append(rows)
        if len(said[-1].classes) != len(rows) or not np.isfinite(said[-1].log_p).all():
            raise RunFailed(
                f"of {len(rows)} examples "
                f"{int(np.isfinite(said[-1].log_p).all(1).sum())} have a prediction "
                "that is finite"
            )
    return Predictions.joined(said).take(np.argsort(np.concatenate(places), kind="stable"))


def _gathered(ranks: SingleProcess, n: int, column: np.ndarray) -> np.ndarray:
    """All n rows of a column, of which each process has its share."""
    import torch

    whole: np.ndarray = ranks.gather(torch.from_numpy(column), n).numpy()
    return whole


def _parts(
    manifest: Manifest, images: Images, trainer: Trainer, end: EpochResult
) -> Iterator[tuple[np.ndarray, Iterable[np.ndarray]]]:
    """Which examples (N,), and log_p (n, K) of one part after the other of this process's share of
    them.
    """

    def of(source: ImageSource) -> Iterator[np.ndarray]:
        return (log_p.cpu().numpy() for log_p in trainer.predict_parts(source))

    yield manifest.in_training, of(trainer.train)
    if manifest.val is not None and end.val_log_p is not None:
        yield manifest.val, [end.val_log_p[trainer.ranks.local_slice(len(end.val_log_p))]]
    if not manifest.included.all():
        yield ~manifest.included, of(trainer.pixels(images.train_images[~manifest.included]))


def preprocessing(run: RunConfig, images: Images) -> list[str]:
    """What is done with images before networks see them, in sentences; the augmentation of those in
    memory stands in the recipe.
    """
    recipe, shape = run.recipe, images.train_images.shape[1:]
    if not isinstance(images.train_images, LazyImages):
        return [
            f"images are {'x'.join(map(str, shape))}"
            + ("" if images.changed else ", used as they are"),
            *images.changed,
        ]
    fitting = Fitting(recipe.size, recipe.size, recipe.fit, recipe.centre)
    square = "" if recipe.fit == "crop" else f" of the image made square ({recipe.fit})"
    pictures = replace(
        images,
        **{
            name: getattr(images, name).sized(recipe.size, recipe.centre, recipe.fit)
            for name in _PARTS
        },
    )
    return [
        f"images are evaluated at {fitting}",
        (
            f"images are trained on at {recipe.size}x{recipe.size} pixels, a random crop of "
            f"{recipe.area:g} to 1{square}, aspect 3/4 to 4/3"
        ),
        "normalised by the mean and standard deviation of ImageNet",
        *pictures.changes,
    ]


def _record(
    run: RunConfig,
    trainer: Trainer,
    course: RunState,
    seen: dict[str, int],
    evaluated: dict[str, Any],
) -> dict[str, Any]:
    test_acc = test_accuracies(evaluated["test"]["top1"], course.history)
    return {
        "schema": SCHEMA,
        "key": run.key,
        "title": run.title,
        "data": {
            "name": run.dataset.name,
            "sha256": run.data_sha256,
            "num_classes": run.dataset.num_classes,
            "classes": list(run.dataset.classes),
            **{key: run.manifest.meta[key] for key in PATH_KEYS if key in run.manifest.meta},
            "shape": list(trainer.train.shape),
            "normalisation": trainer.train.normalise.written,
        },
        "noise": noise_facts(run),
        "method": run.method,
        "loss": str(run.loss),
        "strategy": str(run.strategy),
        "model": {
            "name": run.model,
            "parameters": sum(p.numel() for p in trainer.networks[0].parameters()),
        },
        **({"init": {**run.init.facts, "adapted": trainer.adapted}} if run.init else {}),
        "recipe": {"name": run.recipe_name, **run.recipe.asdict()},
        "seed": run.seed,
        "precision": run.precision,
        "oracle": run.oracle,
        "versions": {"protocol": str(PROTOCOL), **run.config["versions"]},
        "metrics": {
            "test_acc": test_acc,
            "memorised": evaluated["train"]["memorised"],
            **evaluated,
        },
        "expected": _expected(run),
        "seen": seen,
        "seconds": course.seconds,
        "images_per_second": (run.recipe.epochs + warmup_epochs(run))
        * int(run.manifest.in_training.sum())
        / max(course.seconds, 1e-9),
        "environment": {
            **environment(),
            **_device_facts(trainer.device),
            "packed": course.pack_width,
            **trainer.spread.facts(),
        },
    }


def noise_facts(run: RunConfig) -> dict[str, Any]:
    """What a record says of the labels that were trained on."""
    meta = run.manifest.meta
    return {
        "text": meta["noise"],
        "version": str(meta.get("noise_version", "1")),
        "seed": run.manifest.noise_seed,
        "nominal_rate": meta["nominal_rate"],
        "expected_share": run.manifest.expected_share,
        "realised_rate": meta["realised_rate"],
        "labels_sha256": meta["labels_sha256"],
        "manifest_sha256": run.manifest.content_hash,
        "held_out": run.manifest.held_out_text,
        "known": run.manifest.known_fraction,
        "source_sha256": run.source_sha256,
        **{key: meta[key] for key in ("convention", "source", "subset") if key in meta},
    }


def test_accuracies(last: float, history: list[dict[str, Any]]) -> dict[str, float | None]:
    """A run's test accuracy by every rule that chooses an epoch."""
    curve = [line["test_acc"] for line in history]
    mean = float(np.mean(curve[-_MEAN_OF_LAST:]))
    return {
        "last": last,
        "mean_last10": mean,
        "at_noisy_val": _at_best_val(history),
        "best": max(curve),
    }


def _at_best_val(history: list[dict[str, Any]]) -> float | None:
    """Test accuracy at the first epoch with the best accuracy on held-out recorded labels; None
    without these.
    """
    if "val_recorded" not in history[0]:
        return None
    return float(max(history, key=lambda line: line["val_recorded"])["test_acc"])


def _device_facts(device: torch.device) -> dict[str, Any]:
    """auto_precision: what `--precision auto` stands for here."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "auto_precision": resolve_precision("auto", str(device)),
    }


def _write_weights(folder: RunFolder, trainer: Trainer) -> None:
    from safetensors.torch import save

    state = {
        f"network{i}.{k}": v.contiguous().cpu()
        for i, n in enumerate(trainer.networks)
        for k, v in n.state_dict().items()
    }
    folder.write(folder.weights, lambda file: file.write(save(state)))
