"""The cells of tables as the places of a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..render.text import col_head
from ..table import Table


def columns(tables: Sequence[Table]) -> Iterator[tuple[Table, str]]:
    """Every column with a run that ended well."""
    for table in tables:
        yield from ((table, col) for col in table.cols if filled(table, col))


def filled(table: Table, col: str) -> list[str]:
    """The rows that have a run there."""
    return [row for row in table.rows if (cell := table.cells.get((row, col))) and cell.finished]


def column_title(table: Table, col: str) -> str:
    """`digits, sym 0.4`."""
    return f"{table.short_title}, {col_head(table, col)}".strip(", ")


def shared(tables: Sequence[Table]) -> str:
    """What a caption says of all tables: what each is of, seeds and marks apart."""
    return "; ".join(dict.fromkeys(f"{table.title}: {table.varied}" for table in tables))
