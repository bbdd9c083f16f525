"""`noisebench list`: what there is. Loads no torch but for `list models timm`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import images, percent, show, write_json
from .options import Globals, Json

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from ..core.registry import Entry
    from ..experiments.methods import Method, Preset
    from ..experiments.published import Published
    from ..runs.folder import RunFolder

Rows = list[dict[str, Any]]


def list_(
    context: typer.Context,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="losses noises conventions strategies methods datasets models recipes suites "
            "metrics figures published trackers "
            "manifests runs env",
        ),
    ],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One of them in full.")] = None,
    json: Json = False,
) -> None:
    """Show what there is: losses, noises, methods, models, runs.

    noisebench list losses gce
    """
    from ..errors import UnknownName

    options: Globals = context.obj
    options.open()  # plugins add names
    if kind not in _KINDS:
        raise UnknownName("kind of list", kind, _KINDS, "losses")
    rows = _timm() if (kind, name) == ("models", "timm") else _KINDS[kind](options)
    if name is not None and (kind, name) != ("models", "timm"):
        _show_one(kind, name, rows, json=json)
    elif json:
        write_json(rows)
    else:
        _show_table(rows)


def _show_one(kind: str, name: str, rows: Rows, *, json: bool) -> None:
    from ..errors import UnknownName

    found = [row for row in rows if name in (row["name"], *row.get("aliases", ()))]
    if not found:
        raise UnknownName(
            _SINGULAR.get(kind, kind.removesuffix("s")), name, [row["name"] for row in rows], kind
        )
    if json:
        write_json(found[0])
        return
    from rich.table import Table

    from ..core.console import Text

    facts = Table.grid(padding=(0, 2))
    for key, value in found[0].items():
        if value not in (None, "", [], {}) and key != "cells":
            text = images(value) if key == "images" else _plain(value)
            facts.add_row(Text(key.replace("_", " "), style="dim"), Text(*text.split("\n")))
    show(facts, *(_paper_tables(name) if kind == "published" else []))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _show_table(rows: Rows) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ..core.console import Text

    if not rows:
        show("none")
        return
    names = [key for key in rows[0] if key not in _ONLY_IN_FULL]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for key in names:
        table.add_column(key.replace("_", " "), overflow="fold", no_wrap=key == "name")
    for row in rows:
        table.add_row(*(Text(*_cell(key, row.get(key)).split("\n")) for key in names))
    show(table)


def _cell(key: str, value: Any) -> str:
    """Shares in percent, how many images in short, nothing as nothing."""
    if key == "images":
        return images(value)
    if value is None:
        return ""
    return percent(value) if key in _SHARES and value != "" else _plain(value)


_SINGULAR = {"losses": "loss", "strategies": "strategy", "published": "published paper"}
_SHARES = frozenset({"nominal_rate", "realised_rate", "worst_rate", "test_acc"})
_ONLY_IN_FULL = frozenset(
    """parameters aliases laws presets doc classes maps version settings on key path num_classes
    texts methods source cells passes matrix defaults""".split()  # noqa: SIM905
)


def _entry(entry: Entry, **more: Any) -> dict[str, Any]:
    return {
        "name": entry.name,
        "text": entry.signature,
        "summary": entry.summary,
        "paper": entry.paper,
        "parameters": {p.name: p.describe() for p in entry.parameters},
        "aliases": list(entry.aliases),
        "laws": sorted(entry.properties),
        "version": entry.version,
        "doc": entry.doc,
        **more,
    }


def _losses(options: Globals) -> Rows:
    from ..core.expressions import Call, parse
    from ..experiments.methods import METHODS
    from ..losses import LOSSES

    def takes_loss(entry: Entry) -> bool:
        return any(p.is_expression for p in entry.parameters)

    presets: dict[str, dict[str, str]] = {}
    for method in METHODS.values():
        if isinstance(call := parse(method.loss), Call):  # a row of this loss alone
            presets.setdefault(call.name, {}).update(_presets(method))
    return [
        _entry(
            entry,
            presets=presets.get(entry.name, {}),
            aliases=[*entry.aliases, *LOSSES.short_names(entry)],
        )
        for entry in sorted(LOSSES, key=takes_loss)
    ]


def _presets(method: Method) -> dict[str, str]:
    """`cifar100, symmetric 0.4` -> the loss there, and whose it is."""
    return {
        " ".join([p.dataset, p.noise, "" if p.rate is None else f"{p.rate:g}"]).strip(): (
            f"{_texts(p)} ({p.source})"
        )
        for p in method.presets
    }


def _texts(preset: Preset) -> str:
    return f"{preset.loss}, {preset.strategy}" if preset.strategy else preset.loss


def _noises(options: Globals) -> Rows:
    """The models, and under asymmetric each named map with its paper and what it makes of a
    rate.
    """
    from ..noise import MAPS, NOISES

    maps: Rows = [
        {
            "name": name,
            "text": f"asymmetric(rate, map={name!r})",
            "overall": f"{found.share:g} x rate",
            "summary": found.summary,
            "paper": found.paper,
            "num_classes": found.num_classes,
        }
        for name, found in MAPS.items()
    ]
    rows: Rows = []
    for entry in NOISES:
        takes_map = any(p.name == "map" for p in entry.parameters)
        known = _entry(
            entry,
            **(
                {"maps": {row["name"]: f"{row['overall']}; {row['paper']}" for row in maps}}
                if takes_map
                else {}
            ),
        )
        rows.append(
            {
                "name": known.pop("name"),
                "text": known.pop("text"),
                "overall": entry.facts.get("overall", ""),
                **known,
            }
        )
        rows += maps if takes_map else []
    return rows


def _conventions(options: Globals) -> Rows:
    from ..noise.conventions import CONVENTIONS

    return [
        {
            "name": c.name,
            "paper": c.paper,
            "noise": [f"--{kind}" for kind in c.texts],
            "note": c.note,
            "held out": f"{c.val_fraction:g} {c.val_split} corruption" if c.val_fraction else "",
            "texts": {
                f"--{kind} on {dataset or 'any data'}": text
                for kind, on in c.texts.items()
                for dataset, text in on.items()
            },
        }
        for c in CONVENTIONS.values()
    ]


def _published(options: Globals) -> Rows:
    """One row a paper, with all its cells."""
    from ..experiments.published import PAPERS, cells_of

    return [
        {
            "name": paper,
            "title": title,
            "cells_known": len(cells := cells_of(paper)),
            "data": _distinct(cells, "dataset"),
            "networks": _distinct(cells, "backbone"),
            "noise": _distinct(cells, "kind"),
            "selection": _distinct(cells, "selection", "unstated"),
            "methods": _distinct(cells, "name"),
            "source": _distinct(cells, "source"),
            "cells": [asdict(cell) for cell in cells],
        }
        for paper, title in PAPERS.items()
    ]


def _distinct(cells: list[Published], name: str, nothing: str = "") -> list[str]:
    return list(
        dict.fromkeys(text for cell in cells if (text := str(getattr(cell, name)) or nothing))
    )


def _paper_tables(name: str) -> list[Table]:
    """A paper's numbers in percent, one table for each data set and network. Raises UnknownName."""
    from ..experiments.published import cells_of

    groups: dict[tuple[str, str], list[Published]] = {}
    for cell in cells_of(name):
        groups.setdefault((cell.dataset, cell.backbone), []).append(cell)
    return [
        _paper_table(f"{dataset}, {backbone}", cells)
        for (dataset, backbone), cells in groups.items()
    ]


