"""What a run leaves: a line of metrics an epoch, and at its end predictions, weights and record.
Holds the true labels and the test labels, which the training must not see.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files.arrays import packed_npz
from ..core.hardware import environment, resolve_precision
from ..datasets import Fitting, Images, LazyImages
from ..errors import RunFailed
from ..experiments.resolve import RunConfig
from ..experiments.run_facts import PATH_KEYS
from ..labels.manifest import LARGEST_T, Manifest
from ..metrics import scores
from ..metrics.confident_learning import Estimates
from ..metrics.predictions import Predictions
from .checkpoint import RunState
from .folder import SCHEMA, RunFolder
from .noise_estimation import warmup_epochs

if TYPE_CHECKING:
    from ..training.inference import ImageSource
    from ..training.trainer import EpochResult, Trainer

_MEAN_OF_LAST = 10  # epochs


def epoch_metrics(
    run: RunConfig, images: Images, end: EpochResult, seconds: float
) -> dict[str, Any]:
    """One line of metrics.csv. The training columns are of predictions during training, on
    augmented images.
    """
    manifest = run.manifest
    seen = end.train_predicted >= 0
    predicted = end.train_predicted[seen]
    recorded = manifest.labels[manifest.in_training][seen]
    clean = manifest.true_labels[manifest.in_training][seen]
    known = clean >= 0
    line = {
        "epoch": end.epoch,
        "lr": end.lr,
        "loss": end.loss,
        "train_recorded": scores.accuracy(predicted, recorded),
        "train_clean": scores.accuracy(predicted[known], clean[known]),
        "memorised": scores.memorised(predicted, recorded, clean),
    }
    if manifest.val is not None:
        assert end.val_log_p is not None, "what is held out is predicted"
        labels = manifest.labels[manifest.val]
        line["val_recorded"] = scores.accuracy(end.val_log_p.argmax(1), labels)
    line["test_acc"] = scores.accuracy(end.test_log_p.argmax(1), images.test_labels)
    return {**line, "seconds": round(seconds, 4)}


def finalize_run(
    run: RunConfig, images: Images, folder: RunFolder, trainer: Trainer, state: RunState
) -> dict[str, Any]:
    """Write all that a finished run leaves; its record. Raises RunTaken where another process took
    over, RunFailed where not every example has a finite prediction.
    """
    end, in_training = state.last_epoch, run.manifest.in_training
    assert end is not None, "a run that is finished has ended an epoch"
    train = _predict_all(run.manifest, images, trainer, end)
    expected = {"train": int(in_training.sum()), "test": run.dataset.n_test}
    seen = {
        "train": len(train.classes) - int((~in_training).sum()),
        "test": len(end.test_log_p),
    }
    missing = [
        f"{seen[part]} of {n} {part} examples" for part, n in expected.items() if seen[part] != n
    ]
    if missing:
        raise RunFailed(
            f"evaluated were {' and '.join(missing)}: the data changed under the run; run it again"
        )

    def write() -> dict[str, Any]:
        evaluated = _write_files(run, images, folder, trainer, state, train=train)
        counts = {"expected": expected, "seen": seen}
        record = _record(run, trainer, state, counts, evaluated)
        record["data"]["preprocessing"] = preprocessing(run, images)
        if state.noise_estimate is not None:
            record["estimates"] = _estimates_and_truth(run, state.noise_estimate)
        record["files"] = folder.checksums()
        folder.write_result(record)
        return {**record, "path": str(folder.path)}

    return trainer.ranks.on_rank_zero(write)


def _write_files(
    run: RunConfig,
    images: Images,
    folder: RunFolder,
    trainer: Trainer,
    state: RunState,
    *,
    train: Predictions,
) -> dict[str, Any]:
    """Predictions, dynamics, weights and history; all metrics. train: of every example of the
    manifest.
    """
    from safetensors.torch import save

    manifest, end = run.manifest, state.last_epoch
    assert end is not None, "as above"
    test = Predictions.of(end.test_log_p, images.test_labels, images.test_labels)
    labels = {
        "recorded": manifest.labels,
        "clean": manifest.true_labels,
        "test": images.test_labels,
    }
    arrays = {**train.arrays("train"), **test.arrays("test")}
    if train.dense is not None:
        arrays |= _first_half(manifest, train.dense, state).arrays("early")
    arrays |= {f"{name}_labels": values.astype(np.int32) for name, values in labels.items()}
    masks = {
        "in_training": manifest.in_training,
        "dropped": manifest.dropped,
        "trusted": manifest.trusted,
    }
    arrays |= {name: mask for name, mask in masks.items() if mask is not None}
    folder.write_arrays(arrays)
    dynamics = packed_npz(state.dynamics.arrays(), deflated=True)
    folder.write(folder.dynamics, lambda file: file.write(dynamics))
    weights = {
        f"network{number}.{name}": tensor.contiguous().cpu()
        for number, network in enumerate(trainer.networks)
        for name, tensor in network.state_dict().items()
    }
    folder.write(folder.weights, lambda file: file.write(save(weights)))
    folder.write_history(state.history)
    return scores.of_run(train, test, labels, run.dataset.num_classes, manifest.splits)


def _first_half(manifest: Manifest, last: np.ndarray, state: RunState) -> Predictions:
    """By log of the mean p (N, K) over the first half of the epochs, of the training examples; by
    log_p at the end of the others.
    """
    log_p, mean = last.copy(), state.dynamics.early_p
    seen = ~np.isnan(mean).any(1)
    log_p[np.flatnonzero(manifest.in_training)[seen]] = np.log(
        np.maximum(mean[seen], np.finfo(np.float32).tiny)
    )
    return Predictions.of(log_p, manifest.labels, manifest.true_labels)


def _estimates_and_truth(run: RunConfig, found: Estimates) -> dict[str, Any]:
    """The estimated rate, and T where the run used it, with the accuracy that they depend on, and
    the true values where those are known for every example.
    """
    known = run.manifest.known_fraction == 1
    rate = {
        "estimate": found.rate,
        "interval": list(found.interval),
        "truth": run.manifest.meta["realised_rate"] if known else None,
    }
    estimates: dict[str, Any] = {"rate": rate}
    if "transition" in run.unknown_noise:
        estimates["transition"] = {}
        if run.dataset.num_classes <= LARGEST_T:
            empirical = run.manifest.empirical_transition.round(6).tolist() if known else None
            transition = {"estimate": found.transition.round(6).tolist(), "truth": empirical}
            estimates["transition"] = transition
    return {**estimates, "accuracy": found.accuracy}


def _predict_all(
    manifest: Manifest, images: Images, trainer: Trainer, end: EpochResult
) -> Predictions:
    """The predictions for every example of the manifest, held out and dropped ones too, in its
    order. Made in parts: for a million examples and a thousand classes, log_p (N, K) would be 5 GB.
    """
    import torch

    ranks = trainer.ranks
    parts = [(manifest.in_training, _log_p(trainer, trainer.train))]
    if manifest.val is not None and end.val_log_p is not None:
        own_rows = end.val_log_p[ranks.local_slice(len(end.val_log_p))]
        parts.append((manifest.val, iter([own_rows])))
    if not manifest.included.all():
        others = trainer.pixels(images.train_images[~manifest.included])
        parts.append((~manifest.included, _log_p(trainer, others)))
    predictions, order = [], []
    for which, batches in parts:
        rows = np.flatnonzero(which)
        left, of_batches = rows[ranks.local_slice(len(rows))], []
        for log_p in batches:
            here, left = left[: len(log_p)], left[len(log_p) :]
            of_batches.append(
                Predictions.of(log_p, manifest.labels[here], manifest.true_labels[here])
            )

        def gather(column: np.ndarray, n: int = len(rows)) -> np.ndarray:
            gathered: np.ndarray = ranks.gather(torch.from_numpy(column), n).numpy()
            return gathered

        predictions.append(Predictions.joined(of_batches).passed(gather))
        order.append(rows)
        finite = np.isfinite(predictions[-1].log_p).all(1)
        if len(finite) != len(rows) or not finite.all():
            raise RunFailed(
                f"of {len(rows)} examples {int(finite.sum())} have a prediction that is finite"
            )
    return Predictions.joined(predictions).take(np.argsort(np.concatenate(order), kind="stable"))


def _log_p(trainer: Trainer, source: ImageSource) -> Iterator[np.ndarray]:
    """log_p (n, K) of this process's share of the images, batch by batch."""
    return (log_p.cpu().numpy() for log_p in trainer.predict_parts(source))


