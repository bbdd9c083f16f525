"""Resolves `auto`, `overall` and `estimated`, and decides which runs are oracles."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import numpy as np

from ..core.expressions import AUTO, ESTIMATED, ESTIMATES, OVERALL, Call, Expression, Value
from ..core.parameters import Parameter
from ..core.registry import Registry
from ..errors import LanguageError
from ..labels.manifest import Manifest
from ..losses import LOSSES
from ..metrics.confident_learning import Estimates
from ..strategies import STRATEGIES

TRUE, EMPIRICAL = "true", "empirical"


def resolve_auto(registry: Registry, text: str | Expression, manifest: Manifest) -> Expression:
    """The canonical expression with every `auto` and `overall` replaced: a rate by its number, T by
    'true' (of the noise model) or 'empirical'.

    Raises LanguageError if the manifest does not have the value.
    """

    def fill(call: Call, parameter: Parameter, value: Value) -> Value:
        if value not in (AUTO, OVERALL):
            return value
        is_transition = parameter.auto == "transition"
        if is_transition and (tables := _tables(manifest)):
            return next(iter(tables))
        is_rate = parameter.auto == "rate" and value == AUTO
        rate = manifest.rate if is_rate else manifest.expected_share
        if rate is None or is_transition:
            raise LanguageError(
                f"{call.name}: {value} needs the noise "
                f"{'transition matrix' if is_transition else 'rate'}, which this manifest does not "
                f"have: use {ESTIMATED}, or give a value"
            )
        return rate

    return registry.map_arguments(registry.normal(text), fill)


def is_oracle(registry: Registry, expression: Expression, manifest: Manifest) -> bool:
    """Whether a resolved expression contains the true rate or T, as a word or as a typed value."""
    return any(
        _is_true(parameter.auto, value, manifest)
        for _, parameter, value in registry.arguments(expression)
    )


def mask_true_values(registry: Registry, expression: Expression, manifest: Manifest) -> str:
    """The expression's text with values replaced by `auto` or `overall` if they are equal to these,
    so that a run has the same name however it was written.
    """

    shares = (manifest.expected_share, manifest.meta["realised_rate"])

    def mask(call: Call, parameter: Parameter, value: Value) -> Value:
        if parameter.auto == "transition":
            return AUTO if _is_true("transition", value, manifest) else value
        if parameter.auto is None or not isinstance(value, int | float):
            return value
        words = {AUTO: (manifest.rate,) if parameter.auto == "rate" else shares, OVERALL: shares}
        for word, rates in words.items():
            if any(rate is not None and math.isclose(value, rate, abs_tol=1e-9) for rate in rates):
                return word
        return value

    return str(registry.map_arguments(expression, mask))


def _is_true(fact: str | None, value: Value, manifest: Manifest) -> bool:
    if fact in ("rate", "share") and isinstance(value, int | float):
        meta = manifest.meta
        rates = [meta["nominal_rate"], meta["realised_rate"], *meta.get("rates", ())]
        return is_rate(value, [*rates, manifest.expected_share])
    if fact == "transition":
        return value in (TRUE, EMPIRICAL) or any(
            _close(value, T) for T in _tables(manifest).values()
        )
    return False


def is_rate(value: float, rates: Iterable[float | None]) -> bool:
    """Whether a value equals one of the rates, rounded to the value's digits, at least two: 0.2
    equals 0.20200462, 0.25 does not.
    """
    if not math.isfinite(value):
        return False
    digits = _digits(value)
    return any(
        math.isclose(value, rate, abs_tol=1e-9)
        or (value > 0 and math.isclose(value, round(rate, digits)))
        for rate in rates
        if rate is not None
    )


def _digits(value: float) -> int:
    """The number of a value's decimal places, at least two."""
    return max(2, -int(Decimal(repr(value)).as_tuple().exponent))


def _close(value: Any, T: np.ndarray) -> bool:
    """Whether a matrix equals T, rounded to the matrix's digits, at least two; the diagonal may
    absorb the rounding of its row, up to 0.01. A 0 matches only 0."""
    if np.shape(value) != T.shape:
        return False
    half = 0.5 * 10.0 ** -max(_digits(cell) for row in value for cell in row)
    given = np.asarray(value, np.float64)
    reach = np.where(given > 0, half + 1e-6, 1e-6)
    np.fill_diagonal(reach, max(half, min(half * len(T), 0.01)) + 1e-6)
    return bool((np.abs(given - T) <= reach).all())


def _tables(manifest: Manifest) -> dict[str, np.ndarray]:
    """Every T (K, K) of the manifest, the noise model's first."""
    tables = {
        TRUE: manifest.transition,
        EMPIRICAL: manifest.empirical_transition if (manifest.clean_labels >= 0).any() else None,
    }
    return {name: table for name, table in tables.items() if table is not None}


def transitions(
    manifest: Manifest, loss: Expression, estimates: Estimates | None = None
) -> dict[str, np.ndarray]:
    """The matrices for T='true', T='empirical' and T=estimated, however it is estimated, with this
    manifest; empty for a loss without T.
    """
    has_T = any(parameter.name == "T" for _, parameter, _ in LOSSES.arguments(loss))
    estimated = {} if estimates is None else dict.fromkeys(ESTIMATES, estimates.transition)
    return {**_tables(manifest), **estimated} if has_T else {}


def estimated_facts(registry: Registry, expression: Expression) -> set[str]:
    """What a run with this expression must estimate: "rate" (the share of incorrect labels),
    "transition".
    """
    return {
        "transition" if parameter.auto == "transition" else "rate"
        for _, parameter, value in registry.arguments(expression)
        if value in ESTIMATES
    }


def estimators(loss: Expression, strategy: Expression) -> set[str]:
    """The words by which a run with these estimates its noise: `estimated`, `estimated(by=hoc)`."""
    values = (
        value
        for registry, expression in ((LOSSES, loss), (STRATEGIES, strategy))
        for *_, value in registry.arguments(expression)
    )
    return {str(value) for value in values if value in ESTIMATES}


def with_estimates(
    registry: Registry, expression: Expression, estimates: Estimates | None
) -> Expression:
    """The expression with `estimated` replaced by the estimated rate; T remains a word, resolved by
    `transitions`.
    """

    def fill(call: Call, parameter: Parameter, value: Value) -> Value:
        is_rate = value in ESTIMATES and parameter.auto != "transition"
        return estimates.rate if estimates and is_rate else value

    return registry.map_arguments(expression, fill)
