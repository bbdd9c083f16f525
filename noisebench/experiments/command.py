"""The command that reproduces a finished or failed run, with the same key, and the files that it
requires.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..core.expressions import parse
from ..datasets import DATASETS, split_column
from ..losses import LOSSES
from ..noise import FILES, NOISES
from ..noise.given import OWN
from ..strategies import STRATEGIES
from .recipes import RECIPES, all_settings, make_recipe, option_name, recipe_values

_HELD_OUT = re.compile(r"(\S+) held out (after|before) corruption")
_TRUSTED = re.compile(r"(\S+) trusted")
_PLAIN = re.compile(r"[\w@%+=:,./-]+")
_SPECIAL_IN_QUOTES = re.compile(r'["$`\\!\n]')


@dataclass(frozen=True)
class ReproCommand:
    """The words of a command, and a sentence on each thing that it needs besides the package."""

    words: tuple[str, ...]
    needs: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """One line for a POSIX shell."""
        return " ".join(map(_quoted, self.words))


def _quoted(word: str) -> str:
    """A word quoted for a shell: noises contain single quotes, so double quotes where possible."""
    if _PLAIN.fullmatch(word):
        return word
    return f'"{word}"' if "'" in word and not _SPECIAL_IN_QUOTES.search(word) else shlex.quote(word)


def repro_command(about: dict[str, Any]) -> ReproCommand:
    """The command for a run's facts (`RunFolder.about`), with the full loss and strategy instead of
    a method's name, since the methods table may change.

    Raises LanguageError for an invalid loss, strategy or noise.
    """
    path = about.get("path") or about["dataset"]
    words = [
        "noisebench",
        "train",
        f"./{path}" if path.startswith("-") else path,  # else it would be an option
        *_options({"test": about.get("test_path")}),
    ]
    held_out = about.get("held_out", "")
    val, trusted = _HELD_OUT.search(held_out), _TRUSTED.search(held_out)
    labels = {
        "noise": about["noise"],
        "subset": about.get("subset"),
        "noise_seed": about["noise_seed"],
        "val_fraction": val and val[1],
        "val_split": "before" if val and val[2] == "before" else None,
        "trusted": trusted and trusted[1],
    }
    training = {
        "loss": about["loss"],
        "strategy": None if about["strategy"] == "standard" else about["strategy"],
        "model": about["model"],
        "init_weights": about.get("init", {}).get("text"),
        "features": about.get("features", {}).get("model"),
        "feature_weights": about.get("features", {}).get("text"),
        "recipe": about["recipe_name"] if about["recipe_name"] in RECIPES else None,
        "epochs": about["recipe"]["epochs"],
        **recipe_changes(
            about["recipe_name"],
            about["dataset"],
            about["recipe"],
            features="features" in about,
        ),
        "seed": about["seed"],
        "precision": about["precision"],
    }
    return ReproCommand((*words, *_options(labels), *_options(training)), tuple(_needs(about)))


def recipe_changes(
    name: str, dataset: str, settings: dict[str, Any], *, features: bool = False
) -> dict[str, Any]:
    """The settings that differ from the named recipe; for user data sets, also the augmentation.
    features: of a run on features of the images.
    """
    settings = recipe_values(settings)
    if name not in RECIPES:
        return settings
    known = DATASETS.get(dataset)
    augment = known.augmentation if known and not features else {}
    original = all_settings(make_recipe(name, dataset, augment=augment, changes={}).asdict())
    return {
        key: value
        for key, value in recipe_values(all_settings(settings)).items()
        if value != original.get(key)
        or (known is None and not features and key in ("crop", "flip"))
    }


def _options(values: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        option = option_name(name).replace("_", "-")
        if isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        elif value is not None:
            yield from (f"--{option}", str(value))


def _needs(about: dict[str, Any]) -> Iterator[str]:
    """The data, weights and files of a run that are not part of the package."""
    if about["dataset"] not in DATASETS:
        path = about.get("path") or about["dataset"]
        yield f"the data set {path}{_checksum(about.get('data_sha256'))}"
    if (init := about.get("init")) is not None:
        yield (
            f"the weights {init.get('tag') or init['text']} (the sha256 of their tensors begins "
            f"with {init['sha256'][:16]})"
        )
    if (features := about.get("features")) is not None:
        yield (
            f"the weights {features.get('tag') or features['text']} of the features (the sha256 of "
            f"their tensors begins with {features['weights_sha256'][:16]})"
        )
    for registry, part in ((NOISES, "noise"), (LOSSES, "loss"), (STRATEGIES, "strategy")):
        for call in registry.calls(parse(about[part])):
            values = dict(call.kwargs) if registry is NOISES else {}
            for name in FILES:
                if values.get(name, OWN) != OWN:
                    path = split_column(str(values[name]))[0]
                    sha256 = _checksum(values.get("sha256"))
                    yield f"the file {path}{sha256}, in the current directory or the workspace"
            if values.get("source") not in (None, *DATASETS):
                yield (
                    f"the data set {values['source']}, the source of the open-set images, with its "
                    "path in place of this name"
                )
            module = registry[call.name].build.__module__ if call.name in registry else ""
            if not module.startswith("noisebench."):
                yield (
                    f"the file that defines the {registry.kind} {call.name}: noisebench "
                    "--plugin FILE train ..."
                )


def _checksum(sha256: object) -> str:
    return f" (its sha256 begins with {str(sha256)[:16]})" if sha256 else ""
