"""Resolves a request to a fully specified run, with its key and the name of its directory; computes
the relative cost of training. Does not import torch.

Precedence: the request (command line or suite) > method preset > recipe > default.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..core.expressions import ESTIMATED, Call, Expression, parse, parse_value
from ..core.hardware import resolve_precision
from ..datasets import Dataset, Fitting
from ..datasets.images import DECODING_VERSION
from ..errors import ConfigError, LanguageError
from ..labels.manifest import Manifest, file_name
from ..losses import LOSSES, build_loss
from ..metrics.confident_learning import VERSION as ESTIMATES_VERSION
from ..metrics.confident_learning import Estimates
from ..metrics.feature_neighbours import ESTIMATORS
from ..metrics.feature_neighbours import VERSION as NEIGHBOURS_VERSION
from ..strategies import STRATEGIES, ComputeCost, normal_strategy
from .backbones import VERSION as INITIAL_VERSION
from .backbones import InitialWeights, backbone_fingerprint, canonical_backbone
from .features import HEAD, HEADS, KNN, FeatureExtraction, FeatureNetwork
from .features import RECIPE as FEATURE_RECIPE
from .methods import METHODS, Method, Preset, find_method
from .oracle import (
    estimated_facts,
    estimators,
    is_oracle,
    mask_true_values,
    resolve_auto,
    transitions,
    with_estimates,
)
from .recipes import Recipe, fitting_of, make_recipe, read_schedule, settled
from .run_facts import PATH_KEYS, config_of, key_of, with_noise_version

BUDGETS = ("epochs", "compute")
# estimating the noise takes a quarter of the recipe's epochs: later, networks memorize incorrect
# labels
_WARMUP = 4


@dataclass(frozen=True)
class RelativeCost:
    """The cost of a method relative to CE. share: work of an epoch as a multiple of CE's;
    estimates: whether networks that estimate the noise are trained first, with CE.
    """

    share: float
    estimates: bool = False

    def work(self, epochs: int) -> float:
        """The work of a run of this many epochs, in epochs of CE."""
        return epochs * self.share + (epochs_of_estimates(epochs) if self.estimates else 0)

    def epochs(self, work: int) -> int:
        """The number of epochs, at least one, with about the work of `work` epochs of CE."""
        return max(1, round(work / (self.share + (1 / _WARMUP if self.estimates else 0))))


def epochs_of_estimates(epochs: int) -> int:
    """The number of epochs of each network that estimates the noise for a run of this many
    epochs.
    """
    return max(1, round(epochs / _WARMUP))


def price_of(loss: str | Expression, strategy: str | Expression) -> RelativeCost:
    """The cost relative to CE. Raises ConfigError if the strategy has no registered cost,
    UnknownName or LanguageError for an invalid text.
    """
    call, normal = normal_strategy(strategy), LOSSES.normal(loss)
    passes = STRATEGIES[call.name].facts.get("cost")
    if not isinstance(passes, ComputeCost):
        raise ConfigError(
            f"strategy {call.name!r} has no registered cost: register it with "
            "cost=ComputeCost(forward, backward)"
        )
    return RelativeCost(passes.share, ESTIMATED in estimators(normal, call))


def checked_budget(name: str) -> str:
    """Returns a valid budget: `epochs` (equal epochs for all methods) or `compute` (equal work).
    Raises ConfigError.
    """
    if name not in BUDGETS:
        raise ConfigError(f"budget must be one of {', '.join(BUDGETS)}, got {name!r}")
    return name


def at_budget(recipe: Recipe, budget: str, loss: Expression, strategy: Expression) -> Recipe:
    """The recipe with the epochs for a budget: `compute` matches the work of CE trained for the
    recipe's epochs.

    Raises ConfigError if the schedule lists epochs.
    """
    if checked_budget(budget) == "epochs":
        return recipe
    check_schedule(recipe)
    return replace(recipe, epochs=price_of(loss, strategy).epochs(recipe.epochs))


def check_schedule(recipe: Recipe) -> None:
    """Raises ConfigError if the schedule lists epochs, which a budget of compute would change."""
    if read_schedule(recipe.schedule)[1]:
        raise ConfigError(
            f"schedule {recipe.schedule} lists epochs, whose number budget 'compute' "
            "changes: use cosine or constant"
        )


# of runs with reserved or replaced images: version 1 mixed up the images of runs in a pack
PICTURES_VERSION = 2
# increased when the meaning of a run changes: the loop, the split of digits, the evaluation
PROTOCOL = 1
LARGEST_SEED = 2**32 - 1
_LARGEST_TABLE = 1 << 29  # numbers, 2 GB
_LONGEST_NAME = 150  # characters of the readable part of a directory's name


@dataclass(frozen=True)
class RunRequest:
    """The requested settings of a run; None: the default. changes: recipe settings to replace."""

    method: str | None = None
    loss: str | None = None
    strategy: str | None = None
    model: str | None = None
    recipe: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    precision: str = "auto"
    device: str = "auto"  # only decides what precision `auto` means
    # `compute`: match the compute of CE trained for the recipe's epochs
    budget: str = "epochs"
    init: InitialWeights | None = None  # initial weights; None: random
    features: FeatureNetwork | None = None  # trains on its features instead of the images


@dataclass(frozen=True)
class RunConfig:
    """A fully specified run. method: its row in a table; loss, strategy: without `auto`."""

    dataset: Dataset
    manifest: Manifest
    data_sha256: str
    source_sha256: str  # of the source of open-set images; empty without one
    method: str
    loss: Expression
    strategy: Expression
    model: str
    recipe_name: str
    recipe: Recipe
    seed: int
    precision: str
    oracle: bool
    init: InitialWeights | None = None
    features: FeatureExtraction | None = None  # trains on these instead of the images

    @property
    def fitting(self) -> Fitting | None:
        """How images in memory are resized for the network; None: only as the data set does."""
        return None if self.features else fitting_of(self.recipe, self.dataset)

    @cached_property
    def unknown_noise(self) -> list[str]:
        """What the run must estimate first: "rate", "transition", both or neither."""
        return sorted(
            estimated_facts(LOSSES, self.loss) | estimated_facts(STRATEGIES, self.strategy)
        )

    @cached_property
    def trains_estimators(self) -> bool:
        """Whether networks that estimate the noise are trained first."""
        return ESTIMATED in estimators(self.loss, self.strategy)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The RunFacts of an unfinished run, without its key and the hash of its labels."""
        meta = self.manifest.meta
        return {
            "title": self.title,
            "dataset": self.dataset.name,
            **{name: meta[name] for name in (*PATH_KEYS, "subset") if name in meta},
            "data_sha256": self.data_sha256,
            "noise": meta["noise"],
            "realised_rate": meta["realised_rate"],
            "known": self.manifest.known_fraction,
            "noise_seed": self.manifest.noise_seed,
            "source_sha256": self.source_sha256,
            "held_out": self.manifest.held_out_text,
            "method": self.method,
            "model": self.model,
            **({"init": self.init.facts} if self.init else {}),
            **({"features": self.features.facts} if self.features else {}),
            "recipe_name": self.recipe_name,
            "loss": str(self.loss),
            "strategy": str(self.strategy),
            "recipe": self.recipe.asdict(),
            "precision": self.precision,
            "seed": self.seed,
            "oracle": self.oracle,
            "versions": with_noise_version(
                self.versions, meta["noise"], str(meta.get("noise_version", "1"))
            ),
        }

    @cached_property
    def versions(self) -> dict[str, str]:
        """Versions of all components that affect training."""
        versions = {
            "protocol": str(PROTOCOL),
            **LOSSES.fingerprints(self.loss),
            **STRATEGIES.fingerprints(self.strategy),
            f"model:{self.model}": backbone_fingerprint(self.model),
        }
        if self.manifest.val is not None or self.manifest.source is not None:
            versions["pictures"] = str(PICTURES_VERSION)
        if self.unknown_noise:
            versions["estimates"] = str(ESTIMATES_VERSION)
            if not self.trains_estimators:
                versions["neighbours"] = str(NEIGHBOURS_VERSION)
        if self.init:
            versions["init"] = str(INITIAL_VERSION)
        if self.dataset.reader:
            versions["decoding"] = str(DECODING_VERSION)
        return versions

    @cached_property
    def config(self) -> dict[str, Any]:
        """All settings that change the result, as plain values; the key is their hash."""
        return config_of({**self.facts, "labels": self.manifest.content_hash})

    @cached_property
    def key(self) -> str:
        return key_of(self.config)

    @property
    def folder_name(self) -> str:
        """The name of the run's directory: a readable part, `__`, and eight characters of the
        key.
        """
        labels = file_name(self.manifest, self.dataset).removesuffix(".csv")
        on = [f"{self.features.model}@{self.features.size}"] if self.features else []
        text = "_".join([labels, *on, self.model, self.method, f"seed{self.seed}"])
        slug = re.sub(r"[^\w.+=-]+", "-", re.sub(r"[)\]'\"]", "", text)).strip("-.")
        return f"{slug[:_LONGEST_NAME]}__{self.key[:8]}"

    @property
    def title(self) -> str:
        noise = [self.manifest.meta["noise"]]
        if self.manifest.noise_seed is not None:
            noise.append(f"noise seed {self.manifest.noise_seed}")
        if self.manifest.held_out_text:
            noise.append(self.manifest.held_out_text)
        init = f" from {self.init.label}" if self.init else ""
        if self.features:
            init += f" on features {self.features.label}"
        return (
            f"{self.method} on {self.manifest.dataset_text}, {', '.join(noise)}, "
            f"{self.model}{init}, seed {self.seed}"
        )


