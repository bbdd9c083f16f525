"""`noisebench train`: one run, resumable, never done twice."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import duration, percent, say, show, write_json
from .options import Asym, Bernoulli, Globals, Inclusive, Json, Map, Noise, NoiseOptions, NoiseSeed, Pair, Sym

if TYPE_CHECKING:
    from ..manifest import Manifest
    from ..plan import Run, Wish
    from ..results import RunFolder
    from ..workspace import Workspace

TRAIN_SETTINGS = {"ignore_unknown_options": True}  # a loss's own parameters are options
_RECIPE = "The recipe's settings"
_LONG = 600.0  # seconds from which a run's estimate is said
_DEFAULT = ("digits", "symmetric(rate=0.4)")

Setting = typer.Option(rich_help_panel=_RECIPE)


def train(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DATASET] [--PARAMETER VALUE]...", help="A data set, and the loss's own parameters, such as --eps 0.4.", show_default=False),
    ] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", help="Train on these labels; default: what corrupt wrote last.")] = None,
    sym: Sym = None,
    asym: Asym = None,
    pair: Pair = None,
    noise: Noise = None,
    map: Map = None,
    inclusive: Inclusive = False,
    bernoulli: Bernoulli = False,
    noise_seed: NoiseSeed = 0,
    loss: Annotated[str | None, typer.Option("--loss", metavar="TEXT", help="'gce(q=0.7)', 'lsr(el)', '10*normalized(ce) + mae' ...  [default: ce]")] = None,
    strategy: Annotated[str | None, typer.Option("--strategy", metavar="TEXT", help="[default: standard]")] = None,
    method: Annotated[str | None, typer.Option("--method", help="A row of the literature, instead of --loss and --strategy.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME|timm:NAME", help="The network; default: the data set's.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="How long and how hard; default: the data set's.")] = None,
    epochs: Annotated[int | None, Setting] = None,
    batch_size: Annotated[int | None, Setting] = None,
    lr: Annotated[float | None, Setting] = None,
    momentum: Annotated[float | None, Setting] = None,
    nesterov: Annotated[bool | None, typer.Option("--nesterov/--no-nesterov", rich_help_panel=_RECIPE)] = None,
    weight_decay: Annotated[float | None, Setting] = None,
    schedule: Annotated[str | None, typer.Option(metavar="constant|cosine|step(40, 80)", rich_help_panel=_RECIPE)] = None,
    clip: Annotated[float | None, typer.Option(help="Largest gradient norm, 0 for none.", rich_help_panel=_RECIPE)] = None,
    crop: Annotated[int | None, typer.Option(help="Padding of the random crop, in pixels.", rich_help_panel=_RECIPE)] = None,
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", rich_help_panel=_RECIPE)] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the weights, the order and the augmentation.")] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    precision: Annotated[str, typer.Option("--precision", metavar="auto|fp32|bf16")] = "auto",
    no_resume: Annotated[bool, typer.Option("--no-resume", help="Start an interrupted run anew.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run a finished run again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run.")] = False,
    json: Json = False,
) -> None:
    """Train one network on noisy labels.

    noisebench train --loss el --eps 0.4
    """
    from ..plan import Wish, loss_with

    options: Globals = context.obj
    dataset, parameters = _words(context, words or [])
    workspace = options.open()
    chosen = NoiseOptions(sym, asym, pair, noise, map, inclusive, bernoulli).text()
    if noise_seed and chosen is None:
        _refuse("--noise-seed has an effect with a noise only: --sym, --asym, --pair or --noise")
    labels, name = _manifest(workspace, options, dataset, manifest, chosen, noise_seed)
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "momentum": momentum, "nesterov": nesterov,
             "weight_decay": weight_decay, "schedule": schedule, "clip": clip, "crop": crop, "flip": flip}  # fmt: skip
    changes = {key: value for key, value in given.items() if value is not None}
    if parameters:
        loss, strategy, method = _with_parameters(parameters, name, loss, strategy, method, loss_with)
    wish = Wish(method, loss, strategy, model, recipe, changes, seed, precision)
    _carry_out(workspace, options, wish, labels, name, _How(device, no_resume, force, dry_run, json))


class _How:
    """How the run is carried out; nothing here is part of its key."""

    def __init__(self, device: str, no_resume: bool, force: bool, dry_run: bool, json: bool) -> None:
        self.device, self.resume, self.force, self.dry_run, self.json = device, not no_resume, force, dry_run, json


def _refuse(message: str) -> None:
    from ..errors import ConfigError

    raise ConfigError(message)


def _words(context: typer.Context, words: list[str]) -> tuple[str | None, dict[str, str]]:
    """The data set and the loss's parameters out of what no option took: `cifar10 --eps 0.4 --q=0.7`."""
    dataset, parameters, rest = None, {}, list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not equals and not rest:
                _refuse(f"--{name} needs a value ({_near(context, name)})")
            parameters[name.replace("-", "_")] = value if equals else rest.pop(0)
        elif word.startswith("-"):
            _refuse(f"no such option: {word} (noisebench train --help)")
        elif dataset is not None:
            _refuse(f"one data set only: {dataset!r} and {word!r} are given")
        else:
            dataset = word
    options = {name.lstrip("-").replace("-", "_") for parameter in context.command.params for name in parameter.opts}
    for name in parameters:
        _check_near(context, name, options)
    return dataset, parameters


