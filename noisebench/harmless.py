"""Strangers' words as they may be shown: nothing in them commands a terminal, a build's log or the direction of a line."""

from __future__ import annotations

import re
import unicodedata

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
