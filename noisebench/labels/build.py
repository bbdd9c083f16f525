"""A data set and a noise -> a frozen noisy labelling: what noise may look at is fetched here, what
it made is counted here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.expressions import Call, Expression, Value
from ..core.files.atomic import read_checked
from ..core.files.untrusted import hash_of
from ..datasets import (
    DATASETS,
    Annotations,
    Dataset,
    Fitting,
    Labels,
    ProgressCallback,
    Shape,
    check_column,
    find_dataset,
    image_rows,
    images_fingerprint,
    read_annotations,
    read_human,
    read_images,
    read_review,
    silent,
    split_column,
)
from ..errors import ConfigError, DataError, LanguageError
from ..metrics.predictions import read_teacher
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
from ..noise.registry import NoiseInputs, Teacher
from .manifest import FORMAT, LARGEST_T, Manifest, read_manifest
from .subset import SubsetInputs, expand_to_full, share_of_each, subset_of

VAL_SPLITS = ("after", "before")
_VALIDATION, _TRUSTED = 31, 43  # what a derived seed is for
_DIGITS = 16  # of a file's sha256, kept in the noise's text
_CHUNK = 4096  # images hashed at a time


@dataclass(frozen=True)
class LabelRequest:
    """What labels somebody asked for. val_fraction: the share held out for validation, drawn
    `after` corruption, by noisy class, or `before` it, by true class, each part then corrupted
    by itself. convention: the paper whose noise it is. trusted: the share of the training labels,
    by true class, that somebody has verified: they are set right and marked. subset: how many of
    the training images there are to be; None for all. Noise and shares are of these.
    """

    noise: str
    seed: int = 0
    val_fraction: float = 0.0
    val_split: str = "after"
    convention: str | None = None
    trusted: float = 0.0
    subset: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise ConfigError(
                f"--val-fraction is a share of the training set in [0, 1), got {self.val_fraction}"
            )
        if not 0 <= self.trusted < 1:
            raise ConfigError(
                f"--trusted is a share of the training set in [0, 1), got {self.trusted}"
            )
        if self.subset is not None and self.subset < 1:
            raise ConfigError(
                f"--subset is a number of training images from 1 on, got {self.subset}"
            )
        if self.val_split not in VAL_SPLITS:
            raise ConfigError(
                f"--val-split is one of {', '.join(VAL_SPLITS)}, got {self.val_split!r}"
            )


@dataclass(frozen=True)
class DatasetInputs:
    """What noise may ask for, fetched for one data set. `find`: another data set by name or path;
    `root`: the workspace, from which relative paths are meant too; `tell`: is told how far a
    download is.
    """

    data: Labels
    data_dir: Path
    offline: bool
    find: Callable[[str], Dataset]
    root: Path = Path()
    tell: ProgressCallback = silent

    def file(self, text: str) -> str:
        """A file, or FILE:COLUMN, by its path from here, else from the workspace."""
        path, _ = split_column(text)
        return text if path.exists() or not (self.root / path).exists() else str(self.root / text)

    def place(self, path: Path) -> str:
        """A path as a manifest says it: from the workspace where it lies within, so that both can
        move.
        """
        absolute, root = path.resolve(), self.root.resolve()
        return str(absolute.relative_to(root) if absolute.is_relative_to(root) else absolute)

    def label_file(self, text: str) -> str:
        """FILE or FILE:COLUMN as a manifest says it."""
        path, column = split_column(text)
        return self.place(path) + (f":{column}" if column else "")

    def whereabouts(self, dataset: Dataset) -> str:
        """A user data set's path as one names it, with how it is streamed; a hub's table by its
        name.
        """
        assert dataset.path is not None
        away = dataset.reader == "hfds" and not dataset.path.exists()
        where = str(dataset.path) if away else self.place(dataset.path)
        return f"{dataset.reader}:{where}" if dataset.reader else where

    def images(self) -> Callable[[np.ndarray], np.ndarray]:
        return image_rows(self.data.dataset, self.data_dir, offline=self.offline, tell=self.tell)

    def images_sha256(self) -> str:
        """As `images_fingerprint` of all training images, without holding them."""
        if self.data.dataset.reader:
            return images_fingerprint(
                read_images(self.data.dataset, self.data_dir, offline=self.offline).train_images
            )
        return rows_fingerprint(self.images(), len(self.data.labels))

    def teacher(self, path: str, sha256: str | None) -> Teacher:
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
        """Clean are the file's own; else a catalogue's labels, which are taken for clean unless
        they are recorded ones; else those that somebody verified.
        """
        dataset, own = self.data.dataset, self.data.labels
        verified = np.full_like(own, -1) if self.data.clean is None else self.data.clean
        if path == OWN:
            return NoisyLabels(own, clean=verified)
        found = self._annotations(path, sha256)
        clean = found.clean
        published = own if dataset.name in DATASETS and not dataset.recorded else None
        if clean is not None and published is not None and (clean != published)[clean >= 0].any():
            at = int(((clean != published) & (clean >= 0)).argmax())
            raise DataError(
                f"{path}: its clean labels are not those of {dataset.name}: example "
                f"{at} is {published[at]}, not {clean[at]}"
            )
        truth = published if published is not None else verified if clean is None else clean
        labels = (
            found.labels if found.left_out is None else np.where(found.left_out, own, found.labels)
        )
        said = {"label_file": f"{split_column(path)[0].name}: {'; '.join(found.notes)}"}
        return NoisyLabels(
            labels, clean=truth, dropped=found.left_out, left_out=found.left_out, facts=said
        )

    def _annotations(self, path: str, sha256: str | None) -> Annotations:
        """From anyone's file; a manifest is one too."""
        own, ids = self.data.labels, self.data.ids
        file = split_column(path)[0]
        packed = file.name.lower().endswith((".csv.gz", ".parquet"))
        if not packed and not read_checked(file, sha256).startswith(b"# noisebench_manifest"):
            return read_annotations(
                path, Shape(len(own), self.data.dataset.classes, ids, self.data.test_ids), sha256
            )
        read_checked(file, sha256)
        manifest = read_manifest(path)
        manifest.verify(own, ids, classes=self.data.dataset.num_classes)
        return _of_manifest(manifest, path)

    def review(self, path: str, sha256: str | None, recorded: np.ndarray) -> Review:
        shape = Shape(len(self.data.labels), self.data.dataset.classes, self.data.ids)
        return Review(*read_review(Path(path), shape, recorded, sha256))

    def other(self, dataset: str) -> tuple[dict[str, Any], int]:
        found = self.find(dataset)
        if _root(found) == _root(self.data.dataset):
            raise LanguageError(
                f"openset: the source {dataset!r} is the data set itself: name another"
            )
        return {
            "source": found.name,
            **({"source_path": self.whereabouts(found)} if found.path else {}),
        }, found.n_train


