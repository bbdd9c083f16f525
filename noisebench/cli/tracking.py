"""The trackers of `--log-to`: found before the first run begins, and said where they log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .console import say

if TYPE_CHECKING:
    from ..runs.trackers import RunLogger
    from .options import Globals


def open_logbook(options: Globals, names: list[str]) -> RunLogger:
    """A logbook for these trackers. Raises ConfigError where one cannot begin."""
    from ..runs.trackers import RunLogger, TrackerConfig, connect

    place = TrackerConfig(options.workspace, options.offline)
    trackers = {name: connect(name, place) for name in names}
    for name, tracker in trackers.items():
        say(f"logging to {name}: {tracker.where}", quiet=options.quiet)
    return RunLogger(trackers, lambda text: say(f"warning: {text}"))
