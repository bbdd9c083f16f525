"""Somebody's file, read within bounds: a regular one, of no more bytes than it can mean, packed or
not. Every reader begins here.

What is wrong is said by OSError, as `open` does, or by ValueError; each reader says in its own
words what to do.

 YAML in C where there is that; a stranger's refused where it is nested deeper or has more values
than it can mean.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

from ..hardware import cgroups

MAX_BYTES = 1 << 32  # bytes of a file that is read whole
LARGEST_TEXT = 1 << 20  # of a short text: a suite, a configuration, a list of names
LARGEST_JSON = 1 << 24  # of a run's record, which of 65,536 classes takes a third
MAX_RATIO = 100  # how many times its bytes a packed file may hold: honest ones reach 30
_ROOM = 1 << 28  # bytes that any packed file may hold
_CHUNK = 1 << 20  # bytes read or unpacked at a time
_DIGITS = 300  # of a whole number


def open_regular(path: Path) -> IO[bytes]:
    """A regular file, to be read; never a folder, a pipe or a device, which may have no end. Raises
    OSError.
    """
    # a pipe does not wait
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is a folder, a pipe or a device, no file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, largest: int = MAX_BYTES) -> bytes:
    """A file, whole. Raises OSError, or ValueError where it is larger than it can be."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise ValueError(f"it is too large: {size} bytes, and may have {largest}")
        return file.read(size)  # not what is added meanwhile


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """A file of UTF-8, whole. Raises OSError, ValueError."""
    return read_bytes(path, largest).decode()


def hash_of(path: Path) -> str:
    """The sha256 of a file, however large. Raises OSError."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def max_unpacked(packed: int) -> int:
    """Bytes that a file of so many may hold when it is unpacked."""
    return max(_ROOM, MAX_RATIO * packed)


def check_room(sizes: Iterable[int], packed: int) -> None:
    """Raises ValueError where what is packed in so many bytes says that it is larger than it can
    be.
    """
    if (size := sum(sizes)) > max_unpacked(packed):
        raise ValueError(f"it unpacks to {size} bytes from {packed}, which no honest file does")


def read_gzip(path: Path) -> bytes:
    """What a file of gzip holds. Raises OSError, or ValueError where it is damaged or holds more
    than it can.
    """
    with open_regular(path) as file:
        return unpacked(file, os.fstat(file.fileno()).st_size)


def unpacked(file: IO[bytes], packed: int) -> bytes:
    """A gzip stream's content. Raises ValueError where there is more of it than so many packed
    bytes can hold.
    """
    content = io.BytesIO()
    try:
        with gzip.GzipFile(fileobj=file) as stream:
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
    """JSON as it is written, without NaN, infinity, half characters and numbers beyond all bounds.
    Raises ValueError.
    """
    text = raw.decode("utf-8-sig")
    try:
        content = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
        if "\\u" in text:
            # half of a character cannot be written
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return content


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text[:20])


def _whole(text: str) -> int:
    return int(text) if len(text) <= _DIGITS else _refuse(text[:20] + "...")


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes, no more than the process, its container or its job may still have; None where nobody
    says. root: where `proc` and `sys` are.
    """
    try:
        import resource

        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")
        )
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    except (OSError, ValueError, StopIteration, ImportError):  # somewhere else than on Linux
        return None
    return max(0, min([free, *([] if limit == resource.RLIM_INFINITY else [limit]), *_left(root)]))


def _left(root: Path) -> Iterator[int]:
    """Bytes that each control group with a limit has left; files that are kept in memory can go."""
    for folder in cgroups("memory", root):
        for limit, used, kept in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with suppress(OSError, ValueError):  # no such file, or `max`: no limit
                most, now = (
                    int((folder / name).read_text(encoding="ascii")) for name in (limit, used)
                )
                yield most - now + _of_stat(folder, kept)


def _of_stat(folder: Path, name: str) -> int:
    with suppress(OSError, ValueError):
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
    return 0


_MOST = 400_000  # values of a document: of 65,536 classes a manifest's header has half of these


def check_nesting(text: str, depth: int, most: int = _MOST) -> None:
    """Look at a document without building it. Raises ValueError for deeper nesting, more values or
    an alias; yaml.YAMLError for no YAML.
    """
    import yaml

    reached = 0
    for count, event in enumerate(yaml.parse(text, yaml_loader())):
        reached += isinstance(event, yaml.CollectionStartEvent) - isinstance(
            event, yaml.CollectionEndEvent
        )
        if reached > depth or isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it is nested deeper than {depth}, or has aliases")
        if count > most:
            raise ValueError(f"it has more than {most} values")


def read_yaml(text: str, depth: int) -> Any:
    """Plain values. Raises ValueError for what is no YAML, or is nested deeper, or has aliases."""
    import yaml

    try:
        check_nesting(text, depth)
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
