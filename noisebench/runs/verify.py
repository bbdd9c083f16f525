"""Whether a finished run's record agrees with its files and its networks: one check after another,
each with its numbers.

The files of the folder are compared with result.json, then predictions are made again with the
trained networks. A check whose data are missing is undecided; a run is reproduced only if every
check was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
_EXACT = 1e-12  # what another machine's order of summing may change
_HALF = 0.01  # how far from 1 probabilities of float16 logarithms may sum up to
_SHOWN = 3  # differences that are named
# How far a prediction made again may differ, as a share of the example's largest -log p, but at
# least of 1. On one processor it does not differ at all, with one thread or two, alone or from a
# pack. Another device rounds otherwise: computed in float32 in place of bf16, networks of five
# kinds differed by 0.03 at most. For float32 room is left for a GPU's TF32, whose last digit is an
# eighth of bf16's; it cannot be below 0.001, a last digit on disk.
TOLERANCE = {"fp32": 5e-3, "bf16": 5e-2}


@dataclass(frozen=True)
class Check:
    """What was checked, how it came out, and in which numbers."""

    name: str
    status: str
    detail: str


def worst_status(checks: list[Check]) -> str:
    """The worst status of all checks of a run."""
    return max((check.status for check in checks), key=(SAME, UNDECIDED, DIFFERS).index)


def verify_run(
    folder: RunFolder, workspace: Workspace, manifest: Path | None = None, device: str = "auto"
) -> list[Check]:
    """Every check of a finished run. Raises DataError where there is none, ManifestError for a
    `manifest` that cannot be read.
    """
    checks: list[Check] = []
    # checksums are a check of their own, after which the others are made all the same
    folder = RunFolder(folder.path, checked=False)
    try:
        record = folder.full_record()
        checks += [_settings(folder, record), *_files(folder, record)]
        stored = load_predictions(folder, record["data"]["num_classes"])
        checks.append(_coherent(stored))
        if checks[-1].status == DIFFERS:
            return checks  # no metric can be computed from these
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
        images = workspace.training_images(run.dataset, run.manifest, run.recipe)
        checks += [_noise(record, run), _labels(run, images, stored)]
        if checks[-1].status == SAME:
            training = run.manifest.in_training
            networks = load_ensemble(folder, record, device, lambda: images.train_images[training])
            checks += _predict_again(networks, run, images, stored)
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
    """config.yaml is what the key was made of, and the record agrees with it."""
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
        differences.append("the key is not that of config.yaml")
    return _check("settings", differences, f"their key is {record['key'][:8]}")


def _files(folder: RunFolder, record: dict[str, Any]) -> list[Check]:
    """The other files are those that were written; an older record has no checksums."""
    if (recorded := record.get("files")) is None:
        return []
    checksums = folder.checksums()
    changed = [
        f"{name} is not the file that the run wrote"
        for name in checksums
        if checksums[name] != recorded.get(name)
    ]
    missing = sorted(recorded.keys() - checksums.keys())
    if missing and not changed:
        return [Check("files", UNDECIDED, f"not there: {', '.join(missing)}")]
    return [_check("files", changed, f"{len(checksums)} checksums: {', '.join(checksums)}")]


def _coherent(stored: RunPredictions) -> Check:
    """The values that predictions.npz has for an example fit together."""
    differences = [
        f"{part}: {problem}"
        for part, predictions in (("train", stored.train), ("test", stored.test))
        for problem in _incoherent(predictions)
    ]
    return _check(
        "predictions",
        differences,
        f"{len(stored.train.classes)} of training and "
        f"{len(stored.test.classes)} of the test, ranked, each of sum 1",
    )


def _incoherent(predictions: Predictions) -> Iterator[str]:
    log_p, dense = predictions.log_p, predictions.dense
    falls = (np.diff(log_p, axis=1) <= 0).all(1)
    if dense is not None:
        falls &= log_p[:, 0] == dense.max(1)
    if not falls.all():
        yield (
            f"{int((~falls).sum())} examples, the first {int(falls.argmin())}, whose classes "
            "are not in the order of log_p"
        )
    off = np.exp((log_p if dense is None else dense).astype(np.float64)).sum(1) - 1
    if dense is not None:
        off = np.abs(off)
    if not (fits := off <= _HALF).all():
        yield (
            f"{int((~fits).sum())} examples, the first {int(fits.argmin())}, whose probabilities "
            "are not of sum 1"
        )


def _counts(record: dict[str, Any], stored: RunPredictions) -> Check:
    """The number of evaluated examples is the expected one."""
    labels = {"train": int(stored.parts["train"].sum()), "test": len(stored.labels["test"])}
    expected, metrics = record.get("expected", {}), record["metrics"]
    seen = record.get("seen", expected)  # an older record has none
    differences = [
        (
            f"{part}: expected {expected.get(part)}, seen {seen.get(part)}, in the metrics "
            f"{metrics[part]['n']}, predicted {n}"
        )
        for part, n in labels.items()
        if not expected.get(part) == seen.get(part) == metrics[part]["n"] == n
    ]
    counts = ", ".join(f"{n} {part}" for part, n in labels.items())
    return _check("examples", differences, f"{counts}, all expected and evaluated")


def _numbers(record: dict[str, Any], stored: RunPredictions) -> Check:
    """Each of the metrics, computed again from predictions.npz."""
    again = stored.metrics(record["data"]["num_classes"])
    again["memorised"] = again["train"]["memorised"]
    again["test_acc"] = {"last": again["test"]["top1"]}
    recorded = {**record["metrics"], "test_acc": {"last": record["metrics"]["test_acc"]["last"]}}
    how = "made again from predictions.npz"
    return _compared("numbers", dict(_leaves(recorded)), dict(_leaves(again)), how)


def _epochs(folder: RunFolder, record: dict[str, Any], stored: RunPredictions) -> Check:
    """The accuracies that are chosen among epochs, computed again from metrics.csv; its last line
    is the run's end.
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
    return _compared("epochs", recorded, again, "made again from metrics.csv")


