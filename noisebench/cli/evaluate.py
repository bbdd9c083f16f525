"""`noisebench evaluate` shows metrics of finished runs, computed from their stored predictions;
only --eval-on, --verify and --cv-folds load torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.progress import ProgressCallback, silent, track
from ..errors import ConfigError, DataError, Regressed, Undecided
from .completion import OF_ARGUMENT
from .console import RunProgress, estimated, facts_table, percent, say, show, text_table, write_json
from .options import Globals, Json, Workers, option, refuse, with_options

if TYPE_CHECKING:
    from rich.table import Table

    from ..core.console import Text
    from ..datasets import ImageArray
    from ..labels.issues import LabelQuality
    from ..labels.manifest import Manifest
    from ..metrics.predictions import Predictions
    from ..runs.folder import RunFolder
    from ..runs.workspace import Workspace

WHY = {
    "early": (
        "mean of the first half of training, before the network memorizes noisy labels "
        "(--score early)"
    ),
    "last": "predictions of the last epoch (--score last)",
    "early and last": (
        "mean of the first half of training of some runs, the last epoch of others (--score)"
    ),
    "aum": "mean margin of the given label over all epochs, below 0 (--score aum)",
    "simifeat": "votes of the nearest neighbours by features (--score simifeat)",
    "simifeat_rank": (
        "fewest votes of the nearest neighbours, as many labels of each class as HOC estimates "
        "(--score simifeat_rank)"
    ),
}
_FOLDS = "predictions of networks that were not trained on the example (--cv-folds)"
_WORST = 10  # number of classes that are shown


@dataclass(frozen=True)
class Inference:
    """Settings of inference with the networks of a finished run. manifest: of the run, if it is not
    in the workspace; test: directory of the test images of another data set.
    """

    workspace: Workspace
    manifest: Path | None
    device: str
    test: Path | None
    quiet: bool


@with_options
def evaluate(
    context: typer.Context,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            autocompletion=OF_ARGUMENT["RUN"],
            help="Run directory, name of a run, or at least the first six characters of its key.",
        ),
    ],
    suspects: Annotated[
        Path | None,
        option(
            "Label issues",
            "--suspects",
            metavar="FILE",
            help="Write the suspected label errors that these runs find together, most likely "
            "first, as .csv. If their labels differ, only runs on the labels of the run that "
            "finished last are used.",
        ),
    ] = None,
    folds: Annotated[
        int | None,
        option(
            "Label issues",
            "--cv-folds",
            metavar="K",
            help="Train K networks, each without one fold, and score each label by the network "
            "that was not trained on it.",
        ),
    ] = None,
    score: Annotated[
        str | None,
        option(
            "Label issues",
            "--score",
            metavar="NAME",
            help="Score labels by the mean over the first half of training ('early') or by the "
            "last epoch ('last'); with --suspects also by the mean margin over all epochs ('aum') "
            "or, on features, by the nearest neighbours ('simifeat', 'simifeat_rank'); default: "
            "with --suspects 'early' if the network memorized noisy labels, else 'last'.",
        ),
    ] = None,
    on: Annotated[
        list[str] | None,
        option(
            "Other data",
            "--eval-on",
            metavar="DATASET",
            help="Evaluate on the test images of this data set too, resized as in the run; "
            "repeatable.",
        ),
    ] = None,
    test: Annotated[
        Path | None,
        option(
            "Other data",
            "--test",
            metavar="DIR",
            help="Directory of test images of the data set in --eval-on.",
        ),
    ] = None,
    verify: Annotated[
        bool,
        option(
            "Run",
            "--verify",
            help="Verify that the recorded metrics can be reproduced; exit code 0, 4 or 5.",
        ),
    ] = False,
    manifest: Annotated[
        Path | None,
        option(
            "Run",
            "--manifest",
            metavar="FILE",
            help="Manifest that the runs were trained on, if it is not in the workspace.",
        ),
    ] = None,
    device: Annotated[
        str,
        option(
            "Run",
            "--device",
            metavar="NAME",
            help="Device for inference: auto, cpu, cuda or cuda:N.",
        ),
    ] = "auto",
    workers: Workers = None,
    predictions: Annotated[
        Path | None,
        option(
            "Output",
            "--predictions",
            metavar="FILE",
            help="Write the predictions of one run for all training images: .npz, a teacher for "
            "--idn; or .npy, probabilities (N, K).",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show metrics of finished runs, and write their label issues.

    Accuracy, calibration, accuracy per class, and detection of incorrect labels.
    """
    options: Globals = context.obj
    folders = [run_folder(name, options.workspace / "runs") for name in runs]
    _check_effects(context.params)
    inference = Inference(options.open(workers), manifest, device, test, options.quiet)
    if verify:
        _verify(folders, inference, json=json)
        return
    tell, n = inference.workspace.tell, len(folders)
    entries = [
        _evaluate(folder)
        for folder in track(folders, "reading predictions", tell, total=n, unit="runs")
    ]
    listed = folders
    if suspects is not None and len(folders) > 1:
        listed = _of_the_same_labels(folders, quiet=options.quiet)
    lists = _write_lists(listed, inference, suspects, predictions, folds, score)
    entries[folders.index(listed[0])].update(lists)
    pairs = list(zip(folders, entries, strict=True)) if on else []
    for folder, entry in track(pairs, "evaluating", tell, total=len(pairs), unit="runs"):
        entry["on"] = _evaluate_on(folder, on or [], inference)
    if json:
        write_json(entries)
    else:
        show(*(part for entry in entries for part in draw_run(entry)))


