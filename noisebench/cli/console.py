"""stdout is data, stderr is progress and warnings. Not a terminal: full width, no colour, nothing
cut. Untrusted text is escaped on both.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, TextIO

from ..core.sanitize import printable_json, printable_line

if TYPE_CHECKING:
    from ..core.console import Screen


_SIZES = ((10**12, "T "), (10**9, "G "), (10**6, "M "), (10**3, "k "))


def console(stream: TextIO) -> Screen:
    """A Rich console on a stream. NO_COLOR is honoured by Rich."""
    from ..core.console import ENDLESS, Screen

    return Screen(file=stream, width=None if stream.isatty() else ENDLESS, soft_wrap=False)


def show(*things: Any) -> None:
    """Print data on stdout: text as it is, Rich's things drawn, lines without trailing blanks."""
    from ..core.console import drawn

    if sys.stdout.isatty():
        console(sys.stdout).print(*things, sep="\n")
    else:
        sys.stdout.write(drawn(*things))


def write(text: str) -> None:
    """Print a document on stdout exactly as it is: its maker has escaped untrusted text."""
    sys.stdout.write(text)


def write_json(content: Any) -> None:
    """The one JSON document of a command."""
    write(printable_json(json.dumps(content, indent=1)) + "\n")


def say(text: str, *, quiet: bool = False) -> None:
    """A line of progress or a warning on stderr."""
    if not quiet:
        order(printable_line(text))


def order(line: str) -> None:
    """A line on stderr as it is: a command for a build's log."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """`48 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return (
        f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
        if seconds >= 10
        else f"{seconds:.1f} s"
    )


def images(count: int | None) -> str:
    """`52 k images`, `1.3 G images`: two digits of them; – where unknown."""
    if count is None:
        return "–"
    rounded = float(f"{count:.1e}")
    size, unit = next(((size, unit) for size, unit in _SIZES if rounded >= size), (1, ""))
    return f"{rounded / size:g} {unit}images"


def percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.2f} %"


def estimated(record: dict[str, Any]) -> str:
    """The estimates of a run's noise, the accuracy that they rest on, and the truth where that is
    known; empty for a run without estimates.
    """
    estimates = record.get("estimates", {})
    parts = []
    if "rate" in estimates:
        rate = estimates["rate"]
        interval = ""
        if "interval" in rate:
            low, high = rate["interval"]
            interval = f", 95 % interval {100 * low:.2f} to {percent(high)}"
        parts.append(
            f"noise rate {percent(rate['estimate'])}{interval} (truth {percent(rate['truth'])})"
        )
    if T := estimates.get("transition"):
        distance = ""
        if T["truth"] is not None:
            share = percent(_mean_distance(T["estimate"], T["truth"]))
            distance = f", {share} of a class's labels in the wrong place"
        parts.append(f"T{distance}")
    accuracy = ""
    if "accuracy" in estimates:
        share = percent(estimates["accuracy"])
        accuracy = f"; out-of-fold accuracy on the given labels {share}"
    return f"estimated {', '.join(parts)}{accuracy}" if parts else ""


def _mean_distance(rows: list[list[float]], others: list[list[float]]) -> float:
    """Total variation, the mean over the rows."""
    return (
        sum(
            abs(a - b)
            for row, other in zip(rows, others, strict=True)
            for a, b in zip(row, other, strict=True)
        )
        / 2
        / len(rows)
    )
