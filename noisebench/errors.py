"""All errors for users, drawn as a tree; the exit codes are part of the interface.

NoisebenchError              2   something given cannot be used: the message says what, what is
allowed, what next
├── LanguageError            2   a text of the little language cannot be read or has wrong
parameters
├── UnknownName              2   no such loss, noise, dataset ...; names what is near
├── ConfigError              2   a suite file or an option is wrong
├── DataError                2   images or labels are missing, damaged or not what they should be
│   ├── ManifestError        2   a manifest is damaged, or belongs to other data
│   └── RunTaken             2   another process is at this run
├── RunFailed                3   a run ended in failure: a NaN, out of memory, a dead worker
├── ProcessLost              3   of several processes of a run one is gone; its last checkpoint
is there
├── Regressed                4   a check found results worse than the baseline's
├── Undecided                5   a check cannot decide: something is missing, or not comparable
└── Interrupted            130   the user or the system stopped a run; its state is saved
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

# ##[command] of GitHub, ##vso[ of Azure, ##teamcity[, anywhere in a line
LOG_COMMAND = re.compile(r"##(?=[\w-]*\[)")
# categories: controls, marks without width, surrogates, line ends
_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")  # needed to spell Persian and families of emoji
_MAX_LINE = 2000  # characters of a line of a message, which may quote a file


def printable(text: str) -> str:
    """Untrusted text as one line without commands of a terminal or a build log: control characters
    are escaped (`\\x1b`, `\\n`).
    """
    escaped = text if text.isprintable() else "".join(map(_escape, text))
    return LOG_COMMAND.sub("# #", escaped)


def _escape(character: str) -> str:
    code = ord(character)
    noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF  # XML refuses some of these
    hidden = unicodedata.category(character) in _ESCAPED and character not in _JOINERS
    return (
        character.encode("unicode_escape", "surrogatepass").decode("ascii")
        if hidden or noncharacter
        else character
    )


class NoisebenchError(Exception):
    """A mistake that the user can correct; `str()` is one line that says how, or one for each
    mistake. Untrusted text in it is made printable.
    """

    exit_code = 2

    def __init__(self, *lines: str) -> None:
        texts = [printable(line) for line in lines]
        cut = (text if len(text) <= _MAX_LINE else f"{text[:_MAX_LINE]}..." for text in texts)
        super().__init__("\n".join(cut))


class LanguageError(NoisebenchError):
    """A text of the little language cannot be read."""


class UnknownName(NoisebenchError):
    """A name that is in no registry."""

    def __init__(self, kind: str, name: str, known: Iterable[str], listing: str) -> None:
        near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
        hint = f": did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}{hint} (noisebench list {listing})")


class ConfigError(NoisebenchError):
    """A suite file or an option is wrong."""


class DataError(NoisebenchError):
    """Images or labels are missing, damaged or not what they should be."""


class ManifestError(DataError):
    """A manifest is damaged or belongs to other data."""


class RunTaken(DataError):
    """Another process is at this run."""


class RunFailed(NoisebenchError):
    """A run ended in failure; batch: manifest indices of the examples of the step that it
    failed in, if there was one.
    """

    exit_code = 3

    def __init__(self, message: str, batch: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.batch = list(batch)


class ProcessLost(NoisebenchError):
    """One of several processes of a run has ended; the run resumes from its last checkpoint."""

    exit_code = 3


class Regressed(NoisebenchError):
    """A check found results worse than the baseline's by more than the tolerance and the noise of
    seeds.
    """

    exit_code = 4


class Undecided(NoisebenchError):
    """A check cannot decide: something is missing, or not comparable."""

    exit_code = 5


class Interrupted(NoisebenchError):
    """A run was stopped from outside; its state is saved."""

    exit_code = 130
