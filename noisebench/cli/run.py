"""`noisebench run`: a whole suite, what is finished skipped, what failed tried again, ending with
its table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import duration, say, show, write_json
from .options import (
    BatchSize,
    Budget,
    Clip,
    Crop,
    Epochs,
    Fit,
    Flip,
    Freeze,
    Globals,
    ImgSize,
    Init,
    Json,
    LayerDecay,
    LearningRate,
    LogTo,
    Momentum,
    Nesterov,
    Schedule,
    TestFolder,
    WeightDecay,
    Where,
    Workers,
    check_workers,
)  # fmt: skip
from .report import emit, make, shape_of
from .together import check_listing, list_suspects

if TYPE_CHECKING:
    from ..core.signals import TimeLimit
    from ..executors.job import Event, JobBatch, WorkerConfig
    from ..executors.registry import Executor
    from ..experiments.suite import Suite
    from ..reporting import Report, RunLike, RunRecord
    from ..runs.packing import Pack
    from ..runs.queue import QueuedRun
    from ..runs.trackers import RunLogger
    from ..runs.workspace import Workspace

    Forecast = Callable[[list[Pack], int, str], float]


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
        typer.Option(
            "--dataset",
            metavar="DATASET",
            help="Another data set than the suite's: a name, a .npz, a folder.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME|timm:NAME", help="Another network than the suite's."),
    ] = None,
    test: TestFolder = None,
    init: Init = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", metavar="NAME", help="Another training recipe than the suite's."),
    ] = None,
    img_size: ImgSize = None,  # these and what follows, to layer_decay, are read by name
    fit: Fit = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    momentum: Momentum = None,
    nesterov: Nesterov = None,
    weight_decay: WeightDecay = None,
    schedule: Schedule = None,
    clip: Clip = None,
    crop: Crop = None,
    flip: Flip = None,
    freeze: Freeze = None,
    layer_decay: LayerDecay = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be run, and why.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", metavar="N", min=1, help="Runs at a time; default: one a core."),
    ] = None,
    executor: Annotated[
        str,
        typer.Option("--executor", metavar="NAME", help="Where runs execute: local, ray or slurm."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST:PORT",
            help="A Ray cluster, or auto; default: one of its own, here.",
        ),
    ] = None,
    cpus_per_run: Annotated[
        int | None,
        typer.Option(
            "--cpus-per-run",
            metavar="N",
            min=1,
            help="Processors, and threads, of each run on Ray or Slurm.",
        ),
    ] = None,
    gpus_per_run: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-run",
            metavar="SHARE",
            min=0,
            help="GPUs of each run: 1; on Ray also 0.25, four a GPU.",
        ),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            "--slurm",
            metavar="KEY=VALUE",
            help="An option of sbatch: partition, time, mem ...; repeatable.",
        ),
    ] = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", help="Submit to Slurm and return; the same command without it watches."
        ),
    ] = False,
    conditions: Where = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", metavar="N", min=1, help="Seeds 0 to N - 1, in place of the suite's."
        ),
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(
            "--known",
            metavar="FILE",
            help="A file of runs (report --format runs): these are finished.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="i/n", help="Only each n-th of these, from the i-th."),
    ] = None,
    budget: Budget = None,
    rerun: Annotated[
        str | None,
        typer.Option(
            "--rerun", metavar="WHICH", help="failed or stale: only these; all: finished ones too."
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            metavar="M",
            help="Stop after so many, as Ctrl-C does; the same command goes on.",
        ),
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first failed run.")
    ] = False,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 ...")
    ] = "auto",
    no_resume: Annotated[
        bool, typer.Option("--no-resume", help="Start interrupted runs anew.")
    ] = False,
    workers: Workers = None,
    log_to: LogTo = None,
    json: Json = False,
) -> None:
    """Run a suite and print its table.

    noisebench run quick
    """
    from ..executors.job import make_batches
    from ..executors.registry import ExecutorOptions, open_executor
    from ..experiments.suite import find_suite
    from ..runs.packing import make_packs
    from ..runs.queue import (
        image_sentences,
        manifest_paths,
        mark_done,
        plan_suite,
        select,
        where,
    )
    from ..runs.session import check_networks
    from ..runs.trackers import known_trackers
    from .labels import decisions_of, notes_of
    from .tracking import open_logbook

    limit = _limit(minutes, rerun, detach=detach)
    options: Globals = context.obj
    workspace, trackers = options.open(workers), known_trackers(log_to or ())
    place = _place(options, workspace, device, resume=not no_resume, workers=workers)
    pool = open_executor(
        executor,
        place,
        ExecutorOptions(jobs, address, cpus_per_run, gpus_per_run, tuple(slurm or ()), detach),
    )
    if not dry_run:
        pool.prepare()
    name, found = find_suite(suite, options.workspace)
    found = found.with_defaults(
        seeds, test=None if test is None else str(test), **_settings(context.params)
    )
    _report(found, [], workspace)  # a wrong layout is refused before the first run
    lines = _lines(known)
    items = mark_done(plan_suite(workspace, found, device), lines, str(known))
    chosen = where(items, conditions or [])
    todo = select(chosen, rerun, shard)
    check_listing(found, items, workspace)
    check_workers(workers, [item.run.dataset for item in items])
    runs = [item.run for item in todo]
    notes = dict.fromkeys(
        note
        for each in runs
        for note in (*notes_of(each.dataset, each.manifest), *decisions_of(each.manifest))
    )
    for said in (*notes, *image_sentences(todo), *check_networks(workspace, runs)):
        say(said, quiet=options.quiet)
    if dry_run:
        _show_agenda(
            name,
            partial(_forecast, workspace, options),
            chosen,
            make_packs(items, todo),
            pool,
            json=json,
        )
        return
    logbook = open_logbook(options, trackers if todo else [])
    manifest_paths(workspace, todo)
    work = make_batches(items, todo)
    if detach:
        ended = _detach(pool, work, options)
    else:
        ended = (
            _execute(options, pool, work, todo, logbook, limit=limit, fail_fast=fail_fast)
            if todo
            else Counter()
        )
    _tidy(pool, chosen, todo)
    if not todo:
        say(f"{name}: nothing to do, all {len(chosen)} runs are finished", quiet=options.quiet)
    if cut := ended["left"] > 0 and limit.up:
        done = sum(item.status == "done" or item.folder.status() == "done" for item in chosen)
        say(
            f"time is up: {done} of {len(chosen)} runs are finished; the same command goes on",
            quiet=options.quiet,
        )
    made = _report(found, [_kept(item, lines) for item in chosen], workspace)
    if made.tables or json:
        emit(made, "json" if json else "table")
    list_suspects(found, items, workspace, options)
    if failed := ended["failed"] + (0 if cut else ended["left"]):
        raise typer.Exit(_failed_code(failed, options))


def _tidy(pool: Executor, chosen: list[QueuedRun], todo: list[QueuedRun]) -> None:
    """Remove what interrupted commands have left behind."""
    for item in chosen:
        item.folder.clean_up()
    if not todo:
        pool.tidy()


def _settings(params: dict[str, Any]) -> dict[str, Any]:
    """The options that replace a suite's settings, by the names that suites have for them."""
    from ..experiments.recipes import RECIPE_FIELDS, option_name

    options = {
        option_name(name): name
        for name in (*RECIPE_FIELDS, "dataset", "model", "init", "recipe", "budget")
    }
    return {options[name]: value for name, value in params.items() if name in options}


