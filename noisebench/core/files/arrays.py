"""Reads .npy and .npz from untrusted files: never a pickle, and no array larger than its bytes."""

from __future__ import annotations

import io
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from .untrusted import MAX_BYTES, check_room

_KINDS = "biufSU"  # of dtypes: numbers and texts
_SHOWN = 10  # names in an error
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    KeyError,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
)


def npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype, leaving the file where the numbers begin.
    Raises ValueError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's own, about headers of Python 2
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read(file)
    except Exception as error:  # numpy reads a header as Python, and documents no exceptions
        raise ValueError(f"its header cannot be read ({str(error)[:100]})") from None
    return shape, fortran, dtype


def read_npy(raw: bytes) -> np.ndarray:
    """The array of a .npy. Raises ValueError for anything else, for objects, and for a header that
    does not fit the bytes.
    """
    return _read_array(io.BytesIO(raw), len(raw))


def _read_array(file: IO[bytes], size: int) -> np.ndarray:
    """The array of a .npy of `size` bytes."""
    shape, _, dtype = npy_header(file)
    if dtype.kind not in _KINDS:  # of objects, too, which could run code
        raise ValueError(f"it holds {str(dtype)[:40]}, neither numbers nor texts")
    length = size - file.tell()
    if (
        min(shape, default=0) < 0
        or math.prod(shape) * dtype.itemsize != length
        or math.prod(filter(None, shape)) > MAX_BYTES
    ):
        raise ValueError(
            f"its header says {str(shape)[:80]} of {str(dtype)[:40]}, its bytes are {length}"
        )
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        return np.lib.format.read_array(file, allow_pickle=False)


@contextmanager
def _open_zip(file: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """Raises ValueError for all that is wrong with the archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except _ZIP_ERRORS as error:
        raise ValueError(str(error) or type(error).__name__) from None


def npz_arrays(
    file: IO[bytes], names: Iterable[str] | None = None, largest: int | None = None
) -> dict[str, np.ndarray]:
    """The named arrays of a .npz, or all; none of more than `largest` bytes. Raises ValueError."""
    with _open_zip(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        names = tuple(members if names is None else names)
        for name in names:
            if name not in members:
                raise ValueError(
                    f"it has no array {name!r}; it has "
                    f"{', '.join(list(members)[:_SHOWN]) or 'none'}"
                )
            _check_compression(members[name])
            if largest is not None and members[name].file_size > largest:
                raise ValueError(f"its {name} is larger than it can be")
        check_room((members[name].file_size for name in names), file.seek(0, os.SEEK_END))
        arrays = {}
        for name in names:
            with archive.open(members[name]) as member:
                arrays[name] = _read_array(member, members[name].file_size)
                member.read(1)  # its end, where the checksum is compared
        return arrays


def _check_compression(member: zipfile.ZipInfo) -> None:
    """Raises ValueError for a method that numpy never writes, whose libraries have errors of their
    own.
    """
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is packed in a way that is not numpy's")


def packed_npz(arrays: Mapping[str, np.ndarray], *, deflated: bool = False) -> bytes:
    """The .npz of some arrays. Made in memory, since numpy's, written to a disk that is full,
    leaves an archive open and a traceback.
    """
    buffer = io.BytesIO()
    save = np.savez_compressed if deflated else np.savez
    save(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def npz_names(file: IO[bytes]) -> list[str]:
    """The names of the arrays of a .npz. Raises ValueError."""
    with _open_zip(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def npz_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of one array, from its first bytes. Raises ValueError."""
    with _open_zip(file) as archive:
        _check_compression(archive.getinfo(f"{name}.npy"))
        with archive.open(f"{name}.npy") as member:
            shape, _, dtype = npy_header(member)
    return shape, dtype


def read_npz(raw: bytes, names: Iterable[str], largest: int) -> dict[str, np.ndarray]:
    """The named arrays of a .npz, none of more than `largest` bytes. Raises ValueError."""
    names = tuple(names)
    try:
        return npz_arrays(io.BytesIO(raw), names, largest)
    except ValueError as error:
        raise ValueError(f"no .npz with {', '.join(names)} ({error})") from None
