"""`noisebench list` shows the registered names, manifests and runs. Only `list models timm` loads
torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.progress import track
from .completion import OF_ARGUMENT, completing
from .console import facts_table, images, percent, show, text_table, write_json
from .options import Globals, Json

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from ..core.registry import Entry
    from ..experiments.methods import Method
    from ..experiments.published import Published

Rows = list[dict[str, Any]]


def list_(
    context: typer.Context,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            autocompletion=completing(lambda ctx, incomplete: (*_KINDS, "schema")),
            help="Kind: losses noises conventions strategies methods datasets models recipes "
            "suites metrics figures published trackers "
            "manifests runs env schema.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            autocompletion=OF_ARGUMENT["NAME"],
            help="Show all facts about this name.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List losses, noises, methods, models, runs and more.

    noisebench list losses gce
    """
    from ..errors import UnknownName

    options: Globals = context.obj
    options.open()  # loads plugins, which add names
    if kind == "schema":
        from ..experiments.suite_schema import suite_schema

        write_json(suite_schema())
        return
    if kind not in _KINDS:
        raise UnknownName("kind of list", kind, _KINDS, "losses")
    if (kind, name) == ("models", "timm"):
        import timm

        rows: Rows = [{"name": f"timm:{model}"} for model in timm.list_models()]
        name = None
    else:
        rows = _KINDS[kind](options)
    if name is not None:
        names = [row["name"] for row in rows]
        rows = [row for row in rows if name in (row["name"], *row.get("aliases", ()))]
        if not rows:
            raise UnknownName(_SINGULAR.get(kind, kind.removesuffix("s")), name, names, kind)
    if json:
        write_json(rows if name is None else rows[0])
    elif name is not None:
        facts = [
            (
                _HEADS.get(key, key.replace("_", " ")),
                images(value) if key == "images" else _plain(value),
            )
            for key, value in rows[0].items()
            if value not in (None, "", [], {}) and key != "cells"
        ]
        table = facts_table((key, *text.split("\n")) for key, text in facts)
        show(table, *(_paper_tables(name) if kind == "published" else []))
    elif rows:
        keys = [key for key in rows[0] if key not in _ONLY_IN_FULL]
        show(
            text_table(
                (_HEADS.get(key, key.replace("_", " ")) for key in keys),
                ([_cell(key, row.get(key)) for key in keys] for row in rows),
            )
        )
    else:
        show("none")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _cell(key: str, value: Any) -> str:
    """A value as text: shares in percent, numbers of images abbreviated, None empty."""
    if key == "images":
        return images(value)
    if value is None:
        return ""
    return percent(value) if key in _SHARES and value != "" else _plain(value)


_HEADS = {
    "cells_known": "results",
    "heeds": "environment variables",
    "held out": "validation split",
    "held_by": "locked by",
    "held_out": "validation",
    "laws": "properties",
    "n": "examples",
    "overall": "overall rate",
    "takes": "runtime",
}
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

    presets: dict[str, dict[str, str]] = {}
    for method in METHODS.values():
        if isinstance(call := parse(method.loss), Call):  # a method of this loss alone
            presets.setdefault(call.name, {}).update(_presets(method))
    return [
        _entry(
            entry,
            presets=presets.get(entry.name, {}),
            aliases=[*entry.aliases, *LOSSES.short_names(entry)],
        )
        # losses that modify another loss come last
        for entry in sorted(LOSSES, key=lambda loss: any(p.is_expression for p in loss.parameters))
    ]


def _presets(method: Method) -> dict[str, str]:
    """`cifar100 symmetric 0.4` -> the loss and strategy in this setting, and their source."""
    presets = {}
    for p in method.presets:
        setting = [p.dataset, p.noise, "" if p.rate is None else f"{p.rate:g}"]
        texts = f"{p.loss}, {p.strategy}" if p.strategy else p.loss
        presets[" ".join(setting).strip()] = f"{texts} ({p.source})"
    return presets


