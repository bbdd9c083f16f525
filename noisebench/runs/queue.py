"""The status of a suite's runs, the packs of runs that train together as one network, and the
estimated runtime: from finished runs of the same kind, else from a few training steps of each kind.
Does not import torch when it is imported.
"""

from __future__ import annotations

import heapq
import json
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.progress import track
from ..datasets import Dataset, Fitting, fingerprint
from ..errors import ConfigError, DataError, RunFailed
from ..experiments.backbones import NONE, label_of, pack_width
from ..experiments.features import features_label
from ..experiments.oracle import mask_true_values
from ..experiments.resolve import RunConfig
from ..experiments.suite import (
    Suite,
    SuiteRun,
    expand,
    label_request_of,
    request_of,
    select_matching,
)
from ..experiments.suite_file import AXES
from ..labels.build import size_sentences
from ..labels.manifest import short_noise
from ..losses import LOSSES
from ..losses.registry import is_penalty
from ..noise import label_file_of
from ..strategies import STRATEGIES
from ..training.distributed.processes import cut
from .folder import RunFolder, run_folders
from .result import warmup_epochs
from .session import make_trainer
from .workspace import Workspace

if TYPE_CHECKING:
    from ..training.packed import PackedTrainer
    from ..training.trainer import Trainer

RERUN = ("failed", "stale", "all")
# a run that differs in one of these is another run, not a stale one
_IDENTITY = ("loss", "strategy", "model", "init", "features", "recipe", "seed", "precision")


@dataclass(frozen=True)
class QueuedRun:
    """One run of a suite with its status and the reason for it."""

    suite_run: SuiteRun
    run: RunConfig
    folder: RunFolder
    status: str  # run, resume, done, failed: retry, damaged, stale
    reason: str


def resolve_suite_run(workspace: Workspace, suite_run: SuiteRun, device: str = "auto") -> RunConfig:
    """The fully specified run of a suite's run."""
    settings = suite_run.settings
    if missing := [key for key in ("dataset", "noise") if not settings.get(key)]:
        more = ", or give --dataset NAME, FILE.npz or DIR" if missing[0] == "dataset" else ""
        raise ConfigError(
            f"a run of the suite has no {missing[0]}: add it to defaults or the matrix{more}"
        )
    test = Path(settings["test"]) if settings.get("test") else None
    dataset = workspace.dataset(settings["dataset"], test, label_file_of(settings["noise"]))
    manifest, _ = workspace.make(dataset, label_request_of(suite_run))
    init = workspace.initial(settings.get("init"), settings.get("model") or dataset.model)
    features = workspace.feature_network(settings.get("features"), settings.get("feature_weights"))
    request = replace(request_of(suite_run, device), init=init, features=features)
    return workspace.plan(request, dataset, manifest)


def plan_suite(workspace: Workspace, suite: Suite, device: str = "auto") -> list[QueuedRun]:
    """Every run of a suite with its status. Raises ConfigError if two runs are identical."""
    folders = run_folders([workspace.runs]) if workspace.runs.is_dir() else []
    older: dict[str, list[RunFolder]] = {}
    for folder in folders:
        older.setdefault(folder.path.name.rpartition("__")[0], []).append(folder)
    items = []
    suite_runs = expand(suite)
    for suite_run in track(
        suite_runs, "planning", workspace.tell, total=len(suite_runs), unit="runs"
    ):
        run = resolve_suite_run(workspace, suite_run, device)
        folder = RunFolder(workspace.runs / run.folder_name)
        items.append(QueuedRun(suite_run, run, folder, *_status(run, folder, older)))
    if not items:
        raise ConfigError("the suite has no runs: its `exclude` matches all of them")
    counts = Counter(item.run.key for item in items)
    if twice := next((item for item in items if counts[item.run.key] > 1), None):
        raise ConfigError(f"the suite contains the same run twice: {twice.run.title}")
    return items


