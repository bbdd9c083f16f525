"""The workspace: `manifests/`, `runs/` and the data; each file is read once per process.

Also rebuilds the configuration of a finished run, to reuse its networks or to train others.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files.atomic import write_text
from ..core.files.untrusted import read_text
from ..core.progress import ProgressCallback, silent
from ..datasets import (
    Dataset,
    Fitting,
    Images,
    Labels,
    LazyImages,
    check_arrays,
    check_files,
    describe_fitting,
    find_dataset,
    fit_images,
    images_fingerprint,
    read_images,
    read_labels,
    split_column,
)
from ..errors import ConfigError, DataError, ManifestError, NoisebenchError
from ..experiments import backbones as weights
from ..experiments.backbones import NONE, PRETRAINED, InitialWeights, find_file, initial_of
from ..experiments.features import FeatureExtraction, FeatureNetwork, check_features
from ..experiments.recipes import all_settings
from ..experiments.resolve import RunConfig, RunRequest, resolve_run
from ..experiments.run_facts import config_of, facts_of_record
from ..labels.build import (
    DatasetInputs,
    LabelRequest,
    make_manifest,
    noise_for,
    relative_path,
)
from ..labels.manifest import Manifest, file_name, read_manifest
from .folder import RunFolder


class Workspace:
    """A directory of manifests and runs, and the data directory. Reads each data set once."""

    def __init__(
        self,
        root: str | Path = ".",
        data_dir: str | Path | None = None,
        *,
        offline: bool = False,
        workers: int | None = None,
        tell: ProgressCallback = silent,
    ) -> None:
        """workers: processes that read streamed images ahead of the training, None: one per core;
        tell: receives the progress.
        """
        self.root, self.offline, self.workers, self.tell = Path(root), offline, workers, tell
        self.manifests, self.runs = self.root / "manifests", self.root / "runs"
        if data_dir:
            self.data_dir = Path(data_dir).expanduser()
        else:
            from platformdirs import user_cache_path

            self.data_dir = user_cache_path("noisebench", appauthor=False)
        self._datasets: dict[tuple[str, Path | None, str | None], Dataset] = {}
        self._images: dict[tuple[Dataset, Fitting | None], Images] = {}
        self._features: dict[tuple[Dataset, str], Images] = {}
        self._checked: dict[Dataset, tuple[str, ...]] = {}
        self._labels: dict[Dataset, Labels] = {}
        self._manifests: dict[tuple[Dataset, LabelRequest], tuple[Manifest, Path]] = {}
        self._initials: dict[tuple[str, str], InitialWeights] = {}

    def dataset(self, name: str, test: Path | None = None, labels: str | None = None) -> Dataset:
        """A data set by name or path: in the current directory, the workspace or the data
        directory.

        test: a folder of test images; labels: the label file of an image folder, in the current
        directory or the workspace.
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
        """The labels of a data set, read without its images if possible."""
        if dataset not in self._labels:
            self._labels[dataset] = read_labels(
                dataset, self.data_dir, offline=self.offline, tell=self.tell
            )
        return self._labels[dataset]

    def check(self, dataset: Dataset) -> tuple[str, ...]:
        """Check the images of a data set by path; returns a line per finding. Raises DataError if
        an image cannot be read, or if test images are training images.
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
        """The images of a data set. fitting: how to resize them; None: the data set's own size."""
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
        """Resolve a request to a run on the images of this workspace. Raises NoisebenchError."""
        pretrained = request.init is not None and request.init.text == PRETRAINED
        if (request.features or (dataset.mixed and pretrained)) and "size" not in request.changes:
            model = request.features.model if request.features else request.model or dataset.model
            side = weights.input_side(model)
            request = replace(request, changes={**request.changes, "size": side})
        source = self.source_of(manifest)
        run = resolve_run(request, dataset, manifest, "", source.fingerprint if source else "")
        fitting = run.fitting
        # the noise depends on the images in the data set's own size
        if fitting is not None and "images_sha256" in manifest.meta:
            original = self.images(dataset)
            fingerprint = images_fingerprint(original.train_images)
            manifest.verify(original.train_labels, original.ids, fingerprint)
        return replace(run, data_sha256=self.images(dataset, fitting).fingerprint)

    def training_images(self, run: RunConfig, device: str = "auto") -> Images:
        """The images of a run, in its size: the data set's images, some of which open-set noise
        replaces by images of another data set; or the features of all of them.
        """
        dataset, manifest = run.dataset, run.manifest
        images, source = self.images(dataset, run.fitting), self.source_of(manifest)
        if run.features:
            images = self.features(images, run.features, device)
            source = source and self.features(source, run.features, device)
        if source is None or manifest.source is None:
            return images
        if isinstance(images.train_images, LazyImages):
            raise DataError(
                f"{dataset.name} is streamed, so its images cannot be replaced: open-set noise "
                "needs a data set in memory"
            )
        replaced = manifest.source >= 0
        train_images = np.array(images.train_images)
        others = np.asarray(source.train_images[manifest.source[replaced]])
        if train_images.ndim == 2:
            train_images[replaced] = others
            return replace(images, train_images=train_images)
        height, width, channels = train_images.shape[1:]
        fitting = Fitting(height, width, "squash")
        train_images[replaced] = fit_images(others, fitting, channels)
        sentence = describe_fitting(others.shape[1:], fitting, channels).removeprefix("all images ")
        if not sentence:
            return replace(images, train_images=train_images)
        change = f"{int(replaced.sum())} images of {source.dataset.name} inserted {sentence}"
        return replace(images, train_images=train_images, changed=(*images.changed, change))

    def features(
        self, images: Images, extraction: FeatureExtraction, device: str = "auto"
    ) -> Images:
        """The features of all images of a data set, from the cache in the data directory, or
        computed now. Raises DataError.
        """
        from ..training.features import FeatureCache

        dataset, listed = images.dataset, images.dataset.listed
        known = dataset, extraction.facts["sha256"]
        if known not in self._features:
            cache = FeatureCache(self.data_dir / "features", extraction, device, self.tell)
            self._features[known] = replace(
                images,
                train_images=cache.features(images.train_images, listed.train if listed else None),
                test_images=cache.features(images.test_images, listed.test if listed else None),
                changed=(f"features {extraction.label}, computed at {extraction.fitting}",),
            )
        return self._features[known]

    def feature_network(self, model: str | None, text: str | None) -> FeatureNetwork | None:
        """The frozen network for the texts of --features and --feature-weights; None for images.
        Raises ConfigError or DataError.
        """
        if model is None or check_features(model) == NONE:
            if text is not None:
                raise ConfigError("--feature-weights has no effect without --features")
            return None
        initial = self.initial(text or PRETRAINED, model, "--feature-weights")
        if initial is None:
            raise ConfigError(
                f"--feature-weights must be a run, a file or {PRETRAINED}, got {text!r}: features "
                "of a random network are of no use"
            )
        return FeatureNetwork(model, initial)

    def source_of(self, manifest: Manifest) -> Images | None:
        """The other data set of a manifest with open-set noise; None without it."""
        if manifest.source is None:
            return None
        name, largest = manifest.meta["source"], manifest.source.max()
        images = self.images(self.dataset(manifest.meta.get("source_path") or name))
        if images.dataset.name != name:
            raise ManifestError(
                f"the manifest inserts images of {name}, but the data there are "
                f"{images.dataset.name} now"
            )
        if len(images.train_images) <= largest:
            raise ManifestError(
                f"the manifest inserts image {largest} of {name}, which has only "
                f"{len(images.train_images)} images"
            )
        return images

    def initial(
        self, text: str | None, model: str, option: str = "--init-weights"
    ) -> InitialWeights | None:
        """The weights for a text of an option, each hashed once; None for random ones.

        Raises DataError or ConfigError if they do not exist or are not available.
        """
        if text is None or text == NONE:
            return None
        key = (text, model if text == PRETRAINED else "")
        if key not in self._initials:
            tag, path = "", None
            if text == PRETRAINED:
                tag, path = weights.find_pretrained(model, offline=self.offline)
            self._initials[key] = initial_of(text, path or find_file(text, self.root, option), tag)
        return self._initials[key]

    def make(self, dataset: Dataset, request: LabelRequest) -> tuple[Manifest, Path]:
        """Make the manifest of a request; returns it and its path. Nothing is written."""
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
        """Write a manifest unless it exists; True if it was written, also to update its test set or
        decisions. Raises ManifestError if the existing file has other labels.
        """
        if force:
            return manifest.write(path)
        # if several processes run one suite, one of them writes it
        if not path.exists() and manifest.write(path, replace=False):
            return True
        if not manifest.matches_file(path):
            raise ManifestError(
                f"{path} exists and has other labels: give noisebench corrupt another --out, or "
                "--force to replace the file"
            )
        kept, meta = read_manifest(path).meta, manifest.meta
        changed = any(kept.get(name) != meta.get(name) for name in ("test_path", "decisions"))
        lacks_test = "test_path" in kept and meta.get("test_path") is None
        return changed and not lacks_test and manifest.write(path)

    @property
    def current(self) -> Path | None:
        """The path of the manifest that `corrupt` wrote last; None without one."""
        pointer = self.manifests / "current"
        try:
            name = read_text(pointer).strip()
            if not name or "\0" in name:
                raise ValueError("it is empty")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{pointer} cannot be read ({error}): run noisebench corrupt again, "
                "or name a --manifest"
            ) from None
        return self.root / name

    def make_current(self, path: Path) -> None:
        """Store the path of the manifest that `corrupt` wrote last, relative to the workspace if it
        is inside.
        """
        write_text(self.manifests / "current", f"{relative_path(path, self.root)}\n")