def resolve_run(
    request: RunRequest,
    dataset: Dataset,
    manifest: Manifest,
    data_sha256: str,
    source_sha256: str = "",
) -> RunConfig:
    """Fill in everything that the request leaves open. Raises NoisebenchError if it is invalid."""
    loss_text, strategy_text = loss_and_strategy_of(request, dataset, manifest.meta["noise"])
    num_classes = dataset.num_classes
    loss = resolve_auto(LOSSES, loss_text, manifest)
    strategy = resolve_auto(STRATEGIES, str(normal_strategy(strategy_text)), manifest)
    placeholder = Estimates(0.5, np.eye(num_classes))  # until the noise is estimated
    filled = with_estimates(LOSSES, loss, placeholder)
    # raises errors of its parameters now
    build_loss(filled, transitions(manifest, loss, placeholder), num_classes=num_classes)
    default, augment = default_recipe(dataset, features=request.features is not None)
    recipe_name = request.recipe or default
    recipe = make_recipe(recipe_name, dataset.name, augment=augment, changes=request.changes)
    recipe = settled(recipe, dataset, features=request.features is not None)
    model = canonical_backbone(request.model or (HEAD if request.features else dataset.model))
    precision = resolve_precision(request.precision, request.device)
    features = None
    if request.features:
        features = request.features.at(recipe.size, recipe.fit, precision)
    if features and dataset.dimensions:
        raise ConfigError(f"{dataset.name} has features already: train without --features")
    if features or dataset.dimensions:
        check_head(model, strategy)
    if model == KNN:
        recipe = _recipe_of_knn(request, dataset, recipe, str(loss), str(strategy))
    unknown = estimated_facts(LOSSES, loss) | estimated_facts(STRATEGIES, strategy)
    _check_estimators(estimators(loss, strategy), bool(features or dataset.dimensions))
    call, n = normal_strategy(strategy), int(manifest.in_training.sum())
    has_memory = STRATEGIES[call.name].facts.get("per_class_memory")
    if (has_memory or unknown) and n * num_classes > _LARGEST_TABLE:
        raise ConfigError(
            f"{call.name if has_memory else 'estimating the noise'} stores {n:,} examples x "
            f"{num_classes:,} classes, {n * num_classes * 4 / 1e9:.1f} GB: use a --subset, or "
            "another strategy"
        )
    row, tuned = (KNN, False) if model == KNN else _row(loss, strategy, dataset, manifest)
    return RunConfig(
        dataset,
        manifest,
        data_sha256,
        source_sha256,
        row,
        loss,
        strategy,
        model,
        recipe_name,
        at_budget(recipe, request.budget, loss, strategy),
        checked_seed(request.seed),
        precision,
        tuned or is_oracle(LOSSES, loss, manifest) or is_oracle(STRATEGIES, strategy, manifest),
        request.init,
        features,
    )


