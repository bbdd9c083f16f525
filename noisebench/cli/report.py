"""`noisebench report` makes tables and figures of finished runs. Needs no torch."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.files.atomic import atomic_write, write_text
from ..errors import ConfigError, DataError
from .completion import OF_ARGUMENT
from .console import say, show, write_json
from .options import Filter, Globals, Json, option, refuse, with_options

if TYPE_CHECKING:
    from ..reporting import Check, Report, RunLike, TableLayout
    from ..runs.workspace import Workspace

# parameters of options that have an effect on some reports only, or another name than their option
_TABLE_OPTIONS = ("rows", "cols", "metric", "budget", "published", "compare_to")
_CHECK_OPTIONS = ("baseline", "tolerance", "alpha", "allow_missing")
_NOT_OF_FIGURES = (
    *("rows", "cols", "form", "ranks", "published", "compare_to", "check", "save_baseline"),
    *_CHECK_OPTIONS,
)
_FLAGS = {"form": "--format", "conditions": "--filter", "losses": "--loss"}
# figures that use --metric and --budget
_METRIC_FIGURES = ("rates", "ranks")


@with_options
def report(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH",
            autocompletion=OF_ARGUMENT["PATH"],
            help="Run directories, directories of runs, workspaces or results CSVs; default: this "
            "workspace.",
        ),
    ] = None,
    rows: Annotated[
        str,
        option(
            "Tables",
            "--rows",
            metavar="AXIS",
            help="Axis of the rows; several: dataset,method.",
        ),
    ] = "method",
    cols: Annotated[
        str,
        option(
            "Tables",
            "--cols",
            metavar="AXIS",
            help="Axis of the columns; several: noise,model.",
        ),
    ] = "noise",
    metric: Annotated[
        str,
        option(
            "Tables",
            "--metric",
            metavar="NAME",
            help="Metric: last, mean_last10, best, memorised ... (noisebench list metrics); "
            "several side by side: last,best.",
        ),
    ] = "last",
    conditions: Filter = None,
    form: Annotated[
        str | None,
        option(
            "Output",
            "--format",
            metavar="NAME",
            help="Format: table, md, csv, json, html, latex, junit (with --check), or runs: one "
            "line per run.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "Output",
            "--out",
            "-o",
            metavar="FILE",
            help="File to write; its suffix sets the format.",
        ),
    ] = None,
    budget: Annotated[
        str,
        option(
            "Tables",
            "--budget",
            metavar="NAME",
            help="Compare methods at equal 'epochs', or at equal 'compute' with any number "
            "of epochs.",
        ),
    ] = "epochs",
    published: Annotated[
        str | None,
        option(
            "Tables",
            "--published",
            metavar="NAME",
            help="Add the published numbers of a paper (noisebench list published).",
        ),
    ] = None,
    compare_to: Annotated[
        str | None,
        option(
            "Tables",
            "--compare-to",
            metavar="METHOD",
            help="Add each row's difference from this method, with a 95 % interval.",
        ),
    ] = None,
    ranks: Annotated[bool, option("Tables", "--ranks", help="Add each row's mean rank.")] = False,
    check: Annotated[
        bool,
        option(
            "Check",
            "--check",
            help="Compare with --baseline; exit code 4 on a regression, 5 if undecided.",
        ),
    ] = False,
    baseline: Annotated[
        Path | None,
        option(
            "Check",
            "--baseline",
            metavar="FILE",
            help="Baseline, written by --save-baseline or --format json.",
        ),
    ] = None,
    save_baseline: Annotated[
        Path | None,
        option(
            "Check", "--save-baseline", metavar="FILE", help="Write these results as a baseline."
        ),
    ] = None,
    tolerance: Annotated[
        str | None,
        option(
            "Check",
            "--tolerance",
            metavar="SIZE",
            help="Ignore drops below this size, in the metric's unit: percentage points (default "
            "0.5), nats for nll (0.005); for one metric: nll=0.02; 0: fail on any decrease, no "
            "test.",
        ),
    ] = None,
    alpha: Annotated[
        float,
        option(
            "Check",
            "--alpha",
            metavar="SHARE",
            help="Family-wise significance level (Holm).",
        ),
    ] = 0.05,
    allow_missing: Annotated[
        bool,
        option(
            "Check", "--allow-missing", help="Pass cells of the baseline that have no run here."
        ),
    ] = False,
    figure: Annotated[
        str | None,
        option(
            "Figures",
            "--figure",
            metavar="NAME",
            help="Draw a figure: rates, curves, density ... (noisebench list figures).",
        ),
    ] = None,
    epoch: Annotated[
        int | None,
        option(
            "Figures",
            "--epoch",
            metavar="N",
            help="Epoch of the figures density, gradient and paper; default: after a quarter of "
            "training.",
        ),
    ] = None,
    losses: Annotated[
        list[str] | None,
        option(
            "Figures",
            "--loss",
            metavar="TEXT",
            help="Loss to draw in the figures loss and norm; repeatable.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compare methods across noise rates: mean and spread over seeds.

    noisebench report --metric mean_last10
    """
    from ..reporting import Rules, find_metric, read_baseline, read_tolerance
    from ..reporting import check as compare

    options: Globals = context.obj
    workspace = options.open()  # loads plugins, which register noises
    _check_figure(context)
    if figure is not None:
        refuse(
            (
                json and out,
                "--json prints the numbers of the figure, --out writes it: give one of them",
            )
        )
        _show_figure(context, workspace)
        return
    form = _checked_format(context)
    layout = layout_of(
        rows, cols, metric, ranks=ranks, published=published, budget=budget, compare_to=compare_to
    )
    refuse(
        (
            check and all(find_metric(name).spent for name in layout.metrics),
            f"--check compares results, but {layout.metric} measures cost: give another --metric, "
            "alone or with it",
        )
    )
    rules = Rules(read_tolerance(tolerance, layout.metrics), alpha, allow_missing)
    runs = _find_runs(options, paths, check=check)
    results = make(runs, layout, conditions or [], workspace, needed=not check)
    if save_baseline is not None:
        write_text(save_baseline, results.render("json"))
        failed = sum(cell["failed"] for cell in results.document()["cells"])
        left_out = f"; {failed} failed runs are left out" if failed else ""
        say(f"{save_baseline} written{left_out}")
    verdict = None
    if baseline is not None:
        before = read_baseline(baseline, results.metric)
        verdict = compare(results.document(), before, rules, results.damaged)
    emit(results, form, out, verdict)
    if verdict is not None and verdict.error is not None:
        raise verdict.error


