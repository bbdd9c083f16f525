"""Where suite files are, the names of their suites, and the keys and types of a suite; suite.py
checks the values.

Also converts YAML to plain values with the line and column of each, so that all mistakes of a file
are reported with their position.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, create_model

from ..core.files.untrusted import read_text, read_yaml
from .recipes import RECIPE_TYPES, option_name

AXES = (
    "dataset",
    "subset",
    "model",
    "init",
    "features",
    "recipe",
    "noise",
    "method",
    "loss",
    "strategy",
)
NUMERIC_AXES = ("subset",)  # axes whose choices are whole numbers; other choices are texts
_FILE = "benchmarks.yaml"
MAX_DEPTH = 8  # of the YAML: a selector's value in an override in a suite

Scalar = bool | int | float | str | None
Selector = dict[str, Scalar | list[Scalar]]
"""Selects the runs of a suite that have one of the values of each key."""


class StrictModel(BaseModel):
    """Refuses unknown keys and other types; immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _RunSettings(StrictModel):
    """The settings of a run outside its recipe."""

    dataset: str | None = None
    test: str | None = None  # path of an image folder's test images, if outside of it
    model: str | None = None
    init: str | None = None
    features: str | None = None  # a network of timm; the runs are trained on its features
    feature_weights: str | None = None
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
    """The settings of one run; all are valid in `defaults`, the axes also in `matrix`."""


class Defaults(Settings):
    """The common settings of a suite's runs, and the seeds. noise_seed: equal to the seed unless
    given; budget: `epochs` (equal epochs for all methods), or `compute` (equal work).
    """

    seeds: list[int] = Field(default=[0], min_length=1)
    noise_seed: int | None = None
    budget: str = "epochs"


class Override(StrictModel):
    """Changes the settings in `set` for the runs that `match` selects."""

    match: Selector
    set: Settings


class ReportShape(StrictModel):
    """The layout of the suite's table. suspects: a .csv in the workspace for the label issues that
    its runs agree on.
    """

    rows: str = "method"
    cols: str = "noise"
    metric: str = "last"
    published: str | None = None
    suspects: str | None = None


YamlPath = tuple[str | int, ...]
"""The path of keys and indices to a value."""

_LIKE_A_NUMBER = re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?[0-9]*\.?[0-9]+[eE][0-9]+")


def packaged_suites() -> Path:
    """benchmarks.yaml inside the package, or next to it in a checkout."""
    inside = Path(str(files("noisebench") / _FILE))
    return inside if inside.exists() else inside.parents[1] / _FILE


def suite_files(root: Path) -> list[Path]:
    """The suite files: that of the workspace first, then the packaged one."""
    return [path for path in (root / _FILE, packaged_suites()) if path.exists()]


def suite_names(path: Path) -> list[str]:
    """The names of a file's suites; does not check the suites."""
    return list(read_yaml(read_text(path), MAX_DEPTH)["suites"])


def construct(
    node: yaml.Node,
    at: YamlPath,
    marks: dict[YamlPath, tuple[int, int]],
    mistakes: list[tuple[int, int, str]],
) -> Any:
    """Converts a YAML node to plain values and notes their positions in `marks`; adds duplicate
    keys, aliases and `1e-3` to `mistakes`.
    """
    here = (node.start_mark.line + 1, node.start_mark.column + 1)
    marks.setdefault(at, here)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            spot = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if key in mapping:
                mistakes.append((*spot, f"duplicate key {key!r}"))
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
                f"{node.tag.rpartition(':')[2]}: put it in quotes",
            )
        )
        return None
