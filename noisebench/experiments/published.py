"""What papers published, cell by cell, and how it was measured: to stand beside our own numbers,
each difference of protocol named.

`published.csv` is the source: one published cell a row. mean and std are shares; `noise` is what
the paper made, in our language, empty where nobody says; `method`, `backbone`, `dataset` are our
names where it is the same thing, else the paper's word; `name` is always the paper's; `remark` is
what else makes the method or the test another than ours, or leaves that open. Empty is not known.
Loads no torch.
"""

from __future__ import annotations

import csv
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ..errors import NoisebenchError, UnknownName
from ..noise import normal_noise

PAPERS = {
    "equal-loss": "Cui et al., Equal Loss, Tables 1 and 2",
    "sl": "Wang et al. 2019, Symmetric Cross Entropy, CIFAR-100 as its authors quote it",
    "d2l": "Ma et al. 2018, Dimensionality-Driven Learning, CIFAR-100 as its authors quote it",
    "eps-softmax": "Wang et al. 2024, Epsilon-Softmax, under the protocol of APL",
    "jal": "JAL, ICCV 2025, from a note, not the paper itself",
    "elr": "Liu et al. 2020, Early-Learning Regularization, Table 1",
    "elr-dividemix": (
        "Liu et al. 2020, Early-Learning Regularization, Table 2, as DivideMix compares"
    ),
    "cifar-n": "Wei et al. 2022, CIFAR-N's leaderboard",
    "noisypy": "noisypy, ReScience C 2026, a reproduction",
    "mentornet": "Jiang et al. 2018, MentorNet, as its code's authors print it",
    "phuber": "a reproduction of Menon et al. 2020, ReScience",
    "sce-reproduce": "a reproduction of Wang et al. 2019, by authors of APL",
    "coteaching": "Han et al. 2018, Co-teaching, as its code's authors print it",
}

SELECTIONS = {
    "last": "last epoch",
    "best": "best epoch on test",
    "mean_last10": "mean of the last ten epochs",
    "at_noisy_val": "epoch chosen on held-out noisy labels",
    "": "unstated",
}

_NUMBERS = ("rate", "mean", "std")  # of a published cell

# Where a recipe of ours has a paper's name and is not all of it: by recipe and data.
_LACKING = {
    ("apl", "cifar100"): "images there rotated too",
    ("el-imagenet", "imagenet"): "augmentation in training there unstated",
    ("sl", "cifar10"): "learning rate there falls with each step too, images shifted by a fifth",
    ("sl", "cifar100"): (
        "learning rate there falls with each step too, images shifted by a fifth and rotated"
    ),
}


@dataclass(frozen=True)
class Published:
    """One published cell.

    kind: symmetric, asymmetric, pairflip, dependent, human, clean or as-is; rate: as the paper
    states it, of human labels as their authors do; selection: a metric's name.
    """

    paper: str
    dataset: str
    backbone: str
    kind: str
    rate: float
    noise: str
    method: str
    name: str
    mean: float
    std: float | None
    runs: int | None
    selection: str
    recipe: str
    epochs: int | None
    convention: str
    copied_from: str
    remark: str
    source: str


@dataclass(frozen=True)
class OurProtocol:
    """What of a cell of ours decides whether a published one is the same experiment. changes: what
    it sets otherwise than its recipe.
    """

    dataset: str
    backbone: str
    noise: str
    method: str
    recipe: str
    epochs: int
    selection: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedMatch:
    """A published cell for one of ours, and each way in which it is another experiment."""

    cell: Published
    mismatches: tuple[str, ...]

    def as_dict(self, mean: float | None) -> dict[str, Any]:
        """For a document; `mean` is ours."""
        cell = self.cell
        return {
            "paper": cell.paper,
            "name": cell.name,
            "mean": cell.mean,
            "std": cell.std,
            "n": cell.runs,
            "difference": None if mean is None else mean - cell.mean,
            "mismatches": list(self.mismatches),
            "source": cell.source,
        }


@cache
def read_published() -> tuple[Published, ...]:
    """All rows, in the order of the file."""
    text = files("noisebench.experiments").joinpath("published.csv").read_text(encoding="utf-8")
    rows = []
    for line in csv.DictReader(text.splitlines()):
        numbers = {name: float(line[name]) if line[name] else None for name in _NUMBERS}
        counts = {name: int(line[name]) if line[name] else None for name in ("runs", "epochs")}
        rows.append(Published(**{**line, **numbers, **counts}))  # type: ignore[arg-type]
    return tuple(rows)


def find_paper(name: str) -> str:
    """What a paper's name stands for. Raises UnknownName."""
    if name not in PAPERS:
        raise UnknownName("published paper", name, PAPERS, "published")
    return PAPERS[name]


def cells_of(paper: str) -> list[Published]:
    """The rows of one paper. Raises UnknownName."""
    find_paper(paper)
    return [row for row in read_published() if row.paper == paper]


def find_published(paper: str, ours: OurProtocol) -> PublishedMatch | None:
    """The paper's cell of the same data, kind and rate of noise, and method; of several the one
    most like ours. Raises UnknownName.
    """
    kind, rate = ours.noise, 0.0
    with suppress(NoisebenchError):  # of a plugin that is not loaded: no paper has it
        call = normal_noise(ours.noise)
        given = dict(call.kwargs).get("rate", 0.0)
        rate = float(given) if isinstance(given, int | float) else 0.0
        kind = "clean" if call.name == "symmetric" and not rate else call.name
        if call == normal_noise("imported(file='own')"):
            kind = "as-is"
    fitting = [
        row
        for row in cells_of(paper)
        if (row.dataset, row.method, row.kind) == (ours.dataset, ours.method, kind)
        and (row.noise == ours.noise if kind == "human" else abs(row.rate - rate) < 1e-9)
    ]
    matches = [PublishedMatch(row, _mismatches(row, ours)) for row in fitting]
    return min(matches, key=lambda match: len(match.mismatches), default=None)


def _mismatches(row: Published, ours: OurProtocol) -> tuple[str, ...]:
    """In the order in which they matter; `there` is the paper."""
    lacking = _LACKING.get((row.recipe, row.dataset), "")
    selection = f"there {SELECTIONS[row.selection]}" if row.selection else ""
    differences = (
        (row.copied_from != "", f"copied from {row.copied_from}"),
        (row.noise != ours.noise, f"noise there {row.noise or row.convention or 'unstated'}"),
        (row.backbone != ours.backbone, f"network there {row.backbone}"),
        (row.recipe != ours.recipe, f"recipe there {row.recipe or 'unstated'}"),
        (row.recipe == ours.recipe and lacking != "", lacking),
        (ours.changes != (), f"ours with {', '.join(ours.changes)}"),
        (row.epochs != ours.epochs, f"epochs there {row.epochs or 'unstated'}"),
        (row.selection != ours.selection, selection or "selection there unstated"),
        (row.runs is None, "number of runs there unstated"),
        (row.remark != "", f"{row.remark} there"),
    )
    return tuple(text for differs, text in differences if differs)
