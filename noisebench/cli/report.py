"""`noisebench report`: finished runs as tables and figures. Needs no torch."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError, DataError
from .console import order, say, show, write, write_json
from .options import Filter, Globals, Json, option, with_options

if TYPE_CHECKING:
    from ..reporting import Check, Report, RunLike, TableLayout
    from ..reporting.figures.panels import Figure
    from ..runs.workspace import Workspace

# options by parameter, where the name is another or an option has an effect on some reports only
_TABLE_OPTIONS = ("rows", "cols", "metric", "budget", "published", "compare_to")
_CHECK_OPTIONS = ("baseline", "tolerance", "alpha", "allow_missing")
_NOT_OF_FIGURES = (
    *("rows", "cols", "form", "ranks", "published", "compare_to", "check", "save_baseline"),
    *_CHECK_OPTIONS,
)
_FLAGS = {"form": "--format", "conditions": "--filter", "losses": "--loss"}
# figures of any metric and budget; the others are of a number that every run has
_METRIC_FIGURES = ("rates", "ranks")


@with_options
def report(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH",
            help="Runs, folders of them, workspaces, results CSVs; default: this workspace.",
        ),
    ] = None,
    rows: Annotated[
        str,
        option(
            "Tables",
            "--rows",
            metavar="AXIS",
            help="The axis of the rows; several: dataset,method.",
        ),
    ] = "method",
    cols: Annotated[
        str,
        option(
            "Tables",
            "--cols",
            metavar="AXIS",
            help="The axis of the columns; several: noise,model.",
        ),
    ] = "noise",
    metric: Annotated[
        str,
        option(
            "Tables",
            "--metric",
            metavar="NAME",
            help="last, mean_last10, best, memorised ...; several side by side: last,best.",
        ),
    ] = "last",
    conditions: Filter = None,
    form: Annotated[
        str | None,
        option(
            "Output",
            "--format",
            metavar="NAME",
            help="table, md, csv, json, html, latex, junit (of a --check), or runs: a line a run.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "Output",
            "--out",
            "-o",
            metavar="FILE",
            help="Write there; the suffix decides the format.",
        ),
    ] = None,
    budget: Annotated[
        str,
        option(
            "Tables",
            "--budget",
            metavar="NAME",
            help="What the methods of a table share: epochs, or compute, at any number of epochs.",
        ),
    ] = "epochs",
    published: Annotated[
        str | None,
        option(
            "Tables",
            "--published",
            metavar="NAME",
            help="A paper's numbers beside ours (noisebench list published).",
        ),
    ] = None,
    compare_to: Annotated[
        str | None,
        option(
            "Tables",
            "--compare-to",
            metavar="METHOD",
            help="Add each row's difference from this one, with a 95 % interval.",
        ),
    ] = None,
    ranks: Annotated[bool, option("Tables", "--ranks", help="Add each row's mean rank.")] = False,
    check: Annotated[
        bool,
        option(
            "Check",
            "--check",
            help="Compare with --baseline: exit 4 on a regression, 5 if undecided.",
        ),
    ] = False,
    baseline: Annotated[
        Path | None,
        option(
            "Check",
            "--baseline",
            metavar="FILE",
            help="What --save-baseline or --format json wrote.",
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
            help="Ignore smaller drops. In the metric's unit: points of a percentage (default "
            "0.5), nats of nll (0.005); of one metric: "
            "nll=0.02; 0: exact, without statistics.",
        ),
    ] = None,
    alpha: Annotated[
        float,
        option(
            "Check",
            "--alpha",
            metavar="SHARE",
            help="Chance of a false alarm a suite, by the seeds' noise.",
        ),
    ] = 0.05,
    allow_missing: Annotated[
        bool,
        option(
            "Check", "--allow-missing", help="Cells of the baseline that have no run here pass."
        ),
    ] = False,
    figure: Annotated[
        str | None,
        option(
            "Figures",
            "--figure",
            metavar="NAME",
            help="Draw instead: rates, curves, density ... (noisebench list figures)",
        ),
    ] = None,
    epoch: Annotated[
        int | None,
        option(
            "Figures",
            "--epoch",
            metavar="N",
            help="Of density, gradient, paper; default: after a quarter.",
        ),
    ] = None,
    losses: Annotated[
        list[str] | None,
        option(
            "Figures", "--loss", metavar="TEXT", help="Of the figures loss and norm; repeatable."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Compare methods across noise rates: mean and spread over seeds.

    noisebench report --metric mean_last10
    """
    from ..reporting import read_tolerance

    options: Globals = context.obj
    workspace = options.open()  # plugins name noises
    _check_figure(context)
    if figure is not None:
        if json and out:
            raise ConfigError("--json prints the figure's numbers, --out writes it: choose one")
        made = _figure(context, workspace)
        _emit_figure(made, out, json=json)
        return
    form = _format(form, out, json=json)
    _check_options(context, form)
    layout = layout_of(
        rows, cols, metric, ranks=ranks, published=published, budget=budget, compare_to=compare_to
    )
    if check:
        _check_results(layout)
        read_tolerance(tolerance, layout.metrics)
    runs = _find_runs(options, paths, check=check)
    made_report = make(runs, layout, conditions or [], workspace, needed=not check)
    if save_baseline is not None:
        _save_baseline(made_report, save_baseline)
    verdict = None
    if check and baseline:
        verdict = _verdict(made_report, baseline, tolerance, alpha, allow_missing)
    emit(made_report, form, out, verdict)
    if verdict is not None and verdict.error is not None:
        raise verdict.error


