"""The errors that users see, as a tree with exit codes; both are part of the public interface.

NoisebenchError              2   an error that the user can correct
├── LanguageError            2   a loss, strategy or noise text is invalid
├── UnknownName              2   no such loss, noise, data set ...; suggests a similar name
├── ConfigError              2   an option or a suite file is invalid
├── DataError                2   images or labels are missing, damaged or inconsistent
│   ├── ManifestError        2   a manifest is damaged or belongs to other data
│   └── RunTaken             2   another process holds the lock of the run
├── RunFailed                3   a run failed: NaN, out of memory, a dead worker
├── ProcessLost              3   one of the processes of a run ended; resumes from the checkpoint
├── Regressed                4   results are worse than the baseline, or not reproduced
├── Undecided                5   results are missing or cannot be compared
└── Interrupted            130   the user or the system stopped the run; its state is saved
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

# ##[command] of GitHub, ##vso[ of Azure, ##teamcity[, anywhere in a line
LOG_COMMAND = re.compile(r"##(?=[\w-]*\[)")
# Unicode categories: controls, marks without width, surrogates, line ends
_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")  # needed in Persian text and in emoji sequences
_MAX_LINE = 2000  # characters per line of a message, which may quote a file


def printable(text: str) -> str:
    """Return untrusted text as one line that a terminal or a build log cannot interpret as
    commands: control characters are escaped (`\\x1b`, `\\n`).
    """
    escaped = text if text.isprintable() else "".join(map(_escape, text))
    return LOG_COMMAND.sub("# #", escaped)


def _escape(character: str) -> str:
    code = ord(character)
    noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF  # some are invalid in XML
    hidden = unicodedata.category(character) in _ESCAPED and character not in _JOINERS
    return (
        character.encode("unicode_escape", "surrogatepass").decode("ascii")
        if hidden or noncharacter
        else character
    )


class NoisebenchError(Exception):
    """An error that the user can correct. `str()` says what is wrong and what to do, in one line
    per error. Untrusted text in it is escaped.
    """

    exit_code = 2

    def __init__(self, *lines: str) -> None:
        texts = [printable(line) for line in lines]
        cut = (text if len(text) <= _MAX_LINE else f"{text[:_MAX_LINE]}..." for text in texts)
        super().__init__("\n".join(cut))


class LanguageError(NoisebenchError):
    """The text of a loss, strategy or noise is invalid."""


class UnknownName(NoisebenchError):
    """A name is in no registry."""

    def __init__(self, kind: str, name: str, known: Iterable[str], listing: str) -> None:
        near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
        hint = f": did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {kind} {name!r}{hint} (noisebench list {listing})")


class ConfigError(NoisebenchError):
    """An option or a suite file is invalid."""


class DataError(NoisebenchError):
    """Images or labels are missing, damaged or inconsistent."""


class ManifestError(DataError):
    """A manifest is damaged or belongs to other data."""


class RunTaken(DataError):
    """Another process holds the lock of this run."""


class RunFailed(NoisebenchError):
    """A run failed. `batch`: manifest indices of the examples in the step that failed, if any."""

    exit_code = 3

    def __init__(self, message: str, batch: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.batch = list(batch)


class ProcessLost(NoisebenchError):
    """One of the processes of a run ended; the run resumes from its last checkpoint."""

    exit_code = 3


class Regressed(NoisebenchError):
    """Results are significantly worse than the baseline, by more than the tolerance; or a run was
    not reproduced.
    """

    exit_code = 4


class Undecided(NoisebenchError):
    """A check is undecided: results are missing or cannot be compared."""

    exit_code = 5


class Interrupted(NoisebenchError):
    """The user or the system stopped a run; its state is saved."""

    exit_code = 130
