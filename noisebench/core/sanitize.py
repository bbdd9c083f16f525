"""Strangers' words as they may be shown: nothing in them commands a terminal, a build's log or the direction of a line.

Words in a CSV that somebody opens in a spreadsheet: none is run as a formula, and each comes back as it was.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # controls, marks without width, half characters, line ends
_SPELLING = frozenset("\u200c\u200d")  # joiners, without which Persian and families of emoji are spelt wrong
_BUILD = re.compile(r"##(?=[\w-]*\[)")  # ##[command] of GitHub, ##vso[ of Azure, ##teamcity[, wherever in a line
_COMMAND = re.compile(r"^(\s*):(?=:)")  # ::command:: of GitHub


def harmless(text: str) -> str:
    """As one line: what cannot be seen is written out (`\\x1b`, `\\n`, `\\u202e`), what a build's log obeys is taken apart."""
    seen = text if text.isprintable() else "".join(map(_written, text))
    return _BUILD.sub("# #", seen)


def harmless_line(text: str) -> str:
    """A whole line of output: at its beginning a log obeys more."""
    return _COMMAND.sub(r"\1: ", harmless(text))


def harmless_lines(text: str) -> str:
    """Each of several lines, which are not the stranger's own."""
    return "\n".join(map(harmless, text.split("\n")))


def harmless_json(text: str) -> str:
    """A JSON document that says the same, and in which a build's log finds no command."""
    return _BUILD.sub(r"#\\u0023", text)


def _written(letter: str) -> str:
    unseen = unicodedata.category(letter) in _UNSEEN and letter not in _SPELLING
    if not unseen and not _is_none(ord(letter)):
        return letter
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def _is_none(code: int) -> bool:
    """Whether a number stands for no character and never will; XML refuses some of these."""
    return code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF


# How a cell begins that a spreadsheet computes, or, as a line, a build's log obeys; and the mark, which must come back too.
_RUN = re.compile(r"[=+\-@\t\r\n'＝＋－＠]|\s*::")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def as_cell(word: str) -> str:
    """`=cat` as `'=cat`, which is text; `from_cell` takes the mark off again."""
    return f"'{word}" if _RUN.match(word) and not _NUMBER.fullmatch(word) else word


def word_as_cell(value: Any) -> Any:
    """A value of a table that nobody reads back: a word as what can be seen of it, a number as it is."""
    return as_cell(harmless(value)) if isinstance(value, str) else value


def from_cell(cell: str) -> str:
    """What was meant by a cell."""
    return cell[1:] if cell.startswith("'") and _RUN.match(cell[1:]) else cell


def path_as_cell(path: str) -> str:
    """`=cat/1.png` as `./=cat/1.png`, which is the same path."""
    return f"./{path}" if _RUN.match(path) else path


def as_csv(rows: Iterable[Iterable[Any]]) -> str:
    """Rows of cells as text, a line each; a cell that holds a line end of any kind is quoted, or what follows would be a row of its own."""
    lines = io.StringIO()
    writer = csv.writer(_Lines(lines), lineterminator="\r\n")  # both of which are quoted only where they are its own
    writer.writerows(rows)
    return lines.getvalue()


class _Lines:
    """A file on which lines end in one way."""

    def __init__(self, file: io.StringIO) -> None:
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(line.removesuffix("\r\n") + "\n")