_SUFFIXES = (".csv", ".csv.gz", ".parquet")


def rebuild(folder: RunFolder, workspace: Workspace, manifest: Path | None = None) -> RunConfig:
    """The configuration of a finished run, with the manifest that it was trained on: this one, or
    one in the workspace.

    Raises DataError if manifest, data or component versions have changed, NoisebenchError if data
    are missing.
    """
    record = folder.record()
    labels = manifest_of(folder, workspace, manifest)
    recipe, model = all_settings(record["recipe"]), record["model"]["name"]
    features = None
    if "features" in record:
        features = _network_of(record["features"], workspace)
    request = RunRequest(
        loss=record["loss"],
        strategy=record["strategy"],
        model=model,
        recipe=recipe.pop("name"),
        changes=recipe,
        seed=record["seed"],
        precision=record["precision"],
        init=_weights_of(record["init"], model, workspace) if "init" in record else None,
        features=features,
    )
    run = workspace.plan(request, workspace.dataset_of(labels), labels)
    if run.key == record["key"]:
        return run
    before, now = config_of(facts_of_record(record)), dict(run.config)
    before |= before.pop("versions")
    now |= now.pop("versions")
    changed = [name.removesuffix("_sha256") for name in now if now[name] != before.get(name)]
    raise DataError(
        f"{folder.path} cannot be rebuilt here: {', '.join(changed) or 'a setting'} changed since "
        "the run"
    )


