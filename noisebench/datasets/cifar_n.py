"""CIFAR-10N and CIFAR-100N: labels by people, read from the published files (CC BY-NC 4.0),
checked, never shipped.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files.atomic import read_checked
from ..errors import DataError
from .download import (
    DOWNLOADS,
    HUMAN_HOSTS,
    NoHost,
    ProgressCallback,
    download_lock,
    fetch,
    human_file,
    silent,
)
from .npz import as_labels
from .pickled import read_object_npy, read_pt


@dataclass(frozen=True)
class HumanFile:
    """One published file, its checksum; and the same labels in TensorFlow's order, with the
    order.
    """

    name: str
    md5: str
    ordered: str
    order: str


@dataclass(frozen=True)
class HumanColumn:
    """One labelling: whose images, in which file, under which names (the .npy's come second)."""

    dataset: str
    file: HumanFile
    recorded: tuple[str, ...]
    clean: tuple[str, ...] = ("clean_label",)


_TEN = HumanFile(
    "CIFAR-10_human.pt",
    "96644db5574813cae939af5f7f2a0aec",
    "CIFAR-10_human_ordered.npy",
    "image_order_c10.npy",
)
_HUNDRED = HumanFile(
    "CIFAR-100_human.pt",
    "a67b45c1d7992051865b5c755bd68bb1",
    "CIFAR-100_human_ordered.npy",
    "image_order_c100.npy",
)

_BY_TEN = ("aggre_label", "random_label1", "random_label2", "random_label3", "worse_label")

HUMAN = {
    **{name: HumanColumn("cifar10", _TEN, (name,)) for name in _BY_TEN},
    "noisy_label": HumanColumn("cifar100", _HUNDRED, ("noisy_label", "noise_label")),
    "noisy_coarse_label": HumanColumn(
        "cifar20",
        _HUNDRED,
        ("noisy_coarse_label", "noise_coarse_label"),
        ("clean_coarse_label", "coarse_label"),
    ),
}


def check_column(name: str, dataset: str) -> None:
    """Raises DataError for a column that is none, or of another data set."""
    if name not in HUMAN:
        raise DataError(
            f"no column of human labels is called {name!r}: there are {', '.join(HUMAN)}"
        )
    if HUMAN[name].dataset != dataset:
        fitting = ", ".join(key for key, other in HUMAN.items() if other.dataset == dataset)
        hint = f"; {dataset} has {fitting}" if fitting else ""
        raise DataError(
            f"human labels {name!r} are for {HUMAN[name].dataset}, not for {dataset}{hint}"
        )


def read_human(
    name: str,
    dataset: str,
    clean: np.ndarray,
    data_dir: Path,
    *,
    offline: bool = False,
    tell: ProgressCallback = silent,
) -> np.ndarray:
    """A column's recorded labels (N,), once the file's own clean labels are found to be these.
    Raises DataError.
    """
    check_column(name, dataset)
    column = HUMAN[name]
    content, where = _content(column, clean, data_dir, offline=offline, tell=tell)
    published, recorded = (
        _labels(content, names, where) for names in (column.clean, column.recorded)
    )
    if not np.array_equal(published, clean):
        raise DataError(
            f"{where}: its clean labels are not those of {dataset} in number, order "
            "or value: it is not used"
        )
    if len(recorded) != len(clean) or recorded.max() > clean.max():
        raise DataError(
            f"{where}: its {name} are not {len(clean)} labels of {clean.max() + 1} classes"
        )
    return recorded


def _content(
    column: HumanColumn, clean: np.ndarray, data_dir: Path, *, offline: bool, tell: ProgressCallback
) -> tuple[dict[str, Any], Path]:
    file = column.file
    path, ordered = data_dir / file.name, data_dir / file.ordered
    if not path.exists() and ordered.exists():
        return _in_order(ordered, data_dir / file.order, column.clean, clean), ordered
    if not path.exists():
        _download(file, path, offline=offline, tell=tell)
    raw = read_checked(path)
    if (md5 := hashlib.md5(raw, usedforsecurity=False).hexdigest()) != file.md5:
        raise DataError(
            f"{path} is not the published file: its md5 is {md5}, not {file.md5}; "
            "delete it to fetch it again"
        )
    return _mapping(read_pt(raw, path), path), path


def _in_order(
    path: Path, order_path: Path, names: tuple[str, ...], clean: np.ndarray
) -> dict[str, Any]:
    """TensorFlow's order brought into the usual one; which way the order points, the clean labels
    decide.

    The .npy has no published checksum: what is asserted of it is its clean labels.
    """
    content = _mapping(read_object_npy(read_checked(path), path), path)
    order = np.asarray(read_object_npy(read_checked(order_path), order_path))
    if not np.issubdtype(order.dtype, np.integer) or not np.array_equal(
        np.sort(order), np.arange(len(order))
    ):
        raise DataError(f"{order_path} is no order: expected every index once")
    published = _labels(content, names, path)
    for places in (np.argsort(order), order):
        if len(published) == len(order) and np.array_equal(published[places], clean):
            return {
                key: np.asarray(value)[places]
                for key, value in content.items()
                if np.shape(value)[:1] == order.shape
            }
    return content


def _mapping(content: Any, where: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise DataError(f"{where} is not a file of human labels: expected named columns")
    return content


def _labels(content: dict[str, Any], names: tuple[str, ...], where: Path) -> np.ndarray:
    found = next((content[name] for name in names if name in content), None)
    if found is None:
        raise DataError(
            f"{where} has no column {names[0]!r}; it has {', '.join(map(str, content))}"
        )
    return as_labels(found, f"{where}, {names[0]}")


def _download(file: HumanFile, path: Path, *, offline: bool, tell: ProgressCallback) -> None:
    """Fetch the published file, asked for by name."""
    place = f"put {file.name} from {HUMAN_HOSTS[0]}{file.name} there (CC BY-NC 4.0)"
    if offline:
        raise DataError(f"{path} is not there: {place}; without --offline it would be downloaded")
    folder = path.parent / DOWNLOADS / "human"
    with download_lock(folder, tell):
        if path.exists():  # who had the turn before
            return
        try:
            fetch(human_file(file.name, file.md5), folder, tell).replace(path)
        except NoHost as error:
            raise DataError(f"{path} is not there, and {error}: {place}") from None
