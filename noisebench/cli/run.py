"""`noisebench run`: the runs of a suite: finished ones are skipped, failed ones tried again; ends
with its table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError, Interrupted, NoisebenchError, RunFailed
from .completion import OF_ARGUMENT
from .console import GridProgress, duration, plural, say, show, write_json
from .corrupt import notes_of
from .evaluate import WHY, predictions_of
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
    refuse,
    with_options,
)
from .report import emit, layout_of, make

if TYPE_CHECKING:
    from ..core.signals import TimeLimit
    from ..executors.job import Executor, JobBatch
    from ..experiments.suite import Suite
    from ..reporting import Report, RunLike
    from ..runs.queue import Pack, QueuedRun
    from ..runs.trackers import RunLogger
    from ..runs.workspace import Workspace


@with_options
def run(
    context: typer.Context,
    suite: Annotated[
        str,
        typer.Argument(
            metavar="SUITE",
            autocompletion=OF_ARGUMENT["SUITE"],
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
    from ..core.signals import TimeLimit
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

    refuse(
        (
            time_limit is not None and detach,
            "--time-limit has no effect with --detach, which does not wait: --slurm "
            "time=0:30:00 is Slurm's own limit",
        ),
        (
            time_limit is not None and rerun == "all",
            "--time-limit resumes where it stopped, and --rerun all begins again each time: give "
            "one of them",
        ),
    )
    limit, options = TimeLimit(time_limit), context.obj
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
    name, settings = find_suite(suite, options.workspace)
    settings = settings.with_defaults(
        seeds,
        dataset=dataset,
        model=model,
        test=None if test is None else str(test),
        init=init_weights,
        recipe=recipe.recipe,
        budget=recipe.budget,
        **recipe.values,
    )
    _report(settings, [], workspace)  # a wrong layout is refused before the first run
    records = {} if completed is None else finished_runs(completed)
    items = mark_done(plan_suite(workspace, settings, device), records, str(completed))
    chosen = where(items, conditions or [])
    todo = select(chosen, rerun, shard)
    _check_suite_list(settings, items, workspace)
    check_workers(workers, [item.run.dataset for item in items])
    runs = [item.run for item in todo]
    notes = [note for queued in runs for note in notes_of(queued.dataset, queued.manifest)]
    notes += [*image_sentences(todo), *check_networks(workspace, runs)]
    for text in dict.fromkeys(notes):
        say(text, quiet=options.quiet)
    if dry_run:
        _show_plan(name, workspace, chosen, make_packs(items, todo), pool, context)
        return
    logger = options.open_logger(trackers if todo else [])
    write_manifests(workspace, todo)
    batches = make_batches(items, todo)
    ended: Counter[str] = Counter()
    if detach:
        before, submitted = pool.submit(batches)  # type: ignore[attr-defined]
        already = f", {before} {'was' if before == 1 else 'were'} already" if before else ""
        say(
            f"{plural(submitted, 'run')} submitted{already}; the same command without --detach "
            "watches them",
            quiet=options.quiet,
        )
    elif todo:
        ended = _execute(options, pool, batches, todo, logger, limit=limit, fail_fast=fail_fast)
    for item in chosen:  # partial files of interrupted commands
        item.folder.clean_up()
    done = [item for item in chosen if item.status == "done" or item.folder.status() == "done"]
    runs_are = "run is" if len(chosen) == 1 else "runs are"
    finished = f"{len(done)} of {len(chosen)} {runs_are} finished"
    cut = ended["left"] > 0 and limit.up
    if not todo:
        pool.tidy()
        if len(done) == len(chosen) > 1:
            finished = f"all {len(chosen)} runs are finished"
        say(f"{name}: nothing to do, {finished}", quiet=options.quiet)
    elif cut:
        say(f"time is up: {finished}; the same command resumes", quiet=options.quiet)
    # a run's folder has more than its line in a results CSV
    shown: list[RunLike] = [
        item.folder if item.folder.result.exists() else records.get(item.run.key, item.folder)
        for item in chosen
    ]
    report = _report(settings, shown, workspace)
    if report.tables or json:
        emit(report, "json" if json else "table")
    _write_suite_list(settings, items, workspace, options)
    if failed := ended["failed"] + (0 if cut else ended["left"]):
        text = f"error: {plural(failed, 'run')} failed; the same command tries again"
        say(text, quiet=options.quiet)
        raise typer.Exit(RunFailed.exit_code)


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

    kinds: Counter[str] = Counter()
    with (
        StopSignals() as signals,
        GridProgress(todo, pool.max_parallel(len(batches)), quiet=options.quiet) as grid,
        logger,
    ):
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
        runs = "1 run is" if kinds["taken"] == 1 else f"{kinds['taken']} runs are"
        say(
            f"{runs} with other processes (noisebench list runs says whose); the same command "
            "shows them when they are done, and resumes those whose process has died",
            quiet=options.quiet,
        )
    if not (fail_fast and kinds["failed"]):
        kinds["left"] = len(todo) - kinds["done"] - kinds["failed"] - kinds["taken"]
    return kinds


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
    workspace: Workspace,
    items: list[QueuedRun],
    packs: list[Pack],
    pool: Executor,
    context: typer.Context,
) -> None:
    """The status of each run and the reason for it; where a budget decides its epochs, these
    too.
    """
    from ..runs.folder import read_records, run_folders
    from ..runs.queue import estimate_suite_seconds

    width = {id(item): pack.width for pack in packs for item in pack.items}
    wide = [pack for pack in packs if pack.width > 1]
    at_once = pool.max_parallel(len(packs)) if packs else 0
    total = 0.0
    if packs:
        folders = run_folders([workspace.runs]) if workspace.runs.is_dir() else []
        records = read_records(
            folders, lambda error: say(f"warning: {error}", quiet=context.obj.quiet)
        )
        total = estimate_suite_seconds(workspace, packs, records, at_once, pool.config.device)
    if context.params["json"]:
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
    lines = []
    for item in items:
        status = item.status if id(item) in width else f"{item.status} (left out)"
        compute = item.suite_run.budget == "compute"
        epochs = f", {plural(item.run.recipe.epochs, 'epoch')}" if compute else ""
        lines.append(f"{status:14} {item.run.title}{epochs}: {item.reason}")
    statuses = Counter(item.status for item in items)
    counts = ", ".join(f"{n} {status}" for status, n in statuses.items())
    together = ""
    if wide:
        groups = "1 pack that trains" if len(wide) == 1 else f"{len(wide)} packs that train"
        packed = sum(len(pack.items) for pack in wide)
        together = f", {packed} of them in {groups} as one network"
    estimate = f"about {duration(total)}, {at_once} at a time" if packs else "none"
    total_line = f"{plural(len(items), 'run')}: {counts}; {len(width)} to run{together}; "
    show(*lines, f"{total_line}estimated time: {estimate}")


def _check_suite_list(suite: Suite, items: list[QueuedRun], workspace: Workspace) -> None:
    """Raises ConfigError where a suite's runs have no one list, or links lead it out of the
    workspace, before the first run.
    """
    if not suite.report.suspects:
        return
    path, root = workspace.root / suite.report.suspects, workspace.root.resolve()
    several = len({item.run.manifest.content_hash for item in items})
    refuse(
        (
            not path.resolve().is_relative_to(root),
            f"report.suspects {suite.report.suspects}: a link leads it out of the "
            f"workspace {workspace.root}",
        ),
        (
            several > 1,
            "report.suspects is a list of one set of labels, the suite's runs see "
            f"{several}: fix noise, data set and noise_seed",
        ),
    )


def _write_suite_list(
    suite: Suite, items: list[QueuedRun], workspace: Workspace, options: Globals
) -> None:
    """Write it once all runs are finished; an existing one stays, since a person may be working on
    it.
    """
    if not suite.report.suspects:
        return
    from ..experiments.suite import label_request_of
    from ..labels.issues import combine, precision_text, write_suspects

    path = workspace.root / suite.report.suspects
    left = sum(item.folder.status() != "done" for item in items)
    if left:
        text = f"is not written: {left} of {len(items)} runs are not finished"
    elif path.exists():
        text = "is there already and left as it is: move it away for a new list"
    else:
        run = items[0].run
        runs, by = predictions_of([item.folder for item in items], None)
        predicted = combine(runs, run.manifest.labels)
        write_suspects(path, predicted, run.manifest)
        facts = precision_text(predicted, run.manifest)
        _, manifest = workspace.make(run.dataset, label_request_of(items[0].suite_run))
        precision = ""
        if facts["precision"] is not None:
            precision = f", {100 * facts['precision']:.1f} % of them wrong"
        text = (
            f"written: {facts['listed']} label issues in {facts['of']} labels, by its {len(runs)} "
            f"runs together{precision}; {WHY[by]}. Delete the lines that are right, then: "
            f"noisebench corrupt --manifest {manifest} --suspects {path} --drop (or --relabel)"
        )
    say(f"{path} {text}", quiet=options.quiet)
