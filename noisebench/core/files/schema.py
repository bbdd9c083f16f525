"""Pydantic types to validate untrusted JSON and YAML before use."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

_DEEPEST = 20
_MAX_INT = 1 << 63
# not allowed in XML; terminals interpret some
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
_SHOWN = 40  # characters of a wrong value
MOST_CLASSES = 65_536  # predictions keep classes in 16 bits


def is_number(value: Any) -> bool:
    """Whether it is a finite number and not a bool."""
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is int and abs(value) < _MAX_INT


def without_controls(value: str) -> str:
    """Returns the text. Raises ValueError for control characters."""
    if _CONTROL.search(value):
        raise ValueError("must be a text without control characters")
    return value


def _scalar(value: Any) -> Any:
    if not (value is None or type(value) in (str, bool) or is_number(value)):
        raise ValueError("must be a single value")
    return value


Name: TypeAlias = Annotated[str, AfterValidator(without_controls)]
Whole: TypeAlias = Annotated[int, Field(gt=-_MAX_INT, lt=_MAX_INT)]
Count: TypeAlias = Annotated[int, Field(gt=0, lt=_MAX_INT)]
NumClasses: TypeAlias = Annotated[int, Field(gt=0, le=MOST_CLASSES)]
Number: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Scalar: TypeAlias = Annotated[Any, AfterValidator(_scalar)]


_adapter = cache(TypeAdapter)


def check_form(content: Any, form: Any, at: str = "") -> None:
    """Raises ValueError for the first value in `content` that is not of the type `form`, in
    pydantic's strict mode. `at` names the content in the message.
    """
    try:
        _adapter(form).validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    else:
        return
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    *parents, last = first["loc"] or ("",)
    if first["type"] == "missing":
        message = f"lacks {last}"
    else:
        parents, message = [*parents, last], f"{message}, not {shown(first['input'])}"
    for part in parents:
        if isinstance(part, int):
            at += f"[{part}]"
        elif part:
            at += f".{part if part.isidentifier() else shown(part)}"
    raise ValueError(f"{at.removeprefix('.') or 'it'} {message}")


def check_plain(content: Any, depth: int = 0) -> None:
    """Raises ValueError for values other than texts, finite numbers, lists and mappings with text
    keys.
    """
    if isinstance(content, dict | list):
        if depth > _DEEPEST:
            raise ValueError(f"it is nested deeper than {_DEEPEST}")
        if isinstance(content, dict):
            for name in content:
                if type(name) is not str:
                    raise ValueError(f"a key in it must be a text, not {shown(name)}")
            content = content.values()
        for item in content:
            if type(item) is not str:
                check_plain(item, depth + 1)
    elif not (content is None or type(content) in (str, bool) or is_number(content)):
        raise ValueError(f"a value in it must be a single value, not {shown(content)}")


def shown(value: Any) -> str:
    """An invalid value as text for an error."""
    if isinstance(value, int) and abs(value) >= _MAX_INT:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = ascii(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
