"""Whether a finished run's record is what its files and its networks say: one check after another,
each with its numbers.

What lies in the folder is held against result.json, then the networks are asked again about the
images that they were trained and tested on. Of what is not at hand it is said that it cannot be
decided; only where every check was made is a run reproduced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import Images
from ..errors import DataError, ManifestError, NoisebenchError
from ..experiments.resolve import RunConfig, key_of
from ..metrics.predictions import Predictions, rounded
from .folder import RunFolder
from .inference import load_ensemble
from .predictions import RunPredictions, load_predictions
from .rebuild import rebuild
from .result import noise_facts, test_accuracies
from .workspace import Workspace

SAME, DIFFERS, UNDECIDED = "same", "differs", "undecided"
_EXACT = 1e-12  # what another machine's order of summing may change
_HALF = 0.01  # how far from 1 probabilities of float16 logarithms may sum up to
_SHOWN = 3  # differences that are named
# How far networks that are asked again may be from what they said, as a share of the example's
# largest -log p, at least 1. On one processor they are not off at all, with one thread or two,
# alone or from a pack. On another device they round otherwise: computed in float32 in place of
# bf16, networks of five kinds were off by 0.03 at most. For float32 room is left for a GPU's TF32,
# whose last digit is an eighth of bf16's; it cannot be below 0.001, a last digit on disk.
TOLERANCE = {"fp32": 5e-3, "bf16": 5e-2}


@dataclass(frozen=True)
class Check:
    """What was checked, how it came out, and in which numbers."""

    name: str
    status: str
    detail: str


def worst_status(checks: list[Check]) -> str:
    """Of all checks of a run: the worst."""
    return next(
        (
            status
            for status in (DIFFERS, UNDECIDED)
            if any(check.status == status for check in checks)
        ),
        SAME,
    )


def verify_run(
    folder: RunFolder, workspace: Workspace, manifest: Path | None = None, device: str = "auto"
) -> list[Check]:
    """Every check of a finished run. Raises DataError where there is none, ManifestError for a
    `manifest` that cannot be read.
    """
    checks: list[Check] = []
    # that is a check of its own, after which the others are made all the same
    folder = RunFolder(folder.path, checked=False)
    try:
        record = folder.full_record()
        checks += [_settings(folder, record), *_files(folder, record)]
        said = load_predictions(folder, record["data"]["num_classes"])
        checks.append(_coherent(said))
        if checks[-1].status == DIFFERS:
            return checks  # no number can come of these
        checks += [_counts(record, said), _numbers(record, said), _epochs(folder, record, said)]
    except DataError as error:
        if not folder.result.exists():
            raise
        return (
            [*checks, Check("predictions", UNDECIDED, str(error))]
            if checks
            else [Check("record", UNDECIDED, str(error))]
        )
    except (LookupError, TypeError, AttributeError) as error:
        return [
            Check(
                "record", UNDECIDED, f"{folder.result} is damaged ({type(error).__name__}: {error})"
            )
        ]
    try:
        run = rebuild(folder, workspace, manifest)
        images = workspace.training_images(run.dataset, run.manifest, run.recipe)
        checks += [_noise(record, run), _labels(run, images, said)]
        if checks[-1].status == SAME:
            checks += _asked_again(folder, run, images, said, device)
    except NoisebenchError as error:
        if manifest is not None and isinstance(error, ManifestError):
            raise
        checks.append(Check("networks", UNDECIDED, str(error)))
    return checks


def _check(name: str, differences: list[str], otherwise: str) -> Check:
    if not differences:
        return Check(name, SAME, otherwise)
    more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    return Check(name, DIFFERS, "; ".join(differences[:_SHOWN]) + more)


def _settings(folder: RunFolder, record: dict[str, Any]) -> Check:
    """config.yaml is what the key was made of, and the record says the same."""
    try:
        config = {
            key: value
            for key, value in folder.configuration().items()
            if key not in ("key", "title")
        }
    except DataError as error:
        return Check("settings", UNDECIDED, str(error))
    recorded = _recorded_settings(record)
    unlike = [
        f"{key}: {config.get(key)!r} in config.yaml, {value!r} in result.json"
        for key, value in recorded.items()
        if config.get(key) != value
    ]
    if key_of(config) != record["key"]:
        unlike.append("the key is not that of config.yaml")
    return _check("settings", unlike, f"their key is {record['key'][:8]}")


def _recorded_settings(record: dict[str, Any]) -> dict[str, Any]:
    recipe = {name: value for name, value in record["recipe"].items() if name != "name"}
    versions = {
        name: value for name, value in record.get("versions", {}).items() if name != "protocol"
    }
    return {
        "manifest_sha256": record["noise"].get("manifest_sha256"),
        "data_sha256": record["data"].get("sha256"),
        "model": record["model"]["name"],
        "recipe": recipe,
        "versions": versions,
        **({"init": record["init"]["sha256"]} if "init" in record else {}),
        **{key: record[key] for key in ("loss", "strategy", "seed", "precision")},
    }


def _files(folder: RunFolder, record: dict[str, Any]) -> Iterator[Check]:
    """The other files are those that were written; an older record does not say."""
    if (recorded := record.get("files")) is None:
        return
    found = folder.checksums()
    if changed := [
        f"{name} is not the file that the run wrote"
        for name in found
        if found[name] != recorded.get(name)
    ]:
        yield _check("files", changed, "")
    elif missing := sorted(recorded.keys() - found.keys()):
        yield Check("files", UNDECIDED, f"not there: {', '.join(missing)}")
    else:
        yield Check("files", SAME, f"{len(found)} checksums: {', '.join(found)}")


def _coherent(said: RunPredictions) -> Check:
    """What predictions.npz says of an example fits together."""
    wrong = [
        f"{part}: {what}"
        for part, each in (("train", said.train), ("test", said.test))
        for what in _incoherent(each)
    ]
    return _check(
        "predictions",
        wrong,
        f"{len(said.train.classes)} of training and "
        f"{len(said.test.classes)} of the test, ranked, each of sum 1",
    )


def _incoherent(said: Predictions) -> Iterator[str]:
    falls = (np.diff(said.log_p, axis=1) <= 0).all(1)
    if said.dense is not None:
        falls &= said.log_p[:, 0] == said.dense.max(1)
    if not falls.all():
        yield (
            f"{int((~falls).sum())} examples, the first {int(falls.argmin())}, whose classes "
            "are not in the order of log_p"
        )
    top = np.exp((said.log_p if said.dense is None else said.dense).astype(np.float64)).sum(1)
    off = top - 1 if said.dense is None else np.abs(top - 1)
    if not (bad := off <= _HALF).all():
        yield (
            f"{int((~bad).sum())} examples, the first {int(bad.argmin())}, whose probabilities "
            "are not of sum 1"
        )


def _counts(record: dict[str, Any], said: RunPredictions) -> Check:
    """As many examples were evaluated as there were to be."""
    found = {"train": int(said.parts["train"].sum()), "test": len(said.labels["test"])}
    expected, counted = record.get("expected", {}), record["metrics"]
    seen = record.get("seen", expected)  # an older record does not say
    unlike = [
        (
            f"{part}: expected {expected.get(part)}, seen {seen.get(part)}, in the metrics "
            f"{counted[part]['n']}, predicted {n}"
        )
        for part, n in found.items()
        if not expected.get(part) == seen.get(part) == counted[part]["n"] == n
    ]
    return _check(
        "examples",
        unlike,
        ", ".join(f"{n} {part}" for part, n in found.items()) + ", all expected and evaluated",
    )


def _numbers(record: dict[str, Any], said: RunPredictions) -> Check:
    """Each number of the metrics, made again from predictions.npz."""
    made = said.metrics(record["data"]["num_classes"])
    found = {
        **made,
        "memorised": made["train"]["memorised"],
        "test_acc": {"last": made["test"]["top1"]},
    }
    recorded = dict(
        _leaves({**record["metrics"], "test_acc": {"last": record["metrics"]["test_acc"]["last"]}})
    )
    return _compared("numbers", recorded, dict(_leaves(found)), "made again from predictions.npz")


def _epochs(folder: RunFolder, record: dict[str, Any], said: RunPredictions) -> Check:
    """The accuracies that are chosen among epochs, made again from metrics.csv; its last line is
    the run's end.
    """
    try:
        history = folder.read_history()
        top1 = float((said.test.predicted == said.labels["test"]).mean())
        found: dict[str, Any] = {
            "epochs": len(history),
            "last line's test_acc": history[-1]["test_acc"],
            **test_accuracies(top1, history),
        }
    except (DataError, LookupError, TypeError, ValueError) as error:
        return Check(
            "epochs",
            UNDECIDED,
            str(error) if isinstance(error, DataError) else f"{folder.history} lacks {error}",
        )
    recorded = {
        "epochs": record["recipe"]["epochs"],
        "last line's test_acc": top1,
        **record["metrics"]["test_acc"],
    }
    return _compared("epochs", recorded, found, "made again from metrics.csv")


def _compared(name: str, recorded: dict[str, Any], found: dict[str, Any], how: str) -> Check:
    unlike = [
        f"{key} is {_number(value)}, made again {_number(found.get(key))}"
        for key, value in recorded.items()
        if not _equal(value, found.get(key))
    ]
    return _check(name, unlike, f"{len(recorded)} {how}")


def _number(value: Any) -> str:
    return (
        "none"
        if value is None
        else f"{value:.12g}"
        if isinstance(value, int | float)
        else repr(value)
    )


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return abs(a - b) <= _EXACT * max(1.0, abs(b))
    return bool(a == b)


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """`test.nll` and its value, and so on."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, tree


