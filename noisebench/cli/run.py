"""`noisebench run` executes the runs of a suite and prints its table. Finished runs are skipped,
failed ones are tried again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.progress import track
from ..errors import ConfigError, Interrupted, NoisebenchError, RunFailed
from .completion import OF_ARGUMENT
from .console import GridProgress, duration, plural, say, show, write_json
from .corrupt import notes_of
from .evaluate import WHY, predictions_of
from .options import (
    Device,
    Features,
    FeatureWeights,
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
            help="Name of a suite (noisebench list suites), FILE.yaml, or FILE.yaml:NAME.",
        ),
    ],
    dataset: Annotated[
        str | None,
        option(
            "Data",
            "--dataset",
            metavar="DATASET",
            help="Data set in place of the suite's: a name, a .npz file or a directory.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        option(
            "Method", "--model", metavar="NAME|timm:NAME", help="Network in place of the suite's."
        ),
    ] = None,
    init_weights: InitWeights = None,
    features: Features = None,
    feature_weights: FeatureWeights = None,
    test: TestFolder = None,
    recipe: RecipeOptions = RecipeOptions(),
    dry_run: Annotated[
        bool,
        option(
            "Run",
            "--dry-run",
            help="Show the status of each run and the estimated time; train nothing.",
        ),
    ] = False,
    jobs: Annotated[
        int | None,
        option(
            "Run",
            "--jobs",
            metavar="N",
            min=1,
            help="Number of parallel runs; default: one per CPU core.",
        ),
    ] = None,
    executor: Annotated[
        str,
        option(
            "Run", "--executor", metavar="NAME", help="Executor of the runs: local, ray or slurm."
        ),
    ] = "local",
    address: Annotated[
        str | None,
        option(
            "Cluster",
            "--address",
            metavar="HOST:PORT",
            help="Address of a Ray cluster, or auto; default: start one on this machine.",
        ),
    ] = None,
    cpus_per_run: Annotated[
        int | None,
        option(
            "Cluster",
            "--cpus-per-run",
            metavar="N",
            min=1,
            help="CPU cores, and threads, per run on Ray or Slurm.",
        ),
    ] = None,
    gpus_per_run: Annotated[
        float | None,
        option(
            "Cluster",
            "--gpus-per-run",
            metavar="SHARE",
            min=0,
            help="GPUs per run; on Ray also a share: 0.25 is four runs per GPU.",
        ),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        option(
            "Cluster",
            "--slurm",
            metavar="KEY=VALUE",
            help="Option of sbatch: partition, time, mem ...; repeatable.",
        ),
    ] = None,
    detach: Annotated[
        bool,
        option(
            "Cluster",
            "--detach",
            help="Submit to Slurm and return; rerun without --detach to wait for the runs.",
        ),
    ] = False,
    conditions: Filter = None,
    seeds: Annotated[
        int | None,
        option(
            "Run",
            "--seeds",
            metavar="N",
            min=1,
            help="Use seeds 0 to N - 1 in place of the suite's.",
        ),
    ] = None,
    completed: Annotated[
        Path | None,
        option(
            "Run",
            "--completed",
            metavar="FILE",
            help="Results CSV (report --format runs) whose runs count as finished.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        option(
            "Run",
            "--shard",
            metavar="i/n",
            help="Run shard i of n: every n-th run, starting with the i-th.",
        ),
    ] = None,
    rerun: Annotated[
        str | None,
        option(
            "Run",
            "--rerun",
            metavar="WHICH",
            help="Run 'failed' or 'stale' runs only, or 'all', including finished ones.",
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        option(
            "Run",
            "--time-limit",
            metavar="MINUTES",
            help="Stop after this many minutes; rerun to resume.",
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
        compute_features,
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
            "--time-limit has no effect with --detach, which does not wait: give Slurm's limit, "
            "--slurm time=0:30:00",
        ),
        (
            time_limit is not None and rerun == "all",
            "--time-limit and --rerun all exclude each other: --rerun all starts from the "
            "beginning each time",
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
        features=features,
        feature_weights=feature_weights,
        recipe=recipe.recipe,
        budget=recipe.budget,
        **recipe.values,
    )
    _report(settings, [], workspace)  # refuses an invalid layout before the first run
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
        already = f", {before} submitted before" if before else ""
        say(
            f"{plural(submitted, 'run')} submitted{already}; rerun without --detach to wait for "
            "them",
            quiet=options.quiet,
        )
    elif todo:
        if executor == "local":
            compute_features(workspace, runs, device)
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
    # a run directory has more data than its line in a results CSV
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
    """Execute the runs until the time limit. Returns the number of runs by outcome; `left`: not
    executed. Raises Interrupted when stopped.
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
            # an interrupted run is closed with the logger, since another worker may resume it
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
            f"{runs} locked by other processes (noisebench list runs shows which); rerun the "
            "command to show their results, or to resume them if those processes have died",
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
    """Show the status of each run and the reason for it, the epochs of runs with a compute budget,
    and the estimated time.
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
            track(folders, "reading runs", workspace.tell, total=len(folders), unit="runs"),
            lambda error: say(f"warning: {error}", quiet=context.obj.quiet),
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
        status = item.status if id(item) in width else f"{item.status} (not selected)"
        compute = item.suite_run.budget == "compute"
        epochs = f", {plural(item.run.recipe.epochs, 'epoch')}" if compute else ""
        lines.append(f"{status:14} {item.run.title}{epochs}: {item.reason}")
    statuses = Counter(item.status for item in items)
    counts = ", ".join(f"{n} {status}" for status, n in statuses.items())
    together = ""
    if wide:
        groups = "1 pack, trained" if len(wide) == 1 else f"{len(wide)} packs, each trained"
        packed = sum(len(pack.items) for pack in wide)
        together = f", {packed} of them in {groups} as one network"
    estimate = f"{duration(total)}, {at_once} in parallel" if packs else "none"
    total_line = f"{plural(len(items), 'run')}: {counts}; {len(width)} to run{together}; "
    show(*lines, f"{total_line}estimated runtime: {estimate}")


def _check_suite_list(suite: Suite, items: list[QueuedRun], workspace: Workspace) -> None:
    """Raises ConfigError, before the first run, if the runs of a suite have different labels, so
    that no single list of label issues exists, or if links lead out of the workspace.
    """
    if not suite.report.suspects:
        return
    path, root = workspace.root / suite.report.suspects, workspace.root.resolve()
    several = len({item.run.manifest.content_hash for item in items})
    refuse(
        (
            not path.resolve().is_relative_to(root),
            f"report.suspects {suite.report.suspects}: a link leads it out of the workspace "
            f"{workspace.root}",
        ),
        (
            several > 1,
            f"report.suspects needs one set of labels, but the suite has {several}: fix noise, "
            "data set and noise_seed",
        ),
    )


def _write_suite_list(
    suite: Suite, items: list[QueuedRun], workspace: Workspace, options: Globals
) -> None:
    """Write the list of label issues once all runs are finished. An existing list is kept, since a
    person may be editing it.
    """
    if not suite.report.suspects:
        return
    from ..experiments.suite import label_request_of
    from ..labels.issues import LabelQuality, combine, precision_text, write_suspects

    path = workspace.root / suite.report.suspects
    left = sum(item.folder.status() != "done" for item in items)
    if left:
        text = f"is not written: {left} of {len(items)} runs are not finished"
    elif path.exists():
        text = "exists already and is kept: move it away to write a new list"
    else:
        run = items[0].run
        runs, by = predictions_of([item.folder for item in items], None, workspace.tell)
        given = run.manifest.labels
        quality = LabelQuality.of(combine(runs, given), given)
        write_suspects(path, quality, run.manifest)
        facts = precision_text(quality, run.manifest)
        _, manifest = workspace.make(run.dataset, label_request_of(items[0].suite_run))
        precision = ""
        if facts["precision"] is not None:
            precision = f", {100 * facts['precision']:.1f} % of them incorrect"
        text = (
            f"written: {facts['listed']:,} label issues in {facts['of']:,} labels, found by "
            f"{len(runs)} runs together{precision}; {WHY[by]}. Delete the lines whose given label "
            "is correct, then: "
            f"noisebench corrupt --manifest {manifest} --suspects {path} --drop (or --relabel)"
        )
    say(f"{path} {text}", quiet=options.quiet)
