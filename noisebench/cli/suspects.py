"""`noisebench evaluate --suspects --predictions --folds`: what one run, or its folds, say of every
training label, as files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import duration, say

if TYPE_CHECKING:
    from ..experiments.resolve import RunConfig
    from ..labels.manifest import Manifest
    from ..metrics.predictions import Predictions
    from ..runs.cross_validation import Fold
    from ..runs.folder import RunFolder
    from .asking import Asking
    from .progress import RunProgress

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
_FOLDS = "predictions by networks that were not trained on the example (--folds)"
_LONG = 600.0  # seconds from which what is left is said


def doubts(
    folders: list[RunFolder],
    asking: Asking,
    *,
    suspects: Path | None,
    predictions: Path | None,
    folds: int | None,
    score: str | None,
) -> dict[str, Any]:
    """Write what is asked for; under "suspects" what is said of the list. Raises
    NoisebenchError.
    """
    _check(
        folders,
        {"--suspects": suspects, "--predictions": predictions, "--folds": folds, "--score": score},
    )
    folder = folders[0]
    if len(folders) > 1 and suspects is not None:
        names = [folder.name for folder in folders]
        return {
            "suspects": {
                **_listed(suspects, *_together(folders, score, asking), asking),
                "runs": names,
            }
        }
    if suspects is None and folds is None:
        if predictions is None:
            return {}
        said, by = _of_training(folder, score or "last")
        return {"predictions": _write_predictions(predictions, folder, said, by, asking)}
    manifest, said, by = _judged(folder, folds, score, asking)
    written = (
        {}
        if predictions is None
        else {"predictions": _write_predictions(predictions, folder, said, by, asking)}
    )
    return {**written, "suspects": _listed(suspects, said, manifest, by, asking)}


def of_the_same_labels(folders: list[RunFolder], *, quiet: bool) -> list[RunFolder]:
    """The runs on the labels that the run which finished last was trained on: what a list of
    several runs is of. Says what is left out.
    """
    labels = [folder.full_record()["noise"].get("manifest_sha256") for folder in folders]
    latest = max(zip(folders, labels, strict=True), key=lambda pair: pair[0].ended or 0.0)[1]
    chosen = [folder for folder, own in zip(folders, labels, strict=True) if own == latest]
    others = ", ".join(folder.name for folder in folders if folder not in chosen)
    if others:
        names = ", ".join(folder.name for folder in chosen)
        lists = (
            f"--suspects lists the labels that the run which finished last was trained on: {names}"
        )
        say(f"{lists}; left out, on other labels: {others}", quiet=quiet)
    return chosen


def _together(
    folders: list[RunFolder], score: str | None, asking: Asking
) -> tuple[Predictions, Manifest, str]:
    """What several runs on the same labels say of them together, the mean over the runs."""
    from ..labels.issues import combine
    from ..runs.rebuild import manifest_of

    manifest, judged = (
        manifest_of(folders[0], asking.workspace, asking.manifest),
        [_of_training(folder, score) for folder in folders],
    )
    by = " and ".join(sorted({name for _, name in judged}))
    return combine([said for said, _ in judged], manifest.labels), manifest, by


def _check(folders: list[RunFolder], given: dict[str, Any]) -> None:
    from ..errors import ConfigError
    from ..labels.issues import SCORES

    score = given.pop("--score")
    if score is not None and score not in SCORES:
        raise ConfigError(f"--score is {' or '.join(SCORES)}, got {score!r}")
    if score is not None and (
        given["--folds"] or not (given["--suspects"] or given["--predictions"])
    ):
        raise ConfigError(
            "--score is how the training run judges: it goes with --suspects or "
            "--predictions, and not with --folds"
        )
    suffixes = {"--suspects": (".csv",), "--predictions": (".npz", ".npy")}
    for name, value in given.items():
        if value is None:
            continue
        if name in suffixes and value.suffix not in suffixes[name]:
            raise ConfigError(f"{name} writes a {' or '.join(suffixes[name])}, got {value}")
        if len(folders) != 1 and not (
            name == "--suspects" and not given["--predictions"] and not given["--folds"]
        ):
            raise ConfigError(f"{name} is of one run, got {len(folders)}")


def _of_training(folder: RunFolder, score: str | None) -> tuple[Predictions, str]:
    """What the run says of every training image, and by which score; of no clean label."""
    from ..labels.issues import better_score, score_labels
    from ..runs.predictions import checked_arrays

    arrays = checked_arrays(folder, folder.full_record()["data"]["num_classes"])
    chosen = score or better_score(arrays)
    return score_labels(arrays, chosen), chosen


def _judged(
    folder: RunFolder, folds: int | None, score: str | None, asking: Asking
) -> tuple[Manifest, Predictions, str]:
    """The labels that the run was trained on, what it or its folds say of them, and who says it."""
    from ..runs.rebuild import manifest_of, rebuild

    if folds is None:
        return manifest_of(folder, asking.workspace, asking.manifest), *_of_training(folder, score)
    run = rebuild(folder, asking.workspace, asking.manifest)
    return run.manifest, _out_of_fold(run, folder, folds, asking), f"{folds} folds"


def _out_of_fold(run: RunConfig, folder: RunFolder, count: int, asking: Asking) -> Predictions:
    from ..runs.cross_validation import judged, make_folds

    folds = make_folds(run, folder, count)
    if not all(fold.done for fold in folds):
        _train(folds, asking)
    return judged(folds)


def _train(folds: list[Fold], asking: Asking) -> None:
    from ..core.hardware import keep_memory
    from ..core.signals import StopSignals
    from ..runs.checkpoint import RunOptions
    from ..runs.cross_validation import train_folds
    from .progress import RunProgress

    run = folds[0].run
    images = asking.workspace.training_images(run.dataset, run.manifest, run.recipe)
    keep_memory()
    with StopSignals() as signals, RunProgress(quiet=asking.quiet) as lines:

        def conduct(left: int) -> RunOptions:
            lines.say(f"fold {len(folds) - left + 1} of {len(folds)}")
            return RunOptions(
                on_epoch_end=lines.update,
                should_stop=lambda: signals.stopped,
                on_time_estimate=lambda seconds: _say_time(lines, seconds * left),
            )

        train_folds(folds, images, asking.device, conduct)


def _say_time(lines: RunProgress, seconds: float) -> None:
    if seconds > _LONG:
        lines.say(
            f"the folds will take about {duration(seconds)}; Ctrl-C saves, the same command resumes"
        )


def _listed(
    path: Path | None, said: Predictions, manifest: Manifest, by: str, asking: Asking
) -> dict[str, Any]:
    """The list written, and what can be said of it."""
    from ..labels.issues import precision_text, write_suspects

    found = precision_text(said, manifest)
    if path is not None:
        write_suspects(path, said, manifest)
        say(
            f"{path} written: {found['listed']} of {found['of']} labels doubted; "
            f"{_WHY.get(by, _FOLDS)}",
            quiet=asking.quiet,
        )
    return {"file": None if path is None else str(path), "by": by, **found}


def _write_predictions(
    path: Path, folder: RunFolder, said: Predictions, by: str, asking: Asking
) -> dict[str, str]:
    """What is said of every training image; of a teacher also whose labels these images have. The
    file, and by which score.
    """
    from ..errors import DataError
    from ..metrics.predictions import write_probabilities, write_teacher

    record = folder.full_record()
    if path.suffix == ".npy":
        write_probabilities(path, said)
    elif "labels_sha256" not in record["noise"]:
        raise DataError(
            f"{folder.path} is of an older version, which did not note whose labels "
            "these are: run it again with --force"
        )
    elif "source" in record["noise"]:
        raise DataError(
            f"{folder.path} saw images of {record['noise']['source']} in the place of "
            "some: it cannot teach for these examples"
        )
    else:
        write_teacher(
            path,
            said,
            record["data"]["num_classes"],
            record["noise"]["labels_sha256"],
            record["title"],
        )
    say(
        f"{path} written: {len(said.classes)} predictions; {_WHY.get(by, _FOLDS)}",
        quiet=asking.quiet,
    )
    return {"file": str(path), "by": by}
