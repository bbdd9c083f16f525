"""Arrays out of somebody else's bytes: .npy and .npz, never a pickle, and never larger than the
bytes that are there.
"""

from __future__ import annotations

import io
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import IO, Any

import numpy as np

from .untrusted import MAX_BYTES, check_room

_CHUNK = 1 << 20  # bytes read at a time
_KINDS = "biufSU"  # of dtypes: numbers and texts
_SHOWN = 10  # names that an error names
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
    """The array of a .npy of so many bytes, without a second copy of it."""
    seen = _Counted(file)
    shape, fortran, dtype = npy_header(seen)
    if dtype.kind not in _KINDS:  # of objects, too, which could run code
        raise ValueError(f"it holds {str(dtype)[:40]}, neither numbers nor texts")
    length = size - seen.count
    if (
        min(shape, default=0) < 0
        or math.prod(shape) * dtype.itemsize != length
        or math.prod(filter(None, shape)) > MAX_BYTES
    ):
        raise ValueError(
            f"its header says {str(shape)[:80]} of {str(dtype)[:40]}, its bytes are {length}"
        )
    content = np.empty(length, np.uint8)
    _fill(file, content.data)
    return (
        content.view(dtype).reshape(shape, order="F" if fortran else "C")
        if length
        else np.empty(shape, dtype)
    )


class _Counted:
    """A file that says how much of it was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.count = file, 0

    def read(self, size: int) -> bytes:
        found = self._file.read(size)
        self.count += len(found)
        return found


def _fill(file: IO[bytes], content: memoryview) -> None:
    for start in range(0, len(content), _CHUNK):
        part = content[start : start + _CHUNK]
        while part:
            found = file.read(len(part))
            if not found:
                raise ValueError("it is truncated")
            part[: len(found)] = found
            part = part[len(found) :]


def npz_arrays(
    file: IO[bytes], names: Iterable[str] | None = None, largest: int | None = None
) -> dict[str, np.ndarray]:
    """The named arrays of a .npz, or all; none of more than `largest` bytes. Raises ValueError."""
    try:
        with zipfile.ZipFile(file) as archive:
            there = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            names = tuple(there if names is None else names)
            if missing := [name for name in names if name not in there]:
                raise ValueError(
                    f"it has no array {missing[0]!r}; it has "
                    f"{', '.join(list(there)[:_SHOWN]) or 'none'}"
                )
            wanted = {name: there[name] for name in names}
            _check_packing(wanted.values())
            if largest is not None and (
                big := [name for name, member in wanted.items() if member.file_size > largest]
            ):
                raise ValueError(f"its {big[0]} is larger than it can be")
            check_room((member.file_size for member in wanted.values()), _size(file))
            return {name: _of_member(archive, member) for name, member in wanted.items()}
    except _ZIP_ERRORS as error:
        raise ValueError(str(error) or type(error).__name__) from None


def _check_packing(members: Iterable[zipfile.ZipInfo]) -> None:
    """Raises ValueError for what numpy never writes: other libraries unpack it, each with errors of
    its own.
    """
    if any(
        member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members
    ):
        raise ValueError("it is packed in a way that is not numpy's")


def _size(file: IO[bytes]) -> int:
    return file.seek(0, os.SEEK_END)


def _of_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        found = _read_array(file, member.file_size)
        file.read(1)  # its end, where the checksum is looked at
    return found


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
    try:
        with zipfile.ZipFile(file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except _ZIP_ERRORS as error:
        raise ValueError(str(error) or type(error).__name__) from None


def npz_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of one array, from its first bytes. Raises ValueError."""
    try:
        with zipfile.ZipFile(file) as archive:
            _check_packing([archive.getinfo(f"{name}.npy")])
            with archive.open(f"{name}.npy") as member:
                shape, _, dtype = npy_header(member)
    except _ZIP_ERRORS as error:
        raise ValueError(str(error) or type(error).__name__) from None
    return shape, dtype


def read_npz(raw: bytes, names: Iterable[str], largest: int) -> dict[str, np.ndarray]:
    """The named arrays of a .npz, none of more than `largest` bytes. Raises ValueError."""
    names = tuple(names)
    try:
        return npz_arrays(io.BytesIO(raw), names, largest)
    except ValueError as error:
        raise ValueError(f"no .npz with {', '.join(names)} ({error})") from None
