"""Reads untrusted files with limits: regular files of a plausible size, compressed or not, and JSON
and YAML with plain values. All readers use it.

Raises OSError, like `open`, or ValueError; callers add what to do to the message.
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

MAX_BYTES = 1 << 32  # of a file that is read into memory
LARGEST_TEXT = 1 << 20  # of a short text: a suite, a configuration, a list of names
LARGEST_JSON = 1 << 24  # of a run's record; with 65,536 classes it takes a third
MAX_RATIO = 100  # of unpacked to packed bytes: valid files reach 30
_ROOM = 1 << 28  # unpacked bytes that are always allowed
_CHUNK = 1 << 20  # bytes read or unpacked at a time


def open_regular(path: Path) -> IO[bytes]:
    """Opens a regular file for reading. Raises OSError, also for a directory, a pipe or a device,
    which can be endless.
    """
    # do not block on a pipe
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is a directory, a pipe or a device, not a file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, largest: int = MAX_BYTES) -> bytes:
    """Reads a file. Raises OSError, or ValueError if it has more than `largest` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise ValueError(f"it is too large: {size} bytes, the limit is {largest}")
        return file.read(size)  # not what is appended meanwhile


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """Reads a file as UTF-8. Raises OSError, ValueError."""
    return read_bytes(path, largest).decode()


def hash_of(path: Path) -> str:
    """The sha256 of a file of any size. Raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def check_room(sizes: Iterable[int], packed: int) -> None:
    """Raises ValueError if members of these sizes are too large for `packed` bytes."""
    if (size := sum(sizes)) > max(_ROOM, MAX_RATIO * packed):
        raise ValueError(f"it unpacks {packed} bytes to {size}, which is not plausible")


def read_gzip(path: Path) -> bytes:
    """Reads a gzip file. Raises OSError, or ValueError if it is damaged or too large."""
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
    """Reads a JSON file. Raises OSError, ValueError."""
    return parse_json(read_bytes(path, largest))


def parse_json(raw: bytes) -> Any:
    """Parses JSON. Raises ValueError, also for NaN, infinity, lone surrogates and huge integers."""
    from pydantic_core import from_json

    from .schema import check_plain

    content = from_json(raw.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
    check_plain(content)  # 1e999 is parsed as infinity
    return content


def free_memory(root: Path = Path("/")) -> int | None:
    """Memory in bytes that the process can still use, also in its container and job; None if
    unknown. `root`: the parent of `proc` and `sys`.
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
                # the page cache can be freed
                free[-1] += _number_after(f"{cache} ", folder / "memory.stat")
    return max(0, min(free))


def _number_after(name: str, path: Path) -> int:
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise ValueError(f"{path} has no {name}")


_MAX_VALUES = 400_000  # of a document; a manifest's header of 65,536 classes has half


def check_nesting(text: str, max_depth: int, max_values: int = _MAX_VALUES) -> None:
    """Check a YAML document without loading it. Raises ValueError for deeper nesting, more values
    or an alias; yaml.YAMLError for invalid YAML.
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
    """Parses YAML with plain values. Raises ValueError for others, deeper nesting, or aliases."""
    import yaml

    try:
        check_nesting(text, max_depth)
        return yaml.load(text, yaml_loader())  # noqa: S506 the C twin of the safe loader
    except yaml.YAMLError as error:
        raise ValueError(f"it is not YAML ({str(error).splitlines()[0]})") from None
    except (TypeError, AttributeError, OverflowError) as error:
        # a key that is a list; an invalid date
        raise ValueError(f"it is not plain YAML ({error})") from None


def yaml_loader() -> Any:
    """The safe loader, in C if available."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def yaml_dumper() -> Any:
    """The safe dumper, in C if available, which is ten times faster."""
    import yaml

    return getattr(yaml, "CSafeDumper", yaml.SafeDumper)