def _limit(minutes: float | None, rerun: str | None, *, detach: bool) -> TimeLimit:
    """Raises ConfigError where the clock would stop nothing, or the same command would not go
    on.
    """
    from ..core.signals import TimeLimit
    from ..errors import ConfigError

    if minutes is not None and detach:
        raise ConfigError(
            "--minutes has no effect with --detach, which does not wait: --slurm "
            "time=0:30:00 is Slurm's own limit"
        )
    if minutes is not None and rerun == "all":
        raise ConfigError(
            "--minutes goes on from where it stopped, and --rerun all begins again "
            "each time: give one of them"
        )
    return TimeLimit(minutes)


def _place(
    options: Globals, workspace: Workspace, device: str, *, resume: bool, workers: int | None
) -> WorkerConfig:
    from ..executors.job import WorkerConfig

    return WorkerConfig(
        str(workspace.root),
        str(workspace.data_dir),
        workspace.offline,
        options.plugins,
        device,
        resume,
        workers,
    )


def _failed_code(failed: int, options: Globals) -> int:
    from ..errors import RunFailed

    say(
        f"error: {failed} {'runs' if failed > 1 else 'run'} failed; the same command tries again",
        quiet=options.quiet,
    )
    return RunFailed.exit_code


def _detach(pool: Executor, work: list[JobBatch], options: Globals) -> Counter[str]:
    """Submit what is not submitted yet; none has ended."""
    found, submitted = pool.submit(work)  # type: ignore[attr-defined]  # only what can be left alone heeds --detach
    under_way = f", {found} {'was' if found == 1 else 'were'} already" if found else ""
    say(
        f"{submitted} {'run' if submitted == 1 else 'runs'} submitted{under_way}; the same "
        "command without --detach watches them",
        quiet=options.quiet,
    )
    return Counter()


