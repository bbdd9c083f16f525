"""Reads files of torch.save from untrusted sources: no code of them is run, and nothing in them is
larger than the file.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

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
