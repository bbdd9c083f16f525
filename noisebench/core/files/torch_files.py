"""What torch.save wrote, by whomever: no code of it is run, and nothing of it is larger than the
file.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

_DEEPEST = 20  # of what holds what


def load_torch(raw: bytes, device: Any = "cpu") -> Any:
    """Tensors and plain values. Raises whatever a damaged or hostile file makes torch throw;
    nothing of it is used then.
    """
    import torch

    if zipfile.is_zipfile(io.BytesIO(raw)):
        _check_members(raw)
    found = torch.load(io.BytesIO(raw), map_location=device, weights_only=True)
    for value in _within(found):
        if isinstance(value, torch.Tensor) and not _is_whole(value, len(raw)):
            raise ValueError(
                "it holds a tensor that is larger than the file, or none of plain numbers"
            )
    return found


def _check_members(raw: bytes) -> None:
    """torch writes them uncompressed; it would read others, however large they become."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or sum(
        member.file_size for member in members
    ) > len(raw):
        raise ValueError("it is compressed, or says that it is larger than it is")


def _is_whole(tensor: Any, largest: int) -> bool:
    """A strided tensor with a place of its own for each number, which is read from the file."""
    import torch

    plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
    return plain and tensor.nbytes <= tensor.untyped_storage().nbytes() <= largest


def _within(found: Any, depth: int = 0) -> Iterator[Any]:
    """Everything that is held, however deep. Raises ValueError for what holds itself."""
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    yield found
    if isinstance(found, Mapping):
        found = found.values()
    elif not isinstance(found, list | tuple | set):
        return
    for value in found:
        yield from _within(value, depth + 1)
