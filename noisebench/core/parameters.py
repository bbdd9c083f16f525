"""Parameters of the language, read off signatures: type, range, and what `auto` means."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, TypeAlias

from ..errors import LanguageError
from .expressions import AUTO, ESTIMATED, OVERALL, Call, Sum, Value, word

FACTS = ("rate", "share", "transition")


@dataclass(frozen=True)
class Interval:
    """The numbers a parameter may take, in the usual notation: `Interval("(0, 1]")`."""

    text: str

    def __contains__(self, value: float) -> bool:
        low, high = (float(end) for end in self.text[1:-1].split(","))
        above = value >= low if self.text[0] == "[" else value > low
        return above and (value <= high if self.text[-1] == "]" else value < high)

    def __str__(self) -> str:
        return f"in {self.text}"


@dataclass(frozen=True)
class OneOf:
    """The words a parameter may take."""

    words: tuple[str, ...]

    def __contains__(self, value: str) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return "one of " + ", ".join(map(repr, self.words))


@dataclass(frozen=True)
class Auto:
    """`auto` is allowed and means this fact of the manifest, `estimated` the run's estimate of it.

    "rate": the noise rate as its author writes it (0.4 of "asym 0.4"); "share": the expected share
    of incorrect labels (there about 0.2), which `overall` means for either; "transition": T.
    """

    fact: str

    def __post_init__(self) -> None:
        if self.fact not in FACTS:
            raise LanguageError(f"Auto({self.fact!r}): the facts are {', '.join(map(repr, FACTS))}")


@dataclass(frozen=True)
class Inner:
    """The parameter is itself an expression: a combinator's loss, or the noise within another."""

    noun: str = "loss"


Rate: TypeAlias = Annotated[float, Interval("[0, 1)")]
Share: TypeAlias = Annotated[float, Interval("[0, 1]")]
Matrix: TypeAlias = tuple[tuple[float, ...], ...]
WrongShare: TypeAlias = Annotated[float, Interval("[0, 1)"), Auto("share")]
TransitionText: TypeAlias = Annotated[
    Matrix | str, OneOf(("true", "empirical")), Auto("transition")
]

_EXACT = 2.0**53  # below it a float without fraction is exactly that integer
_REQUIRED = inspect.Parameter.empty
_KINDS = {float: "number", int: "whole number", bool: "True or False", str: "word"}


@dataclass(frozen=True)
class Parameter:
    """One parameter of an entry: its name, type, default, allowed values and meaning of `auto`."""

    name: str
    type: Any
    default: Any = _REQUIRED
    allowed: Interval | OneOf | None = None
    auto: str | None = None
    noun: str = ""  # of an expression: what it is

    @property
    def required(self) -> bool:
        return self.default is _REQUIRED

    @property
    def is_expression(self) -> bool:
        """Whether the parameter is itself an expression."""
        return self.type is Call

    @property
    def words(self) -> tuple[str, ...]:
        """The words that stand for a fact of the manifest or for the run's estimate."""
        return {"transition": (AUTO, ESTIMATED), None: ()}.get(
            self.auto, (AUTO, OVERALL, ESTIMATED)
        )

    def unset(self, value: Value) -> bool:
        """Whether the value is left out of the text: None, or a switch at its default."""
        return value is None or (isinstance(value, bool) and value is self.default)

    def describe(self) -> str:
        parts = [_KINDS.get(self.type, self.noun or "matrix")]
        if self.allowed:
            parts.append(str(self.allowed))
        parts += [f"or {word}" for word in self.words]
        return " ".join(parts) + (", required" if self.required else f", default {self.default}")

    def accept(self, value: Value, owner: str) -> Value:
        """The value in its one form; raises LanguageError with what is allowed."""
        if self.is_expression:
            if isinstance(value, Call | Sum) or (value is None and self.default is None):
                return value
            raise LanguageError(f"{owner}: {self.name} is a {self.noun}, got {value}")
        value = word(value)
        if value in self.words or (value is None and self.default is None):
            return value
        coerced = _coerce(value, self.type)
        if coerced is None or not self._allows(coerced):
            raise LanguageError(f"{owner}: {self.name} must be a {self.describe()}; got {value!r}")
        return coerced

    def _allows(self, value: Any) -> bool:
        if self.allowed is None or isinstance(value, tuple):
            return True
        return not (isinstance(value, float) and math.isnan(value)) and value in self.allowed


def _coerce(value: Value, kind: Any) -> Value:
    """The value as `kind`, or None if it is not one; 2.0 and 2 are the same number."""
    if kind is bool or isinstance(value, bool):
        return value if kind is bool and isinstance(value, bool) else None
    if kind in (int, float):
        if not isinstance(value, int | float):
            return None
        integral = float(value).is_integer()
        if kind is int:
            return int(value) if integral else None
        return int(value) if integral and abs(value) < _EXACT else float(value)
    if isinstance(value, str):
        return value
    return None if kind is str else _matrix(value)


def _matrix(value: Value) -> Value:
    if (
        not isinstance(value, tuple)
        or not value
        or not all(isinstance(row, tuple) and len(row) == len(value) for row in value)
    ):
        return None
    rows = tuple(tuple(_coerce(cell, float) for cell in row) for row in value)  # type: ignore[union-attr]
    bad = any(cell is None or not math.isfinite(cell) for row in rows for cell in row)  # type: ignore[arg-type]
    return None if bad else rows


def read_signature(build: Callable[..., Any], injected: tuple[str, ...]) -> tuple[Parameter, ...]:
    """The parameters of a function or class, without those that code supplies."""
    try:
        # A dataclass's own __init__ would look up what it inherits in the wrong module.
        plain_class = isinstance(build, type) and not is_dataclass(build)
        called: Any = build.__init__ if plain_class else build
        hints = typing.get_type_hints(called, include_extras=True)
    except NameError:  # a plugin may name types that it imports for the type checker alone
        hints = {}
    parameters = [p for p in inspect.signature(build).parameters.values() if p.name not in injected]
    return tuple(_parameter(p.name, p.default, _hint(p, hints)) for p in parameters)


def _hint(parameter: inspect.Parameter, hints: dict[str, Any]) -> Any:
    """The annotation of a parameter, or what its name and default say where it has none.

    A required parameter called `loss` is a loss, unless it is annotated as a number or a word.
    """
    default = parameter.default
    hint = hints.get(parameter.name)
    is_loss = parameter.name == "loss" and default is _REQUIRED
    if is_loss and hint not in _KINDS and typing.get_origin(hint) is not Annotated:
        return Annotated[Any, Inner()]
    if hint is not None:
        return hint
    return type(default) if type(default) in (bool, str) else float


def _parameter(name: str, default: Any, hint: Any) -> Parameter:
    extras: tuple[Any, ...] = ()
    if typing.get_origin(hint) is Annotated:
        hint, *rest = typing.get_args(hint)
        extras = tuple(rest)
    choices = typing.get_args(hint)
    kind = next((c for c in choices if c in _KINDS), hint) if type(None) in choices else hint
    allowed = next((extra for extra in extras if isinstance(extra, Interval | OneOf)), None)
    auto = next((extra.fact for extra in extras if isinstance(extra, Auto)), None)
    noun = next((extra.noun for extra in extras if isinstance(extra, Inner)), "")
    return Parameter(name, Call if noun else kind, default, allowed, auto, noun)
