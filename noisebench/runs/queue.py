"""The runs of a suite that are still to be done, and why; which of them train together as one
network. Loads no torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..datasets import Dataset, Fitting, fingerprint
from ..errors import ConfigError, DataError
from ..experiments.backbones import label_of, pack_width
from ..experiments.oracle import mask_true_values
from ..experiments.recipes import fitting_of
from ..experiments.resolve import RunConfig
from ..experiments.suite import (
    AXES,
    Suite,
    SuiteRun,
    expand,
    label_request_of,
    request_of,
    select_matching,
)
from ..labels.build import size_sentences
from ..labels.manifest import short_noise
from ..losses import LOSSES
from ..losses.registry import is_penalty
from ..noise import label_file_of
from ..strategies import STRATEGIES
from ..training.distributed.processes import cut
from .folder import RunFolder, run_folders
from .workspace import Workspace

RERUN = ("failed", "stale", "all")
# a run that differs in one of these is another run, not a stale one
_IDENTITY = ("loss", "strategy", "model", "init", "recipe", "seed", "precision")


@dataclass(frozen=True)
class QueuedRun:
    """One run of a suite, where it stands, and why."""

    suite_run: SuiteRun
    run: RunConfig
    folder: RunFolder
    status: str  # run, resume, done, failed: retry, damaged, stale
    reason: str


def resolve_suite_run(workspace: Workspace, suite_run: SuiteRun, device: str = "auto") -> RunConfig:
    """A suite's run with nothing left open."""
    settings = suite_run.settings
    if missing := [key for key in ("dataset", "noise") if not settings.get(key)]:
        more = ", or give --dataset NAME, FILE.npz or DIR" if missing[0] == "dataset" else ""
        raise ConfigError(
            f"a run of the suite names no {missing[0]}: put it into defaults or the matrix{more}"
        )
    test = Path(settings["test"]) if settings.get("test") else None
    dataset = workspace.dataset(settings["dataset"], test, label_file_of(settings["noise"]))
    manifest, _ = workspace.make(dataset, label_request_of(suite_run))
    init = workspace.initial(settings.get("init"), settings.get("model") or dataset.model)
    return workspace.plan(replace(request_of(suite_run, device), init=init), dataset, manifest)


def plan_suite(workspace: Workspace, suite: Suite, device: str = "auto") -> list[QueuedRun]:
    """Every run of a suite with its status. Raises ConfigError where two runs are the same one."""
    folders = run_folders([workspace.runs]) if workspace.runs.is_dir() else []
    older: dict[str, list[RunFolder]] = {}
    for folder in folders:
        older.setdefault(folder.path.name.rpartition("__")[0], []).append(folder)
    items = []
    for suite_run in expand(suite):
        run = resolve_suite_run(workspace, suite_run, device)
        folder = RunFolder(workspace.runs / run.folder_name)
        items.append(QueuedRun(suite_run, run, folder, *_status(run, folder, older)))
    if not items:
        raise ConfigError("the suite has no runs: everything is excluded")
    counts = Counter(item.run.key for item in items)
    if twice := next((item for item in items if counts[item.run.key] > 1), None):
        raise ConfigError(f"the suite holds the same run twice: {twice.run.title}")
    return items


def _status(
    run: RunConfig, folder: RunFolder, older: dict[str, list[RunFolder]]
) -> tuple[str, str]:
    """The status of a run of a suite, and why."""
    status = folder.status()
    if status == "failed":
        # its error.json may be gone: another process may just have started the run again
        try:
            return "failed: retry", str(folder.failure()["message"])
        except DataError as error:
            return "failed: retry", str(error)
    if status == "run":
        same_name = older.get(run.folder_name.rpartition("__")[0], [])
        reasons = [reason for other in same_name if (reason := _outdated(run, other))]
        return ("stale", reasons[0]) if reasons else ("run", "new")
    reasons_by_status = {
        "damaged": "its result.json or error.json is no valid record: it is run again",
        "done": "finished",
        "resume": "interrupted",
    }
    return status, reasons_by_status[status]


def _outdated(run: RunConfig, other: RunFolder) -> str:
    """Why an older folder of the same name is not this run's result; empty if it is simply another
    run.
    """
    try:
        old = other.configuration()
    except DataError:
        return ""
    if any(old.get(key) != run.config.get(key) for key in _IDENTITY):
        return ""
    changed = [key for key in run.config if old.get(key) != run.config[key]]
    return f"{', '.join(changed)} changed since {other.path.name}" if changed else ""


def mark_done(items: Iterable[QueuedRun], keys: Container[str], source: str) -> list[QueuedRun]:
    """The items, those of them done whose key is among these; source: what has their results."""
    return [
        replace(item, status="done", reason=f"finished, in {source}")
        if item.run.key in keys
        else item
        for item in items
    ]


def image_sentences(items: Iterable[QueuedRun]) -> list[str]:
    """How the images of folders and streamed sets are brought to the size of the runs, and which
    are enlarged.
    """
    kinds: dict[tuple[Dataset, Fitting | None], None] = {}
    for item in items:
        recipe, dataset = item.run.recipe, item.run.dataset
        streamed = (
            Fitting(recipe.size, recipe.size, recipe.fit, recipe.centre) if dataset.reader else None
        )
        kinds[dataset, streamed or fitting_of(recipe, dataset)] = None
    return [sentence for dataset, fitting in kinds for sentence in size_sentences(dataset, fitting)]


