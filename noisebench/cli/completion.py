"""Shell completion: the names that an option or argument takes, from the registries. Loads no
torch and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from ..errors import NoisebenchError

Names = Callable[[Any, str], list[str]]


def completing(names: Callable[[Path], Iterable[str]]) -> Names:
    """For Typer's autocompletion; names: those of a workspace."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        root = Path((ctx.parent and ctx.parent.params.get("workspace")) or ".")
        try:
            return sorted({name for name in names(root) if name.startswith(incomplete)})
        except (NoisebenchError, OSError):
            return []

    # Typer tells the parameters apart by their annotations
    complete.__annotations__ = {"ctx": typer.Context, "incomplete": str}
    return complete


def _losses(root: Path) -> Iterable[str]:
    from ..losses import LOSSES

    return (entry.name for entry in LOSSES)


def _strategies(root: Path) -> Iterable[str]:
    from ..strategies import STRATEGIES

    return (entry.name for entry in STRATEGIES)


def _noises(root: Path) -> Iterable[str]:
    from ..noise import NOISES

    return (entry.name for entry in NOISES)


def _maps(root: Path) -> Iterable[str]:
    from ..noise import MAPS

    return MAPS


def _conventions(root: Path) -> Iterable[str]:
    from ..noise.conventions import CONVENTIONS

    return CONVENTIONS


def _methods(root: Path) -> Iterable[str]:
    from ..experiments.methods import METHODS

    return METHODS


def _datasets(root: Path) -> Iterable[str]:
    from ..datasets import DATASETS

    return DATASETS


def _models(root: Path) -> Iterable[str]:
    from ..experiments.backbones import BACKBONES

    return BACKBONES


def _recipes(root: Path) -> Iterable[str]:
    from ..experiments.recipes import RECIPES

    return RECIPES


def _suites(root: Path) -> Iterable[str]:
    from ..experiments.suite import read_suites, suite_files

    return (name for path in suite_files(root) for name in read_suites(path))


def _metrics(root: Path) -> Iterable[str]:
    from ..reporting import METRICS

    return METRICS


def _figures(root: Path) -> Iterable[str]:
    from ..reporting.figures import FIGURES

    return FIGURES


def _trackers(root: Path) -> Iterable[str]:
    from ..runs.trackers import TRACKERS

    return TRACKERS


def _runs(root: Path) -> Iterable[str]:
    return (str(path) for path in (root / "runs").glob("*") if path.is_dir())


def _manifests(root: Path) -> Iterable[str]:
    found = (root / "manifests").glob("*")
    return (str(path) for path in found if path.name.endswith((".csv", ".csv.gz", ".parquet")))


OF_ARGUMENT = {
    "DATASET": completing(_datasets),
    "SUITE": completing(_suites),
    "RUN": completing(_runs),
}
OF_OPTION = {
    "--loss": completing(_losses),
    "--strategy": completing(_strategies),
    "--noise": completing(_noises),
    "--map": completing(_maps),
    "--convention": completing(_conventions),
    "--method": completing(_methods),
    "--dataset": OF_ARGUMENT["DATASET"],
    "--source": OF_ARGUMENT["DATASET"],
    "--model": completing(_models),
    "--recipe": completing(_recipes),
    "--metric": completing(_metrics),
    "--figure": completing(_figures),
    "--log-to": completing(_trackers),
    "--manifest": completing(_manifests),
}
