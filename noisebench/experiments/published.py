"""Published results, cell by cell, and how they were measured, to compare with our results; every
difference in protocol is listed.

The source is `published.csv`, with one published cell per row. mean and std are shares; `noise` is
the paper's noise in our syntax, empty if not stated; `method`, `backbone` and `dataset` are our
names if they are the same, else the paper's; `name` is always the paper's; `remark` lists other
differences in the method or the test. An empty field is unknown. Does not import torch.
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

# Differences between a recipe and the paper it is named after, by recipe and data set.
_LACKING = {
    ("apl", "cifar100"): "paper also rotates images",
    ("el-imagenet", "imagenet"): "paper's training augmentation unstated",
    ("sl", "cifar10"): "paper also decays the learning rate per step, shifts images by a fifth",
    ("sl", "cifar100"): (
        "paper also decays the learning rate per step, shifts images by a fifth and rotates them"
    ),
}


@dataclass(frozen=True)
class Published:
    """One published cell.

    kind: symmetric, asymmetric, pairflip, dependent, human, clean or as-is; rate: as stated by the
    paper, for human labels by their authors; selection: a metric's name.
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
    """The protocol of one of our cells, to compare with published ones. changes: its settings that
    differ from the recipe.
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
    """The published cell for one of ours, and each difference in protocol."""

    cell: Published
    mismatches: tuple[str, ...]

    def as_dict(self, mean: float | None) -> dict[str, Any]:
        """The match as JSON; `mean` is our result."""
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
    """The description of a paper. Raises UnknownName."""
    if name not in PAPERS:
        raise UnknownName("published paper", name, PAPERS, "published")
    return PAPERS[name]


def cells_of(paper: str) -> list[Published]:
    """The rows of one paper. Raises UnknownName."""
    find_paper(paper)
    return [row for row in read_published() if row.paper == paper]


def find_published(paper: str, ours: OurProtocol) -> PublishedMatch | None:
    """The paper's cell with the same data set, kind and rate of noise, and method; if there are
    several, the one with the fewest differences. Raises UnknownName.
    """
    kind, rate = ours.noise, 0.0
    with suppress(NoisebenchError):  # noise of a plugin that is not loaded: no paper has it
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
    """The differences, the most important first."""
    lacking = _LACKING.get((row.recipe, row.dataset), "")
    differences = (
        (row.copied_from != "", f"copied from {row.copied_from}"),
        (row.noise != ours.noise, f"paper's noise {row.noise or row.convention or 'unstated'}"),
        (row.backbone != ours.backbone, f"paper's network {row.backbone}"),
        (row.recipe != ours.recipe, f"paper's recipe {row.recipe or 'unstated'}"),
        (row.recipe == ours.recipe and lacking != "", lacking),
        (ours.changes != (), f"ours with {', '.join(ours.changes)}"),
        (row.epochs != ours.epochs, f"paper's epochs {row.epochs or 'unstated'}"),
        (row.selection != ours.selection, f"paper's selection {SELECTIONS[row.selection]}"),
        (row.runs is None, "paper's number of runs unstated"),
        (row.remark != "", f"paper: {row.remark}"),
    )
    return tuple(text for differs, text in differences if differs)
