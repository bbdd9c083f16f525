"""Command-line options. Groups of options that several commands share are declared once; the help
has a panel for each group.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
import typer.core

from ..core.expressions import Call
from ..core.progress import ProgressCallback, silent
from ..errors import ConfigError
from ..experiments.recipes import RECIPE_FIELDS, RECIPE_TYPES, option_name
from ..noise import label_file_of, noise_of_option, noise_options, parse_noise
from ..noise.conventions import find_convention
from .completion import OF_OPTION
from .console import TaskProgress, say

if TYPE_CHECKING:
    from ..datasets import Dataset
    from ..labels.build import LabelRequest
    from ..runs.trackers import RunLogger
    from ..runs.workspace import Workspace

# old spellings, accepted for one release; recipe fields declare their own
RENAMED = {
    "--against": "--compare-to",
    "--known": "--completed",
    "--minutes": "--time-limit",
    "--where": "--filter",
    "--on": "--eval-on",
    "--recheck": "--verify",
    "--folds": "--cv-folds",
    "--init": "--init-weights",
}
RENAMED |= {
    old: new
    for value in RECIPE_FIELDS.values()
    for alias in value.metadata.get("aliases", ())
    for old, new in zip(alias.split("/"), value.metadata["flag"].split("/"), strict=True)
}


class Command(typer.core.TyperCommand):
    """A command that also accepts the old spellings of its options, and whose help has a panel for
    each group of options. The help is plain text, since Rich would dominate the start-up time.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        flags = {flag for p in self.params for flag in (*p.opts, *p.secondary_opts)}
        words = list(args)
        for index, word in enumerate(args):
            flag, equals, value = word.partition("=")
            new = RENAMED.get(flag)
            if new in flags and flag not in flags:
                say(f"{flag} is now {new}", quiet=ctx.resilient_parsing)
                words[index] = f"{new}{equals}{value}"
        return super().parse_args(ctx, words)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            kind = "Arguments" if parameter.param_type_name == "argument" else "Other"
            panel = getattr(parameter, "rich_help_panel", None) or kind
            if record := parameter.get_help_record(ctx):
                panels.setdefault(panel, []).append(record)
        for panel, records in panels.items():
            with formatter.section(panel):
                formatter.write_dl(records)


def option(panel: str, *flags: str, help: str, metavar: str | None = None, **more: Any) -> Any:
    """Declare an option in a panel of the help."""
    more.setdefault("autocompletion", OF_OPTION.get(flags[0]))
    return typer.Option(*flags, metavar=metavar, help=help, rich_help_panel=panel, **more)


def refuse(*rules: tuple[object, str]) -> None:
    """Raises ConfigError with the message of the first rule whose condition is true."""
    for condition, message in rules:
        if condition:
            raise ConfigError(message)


@dataclass(frozen=True)
class Options:
    """A group of options. Each field is an option of the command that uses the group. `values`
    holds the given options that a registry declares, by their names there.
    """

    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parameters(cls) -> dict[str, Parameter]:
        """The options by field name or by name in the registry."""
        hints, kind = get_type_hints(cls, include_extras=True), Parameter.KEYWORD_ONLY
        return {
            value.name: Parameter(
                value.name, kind, default=value.default, annotation=hints[value.name]
            )
            for value in fields(cls)
            if value.name != "values"
        }


def _registered(name: str, kind: Any, declared: Any) -> Parameter:
    """The parameter of an option that a registry declares."""
    annotation: Any = Annotated[kind | None, declared]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a command for Typer: a parameter that is a group is replaced by its options.

    Its `declare` reads the groups again, after a plugin has been loaded.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, tuple[type[Options], dict[str, Parameter]]] = {}

    def declare() -> None:
        parameters: list[Parameter] = []
        for name, parameter in signature(function).parameters.items():
            if isinstance(hints[name], type) and issubclass(hints[name], Options):
                groups[name] = hints[name], hints[name].parameters()
                parameters += groups[name][1].values()
            else:
                parameters.append(
                    parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY)
                )
        made: Any = command
        made.__signature__ = Signature(parameters)
        made.__annotations__ = {one.name: one.annotation for one in parameters}

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        for name, (group, options) in groups.items():
            values = {key: given.pop(option.name) for key, option in options.items()}
            known = {value.name: values.pop(value.name) for value in fields(group)[1:]}
            given_values = {key: value for key, value in values.items() if value is not None}
            given[name] = group(given_values, **known)
        return function(**given)

    command.declare = declare  # type: ignore[attr-defined]
    declare()
    return command