def _execute(
    options: Globals,
    pool: Executor,
    work: list[JobBatch],
    todo: list[QueuedRun],
    logbook: RunLogger,
    *,
    limit: TimeLimit,
    fail_fast: bool,
) -> Counter[str]:
    """Run all items until the time is up; how many ended in which way, and how many are `left`.
    Raises Interrupted when stopped.
    """
    from ..core.signals import StopSignals
    from ..errors import Interrupted
    from .grid import GridProgress

    count = pool.max_parallel(len(work))
    kinds: Counter[str] = Counter()
    with StopSignals() as signals, GridProgress(todo, count, quiet=options.quiet) as grid, logbook:
        for event in () if limit.up else pool.run(work, lambda: signals.stopped or limit.up):
            grid.update(event)
            _log(logbook, todo[event.number], event)
            kinds[event.kind] += 1
            if event.kind == "failed" and fail_fast:
                pool.stop()
    if signals.stopped:
        raise Interrupted("interrupted; the same command goes on from here")
    if kinds["taken"]:
        say(
            f"{kinds['taken']} runs are with other processes (noisebench list runs says whose); "
            "the same command shows them when they are "
            "done, and goes on with those whose process has died",
            quiet=options.quiet,
        )
    kinds["left"] = (
        0
        if fail_fast and kinds["failed"]
        else len(todo) - kinds["done"] - kinds["failed"] - kinds["taken"]
    )
    return kinds


def _log(logbook: RunLogger, item: QueuedRun, event: Event) -> None:
    """What an event says of a run, on its pages. Interrupted ones are closed at the end, since
    another worker may go on with them.
    """
    if event.kind == "progress":
        logbook.log(item.run, item.folder, event.content["lines"])
    elif event.kind == "done":
        logbook.finish(item.folder)
    elif event.kind == "failed":
        logbook.fail(item.folder)


def _lines(known: Path | None) -> dict[str, RunRecord]:
    """The finished runs of a file of runs, by key. Raises DataError."""
    from ..reporting import finished_runs

    return {} if known is None else finished_runs(known)


def _kept(item: QueuedRun, lines: dict[str, RunRecord]) -> RunLike:
    """Where the result is: its folder, which has more, before a line in a file of runs."""
    return item.folder if item.folder.result.exists() else lines.get(item.run.key, item.folder)


def _report(suite: Suite, runs: Sequence[RunLike], workspace: Workspace) -> Report:
    from ..errors import ConfigError, NoisebenchError

    shape = suite.report
    try:
        made = shape_of(
            shape.rows,
            shape.cols,
            shape.metric,
            published=shape.published,
            budget=suite.defaults.budget,
        )
        return make(runs, made, [], workspace)
    except NoisebenchError as error:
        raise ConfigError(f"the suite's report: {error}") from None


def _show_agenda(
    name: str,
    forecast: Forecast,
    items: list[QueuedRun],
    work: list[Pack],
    pool: Executor,
    *,
    json: bool,
) -> None:
    width = {id(item): load.width for load in work for item in load.items}
    at_once = pool.max_parallel(len(work)) if work else 0
    total = forecast(work, at_once, pool.place.device) if work else 0.0
    if json:
        runs = [_summary(item, width.get(id(item))) for item in items]
        write_json(
            {
                "suite": name,
                "runs": runs,
                "to_run": len(width),
                "packs": _packs(work),
                "at_once": at_once,
                "estimated_seconds": total,
            }
        )
        return
    counts = ", ".join(
        f"{n} {status}" for status, n in Counter(item.status for item in items).items()
    )
    lines = [_line(item, selected=id(item) in width) for item in items]
    together = sum(len(load.items) for load in work if load.width > 1)
    groups = "1 pack that trains" if (count := _packs(work)) == 1 else f"{count} packs that train"
    packs = f", {together} of them in {groups} as one network" if together else ""
    estimate = f"about {duration(total)}, {at_once} at a time" if work else "none"
    show(
        "\n".join(
            [
                *lines,
                (
                    f"{len(items)} runs: {counts}; {len(width)} to run{packs}; estimated "
                    f"time: {estimate}"
                ),
            ]
        )
    )


def _line(item: QueuedRun, *, selected: bool) -> str:
    """What becomes of a run and why; where a budget decides its epochs, these too."""
    epochs = item.run.recipe.epochs
    said = (
        f", {epochs} epoch{'' if epochs == 1 else 's'}"
        if item.suite_run.budget == "compute"
        else ""
    )
    return (
        f"{item.status if selected else item.status + ' (left out)':14} "
        f"{item.run.title}{said}: {item.reason}"
    )


def _packs(work: list[Pack]) -> int:
    return sum(load.width > 1 for load in work)


def _forecast(
    workspace: Workspace, options: Globals, work: list[Pack], at_once: int, device: str
) -> float:
    from ..runs.folder import read_records, run_folders
    from ..runs.time_estimate import estimate_suite_seconds

    folders = run_folders([workspace.runs]) if workspace.runs.is_dir() else []
    records = read_records(folders, lambda error: say(f"warning: {error}", quiet=options.quiet))
    return estimate_suite_seconds(workspace, work, records, at_once, device)


def _summary(item: QueuedRun, width: int | None) -> dict[str, Any]:
    """width: of the pack, where it is to be run."""
    return {
        "title": item.run.title,
        "status": item.status,
        "reason": item.reason,
        "selected": width is not None,
        "packed": (width or 1) > 1,
        "epochs": item.run.recipe.epochs,
        "folder": str(item.folder.path),
        "key": item.run.key,
    }