def _given(context: typer.Context, name: str) -> bool:
    return context.get_parameter_source(name).name == "COMMANDLINE"  # type: ignore[union-attr]


def _flag(name: str) -> str:
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


def _check_figure(context: typer.Context) -> None:
    """Refuse options without effect: a figure has no format and no check, a table no epoch."""
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
    for parameter in useless:
        if _given(context, parameter):
            raise ConfigError(f"{_flag(parameter)} has no effect {what}")


def _figure(context: typer.Context, workspace: Workspace) -> Figure:
    from ..labels.manifest import read_manifest
    from ..reporting.figures import find_figure

    given = context.params
    spec, paths = find_figure(given["figure"]), given["paths"] or []
    if spec.of == "losses":
        return spec.make(given["losses"] or [])
    if spec.of == "manifests":
        chosen = paths or [path for path in [workspace.current] if path]
        if not chosen:
            raise ConfigError(
                "name a manifest to draw: noisebench report --figure transition manifests/NAME.csv"
            )
        return spec.make([read_manifest(path) for path in chosen])
    layout = layout_of("method", "noise", given["metric"], budget=given["budget"])
    runs = _find_runs(context.obj, paths)
    made = make(runs, layout, given["conditions"] or [], workspace, needed=True)
    return spec.of_runs(made.tables, given["epoch"])


def _emit_figure(figure: Figure, out: Path | None, *, json: bool) -> None:
    from ..core.files.atomic import atomic_write, write_text
    from ..reporting.figures.panels import form_of
    from ..reporting.figures.transition import TransitionFigure, draw_in_terminal

    if out:
        if form_of(out) == "csv":
            write_text(out, figure.as_csv())
        else:
            picture = figure.picture(form_of(out))
            atomic_write(out, lambda file: file.write(picture))
        say(f"{out} written. {figure.caption}")
    elif json:
        write_json(figure.as_dict())
    elif isinstance(figure, TransitionFigure):
        show(*(draw_in_terminal(manifest, terminal_width()) for manifest in figure.manifests))
    else:
        write(figure.as_csv())


