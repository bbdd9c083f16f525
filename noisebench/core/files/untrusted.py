"""Reads untrusted files within bounds: regular files of a plausible size, packed or not, and JSON
and YAML of plain values. Every reader begins here.

Raises OSError, as `open` does, or ValueError; each caller adds in its message what to do.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import os
import stat
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ..hardware import memory_cgroups

MAX_BYTES = 1 << 32  # bytes of a file that is read whole
LARGEST_TEXT = 1 << 20  # of a short text: a suite, a configuration, a list of names
LARGEST_JSON = 1 << 24  # of a run's record, which of 65,536 classes takes a third
MAX_RATIO = 100  # how many times its bytes a packed file may hold: honest ones reach 30
_ROOM = 1 << 28  # bytes that any packed file may hold
_CHUNK = 1 << 20  # bytes read or unpacked at a time


def open_regular(path: Path) -> IO[bytes]:
    """A regular file, to be read; never a directory, a pipe or a device, which may have no end.
    Raises OSError.
    """
    # a pipe does not wait
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is a folder, a pipe or a device, no file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, largest: int = MAX_BYTES) -> bytes:
    """A whole file. Raises OSError, or ValueError if it has more than `largest` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise ValueError(f"it is too large: {size} bytes, and may have {largest}")
        return file.read(size)  # not what is added meanwhile


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """A whole file of UTF-8. Raises OSError, ValueError."""
    return read_bytes(path, largest).decode()


def hash_of(path: Path) -> str:
    """The sha256 of a file, however large. Raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def check_room(sizes: Iterable[int], packed: int) -> None:
    """Raises ValueError where members of these sizes are too large for `packed` bytes."""
    if (size := sum(sizes)) > max(_ROOM, MAX_RATIO * packed):
        raise ValueError(f"it unpacks to {size} bytes from {packed}, which no honest file does")


def read_gzip(path: Path) -> bytes:
    """The content of a gzip file. Raises OSError, or ValueError if it is damaged or too large."""
    content = io.BytesIO()
    try:
        with open_regular(path) as file, gzip.GzipFile(fileobj=file) as stream:
            packed = os.fstat(file.fileno()).st_size
            while piece := stream.read(_CHUNK):
                content.write(piece)
                check_room([content.tell()], packed)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(str(error)) from None
    return content.getvalue()


def read_json(path: Path, largest: int = LARGEST_JSON) -> Any:
    """A file of JSON. Raises OSError, ValueError."""
    return parse_json(read_bytes(path, largest))


def parse_json(raw: bytes) -> Any:
    """Plain values. Raises ValueError, also for NaN, infinity, half characters, huge integers."""
    from pydantic_core import from_json

    from .schema import check_plain

    content = from_json(raw.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
    check_plain(content)  # 1e999 is read as infinity
    return content


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that the process, its container and its job may still have; None if unknown.

    `root` is where `proc` and `sys` are.
    """
    try:
        import resource

        free = [1024 * _number_after("MemAvailable:", root / "proc/meminfo")]
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    except (OSError, ValueError, ImportError):  # not on Linux
        return None
    if limit != resource.RLIM_INFINITY:
        free.append(limit)
    for folder in memory_cgroups(root):
        for limit_file, used_file, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with suppress(OSError, ValueError):  # no such file, or `max`: no limit
                left = int((folder / limit_file).read_text(encoding="ascii"))
                left -= int((folder / used_file).read_text(encoding="ascii"))
                free.append(left)
                # files that the system keeps in memory can go
                free[-1] += _number_after(f"{cache} ", folder / "memory.stat")
    return max(0, min(free))


def _number_after(name: str, path: Path) -> int:
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise ValueError(f"{path} has no {name}")


_MAX_VALUES = 400_000  # of a document: a manifest's header of 65,536 classes has half of these


def check_nesting(text: str, max_depth: int, max_values: int = _MAX_VALUES) -> None:
    """Parse a document without building it. Raises ValueError for deeper nesting, more values or an
    alias; yaml.YAMLError for no YAML.
    """
    import yaml

    depth = 0
    for count, event in enumerate(yaml.parse(text, yaml_loader())):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > max_depth or isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it is nested deeper than {max_depth}, or has aliases")
        if count > max_values:
            raise ValueError(f"it has more than {max_values} values")


def read_yaml(text: str, max_depth: int) -> Any:
    """Plain values. Raises ValueError for anything else, deeper nesting, or aliases."""
    import yaml

    try:
        check_nesting(text, max_depth)
        return yaml.load(text, yaml_loader())  # noqa: S506 the C twin of the safe loader
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML ({str(error).splitlines()[0]})") from None
    except (TypeError, AttributeError, OverflowError) as error:
        # a key that is a list; a date that is none
        raise ValueError(f"it is not plain YAML ({error})") from None


def yaml_loader() -> Any:
    """The safe loader, in C where there is one."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def yaml_dumper() -> Any:
    """The safe dumper, in C where there is one: ten times as fast."""
    import yaml

    return getattr(yaml, "CSafeDumper", yaml.SafeDumper)
