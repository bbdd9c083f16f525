"""The results of a run: a line of metrics per epoch, and at the end predictions, weights and
record; also reads the predictions of a finished run. Only this module uses the true labels and the
test labels, which are not available to the training. Does not import torch when it is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files.arrays import packed_npz
from ..core.hardware import environment, resolve_precision
from ..datasets import Fitting, Images, LazyImages
from ..errors import DataError, RunFailed
from ..experiments.resolve import RunConfig, epochs_of_estimates
from ..experiments.run_facts import PATH_KEYS
from ..labels.manifest import LARGEST_T, Manifest
from ..metrics import scores
from ..metrics.confident_learning import Estimates
from ..metrics.predictions import Predictions
from .checkpoint import RunState
from .folder import SCHEMA, RunFolder

if TYPE_CHECKING:
    from torch import Tensor

    from ..training.trainer import EpochResult, Trainer

_MEAN_OF_LAST = 10  # epochs


def warmup_epochs(run: RunConfig) -> int:
    """Epochs of each network that estimates the noise; 0 for a run without such networks."""
    return epochs_of_estimates(run.recipe.epochs) if run.trains_estimators else 0


def epoch_metrics(
    run: RunConfig, images: Images, end: EpochResult, seconds: float
) -> dict[str, Any]:
    """One line of metrics.csv. Training metrics come from the predictions made during training, on
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
        assert end.val_log_p is not None, "the validation split is predicted"
        labels = manifest.labels[manifest.val]
        line["val_recorded"] = scores.accuracy(end.val_log_p.argmax(1), labels)
    line["test_acc"] = scores.accuracy(end.test_log_p.argmax(1), images.test_labels)
    return {**line, "seconds": round(seconds, 4)}


def finalize_run(
    run: RunConfig,
    images: Images,
    folder: RunFolder,
    trainer: Trainer,
    state: RunState,
    *,
    train_log_p: Tensor | None = None,
) -> dict[str, Any]:
    """Write all files of a finished run; returns its record. train_log_p (n, K): of the training
    examples, if known. Raises RunTaken if another process took over the run, RunFailed if an
    example has no finite prediction.
    """
    train = _predict_all(run.manifest, images, trainer, state.last_epoch, train_log_p)
    num_tests = len(state.last_epoch.test_log_p)
    if num_tests != run.dataset.n_test:
        raise RunFailed(
            f"only {num_tests} of {run.dataset.n_test} test examples were evaluated: the data "
            "changed during the run; run it again"
        )
    return trainer.ranks.on_rank_zero(
        lambda: _write(run, images, folder, trainer, state, train=train)
    )


def _write(
    run: RunConfig,
    images: Images,
    folder: RunFolder,
    trainer: Trainer,
    state: RunState,
    *,
    train: Predictions,
) -> dict[str, Any]:
    """Write predictions, dynamics, weights and history, then the record. train: the predictions for
    every example of the manifest.
    """
    from safetensors.torch import save

    manifest, test_labels = run.manifest, images.test_labels
    test = Predictions.of(state.last_epoch.test_log_p, test_labels, test_labels)
    labels = {
        "recorded": manifest.labels,
        "clean": manifest.true_labels,
        "test": test_labels,
    }
    arrays = {**train.arrays("train"), **test.arrays("test")}
    if train.dense is not None:
        # mean p (N, K) over the first half of the epochs; training examples only
        early, mean = train.dense.copy(), state.dynamics.early_p
        seen = ~np.isnan(mean).any(1)
        least = np.finfo(np.float32).tiny
        early[np.flatnonzero(manifest.in_training)[seen]] = np.log(np.maximum(mean[seen], least))
        early_predictions = Predictions.of(early, manifest.labels, manifest.true_labels)
        arrays |= early_predictions.arrays("early")
    if state.aum is not None:
        aum = np.full(len(manifest.labels), np.nan, np.float32)
        aum[manifest.in_training] = state.aum.scores
        arrays["aum"] = aum
    arrays |= {f"{name}_labels": values.astype(np.int32) for name, values in labels.items()}
    masks = {
        "in_training": manifest.in_training,
        "dropped": manifest.dropped,
        "trusted": manifest.trusted,
    }
    arrays |= {name: mask for name, mask in masks.items() if mask is not None}
    folder.write(folder.predictions, packed_npz(arrays))
    folder.write(folder.dynamics, packed_npz(state.dynamics.arrays(), deflated=True))
    weights = {
        f"network{number}.{name}": tensor.contiguous().cpu()
        for number, network in enumerate(trainer.networks)
        for name, tensor in network.state_dict().items()
    }
    folder.write(folder.weights, save(weights))
    folder.write_history(state.history)
    metrics = scores.of_run(train, test, labels, run.dataset.num_classes, manifest.splits)
    record = _record(run, trainer, state, metrics)
    record["data"]["preprocessing"] = preprocessing(run, images)
    if state.noise_estimate is not None:
        record["estimates"] = _estimates_and_truth(run, state.noise_estimate)
    record["files"] = folder.checksums()
    folder.write_result(record)
    return {**record, "path": str(folder.path)}


