"""Writes files atomically: under a temporary name, then renamed."""

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

_ABANDONED = 86_400.0  # seconds without a write, after which a temporary file is removed


def read_checked(path: Path, sha256: str | None = None, largest: int = MAX_BYTES) -> bytes:
    """Reads a file. Raises DataError if it cannot be read, has more than `largest` (or MAX_BYTES)
    bytes, or its checksum does not begin with `sha256`.
    """
    try:
        raw = read_bytes(path, min(largest, MAX_BYTES))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if sha256 and not (digest := hashlib.sha256(raw).hexdigest()).startswith(sha256):
        raise DataError(
            f"{path} has changed: its sha256 begins with {digest[:16]}, not with {sha256}"
        )
    return raw


def atomic_write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write `path` by `write(file)`; on failure it does not change. Raises DataError if it cannot
    be written.
    """
    with _temporary(path, write) as part:
        part.replace(path)


def atomic_create(path: Path, write: Callable[[IO[bytes]], object]) -> bool:
    """Like `atomic_write`, but returns False if the file exists. Raises DataError."""
    with _temporary(path, write) as part:
        created = link_new(part, path)
        # remove files of killed writers, not of active ones; by the clock of the file system
        now = part.stat().st_mtime
        for other in part.parent.glob(".*.part"):
            with suppress(FileNotFoundError):  # its writer has ended
                if now - other.stat().st_mtime > _ABANDONED:
                    other.unlink()
        return created


@contextmanager
def _temporary(path: Path, write: Callable[[IO[bytes]], object]) -> Iterator[Path]:
    """A complete file next to `path`, synced to disk; the caller renames it inside `with`. Raises
    DataError.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        try:  # the directory usually exists: this saves a round trip to a file server
            file = part.open("xb")
        except FileNotFoundError:
            part.parent.mkdir(parents=True, exist_ok=True)
            file = part.open("xb")
        with file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        yield part
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # after `replace` there is none
            part.unlink()


def link_new(part: Path, path: Path) -> bool:
    """Give a written file a second name; False if that name exists.

    A link instead of exclusive creation: a partial file is never visible, and old NFS has no
    exclusive creation. On file systems without links, such as exFAT, the file is created
    exclusively.
    """
    try:
        path.hardlink_to(part)
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise
    except OSError:
        content = part.read_bytes()  # before the file exists: another process may remove the part
        try:
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
    return True


def fsync_dir(folder: Path) -> None:
    """Sync a directory to disk, so that a power failure does not lose its names."""
    if os.name == "nt":
        return  # Windows cannot open directories
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partials(folder: Path) -> None:
    """Remove the temporary files of writers that were killed."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)


def is_text(name: str) -> bool:
    """Whether a file name can be written as UTF-8."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text to `path` atomically."""
    atomic_write(path, lambda file: file.write(content.encode()))
