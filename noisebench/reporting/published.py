"""Published numbers of papers next to our cells, with every difference between the experiments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from string import ascii_lowercase
from typing import Any

from ..datasets import DATASETS
from ..experiments.command import recipe_changes
from ..experiments.published import PAPERS, OurProtocol, PublishedMatch, find_paper, find_published
from ..experiments.recipes import RECIPES
from .aggregate import Cell
from .metrics import METRICS
from .table import Table

_NEEDED = ("dataset", "model", "noise", "method", "recipe")


def add_published(tables: Iterable[Table], paper: str) -> list[Table]:
    """The tables with the paper's published test accuracies next to ours. Raises UnknownName."""
    find_paper(paper)
    return [replace(table, paper=paper, published=_matches(table, paper)) for table in tables]


def _matches(table: Table, paper: str) -> dict[tuple[str, str], PublishedMatch]:
    matches = {}
    for (row, col), cell in table.cells.items():
        labels = table.axes(row, col)
        if METRICS[cell.metric].title != "test accuracy" or set(_NEEDED) - set(labels):
            continue
        # `apl, 120 epochs, 0.1 held out after corruption`
        recipe = labels["recipe"].partition(", ")[0]
        protocol = OurProtocol(
            labels["dataset"],
            labels["model"],
            labels["noise"],
            labels["method"],
            recipe,
            cell.settings["epochs"],
            cell.metric,
            tuple(_changes(recipe, labels["dataset"], cell.settings)),
        )
        if match := find_published(paper, protocol):
            matches[row, col] = match
    return matches


def _changes(recipe: str, dataset: str, settings: dict[str, Any]) -> Iterable[str]:
    """The settings in which a run differs from its recipe, except the epochs, and the examples that
    it excludes or reserves: `lr 1`, `no flip`.
    """
    if recipe in RECIPES and dataset in DATASETS:
        values = {name: value for name, value in settings.items() if name != "epochs"}
        changes = recipe_changes(recipe, dataset, values, features="features" in settings)
        for name, value in changes.items():
            words = name.replace("_", " ")
            if isinstance(value, bool):
                yield words if value else f"no {words}"
            else:
                yield f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"
    if "init" in settings:
        yield "initial weights from another training"
    if "features" in settings:
        yield "features of another network"
    if "subset" in settings:
        yield f"{settings['subset']:,} of the training images"
    if settings.get("held_out"):
        yield settings["held_out"]


def mismatch_letters(table: Table) -> dict[tuple[str, ...], str]:
    """A letter for each different list of mismatches, in the order of the cells."""
    lists = dict.fromkeys(
        match.mismatches for match in table.published.values() if match.mismatches
    )
    return {mismatches: _letter(number) for number, mismatches in enumerate(lists)}


def _letter(number: int) -> str:
    more, rest = divmod(number, len(ascii_lowercase))
    return (_letter(more - 1) if more else "") + ascii_lowercase[rest]


def match_text(match: PublishedMatch, cell: Cell, letters: dict[tuple[str, ...], str]) -> str:
    """`[58.40, -0.31 a]`: the published number, ours minus published in points, and the letter of
    the mismatches.
    """
    gap = "" if cell.mean is None else f", {100 * (cell.mean - match.cell.mean):+.2f}"
    letter = letters.get(match.mismatches, "")
    return f"[{100 * match.cell.mean:.2f}{gap}{' ' + letter if letter else ''}]"


def published_caption(table: Table) -> str:
    """The meaning of the brackets, and each letter's mismatches."""
    if not table.paper:
        return ""
    if not table.published:
        return f"{PAPERS[table.paper]}: no published number for these data, noises and methods."
    mismatches = " ".join(
        f"{letter}: {'; '.join(texts)}." for texts, letter in mismatch_letters(table).items()
    )
    return (
        f"[published, ours minus published in points]: {PAPERS[table.paper]}. {mismatches}".strip()
    )
