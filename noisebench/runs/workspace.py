"""The workspace: `manifests/`, `runs/` and the data; each file is read once in a process."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files.atomic import write_text
from ..core.files.untrusted import read_text
from ..datasets import (
    Dataset,
    Fitting,
    Images,
    Labels,
    LazyImages,
    ProgressCallback,
    check_arrays,
    check_files,
    find_dataset,
    fit_images,
    images_fingerprint,
    read_images,
    read_labels,
    said_of_fitting,
    silent,
    split_column,
)
from ..errors import ConfigError, DataError, ManifestError, NoisebenchError
from ..experiments import backbones as weights
from ..experiments.backbones import NONE, PRETRAINED, InitialWeights, find_file, initial_of
from ..experiments.recipes import Recipe, fitting_of
from ..experiments.resolve import RunConfig, RunRequest, resolve_run
from ..labels.build import DatasetInputs, LabelRequest, make_manifest, noise_for
from ..labels.manifest import Manifest, file_name, read_manifest


def default_data_dir() -> Path:
    """The user's cache directory."""
    from platformdirs import user_cache_path

    return user_cache_path("noisebench", appauthor=False)


class Workspace:
    """One folder of manifests and runs, and the folder of the data. Reads each data set once."""

    def __init__(
        self,
        root: str | Path = ".",
        data_dir: str | Path | None = None,
        *,
        offline: bool = False,
        workers: int | None = None,
        tell: ProgressCallback = silent,
    ) -> None:
        """workers: processes that read streamed images ahead of the training, None for one a core;
        tell: called with the progress of a download.
        """
        self.root, self.offline, self.workers, self.tell = Path(root), offline, workers, tell
        self.manifests, self.runs = self.root / "manifests", self.root / "runs"
        self._data_dir = data_dir
        self._datasets: dict[tuple[str, Path | None, str | None], Dataset] = {}
        self._images: dict[tuple[Dataset, Fitting | None], Images] = {}
        self._checked: dict[Dataset, tuple[str, ...]] = {}
        self._labels: dict[Dataset, Labels] = {}
        self._manifests: dict[tuple[Dataset, LabelRequest], tuple[Manifest, Path]] = {}
        self._initials: dict[tuple[str, str], InitialWeights] = {}

    @cached_property
    def data_dir(self) -> Path:
        return Path(self._data_dir).expanduser() if self._data_dir else default_data_dir()

    def dataset(self, name: str, test: Path | None = None, labels: str | None = None) -> Dataset:
        """A data set by name or path, here, in the workspace or in the data directory; `test`: a
        folder of test images; `labels`: the label file of a folder, here or in the workspace.
        """
        if labels is not None and not split_column(labels)[0].exists():
            labels = str(self.root / labels)
        if (name, test, labels) not in self._datasets:
            self._datasets[name, test, labels] = find_dataset(
                name, self.root, self.data_dir, test=test, labels=labels, offline=self.offline
            )
        return self._datasets[name, test, labels]

    def dataset_of(self, manifest: Manifest) -> Dataset:
        """The data set that a manifest was made for."""
        meta = manifest.meta
        test = Path(meta["test_path"]) if meta.get("test_path") is not None else None
        if test is not None and not test.is_dir():
            test = self.root / test
        return self.dataset(meta.get("path") or meta["dataset"], test, meta.get("labels_path"))

    def labels(self, dataset: Dataset) -> Labels:
        """The labels of a data set, read without its images where that is possible."""
        if dataset not in self._labels:
            self._labels[dataset] = read_labels(
                dataset, self.data_dir, offline=self.offline, tell=self.tell
            )
        return self._labels[dataset]

    def check(self, dataset: Dataset) -> tuple[str, ...]:
        """Read the images of a set by path: a line for each finding that a user should see. Raises
        DataError for images that cannot be read, and for a test set of training images.
        """
        if dataset.path and dataset not in self._checked:
            if dataset.listed:
                listings = self.data_dir / "listings"
                self._checked[dataset] = check_files(dataset.listed, listings, self.tell)
            else:
                images = self._read(dataset)
                arrays = np.asarray(images.train_images), np.asarray(images.test_images)
                self._checked[dataset] = check_arrays(*arrays, images.train_labels)
        return self._checked.get(dataset, ())

    def images(self, dataset: Dataset, fitting: Fitting | None = None) -> Images:
        """fitting: to another size than the data set's own."""
        self.check(dataset)
        return self._read(dataset, fitting)

    def _read(self, dataset: Dataset, fitting: Fitting | None = None) -> Images:
        if (dataset, fitting) not in self._images:
            self._images[dataset, fitting] = read_images(
                dataset,
                self.data_dir,
                fitting=fitting,
                offline=self.offline,
                workers=self.workers,
                tell=self.tell,
            )
        return self._images[dataset, fitting]

    def plan(self, request: RunRequest, dataset: Dataset, manifest: Manifest) -> RunConfig:
        """A run with nothing left open, on the images of this workspace. Raises NoisebenchError."""
        pretrained = request.init is not None and request.init.text == PRETRAINED
        if dataset.mixed and pretrained and "size" not in request.changes:
            side = weights.input_side(request.model or dataset.model)
            request = replace(request, changes={**request.changes, "size": side})
        source = self.source_of(manifest)
        run = resolve_run(request, dataset, manifest, "", source.fingerprint if source else "")
        fitting = fitting_of(run.recipe, dataset)
        # the noise depends on the images in the data set's own size
        if fitting is not None and "images_sha256" in manifest.meta:
            original = self.images(dataset)
            fingerprint = images_fingerprint(original.train_images)
            manifest.verify(original.train_labels, original.ids, fingerprint)
        return replace(run, data_sha256=self.images(dataset, fitting).fingerprint)

    def training_images(
        self, dataset: Dataset, manifest: Manifest, recipe: Recipe | None = None
    ) -> Images:
        """The images that a manifest is trained on, in the recipe's size: the data set's, some of
        them replaced by those of another set.
        """
        fitting = None if recipe is None else fitting_of(recipe, dataset)
        images, source = self.images(dataset, fitting), self.source_of(manifest)
        if source is None or manifest.source is None:
            return images
        if isinstance(images.train_images, LazyImages):
            raise DataError(
                f"{dataset.name} is streamed, and its pictures cannot be replaced: "
                "open-set noise is for a set in memory"
            )
        replaced = manifest.source >= 0
        train_images = images.train_images.copy()
        others = np.asarray(source.train_images[manifest.source[replaced]])
        height, width, channels = train_images.shape[1:]
        fitting = Fitting(height, width, "squash")
        train_images[replaced] = fit_images(others, fitting, channels)
        sentence = said_of_fitting(others.shape[1:], fitting, channels).removeprefix("all images ")
        if not sentence:
            return replace(images, train_images=train_images)
        change = f"{int(replaced.sum())} images of {source.dataset.name} put in {sentence}"
        return replace(images, train_images=train_images, changed=(*images.changed, change))

    def source_of(self, manifest: Manifest) -> Images | None:
        """The other set whose images a manifest puts in, if any."""
        if manifest.source is None:
            return None
        name, largest = manifest.meta["source"], manifest.source.max()
        images = self.images(self.dataset(manifest.meta.get("source_path") or name))
        if images.dataset.name != name:
            raise ManifestError(
                f"the manifest puts in images of {name}, not of {images.dataset.name}: other data "
                "lie there now"
            )
        if len(images.train_images) <= largest:
            raise ManifestError(f"the manifest puts in image {largest} of {name}, which has fewer")
        return images

    def initial(self, text: str | None, model: str) -> InitialWeights | None:
        """The weights that a text names for a network, each hashed once; None for networks that
        start from random weights.

        Raises DataError or ConfigError where there are none, or they cannot be had.
        """
        if text is None or text == NONE:
            return None
        key = (text, model if text == PRETRAINED else "")
        if key not in self._initials:
            tag, path = "", None
            if text == PRETRAINED:
                tag, path = weights.find_pretrained(model, offline=self.offline)
            self._initials[key] = initial_of(text, path or find_file(text, self.root), tag)
        return self._initials[key]

    def initial_again(self, facts: dict[str, Any], model: str) -> InitialWeights:
        """The initial weights of a finished run, by its record; their path only where they are
        found without a download.
        """
        text, path = facts["text"], None
        with suppress(NoisebenchError):
            if text == PRETRAINED:
                path = weights.find_pretrained(model, offline=True)[1]
            else:
                path = find_file(text, self.root)
        return InitialWeights(text, facts["sha256"], facts.get("tag", ""), path)

    def make(self, dataset: Dataset, request: LabelRequest) -> tuple[Manifest, Path]:
        """The manifest of a request and its path; nothing is written."""
        request = replace(request, noise=str(noise_for(dataset, request.noise)))
        if (dataset, request) not in self._manifests:
            decisions = (*dataset.decisions, *self.check(dataset))
            labels = replace(self.labels(dataset), dataset=replace(dataset, decisions=decisions))
            inputs = DatasetInputs(
                labels, self.data_dir, self.offline, self.dataset, self.root, self.tell
            )
            manifest = make_manifest(labels, request, outside=inputs)
            path = self.manifests / file_name(manifest, dataset)
            self._manifests[dataset, request] = manifest, path
        return self._manifests[dataset, request]

    def keep(self, manifest: Manifest, path: Path, *, force: bool = False) -> bool:
        """Write a manifest; True if it was not there, or named another test set or other decisions.
        Raises ManifestError where the file there holds other labels.
        """
        if force:
            manifest.write(path)
            return True
        # of several processes of one suite one writes it
        if not path.exists() and manifest.write_new(path):
            return True
        if not manifest.matches_file(path):
            raise ManifestError(
                f"{path} exists and holds other labels: noisebench corrupt takes "
                "another --out, or --force to replace it"
            )
        kept, meta = read_manifest(path).meta, manifest.meta
        if meta.get("test_path") is None and "test_path" in kept:
            return False
        changed = any(kept.get(name) != meta.get(name) for name in ("test_path", "decisions"))
        if changed:
            manifest.write(path)
        return changed

    @property
    def current(self) -> Path | None:
        """The manifest that `corrupt` wrote last, if any."""
        pointer = self.manifests / "current"
        try:
            name = read_text(pointer).strip()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{pointer} cannot be read ({error}): run noisebench corrupt again, "
                "or name a --manifest"
            ) from None
        if not name or "\0" in name:
            raise ConfigError(
                f"{pointer} is empty: run noisebench corrupt again, or name a --manifest"
            )
        return self.root / name

    def make_current(self, path: Path) -> None:
        """Store the manifest that `corrupt` wrote last, relative to the workspace if within."""
        absolute, root = path.resolve(), self.root.resolve()
        name = absolute.relative_to(root) if absolute.is_relative_to(root) else absolute
        write_text(self.manifests / "current", f"{name}\n")
