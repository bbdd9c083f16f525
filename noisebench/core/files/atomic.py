"""Files appear whole or not at all: written beside their place, then renamed. And somebody's file,
read whole.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ...errors import DataError
from .untrusted import MAX_BYTES, read_bytes

_ABANDONED = 86_400.0  # seconds for which nobody has written to a file that is half there


def read_checked(path: Path, sha256: str | None = None, largest: int = MAX_BYTES) -> bytes:
    """A file's bytes. Raises DataError where it cannot be read, is larger than it can be (never
    beyond LARGEST), or is not the one whose checksum begins with `sha256`.
    """
    try:
        raw = read_bytes(path, min(largest, MAX_BYTES))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    digest = hashlib.sha256(raw).hexdigest()
    if sha256 and not digest.startswith(sha256):
        raise DataError(
            f"{path} is another file than before: its sha256 begins with "
            f"{digest[:16]}, not with {sha256}"
        )
    return raw


def atomic_write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Fill `path` by `write(file)`; whatever goes wrong, no half file stays. Raises DataError where
    one cannot write.
    """
    with _written(path, write) as part:
        part.replace(path)


def atomic_create(path: Path, write: Callable[[IO[bytes]], object]) -> bool:
    """As `write_whole`, of several at once only one; False for the others, whose file is not
    written. Raises DataError.
    """
    with _written(path, write) as part:
        try:
            return link_new(part, path)
        finally:
            _sweep_abandoned(part)
            part.unlink(missing_ok=True)


@contextmanager
def _written(path: Path, write: Callable[[IO[bytes]], object]) -> Iterator[Path]:
    """A file beside `path` that is whole and on the disk; inside `with` it gets its name. Raises
    DataError.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with _created(part) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        yield part
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError):
            raise DataError(f"cannot write {path}: {error.strerror or error}") from None
        raise


def _created(part: Path) -> IO[bytes]:
    """A new file. Its folder is there as a rule, so that nobody asks the file server first."""
    try:
        return part.open("xb")
    except FileNotFoundError:
        part.parent.mkdir(parents=True, exist_ok=True)
        return part.open("xb")


def link_new(part: Path, path: Path) -> bool:
    """Give a written file a second name, unless something has it; False if so.

    A link and not an exclusive creation, since then whoever sees the name sees the whole file, and
    old NFS knows no exclusive creation. Where a file system knows no links, such as exFAT, the file
    is created exclusively and filled.
    """
    try:
        path.hardlink_to(part)
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise
    except OSError:
        return _create(path, part.read_bytes())
    return True


def _create(path: Path, content: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def fsync_dir(folder: Path) -> None:
    """Have a folder's names on the disk too: a cut of power could take them, however whole the
    files are.
    """
    if os.name == "nt":
        return  # it opens no folders
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def remove_partials(folder: Path) -> None:
    """Remove what writers that were killed left half written."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def _sweep_abandoned(part: Path) -> None:
    """Remove what writers that were killed left beside a file written now, where others may be
    writing: by the clock of the file system.
    """
    now = part.stat().st_mtime
    for other in part.parent.glob(".*.part"):
        with suppress(FileNotFoundError):  # who wrote it has ended
            if now - other.stat().st_mtime > _ABANDONED:
                other.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    atomic_write(path, lambda file: file.write(content))


def is_text(name: str) -> bool:
    """Whether it can be written as UTF-8; a name of a file need not be."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text to `path`, whole or not at all."""
    write_bytes(path, content.encode())
