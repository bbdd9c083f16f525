"""Shell completion: the names that an option or argument takes. Loads no torch, and never prints or
raises, since a message would appear inside the command that is being typed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import typer

Names = Callable[[Any, str], Iterable[str]]
"""The names for a context and the text typed so far; they need not begin with it."""


@contextmanager
def silent() -> Iterator[None]:
    """Neither prints nor raises."""
    with suppress(Exception, SystemExit), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


def completing(names: Names) -> Callable[[Any, str], list[str]]:
    """For Typer's autocompletion."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        matching: list[str] = []
        with silent():
            matching = sorted({n for n in names(ctx, incomplete) if n.startswith(incomplete)})
        return matching

    # Typer tells the parameters apart by their annotations
    complete.__annotations__ = {"ctx": typer.Context, "incomplete": str}
    return complete


def _workspace(ctx: Any) -> Path:
    return Path((ctx.parent and ctx.parent.params.get("workspace")) or ".")


def _registered(module: str, *registries: str) -> Names:
    """The names in registries or dicts of the package, which is imported when they are needed."""

    def names(ctx: Any, incomplete: str) -> Iterable[str]:
        imported = import_module(f"noisebench.{module}")
        entries = (entry for registry in registries for entry in getattr(imported, registry))
        return (getattr(entry, "name", entry) for entry in entries)

    return names


def _several(names: Names) -> Names:
    """Names separated by commas, the last of which is completed."""

    def last(ctx: Any, incomplete: str) -> Iterable[str]:
        before, comma, _ = incomplete.rpartition(",")
        return (f"{before}{comma}{name}" for name in names(ctx, incomplete))

    return last


def _suites(ctx: Any, incomplete: str) -> Iterable[str]:
    from ..experiments.suite_file import suite_files, suite_names

    return (name for path in suite_files(_workspace(ctx)) for name in suite_names(path))


def _runs(ctx: Any, incomplete: str) -> Iterable[str]:
    return (str(path) for path in (_workspace(ctx) / "runs").glob("*") if path.is_dir())


def _manifests(ctx: Any, incomplete: str) -> Iterable[str]:
    paths = (_workspace(ctx) / "manifests").glob("*")
    return (str(path) for path in paths if path.name.endswith(_TABLES))


def _file_names(paths: Names) -> Names:
    return lambda ctx, incomplete: (Path(path).name for path in paths(ctx, incomplete))


def _report_inputs(ctx: Any, incomplete: str) -> Iterable[str]:
    """The runs, and the directories and tables where the typed path leads."""
    folder = "".join(incomplete.rpartition("/")[:2])
    for path in Path(folder).iterdir():
        if not path.name.startswith(".") and (path.is_dir() or path.name.endswith(_TABLES)):
            yield f"{folder}{path.name}"
    yield from _runs(ctx, incomplete)


def _initial_weights(ctx: Any, incomplete: str) -> Iterable[str]:
    return ("pretrained", "none", *_runs(ctx, incomplete))


def _conditions(ctx: Any, incomplete: str) -> Iterable[str]:
    module = "experiments.suite_file" if ctx.info_name == "run" else "reporting.metrics"
    axes = import_module(f"noisebench.{module}").AXES
    return (f"{axis}=" for axis in (*axes, "seed", "noise_seed"))


def _of_kind(ctx: Any, incomplete: str) -> Iterable[str]:
    return _OF_KIND[ctx.params["kind"]](ctx, incomplete)


_TABLES = (".csv", ".csv.gz", ".parquet")
_OF_KIND = {  # of `noisebench list`
    "losses": _registered("losses", "LOSSES"),
    "noises": _registered("noise", "NOISES", "MAPS"),
    "conventions": _registered("noise.conventions", "CONVENTIONS"),
    "strategies": _registered("strategies", "STRATEGIES"),
    "methods": _registered("experiments.methods", "METHODS"),
    "datasets": _registered("datasets", "DATASETS"),
    "models": _registered("experiments.backbones", "BACKBONES"),
    "recipes": _registered("experiments.recipes", "RECIPES"),
    "suites": _suites,
    "metrics": _registered("reporting.metrics", "METRICS"),
    "figures": _registered("reporting.figures", "FIGURES"),
    "published": _registered("experiments.published", "PAPERS"),
    "trackers": _registered("runs.trackers", "TRACKERS"),
    "manifests": _file_names(_manifests),
    "runs": _file_names(_runs),
}
_AXES = _several(_registered("reporting.metrics", "AXES"))

OF_ARGUMENT = {
    "DATASET": completing(_OF_KIND["datasets"]),
    "SUITE": completing(_suites),
    "RUN": completing(_runs),
    "PATH": completing(_report_inputs),
    "NAME": completing(_of_kind),
}
OF_OPTION = {
    "--loss": completing(_OF_KIND["losses"]),
    "--strategy": completing(_OF_KIND["strategies"]),
    "--noise": completing(_registered("noise", "NOISES")),
    "--map": completing(_registered("noise", "MAPS")),
    "--convention": completing(_OF_KIND["conventions"]),
    "--method": completing(_OF_KIND["methods"]),
    "--compare-to": completing(_OF_KIND["methods"]),
    "--dataset": OF_ARGUMENT["DATASET"],
    "--source": OF_ARGUMENT["DATASET"],
    "--eval-on": OF_ARGUMENT["DATASET"],
    "--model": completing(_OF_KIND["models"]),
    "--init-weights": completing(_initial_weights),
    "--recipe": completing(_OF_KIND["recipes"]),
    "--rows": completing(_AXES),
    "--cols": completing(_AXES),
    "--metric": completing(_several(_OF_KIND["metrics"])),
    "--filter": completing(_conditions),
    "--figure": completing(_OF_KIND["figures"]),
    "--published": completing(_OF_KIND["published"]),
    "--log-to": completing(_OF_KIND["trackers"]),
    "--manifest": completing(_manifests),
}
