"""A manifest: a set of noisy labels on disk, the source of truth of every run on them.

`#` lines hold YAML (`key: value`), the last of them the sha256 of every other byte; then one row an
example, `index,label,clean_label[,id][,split][,source][,trusted]`. `pandas.read_csv(path,
comment="#")` reads it. Empty clean_label: unknown, or, where there is a source, none. The same text
may be compressed (`.csv.gz`) or in columns (`.parquet`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from typing_extensions import TypedDict

from ..core.classes import check_table
from ..core.expressions import Call
from ..core.files.atomic import atomic_create, atomic_write
from ..core.files.schema import (
    Count,
    Number,
    NumClasses,
    Share,
    Whole,
    check_form,
    check_plain,
)
from ..core.files.untrusted import read_bytes, read_gzip, read_yaml
from ..datasets import DATASETS, Dataset, fingerprint
from ..errors import LanguageError, ManifestError, NoisebenchError
from ..noise import FILES, NOISES, build_noise, is_random, normal_noise
from .rows import SPLITS, TRUSTED, escape, from_parquet, read_rows, to_parquet

Header = TypedDict(
    "Header",
    {
        "dataset": str,
        "n": Count,
        "num_classes": NumClasses,
        "classes": list[str],
        "noise": str,
        "nominal_rate": Share | None,
        "realised_rate": Share | None,
        "noise_seed": Whole,
        "labels_sha256": str,
        "per_class_rate": list[Share | None],
        "transition": NotRequired[list[list[Number]] | None],
        "images_sha256": NotRequired[str],
        "images": NotRequired[str],
        "path": NotRequired[str],
        "test_path": NotRequired[str],
        "labels_path": NotRequired[str],
        "source": NotRequired[str],
        "source_path": NotRequired[str],
        "convention": NotRequired[str],
        "val_fraction": NotRequired[Share],
        "val_split": NotRequired[str],
        "trusted": NotRequired[Share],
        "subset": NotRequired[Count],
        "label_file": NotRequired[str],
        "rates": NotRequired[list[Share | None]],
        "decisions": NotRequired[list[str]],
    },
)


FORMAT = 1
OPEN = -2  # the "true label" of an image that is of no class
LARGEST_T = 100  # classes up to which T stands in the header
_COMPRESSION = 6
_LARGEST = 1 << 36  # bytes: of a hundred million paths
_LARGEST_HEADER = 1 << 23  # bytes: of 65,536 classes with their rates it has half of that
_DEPTH = 3  # of the header: T is rows in a list under a name
# Header keys that say where or why, not what:
_INFORMATION = (
    "path",
    "test_path",
    "labels_path",
    "source_path",
    "convention",
    "label_file",
    "decisions",
    "images",
)
# beside a checksum it is information too
_FILE_NAME = re.compile(rf"(?:{'|'.join(FILES)})='(?:[^'\\]|\\.)*', ")
# characters it wants escaped
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


@dataclass(eq=False)
class Manifest:
    """Noisy labels (N,) and, where known, true ones (N,), -1 elsewhere; `meta` is the header.

    val (N,): held out for validation; source (N,): the image of `meta["source"]` that replaces an
    example's own, -1 for none; trusted (N,): verified labels, which equal the true ones; dropped
    (N,): not in the subset, or dropped by a review. Dropped examples are neither trained on nor
    counted, but keep their rows, so that an index means the same example.

    Computed from these: `included` (N,): in the subset, not dropped; `in_training` (N,): trained
    on; `true_labels` (N,): -1 unknown, OPEN for an image of no class, each label of which is
    incorrect; `splits`: "train" (N,), and where they exist "val" and "dropped"; `num_examples`: of
    the subset, or all; `known_fraction`: the share of the included examples whose true label is
    known; `num_wrong`: how many of these have an incorrect label, None where nothing is known;
    `dataset_text`: `fashionmnist`, or `fashionmnist, of which 10,000`.
    """

    meta: dict[str, Any]
    labels: np.ndarray
    clean_labels: np.ndarray
    ids: tuple[str, ...] = ()
    val: np.ndarray | None = None
    source: np.ndarray | None = None
    trusted: np.ndarray | None = None
    dropped: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.num_classes = int(self.meta["num_classes"])
        self.included = np.ones(len(self.labels), bool) if self.dropped is None else ~self.dropped
        self.in_training = self.included if self.val is None else self.included & ~self.val
        self.true_labels = self.clean_labels
        if self.source is not None:
            self.true_labels = np.where(self.source >= 0, OPEN, self.clean_labels)
        self.splits = {"train": self.in_training}
        if self.val is not None:
            self.splits["val"] = self.val
        if self.dropped is not None:
            self.splits["dropped"] = self.dropped
        known = (self.true_labels != -1) & self.included
        wrong = (self.labels != self.true_labels) & known
        self.known_fraction = float(known.sum() / max(self.included.sum(), 1))
        self.num_wrong = int(wrong.sum()) if known.any() else None
        self.num_examples = int(self.meta.get("subset", len(self.labels)))
        self.dataset_text = str(self.meta["dataset"])
        if "subset" in self.meta:
            self.dataset_text += f", {of_which(self.num_examples)}"

    @property
    def rate(self) -> float | None:
        """The nominal rate, else the realised overall one; None where neither is known."""
        return (
            self.meta["realised_rate"]
            if self.meta["nominal_rate"] is None
            else self.meta["nominal_rate"]
        )

    @property
    def expected_share(self) -> float | None:
        """The expected share of incorrect labels: 1 - sum_k pi_k T_kk, with pi the class shares of
        the correct labels; trusted labels are correct. Where counts are rounded down, and without a
        transition matrix, the realised share, else the nominal rate; None where neither is known.
        """
        known = self.included & (self.clean_labels >= 0)
        rounded_down = "exact_over='pair'" in self.meta["noise"]
        T = self.transition if self.source is None and known.any() and not rounded_down else None
        if T is not None:
            drawn = self.clean_labels[known if self.trusted is None else known & ~self.trusted]
            counts = np.bincount(drawn, minlength=self.num_classes)
            return round(float(counts @ (1 - np.diag(T)) / known.sum()), 6)
        realised = self.meta["realised_rate"]
        return self.meta["nominal_rate"] if realised is None else realised

    @property
    def noise_seed(self) -> int | None:
        """The seed of what was sampled; None where labels were taken as they are."""
        drawn = is_random(self.meta["noise"]) or self.val is not None or self.trusted is not None
        return int(self.meta["noise_seed"]) if drawn else None

    @property
    def held_out_text(self) -> str:
        """`0.1 held out after corruption`, `0.05 trusted`, or both; empty for neither."""
        parts = []
        if self.val is not None:
            parts.append(
                f"{self.meta['val_fraction']} held out {self.meta['val_split']} corruption"
            )
        if self.trusted is not None:
            parts.append(f"{self.meta['trusted']} trusted")
        return ", ".join(parts)

    @property
    def transition(self) -> np.ndarray | None:
        """T (K, K) of the noise model; None where there is none, or it is unknown here."""
        if self.meta.get("transition") is not None:
            return np.asarray(self.meta["transition"], np.float64)
        # a file may lie anywhere by now
        if self.num_classes <= LARGEST_T or "file=" in self.meta["noise"]:
            return None
        # instance-dependent noise, or of a plugin that is not loaded: T is unknown
        with suppress(NoisebenchError):
            return build_noise(
                self.meta["noise"], self.num_classes, tuple(self.meta["classes"])
            ).transition
        return None

    @property
    def empirical_transition(self) -> np.ndarray:
        """(K, K): the share of each true class that has each noisy label; a class without examples
        keeps its label.
        """
        counts = self.confusion.astype(np.float64)
        counts += np.diag(counts.sum(1) == 0)
        return counts / counts.sum(1, keepdims=True)

    @property
    def confusion(self) -> np.ndarray:
        """Counts (K, K) of the kept examples whose true label is known, rows = true class,
        columns = noisy class. Raises DataError where that is too large.
        """
        check_table(self.num_classes)
        K, known = self.num_classes, self.included & (self.clean_labels >= 0)
        pairs = self.clean_labels[known].astype(np.int64) * K + self.labels[known]
        return np.bincount(pairs, minlength=K * K).reshape(K, K)

    def verify(
        self,
        clean_labels: np.ndarray,
        ids: tuple[str, ...] = (),
        images_sha256: str | None = None,
        *,
        classes: int = 0,
    ) -> None:
        """Assert that this manifest belongs to data with these labels (N,), and, where its noise
        looked at the images, to these images; `classes`: how many the data have, 0 for unknown.
        Raises ManifestError.
        """
        if fingerprint(np.asarray(clean_labels)) != self.meta["labels_sha256"] or (
            self.ids and ids != self.ids
        ):
            raise ManifestError(
                f"the manifest is for other data: it was made for {self.meta['dataset']} with "
                f"{len(self.labels)} examples, "
                f"these {len(clean_labels)} differ in number, order or labels; run noisebench "
                "corrupt on these data"
            )
        if classes not in (0, self.num_classes):
            raise ManifestError(
                f"the manifest has {self.num_classes} classes "
                f"({', '.join(self.meta['classes'][:5])} ...), {self.meta['dataset']} has "
                f"{classes}: run noisebench corrupt on these data"
            )
        if (
            images_sha256 is not None
            and self.meta.get("images_sha256", images_sha256) != images_sha256
        ):
            raise ManifestError(
                "the manifest is for other images: its noise was drawn looking "
                f"at another copy of {self.meta['dataset']}"
            )

    @cached_property
    def sha256(self) -> str:
        """Of every byte but the checksum's own line."""
        return hashlib.sha256(_header(self.meta) + self._rows).hexdigest()

    @cached_property
    def content_hash(self) -> str:
        """The checksum without what is information alone, such as the path of a user data set: the
        same labels wherever.
        """
        meta = {key: value for key, value in self.meta.items() if key not in _INFORMATION}
        if "sha256=" in meta["noise"]:
            meta["noise"] = _FILE_NAME.sub("", meta["noise"])
        return hashlib.sha256(_header(meta) + self._rows).hexdigest()

    @property
    def content(self) -> bytes:
        """The file, byte for byte."""
        return _header(self.meta) + f"# sha256: {self.sha256}\n".encode() + self._rows

    def matches_file(self, path: Path) -> bool:
        """Whether the file at `path` holds the same labels, by the same convention."""
        try:
            if _read_bytes(path) == self.content:
                return True
            other = read_manifest(path)
        except ManifestError:
            return False
        same_convention = other.meta.get("convention") == self.meta.get("convention")
        return same_convention and other.content_hash == self.content_hash

    def write(self, path: Path, *, replace: bool = True) -> bool:
        """Write the file; the suffix decides: `.csv`, `.csv.gz`, `.parquet`. Without `replace`
        False where there is one, even a moment old.
        """
        content = self.content
        if path.suffix == ".parquet":
            content = to_parquet(content)
        elif path.suffix == ".gz":
            content = gzip.compress(content, _COMPRESSION, mtime=0)
        if not replace:
            return atomic_create(path, lambda file: file.write(content))
        atomic_write(path, lambda file: file.write(content))
        return True

    @cached_property
    def _rows(self) -> bytes:
        """One row an example as CSV, the column names first."""
        columns: dict[str, Iterable[str]] = {
            "index": map(str, range(len(self.labels))),
            "label": map(str, self.labels.tolist()),
            "clean_label": ("" if k < 0 else str(k) for k in self.clean_labels.tolist()),
        }
        if self.ids:
            columns["id"] = map(escape, self.ids)
        if self.val is not None or self.dropped is not None:
            split = np.zeros(len(self.labels), np.uint8)
            split[self.splits.get("val", [])] = SPLITS.index("val")
            split[self.splits.get("dropped", [])] = SPLITS.index("dropped")
            columns["split"] = (SPLITS[number] for number in split.tolist())
        if self.source is not None:
            prefix = f"{escape(self.meta.get('source', ''))}:"
            columns["source"] = (f"{prefix}{n}" if n >= 0 else "" for n in self.source.tolist())
        if self.trusted is not None:
            columns["trusted"] = (TRUSTED[verified] for verified in self.trusted.tolist())
        lines = map(",".join, zip(*columns.values(), strict=True))
        return "".join(f"{line}\n" for line in (",".join(columns), *lines)).encode()


