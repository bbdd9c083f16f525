"""Which labels `train` trains on: a manifest, a noise on a data set, what corrupt wrote last, or
the embedded digits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .options import NoiseOptions

if TYPE_CHECKING:
    from ..datasets import Dataset
    from ..labels.manifest import Manifest
    from ..runs.workspace import Workspace

_DEFAULT = ("digits", NoiseOptions(sym=0.4))


@dataclass(frozen=True)
class LabelChoice:
    """What the command line says of the labels; all may be missing. `test`: where a folder's test
    images lie.
    """

    dataset: str | None
    path: Path | None
    options: NoiseOptions
    test: Path | None = None

    def __post_init__(self) -> None:
        if not self.options.any and self.options != NoiseOptions() and not recorded(self.dataset):
            given = next(
                name
                for name, value in vars(self.options).items()
                if value != getattr(NoiseOptions(), name)
            )
            raise ConfigError(
                f"--{given.replace('_', '-')} has an effect with a noise only: "
                "--sym, --asym, --human, --noise ..."
            )
        if self.options.any and self.path is not None:
            raise ConfigError("give a noise or a --manifest, not both")
        if self.options.any and self.dataset is None:
            raise ConfigError("a noise needs a data set: noisebench train cifar10 --sym 0.4")


def recorded(dataset: str | None) -> bool:
    """Whether a data set is taken as it is where no noise is named."""
    from ..datasets import DATASETS

    return dataset in DATASETS and DATASETS[dataset].recorded


@dataclass(frozen=True)
class ChosenLabels:
    """A manifest, its place, its data set, a sentence that says which it is, and how its files were
    read.
    """

    manifest: Manifest
    path: Path
    dataset: Dataset
    why: str = ""
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        return (
            f"{self.why}training on {self.path}: {self.manifest.dataset_text}, "
            f"{self.manifest.meta['noise']}"
        )


def choose_labels(workspace: Workspace, choice: LabelChoice) -> ChosenLabels:
    """What to train on; nothing is written. Raises NoisebenchError."""
    from ..labels.manifest import read_manifest

    if choice.options.any:
        return _made(workspace, str(choice.dataset), choice.options, choice.test)
    if choice.path is None and recorded(choice.dataset):
        return _made(
            workspace, str(choice.dataset), replace(choice.options, labels="own"), choice.test
        )
    if choice.path is not None:
        manifest = read_manifest(choice.path)
        return ChosenLabels(manifest, choice.path, dataset_of(workspace, choice, manifest))
    current = workspace.current
    if current is not None:
        return _current(workspace, current, choice)
    if choice.dataset not in (None, _DEFAULT[0]):
        hint = f"noisebench train {choice.dataset} --sym 0.4 (--sym 0 for clean labels)"
        raise ConfigError(f"say which noise: {hint}, or run noisebench corrupt first")
    return replace(_made(workspace, *_DEFAULT, choice.test), why="no manifest here: ")


def dataset_of(workspace: Workspace, choice: LabelChoice, manifest: Manifest) -> Dataset:
    """The data set that is named, else the manifest's own."""
    if choice.dataset is None and choice.test is None:
        return workspace.dataset_of(manifest)
    named = choice.dataset or manifest.meta.get("path") or manifest.meta["dataset"]
    return workspace.dataset(named, choice.test, manifest.meta.get("labels_path"))


def _made(
    workspace: Workspace, named: str, options: NoiseOptions, test: Path | None
) -> ChosenLabels:
    dataset = workspace.dataset(named, test, options.label_file)
    manifest, path = workspace.make(dataset, options.wish(dataset.name))
    return ChosenLabels(
        manifest, path, dataset, notes=(*notes_of(dataset, manifest), *decisions_of(manifest))
    )


def notes_of(dataset: Dataset, manifest: Manifest) -> tuple[str, ...]:
    """How the tables of a data set and of its labels were read: which columns are what, and what is
    not used.
    """
    of_labels = [manifest.meta["label_file"]] if "label_file" in manifest.meta else []
    return (*(dataset.listed.notes if dataset.listed else ()), *of_labels)


def decisions_of(manifest: Manifest) -> list[str]:
    """What was passed over and chosen of a data set; what is changed of its images is said of each
    run.
    """
    return [line for line in manifest.meta.get("decisions", ()) if not line.startswith("images: ")]


def _current(workspace: Workspace, path: Path, choice: LabelChoice) -> ChosenLabels:
    from ..labels.manifest import read_manifest

    manifest = read_manifest(path)
    dataset, own = dataset_of(workspace, choice, manifest), manifest.meta["dataset"]
    if choice.dataset is not None and dataset.name != own:
        hint = f"noisebench train {choice.dataset} --sym 0.4"
        raise ConfigError(
            f"what corrupt wrote last, {path}, is for {own}: say which noise, e.g. {hint}"
        )
    return ChosenLabels(manifest, path, dataset, "what corrupt wrote last: ")
