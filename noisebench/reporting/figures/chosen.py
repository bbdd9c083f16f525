"""The figures that a page of a report shows, of those that its runs allow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from ...errors import ConfigError, DataError
from ..table import Table
from . import FIGURES, Figure

# beside what the page draws itself: a number against the rate, and curves
_SHOWN = ("gradient", "reliability", "ranks")


def page_figures(tables: Sequence[Table]) -> list[tuple[str, str, str]]:
    """Title, caption and SVG of each; none without matplotlib. One of too many panels, or of runs
    that lack its numbers, is left out.
    """
    if find_spec("matplotlib") is None or not tables:
        return []
    return [
        (_title(drawing.name), drawing.caption, drawing.picture("svg").decode())
        for drawing in _drawings(tables)
    ]


def _title(name: str) -> str:
    summary = FIGURES[name].summary
    return summary[0].upper() + summary[1:]


def _drawings(tables: Sequence[Table]) -> Iterator[Figure]:
    for name in _SHOWN:
        try:
            yield FIGURES[name].of_runs(tables)
        except (ConfigError, DataError):
            continue
