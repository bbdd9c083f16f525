"""Which labels `train` trains on: a manifest, a noise on a data set, what corrupt wrote last, or the embedded digits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..datasets import Dataset
    from ..manifest import Manifest
    from ..workspace import Workspace

_DEFAULT = ("digits", "symmetric(rate=0.4)")


@dataclass(frozen=True)
class LabelChoice:
    """What the command line says of the labels; all may be missing."""

    dataset: str | None
    path: Path | None
    noise: str | None
    noise_seed: int

    def __post_init__(self) -> None:
        if self.noise is None and self.noise_seed:
            raise ConfigError("--noise-seed has an effect with a noise only: --sym, --asym, --pair or --noise")
        if self.noise is not None and self.path is not None:
            raise ConfigError("give a noise or a --manifest, not both")
        if self.noise is not None and self.dataset is None:
            raise ConfigError("a noise needs a data set: noisebench train cifar10 --sym 0.4")


@dataclass(frozen=True)
class ChosenLabels:
    """A manifest, its place, its data set, and a sentence that says which it is."""

    manifest: Manifest
    path: Path
    dataset: Dataset
    why: str = ""

    @property
    def sentence(self) -> str:
        return f"{self.why}training on {self.path}: {self.dataset.name}, {self.manifest.meta['noise']}"


def choose_labels(workspace: Workspace, choice: LabelChoice) -> ChosenLabels:
    """What to train on; nothing is written. Raises NoisebenchError."""
    from ..manifest import read_manifest

    if choice.noise is not None:
        return _made(workspace, str(choice.dataset), choice.noise, choice.noise_seed)
    if choice.path is not None:
        manifest = read_manifest(choice.path)
        return ChosenLabels(manifest, choice.path, _dataset(workspace, choice.dataset, manifest))
    current = workspace.current
    if current is not None:
        return _current(workspace, current, choice.dataset)
    if choice.dataset not in (None, _DEFAULT[0]):
        hint = f"noisebench train {choice.dataset} --sym 0.4 (--sym 0 for clean labels)"
        raise ConfigError(f"say which noise: {hint}, or run noisebench corrupt first")
    return replace(_made(workspace, *_DEFAULT, 0), why="no manifest here: ")


def _dataset(workspace: Workspace, named: str | None, manifest: Manifest) -> Dataset:
    """The data set that is named, else the manifest's own."""
    return workspace.dataset(named or manifest.meta.get("path") or manifest.meta["dataset"])


def _made(workspace: Workspace, named: str, noise: str, seed: int) -> ChosenLabels:
    from ..plan import checked_seed

    dataset = workspace.dataset(named)
    manifest, path = workspace.make(dataset, noise, checked_seed(seed))
    return ChosenLabels(manifest, path, dataset)


def _current(workspace: Workspace, path: Path, named: str | None) -> ChosenLabels:
    from ..manifest import read_manifest

    manifest = read_manifest(path)
    dataset, own = _dataset(workspace, named, manifest), manifest.meta["dataset"]
    if dataset.name != own:
        raise ConfigError(f"what corrupt wrote last, {path}, is for {own}: say which noise, e.g. noisebench train {named} --sym 0.4")
    return ChosenLabels(manifest, path, dataset, "what corrupt wrote last: ")