def default_recipe(dataset: Dataset, *, features: bool) -> tuple[str, dict[str, Any]]:
    """The name of the recipe of a run that names none, and the data set's augmentation; features:
    of a run on features of its images.
    """
    return (FEATURE_RECIPE, {}) if features else (dataset.recipe, dataset.augmentation)


def _recipe_of_knn(
    request: RunRequest, dataset: Dataset, recipe: Recipe, loss: str, strategy: str
) -> Recipe:
    """One epoch, since nothing is trained. Raises ConfigError for a setting without effect."""
    if not (request.features or dataset.dimensions):
        raise ConfigError(f"{KNN} needs features: give --features, or use another --model")
    if (loss, strategy) != ("ce", "standard") or request.changes.get("epochs", 1) != 1:
        raise ConfigError(f"{KNN} is not trained: loss, strategy and epochs have no effect on it")
    return replace(recipe, epochs=1)


def check_head(model: str, strategy: Expression) -> None:
    """Raises ConfigError if a network or a strategy cannot be trained on features."""
    if model not in HEADS:
        raise ConfigError(f"{model} needs images: on features, --model is {', '.join(HEADS)}")
    call = normal_strategy(strategy)
    views: int = STRATEGIES[call.name].build.num_views  # type: ignore[attr-defined]
    if views > 1:
        raise ConfigError(
            f"strategy {call.name} needs {views} augmented views of each image, which features "
            "do not have: train it on images"
        )


