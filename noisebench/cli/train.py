"""`noisebench train` trains one run. An interrupted run resumes; a finished one is reused."""

from __future__ import annotations

import difflib
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError
from .completion import OF_ARGUMENT
from .console import RunProgress, duration, estimated, percent, plural, say, show, write_json
from .corrupt import choose_labels
from .options import (
    Device,
    Features,
    FeatureWeights,
    Globals,
    InitWeights,
    Json,
    LogTo,
    NoiseOptions,
    NoResume,
    RecipeOptions,
    TestFolder,
    Workers,
    check_workers,
    option,
    refuse,
    with_options,
)

if TYPE_CHECKING:
    from ..experiments.resolve import RunConfig
    from ..labels.manifest import Manifest
    from ..runs.checkpoint import Progress
    from ..runs.folder import RunFolder

TRAIN_SETTINGS = {"ignore_unknown_options": True}  # parameters of the loss are options


@with_options
def train(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATASET",
            autocompletion=OF_ARGUMENT["DATASET"],
            help="Data set; then parameters of the loss, such as --eps 0.4.",
            show_default=False,
        ),
    ] = None,
    loss: Annotated[
        str | None,
        option(
            "Method",
            "--loss",
            metavar="TEXT",
            help="Loss: 'el(eps=0.4)', '10*normalized(ce) + 0.1*mae' ...  [default: ce]",
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        option(
            "Method",
            "--strategy",
            metavar="TEXT",
            help="Strategy: 'bootstrap(kind=soft)' ...  [default: standard]",
        ),
    ] = None,
    method: Annotated[
        str | None,
        option(
            "Method",
            "--method",
            metavar="NAME",
            help="Method of a paper, instead of --loss and --strategy (noisebench list methods).",
        ),
    ] = None,
    model: Annotated[
        str | None,
        option(
            "Method",
            "--model",
            metavar="NAME|timm:NAME",
            help="Network; default: the data set's.",
        ),
    ] = None,
    init_weights: InitWeights = None,
    features: Features = None,
    feature_weights: FeatureWeights = None,
    noise: NoiseOptions = NoiseOptions(),
    manifest: Annotated[
        Path | None,
        option(
            "Data",
            "--manifest",
            metavar="FILE",
            help="Manifest to train on; default: the newest one.",
        ),
    ] = None,
    test: TestFolder = None,
    recipe: RecipeOptions = RecipeOptions(),
    seed: Annotated[
        int,
        option(
            "Run",
            "--seed",
            metavar="N",
            help="Seed for initialization, shuffling and augmentation.",
        ),
    ] = 0,
    device: Device = "auto",
    precision: Annotated[
        str, option("Run", "--precision", metavar="NAME", help="Precision: auto, fp32 or bf16.")
    ] = "auto",
    no_resume: NoResume = False,
    force: Annotated[
        bool, option("Run", "--force", help="Train again even if the run is finished.")
    ] = False,
    accumulate: Annotated[
        int,
        option(
            "Run",
            "--accumulate",
            metavar="N",
            min=1,
            help="Split each batch into N parts and accumulate gradients: same step, less memory.",
        ),
    ] = 1,
    sync_bn: Annotated[
        bool,
        option(
            "Run",
            "--sync-bn",
            help="Synchronize batch norm over all processes of torchrun (GPUs only).",
        ),
    ] = False,
    dry_run: Annotated[
        bool, option("Run", "--dry-run", help="Show the run; train nothing.")
    ] = False,
    workers: Workers = None,
    log_to: LogTo = None,
    json: Json = False,
) -> None:
    """Train one network on noisy labels.

    noisebench train --loss el --eps 0.4
    """
    from ..core.hardware import keep_memory
    from ..core.signals import StopSignals
    from ..experiments.resolve import RunRequest, with_loss_parameters
    from ..runs.checkpoint import RunOptions
    from ..runs.folder import RunFolder
    from ..runs.result import preprocessing
    from ..runs.session import execute_run, make_trainer, smallest_training_set
    from ..runs.trackers import known_trackers
    from ..training.distributed.processes import (
        ParallelConfig,
        SingleProcess,
        check_spread,
        rank_info,
    )

    rank = rank_info()
    options: Globals = context.obj if rank.first else replace(context.obj, quiet=True)
    # loads plugins, whose loss parameters are options too
    workspace, trackers = options.open(workers), known_trackers(log_to or ())
    dataset, parameters = split_words(context, words or [])

    def resolve() -> tuple[RunConfig, Manifest, Path, str, list[str]]:
        labels, path, data, sentence, notes = choose_labels(
            workspace, dataset, manifest, noise, test
        )
        check_workers(workers, [data])
        request = RunRequest(
            method,
            loss,
            strategy,
            model,
            recipe.recipe,
            recipe.values,
            seed,
            precision,
            device,
            recipe.budget or "epochs",
            workspace.initial(init_weights, model or data.model),
            workspace.feature_network(features, feature_weights),
        )
        if parameters:
            request = with_loss_parameters(request, data, labels, parameters)
        clean = workspace.labels(data)
        labels.verify(clean.labels, clean.ids, classes=data.num_classes)
        return workspace.plan(request, data, labels), labels, path, sentence, notes

    # this process alone, or all processes of torchrun
    processes: AbstractContextManager[SingleProcess] = nullcontext(
        SingleProcess(rank.rank, rank.size)
    )
    if rank.size > 1 and not dry_run:  # for --dry-run each process resolves the run by itself
        from ..training.distributed.process_group import open_process_group

        processes = open_process_group(rank, device)
    with processes as ranks:
        run, labels, path, sentence, notes = ranks.rank_zero_first(resolve)
        parallel = ParallelConfig(ranks, accumulate, sync_bn)
        for note in notes:
            say(note, quiet=options.quiet)
        check_spread(min(run.recipe.batch_size, smallest_training_set(run)), parallel)
        folder = RunFolder(workspace.runs / run.folder_name)
        if dry_run:
            if rank.first:
                _show_run(run, folder, json=json)
            return
        record = None if force else ranks.on_rank_zero(partial(folder.finished, run.key))
        if record is not None:
            # not part of the key, although they change the numbers with batch norm
            plain = {"processes": 1, "accumulate": 1, "sync_bn": False}
            before, now = plain | record.get("environment", {}), plain | parallel.facts()
            changed = [f"{name} {before[name]}" for name in plain if before[name] != now[name]]
            with_changed = f", with {', '.join(changed)}" if changed else ""
            text = f"{folder.path} is finished already{with_changed}; --force trains it again"
            say(text, quiet=options.quiet)
            if rank.first:
                _show_record(record, json=json)
            return
        if folder.status() == "damaged":
            say(
                f"{folder.path} has a damaged record: training it again",
                quiet=options.quiet,
            )
        key = ranks.on_rank_zero(lambda: run.key)
        refuse(
            (
                key != run.key,
                f"process {ranks.rank} resolved another run ({run.key[:8]}) than process 0 "
                f"({key[:8]}): their data, plugins or processors differ; with --precision fp32 "
                "processors do not matter",
            )
        )
        logger = options.open_logger(trackers if rank.first else [])
        images = workspace.training_images(run, ranks.device or device)
        trainer = make_trainer(run, images, ranks.device or device, spread=parallel)
        ranks.on_rank_zero(partial(workspace.keep, labels, path))
        resume = not no_resume and not force
        for text in (
            sentence,
            *preprocessing(run, images),
            *(f"--init-weights {init_weights}: {note}" for note in trainer.adapted),
            f"{run.title}{' (oracle)' if run.oracle else ''} -> {folder.path}",
            *(["resuming where it was interrupted"] if resume and folder.resume.exists() else []),
        ):
            say(text, quiet=options.quiet)
        keep_memory()
        with StopSignals() as signals, RunProgress(quiet=options.quiet) as lines, logger:

            def on_epoch_end(progress: Progress) -> None:
                lines.update(progress)
                logger.log(run, folder, progress.lines)

            run_options = RunOptions(
                resume,
                force,
                on_epoch_end,
                lambda: signals.stopped,
                lines.say_duration,
                lines.step,
            )
            record = execute_run(run, images, trainer, folder, run_options)
            logger.finish(folder)
        if rank.first:
            _show_record(record, json=json)