def _check_effects(given: dict[str, Any]) -> None:
    """Refuse options without effect."""
    from ..labels.issues import AUM, NEIGHBOUR_SCORES, SCORES

    on, verify, folds = given["on"] or [], given["verify"], given["folds"] is not None
    suspects, predictions, score = given["suspects"], given["predictions"], given["score"]
    inference = on or verify or folds or score in NEIGHBOUR_SCORES
    rankings = (AUM, *NEIGHBOUR_SCORES)
    needs = "--eval-on, --verify, --cv-folds and --score simifeat"
    refuse(
        (
            given["test"] is not None and len(on) != 1,
            "--test holds the test images of one data set: give exactly one --eval-on",
        ),
        (
            verify and (on or folds or given["suspects"] or given["predictions"] or given["score"]),
            "--verify writes no file and uses the run's own data: give it without --eval-on, "
            "--cv-folds, --suspects, --predictions and --score",
        ),
        (
            given["device"] != "auto" and not inference,
            f"--device has an effect with {needs} only: nothing else uses a network",
        ),
        (
            given["workers"] is not None and not inference,
            f"--workers has an effect with {needs} only: nothing else reads images",
        ),
        (
            given["manifest"] is not None and not (inference or suspects),
            "--manifest has an effect with --eval-on, --verify, --cv-folds and --suspects only",
        ),
        (
            score not in (None, *SCORES, *rankings),
            f"--score must be {' or '.join((*SCORES, *rankings))}, got {score!r}",
        ),
        (
            score in rankings and predictions,
            f"--score {score} ranks labels and makes no predictions: give --suspects alone",
        ),
        (
            score is not None and (folds or not (suspects or predictions)),
            "--score selects predictions of the training run: give it with --suspects or "
            "--predictions, and without --cv-folds",
        ),
        (
            suspects and suspects.suffix != ".csv",
            f"--suspects must end in .csv, got {suspects}",
        ),
        (
            predictions and predictions.suffix not in (".npz", ".npy"),
            f"--predictions must end in .npz or .npy, got {predictions}",
        ),
    )


def run_folder(name: str, runs: Path) -> RunFolder:
    """The run directory of a path, a name or a key."""
    from ..experiments.backbones import find_run
    from ..runs.folder import RunFolder

    paths = [path for path in (Path(name), runs / name) if path.is_dir()]
    return RunFolder(paths[0] if paths else find_run(name, runs))


def _evaluate(folder: RunFolder) -> dict[str, Any]:
    from ..metrics import scores
    from ..runs.result import check_counts, load_predictions

    record = folder.full_record()
    num_classes = record["data"]["num_classes"]
    predictions = load_predictions(folder, num_classes)
    return {
        "run": str(folder.path),
        "title": record["title"],
        "oracle": record["oracle"],
        **({"estimates": record["estimates"]} if "estimates" in record else {}),
        "classes": record["data"]["classes"],
        **check_counts(record, predictions),
        **predictions.metrics(num_classes),
        "confusion": scores.confusion(
            predictions.test.predicted, predictions.labels["test"], num_classes
        ).tolist(),
    }


def _evaluate_on(folder: RunFolder, names: list[str], inference: Inference) -> dict[str, Any]:
    """Results of the run's networks on the test images of other data sets."""
    from ..runs.inference import evaluate_on, load_ensemble
    from ..runs.workspace import manifest_of, rebuild

    workspace = inference.workspace

    def training_images() -> ImageArray:
        run = rebuild(folder, workspace, inference.manifest)
        images = workspace.training_images(run, inference.device)
        return images.train_images[run.manifest.in_training]

    record = folder.full_record()
    networks = load_ensemble(folder, record, inference.device, training_images)
    manifest = partial(manifest_of, folder, workspace, inference.manifest)
    return {
        name: evaluate_on(
            record, networks, workspace, workspace.dataset(name, inference.test), manifest
        )
        for name in names
    }


