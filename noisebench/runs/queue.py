"""The runs of a suite that are still to be done, and why; which of them train together as one
network. Loads no torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..datasets import Dataset, Fitting, fingerprint
from ..errors import ConfigError, DataError
from ..experiments.backbones import pack_width
from ..experiments.oracle import mask_true_values
from ..experiments.recipes import fitting_of
from ..experiments.resolve import RunConfig
from ..experiments.selection import select_matching
from ..experiments.suite import AXES, Suite, SuiteRun, expand, label_request_of, request_of
from ..experiments.weights import label_of
from ..labels.build import size_sentences
from ..labels.manifest import Manifest, short_noise
from ..losses import LOSSES
from ..losses.registry import is_penalty
from ..noise import label_file_of
from ..strategies import STRATEGIES
from .folder import RunFolder, run_folders
from .workspace import Workspace

RERUN = ("failed", "stale", "all")
# differing there it is another run, not a stale one
_ASKED = ("loss", "strategy", "model", "init", "recipe", "seed", "precision")


@dataclass(frozen=True)
class QueuedRun:
    """One run of a suite, where it stands, and why."""

    suite_run: SuiteRun
    run: RunConfig
    folder: RunFolder
    status: str  # run, resume, done, failed: retry, damaged, stale
    reason: str


def resolve_suite_run(workspace: Workspace, wanted: SuiteRun, device: str = "auto") -> RunConfig:
    """A suite's run with nothing left open."""
    settings = wanted.settings
    if missing := [key for key in ("dataset", "noise") if not settings.get(key)]:
        more = ", or give --dataset NAME, FILE.npz or DIR" if missing[0] == "dataset" else ""
        raise ConfigError(
            f"a run of the suite names no {missing[0]}: put it into defaults or the matrix{more}"
        )
    test = Path(settings["test"]) if settings.get("test") else None
    dataset = workspace.dataset(settings["dataset"], test, label_file_of(settings["noise"]))
    manifest, _ = workspace.make(dataset, label_request_of(wanted))
    init = workspace.initial(settings.get("init"), settings.get("model") or dataset.model)
    return workspace.plan(replace(request_of(wanted, device), init=init), dataset, manifest)


def plan_suite(workspace: Workspace, suite: Suite, device: str = "auto") -> list[QueuedRun]:
    """Every run of a suite with its status. Raises ConfigError where two runs are the same one."""
    folders = run_folders([workspace.runs]) if workspace.runs.is_dir() else []
    older: dict[str, list[RunFolder]] = {}
    for folder in folders:
        older.setdefault(folder.path.name.rpartition("__")[0], []).append(folder)
    items = [_item(workspace, wanted, older, device) for wanted in expand(suite)]
    if not items:
        raise ConfigError("the suite has no runs: everything is excluded")
    counts = Counter(item.run.key for item in items)
    if twice := next((item for item in items if counts[item.run.key] > 1), None):
        raise ConfigError(f"the suite holds the same run twice: {twice.run.title}")
    return items


def _item(
    workspace: Workspace, wanted: SuiteRun, older: dict[str, list[RunFolder]], device: str
) -> QueuedRun:
    run = resolve_suite_run(workspace, wanted, device)
    folder = RunFolder(workspace.runs / run.folder_name)
    status = folder.status()
    if status == "failed":
        return QueuedRun(wanted, run, folder, "failed: retry", _failure(folder))
    if status == "damaged":
        return QueuedRun(
            wanted,
            run,
            folder,
            status,
            "its result.json or error.json is no valid record: it is run again",
        )
    if status != "run":
        return QueuedRun(
            wanted, run, folder, status, "finished" if status == "done" else "interrupted"
        )
    reasons = [reason for other in older.get(run.slug, []) if (reason := _outdated(run, other))]
    return QueuedRun(
        wanted, run, folder, "stale" if reasons else "run", reasons[0] if reasons else "new"
    )


def _failure(folder: RunFolder) -> str:
    """Why a run failed, as far as its error.json can still be read: another process may just have
    begun the run again.
    """
    try:
        return str(folder.failure()["message"])
    except DataError as error:
        return str(error)


def _outdated(run: RunConfig, other: RunFolder) -> str:
    """Why an older folder of the same name is not this run's result; empty if it is simply another
    run.
    """
    config: dict[str, Any] = run.config
    try:
        old = other.configuration()
        if any(old.get(key) != config.get(key) for key in _ASKED):
            return ""
        changed = [key for key in config if old.get(key) != config[key]]
    except DataError:
        return ""
    return f"{', '.join(changed)} changed since {other.path.name}" if changed else ""