def of_which(count: int) -> str:
    """The size of a subset, behind the name of its data set."""
    return f"of which {count:,}"


def file_name(manifest: Manifest, dataset: Dataset) -> str:
    """`cifar10-asym0.3-s0.csv`; what is not the default stands in the name, and the seed where
    something was sampled.
    """
    meta, call = manifest.meta, normal_noise(manifest.meta["noise"])
    data = [dataset.name, str(meta["subset"])] if "subset" in meta else [dataset.name]
    words = noise_words(call, dataset.map)
    if "convention" in meta and not call.args:  # which fixes all but the rate
        words = words[:1]
    parts = [*data, *map("".join, words), *filter(None, [meta.get("convention")])]
    if "val_fraction" in meta:
        parts.append(
            f"val{meta['val_fraction']}"
            + ("" if meta["val_split"] == "after" else meta["val_split"])
        )
    if "trusted" in meta:
        parts.append(f"trusted{meta['trusted']}")
    if is_random(call) or "val_fraction" in meta or "trusted" in meta:
        parts.append(f"s{meta['noise_seed']}")
    safe = (
        part if re.fullmatch(r"[\w.+=-]+", part) else re.sub(r"[^\w.+=]+", "_", part)
        for part in parts
    )
    return "-".join(safe) + ".csv"