def _check_near(context: typer.Context, name: str, options: set[str]) -> None:
    """Refuse a misspelt option of train, which would otherwise be taken for a loss's parameter."""
    import difflib

    from ..losses import LOSSES

    if name in {p.name for entry in LOSSES for p in entry.parameters}:
        return
    if near := difflib.get_close_matches(name, options, n=1, cutoff=0.75):
        _refuse(f"no such option: --{name.replace('_', '-')}; did you mean --{near[0].replace('_', '-')}? (noisebench train --help)")
    parent = {option for parameter in (context.parent.command.params if context.parent else ()) for option in parameter.opts}
    if f"--{name.replace('_', '-')}" in parent:
        _refuse(f"--{name.replace('_', '-')} stands before the command: noisebench --{name.replace('_', '-')} ... train")


def _near(context: typer.Context, name: str) -> str:
    return f"a parameter of the loss, or an option of {context.command_path} --help"


def _with_parameters(parameters: dict[str, str], dataset: str, loss: str | None, strategy: str | None, method: str | None, loss_with: Any) -> Any:
    """The loss with its own parameters; a method becomes its loss and strategy, since it is no longer the row of that name."""
    if method is None:
        return loss_with(loss or "ce", parameters), strategy, None
    from ..methods import find_method

    row = find_method(method)
    if loss or strategy:
        _refuse("a method is a loss and a strategy already: give --method, or --loss and --strategy")
    return loss_with(row.loss_on(dataset), parameters), row.strategy, None


def _manifest(workspace: Workspace, options: Globals, dataset: str | None, path: Path | None, noise: str | None, seed: int) -> tuple[Manifest, str]:
    """The labels to train on and their data set's name, and say which."""
    from ..manifest import read_manifest
    from ..plan import checked_seed

    if noise is not None:
        if path is not None:
            _refuse("give a noise or a --manifest, not both")
        if dataset is None:
            _refuse("a noise needs a data set: noisebench train cifar10 --sym 0.4")
        return _made(workspace, str(dataset), noise, checked_seed(seed))
    source = "" if path else "what corrupt wrote last"
    path = path or workspace.current
    if path is None:
        if dataset not in (None, _DEFAULT[0]):
            _refuse(f"say which noise: noisebench train {dataset} --sym 0.4 (--sym 0 for clean labels), or run noisebench corrupt first")
        say(f"no manifest here: training on the embedded {_DEFAULT[0]} with {_DEFAULT[1]}", quiet=options.quiet)
        return _made(workspace, *_DEFAULT, 0)
    manifest = read_manifest(path)
    named = str(manifest.meta["dataset"])
    if source and dataset not in (None, named):
        _refuse(f"{path}, {source}, is for {named}, not {dataset}: say which noise, e.g. noisebench train {dataset} --sym 0.4")
    say(f"training on {path}{f', {source}' if source else ''}: {named}, {manifest.meta['noise']}", quiet=options.quiet)
    return manifest, dataset or named