def split_words(context: typer.Context, words: list[str]) -> tuple[str | None, dict[str, str]]:
    """`cifar10 --eps 0.4 --q=0.7` -> the data set and the parameters of the loss,
    `{"eps": "0.4", "q": "0.7"}`. Raises ConfigError.
    """
    dataset, parameters, rest = None, dict[str, str](), iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        key = flag[2:].replace("-", "_")
        if word.startswith("--"):
            _check_flag(context, flag)
            if not equals:
                value = next(rest, "")
            refuse(
                (not value, f"{flag} needs a value"),
                (key in parameters, f"{flag} is given twice"),
            )
            parameters[key] = value
        elif word.startswith("-"):
            raise ConfigError(f"no such option: {word} (noisebench train --help)")
        elif dataset is not None:
            raise ConfigError(f"train uses one data set, got {dataset!r} and {word!r}")
        else:
            dataset = word
    return dataset, parameters


def _check_flag(context: Any, flag: str) -> None:
    """Refuse a misplaced or misspelt option, which would otherwise be taken as a loss parameter."""
    from ..losses import LOSSES

    if flag[2:].replace("-", "_") in {p.name for entry in LOSSES for p in entry.parameters}:
        return
    flags = [known for parameter in context.command.params for known in parameter.opts]
    near = difflib.get_close_matches(flag, flags, n=1, cutoff=0.75)
    refuse(
        (
            any(flag in parameter.opts for parameter in context.parent.command.params),
            f"{flag} is a global option: write noisebench {flag} ... train",
        ),
        (
            near,
            f"no such option: {flag}; did you mean {''.join(near)}? (noisebench train --help)",
        ),
    )


