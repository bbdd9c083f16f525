"""Untrusted text made safe to show: in output lines, JSON documents and cells of a spreadsheet."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from ..errors import LOG_COMMAND, printable

_LINE_COMMAND = re.compile(r"^(\s*):(?=:)")  # ::command:: of GitHub


def printable_line(text: str) -> str:
    """Text that begins a line of output, where a build log accepts more commands."""
    return _LINE_COMMAND.sub(r"\1: ", printable(text))


def printable_lines(text: str) -> str:
    """Several lines, each made printable."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(text: str) -> str:
    """An equal JSON document without commands of a build log."""
    return LOG_COMMAND.sub(r"#\\u0023", text)


# Beginnings of cells that a spreadsheet evaluates or, as a line, a build log executes; and the
# quote itself, which must be reversible too.
_RUN = re.compile(r"[=+\-@\t\r\n'＝＋－＠]|\s*::")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def as_cell(word: str) -> str:
    """`=cat` as `'=cat`, which is text; `from_cell` removes the quote."""
    return f"'{word}" if _RUN.match(word) and not _NUMBER.fullmatch(word) else word


def word_as_cell(value: Any) -> Any:
    """A value of a table for display: texts with control characters escaped, numbers unchanged."""
    return as_cell(printable(value)) if isinstance(value, str) else value


def from_cell(cell: str) -> str:
    """The word that `as_cell` wrote."""
    return cell[1:] if cell.startswith("'") and _RUN.match(cell[1:]) else cell


def path_as_cell(path: str) -> str:
    """`=cat/1.png` as `./=cat/1.png`, which is the same path."""
    return f"./{path}" if _RUN.match(path) else path


def as_csv(rows: Iterable[Iterable[Any]]) -> str:
    """Rows of cells as CSV lines; a cell with a line end of any kind is quoted."""
    lines: list[str] = []
    # csv quotes \r and \n only if its own line end contains both
    file = SimpleNamespace(write=lines.append)
    csv.writer(file, lineterminator="\r\n").writerows(rows)
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)
