"""`noisebench evaluate`: what finished runs predict, from their own files; only --eval-on,
--recheck and --folds load torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .asking import Asking
from .console import show, write_json
from .evaluated import draw_checks, draw_run
from .options import Globals, Json, Workers
from .suspects import doubts, of_the_same_labels

if TYPE_CHECKING:
    from ..datasets import ImageArray
    from ..labels.manifest import Manifest
    from ..runs.folder import RunFolder


def evaluate(
    context: typer.Context,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Run folders, names of runs, or at least six characters of their keys.",
        ),
    ],
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE",
            help="Write what one run says of every training image: .npz, to teach noise; or .npy, "
            "the probabilities (N, K).",
        ),
    ] = None,
    suspects: Annotated[
        Path | None,
        typer.Option(
            "--suspects",
            metavar="FILE",
            help="Write the suspected label errors of these runs together, most likely first, as "
            ".csv; of runs on several sets of "
            "labels, those on the labels of the run that finished last.",
        ),
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--eval-on",
            metavar="DATASET",
            help="Evaluate the networks on this data set's test images too, resized as the run "
            "resized its own; repeatable.",
        ),
    ] = None,
    old_on: Annotated[list[str] | None, typer.Option("--on", hidden=True)] = None,
    test: Annotated[
        Path | None,
        typer.Option(
            "--test", metavar="DIR", help="Test images of the folder set that --eval-on names."
        ),
    ] = None,
    recheck: Annotated[
        bool,
        typer.Option(
            "--recheck",
            help="Whether files and networks still say what the record says: exit 0, 4 or 5.",
        ),
    ] = False,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            metavar="FILE",
            help="What the runs were trained on, if not in the workspace.",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "--device", metavar="NAME", help="Where networks are asked: auto, cpu, cuda ..."
        ),
    ] = "auto",
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds",
            metavar="K",
            help="Judge each label by a network that has not seen it: K "
            "are trained, each without one fold.",
        ),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(
            "--score",
            metavar="NAME",
            help="Use the mean over the first half of training ('early') or the last epoch "
            "('last') in every file of this command; "
            "default: with --suspects early if the network memorized noisy labels, else last.",
        ),
    ] = None,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Say how good finished runs are and which labels they doubt.

    Accuracy, calibration, classes, and how well a run tells wrong labels from right ones.
    """
    options: Globals = context.obj
    folders = [_folder(name, options.workspace / "runs") for name in runs]
    on = [*(on or []), *(old_on or [])]
    _check_effects({**context.params, "on": on})
    asking = Asking(options.open(workers), manifest, device, test, options.quiet)
    if recheck:
        _recheck(folders, asking, json=json)
        return
    found = [_evaluate(folder) for folder in folders]
    judges = (
        of_the_same_labels(folders, quiet=options.quiet)
        if suspects is not None and len(folders) > 1
        else folders
    )
    found[folders.index(judges[0])].update(
        doubts(judges, asking, suspects=suspects, predictions=predictions, folds=folds, score=score)
    )
    if on:
        for folder, entry in zip(folders, found, strict=True):
            entry["on"] = _on(folder, on, asking)
    if json:
        write_json(found)
    else:
        show(*(draw_run(entry) for entry in found))


def _check_effects(given: dict[str, Any]) -> None:
    """Refuse what has no effect."""
    from ..errors import ConfigError

    on, recheck, folds = given["on"] or [], given["recheck"], given["folds"] is not None
    if given["test"] is not None and len(on) != 1:
        raise ConfigError(
            "--test names the test images of one folder of images: give it with one --eval-on"
        )
    if recheck and (on or folds or given["suspects"] or given["predictions"] or given["score"]):
        raise ConfigError(
            "--recheck stands alone: it writes no file and looks at the run's own data"
        )
    if given["device"] != "auto" and not (on or recheck or folds):
        raise ConfigError(
            "--device has an effect with --eval-on, --recheck and --folds only: "
            "nothing else uses a network"
        )
    if given["workers"] is not None and not (on or recheck or folds):
        raise ConfigError(
            "--workers has an effect with --eval-on, --recheck and --folds only: "
            "nothing else reads images"
        )
    if given["manifest"] is not None and not (on or recheck or folds or given["suspects"]):
        raise ConfigError(
            "--manifest has an effect with --eval-on, --recheck, --folds and --suspects only"
        )


def _folder(name: str, runs: Path) -> RunFolder:
    """The run of a path, or of a name or key."""
    from ..experiments.weights import find_run
    from ..runs.folder import RunFolder

    for path in (Path(name), runs / name):
        if path.is_dir():
            return RunFolder(path)
    return RunFolder(find_run(name, runs))


def _evaluate(folder: RunFolder) -> dict[str, Any]:
    from ..metrics import scores
    from ..runs.predictions import check_counts, load_predictions

    record = folder.full_record()
    num_classes = record["data"]["num_classes"]
    said = load_predictions(folder, num_classes)
    return {
        "run": str(folder.path),
        "title": record["title"],
        "oracle": record["oracle"],
        **({"estimates": record["estimates"]} if "estimates" in record else {}),
        "classes": record["data"]["classes"],
        **check_counts(record, said),
        **said.metrics(num_classes),
        "confusion": scores.confusion(
            said.test.predicted, said.labels["test"], num_classes
        ).tolist(),
    }


def _on(folder: RunFolder, names: list[str], asking: Asking) -> dict[str, Any]:
    """What the run's networks say of other data sets' test images."""
    from ..runs.inference import evaluate_on, load_ensemble
    from ..runs.rebuild import manifest_of, rebuild

    def training_images() -> ImageArray:
        run = rebuild(folder, workspace, asking.manifest)
        return workspace.training_images(run.dataset, run.manifest, run.recipe).train_images[
            run.manifest.in_training
        ]

    workspace = asking.workspace
    networks = load_ensemble(folder, asking.device, training_images)
    record = folder.full_record()

    def manifest_of_run() -> Manifest:
        return manifest_of(folder, workspace, asking.manifest)

    return {
        name: evaluate_on(
            record, networks, workspace, workspace.dataset(name, asking.test), manifest_of_run
        )
        for name in names
    }


def _recheck(folders: list[RunFolder], asking: Asking, *, json: bool) -> None:
    """Show every check of each run. Raises Regressed where something differs, Undecided where
    something could not be decided.
    """
    from ..errors import Regressed, Undecided
    from ..runs.session import find_device
    from ..runs.verify import DIFFERS, UNDECIDED, verify_run, worst_status

    find_device(asking.device)  # a wrong name is no outcome of a check
    found: list[dict[str, Any]] = []
    for folder in folders:
        checks = verify_run(folder, asking.workspace, asking.manifest, asking.device)
        outcome = {"verdict": worst_status(checks), "checks": [vars(check) for check in checks]}
        found.append({"run": str(folder.path), "title": folder.path.name, "recheck": outcome})
    if json:
        write_json(found)
    else:
        show(*(draw_checks(entry) for entry in found))
    of = {
        status: [entry["title"] for entry in found if entry["recheck"]["verdict"] == status]
        for status in (DIFFERS, UNDECIDED)
    }
    if of[DIFFERS]:
        raise Regressed(f"not reproduced: {', '.join(of[DIFFERS])}")
    if of[UNDECIDED]:
        raise Undecided(
            f"it cannot be decided whether this is reproduced: {', '.join(of[UNDECIDED])}"
        )
