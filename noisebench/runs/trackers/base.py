"""What a tracker is: a run's facts go in once, then its numbers by epoch, its final numbers at the
end.

A tracker's module has `connect(place) -> Tracker`, which imports the tracker's package; importing
the module does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

# what the runs are filed under, unless a tracker's own settings name something else
PROJECT = "noisebench"
Ending = Literal["finished", "failed", "interrupted"]
Numbers = dict[str, float]
Epochs = list[tuple[int, Numbers]]


@dataclass(frozen=True)
class TrackerConfig:
    """Where a tracker may write. offline: it opens no connection, whatever its own settings say."""

    workspace: Path
    offline: bool = False


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run before it begins. name: its folder's; config: flat, nothing in it is
    None.
    """

    name: str
    title: str
    folder: Path
    config: dict[str, str | int | float | bool]


class TrackerRun(Protocol):
    """One run in one tracker. identity: by which the tracker finds it again; held: the epochs that
    it has already.
    """

    identity: str
    held: int

    def log(self, epochs: Epochs) -> None: ...

    def finish(self, ending: Ending, epoch: int, numbers: Numbers) -> None:
        """Close it. epoch: the last one; numbers: the final ones, of a run that finished."""


class Tracker(Protocol):
    """A tracker that is ready. where: for people, what looks at the numbers and where they are."""

    where: str

    def start(self, facts: RunInfo, known: str | None) -> TrackerRun:
        """A run's page: the one of this identity where the tracker still has it, else another."""
