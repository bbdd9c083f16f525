"""Writes the review page: a summary and the listed images, about which a person decides."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...core.files.atomic import write_text
from ...core.progress import ProgressCallback, silent, track
from ...core.sanitize import as_cell, path_as_cell
from ...datasets.images import FORMATS, LARGEST, as_rgb
from ...errors import DataError, printable
from ..html import render

INLINE = 16_000_000  # bytes of images up to which the page contains them
_SIDE, _SMALL_SIDE = 512, 128  # pixels of listed images, of neighbours


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
    inline: int = INLINE,
) -> None:
    """Write the page as `path` (.html). Images of more than `inline` bytes in total are written to
    a directory beside it, NAME-images-HASH, which replaces that of an older page.

    items: in the order of the list; classes: names (K,); picture: the bytes of an example's image
    file in its original proportions (JPEG, PNG, ...; of any size, it is scaled down), None if there
    is none. command: the next command without `--suspects FILE`, which the page adds, such as
    `noisebench corrupt --manifest manifests/photos.csv`. Raises DataError if it cannot be written.
    """
    listed = {item.index for item in items}
    shown = [*listed, *({near.index for item in items for near in item.neighbours} - listed)]
    saved_as = f"{path.stem}-decisions.csv"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as temporary:
            images = Path(temporary, "images")
            images.mkdir()
            digest, size, unreadable = hashlib.sha256(), 0, 0
            for index in track(shown, "writing images", tell, total=len(shown), unit="images"):
                try:
                    if (raw := picture(index)) is None:
                        continue
                    image = _scaled(raw, _SIDE if index in listed else _SMALL_SIDE)
                except DataError:
                    unreadable += 1
                    continue
                suffix = "png" if image.startswith(b"\x89PNG") else "jpg"
                (images / f"{index}.{suffix}").write_bytes(image)
                digest.update(b"%d %d " % (index, len(image)) + image)
                size += len(image)
            files, folder = list(images.iterdir()), None
            if size <= inline:
                sources = {file.stem: _data_uri(file) for file in files}
            else:
                folder = path.with_name(f"{path.stem}-images-{digest.hexdigest()[:12]}")
                place = quote(os.fsencode(folder.name))
                sources = {file.stem: f"{place}/{file.name}" for file in files}
                if folder.exists():  # of the same images
                    folder.rename(Path(temporary, "before"))
                images.rename(folder)  # complete as soon as it exists
        document = render(
            str(__package__),
            "review",
            images="data:" if folder is None else "data: 'self'",
            title=title,
            sections=sections,
            count=len(items),
            unreadable=unreadable,
            command=f"{command} --suspects {shlex.quote(saved_as)}",
            data={"savedAs": saved_as, "sources": sources, **_data(items, classes)},
        )
        write_text(path, document)
        of_page = re.compile(rf"{re.escape(path.stem)}-images-[0-9a-f]{{12}}")
        for other in path.parent.iterdir():
            if of_page.fullmatch(other.name) and other != folder:
                shutil.rmtree(other)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None


def _data(items: Sequence[ReviewItem], classes: Sequence[str]) -> dict[str, Any]:
    """What the script reads. file and classes are printable; path and cells are the CSV's; key is
    the hash of all.
    """
    data = {
        "classes": [printable(name) for name in classes],
        "cells": [as_cell(name) for name in classes],
        "items": [
            {
                "index": item.index,
                "file": _name(item),
                "path": path_as_cell(item.file),
                "given": item.given,
                "suggested": item.suggested,
                "quality": round(item.quality, 6),
                "confident": item.confident,
                "neighbours": [[near.index, near.given, _name(near)] for near in item.neighbours],
            }
            for item in items
        ],
    }
    content = json.dumps(data, allow_nan=False)
    return {"key": hashlib.sha256(content.encode()).hexdigest()[:16], **data}


def _name(image: ReviewItem | Neighbour) -> str:
    return printable(image.file) or f"no. {image.index}"


def _scaled(raw: bytes, side: int) -> bytes:
    """An image of at most side x side pixels, upright and whole, as PNG if it is small, else as
    JPEG; without metadata. Raises DataError.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw), formats=FORMATS) as opened:
            if opened.width * opened.height > LARGEST:
                raise ValueError(f"{opened.width} x {opened.height} pixels, the limit is {LARGEST}")
            opened.draft("RGB", (side, side))  # a JPEG is decoded at a fraction of its size
            image = as_rgb(opened)[0]
    except Exception as error:  # PIL documents none: a damaged file can raise any
        raise DataError(f"it cannot be read as an image ({error})") from None
    image.thumbnail((side, side))
    file = io.BytesIO()
    if max(image.size) <= _SMALL_SIDE:
        image.save(file, "png", optimize=True)
    else:
        image.save(file, "jpeg", quality=85)
    return file.getvalue()


def _data_uri(file: Path) -> str:
    kind = "png" if file.suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
