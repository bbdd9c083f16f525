"""What a tracker is, and the names of trackers. A tracker gets a run's facts once, its numbers by
epoch, and its final numbers at the end.

The module of a tracker's name has `connect(config) -> Tracker`, which imports the tracker's
package; importing the module does not. The extra that installs the package has its name too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol

from ...errors import ConfigError, UnknownName

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
    """A run before it starts. name: its folder's; config: flat, without None."""

    name: str
    title: str
    folder: Path
    config: dict[str, str | int | float | bool]


class TrackerRun(Protocol):
    """One run in one tracker. identity: by which the tracker finds it again; held: the number of
    epochs that it has already.
    """

    identity: str
    held: int

    def log(self, epochs: Epochs) -> None: ...

    def finish(self, ending: Ending, epoch: int, numbers: Numbers) -> None:
        """Close it. epoch: the last one; numbers: the final ones, of a run that finished."""


@dataclass(frozen=True)
class Tracker:
    """A tracker that is ready. where: what shows the numbers and where they are, for a person;
    start: opens a run, the one of this identity if the tracker still has it, else a new one.
    """

    where: str
    start: Callable[[RunInfo, str | None], TrackerRun]


@dataclass(frozen=True)
class Kind:
    """One tracker. settings: the environment variables that it reads."""

    name: str
    summary: str
    settings: tuple[str, ...] = ()


TRACKERS = {
    kind.name: kind
    for kind in (
        Kind("tensorboard", "an event file in each run's folder"),
        Kind(
            "wandb",
            "Weights & Biases; without a key offline in wandb/",
            ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"),
        ),
        Kind(
            "mlflow",
            "a server; without one mlflow.db",
            ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"),
        ),
        Kind(
            "trackio",
            "a Space or a server; without one trackio/",
            ("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"),
        ),
    )
}


def known_trackers(names: Iterable[str]) -> list[str]:
    """Each once. Raises UnknownName."""
    for name in names:
        if name not in TRACKERS:
            raise UnknownName("tracker", name, TRACKERS, "trackers")
    return list(dict.fromkeys(names))


def connect(name: str, config: TrackerConfig) -> Tracker:
    """A tracker that is ready. Raises ConfigError where its package or anything else it needs is
    missing.
    """
    module = import_module(f"{__package__}.{name}")
    try:
        tracker: Tracker = module.connect(config)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--log-to {name} needs {(error.name or name).partition('.')[0]}: pip "
            f"install 'noisebench[{name}]'"
        ) from None
    except Exception as error:
        # whatever a server or a setting makes it throw: better now than after hours of training
        raise ConfigError(
            f"--log-to {name} cannot begin: {type(error).__name__}: {error}".splitlines()[0]
        ) from error
    return tracker
