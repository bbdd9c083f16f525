"""The columns of tables as the panels of a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...errors import NoisebenchError
from ...labels.manifest import short_noise
from ...noise import normal_noise
from ..table import Table

_FULL = {"sym": "symmetric", "asym": "asymmetric", "pair": "pair flip"}


def columns(tables: Sequence[Table]) -> Iterator[tuple[Table, str]]:
    """Every column with a finished run."""
    for table in tables:
        yield from ((table, col) for col in table.cols if filled(table, col))


def filled(table: Table, col: str) -> list[str]:
    """The rows that have a finished run there."""
    return [row for row in table.rows if (cell := table.cells.get((row, col))) and cell.finished]


def column_title(table: Table, col: str) -> str:
    """`digits, sym 0.4`."""
    return f"{table.short_title}, {table.col_head(col)}".strip(", ")


def shared(tables: Sequence[Table]) -> str:
    """The titles and seeds of all tables, for a caption."""
    return "; ".join(dict.fromkeys(f"{table.title}: {table.varied}" for table in tables))


def kinds_of_noise(table: Table) -> dict[str, dict[float, str]]:
    """For each kind of noise its columns by nominal rate, in order; of several metrics side by side
    the first. Without noise that has no rate, or that is a plugin's which is not loaded.
    """
    kinds: dict[str, dict[float, str]] = {}
    for col in table.cols:
        facts = dict(zip(table.col_axis.split(","), table.parts[col], strict=True))
        other_metric = facts.pop("metric", table.metrics[0]) != table.metrics[0]
        if other_metric or set(facts) != {"noise"}:
            continue
        try:
            rate = dict(normal_noise(facts["noise"]).kwargs).get("rate")
        except NoisebenchError:
            continue
        if isinstance(rate, int | float):
            text = short_noise(facts["noise"], table.fixed.get("dataset", ""))
            kind, _, more = text.partition(f" {rate}")
            kinds.setdefault(f"{_FULL.get(kind, kind)}{more}", {})[float(rate)] = col
    return {kind: dict(sorted(cols.items())) for kind, cols in kinds.items()}