def _status(
    run: RunConfig, folder: RunFolder, older: dict[str, list[RunFolder]]
) -> tuple[str, str]:
    """The status of a run of a suite, and why."""
    status = folder.status()
    if status == "failed":
        # error.json may be gone: another process may have restarted the run
        try:
            return "failed: retry", str(folder.failure()["message"])
        except DataError as error:
            return "failed: retry", str(error)
    if status == "run":
        for other in older.get(run.folder_name.rpartition("__")[0], []):
            with suppress(DataError):
                before = other.configuration()
                changed = [key for key in run.config if before.get(key) != run.config[key]]
                same = all(before.get(key) == run.config.get(key) for key in _IDENTITY)
                if changed and same:
                    return "stale", f"{', '.join(changed)} changed since {other.path.name}"
        return "run", "new"
    reasons_by_status = {
        "damaged": "its result.json or error.json is not a valid record: it is run again",
        "done": "finished",
        "resume": "interrupted",
    }
    return status, reasons_by_status[status]


def mark_done(items: Iterable[QueuedRun], keys: Container[str], source: str) -> list[QueuedRun]:
    """The items, marked as done if their key is in `keys`. source: name of the file with their
    results.
    """
    return [
        replace(item, status="done", reason=f"finished, in {source}")
        if item.run.key in keys
        else item
        for item in items
    ]


def image_sentences(items: Iterable[QueuedRun]) -> list[str]:
    """Sentences on how images of image folders and streamed data sets are resized for the runs."""
    kinds: dict[tuple[Dataset, Fitting | None], None] = {}
    for item in items:
        recipe, dataset = item.run.recipe, item.run.dataset
        streamed = (
            Fitting(recipe.size, recipe.size, recipe.fit, recipe.centre) if dataset.reader else None
        )
        of_features = item.run.features.fitting if item.run.features else None
        kinds[dataset, of_features or streamed or item.run.fitting] = None
    return [sentence for dataset, fitting in kinds for sentence in size_sentences(dataset, fitting)]


