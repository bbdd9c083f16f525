"""What somebody's JSON or YAML must be like: the type of everything that is read of it, as a plain table, checked before it is read.

A form is a Kind; `[form]`, a list of such; `{"name": form, "other?": form}`, these names, the second where there is one, and any others;
`Maybe(form)`, or nothing; `Each(form)`, one under every name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

_DEEPEST = 20
_SHOWN = 40  # letters of a wrong value
_MOST_CLASSES = 65_536  # predictions keep classes in 16 bits


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
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _number(value: Any) -> bool:
    return _whole(value) or (isinstance(value, float) and math.isfinite(value))


TEXT = Kind("a text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
WHOLE = Kind("a whole number", _whole)
COUNT = Kind("a whole number from 1 on", lambda value: _whole(value) and value > 0)
CLASSES = Kind(f"a number of classes from 1 to {_MOST_CLASSES}", lambda value: _whole(value) and 0 < value <= _MOST_CLASSES)
NUMBER = Kind("a finite number", _number)
SHARE = Kind("a share from 0 to 1", lambda value: _number(value) and 0 <= value <= 1)
SCALAR = Kind("a single value", lambda value: value is None or isinstance(value, bool | str) or _number(value))


def check_form(content: Any, form: Form, at: str = "it") -> None:
    """Raises ValueError for the first value that is not as the form says."""
    if isinstance(form, Maybe):
        if content is not None:
            check_form(content, form.form, at)
    elif isinstance(form, Kind):
        if not form.fits(content):
            raise ValueError(f"{at} must be {form.said}, not {shown(content)}")
    elif isinstance(form, list):
        for number, item in enumerate(_of_type(content, list, at)):
            check_form(item, form[0], f"{at}[{number}]")
    elif isinstance(form, Each):
        for name, item in _of_type(content, dict, at).items():
            check_form(item, form.form, f"{at}.{shown(name)}")
    else:
        _check_names(_of_type(content, dict, at), form, at)


def _check_names(content: dict[str, Any], form: dict[str, Form], at: str) -> None:
    if missing := [name for name in form if not name.endswith("?") and name not in content]:
        raise ValueError(f"{at} lacks {', '.join(sorted(missing))}")
    for name, inner in form.items():
        if (key := name.removesuffix("?")) in content:
            check_form(content[key], inner, key if at == "it" else f"{at}.{key}")


def _of_type(content: Any, kind: type, at: str) -> Any:
    if not isinstance(content, kind):
        raise ValueError(f"{at} must be a {'list' if kind is list else 'mapping'}, not {shown(content)}")
    return content


def check_plain(content: Any, depth: int = 0) -> None:
    """Raises ValueError for what is not made of texts, finite numbers, lists and mappings by texts."""
    if depth > _DEEPEST:
        raise ValueError(f"it is nested deeper than {_DEEPEST}")
    if isinstance(content, dict):
        for name, item in content.items():
            check_form(name, TEXT, "a name in it")
            check_plain(item, depth + 1)
    elif isinstance(content, list):
        for item in content:
            check_plain(item, depth + 1)
    else:
        check_form(content, SCALAR, "a value in it")


def shown(value: Any) -> str:
    """A wrong value, in an error's line."""
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return f"a number of {value.bit_length()} bits"
    text = ascii(value) if not isinstance(value, dict | list) else f"a {'mapping' if isinstance(value, dict) else 'list'}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