# as it is listed, then by its other names
_CALLED: dict[str, Callable[[RunConfig], tuple[str, ...]]] = {
    "dataset": lambda run: (run.dataset.name,),
    "subset": lambda run: (str(run.manifest.meta.get("subset", "all")),),
    "model": lambda run: (run.model,),
    "init": lambda run: (label_of(run.init.facts if run.init else None),),
    "recipe": lambda run: (run.recipe_name,),
    "noise": lambda run: (
        noise := run.manifest.meta["noise"],
        short_noise(noise, run.dataset.name),
    ),
    "method": lambda run: (run.method,),
    "loss": lambda run: (str(run.loss), mask_true_values(LOSSES, run.loss, run.manifest)),
    "strategy": lambda run: (
        str(run.strategy),
        mask_true_values(STRATEGIES, run.strategy, run.manifest),
    ),
    "seed": lambda run: (str(run.seed),),
    "noise_seed": lambda run: (str(run.manifest.noise_seed),),
}


def where(items: Iterable[QueuedRun], conditions: Iterable[str]) -> list[QueuedRun]:
    """The items that meet every `axis=value`, as a table names the value or as the suite asks for
    it. Raises ConfigError for another form, or where nothing is left.
    """
    return select_matching(items, conditions, (*AXES, "seed", "noise_seed"), _called)


def _called(item: QueuedRun, axis: str) -> tuple[str, ...]:
    names, setting = _CALLED[axis](item.run), item.suite_run.settings.get(axis)
    return names if setting is None else (*names, str(setting))


def select(
    items: Iterable[QueuedRun], rerun: str | None, shard: str | None = None
) -> list[QueuedRun]:
    """The items to run: all that are not done; with `rerun` only the failed or stale, or all again;
    of shard i/n each nth.
    """
    items = list(items)
    if shard is not None:
        try:
            number, count = (int(part) for part in shard.split("/"))
        except ValueError:
            number, count = 0, 0
        if not 1 <= number <= count:
            raise ConfigError(f"--shard is i/n with 1 <= i <= n, such as 1/4; got {shard!r}")
        items = items[number - 1 :: count]
    if rerun == "all":
        return items
    if rerun is None:
        return [item for item in items if item.status != "done"]
    if rerun not in RERUN:
        raise ConfigError(f"--rerun is one of {', '.join(RERUN)}, got {rerun!r}")
    return [item for item in items if item.status.startswith(rerun)]


def manifest_paths(workspace: Workspace, items: Iterable[QueuedRun]) -> list[Path]:
    """Write the manifests that the items train on; those that are there must be the same."""
    paths: dict[Path, None] = {}
    for item in items:
        manifest, path = workspace.make(item.run.dataset, label_request_of(item.suite_run))
        if path not in paths:
            workspace.keep(manifest, path)
        paths[path] = None
    return list(paths)


# packed are at least as many runs of one kind in a suite: empty slots of a pack cost time too
_FEWEST = 4


@dataclass(frozen=True)
class Pack:
    """Runs that a worker trains at once, as one network of `width` slots; 1 for a single run."""

    items: tuple[QueuedRun, ...]
    width: int


def pack_key(run: RunConfig) -> str | None:
    """What runs of one pack have in common; None for one that trains by itself.

    They differ in seed, labels, loss, strategy and initial weights alone, and so not in which
    images are held out or replaced. By themselves train: networks that fill a processor alone;
    strategies of several networks or views, with parameters, or that restart with new networks;
    penalties on the parameters; a run that has to estimate its noise first; layers that are frozen,
    or have a learning rate of their own.
    """
    strategy = STRATEGIES[run.strategy.name].build  # type: ignore[union-attr]
    alone = (
        run.unknown_noise
        or any(is_penalty(call) for call in LOSSES.calls(run.loss))
        or not strategy.packable  # type: ignore[attr-defined]
    )
    by_layer = run.recipe.freeze > 0 or run.recipe.layer_decay != 1
    if pack_width(run.model) == 1 or alone or by_layer or run.dataset.reader:
        return None
    source = run.manifest.source
    # which images are trained on, and which are replaced: a pack reads them once for all runs
    images = fingerprint(run.manifest.in_training, *([] if source is None else [source]))
    data = [run.dataset.name, run.data_sha256, run.source_sha256, images]
    return json.dumps([data, run.model, run.recipe.asdict(), run.precision], sort_keys=True)


def make_packs(items: Sequence[QueuedRun], todo: Sequence[QueuedRun]) -> list[Pack]:
    """The runs to do, those of one loss and strategy side by side, in as few packs as possible, of
    even size. items: the whole suite, which alone decides which runs are packed, so that an
    interrupted run is resumed as it began.
    """
    keys = {id(item): pack_key(item.run) for item in items}
    counts = Counter(keys.values())
    groups: dict[str, list[QueuedRun]] = {}
    single = []
    for item in todo:
        key = keys[id(item)]
        if key is None or counts[key] < _FEWEST:
            single.append(Pack((item,), 1))
        else:
            groups.setdefault(key, []).append(item)
    packs = []
    for group in groups.values():
        group.sort(key=lambda item: (str(item.run.strategy), str(item.run.loss)))
        width = pack_width(group[0].run.model)
        packs += [
            Pack(tuple(group[part]), width) for part in cut(len(group), -(-len(group) // width))
        ]
    return [*packs, *single]
