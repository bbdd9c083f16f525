"""A frozen noisy labelling on disk: the file, not the generator, is the truth.

`#` lines hold YAML (`key: value`), the last of them the sha256 of every other byte; then one row an example,
`index,label,clean_label[,id]`. Anyone reads it with `pandas.read_csv(path, comment="#")`. Empty clean_label: unknown.
The same text may lie compressed (`.csv.gz`) or in columns (`.parquet`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .datasets import Dataset, Labels, fingerprint
from .errors import ManifestError
from .noise import NOISES, build_noise, draw, normal_noise
from .parquet import from_parquet, read_rows, to_parquet
from .spec import Call
from .storing import write_bytes

FORMAT = 1
_LARGEST_T = 100  # classes up to which T stands in the header
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")  # characters it wants escaped
_ESCAPED = {ord(c): f"%{ord(c):02X}" for c in '%#,"\r\n'}


@dataclass(frozen=True)
class Manifest:
    """Recorded labels (N,) and, where known, clean ones (N,), -1 elsewhere; `meta` is what the header says."""

    meta: dict[str, Any]
    labels: np.ndarray
    clean_labels: np.ndarray
    ids: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return int(self.meta["num_classes"])

    @property
    def rate(self) -> float | None:
        """The nominal rate, else the realised overall one; None where neither is known."""
        return self.meta["realised_rate"] if self.meta["nominal_rate"] is None else self.meta["nominal_rate"]

    @property
    def transition(self) -> np.ndarray | None:
        """T (K, K) of the noise model; None for noise that has none."""
        if self.meta.get("transition") is not None:
            return np.asarray(self.meta["transition"], np.float64)
        call = normal_noise(self.meta["noise"])
        return build_noise(call, self.num_classes).transition

    @property
    def empirical_transition(self) -> np.ndarray:
        """(K, K): the share of each clean class that is recorded as each class; a class without examples is clean."""
        known = self.clean_labels >= 0
        counts = np.zeros((self.num_classes, self.num_classes))
        np.add.at(counts, (self.clean_labels[known], self.labels[known]), 1)
        counts += np.diag(counts.sum(1) == 0)
        return counts / counts.sum(1, keepdims=True)

    def verify(self, clean_labels: np.ndarray, ids: tuple[str, ...] = ()) -> None:
        """Assert that this manifest belongs to data with these clean labels (N,). Raises ManifestError."""
        if fingerprint(np.asarray(clean_labels, np.int64)) != self.meta["labels_sha256"] or (self.ids and ids != self.ids):
            raise ManifestError(
                f"the manifest is for other data: it was made for {self.meta['dataset']} with {len(self.labels)} examples, "
                f"these {len(clean_labels)} differ in number, order or labels; run noisebench corrupt on these data"
            )

    @cached_property
    def _parts(self) -> tuple[bytes, bytes]:
        return _header(self.meta), _body(self)

    @cached_property
    def sha256(self) -> str:
        """Of every byte but the checksum's own line."""
        return _digest(*self._parts)

    @property
    def identity(self) -> str:
        """The checksum without the path of a foreign set: the same labels, wherever the data lie."""
        meta = {key: value for key, value in self.meta.items() if key != "path"}
        return self.sha256 if len(meta) == len(self.meta) else _digest(_header(meta), self._parts[1])

    @property
    def content(self) -> bytes:
        """The file, byte for byte."""
        head, body = self._parts
        return head + _seal(head, body) + body

    def lies_at(self, path: Path) -> bool:
        """Whether the file at `path` is this manifest."""
        try:
            return _read_bytes(path) == self.content or ("path" in self.meta and read_manifest(path).identity == self.identity)
        except ManifestError:
            return False

    def write(self, path: Path) -> None:
        """Write the file; the suffix decides: `.csv`, `.csv.gz`, `.parquet`."""
        write_bytes(path, _pack(self.content, path))


def noise_for(dataset: Dataset, text: str) -> Call:
    """The noise's one form on these data: the data set's own map where none is named."""
    call = normal_noise(text)
    wants_map = any(p.name == "map" for p in NOISES[call.name].parameters) and "map" not in dict(call.kwargs)
    if wants_map and dataset.map:
        call = normal_noise(Call(call.name, (), (*call.kwargs, ("map", dataset.map))))
    return call


def make_manifest(data: Labels, noise: str, noise_seed: int = 0) -> Manifest:
    """Draw recorded labels for a data set. Raises LanguageError where the noise does not fit."""
    dataset = data.dataset
    model = build_noise(noise_for(dataset, noise), dataset.num_classes)
    labels = draw(data.labels, model.transition, noise_seed, exact=model.exact)
    wrong = np.bincount(data.labels[labels != data.labels], minlength=dataset.num_classes)
    counts = np.bincount(data.labels, minlength=dataset.num_classes)
    meta = {
        "noisebench_manifest": FORMAT,
        "dataset": dataset.name,
        **({"path": str(dataset.path)} if dataset.path else {}),
        "split": "train",
        "n": len(labels),
        "num_classes": dataset.num_classes,
        "classes": list(dataset.classes),
        "noise": model.text,
        "noise_version": model.version,
        "nominal_rate": model.rate,
        "realised_rate": float(wrong.sum() / len(labels)),
        "per_class_rate": [float(w / n) if n else None for w, n in zip(wrong, counts, strict=True)],
        "transition": model.transition.tolist() if dataset.num_classes <= _LARGEST_T else None,
        "noise_seed": noise_seed,
        "labels_sha256": data.fingerprint,
    }
    return Manifest(meta, labels, data.labels, data.ids)


