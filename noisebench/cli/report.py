"""`noisebench report`: finished runs as tables. Needs no torch."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import order, say, show, write
from .figure import Asked, draw_figure, without_effect
from .options import Globals, Json, Where

if TYPE_CHECKING:
    from ..errors import DataError
    from ..reporting import Check, Report, Rules, RunLike, TableLayout
    from ..runs.workspace import Workspace
_OF_TABLES = ("rows", "cols", "metric", "budget", "published", "against")
_OF_CHECK = {
    "baseline": "--baseline",
    "tolerance": "--tolerance",
    "alpha": "--alpha",
    "allow_missing": "--allow-missing",
}


def report(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH",
            help="Runs, folders of them, workspaces, files of runs; default: this workspace.",
        ),
    ] = None,
    rows: Annotated[
        str,
        typer.Option("--rows", metavar="AXIS", help="What the rows are; several: dataset,method."),
    ] = "method",
    cols: Annotated[
        str,
        typer.Option("--cols", metavar="AXIS", help="What the columns are; several: noise,model."),
    ] = "noise",
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            metavar="NAME",
            help="last, mean_last10, best, memorised ...; several side by side: last,best.",
        ),
    ] = "last",
    conditions: Where = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="table, md, csv, json, html, latex, junit, or runs: a line a run.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Write there; the suffix decides the format."
        ),
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            metavar="NAME",
            help="What a table's methods have alike: epochs, or compute, whatever epochs that is.",
        ),
    ] = "epochs",
    published: Annotated[
        str | None,
        typer.Option(
            "--published",
            metavar="NAME",
            help="A paper's numbers beside ours (noisebench list published).",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="METHOD",
            help="Add each row's difference from this one, with a 95 % interval.",
        ),
    ] = None,
    ranks: Annotated[bool, typer.Option("--ranks", help="Add each row's mean rank.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Compare with --baseline: exit 4 on a regression, 5 if undecided."
        ),
    ] = False,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline", metavar="FILE", help="What --save-baseline or --format json wrote."
        ),
    ] = None,
    save_baseline: Annotated[
        Path | None,
        typer.Option("--save-baseline", metavar="FILE", help="Write these results as a baseline."),
    ] = None,
    tolerance: Annotated[
        str | None,
        typer.Option(
            "--tolerance",
            metavar="SIZE",
            help="Ignore smaller drops. In the metric's unit: points of a percentage (default "
            "0.5), nats of nll (0.005); of one metric: "
            "nll=0.02; 0: exact, without statistics.",
        ),
    ] = None,
    alpha: Annotated[
        float,
        typer.Option(
            "--alpha", metavar="SHARE", help="Chance of a false alarm a suite, by the seeds' noise."
        ),
    ] = 0.05,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Cells of the baseline that have no run here pass."),
    ] = False,
    figure: Annotated[
        str | None,
        typer.Option(
            "--figure",
            metavar="NAME",
            help="Draw instead: rates, curves, density ... (noisebench list figures)",
        ),
    ] = None,
    epoch: Annotated[
        int | None,
        typer.Option(
            "--epoch", metavar="N", help="Of density, gradient, paper; default: after a quarter."
        ),
    ] = None,
    losses: Annotated[
        list[str] | None,
        typer.Option("--loss", metavar="TEXT", help="Of the figures loss and norm; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Compare methods across noise rates: mean and spread over seeds.

    noisebench report --metric mean_last10
    """
    options: Globals = context.obj
    workspace = options.open()  # plugins name noises
    _check_figure(context)
    if figure is not None:
        draw_figure(
            Asked(
                figure,
                paths or [],
                conditions or [],
                metric,
                budget,
                epoch,
                losses or [],
                out,
                json,
            ),
            options,
        )
        return
    from ..reporting import read_tolerance

    form = _format(form, out, json=json)
    _check_options(context, form)
    shape = shape_of(
        rows, cols, metric, ranks=ranks, published=published, budget=budget, against=against
    )
    if check:
        _check_judged(shape)
        read_tolerance(tolerance, shape.metrics)
    made = make(
        runs_of(options, paths, check=check), shape, conditions or [], workspace, needed=not check
    )
    if save_baseline is not None:
        _save(made, save_baseline)
    verdict = (
        _verdict(made, baseline, tolerance, alpha, allow_missing) if check and baseline else None
    )
    emit(made, form, out, verdict)
    if verdict is not None and verdict.error is not None:
        raise verdict.error


def _given(context: typer.Context, name: str) -> bool:
    return context.get_parameter_source(name).name == "COMMANDLINE"  # type: ignore[union-attr]


def _check_figure(context: typer.Context) -> None:
    """A figure has no format and no gate, and a table no epoch."""
    from ..errors import ConfigError

    figure = context.params["figure"]
    useless = {"epoch": "--epoch", "losses": "--loss"} if figure is None else without_effect(figure)
    for name, option in useless.items():
        if _given(context, name):
            what = "without --figure" if figure is None else f"on the figure {figure}"
            raise ConfigError(f"{option} has no effect {what}")