def _compared(name: str, recorded: dict[str, Any], again: dict[str, Any], how: str) -> Check:
    differences = []
    for key, before in recorded.items():
        after = again.get(key)
        same = before == after
        if isinstance(before, int | float) and isinstance(after, int | float):
            same = abs(before - after) <= _EXACT * max(1.0, abs(after))
        if not same:
            differences.append(f"{key} is {_number(before)}, made again {_number(after)}")
    return _check(name, differences, f"{len(recorded)} {how}")


def _number(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, int | float) else repr(value)


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """`test.nll` and its value, and so on."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, tree


def _noise(record: dict[str, Any], run: RunConfig) -> Check:
    """The record's classes and noise are those of data and manifest; not their path, nor the
    convention.
    """
    facts = {**noise_facts(run), "classes": list(run.dataset.classes)}
    recorded = {**record["noise"], "classes": record["data"]["classes"]}
    compared = (facts.keys() & recorded.keys()) - {"text", "convention"}
    recorded = {key: value for key, value in recorded.items() if key in compared}
    return _compared("noise", recorded, facts, "facts are those of the manifest")


def _labels(run: RunConfig, images: Images, stored: RunPredictions) -> Check:
    """The labels beside the predictions are those of the manifest and the data."""
    manifest, arrays = run.manifest, {**stored.labels, **stored.parts}
    expected = {
        "recorded": manifest.labels,
        "clean": manifest.true_labels,
        "test": images.test_labels,
        **manifest.splits,
    }
    differences = [
        f"{part}: not those of the manifest and the data"
        for part, labels in expected.items()
        if not np.array_equal(labels, arrays[part])
    ]
    return _check("labels", differences, "those of the manifest and the data")


def _predict_again(
    networks: StoredNetworks, run: RunConfig, images: Images, stored: RunPredictions
) -> Iterator[Check]:
    """The networks make the same predictions again."""
    training = run.manifest.in_training
    all_test = np.ones(len(images.test_images), bool)
    for name, which, pixels, before in (
        ("networks on training", training, images.train_images, stored.train),
        ("networks on the others", ~training, images.train_images, stored.train),
        ("networks on test", all_test, images.test_images, stored.test),
    ):
        if which.any():
            batches = networks.parts(pixels[which])
            yield _same_again(name, batches, before.take(which), TOLERANCE[run.precision])


def _same_again(
    name: str, batches: Iterable[np.ndarray], before: Predictions, tolerance: float
) -> Check:
    """log_p (n, K) made again, batch by batch, compared with the stored predictions.

    Threads, another device, or the pack that a run trained in change the order of sums and with it
    the last digits: each log_p is to be the same within the tolerance, and another class to be
    predicted only where the two are as near to each other.
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
        # how far the class that was predicted is behind the one that is
        behind = (log_p.max(1) - log_p[rows, same.predicted]) / scale
        columns.append((off, behind, log_p.argmax(1) != same.predicted))
    off, behind, other = (np.concatenate(column) for column in zip(*columns, strict=True))
    bad = ~((off <= tolerance) & (behind <= 2 * tolerance))  # so is what is not a number
    numbers = (
        f"{int(other.sum())} of {start} predicted otherwise, log p off by at most "
        f"{off.max():.2g}, allowed {tolerance:g}"
    )
    if bad.any():
        return Check(name, DIFFERS, f"{int(bad.sum())} examples beyond it; {numbers}")
    return Check(name, SAME, numbers)