def mark_done(items: Iterable[QueuedRun], keys: Container[str], place: str) -> list[QueuedRun]:
    """The items, those of them done whose key is among these; place: what has their results."""
    return [
        replace(item, status="done", reason=f"finished, in {place}")
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
    asked = item.suite_run.settings.get(axis)
    return _CALLED[axis](item.run) if asked is None else (*_CALLED[axis](item.run), str(asked))


def select(
    items: Iterable[QueuedRun], rerun: str | None, shard: str | None = None
) -> list[QueuedRun]:
    """The items to run: all that are not done; with `rerun` only the failed or stale, or all again;
    of shard i/n each nth.
    """
    items = list(items)
    if shard is not None:
        items = items[slice(*_shard(shard))]
    if rerun == "all":
        return items
    if rerun is not None and rerun not in RERUN:
        raise ConfigError(f"--rerun is one of {', '.join(RERUN)}, got {rerun!r}")
    return [
        item
        for item in items
        if (item.status.startswith(rerun) if rerun else item.status != "done")
    ]


def _shard(text: str) -> tuple[int, None, int]:
    try:
        number, count = (int(part) for part in text.split("/"))
    except ValueError:
        number, count = 0, 0
    if not 1 <= number <= count:
        raise ConfigError(f"--shard is i/n with 1 <= i <= n, such as 1/4; got {text!r}")
    return number - 1, None, count


def manifest_paths(workspace: Workspace, items: Iterable[QueuedRun]) -> list[Path]:
    """Write the manifests that the items train on; those that are there must be the same."""
    paths: dict[Path, None] = {}
    for item in items:
        manifest, path = workspace.make(item.run.dataset, label_request_of(item.suite_run))
        if path not in paths:
            workspace.keep(manifest, path)
        paths[path] = None
    return list(paths)


# runs of one kind in a suite, from which on they are packed: the places of a pack cost, taken or
# not
_FEWEST = 4


@dataclass(frozen=True)
class Pack:
    """Runs that a worker does at once, one network of `width` places; a width of 1 is a run by
    itself.
    """

    items: tuple[QueuedRun, ...]
    width: int


def pack_key(run: RunConfig) -> str | None:
    """What runs that may go together have in common; None for one that trains by itself.

    They differ in seed, labels, loss and strategy alone, and so not in which images are held out or
    replaced. By themselves train: networks that fill a processor alone; strategies of several
    networks or views, of parameters of their own, or that begin anew with new networks; penalties
    on the parameters; a run that has to estimate its noise first; layers that are frozen, or learn
    at rates of their own. What they begin from may differ.
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
    data = [run.dataset.name, run.data_sha256, run.source_sha256, _pictures(run.manifest)]
    return json.dumps([data, run.model, run.recipe.asdict(), run.precision], sort_keys=True)


def _pictures(manifest: Manifest) -> str:
    """Which pictures are trained on, and in whose place another set's are: a pack reads them once
    for all of its runs.
    """
    return fingerprint(
        manifest.in_training, *([] if manifest.source is None else [manifest.source])
    )


def make_packs(items: Sequence[QueuedRun], todo: Sequence[QueuedRun]) -> list[Pack]:
    """What is to be done, those of one loss and strategy side by side. items: the whole suite,
    which alone decides who is packed, so that a run that was interrupted goes on as it began.
    """
    kinds = {id(item): pack_key(item.run) for item in items}
    counts = Counter(kinds.values())
    packed: dict[str, list[QueuedRun]] = {}
    found = []
    for item in todo:
        kind = kinds[id(item)]
        if kind is None or counts[kind] < _FEWEST:
            found.append(Pack((item,), 1))
        else:
            packed.setdefault(kind, []).append(item)
    return [
        *(
            load
            for group in packed.values()
            for load in _shared_out(group, pack_width(group[0].run.model))
        ),
        *found,
    ]


def _shared_out(items: list[QueuedRun], width: int) -> list[Pack]:
    """As few packs as possible, of even size."""
    ordered = sorted(items, key=lambda item: (str(item.run.strategy), str(item.run.loss)))
    count = -(-len(ordered) // width)
    cuts = [len(ordered) * number // count for number in range(count + 1)]
    return [Pack(tuple(ordered[start:end]), width) for start, end in pairwise(cuts)]
