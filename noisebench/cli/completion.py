"""Shell completion: the names that an option or argument takes, from the registries. Loads no
torch and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
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


def _registered(module: str, name: str) -> Names:
    """The names in a registry or a dict of the package, which is imported when they are needed."""

    def names(root: Path) -> Iterable[str]:
        registry = getattr(import_module(f"noisebench.{module}"), name)
        return (getattr(entry, "name", entry) for entry in registry)

    return completing(names)


def _suites(root: Path) -> Iterable[str]:
    from ..experiments.suite import read_suites, suite_files

    return (name for path in suite_files(root) for name in read_suites(path))


def _runs(root: Path) -> Iterable[str]:
    return (str(path) for path in (root / "runs").glob("*") if path.is_dir())


def _manifests(root: Path) -> Iterable[str]:
    paths = (root / "manifests").glob("*")
    return (str(path) for path in paths if path.name.endswith((".csv", ".csv.gz", ".parquet")))


OF_ARGUMENT = {
    "DATASET": _registered("datasets", "DATASETS"),
    "SUITE": completing(_suites),
    "RUN": completing(_runs),
}
OF_OPTION = {
    "--loss": _registered("losses", "LOSSES"),
    "--strategy": _registered("strategies", "STRATEGIES"),
    "--noise": _registered("noise", "NOISES"),
    "--map": _registered("noise", "MAPS"),
    "--convention": _registered("noise.conventions", "CONVENTIONS"),
    "--method": _registered("experiments.methods", "METHODS"),
    "--dataset": OF_ARGUMENT["DATASET"],
    "--source": OF_ARGUMENT["DATASET"],
    "--model": _registered("experiments.backbones", "BACKBONES"),
    "--recipe": _registered("experiments.recipes", "RECIPES"),
    "--metric": _registered("reporting", "METRICS"),
    "--figure": _registered("reporting.figures", "FIGURES"),
    "--log-to": _registered("runs.trackers", "TRACKERS"),
    "--manifest": completing(_manifests),
}