def _of_manifest(manifest: Manifest, path: str) -> Annotations:
    """The labels of a manifest, less what it drops. Raises DataError where its labels are of other
    images.
    """
    if manifest.source is not None:
        raise DataError(
            f"{path} puts in images of {manifest.meta['source']}, which labels alone "
            f"cannot: train --manifest {path}"
        )
    parts = {"validation split": manifest.val, "marks of verified labels": manifest.trusted}
    notes = [f"its {name} not used" for name, part in parts.items() if part is not None]
    if manifest.dropped is not None:
        notes.append(
            f"{int(manifest.dropped.sum())} training images that it drops are left out of training"
        )
    return Annotations(
        manifest.labels, manifest.clean_labels, manifest.dropped, ("labels of a manifest", *notes)
    )


def size_sentences(dataset: Dataset, fitting: Fitting | None = None) -> list[str]:
    """How the images of a folder or a streamed set are brought to one size, and which are enlarged.
    fitting: to another size than the data set's own.
    """
    if dataset.sizes is None and not dataset.reader:
        return []
    as_they_are = fitting is None and not dataset.mixed and not dataset.reader
    fitting = fitting or dataset.fitting
    used = (
        "used as they are"
        if as_they_are
        else (f"used at {fitting}; --img-size and --fit change that")
    )
    if dataset.sizes is None:
        return [f"images: streamed; {used}"]
    small = dataset.sizes.too_small(fitting)
    return [
        f"images: {dataset.sizes}; {used}",
        *([f"warning: training images: {small}"] if small else []),
    ]


def _root(dataset: Dataset) -> str:
    """Whose images these are."""
    return dataset.merged[0] if dataset.merged else dataset.name


def rows_fingerprint(images: Callable[[np.ndarray], np.ndarray], n: int) -> str:
    """The fingerprint of images that are fetched in chunks."""
    first = images(np.arange(1))
    digest = hashlib.sha256(repr((n, *first.shape[1:])).encode())
    for start in range(0, n, _CHUNK):
        digest.update(np.ascontiguousarray(images(np.arange(start, min(start + _CHUNK, n)))).data)
    return digest.hexdigest()


def noise_for(dataset: Dataset, text: str | Expression) -> Call:
    """The noise's one form on these data: the data set's own map where none is named."""
    call = normal_noise(text)
    wants_map = any(p.name == "map" for p in NOISES[call.name].parameters) and "map" not in dict(
        call.kwargs
    )
    if wants_map and dataset.map:
        call = normal_noise(replace(call, kwargs=(*call.kwargs, ("map", dataset.map))))
    return replace(
        call,
        args=tuple(
            noise_for(dataset, inner) if isinstance(inner, Call) else inner for inner in call.args
        ),
    )