def _check_options(context: typer.Context, form: str) -> None:
    """Nothing is given that has no effect."""
    from ..errors import ConfigError
    from ..reporting import RANKED

    check = context.params["check"]
    if check and context.params["baseline"] is None:
        raise ConfigError(
            "--check compares with --baseline FILE, which --save-baseline FILE writes"
        )
    for name, option in _OF_CHECK.items():
        if _given(context, name) and not check:
            raise ConfigError(f"{option} has an effect with --check only")
    if check and context.params["save_baseline"] is not None:
        raise ConfigError(
            "--check and --save-baseline: check first, then save what is meant to stay"
        )
    if (
        form == "runs"
        and not check
        and (useless := next((f"--{name}" for name in _OF_TABLES if _given(context, name)), None))
    ):
        raise ConfigError(
            f"{useless} lays out tables, and --format runs writes every number of "
            "each run: leave it out"
        )
    if not 0 < context.params["alpha"] < 1:
        raise ConfigError(f"--alpha is a share between 0 and 1, got {context.params['alpha']}")
    if context.params["ranks"] and form not in RANKED:
        raise ConfigError(
            f"--ranks adds a column to {', '.join(RANKED)}; a cell of {form} needs none"
        )
    if context.params["against"] is not None and form == "junit":
        raise ConfigError("--against has no effect on junit: give another --format")


def _check_judged(shape: TableLayout) -> None:
    """A gate judges what came of a run, not what it took."""
    from ..errors import ConfigError
    from ..reporting import find_metric

    if all(find_metric(name).spent for name in shape.metrics):
        raise ConfigError(
            f"--check judges results, and {shape.metric} is what a run took: give "
            "another --metric, alone or beside it"
        )


def shape_of(
    rows: str,
    cols: str,
    metric: str,
    *,
    ranks: bool = False,
    published: str | None = None,
    budget: str = "epochs",
    against: str | None = None,
) -> TableLayout:
    """How the tables are laid out. Raises UnknownName for a metric, ConfigError for a budget."""
    from ..experiments.compute import checked_budget
    from ..reporting import TableLayout, find_metric

    shape = TableLayout(rows, cols, metric, ranks, published, checked_budget(budget), against)
    for name in shape.metrics:
        find_metric(name)
    return shape


def runs_of(options: Globals, paths: list[Path] | None, *, check: bool = False) -> list[RunLike]:
    """The runs at these paths, or the workspace's. Raises DataError where there are none, but under
    a check.
    """
    from ..errors import DataError
    from ..reporting import runs_at

    if paths or (options.workspace / "runs").is_dir():
        return runs_at(paths or [options.workspace])
    if check:
        return []  # every cell is missing, and the check says so
    raise DataError(
        f"no runs in {options.workspace}: start with noisebench train or noisebench run quick"
    )


def make(
    runs: Sequence[RunLike],
    shape: TableLayout,
    conditions: list[str],
    workspace: Workspace,
    *,
    needed: bool = False,
) -> Report:
    """The report of these runs; damaged results are said and passed over. Raises DataError where
    runs are `needed` and there are none.
    """
    from ..errors import DataError
    from ..reporting import report_of

    made = report_of(runs, shape, conditions, _passed_over, workspace)
    if needed and not made.tables:
        raise DataError(
            "no finished run there; noisebench list runs says what became of each run "
            "of a workspace"
        )
    return made


def _passed_over(error: DataError) -> None:
    say(f"warning: passed over: {error}")


def _save(made: Report, path: Path) -> None:
    from ..core.files.atomic import write_text

    write_text(path, made.render("json"))
    failed = sum(cell["failed"] for cell in made.document()["cells"])
    say(f"{path} written" + (f"; {failed} failed runs are not in it" if failed else ""))


def _verdict(
    made: Report, baseline: Path, tolerance: str | None, alpha: float, allow_missing: bool
) -> Check:
    from ..reporting import Rules, check, read_baseline, read_tolerance

    rules: Rules = Rules(read_tolerance(tolerance, made.shape.metrics), alpha, allow_missing)
    return check(made.document(), read_baseline(baseline, made.metric), rules, made.damaged)


def _format(form: str | None, out: Path | None, *, json: bool) -> str:
    from ..errors import ConfigError
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
    """Print or write the report; in a GitHub job append it to the step's summary too, and say what
    is wrong as error lines.
    """
    from ..core.files.atomic import write_text
    from ..reporting.render.terminal import draw_table

    if out is not None:
        write_text(out, made.render(form, verdict))
        say(f"{out} written")
    elif form == "table":
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        show(*(draw_table(table, width, ranks=made.shape.ranks) for table in made.tables))
    else:
        write(made.render(form, verdict))
    if verdict is not None:
        _say_verdict(verdict, quiet=out is None and form == "md")
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        _append_summary(Path(summary), made, verdict)


def _say_verdict(verdict: Check, *, quiet: bool) -> None:
    """On stderr; `quiet`: the text on stdout has it already, and error lines are all that is
    left.
    """
    from ..reporting.ci.github import error_lines

    if "GITHUB_STEP_SUMMARY" in os.environ:
        for line in error_lines(verdict.troubles):
            order(line)
    else:
        for line in [] if quiet else verdict.troubles:
            say(line)
    say(verdict.summary)


def _append_summary(path: Path, made: Report, verdict: Check | None) -> None:
    from ..reporting.ci.github import step_summary

    lines = [verdict.summary, *verdict.troubles] if verdict else []
    try:
        used = path.stat().st_size if path.exists() else 0
        with path.open("a", encoding="utf-8") as file:
            file.write(step_summary(made.tables, lines, used=used, ranks=made.shape.ranks))
    except OSError as error:
        say(f"warning: GITHUB_STEP_SUMMARY cannot be written: {error.strerror}")