def _write_lists(
    folders: list[RunFolder],
    inference: Inference,
    suspects: Path | None,
    predictions: Path | None,
    folds: int | None,
    score: str | None,
) -> dict[str, Any]:
    """Write the requested files and return facts about each. Raises NoisebenchError."""
    from ..labels.issues import (
        AUM,
        NEIGHBOUR_SCORES,
        LabelQuality,
        combine,
        precision_text,
        quality_by_aum,
        write_suspects,
    )
    from ..runs.result import load_predictions
    from ..runs.workspace import manifest_of

    several = len(folders) > 1
    refuse(
        (several and predictions, f"--predictions needs one run, got {len(folders)}"),
        (several and folds is not None, f"--cv-folds needs one run, got {len(folders)}"),
        (
            several and score in (AUM, *NEIGHBOUR_SCORES),
            f"--score {score} needs one run, got {len(folders)}",
        ),
    )
    folder, written, quality = folders[0], dict[str, Any](), None
    if folds is not None:
        predicted, manifest = _judged_by_folds(folder, folds, inference)
        by = f"{folds} folds"
    elif score in NEIGHBOUR_SCORES:
        (quality, manifest), by = _scored_by_neighbours(folder, score, inference), score
    elif score == AUM:
        manifest, by = manifest_of(folder, inference.workspace, inference.manifest), score
        quality = quality_by_aum(load_predictions(folder, manifest.num_classes).arrays)
    elif suspects is not None:
        manifest = manifest_of(folder, inference.workspace, inference.manifest)
        runs, by = predictions_of(folders, score, inference.workspace.tell)
        predicted = combine(runs, manifest.labels)
    elif predictions is not None:
        (predicted,), by = predictions_of([folder], score or "last")
    if predictions is not None:
        written["predictions"] = _write_predictions(predictions, folder, predicted, by, inference)
    if suspects is not None or folds is not None:
        quality = quality or LabelQuality.of(predicted, manifest.labels)
        facts = precision_text(quality, manifest)
        file = None if suspects is None else str(suspects)
        written["suspects"] = {"file": file, "by": by, **facts}
    if suspects is not None and quality is not None:
        write_suspects(suspects, quality, manifest)
        text = f"{suspects} written: {facts['listed']:,} label issues in {facts['of']:,} labels"
        say(f"{text}; {WHY.get(by, _FOLDS)}", quiet=inference.quiet)
        if several:
            written["suspects"]["runs"] = [folder.name for folder in folders]
    return written


def _of_the_same_labels(folders: list[RunFolder], *, quiet: bool) -> list[RunFolder]:
    """The runs that were trained on the same labels as the run that finished last; a list of label
    issues needs one set of labels. Prints which runs are left out.
    """
    labels = [folder.full_record()["noise"].get("manifest_sha256") for folder in folders]
    latest = max(zip(folders, labels, strict=True), key=lambda pair: pair[0].ended or 0.0)[1]
    chosen = [folder for folder, sha256 in zip(folders, labels, strict=True) if sha256 == latest]
    others = ", ".join(folder.name for folder in folders if folder not in chosen)
    if others:
        say(
            "--suspects uses the runs on the labels of the run that finished last: "
            f"{', '.join(folder.name for folder in chosen)}; left out, on other labels: {others}",
            quiet=quiet,
        )
    return chosen


def predictions_of(
    folders: list[RunFolder], score: str | None, tell: ProgressCallback = silent
) -> tuple[list[Predictions], str]:
    """The predictions of runs for all training images, and the name of the score used."""
    from ..labels.issues import better_score, score_labels
    from ..runs.result import load_predictions

    predictions, names = [], set()
    for folder in track(folders, "scoring labels", tell, total=len(folders), unit="runs"):
        arrays = load_predictions(folder, folder.full_record()["data"]["num_classes"]).arrays
        name = score or better_score(arrays)
        predictions.append(score_labels(arrays, name))
        names.add(name)
    return predictions, " and ".join(sorted(names))


