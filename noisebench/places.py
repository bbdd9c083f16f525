"""YAML -> plain values, remembering line and column of each, so that every mistake of a file can be said at its place."""

from __future__ import annotations

import re
from typing import Any

import yaml

from .core.files.untrusted import check_nesting

Place = tuple[str | int, ...]
"""The keys and numbers that lead to a value."""

_DEPTH = 8  # a selector's value in an override in a suite
_MOST = 50_000  # values
_LIKE_A_NUMBER = re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?[0-9]*\.?[0-9]+[eE][0-9]+")


def compose(text: str) -> yaml.Node | None:
    """The document as nodes. Raises ConfigError for an alias, ValueError for too deep or too large a one, yaml.YAMLError for no YAML."""
    check_nesting(text, _DEPTH, _MOST)
    return yaml.compose(text, yaml.SafeLoader)


def mark_of(error: yaml.YAMLError) -> str:
    """`:line:column`, where the error says them."""
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}:{mark.column + 1}" if mark else ""


def construct(node: yaml.Node, at: Place, places: dict[Place, tuple[int, int]], mistakes: list[tuple[int, int, str]]) -> Any:
    """Plain values, remembering where each stood; duplicate keys, aliases and `1e-3` are mistakes."""
    here = (node.start_mark.line + 1, node.start_mark.column + 1)
    places.setdefault(at, here)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            spot = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if key in mapping:
                mistakes.append((*spot, f"the key {key!r} stands twice"))
            places[(*at, key)] = spot
            mapping[key] = construct(value_node, (*at, key), places, mistakes)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [construct(item, (*at, number), places, mistakes) for number, item in enumerate(node.value)]
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    if node.tag == "tag:yaml.org,2002:str" and plain and _LIKE_A_NUMBER.fullmatch(node.value):
        mistakes.append((*here, f"YAML reads {node.value} as text: write {_with_point(node.value)}"))
        return float(node.value)
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError):
        mistakes.append((*here, f"cannot read {getattr(node, 'value', node.tag)!r} as {node.tag.rpartition(':')[2]}: write it in quotes"))
        return None


def _with_point(text: str) -> str:
    mantissa, exponent = re.split("[eE]", text)
    sign = "" if exponent[0] in "+-" else "+"
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{sign}{exponent}"
