"""A command of ours to which something happens at its n-th touch of the file system.

`python -m tests.support.faults` imports all that is slow once, then reads a line of JSON a case,
{arguments, place, fault, at}, and forks: the child is the command. Touches are what Python's audit
events tell of files below `place`, and every fsync. Answered by a line of JSON: the exit code
(negative: the signal), what stood on stderr, the touches.
"""

# What looks on while paths are touched should touch none itself.
# ruff: noqa: PTH100, PTH113, PTH115, PTH123, PTH202
from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

# what a full disk refuses
CHANGES = ("write", "os.rename", "os.link", "os.utime", "os.mkdir", "os.truncate", "fsync")


@dataclass(frozen=True)
class Ended:
    """code: as a shell says it, negative for a signal; touches: `what file`, in their order."""

    code: int
    output: str
    touches: list[str]


class Commands:
    """Commands in children of one process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, place: Path, *arguments: str, fault: str = "", at: int = -1) -> Ended:
        """noisebench -C place ..., with a fault at touch number `at`."""
        assert self._process.stdin and self._process.stdout
        case = {
            "arguments": ["-C", str(place), *arguments],
            "place": str(place),
            "fault": fault,
            "at": at,
        }
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


@contextmanager
def commands() -> Iterator[Commands]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    start = [sys.executable, "-m", "tests.support.faults"]
    with subprocess.Popen(
        start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield Commands(process)
        assert process.stdin
        process.stdin.close()


class Touches:
    """Counts what is done below a folder; `happen` at one of them. It ends with the process, since
    no audit hook can be removed.
    """

    def __init__(self, place: Path, fault: str, at: int) -> None:
        self.place, self.at, self.seen = str(place), at, list[str]()
        self._happen: Callable[[str], None] = FAULTS.get(fault, lambda what: None)
        self._since = fault in SINCE
        self._watched = True

    def watch(self) -> None:
        sys.addaudithook(self._hear)
        fsync = os.fsync

        def watched_fsync(file: Any) -> None:
            self._touch(
                "fsync",
                os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}"),
            )
            fsync(file)

        os.fsync = watched_fsync

    def end(self) -> None:
        self._watched = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watched or event not in (
            "open",
            "os.rename",
            "os.link",
            "os.remove",
            "os.utime",
            "os.mkdir",
            "os.truncate",
        ):
            return
        try:
            path = os.path.abspath(os.fsdecode(arguments[0]))
        except TypeError:
            return
        flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else 0
        self._touch(
            "write"
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            else "read"
            if event == "open"
            else event,
            path,
        )

    def _touch(self, what: str, path: str) -> None:
        if not path.startswith(self.place):
            return
        self.seen.append(f"{what} {os.path.relpath(path, self.place)}")
        number = len(self.seen) - 1
        if number == self.at or (self._since and 0 <= self.at < number):
            if what == "fsync" and self._happen is _kill and os.path.isfile(path):
                os.truncate(path, os.path.getsize(path) // 2)  # it was not all there yet
            self._happen(what)


def _kill(what: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _refuse(number: int) -> Callable[[str], None]:
    def refuse(what: str) -> None:
        if what in CHANGES:
            raise OSError(number, os.strerror(number))

    return refuse


def _fail(what: str) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


FAULTS: dict[str, Callable[[str], None]] = {
    "kill": _kill,
    "terminate": lambda what: os.kill(os.getpid(), signal.SIGTERM),
    "interrupt": lambda what: os.kill(os.getpid(), signal.SIGINT),
    "full": _refuse(errno.ENOSPC),
    "read-only": _refuse(errno.EROFS),
    "error": _fail,
}
SLOW = (  # what commands import: a second and more where each does that itself
    "torch", "numpy.ctypeslib", "pandas", "pyarrow.pandas_compat", "safetensors.torch",
    "rich.table", "jinja2", "PIL.Image", "pydantic.type_adapter",
    "matplotlib.backends.backend_svg", "matplotlib.figure", "platformdirs.unix", "typer.main",
    "typer.rich_utils", "noisebench.api", "noisebench.runs.packed_session", "noisebench.cli.app",
    "noisebench.noise.conventions", "noisebench.runs.result", "noisebench.runs.workspace",
    "noisebench.reporting.figures.progress", "noisebench.reporting.page",
    "noisebench.experiments.command", "noisebench.core.console", "noisebench.labels.issues",
    "noisebench.runs.trackers", "noisebench.training.trainer",
)  # fmt: skip
SINCE = ("full", "read-only")  # what goes on, once it has begun


def _child(case: dict[str, Any], answer: int) -> None:
    """The command, in a process of its own."""
    from noisebench.cli import main
    from noisebench.runs import checkpoint

    checkpoint.RunTimer.checkpoint_due = lambda clock: True  # type: ignore[method-assign]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 it ends with the process
    touches = Touches(Path(case["place"]), case["fault"], case["at"])
    touches.watch()
    code = main(case["arguments"])
    touches.end()
    sys.stderr.flush()
    os.write(answer, json.dumps([code, touches.seen]).encode())
    os._exit(code)


def _serve(case: dict[str, Any]) -> Ended:
    mine, theirs = os.pipe()
    errors = os.memfd_create("stderr")
    pid = os.fork()
    if not pid:
        os.close(mine)
        os.dup2(errors, 2)
        _child(case, theirs)
    os.close(theirs)
    with open(mine, "rb") as answer:
        told = answer.read()
    _, status = os.waitpid(pid, 0)
    with open(errors, "rb") as file:
        file.seek(0)
        output = file.read().decode()
    return Ended(os.waitstatus_to_exitcode(status), output, json.loads(told)[1] if told else [])


def main() -> None:
    for name in SLOW:
        import_module(name)
    import torch

    torch.set_num_threads(1)
    out = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        ended = _serve(json.loads(line))
        out.write(json.dumps(ended.__dict__) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