def _judged_by_folds(
    folder: RunFolder, count: int, inference: Inference
) -> tuple[Predictions, Manifest]:
    """The out-of-fold predictions of a run, and its manifest. Trains missing folds."""
    from ..core.hardware import keep_memory
    from ..core.signals import StopSignals
    from ..runs.checkpoint import RunOptions
    from ..runs.session import judged, make_folds, train_folds
    from ..runs.workspace import rebuild

    run = rebuild(folder, inference.workspace, inference.manifest)
    folds = make_folds(run, folder, count)
    if all(fold.folder.status() == "done" for fold in folds):  # then the images are not needed
        return judged(folds), run.manifest
    images = inference.workspace.training_images(run, inference.device)
    keep_memory()
    with StopSignals() as signals, RunProgress(quiet=inference.quiet) as lines:

        def options(left: int) -> RunOptions:
            lines.say(f"fold {count - left + 1} of {count}")
            return RunOptions(
                on_epoch_end=lines.update,
                should_stop=lambda: signals.stopped,
                on_time_estimate=lambda seconds: lines.say_duration(seconds * left, "the folds"),
                on_step=lines.step,
            )

        train_folds(folds, images, inference.device, options)
    return judged(folds), run.manifest


def _scored_by_neighbours(
    folder: RunFolder, score: str, inference: Inference
) -> tuple[LabelQuality, Manifest]:
    """The label quality by the features of a run, and its manifest."""
    from ..labels.issues import SIMIFEAT_RANK, quality_by_neighbours
    from ..runs.workspace import rebuild

    run = rebuild(folder, inference.workspace, inference.manifest)
    if not (run.features or run.dataset.dimensions):
        raise ConfigError(
            f"--score {score} needs a run on features, {folder.name} is on images: give --score "
            "early or last, or train with --features"
        )
    features = inference.workspace.training_images(run, inference.device).train_images
    ranked = score == SIMIFEAT_RANK
    return quality_by_neighbours(features, run.manifest, ranked=ranked), run.manifest


def _write_predictions(
    path: Path, folder: RunFolder, predicted: Predictions, by: str, inference: Inference
) -> dict[str, str]:
    """Write the predictions for all training images; a teacher's file also has the hash of their
    labels. Returns the file and the score.
    """
    from ..metrics.predictions import write_probabilities, write_teacher

    record = folder.full_record()
    noise = record["noise"]
    if path.suffix == ".npy":
        write_probabilities(path, predicted)
    elif "labels_sha256" not in noise:
        raise DataError(
            f"{folder.path} was trained by an older version, which did not record a hash of the "
            "labels: train it again with --force"
        )
    elif "source" in noise:
        raise DataError(
            f"{folder.path} was trained on open-set images of {noise['source']}: it cannot be a "
            "teacher for the images that they replaced"
        )
    else:
        num_classes = record["data"]["num_classes"]
        write_teacher(path, predicted, num_classes, noise["labels_sha256"], record["title"])
    say(
        f"{path} written: {len(predicted.classes):,} predictions; {WHY.get(by, _FOLDS)}",
        quiet=inference.quiet,
    )
    return {"file": str(path), "by": by}


def _verify(folders: list[RunFolder], inference: Inference, *, json: bool) -> None:
    """Show every check of each run. Raises Regressed if something differs, Undecided if a check
    could not be decided.
    """
    from rich.table import Table

    from ..core.console import Text
    from ..runs.verify import DIFFERS, UNDECIDED, verify_run, worst_status
    from ..training.inference import find_device

    find_device(inference.device)  # a wrong name is an error of use, not of a check
    style = {"same": "green", "differs": "bold red", "undecided": "yellow"}
    entries, parts = list[dict[str, Any]](), list[Text | Table]()
    titles_of: dict[str, list[str]] = {}
    workspace = inference.workspace
    for folder in track(folders, "verifying", workspace.tell, total=len(folders), unit="runs"):
        checks = verify_run(folder, workspace, inference.manifest, inference.device)
        status, title = worst_status(checks), folder.path.name
        outcome = {"verdict": status, "checks": [vars(check) for check in checks]}
        entries.append({"run": str(folder.path), "title": title, "recheck": outcome})
        titles_of.setdefault(status, []).append(title)
        lines = Table.grid(padding=(0, 2))
        for check in checks:
            result = Text(check.status, style=style[check.status])
            lines.add_row(Text(check.name, style="dim"), result, Text(check.detail))
        parts += [Text(title, style="bold"), lines]
    if json:
        write_json(entries)
    else:
        show(*parts)
    if DIFFERS in titles_of:
        raise Regressed(f"not reproduced: {', '.join(titles_of[DIFFERS])}")
    if UNDECIDED in titles_of:
        titles = ", ".join(titles_of[UNDECIDED])
        raise Undecided(f"could not be verified: {titles}")


