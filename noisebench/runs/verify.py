"""Verifies that a finished run's record agrees with its files and its networks.

The files of the run directory are compared with result.json; then predictions are recomputed with
the trained networks. A check whose data are missing is undecided; a run is verified only if no
check is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.progress import ProgressCallback
from ..datasets import Images
from ..errors import DataError, ManifestError, NoisebenchError
from ..experiments.resolve import RunConfig
from ..experiments.run_facts import config_of, facts_of_record, key_of
from ..metrics.predictions import Predictions, rounded
from .folder import RunFolder
from .inference import StoredNetworks, load_ensemble
from .result import RunPredictions, load_predictions, noise_facts, test_accuracies
from .workspace import Workspace, rebuild

SAME, DIFFERS, UNDECIDED = "same", "differs", "undecided"
_EXACT = 1e-12  # tolerance for the order of summation on another machine
_HALF = 0.01  # deviation from 1 of the sum of probabilities stored as float16 logarithms
_SHOWN = 3  # differences that are listed
# Largest difference of a recomputed log p, relative to the example's largest -log p or to 1,
# whichever is larger. On one processor there is no difference, with one thread or two, alone or in
# a pack. Other devices round differently: in float32 instead of bf16, networks of five kinds
# differed by at most 0.03. The float32 tolerance allows for a GPU's TF32, whose last digit is an
# eighth of bf16's; it cannot be below 0.001, the last digit on disk.
TOLERANCE = {"fp32": 5e-3, "bf16": 5e-2}


@dataclass(frozen=True)
class Check:
    """One check, its status (same, differs or undecided), and the numbers."""

    name: str
    status: str
    detail: str


def worst_status(checks: list[Check]) -> str:
    """The worst status of all checks of a run."""
    return max((check.status for check in checks), key=(SAME, UNDECIDED, DIFFERS).index)


def verify_run(
    folder: RunFolder, workspace: Workspace, manifest: Path | None = None, device: str = "auto"
) -> list[Check]:
    """Run all checks on a finished run. Raises DataError if the run is not finished, ManifestError
    if `manifest` cannot be read.
    """
    checks: list[Check] = []
    # checksums are a separate check; the others follow even if it fails
    folder = RunFolder(folder.path, checked=False)
    try:
        record = folder.full_record()
        checks += [_settings(folder, record), *_files(folder, record)]
        stored = load_predictions(folder, record["data"]["num_classes"])
        checks.append(_coherent(stored))
        if checks[-1].status == DIFFERS:
            return checks  # no metric can be computed from these predictions
        checks += [
            _counts(record, stored),
            _numbers(record, stored),
            _epochs(folder, record, stored),
        ]
    except DataError as error:
        if not folder.result.exists():
            raise
        return [*checks, Check("predictions" if checks else "record", UNDECIDED, str(error))]
    except (LookupError, TypeError, AttributeError) as error:
        detail = f"{folder.result} is damaged ({type(error).__name__}: {error})"
        return [Check("record", UNDECIDED, detail)]
    try:
        run = rebuild(folder, workspace, manifest)
        images = workspace.training_images(run, device)
        checks += [_noise(record, run), _labels(run, images, stored)]
        if checks[-1].status == SAME:
            training = run.manifest.in_training
            networks = load_ensemble(folder, record, device, lambda: images.train_images[training])
            checks += _predict_again(networks, run, images, stored, workspace.tell)
    except NoisebenchError as error:
        if manifest is not None and isinstance(error, ManifestError):
            raise
        checks.append(Check("networks", UNDECIDED, str(error)))
    return checks


def _check(name: str, differences: list[str], if_same: str) -> Check:
    if not differences:
        return Check(name, SAME, if_same)
    more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    return Check(name, DIFFERS, "; ".join(differences[:_SHOWN]) + more)


def _settings(folder: RunFolder, record: dict[str, Any]) -> Check:
    """The key is the hash of config.yaml, and the record has the same settings."""
    try:
        config = folder.configuration()
    except DataError as error:
        return Check("settings", UNDECIDED, str(error))
    for name in ("key", "title"):
        config.pop(name, None)
    recorded = config_of(facts_of_record(record))
    differences = [
        f"{key}: {config.get(key)!r} in config.yaml, {value!r} in result.json"
        for key, value in recorded.items()
        if config.get(key) != value
    ]
    if key_of(config) != record["key"]:
        differences.append("the key is not the hash of config.yaml")
    return _check("settings", differences, f"key {record['key'][:8]}")


def _files(folder: RunFolder, record: dict[str, Any]) -> list[Check]:
    """The other files have the recorded checksums; older records have none."""
    if (recorded := record.get("files")) is None:
        return []
    checksums = folder.checksums()
    changed = [
        f"{name} does not have the recorded checksum"
        for name in checksums
        if checksums[name] != recorded.get(name)
    ]
    missing = sorted(recorded.keys() - checksums.keys())
    if missing and not changed:
        return [Check("files", UNDECIDED, f"missing: {', '.join(missing)}")]
    return [_check("files", changed, f"{len(checksums)} checksums: {', '.join(checksums)}")]


def _coherent(stored: RunPredictions) -> Check:
    """The values in predictions.npz are consistent for every example."""
    differences = [
        f"{part}: {problem}"
        for part, predictions in (("train", stored.train), ("test", stored.test))
        for problem in _incoherent(predictions)
    ]
    return _check(
        "predictions",
        differences,
        f"{len(stored.train.classes)} training and {len(stored.test.classes)} test examples, "
        "ranked, probabilities sum to 1",
    )


def _incoherent(predictions: Predictions) -> Iterator[str]:
    log_p, dense = predictions.log_p, predictions.dense
    falls = (np.diff(log_p, axis=1) <= 0).all(1)
    if dense is not None:
        falls &= log_p[:, 0] == dense.max(1)
    if not falls.all():
        yield (
            f"classes of {int((~falls).sum())} examples, the first {int(falls.argmin())}, are not "
            "in the order of log_p"
        )
    off = np.exp((log_p if dense is None else dense).astype(np.float64)).sum(1) - 1
    if dense is not None:
        off = np.abs(off)
    if not (fits := off <= _HALF).all():
        yield (
            f"probabilities of {int((~fits).sum())} examples, the first {int(fits.argmin())}, do "
            "not sum to 1"
        )


def _counts(record: dict[str, Any], stored: RunPredictions) -> Check:
    """The number of evaluated examples is as expected."""
    labels = {"train": int(stored.parts["train"].sum()), "test": len(stored.labels["test"])}
    expected, metrics = record.get("expected", {}), record["metrics"]
    seen = record.get("seen", expected)  # an older record has none
    differences = [
        (
            f"{part}: expected {expected.get(part)}, evaluated {seen.get(part)}, in the metrics "
            f"{metrics[part]['n']}, predicted {n}"
        )
        for part, n in labels.items()
        if not expected.get(part) == seen.get(part) == metrics[part]["n"] == n
    ]
    counts = ", ".join(f"{n} {part}" for part, n in labels.items())
    return _check("examples", differences, f"{counts}, all expected and evaluated")


def _numbers(record: dict[str, Any], stored: RunPredictions) -> Check:
    """All metrics, recomputed from predictions.npz."""
    again = stored.metrics(record["data"]["num_classes"])
    again["memorised"] = again["train"]["memorised"]
    again["test_acc"] = {"last": again["test"]["top1"]}
    recorded = {**record["metrics"], "test_acc": {"last": record["metrics"]["test_acc"]["last"]}}
    how = "recomputed from predictions.npz"
    return _compared("numbers", dict(_leaves(recorded)), dict(_leaves(again)), how)


def _epochs(folder: RunFolder, record: dict[str, Any], stored: RunPredictions) -> Check:
    """The accuracies of chosen epochs, recomputed from metrics.csv; its last line must agree with
    the final predictions.
    """
    top1 = float((stored.test.predicted == stored.labels["test"]).mean())
    try:
        history = folder.read_history()
        again: dict[str, Any] = {
            "epochs": len(history),
            "last line's test_acc": history[-1]["test_acc"],
            **test_accuracies(top1, history),
        }
    except DataError as error:
        return Check("epochs", UNDECIDED, str(error))
    except (LookupError, TypeError, ValueError) as error:
        return Check("epochs", UNDECIDED, f"{folder.history} lacks {error}")
    recorded = {
        "epochs": record["recipe"]["epochs"],
        "last line's test_acc": top1,
        **record["metrics"]["test_acc"],
    }
    return _compared("epochs", recorded, again, "recomputed from metrics.csv")


def _compared(name: str, recorded: dict[str, Any], again: dict[str, Any], how: str) -> Check:
    differences = []
    for key, before in recorded.items():
        after = again.get(key)
        same = before == after
        if isinstance(before, int | float) and isinstance(after, int | float):
            same = abs(before - after) <= _EXACT * max(1.0, abs(after))
        if not same:
            differences.append(f"{key} is {_number(before)}, recomputed {_number(after)}")
    return _check(name, differences, f"{len(recorded)} {how}")


def _number(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, int | float) else repr(value)


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Pairs of a dotted name, such as `test.nll`, and its value."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, tree


def _noise(record: dict[str, Any], run: RunConfig) -> Check:
    """The record's classes and noise agree with data and manifest; paths and convention are not
    compared.
    """
    facts = {**noise_facts(run), "classes": list(run.dataset.classes)}
    recorded = {**record["noise"], "classes": record["data"]["classes"]}
    compared = (facts.keys() & recorded.keys()) - {"text", "convention"}
    recorded = {key: value for key, value in recorded.items() if key in compared}
    return _compared("noise", recorded, facts, "facts agree with the manifest")


def _labels(run: RunConfig, images: Images, stored: RunPredictions) -> Check:
    """The labels in predictions.npz agree with the manifest and the data."""
    manifest, arrays = run.manifest, {**stored.labels, **stored.parts}
    expected = {
        "recorded": manifest.labels,
        "clean": manifest.true_labels,
        "test": images.test_labels,
        **manifest.splits,
    }
    differences = [
        f"{part}: differ from the manifest or the data"
        for part, labels in expected.items()
        if not np.array_equal(labels, arrays[part])
    ]
    return _check("labels", differences, "agree with the manifest and the data")


def _predict_again(
    networks: StoredNetworks,
    run: RunConfig,
    images: Images,
    stored: RunPredictions,
    tell: ProgressCallback,
) -> Iterator[Check]:
    """The trained networks give the stored predictions."""
    training = run.manifest.in_training
    all_test = np.ones(len(images.test_images), bool)
    for name, which, pixels, before in (
        ("networks on training", training, images.train_images, stored.train),
        ("networks on the others", ~training, images.train_images, stored.train),
        ("networks on test", all_test, images.test_images, stored.test),
    ):
        if which.any():
            batches = networks.parts(pixels[which], tell)
            yield _same_again(name, batches, before.take(which), TOLERANCE[run.precision])


def _same_again(
    name: str, batches: Iterable[np.ndarray], before: Predictions, tolerance: float
) -> Check:
    """Compares recomputed log_p (n, K), batch by batch, with the stored predictions.

    Threads, another device, or the pack that a run trained in change the order of summation and so
    the last digits: each log_p must agree within the tolerance, and the predicted class may differ
    only if the two classes are that close.
    """
    columns, start = [], 0
    for log_p in batches:
        rows = np.arange(len(log_p))
        same = before.take(start + rows)
        start += len(log_p)
        old, new = same.log_p, np.take_along_axis(log_p, same.classes, 1)
        if same.dense is not None:
            old, new = same.dense, log_p
        scale = np.maximum(1, -log_p.min(1))
        off = np.abs(rounded(new) - old).max(1) / scale
        # by how much the stored class is behind the recomputed one
        behind = (log_p.max(1) - log_p[rows, same.predicted]) / scale
        columns.append((off, behind, log_p.argmax(1) != same.predicted))
    off, behind, other = (np.concatenate(column) for column in zip(*columns, strict=True))
    bad = ~((off <= tolerance) & (behind <= 2 * tolerance))  # true for NaN
    numbers = (
        f"{int(other.sum())} of {start} classes differ, log p differs by at most "
        f"{off.max():.2g}, tolerance {tolerance:g}"
    )
    if bad.any():
        return Check(name, DIFFERS, f"{int(bad.sum())} examples exceed the tolerance; {numbers}")
    return Check(name, SAME, numbers)
