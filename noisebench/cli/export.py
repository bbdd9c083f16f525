"""`noisebench export` writes a finished run as a model that needs no noisebench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .completion import OF_ARGUMENT
from .console import say, write_json
from .evaluate import run_folder
from .options import Globals, Json, option, refuse


def export(
    context: typer.Context,
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            autocompletion=OF_ARGUMENT["RUN"],
            help="Run directory, name of a run, or at least the first six characters of its key.",
        ),
    ],
    output: Annotated[
        Path,
        option(
            "Output",
            "--out",
            "-o",
            metavar="FILE",
            help="Model to write: .onnx, .pt2 (a torch program) or .safetensors (weights for "
            "timm); the model card is written beside it, as .md.",
        ),
    ],
    force: Annotated[bool, option("Output", "--force", help="Replace existing files.")] = False,
    json: Json = False,
) -> None:
    """Export a finished run as a model with its preprocessing, class names and a model card.

    noisebench export RUN -o model.onnx
    """
    from ..runs.export import CARD, export_model
    from ..runs.prediction import Predictor

    options: Globals = context.obj
    for path in (output, output.with_suffix(CARD)):
        refuse((path.exists() and not force, f"{path} exists: give --force to replace it"))
    workspace = options.open()
    predictor = Predictor(run_folder(run, options.workspace / "runs"), workspace, "cpu")
    card = export_model(predictor, output)
    if json:
        write_json({"model": str(output), "card": str(card), "run": predictor.record["title"]})
    else:
        say(f"{output} and {card} written", quiet=options.quiet)