def _check_estimators(words: set[str], on_features: bool) -> None:
    """Raises ConfigError if a run uses several estimates, or neighbours without features."""
    if len(words) > 1:
        raise ConfigError(f"a run has one estimate of its noise, not {' and '.join(sorted(words))}")
    for word in words & ESTIMATORS.keys():
        if not on_features:
            raise ConfigError(
                f"{word} needs features: give --features, or use {ESTIMATED}, which trains networks"
            )


def checked_seed(seed: int) -> int:
    """Returns the seed if it is from 0 to 2^32 - 1. Raises ConfigError."""
    if not 0 <= seed <= LARGEST_SEED:
        raise ConfigError(f"a seed must be a whole number from 0 to 2^32 - 1, got {seed}")
    return seed


def _preset(method: Method, dataset: Dataset, noise: str) -> Preset:
    """The method's preset for this data set and noise."""
    call = parse(noise)
    if not isinstance(call, Call):
        return method.preset(dataset.name)
    rate = dict(call.kwargs).get("rate")
    return method.preset(dataset.name, call.name, rate if isinstance(rate, int | float) else None)


def loss_and_strategy_of(request: RunRequest, dataset: Dataset, noise: str) -> tuple[str, str]:
    """The requested loss and strategy, for a noise given by its canonical text."""
    if request.method is None:
        return request.loss or "ce", request.strategy or "standard"
    if request.loss or request.strategy:
        raise ConfigError(
            "a method includes a loss and a strategy: give --method, or --loss and --strategy"
        )
    method = find_method(request.method)
    preset = _preset(method, dataset, noise)
    return preset.loss, preset.strategy


def _row(
    loss: Expression, strategy: Expression, dataset: Dataset, manifest: Manifest
) -> tuple[str, bool]:
    """The name of the run's row in a table, a method of the literature or else loss and strategy,
    equal for equal keys; and whether it is a preset that was tuned with the true noise.
    """
    texts = (
        mask_true_values(LOSSES, loss, manifest),
        mask_true_values(STRATEGIES, strategy, manifest),
    )
    alone = texts[0], False  # the loss by itself
    for method in METHODS.values():
        preset = _preset(method, dataset, manifest.meta["noise"])
        row = LOSSES.canonical(preset.loss), str(normal_strategy(preset.strategy))
        if row == texts:
            return method.name, preset.tuned
        if row == (texts[0], "standard") and alone == (texts[0], False):
            alone = method.name, preset.tuned
    short = _short(texts[1])
    return (alone[0] if short == "standard" else f"{alone[0]}, {short}"), alone[1]


def _short(text: str) -> str:
    """A strategy's canonical text without implied parameters."""
    full = short = normal_strategy(text)
    for pair in reversed(full.kwargs):
        fewer = replace(short, kwargs=tuple(other for other in short.kwargs if other != pair))
        with suppress(LanguageError):  # another parameter needs this one
            short = fewer if normal_strategy(fewer) == full else short
    return str(short)


def with_loss_parameters(
    request: RunRequest, dataset: Dataset, manifest: Manifest, values: dict[str, str]
) -> RunRequest:
    """The request with loss parameters set by name (`--eps 0.4`). A method is replaced by its loss
    and strategy. Raises ConfigError if no term, or more than one, has the parameter.
    """
    text, strategy = loss_and_strategy_of(request, dataset, manifest.meta["noise"])
    expression = LOSSES.normal(text)
    for name, value in values.items():
        names = {
            call: [parameter.name for parameter in LOSSES[call.name].parameters]
            for call in LOSSES.calls(expression)
        }
        owners = [call for call in names if name in names[call]]
        if len(owners) > 1:
            raise ConfigError(
                f"--{name}: {len(owners)} terms of the loss have this parameter: write it into "
                f"--loss: {expression}"
            )
        if not owners:
            lists = {call.name: ", ".join(names[call]) or "none" for call in names}
            table = "; ".join(f"{call} has {listed}" for call, listed in lists.items())
            if len(lists) == 1:
                table = f"it has {next(iter(lists.values()))}"
            raise ConfigError(f"--{name}: loss '{expression}' has no parameter '{name}' ({table})")
        kwargs = {**dict(owners[0].kwargs), name: parse_value(value)}
        changed = replace(owners[0], kwargs=tuple(kwargs.items()))

        def change(call: Call, owner: Call = owners[0], changed: Call = changed) -> Call:
            return changed if call == owner else call

        expression = LOSSES.normal(LOSSES.substitute(expression, change))
    return replace(request, method=None, loss=str(expression), strategy=strategy)
