"""Lists of label issues: of `evaluate --suspects --predictions --cv-folds`, and of a suite with
`report: {suspects: FILE}`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError
from .console import duration, say

if TYPE_CHECKING:
    from ..experiments.resolve import RunConfig
    from ..experiments.suite import Suite
    from ..labels.manifest import Manifest
    from ..metrics.predictions import Predictions
    from ..runs.folder import RunFolder
    from ..runs.queue import QueuedRun
    from ..runs.workspace import Workspace
    from .options import Globals

_WHY = {
    "early": (
        "mean of the first half of training, before the network memorizes noisy labels "
        "(--score early)"
    ),
    "last": "predictions of the last epoch (--score last)",
    "early and last": (
        "mean of the first half of training of some runs, the last epoch of others (--score)"
    ),
}
_FOLDS = "predictions by networks that were not trained on the example (--cv-folds)"
_LONG = 600.0  # seconds from which the time left is shown


@dataclass(frozen=True)
class Inference:
    """What inference with the networks of a finished run needs. manifest: of the run, where it is
    not in the workspace; test: the test images of another folder set.
    """

    workspace: Workspace
    manifest: Path | None
    device: str
    test: Path | None
    quiet: bool


@dataclass(frozen=True)
class ListRequest:
    """The files to write, and the predictions that they are of."""

    suspects: Path | None
    predictions: Path | None
    folds: int | None
    score: str | None

    def check(self, num_runs: int) -> None:
        """Raises ConfigError."""
        from ..labels.issues import SCORES

        if self.score is not None and self.score not in SCORES:
            raise ConfigError(f"--score is {' or '.join(SCORES)}, got {self.score!r}")
        if self.score is not None and (self.folds or not (self.suspects or self.predictions)):
            raise ConfigError(
                "--score is how the training run judges: it goes with --suspects or "
                "--predictions, and not with --cv-folds"
            )
        for flag, path, suffixes in (
            ("--suspects", self.suspects, (".csv",)),
            ("--predictions", self.predictions, (".npz", ".npy")),
        ):
            if path is not None and path.suffix not in suffixes:
                raise ConfigError(f"{flag} writes a {' or '.join(suffixes)}, got {path}")
        if num_runs == 1:
            return
        if self.predictions is not None:
            raise ConfigError(f"--predictions is of one run, got {num_runs}")
        if self.folds is not None:
            raise ConfigError(f"--cv-folds is of one run, got {num_runs}")


def write_lists(
    folders: list[RunFolder], request: ListRequest, inference: Inference
) -> dict[str, Any]:
    """Write the requested files; under "suspects" the facts of the list. Raises NoisebenchError."""
    request.check(len(folders))
    folder, written = folders[0], dict[str, Any]()
    if len(folders) > 1 and request.suspects is not None:
        entry = _write_list(
            request.suspects, *_combine(folders, request.score, inference), inference
        )
        return {"suspects": {**entry, "runs": [folder.name for folder in folders]}}
    if request.suspects is None and request.folds is None:
        if request.predictions is not None:
            predicted, by = _of_training(folder, request.score or "last")
            written["predictions"] = _write_predictions(
                request.predictions, folder, predicted, by, inference
            )
        return written
    predicted, manifest, by = _predict(folder, request, inference)
    if request.predictions is not None:
        written["predictions"] = _write_predictions(
            request.predictions, folder, predicted, by, inference
        )
    return {
        **written,
        "suspects": _write_list(request.suspects, predicted, manifest, by, inference),
    }


def of_the_same_labels(folders: list[RunFolder], *, quiet: bool) -> list[RunFolder]:
    """The runs on the labels that the run which finished last was trained on, which a list of
    several runs is of. Prints which are left out.
    """
    labels = [folder.full_record()["noise"].get("manifest_sha256") for folder in folders]
    latest = max(zip(folders, labels, strict=True), key=lambda pair: pair[0].ended or 0.0)[1]
    chosen = [folder for folder, sha256 in zip(folders, labels, strict=True) if sha256 == latest]
    others = ", ".join(folder.name for folder in folders if folder not in chosen)
    if others:
        names = ", ".join(folder.name for folder in chosen)
        say(
            "--suspects lists the labels that the run which finished last was trained on: "
            f"{names}; left out, on other labels: {others}",
            quiet=quiet,
        )
    return chosen


def _combine(
    folders: list[RunFolder], score: str | None, inference: Inference
) -> tuple[Predictions, Manifest, str]:
    """The mean predictions of several runs on the same labels."""
    from ..labels.issues import combine
    from ..runs.workspace import manifest_of

    manifest = manifest_of(folders[0], inference.workspace, inference.manifest)
    pairs = [_of_training(folder, score) for folder in folders]
    by = " and ".join(sorted({name for _, name in pairs}))
    return combine([predicted for predicted, _ in pairs], manifest.labels), manifest, by


def _of_training(folder: RunFolder, score: str | None) -> tuple[Predictions, str]:
    """The run's predictions of every training image, and the score that they are of; without clean
    labels.
    """
    from ..labels.issues import better_score, score_labels
    from ..runs.result import load_predictions

    arrays = load_predictions(folder, folder.full_record()["data"]["num_classes"]).arrays
    chosen = score or better_score(arrays)
    return score_labels(arrays, chosen), chosen


def _predict(
    folder: RunFolder, request: ListRequest, inference: Inference
) -> tuple[Predictions, Manifest, str]:
    """The predictions of a run, or of its folds, the labels that it was trained on, and the score
    that they are of.
    """
    from ..runs.session import judged, make_folds
    from ..runs.workspace import manifest_of, rebuild

    if request.folds is None:
        manifest = manifest_of(folder, inference.workspace, inference.manifest)
        predicted, by = _of_training(folder, request.score)
        return predicted, manifest, by
    run = rebuild(folder, inference.workspace, inference.manifest)
    folds = make_folds(run, folder, request.folds)
    if not all(fold.folder.status() == "done" for fold in folds):
        _train(folds, run, inference)
    return judged(folds), run.manifest, f"{request.folds} folds"


def _train(folds: list[Any], run: RunConfig, inference: Inference) -> None:
    from ..core.hardware import keep_memory
    from ..core.signals import StopSignals
    from ..runs.checkpoint import RunOptions
    from ..runs.session import train_folds
    from .progress import RunProgress

    images = inference.workspace.training_images(run.dataset, run.manifest, run.recipe)
    keep_memory()
    with StopSignals() as signals, RunProgress(quiet=inference.quiet) as lines:

        def options(left: int) -> RunOptions:
            lines.say(f"fold {len(folds) - left + 1} of {len(folds)}")

            def on_estimate(seconds: float) -> None:
                if seconds * left > _LONG:
                    lines.say(
                        f"the folds will take about {duration(seconds * left)}; Ctrl-C saves, the "
                        "same command resumes"
                    )

            return RunOptions(
                on_epoch_end=lines.update,
                should_stop=lambda: signals.stopped,
                on_time_estimate=on_estimate,
            )

        train_folds(folds, images, inference.device, options)


def _write_list(
    path: Path | None, predicted: Predictions, manifest: Manifest, by: str, inference: Inference
) -> dict[str, Any]:
    """The list written, and the facts of it."""
    from ..labels.issues import precision_text, write_suspects

    facts = precision_text(predicted, manifest)
    if path is not None:
        write_suspects(path, predicted, manifest)
        say(
            f"{path} written: {facts['listed']} label issues in {facts['of']} labels; "
            f"{_WHY.get(by, _FOLDS)}",
            quiet=inference.quiet,
        )
    return {"file": None if path is None else str(path), "by": by, **facts}


def _write_predictions(
    path: Path, folder: RunFolder, predicted: Predictions, by: str, inference: Inference
) -> dict[str, str]:
    """The predictions of every training image; of a teacher also the hash of the labels that these
    images have. The file, and the score.
    """
    from ..metrics.predictions import write_probabilities, write_teacher

    record = folder.full_record()
    noise = record["noise"]
    if path.suffix == ".npy":
        write_probabilities(path, predicted)
    elif "labels_sha256" not in noise:
        raise DataError(
            f"{folder.path} is of an older version, which did not note whose labels "
            "these are: run it again with --force"
        )
    elif "source" in noise:
        raise DataError(
            f"{folder.path} saw images of {noise['source']} in the place of "
            "some: it cannot teach for these examples"
        )
    else:
        num_classes = record["data"]["num_classes"]
        write_teacher(path, predicted, num_classes, noise["labels_sha256"], record["title"])
    say(
        f"{path} written: {len(predicted.classes)} predictions; {_WHY.get(by, _FOLDS)}",
        quiet=inference.quiet,
    )
    return {"file": str(path), "by": by}


def check_suite_list(suite: Suite, items: list[QueuedRun], workspace: Workspace) -> None:
    """Raises ConfigError where a suite's runs have no one list, or links lead it out of the
    workspace, before the first run.
    """
    if not suite.report.suspects:
        return
    path, root = workspace.root / suite.report.suspects, workspace.root.resolve()
    if not path.resolve().is_relative_to(root):
        raise ConfigError(
            f"report.suspects {suite.report.suspects}: a link leads it out of the "
            f"workspace {workspace.root}"
        )
    if (several := len({item.run.manifest.content_hash for item in items})) > 1:
        raise ConfigError(
            "report.suspects is a list of one set of labels, the suite's runs see "
            f"{several}: fix noise, data set and noise_seed"
        )


def write_suite_list(
    suite: Suite, items: list[QueuedRun], workspace: Workspace, options: Globals
) -> None:
    """Write it once all runs are finished; an existing one stays, since a person may be working on
    it.
    """
    if not suite.report.suspects:
        return
    path = workspace.root / suite.report.suspects
    left = sum(item.folder.status() != "done" for item in items)
    if left:
        text = f"is not written: {left} of {len(items)} runs are not finished"
    elif path.exists():
        text = "is there already and left as it is: move it away for a new list"
    else:
        text = f"written: {_write_suite_list(path, items, workspace)}"
    say(f"{path} {text}", quiet=options.quiet)


def _write_suite_list(path: Path, items: list[QueuedRun], workspace: Workspace) -> str:
    """The facts of the list, with the next command."""
    from ..experiments.suite import label_request_of
    from ..labels.issues import combine, precision_text, write_suspects

    run = items[0].run
    runs = [_of_training(item.folder, None)[0] for item in items]
    predicted = combine(runs, run.manifest.labels)
    write_suspects(path, predicted, run.manifest)
    facts = precision_text(predicted, run.manifest)
    _, manifest_path = workspace.make(run.dataset, label_request_of(items[0].suite_run))
    precision = ""
    if facts["precision"] is not None:
        precision = f", {100 * facts['precision']:.1f} % of them wrong"
    return (
        f"{facts['listed']} label issues in {facts['of']} labels, by its {len(items)} runs "
        f"together{precision}. Delete the lines that are right, "
        f"then: noisebench corrupt --manifest {manifest_path} --suspects {path} --drop "
        "(or --relabel)"
    )