def draw_run(entry: dict[str, Any]) -> list[Text | Table]:
    """All results of a run."""
    from ..core.console import Text

    title = entry["title"] + (" (oracle)" if entry["oracle"] else "")
    parts: list[Text | Table] = [
        Text(title, style="bold"),
        facts_table(_facts(entry)),
        _draw_classes(entry["test"], entry["classes"], entry["confusion"]),
    ]
    for name, result in entry.get("on", {}).items():
        facts = [*_test_facts(result, "accuracy"), *(("images", text) for text in result["images"])]
        number = result["trained_on"]
        if number is None:
            text = "unknown: images are streamed, or the run's training images are missing"
            facts.append(("trained on", text))
        elif number:
            text = f"{number:,} of these {result['expected']:,} images"
            facts.append(("trained on", f"{text}: this is not a pure test accuracy"))
        parts += [
            Text(f"on {name}, classes by {result['classes_by']}", style="bold"),
            facts_table(facts),
            _draw_classes(result, entry["classes"], result["confusion"]),
        ]
    return parts


def _facts(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    train, wrong = entry["train"], entry["train"]["wrong_labels"]
    yield from _test_facts(entry["test"], "test accuracy")
    true = f"{percent(train['clean'])} on true labels"
    yield "training accuracy", f"{percent(train['recorded'])} on given labels, {true}"
    if "val" in entry:
        val = entry["val"]
        yield "validation accuracy", f"{percent(val['recorded'])} of {val['n']:,} given labels"
    if wrong:
        yield from _noisy_label_facts(train)
    else:
        yield "noisy labels", "unknown" if wrong is None else "none"
    if "suspects" in entry:
        issues = entry["suspects"]
        text = f"{issues['listed']:,} of {issues['of']:,} labels"
        if issues["precision"] is not None:
            text += f", {percent(issues['precision'])} of them incorrect"
        if issues["auroc"] is not None:
            text += f"; {_detection(issues)}"
        names = {"early": "label issues, early", "last": "label issues"}
        yield names.get(issues["by"], f"label issues, {issues['by']}"), text
    if "estimates" in entry:
        yield "noise", estimated(entry)


def _detection(scores: dict[str, float]) -> str:
    return (
        f"AUROC {scores['auroc']:.4f}, average precision {scores['average_precision']:.4f}, "
        f"F1 {scores['f1']:.4f}"
    )


def _test_facts(test: dict[str, Any], name: str) -> list[tuple[str, str]]:
    top5 = "" if test["top5"] is None else f", top-5 {percent(test['top5'])}"
    brier = "not recorded" if test["brier"] is None else f"{test['brier']:.4f} (0 to 2)"
    calibration = f"NLL {test['nll']:.4f} nats, Brier {brier}, ECE {percent(test['ece'])}"
    accuracy = f"{percent(test['top1'])} of {test['n']:,}{top5}"
    return [(name, accuracy), ("calibration", calibration)]


def _noisy_label_facts(train: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The number of incorrect labels, and how well the loss detects them."""
    wrong, detection = train["wrong_labels"], train["detection"]
    memorized = f"{percent(train['memorised'])} memorized"
    if detection["auroc"] is None:
        yield "noisy labels", f"all {wrong:,} known ones incorrect; {memorized}"
        return
    yield "noisy labels", f"{wrong:,} of {train['n']:,} incorrect; {memorized}"
    yield "detected by loss", _detection(detection)
    precisions = detection["precision_at"]
    shown = [
        f"@{n} {percent(share)}"
        for n, share in precisions.items()
        if n != "wrong" and int(n) < wrong and share is not None  # beyond, 100 % is impossible
    ]
    shown.append(f"@{wrong} (number of incorrect labels) {percent(precisions['wrong'])}")
    yield "ranked by loss", f"precision{', '.join(shown)}, chance {percent(detection['chance'])}"


def _draw_classes(test: dict[str, Any], names: list[str], confusion: list[list[int]]) -> Table:
    """The classes with the lowest accuracy, and the class most often predicted instead."""
    known = [(rate, k) for k, rate in enumerate(test["per_class"]) if rate is not None]
    rows = []
    for rate, k in sorted(known)[:_WORST]:
        counts = [0 if j == k else count for j, count in enumerate(confusion[k])]
        mistake = names[counts.index(max(counts))] if max(counts) else ""
        rows.append((names[k], percent(rate), mistake))
    return text_table(("class", "accuracy", "most common mistake"), rows, right=("accuracy",))
