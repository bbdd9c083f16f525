"""CIFAR-10N and CIFAR-100N: human labels, read from the published files (CC BY-NC 4.0), which are
checked and never shipped.
"""

from __future__ import annotations

import hashlib
import io
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


@dataclass(frozen=True)
class HumanFile:
    """One published file and its md5; and where published the same labels in TensorFlow's order,
    with the order, each a file and its md5.
    """

    name: str
    md5: str
    ordered: tuple[str, str] | None = None
    order: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class HumanColumn:
    """One set of labels: of which images, in which file, under which names (the .npy's second)."""

    dataset: str
    file: HumanFile
    names: tuple[str, ...]
    clean: str = "clean_label"


_TEN = HumanFile("CIFAR-10_human.pt", "96644db5574813cae939af5f7f2a0aec")
_HUNDRED = HumanFile(
    "CIFAR-100_human.pt",
    "a67b45c1d7992051865b5c755bd68bb1",
    ("CIFAR-100_human_ordered.npy", "db19a14c196dd715b66b0578f8ed7f9f"),
    ("image_order_c100.npy", "713651330c6a78c4aa31ca07c9fade18"),
)

HUMAN = {
    "aggre_label": HumanColumn("cifar10", _TEN, ("aggre_label",)),
    "random_label1": HumanColumn("cifar10", _TEN, ("random_label1",)),
    "random_label2": HumanColumn("cifar10", _TEN, ("random_label2",)),
    "random_label3": HumanColumn("cifar10", _TEN, ("random_label3",)),
    "worse_label": HumanColumn("cifar10", _TEN, ("worse_label",)),
    "noisy_label": HumanColumn("cifar100", _HUNDRED, ("noisy_label", "noise_label")),
    "noisy_coarse_label": HumanColumn(
        "cifar20", _HUNDRED, ("noisy_coarse_label",), "clean_coarse_label"
    ),
}


def check_column(name: str, dataset: str) -> None:
    """Raises DataError for an unknown column, or one of another data set."""
    if name not in HUMAN:
        raise DataError(
            f"no column of human labels is called {name!r}: there are {', '.join(HUMAN)}"
        )
    if HUMAN[name].dataset != dataset:
        columns = ", ".join(key for key, other in HUMAN.items() if other.dataset == dataset)
        hint = f"; {dataset} has {columns}" if columns else ""
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
    """A column's labels (N,), once the file's own true labels were found to equal `clean`. Raises
    DataError.
    """
    check_column(name, dataset)
    column, file = HUMAN[name], HUMAN[name].file
    path = data_dir / file.name
    if file.ordered and not path.exists() and (data_dir / file.ordered[0]).exists():
        path = data_dir / file.ordered[0]
        raw, order = (
            _checked(path, file.ordered[1]),
            _checked(data_dir / file.order[0], file.order[1]),
        )
        content = np.load(io.BytesIO(raw), allow_pickle=True).item()  # the published bytes
        places = np.argsort(np.load(io.BytesIO(order), allow_pickle=False))
        content = {key: np.asarray(labels)[places] for key, labels in content.items()}
    else:
        if not path.exists():
            _download(file, path, offline=offline, tell=tell)
        import torch

        raw = _checked(path, file.md5)
        content = torch.load(io.BytesIO(raw), weights_only=False)
    published, labels = (_labels(content, names, path) for names in ((column.clean,), column.names))
    if not np.array_equal(published, clean):
        raise DataError(
            f"{path}: its clean labels are not those of {dataset} in number, order "
            "or value: it is not used"
        )
    if len(labels) != len(clean) or labels.max() > clean.max():
        raise DataError(
            f"{path}: its {name} are not {len(clean)} labels of {clean.max() + 1} classes"
        )
    return labels


def _checked(path: Path, md5: str) -> bytes:
    """The published bytes of a file, which may be unpickled."""
    raw = read_checked(path)
    if (actual := hashlib.md5(raw, usedforsecurity=False).hexdigest()) != md5:
        raise DataError(
            f"{path} is not the published file: its md5 is {actual}, not {md5}; "
            "delete it to fetch it again"
        )
    return raw


def _labels(content: dict[str, Any], names: tuple[str, ...], path: Path) -> np.ndarray:
    name = next((name for name in names if name in content), None)
    if name is None:
        raise DataError(f"{path} has no column {names[0]!r}; it has {', '.join(map(str, content))}")
    return as_labels(content[name], f"{path}, {name}")


def _download(file: HumanFile, path: Path, *, offline: bool, tell: ProgressCallback) -> None:
    hint = f"put {file.name} from {HUMAN_HOSTS[0]}{file.name} there (CC BY-NC 4.0)"
    if offline:
        raise DataError(f"{path} is not there: {hint}; without --offline it would be downloaded")
    folder = path.parent / DOWNLOADS / "human"
    with download_lock(folder, tell):
        if path.exists():  # another process downloaded it meanwhile
            return
        try:
            fetch(human_file(file.name, file.md5), folder, tell).replace(path)
        except NoHost as error:
            raise DataError(f"{path} is not there, and {error}: {hint}") from None
