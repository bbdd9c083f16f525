"""`noisebench run`: a whole suite, what is finished skipped, what failed tried again, ending with its table."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import duration, say, show, write_json
from .options import Budget, Globals, Json, LogTo, Workers
from .report import emit, make, shape_of

if TYPE_CHECKING:
    from ..agenda import Item
    from ..executors.job import Event
    from ..packing import Load
    from ..report import Report
    from ..suite import Suite
    from ..trackers import Logbook
    from ..workspace import Workspace


def run(
    context: typer.Context,
    suite: Annotated[
        str, typer.Argument(metavar="SUITE", help="A suite of benchmarks.yaml (noisebench list suites), FILE.yaml, or FILE.yaml:NAME.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run, and why.")] = False,
    jobs: Annotated[int | None, typer.Option("--jobs", metavar="N", min=1, help="Runs at a time; default: one a core.")] = None,
    executor: Annotated[str, typer.Option("--executor", metavar="NAME", help="Where runs execute: local.")] = "local",
    shard: Annotated[str | None, typer.Option("--shard", metavar="i/n", help="Only each n-th run, from the i-th.")] = None,
    budget: Budget = None,
    rerun: Annotated[
        str | None, typer.Option("--rerun", metavar="WHICH", help="failed or stale: only these; all: finished ones too.")
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failed run.")] = False,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    no_resume: Annotated[bool, typer.Option("--no-resume", help="Start interrupted runs anew.")] = False,
    workers: Workers = None,
    log_to: LogTo = None,
    json: Json = False,
) -> None:
    """Run a suite and print its table.

    noisebench run quick
    """
    from ..agenda import make_agenda, manifest_paths, select
    from ..errors import ConfigError
    from ..suite import find_suite
    from ..trackers import known_trackers
    from .tracking import open_logbook

    if executor != "local":
        raise ConfigError(f"--executor is local, got {executor!r}")
    options: Globals = context.obj
    workspace, trackers = options.open(workers), known_trackers(log_to or ())
    name, found = find_suite(suite, options.workspace)
    found = found.at(budget) if budget else found
    _report(found, [], workspace)  # a wrong shape is said before the first run
    items = make_agenda(workspace, found, device)
    todo = select(items, rerun, shard)
    manner = _Manner(jobs, device, not no_resume, fail_fast, workers)
    if dry_run:
        _show_agenda(name, options, items, todo, manner, json=json)
        return
    logbook = open_logbook(options, trackers if todo else [])
    manifest_paths(workspace, todo)
    failed = _execute(options, workspace, items, todo, manner, logbook) if todo else 0
    if not todo:
        say(f"{name}: nothing to do, all {len(items)} runs are finished", quiet=options.quiet)
    _show_table(found, items, workspace, json=json)
    if failed:
        raise typer.Exit(_failed_code(failed, options))


class _Manner:
    """How the suite is carried out."""

    def __init__(self, jobs: int | None, device: str, resume: bool, fail_fast: bool, workers: int | None = None) -> None:
        self.jobs, self.device, self.resume, self.fail_fast, self.workers = jobs, device, resume, fail_fast, workers


def _failed_code(failed: int, options: Globals) -> int:
    from ..errors import RunFailed

    say(f"error: {failed} {'runs' if failed > 1 else 'run'} failed; the same command tries again", quiet=options.quiet)
    return RunFailed.exit_code


def _execute(options: Globals, workspace: Workspace, items: list[Item], todo: list[Item], manner: _Manner, logbook: Logbook) -> int:
    """Run all items; the number of failed ones. Raises Interrupted when stopped."""
    from ..environment import cores
    from ..errors import Interrupted
    from ..executors.job import Place, bundles
    from ..executors.local import LocalPool, default_jobs
    from ..executors.signals import StopSignals
    from .grid import GridProgress

    work = bundles(items, todo)
    count = manner.jobs or default_jobs(len(work))
    workers = max(1, cores() // count) if manner.workers is None else manner.workers
    place = Place(str(workspace.root), str(workspace.data_dir), workspace.offline, options.plugins, manner.device, manner.resume, workers)
    pool = LocalPool(place, count)
    kinds: Counter[str] = Counter()
    with StopSignals() as signals, GridProgress(todo, count, quiet=options.quiet) as grid, logbook:
        for event in pool.run(work, lambda: signals.stopped):
            grid.update(event)
            _log(logbook, todo[event.number], event)
            kinds[event.kind] += 1
            if event.kind == "failed" and manner.fail_fast:
                pool.stop()
    if signals.stopped:
        raise Interrupted("interrupted; the same command goes on from here")
    if kinds["taken"]:
        say(f"{kinds['taken']} runs are with another process; the same command shows them when they are done", quiet=options.quiet)
    lost = 0 if manner.fail_fast else len(todo) - kinds["done"] - kinds["failed"] - kinds["taken"]
    return kinds["failed"] + lost


def _log(logbook: Logbook, item: Item, event: Event) -> None:
    """What an event says of a run, on its pages. Interrupted ones are closed at the end, since another worker may go on with them."""
    if event.kind == "progress":
        logbook.log(item.run, item.folder, event.content["lines"])
    elif event.kind == "done":
        logbook.finish(item.folder)
    elif event.kind == "failed":
        logbook.fail(item.folder)


def _show_table(suite: Suite, items: list[Item], workspace: Workspace, *, json: bool) -> None:
    made = _report(suite, items, workspace)
    if made.tables or json:
        emit(made, "json" if json else "table")


def _report(suite: Suite, items: list[Item], workspace: Workspace) -> Report:
    shape = suite.report
    made = shape_of(shape.rows, shape.cols, shape.metric, published=shape.published, budget=suite.defaults.budget)
    return make([item.folder for item in items], made, [], workspace)


def _show_agenda(name: str, options: Globals, items: list[Item], todo: list[Item], manner: _Manner, *, json: bool) -> None:
    from ..packing import loads

    work = loads(items, todo)
    width = {id(item): load.width for load in work for item in load.items}
    total = _forecast(options, work, manner) if todo else 0.0
    if json:
        runs = [_summary(item, width.get(id(item))) for item in items]
        write_json({"suite": name, "runs": runs, "to_run": len(todo), "packs": _packs(work), "estimated_seconds": total})
        return
    counts = ", ".join(f"{n} {status}" for status, n in Counter(item.status for item in items).items())
    lines = [_line(item, selected=id(item) in width) for item in items]
    together = sum(len(load.items) for load in work if load.width > 1)
    packs = f", {together} of them in {_packs(work)} packs that train as one network" if together else ""
    estimate = f"about {duration(total)}" if todo else "none"
    show("\n".join([*lines, f"{len(items)} runs: {counts}; {len(todo)} to run{packs}; estimated time: {estimate}"]))


def _line(item: Item, *, selected: bool) -> str:
    """What becomes of a run and why; where a budget decides its epochs, these too."""
    epochs = item.run.recipe.epochs
    said = f", {epochs} epoch{'' if epochs == 1 else 's'}" if item.wanted.budget == "compute" else ""
    return f"{item.status if selected else item.status + ' (left out)':14} {item.run.title}{said}: {item.reason}"


def _packs(work: list[Load]) -> int:
    return sum(load.width > 1 for load in work)


def _forecast(options: Globals, work: list[Load], manner: _Manner) -> float:
    from ..executors.local import default_jobs
    from ..forecast import seconds_of_suite
    from ..runfolder import read_records, run_folders

    workspace = options.open(manner.workers)
    folders = run_folders([workspace.runs]) if workspace.runs.is_dir() else []
    records = read_records(folders, lambda error: say(f"warning: {error}", quiet=options.quiet))
    return seconds_of_suite(workspace, work, records, manner.jobs or default_jobs(len(work)), manner.device)


def _summary(item: Item, width: int | None) -> dict[str, Any]:
    """width: of the pack, where it is to be run."""
    return {"title": item.run.title, "status": item.status, "reason": item.reason, "selected": width is not None,
            "packed": (width or 1) > 1, "epochs": item.run.recipe.epochs, "folder": str(item.folder.path), "key": item.run.key}  # fmt: skip