def _noise(record: dict[str, Any], run: RunConfig) -> Check:
    """What the record says of classes and noise is what data and manifest say; not where they were
    read, nor by which convention.
    """
    facts = {**noise_facts(run), "classes": list(run.dataset.classes)}
    recorded = {**record["noise"], "classes": record["data"]["classes"]}
    told = {
        key: value
        for key, value in recorded.items()
        if key in facts and key not in ("text", "convention")
    }
    return _compared("noise", told, facts, "facts are those of the manifest")


def _labels(run: RunConfig, images: Images, said: RunPredictions) -> Check:
    """The labels beside the predictions are those of the manifest and the data."""
    manifest = run.manifest
    there = {
        "recorded": manifest.labels,
        "clean": manifest.true_labels,
        "test": images.test_labels,
        **manifest.splits,
    }
    here = {**said.labels, **said.parts}
    unlike = [
        f"{part}: not those of the manifest and the data"
        for part in there
        if not np.array_equal(there[part], here[part])
    ]
    return _check("labels", unlike, "those of the manifest and the data")


def _asked_again(
    folder: RunFolder, run: RunConfig, images: Images, said: RunPredictions, device: str
) -> Iterator[Check]:
    """The networks say again what they said."""
    training = run.manifest.in_training
    networks = load_ensemble(folder, device, lambda: images.train_images[training])
    everything = np.ones(len(images.test_images), bool)
    for name, part, pixels, before in (
        ("networks on training", training, images.train_images, said.train),
        ("networks on the others", ~training, images.train_images, said.train),
        ("networks on test", everything, images.test_images, said.test),
    ):
        if part.any():
            yield _same_again(
                name, networks.parts(pixels[part]), before.take(part), TOLERANCE[run.precision]
            )


