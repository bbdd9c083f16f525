"""`noisebench evaluate`: the predictions of finished runs, from their own files; only --eval-on,
--verify and --cv-folds load torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import Regressed, Undecided
from .console import estimated, facts_table, percent, show, text_table, write_json
from .options import Globals, Json, Workers, option, refuse, with_options
from .suspects import Inference, ListRequest, of_the_same_labels, write_lists

if TYPE_CHECKING:
    from rich.table import Table

    from ..core.console import Text
    from ..datasets import ImageArray
    from ..runs.folder import RunFolder

_WORST = 10  # classes that are shown


@with_options
def evaluate(
    context: typer.Context,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Run folders, names of runs, or at least six characters of their keys.",
        ),
    ],
    suspects: Annotated[
        Path | None,
        option(
            "Label issues",
            "--suspects",
            metavar="FILE",
            help="Write the suspected label errors of these runs together, most likely first, as "
            ".csv; of runs on several sets of "
            "labels, those on the labels of the run that finished last.",
        ),
    ] = None,
    folds: Annotated[
        int | None,
        option(
            "Label issues",
            "--cv-folds",
            metavar="K",
            help="Judge each label by a network that has not seen it: K "
            "are trained, each without one fold.",
        ),
    ] = None,
    score: Annotated[
        str | None,
        option(
            "Label issues",
            "--score",
            metavar="NAME",
            help="Use the mean over the first half of training ('early') or the last epoch "
            "('last') in every file of this command; "
            "default: with --suspects early if the network memorized noisy labels, else last.",
        ),
    ] = None,
    on: Annotated[
        list[str] | None,
        option(
            "Other data",
            "--eval-on",
            metavar="DATASET",
            help="Evaluate the networks on this data set's test images too, resized as the run "
            "resized its own; repeatable.",
        ),
    ] = None,
    test: Annotated[
        Path | None,
        option(
            "Other data",
            "--test",
            metavar="DIR",
            help="Test images of the folder set that --eval-on names.",
        ),
    ] = None,
    verify: Annotated[
        bool,
        option(
            "Run",
            "--verify",
            help="Check that files and networks reproduce the record: exit 0, 4 or 5.",
        ),
    ] = False,
    manifest: Annotated[
        Path | None,
        option(
            "Run",
            "--manifest",
            metavar="FILE",
            help="The labels that the runs were trained on, if not in the workspace.",
        ),
    ] = None,
    device: Annotated[
        str,
        option("Run", "--device", metavar="NAME", help="For inference: auto, cpu, cuda ..."),
    ] = "auto",
    workers: Workers = None,
    predictions: Annotated[
        Path | None,
        option(
            "Output",
            "--predictions",
            metavar="FILE",
            help="Write one run's predictions of every training image: .npz, as a teacher for "
            "noise; or .npy, the probabilities (N, K).",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show how good finished runs are, and write their label issues.

    Accuracy, calibration, classes, and how well a run finds noisy labels.
    """
    options: Globals = context.obj
    folders = [_folder(name, options.workspace / "runs") for name in runs]
    _check_effects(context.params)
    inference = Inference(options.open(workers), manifest, device, test, options.quiet)
    if verify:
        _verify(folders, inference, json=json)
        return
    entries = [_evaluate(folder) for folder in folders]
    listed = folders
    if suspects is not None and len(folders) > 1:
        listed = of_the_same_labels(folders, quiet=options.quiet)
    request = ListRequest(suspects, predictions, folds, score)
    entries[folders.index(listed[0])].update(write_lists(listed, request, inference))
    for folder, entry in zip(folders, entries, strict=True) if on else ():
        entry["on"] = _evaluate_on(folder, on or [], inference)
    if json:
        write_json(entries)
    else:
        show(*(part for entry in entries for part in draw_run(entry)))


def _check_effects(given: dict[str, Any]) -> None:
    """Refuse options without effect."""
    on, verify, folds = given["on"] or [], given["verify"], given["folds"] is not None
    inference = on or verify or folds
    needs = "--eval-on, --verify and --cv-folds"
    refuse(
        (
            given["test"] is not None and len(on) != 1,
            "--test names the test images of one folder of images: give it with one --eval-on",
        ),
        (
            verify and (on or folds or given["suspects"] or given["predictions"] or given["score"]),
            "--verify stands alone: it writes no file and looks at the run's own data",
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
            given["manifest"] is not None and not (inference or given["suspects"]),
            f"--manifest has an effect with {needs.replace(' and', ',')} and --suspects only",
        ),
    )


def _folder(name: str, runs: Path) -> RunFolder:
    """The run of a path, or of a name or key."""
    from ..experiments.weights import find_run
    from ..runs.folder import RunFolder

    paths = [path for path in (Path(name), runs / name) if path.is_dir()]
    return RunFolder(paths[0] if paths else find_run(name, runs))


def _evaluate(folder: RunFolder) -> dict[str, Any]:
    from ..metrics import scores
    from ..runs.predictions import check_counts, load_predictions

    record = folder.full_record()
    num_classes = record["data"]["num_classes"]
    predictions = load_predictions(folder, num_classes)
    test = predictions.test
    return {
        "run": str(folder.path),
        "title": record["title"],
        "oracle": record["oracle"],
        **({"estimates": record["estimates"]} if "estimates" in record else {}),
        "classes": record["data"]["classes"],
        **check_counts(record, predictions),
        **predictions.metrics(num_classes),
        "confusion": scores.confusion(
            test.predicted, predictions.labels["test"], num_classes
        ).tolist(),
    }


