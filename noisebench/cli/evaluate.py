"""`noisebench evaluate`: the predictions of finished runs, from their own files; only --eval-on,
--verify and --cv-folds load torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError, Regressed, Undecided
from .console import estimated, percent, show, write_json
from .options import Globals, Json, Workers, option, with_options
from .suspects import Inference, ListRequest, of_the_same_labels, write_lists

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from ..datasets import ImageArray
    from ..labels.manifest import Manifest
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
    if on:
        for folder, entry in zip(folders, entries, strict=True):
            entry["on"] = _evaluate_on(folder, on, inference)
    if json:
        write_json(entries)
    else:
        show(*(draw_run(entry) for entry in entries))


def _check_effects(given: dict[str, Any]) -> None:
    """Refuse options without effect."""
    on, verify, folds = given["on"] or [], given["verify"], given["folds"] is not None
    if given["test"] is not None and len(on) != 1:
        raise ConfigError(
            "--test names the test images of one folder of images: give it with one --eval-on"
        )
    if verify and (on or folds or given["suspects"] or given["predictions"] or given["score"]):
        raise ConfigError(
            "--verify stands alone: it writes no file and looks at the run's own data"
        )
    inference = on or verify or folds
    needs = "--eval-on, --verify and --cv-folds"
    if given["device"] != "auto" and not inference:
        raise ConfigError(f"--device has an effect with {needs} only: nothing else uses a network")
    if given["workers"] is not None and not inference:
        raise ConfigError(f"--workers has an effect with {needs} only: nothing else reads images")
    if given["manifest"] is not None and not (inference or given["suspects"]):
        raise ConfigError(
            "--manifest has an effect with --eval-on, --verify, --cv-folds and --suspects only"
        )


def _folder(name: str, runs: Path) -> RunFolder:
    """The run of a path, or of a name or key."""
    from ..experiments.backbones import find_run
    from ..runs.folder import RunFolder

    for path in (Path(name), runs / name):
        if path.is_dir():
            return RunFolder(path)
    return RunFolder(find_run(name, runs))


def _evaluate(folder: RunFolder) -> dict[str, Any]:
    from ..metrics import scores
    from ..runs.result import check_counts, load_predictions

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
    from ..runs.workspace import manifest_of, rebuild

    workspace = inference.workspace

    def training_images() -> ImageArray:
        run = rebuild(folder, workspace, inference.manifest)
        images = workspace.training_images(run.dataset, run.manifest, run.recipe)
        return images.train_images[run.manifest.in_training]

    def manifest() -> Manifest:
        return manifest_of(folder, workspace, inference.manifest)

    record, results = folder.full_record(), {}
    networks = load_ensemble(folder, record, inference.device, training_images)
    for name in names:
        dataset = workspace.dataset(name, inference.test)
        results[name] = evaluate_on(record, networks, workspace, dataset, manifest)
    return results


def _verify(folders: list[RunFolder], inference: Inference, *, json: bool) -> None:
    """Show every check of each run. Raises Regressed where something differs, Undecided where
    something could not be decided.
    """
    from ..runs.session import find_device
    from ..runs.verify import DIFFERS, UNDECIDED, verify_run, worst_status

    find_device(inference.device)  # a wrong name is no outcome of a check
    entries: list[dict[str, Any]] = []
    titles_of: dict[str, list[str]] = {}
    for folder in folders:
        checks = verify_run(folder, inference.workspace, inference.manifest, inference.device)
        status, title = worst_status(checks), folder.path.name
        outcome = {"verdict": status, "checks": [vars(check) for check in checks]}
        entries.append({"run": str(folder.path), "title": title, "recheck": outcome})
        titles_of.setdefault(status, []).append(title)
    if json:
        write_json(entries)
    else:
        show(*(draw_checks(entry) for entry in entries))
    if DIFFERS in titles_of:
        raise Regressed(f"not reproduced: {', '.join(titles_of[DIFFERS])}")
    if UNDECIDED in titles_of:
        titles = ", ".join(titles_of[UNDECIDED])
        raise Undecided(f"it cannot be decided whether this is reproduced: {titles}")


def draw_run(entry: dict[str, Any]) -> Group:
    """All results of a run."""
    from rich.console import Group

    from ..core.console import Text

    title = entry["title"] + (" (oracle)" if entry["oracle"] else "")
    parts: list[Any] = [
        Text(title, style="bold"),
        _draw_facts(_facts(entry)),
        _draw_classes(entry["test"], entry["confusion"], entry["classes"]),
    ]
    for name, result in entry.get("on", {}).items():
        parts += [
            Text(f"on {name}, classes by {result['classes_by']}", style="bold"),
            _draw_facts(_facts_on(result)),
            _draw_classes(result, result["confusion"], entry["classes"]),
        ]
    return Group(*parts)


def draw_checks(entry: dict[str, Any]) -> Group:
    """A line for each check of a run."""
    from rich.console import Group
    from rich.table import Table

    from ..core.console import Text

    style = {"same": "green", "differs": "bold red", "undecided": "yellow"}
    lines = Table.grid(padding=(0, 2))
    for check in entry["recheck"]["checks"]:
        lines.add_row(
            Text(check["name"], style="dim"),
            Text(check["status"], style=style[check["status"]]),
            Text(check["detail"]),
        )
    return Group(Text(entry["title"], style="bold"), lines)


def _draw_facts(rows: Iterator[tuple[str, str]]) -> Table:
    from rich.table import Table

    from ..core.console import Text

    facts = Table.grid(padding=(0, 2))
    for name, value in rows:
        facts.add_row(Text(name, style="dim"), Text(value))
    return facts


def _facts(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    train = entry["train"]
    yield from _test_facts(entry["test"], "test accuracy")
    yield (
        "training accuracy",
        f"{percent(train['recorded'])} on recorded labels, {percent(train['clean'])} on clean ones",
    )
    if "val" in entry:
        val = entry["val"]
        yield "held out", f"{percent(val['recorded'])} of {val['n']} recorded labels"
    yield from _noisy_label_facts(train)
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


def _test_facts(test: dict[str, Any], name: str) -> Iterator[tuple[str, str]]:
    top5 = "" if test["top5"] is None else f", top-5 {percent(test['top5'])}"
    yield name, f"{percent(test['top1'])} of {test['n']}{top5}"
    brier = "not recorded" if test["brier"] is None else f"{test['brier']:.4f} of 2"
    yield "calibration", f"NLL {test['nll']:.4f} nats, Brier {brier}, ECE {percent(test['ece'])}"


def _noisy_label_facts(train: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The number of wrong labels, and how well the loss finds them."""
    wrong, detection = train["wrong_labels"], train["detection"]
    if not wrong:
        yield "wrong labels", "unknown" if wrong is None else "none"
        return
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


def _draw_classes(test: dict[str, Any], confusion: list[list[int]], names: list[str]) -> Table:
    """The classes with the lowest accuracy, and their most frequent mistake."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ..core.console import Text

    classes = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in ("class", "accuracy", "most often taken for"):
        classes.add_column(head, justify="right" if head == "accuracy" else "left")
    known = [(rate, k) for k, rate in enumerate(test["per_class"]) if rate is not None]
    for rate, k in sorted(known)[:_WORST]:
        row = [0 if j == k else count for j, count in enumerate(confusion[k])]
        mistake = names[row.index(max(row))] if max(row) else ""
        classes.add_row(Text(names[k]), percent(rate), Text(mistake))
    return classes


def _facts_on(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _test_facts(result, "accuracy")
    for sentence in result["images"]:
        yield "images", sentence
    number = result["trained_on"]
    if number is None:
        yield (
            "trained on",
            "unknown: images are streamed, or the run's training images are not here",
        )
    elif number:
        yield (
            "trained on",
            f"{number} of these {result['expected']} images: accuracy on them is no test accuracy",
        )
