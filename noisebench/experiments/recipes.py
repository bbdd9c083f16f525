"""Training recipes: epochs, schedule, augmentation; published recipes as a table. All use SGD."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, get_type_hints

from ..core.expressions import Call, parse
from ..errors import ConfigError, UnknownName

if TYPE_CHECKING:
    from ..datasets import Dataset, Fitting

_STREAMED = ("area", "centre")  # the rest of an image's settings is for images in memory too


def _value(default: Any, flag: str, help: str, metavar: str | None = None, **more: Any) -> Any:
    """A recipe field with the metadata of its option: `flag`, `help`, `panel`, `metavar`; `bounds`:
    of its value, as in a JSON schema; `or_zero`: whether 0 is valid besides; `aliases`: hidden
    flags; `later`: the field was added when runs existed already, so it is written and hashed only
    if it differs from its default.
    """
    words = {"flag": flag, "help": help, "metavar": metavar, "panel": "Training recipe"}
    return field(default=default, metadata={"bounds": {}, **words, **more})


_COUNT = {"minimum": 1, "exclusiveMaximum": 1 << 31}
_NOT_NEGATIVE = {"minimum": 0}
_SHARE = {"minimum": 0, "maximum": 1}
# keyword of JSON schema -> the comparison of a value with the bound, and its words in errors
_COMPARISONS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "minimum": (operator.ge, "at least"),
    "exclusiveMinimum": (operator.gt, "above"),
    "maximum": (operator.le, "at most"),
    "exclusiveMaximum": (operator.lt, "below"),
}


@dataclass(frozen=True)
class Recipe:
    """The settings of a training.

    clip: largest gradient norm of a network, 0: no limit; schedule: `constant`, `cosine` (to 0, per
    step) or `step(40, 80)` (divided by 10 after each of these epochs); crop (pixels of padding) and
    flip: augmentation of images in memory; freeze: number of layer groups, from the stem, that are
    not trained; layer_decay: learning rate of a layer group as a multiple of the next group's, 1:
    equal rates (Clark et al. 2020); size: side in pixels of the square images, 0: images in memory
    are used unchanged; fit: how images are made square: crop, pad or squash (see Fitting). Streamed
    images only, else 0: area, the smallest share of an image's area in a random crop; centre, the
    share of the shorter side in the center crop of the evaluation.

    To add a setting, add a field here: options, suites, keys and records use it automatically.
    """

    epochs: int = _value(MISSING, "--epochs", "Passes over the training set.", "N", bounds=_COUNT)
    batch_size: int = _value(128, "--batch-size", "Examples per step.", "N", bounds=_COUNT)
    lr: float = _value(0.01, "--lr", "Initial learning rate.", "N", bounds=_NOT_NEGATIVE)
    momentum: float = _value(
        0.9, "--momentum", "SGD momentum.", "N", bounds={"minimum": 0, "exclusiveMaximum": 1}
    )
    nesterov: bool = _value(False, "--nesterov/--no-nesterov", "Nesterov momentum.")
    weight_decay: float = _value(
        1e-4, "--weight-decay", "Weight decay of every parameter.", "N", bounds=_NOT_NEGATIVE
    )
    schedule: str = _value(
        "cosine",
        "--schedule",
        "Learning rate schedule: constant, cosine or 'step(40, 80)' (epochs).",
        "TEXT",
    )
    clip: float = _value(
        0.0, "--clip", "Largest gradient norm; 0: no limit.", "N", bounds=_NOT_NEGATIVE
    )
    crop: int = _value(
        0,
        "--crop",
        "Padding of the random crop, in pixels.",
        "N",
        bounds={"minimum": 0, "exclusiveMaximum": 64},
    )
    flip: bool = _value(
        False,
        "--hflip/--no-hflip",
        "Flip images horizontally at random.",
        aliases=("--flip/--no-flip",),
    )
    freeze: int = _value(
        0, "--freeze", "Freeze the first N layer groups.", "N", bounds=_NOT_NEGATIVE, later=True
    )
    layer_decay: float = _value(
        1.0,
        "--layer-decay",
        "Layer-wise learning rate decay factor; 1: none.",
        "SHARE",
        bounds={"exclusiveMinimum": 0, "maximum": 1},
        later=True,
    )
    size: int = _value(
        0,
        "--img-size",
        "Side of the square images in pixels, 8 to 1024; default: unchanged, or for images of "
        "different sizes their median shorter side, at most 224.",
        "N",
        bounds={"minimum": 8, "maximum": 1024},
        or_zero=True,
        aliases=("--size",),
        later=True,
    )
    area: float = _value(
        0.0,
        "--scale",
        "Smallest share of a streamed image's area in a random crop.",
        "SHARE",
        bounds=_SHARE,
        aliases=("--area",),
        later=True,
    )
    centre: float = _value(
        0.0,
        "--crop-pct",
        "Share of a streamed image's shorter side in the evaluation's center crop.",
        "SHARE",
        bounds=_SHARE,
        aliases=("--centre",),
        later=True,
    )
    fit: str = _value(
        "crop",
        "--fit",
        "How images are made square; default: crop.",
        "crop|pad|squash",
        later=True,
    )

    def __post_init__(self) -> None:
        for name, value in RECIPE_FIELDS.items():
            number, bounds = getattr(self, name), value.metadata["bounds"]
            if not bounds or (value.metadata.get("or_zero") and number == 0):
                continue
            compared = [(_COMPARISONS[word], bound) for word, bound in bounds.items()]
            if not (number < math.inf and all(holds(number, b) for (holds, _), b in compared)):
                texts = [f"{words} {bound}" for (_, words), bound in compared]
                texts += ["finite"] if len(texts) == 1 else []
                raise ConfigError(
                    f"{option_name(name)} must be {' and '.join(texts)}, got {number}"
                )
        from ..datasets import FITS

        if self.nesterov and not self.momentum:
            raise ConfigError("nesterov needs a momentum above 0: set momentum, or nesterov: false")
        if self.fit not in FITS:
            raise ConfigError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}")
        # one text per meaning, since the key holds it
        schedule = str(Call(*read_schedule(self.schedule)))
        object.__setattr__(self, "schedule", schedule)

    def asdict(self) -> dict[str, Any]:
        """The settings in a run's record and key: without `later` fields at their default."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in _LATER or value != _LATER[name]
        }