def _estimates_and_truth(run: RunConfig, estimated: Estimates) -> dict[str, Any]:
    """The estimated rate, and T if the run used it, the accuracy of the estimating networks if
    there are any, and the true values if all true labels are known.
    """
    known = run.manifest.known_fraction == 1
    rate = {
        "estimate": estimated.rate,
        "interval": list(estimated.interval),
        "truth": run.manifest.meta["realised_rate"] if known else None,
    }
    transition: dict[str, Any] = {}
    if run.dataset.num_classes <= LARGEST_T:
        empirical = run.manifest.empirical_transition.round(6).tolist() if known else None
        transition = {"estimate": estimated.transition.round(6).tolist(), "truth": empirical}
    return {
        "rate": rate,
        **({"transition": transition} if "transition" in run.unknown_noise else {}),
        **({} if estimated.accuracy is None else {"accuracy": estimated.accuracy}),
    }


def _predict_all(
    manifest: Manifest,
    images: Images,
    trainer: Trainer,
    end: EpochResult,
    train_log_p: Tensor | None,
) -> Predictions:
    """The predictions for every example of the manifest, in its order, including the validation
    split and dropped examples. Computed in batches: log_p (N, K) of a million examples and a
    thousand classes would take 4 GB.
    """
    import torch

    ranks = trainer.ranks
    known = None if train_log_p is None else trainer.strategy.predict([train_log_p])
    of_training = trainer.predict_parts(trainer.train) if known is None else iter([known])
    parts = [(manifest.in_training, of_training)]
    if manifest.val is not None and end.val_log_p is not None:
        rows = end.val_log_p[ranks.local_slice(len(end.val_log_p))]
        parts.append((manifest.val, iter([torch.from_numpy(rows)])))
    if not manifest.included.all():
        others = trainer.pixels(images.train_images[~manifest.included])
        parts.append((~manifest.included, trainer.predict_parts(others)))
    predictions, order = [], []
    for which, batches in parts:
        rows = np.flatnonzero(which)
        left, of_batches = rows[ranks.local_slice(len(rows))], []
        for batch in batches:
            log_p = batch.cpu().numpy()
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
                f"only {int(finite.sum())} of {len(rows)} examples have a finite prediction"
            )
    return Predictions.joined(predictions).take(np.argsort(np.concatenate(order), kind="stable"))


def preprocessing(run: RunConfig, images: Images) -> list[str]:
    """How images are prepared for the networks, in sentences; without the augmentation of images in
    memory, which is in the recipe.
    """
    recipe, shape = run.recipe, images.train_images.shape[1:]
    if images.train_images.ndim == 2:
        sentence = f"{shape[0]} features per example, standardized on the training set"
        return [sentence, *images.changed]
    if not isinstance(images.train_images, LazyImages):
        unchanged = "" if images.changed else ", used unchanged"
        return [f"images are {'x'.join(map(str, shape))}{unchanged}", *images.changed]
    fitting = Fitting(recipe.size, recipe.size, recipe.fit, recipe.centre)
    square = "" if recipe.fit == "crop" else f" of the image made square ({recipe.fit})"
    changes = [
        sentence
        for part, streamed in (("training", images.train_images), ("test", images.test_images))
        if isinstance(streamed, LazyImages)
        for sentence in streamed.sized(recipe.size, recipe.centre, recipe.fit).changes(part)
    ]
    return [
        f"images are evaluated at {fitting}",
        (
            f"training images are random crops, resized to {recipe.size}x{recipe.size} pixels: "
            f"{recipe.area:g} to 1 of the area{square}, aspect ratio 3/4 to 4/3"
        ),
        "normalised by the mean and standard deviation of ImageNet",
        *changes,
    ]