def _given(context: typer.Context, name: str) -> bool:
    return context.get_parameter_source(name).name == "COMMANDLINE"  # type: ignore[union-attr]


def _flag(name: str) -> str:
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


def _check_figure(context: typer.Context) -> None:
    """Refuse options without effect on a figure, or without one."""
    from ..reporting.figures import find_figure

    name = context.params["figure"]
    if name is None:
        useless, what = ["epoch", "losses"], "without --figure"
    else:
        spec, what = find_figure(name), f"on the figure {name}"
        useless = [
            *_NOT_OF_FIGURES,
            *(["conditions"] if spec.of != "runs" else []),
            *(["metric", "budget"] if name not in _METRIC_FIGURES else []),
            *(["epoch"] if not spec.epoch else []),
            *(["losses"] if spec.of != "losses" else []),
        ]
    refuse(*((_given(context, p), f"{_flag(p)} has no effect {what}") for p in useless))


def _show_figure(context: typer.Context, workspace: Workspace) -> None:
    """Print or write the figure of the options."""
    from ..labels.manifest import read_manifest
    from ..reporting.figures import find_figure
    from ..reporting.figures.panels import form_of
    from ..reporting.figures.transition import TransitionFigure, draw_in_terminal

    given = context.params
    spec, paths, out = find_figure(given["figure"]), given["paths"] or [], given["out"]
    if spec.of == "losses":
        figure = spec.make(given["losses"] or [])
    elif spec.of == "manifests":
        chosen = paths or [path for path in [workspace.current] if path]
        if not chosen:
            raise ConfigError(
                "name a manifest to draw: noisebench report --figure transition manifests/NAME.csv"
            )
        figure = spec.make([read_manifest(path) for path in chosen])
    else:
        layout = layout_of("method", "noise", given["metric"], budget=given["budget"])
        runs = _find_runs(context.obj, paths)
        results = make(runs, layout, given["conditions"] or [], workspace, needed=True)
        figure = spec.of_runs(results.tables, given["epoch"])
    if out:
        form = form_of(out)
        content = figure.as_csv().encode() if form == "csv" else figure.picture(form)
        atomic_write(out, lambda file: file.write(content))
        say(f"{out} written. {figure.caption}")
    elif given["json"]:
        write_json(figure.as_dict())
    elif isinstance(figure, TransitionFigure):
        show(*(draw_in_terminal(manifest, terminal_width()) for manifest in figure.manifests))
    else:
        sys.stdout.write(figure.as_csv())


