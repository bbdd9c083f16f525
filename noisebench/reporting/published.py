"""A paper's published numbers beside the cells of our tables, with every way in which theirs was
another experiment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from string import ascii_lowercase
from typing import Any

from ..datasets import DATASETS
from ..experiments.command import recipe_changes
from ..experiments.published import PAPERS, OurProtocol, PublishedMatch, find_paper, find_published
from ..experiments.recipes import RECIPE_FIELDS, RECIPES
from .aggregate import Cell
from .metrics import METRICS
from .table import Table

_NEEDED = ("dataset", "model", "noise", "method", "recipe")


def add_published(tables: Iterable[Table], paper: str) -> list[Table]:
    """The tables with the paper's cells beside ours, where these are test accuracies. Raises
    UnknownName.
    """
    find_paper(paper)
    return [replace(table, paper=paper, published=_of(table, paper)) for table in tables]


def _of(table: Table, paper: str) -> dict[tuple[str, str], PublishedMatch]:
    found = {}
    for (row, col), cell in table.cells.items():
        labels = table.axes(row, col)
        known = METRICS[cell.metric].title == "test accuracy" and all(
            axis in labels for axis in _NEEDED
        )
        if known and (beside := find_published(paper, _ours(labels, cell))):
            found[row, col] = beside
    return found


def _ours(labels: dict[str, str], cell: Cell) -> OurProtocol:
    recipe = labels["recipe"].partition(", ")[0]  # `apl, 120 epochs, 0.1 held out after corruption`
    epochs, changes = (
        cell.settings["epochs"],
        tuple(_changes(recipe, labels["dataset"], cell.settings)),
    )
    return OurProtocol(
        labels["dataset"],
        labels["model"],
        labels["noise"],
        labels["method"],
        recipe,
        epochs,
        cell.metric,
        changes,
    )


def _changes(recipe: str, dataset: str, settings: dict[str, Any]) -> Iterable[str]:
    """What a run set otherwise than its recipe, but the epochs, and what it left out or set apart:
    `lr 1`, `no flip`.
    """
    if recipe in RECIPES and dataset in DATASETS:
        own = {
            key: value
            for key, value in settings.items()
            if key in RECIPE_FIELDS and key != "epochs"
        }
        yield from (
            _setting(name, value) for name, value in recipe_changes(recipe, dataset, own).items()
        )
    if "init" in settings:
        yield "weights of another training to begin from"
    if "subset" in settings:
        yield f"{settings['subset']:,} of the training images"
    if settings.get("held_out"):
        yield settings["held_out"]


def _setting(name: str, value: object) -> str:
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    return f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"


def notes(table: Table) -> dict[tuple[str, ...], str]:
    """A letter for each different list of mismatches, in the order of the cells."""
    lists = dict.fromkeys(
        beside.mismatches for beside in table.published.values() if beside.mismatches
    )
    return {mismatches: _letter(number) for number, mismatches in enumerate(lists)}


def _letter(number: int) -> str:
    more, rest = divmod(number, len(ascii_lowercase))
    return (_letter(more - 1) if more else "") + ascii_lowercase[rest]


def beside_text(table: Table, row: str, col: str) -> str:
    """` [58.40, -0.31 a]`: the published number, ours less it in points, and the letter of what
    differs; nothing without one.
    """
    beside, cell = table.published.get((row, col)), table.cells[row, col]
    if beside is None:
        return ""
    gap = "" if cell.mean is None else f", {100 * (cell.mean - beside.cell.mean):+.2f}"
    letter = notes(table).get(beside.mismatches, "")
    return f" [{100 * beside.cell.mean:.2f}{gap}{' ' + letter if letter else ''}]"


def beside_caption(table: Table) -> str:
    """What the brackets are, and each letter's differences."""
    if not table.paper:
        return ""
    if not table.published:
        return f"{PAPERS[table.paper]}: no cell of these data, noises and methods."
    told = " ".join(
        f"{letter}: {'; '.join(mismatches)}." for mismatches, letter in notes(table).items()
    )
    return f"[published, ours less published in points]: {PAPERS[table.paper]}. {told}".strip()