def noise_words(call: Call, own_map: str | None = None) -> list[tuple[str, ...]]:
    """A noise in short: `("sym", "0.4")`, then a word for each value that is not the default,
    `own_map` among these.
    """
    values = dict(call.kwargs)
    words: list[tuple[str, ...]] = [
        (str(NOISES[call.name].facts.get("short", call.name)), str(values.pop("rate", "")))
    ]
    defaults = {p.name: p.default for p in NOISES[call.name].parameters}
    for key, value in values.items():
        if (key, value) not in (("map", own_map), ("pairs_seed", 0)) and (
            value != defaults[key] or key == "kind"
        ):
            words.append((_word(key, value),))
    within = [
        word
        for inner in call.args
        if isinstance(inner, Call)
        for word in noise_words(inner, own_map)
    ]
    return [*within, *words] if NOISES[call.name].facts.get("afterwards") else [*words, *within]


def short_noise(text: str, dataset: str = "") -> str:
    """`sym 0.4`, `asym 0.3 cifar10-two-way`: a noise as a column's head; the data set's own map
    goes without saying.
    """
    try:
        call = normal_noise(text)
    except NoisebenchError:
        return text
    words = noise_words(call, DATASETS[dataset].map if dataset in DATASETS else None)
    return " ".join(word for group in words for word in group if word)