def check_noise(dataset: Dataset, text: str) -> None:
    """Whatever can be said against a noise on these data without drawing it. Raises
    NoisebenchError.
    """
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
            f"{call.name} takes class-conditional noise for the images that stay, "
            f"got {call.args[0]}"
        )
    for inner in call.args:
        check_noise(dataset, str(inner))
    # a file is read when its labels are made
    if is_class_conditional(call) and "file" not in values:
        build_noise(call, dataset.num_classes, dataset.classes)


def _refuse_on_top(dataset: Dataset, call: Call) -> None:
    """Raises ConfigError for labels that would be drawn on top of such as are wrong already: nobody
    would know the rate.
    """
    if dataset.mislabelled and is_random(call):
        raise ConfigError(
            f"some of {dataset.name}'s own labels are wrong, so that nobody would know the rate "
            f"of {call.name} on top of them: "
            "take them as they are (--labels own), or --labels FILE"
        )


def make_manifest(
    data: Labels,
    wish: LabelRequest | str,
    noise_seed: int = 0,
    *,
    outside: DatasetInputs | None = None,
) -> Manifest:
    """Draw or fetch given labels for a data set; a text is a wish for that noise. Raises
    NoisebenchError.
    """
    wish = LabelRequest(wish, noise_seed) if isinstance(wish, str) else wish
    outside = outside or DatasetInputs(data, Path(), True, find_dataset)
    call = _located(noise_for(data.dataset, wish.noise), outside)
    _refuse_on_top(data.dataset, call)
    if data.dataset.path and data.clean is not None and is_random(call):
        raise ConfigError(
            f"{data.dataset.path}: its label file has given and true labels, and {call.name} is "
            "drawn on labels that are all right: "
            "train on the given ones (--labels own), or leave only the true ones in the file"
        )
    places = subset_of(data, wish.subset)
    if places is None:
        return _made(data, call, wish, outside, outside)
    part = _made(data.take(places), call, wish, outside, SubsetInputs(outside, data.labels, places))
    # people's labels are there for all
    beyond = NoisyLabels(data.labels) if is_random(call) else apply_noise(call, data, 0, outside)
    return expand_to_full(part, data, places, beyond)


def _made(
    data: Labels, call: Call, wish: LabelRequest, outside: DatasetInputs, sources: NoiseInputs
) -> Manifest:
    """The manifest of all examples of `data`; `sources`: what their noise may ask for."""
    dataset = data.dataset
    seed = wish.seed if is_random(call) or wish.val_fraction or wish.trusted else 0
    val = (
        held_out(data.labels, wish.val_fraction, seed, dataset.num_classes)
        if wish.val_split == "before"
        else None
    )
    made = apply_noise(call, data, seed, sources, val)
    if wish.val_split == "after":
        val = held_out(made.labels, wish.val_fraction, seed, dataset.num_classes, made.left_out)
    elif val is not None and made.left_out is not None:
        val &= ~made.left_out
    clean = data.labels if made.clean is None else made.clean
    if made.dropped is not None and val is not None:
        made = replace(made, dropped=made.dropped & ~val)
    trusted = _verified(made, clean, val, wish.trusted, seed)
    if trusted is not None:
        made = replace(made, labels=np.where(trusted, clean, made.labels))
    meta = {
        **_about(data, call, made, outside),
        **rates(
            made,
            clean if data.fair or made.clean is None else np.full_like(clean, -1),
            dataset.num_classes,
        ),
        "transition": made.transition.tolist()
        if made.transition is not None and dataset.num_classes <= LARGEST_T
        else None,
        "noise_seed": seed,
        "labels_sha256": data.fingerprint,
        **made.facts,
        **({"convention": wish.convention} if wish.convention else {}),
        **(
            {"val_fraction": wish.val_fraction, "val_split": wish.val_split}
            if val is not None
            else {}
        ),
        **({"trusted": wish.trusted} if trusted is not None else {}),
    }
    if made.source is not None:
        clean = np.where(made.source >= 0, -1, clean)
    return Manifest(meta, made.labels, clean, data.ids, val, made.source, trusted, made.dropped)


def apply_noise(
    call: Call, data: Labels, seed: int, sources: NoiseInputs, parts: np.ndarray | None = None
) -> NoisyLabels:
    """What a noise makes of a data set's labels; exact counts are so in each of the `parts`
    (N,).
    """
    return apply(
        call,
        Examples(data.labels, data.dataset.num_classes, seed, sources, data.dataset.classes, parts),
    )