# per axis: the value as listed, then its other names
_NAMES: dict[str, Callable[[RunConfig], tuple[str, ...]]] = {
    "dataset": lambda run: (run.dataset.name,),
    "subset": lambda run: (str(run.manifest.meta.get("subset", "all")),),
    "model": lambda run: (run.model,),
    "init": lambda run: (label_of(run.init.facts if run.init else None),),
    "features": lambda run: (
        features_label(run.features.facts if run.features else None),
        run.features.model if run.features else NONE,
    ),
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
    """The items that match every `axis=value`, with values as in tables or as in the suite. Raises
    ConfigError for a malformed condition, or if no item matches.
    """

    def names(item: QueuedRun, axis: str) -> tuple[str, ...]:
        setting = item.suite_run.settings.get(axis)
        return (*_NAMES[axis](item.run), *([] if setting is None else [str(setting)]))

    return select_matching(items, conditions, (*AXES, "seed", "noise_seed"), names)


def select(
    items: Iterable[QueuedRun], rerun: str | None, shard: str | None = None
) -> list[QueuedRun]:
    """The items to run: all that are not done; with `rerun` only the failed or stale ones, or all
    again; with shard i/n, every nth item starting at the ith.
    """
    items = list(items)
    if shard is not None:
        number, count = 0, 0
        with suppress(ValueError):
            number, count = (int(part) for part in shard.split("/"))
        if not 1 <= number <= count:
            raise ConfigError(f"--shard must be i/n with 1 <= i <= n, such as 1/4; got {shard!r}")
        items = items[number - 1 :: count]
    if rerun == "all":
        return items
    if rerun is None:
        return [item for item in items if item.status != "done"]
    if rerun not in RERUN:
        raise ConfigError(f"--rerun must be one of {', '.join(RERUN)}; got {rerun!r}")
    return [item for item in items if item.status.startswith(rerun)]


def write_manifests(workspace: Workspace, items: Iterable[QueuedRun]) -> None:
    """Write the manifests that the items train on. Raises ManifestError if an existing one
    differs.
    """
    manifests = (
        workspace.make(item.run.dataset, label_request_of(item.suite_run)) for item in items
    )
    for path, manifest in {path: manifest for manifest, path in manifests}.items():
        workspace.keep(manifest, path)


# runs are packed if the suite has at least this many of a kind: empty slots cost time too
_FEWEST = 4


@dataclass(frozen=True)
class Pack:
    """Runs that a worker trains as one network of `width` slots; width 1: a single run."""

    items: tuple[QueuedRun, ...]
    width: int


def compute_features(workspace: Workspace, runs: Iterable[RunConfig], device: str) -> None:
    """Compute the features that runs train on, where they are missing: with all cores, of which a
    worker has only a part.
    """
    known = {(r.data_sha256, r.source_sha256, r.features): r for r in runs if r.features}
    for run in known.values():
        workspace.training_images(run, device)


def pack_key(run: RunConfig) -> str | None:
    """A text that is equal for runs that can share a pack; None for a run that trains by itself.

    Runs of a pack may differ only in seed, labels, loss, strategy and initial weights; the images
    in training, reserved or replaced must be the same. These train by themselves: networks that use
    a whole processor; strategies with several networks or views, with parameters, or with restarts;
    penalties on the parameters; runs that first estimate the noise; recipes with frozen layers or
    layer-wise learning rates.
    """
    strategy = STRATEGIES[run.strategy.name].build  # type: ignore[union-attr]
    alone = (
        run.unknown_noise
        or any(is_penalty(call) for call in LOSSES.calls(run.loss))
        or not strategy.packable  # type: ignore[attr-defined]
    )
    by_layer = run.recipe.freeze > 0 or run.recipe.layer_decay != 1
    streamed = run.dataset.reader and not run.features
    if pack_width(run.model) == 1 or alone or by_layer or streamed:
        return None
    source = run.manifest.source
    # images in training, and replaced images: a pack reads them once for all its runs
    images = fingerprint(run.manifest.in_training, *([] if source is None else [source]))
    data: list[object] = [run.dataset.name, run.data_sha256, run.source_sha256, images]
    if run.features or run.dataset.dimensions:
        # runs of one seed read the same batches
        data += [run.features and run.features.facts["sha256"], run.seed]
    return json.dumps([data, run.model, run.recipe.asdict(), run.precision], sort_keys=True)


def make_packs(items: Sequence[QueuedRun], todo: Sequence[QueuedRun]) -> list[Pack]:
    """Distribute the runs to do over as few packs as possible, of even size, with runs of equal
    loss and strategy side by side. items: all runs of the suite; they decide which runs are packed,
    so that an interrupted run resumes in the way it started.
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


_SHORT = 1.0  # seconds: epochs up to this long are timed whole, longer ones by two steps
_STEPS = 2
_LONG = 2.0  # seconds: a first step longer than this is used although it includes warm-up
_SOME = 1024  # test images
_WRITING = 0.02  # seconds for the files of a run


def estimate_suite_seconds(
    workspace: Workspace,
    packs: Sequence[Pack],
    records: Iterable[dict[str, Any]],
    jobs: int,
    device: str,
) -> float:
    """Estimated seconds until all packs are done, `jobs` at a time. Trains two epochs or three
    steps of each kind of run that has no record.
    """
    per_epoch: dict[tuple[Any, ...], list[float]] = {}
    for record in records:
        recipe, machine = record["recipe"], record.get("environment", {})
        if "processes" in machine or "accumulate" in machine:
            continue  # suites do not train like this
        kind = (
            record["data"]["name"],
            record["noise"].get("subset"),
            record["model"]["name"],
            "init" in record,
            features_label(record.get("features")),
            recipe.get("freeze", 0),
            recipe.get("size", 0),
            recipe.get("batch_size"),
            record["precision"],
            record["strategy"].partition("(")[0],
            machine.get("packed", 1),
            "accuracy" in record.get("estimates", {}),
        )
        per_epoch.setdefault(kind, []).append(record["seconds"] / recipe["epochs"])
    known = {kind: sum(values) / len(values) for kind, values in per_epoch.items()}
    started = time.perf_counter()
    import torch

    start_up = time.perf_counter() - started  # workers are forked from a process that imports once
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // jobs))
    try:
        widths = {_kind(item.run, pack.width): pack.width for pack in packs for item in pack.items}
        new = [kind for kind in widths if kind not in known]
        for kind in track(
            new, "estimating the runtime", workspace.tell, total=len(new), unit="kinds of runs"
        ):
            known[kind] = _measure(workspace, packs, kind, widths[kind], device)
    finally:
        torch.set_num_threads(threads)
    seconds = [
        sum(
            known[_kind(item.run, pack.width)] * item.run.recipe.epochs + _WRITING
            for item in pack.items
        )
        for pack in packs
    ]
    return start_up + makespan(seconds, jobs)


def makespan(seconds: Iterable[float], jobs: int) -> float:
    """Seconds until the last is done, if each worker takes the next as soon as it is free."""
    free = [0.0] * jobs
    for duration in seconds:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def _kind(run: RunConfig, width: int) -> tuple[Any, ...]:
    """The settings that determine how long an epoch takes, approximately."""
    return (
        run.dataset.name,
        run.manifest.meta.get("subset"),
        run.model,
        run.init is not None,  # images may be enlarged for initial weights
        features_label(run.features.facts if run.features else None),
        run.recipe.freeze,
        run.recipe.size,
        run.recipe.batch_size,
        run.precision,
        run.strategy.name,  # type: ignore[union-attr]
        width,
        run.trains_estimators,
    )


def _measure(
    workspace: Workspace, packs: Sequence[Pack], kind: tuple[Any, ...], width: int, device: str
) -> float:
    """Measured seconds per epoch of a run of this kind, in a pack of this width."""
    of_packs = [
        [item.run for item in pack.items if _kind(item.run, pack.width) == kind] for pack in packs
    ]
    runs = next(filter(None, of_packs))  # of one pack: those of several may differ in their images
    runs = [run for run in runs if run.recipe == runs[0].recipe]
    trainers: list[Trainer] = []
    for run in runs:
        images = workspace.training_images(run, device)
        first = trainers[0] if trainers else None
        trainers.append(make_trainer(run, images, device, share_images_with=first))
    trainer: Trainer | PackedTrainer = trainers[0]
    make_step = trainers[0].training_step.run
    if width > 1:
        from ..training.packed import PackedTrainer

        trainer = pack = PackedTrainer(trainers, width)
        make_step = pack.make_step
    with closing(trainers[0]) as first:
        # the first step or epoch is warm-up
        steps = len(first.state.batches)
        step, more = _timed(make_step), min(_STEPS, steps - 1)
        if step < _LONG and more:
            step = _timed(lambda: [make_step() for _ in range(more)]) / more
        if step * steps <= _SHORT and steps > _STEPS + 1:
            _timed(trainer.run_epoch)
            seconds = _timed(trainer.run_epoch)
        else:
            between = _timed(lambda: first.strategy.on_epoch_end(1, first))
            seconds = step * steps + len(runs) * (_testing_seconds(first) + between)
    # training the networks that estimate the noise takes as long as these epochs
    return seconds * (1 + warmup_epochs(runs[0]) / runs[0].recipe.epochs) / len(runs)


def _testing_seconds(trainer: Trainer) -> float:
    """Estimated seconds to predict the test set, from a part of it."""
    import torch

    from ..training.inference import autocast

    some = torch.arange(min(len(trainer.test), _SOME), device=trainer.device)
    with torch.no_grad(), autocast(trainer.device, trainer.task.precision):
        network = trainer.networks[0].eval()
        seconds = _timed(lambda: [network(images) for images in trainer.test.eval_batches(some)])
    return seconds * len(trainer.networks) * len(trainer.test) / len(some)


def _timed(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    with suppress(RunFailed):  # a run that diverges ends there when it is executed, too
        act()
    return time.perf_counter() - begun
