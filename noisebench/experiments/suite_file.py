"""What a suite of benchmarks.yaml may say of its runs and its table: names and types. What the
values mean is suite.py's to check.

YAML -> plain values, remembering line and column of each, so that every mistake of a file can be
reported at its place.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, create_model

from .recipes import RECIPE_TYPES, option_name

Scalar = bool | int | float | str | None
Selector = dict[str, Scalar | list[Scalar]]
"""Which runs of a suite: those that have one of the values of each key."""


class StrictModel(BaseModel):
    """Nothing unknown, nothing of another type, nothing changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _RunSettings(StrictModel):
    """The settings of a run outside its recipe."""

    dataset: str | None = None
    test: str | None = None  # where the test images of a folder lie, if not in it
    model: str | None = None
    init: str | None = None
    recipe: str | None = None
    noise: str | None = None
    method: str | None = None
    loss: str | None = None
    strategy: str | None = None
    val_fraction: float | None = None
    val_split: str | None = None
    trusted: float | None = None
    subset: int | None = None
    precision: str | None = None

    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True, exclude_none=True)


_RECIPE_VALUES: dict[str, Any] = {
    name: (kind | None, Field(None, validation_alias=AliasChoices(option_name(name), name)))
    for name, kind in RECIPE_TYPES.items()
}
_RecipeSettings: Any = create_model("_RecipeSettings", __base__=_RunSettings, **_RECIPE_VALUES)


class Settings(_RecipeSettings):  # type: ignore[misc]
    """The settings of one run; each may stand in `defaults`, the axes in `matrix` too."""


class Defaults(Settings):
    """The settings all runs of a suite share, and the seeds. noise_seed: the same as the seed
    unless fixed; budget: what all methods have alike, the epochs, or with `compute` the work of so
    many epochs of CE.
    """

    seeds: list[int] = Field(default=[0], min_length=1)
    noise_seed: int | None = None
    budget: str = "epochs"


class Override(StrictModel):
    """`set` these settings in the runs that `match`."""

    match: Selector
    set: Settings


class ReportShape(StrictModel):
    """How the suite's table is laid out; suspects: a .csv of the workspace, for the labels that its
    runs together doubt.
    """

    rows: str = "method"
    cols: str = "noise"
    metric: str = "last"
    published: str | None = None
    suspects: str | None = None


YamlPath = tuple[str | int, ...]
"""The keys and numbers that lead to a value."""

_LIKE_A_NUMBER = re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?[0-9]*\.?[0-9]+[eE][0-9]+")


def construct(
    node: yaml.Node,
    at: YamlPath,
    marks: dict[YamlPath, tuple[int, int]],
    mistakes: list[tuple[int, int, str]],
) -> Any:
    """Plain values, remembering where each stood; duplicate keys, aliases and `1e-3` are
    mistakes.
    """
    here = (node.start_mark.line + 1, node.start_mark.column + 1)
    marks.setdefault(at, here)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            spot = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if key in mapping:
                mistakes.append((*spot, f"the key {key!r} stands twice"))
            marks[(*at, key)] = spot
            mapping[key] = construct(value_node, (*at, key), marks, mistakes)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [
            construct(item, (*at, number), marks, mistakes)
            for number, item in enumerate(node.value)
        ]
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    if node.tag == "tag:yaml.org,2002:str" and plain and _LIKE_A_NUMBER.fullmatch(node.value):
        mantissa, exponent = re.split("[eE]", node.value)
        mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
        exponent = exponent if exponent[0] in "+-" else f"+{exponent}"
        mistakes.append((*here, f"YAML reads {node.value} as text: write {mantissa}e{exponent}"))
        return float(node.value)
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError):
        mistakes.append(
            (
                *here,
                f"cannot read {getattr(node, 'value', node.tag)!r} as "
                f"{node.tag.rpartition(':')[2]}: write it in quotes",
            )
        )
        return None
