"""The pictures of training examples as data URIs, from data that lie here: no network, no torch."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...datasets import at_hand, image_rows
from ...errors import DataError, NoisebenchError
from ...runs.workspace import Workspace

_SIDE = 96  # pixels; larger pictures are reduced


@dataclass(frozen=True)
class _Source:
    """How a set's images are read, and how many there are."""

    read: Callable[[np.ndarray], np.ndarray]
    n: int


class Pictures:
    """Each picture once, by a short name: `encoded` is what the page holds. Reads each data set
    once.
    """

    def __init__(self, workspace: Workspace) -> None:
        # for pictures nobody asks the hub
        self._workspace = Workspace(workspace.root, workspace.data_dir, offline=True)
        self._sources: dict[tuple[str, str, str], _Source | str] = {}
        self._names: dict[tuple[str, str, str, int], str] = {}
        self.encoded: dict[str, str] = {}

    def names(self, record: dict[str, Any], which: np.ndarray) -> list[str]:
        """The pictures of a run's training examples (n,), by name. Raises DataError where they are
        not to be had.
        """
        if "source" in record["noise"]:
            raise DataError(
                f"no pictures: images of {record['noise']['source']} stood in the place of some"
            )
        data = record["data"]
        owner = (
            str(data.get("path") or data["name"]),
            str(data.get("labels_path") or ""),
            str(record["noise"].get("labels_sha256")),
        )
        source = self._source(owner)
        if len(which) and which.max() >= source.n:
            raise DataError(
                f"no pictures: the run saw more examples than the {source.n} that lie here"
            )
        missing = [index for index in which.tolist() if (*owner, index) not in self._names]
        for index, image in zip(missing, source.read(np.asarray(missing, np.int64)), strict=True):
            name = self._names[*owner, index] = f"p{len(self._names)}"
            self.encoded[name] = data_uri(image)
        return [self._names[*owner, index] for index in which.tolist()]

    def _source(self, owner: tuple[str, str, str]) -> _Source:
        if owner not in self._sources:
            self._sources[owner] = self._open(*owner)
        found = self._sources[owner]
        if isinstance(found, str):
            raise DataError(f"no pictures: {found}")
        return found

    def _open(self, name: str, labels: str, labels_sha256: str) -> _Source | str:
        """Where images are read, or why they cannot be."""
        place = self._workspace
        try:
            dataset = place.dataset(name, labels=labels or None)
            if not at_hand(dataset, place.data_dir):
                return f"{name}{'/' if dataset.reader else '.npz'} is not in the data directory"
            own = place.labels(dataset)
            if own.fingerprint != labels_sha256:
                return f"the {name} that lies here has other labels than the run's"
            return _Source(image_rows(dataset, place.data_dir, offline=True), len(own.labels))
        except NoisebenchError as error:
            return str(error)


def data_uri(image: np.ndarray) -> str:
    """An image (H, W, 1 or 3), uint8, as PNG."""
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
