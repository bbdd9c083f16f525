"""Writes the review page: a summary, the listed images, and their decisions as a CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.progress import ProgressCallback, silent


@dataclass(frozen=True)
class Neighbour:
    """A near image whose given label differs: its index, given class and id, as of ReviewItem."""

    index: int
    given: int
    file: str = ""


@dataclass(frozen=True)
class ReviewItem:
    """A label issue. index: the example's, in the manifest; file: its id in the manifest (a path),
    empty if the examples are not files; given and suggested: classes; quality: in [0, 1];
    confident: in the short list.
    """

    index: int
    file: str
    given: int
    suggested: int
    quality: float
    confident: bool = False
    neighbours: tuple[Neighbour, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of the summary: sentences, and below them a table."""

    title: str
    sentences: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def write_review_page(
    path: Path,
    sections: Sequence[Section],
    items: Sequence[ReviewItem],
    classes: Sequence[str],
    picture: Callable[[int], bytes | None],
    *,
    title: str,
    command: str,
    tell: ProgressCallback = silent,
) -> None:
    """Write the page as `path` (.html).

    items: in the order of the list; classes: names (K,); picture: the bytes of the image file of an
    example in its original proportions (JPEG, PNG, ...; of any size, it is scaled down), None if
    there is none. command: the next command without `--suspects FILE`, which the page adds:
    `noisebench corrupt --manifest manifests/photos.csv`. Raises DataError if it cannot be written.
    """
    raise NotImplementedError
