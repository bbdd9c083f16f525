"""`noisebench report --figure`: a picture instead of a table; without a file its numbers, the
transition matrix drawn in the terminal.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import say, show, write, write_json

if TYPE_CHECKING:
    from ..labels.manifest import Manifest
    from ..reporting import Table
    from ..reporting.figures import FigureSpec
    from ..reporting.figures.style import Figure
    from .options import Globals

# which are of any metric and budget; the others are of what a run has one of
_METRIC = ("rates", "ranks")
_NEVER = {
    "rows": "--rows",
    "cols": "--cols",
    "form": "--format",
    "ranks": "--ranks",
    "published": "--published",
    "against": "--against",
    "check": "--check",
    "save_baseline": "--save-baseline",
    "baseline": "--baseline",
    "tolerance": "--tolerance",
    "alpha": "--alpha",
    "allow_missing": "--allow-missing",
}


@dataclass(frozen=True)
class Asked:
    """What the command line says of a figure."""

    name: str
    paths: list[Path]
    conditions: list[str]
    metric: str
    budget: str
    epoch: int | None
    losses: list[str]
    out: Path | None
    json: bool


def draw_figure(asked: Asked, options: Globals) -> None:
    """Draw a named figure of runs, of losses, or of manifests."""
    from ..errors import ConfigError
    from ..reporting.figures import find_figure
    from ..reporting.figures.style import form_of

    kind = find_figure(asked.name)
    if asked.json and asked.out:
        raise ConfigError("--json prints the figure's numbers, --out writes it: choose one")
    form = form_of(asked.out) if asked.out else ""
    drawing = _made(asked, kind, options)
    if asked.out:
        _save(drawing, asked.out, form)
    elif asked.json:
        write_json(drawing.as_dict())
    elif kind.of == "manifests":
        _show_transition(drawing)
    else:
        write(drawing.as_csv())


def without_effect(name: str) -> dict[str, str]:
    """The options, by parameter, that have no effect on a figure. Raises UnknownName."""
    from ..reporting.figures import find_figure

    kind = find_figure(name)
    others = {"conditions": "--where"} if kind.of != "runs" else {}
    if name not in _METRIC:
        others |= {"metric": "--metric", "budget": "--budget"}
    if not kind.epoch:
        others["epoch"] = "--epoch"
    if kind.of != "losses":
        others["losses"] = "--loss"
    return {**_NEVER, **others}


def _made(asked: Asked, kind: FigureSpec, options: Globals) -> Figure:
    if kind.of == "losses":
        return kind.make(asked.losses)
    if kind.of == "manifests":
        return kind.make(_manifests(asked.paths, options))
    return kind.of_runs(_tables(asked, options), asked.epoch)


def _tables(asked: Asked, options: Globals) -> list[Table]:
    from .report import make, runs_of, shape_of

    shape = shape_of("method", "noise", asked.metric, budget=asked.budget)
    return make(
        runs_of(options, asked.paths), shape, asked.conditions, options.open(), needed=True
    ).tables


def _manifests(paths: list[Path], options: Globals) -> list[Manifest]:
    from ..errors import ConfigError
    from ..labels.manifest import read_manifest

    chosen = paths or [path for path in [options.open().current] if path]
    if not chosen:
        raise ConfigError(
            "name a manifest to draw: noisebench report --figure transition manifests/NAME.csv"
        )
    return [read_manifest(path) for path in chosen]


def _save(drawing: Figure, path: Path, form: str) -> None:
    from ..core.files.atomic import write_bytes, write_text

    if form == "csv":
        write_text(path, drawing.as_csv())
    else:
        write_bytes(path, drawing.picture(form))
    say(f"{path} written. {drawing.caption}")


def _show_transition(drawing: Any) -> None:
    from ..reporting.figures.transition import draw_in_terminal

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    show(*(draw_in_terminal(manifest, width) for manifest in drawing.manifests))
