"""Builds a manifest from a data set and a noise: reads the inputs of the noise and counts its
rates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..core.expressions import Call, Expression, Value
from ..core.files.atomic import read_checked
from ..core.files.untrusted import hash_of
from ..core.progress import ProgressCallback, silent
from ..core.seeds import TRUSTED, VALIDATION
from ..datasets import (
    DATASETS,
    Annotations,
    Dataset,
    Fitting,
    ImageArray,
    Labels,
    Shape,
    check_column,
    find_dataset,
    images_fingerprint,
    read_annotations,
    read_human,
    read_images,
    read_review,
    split_column,
)
from ..errors import ConfigError, DataError, LanguageError
from ..metrics.predictions import Teaching, read_teacher
from ..noise import (
    FILES,
    NOISES,
    Examples,
    NoisyLabels,
    Review,
    apply,
    build_noise,
    is_class_conditional,
    is_random,
    normal_noise,
)
from ..noise.given import OWN
from ..noise.registry import NoiseInputs
from .manifest import FORMAT, LARGEST_T, Manifest, read_manifest
from .subset import SubsetInputs, expand_to_full, share_of_each, subset_of

VAL_SPLITS = ("after", "before")
_DIGITS = 16  # of a file's sha256 in the noise text


@dataclass(frozen=True)
class LabelRequest:
    """A request for noisy labels.

    val_fraction: share of the validation split, sampled `after` corruption, stratified by noisy
    class, or `before` it, by true class; the parts are then corrupted separately. convention: the
    paper that defines the noise. trusted: share of the training labels, stratified by true class,
    that are verified: corrected and marked. subset: number of training images, None for all; noise
    and shares refer to these.
    """

    noise: str
    seed: int = 0
    val_fraction: float = 0.0
    val_split: str = "after"
    convention: str | None = None
    trusted: float = 0.0
    subset: int | None = None

    def __post_init__(self) -> None:
        share, splits = "a share of the training set in [0, 1)", ", ".join(VAL_SPLITS)
        for valid, option, allowed, value in (
            (0 <= self.val_fraction < 1, "--val-fraction", share, self.val_fraction),
            (0 <= self.trusted < 1, "--trusted", share, self.trusted),
            (
                self.subset is None or self.subset >= 1,
                "--subset",
                "a positive number of training images",
                self.subset,
            ),
            (
                self.val_split in VAL_SPLITS,
                "--val-split",
                f"one of {splits}",
                repr(self.val_split),
            ),
        ):
            if not valid:
                raise ConfigError(f"{option} must be {allowed}, got {value}")


@dataclass(frozen=True)
class DatasetInputs:
    """The inputs of a noise for one data set. `find`: returns another data set by name or path;
    `root`: the workspace, which relative paths can also refer to; `tell`: receives the progress.
    """

    data: Labels
    data_dir: Path
    offline: bool
    find: Callable[[str], Dataset]
    root: Path = Path()
    tell: ProgressCallback = silent

    def dataset_path(self, dataset: Dataset) -> str:
        """A user data set's path as typed, with its reader if it is streamed; a table of the hub by
        its name.
        """
        assert dataset.path is not None
        on_hub = dataset.reader == "hfds" and not dataset.path.exists()
        path = str(dataset.path) if on_hub else relative_path(dataset.path, self.root)
        return f"{dataset.reader}:{path}" if dataset.reader else path

    def label_file(self, text: str) -> str:
        """FILE or FILE:COLUMN as a manifest stores it."""
        path, column = split_column(text)
        return relative_path(path, self.root) + (f":{column}" if column else "")

    @cached_property
    def train_images(self) -> ImageArray:
        """The training images (N, H, W, C), read at first use."""
        dataset = self.data.dataset
        if dataset.dimensions:
            raise DataError(f"this noise depends on the images, and {dataset.name} has no images")
        images = read_images(dataset, self.data_dir, offline=self.offline, tell=self.tell)
        return images.train_images

    def images(self) -> Callable[[np.ndarray], np.ndarray]:
        images = self.train_images
        return lambda which: np.asarray(images[np.asarray(which, np.int64)])

    def images_sha256(self) -> str:
        return images_fingerprint(self.train_images)

    def teacher(self, path: str, sha256: str | None) -> Teaching:
        return read_teacher(
            Path(path),
            len(self.data.labels),
            self.data.dataset.num_classes,
            self.data.fingerprint,
            sha256,
        )

    def human(self, column: str) -> np.ndarray:
        return read_human(
            column,
            self.data.dataset.name,
            self.data.labels,
            self.data_dir,
            offline=self.offline,
            tell=self.tell,
        )

    def imported(self, path: str, sha256: str | None) -> NoisyLabels:
        """True labels come from the file, else from a built-in data set unless some of its labels
        are incorrect, else from verified labels.
        """
        dataset, labels = self.data.dataset, self.data.labels
        verified = np.full_like(labels, -1) if self.data.clean is None else self.data.clean
        if path == OWN:
            return NoisyLabels(labels, clean=verified)
        read = self._annotations(path, sha256)
        published = labels if dataset.name in DATASETS and not dataset.recorded else None
        if read.clean is not None and published is not None:
            differs = (read.clean != published) & (read.clean >= 0)
            if differs.any():
                at = int(differs.argmax())
                raise DataError(
                    f"{path}: its clean labels differ from those of {dataset.name}: example "
                    f"{at} is {published[at]}, not {read.clean[at]}"
                )
        clean = verified if read.clean is None else read.clean
        return NoisyLabels(
            read.labels if read.left_out is None else np.where(read.left_out, labels, read.labels),
            clean=clean if published is None else published,
            dropped=read.left_out,
            left_out=read.left_out,
            facts={"label_file": f"{split_column(path)[0].name}: {'; '.join(read.notes)}"},
        )

    def _annotations(self, path: str, sha256: str | None) -> Annotations:
        """Labels of a label file, or of a manifest without the examples that it drops. Raises
        DataError if the manifest replaces images.
        """
        labels, ids = self.data.labels, self.data.ids
        file = split_column(path)[0]
        packed = file.name.lower().endswith((".csv.gz", ".parquet"))
        raw = read_checked(file, sha256)
        if not packed and not raw.startswith(b"# noisebench_manifest"):
            shape = Shape(len(labels), self.data.dataset.classes, ids, self.data.test_ids)
            return read_annotations(path, shape, sha256)
        manifest = read_manifest(path)
        manifest.verify(labels, ids, classes=self.data.dataset.num_classes)
        if manifest.source is not None:
            raise DataError(
                f"{path} also replaces images by those of {manifest.meta['source']}: use it as "
                f"a manifest, train --manifest {path}"
            )
        parts = {"validation split": manifest.val, "marks of trusted labels": manifest.trusted}
        notes = ["labels of a manifest"]
        notes += [f"its {name} not used" for name, part in parts.items() if part is not None]
        if manifest.dropped is not None:
            count = int(manifest.dropped.sum())
            notes.append(f"{count} training images that it drops are excluded from training")
        return Annotations(manifest.labels, manifest.clean_labels, manifest.dropped, tuple(notes))

    def review(self, path: str, sha256: str | None, given: np.ndarray) -> Review:
        shape = Shape(len(self.data.labels), self.data.dataset.classes, self.data.ids)
        return Review(*read_review(Path(path), shape, given, sha256))

    def other(self, dataset: str) -> tuple[dict[str, Any], int]:
        source, data = self.find(dataset), self.data.dataset
        images_of = [one.merged[0] if one.merged else one.name for one in (source, data)]
        if images_of[0] == images_of[1]:
            raise LanguageError(
                f"openset: the source {dataset!r} is the data set itself: choose another data set"
            )
        facts = {"source": source.name}
        if source.path:
            facts["source_path"] = self.dataset_path(source)
        return facts, source.n_train


def relative_path(path: Path, root: Path) -> str:
    """A path as stored in a file of the workspace: relative to its root if it is inside, so that
    the workspace can be moved.
    """
    absolute, root = path.resolve(), root.resolve()
    return str(absolute.relative_to(root) if absolute.is_relative_to(root) else absolute)


def size_sentences(dataset: Dataset, fitting: Fitting | None = None) -> list[str]:
    """How the images of a folder or a streamed set are resized, and which are enlarged. fitting: a
    size other than the data set's own.
    """
    if dataset.sizes is None and not dataset.reader:
        return []
    if fitting is None and not dataset.mixed and not dataset.reader:
        used = "used as they are"
    else:
        used = f"resized to {fitting or dataset.fitting}; change with --img-size and --fit"
    if dataset.sizes is None:
        return [f"images: streamed; {used}"]
    sentences = [f"images: {dataset.sizes}; {used}"]
    if small := dataset.sizes.too_small(fitting or dataset.fitting):
        sentences.append(f"warning: training images: {small}")
    return sentences


def noise_for(dataset: Dataset, text: str | Expression) -> Call:
    """The canonical form of a noise on this data set, with the data set's map if none is named."""
    call = normal_noise(text)
    has_map = any(p.name == "map" for p in NOISES[call.name].parameters)
    if dataset.map and has_map and "map" not in dict(call.kwargs):
        call = normal_noise(replace(call, kwargs=(*call.kwargs, ("map", dataset.map))))
    within = (noise_for(dataset, arg) if isinstance(arg, Call) else arg for arg in call.args)
    return replace(call, args=tuple(within))