def _show_run(run: RunConfig, folder: RunFolder, *, json: bool) -> None:
    if json:
        facts = {"run": str(folder.path), "status": folder.status(), "key": run.key}
        write_json({**facts, **run.config})
        return
    settings = ", ".join(f"{key} {value}" for key, value in run.recipe.asdict().items())
    show(
        f"{folder.status()}: {run.title}",
        f"folder: {folder.path}",
        f"oracle: {'yes' if run.oracle else 'no'}",
        f"loss: {run.loss}",
        f"strategy: {run.strategy}",
        *([f"initial weights: {run.init.label}"] if run.init else []),
        *([f"features: {run.features.label}"] if run.features else []),
        f"recipe {run.recipe_name}: {settings}",
        f"precision: {run.precision}",
    )


def _show_record(record: dict[str, Any], *, json: bool) -> None:
    from ..reporting import METRICS

    metrics, path, epochs = record["metrics"], record["path"], record["recipe"]["epochs"]
    test, memorized = metrics["test_acc"], metrics.get("memorised")
    speed = record.get("images_per_second")
    if json:
        facts = {
            "run": path,
            "key": record["key"],
            "test_acc": {key: test.get(key) for key in ("last", "mean_last10", "best")},
            "memorised": memorized,
            "epochs": epochs,
            "seconds": record.get("seconds"),
            "images_per_second": speed,
            "oracle": record.get("oracle"),
        }
        if "estimates" in record:
            facts["estimates"] = record["estimates"]
        write_json(facts)
        return
    share = "" if memorized is None else f"; {percent(memorized)} of incorrect labels memorized"
    by = "" if speed is None else f", {speed:.0f} images/s on {sys.platform}"
    estimates = estimated(record)
    show(
        *([estimates] if estimates else []),
        f"test accuracy {percent(test['last'])} (last), {percent(test.get('mean_last10'))} "
        f"({METRICS['mean_last10'].selection_of([epochs])}), {percent(test.get('best'))} (best on "
        f"test, optimistic){share}\n"
        f"{path}\n{plural(epochs, 'epoch')} in {duration(record['seconds'])}{by}",
    )
