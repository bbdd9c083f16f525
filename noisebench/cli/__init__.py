"""The command line: parses options, calls the library, prints the answer and exits. The only part
that prints and exits.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer

from ..core.sanitize import printable_line
from ..errors import NoisebenchError, RunFailed
from ..training.distributed.processes import rank_info

_BUG, _INTERRUPTED = 1, 130
# typer brings a click of its own, or the installed one, by its version
_USAGE_ERROR = typer.BadParameter.__mro__[1]
_CLICK_EXCEPTION: type[Exception] = _USAGE_ERROR.__mro__[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. An error that a user can mend is one line on stderr, by the
    first of several processes.
    """
    from .app import app

    _open_streams()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    arguments = arguments or ["--help"]
    verbose = bool({"-v", "--verbose"} & set(arguments))
    try:
        code = app(list(arguments), standalone_mode=False)
        sys.stdout.flush()
        if code == _INTERRUPTED:  # typer's word for Ctrl-C
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
        message = "out of memory: finished runs stay, and the same command resumes"
        return _fail(message, RunFailed.exit_code, error if verbose else None)
    except OSError as error:  # such as a path that is too long to exist
        message = f"{error.filename or type(error).__name__}: {error.strerror or error}"
        return _fail(message, NoisebenchError.exit_code, error if verbose else None)
    except Exception as error:  # a bug of ours, in one line
        message = f"a bug in noisebench: {type(error).__name__}: {error}".splitlines()[0]
        return _fail(
            f"{message} (run again with -v for the traceback)", _BUG, error if verbose else None
        )


def _open_streams() -> None:
    """A stream that is closed leads nowhere, and no file takes its number; a letter that one cannot
    write is written out (`\\u2500`).
    """
    for name, way in (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY)):
        stream = getattr(sys, name)
        if stream is None:
            # the lowest number that is free, which is the closed one's
            nowhere = os.open(os.devnull, way)
            os.set_inheritable(nowhere, True)  # as a worker's own
            setattr(sys, name, os.fdopen(nowhere, "r" if name == "stdin" else "w"))
        elif isinstance(stream, io.TextIOWrapper) and stream.writable():
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str, code: int, error: BaseException | None = None) -> int:
    if error is not None:
        import traceback

        _write("".join(traceback.format_exception(error)).rstrip())
    if message and (rank_info().first or code == _BUG):
        _write(f"error: {message}")
    return code


def _write(text: str) -> None:
    """On stderr, each line made printable, since errors hold untrusted text."""
    sys.stderr.write("".join(printable_line(line) + "\n" for line in text.split("\n")))


def _usage(error: Any) -> str:
    """click's message on one line, with the command for help."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context, option = getattr(error, "ctx", None), getattr(error, "option_name", None)
    if option and context and context.parent:
        before = {name for parameter in context.parent.command.params for name in parameter.opts}
        if option in before:
            return (
                f"{option} stands before the command: noisebench {option} ... {context.info_name}"
            )
    return f"{message} ({context.command_path if context else 'noisebench'} --help)"
