"""`noisebench evaluate`: what finished runs predict, from their own files; networks, and torch, are asked for --on and --recheck alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import say, show, write_json
from .evaluated import draw_checks, draw_run
from .options import Globals, Json

if TYPE_CHECKING:
    import numpy as np

    from ..predictions import Predictions
    from ..runfolder import RunFolder
    from ..workspace import Workspace


def evaluate(
    context: typer.Context,
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run folders, or how their names in runs/ or their keys begin.")],
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", metavar="FILE", help="Write what one run says of every training image, as .npz, to teach noise."),
    ] = None,
    suspects: Annotated[
        Path | None, typer.Option("--suspects", metavar="FILE", help="Write the labels that one run doubts, most doubtful first, as .csv.")
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option("--on", metavar="DATASET", help="Ask the networks about this data set's test images too; repeatable."),
    ] = None,
    test: Annotated[Path | None, typer.Option("--test", metavar="DIR", help="Test images of the folder set that --on names.")] = None,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Whether files and networks still say what the record says: exit 0, 4 or 5.")
    ] = False,
    manifest: Annotated[
        Path | None, typer.Option("--manifest", metavar="FILE", help="What the runs were trained on, if not in the workspace.")
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="Where networks are asked: auto, cpu, cuda ...")] = "auto",
    json: Json = False,
) -> None:
    """Say how good finished runs are and which labels they doubt.

    Accuracy, calibration, classes, and how well a run tells wrong labels from right ones.
    """
    options: Globals = context.obj
    folders = [_folder(name, options.workspace / "runs") for name in runs]
    for name, path, suffix in (("--predictions", predictions, ".npz"), ("--suspects", suspects, ".csv")):
        if path is not None:
            _check_target(name, path, suffix, folders)
    _check_effects(on or [], test, recheck=recheck, alone=(predictions, suspects), asked=(manifest, device))
    asking = Asking(options.open(), manifest, device, test) if on or recheck else None
    if recheck and asking:
        _recheck(folders, asking, json=json)
        return
    found = [_evaluate(folder) for folder in folders]
    for folder, entry in zip(folders, found, strict=True):
        if on and asking:
            entry["on"] = _on(folder, on, asking)
    if predictions is not None:
        _write_teacher(predictions, folders[0], options)
    if suspects is not None:
        _write_suspects(suspects, folders[0], options)
    if json:
        write_json(found)
    else:
        show(*(draw_run(entry) for entry in found))


@dataclass(frozen=True)
class Asking:
    """What it takes to ask a run's networks again."""

    workspace: Workspace
    manifest: Path | None
    device: str
    test: Path | None


def _check_effects(
    on: list[str], test: Path | None, *, recheck: bool, alone: tuple[Path | None, ...], asked: tuple[Path | None, str]
) -> None:
    """Refuse what has no effect. alone: files that --recheck does not write; asked: what only asking a network takes."""
    from ..errors import ConfigError

    if test is not None and len(on) != 1:
        raise ConfigError("--test names the test images of one folder of images: give it with one --on")
    if recheck and (on or any(path is not None for path in alone)):
        raise ConfigError("--recheck stands alone: it writes no file and looks at the run's own data")
    if asked != (None, "auto") and not (on or recheck):
        raise ConfigError("--manifest and --device have an effect with --on and --recheck only: nothing else asks a network")


def _folder(name: str, runs: Path) -> RunFolder:
    """The run of a path, or of the beginning of a folder's name or key."""
    from ..errors import ConfigError
    from ..runfolder import RunFolder

    for path in (Path(name), runs / name):
        if path.is_dir():
            return RunFolder(path)
    near = [path for path in sorted(runs.glob("*__*")) if path.name.startswith(name) or path.name.rpartition("__")[2].startswith(name)]
    if len(near) != 1:
        raise ConfigError(f"{'no' if not near else 'more than one'} run {name!r} (noisebench list runs)")
    return RunFolder(near[0])


def _check_target(name: str, path: Path, suffix: str, folders: list[RunFolder]) -> None:
    from ..errors import ConfigError

    if path.suffix != suffix:
        raise ConfigError(f"{name} writes a {suffix}, got {path}")
    if len(folders) != 1:
        raise ConfigError(f"{name} is of one run, got {len(folders)}")