def _record(
    run: RunConfig,
    trainer: Trainer,
    state: RunState,
    evaluated: dict[str, Any],
) -> dict[str, Any]:
    """The record: the run's facts, metrics and machine; entries about its files are added later."""
    import torch

    meta, device, epochs = run.manifest.meta, trainer.device, run.recipe.epochs + warmup_epochs(run)
    # all of them have a prediction, or the run would have failed
    counts = {"train": int(run.manifest.in_training.sum()), "test": run.dataset.n_test}
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
            # that of features would be thousands of numbers; it is computed from them again
            **(
                {}
                if trainer.train.shape[:2] == (1, 1)
                else {"normalisation": trainer.train.normalise.written}
            ),
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
        **({"features": run.features.facts} if run.features else {}),
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
        "expected": counts,
        "seen": counts,
        "seconds": state.seconds,
        "images_per_second": epochs * counts["train"] / max(state.seconds, 1e-9),
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
    """The record's entry on the noisy labels."""
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
    """A run's test accuracy by each rule for choosing an epoch. at_noisy_val: at the first epoch
    with the best accuracy on the noisy labels of the validation split, None without one.
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


_ABOVE = 0.01  # rounding may lift log p above 0 by this much


@dataclass(frozen=True)
class RunPredictions:
    """The content of predictions.npz.

    train: predictions for all N examples of the manifest; test: for the M test images; labels:
    given labels "recorded" and true labels "clean" (N,), and "test" (M,); parts: masks (N,) of the
    examples trained on, in the validation split and dropped, as "train", "val" and "dropped";
    arrays: all arrays of the file.
    """

    train: Predictions
    test: Predictions
    labels: dict[str, np.ndarray]
    parts: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray]

    def metrics(self, num_classes: int) -> dict[str, Any]:
        """The metrics as in result.json. Raises DataError as `check` does."""
        self.check()
        return scores.of_run(self.train, self.test, self.labels, num_classes, self.parts)

    def check(self) -> None:
        """Raises DataError if a prediction is not finite."""
        for part, predictions in (("training", self.train), ("test", self.test)):
            log_p = predictions.log_p if predictions.dense is None else predictions.dense
            if bad := int((~np.isfinite(log_p)).any(1).sum()):
                raise DataError(
                    f"{part} examples without a finite prediction: {bad}; run it again with --force"
                )


def load_predictions(folder: RunFolder, num_classes: int) -> RunPredictions:
    """Reads predictions.npz. Raises DataError if it is missing, damaged or incomplete."""
    arrays = folder.read_arrays()
    try:
        labels = {
            part: arrays[f"{part}_labels"].astype(np.int64)
            for part in ("recorded", "clean", "test")
        }
        n = len(labels["recorded"])
        parts = scores.parts_of(arrays, n)
        _check_labels(labels, parts, num_classes)
        train = Predictions.load(arrays, "train", labels["recorded"], labels["clean"])
        test = Predictions.load(arrays, "test", labels["test"], labels["test"])
        _check_sizes(train, n, num_classes)
        _check_sizes(test, len(labels["test"]), num_classes)
        for name in {"dropped", "trusted"} & arrays.keys():
            if arrays[name].dtype != bool or arrays[name].shape != (n,):
                raise ValueError(f"{name} is not a mask of all {n} examples")
        if "aum" in arrays and (arrays["aum"].dtype.kind, arrays["aum"].shape) != ("f", (n,)):
            raise ValueError(f"aum is not a number for each of {n} examples")
        if "early_classes" in arrays:
            recorded = labels["recorded"]
            _check_sizes(Predictions.load(arrays, "early", recorded, recorded), n, num_classes)
    except KeyError as error:
        raise DataError(f"{folder.predictions} lacks {error}: run it again with --force") from None
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{folder.predictions} is damaged ({error}): run it again with --force"
        ) from None
    return RunPredictions(train, test, labels, parts, arrays)


def check_counts(record: dict[str, Any], stored: RunPredictions) -> dict[str, dict[str, int]]:
    """The numbers of expected and of evaluated examples. Raises DataError if they differ.

    Older records lack the expected numbers; the numbers of labels are used instead.
    """
    train = stored.parts["train"]
    labels = {"train": int(train.sum()), "test": len(stored.labels["test"])}
    expected = {part: int(record.get("expected", labels)[part]) for part in labels}
    seen = {"train": len(stored.train.take(train).classes), "test": len(stored.test.classes)}
    missing = [
        f"{seen[part]} of {n} {part} examples" for part, n in expected.items() if seen[part] != n
    ]
    if missing:
        raise DataError(
            f"{record['path']} has predictions for only {' and '.join(missing)}: run it "
            "again with --force"
        )
    return {"expected": expected, "seen": seen}


def _check_labels(
    labels: dict[str, np.ndarray], parts: dict[str, np.ndarray], num_classes: int
) -> None:
    for part, least in (("recorded", 0), ("clean", -2), ("test", 0)):
        values = labels[part]
        is_list = values.ndim == 1 and len(values)
        if not is_list or values.min() < least or values.max() >= num_classes:
            raise ValueError(
                f"its {part} labels are not one class from 0 to {num_classes - 1} per example"
            )
    n = len(labels["recorded"])
    fit = all(part.dtype == bool and len(part) == n for part in parts.values())
    if not fit or n != len(labels["clean"]) or not parts["train"].any():
        raise ValueError("its training labels are not of the same examples")


def _check_sizes(predictions: Predictions, n: int, num_classes: int) -> None:
    classes, log_p, dense = predictions.classes, predictions.log_p, predictions.dense
    is_table = classes.ndim == 2 and classes.shape == log_p.shape and classes.size
    if not is_table or classes.max() >= num_classes:
        raise ValueError("its predictions are not classes with one log_p each")
    lengths = {len(classes), len(predictions.recorded_log_p), len(predictions.clean_log_p)}
    if lengths != {n} or (dense is not None and dense.shape != (n, num_classes)):
        raise ValueError(f"its predictions do not have {n} examples and {num_classes} classes")
    above = (log_p > _ABOVE).any() or (dense is not None and (dense > _ABOVE).any())
    if classes.min() < 0 or above:
        raise ValueError("its predictions are not logarithms of probabilities")
