"""Parameters of losses, strategies and noises from signatures: type, range, meaning of `auto`."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, TypeAlias

from ..errors import LanguageError
from .expressions import AUTO, ESTIMATES, OVERALL, Call, Sum, Value, word

# meaning of `auto` -> allowed words
_WORDS: dict[str | None, tuple[str, ...]] = {
    None: (),
    "rate": (AUTO, OVERALL, *ESTIMATES),
    "share": (AUTO, OVERALL, *ESTIMATES),
    "transition": (AUTO, *ESTIMATES),
}


@dataclass(frozen=True)
class Interval:
    """The allowed numbers of a parameter, in the usual notation: `Interval("(0, 1]")`."""

    text: str

    def __contains__(self, value: float) -> bool:
        low, high = (float(end) for end in self.text[1:-1].split(","))
        above = value >= low if self.text[0] == "[" else value > low
        return above and (value <= high if self.text[-1] == "]" else value < high)

    def __str__(self) -> str:
        return f"in {self.text}"


@dataclass(frozen=True)
class OneOf:
    """The allowed words of a parameter."""

    words: tuple[str, ...]

    def __contains__(self, value: str) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return "one of " + ", ".join(map(repr, self.words))


@dataclass(frozen=True)
class Auto:
    """Allows `auto`, a fact from the manifest, and `estimated`, the run's estimate of it.

    "rate": the nominal noise rate (0.4 of "asym 0.4"); "share": the expected share of incorrect
    labels (there about 0.2), also available as `overall` for both; "transition": T.
    """

    fact: str

    def __post_init__(self) -> None:
        if self.fact not in _WORDS:
            raise LanguageError(f"Auto({self.fact!r}): expected 'rate', 'share' or 'transition'")


@dataclass(frozen=True)
class Inner:
    """The parameter is an expression: a combinator's loss, or an inner noise."""

    noun: str = "loss"


Rate: TypeAlias = Annotated[float, Interval("[0, 1)")]
Share: TypeAlias = Annotated[float, Interval("[0, 1]")]
Matrix: TypeAlias = tuple[tuple[float, ...], ...]
WrongShare: TypeAlias = Annotated[float, Interval("[0, 1)"), Auto("share")]
TransitionText: TypeAlias = Annotated[
    Matrix | str, OneOf(("true", "empirical")), Auto("transition")
]

_EXACT = 2.0**53  # below it a float without fraction is exactly that integer
_KINDS = {float: "number", int: "whole number", bool: "True or False", str: "word"}


@dataclass(frozen=True)
class Parameter:
    """One parameter of an entry: its name, type, default, allowed values and meaning of `auto`."""

    name: str
    type: Any
    default: Any
    required: bool
    allowed: Interval | OneOf | None = None
    auto: str | None = None
    # allowed words for a fact of the manifest or its estimate
    words: tuple[str, ...] = ()
    noun: str = ""  # kind of an expression
    is_expression: bool = False

    def describe(self) -> str:
        """`number in [0, 1], default 0.1`."""
        kind = _KINDS.get(self.type, self.noun or "matrix")
        if isinstance(self.allowed, OneOf):
            parts = [str(self.allowed)] if self.type is str else [kind, "or", str(self.allowed)]
        else:
            parts = [kind, *([str(self.allowed)] if self.allowed else [])]
        parts += [f"or {word}" for word in self.words]
        default = "optional" if self.default is None else f"default {self.default}"
        return f"{' '.join(parts)}, {'required' if self.required else default}"

    def accept(self, value: Value, owner: str) -> Value:
        """The value in canonical form. Raises LanguageError with the allowed values."""
        if value is None and self.default is None:
            return None
        if self.is_expression:
            if isinstance(value, Call | Sum):
                return value
            raise LanguageError(f"{owner}: {self.name} must be a {self.noun}, got {value}")
        value = word(value)
        if value in self.words:
            return value
        coerced = _coerce(value, self.type)
        limited = self.allowed is not None and not isinstance(coerced, tuple)
        if coerced is None or (limited and coerced not in self.allowed):  # type: ignore[operator]
            allowed = self.describe()
            article = "" if allowed.startswith("one of") else "a "
            raise LanguageError(f"{owner}: {self.name} must be {article}{allowed}; got {value!r}")
        return coerced


def _coerce(value: Value, kind: Any) -> Value:
    """Converts the value to `kind`, None if impossible; 2.0 and 2 are the same number."""
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
    # a matrix
    if kind is str or not isinstance(value, tuple) or not value:
        return None
    if not all(isinstance(row, tuple) and len(row) == len(value) for row in value):
        return None
    rows = tuple(
        tuple(_coerce(cell, float) for cell in row)  # type: ignore[union-attr]
        for row in value
    )
    cells = [cell for row in rows for cell in row]
    finite = all(isinstance(cell, int | float) and math.isfinite(cell) for cell in cells)
    return rows if finite else None


def read_signature(build: Callable[..., Any], injected: tuple[str, ...]) -> tuple[Parameter, ...]:
    """The parameters of a function or class, without the injected ones.

    A parameter without an annotation has the type of its default, else it is a number. A required
    parameter `loss` is a loss, unless it is annotated as a number or a word.
    """
    try:
        # a dataclass's __init__ would resolve inherited annotations in the wrong module
        plain_class = isinstance(build, type) and not is_dataclass(build)
        called: Any = build.__init__ if plain_class else build
        hints = typing.get_type_hints(called, include_extras=True)
    except NameError:  # a plugin can use types that are imported for type checking only
        hints = {}
    parameters = []
    for p in inspect.signature(build).parameters.values():
        if p.name in injected:
            continue
        required = p.default is inspect.Parameter.empty
        kind = hints.get(p.name, type(p.default) if type(p.default) in (bool, str) else float)
        extras: tuple[Any, ...] = ()
        if typing.get_origin(kind) is Annotated:
            kind, *rest = typing.get_args(kind)
            extras = tuple(rest)
        elif p.name == "loss" and required and hints.get(p.name) not in _KINDS:
            extras = (Inner(),)
        choices = typing.get_args(kind)
        if type(None) in choices:
            kind = next((choice for choice in choices if choice in _KINDS), kind)
        facts = {type(extra): extra for extra in extras}
        auto = facts[Auto].fact if Auto in facts else None
        inner = facts.get(Inner)
        parameters.append(
            Parameter(
                p.name,
                Call if inner else kind,
                p.default,
                required,
                facts.get(Interval) or facts.get(OneOf),
                auto,
                _WORDS[auto],
                inner.noun if inner else "",
                inner is not None,
            )
        )
    return tuple(parameters)
