"""Reads .npy, .npz and files of torch.save from untrusted sources: no code in them is run, no
pickle is loaded, and no array is larger than its bytes.
"""

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
# numpy's; the libraries of other methods raise errors of their own
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
    """Shape and dtype, leaving the file where the numbers begin. Raises ValueError."""
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
    except Exception as error:  # numpy reads a header as Python, and documents no exceptions
        raise ValueError(f"its header cannot be read ({str(error)[:100]})") from None
    return shape, dtype


def read_npy(file: IO[bytes], size: int) -> np.ndarray:
    """The array of a .npy of `size` bytes. Raises ValueError for anything else, for objects, and
    for a header that does not fit the bytes.
    """
    shape, dtype = npy_header(file)
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
            if members[name].compress_type not in _COMPRESSION:
                raise ValueError("it is compressed by a method that numpy does not write")
            if largest is not None and members[name].file_size > largest:
                raise ValueError(f"its {name} is larger than it can be")
        check_room((members[name].file_size for name in names), file.seek(0, os.SEEK_END))
        arrays = {}
        for name in names:
            with archive.open(members[name]) as member:
                arrays[name] = read_npy(member, members[name].file_size)
                member.read(1)  # its end, where the checksum is compared
        return arrays


def packed_npz(arrays: Mapping[str, np.ndarray], *, deflated: bool = False) -> bytes:
    """The .npz of some arrays. Made in memory, since numpy's, written to a disk that is full,
    leaves an archive open and a traceback.
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


_MAX_DEPTH = 20  # of containers in containers


def load_torch(raw: bytes, device: Any = "cpu") -> Any:
    """Tensors and plain values. A damaged or hostile file may raise any exception of torch's."""
    import torch

    if zipfile.is_zipfile(io.BytesIO(raw)):
        # torch writes its members uncompressed; it would read others, however large they become
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = archive.infolist()
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or sum(member.file_size for member in members) > len(raw):
            raise ValueError("it is compressed, or says that it is larger than it is")
    content = torch.load(io.BytesIO(raw), map_location=device, weights_only=True)
    for value in _contained(content):
        if isinstance(value, torch.Tensor):
            # strided, with a place in the file for each number
            plain = value.layout == torch.strided and not value.is_quantized and not value.is_meta
            if not plain or not value.nbytes <= value.untyped_storage().nbytes() <= len(raw):
                raise ValueError(
                    "it holds a tensor that is larger than the file, or none of plain numbers"
                )
    return content


def _contained(content: Any, depth: int = 0) -> Iterator[Any]:
    """Every object in it, however deep. Raises ValueError for what contains itself."""
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    yield content
    if isinstance(content, Mapping):
        content = content.values()
    elif not isinstance(content, list | tuple | set):
        return
    for value in content:
        yield from _contained(value, depth + 1)