def check_noise(dataset: Dataset, text: str) -> None:
    """Check a noise on this data set without sampling it. Raises NoisebenchError."""
    call = noise_for(dataset, text)
    values = dict(call.kwargs)
    _refuse_on_top(dataset, call)
    if "column" in values:
        check_column(str(values["column"]), dataset.name)
    choosy = NOISES[call.name].facts.get("within") != "any"
    if choosy and any(
        isinstance(inner, Call) and not is_class_conditional(inner) for inner in call.args
    ):
        raise LanguageError(
            f"{call.name}: the noise for the other images must be class-conditional, "
            f"got {call.args[0]}"
        )
    for inner in call.args:
        check_noise(dataset, str(inner))
    # a file is read when the labels are generated
    if is_class_conditional(call) and "file" not in values:
        build_noise(call, dataset.num_classes, dataset.classes)


def _refuse_on_top(dataset: Dataset, call: Call) -> None:
    """Raises ConfigError for noise on a data set with incorrect labels, since the rate would be
    unknown.
    """
    if dataset.mislabelled and is_random(call):
        raise ConfigError(
            f"{dataset.name} already has incorrect labels, so the rate after {call.name} would be "
            "unknown: use its labels unchanged (--labels own), or --labels FILE"
        )


def make_manifest(
    data: Labels,
    request: LabelRequest | str,
    noise_seed: int = 0,
    *,
    outside: DatasetInputs | None = None,
) -> Manifest:
    """Sample or read noisy labels for a data set; `request` can be a noise text. Raises
    NoisebenchError.
    """
    request = LabelRequest(request, noise_seed) if isinstance(request, str) else request
    outside = outside or DatasetInputs(data, Path(), True, find_dataset)
    call = _located(noise_for(data.dataset, request.noise), outside)
    _refuse_on_top(data.dataset, call)
    if data.dataset.path and data.clean is not None and is_random(call):
        raise ConfigError(
            f"{data.dataset.path}: its label file has given and true labels, but {call.name} needs "
            "labels that are all correct: use the given labels (--labels own), or a file with the "
            "true labels only"
        )
    indices = subset_of(data, request.subset)
    if indices is None:
        return _make(data, call, request, outside, outside)
    sources = SubsetInputs(outside, data.labels, indices)
    part = _make(data.take(indices), call, request, outside, sources)
    # labels from files exist for all examples
    others = NoisyLabels(data.labels) if is_random(call) else apply_noise(call, data, 0, outside)
    return expand_to_full(part, data, indices, others)


