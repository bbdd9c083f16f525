"""A manifest: a file with a set of noisy labels, which every run on them reads.

`#` lines contain YAML (`key: value`), the last one the sha256 of all other bytes; then follows one
row per example, `index,label,clean_label[,id][,split][,source][,trusted]`. `pandas.read_csv(path,
comment="#")` reads it. An empty clean_label is unknown or, if there is a source, does not exist.
The same text can be compressed (`.csv.gz`) or stored in columns (`.parquet`).
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
from itertools import islice
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
OPEN = -2  # the "true label" of an image that belongs to no class
LARGEST_T = 100  # classes up to which the header contains T
_PART = 1 << 16  # rows
_COMPRESSION = 6
_LARGEST = 1 << 36  # bytes: a hundred million paths
_LARGEST_HEADER = 1 << 23  # bytes: 65,536 classes with their rates take half of that
_DEPTH = 3  # of the header: T is a list of rows under a key
# Header keys that do not affect the labels:
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
# next to a checksum the name of a file does not affect them either
_FILE_NAME = re.compile(rf"(?:{'|'.join(FILES)})='(?:[^'\\]|\\.)*', ")
# characters that YAML requires to be escaped
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


@dataclass(eq=False)
class Manifest:
    """Noisy labels of N training examples with everything that is known about them.

        manifest = nb.read_manifest("manifests/digits-sym0.4-s0.csv")
        wrong = manifest.labels != manifest.true_labels      # if all true labels are known
        x, y = images[manifest.in_training], manifest.labels[manifest.in_training]

    Fields:

    - `meta`: the header, a dict.
    - `labels` (N,): noisy labels, int64.
    - `clean_labels` (N,): true labels, -1 where unknown.
    - `ids`: paths of the examples, empty for data sets without files.
    - `val` (N,): bool, the validation split.
    - `source` (N,): index of the image of `meta["source"]` that replaces the example's own, else
      -1.
    - `trusted` (N,): bool, verified labels, which equal the true ones.
    - `dropped` (N,): bool, outside the subset or dropped by a review. Dropped examples are neither
      trained on nor counted. They keep their rows, so that an index always means the same example.

    The last four are None if no example has the property. Derived attributes:

    - `included` (N,): bool, not dropped.
    - `in_training` (N,): bool, neither dropped nor in the validation split.
    - `true_labels` (N,): -1 where unknown, -2 (`OPEN`) for an image of no class, whose labels are
      all incorrect.
    - `splits`: dict of masks (N,), "train" and, if they exist, "val" and "dropped".
    - `num_classes`, `num_examples` (of the subset, if there is one).
    - `known_fraction`: share of the included examples with a known true label.
    - `num_wrong`: number of included examples with an incorrect label, None if no true label is
      known.
    - `dataset_text`: name of the data set, `fashionmnist, of which 10,000` for a subset.
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
        """The nominal rate, else the realised rate; None if neither is known."""
        return (
            self.meta["realised_rate"]
            if self.meta["nominal_rate"] is None
            else self.meta["nominal_rate"]
        )

    @property
    def expected_share(self) -> float | None:
        """The expected share of incorrect labels: 1 - sum_k pi_k T_kk, with pi the class shares of
        the true labels; trusted labels are correct. If counts are rounded down or T is unknown: the
        realised rate, else the nominal rate; None if neither is known.
        """
        known = self.included & (self.clean_labels >= 0)
        rounded_down = "exact_over='pair'" in self.meta["noise"]
        T = self.transition if self.source is None and known.any() and not rounded_down else None
        if T is not None:
            sampled = self.clean_labels[known if self.trusted is None else known & ~self.trusted]
            counts = np.bincount(sampled, minlength=self.num_classes)
            return round(float(counts @ (1 - np.diag(T)) / known.sum()), 6)
        realised = self.meta["realised_rate"]
        return self.meta["nominal_rate"] if realised is None else realised

    @property
    def noise_seed(self) -> int | None:
        """The seed of the noise; None if nothing was sampled."""
        sampled = is_random(self.meta["noise"]) or self.val is not None or self.trusted is not None
        return int(self.meta["noise_seed"]) if sampled else None

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
        """T (K, K) of the noise, rows = true class; None if there is none or it is unknown."""
        if self.meta.get("transition") is not None:
            return np.asarray(self.meta["transition"], np.float64)
        # the file may have moved
        if self.num_classes <= LARGEST_T or "file=" in self.meta["noise"]:
            return None
        # T is unknown for instance-dependent noise, and for plugins that are not loaded
        with suppress(NoisebenchError):
            return build_noise(
                self.meta["noise"], self.num_classes, tuple(self.meta["classes"])
            ).transition
        return None

    @property
    def empirical_transition(self) -> np.ndarray:
        """T (K, K) estimated from the labels: the share of each true class with each noisy label; a
        class without examples has 1 on the diagonal.
        """
        counts = self.confusion.astype(np.float64)
        counts += np.diag(counts.sum(1) == 0)
        return counts / counts.sum(1, keepdims=True)

    @property
    def confusion(self) -> np.ndarray:
        """Counts (K, K) of the included examples with a known true label, rows = true class,
        columns = noisy class. Raises DataError if the table does not fit into memory.
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
        """Check that this manifest belongs to data with these labels (N,) and ids and, if its noise
        depends on the images, to these images. `classes`: number of classes of the data, 0 if
        unknown. Raises ManifestError.
        """
        if fingerprint(np.asarray(clean_labels)) != self.meta["labels_sha256"] or (
            self.ids and ids != self.ids
        ):
            raise ManifestError(
                f"the manifest is for other data: it belongs to {self.meta['dataset']} with "
                f"{len(self.labels)} examples; these {len(clean_labels)} examples differ in "
                "number, order or labels: run noisebench corrupt on these data"
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
                "the manifest is for other images: its noise depends on another copy of "
                f"{self.meta['dataset']}"
            )

    @cached_property
    def sha256(self) -> str:
        """Checksum of all bytes except the line with the checksum."""
        return hashlib.sha256(_header(self.meta) + self._rows).hexdigest()

    @cached_property
    def content_hash(self) -> str:
        """Checksum without header keys that do not affect the labels, such as the path of a user
        data set.
        """
        meta = {key: value for key, value in self.meta.items() if key not in _INFORMATION}
        if "sha256=" in meta["noise"]:
            meta["noise"] = _FILE_NAME.sub("", meta["noise"])
        return hashlib.sha256(_header(meta) + self._rows).hexdigest()

    @property
    def content(self) -> bytes:
        """The bytes of the file."""
        return _header(self.meta) + f"# sha256: {self.sha256}\n".encode() + self._rows

    def matches_file(self, path: Path) -> bool:
        """Whether the file at `path` has the same labels and the same convention."""
        try:
            if _read_bytes(path) == self.content:
                return True
            other = read_manifest(path)
        except ManifestError:
            return False
        same_convention = other.meta.get("convention") == self.meta.get("convention")
        return same_convention and other.content_hash == self.content_hash

    def write(self, path: Path, *, replace: bool = True) -> bool:
        """Write the file in the format of the suffix: `.csv`, `.csv.gz` or `.parquet`. Without
        `replace`, returns False if the file exists, and does not change it. Raises DataError if it
        cannot be written.
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
        """One row per example as CSV, after the column names."""
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
        parts = [",".join(columns)]
        while part := "\n".join(islice(lines, _PART)):  # text of all lines at once would be large
            parts.append(part)
        return "\n".join([*parts, ""]).encode()


