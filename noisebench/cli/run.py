"""`noisebench run`: the runs of a suite: finished ones are skipped, failed ones tried again; ends
with its table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError, Interrupted, NoisebenchError, RunFailed
from .console import duration, say, show, write_json
from .options import (
    Device,
    Filter,
    Globals,
    InitWeights,
    Json,
    LogTo,
    NoResume,
    RecipeOptions,
    TestFolder,
    Workers,
    check_workers,
    option,
    with_options,
)
from .report import emit, layout_of, make
from .suspects import check_suite_list, write_suite_list

if TYPE_CHECKING:
    from ..core.signals import TimeLimit
    from ..executors.job import Executor, JobBatch
    from ..experiments.suite import Suite
    from ..reporting import Report, RunLike, RunRecord
    from ..runs.queue import Pack, QueuedRun
    from ..runs.trackers import RunLogger
    from ..runs.workspace import Workspace

    Forecast = Callable[[list[Pack], int, str], float]


@with_options
def run(
    context: typer.Context,
    suite: Annotated[
        str,
        typer.Argument(
            metavar="SUITE",
            help="A suite of benchmarks.yaml (noisebench list "
            "suites), FILE.yaml, or FILE.yaml:NAME.",
        ),
    ],
    dataset: Annotated[
        str | None,
        option(
            "Data",
            "--dataset",
            metavar="DATASET",
            help="Another data set than the suite's: a name, a .npz, a folder.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        option(
            "Method", "--model", metavar="NAME|timm:NAME", help="Another network than the suite's."
        ),
    ] = None,
    init_weights: InitWeights = None,
    test: TestFolder = None,
    recipe: RecipeOptions = RecipeOptions(),
    dry_run: Annotated[
        bool, option("Run", "--dry-run", help="Show what would be run, and why.")
    ] = False,
    jobs: Annotated[
        int | None,
        option("Run", "--jobs", metavar="N", min=1, help="Runs at a time; default: one a core."),
    ] = None,
    executor: Annotated[
        str,
        option(
            "Run", "--executor", metavar="NAME", help="Where runs execute: local, ray or slurm."
        ),
    ] = "local",
    address: Annotated[
        str | None,
        option(
            "Cluster",
            "--address",
            metavar="HOST:PORT",
            help="A Ray cluster, or auto; default: one of its own, here.",
        ),
    ] = None,
    cpus_per_run: Annotated[
        int | None,
        option(
            "Cluster",
            "--cpus-per-run",
            metavar="N",
            min=1,
            help="Processors, and threads, of each run on Ray or Slurm.",
        ),
    ] = None,
    gpus_per_run: Annotated[
        float | None,
        option(
            "Cluster",
            "--gpus-per-run",
            metavar="SHARE",
            min=0,
            help="GPUs of each run: 1; on Ray also 0.25, four a GPU.",
        ),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        option(
            "Cluster",
            "--slurm",
            metavar="KEY=VALUE",
            help="An option of sbatch: partition, time, mem ...; repeatable.",
        ),
    ] = None,
    detach: Annotated[
        bool,
        option(
            "Cluster",
            "--detach",
            help="Submit to Slurm and return; the same command without it watches.",
        ),
    ] = False,
    conditions: Filter = None,
    seeds: Annotated[
        int | None,
        option(
            "Run", "--seeds", metavar="N", min=1, help="Seeds 0 to N - 1, in place of the suite's."
        ),
    ] = None,
    completed: Annotated[
        Path | None,
        option(
            "Run",
            "--completed",
            metavar="FILE",
            help="A results CSV (report --format runs): its runs are finished.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        option("Run", "--shard", metavar="i/n", help="Only each n-th of these, from the i-th."),
    ] = None,
    rerun: Annotated[
        str | None,
        option(
            "Run",
            "--rerun",
            metavar="WHICH",
            help="failed or stale: only these; all: finished ones too.",
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        option(
            "Run",
            "--time-limit",
            metavar="MINUTES",
            help="Stop after this time, as Ctrl-C does; the same command resumes.",
        ),
    ] = None,
    fail_fast: Annotated[
        bool, option("Run", "--fail-fast", help="Stop at the first failed run.")
    ] = False,
    device: Device = "auto",
    no_resume: NoResume = False,
    workers: Workers = None,
    log_to: LogTo = None,
    json: Json = False,
) -> None:
    """Run a suite and print its table.

    noisebench run quick
    """
    from ..executors.job import ExecutorOptions, WorkerConfig, make_batches, open_executor
    from ..experiments.suite import find_suite
    from ..reporting import finished_runs
    from ..runs.queue import (
        image_sentences,
        make_packs,
        mark_done,
        plan_suite,
        select,
        where,
        write_manifests,
    )
    from ..runs.session import check_networks
    from ..runs.trackers import known_trackers
    from .labels import decisions_of, notes_of

    limit = _limit(time_limit, rerun, detach=detach)
    options: Globals = context.obj
    workspace, trackers = options.open(workers), known_trackers(log_to or ())
    config = WorkerConfig(
        str(workspace.root),
        str(workspace.data_dir),
        workspace.offline,
        options.plugins,
        device,
        not no_resume,
        workers,
    )
    pool = open_executor(
        executor,
        config,
        ExecutorOptions(jobs, address, cpus_per_run, gpus_per_run, tuple(slurm or ()), detach),
    )
    if not dry_run:
        pool.prepare()
    name, found = find_suite(suite, options.workspace)
    found = found.with_defaults(
        seeds,
        dataset=dataset,
        model=model,
        test=None if test is None else str(test),
        init=init_weights,
        recipe=recipe.recipe,
        budget=recipe.budget,
        **recipe.changes,
    )
    _report(found, [], workspace)  # a wrong layout is refused before the first run
    records = {} if completed is None else finished_runs(completed)
    items = mark_done(plan_suite(workspace, found, device), records, str(completed))
    chosen = where(items, conditions or [])
    todo = select(chosen, rerun, shard)
    check_suite_list(found, items, workspace)
    check_workers(workers, [item.run.dataset for item in items])
    runs = [item.run for item in todo]
    notes = dict.fromkeys(
        note
        for queued in runs
        for note in (
            *notes_of(queued.dataset, queued.manifest),
            *decisions_of(queued.manifest),
        )
    )
    for text in (*notes, *image_sentences(todo), *check_networks(workspace, runs)):
        say(text, quiet=options.quiet)
    if dry_run:
        forecast = partial(_forecast, workspace, options)
        _show_plan(name, forecast, chosen, make_packs(items, todo), pool, json=json)
        return
    logger = options.open_logger(trackers if todo else [])
    write_manifests(workspace, todo)
    batches = make_batches(items, todo)
    ended: Counter[str] = Counter()
    if detach:
        _detach(pool, batches, options)
    elif todo:
        ended = _execute(options, pool, batches, todo, logger, limit=limit, fail_fast=fail_fast)
    for item in chosen:  # partial files of interrupted commands
        item.folder.clean_up()
    if not todo:
        pool.tidy()
        say(f"{name}: nothing to do, all {len(chosen)} runs are finished", quiet=options.quiet)
    if cut := ended["left"] > 0 and limit.up:
        done = sum(item.status == "done" or item.folder.status() == "done" for item in chosen)
        say(
            f"time is up: {done} of {len(chosen)} runs are finished; the same command resumes",
            quiet=options.quiet,
        )
    made = _report(found, [_result(item, records) for item in chosen], workspace)
    if made.tables or json:
        emit(made, "json" if json else "table")
    write_suite_list(found, items, workspace, options)
    if failed := ended["failed"] + (0 if cut else ended["left"]):
        runs_failed = f"{failed} {'runs' if failed > 1 else 'run'} failed"
        say(f"error: {runs_failed}; the same command tries again", quiet=options.quiet)
        raise typer.Exit(RunFailed.exit_code)


def _limit(time_limit: float | None, rerun: str | None, *, detach: bool) -> TimeLimit:
    """Raises ConfigError where the limit has no effect, or the same command would not resume."""
    from ..core.signals import TimeLimit

    if time_limit is not None and detach:
        raise ConfigError(
            "--time-limit has no effect with --detach, which does not wait: --slurm "
            "time=0:30:00 is Slurm's own limit"
        )
    if time_limit is not None and rerun == "all":
        raise ConfigError(
            "--time-limit resumes where it stopped, and --rerun all begins again "
            "each time: give one of them"
        )
    return TimeLimit(time_limit)


def _detach(pool: Executor, batches: list[JobBatch], options: Globals) -> None:
    """Submit what is not submitted yet."""
    before, submitted = pool.submit(batches)  # type: ignore[attr-defined]  # only executors that support --detach
    already = f", {before} {'was' if before == 1 else 'were'} already" if before else ""
    say(
        f"{submitted} {'run' if submitted == 1 else 'runs'} submitted{already}; the same "
        "command without --detach watches them",
        quiet=options.quiet,
    )


def _execute(
    options: Globals,
    pool: Executor,
    batches: list[JobBatch],
    todo: list[QueuedRun],
    logger: RunLogger,
    *,
    limit: TimeLimit,
    fail_fast: bool,
) -> Counter[str]:
    """Run all items until the time is up; how many ended in which way, and how many are `left`.
    Raises Interrupted when stopped.
    """
    from ..core.signals import StopSignals
    from .progress import GridProgress

    count = pool.max_parallel(len(batches))
    kinds: Counter[str] = Counter()
    with StopSignals() as signals, GridProgress(todo, count, quiet=options.quiet) as grid, logger:
        for event in () if limit.up else pool.run(batches, lambda: signals.stopped or limit.up):
            item = todo[event.number]
            grid.update(event)
            # interrupted runs end with the logger, since another worker may resume them
            if event.kind == "progress":
                logger.log(item.run, item.folder, event.content["lines"])
            elif event.kind == "done":
                logger.finish(item.folder)
            elif event.kind == "failed":
                logger.fail(item.folder)
            kinds[event.kind] += 1
            if event.kind == "failed" and fail_fast:
                pool.stop()
    if signals.stopped:
        raise Interrupted("interrupted; the same command resumes")
    if kinds["taken"]:
        say(
            f"{kinds['taken']} runs are with other processes (noisebench list runs says whose); "
            "the same command shows them when they are "
            "done, and resumes those whose process has died",
            quiet=options.quiet,
        )
    if not (fail_fast and kinds["failed"]):
        kinds["left"] = len(todo) - kinds["done"] - kinds["failed"] - kinds["taken"]
    return kinds


def _result(item: QueuedRun, records: dict[str, RunRecord]) -> RunLike:
    """The run's folder, which has more, else its line in a results CSV."""
    done = item.folder.result.exists()
    return item.folder if done else records.get(item.run.key, item.folder)


