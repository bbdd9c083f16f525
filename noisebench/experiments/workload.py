"""How much a suite trains, before any of it is planned. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

from ..datasets import DATASETS
from ..errors import ConfigError
from ..noise import normal_noise
from .compute import RelativeCost, price_of
from .recipes import make_recipe
from .resolve import loss_and_strategy_of
from .suite import Suite, SuiteRun, expand, request_of


def images_of(suite: Suite) -> int | None:
    """The training images that all runs of a suite see, in epochs of CE: where an epoch costs twice
    CE's, twice as many.

    Those that a run holds out are counted too. None where a data set is not known before it is
    read, or a strategy says no cost.
    """
    price = cache(price_of)  # which runs share, but for their methods
    # as many for every seed
    seen = [_images(run, price) for run in expand(suite.with_defaults(seeds=1))]
    known = [count for count in seen if count is not None]
    return round(len(suite.defaults.seeds) * math.fsum(known)) if len(known) == len(seen) else None


def _images(run: SuiteRun, price: Callable[[str, str], RelativeCost]) -> float | None:
    settings = run.settings
    dataset = DATASETS.get(settings.get("dataset", ""))
    if dataset is None:
        return None
    try:
        cost = price(
            *loss_and_strategy_of(request_of(run), dataset, str(normal_noise(settings["noise"])))
        )
    except ConfigError:  # of a plugin's strategy
        return None
    recipe = make_recipe(
        settings.get("recipe") or dataset.recipe,
        dataset.name,
        augment=dataset.augmentation,
        changes=run.changes,
    )
    epochs = cost.epochs(recipe.epochs) if run.budget == "compute" else recipe.epochs
    return (settings.get("subset") or dataset.n_train) * cost.work(epochs)