def preprocessing(run: RunConfig, images: Images) -> list[str]:
    """What is done with images before networks see them, in sentences; the augmentation of those in
    memory stands in the recipe.
    """
    recipe, shape = run.recipe, images.train_images.shape[1:]
    if not isinstance(images.train_images, LazyImages):
        unchanged = "" if images.changed else ", used as they are"
        return [f"images are {'x'.join(map(str, shape))}{unchanged}", *images.changed]
    fitting = Fitting(recipe.size, recipe.size, recipe.fit, recipe.centre)
    square = "" if recipe.fit == "crop" else f" of the image made square ({recipe.fit})"
    parts = {
        name: getattr(images, name).sized(recipe.size, recipe.centre, recipe.fit)
        for name in ("train_images", "test_images")
    }
    return [
        f"images are evaluated at {fitting}",
        (
            f"images are trained on at {recipe.size}x{recipe.size} pixels, a random crop of "
            f"{recipe.area:g} to 1{square}, aspect 3/4 to 4/3"
        ),
        "normalised by the mean and standard deviation of ImageNet",
        *replace(images, **parts).changes,
    ]


def _record(
    run: RunConfig,
    trainer: Trainer,
    state: RunState,
    counts: dict[str, dict[str, int]],
    evaluated: dict[str, Any],
) -> dict[str, Any]:
    """The facts of the run, its metrics and its machine; what depends on its files follows."""
    import torch

    meta, device, epochs = run.manifest.meta, trainer.device, run.recipe.epochs + warmup_epochs(run)
    trained = epochs * int(run.manifest.in_training.sum())
    gpu = device.type == "cuda"
    return {
        "schema": SCHEMA,
        "key": run.key,
        "title": run.title,
        "data": {
            "name": run.dataset.name,
            "sha256": run.data_sha256,
            "num_classes": run.dataset.num_classes,
            "classes": list(run.dataset.classes),
            **{key: meta[key] for key in PATH_KEYS if key in meta},
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
        "versions": run.versions,
        "metrics": {
            "test_acc": test_accuracies(evaluated["test"]["top1"], state.history),
            "memorised": evaluated["train"]["memorised"],
            **evaluated,
        },
        **counts,
        "seconds": state.seconds,
        "images_per_second": trained / max(state.seconds, 1e-9),
        "environment": {
            **environment(),
            "device": torch.cuda.get_device_name(device) if gpu else device.type,
            "threads": torch.get_num_threads(),
            "auto_precision": resolve_precision("auto", str(device)),
            "packed": state.pack_width,
            **trainer.spread.facts(),
        },
    }


def noise_facts(run: RunConfig) -> dict[str, Any]:
    """The facts of a record about the noisy labels."""
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
    """A run's test accuracy by every rule that chooses an epoch; at_noisy_val: at the first epoch
    with the best accuracy on held-out noisy labels, None without these.
    """
    curve = [line["test_acc"] for line in history]
    at_best = None
    if "val_recorded" in history[0]:
        at_best = float(max(history, key=lambda line: line["val_recorded"])["test_acc"])
    return {
        "last": last,
        "mean_last10": float(np.mean(curve[-_MEAN_OF_LAST:])),
        "at_noisy_val": at_best,
        "best": max(curve),
    }
