"""The language of losses, strategies and noises: names with arguments, `+` and `*`.

10*normalized(ce) + 0.1*mae      lsr(el(eps=auto), alpha=0.1)      asymmetric(rate=0.3,
map='cifar10')

Parsed by `ast`, never by `eval`. A bare word as a parameter is a string (`kind=soft`); `inf` is a
number.
"""

from __future__ import annotations

import ast
import itertools
import math
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias, TypeGuard

from ..errors import LanguageError

AUTO = "auto"  # a value from the manifest, resolved before the run's key is computed
OVERALL = "overall"  # likewise, for rates: the expected share of incorrect labels
ESTIMATED = "estimated"  # a value that the run estimates, for unknown noise
# likewise, from the nearest neighbours of features instead of out-of-fold networks
BY_HOC, BY_NEIGHBOURS = "estimated(by=hoc)", "estimated(by=neighbours)"
ESTIMATES = (ESTIMATED, BY_HOC, BY_NEIGHBOURS)
WORDS = (AUTO, OVERALL, *ESTIMATES)

Value: TypeAlias = "int | float | bool | str | tuple[Value, ...] | Call | Sum | None"

_MAX_LENGTH = 20_000  # characters; a 50 x 50 matrix fits
_MAX_DEPTH = 30  # of nested calls
_MAX_BITS = 1000  # of an integer; fits into a float
_CACHE_SIZE = 512  # texts: a suite has few, and parses them for every run
_PREFIXED = re.compile(r"[a-z]+:[\w.\-/]+")  # timm:resnet50


@dataclass(frozen=True)
class Call:
    """A name with its arguments, `gce(q=0.7)`: positional `args` and named `kwargs`, in written
    order.
    """

    name: str
    args: tuple[Value, ...] = ()
    kwargs: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        parts = [_text(value) for value in self.args] + [
            f"{key}={_text(value)}" for key, value in self.kwargs
        ]
        return f"{self.name}({', '.join(parts)})" if parts else self.name


@dataclass(frozen=True)
class Sum:
    """A weighted sum of calls, `10*normalized(ce) + 0.1*mae`."""

    terms: tuple[tuple[float, Call], ...]

    @classmethod
    def of(cls, terms: Iterable[tuple[float, Call]]) -> Expression:
        """The canonical sum: equal calls are merged and sorted by weight; a single call of weight 1
        is returned unchanged. Raises LanguageError for a weight of 0 or infinity.
        """
        weights: dict[Call, list[float]] = {}
        for weight, call in terms:
            weights.setdefault(call, []).append(float(weight))
        try:  # fsum: the same result in every order
            totals = {call: math.fsum(values) for call, values in weights.items()}
        except OverflowError:
            raise LanguageError("a weight must be finite") from None
        if not all(map(math.isfinite, totals.values())):
            raise LanguageError("a weight must be finite")
        if 0 in totals.values():
            raise LanguageError("a term of weight 0 has no effect: remove it")
        calls = sorted(sorted(totals, key=str), key=totals.__getitem__, reverse=True)
        if len(calls) == 1 and totals[calls[0]] == 1:
            return calls[0]
        return cls(tuple((totals[call], call) for call in calls))

    def __str__(self) -> str:
        return " + ".join(
            str(call) if weight == 1 else f"{_text(weight)}*{call}" for weight, call in self.terms
        )


Expression: TypeAlias = Call | Sum


def terms(expression: Expression) -> tuple[tuple[float, Call], ...]:
    """The weighted calls of an expression; a call alone has weight 1."""
    return expression.terms if isinstance(expression, Sum) else ((1, expression),)


@lru_cache(_CACHE_SIZE)
def parse(text: str) -> Expression:
    """Parse a text into a Call or a Sum; names are not checked.

    Raises LanguageError with the text and the first part that cannot be parsed.
    """
    text = text.strip()
    if _PREFIXED.fullmatch(text):
        return Call(text)
    if not text or len(text) > _MAX_LENGTH:
        raise LanguageError(
            f"expected a name such as 'gce(q=0.7)', got {'no text' if not text else 'a huge text'}"
        )
    value = _read_text(text)
    if not isinstance(value, Call | Sum):
        raise LanguageError(f"expected a name such as 'gce(q=0.7)', got {_short(text)!r}")
    return value


def parse_value(text: str) -> Value:
    """Parse a parameter's value: a number, a word or a list. Raises LanguageError."""
    return word(_read_text(text.strip()))


def _read_text(text: str) -> Value:
    depths = itertools.accumulate((c == "(") - (c == ")") for c in text)
    try:
        if max(depths, default=0) > _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_DEPTH} nested brackets")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own, about escapes in strings
            return _read(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise LanguageError(
            f"cannot read {_short(text)!r}: {getattr(error, 'msg', error)}"
        ) from None


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _read(node: ast.expr) -> Value:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | None):
        return _bounded(node.value) if _number(node.value) else node.value
    if isinstance(node, ast.Name):
        return math.inf if node.id == "inf" else Call(node.id)
    if isinstance(node, ast.List | ast.Tuple):
        return tuple(word(_read(item)) for item in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return _multiply(-1 if isinstance(node.op, ast.USub) else 1, _read(node.operand))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _read(node.left), _read(node.right)
        if _number(left) and _number(right):
            return _bounded(left + right)
        if isinstance(left, Call | Sum) and isinstance(right, Call | Sum):
            return Sum(terms(left) + terms(right))
        raise ValueError("+ cannot add a loss and a number")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _multiply(_read(node.left), _read(node.right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name, named = node.func.id, [keyword.arg for keyword in node.keywords]
        if None in named or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise ValueError("* and ** are not allowed before arguments")
        if repeated := {key for key in named if named.count(key) > 1}:
            raise ValueError(f"{name} has {sorted(map(str, repeated))[0]!r} twice")
        kwargs = tuple((str(keyword.arg), _read(keyword.value)) for keyword in node.keywords)
        return Call(name, tuple(_read(argument) for argument in node.args), kwargs)
    raise ValueError(
        f"only names, numbers, strings, lists, + and * are allowed, not {ast.unparse(node)[:40]!r}"
    )


def _number(value: Value) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bounded(number: Any) -> Any:
    """Returns the number. Raises ValueError for an integer that does not fit into a float."""
    if isinstance(number, int) and number.bit_length() > _MAX_BITS:
        raise ValueError("a number is too large")
    return number


def _multiply(left: Value, right: Value) -> Value:
    if _number(left) and _number(right):
        return _bounded(left * right)
    if _number(right):
        left, right = right, left
    if not _number(left) or not isinstance(right, Call | Sum):
        raise ValueError("* multiplies a loss by a number")
    if not math.isfinite(left):
        raise ValueError("a weight must be finite")
    return Sum(tuple((_bounded(left * weight), call) for weight, call in terms(right)))


def word(value: Value) -> Value:
    """The value as a parameter: a bare word becomes a string, and so does `estimated(by=hoc)`.
    Raises LanguageError for another `by`.
    """
    if not isinstance(value, Call):
        return value
    if not (value.args or value.kwargs):
        return value.name
    if value.name != ESTIMATED:
        return value
    text = str(replace(value, kwargs=tuple((key, word(item)) for key, item in value.kwargs)))
    if (text := text.replace("'", "")) not in ESTIMATES:
        raise LanguageError(f"the noise can be {', '.join(ESTIMATES)}, got {text}")
    return text


def _text(value: Value) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, str) and value not in WORDS:
        return repr(value)
    return str(value)
