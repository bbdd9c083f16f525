"""What several commands share: the options before the command, and those that name a noise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..datasets import Dataset
    from ..labels.build import LabelRequest
    from ..runs.workspace import Workspace

Sym = Annotated[
    float | None,
    typer.Option("--sym", metavar="RATE", help="Symmetric noise, exclusive of the true class."),
]
Asym = Annotated[
    float | None, typer.Option("--asym", metavar="RATE", help="Asymmetric noise by a named --map.")
]
Pair = Annotated[
    float | None, typer.Option("--pair", metavar="RATE", help="Pair-flip, class i to i + 1.")
]
Idn = Annotated[
    float | None,
    typer.Option(
        "--idn",
        metavar="RATE",
        help="Instance-dependent noise: part-dependent (pdn), a paper's own with --convention, or "
        "a teacher's with --predictions (plc).",
    ),
]
Human = Annotated[
    str | None,
    typer.Option(
        "--human", metavar="COLUMN", help="Labels by people: CIFAR-N's worse, aggre, random1 ..."
    ),
]
Matrix = Annotated[
    str | None,
    typer.Option("--matrix", metavar="FILE", help="Any transition matrix: .csv, .npy or .yaml."),
]
LabelFile = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="Label file (.csv, .tsv, .txt, .json, .jsonl, .npy, .npz, .pt), or FILE:COLUMN for "
        "the column of labels; the column "
        "of indices, paths or file names is the key. Or 'own': the data set's labels unchanged.",
    ),
]
Openset = Annotated[
    float | None,
    typer.Option("--openset", metavar="RATE", help="This share of images comes from --source."),
]
Source = Annotated[
    str | None,
    typer.Option(
        "--source", metavar="DATASET", help="The data set that --openset takes images from."
    ),
]
Noise = Annotated[
    str | None,
    typer.Option(
        "--noise", metavar="TEXT", help="Any noise: 'symmetric(rate=0.4, inclusive=True)'."
    ),
]
Map = Annotated[
    str | None,
    typer.Option(
        "--map",
        metavar="NAME",
        help="Which classes flip for --asym (noisebench list noises asymmetric).",
    ),
]
Inclusive = Annotated[
    bool, typer.Option("--inclusive", help="--sym draws among all classes, the true one too.")
]
Bernoulli = Annotated[
    bool,
    typer.Option(
        "--bernoulli", help="Each label flips by itself, instead of exact counts per class."
    ),
]
ConventionName = Annotated[
    str | None,
    typer.Option(
        "--convention",
        metavar="NAME",
        help="The rate as this paper meant it (noisebench list conventions).",
    ),
]
Predictions = Annotated[
    str | None,
    typer.Option(
        "--predictions", metavar="FILE", help="A teacher's, by evaluate --predictions, for --idn."
    ),
]
ValFraction = Annotated[
    float | None,
    typer.Option("--val-fraction", metavar="SHARE", help="Hold out a noisy validation split."),
]
ValSplit = Annotated[
    str | None,
    typer.Option(
        "--val-split", metavar="WHEN", help="Draw it after (default) or before corruption."
    ),
]
Trusted = Annotated[
    float | None,
    typer.Option(
        "--trusted",
        metavar="SHARE",
        help="This share of the labels has been verified: right, and marked so.",
    ),
]
Subset = Annotated[
    int | None,
    typer.Option(
        "--subset",
        metavar="N",
        help="Only N of the training images, the same for every noise, method and seed.",
    ),
]
TestFolder = Annotated[
    Path | None,
    typer.Option(
        "--test",
        metavar="DIR",
        help="Test images of a folder, DIR/class/image; default: its test/, validation/ or val/.",
    ),
]
NoiseSeed = Annotated[int, typer.Option("--noise-seed", metavar="N", help="Seed of the draw.")]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="NAME",
        help="epochs (default), or compute: as many as do the work of so many of CE.",
    ),
]
Init = Annotated[
    str | None,
    typer.Option(
        "--init",
        metavar="RUN|FILE|pretrained|none",
        help="The weights to begin from: a run's, a file's, or timm's own.",
    ),
]
Epochs = Annotated[
    int | None, typer.Option("--epochs", metavar="N", help="Passes over the training set.")
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", help="Examples a step.")
]
LearningRate = Annotated[
    float | None, typer.Option("--lr", metavar="N", help="Initial learning rate.")
]
Momentum = Annotated[float | None, typer.Option("--momentum", metavar="N", help="SGD momentum.")]
Nesterov = Annotated[
    bool | None, typer.Option("--nesterov/--no-nesterov", help="Nesterov's momentum.")
]
WeightDecay = Annotated[
    float | None, typer.Option("--weight-decay", metavar="N", help="L2, on every parameter.")
]
Schedule = Annotated[
    str | None,
    typer.Option("--schedule", metavar="TEXT", help="constant, cosine or 'step(40, 80)'."),
]
Clip = Annotated[
    float | None, typer.Option("--clip", metavar="N", help="Largest gradient norm, 0 for none.")
]
Crop = Annotated[
    int | None, typer.Option("--crop", metavar="N", help="Padding of the random crop, in pixels.")
]
Flip = Annotated[bool | None, typer.Option("--flip/--no-flip", help="Mirror images at random.")]
Freeze = Annotated[
    int | None, typer.Option("--freeze", metavar="N", help="Freeze the first N layer groups.")
]
LayerDecay = Annotated[
    float | None,
    typer.Option(
        "--layer-decay",
        metavar="SHARE",
        help="A layer group's learning rate, as a share of the next one's; 1: all alike.",
    ),
]
ImgSize = Annotated[
    int | None,
    typer.Option(
        "--img-size",
        metavar="N",
        min=8,
        max=1024,
        help="Side of the square images in pixels; default: unchanged, or of different sizes the "
        "median shorter side, at most 224.",
    ),
]
OldSize = Annotated[int | None, typer.Option("--size", min=8, max=1024, hidden=True)]
Fit = Annotated[
    str | None,
    typer.Option(
        "--fit", metavar="crop|pad|squash", help="How images are made square; default: crop."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=0,
        help="Processes that read a streamed set's pictures ahead; default: one a core.",
    ),
]
LogTo = Annotated[
    list[str] | None,
    typer.Option(
        "--log-to",
        metavar="TRACKER",
        help="Also to tensorboard, wandb, mlflow or trackio; may be repeated.",
    ),
]
Drop = Annotated[
    bool, typer.Option("--drop", help="What the list of --suspects names is not trained on.")
]
Relabel = Annotated[
    bool,
    typer.Option(
        "--relabel", help="What the list of --suspects names gets the label suggested there."
    ),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="AXIS=VALUE",
        help="Only these runs; several values: seed=0|1; repeatable.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@dataclass(frozen=True)
class Globals:
    """The options before the command."""

    workspace: Path
    data_dir: Path | None
    offline: bool
    plugins: tuple[str, ...]
    quiet: bool
    verbose: bool

    def open(self, workers: int | None = None) -> Workspace:
        """The workspace, with plugins loaded; workers: processes that read pictures ahead."""
        from ..core.plugins import load_plugins
        from ..runs.workspace import Workspace
        from .progress import DownloadProgress

        load_plugins(self.plugins)
        tell = DownloadProgress(quiet=self.quiet)
        return Workspace(
            self.workspace, self.data_dir, offline=self.offline, workers=workers, tell=tell
        )


def check_workers(workers: int | None, datasets: Iterable[Dataset]) -> None:
    """Raises ConfigError where --workers has no effect, since every set is in memory."""
    known = list(datasets)
    if workers is not None and not any(dataset.reader for dataset in known):
        raise ConfigError(
            "--workers reads pictures ahead that are streamed (folder:DIR ...); "
            f"{known[0].name} is in memory"
        )


@dataclass(frozen=True)
class NoiseOptions:
    """The noise as options; `wish()` is it in the language."""

    sym: float | None = None
    asym: float | None = None
    pair: float | None = None
    idn: float | None = None
    human: str | None = None
    matrix: str | None = None
    labels: str | None = None
    openset: float | None = None
    source: str | None = None
    noise: str | None = None
    map: str | None = None
    inclusive: bool = False
    bernoulli: bool = False
    convention: str | None = None
    predictions: str | None = None
    val_fraction: float | None = None
    val_split: str | None = None
    trusted: float | None = None
    subset: int | None = None
    noise_seed: int = 0

    @classmethod
    def of(cls, context: typer.Context) -> NoiseOptions:
        """As they were given to a command that has them all."""
        return cls(**{field.name: context.params[field.name] for field in fields(cls)})

    @property
    def rates(self) -> dict[str, float]:
        """The kinds that take a rate and are named, with it."""
        named = {"sym": self.sym, "asym": self.asym, "pair": self.pair, "idn": self.idn}
        return {kind: rate for kind, rate in named.items() if rate is not None}

    @property
    def named(self) -> list[str]:
        """The options that name a noise; --openset goes with another or alone."""
        others = {
            "human": self.human,
            "matrix": self.matrix,
            "labels": self.labels,
            "noise": self.noise,
        }
        return [*self.rates, *(name for name, value in others.items() if value is not None)]

    @property
    def label_file(self) -> str | None:
        """The label file of the noise, if any: the classes of a folder without class folders are
        its labels.
        """
        from ..noise import label_file_of

        if self.labels is not None:
            return None if self.labels == "own" else self.labels
        return label_file_of(self.noise) if self.noise else None

    @property
    def any(self) -> bool:
        return bool(self.named) or self.openset is not None

    def wish(self, dataset: str) -> LabelRequest:
        """The labels that the options ask for on a data set. Raises ConfigError for two noises, or
        an option without effect.
        """
        from ..experiments.resolve import checked_seed
        from ..labels.build import VAL_SPLITS, LabelRequest
        from ..noise import parse_noise
        from ..noise.conventions import find_convention

        self._check()
        paper = find_convention(self.convention) if self.convention else None
        text = self._text(dataset)
        if self.openset is not None:
            inner = f"{parse_noise(text)}, " if text else ""
            alone = ", exact=False" if self.bernoulli and not text else ""
            text = f"openset({inner}rate={self.openset!r}, source={self.source!r}{alone})"
        fraction = (
            self.val_fraction
            if self.val_fraction is not None
            else paper.val_fraction
            if paper
            else 0.0
        )
        if self.val_split and not fraction:
            raise ConfigError("--val-split has an effect with --val-fraction only")
        when = self.val_split or (paper.val_split if paper else VAL_SPLITS[0])
        return LabelRequest(
            text or "",
            checked_seed(self.noise_seed),
            fraction,
            when,
            self.convention,
            self.trusted or 0.0,
            self.subset,
        )

    def _check(self) -> None:
        if len(self.named) > 1:
            raise ConfigError(
                f"name one noise only, got {' and '.join('--' + name for name in self.named)}"
            )
        kind = self.named[0] if self.named else ""
        counted = ("sym", "asym", "pair", "matrix", "")
        effects = (
            ("--map", self.map, kind == "asym", "--asym"),
            ("--inclusive", self.inclusive, kind == "sym", "--sym"),
            (
                "--bernoulli",
                self.bernoulli,
                kind in counted,
                "--sym, --asym, --pair, --matrix and --openset",
            ),
            ("--convention", self.convention, bool(self.rates), "--sym, --asym, --pair and --idn"),
            (
                "--predictions",
                self.predictions,
                kind in ("idn", "noise"),
                "--idn, and with --noise 'plc(...)'",
            ),
            ("--source", self.source, self.openset is not None, "--openset"),
        )
        for option, given, has_effect, needs in effects:
            if given and not has_effect:
                raise ConfigError(
                    f"{option} has an effect with {needs} only"
                    + ("; in --noise write exact=False" if option == "--bernoulli" else "")
                )
        if self.openset is not None and not self.source:
            raise ConfigError("--openset needs a --source, the data set that its images come from")
        if self.convention and (self.map or self.inclusive or self.bernoulli or self.predictions):
            raise ConfigError(
                f"--convention {self.convention} says all of the noise but its "
                "rate: leave the other options out"
            )
        if (
            self.noise_seed
            and kind in ("human", "labels")
            and not self.val_fraction
            and not self.trusted
            and self.openset is None
        ):
            raise ConfigError(f"--noise-seed has no effect: the labels of --{kind} are not drawn")

    def _text(self, dataset: str) -> str | None:
        """The noise without open-set; None where none is named."""
        from ..noise.conventions import KINDS, find_convention

        if not self.named:
            return None
        kind = self.named[0]
        if self.convention:
            return find_convention(self.convention).text(kind, self.rates[kind], dataset)
        exact = ["exact=False"] * self.bernoulli
        if kind == "idn" and self.predictions:
            return f"plc(predictions={self.predictions!r}, rate={self.idn!r})"
        if kind in self.rates:
            extras = (
                [f"map={self.map!r}"] * bool(self.map) + ["inclusive=True"] * self.inclusive + exact
            )
            return f"{KINDS[kind]}({', '.join([f'rate={self.rates[kind]!r}', *extras])})"
        if kind == "noise":
            return self._with_predictions(str(self.noise))
        name, parameter, value = {
            "human": ("human", "column", self.human),
            "matrix": ("matrix", "file", self.matrix),
            "labels": ("imported", "file", self.labels),
        }[kind]
        return f"{name}({', '.join([f'{parameter}={value!r}', *exact])})"

    def _with_predictions(self, text: str) -> str:
        from dataclasses import replace

        from ..core.expressions import Call
        from ..noise import parse_noise

        if not self.predictions:
            return text
        call = parse_noise(text)
        if not isinstance(call, Call) or call.name != "plc":
            raise ConfigError(
                "--predictions has an effect with --idn, and with --noise 'plc(...)' only"
            )
        return str(replace(call, kwargs=(*call.kwargs, ("predictions", self.predictions))))
