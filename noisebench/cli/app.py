"""The commands, the global options, and the exit codes of errors. Importing this module loads typer
and numpy; a command imports the rest when it runs.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from ..core.plugins import load_plugins
from ..errors import NoisebenchError, RunFailed
from ..training.distributed.processes import rank_info
from .audit import audit
from .completion import silent
from .console import TaskProgress, say
from .corrupt import corrupt
from .evaluate import evaluate
from .export import export
from .listing import list_
from .options import Command, Globals, refuse
from .predict import predict
from .report import report
from .run import run
from .train import TRAIN_SETTINGS, train

_BUG, _INTERRUPTED = 1, 130
# depending on its version, typer bundles click or uses the installed one
_USAGE_ERROR = typer.BadParameter.__mro__[1]
_CLICK_EXCEPTION: type[Exception] = _USAGE_ERROR.__mro__[1]


class Group(typer.core.TyperGroup):
    """The commands, with the options of the noises that plugins add."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if plugins := ctx.params.get("plugin"):
            with silent() if ctx.resilient_parsing else nullcontext():  # shell completion
                load_plugins(plugins)
            declare_options()
            self.commands = typer.main.get_group(app).commands
        return super().resolve_command(ctx, args)


def declare_options() -> None:
    """Read the options that registries declare again."""
    for command in (corrupt, train, evaluate, report, run, audit):
        getattr(command, "declare", lambda: None)()


app = typer.Typer(
    name="noisebench",
    cls=Group,
    help="A benchmark for learning with noisy labels in image classification.",
    rich_markup_mode=None,  # plain help: Rich would dominate the start-up time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=Command)(corrupt)
app.command(cls=Command, context_settings=TRAIN_SETTINGS)(train)
app.command(cls=Command)(evaluate)
app.command(cls=Command)(predict)
app.command(cls=Command)(export)
app.command(cls=Command)(report)
app.command(cls=Command)(run)
app.command(cls=Command)(audit)
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
            help="Directory of manifests/ and runs/.",
        ),
    ] = Path(),
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            metavar="DIR",
            envvar="NOISEBENCH_DATA",
            help="Directory of the data sets; default: the user's cache directory.",
        ),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never download.")] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            metavar="FILE|MODULE",
            help="Import this code, which adds losses, strategies or noises; repeatable.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Hide progress.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show tracebacks of errors.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    name, size = context.invoked_subcommand, rank_info().size
    refuse(
        (
            name != "train" and size > 1,
            f"torchrun started {size} processes, but only train can use several: start "
            f"noisebench {name} without torchrun",
        )
    )
    progress = TaskProgress()
    context.call_on_close(progress.close)
    context.obj = Globals(
        workspace, data_dir, offline, tuple(plugin or ()), quiet, verbose, progress
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. An error that a user can correct is one line on
    stderr, printed by the first of several processes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # characters that the stream cannot encode are escaped (`\\u2500`)
            stream.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    verbose = bool({"-v", "--verbose"} & set(arguments))
    declare_options()
    try:
        code = app(arguments, standalone_mode=False)
        sys.stdout.flush()
        if code == _INTERRUPTED:  # typer's exit code for Ctrl-C
            return _fail("interrupted", _INTERRUPTED)
        return code if isinstance(code, int) else 0
    except NoisebenchError as error:
        return _fail(str(error), error.exit_code, error if verbose else None)
    except _CLICK_EXCEPTION as error:
        return _fail(_usage(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", _INTERRUPTED)
    except BrokenPipeError:
        # the reader of a pipe has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except MemoryError as error:
        message = "out of memory: finished runs are kept, and the same command resumes"
        return _fail(message, RunFailed.exit_code, error if verbose else None)
    except OSError as error:  # such as a path that is too long
        message = f"{error.filename or type(error).__name__}: {error.strerror or error}"
        return _fail(message, NoisebenchError.exit_code, error if verbose else None)
    except Exception as error:  # a bug of noisebench, in one line
        message = f"a bug in noisebench: {type(error).__name__}: {error}".splitlines()[0]
        return _fail(
            f"{message} (rerun with -v for the traceback)", _BUG, error if verbose else None
        )


def _fail(message: str, code: int, error: BaseException | None = None) -> int:
    lines = []
    if error is not None:
        import traceback

        lines += "".join(traceback.format_exception(error)).rstrip().split("\n")
    if message and (rank_info().first or code == _BUG):
        lines += f"error: {message}".split("\n")
    for line in lines:
        say(line)
    return code


def _usage(error: Any) -> str:
    """click's message on one line, with the command that shows the help."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context: Any = getattr(error, "ctx", None)
    option, parent = getattr(error, "option_name", None), context and context.parent
    if option and parent and any(option in before.opts for before in parent.command.params):
        return f"{option} is a global option: write noisebench {option} ... {context.info_name}"
    return f"{message} ({context.command_path if context else 'noisebench'} --help)"
