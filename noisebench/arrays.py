"""Arrays out of somebody else's bytes: .npy and .npz, never a pickle, and never larger than the bytes that are there."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np


def npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype, leaving the file where the numbers begin. Raises ValueError."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def read_npy(raw: bytes) -> np.ndarray:
    """The array of a .npy. Raises ValueError for anything else, for objects, and for a header that does not fit the bytes."""
    file = io.BytesIO(raw)
    shape, fortran, dtype = npy_header(file)
    if dtype.hasobject:
        raise ValueError("it holds objects, which could run code")
    content = raw[file.tell() :]
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"its header says {shape} of {dtype}, its bytes are {len(content)}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C").copy()


def read_npz(raw: bytes, names: Iterable[str], largest: int) -> dict[str, np.ndarray]:
    """The named arrays of a .npz, none of more than `largest` bytes. Raises ValueError."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = {name: archive.getinfo(f"{name}.npy") for name in names}
            if big := [name for name, member in members.items() if member.file_size > largest]:
                raise ValueError(f"its {big[0]} is larger than it can be")
            return {name: read_npy(archive.read(member)) for name, member in members.items()}
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, OSError, RuntimeError) as error:
        raise ValueError(f"no .npz with {', '.join(names)} ({error})") from None