def _word(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "bernoulli" if key == "exact" else key.replace("_", "")
    if key in ("file", "predictions", "source", "suspects"):
        name, _, column = str(value).partition(":")
        return Path(name).stem[:40] + column[:40]
    return value[:6] if key == "sha256" else value if isinstance(value, str) else f"{key}{value}"


def read_manifest(path: str | Path) -> Manifest:
    """Read and check a manifest: every byte by its checksum, then every value. Raises
    ManifestError.
    """
    path = Path(path)
    raw = _read_bytes(path)
    start = raw.find(b"\n# sha256: ") + 1
    if not raw.startswith(b"# noisebench_manifest: ") or not start:
        what = "empty" if not raw else "not a noisebench manifest, or truncated"
        raise ManifestError(f"{path} is {what}; write it with noisebench corrupt")
    end = raw.find(b"\n", start) + 1 or len(raw)
    head, body = raw[:start], raw[end:]
    if raw[start:end] != f"# sha256: {hashlib.sha256(head + body).hexdigest()}\n".encode():
        raise ManifestError(
            f"{path} is damaged or was edited: its checksum does not match; write "
            "it again with noisebench corrupt"
        )
    try:
        meta = _parse_header(head)
        manifest = Manifest(meta, **read_rows(body, meta["n"], str(meta.get("source", ""))))
        _check(manifest)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, LanguageError) as error:
        reason = " ".join(str(error).split())
        raise ManifestError(
            f"{path} is not a manifest of this version ({reason}); write it with noisebench corrupt"
        ) from None
    return manifest


