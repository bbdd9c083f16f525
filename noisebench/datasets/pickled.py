"""Arrays out of other people's pickles (.pt, and .npy that hold a dict), without ever running what
else may be in them.

A pickle builds an array by calling numpy's own functions, which trust their arguments and can be
led to read any memory. So none of them is handed out: stand-ins take down what is said, and arrays
are made of that once it was checked.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files.arrays import npy_header, read_npy
from ..core.files.torch_files import load_torch
from ..errors import DataError

_NUMBERS = re.compile(r"[<>|=]?[biuf][1248]")
_LONGEST_NAME = 200  # letters of a word
_ROOM = 1 << 20  # bytes
_OBJECTS = ("O", "O8", "|O", "|O8")


class _Dtype:
    """Says what a dtype would be: numbers, or the objects of a list."""

    def __init__(self, code: Any, *flags: Any) -> None:
        self.code, self.order = str(code), ""
        if not _NUMBERS.fullmatch(self.code) and self.code not in _OBJECTS:
            raise pickle.UnpicklingError(
                f"it holds a dtype {self.code[:20]!r}, neither numbers nor a dict"
            )

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if state[1] in ("<", ">") else ""


class _Array:
    """Says what an array would be; `made` is it, out of so many bytes."""

    def __init__(self, *arguments: Any) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def made(self, size: int) -> Any:
        _, shape, dtype, fortran, content = self._state
        if dtype.code in _OBJECTS:
            if (
                len(shape) == 1
                and len(content) == shape[0]
                and all(isinstance(word, str) for word in content)
            ):
                return np.array(_short(content, size), str)
            if shape != () or not isinstance(content, list) or len(content) != 1:
                raise pickle.UnpicklingError("it holds an array of objects")
            return content[0]
        kind = np.dtype(dtype.order + dtype.code.lstrip("<>|="))
        if len(content) != kind.itemsize * math.prod(shape):
            raise pickle.UnpicklingError(f"it says {shape} of {kind}, its bytes are {len(content)}")
        # Python 2 called bytes text
        raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
        return np.frombuffer(raw, kind).reshape(shape, order="F" if fortran else "C").copy()


class _Type:
    """Stands for the class of arrays, which nothing may call."""

    def __new__(cls, *arguments: Any) -> _Type:
        raise pickle.UnpicklingError("it would make an array of its own")


def _scalar(dtype: Any, content: Any) -> int | float:
    """A number as numpy pickles one of its own, such as each of a list of them."""
    if not isinstance(dtype, _Dtype) or dtype.code in _OBJECTS:
        raise pickle.UnpicklingError("it holds a number of no known kind")
    kind = np.dtype(dtype.order + dtype.code.lstrip("<>|="))
    raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
    if len(raw) != kind.itemsize:
        raise pickle.UnpicklingError(f"it says one {kind}, its bytes are {len(raw)}")
    return np.frombuffer(raw, kind)[0].item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How an old pickle says bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it holds bytes in another encoding")
    return text.encode("latin1")


_ALLOWED: dict[str, Any] = {
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.ndarray": _Type,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _encode,
}


def read_pt(raw: bytes, where: Path) -> Any:
    """What torch.save wrote, tensors and numpy arrays alone, as numpy. Raises DataError for
    anything else.
    """
    import torch

    allowed = [(stand_in, name) for name, stand_in in _ALLOWED.items()]
    try:
        with torch.serialization.safe_globals([*allowed, _Array, _Dtype]):
            return _plain(load_torch(raw), len(raw))
    except Exception as error:
        # torch.load documents no exceptions; whatever it throws, the file is not used
        raise _refused(where, error) from None


def read_object_npy(raw: bytes, where: Path) -> Any:
    """A .npy that holds a dict of arrays, as numpy.save writes one. Raises DataError for anything
    else.
    """
    file = io.BytesIO(raw)
    try:
        _, _, dtype = npy_header(file)
        if not dtype.hasobject:
            return read_npy(raw)
        _check_memo(raw[file.tell() :])
        return _plain(_Arrays(file, encoding="latin1").load(), len(raw))
    except Exception as error:  # a broken pickle may throw anything; none of it is used
        raise _refused(where, error) from None


def read_batch(raw: bytes, where: Path) -> Any:
    """What Python 2 pickled, a dict of arrays, lists, numbers and text. Raises DataError for
    anything else.
    """
    try:
        _check_memo(raw)
        return _plain(_Arrays(io.BytesIO(raw), encoding="latin1").load(), len(raw))
    except Exception as error:  # as above
        raise _refused(where, error) from None


def _check_memo(pickled: bytes) -> None:
    """Raises UnpicklingError for a pickle that would remember something at a place that it cannot
    reach: memory up to there is taken.
    """
    for code, place, _ in pickletools.genops(pickled):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and not (
            isinstance(place, int) and 0 <= place <= len(pickled)
        ):
            raise pickle.UnpicklingError("it would take memory without end")


class _Arrays(pickle.Unpickler):
    """Knows the stand-ins, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _ALLOWED:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return _ALLOWED[f"{module}.{name}"]


def _plain(found: Any, size: int, *, within: bool = False) -> Any:
    """Stand-ins and tensors as numpy arrays, lists of numbers or words; a dict of them, by name,
    nothing of a dict therein. Out of so many bytes.

    Raises UnpicklingError for what is neither, and for what says the same again and again: lists of
    one list, a tensor of one number.
    """
    if isinstance(found, dict):
        return (
            {}
            if within
            else {
                str(key)[:_LONGEST_NAME]: _plain(value, size, within=True)
                for key, value in found.items()
            }
        )
    if isinstance(found, _Array):
        return _plain(found.made(size), size, within=within)
    if isinstance(found, int | float | str | None):
        return found
    if isinstance(found, list | tuple) and all(
        isinstance(item, int | float | str) for item in found
    ):
        return _short(found, size)
    array = found.detach() if hasattr(found, "detach") else found
    if hasattr(array, "nbytes") and array.nbytes <= _ROOM + size * (4 * _LONGEST_NAME):
        return array.numpy() if hasattr(array, "numpy") else array
    raise pickle.UnpicklingError(
        f"it holds a {type(found).__name__}, neither numbers nor a dict of them"
    )


def _short(words: Any, size: int) -> list[Any]:
    """Words or numbers. Raises UnpicklingError where one is so long that an array of them would be
    without bounds.
    """
    longest = max((len(word) for word in words if isinstance(word, str)), default=0)
    if longest * len(words) > _ROOM + size * _LONGEST_NAME:
        raise pickle.UnpicklingError(f"it holds a word of {longest} letters")
    return list(words)


def _refused(where: Path, error: Exception) -> DataError:
    called = re.search(r"GLOBAL ([\w.]+)|would call ([\w.]+)", str(error))
    reason = (
        f"it would call {called[1] or called[2]}"
        if called
        else re.sub(r"[^\x20-\x7e]", " ", str(error)).split(". ")[0][:120]
    )
    return DataError(
        f"{where} is refused: it is damaged, or holds more than arrays, which could "
        f"run code ({' '.join(reason.split())})"
    )
