"""`noisebench predict` classifies new images with the networks of a finished run."""

from __future__ import annotations

import json as json_format
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from ..core.files.atomic import atomic_write
from ..core.sanitize import as_cell, as_csv, path_as_cell
from ..errors import DataError
from .completion import OF_ARGUMENT
from .console import plural, say, write_json
from .evaluate import run_folder
from .options import Globals, Json, option, refuse

if TYPE_CHECKING:
    import numpy as np

_SHOWN = 10  # unreadable files


def predict(
    context: typer.Context,
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            autocompletion=OF_ARGUMENT["RUN"],
            help="Run directory, name of a run, or at least the first six characters of its key.",
        ),
    ],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Directory of images, an image, a .txt of paths, - for paths on stdin, or a .npy "
            "or .npz of images or features.",
        ),
    ],
    output: Annotated[
        Path | None,
        option(
            "Output",
            "--out",
            "-o",
            metavar="FILE",
            help="Write a .csv or .jsonl instead of CSV on stdout.",
        ),
    ] = None,
    top: Annotated[
        int, option("Output", "--top", min=1, metavar="K", help="Number of classes per image.")
    ] = 1,
    device: Annotated[
        str,
        option("Run", "--device", metavar="NAME", help="Device: auto, cpu, cuda or cuda:N."),
    ] = "auto",
    json: Json = False,
) -> None:
    """Classify new images with the networks of a finished run.

    noisebench predict RUN photos/new -o predictions.csv
    """
    refuse(
        (json and output, "--json and --out exclude each other"),
        (
            output and output.suffix.lower() not in (".csv", ".jsonl"),
            f"--out must end in .csv or .jsonl, got {output}",
        ),
    )
    from ..runs.prediction import Predictor, find_new_data

    options: Globals = context.obj
    workspace = options.open()
    new = find_new_data(data, sys.stdin)
    for line in new.skipped:
        say(line, quiet=options.quiet)
    predictor = Predictor(run_folder(run, options.workspace / "runs"), workspace, device)
    classes, unread, count = predictor.classes, list[DataError](), 0
    refuse((top > len(classes), f"--top {top}: the run has {len(classes)} classes"))

    def found() -> Iterator[tuple[str, list[tuple[str, float]]]]:
        nonlocal count
        for name, log_p in predictor(new, workspace.tell):
            if isinstance(log_p, DataError):
                unread.append(log_p)
                continue
            count += 1
            yield name, _likeliest(log_p, classes, top)
        if not count:
            raise unread[0] if unread else DataError(f"{data} names no images")

    if json:
        predictions = [{"path": name, "top": _named(best)} for name, best in found()]
        write_json(
            {"run": predictor.record["title"], "predictions": predictions}
            | {"unreadable": [str(error) for error in unread]}
        )
    elif output is None:
        for line in _csv(found(), top):
            sys.stdout.write(line)
    else:
        lines = _csv(found(), top) if output.suffix.lower() == ".csv" else _json_lines(found())

        def write(file: IO[bytes]) -> None:
            for line in lines:
                file.write(line.encode())

        try:
            atomic_write(output, write)
        except OSError as error:
            raise DataError(f"cannot write {output}: {error.strerror or error}") from None
    for reason in unread[:_SHOWN]:
        say(f"warning: {reason}")
    if unread:
        more = f", {len(unread) - _SHOWN} more are not shown" if len(unread) > _SHOWN else ""
        say(f"warning: {plural(len(unread), 'image')} could not be read{more}")
    if output is not None:
        say(f"{plural(count, 'prediction')} written to {output}", quiet=options.quiet)


def _likeliest(log_p: np.ndarray, classes: list[str], top: int) -> list[tuple[str, float]]:
    """The most likely classes and their probabilities, in descending order."""
    order = (-log_p).argsort(kind="stable")[:top]
    return [(str(classes[k]), float(f"{math.exp(log_p[k]):.6g}")) for k in order]


def _named(best: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"class": name, "probability": p} for name, p in best]


def _csv(found: Iterator[tuple[str, list[tuple[str, float]]]], top: int) -> Iterator[str]:
    more = [f"{word}_{rank}" for rank in range(2, top + 1) for word in ("class", "probability")]
    header = ["path", "class", "probability", *more]
    for number, (path, best) in enumerate(found):
        if not number:
            yield as_csv([header])
        cells = [cell for name, p in best for cell in (as_cell(name), p)]
        yield as_csv([[path_as_cell(path), *cells]])


def _json_lines(found: Iterator[tuple[str, list[tuple[str, float]]]]) -> Iterator[str]:
    for path, best in found:
        line = {"path": path, "top": _named(best)}
        yield json_format.dumps(line, ensure_ascii=False) + "\n"