def terminal_width() -> int | None:
    """None where stdout is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _check_options(context: typer.Context, form: str) -> None:
    """Refuse options without effect."""
    from ..reporting import RANKED

    given = context.params
    check = given["check"]
    if check and given["baseline"] is None:
        raise ConfigError(
            "--check compares with --baseline FILE, which --save-baseline FILE writes"
        )
    for name in _CHECK_OPTIONS:
        if _given(context, name) and not check:
            raise ConfigError(f"{_flag(name)} has an effect with --check only")
    if check and given["save_baseline"] is not None:
        raise ConfigError(
            "--check and --save-baseline: check first, then save what is meant to stay"
        )
    if form == "junit" and not check:
        raise ConfigError("--format junit holds the findings of --check: give it too")
    useless = [_flag(name) for name in _TABLE_OPTIONS if _given(context, name)]
    if form == "runs" and not check and useless:
        raise ConfigError(
            f"{useless[0]} lays out tables, and --format runs writes every number of "
            "each run: leave it out"
        )
    if not 0 < given["alpha"] < 1:
        raise ConfigError(f"--alpha is a share between 0 and 1, got {given['alpha']}")
    if given["ranks"] and form not in RANKED:
        raise ConfigError(
            f"--ranks adds a column to {', '.join(RANKED)}; a cell of {form} needs none"
        )
    if given["compare_to"] is not None and form == "junit":
        raise ConfigError("--compare-to has no effect on junit: give another --format")


def _check_results(layout: TableLayout) -> None:
    """Refuse a check of costs alone."""
    from ..reporting import find_metric

    if all(find_metric(name).spent for name in layout.metrics):
        raise ConfigError(
            f"--check judges results, and {layout.metric} is what a run took: give "
            "another --metric, alone or beside it"
        )


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
    """The layout of tables. Raises UnknownName for a metric, ConfigError for a budget."""
    from ..experiments.resolve import checked_budget
    from ..reporting import TableLayout, find_metric

    layout = TableLayout(rows, cols, metric, ranks, published, checked_budget(budget), compare_to)
    for name in layout.metrics:
        find_metric(name)
    return layout


def _find_runs(options: Globals, paths: list[Path] | None, *, check: bool = False) -> list[RunLike]:
    """The runs at these paths, or the workspace's. Raises DataError where there are none, but under
    a check.
    """
    from ..reporting import runs_at

    if paths or (options.workspace / "runs").is_dir():
        return runs_at(paths or [options.workspace])
    if check:
        return []  # every cell is missing, which is a finding of the check
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
    """The report of these runs, with a warning for each damaged result, which is passed over.
    Raises DataError where runs are `needed` and there are none.
    """
    from ..reporting import report_of

    def warn(error: DataError) -> None:
        say(f"warning: passed over: {error}")

    made = report_of(runs, layout, conditions, warn, workspace)
    if needed and not made.tables:
        raise DataError(
            "no finished run there; noisebench list runs says what became of each run "
            "of a workspace"
        )
    return made


def _save_baseline(made: Report, path: Path) -> None:
    from ..core.files.atomic import write_text
    from ..reporting.render.text import as_json

    content = made.document()
    write_text(path, as_json(content))
    failed = sum(cell["failed"] for cell in content["cells"])
    say(f"{path} written" + (f"; {failed} failed runs are not in it" if failed else ""))


def _verdict(
    made: Report, baseline: Path, tolerance: str | None, alpha: float, allow_missing: bool
) -> Check:
    from ..reporting import Rules, check, read_baseline, read_tolerance

    rules = Rules(read_tolerance(tolerance, made.shape.metrics), alpha, allow_missing)
    return check(made.document(), read_baseline(baseline, made.metric), rules, made.damaged)


def _format(form: str | None, out: Path | None, *, json: bool) -> str:
    from ..reporting import FORMATS, SUFFIXES

    if json and form not in (None, "json"):
        raise ConfigError(f"--json and --format {form} contradict each other")
    if out is not None and form is None and not json and out.suffix not in SUFFIXES:
        raise ConfigError(
            f"the suffix of {out} names no format: {', '.join(SUFFIXES)}, or give --format"
        )
    chosen = "json" if json else form or (SUFFIXES[out.suffix] if out else "table")
    if chosen not in FORMATS:
        raise ConfigError(f"--format is one of {', '.join(FORMATS)}, got {chosen!r}")
    if chosen == "table" and out:
        raise ConfigError(f"a table is for the terminal: write {', '.join(SUFFIXES)}")
    return chosen


def emit(made: Report, form: str, out: Path | None = None, verdict: Check | None = None) -> None:
    """Print or write the report; in a GitHub job append it to the step's summary too, and print
    problems as error lines.
    """
    from ..core.files.atomic import write_text
    from ..reporting.render.terminal import draw_table

    if out is not None:
        write_text(out, made.render(form, verdict))
        say(f"{out} written")
    elif form == "table":
        width = terminal_width()
        show(*(draw_table(table, width, ranks=made.shape.ranks) for table in made.tables))
    else:
        write(made.render(form, verdict))
    if verdict is not None:
        _print_verdict(verdict, quiet=out is None and form == "md")
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        _append_summary(Path(summary), made, verdict)


def _print_verdict(verdict: Check, *, quiet: bool) -> None:
    """On stderr; `quiet`: only the error lines of a GitHub job, as stdout has the text."""
    from ..reporting.ci import error_lines

    if "GITHUB_STEP_SUMMARY" in os.environ:
        for line in error_lines(verdict.troubles):
            order(line)
    else:
        for line in [] if quiet else verdict.troubles:
            say(line)
    say(verdict.summary)


def _append_summary(path: Path, made: Report, verdict: Check | None) -> None:
    from ..reporting.ci import step_summary

    lines = [verdict.summary, *verdict.troubles] if verdict else []
    try:
        used = path.stat().st_size if path.exists() else 0
        with path.open("a", encoding="utf-8") as file:
            file.write(step_summary(made.tables, lines, used=used, ranks=made.shape.ranks))
    except OSError as error:
        say(f"warning: GITHUB_STEP_SUMMARY cannot be written: {error.strerror}")
