"""The readers of .npz and .npy: valid files with arrays, headers, members or bytes changed -> data
sets, teachers, predictions.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from noisebench.core.files.arrays import npz_arrays, read_npy
from noisebench.datasets import find_dataset, read_images, read_labels
from noisebench.datasets.npz import read_arrays, read_shape
from noisebench.errors import NoisebenchError
from noisebench.metrics.dynamics import Dynamics
from noisebench.metrics.predictions import read_teacher

from .choices import Choices, mutated

_SHAPES: tuple[tuple[int, ...], ...] = (
    (),
    (0,),
    (1,),
    (-1,),
    (10**12,),
    (10**18, 10**18),
    (0, 10**18),
    (2**31,),
    (65_536, 65_536),
    (6, 0),
    (6, 1),
)
_DTYPES = (
    "|O",
    "<f8",
    "<f2",
    ">i8",
    "|u1",
    "|b1",
    "<U4",
    "|S3",
    "<c16",
    "<M8[s]",
    "|V8",
    "<U1000000000",
    "|V0",
    "|S0",
    "junk",
    "[('a', '<i4')]",
)
_ZIP = (
    b"PK\x03\x04",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x08\0",
    b"\x0c\0",
    b"\x0e\0",
    b"\x01\0",
    b".npy",
    b"\x93NUMPY",
)


def _array(choices: Choices, array: np.ndarray) -> np.ndarray:
    """Other values, another shape or dtype."""
    way = choices.below(6)
    if way == 0:
        return array[: choices.below(len(array) + 1)] if array.ndim else array
    if way == 1:
        return array.reshape(-1)
    if way == 2:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return (
                array.astype(
                    choices.of(("f8", "f2", "i8", "u1", "bool", "U5", "S5", "c16", "M8[s]"))
                )
                if array.dtype.kind in "biuf"
                else array
            )
    if way == 3 and array.size and array.dtype.kind in "iuf":
        array = array.copy()
        highest = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else np.inf
        lowest = np.iinfo(array.dtype).min if array.dtype.kind in "iu" else np.nan
        array.reshape(-1)[choices.place(array.size - 1)] = choices.of(
            (0, 1, 9, 10, 100, highest, lowest)
        )
        return array
    return np.concatenate([array, array]) if way == 4 and array.ndim else array[None]


def _npy(choices: Choices, array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    raw = file.getvalue()
    if choices.chance(3):
        header = {
            "descr": str(array.dtype.str),
            "fortran_order": choices.chance(2),
            "shape": array.shape,
        }
        header[choices.of(("shape", "descr", "fortran_order"))] = choices.of(
            choices.of((_SHAPES, _DTYPES))
        )  # type: ignore[assignment]
        head = (
            repr(header)
            if choices.chance(2)
            else mutated(choices, repr(header).encode()).decode("latin1")
        ).encode("latin1")
        raw = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + array.tobytes()
    return mutated(choices, raw) if choices.chance(5) else raw


def npz_changed(choices: Choices, raw: bytes) -> bytes:
    """A .npz with one of its arrays changed, left out or there twice; or with other bytes."""
    if choices.chance(4):
        return mutated(choices, raw, _ZIP)
    with np.load(io.BytesIO(raw)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    names = list(arrays)
    wrong, way, packing = (
        choices.of(names),
        choices.below(6),
        choices.of((0, 0, 0, 8, 8, 8, 12, 14)),
    )
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", packing) as made:
        warnings.simplefilter("ignore")
        for name, array in arrays.items():
            if name != wrong:
                made.writestr(f"{name}.npy", _plain(array))
            elif way > 0:
                made.writestr(
                    f"{name}.npy" if way > 1 else f"{name}2.npy",
                    _npy(choices, _array(choices, array)),
                )
                if way == 2:
                    made.writestr(f"{name}.npy", _plain(array))
    return mutated(choices, file.getvalue(), _ZIP) if choices.chance(6) else file.getvalue()


def _plain(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _saved(arrays: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _seeds() -> dict[str, bytes]:
    generator = np.random.default_rng(0)
    data = {
        f"{part}_images": generator.integers(0, 256, (n, 4, 4, 3), np.uint8)
        for part, n in (("train", 12), ("test", 6))
    }
    data |= {
        f"{part}_labels": np.arange(n, dtype=np.int64)[:, None] % 3
        for part, n in (("train", 12), ("test", 6))
    }
    teacher = {"classes": np.tile(np.uint16([1, 0]), (12, 1)), "p": np.tile(np.float32([0.7, 0.3]), (12, 1)), "num_classes": np.int64(3),
               "labels_sha256": np.bytes_(b"a" * 64), "run": np.bytes_(b"x")}  # fmt: skip
    return {
        "data": _saved(data),
        "teacher": _saved(teacher),
        "dynamics": _saved(Dynamics().arrays()),
    }


def prepare(folder: Path) -> Callable[[bytes], None]:
    """A data set, a teacher, or what a run leaves."""
    seeds = _seeds()
    table = np.full((12, 3), 1 / 3)

    def attempt(data: bytes) -> None:
        choices = Choices(data)
        kind = choices.of([*seeds, "npy"])
        raw = (
            _npy(choices, _array(choices, table))
            if kind == "npy"
            else npz_changed(choices, seeds[kind])
        )
        path = folder / "file.npz"
        path.write_bytes(raw)
        if kind == "data":
            _use_data(path, folder)
        elif kind == "dynamics":
            Dynamics.load(read_arrays(path, ("counts", "gradients")))
        else:
            with suppress(ValueError):  # which a reader says in its own words
                npz_arrays(io.BytesIO(raw), ("p",), 1 << 20) if kind == "teacher" else read_npy(
                    io.BytesIO(raw), len(raw)
                )
            read_teacher(path, 12, 3, "a" * 64)

    def _use_data(path: Path, root: Path) -> None:
        try:
            read_shape(path, "train_images")
            read_arrays(path)
        except NoisebenchError:
            pass
        dataset = find_dataset(str(path))
        images = read_images(dataset, root)
        assert images.fingerprint and len(read_labels(dataset, root).labels) == len(
            images.train_labels
        ) == len(images.train_images)

    return attempt
