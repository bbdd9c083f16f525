"""`noisebench train`: one run, resumable, never done twice."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import duration, estimated, percent, say, show, write_json
from .options import (
    Asym,
    BatchSize,
    Bernoulli,
    Budget,
    Clip,
    ConventionName,
    Crop,
    Epochs,
    Fit,
    Flip,
    Freeze,
    Globals,
    Human,
    Idn,
    ImgSize,
    Inclusive,
    Init,
    Json,
    LabelFile,
    LayerDecay,
    LearningRate,
    LogTo,
    Map,
    Matrix,
    Momentum,
    Nesterov,
    Noise,
    NoiseOptions,
    NoiseSeed,
    OldSize,
    Openset,
    Pair,
    Predictions,
    Schedule,
    Source,
    Subset,
    Sym,
    TestFolder,
    Trusted,
    ValFraction,
    ValSplit,
    WeightDecay,
    Workers,
    check_workers,
)  # fmt: skip

if TYPE_CHECKING:
    from ..datasets import Images
    from ..experiments.resolve import RunConfig, RunRequest
    from ..runs.checkpoint import Progress
    from ..runs.folder import RunFolder
    from ..runs.trackers import RunLogger
    from ..runs.workspace import Workspace
    from ..training.distributed.processes import ParallelConfig, RankInfo, SingleProcess
    from ..training.trainer import Trainer
    from .labels import ChosenLabels

TRAIN_SETTINGS = {"ignore_unknown_options": True}  # a loss's own parameters are options
_LONG = 600.0  # seconds from which a run's estimate is said


def train(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATASET",
            help="A data set; then the loss's own parameters, such as --eps 0.4.",
            show_default=False,
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            metavar="FILE",
            help="Train on these labels; default: what corrupt wrote last.",
        ),
    ] = None,
    sym: Sym = None,  # these and what follows are read by NoiseOptions.of
    asym: Asym = None,
    pair: Pair = None,
    idn: Idn = None,
    human: Human = None,
    matrix: Matrix = None,
    labels: LabelFile = None,
    openset: Openset = None,
    source: Source = None,
    noise: Noise = None,
    map: Map = None,
    inclusive: Inclusive = False,
    bernoulli: Bernoulli = False,
    convention: ConventionName = None,
    predictions: Predictions = None,
    val_fraction: ValFraction = None,
    val_split: ValSplit = None,
    trusted: Trusted = None,
    subset: Subset = None,
    test: TestFolder = None,
    noise_seed: NoiseSeed = 0,
    loss: Annotated[
        str | None,
        typer.Option(
            "--loss",
            metavar="TEXT",
            help="'gce(q=0.7)', 'lsr(el)', '10*normalized(ce) + mae' ...  [default: ce]",
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy", metavar="TEXT", help="'bootstrap(kind=soft)' ...  [default: standard]"
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="A row of the literature, instead of --loss and --strategy.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME|timm:NAME", help="The network; default: the data set's."
        ),
    ] = None,
    init: Init = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", metavar="NAME", help="How long and how hard; default: the data set's."
        ),
    ] = None,
    epochs: Epochs = None,
    budget: Budget = None,
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
    img_size: ImgSize = None,
    old_size: OldSize = None,
    fit: Fit = None,
    area: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Of streamed pictures: the least that a random crop takes."
        ),
    ] = None,
    centre: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Of streamed pictures: how much of the shorter side is looked at in tests.",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="N", help="Of the weights, the order and the augmentation."),
    ] = 0,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 ...")
    ] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", metavar="NAME", help="auto, fp32 or bf16.")
    ] = "auto",
    no_resume: Annotated[
        bool, typer.Option("--no-resume", help="Start an interrupted run anew.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Run a finished run again.")] = False,
    accumulate: Annotated[
        int,
        typer.Option(
            "--accumulate",
            metavar="N",
            min=1,
            help="Each batch in N parts one after the other: the same step, less memory.",
        ),
    ] = 1,
    sync_bn: Annotated[
        bool,
        typer.Option(
            "--sync-bn",
            help="Under torchrun, on GPUs: batch norm by the statistics of all processes.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run.")] = False,
    workers: Workers = None,
    log_to: LogTo = None,
    json: Json = False,
) -> None:
    """Train one network on noisy labels.

    noisebench train --loss el --eps 0.4
    """
    from ..errors import ConfigError
    from ..experiments.resolve import RunRequest, with_loss_parameters
    from ..runs.folder import RunFolder
    from ..runs.noise_estimation import smallest_training_set
    from ..runs.result import preprocessing
    from ..runs.session import make_trainer
    from ..runs.trackers import known_trackers
    from ..training.distributed.processes import ParallelConfig, check_spread, rank_info
    from .labels import LabelChoice, choose_labels
    from .tracking import open_logbook
    from .words import split_words

    seat = rank_info()
    options: Globals = context.obj if seat.first else replace(context.obj, quiet=True)
    # with plugins, whose parameters are options too
    workspace, trackers = options.open(workers), known_trackers(log_to or ())
    dataset, parameters = split_words(context, words or [])
    chosen = NoiseOptions.of(context)
    if img_size and old_size:
        raise ConfigError("--size is the old name of --img-size: give one of them")
    choice = LabelChoice(dataset, manifest, chosen, test)
    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "momentum": momentum,
        "nesterov": nesterov,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "clip": clip,
        "crop": crop,
        "flip": flip,
        "freeze": freeze,
        "layer_decay": layer_decay,
        "size": img_size or old_size,
        "fit": fit,
        "area": area,
        "centre": centre,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    with _ranks(seat, device, dry_run=dry_run) as ranks:

        def plan() -> tuple[ChosenLabels, RunConfig]:
            found = choose_labels(workspace, choice)
            check_workers(workers, [found.dataset])
            wish = RunRequest(
                method,
                loss,
                strategy,
                model,
                recipe,
                changes,
                seed,
                precision,
                device,
                budget or "epochs",
                workspace.initial(init, model or found.dataset.model),
            )
            return found, _plan(
                workspace,
                with_loss_parameters(wish, found.dataset, found.manifest, parameters),
                found,
            )

        found, run = ranks.rank_zero_first(plan)
        for note in found.notes:
            say(note, quiet=options.quiet)
        spread = ParallelConfig(ranks, accumulate, sync_bn)
        check_spread(min(run.recipe.batch_size, smallest_training_set(run)), spread)
        folder = RunFolder(workspace.runs / run.folder_name)
        if dry_run:
            if seat.first:
                _show_plan(run, folder, json=json)
            return
        record = None if force else ranks.on_rank_zero(lambda: folder.finished(run.key))
        if record is not None:
            say(
                f"{folder.path} is finished already{_otherwise(record, spread)}; --force runs it "
                "again",
                quiet=options.quiet,
            )
        else:
            if folder.status() == "damaged":
                say(
                    f"{folder.path} was finished or failed, but its record is damaged: it is run "
                    "again",
                    quiet=options.quiet,
                )
            _check_alike(ranks, run)
            logbook = open_logbook(options, trackers if seat.first else [])
            images = workspace.training_images(run.dataset, run.manifest, run.recipe)
            trainer = make_trainer(run, images, ranks.device or device, spread=spread)
            ranks.on_rank_zero(lambda: workspace.keep(found.manifest, found.path))
            for said in (
                found.sentence,
                *preprocessing(run, images),
                *(f"--init {init}: {each}" for each in trainer.adapted),
            ):
                say(said, quiet=options.quiet)
            record = _execute(
                images, options, trainer, run, folder, logbook, resume=not no_resume, anew=force
            )
        if seat.first:
            _show_record(record, json=json)


def _otherwise(record: dict[str, Any], spread: ParallelConfig) -> str:
    """How a finished run was spread, where that is not as asked: no key knows it, and with batch
    norm it changes the numbers.
    """
    plain = {"processes": 1, "accumulate": 1, "sync_bn": False}
    was, asked = (
        {name: facts.get(name, value) for name, value in plain.items()}
        for facts in (record.get("environment", {}), spread.facts())
    )
    if was == asked:
        return ""
    changed = (f"{name} {value}" for name, value in was.items() if value != asked[name])
    return f", with {', '.join(changed)}"


def _ranks(seat: RankInfo, device: str, *, dry_run: bool) -> AbstractContextManager[SingleProcess]:
    """This process by itself, or all that torchrun started, joined."""
    from ..training.distributed.processes import SingleProcess

    if not seat.several or dry_run:  # to say what would be run each plans by itself
        return nullcontext(SingleProcess(seat.rank, seat.size))
    from ..training.distributed.process_group import open_process_group

    return open_process_group(seat, device)


def _check_alike(ranks: SingleProcess, run: RunConfig) -> None:
    """Raises ConfigError where the machines of a run have different data, plugins or processors."""
    from ..errors import ConfigError

    if (key := ranks.on_rank_zero(lambda: run.key)) != run.key:
        other = (
            f"process {ranks.rank} would train another run ({run.key[:8]}) than process 0 "
            f"({key[:8]})"
        )
        raise ConfigError(
            f"{other}: their data, plugins or processors differ; --precision fp32 "
            "is the same everywhere"
        )


def _plan(workspace: Workspace, wish: RunRequest, labels: ChosenLabels) -> RunConfig:
    clean = workspace.labels(labels.dataset)
    labels.manifest.verify(clean.labels, clean.ids, classes=labels.dataset.num_classes)
    return workspace.plan(wish, labels.dataset, labels.manifest)


def _execute(
    images: Images,
    options: Globals,
    trainer: Trainer,
    run: RunConfig,
    folder: RunFolder,
    logbook: RunLogger,
    *,
    resume: bool,
    anew: bool,
) -> dict[str, Any]:
    from ..core.hardware import keep_memory
    from ..core.signals import StopSignals
    from ..runs.checkpoint import RunOptions
    from ..runs.session import execute_run
    from .progress import RunProgress

    say(f"{run.title}{' (oracle)' if run.oracle else ''} -> {folder.path}", quiet=options.quiet)
    if resume and not anew and folder.resume.exists():
        say("resuming where it was interrupted", quiet=options.quiet)
    keep_memory()
    with StopSignals() as signals, RunProgress(quiet=options.quiet) as lines, logbook:

        def estimate(seconds: float) -> None:
            if seconds > _LONG:
                lines.say(
                    f"this will take about {duration(seconds)}; Ctrl-C saves, the same "
                    "command resumes"
                )

        def listen(progress: Progress) -> None:
            lines.update(progress)
            logbook.log(run, folder, progress.lines)

        conduct = RunOptions(resume and not anew, anew, listen, lambda: signals.stopped, estimate)
        record = execute_run(run, images, trainer, folder, conduct)
        logbook.finish(folder)
    return record


def _show_plan(run: RunConfig, folder: RunFolder, *, json: bool) -> None:
    if json:
        write_json(
            {"run": str(folder.path), "status": folder.status(), "key": run.key, **run.config}
        )
        return
    lines = [
        f"{folder.status()}: {run.title}",
        f"folder: {folder.path}",
        f"oracle: {'yes' if run.oracle else 'no'}",
    ]
    settings = ", ".join(f"{key} {value}" for key, value in run.recipe.asdict().items())
    show(
        "\n".join(
            [
                *lines,
                f"loss: {run.loss}",
                f"strategy: {run.strategy}",
                *([f"begins from: {run.init.label}"] if run.init else []),
                f"recipe {run.recipe_name}: {settings}",
                f"precision: {run.precision}",
            ]
        )
    )


def _show_record(record: dict[str, Any], *, json: bool) -> None:
    metrics, path = record["metrics"], record["path"]
    if json:
        test_acc = {key: metrics["test_acc"].get(key) for key in ("last", "mean_last10", "best")}
        names = (
            "seconds",
            "images_per_second",
            "oracle",
            *(["estimates"] if "estimates" in record else []),
        )
        epochs = record["recipe"]["epochs"]
        write_json(
            {
                "run": path,
                "key": record["key"],
                "test_acc": test_acc,
                "memorised": metrics.get("memorised"),
                "epochs": epochs,
                **{name: record.get(name) for name in names},
            }
        )
        return
    from ..reporting import METRICS

    epochs = record["recipe"]["epochs"]
    test, speed, memorised = (
        metrics["test_acc"],
        record.get("images_per_second"),
        metrics.get("memorised"),
    )
    of_wrong = "" if memorised is None else f"; wrong labels memorised {percent(memorised)}"
    by = "" if speed is None else f", {speed:.0f} images/s on {sys.platform}"
    if found := estimated(record):
        show(found)
    show(
        f"test accuracy {percent(test['last'])} (last), {percent(test.get('mean_last10'))} "
        f"({METRICS['mean_last10'].selection_of([epochs])}), {percent(test.get('best'))} (best on "
        f"test, optimistic){of_wrong}\n"
        f"{path}\n{epochs} epoch{'' if epochs == 1 else 's'} in {duration(record['seconds'])}{by}"
    )