def _make(
    data: Labels, call: Call, request: LabelRequest, outside: DatasetInputs, sources: NoiseInputs
) -> Manifest:
    """The manifest of all examples of `data`; `sources`: the inputs of the noise."""
    dataset, K = data.dataset, data.dataset.num_classes
    seed = request.seed if is_random(call) or request.val_fraction or request.trusted else 0
    val, before = None, request.val_split == "before"
    if request.val_fraction and before:
        val = held_out(data.labels, request.val_fraction, seed, K)
    noisy = apply_noise(call, data, seed, sources, val)
    if request.val_fraction and not before:
        val = held_out(noisy.labels, request.val_fraction, seed, K, noisy.left_out)
    elif val is not None and noisy.left_out is not None:
        val &= ~noisy.left_out
    clean = data.labels if noisy.clean is None else noisy.clean
    if noisy.dropped is not None and val is not None:
        noisy = replace(noisy, dropped=noisy.dropped & ~val)
    trusted = None
    if request.trusted:
        trusted = _verified(noisy, clean, val, request.trusted, seed)
        noisy = replace(noisy, labels=np.where(trusted, clean, noisy.labels))
    # if only correct labels were verified, the rate is unknown
    countable = clean if data.fair or noisy.clean is None else np.full_like(clean, -1)
    meta = {
        "noisebench_manifest": FORMAT,
        "dataset": dataset.name,
        **({"path": outside.dataset_path(dataset)} if dataset.path else {}),
        **({"test_path": relative_path(dataset.test, outside.root)} if dataset.test else {}),
        **({"labels_path": outside.label_file(dataset.labels)} if dataset.labels else {}),
        **({"images": f"used at {dataset.fitting}"} if dataset.mixed else {}),
        "split": "train",
        "n": len(noisy.labels),
        "num_classes": K,
        "classes": list(dataset.classes),
        "noise": str(as_recorded(call, noisy)),
        "noise_version": NOISES[call.name].fingerprint,
        "nominal_rate": noisy.nominal_rate,
        **({"decisions": list(dataset.decisions)} if dataset.decisions else {}),
        **rates(noisy, countable, K),
        "transition": None,
        "noise_seed": seed,
        "labels_sha256": data.fingerprint,
        **noisy.facts,
    }
    if noisy.transition is not None and K <= LARGEST_T:
        meta["transition"] = noisy.transition.tolist()
    if request.convention:
        meta["convention"] = request.convention
    if val is not None:
        meta |= {"val_fraction": request.val_fraction, "val_split": request.val_split}
    if trusted is not None:
        meta["trusted"] = request.trusted
    if noisy.source is not None:
        clean = np.where(noisy.source >= 0, -1, clean)
    return Manifest(meta, noisy.labels, clean, data.ids, val, noisy.source, trusted, noisy.dropped)


