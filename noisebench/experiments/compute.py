"""What a run's training costs, in passes over its examples, and how many epochs a budget of them
buys.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..core.expressions import Expression
from ..errors import ConfigError
from ..losses import LOSSES
from ..strategies import STRATEGIES, ComputeCost, normal_strategy
from .oracle import estimated_facts
from .recipes import Recipe, read_schedule

BUDGETS = ("epochs", "compute")
# a run that estimates its noise spends one in four of its epochs on that: later, networks memorize
# incorrect labels
_WARMUP = 4


@dataclass(frozen=True)
class RelativeCost:
    """share: the work of an epoch as a multiple of CE's; estimates: whether the noise is found out
    first, by plain CE.
    """

    share: float
    estimates: bool = False

    def work(self, epochs: int) -> float:
        """Of a run of so many epochs, in epochs of CE."""
        return epochs * self.share + (epochs_of_estimates(epochs) if self.estimates else 0)

    def epochs(self, work: int) -> int:
        """How many do as nearly as can be the work of so many epochs of CE; one is the least."""
        return max(1, round(work / (self.share + (1 / _WARMUP if self.estimates else 0))))


def epochs_of_estimates(epochs: int) -> int:
    """How often a run of so many epochs sees every example before them, where it estimates its
    noise.
    """
    return max(1, round(epochs / _WARMUP))


def price_of(loss: str | Expression, strategy: str | Expression) -> RelativeCost:
    """Raises ConfigError for a strategy that says no cost, UnknownName and LanguageError for what
    is none of the language.
    """
    call, normal = normal_strategy(strategy), LOSSES.normal(loss)
    passes = STRATEGIES[call.name].facts.get("cost")
    if not isinstance(passes, ComputeCost):
        raise ConfigError(
            f"the strategy {call.name} does not say what it costs: register it with "
            "cost=ComputeCost(forward, backward)"
        )
    return RelativeCost(
        passes.share, bool(estimated_facts(LOSSES, normal) | estimated_facts(STRATEGIES, call))
    )


def checked_budget(name: str) -> str:
    """`epochs`, the same for every method, or `compute`, the same work. Raises ConfigError."""
    if name not in BUDGETS:
        raise ConfigError(f"budget is one of {', '.join(BUDGETS)}, got {name!r}")
    return name


def at_budget(recipe: Recipe, budget: str, loss: Expression, strategy: Expression) -> Recipe:
    """The recipe under a budget: by `compute` with as many epochs as do the work of its own epochs
    of CE.

    Raises ConfigError where the schedule counts epochs of its own.
    """
    if checked_budget(budget) == "epochs":
        return recipe
    check_schedule(recipe)
    return replace(recipe, epochs=price_of(loss, strategy).epochs(recipe.epochs))


def check_schedule(recipe: Recipe) -> None:
    """Raises ConfigError where a budget of compute would change what a schedule means."""
    if read_schedule(recipe.schedule)[1]:
        raise ConfigError(
            f"the schedule {recipe.schedule} counts epochs, and a budget of compute "
            "changes them: take cosine or constant"
        )