def of_which(count: int) -> str:
    """The size of a subset, to follow the name of its data set."""
    return f"of which {count:,}"


def file_name(manifest: Manifest, dataset: Dataset) -> str:
    """`cifar10-asym0.3-s0.csv`: data set, noise, all settings that are not the default, and the
    seed if something was sampled.
    """
    meta, call = manifest.meta, normal_noise(manifest.meta["noise"])
    data = [dataset.name, str(meta["subset"])] if "subset" in meta else [dataset.name]
    words = noise_words(call, dataset.map)
    if "convention" in meta and not call.args:  # which determines all but the rate
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
    """The short notation of a noise: `("sym", "0.4")`, then a word for each value that is not the
    default; `own_map` is the default map.
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
    """`sym 0.4`, `asym 0.3 cifar10-two-way`: a noise as a column heading, without the data set's
    own map.
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
    """Reads a manifest, `.csv`, `.csv.gz` or `.parquet`, and checks its checksum and all values.

        manifest = nb.read_manifest("manifests/digits-sym0.4-s0.csv")
        manifest.labels        # noisy labels (N,), int64

    Raises ManifestError if the file is missing, damaged, was edited, or has the format of another
    version.
    """
    path = Path(path)
    raw = _read_bytes(path)
    start = raw.find(b"\n# sha256: ") + 1
    if not raw.startswith(b"# noisebench_manifest: ") or not start:
        what = "empty" if not raw else "not a noisebench manifest, or truncated"
        raise ManifestError(f"{path} is {what}: create one with noisebench corrupt")
    end = raw.find(b"\n", start) + 1 or len(raw)
    head, body = raw[:start], raw[end:]
    if raw[start:end] != f"# sha256: {hashlib.sha256(head + body).hexdigest()}\n".encode():
        raise ManifestError(
            f"{path} is damaged or was edited: its checksum does not match; create "
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
            f"{path} is not a manifest of this version ({reason}): run noisebench corrupt"
        ) from None
    return manifest


def _read_bytes(path: Path) -> bytes:
    """Reads the manifest's text from a file in any format."""
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
    """A value as one line of YAML in flow style."""
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
        raise ManifestError(f"its header has {len(head)} bytes, the limit is {_LARGEST_HEADER}")
    try:
        text = "\n".join(line.removeprefix("# ") for line in head.decode().split("\n"))
        meta = read_yaml(text, _DEPTH)
    except ValueError as error:
        raise ManifestError(f"its header: {error}") from None
    if meta["noisebench_manifest"] != FORMAT:
        raise ManifestError(
            f"it has format {str(meta['noisebench_manifest'])[:20]}, this version "
            f"reads format {FORMAT}: update noisebench"
        )
    try:
        check_plain(meta)
        check_form(meta, Header, "its header")
    except ValueError as error:
        raise ManifestError(str(error)) from None
    K, T = meta["num_classes"], meta.get("transition")
    for name in ("classes", "per_class_rate"):
        if len(meta[name]) != K:
            raise ManifestError(f"its header has {len(meta[name])} {name} for {K} classes")
    if T is not None and (len(T) != K or any(len(row) != K for row in T)):
        raise ManifestError(f"its header has a transition that is not {K} by {K}")
    return dict(meta)


def _check(manifest: Manifest) -> None:
    """Raises ManifestError if header and rows disagree."""
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
            "its header and its rows disagree about the validation split",
        ),
        (
            (trusted is not None) != ("trusted" in meta),
            "its header and its rows disagree about trusted labels",
        ),
        (
            trusted is not None and (labels != clean)[trusted].any(),
            "a trusted label differs from the clean label",
        ),
        (
            "subset" in meta and not manifest.included.sum() <= meta["subset"] < meta["n"],
            "its header and its rows disagree about the subset",
        ),
        (
            not manifest.in_training.any(),
            "every example is dropped or in the validation split",
        ),
    ):
        if wrong:
            raise ManifestError(problem)
