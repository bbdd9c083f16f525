"""The commands and what stands before them. Importing this loads typer and numpy; every command
imports what it needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ..training.distributed.processes import rank_info
from .corrupt import corrupt
from .evaluate import evaluate
from .listing import list_
from .options import Command, Globals
from .report import report
from .run import run
from .train import TRAIN_SETTINGS, train

app = typer.Typer(
    name="noisebench",
    help="A benchmark for learning with noisy labels in image classification.",
    add_completion=False,
    rich_markup_mode=None,  # plain help: Rich's would take longer than all the rest
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=Command)(corrupt)
app.command(cls=Command, context_settings=TRAIN_SETTINGS)(train)
app.command(cls=Command)(evaluate)
app.command(cls=Command)(report)
app.command(cls=Command)(run)
app.command("list", cls=Command)(list_)


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        typer.echo(f"noisebench {version('noisebench')}")
        raise typer.Exit


@app.callback()
def before(
    context: typer.Context,
    workspace: Annotated[
        Path,
        typer.Option(
            "--workspace",
            "-C",
            metavar="DIR",
            envvar="NOISEBENCH_WORKSPACE",
            help="Holds manifests/ and runs/.",
        ),
    ] = Path(),
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            metavar="DIR",
            envvar="NOISEBENCH_DATA",
            help="Holds the data sets; default: the user's cache.",
        ),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never download.")] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            metavar="FILE|MODULE",
            help="Runs this code, which adds losses, strategies or noises.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand != "train" and (size := rank_info().size) > 1:
        raise ConfigError(
            f"torchrun started {size} processes, and only train is of several: "
            f"noisebench {context.invoked_subcommand} ..."
        )
    context.obj = Globals(workspace, data_dir, offline, tuple(plugin or ()), quiet, verbose)
