"""A data set and a noise -> a frozen noisy labelling: what noise may look at is fetched here, what it made is counted here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .datasets import DATASETS, Dataset, Labels, Shape, find_dataset, image_rows, read_annotations, read_human, split_column
from .errors import ConfigError, DataError, LanguageError
from .manifest import FORMAT, LARGEST_T, Manifest
from .noise import NOISES, Examples, Labelling, build_noise, by_class, members, normal_noise
from .noise.catalogue import Sources, Teacher
from .noise.draw import chunks, expected, uniforms
from .noise.recorded import OWN
from .predictions import read_teacher
from .spec import Call, Expression, Value

VAL_SPLITS = ("after", "before")
_VALIDATION = 31  # what a derived seed is for
_FILES = ("file", "predictions")  # parameters that name a file
_DIGITS = 16  # of a file's sha256, kept in the noise's text
_CHUNK = 4096  # images hashed at a time


@dataclass(frozen=True)
class LabelWish:
    """What labels somebody asked for. val_fraction: the share held out for validation, drawn `after` corruption, by recorded
    class, or `before` it, by clean class, each part then corrupted by itself. convention: the paper whose noise it is."""

    noise: str
    seed: int = 0
    val_fraction: float = 0.0
    val_split: str = "after"
    convention: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.val_fraction < 1:
            raise ConfigError(f"--val-fraction is a share of the training set in [0, 1), got {self.val_fraction}")
        if self.val_split not in VAL_SPLITS:
            raise ConfigError(f"--val-split is one of {', '.join(VAL_SPLITS)}, got {self.val_split!r}")


@dataclass(frozen=True)
class Outside:
    """What noise may ask for, fetched for one data set. `find`: another data set by name or path."""

    data: Labels
    data_dir: Path
    offline: bool
    find: Callable[[str], Dataset]

    def images(self) -> Callable[[np.ndarray], np.ndarray]:
        return image_rows(self.data.dataset, self.data_dir, offline=self.offline)

    def images_sha256(self) -> str:
        """As `fingerprint` of all training images, without holding them."""
        return rows_fingerprint(self.images(), len(self.data.labels))

    def teacher(self, path: str, sha256: str | None) -> Teacher:
        return read_teacher(Path(path), len(self.data.labels), self.data.dataset.num_classes, self.data.fingerprint, sha256)

    def human(self, column: str) -> np.ndarray:
        return read_human(column, self.data.dataset.name, self.data.labels, self.data_dir, offline=self.offline)

    def imported(self, path: str, sha256: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Clean are the file's own; else a catalogue's labels, which are taken for clean; else they are unknown."""
        dataset, own = self.data.dataset, self.data.labels
        if path == OWN:
            return own, np.full_like(own, -1)
        recorded, clean = read_annotations(path, Shape(len(own), dataset.classes, self.data.ids), sha256)
        published = own if dataset.name in DATASETS else None
        if clean is not None and published is not None and (clean != published)[clean >= 0].any():
            at = int(((clean != published) & (clean >= 0)).argmax())
            raise DataError(f"{path}: its clean labels are not those of {dataset.name}: example {at} is {published[at]}, not {clean[at]}")
        if clean is None:
            clean = np.full_like(own, -1) if published is None else published
        return recorded, clean

    def other(self, dataset: str) -> tuple[dict[str, Any], int]:
        found = self.find(dataset)
        if found.name == self.data.dataset.name:
            raise LanguageError(f"openset: the source {dataset!r} is the data set itself: name another")
        return {"source": found.name, **({"source_path": str(found.path)} if found.path else {})}, found.n_train


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
    wants_map = any(p.name == "map" for p in NOISES[call.name].parameters) and "map" not in dict(call.kwargs)
    if wants_map and dataset.map:
        call = normal_noise(replace(call, kwargs=(*call.kwargs, ("map", dataset.map))))
    return replace(call, args=tuple(noise_for(dataset, inner) if isinstance(inner, Call) else inner for inner in call.args))


def check_noise(dataset: Dataset, text: str) -> None:
    """Whatever can be said against a noise on these data without drawing it. Raises NoisebenchError."""
    call = noise_for(dataset, text)
    if by_class(call):
        build_noise(call, dataset.num_classes, dataset.classes)


def is_drawn(call: Call) -> bool:
    """Whether a seed has an effect; people's labels are what they are."""
    return bool(NOISES[call.name].facts.get("drawn", True))