def _report(suite: Suite, runs: Sequence[RunLike], workspace: Workspace) -> Report:
    report = suite.report
    try:
        layout = layout_of(
            report.rows,
            report.cols,
            report.metric,
            published=report.published,
            budget=suite.defaults.budget,
        )
        return make(runs, layout, [], workspace)
    except NoisebenchError as error:
        raise ConfigError(f"the suite's report: {error}") from None


def _show_plan(
    name: str,
    forecast: Forecast,
    items: list[QueuedRun],
    packs: list[Pack],
    pool: Executor,
    *,
    json: bool,
) -> None:
    width = {id(item): pack.width for pack in packs for item in pack.items}
    wide = [pack for pack in packs if pack.width > 1]
    at_once = pool.max_parallel(len(packs)) if packs else 0
    total = forecast(packs, at_once, pool.config.device) if packs else 0.0
    if json:
        runs = [
            {
                "title": item.run.title,
                "status": item.status,
                "reason": item.reason,
                "selected": id(item) in width,
                "packed": width.get(id(item), 1) > 1,
                "epochs": item.run.recipe.epochs,
                "folder": str(item.folder.path),
                "key": item.run.key,
            }
            for item in items
        ]
        write_json(
            {
                "suite": name,
                "runs": runs,
                "to_run": len(width),
                "packs": len(wide),
                "at_once": at_once,
                "estimated_seconds": total,
            }
        )
        return
    statuses = Counter(item.status for item in items)
    counts = ", ".join(f"{n} {status}" for status, n in statuses.items())
    together = ""
    if wide:
        groups = "1 pack that trains" if len(wide) == 1 else f"{len(wide)} packs that train"
        packed = sum(len(pack.items) for pack in wide)
        together = f", {packed} of them in {groups} as one network"
    estimate = f"about {duration(total)}, {at_once} at a time" if packs else "none"
    total_line = f"{len(items)} runs: {counts}; {len(width)} to run{together}; estimated time: "
    lines = [_line(item, selected=id(item) in width) for item in items]
    show("\n".join([*lines, total_line + estimate]))


def _line(item: QueuedRun, *, selected: bool) -> str:
    """The status of a run and the reason for it; where a budget decides its epochs, these too."""
    number, epochs = item.run.recipe.epochs, ""
    if item.suite_run.budget == "compute":
        epochs = f", {number} epoch{'' if number == 1 else 's'}"
    status = item.status if selected else item.status + " (left out)"
    return f"{status:14} {item.run.title}{epochs}: {item.reason}"


def _forecast(
    workspace: Workspace, options: Globals, packs: list[Pack], at_once: int, device: str
) -> float:
    from ..runs.folder import read_records, run_folders
    from ..runs.queue import estimate_suite_seconds

    folders = run_folders([workspace.runs]) if workspace.runs.is_dir() else []
    records = read_records(folders, lambda error: say(f"warning: {error}", quiet=options.quiet))
    return estimate_suite_seconds(workspace, packs, records, at_once, device)
