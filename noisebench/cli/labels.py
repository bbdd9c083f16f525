"""The labels that `train` trains on: a manifest, a noise on a data set, what corrupt wrote last,
or the embedded digits.
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

_DEFAULT = ("digits", NoiseOptions(short={"sym": 0.4}))


@dataclass(frozen=True)
class LabelChoice:
    """The labels as the command line names them; all may be missing. `test`: the test images of a
    folder.
    """

    dataset: str | None
    path: Path | None
    options: NoiseOptions
    test: Path | None = None

    def __post_init__(self) -> None:
        if not self.options.any and self.options.given and not recorded(self.dataset):
            name = next(iter(self.options.given)).replace("_", "-")
            raise ConfigError(
                f"--{name} has an effect with a noise only: --sym, --asym, --human, --noise ..."
            )
        if self.options.any and self.path is not None:
            raise ConfigError("give a noise or a --manifest, not both")
        if self.options.any and self.dataset is None:
            raise ConfigError("a noise needs a data set: noisebench train cifar10 --sym 0.4")


def recorded(dataset: str | None) -> bool:
    """Whether a data set is used as it is where no noise is named."""
    from ..datasets import DATASETS

    return dataset in DATASETS and DATASETS[dataset].recorded


@dataclass(frozen=True)
class ChosenLabels:
    """A manifest, its path, its data set, the reason for it, and notes on how its files were
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

    options, hint = choice.options, f"noisebench train {choice.dataset} --sym 0.4"
    if choice.path is None and not options.any and recorded(choice.dataset):
        options = replace(options, short={"labels": "own"})
    if options.any:
        return _apply(workspace, str(choice.dataset), options, choice.test)
    path = choice.path or workspace.current
    if path is not None:
        manifest = read_manifest(path)
        dataset, name = dataset_of(workspace, choice, manifest), manifest.meta["dataset"]
        if choice.path is not None:
            return ChosenLabels(manifest, path, dataset)
        if choice.dataset is not None and dataset.name != name:
            raise ConfigError(
                f"what corrupt wrote last, {path}, is for {name}: say which noise, e.g. {hint}"
            )
        return ChosenLabels(manifest, path, dataset, "what corrupt wrote last: ")
    if choice.dataset not in (None, _DEFAULT[0]):
        raise ConfigError(
            f"say which noise: {hint} (--sym 0 for clean labels), or run noisebench corrupt first"
        )
    return replace(_apply(workspace, *_DEFAULT, choice.test), why="no manifest here: ")


def dataset_of(workspace: Workspace, choice: LabelChoice, manifest: Manifest) -> Dataset:
    """The data set that is named, else the manifest's own."""
    if choice.dataset is None and choice.test is None:
        return workspace.dataset_of(manifest)
    named = choice.dataset or manifest.meta.get("path") or manifest.meta["dataset"]
    return workspace.dataset(named, choice.test, manifest.meta.get("labels_path"))


def _apply(
    workspace: Workspace, name: str, options: NoiseOptions, test: Path | None
) -> ChosenLabels:
    dataset = workspace.dataset(name, test, options.label_file)
    manifest, path = workspace.make(dataset, options.request(dataset.name))
    notes = (*notes_of(dataset, manifest), *decisions_of(manifest))
    return ChosenLabels(manifest, path, dataset, notes=notes)


def notes_of(dataset: Dataset, manifest: Manifest) -> tuple[str, ...]:
    """How the tables of a data set and of its labels were read: the meaning of columns, and those
    that are not used.
    """
    label_file = [manifest.meta["label_file"]] if "label_file" in manifest.meta else []
    return (*(dataset.listed.notes if dataset.listed else ()), *label_file)


def decisions_of(manifest: Manifest) -> list[str]:
    """Notes on what was passed over and chosen in a data set; changes of its images are noted of
    each run.
    """
    return [line for line in manifest.meta.get("decisions", ()) if not line.startswith("images: ")]
