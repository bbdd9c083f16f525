"""Where things lie: `manifests/`, `runs/` and the data; and what was read once in this process."""

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
from ..experiments.recipes import Recipe, fitting_of
from ..experiments.resolve import RunConfig, RunRequest, resolve_run
from ..experiments.weights import NONE, PRETRAINED, InitialWeights, find_file, initial_of
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
        """workers: processes that read a streamed set's pictures ahead of its training, None for
        one a core; tell: is told how far a download is.
        """
        self.root, self.offline, self.workers, self.tell = Path(root), offline, workers, tell
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

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

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
        test = manifest.meta.get("test_path")
        where = None if test is None else Path(test) if Path(test).is_dir() else self.root / test
        return self.dataset(
            manifest.meta.get("path") or manifest.meta["dataset"],
            where,
            manifest.meta.get("labels_path"),
        )

    def labels(self, dataset: Dataset) -> Labels:
        if dataset not in self._labels:
            self._labels[dataset] = read_labels(
                dataset, self.data_dir, offline=self.offline, tell=self.tell
            )
        return self._labels[dataset]

    def check(self, dataset: Dataset) -> tuple[str, ...]:
        """Read the images of a set by path: a line for each thing to know of them. Raises DataError
        for images that cannot be read, and for a test set of training images.
        """
        if dataset.path and dataset not in self._checked:
            if dataset.listed:
                self._checked[dataset] = check_files(
                    dataset.listed, self.data_dir / "listings", self.tell
                )
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
        key = (dataset, fitting)
        if key not in self._images:
            self._images[key] = read_images(
                dataset,
                self.data_dir,
                fitting=fitting,
                offline=self.offline,
                workers=self.workers,
                tell=self.tell,
            )
        return self._images[key]

    def plan(self, wish: RunRequest, dataset: Dataset, manifest: Manifest) -> RunConfig:
        """A run with nothing left open, on the images that lie here. Raises NoisebenchError."""
        if (
            dataset.mixed
            and wish.init
            and wish.init.text == PRETRAINED
            and "size" not in wish.changes
        ):
            from ..experiments.weights import input_side

            wish = replace(
                wish, changes={**wish.changes, "size": input_side(wish.model or dataset.model)}
            )
        source = self.source_of(manifest)
        run = resolve_run(wish, dataset, manifest, "", source.fingerprint if source else "")
        fitting = fitting_of(run.recipe, dataset)
        # the noise looked at them in the data set's own size
        if fitting is not None and "images_sha256" in manifest.meta:
            own = self.images(dataset)
            manifest.verify(own.train_labels, own.ids, images_fingerprint(own.train_images))
        return replace(run, data_sha256=self.images(dataset, fitting).fingerprint)

    def training_images(
        self, dataset: Dataset, manifest: Manifest, recipe: Recipe | None = None
    ) -> Images:
        """The images that a manifest is trained on, in the recipe's size: the data set's, with
        those of another set in the place of some.
        """
        own = self.images(dataset, None if recipe is None else fitting_of(recipe, dataset))
        source = self.source_of(manifest)
        if source is None or manifest.source is None:
            return own
        if isinstance(own.train_images, LazyImages):
            raise DataError(
                f"{dataset.name} is streamed, and its pictures cannot be replaced: "
                "open-set noise is for a set in memory"
            )
        replaced = manifest.source >= 0
        train_images = own.train_images.copy()
        others = np.asarray(source.train_images[manifest.source[replaced]])
        height, width, channels = train_images.shape[1:]
        fitting = Fitting(height, width, "squash")
        train_images[replaced] = fit_images(others, fitting, channels)
        said = said_of_fitting(others.shape[1:], fitting, channels).removeprefix("all images ")
        changed = (
            (*own.changed, f"{int(replaced.sum())} images of {source.dataset.name} put in {said}")
            if said
            else own.changed
        )
        return replace(own, train_images=train_images, changed=changed)

    def source_of(self, manifest: Manifest) -> Images | None:
        """The other set whose images a manifest puts in, if any."""
        if manifest.source is None:
            return None
        images = self.images(
            self.dataset(manifest.meta.get("source_path") or manifest.meta["source"])
        )
        if images.dataset.name != manifest.meta["source"]:
            raise ManifestError(
                f"the manifest puts in images of {manifest.meta['source']}, not of "
                f"{images.dataset.name}: other data lie there now"
            )
        if len(images.train_images) <= manifest.source.max():
            raise ManifestError(
                f"the manifest puts in image {manifest.source.max()} of "
                f"{manifest.meta['source']}, which has fewer"
            )
        return images

    def initial(self, text: str | None, model: str) -> InitialWeights | None:
        """The weights that a text names for a network, each hashed once; None for networks that
        begin afresh.

        Raises DataError or ConfigError where there are none, or they cannot be had.
        """
        if text in (None, NONE):
            return None
        key = (str(text), model if text == PRETRAINED else "")
        if key not in self._initials:
            self._initials[key] = self._find_initial(*key)
        return self._initials[key]

    def _find_initial(self, text: str, model: str) -> InitialWeights:
        if text != PRETRAINED:
            return initial_of(text, find_file(text, self.root))
        from ..experiments.weights import find_pretrained

        tag, place = find_pretrained(model, offline=self.offline)
        return initial_of(text, place, tag)

    def initial_again(self, facts: dict[str, Any], model: str) -> InitialWeights:
        """What a finished run began from, by its record; its place only where it is at hand without
        a download.
        """
        text, tag, place = facts["text"], facts.get("tag", ""), None
        with suppress(NoisebenchError):
            if text == PRETRAINED:
                from ..experiments.weights import cached_pretrained

                place = cached_pretrained(model)
            else:
                place = find_file(text, self.root)
        return InitialWeights(text, facts["sha256"], tag, place)

    def make(self, dataset: Dataset, wish: LabelRequest) -> tuple[Manifest, Path]:
        """The manifest of a wish and its place by name; nothing is written."""
        key = (dataset, replace(wish, noise=str(noise_for(dataset, wish.noise))))
        if key not in self._manifests:
            labels = self.labels(dataset)
            labels = replace(
                labels,
                dataset=replace(dataset, decisions=(*dataset.decisions, *self.check(dataset))),
            )
            manifest = make_manifest(
                labels,
                key[1],
                outside=DatasetInputs(
                    labels, self.data_dir, self.offline, self.dataset, self.root, self.tell
                ),
            )
            self._manifests[key] = (manifest, self.manifests / file_name(manifest, dataset))
        return self._manifests[key]

    def keep(self, manifest: Manifest, path: Path, *, force: bool = False) -> bool:
        """Write a manifest; True if it was not there, or said another test set or other
        decisions. Raises ManifestError where other labels lie
        under that name."""
        if force:
            manifest.write(path)
            return True
        # of several processes of one suite one writes it
        if not path.exists() and manifest.write_new(path):
            return True
        if manifest.matches_file(path):
            kept, test = read_manifest(path).meta, manifest.meta.get("test_path")
            if test is None and "test_path" in kept:
                return False
            if stale := any(
                kept.get(name) != manifest.meta.get(name) for name in ("test_path", "decisions")
            ):
                manifest.write(path)
            return stale
        raise ManifestError(
            f"{path} exists and holds other labels: noisebench corrupt takes "
            "another --out, or --force to replace it"
        )

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
        """Remember what `corrupt` wrote last, by its name from the workspace where it lies
        within.
        """
        absolute, root = path.resolve(), self.root.resolve()
        name = absolute.relative_to(root) if absolute.is_relative_to(root) else absolute
        write_text(self.manifests / "current", f"{name}\n")
