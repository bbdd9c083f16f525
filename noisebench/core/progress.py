"""Progress of operations that last: library code reports it to a callback, `cli/` shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias, TypeVar

_PAUSE = 0.1  # seconds between two reports

T = TypeVar("T")

ProgressCallback: TypeAlias = Callable[[str, int, int, str], None]
"""Receives an operation, how much of it is done, the total (0, 0 if nothing is counted) and the
unit: `bytes`, or a plural such as `images`. The first report with a text begins the operation, an
empty text ends the one that began last, so that operations can be nested.
"""


def silent(text: str, done: int, total: int, unit: str) -> None:
    """Report nothing."""


def track(
    items: Iterable[T],
    text: str,
    tell: ProgressCallback,
    *,
    total: int,
    unit: str,
    size: Callable[[T], int] = lambda item: 1,
) -> Iterator[T]:
    """Yields the items and reports their progress to `tell`, at most ten times a second. size: how
    much of the total an item is.
    """
    done, due = 0, time.monotonic() + _PAUSE
    tell(text, 0, total, unit)
    try:
        for item in items:
            yield item
            done += size(item)
            if time.monotonic() >= due:
                tell(text, done, total, unit)
                due = time.monotonic() + _PAUSE
        tell(text, done, total, unit)
    finally:
        tell("", 0, 0, "")
