"""stdout is data, stderr is progress and warnings. Not a terminal: full width, no colour, nothing cut."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_FULL_WIDTH = 10_000  # columns where there is no terminal: nothing wraps


def console(stream: TextIO) -> Console:
    """A Rich console on a stream. NO_COLOR is honoured by Rich."""
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else _FULL_WIDTH, highlight=False, soft_wrap=False)


def show(*things: Any) -> None:
    """Print data on stdout: text as it is, Rich's things drawn, lines without trailing blanks."""
    if sys.stdout.isatty():
        console(sys.stdout).print(*things, sep="\n", markup=False)
        return
    from io import StringIO

    from rich.console import Console

    drawn = StringIO()
    Console(file=drawn, width=_FULL_WIDTH, highlight=False, no_color=True).print(*things, sep="\n", markup=False)
    sys.stdout.write("".join(line.rstrip() + "\n" for line in drawn.getvalue().splitlines()))


def write(text: str) -> None:
    """Print text on stdout exactly as it is."""
    sys.stdout.write(text)


def write_json(content: Any) -> None:
    """The one JSON document of a command."""
    sys.stdout.write(json.dumps(content, indent=1) + "\n")


def say(text: str, *, quiet: bool = False) -> None:
    """A line of progress or a warning on stderr."""
    if not quiet:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """`48 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s" if seconds >= 10 else f"{seconds:.1f} s"


def percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.2f} %"


def estimated(record: dict[str, Any]) -> str:
    """What a run found out of the noise, beside the truth where that is known; nothing for one that did not."""
    found = record.get("estimates", {})
    parts = []
    if "rate" in found:
        parts.append(f"noise rate {percent(found['rate']['estimate'])} (truth {percent(found['rate']['truth'])})")
    if T := found.get("transition"):
        known = T["truth"] is not None
        off = f", {percent(_mean_distance(T['estimate'], T['truth']))} of a class's labels in the wrong place" if known else ""
        parts.append(f"T{off}")
    return "estimated " + ", ".join(parts) if parts else ""


def _mean_distance(rows: list[list[float]], others: list[list[float]]) -> float:
    """Total variation, the mean over the rows."""
    return sum(abs(a - b) for row, other in zip(rows, others, strict=True) for a, b in zip(row, other, strict=True)) / 2 / len(rows)
