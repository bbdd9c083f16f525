"""`auto` and `estimated` -> a value: what a manifest knows of its noise or a run found out, and who used the truth (an oracle)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from .errors import LanguageError
from .estimates import Estimates
from .losses import LOSSES
from .manifest import Manifest
from .registry import Registry
from .spec import AUTO, ESTIMATED, Call, Expression, Value

TRUE, EMPIRICAL = "true", "empirical"
_PRINTED = 1e-4  # half of the last digit of a rate in percent with two digits, and its rounding


def resolve(registry: Registry, text: str | Expression, manifest: Manifest) -> Expression:
    """The normal expression with every `auto` replaced: a rate by its number, T by 'true' (the model's) or 'empirical'.

    Raises LanguageError where the manifest does not know.
    """

    def fill(call: Call) -> Call:
        known = {p.name: p for p in registry[call.name].parameters}
        kwargs = tuple((key, _fact(known[key].auto, call.name, manifest) if value == AUTO else value) for key, value in call.kwargs)
        return replace(call, kwargs=kwargs)

    return registry.normal(registry.substitute(registry.normal(text), fill))


def _fact(fact: str | None, owner: str, manifest: Manifest) -> Value:
    if fact == "rate" and manifest.rate is not None:
        return manifest.rate
    if fact == "transition" and (tables := _tables(manifest)):
        return next(iter(tables))
    raise LanguageError(
        f"{owner}: auto needs the noise {fact}, which this manifest does not know: give a value, or {ESTIMATED}, which the run finds out"
    )


def is_oracle(registry: Registry, expression: Expression, manifest: Manifest) -> bool:
    """Whether a resolved expression holds the true rate or T, asked for by `auto` or typed."""
    for call in registry.calls(expression):
        facts = {p.name: p.auto for p in registry[call.name].parameters}
        if any(_is_true(facts[key], value, manifest) for key, value in call.kwargs):
            return True
    return False


def with_auto(registry: Registry, expression: Expression, manifest: Manifest) -> str:
    """The expression's text with `auto` wherever a value is the truth: one name for one run, however it was asked for."""

    def unfill(call: Call) -> Call:
        facts = {p.name: p.auto for p in registry[call.name].parameters}
        return replace(call, kwargs=tuple((key, AUTO if _is_true(facts[key], value, manifest) else value) for key, value in call.kwargs))

    return registry.canonical(registry.substitute(expression, unfill))


def _is_true(fact: str | None, value: Value, manifest: Manifest) -> bool:
    if fact == "rate" and isinstance(value, int | float):
        exact = (manifest.meta["nominal_rate"], manifest.meta["realised_rate"], *manifest.meta.get("rates", ()))
        as_printed = manifest.meta["realised_rate"] if manifest.noise_seed is None else None  # the published rate of people's labels
        return any(rate is not None and math.isclose(value, rate, abs_tol=1e-9) for rate in exact) or (
            as_printed is not None and math.isclose(value, as_printed, abs_tol=_PRINTED)
        )
    if fact == "transition":
        return value in (TRUE, EMPIRICAL) or any(_close(value, T) for T in _tables(manifest).values())
    return False


def _close(value: Any, T: np.ndarray) -> bool:
    return np.shape(value) == T.shape and np.allclose(value, T, atol=1e-6)


def _tables(manifest: Manifest) -> dict[str, np.ndarray]:
    """Every T (K, K) that the manifest knows, the noise model's first."""
    tables = {TRUE: manifest.transition, EMPIRICAL: manifest.empirical_transition if (manifest.clean_labels >= 0).any() else None}
    return {name: table for name, table in tables.items() if table is not None}


def transitions(manifest: Manifest, loss: Expression, estimates: Estimates | None = None) -> dict[str, np.ndarray]:
    """What T='true', T='empirical' and T=estimated are under this manifest; nothing for a loss that has no T."""
    has_T = any(key == "T" for call in LOSSES.calls(loss) for key, _ in call.kwargs)
    found = {} if estimates is None else {ESTIMATED: estimates.transition}
    return {**_tables(manifest), **found} if has_T else {}


def estimated_facts(registry: Registry, expression: Expression) -> set[str]:
    """The facts, "rate" or "transition", that a run with this expression has to find out."""
    facts = {(call.name, p.name): p.auto for call in registry.calls(expression) for p in registry[call.name].parameters}
    return {str(facts[call.name, key]) for call in registry.calls(expression) for key, value in call.kwargs if value == ESTIMATED}


def with_estimates(registry: Registry, expression: Expression, estimates: Estimates | None) -> Expression:
    """The expression with the rate that a run found in place of `estimated`; T stays a word, which `transitions` explains."""

    def fill(call: Call) -> Call:
        facts = {p.name: p.auto for p in registry[call.name].parameters}
        found = tuple(
            (key, estimates.rate if estimates and value == ESTIMATED and facts[key] == "rate" else value) for key, value in call.kwargs
        )
        return replace(call, kwargs=found)

    return registry.normal(registry.substitute(expression, fill))