def _read_bytes(path: Path) -> bytes:
    """The manifest's text out of a file of any suffix."""
    try:
        if path.suffix == ".gz":
            return read_gzip(path)
        return (
            from_parquet(read_bytes(path))
            if path.suffix == ".parquet"
            else read_bytes(path, _LARGEST)
        )
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise ManifestError(f"no such manifest: {path} (noisebench list manifests)") from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path} cannot be read ({error})") from None


def _header(meta: dict[str, Any]) -> bytes:
    return "".join(f"# {key}: {_flow(value)}\n" for key, value in meta.items()).encode()


def _flow(value: Any) -> str:
    """A value in YAML's flow style on one line."""
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, float):
        text = repr(value)
        # YAML reads 1e-05 as text
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    return _NOT_IN_YAML.sub(
        lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False)
    )


def _parse_header(head: bytes) -> dict[str, Any]:
    if len(head) > _LARGEST_HEADER:
        raise ManifestError(f"its header has {len(head)} bytes, and may have {_LARGEST_HEADER}")
    try:
        text = "\n".join(line.removeprefix("# ") for line in head.decode().split("\n"))
        meta = read_yaml(text, _DEPTH)
    except ValueError as error:
        raise ManifestError(f"of its header: {error}") from None
    if meta["noisebench_manifest"] != FORMAT:
        raise ManifestError(
            f"it has format {str(meta['noisebench_manifest'])[:20]}, this version "
            f"reads {FORMAT}: update noisebench"
        )
    try:
        check_plain(meta)
        check_form(meta, Header, "its header")
    except ValueError as error:
        raise ManifestError(str(error)) from None
    K, T = meta["num_classes"], meta.get("transition")
    for name in ("classes", "per_class_rate"):
        if len(meta[name]) != K:
            raise ManifestError(f"its header's {name} are {len(meta[name])}, its classes {K}")
    if T is not None and (len(T) != K or any(len(row) != K for row in T)):
        raise ManifestError(f"its header has a transition that is not {K} by {K}")
    return dict(meta)


def _check(manifest: Manifest) -> None:
    """Raises ManifestError where header and rows disagree."""
    meta, K, labels, clean = (
        manifest.meta,
        manifest.num_classes,
        manifest.labels,
        manifest.clean_labels,
    )
    val, trusted = manifest.val, manifest.trusted
    for wrong, problem in (
        (
            labels.min() < 0 or max(labels.max(), clean.max()) >= K,
            f"a label is out of range: classes are 0 to {K - 1}",
        ),
        (
            (manifest.source is not None) != ("source" in meta),
            "its header and its rows disagree about images of another data set",
        ),
        (
            val is not None and not {"val_fraction", "val_split"} <= set(meta),
            "its header and its rows disagree about what is held out for validation",
        ),
        (
            (trusted is not None) != ("trusted" in meta),
            "its header and its rows disagree about trusted labels",
        ),
        (
            trusted is not None and (labels != clean)[trusted].any(),
            "a trusted label is not the clean one",
        ),
        (
            "subset" in meta and not manifest.included.sum() <= meta["subset"] < meta["n"],
            "its header and its rows disagree about a subset",
        ),
        (
            not manifest.in_training.any(),
            "every example is held out for validation or dropped",
        ),
    ):
        if wrong:
            raise ManifestError(problem)