def _weights_of(facts: dict[str, Any], model: str, workspace: Workspace) -> InitialWeights:
    """The weights of a record's entry, with their path if they are available without a download."""
    path = None
    with suppress(NoisebenchError):
        if facts["text"] == PRETRAINED:
            path = weights.find_pretrained(model, offline=True)[1]
        else:
            path = find_file(facts["text"], workspace.root)
    return InitialWeights(facts["text"], facts["sha256"], facts.get("tag", ""), path)


def _network_of(facts: dict[str, Any], workspace: Workspace) -> FeatureNetwork:
    """The frozen network of a record's entry on its features."""
    model = facts["model"]
    return FeatureNetwork(
        model, _weights_of({**facts, "sha256": facts["weights_sha256"]}, model, workspace)
    )


def extraction_of(record: dict[str, Any], workspace: Workspace) -> FeatureExtraction | None:
    """The extraction of the features that a finished run was trained on; None for images."""
    if (facts := record.get("features")) is None:
        return None
    network = _network_of(facts, workspace)
    return network.at(facts["size"], facts["fit"], facts["precision"])


def manifest_of(folder: RunFolder, workspace: Workspace, given: Path | None = None) -> Manifest:
    """The manifest that a finished run was trained on: at this path, in this workspace or in the
    run's. Raises DataError if it is missing.
    """
    expected = folder.record()["noise"].get("manifest_sha256")
    if given is not None:
        labels = read_manifest(given)
        if labels.content_hash != expected:
            raise DataError(f"{given} is not the manifest that {folder.path} was trained on")
        return labels
    for manifests in (workspace.manifests, folder.path.absolute().parent.parent / "manifests"):
        paths = sorted(path for suffix in _SUFFIXES for path in manifests.glob(f"*{suffix}"))
        # first the one in the run's name
        paths.sort(key=lambda path: not folder.path.name.startswith(path.name.partition(".csv")[0]))
        for path in paths:
            try:
                labels = read_manifest(path)
            except ManifestError:
                continue  # a damaged file
            if labels.content_hash == expected:
                return labels
    raise DataError(
        f"the manifest that {folder.path} was trained on is not in {workspace.manifests}: give "
        "it by --manifest FILE"
    )
