"""Experiment trackers: where a run's numbers go beside its folder. Nothing here changes a run."""

from __future__ import annotations

from .base import Facts, Page, Place, Tracker
from .catalogue import TRACKERS, Kind, connect, known_trackers
from .logbook import Logbook

__all__ = [
    "TRACKERS",
    "Facts",
    "Kind",
    "Logbook",
    "Page",
    "Place",
    "Tracker",
    "connect",
    "known_trackers",
]
