"""What a table must say below of its costs: what the same compute is, and whose clock its times are
by.
"""

from __future__ import annotations

from collections.abc import Iterator

from .metrics import METRICS
from .table import Table


def cost_notes(table: Table, heads: dict[str, str]) -> Iterator[str]:
    """In sentences; none for a table that shows no costs. heads: what its rows are called."""
    yield from _compute_note(table)
    yield from _clock_note(table, heads)


def _compute_note(table: Table) -> Iterator[str]:
    found = [cell.compute for cell in table.cells.values() if cell.compute]
    if found:
        budgets = ", ".join(map(str, sorted({each.budget for each in found})))
        apart = max(abs(each.work / each.budget - 1) for each in found)
        within = f", within {100 * apart:.2g} %" if apart > 1e-9 else ""
        yield (
            f"Epochs: as many as do the work of {budgets} epoch{'' if budgets == '1' else 's'} "
            f"of CE, counted in passes{within}."
        )


def _clock_note(table: Table, heads: dict[str, str]) -> Iterator[str]:
    """On which machine times depend, and which of them do not compare."""
    rows = {
        (heads[row], clock)
        for (row, _), cell in table.cells.items()
        if METRICS[cell.metric].clocked
        for clock in cell.clocks
    }
    machines = sorted({clock.machine for _, clock in rows})
    if machines:
        several = ", which do not compare" if len(machines) > 1 else ""
        yield (
            f"Times are by the clock of {'; '.join(machines)}{several}, beside whatever else "
            "ran there."
        )
    packed, alone = (
        [
            row
            for row in heads.values()
            if (row, way) in {(known, clock.packed) for known, clock in rows}
        ]
        for way in (True, False)
    )
    if packed and alone:
        which = (
            f" ({'; '.join(packed)}), or by themselves ({'; '.join(alone)})"
            if not set(packed) & set(alone)
            else ", or by themselves"
        )
        yield f"Trained together as one network{which}: these times do not compare."
