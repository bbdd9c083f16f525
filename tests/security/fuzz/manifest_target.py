"""The manifest reader: valid manifests of every kind with header, rows or bytes changed, and the
checksum made right again.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from noisebench.cli.listing import _manifest
from noisebench.datasets import DATASETS, read_labels
from noisebench.errors import ManifestError, NoisebenchError
from noisebench.labels.build import DatasetInputs, LabelRequest, make_manifest
from noisebench.labels.manifest import Manifest, file_name, read_manifest
from noisebench.labels.rows import to_parquet
from noisebench.runs.workspace import Workspace

from .choices import Choices, changed, mutated

_ROWS = 40


def _cut(manifest: Manifest) -> Manifest:
    """Of the first examples: small ones are tried faster."""
    cut = {name: getattr(manifest, name)[:_ROWS] for name in ("labels", "clean_labels", "val", "source", "trusted", "dropped")
           if getattr(manifest, name) is not None}  # fmt: skip
    meta = {**manifest.meta, "n": _ROWS}
    return replace(
        manifest,
        meta={**meta, "subset": int((~cut["dropped"]).sum())} if "subset" in meta else meta,
        **cut,
    )


def _seeds() -> list[bytes]:
    labels, workspace = read_labels(DATASETS["digits"], Path()), Workspace()
    outside = DatasetInputs(labels, Path(), True, workspace.dataset, Path())
    wishes = [LabelRequest("symmetric(rate=0.4)"), LabelRequest("pairflip(rate=0.3)", val_fraction=0.1), LabelRequest("symmetric(rate=0.2)",
    trusted=0.1),
              LabelRequest("symmetric(rate=0.2)", subset=600)]  # fmt: skip
    made = [_cut(make_manifest(labels, wish, outside=outside)) for wish in wishes]
    ids = tuple(f"train/{label}/pict%ure,{at}.png" for at, label in enumerate(made[0].labels))
    unknown = replace(
        made[0], ids=ids, clean_labels=np.where(np.arange(_ROWS) % 3, made[0].clean_labels, -1)
    )
    source = np.where(np.arange(_ROWS) % 4, -1, np.arange(_ROWS))
    opened = replace(
        made[0],
        meta={**made[0].meta, "source": "mnist"},
        source=source,
        clean_labels=np.where(source < 0, made[0].clean_labels, -1),
    )
    return [manifest.content for manifest in (*made, unknown, opened)]


def _again(head: bytes, body: bytes) -> bytes:
    return head + f"# sha256: {hashlib.sha256(head + body).hexdigest()}\n".encode() + body


def _header(content: Any) -> bytes:
    if not isinstance(content, dict):
        return (
            b"# noisebench_manifest: 1\n# "
            + yaml.dump(content, default_flow_style=True).encode("utf-8", "replace")
            + b"\n"
        )
    lines = (f"# {key}: {' '.join(yaml.dump(value, default_flow_style=True, width=1 << 20).splitlines()).removesuffix(' ...')}\n"
             for key, value in content.items())  # fmt: skip
    return "".join(lines).encode("utf-8", "replace")


def _made(choices: Choices, seed: bytes) -> bytes:
    """Header and rows, one of them changed, sealed again; now and then something broken."""
    start = seed.index(b"# sha256: ")
    head, body = seed[:start], seed[seed.index(b"\n", start) + 1 :]
    way = choices.below(8)
    if way <= 2:
        text = "\n".join(line.removeprefix("# ") for line in head.decode().split("\n"))
        head = _header(changed(choices, yaml.load(text, yaml.CSafeLoader)))
    elif way == 3:
        head = mutated(choices, head)
    elif way <= 5:
        body = mutated(choices, body)
    elif way == 6:
        rows = [line.split(b",") for line in body.splitlines()]
        at, column = choices.below(len(rows)), choices.below(len(rows[0]))
        rows[at][column : column + 1] = [
            choices.of(
                [
                    b"",
                    b"-1",
                    b"10",
                    b"9" * 25,
                    b"1e3",
                    b"0.5",
                    b'"',
                    b"nan",
                    b"train",
                    b"digits:7",
                    b"1,2",
                ]
            )
        ]
        body = b"\n".join(b",".join(row) for row in rows) + b"\n"
    else:
        return mutated(choices, seed)
    return _again(head, body)


def _packed(choices: Choices, content: bytes) -> tuple[str, bytes]:
    way = choices.below(8)
    if way == 0:
        packed = gzip.compress(content, 1)
        return ".csv.gz", mutated(choices, packed) if choices.chance(3) else packed
    if way == 1:
        with suppress(ManifestError, ValueError, OverflowError, KeyError):
            packed = to_parquet(content)
            return ".parquet", mutated(choices, packed) if choices.chance(3) else packed
    return ".csv", content


def _use(manifest: Manifest, path: Path) -> None:
    """Every property of a manifest."""
    assert manifest.matches_file(path) or manifest.content
    for name in (
        "content_hash",
        "known_fraction",
        "num_wrong",
        "splits",
        "num_examples",
        "dataset_text",
        "rate",
        "held_out_text",
        "confusion",
        "empirical_transition",
    ):
        getattr(manifest, name)
    for ask in (
        lambda: manifest.noise_seed,
        lambda: manifest.transition,
        lambda: file_name(manifest, DATASETS["digits"]),
    ):
        with suppress(NoisebenchError):
            ask()
    with suppress(NoisebenchError):
        manifest.verify(manifest.clean_labels)


def prepare(folder: Path) -> Callable[[bytes], None]:
    """A manifest in a file, of either suffix."""
    seeds = _seeds()

    def attempt(data: bytes) -> None:
        choices = Choices(data)
        suffix, content = _packed(choices, _made(choices, choices.of(seeds)))
        path = folder / f"m{suffix}"
        path.write_bytes(content)
        _manifest(path)
        _use(read_manifest(path), path)

    return attempt
