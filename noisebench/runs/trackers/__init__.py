"""Experiment trackers: where a run's numbers go beside its folder. Nothing here changes a run."""

from __future__ import annotations

from .base import (
    TRACKERS,
    Kind,
    RunInfo,
    Tracker,
    TrackerConfig,
    TrackerRun,
    connect,
    known_trackers,
)
from .logbook import RunLogger

__all__ = [
    "TRACKERS",
    "Kind",
    "RunInfo",
    "RunLogger",
    "Tracker",
    "TrackerConfig",
    "TrackerRun",
    "connect",
    "known_trackers",
]
