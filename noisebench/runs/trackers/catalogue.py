"""The names of trackers and where their code is; knows none of their packages. A tracker's extra
has its name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module

from ...errors import ConfigError, UnknownName
from .base import Tracker, TrackerConfig


@dataclass(frozen=True)
class Kind:
    """One tracker: the module of its name has `connect`; `settings` are the environment variables
    that it heeds.
    """

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


def connect(name: str, place: TrackerConfig) -> Tracker:
    """A tracker, ready. Raises ConfigError where its package is missing, or whatever else it
    needs.
    """
    module = import_module(f"{__package__}.{name}")
    try:
        tracker: Tracker = module.connect(place)
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