def make_manifest(data: Labels, wish: LabelWish | str, noise_seed: int = 0, *, outside: Outside | None = None) -> Manifest:
    """Draw or fetch recorded labels for a data set; a text is a wish for that noise. Raises NoisebenchError."""
    wish = LabelWish(wish, noise_seed) if isinstance(wish, str) else wish
    dataset, outside = data.dataset, outside or Outside(data, Path(), True, find_dataset)
    call = noise_for(dataset, wish.noise)
    seed = wish.seed if is_drawn(call) or wish.val_fraction else 0
    val = held_out(data.labels, wish.val_fraction, seed, dataset.num_classes) if wish.val_split == "before" else None
    made = label(call, data, seed, outside, val)
    if wish.val_split == "after":
        val = held_out(made.labels, wish.val_fraction, seed, dataset.num_classes)
    clean = data.labels if made.clean is None else made.clean
    meta = {
        **_about(data, call, made),
        **_rates(data, made, clean),
        "transition": made.transition.tolist() if made.transition is not None and dataset.num_classes <= LARGEST_T else None,
        "noise_seed": seed,
        "labels_sha256": data.fingerprint,
        **made.facts,
        **({"convention": wish.convention} if wish.convention else {}),
        **({"val_fraction": wish.val_fraction, "val_split": wish.val_split} if val is not None else {}),
    }
    if made.source is not None:
        clean = np.where(made.source >= 0, -1, clean)
    return Manifest(meta, made.labels, clean, data.ids, val, made.source)


def label(call: Call, data: Labels, seed: int, sources: Sources, parts: np.ndarray | None = None) -> Labelling:
    """What a noise makes of a data set's labels; exact counts are so in each of the `parts` (N,)."""
    dataset, entry = data.dataset, NOISES[call.name]
    if by_class(call):
        model = build_noise(call, dataset.num_classes, dataset.classes)
        return Labelling(model.draw(data.labels, seed, parts), model.rate, model.transition)
    examples = Examples(data.labels, dataset.num_classes, seed, sources, dataset.classes, parts)
    return entry.build(examples, *call.args, **dict(call.kwargs))


def held_out(labels: np.ndarray, fraction: float, seed: int, num_classes: int) -> np.ndarray | None:
    """Which examples (N,) are held out: the expected number of all, and of each class but for one. None for nothing at all."""
    if not fraction:
        return None
    order, chosen = uniforms((seed, _VALIDATION), len(labels)), np.zeros(len(labels), bool)
    classes = members(labels, num_classes)
    shares = np.array([fraction * len(places) for places in classes])
    counts = np.floor(shares + 1e-9).astype(np.int64)
    left = expected(fraction, len(labels)) - counts.sum()
    counts[np.argsort(counts - shares, kind="stable")[:left]] += 1
    for places, count in zip(classes, counts, strict=True):
        chosen[places[np.argsort(order[places], kind="stable")[:count]]] = True
    if not chosen.any() or chosen.all():
        raise ConfigError(f"--val-fraction {fraction} of {len(labels)} examples leaves {'no' if chosen.all() else 'all'} training examples")
    return chosen


def _about(data: Labels, call: Call, made: Labelling) -> dict[str, Any]:
    dataset = data.dataset
    return {
        "noisebench_manifest": FORMAT,
        "dataset": dataset.name,
        **({"path": str(dataset.path)} if dataset.path else {}),
        **({"test_path": str(dataset.test)} if dataset.test else {}),
        "split": "train",
        "n": len(made.labels),
        "num_classes": dataset.num_classes,
        "classes": list(dataset.classes),
        "noise": str(_as_recorded(call, made)),
        "noise_version": NOISES[call.name].fingerprint,
        "nominal_rate": made.nominal_rate,
    }


def _rates(data: Labels, made: Labelling, clean: np.ndarray) -> dict[str, Any]:
    """The realised shares of wrong labels, of those that are known to be right or wrong; None where none is."""
    K = data.dataset.num_classes
    wrong, counts = np.zeros(K, np.int64), np.zeros(K, np.int64)
    for part in chunks(len(clean)):
        known = clean[part] >= 0
        bad = made.labels[part] != clean[part]
        if made.source is not None:
            bad |= made.source[part] >= 0
        wrong += np.bincount(clean[part][known & bad], minlength=K)
        counts += np.bincount(clean[part][known], minlength=K)
    total = int(counts.sum())
    return {
        "realised_rate": float(wrong.sum() / total) if total else None,
        "per_class_rate": [float(w / n) if n else None for w, n in zip(wrong, counts, strict=True)],
    }


def _as_recorded(call: Call, made: Labelling) -> Call:
    """A noise that reads a file says its name and the beginning of its checksum, not where it lies; a source its name."""
    values = {**dict(call.kwargs), **({"source": made.facts["source"]} if made.source is not None else {})}
    for name in _FILES:
        if name in values and values[name] != OWN:
            path, column = split_column(str(values[name]))
            values[name] = path.name + (f":{column}" if column else "")
            values["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS]
    ordered: dict[str, Value] = {p.name: values[p.name] for p in NOISES[call.name].parameters if p.name in values}
    within = tuple(_as_recorded(inner, Labelling(made.labels)) if isinstance(inner, Call) else inner for inner in call.args)
    return replace(call, args=within, kwargs=tuple(ordered.items()))
