"""Runs of different length in one table: as many epochs as do the same work, by which they are
grouped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil, floor
from typing import Any

from ..errors import ConfigError, NoisebenchError
from ..experiments.resolve import RelativeCost, price_of
from .aggregate import Compute, Row, group_rows, recipe_text


@dataclass(frozen=True)
class _Length:
    """How long a run was trained, and at what price an epoch."""

    epochs: int
    price: RelativeCost

    @property
    def work(self) -> float:
        return self.price.work(self.epochs)

    @cached_property
    def budgets(self) -> frozenset[int]:
        """The epochs of CE in whose place there would be as many; where there are none, those
        nearest to the work.
        """
        least, most = (self.price.work(self.epochs + step) for step in (-1, 1))
        found = [
            budget
            for budget in range(max(1, floor(least)), ceil(most) + 1)
            if self.price.epochs(budget) == self.epochs
        ]
        return frozenset(found or [max(1, round(self.work))])


def by_epochs(rows: Iterable[Row]) -> list[Row]:
    """The rows with recipes that say no epochs, so that runs of any length may stand side by
    side.
    """
    return [_lasting(row, "") for row in rows]


def by_compute(rows: Iterable[Row]) -> list[Row]:
    """The rows with recipes that say the epochs of CE that do their work, in place of their own.

    Rounding lets a run fit several of those: it goes where most of its data and recipe are. Raises
    ConfigError for an unknown price.
    """
    groups = group_rows(by_epochs(rows), ("dataset", "subset", "recipe")).values()
    return [row for group in groups for row in _at_budgets(group)]


def _at_budgets(group: Sequence[Row]) -> Iterator[Row]:
    lengths = [_Length(row.epochs, _price(row)) for row in group]
    budgets = _budgets(Counter(lengths))
    for row, length in zip(group, lengths, strict=True):
        budget = budgets[length]
        plural = "" if budget == 1 else "s"
        yield replace(
            _lasting(row, f"same compute as {budget} epoch{plural} of CE", budget=budget),
            compute=Compute(budget, length.work),
        )


def _price(row: Row) -> RelativeCost:
    try:
        return price_of(row.inputs["loss"], row.inputs["strategy"])
    except NoisebenchError as error:
        raise ConfigError(
            f"budget compute: {error}; load the --plugin, or leave such runs out with --filter"
        ) from None


def _budgets(counts: Counter[_Length]) -> dict[_Length, int]:
    """Of each length, the budget that most runs fit; of several the one nearest to their work, then
    the least.
    """
    found: dict[_Length, int] = {}
    while left := [length for length in counts if length not in found]:
        members = {
            budget: [length for length in left if budget in length.budgets]
            for length in left
            for budget in length.budgets
        }
        best = min(
            members,
            key=lambda budget: _misfit(
                budget, {length: counts[length] for length in members[budget]}
            ),
        )
        found |= dict.fromkeys(members[best], best)
    return found


def _misfit(budget: int, counts: dict[_Length, int]) -> tuple[int, float, int]:
    """What orders budgets, the best one first: how many runs fit, how far their work is from it,
    and its size.
    """
    return (
        -sum(counts.values()),
        sum(count * abs(length.work - budget) for length, count in counts.items()),
        budget,
    )


def _lasting(row: Row, length: str, **instead: Any) -> Row:
    """The row with another word for how long it was trained, and compared by something else than
    its epochs.
    """
    name = row.axes["recipe"].partition(", ")[0]
    recipe = recipe_text(name, length, row.comparable["held_out"])
    others = {key: value for key, value in row.comparable.items() if key != "epochs"}
    return replace(row, axes={**row.axes, "recipe": recipe}, comparable={**others, **instead})