def _verified(
    made: NoisyLabels, clean: np.ndarray, val: np.ndarray | None, fraction: float, seed: int
) -> np.ndarray | None:
    """Whose labels (N,) are trusted: a share of each true class, of the training examples whose
    true label is known.
    """
    if not fraction:
        return None
    can_be = (
        (clean >= 0)
        & (True if made.source is None else made.source < 0)
        & (True if val is None else ~val)
    )
    can_be &= True if made.dropped is None else ~made.dropped
    if not can_be.any():
        raise ConfigError("--trusted: nobody knows the clean label of any training example")
    trusted = np.zeros(len(clean), bool)
    trusted[can_be] = share_of_each(clean[can_be], fraction, (seed, _TRUSTED), int(clean.max()) + 1)
    if not trusted.any():
        raise ConfigError(f"--trusted {fraction} of {int(can_be.sum())} examples is none")
    return trusted


def held_out(
    labels: np.ndarray,
    fraction: float,
    seed: int,
    num_classes: int,
    left_out: np.ndarray | None = None,
) -> np.ndarray | None:
    """Which examples (N,) are held out, none of those `left_out` (N,). None for nothing at all."""
    if not fraction:
        return None
    if left_out is not None:
        chosen = np.zeros(len(labels), bool)
        chosen[~left_out] = held_out(labels[~left_out], fraction, seed, num_classes)
        return chosen
    chosen = share_of_each(labels, fraction, (seed, _VALIDATION), num_classes)
    if not chosen.any() or chosen.all():
        raise ConfigError(
            f"--val-fraction {fraction} of {len(labels)} examples leaves "
            f"{'no' if chosen.all() else 'all'} training examples"
        )
    return chosen


def _located(call: Call, outside: DatasetInputs) -> Call:
    """A noise with the files that it names found."""
    values = {
        key: outside.file(str(value)) if key in FILES and value != OWN else value
        for key, value in call.kwargs
    }
    within = tuple(
        _located(inner, outside) if isinstance(inner, Call) else inner for inner in call.args
    )
    return replace(call, args=within, kwargs=tuple(values.items()))


def _about(data: Labels, call: Call, made: NoisyLabels, outside: DatasetInputs) -> dict[str, Any]:
    dataset = data.dataset
    return {
        "noisebench_manifest": FORMAT,
        "dataset": dataset.name,
        **({"path": outside.whereabouts(dataset)} if dataset.path else {}),
        **({"test_path": outside.place(dataset.test)} if dataset.test else {}),
        **({"labels_path": outside.label_file(dataset.labels)} if dataset.labels else {}),
        **({"images": f"used at {dataset.fitting}"} if dataset.mixed else {}),
        "split": "train",
        "n": len(made.labels),
        "num_classes": dataset.num_classes,
        "classes": list(dataset.classes),
        "noise": str(as_recorded(call, made)),
        "noise_version": NOISES[call.name].fingerprint,
        "nominal_rate": made.nominal_rate,
        **({"decisions": list(dataset.decisions)} if dataset.decisions else {}),
    }


def rates(made: NoisyLabels, clean: np.ndarray, K: int) -> dict[str, Any]:
    """The realised shares of incorrect labels, of those that are kept and known to be right or
    wrong; None where none is.
    """
    known = clean >= 0
    if made.dropped is not None:
        known &= ~made.dropped
    incorrect = made.labels != clean
    if made.source is not None:
        incorrect |= made.source >= 0
    wrong = np.bincount(clean[known & incorrect], minlength=K)
    counts = np.bincount(clean[known], minlength=K)
    total = int(counts.sum())
    return {
        "realised_rate": float(wrong.sum() / total) if total else None,
        "per_class_rate": [float(w / n) if n else None for w, n in zip(wrong, counts, strict=True)],
    }


def as_recorded(call: Call, made: NoisyLabels) -> Call:
    """A noise that reads a file says its name and the beginning of its checksum, not where it lies;
    a source its name.
    """
    values = {
        **dict(call.kwargs),
        **({"source": made.facts["source"]} if made.source is not None else {}),
    }
    for name in FILES:
        if name in values and values[name] != OWN:
            path, column = split_column(str(values[name]))
            values[name] = path.name + (f":{column}" if column else "")
            values["sha256"] = hash_of(path)[:_DIGITS]
    ordered: dict[str, Value] = {
        p.name: values[p.name] for p in NOISES[call.name].parameters if p.name in values
    }
    within = tuple(
        as_recorded(inner, made) if isinstance(inner, Call) else inner for inner in call.args
    )
    return replace(call, args=within, kwargs=tuple(ordered.items()))