def _made(workspace: Workspace, dataset: str, noise: str, seed: int) -> tuple[Manifest, str]:
    manifest, path = workspace.make(workspace.dataset(dataset), noise, seed)
    workspace.keep(manifest, path)
    return manifest, dataset


def _carry_out(workspace: Workspace, options: Globals, wish: Wish, manifest: Manifest, name: str, how: _How) -> None:
    from ..agenda import forget
    from ..plan import plan_run
    from ..results import RunFolder

    dataset = workspace.dataset(name)
    manifest.verify(workspace.labels(dataset).labels, workspace.labels(dataset).ids)
    run = plan_run(wish, dataset, manifest, workspace.images(dataset).fingerprint)
    folder = RunFolder(workspace.runs / run.folder_name)
    if how.dry_run:
        _show_plan(run, folder, json=how.json)
        return
    if how.force:
        forget(folder)
    if folder.result.exists():
        say(f"{folder.path} is finished already; --force runs it again", quiet=options.quiet)
        record = folder.record()
    else:
        record = _execute(workspace, options, run, folder, how)
    _show_record(record, json=how.json)


def _execute(workspace: Workspace, options: Globals, run: Run, folder: RunFolder, how: _How) -> dict[str, Any]:
    from ..executors.signals import StopSignals
    from ..runner import Conduct, execute
    from .progress import RunProgress

    say(f"{run.title}{' (oracle)' if run.oracle else ''} -> {folder.path}", quiet=options.quiet)
    if how.resume and folder.resume.exists():
        say("resuming where it was interrupted", quiet=options.quiet)
    progress: AbstractContextManager[RunProgress] = RunProgress(quiet=options.quiet)
    with StopSignals() as signals, progress as lines:

        def estimate(seconds: float) -> None:
            if seconds > _LONG:
                lines.say(f"this will take about {duration(seconds)}; Ctrl-C saves, the same command resumes")

        conduct = Conduct(how.device, how.resume, lines.update, lambda: signals.stopped, estimate)
        return execute(run, workspace.images(run.dataset), folder, conduct)


def _show_plan(run: Run, folder: RunFolder, *, json: bool) -> None:
    if json:
        write_json({"run": str(folder.path), "status": folder.status(), "key": run.key, **run.config})
        return
    lines = [f"{folder.status()}: {run.title}", f"folder: {folder.path}", f"oracle: {'yes' if run.oracle else 'no'}"]
    settings = ", ".join(f"{key} {value}" for key, value in run.recipe.asdict().items())
    show("\n".join([*lines, f"loss: {run.loss}", f"strategy: {run.strategy}", f"recipe {run.recipe_name}: {settings}", f"precision: {run.precision}"]))


def _show_record(record: dict[str, Any], *, json: bool) -> None:
    metrics, path = record["metrics"], record["path"]
    if json:
        test_acc = {key: metrics["test_acc"][key] for key in ("last", "mean_last10", "best")}
        names = ("seconds", "images_per_second", "oracle")
        epochs = record["recipe"]["epochs"]
        write_json({"run": path, "key": record["key"], "test_acc": test_acc, "memorised": metrics["memorised"], "epochs": epochs,
                    **{name: record[name] for name in names}})  # fmt: skip
        return
    test, speed = metrics["test_acc"], record["images_per_second"]
    memorised = "" if metrics["memorised"] is None else f"; wrong labels memorised {percent(metrics['memorised'])}"
    show(
        f"test accuracy {percent(test['last'])} (last), {percent(test['mean_last10'])} (mean of the last ten), "
        f"{percent(test['best'])} (best on test, optimistic){memorised}\n"
        f"{path}\n{record['recipe']['epochs']} epochs in {duration(record['seconds'])}, {speed:.0f} images/s on {sys.platform}"
    )
