"""What somebody's JSON or YAML must be like: the type of everything that is read of it, as a plain
table, checked before it is read.

A form is a Kind; `[form]`, a list of such; `{"name": form, "other?": form}`, these names, the
second where there is one, and any others; `Maybe(form)`, or nothing; `Each(form)`, one under every
name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

_DEEPEST = 20
# which no XML may hold, and a terminal may obey
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
_SHOWN = 40  # letters of a wrong value
MOST_CLASSES = 65_536  # predictions keep classes in 16 bits


@dataclass(frozen=True)
class Kind:
    """What a single value must be, and how that is said."""

    said: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Maybe:
    """As `form` says, or null."""

    form: Form


@dataclass(frozen=True)
class Each:
    """A mapping whose every value is as `form` says."""

    form: Form


Form: TypeAlias = "Kind | Maybe | Each | list[Form] | dict[str, Form]"


def _whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 1 << 63


def _number(value: Any) -> bool:
    return math.isfinite(value) if type(value) is float else _whole(value)


TEXT = Kind("a text", lambda value: isinstance(value, str))
NAME = Kind(
    "a text without control characters",
    lambda value: isinstance(value, str) and not _CONTROL.search(value),
)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
WHOLE = Kind("a whole number", _whole)
COUNT = Kind("a whole number from 1 on", lambda value: _whole(value) and value > 0)
CLASSES = Kind(
    f"a number of classes from 1 to {MOST_CLASSES}",
    lambda value: _whole(value) and 0 < value <= MOST_CLASSES,
)
NUMBER = Kind("a finite number", _number)
SHARE = Kind("a share from 0 to 1", lambda value: _number(value) and 0 <= value <= 1)
SCALAR = Kind(
    "a single value", lambda value: value is None or type(value) in (str, bool) or _number(value)
)


def check_form(content: Any, form: Form, at: str = "it") -> None:
    """Raises ValueError for the first value that is not as the form says."""
    if wrong := _wrong(content, form):
        path, said = wrong
        name = (at if at != "it" or not path or path[0] == "[" else "") + path
        raise ValueError(f"{name.removeprefix('.')} {said}")


def _wrong(content: Any, form: Form) -> tuple[str, str] | None:
    """Where it is not as the form says, and how; None where it is."""
    if isinstance(form, Kind):
        return None if form.fits(content) else ("", f"must be {form.said}, not {shown(content)}")
    if isinstance(form, Maybe):
        return None if content is None else _wrong(content, form.form)
    if isinstance(form, list):
        inner: Any = enumerate(content) if isinstance(content, list) else None
        return (
            _first(((f"[{at}]", item, form[0]) for at, item in inner))
            if inner
            else ("", f"must be a list, not {shown(content)}")
        )
    if not isinstance(content, dict):
        return "", f"must be a mapping, not {shown(content)}"
    if isinstance(form, Each):
        return _first((name, item, form.form) for name, item in content.items())
    named = [(name.removesuffix("?"), inner) for name, inner in form.items()]
    lacking = sorted(name for name in form if not name.endswith("?") and name not in content)
    if lacking:
        return "", f"lacks {', '.join(lacking)}"
    return _first((name, content[name], inner) for name, inner in named if name in content)


def _first(items: Iterable[tuple[str, Any, Form]]) -> tuple[str, str] | None:
    for name, item, form in items:
        if wrong := _wrong(item, form):
            return f"{name if name[:1] == '[' else f'.{_word(name)}'}{wrong[0]}", wrong[1]
    return None


def _word(name: str) -> str:
    """A name in a path: as it is where it is one."""
    return name if name.isidentifier() else shown(name)


def check_plain(content: Any, depth: int = 0) -> None:
    """Raises ValueError for what is not made of texts, finite numbers, lists and mappings by
    texts.
    """
    kind = type(content)
    if kind is dict or kind is list:
        if depth > _DEEPEST:
            raise ValueError(f"it is nested deeper than {_DEEPEST}")
        for item in content.values() if kind is dict else content:
            if type(item) is not str:
                check_plain(item, depth + 1)
        if kind is dict and (strange := [name for name in content if type(name) is not str]):
            raise ValueError(f"a name in it must be a text, not {shown(strange[0])}")
    elif not SCALAR.fits(content):
        raise ValueError(f"a value in it must be a single value, not {shown(content)}")


def shown(value: Any) -> str:
    """A wrong value, in an error's line."""
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return f"a number of {value.bit_length()} bits"
    text = (
        ascii(value)
        if not isinstance(value, dict | list)
        else f"a {'mapping' if isinstance(value, dict) else 'list'}"
    )
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