def _evaluate_on(folder: RunFolder, names: list[str], inference: Inference) -> dict[str, Any]:
    """The predictions of the run's networks on other data sets' test images."""
    from ..runs.inference import evaluate_on, load_ensemble
    from ..runs.rebuild import manifest_of, rebuild

    workspace = inference.workspace

    def training_images() -> ImageArray:
        run = rebuild(folder, workspace, inference.manifest)
        images = workspace.training_images(run.dataset, run.manifest, run.recipe)
        return images.train_images[run.manifest.in_training]

    networks = load_ensemble(folder, inference.device, training_images)
    record = folder.full_record()
    manifest = partial(manifest_of, folder, workspace, inference.manifest)
    return {
        name: evaluate_on(
            record, networks, workspace, workspace.dataset(name, inference.test), manifest
        )
        for name in names
    }


def _verify(folders: list[RunFolder], inference: Inference, *, json: bool) -> None:
    """Show every check of each run. Raises Regressed where something differs, Undecided where
    something could not be decided.
    """
    from rich.table import Table

    from ..core.console import Text
    from ..runs.session import find_device
    from ..runs.verify import DIFFERS, UNDECIDED, verify_run, worst_status

    find_device(inference.device)  # a wrong name is no outcome of a check
    style = {"same": "green", "differs": "bold red", "undecided": "yellow"}
    entries, parts = list[dict[str, Any]](), list[Text | Table]()
    titles_of: dict[str, list[str]] = {}
    for folder in folders:
        checks = verify_run(folder, inference.workspace, inference.manifest, inference.device)
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
        raise Undecided(f"it cannot be decided whether this is reproduced: {titles}")


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
            text = "unknown: images are streamed, or the run's training images are not here"
            facts.append(("trained on", text))
        elif number:
            text = f"{number} of these {result['expected']} images"
            facts.append(("trained on", f"{text}: accuracy on them is no test accuracy"))
        parts += [
            Text(f"on {name}, classes by {result['classes_by']}", style="bold"),
            facts_table(facts),
            _draw_classes(result, entry["classes"], result["confusion"]),
        ]
    return parts


def _facts(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    train, wrong = entry["train"], entry["train"]["wrong_labels"]
    yield from _test_facts(entry["test"], "test accuracy")
    clean = f"{percent(train['clean'])} on clean ones"
    yield "training accuracy", f"{percent(train['recorded'])} on recorded labels, {clean}"
    if "val" in entry:
        val = entry["val"]
        yield "held out", f"{percent(val['recorded'])} of {val['n']} recorded labels"
    if wrong:
        yield from _noisy_label_facts(train)
    else:
        yield "wrong labels", "unknown" if wrong is None else "none"
    if "suspects" in entry:
        issues = entry["suspects"]
        text = f"{issues['listed']} of {issues['of']} labels"
        if issues["precision"] is not None:
            text += f", {percent(issues['precision'])} of them wrong"
        if issues["auroc"] is not None:
            text += f"; {_detection(issues)}"
        names = {"early": "label issues, early", "last": "label issues"}
        yield names.get(issues["by"], f"label issues by {issues['by']}"), text
    if "estimates" in entry:
        yield "noise", estimated(entry)


def _detection(scores: dict[str, float]) -> str:
    return (
        f"AUROC {scores['auroc']:.4f}, average precision {scores['average_precision']:.4f}, "
        f"F1 {scores['f1']:.4f}"
    )


def _test_facts(test: dict[str, Any], name: str) -> list[tuple[str, str]]:
    top5 = "" if test["top5"] is None else f", top-5 {percent(test['top5'])}"
    brier = "not recorded" if test["brier"] is None else f"{test['brier']:.4f} of 2"
    calibration = f"NLL {test['nll']:.4f} nats, Brier {brier}, ECE {percent(test['ece'])}"
    accuracy = f"{percent(test['top1'])} of {test['n']}{top5}"
    return [(name, accuracy), ("calibration", calibration)]


def _noisy_label_facts(train: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The number of wrong labels, and how well the loss finds them."""
    wrong, detection = train["wrong_labels"], train["detection"]
    memorized = f"{percent(train['memorised'])} memorised"
    if detection["auroc"] is None:
        yield "wrong labels", f"all {wrong} that are known, {memorized}"
        return
    yield "wrong labels", f"{wrong} of {train['n']}, {memorized}"
    yield "found by loss", _detection(detection)
    precisions = detection["precision_at"]
    shown = [
        f"precision@{n} {percent(share)}"
        for n, share in precisions.items()
        if n != "wrong" and int(n) < wrong and share is not None  # of more not all could be wrong
    ]
    shown.append(f"precision@{wrong} {percent(precisions['wrong'])}")
    yield "ranked by loss", f"{', '.join(shown)}, by chance {percent(detection['chance'])}"


def _draw_classes(test: dict[str, Any], names: list[str], confusion: list[list[int]]) -> Table:
    """The classes with the lowest accuracy, and their most frequent mistake."""
    known = [(rate, k) for k, rate in enumerate(test["per_class"]) if rate is not None]
    rows = []
    for rate, k in sorted(known)[:_WORST]:
        counts = [0 if j == k else count for j, count in enumerate(confusion[k])]
        mistake = names[counts.index(max(counts))] if max(counts) else ""
        rows.append((names[k], percent(rate), mistake))
    return text_table(("class", "accuracy", "most often taken for"), rows, right=("accuracy",))
