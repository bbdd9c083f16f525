"""Reads untrusted .npy, .npz and torch.save files: no code is executed, no pickle is loaded, and
arrays that do not match their size are refused.
"""

from __future__ import annotations

import io
import math
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from .untrusted import MAX_BYTES, check_room, open_regular

_KINDS = "biufSU"  # of dtypes: numbers and texts
_SHOWN = 10  # names in an error
# those of numpy; other methods raise other errors
_COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    KeyError,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
)


def npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Reads shape and dtype; the file is then positioned at the data. Raises ValueError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's own, about headers of Python 2
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(file)
    except Exception as error:  # numpy parses a header as Python and documents no exceptions
        raise ValueError(f"its header cannot be read ({str(error)[:100]})") from None
    return shape, dtype


def read_npy(file: IO[bytes], size: int) -> np.ndarray:
    """Reads the array of a .npy of `size` bytes. Raises ValueError for other files, for objects,
    and for a header that does not match the size.
    """
    shape, dtype = npy_header(file)
    if dtype.kind not in _KINDS:  # objects could execute code
        raise ValueError(f"it contains {str(dtype)[:40]}, expected numbers or texts")
    length = size - file.tell()
    if (
        min(shape, default=0) < 0
        or math.prod(shape) * dtype.itemsize != length
        or math.prod(filter(None, shape)) > MAX_BYTES
    ):
        raise ValueError(
            f"its size, {length} bytes, does not match its header, {str(shape)[:80]} of "
            f"{str(dtype)[:40]}"
        )
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        return np.lib.format.read_array(file, allow_pickle=False)


@contextmanager
def _open_zip(file: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    """Opens an archive; its errors are raised as ValueError."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except _ZIP_ERRORS as error:
        raise ValueError(str(error) or type(error).__name__) from None


def npz_arrays(
    file: IO[bytes], names: Iterable[str] | None = None, largest: int | None = None
) -> dict[str, np.ndarray]:
    """Reads the named arrays of a .npz, or all. Raises ValueError, also for an array of more than
    `largest` bytes.
    """
    with _open_zip(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        names = tuple(members if names is None else names)
        for name in names:
            if name not in members:
                raise ValueError(
                    f"it has no array {name!r}; it has "
                    f"{', '.join(list(members)[:_SHOWN]) or 'none'}"
                )
            if members[name].compress_type not in _COMPRESSION:
                raise ValueError("it is compressed by a method that numpy does not write")
            if largest is not None and members[name].file_size > largest:
                raise ValueError(f"its array {name} is too large")
        check_room((members[name].file_size for name in names), file.seek(0, os.SEEK_END))
        arrays = {}
        for name in names:
            with archive.open(members[name]) as member:
                arrays[name] = read_npy(member, members[name].file_size)
                member.read(1)  # reaches the end, where the checksum is compared
        return arrays


def packed_npz(arrays: Mapping[str, np.ndarray], *, deflated: bool = False) -> bytes:
    """Packs arrays as .npz in memory: if numpy writes it to a full disk, the archive stays open and
    prints a traceback.
    """
    buffer = io.BytesIO()
    (np.savez_compressed if deflated else np.savez)(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def npz_names(file: IO[bytes]) -> list[str]:
    """The names of the arrays of a .npz. Raises ValueError."""
    with _open_zip(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def npz_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of one array, from its first bytes. Raises ValueError."""
    with _open_zip(file) as archive:
        if archive.getinfo(f"{name}.npy").compress_type not in _COMPRESSION:
            raise ValueError("it is compressed by a method that numpy does not write")
        with archive.open(f"{name}.npy") as member:
            return npy_header(member)


def map_npz_array(path: Path, name: str) -> np.ndarray:
    """Maps one array of a .npz into memory, read-only, or reads it if it is compressed. Raises
    OSError, ValueError.
    """
    with open_regular(path) as file:
        with _open_zip(file) as archive:
            if f"{name}.npy" not in archive.namelist():
                raise ValueError(f"it has no array {name!r}")
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as stream:
                shape, dtype = npy_header(stream)
                header = stream.tell()
        if member.compress_type != zipfile.ZIP_STORED:
            return npz_arrays(file, [name])[name]
        # the member's own header has the lengths of its name and of its extra field
        file.seek(member.header_offset)
        fields = file.read(_LOCAL_HEADER)
        start = member.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", fields[-4:]))
        file.seek(start)
        fortran = np.lib.format.read_magic(file) and b"'fortran_order': True" in file.read(header)
        size = math.prod(shape) * dtype.itemsize
        available = os.fstat(file.fileno()).st_size - start - header
        if dtype.kind not in "biuf":
            raise ValueError(f"its array {name} must be numbers, got {dtype}")
        if header + size != member.file_size or size > available:
            raise ValueError(f"the size of its array {name} does not match its header")
    if fortran or not size:
        with open_regular(path) as file:
            return npz_arrays(file, [name])[name]
    return np.memmap(path, dtype, "r", start + header, shape)


_LOCAL_HEADER = 30  # bytes of a zip member's fixed header
_MAX_DEPTH = 20  # of containers in containers


def load_torch(raw: bytes, device: Any = "cpu") -> Any:
    """Loads tensors and plain values. A damaged file can raise any exception of torch."""
    import torch

    if zipfile.is_zipfile(io.BytesIO(raw)):
        # torch writes its members uncompressed; it would read others, however large they become
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = archive.infolist()
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or sum(member.file_size for member in members) > len(raw):
            raise ValueError("it is compressed, or its members are larger than the file")
    content = torch.load(io.BytesIO(raw), map_location=device, weights_only=True)
    for value in _contained(content):
        if isinstance(value, torch.Tensor):
            # strided, and each number is stored in the file
            plain = value.layout == torch.strided and not value.is_quantized and not value.is_meta
            if not plain or not value.nbytes <= value.untyped_storage().nbytes() <= len(raw):
                raise ValueError("it contains a tensor that is larger than the file or not strided")
    return content


def _contained(content: Any, depth: int = 0) -> Iterator[Any]:
    """All nested objects. Raises ValueError for very deep nesting, such as a list in itself."""
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    yield content
    if isinstance(content, Mapping):
        content = content.values()
    elif not isinstance(content, list | tuple | set):
        return
    for value in content:
        yield from _contained(value, depth + 1)