def _paper_table(title: str, cells: list[Published]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from ..core.console import Text

    numbers = {(cell.name, _paper_noise(cell)): _paper_number(cell) for cell in cells}
    names, noises = (list(dict.fromkeys(places)) for places in zip(*numbers, strict=True))
    copied = {
        name: ", ".join(_distinct([cell for cell in cells if cell.name == name], "copied_from"))
        for name in names
    }
    table = Table(
        title=Text(title, style="bold"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    for head in ("method", *noises, *(["copied from"] if any(copied.values()) else [])):
        table.add_column(head, justify="right" if head in noises else "left", overflow="fold")
    for name in names:
        table.add_row(
            *map(
                Text,
                [name, *(numbers.get((name, noise), "–") for noise in noises), copied[name]][
                    : len(table.columns)
                ],
            )
        )
    return table


def _paper_noise(cell: Published) -> str:
    if cell.kind == "human":
        return cell.noise.partition("'")[2].partition("'")[0]
    return f"{cell.kind} {cell.rate:g}" if cell.rate else cell.kind


def _paper_number(cell: Published) -> str:
    return f"{100 * cell.mean:.2f}" + ("" if cell.std is None else f" ± {100 * cell.std:.2f}")


def _strategies(options: Globals) -> Rows:
    """The cost is an epoch's work beside CE's, by the passes."""
    from ..strategies import STRATEGIES, ComputeCost

    def costs(entry: Entry) -> dict[str, str]:
        passes = entry.facts.get("cost")
        return (
            {"cost": f"{passes.share:.3g} x CE", "passes": str(passes)}
            if isinstance(passes, ComputeCost)
            else {"cost": "", "passes": ""}
        )

    return [
        _entry(entry, **costs(entry))
        for entry in sorted(STRATEGIES, key=lambda entry: entry.name != "standard")
    ]


def _methods(options: Globals) -> Rows:
    from ..experiments.methods import METHODS

    return [
        {
            "name": m.name,
            "loss": m.loss,
            "strategy": m.strategy,
            "paper": m.paper,
            "presets": _presets(m),
        }
        for m in METHODS.values()
    ]


def _datasets(options: Globals) -> Rows:
    from ..datasets import DATASETS

    return [
        {
            "name": d.name,
            "summary": d.summary,
            "train": d.n_train,
            "test": d.n_test,
            "model": d.model,
            "recipe": d.recipe,
            "map": d.map or "",
            "source": d.source,
            "classes": list(d.classes),
        }
        for d in DATASETS.values()
    ]


def _models(options: Globals) -> Rows:
    from ..experiments.backbones import BACKBONES

    rows = [{"name": b.name, "summary": b.summary} for b in BACKBONES.values()]
    return [
        *rows,
        {"name": "timm:NAME", "summary": ("any of timm's models (noisebench list models timm)")},
    ]


def _timm() -> Rows:
    import timm

    return [{"name": f"timm:{name}"} for name in timm.list_models()]


def _recipes(options: Globals) -> Rows:
    from ..experiments.recipes import RECIPES

    return [
        {"name": name, "summary": r.summary, "source": r.source, "settings": r.settings, "on": r.on}
        for name, r in RECIPES.items()
    ]


def _suites(options: Globals) -> Rows:
    """images: how many trainings see, in epochs of CE; takes: how long that was, and on what."""
    from ..experiments.suite import expand, images_of, read_suites, suite_files

    found = {
        name: (suite, path)
        for path in reversed(suite_files(options.workspace))
        for name, suite in read_suites(path).items()
    }
    return [
        {
            "name": name,
            "runs": len(expand(suite)),
            "images": images_of(suite),
            "takes": suite.takes,
            "summary": suite.summary,
            "defaults": suite.defaults.model_dump(exclude_unset=True),
            "matrix": suite.matrix,
            "path": str(path),
        }
        for name, (suite, path) in found.items()
    ]


def _metrics(options: Globals) -> Rows:
    from ..reporting import METRICS

    return [
        {"name": name, "title": m.title, "selection": m.selection, "doc": m.doc}
        for name, m in METRICS.items()
    ]


def _figures(options: Globals) -> Rows:
    from ..reporting.figures import FIGURES

    return [
        {"name": name, "summary": kind.summary, "of": kind.of} for name, kind in FIGURES.items()
    ]


def _trackers(options: Globals) -> Rows:
    from ..runs.trackers import TRACKERS

    return [
        {
            "name": k.name,
            "summary": k.summary,
            "extra": f"noisebench[{k.name}]",
            "heeds": list(k.settings),
        }
        for k in TRACKERS.values()
    ]


def _manifests(options: Globals) -> Rows:
    folder = options.workspace / "manifests"
    paths = sorted(
        path for suffix in ("csv", "csv.gz", "parquet") for path in folder.glob(f"*.{suffix}")
    )
    return [_manifest(path) for path in paths]


def _manifest(path: Path) -> dict[str, Any]:
    """One row; a damaged file does not hide the others."""
    from ..errors import ManifestError
    from ..labels.manifest import read_manifest

    shown = (
        "dataset",
        "noise",
        "convention",
        "n",
        "subset",
        "nominal_rate",
        "realised_rate",
        "worst_class",
        "worst_rate",
        "held_out",
        "noise_seed",
    )
    row: dict[str, Any] = {
        "name": path.name,
        **dict.fromkeys(shown),
        "dataset": "damaged",
        "path": str(path),
    }
    try:
        manifest = read_manifest(path)
    except ManifestError:
        return row
    meta = manifest.meta
    rates = {
        name: rate
        for name, rate in zip(meta["classes"], meta["per_class_rate"], strict=True)
        if rate
    }
    worst = max(rates, key=rates.__getitem__, default=None)
    row.update({key: meta[key] for key in shown if key in meta})
    row.update(
        worst_class=worst,
        worst_rate=rates.get(worst),
        held_out=None if manifest.val is None else int(manifest.val.sum()),
    )
    return row


def _runs(options: Globals) -> Rows:
    from ..runs.folder import run_folders

    folder = options.workspace / "runs"
    return [_run(run) for run in (run_folders([folder]) if folder.is_dir() else [])]


def _run(run: RunFolder) -> dict[str, Any]:
    """One row; a damaged folder does not hide the others."""
    from ..errors import DataError

    row: dict[str, Any] = {
        "name": run.path.name,
        "status": run.status(),
        "test_acc": None,
        "path": str(run.path),
        "held_by": None,
    }
    if row["status"] != "done":
        return {**row, "held_by": run.lock_owner() or None}
    try:
        return {**row, "test_acc": run.record()["metrics"]["test_acc"]["last"]}
    except DataError:
        return {**row, "status": "damaged"}


def _env(options: Globals) -> Rows:
    from ..core.hardware import environment

    return [{"name": key, "value": value} for key, value in environment().items()]


_KINDS: dict[str, Callable[[Globals], Rows]] = {
    "losses": _losses,
    "noises": _noises,
    "conventions": _conventions,
    "strategies": _strategies,
    "methods": _methods,
    "datasets": _datasets,
    "models": _models,
    "recipes": _recipes,
    "suites": _suites,
    "metrics": _metrics,
    "figures": _figures,
    "published": _published,
    "trackers": _trackers,
    "manifests": _manifests,
    "runs": _runs,
    "env": _env,
}
