"""`noisebench report`: finished runs as tables. Needs no torch."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import say, show, write
from .figure import draw_figure
from .options import Globals, Json

if TYPE_CHECKING:
    from ..report import Table
    from ..runfolder import RunFolder

_SUFFIXES = {".md": "md", ".csv": "csv", ".json": "json"}


def report(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH", help="Runs, folders of runs or workspaces; default: this workspace.")
    ] = None,
    rows: Annotated[str, typer.Option("--rows", metavar="AXIS", help="What the rows are.")] = "method",
    cols: Annotated[str, typer.Option("--cols", metavar="AXIS", help="What the columns are.")] = "noise",
    metric: Annotated[
        str, typer.Option("--metric", metavar="NAME", help="last, mean_last10, best, memorised ... (noisebench list metrics)")
    ] = "last",
    conditions: Annotated[list[str] | None, typer.Option("--where", metavar="AXIS=VALUE", help="Only these runs; repeatable.")] = None,
    form: Annotated[str | None, typer.Option("--format", metavar="NAME", help="table, md, csv or json.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write there; the suffix decides the format.")] = None,
    published: Annotated[
        str | None, typer.Option("--published", metavar="NAME", help="A paper's numbers beside ours (noisebench list published).")
    ] = None,
    figure: Annotated[
        str | None, typer.Option("--figure", metavar="NAME", help="Draw instead: transition, of the manifests PATH or the current one.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare methods across noise rates: mean and spread over seeds.

    noisebench report --metric mean_last10
    """
    from ..errors import DataError
    from ..runfolder import run_folders

    options: Globals = context.obj
    workspace = options.open()  # plugins name noises
    if figure is not None:
        _check_figure(context)
        draw_figure(figure, paths or [], workspace, out, json=json)
        return
    chosen = _format(form, out, json=json)
    if not paths and not (options.workspace / "runs").is_dir():
        raise DataError(f"no runs in {options.workspace}: start with noisebench train or noisebench run quick")
    tables = make(run_folders(paths or [options.workspace]), metric, rows, cols, conditions or [], published)
    if not tables:
        raise DataError("no finished run there: noisebench list runs shows what there is")
    emit(tables, chosen, metric, out)


def _check_figure(context: typer.Context) -> None:
    """A figure has no rows, columns or metric."""
    from ..errors import ConfigError

    for name, option in (
        ("rows", "--rows"),
        ("cols", "--cols"),
        ("metric", "--metric"),
        ("conditions", "--where"),
        ("published", "--published"),
        ("form", "--format"),
    ):
        if context.get_parameter_source(name).name == "COMMANDLINE":  # type: ignore[union-attr]
            raise ConfigError(f"{option} has no effect on a figure")
    if context.params["json"] and context.params["out"]:
        raise ConfigError("--json prints the figure's numbers, --out writes it: choose one")


def make(folders: list[RunFolder], metric: str, rows: str, cols: str, conditions: list[str], published: str | None = None) -> list[Table]:
    """The tables of these runs, a paper's numbers beside them where one is named."""
    from ..report import find_metric, make_tables, put_beside, read_rows, where

    found = find_metric(metric)
    tables = make_tables(where(read_rows(folders, found), conditions), found, rows, cols)
    return tables if published is None else put_beside(tables, published, metric)


def _format(form: str | None, out: Path | None, *, json: bool) -> str:
    from ..errors import ConfigError
    from ..report import FORMATS

    if json and form not in (None, "json"):
        raise ConfigError(f"--json and --format {form} contradict each other")
    if out is not None and form is None and not json and out.suffix not in _SUFFIXES:
        raise ConfigError(f"the suffix of {out} names no format: .md, .csv or .json, or give --format")
    chosen = "json" if json else form or (_SUFFIXES[out.suffix] if out else "table")
    if chosen not in FORMATS:
        raise ConfigError(f"--format is one of {', '.join(FORMATS)}, got {chosen!r}")
    if chosen == "table" and out:
        raise ConfigError("a table is for the terminal: write .md, .csv or .json")
    return chosen


def emit(tables: list[Table], form: str, metric: str, out: Path | None = None) -> None:
    """Print or write the tables; in a GitHub job append them to its summary too."""
    from ..report import render
    from ..report.terminal import draw_table
    from ..storing import write_text

    if out is not None:
        write_text(out, render(tables, form, metric))
        say(f"{out} written")
    elif form == "table":
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        show(*(draw_table(table, width) for table in tables))
    else:
        write(render(tables, form, metric))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(render(tables, "md", metric))
        except OSError as error:
            say(f"warning: GITHUB_STEP_SUMMARY cannot be written: {error.strerror}")
