"""The facts of a run, under one set of names. error.json of a failed run contains them, the record
of a finished run has them in another layout, the key is a hash of some of them.

This module does not postpone annotations: pydantic and `__required_keys__` must see `NotRequired`.
"""

import hashlib
import json
from typing import Any, NotRequired

from typing_extensions import TypedDict

from ..core.files.schema import Count, Name, Number, Share, Whole

# paths of a data set, relative to the workspace; not part of the key
PATH_KEYS = ("path", "test_path", "labels_path")


class Init(TypedDict):
    """Initial weights. tag: timm's name of its weights."""

    text: Name
    sha256: Name
    tag: NotRequired[Name]


class Features(TypedDict):
    """The features that a run was trained on, see FeatureExtraction."""

    model: Name
    weights_sha256: Name
    size: Count
    fit: Name
    precision: Name
    version: Count
    text: Name
    tag: NotRequired[Name]
    sha256: Name


class Environment(TypedDict, total=False):
    """The machine of a run and how it was trained there."""

    device: Name
    auto_precision: Name
    threads: Count
    packed: Count
    processes: Count
    accumulate: Count


class Epochs(TypedDict):
    """A recipe; its only required key."""

    epochs: Count


class RunFacts(TypedDict):
    """The settings that identify a run. labels: hash of the manifest; known: share of true labels
    that are known. Keys after `versions` are for finished runs only.
    """

    key: NotRequired[Name]
    method: Name
    loss: Name
    strategy: Name
    precision: Name
    seed: Whole
    oracle: bool
    recipe_name: Name
    recipe: Epochs
    dataset: Name
    path: NotRequired[str]
    test_path: NotRequired[str]
    labels_path: NotRequired[str]
    data_sha256: Name | None
    model: Name
    init: NotRequired[Init]
    features: NotRequired[Features]
    noise: Name
    noise_seed: Whole | None
    realised_rate: Share | None
    held_out: NotRequired[Name]
    subset: NotRequired[Count]
    source_sha256: NotRequired[Name]
    known: NotRequired[Share]
    labels: NotRequired[Name]
    versions: NotRequired[dict[str, Name]]
    test_images: NotRequired[Count]
    seconds: NotRequired[Number | None]
    environment: NotRequired[Environment]


def facts_of_record(record: dict[str, Any]) -> dict[str, Any]:
    """The RunFacts of a finished run, with its metrics."""
    data, noise, recipe = record["data"], record["noise"], dict(record["recipe"])
    same = ("key", "method", "loss", "strategy", "precision", "seed", "oracle", "metrics")
    facts = {
        **{name: record[name] for name in same},
        "recipe_name": recipe.pop("name"),
        "recipe": recipe,
        "dataset": data["name"],
        **{name: data[name] for name in PATH_KEYS if name in data},
        "data_sha256": data.get("sha256"),
        "model": record["model"]["name"],
        **({"init": record["init"]} if "init" in record else {}),
        **({"features": record["features"]} if "features" in record else {}),
        "noise": noise["text"],
        "noise_seed": noise["seed"],
        "realised_rate": noise["realised_rate"],
        "held_out": noise.get("held_out", ""),
        **({"subset": noise["subset"]} if "subset" in noise else {}),
        "source_sha256": noise.get("source_sha256", ""),
        "known": noise.get("known", 1.0),
        "labels": noise.get("manifest_sha256", ""),
        "versions": with_noise_version(
            record.get("versions", {}), noise["text"], noise.get("version", "1")
        ),
    }
    if test_images := record["metrics"].get("test", {}).get("n"):
        facts["test_images"] = test_images
    return {
        **facts,
        "seconds": record["seconds"],
        "environment": record.get("environment", {}),
    }


def with_noise_version(versions: dict[str, str], noise: str, version: str) -> dict[str, str]:
    """The component versions, with that of the noise unless it is 1."""
    return versions if version == "1" else {**versions, f"noise:{noise.partition('(')[0]}": version}


def config_of(facts: dict[str, Any]) -> dict[str, Any]:
    """All facts that change the result, under the names in config.yaml; the key is their hash. The
    version of the noise is part of the manifest's hash.
    """
    versions = dict(facts["versions"])
    protocol = versions.pop("protocol", None)
    return {
        "protocol": None if protocol is None else int(protocol),
        "manifest_sha256": facts["labels"],
        "data_sha256": facts["data_sha256"],
        **({"source_sha256": facts["source_sha256"]} if facts["source_sha256"] else {}),
        "loss": facts["loss"],
        "strategy": facts["strategy"],
        "model": facts["model"],
        **{name: facts[name]["sha256"] for name in ("init", "features") if name in facts},
        "recipe": facts["recipe"],
        "seed": facts["seed"],
        "precision": facts["precision"],
        "versions": {
            name: version for name, version in versions.items() if not name.startswith("noise:")
        },
    }


def key_of(config: dict[str, Any]) -> str:
    """The key: the hash of a configuration."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