def file_name(manifest: Manifest, dataset: Dataset) -> str:
    """`cifar10-asym0.3-s0.csv`; what is not the default stands in the name."""
    call = normal_noise(manifest.meta["noise"])
    values = dict(call.kwargs)
    parts = [dataset.name, f"{NOISES[call.name].facts.get('short', call.name)}{values.pop('rate', '')}"]
    for key, value in values.items():
        if (key, value) not in (("map", dataset.map), ("pairs_seed", 0)):
            parts.append("bernoulli" if key == "exact" else key if value is True else str(value) if key == "map" else f"{key}{value}")
    return "-".join([*parts, f"s{manifest.meta['noise_seed']}.csv"])


def read_manifest(path: str | Path) -> Manifest:
    """Read and check a manifest: every byte by its checksum, then every value. Raises ManifestError."""
    path = Path(path)
    head, seal, body = _split(_read_bytes(path), path)
    if seal != _seal(head, body):
        raise ManifestError(f"{path} is damaged or was edited: its checksum does not match; write it again with noisebench corrupt")
    try:
        meta = _parse_header(head)
        labels, clean_labels, ids = _parse_body(body)
        manifest = Manifest(meta, labels, clean_labels, ids)
        _check(manifest)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ManifestError(f"{path} is not a manifest of this version ({reason}); write it with noisebench corrupt") from None
    return manifest


def _pack(content: bytes, path: Path) -> bytes:
    if path.suffix == ".gz":
        return gzip.compress(content, mtime=0)
    return to_parquet(content) if path.suffix == ".parquet" else content


def _unpack(raw: bytes, path: Path) -> bytes:
    if path.suffix == ".gz":
        return gzip.decompress(raw)
    return from_parquet(raw) if path.suffix == ".parquet" else raw


def _read_bytes(path: Path) -> bytes:
    """The manifest's text out of a file of any suffix."""
    try:
        return _unpack(path.read_bytes(), path)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise ManifestError(f"no such manifest: {path} (noisebench list manifests)") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ManifestError(f"{path} cannot be read ({error})") from None


def _split(raw: bytes, path: Path) -> tuple[bytes, bytes, bytes]:
    """Header, checksum line, body."""
    start = raw.find(b"\n# sha256: ") + 1
    if not raw.startswith(b"# noisebench_manifest: ") or not start:
        what = "empty" if not raw else "not a noisebench manifest, or truncated"
        raise ManifestError(f"{path} is {what}; write it with noisebench corrupt")
    end = raw.find(b"\n", start) + 1 or len(raw)
    return raw[:start], raw[start:end], raw[end:]


def _digest(head: bytes, body: bytes) -> str:
    digest = hashlib.sha256(head)
    digest.update(body)
    return digest.hexdigest()


def _seal(head: bytes, body: bytes) -> bytes:
    return f"# sha256: {_digest(head, body)}\n".encode()


def _header(meta: dict[str, Any]) -> bytes:
    return "".join(f"# {key}: {_flow(value)}\n" for key, value in meta.items()).encode()


def _flow(value: Any) -> str:
    """A value in YAML's flow style on one line."""
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, float):
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text  # YAML reads 1e-05 as text
    return _NOT_IN_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))


def _body(manifest: Manifest) -> bytes:
    columns: list[Iterator[str]] = [
        map(str, range(len(manifest.labels))),
        map(str, manifest.labels.tolist()),
        ("" if label < 0 else str(label) for label in manifest.clean_labels.tolist()),
    ]
    if manifest.ids:
        columns.append(name.translate(_ESCAPED) for name in manifest.ids)
    names = "index,label,clean_label" + (",id" if manifest.ids else "")
    return "\n".join([names, *map(",".join, zip(*columns, strict=True)), ""]).encode()


def _parse_header(head: bytes) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = "\n".join(line.removeprefix("# ") for line in head.decode().split("\n"))
    try:
        meta = yaml.load(text, loader)  # noqa: S506 the C twin of the safe loader
    except yaml.YAMLError as error:
        raise ManifestError(f"its header is not YAML ({str(error).splitlines()[0]})") from None
    if meta["noisebench_manifest"] != FORMAT:
        raise ManifestError(f"it has format {meta['noisebench_manifest']}, this version reads {FORMAT}: update noisebench")
    return dict(meta)


def _parse_body(body: bytes) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    table = read_rows(body)
    if list(table.columns) not in (["index", "label", "clean_label"], ["index", "label", "clean_label", "id"]):
        raise ManifestError(f"this version does not understand the columns {', '.join(map(str, table.columns))}")
    if not np.array_equal(table["index"], np.arange(len(table))):
        raise ManifestError("its index does not count 0, 1, 2, ...")
    if (table["clean_label"] < 0).any():
        raise ManifestError("a clean label is negative: an unknown one is empty")
    ids = tuple(_unescape(name) for name in table["id"]) if "id" in table else ()
    return table["label"].to_numpy(), table["clean_label"].fillna(-1).to_numpy(np.int64), ids


def _unescape(name: str) -> str:
    return re.sub("%([0-9A-F]{2})", lambda match: chr(int(match[1], 16)), name)


def _check(manifest: Manifest) -> None:
    meta, K = manifest.meta, manifest.num_classes
    if missing := {"dataset", "noise", "nominal_rate", "realised_rate", "noise_seed", "labels_sha256"} - set(meta):
        raise ManifestError(f"its header lacks {', '.join(sorted(missing))}")
    if len(manifest.labels) != meta["n"] or not len(manifest.labels):
        raise ManifestError(f"it has {len(manifest.labels)} rows, its header says {meta['n']}")
    if manifest.labels.min() < 0 or max(manifest.labels.max(), manifest.clean_labels.max()) >= K:
        raise ManifestError(f"a label is out of range: classes are 0 to {K - 1}")