def _noises(options: Globals) -> Rows:
    """The noise models, and under asymmetric each class map with its paper and its overall rate."""
    from ..noise import MAPS, NOISES

    maps: Rows = [
        {
            "name": name,
            "text": f"asymmetric(rate, map={name!r})",
            "overall": f"{class_map.share:g} x rate",
            "summary": class_map.summary,
            "paper": class_map.paper,
            "num_classes": class_map.num_classes,
        }
        for name, class_map in MAPS.items()
    ]
    rows: Rows = []
    for entry in NOISES:
        overall = entry.facts.get("overall", "")
        rows.append({"name": "", "text": "", "overall": overall, **_entry(entry)})
        if any(p.name == "map" for p in entry.parameters):
            rows[-1]["maps"] = {row["name"]: f"{row['overall']}; {row['paper']}" for row in maps}
            rows += maps
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
    """One row per paper, with all its results."""
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
    """The published numbers of a paper in percent, one table per data set and network."""
    from ..experiments.published import cells_of

    groups: dict[str, list[Published]] = {}
    for cell in cells_of(name):
        groups.setdefault(f"{cell.dataset}, {cell.backbone}", []).append(cell)
    tables = []
    for title, cells in groups.items():
        numbers: dict[tuple[str, str], str] = {}
        copied: dict[str, list[Published]] = {}
        for cell in cells:
            noise = f"{cell.kind} {cell.rate:g}" if cell.rate else cell.kind
            if cell.kind == "human":
                noise = cell.noise.split("'")[1]
            std = "" if cell.std is None else f" ± {100 * cell.std:.2f}"
            numbers[cell.name, noise] = f"{100 * cell.mean:.2f}{std}"
            copied.setdefault(cell.name, []).append(cell)
        noises = list(dict.fromkeys(noise for _, noise in numbers))
        rows = [
            [
                method,
                *(numbers.get((method, noise), "–") for noise in noises),
                ", ".join(_distinct(copied[method], "copied_from")),
            ]
            for method in copied
        ]
        heads = ["method", *noises, *(["copied from"] if any(row[-1] for row in rows) else [])]
        tables.append(
            text_table(heads, (row[: len(heads)] for row in rows), right=noises, title=title)
        )
    return tables


def _strategies(options: Globals) -> Rows:
    """The cost is the compute of an epoch relative to CE, by the number of passes."""
    from ..strategies import STRATEGIES, ComputeCost

    rows = []
    for entry in sorted(STRATEGIES, key=lambda strategy: strategy.name != "standard"):
        cost = entry.facts.get("cost")
        share = f"{cost.share:.3g} x CE" if isinstance(cost, ComputeCost) else ""
        rows.append(_entry(entry, cost=share, passes=str(cost) if share else ""))
    return rows


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

    timm = {"name": "timm:NAME", "summary": "any model of timm (noisebench list models timm)"}
    return [*({"name": b.name, "summary": b.summary} for b in BACKBONES.values()), timm]


def _recipes(options: Globals) -> Rows:
    from ..experiments.recipes import RECIPES

    return [
        {"name": name, "summary": r.summary, "source": r.source, "settings": r.settings, "on": r.on}
        for name, r in RECIPES.items()
    ]


def _suites(options: Globals) -> Rows:
    """images: number of training images over all epochs, in epochs of CE; takes: measured runtime
    and machine.
    """
    from ..experiments.suite import expand, images_of, read_suites
    from ..experiments.suite_file import suite_files

    suites = {
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
        for name, (suite, path) in suites.items()
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
    patterns = ("*.csv", "*.csv.gz", "*.parquet")
    paths = sorted(chain(*map(folder.glob, patterns)))
    reported = track(paths, "reading manifests", options.tell, total=len(paths), unit="manifests")
    return [_manifest(path) for path in reported]


def _manifest(path: Path) -> dict[str, Any]:
    """The row of one manifest; a damaged file is marked as such."""
    from ..errors import ManifestError
    from ..labels.manifest import read_manifest

    shown = (
        *("dataset", "noise", "convention", "n", "subset", "nominal_rate", "realised_rate"),
        *("worst_class", "worst_rate", "held_out", "noise_seed"),
    )
    row: dict[str, Any] = {"name": path.name, **dict.fromkeys(shown), "path": str(path)}
    try:
        manifest = read_manifest(path)
    except ManifestError:
        return {**row, "dataset": "damaged"}
    meta = manifest.meta
    rates = zip(meta["per_class_rate"], meta["classes"], strict=True)
    worst = max(((rate, name) for rate, name in rates if rate), key=itemgetter(0), default=None)
    row.update({key: meta[key] for key in shown if key in meta})
    row["worst_rate"], row["worst_class"] = worst or (None, None)
    row["held_out"] = None if manifest.val is None else int(manifest.val.sum())
    return row


def _runs(options: Globals) -> Rows:
    """One row per run directory; a damaged one is marked as such."""
    from ..errors import DataError
    from ..runs.folder import run_folders

    folder, rows = options.workspace / "runs", list[dict[str, Any]]()
    runs = run_folders([folder]) if folder.is_dir() else []
    for run in track(runs, "reading runs", options.tell, total=len(runs), unit="runs"):
        status, test_acc, owner = run.status(), None, None
        if status == "done":
            try:
                test_acc = run.record()["metrics"]["test_acc"]["last"]
            except DataError:
                status = "damaged"
        else:
            owner = run.lock_owner() or None
        facts = {"name": run.path.name, "status": status, "test_acc": test_acc}
        rows.append({**facts, "path": str(run.path), "held_by": owner})
    return rows


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