def _of_training(folder: RunFolder) -> tuple[Predictions, np.ndarray]:
    """What the run says of every training image, and their recorded labels (N,); no clean ones."""
    import numpy as np

    from ..predictions import Predictions

    arrays = folder.read_arrays()
    recorded = arrays["recorded_labels"].astype(np.int64)
    return Predictions.load(arrays, "train", recorded, recorded), recorded


def _write_suspects(path: Path, folder: RunFolder, options: Globals) -> None:
    """The labels that the run doubts."""
    from ..suspects import write_suspects

    train, recorded = _of_training(folder)
    count = write_suspects(path, train, recorded, folder.record()["data"]["classes"])
    say(
        f"{path} written: {count} of {len(recorded)} labels doubted; a network doubts no label that it has learned by heart",
        quiet=options.quiet,
    )


def _write_teacher(path: Path, folder: RunFolder, options: Globals) -> None:
    """What the run says of every training image, and whose labels these images have."""
    from ..errors import DataError
    from ..predictions import write_teacher

    record = folder.record()
    if "labels_sha256" not in record["noise"]:
        raise DataError(f"{folder.path} is of an older version, which did not note whose labels these are: run it again with --force")
    if "source" in record["noise"]:
        raise DataError(f"{folder.path} saw images of {record['noise']['source']} in the place of some: it cannot teach for these examples")
    train, recorded = _of_training(folder)
    write_teacher(path, train, record["data"]["num_classes"], record["noise"]["labels_sha256"], record["title"])
    say(f"{path} written: {len(recorded)} predictions", quiet=options.quiet)


def _evaluate(folder: RunFolder) -> dict[str, Any]:
    from .. import metrics
    from ..evaluation import read_said

    record = folder.record()
    num_classes = record["data"]["num_classes"]
    said = read_said(folder, num_classes)
    return {
        "run": str(folder.path),
        "title": record["title"],
        "oracle": record["oracle"],
        **({"estimates": record["estimates"]} if "estimates" in record else {}),
        "classes": record["data"]["classes"],
        **said.metrics(num_classes),
        "confusion": metrics.confusion(said.test.predicted, said.labels["test"], num_classes).tolist(),
    }


def _on(folder: RunFolder, names: list[str], asking: Asking) -> dict[str, Any]:
    """What the run's networks say of other data sets' test images."""
    from ..rebuild import rebuild
    from ..reevaluate import evaluate_on, stored_networks

    def training_images() -> np.ndarray:
        run = rebuild(folder, workspace, asking.manifest)
        return workspace.training_images(run.dataset, run.manifest).train_images[run.manifest.in_training]

    workspace = asking.workspace
    networks = stored_networks(folder, asking.device, training_images)
    return {name: evaluate_on(folder.record(), networks, workspace.images(workspace.dataset(name, asking.test))) for name in names}


def _recheck(folders: list[RunFolder], asking: Asking, *, json: bool) -> None:
    """Show every check of each run. Raises Regressed where something differs, Undecided where something could not be decided."""
    from ..errors import Regressed, Undecided
    from ..recheck import DIFFERS, UNDECIDED, recheck, verdict
    from ..runner import find_device

    find_device(asking.device)  # a wrong name is no outcome of a check
    found: list[dict[str, Any]] = []
    for folder in folders:
        checks = recheck(folder, asking.workspace, asking.manifest, asking.device)
        outcome = {"verdict": verdict(checks), "checks": [vars(check) for check in checks]}
        found.append({"run": str(folder.path), "title": folder.path.name, "recheck": outcome})
    if json:
        write_json(found)
    else:
        show(*(draw_checks(entry) for entry in found))
    of = {status: [entry["title"] for entry in found if entry["recheck"]["verdict"] == status] for status in (DIFFERS, UNDECIDED)}
    if of[DIFFERS]:
        raise Regressed(f"not reproduced: {', '.join(of[DIFFERS])}")
    if of[UNDECIDED]:
        raise Undecided(f"it cannot be decided whether this is reproduced: {', '.join(of[UNDECIDED])}")