RECIPE_FIELDS = {value.name: value for value in fields(Recipe)}
RECIPE_TYPES = {name: get_type_hints(Recipe)[name] for name in RECIPE_FIELDS}
_LATER = {name: value.default for name, value in RECIPE_FIELDS.items() if "later" in value.metadata}


def option_name(name: str) -> str:
    """The name of a recipe field in suites, and, with hyphens, as an option; other names are
    returned unchanged.
    """
    if name not in RECIPE_FIELDS:
        return name
    flag: str = RECIPE_FIELDS[name].metadata["flag"]
    return flag.partition("/")[0].removeprefix("--").replace("-", "_")


def recipe_values(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that are recipe fields."""
    return {name: value for name, value in settings.items() if name in RECIPE_FIELDS}


def all_settings(written: dict[str, Any]) -> dict[str, Any]:
    """The settings from `asdict`, with the omitted ones."""
    return {**_LATER, **written}


@dataclass(frozen=True)
class PublishedRecipe:
    """A recipe, its changes on some data sets, and its source."""

    summary: str
    settings: dict[str, Any]
    on: dict[str, dict[str, Any]]
    source: str


RECIPES = {
    "digits": PublishedRecipe(
        "40 epochs, batch 64, lr 0.1 cosine, Nesterov; a run on the embedded digits takes seconds",
        {"epochs": 40, "batch_size": 64, "lr": 0.1, "nesterov": True, "weight_decay": 5e-4},
        {},
        "ours",
    ),
    "features": PublishedRecipe(
        "for features: 30 epochs, batch 512, lr 0.05 cosine",
        {"epochs": 30, "batch_size": 512, "lr": 0.05, "weight_decay": 1e-4},
        {},
        "ours",
    ),
    "apl": PublishedRecipe(
        "120 epochs (CIFAR-100: 200), lr 0.01 (0.1) cosine, gradient clip 5; used by several "
        "papers",
        {"epochs": 120, "lr": 0.01, "weight_decay": 1e-4, "clip": 5.0},
        {
            "cifar100": {"epochs": 200, "lr": 0.1, "weight_decay": 1e-5},
            "mnist": {"epochs": 50, "weight_decay": 1e-3},
        },
        "Ma et al. 2020, authors' configuration; without its rotation on CIFAR-100",
    ),
    "el": PublishedRecipe(
        "lr 0.1 cosine, Nesterov, weight decay 5e-3; epochs 120 (CIFAR-100: 150) and batch 128, "
        "which the paper does not state, as its baselines",
        {"epochs": 120, "lr": 0.1, "nesterov": True, "weight_decay": 5e-3},
        {"cifar100": {"epochs": 150}},
        "Cui et al., Equal Loss, section 3.1",
    ),
    "el-imagenet": PublishedRecipe(
        "100 epochs, batch 2,048, lr 0.8 cosine, weight decay 1e-4; for images of 224 pixels",
        # The paper is silent on epochs: 100, since its baseline, 76.80 for ResNet-50, is what a
        # plain recipe of 90 to 100 epochs gives. It names a crop of the centre alone; without
        # random crops and flips in training, that baseline cannot be reached, so training has the
        # usual ones (area 0.08, flip), and its 224 of 256 pixels is the evaluation (centre
        # 0.875).
        {"epochs": 100, "batch_size": 2048, "lr": 0.8, "weight_decay": 1e-4},
        {},
        "Cui et al., Equal Loss, section 3.2; epochs and augmentation ours, not stated",
    ),
    "sl": PublishedRecipe(
        "120 epochs, lr 0.01 / 10 after 40 and 80 (CIFAR-100: 150, 0.1, after 80 and 120)",
        {"epochs": 120, "lr": 0.01, "weight_decay": 1e-4, "schedule": "step(40, 80)"},
        # The authors' Keras `decay` (1e-4, 5e-3) lowers the learning rate with time; read here as
        # weight decay, as their paper says.
        {"cifar100": {"epochs": 150, "lr": 0.1, "weight_decay": 5e-3, "schedule": "step(80, 120)"}},
        "Wang et al. 2019",
    ),
    "dividemix": PublishedRecipe(
        "300 epochs, batch 64, lr 0.02, a tenth after 150; for preact_resnet18",
        {
            "epochs": 300,
            "batch_size": 64,
            "lr": 0.02,
            "weight_decay": 5e-4,
            "schedule": "step(150)",
        },
        {},
        "Li et al. 2020",
    ),
    "elr_plus": PublishedRecipe(
        "200 epochs (CIFAR-100: 250), lr 0.02, a tenth after 150 (200); for preact_resnet18",
        {"epochs": 200, "lr": 0.02, "weight_decay": 5e-4, "schedule": "step(150)"},
        {"cifar100": {"epochs": 250, "schedule": "step(200)"}},
        "Liu et al. 2020, authors' configuration",
    ),
    "finetune": PublishedRecipe(
        "for --init-weights: 10 epochs, batch 64, lr 0.05 cosine, layer decay 0.75",
        {"epochs": 10, "batch_size": 64, "lr": 0.05, "weight_decay": 1e-4, "layer_decay": 0.75},
        {},
        "ours, measured in docs/how-to/fine-tune.md; rates by layer after Clark et al. 2020",
    ),
    "finetune_frozen": PublishedRecipe(
        "as finetune, with the stem frozen",
        {
            "epochs": 10,
            "batch_size": 64,
            "lr": 0.05,
            "weight_decay": 1e-4,
            "layer_decay": 0.75,
            "freeze": 1,
        },
        {},
        "ours, measured in docs/how-to/fine-tune.md",
    ),
}


def find_recipe(name: str) -> PublishedRecipe:
    """The published recipe of this name. Raises UnknownName."""
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES, "recipes")
    return RECIPES[name]


def make_recipe(
    name: str, dataset: str, *, augment: dict[str, Any], changes: dict[str, Any]
) -> Recipe:
    """The recipe for a data set: the data set's augmentation, then the recipe, then `changes`.
    Raises UnknownName or ConfigError.
    """
    published = find_recipe(name)
    recipe = Recipe(**{**augment, **published.settings, **published.on.get(dataset, {})})
    if augment.get("centre") and changes.get("fit", "crop") != "crop":
        changes = {"centre": 1.0, **changes}  # all of a padded or squashed image is used
    return replace(recipe, **changes)


def settled(recipe: Recipe, dataset: Dataset, *, features: bool = False) -> Recipe:
    """The canonical recipe for a data set; features: on features of its images. Raises ConfigError
    for a setting without effect, or if a required one is missing.
    """
    if features or dataset.dimensions:
        return _settled_on_features(recipe, resized=features)
    if dataset.reader:
        if recipe.crop:
            raise ConfigError(
                f"crop is only for images in memory, and {dataset.name} is streamed: use scale for "
                "its random crop"
            )
        for name in ("size", *_STREAMED):
            if not getattr(recipe, name):
                raise ConfigError(
                    f"{option_name(name)} must be above 0 on {dataset.name}, which is streamed"
                )
        if recipe.fit != "crop" and recipe.centre != 1:
            raise ConfigError(
                f"crop_pct has no effect with fit {recipe.fit}, got {recipe.centre}: set it to 1, "
                "or leave it out"
            )
        return recipe
    for name in _STREAMED:
        if getattr(recipe, name):
            raise ConfigError(
                f"{option_name(name)} has no effect on {dataset.name}, which is in memory: it is "
                "only for streamed images"
            )
    height, width = dataset.shape[:2]
    if dataset.mixed:
        return recipe if recipe.size else replace(recipe, size=height)
    if recipe.size and not recipe.size == height == width:
        return recipe
    if recipe.fit != "crop":
        raise ConfigError(
            f"fit has no effect on {dataset.name}, whose images are all "
            f"{height}x{width}: also set another img_size"
        )
    return replace(recipe, size=0)  # the images have this size


def _settled_on_features(recipe: Recipe, *, resized: bool) -> Recipe:
    """The same on features; resized: of images, which are resized for the network first."""
    for name in ("crop", "flip", *_STREAMED, *([] if resized else ["size"])):
        if getattr(recipe, name):
            raise ConfigError(f"{option_name(name)} has no effect on features")
    if recipe.fit != "crop" and not resized:
        raise ConfigError("fit has no effect on features")
    if resized and not recipe.size:
        raise ConfigError("features need the size of the images: set img_size")
    return recipe


def fitting_of(recipe: Recipe, dataset: Dataset) -> Fitting | None:
    """How images in memory are resized to the recipe's size; None: only as the data set resizes
    them.
    """
    from ..datasets import Fitting

    fitting = Fitting(recipe.size, recipe.size, recipe.fit)
    return (
        None
        if dataset.reader or not recipe.size or (dataset.mixed and fitting == dataset.fitting)
        else fitting
    )


def read_schedule(text: str) -> tuple[str, tuple[float, ...]]:
    """`step(40, 80)` -> ("step", (40, 80)). Raises ConfigError."""
    call = parse(text)
    numbers = call.args if isinstance(call, Call) else ()
    valid = (
        isinstance(call, Call)
        and not call.kwargs
        and all(isinstance(n, int | float) and n > 0 for n in numbers)
    )
    name = call.name if valid else ""  # type: ignore[union-attr]
    if name not in ("constant", "cosine", "step") or (name == "step") != bool(numbers):
        raise ConfigError(
            f"schedule must be constant, cosine or step(40, 80) (epochs), got {text!r}"
        )
    return name, numbers  # type: ignore[return-value]