TestFolder = Annotated[
    Path | None,
    option(
        "Data",
        "--test",
        metavar="DIR",
        help="Directory of test images, DIR/class/image; default: test/, validation/ or val/ of "
        "the data set.",
    ),
]
InitWeights = Annotated[
    str | None,
    option(
        "Method",
        "--init-weights",
        metavar="RUN|FILE|pretrained|none",
        help="Initial weights: from a run, from a file, pretrained by timm, or none (random).",
    ),
]
Features = Annotated[
    str | None,
    option(
        "Method",
        "--features",
        metavar="timm:NAME",
        help="Train on the features of a frozen network, computed once, instead of the images.",
    ),
]
FeatureWeights = Annotated[
    str | None,
    option(
        "Method",
        "--feature-weights",
        metavar="FILE|RUN|pretrained",
        help="Weights of the network of --features.  [default: pretrained]",
    ),
]
Device = Annotated[
    str, option("Run", "--device", metavar="NAME", help="Device: auto, cpu, cuda or cuda:N.")
]
NoResume = Annotated[
    bool, option("Run", "--no-resume", help="Start interrupted runs from the beginning.")
]
Workers = Annotated[
    int | None,
    option(
        "Run",
        "--workers",
        metavar="N",
        min=0,
        help="Processes that load streamed images; default: one per CPU core.",
    ),
]
LogTo = Annotated[
    list[str] | None,
    option(
        "Output",
        "--log-to",
        metavar="TRACKER",
        help="Log to tensorboard, wandb, mlflow or trackio too; repeatable.",
    ),
]
Filter = Annotated[
    list[str] | None,
    option(
        "Data",
        "--filter",
        metavar="AXIS=VALUE",
        help="Select runs by a value; several values: seed=0|1; repeatable.",
    ),
]
Json = Annotated[bool, option("Output", "--json", help="Print one JSON document on stdout.")]


@dataclass(frozen=True)
class Globals:
    """The global options."""

    workspace: Path
    data_dir: Path | None
    offline: bool
    plugins: tuple[str, ...]
    quiet: bool
    verbose: bool
    progress: TaskProgress = field(default_factory=TaskProgress)

    @property
    def tell(self) -> ProgressCallback:
        """Receives the progress of operations."""
        return silent if self.quiet else self.progress

    def open(self, workers: int | None = None) -> Workspace:
        """Load the plugins and open the workspace; workers: processes that load streamed images."""
        from ..core.plugins import load_plugins
        from ..runs.workspace import Workspace

        load_plugins(self.plugins)
        return Workspace(
            self.workspace,
            self.data_dir,
            offline=self.offline,
            workers=workers,
            tell=self.tell,
        )

    def open_logger(self, names: Iterable[str]) -> RunLogger:
        """Open the trackers of --log-to. Raises ConfigError if one cannot be opened."""
        from ..runs.trackers import RunLogger, TrackerConfig, connect

        config = TrackerConfig(self.workspace, self.offline)
        trackers = {name: connect(name, config) for name in names}
        for name, tracker in trackers.items():
            say(f"logging to {name}: {tracker.where}", quiet=self.quiet)
        return RunLogger(trackers, lambda text: say(f"warning: {text}"))


def check_workers(workers: int | None, datasets: Sequence[Dataset]) -> None:
    """Raises ConfigError if --workers has no effect because all data sets are in memory."""
    refuse(
        (
            workers is not None and not any(dataset.reader for dataset in datasets),
            "--workers has an effect on streamed images only (folder:DIR ...); "
            f"{datasets[0].name} is in memory",
        )
    )