def apply_noise(
    call: Call, data: Labels, seed: int, sources: NoiseInputs, parts: np.ndarray | None = None
) -> NoisyLabels:
    """Applies a noise to a data set's labels; exact counts are exact within each of the `parts`
    (N,).
    """
    return apply(
        call,
        Examples(data.labels, data.dataset.num_classes, seed, sources, data.dataset.classes, parts),
    )


def _verified(
    noisy: NoisyLabels, clean: np.ndarray, val: np.ndarray | None, fraction: float, seed: int
) -> np.ndarray:
    """Mask (N,) of trusted labels: a share of each true class among the training examples with a
    known true label.
    """
    can_be = clean >= 0
    if noisy.source is not None:
        can_be &= noisy.source < 0
    for part in (val, noisy.dropped):
        if part is not None:
            can_be &= ~part
    if not can_be.any():
        raise ConfigError(
            "--trusted needs true labels, and none is known for the training examples"
        )
    trusted = np.zeros(len(clean), bool)
    trusted[can_be] = share_of_each(clean[can_be], fraction, (seed, TRUSTED), int(clean.max()) + 1)
    if not trusted.any():
        raise ConfigError(
            f"--trusted {fraction} of {int(can_be.sum())} examples selects none: use a larger share"
        )
    return trusted


def held_out(
    labels: np.ndarray,
    fraction: float,
    seed: int,
    num_classes: int,
    left_out: np.ndarray | None = None,
) -> np.ndarray:
    """Mask (N,) of the validation split, without the examples `left_out` (N,)."""
    included = np.ones(len(labels), bool) if left_out is None else ~left_out
    chosen = np.zeros(len(labels), bool)
    chosen[included] = share_of_each(labels[included], fraction, (seed, VALIDATION), num_classes)
    if not chosen.any() or chosen[included].all():
        raise ConfigError(
            f"--val-fraction {fraction} of {int(included.sum())} examples leaves "
            f"{'no' if chosen.any() else 'all'} training examples"
        )
    return chosen


def _located(call: Call, outside: DatasetInputs) -> Call:
    """A noise with the paths of its files resolved, also from the workspace."""
    values = dict(call.kwargs)
    for key, value in call.kwargs:
        path = split_column(str(value))[0]
        elsewhere = value != OWN and not path.exists() and (outside.root / path).exists()
        if key in FILES and elsewhere:
            values[key] = str(outside.root / str(value))
    within = (_located(arg, outside) if isinstance(arg, Call) else arg for arg in call.args)
    return replace(call, args=tuple(within), kwargs=tuple(values.items()))


def rates(noisy: NoisyLabels, clean: np.ndarray, K: int) -> dict[str, Any]:
    """The realised shares of incorrect labels among included examples with a known true label; None
    if there are none.
    """
    known = clean >= 0
    if noisy.dropped is not None:
        known &= ~noisy.dropped
    incorrect = noisy.labels != clean
    if noisy.source is not None:
        incorrect |= noisy.source >= 0
    wrong = np.bincount(clean[known & incorrect], minlength=K)
    counts = np.bincount(clean[known], minlength=K)
    total = int(counts.sum())
    return {
        "realised_rate": float(wrong.sum() / total) if total else None,
        "per_class_rate": [float(w / n) if n else None for w, n in zip(wrong, counts, strict=True)],
    }


def as_recorded(call: Call, noisy: NoisyLabels) -> Call:
    """The noise as a manifest stores it: files by name and the beginning of their checksum, without
    their directory; a source by name.
    """
    values = dict(call.kwargs)
    if noisy.source is not None:
        values["source"] = noisy.facts["source"]
    for name in FILES:
        if name in values and values[name] != OWN:
            path, column = split_column(str(values[name]))
            values[name] = path.name + (f":{column}" if column else "")
            values["sha256"] = hash_of(path)[:_DIGITS]
    ordered: dict[str, Value] = {
        p.name: values[p.name] for p in NOISES[call.name].parameters if p.name in values
    }
    within = tuple(
        as_recorded(inner, noisy) if isinstance(inner, Call) else inner for inner in call.args
    )
    return replace(call, args=within, kwargs=tuple(ordered.items()))
