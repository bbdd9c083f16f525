"""`noisebench evaluate`: what finished runs predict, from their own files. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import estimated, percent, show, write_json
from .options import Globals, Json
from .suspects import doubts, facts_of_doubts

if TYPE_CHECKING:
    from rich.console import Group

    from ..runfolder import RunFolder


def evaluate(
    context: typer.Context,
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run folders, or how their names in runs/ or their keys begin.")],
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE",
            help="Write what one run says of every training image: .npz, to teach noise; or .npy, the probabilities (N, K).",
        ),
    ] = None,
    suspects: Annotated[
        Path | None, typer.Option("--suspects", metavar="FILE", help="Write the labels that one run doubts, most doubtful first, as .csv.")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds", metavar="K", help="Judge each label by a network that has not seen it: K are trained, each without one fold."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say how good finished runs are and which labels they doubt.

    Accuracy, calibration, classes, and how well a run tells wrong labels from right ones.
    """
    options: Globals = context.obj
    folders = [_folder(name, options.workspace / "runs") for name in runs]
    found = [_evaluate(folder) for folder in folders]
    found[0].update(doubts(folders, options, suspects=suspects, predictions=predictions, folds=folds))
    if json:
        write_json(found)
    else:
        show(*(_drawn(entry) for entry in found))


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


def _evaluate(folder: RunFolder) -> dict[str, Any]:
    import numpy as np

    from .. import metrics
    from ..errors import DataError
    from ..predictions import Predictions

    record, arrays = folder.record(), folder.read_arrays()
    try:
        labels = {part: arrays[f"{part}_labels"].astype(np.int64) for part in ("recorded", "clean", "test")}
        train = Predictions.load(arrays, "train", labels["recorded"], labels["clean"])
        test = Predictions.load(arrays, "test", labels["test"], labels["test"])
    except KeyError as error:
        raise DataError(f"{folder.predictions} lacks {error}: run it again with --force") from None
    num_classes = record["data"]["num_classes"]
    return {
        "run": str(folder.path),
        "title": record["title"],
        "oracle": record["oracle"],
        **({"estimates": record["estimates"]} if "estimates" in record else {}),
        "classes": record["data"]["classes"],
        **metrics.of_run(train, test, labels, num_classes, metrics.parts_of(arrays, len(labels["recorded"]))),
        "confusion": metrics.confusion(test.predicted, labels["test"], num_classes).tolist(),
    }


def _drawn(entry: dict[str, Any]) -> Group:
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    test, train = entry["test"], entry["train"]
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("test accuracy", f"{percent(test['top1'])} of {test['n']}"),
        *([("top-5", percent(test["top5"]))] if test["top5"] is not None else []),
        ("NLL, ECE", f"{test['nll']:.4f} nats, {percent(test['ece'])}"),
        ("training accuracy", f"{percent(train['recorded'])} on recorded labels, {percent(train['clean'])} on clean ones"),
        *([("held out", f"{percent(entry['val']['recorded'])} of {entry['val']['n']} recorded labels")] if "val" in entry else []),
        ("wrong labels", _wrong(train)),
        *facts_of_doubts(entry),
        *([("noise", estimated(entry))] if "estimates" in entry else []),
    ):
        facts.add_row(Text(name, style="dim"), Text(value))
    classes = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in ("class", "accuracy", "most often taken for"):
        classes.add_column(head, justify="right" if head == "accuracy" else "left")
    for name, share, other in _worst(entry):
        classes.add_row(Text(name), percent(share), Text(other))
    return Group(Text(entry["title"] + (" (oracle)" if entry["oracle"] else ""), style="bold"), facts, classes)


def _wrong(train: dict[str, Any]) -> str:
    if not train["wrong_labels"]:
        return "unknown" if train["wrong_labels"] is None else "none"
    found = train["detection"]
    if found["auroc"] is None:
        return f"all {train['wrong_labels']} that are known, {percent(train['memorised'])} memorised"
    return (
        f"{train['wrong_labels']} of {train['n']}, {percent(train['memorised'])} memorised; "
        f"found by their loss with AUROC {found['auroc']:.4f}, average precision {found['average_precision']:.4f}, F1 {found['f1']:.4f}"
    )


def _worst(entry: dict[str, Any], most: int = 10) -> list[tuple[str, float, str]]:
    """The classes with the lowest accuracy, and what they are taken for."""
    rates, names = entry["test"]["per_class"], entry["classes"]
    order = sorted((k for k in range(len(rates)) if rates[k] is not None), key=lambda k: rates[k])[:most]
    rows = []
    for k in order:
        row = [0 if j == k else count for j, count in enumerate(entry["confusion"][k])]
        rows.append((names[k], rates[k], names[row.index(max(row))] if max(row) else ""))
    return rows