@dataclass(frozen=True)
class RecipeOptions(Options):
    """The recipe, and the values of Recipe fields that override it."""

    recipe: Annotated[
        str | None,
        option(
            "Recipe",
            "--recipe",
            metavar="NAME",
            help="Training recipe: epochs, optimizer, schedule, augmentation; default: the data "
            "set's.",
        ),
    ] = None
    budget: Annotated[
        str | None,
        option(
            "Recipe",
            "--budget",
            metavar="NAME",
            help="'epochs' (default), or 'compute': match the compute of CE trained for --epochs.",
        ),
    ] = None

    @classmethod
    def parameters(cls) -> dict[str, Parameter]:
        options = super().parameters()
        for name, value in RECIPE_FIELDS.items():
            facts = value.metadata
            declared = option("Recipe", facts["flag"], help=facts["help"], metavar=facts["metavar"])
            options[name] = _registered(option_name(name), RECIPE_TYPES[name], declared)
        return options


@dataclass(frozen=True)
class NoiseOptions(Options):
    """The labels to make; `values` holds the noises that have an option of their own."""

    noise: Annotated[
        str | None,
        option(
            "Noise",
            "--noise",
            metavar="TEXT",
            help="Noise as a text, such as 'symmetric(rate=0.4, inclusive=True)'.",
        ),
    ] = None
    source: Annotated[
        str | None,
        option(
            "Noise",
            "--source",
            metavar="DATASET",
            help="Data set that --openset takes images from.",
        ),
    ] = None
    map: Annotated[
        str | None,
        option(
            "Noise",
            "--map",
            metavar="NAME",
            help="Class map of --asym (noisebench list noises asymmetric).",
        ),
    ] = None
    inclusive: Annotated[
        bool,
        option(
            "Noise",
            "--inclusive",
            help="Sample labels of --sym from all classes, including the true one.",
        ),
    ] = False
    bernoulli: Annotated[
        bool,
        option(
            "Noise",
            "--bernoulli",
            help="Flip each label independently, instead of exact counts per class.",
        ),
    ] = False
    convention: Annotated[
        str | None,
        option(
            "Noise",
            "--convention",
            metavar="NAME",
            help="Interpret the rate as this paper does (noisebench list conventions).",
        ),
    ] = None
    predictions: Annotated[
        str | None,
        option(
            "Noise",
            "--predictions",
            metavar="FILE",
            help="Teacher predictions for --idn, written by evaluate --predictions.",
        ),
    ] = None
    noise_seed: Annotated[
        int, option("Noise", "--noise-seed", metavar="N", help="Seed for sampling the noise.")
    ] = 0
    subset: Annotated[
        int | None,
        option(
            "Data",
            "--subset",
            metavar="N",
            help="Use N of the training images, the same for every noise, method and seed.",
        ),
    ] = None
    val_fraction: Annotated[
        float | None,
        option(
            "Data",
            "--val-fraction",
            metavar="SHARE",
            help="Reserve this share of the examples as a noisy validation split.",
        ),
    ] = None
    val_split: Annotated[
        str | None,
        option(
            "Data",
            "--val-split",
            metavar="WHEN",
            help="When to split off the validation split: after (default) or before corruption.",
        ),
    ] = None
    trusted: Annotated[
        float | None,
        option(
            "Data",
            "--trusted",
            metavar="SHARE",
            help="Make this share of the labels correct and mark them as verified.",
        ),
    ] = None

    @classmethod
    def parameters(cls) -> dict[str, Parameter]:
        options = {}
        for name, entry in noise_options().items():
            facts = entry.facts["option"]
            kind = next(p.type for p in entry.parameters if p.name == facts.parameter)
            declared = option("Noise", facts.flag, help=facts.help, metavar=facts.metavar)
            options[name] = _registered(name, kind, declared)
        return {**options, **super().parameters()}

    @property
    def any(self) -> bool:
        """Whether the options name a noise."""
        return bool(self.values) or self.noise is not None

    @property
    def label_file(self) -> str | None:
        """The label file of the noise, if any; a directory without class folders takes its classes
        from it.
        """
        file = self.values.get("labels")
        if file is None:
            return label_file_of(self.noise) if self.noise else None
        return None if file == "own" else str(file)

    def request(self, dataset: str) -> LabelRequest:
        """The request for labels of a data set. Raises ConfigError for two noises, or an option
        without effect.
        """
        from ..experiments.resolve import checked_seed
        from ..labels.build import VAL_SPLITS, LabelRequest

        text = self.noise or ""
        names = [name for name in self.values if name != "openset"]
        names += [] if self.noise is None else ["noise"]
        kind, openset = names[0] if names else "", self.values.get("openset")
        self._check(names, kind, openset)
        paper = find_convention(self.convention) if self.convention else None
        value: Any = self.values.get(kind)
        if kind == "noise" and self.predictions:
            call = parse_noise(text)
            if not isinstance(call, Call) or call.name != "plc":
                raise ConfigError(
                    "--predictions has an effect with --idn and --noise 'plc(...)' only"
                )
            text = str(replace(call, kwargs=(*call.kwargs, ("predictions", self.predictions))))
        elif paper:
            text = paper.text(kind, value, dataset)
        elif self.predictions:
            text = f"plc(predictions={self.predictions!r}, rate={value!r})"
        elif kind not in ("", "noise"):
            inclusive, exact = self.inclusive or None, False if self.bernoulli else None
            text = noise_of_option(kind, value, map=self.map, inclusive=inclusive, exact=exact)
        if openset is not None:
            inner = f"{parse_noise(text)}, " if text else ""
            alone = ", exact=False" if self.bernoulli and not text else ""
            text = f"openset({inner}rate={openset!r}, source={self.source!r}{alone})"
        fraction, when = self.val_fraction, self.val_split
        if paper:
            fraction = paper.val_fraction if fraction is None else fraction
            when = when or paper.val_split
        refuse(
            (
                self.val_split and not fraction,
                "--val-split has an effect with --val-fraction only",
            )
        )
        return LabelRequest(
            text,
            checked_seed(self.noise_seed),
            fraction or 0.0,
            when or VAL_SPLITS[0],
            self.convention,
            self.trusted or 0.0,
            self.subset,
        )

    def _check(self, names: list[str], kind: str, openset: float | None) -> None:
        """Refuse options without effect on this noise."""
        sampled = self.val_fraction or self.trusted or openset is not None
        only = (
            ("map", kind == "asym", "--asym only"),
            ("inclusive", kind == "sym", "--sym only"),
            (
                "bernoulli",
                kind in ("sym", "asym", "pair", "matrix", ""),
                "--sym, --asym, --pair, --matrix and --openset only; in --noise write exact=False",
            ),
            (
                "convention",
                kind in ("sym", "asym", "pair", "idn"),
                "--sym, --asym, --pair and --idn only",
            ),
            ("predictions", kind in ("idn", "noise"), "--idn and --noise 'plc(...)' only"),
            ("source", openset is not None, "--openset only"),
        )
        refuse(
            (
                len(names) > 1,
                f"name one noise only, got {' and '.join(f'--{name}' for name in names)}",
            ),
            *(
                (getattr(self, name) and not effect, f"--{name} has an effect with {kinds}")
                for name, effect, kinds in only
            ),
            (
                openset is not None and not self.source,
                "--openset needs --source DATASET, from which it takes images",
            ),
            (
                self.convention
                and (self.map or self.inclusive or self.bernoulli or self.predictions),
                f"--convention {self.convention} defines all of the noise but its rate: leave out "
                "--map, --inclusive, --bernoulli and --predictions",
            ),
            (
                self.noise_seed and kind in ("human", "labels") and not sampled,
                f"--noise-seed has no effect: the labels of --{kind} are not sampled",
            ),
        )
