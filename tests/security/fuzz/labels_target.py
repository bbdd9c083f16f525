"""Readers of labels, matrices and reviewed lists: .csv, .txt, .npy and .pt of objects, .yaml, with
values or bytes changed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from noisebench.datasets import Shape, read_annotations, read_review
from noisebench.noise.class_conditional import read_matrix

from .choices import Choices, changed, mutated

_CLASSES = ("cat", "dog", "eel")
_IDS = tuple(f"train/{name}/{at}.png" for at, name in enumerate(_CLASSES * 4))
_LABELS = [at % 3 for at in range(12)]


def _pickled(content: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(content, object), allow_pickle=True)
    return file.getvalue()


def _seeds() -> list[tuple[str, bytes]]:
    by_index = "index,label,clean_label\n" + "".join(
        f"{at},{label},{_CLASSES[label]}\n" for at, label in enumerate(_LABELS)
    )
    by_path = "path,label\n" + "".join(
        f"{name},{label}\n" for name, label in zip(_IDS, _LABELS, strict=True)
    )
    review = "rank,index,path,recorded,suggested,score\n" + "".join(
        f"1,{at},{_IDS[at]},{_CLASSES[at % 3]},dog,0.9\n" for at in (1, 4, 5)
    )
    matrix = [[0.8, 0.1, 0.1], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]]
    rows = "".join(
        f"{name},{','.join(map(str, row))}\n" for name, row in zip(_CLASSES, matrix, strict=True)
    )
    return [
        ("l.csv", by_index.encode()), ("l.csv", by_path.encode()), ("l.txt", "\n".join(map(str, _LABELS)).encode()),
        ("l.npy", _pickled({"label": np.array(_LABELS), "clean": np.array(_LABELS)})), ("r.csv", review.encode()),
        ("m.csv", f",{','.join(_CLASSES)}\n{rows}".encode()), ("m.yaml", json.dumps(matrix).encode()),
        ("m.yaml", b"cat: {cat: 0.7, dog: 0.3}\neel: {eel: 1.0}\n"),
    ]  # fmt: skip


def prepare(folder: Path) -> Callable[[bytes], None]:
    """One file, read as what it was made as."""
    seeds, shape = _seeds(), Shape(12, _CLASSES, _IDS)

    def attempt(data: bytes) -> None:
        choices = Choices(data)
        name, content = choices.of(seeds)
        if name == "m.yaml" and content.startswith(b"[") and choices.chance(2):
            content = json.dumps(changed(choices, json.loads(content))).encode()
        else:
            content = mutated(choices, content)
        path = folder / name
        path.write_bytes(content)
        if name.startswith("m"):
            read_matrix(str(path), _CLASSES)
        elif name.startswith("r"):
            read_review(path, shape, np.array(_LABELS))
        else:
            read_annotations(str(path), shape)

    return attempt