def terminal_width() -> int | None:
    """Columns of the terminal; None if stdout is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _checked_format(context: typer.Context) -> str:
    """The format of a report. Refuses options without effect."""
    from ..reporting import FORMATS, RANKED, SUFFIXES

    given = context.params
    check, out, form = given["check"], given["out"], given["form"]
    if given["json"]:
        form = "json"
    elif form is None:
        form = SUFFIXES.get(out.suffix) if out else "table"
    laid_out = [_flag(name) for name in _TABLE_OPTIONS if _given(context, name)]
    checked = [_flag(name) for name in _CHECK_OPTIONS if _given(context, name)]
    refuse(
        (
            given["json"] and given["form"] not in (None, "json"),
            f"--json and --format {given['form']} contradict each other",
        ),
        (
            form is None,
            f"--out must end in {', '.join(SUFFIXES)}, got {out}; or give --format",
        ),
        (form not in FORMATS, f"--format is one of {', '.join(FORMATS)}, got {form!r}"),
        (
            form == "table" and out,
            f"--format table is for the terminal: with --out write {', '.join(SUFFIXES)}",
        ),
        (
            check and given["baseline"] is None,
            "--check needs --baseline FILE, written by --save-baseline FILE",
        ),
        (checked and not check, f"{''.join(checked[:1])} has an effect with --check only"),
        (
            check and given["save_baseline"] is not None,
            "--check and --save-baseline exclude each other: check first, then save",
        ),
        (
            form == "junit" and not check,
            "--format junit needs --check, whose findings it contains",
        ),
        (
            form == "runs" and not check and laid_out,
            f"{''.join(laid_out[:1])} has no effect on --format runs, which writes all numbers "
            "of each run: leave it out",
        ),
        (
            not 0 < given["alpha"] < 1,
            f"--alpha must be between 0 and 1, got {given['alpha']}",
        ),
        (
            given["ranks"] and form not in RANKED,
            f"--ranks has no effect on {form}: it adds a column to {', '.join(RANKED)}",
        ),
        (
            given["compare_to"] is not None and form == "junit",
            "--compare-to has no effect on junit: give another --format",
        ),
    )
    return str(form)


def layout_of(
    rows: str,
    cols: str,
    metric: str,
    *,
    ranks: bool = False,
    published: str | None = None,
    budget: str = "epochs",
    compare_to: str | None = None,
) -> TableLayout:
    """The layout of the tables. Raises UnknownName for an unknown metric, ConfigError for an
    unknown budget.
    """
    from ..experiments.resolve import checked_budget
    from ..reporting import TableLayout, find_metric

    layout = TableLayout(rows, cols, metric, ranks, published, checked_budget(budget), compare_to)
    for name in layout.metrics:
        find_metric(name)
    return layout


def _find_runs(options: Globals, paths: list[Path] | None, *, check: bool = False) -> list[RunLike]:
    """The runs at these paths, or those of the workspace. Raises DataError if there are none,
    except for a check.
    """
    from ..reporting import runs_at

    if paths or (options.workspace / "runs").is_dir():
        return runs_at(paths or [options.workspace])
    if check:
        return []  # the check reports each cell as missing
    raise DataError(
        f"no runs in {options.workspace}: start with noisebench train or noisebench run quick"
    )


def make(
    runs: Sequence[RunLike],
    layout: TableLayout,
    conditions: list[str],
    workspace: Workspace,
    *,
    needed: bool = False,
) -> Report:
    """The report of these runs. Damaged results are skipped with a warning. Raises DataError if
    runs are `needed` and there are none.
    """
    from ..reporting import report_of

    results = report_of(
        runs,
        layout,
        conditions,
        lambda error: say(f"warning: skipped: {error}"),
        workspace,
    )
    if needed and not results.tables:
        raise DataError("no finished run found; noisebench list runs shows the status of each run")
    return results


def emit(results: Report, form: str, out: Path | None = None, verdict: Check | None = None) -> None:
    """Print or write the report. In a GitHub job, also append it to the summary of the step and
    print problems as error annotations.
    """
    from ..reporting.render.terminal import draw_table

    if out is not None:
        write_text(out, results.render(form, verdict))
        say(f"{out} written")
    elif form == "table":
        width = terminal_width()
        show(*(draw_table(table, width, ranks=results.shape.ranks) for table in results.tables))
    else:
        sys.stdout.write(results.render(form, verdict))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if verdict is not None:
        if summary is not None:
            from ..reporting.ci import error_lines

            sys.stderr.write("".join(f"{line}\n" for line in error_lines(verdict.troubles)))
        elif out is not None or form != "md":  # otherwise stdout has the findings
            for line in verdict.troubles:
                say(line)
        say(verdict.summary)
    if summary:
        _append_summary(Path(summary), results, verdict)


def _append_summary(path: Path, results: Report, verdict: Check | None) -> None:
    from ..reporting.ci import step_summary

    lines = [verdict.summary, *verdict.troubles] if verdict else []
    try:
        used = path.stat().st_size if path.exists() else 0
        with path.open("a", encoding="utf-8") as file:
            file.write(step_summary(results.tables, lines, used=used, ranks=results.shape.ranks))
    except OSError as error:
        say(f"warning: GITHUB_STEP_SUMMARY cannot be written: {error.strerror}")
