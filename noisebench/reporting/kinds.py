"""The columns of a table that are one kind of noise at several rates."""

from __future__ import annotations

from ..errors import NoisebenchError
from ..labels.manifest import short_noise
from ..noise import normal_noise
from .table import Table

_FULL = {"sym": "symmetric", "asym": "asymmetric", "pair": "pair flip"}


def kinds_of_noise(table: Table) -> dict[str, dict[float, str]]:
    """For each kind its columns by nominal rate, in order. Of several metrics side by side the
    first.
    """
    found: dict[str, dict[float, str]] = {}
    for col in table.cols:
        if place := _place(table, col):
            found.setdefault(place[0], {})[place[1]] = col
    return {kind: dict(sorted(places.items())) for kind, places in found.items()}


def _place(table: Table, col: str) -> tuple[str, float] | None:
    """Kind and rate; None for noise without a rate, or a plugin's that is not loaded."""
    facts = dict(zip(table.col_axis.split(","), table.parts[col], strict=True))
    if (
        set(facts) - {"noise", "metric"}
        or "noise" not in facts
        or facts.get("metric", table.metrics[0]) != table.metrics[0]
    ):
        return None
    try:
        rate = dict(normal_noise(facts["noise"]).kwargs).get("rate")
    except NoisebenchError:
        return None
    if not isinstance(rate, int | float):
        return None
    kind, _, more = short_noise(facts["noise"], table.fixed.get("dataset", "")).partition(
        f" {rate}"
    )
    return f"{_FULL.get(kind, kind)}{more}", float(rate)
