"""How long and how hard to train: the field's published recipes as a table. SGD throughout."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..core.expressions import Call, parse
from ..datasets import FITS, Dataset, Fitting
from ..errors import ConfigError, UnknownName

_OF_PICTURES = ("size", "area", "centre")
_STREAMED = ("area", "centre")
OPTIONS = {"size": "img_size"}  # settings that are called otherwise where people write them
_MOST = 1 << 31  # epochs, and examples a step
_ADDED = ("freeze", "layer_decay", *_OF_PICTURES, "fit")  # once there were runs already


@dataclass(frozen=True)
class Recipe:
    """One way of training. lr per step; clip: largest gradient norm of a network, 0 for no limit;
    schedule: `constant`, `cosine` (to 0, by step) or `step(40, 80)` (a tenth after each of these
    epochs); crop (pixels of padding) and flip: augmentation; freeze: so many of the network's layer
    groups, from its stem on, are not trained; layer_decay: the learning rate of a group as a
    multiple of the next one's, 1 for all alike (Clark et al. 2020). size: the side of the square in
    pixels to which images are brought, 0 for those in memory that are used as they are; fit: how,
    crop, pad or squash (see Fitting). Of pictures that are streamed, both 0 elsewhere: area, the
    smallest share of a picture that a training's random crop takes; centre, the share of the
    shorter side that is looked at when networks are asked.
    """

    epochs: int
    batch_size: int = 128
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    clip: float = 0.0
    crop: int = 0
    flip: bool = False
    freeze: int = 0
    layer_decay: float = 1.0
    size: int = 0
    area: float = 0.0
    centre: float = 0.0
    fit: str = "crop"

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "lr",
            "momentum",
            "weight_decay",
            "clip",
            "crop",
            "freeze",
        ):
            least = 1 if name in ("epochs", "batch_size") else 0
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
            if not getattr(self, name) < (
                _MOST if name in ("epochs", "batch_size") else float("inf")
            ):
                raise ConfigError(
                    f"{name} must be finite, and epochs and batch_size below "
                    f"{_MOST}; got {getattr(self, name)}"
                )
        if not self.momentum < 1:
            raise ConfigError(f"momentum must be below 1, got {self.momentum}")
        if self.nesterov and not self.momentum:
            raise ConfigError("nesterov needs a momentum: give one, or nesterov: false")
        if self.crop and not self.crop < 64:
            raise ConfigError(f"crop is padding in pixels, got {self.crop}")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(
                f"layer_decay must be above 0 and at most 1, which is none; got {self.layer_decay}"
            )
        self._check_pictures()
        name, ends = read_schedule(self.schedule)
        # one text per meaning, since the key holds it
        object.__setattr__(self, "schedule", str(Call(name, ends)))

    def _check_pictures(self) -> None:
        if self.size and not 8 <= self.size <= 1024:
            raise ConfigError(
                f"img_size is the side of an image in pixels, 8 to 1024, got {self.size}"
            )
        check_fit(self.fit)
        for name in ("area", "centre"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is a share in (0, 1], got {getattr(self, name)}")

    def asdict(self) -> dict[str, Any]:
        """As written of a run and hashed into its key: without the settings that came later where
        they change nothing.
        """
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in _LATER or value != _LATER[name]
        }


_LATER = {field.name: field.default for field in fields(Recipe) if field.name in _ADDED}


def check_fit(fit: str) -> None:
    """Raises ConfigError."""
    if fit not in FITS:
        raise ConfigError(f"fit is one of {', '.join(FITS)}, got {fit!r}")


def all_settings(written: dict[str, Any]) -> dict[str, Any]:
    """What `asdict` wrote, with what it left out."""
    return {**_LATER, **written}


RECIPE_FIELDS = {field.name: field for field in fields(Recipe)}


@dataclass(frozen=True)
class PublishedRecipe:
    """A recipe with what it changes on some data sets, and where it comes from."""

    summary: str
    settings: dict[str, Any]
    on: dict[str, dict[str, Any]]
    source: str


RECIPES = {
    "digits": PublishedRecipe(
        "40 epochs, batch 64, lr 0.1 cosine, Nesterov: seconds a run on the embedded digits",
        {"epochs": 40, "batch_size": 64, "lr": 0.1, "nesterov": True, "weight_decay": 5e-4},
        {},
        "ours",
    ),
    "apl": PublishedRecipe(
        "120 epochs (CIFAR-100: 200), lr 0.01 (0.1) cosine, gradient clip 5; several papers "
        "publish numbers under it",
        {"epochs": 120, "lr": 0.01, "weight_decay": 1e-4, "clip": 5.0},
        {
            "cifar100": {"epochs": 200, "lr": 0.1, "weight_decay": 1e-5},
            "mnist": {"epochs": 50, "weight_decay": 1e-3},
        },
        "Ma et al. 2020, authors' configuration; without its rotation on CIFAR-100",
    ),
    "el": PublishedRecipe(
        "lr 0.1 cosine, Nesterov, weight decay 5e-3; silent on epochs and batch: 120 (CIFAR-100: "
        "150) and 128 as its baselines",
        {"epochs": 120, "lr": 0.1, "nesterov": True, "weight_decay": 5e-3},
        {"cifar100": {"epochs": 150}},
        "Cui et al., Equal Loss, section 3.1",
    ),
    "el-imagenet": PublishedRecipe(
        "100 epochs, batch 2,048, lr 0.8 cosine, weight decay 1e-4; for photographs of 224 pixels",
        # The paper is silent on epochs: 100, since its baseline, 76.80 for ResNet-50, is what a
        # plain recipe of 90 to 100 epochs gives. It names a crop of the centre alone; without
        # random crops and flips in training, that baseline cannot be reached, so training has the
        # usual ones (area 0.08, flip), and its 224 of 256 pixels is how networks are asked (centre
        # 0.875).
        {"epochs": 100, "batch_size": 2048, "lr": 0.8, "weight_decay": 1e-4},
        {},
        "Cui et al., Equal Loss, section 3.2; epochs and augmentation ours, on which it is silent",
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
        "10 epochs, batch 64, lr 0.05 cosine, each layer group at 0.75 of the next one's: from "
        "trained weights (--init)",
        {"epochs": 10, "batch_size": 64, "lr": 0.05, "weight_decay": 1e-4, "layer_decay": 0.75},
        {},
        "ours, measured in docs/weights.md; rates by layer after Clark et al. 2020",
    ),
    "finetune_frozen": PublishedRecipe(
        "as finetune, with the stem left as it is",
        {
            "epochs": 10,
            "batch_size": 64,
            "lr": 0.05,
            "weight_decay": 1e-4,
            "layer_decay": 0.75,
            "freeze": 1,
        },
        {},
        "ours, measured in docs/weights.md",
    ),
}


def find_recipe(name: str) -> PublishedRecipe:
    """The published recipe of a name. Raises UnknownName."""
    if name not in RECIPES:
        raise UnknownName("recipe", name, RECIPES, "recipes")
    return RECIPES[name]


def make_recipe(
    name: str, dataset: str, *, augment: dict[str, Any], changes: dict[str, Any]
) -> Recipe:
    """The recipe on a data set: its own augmentation, then the recipe, then `changes`. Raises
    UnknownName or ConfigError.
    """
    published = find_recipe(name)
    recipe = Recipe(**{**augment, **published.settings, **published.on.get(dataset, {})})
    if augment.get("centre") and changes.get("fit", "crop") != "crop":
        changes = {"centre": 1.0, **changes}  # all of a padded or squashed picture is looked at
    if unknown := set(changes) - set(RECIPE_FIELDS):
        raise ConfigError(
            f"a recipe has no setting {sorted(unknown)[0]!r}; it has {', '.join(RECIPE_FIELDS)}"
        )
    return replace(recipe, **changes)


def settled(recipe: Recipe, dataset: Dataset) -> Recipe:
    """The recipe on these data, one for each meaning. Raises ConfigError for a setting that has no
    effect, or that they need and lack.
    """
    streamed, height, width = bool(dataset.reader), *dataset.shape[:2]
    if streamed and recipe.crop:
        raise ConfigError(
            f"crop pads images in memory, and {dataset.name} is streamed: its "
            "random crop is area, a share of the picture"
        )
    for name in _OF_PICTURES if streamed else _STREAMED:
        if bool(getattr(recipe, name)) != streamed:
            what = "must be above 0" if streamed else "has no effect"
            which = (
                "which is streamed"
                if streamed
                else ("which is in memory: it is of pictures that are streamed")
            )
            raise ConfigError(f"{OPTIONS.get(name, name)} {what} on {dataset.name}, {which}")
    if streamed and recipe.fit != "crop" and recipe.centre != 1:
        raise ConfigError(
            f"centre has an effect with fit crop only, got {recipe.centre} with "
            f"{recipe.fit}: give 1, or leave it out"
        )
    if streamed:
        return recipe
    if dataset.mixed:
        return recipe if recipe.size else replace(recipe, size=height)
    if not recipe.size or recipe.size == height == width:
        if recipe.fit != "crop":
            raise ConfigError(
                f"fit has no effect on {dataset.name}, whose images are all "
                f"{height}x{width}: give another img_size with it"
            )
        return replace(recipe, size=0)  # which they have
    return recipe


def fitting_of(recipe: Recipe, dataset: Dataset) -> Fitting | None:
    """How images in memory are brought to the recipe's size; None for how the data set brings them
    to its own.
    """
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
        raise ConfigError(f"schedule is constant, cosine or step(40, 80) with epochs, got {text!r}")
    return name, numbers  # type: ignore[return-value]