def _same_again(
    name: str, parts: Iterable[np.ndarray], before: Predictions, tolerance: float
) -> Check:
    """log_p (n, K) of networks that are asked again, part by part, beside what they said.

    Threads, another device, or the pack that a run trained in change the order of sums and with it
    the last digits: each log_p is to be the same within the tolerance, and another class to be
    predicted only where the two are as near to each other.
    """
    found, start = [], 0
    for log_p in parts:
        found.append(_differences(log_p, before.take(np.arange(start, start + len(log_p)))))
        start += len(log_p)
    off, behind, other = (np.concatenate(column) for column in zip(*found, strict=True))
    bad = ~((off <= tolerance) & (behind <= 2 * tolerance))  # so is what is not a number
    numbers = (
        f"{int(other.sum())} of {start} predicted otherwise, log p off by at most "
        f"{off.max():.2g}, allowed {tolerance:g}"
    )
    return Check(
        name,
        DIFFERS if bad.any() else SAME,
        (f"{int(bad.sum())} examples beyond it; {numbers}") if bad.any() else numbers,
    )


def _differences(
    log_p: np.ndarray, before: Predictions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each example (n,): how far log_p (n, K) is off, how far the class that was predicted is
    behind, and whether it is another.
    """
    rows = np.arange(len(log_p))
    said, again = before.log_p, np.take_along_axis(log_p, before.classes, 1)
    if before.dense is not None:
        said, again = before.dense, log_p
    scale = np.maximum(1, -log_p.min(1))
    off = np.abs(rounded(again) - said).max(1) / scale
    behind = (log_p.max(1) - log_p[rows, before.predicted]) / scale
    return off, behind, log_p.argmax(1) != before.predicted
