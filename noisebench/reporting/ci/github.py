"""The output for a GitHub job: a step's summary below its limit, and a few error lines."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.sanitize import printable_lines
from ..render.text import as_list, markdown
from ..table import Table

SUMMARY_LIMIT = 1_048_576  # bytes a step; a larger summary is refused as a whole
_MOST_ERRORS = 9  # a step shows ten annotations
_NOTE = 200  # bytes reserved for the note on the rest


def step_summary(
    tables: Sequence[Table], lines: Sequence[str] = (), *, used: int = 0, ranks: bool = False
) -> str:
    """The lines, then as many tables as fit beside the `used` bytes, and how many did not. Empty
    where nothing fits.
    """
    room = SUMMARY_LIMIT - used - _NOTE
    text, shown = "", 0
    for block in (as_list(lines), *(markdown([table], ranks=ranks) + "\n" for table in tables)):
        if len((text + block).encode()) > room:
            break
        text, shown = text + block, shown + 1
    left = len(tables) + 1 - shown
    if left:
        text += (
            f"\n{left} of {len(tables) + 1} parts are left out, the summary would be too long: "
            "noisebench report --format md shows all.\n"
        )
    return text if len(text.encode()) + used < SUMMARY_LIMIT else ""


def error_lines(troubles: Sequence[str]) -> list[str]:
    """At most nine `::error` lines, and how many more there are."""
    lines = [f"::error title=noisebench::{_escaped(text)}" for text in troubles[:_MOST_ERRORS]]
    more = len(troubles) - _MOST_ERRORS
    return [*lines, f"and {more} more"] if more > 0 else lines


def _escaped(text: str) -> str:
    return printable_lines(text).replace("%", "%25").replace("\n", "%0A")
