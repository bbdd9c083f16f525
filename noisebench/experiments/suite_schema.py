"""The JSON schema of suite files, from the models that read them."""

from __future__ import annotations

from typing import Any

from ..datasets import FITS
from ..labels.build import VAL_SPLITS
from .recipes import RECIPE_FIELDS, option_name
from .resolve import LARGEST_SEED
from .suite import Suite
from .suite_file import AXES, NUMERIC_AXES

_SHARE = {"minimum": 0, "exclusiveMaximum": 1}
_SEED = {"minimum": 0, "maximum": LARGEST_SEED}
_FACTS: dict[str, dict[str, Any]] = {
    "dataset": {"description": "A data set's name, a .npz, a folder or a streamed set."},
    "test": {"description": "A folder of test images."},
    "model": {"description": "A network's name, or timm:NAME."},
    "init": {"description": "Initial weights: a run, a file, pretrained or none."},
    "features": {"description": "timm:NAME, train on its features; or none."},
    "feature_weights": {"description": "Weights of that network: a run, a file or pretrained."},
    "recipe": {"description": "A training recipe's name."},
    "noise": {"description": "`sym 0.4`, or in full `symmetric(rate=0.4)`."},
    "method": {"description": "A method's name, instead of loss and strategy."},
    "loss": {"description": "A loss: `gce`, `el(eps=0.4)`."},
    "strategy": {"description": "A training strategy: `standard`."},
    "val_fraction": {"description": "Share of the validation split.", **_SHARE},
    "val_split": {
        "description": "Split off after or before corruption.",
        "enum": [*VAL_SPLITS, None],
    },
    "trusted": {"description": "Share of verified labels.", **_SHARE},
    "subset": {"description": "Number of training images.", "minimum": 1},
    "precision": {"description": "auto, fp32 or bf16."},
    "seeds": {"description": "The seeds of each run.", "items": {"type": "integer", **_SEED}},
    "noise_seed": {"description": "Seed of the noise; default: the run's.", **_SEED},
    "budget": {"description": "What all methods share.", "enum": ["epochs", "compute"]},
    "fit": {"enum": [*FITS, None]},
}


def suite_schema() -> dict[str, Any]:
    """Draft 2020-12."""
    suite = Suite.model_json_schema()
    kinds = suite.pop("$defs")
    for kind in ("Settings", "Defaults"):
        properties = kinds[kind]["properties"]
        for name, field in RECIPE_FIELDS.items():
            value = properties[option_name(name)]
            bounds = field.metadata["bounds"]
            if field.metadata.get("or_zero"):
                bounds = {"allOf": [{"anyOf": [{"const": 0}, bounds]}]}
            value |= {"description": field.metadata["help"], **bounds}
            if name != option_name(name):  # the old name
                properties[name] = {**value, "deprecated": True}
        for name in properties.keys() & _FACTS.keys():
            properties[name] |= _FACTS[name]
    axes = {}
    for axis in AXES:
        one = {"type": "integer" if axis in NUMERIC_AXES else "string"}
        several = {"type": "array", "items": one, "minItems": 1}
        axes[axis] = {**_FACTS[axis], "anyOf": [one, several]}
    suite["properties"]["matrix"] = {
        "description": "The axes; every combination is a cell.",
        "type": "object",
        "properties": axes,
        "additionalProperties": False,
        "minProperties": 1,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "noisebench suites",
        "type": "object",
        "properties": {
            "version": {"const": 1},
            "suites": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Suite"}},
        },
        "required": ["version", "suites"],
        "additionalProperties": False,
        "$defs": {**kinds, "Suite": suite},
    }
