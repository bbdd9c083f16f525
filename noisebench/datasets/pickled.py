"""Arrays out of other people's pickles (.pt, and .npy that hold a dict), without ever running what else may be in them."""

from __future__ import annotations

import codecs
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import npy_header, read_npy
from ..errors import DataError

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def read_pt(raw: bytes, where: Path) -> Any:
    """What torch.save wrote, tensors and numpy arrays alone, as numpy. Raises DataError for anything else."""
    import torch

    multiarray = _multiarray()
    allowed: list[Any] = [(multiarray._reconstruct, "numpy.core.multiarray._reconstruct"), multiarray._reconstruct,
                          np.ndarray, np.dtype, codecs.encode, *_dtype_classes()]  # fmt: skip
    try:
        with torch.serialization.safe_globals(allowed):
            return _plain(torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True))
    except Exception as error:  # torch.load documents no exceptions; whatever it throws, the file is not used
        raise _refused(where, error) from None


def read_object_npy(raw: bytes, where: Path) -> Any:
    """A .npy that holds a dict of arrays, as numpy.save writes one. Raises DataError for anything else."""
    file = io.BytesIO(raw)
    try:
        shape, _, dtype = npy_header(file)
        if not dtype.hasobject:
            return read_npy(raw)
        content = _Arrays(file, encoding="latin1").load()
        return content.item() if shape == () else content
    except Exception as error:  # a broken pickle may throw anything; none of it is used
        raise _refused(where, error) from None


class _Arrays(pickle.Unpickler):
    """Knows how to make numpy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return getattr(_multiarray(), name) if name == "_reconstruct" else super().find_class(module, name)


def _multiarray() -> Any:
    """numpy's own module, which moved between its versions."""
    return (getattr(np, "_core", None) and np._core.multiarray) or np.core.multiarray  # type: ignore[attr-defined]


def _dtype_classes() -> list[type]:
    return [type(np.dtype(name)) for name in ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "?")]


def _plain(found: Any) -> Any:
    """Tensors as numpy arrays."""
    if isinstance(found, dict):
        return {str(key): _plain(value) for key, value in found.items()}
    return found.detach().numpy() if hasattr(found, "detach") else found


def _refused(where: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:200]
    return DataError(f"{where} is refused: it is damaged, or holds more than arrays, which could run code ({reason})")
