"""Lists of label issues: of `evaluate --suspects --predictions --cv-folds`, and of a suite with
`report: {suspects: FILE}`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .console import RunProgress, say
from .options import refuse

if TYPE_CHECKING:
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

        refuse(
            (
                self.score not in (None, *SCORES),
                f"--score is {' or '.join(SCORES)}, got {self.score!r}",
            ),
            (
                self.score is not None and (self.folds or not (self.suspects or self.predictions)),
                "--score is how the training run judges: it goes with --suspects or "
                "--predictions, and not with --cv-folds",
            ),
            (
                self.suspects and self.suspects.suffix != ".csv",
                f"--suspects writes a .csv, got {self.suspects}",
            ),
            (
                self.predictions and self.predictions.suffix not in (".npz", ".npy"),
                f"--predictions writes a .npz or .npy, got {self.predictions}",
            ),
            (
                self.predictions and num_runs > 1,
                f"--predictions is of one run, got {num_runs}",
            ),
            (
                self.folds is not None and num_runs > 1,
                f"--cv-folds is of one run, got {num_runs}",
            ),
        )


def write_lists(
    folders: list[RunFolder], request: ListRequest, inference: Inference
) -> dict[str, Any]:
    """Write the requested files; under "suspects" the facts of the list. Raises NoisebenchError."""
    from ..labels.issues import combine, precision_text, write_suspects
    from ..runs.rebuild import manifest_of

    request.check(len(folders))
    folder, written = folders[0], dict[str, Any]()
    if request.folds is not None:
        predicted, manifest = _judged_by_folds(folder, request.folds, inference)
        by = f"{request.folds} folds"
    elif request.suspects is not None:
        manifest = manifest_of(folder, inference.workspace, inference.manifest)
        runs, by = _predictions_of(folders, request.score)
        predicted = combine(runs, manifest.labels)
    elif request.predictions is not None:
        (predicted,), by = _predictions_of([folder], request.score or "last")
    if request.predictions is not None:
        written["predictions"] = _write_predictions(
            request.predictions, folder, predicted, by, inference
        )
    if request.suspects is not None or request.folds is not None:
        facts = precision_text(predicted, manifest)
        file = None if request.suspects is None else str(request.suspects)
        written["suspects"] = {"file": file, "by": by, **facts}
    if request.suspects is not None:
        write_suspects(request.suspects, predicted, manifest)
        text = f"{request.suspects} written: {facts['listed']} label issues in {facts['of']} labels"
        say(f"{text}; {_WHY.get(by, _FOLDS)}", quiet=inference.quiet)
        if len(folders) > 1:
            written["suspects"]["runs"] = [folder.name for folder in folders]
    return written


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


def _predictions_of(folders: list[RunFolder], score: str | None) -> tuple[list[Predictions], str]:
    """The predictions of runs for every training image, and the scores that they are of."""
    from ..labels.issues import better_score, score_labels
    from ..runs.predictions import checked_arrays

    predictions, names = [], set()
    for folder in folders:
        arrays = checked_arrays(folder, folder.full_record()["data"]["num_classes"])
        name = score or better_score(arrays)
        predictions.append(score_labels(arrays, name))
        names.add(name)
    return predictions, " and ".join(sorted(names))


def _judged_by_folds(
    folder: RunFolder, count: int, inference: Inference
) -> tuple[Predictions, Manifest]:
    """The predictions by the folds of a run, which are trained if need be, and its labels."""
    from ..core.hardware import keep_memory
    from ..core.signals import StopSignals
    from ..runs.checkpoint import RunOptions
    from ..runs.cross_validation import judged, make_folds, train_folds
    from ..runs.rebuild import rebuild

    run = rebuild(folder, inference.workspace, inference.manifest)
    folds = make_folds(run, folder, count)
    if all(fold.done for fold in folds):  # images need not be here
        return judged(folds), run.manifest
    images = inference.workspace.training_images(run.dataset, run.manifest, run.recipe)
    keep_memory()
    with StopSignals() as signals, RunProgress(quiet=inference.quiet) as lines:

        def options(left: int) -> RunOptions:
            lines.say(f"fold {count - left + 1} of {count}")
            return RunOptions(
                on_epoch_end=lines.update,
                should_stop=lambda: signals.stopped,
                on_time_estimate=lambda seconds: lines.say_duration(seconds * left, "the folds"),
            )

        train_folds(folds, images, inference.device, options)
    return judged(folds), run.manifest


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
    several = len({item.run.manifest.content_hash for item in items})
    refuse(
        (
            not path.resolve().is_relative_to(root),
            f"report.suspects {suite.report.suspects}: a link leads it out of the "
            f"workspace {workspace.root}",
        ),
        (
            several > 1,
            "report.suspects is a list of one set of labels, the suite's runs see "
            f"{several}: fix noise, data set and noise_seed",
        ),
    )


def write_suite_list(
    suite: Suite, items: list[QueuedRun], workspace: Workspace, options: Globals
) -> None:
    """Write it once all runs are finished; an existing one stays, since a person may be working on
    it.
    """
    if not suite.report.suspects:
        return
    from ..experiments.suite import label_request_of
    from ..labels.issues import combine, precision_text, write_suspects

    path = workspace.root / suite.report.suspects
    left = sum(item.folder.status() != "done" for item in items)
    if left:
        text = f"is not written: {left} of {len(items)} runs are not finished"
    elif path.exists():
        text = "is there already and left as it is: move it away for a new list"
    else:
        run = items[0].run
        runs, by = _predictions_of([item.folder for item in items], None)
        predicted = combine(runs, run.manifest.labels)
        write_suspects(path, predicted, run.manifest)
        facts = precision_text(predicted, run.manifest)
        _, manifest = workspace.make(run.dataset, label_request_of(items[0].suite_run))
        precision = ""
        if facts["precision"] is not None:
            precision = f", {100 * facts['precision']:.1f} % of them wrong"
        text = (
            f"written: {facts['listed']} label issues in {facts['of']} labels, by its {len(runs)} "
            f"runs together{precision}; {_WHY[by]}. Delete the lines that are right, then: "
            f"noisebench corrupt --manifest {manifest} --suspects {path} --drop (or --relabel)"
        )
    say(f"{path} {text}", quiet=options.quiet)
