"""`noisebench list published`: the papers whose numbers there are, and one paper's as it prints
them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from ..experiments.published import Published


def paper_rows() -> list[dict[str, Any]]:
    """One row a paper, with all its cells."""
    from ..experiments.published import PAPERS, cells_of

    return [
        {
            "name": paper,
            "title": title,
            "cells_known": len(cells := cells_of(paper)),
            "data": _distinct(cells, "dataset"),
            "networks": _distinct(cells, "backbone"),
            "noise": _distinct(cells, "kind"),
            "selection": _distinct(cells, "selection", "unstated"),
            "methods": _distinct(cells, "name"),
            "source": _distinct(cells, "source"),
            "cells": [asdict(cell) for cell in cells],
        }
        for paper, title in PAPERS.items()
    ]


def _distinct(cells: list[Published], name: str, nothing: str = "") -> list[str]:
    return list(
        dict.fromkeys(text for cell in cells if (text := str(getattr(cell, name)) or nothing))
    )


def paper_tables(name: str) -> list[Table]:
    """A paper's numbers in percent, one table for each data set and network. Raises UnknownName."""
    from ..experiments.published import cells_of

    groups: dict[tuple[str, str], list[Published]] = {}
    for cell in cells_of(name):
        groups.setdefault((cell.dataset, cell.backbone), []).append(cell)
    return [
        _table(f"{dataset}, {backbone}", cells) for (dataset, backbone), cells in groups.items()
    ]


def _table(title: str, cells: list[Published]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ..core.console import Text

    numbers = {(cell.name, _noise(cell)): _number(cell) for cell in cells}
    names, noises = (list(dict.fromkeys(places)) for places in zip(*numbers, strict=True))
    copied = {
        name: ", ".join(_distinct([cell for cell in cells if cell.name == name], "copied_from"))
        for name in names
    }
    table = Table(
        title=Text(title, style="bold"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    for head in ("method", *noises, *(["copied from"] if any(copied.values()) else [])):
        table.add_column(head, justify="right" if head in noises else "left", overflow="fold")
    for name in names:
        table.add_row(
            *map(
                Text,
                [name, *(numbers.get((name, noise), "–") for noise in noises), copied[name]][
                    : len(table.columns)
                ],
            )
        )
    return table


def _noise(cell: Published) -> str:
    if cell.kind == "human":
        return cell.noise.partition("'")[2].partition("'")[0]
    return f"{cell.kind} {cell.rate:g}" if cell.rate else cell.kind


def _number(cell: Published) -> str:
    return f"{100 * cell.mean:.2f}" + ("" if cell.std is None else f" ± {100 * cell.std:.2f}")
