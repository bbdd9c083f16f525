"""What several commands share: the options before the command, and those that name a noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..workspace import Workspace

Sym = Annotated[float | None, typer.Option("--sym", metavar="RATE", help="Symmetric noise, exclusive of the true class.")]
Asym = Annotated[float | None, typer.Option("--asym", metavar="RATE", help="Asymmetric noise by a named --map.")]
Pair = Annotated[float | None, typer.Option("--pair", metavar="RATE", help="Pair-flip, class i to i + 1.")]
Noise = Annotated[str | None, typer.Option("--noise", metavar="TEXT", help="Any noise: 'symmetric(rate=0.4, inclusive=True)'.")]
Map = Annotated[str | None, typer.Option("--map", metavar="NAME", help="Convention of --asym (noisebench list noises asymmetric).")]
Inclusive = Annotated[bool, typer.Option("--inclusive", help="--sym draws among all classes, the true one too.")]
Bernoulli = Annotated[bool, typer.Option("--bernoulli", help="Each label flips by itself, instead of exact counts per class.")]
NoiseSeed = Annotated[int, typer.Option("--noise-seed", metavar="N", help="Seed of the draw.")]
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

    def open(self) -> Workspace:
        """The workspace, with plugins loaded."""
        from ..plugins import load_plugins
        from ..workspace import Workspace

        load_plugins(self.plugins)
        return Workspace(self.workspace, self.data_dir, offline=self.offline)


@dataclass(frozen=True)
class NoiseOptions:
    """The noise as options; `text()` is it in the language."""

    sym: float | None
    asym: float | None
    pair: float | None
    noise: str | None
    map: str | None
    inclusive: bool
    bernoulli: bool

    def text(self) -> str | None:
        """None where no noise is named. Raises ConfigError for two noises or an option without effect."""
        rates = {"symmetric": self.sym, "asymmetric": self.asym, "pairflip": self.pair}
        named = [(kind, rate) for kind, rate in rates.items() if rate is not None]
        if len(named) + (self.noise is not None) > 1:
            raise ConfigError("name one noise only: --sym, --asym, --pair or --noise")
        kind = named[0][0] if named else ""
        for option, given, needs in (("--map", self.map, "asymmetric"), ("--inclusive", self.inclusive, "symmetric")):
            if given and kind != needs:
                raise ConfigError(f"{option} has an effect with --{needs.removesuffix('metric')} only")
        if self.bernoulli and not named:
            raise ConfigError("--bernoulli has an effect with --sym, --asym and --pair only; in --noise write exact=False")
        if not named:
            return self.noise
        extras = [f"map={self.map!r}"] * bool(self.map) + ["inclusive=True"] * self.inclusive + ["exact=False"] * self.bernoulli
        return f"{kind}({', '.join([f'rate={named[0][1]!r}', *extras])})"
