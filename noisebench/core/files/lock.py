"""A lock file: only one process can create it, and its owner updates its time as a heartbeat.

The lock of a dead owner can be taken over. The new owner creates the successor of the lock file,
`NAME.HASH`, with the hash of the old content, so that only one process succeeds; the last file of
this chain is the lock. Then the successor is renamed to `NAME`. The lock therefore exists at every
moment, and the lock of a live owner is never moved. Only creation and renaming have to be atomic: a
shared file system needs no locks of its own.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...errors import DataError, RunTaken
from .atomic import link_new, remove_partials

# a scheduler's id of this job, the same for all its attempts, of which one runs at a time
JOB = "NOISEBENCH_JOB"
HEARTBEAT = 60.0  # seconds between two updates of the file's time
LEASE = 600.0  # seconds without update after which an owner on another machine counts as dead
_TRIES = 100  # each fails only if another process succeeds
_LARGEST = 4096  # bytes of a lock file
_ON_DISK = {"started": "began", "nonce": "once"}  # keys of the file that differ from the attribute


@dataclass(frozen=True)
class LockOwner:
    """The process that wrote a lock file; empty fields where the file lacks them.

    machine: the scope of the pid, see `machine`. started: start time of the process in ticks since
    boot, 0 if unknown. nonce: unique for this lock.
    """

    host: str = ""
    pid: int = 0
    machine: str = ""
    started: int = 0
    job: str = ""
    since: str = ""
    nonce: str = ""

    @classmethod
    def here(cls) -> LockOwner:
        """This process, now."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=machine(),
            started=_start_time(os.getpid()) or 0,
            job=os.environ.get(JOB, ""),
            since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            nonce=uuid.uuid4().hex,
        )

    @classmethod
    def read(cls, content: bytes) -> LockOwner:
        """Parses a lock file; unreadable fields stay empty."""
        try:
            values = dict(json.loads(content))
        except (ValueError, TypeError, RecursionError):
            return cls()
        keys = [(field, _ON_DISK.get(field.name, field.name)) for field in fields(cls)]
        known: dict[str, Any] = {
            field.name: values[key]
            for field, key in keys
            if type(values.get(key)) is type(field.default)
        }
        return cls(**known)

    def content(self) -> bytes:
        values = {_ON_DISK.get(name, name): value for name, value in vars(self).items()}
        return json.dumps(values).encode() + b"\n"

    def __str__(self) -> str:
        who = f"process {self.pid} on {self.host}" if self.pid else "an unknown process"
        job = f" (job {self.job})" if self.job else ""
        since = f" since {self.since}" if self.since else ""
        return " ".join(f"{who}{job}{since}".split())

    def is_expired(self, silence: float, lease: float) -> bool:
        """Whether the lock can be taken over, `silence` seconds after its last update."""
        here = LockOwner.here()
        this_process = (here.machine, here.pid, here.started)
        if here.machine and (self.machine, self.pid, self.started) == this_process:
            return False
        if self.job and self.job == here.job:
            return True  # an earlier attempt of this job
        alive = self.is_alive()
        return silence > lease if alive is None else not alive

    def is_alive(self) -> bool | None:
        """None if unknown: on another machine, in another container, or on systems without start
        times.
        """
        same = self.machine == machine() if self.machine else self.host == socket.gethostname()
        if self.pid < 1 or not same:
            return None
        started = _start_time(self.pid)
        if not self.machine:  # of an older version, which did not update its lock
            return started != 0
        if started == 0:
            return False
        return None if started is None or not self.started else started == self.started


def machine() -> str:
    """Identifies the scope in which a pid is unique; empty if unknown.

    On Linux the boot id and the PID namespace, since two containers with the same host name can
    both have a process 7; elsewhere the host name.
    """
    if not sys.platform.startswith("linux"):
        return socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start_time(pid: int) -> int | None:
    """Start time of a process in ticks since boot; 0 if it does not exist or is a zombie, None if
    unknown.
    """
    if os.name == "nt":
        return None  # os.kill would terminate it
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return 0
    except PermissionError:
        pass
    try:
        # a name can contain spaces and brackets
        state, *rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        # A killed process whose first thread is gone keeps its files until the last one is.
        return 0 if state in (b"Z", b"X") and int(rest[16]) <= 1 else int(rest[18])
    except (OSError, ValueError, IndexError):
        return None


@dataclass(frozen=True)
class LockFile:
    """A lock file as read. changed: its last update, by the clock of the file system."""

    path: Path
    content: bytes
    changed: float

    @classmethod
    def read(cls, path: Path) -> LockFile | None:
        try:
            # fstat of an open file is fresh, where stat of a path may be a minute old on NFS
            with path.open("rb") as file:
                return cls(path, file.read(_LARGEST), os.fstat(file.fileno()).st_mtime)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ESTALE:  # replaced while it was read
                return None
            raise

    @property
    def owner(self) -> LockOwner:
        return LockOwner.read(self.content)


@dataclass(frozen=True)
class RunLock:
    """A lock of this process, until another process takes it over."""

    path: Path
    content: bytes
    ended: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raises RunTaken if the lock is removed or taken over, DataError if it cannot be read."""
        try:
            last = find_lock(self.path)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror or error}") from None
        if last is None or last.content != self.content:
            change = f"taken over by {last.owner}" if last else "unlocked"
            raise RunTaken(
                f"{self.path.parent} was {change} while this process did not respond; "
                "it stops writing there"
            )

    def keep_alive(self) -> None:
        """Update the file's time until the lock ends or is taken over."""
        while not self.ended.wait(HEARTBEAT):
            with suppress(OSError):  # the file system does not respond at the moment
                last = find_lock(self.path)
                if last is None or last.content != self.content:
                    return
                os.utime(self.path)  # now, by the clock of the file system, not by this machine's

    def end(self) -> None:
        """Remove the file if this process owns it."""
        self.ended.set()
        with suppress(OSError):  # a remaining lock can be taken over, since its owner has ended
            last = find_lock(self.path)
            if last is not None and last.content == self.content:
                self.path.unlink()


@contextmanager
def acquire(path: Path) -> Iterator[RunLock]:
    """Acquire the lock at `path`. Raises RunTaken if another process has it, DataError if the file
    cannot be written.
    """
    try:
        lock = RunLock(path, _create(path))
    except OSError as error:
        raise DataError(f"cannot write {path.parent}: {error.strerror or error}") from None
    heart = threading.Thread(target=lock.keep_alive, daemon=True)
    heart.start()
    try:
        yield lock
    finally:
        lock.end()
        heart.join()


def find_lock(path: Path) -> LockFile | None:
    """The current lock file, the last of the chain; None if there is no lock."""
    chain = _chain(path)
    return chain[-1] if chain else None


def _chain(path: Path) -> list[LockFile]:
    """The lock file at `path`, its successor, and so on."""
    chain: list[LockFile] = []
    file = LockFile.read(path)
    while file is not None:
        chain.append(file)
        file = LockFile.read(_successor(path, file))
    return chain


def _successor(path: Path, file: LockFile) -> Path:
    return path.with_name(f"{path.name}.{hashlib.sha256(file.content).hexdigest()[:16]}")


def _create(path: Path) -> bytes:
    """Create the lock file, or the successor of a dead owner's, and return its content. Raises
    RunTaken.
    """
    for _ in range(_TRIES):
        content = LockOwner.here().content()
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            if _try_create(path, part, content):
                return content
        except FileNotFoundError:
            pass  # another process removed it and was faster
        finally:
            part.unlink(missing_ok=True)
    raise RunTaken(f"{path.parent} is being locked by many processes at once: try again")


def _try_create(path: Path, part: Path, content: bytes) -> bool:
    """Make `part` the current lock; False if another process was faster.

    Raises RunTaken if the owner of the current lock is alive.
    """
    before = _chain(path)
    if before:
        last = before[-1]
        os.utime(part)  # now, by the clock of the file system
        silence = part.stat().st_mtime - last.changed
        if not last.owner.is_expired(silence, LEASE):
            raise RunTaken(
                f"{last.path.parent} is being run by {last.owner}, last update "
                f"{max(0, round(silence))} s ago; it can be taken over when that process has "
                f"ended, or after {LEASE / 60:.0f} minutes without update; if you know that it has "
                f"ended, delete {last.path}"
            )
    new = _successor(path, before[-1]) if before else path
    # NFS repeats a request without an answer: False may mean that the first one succeeded
    link_new(part, new)
    chain = _chain(path)
    if all(file.content != content for file in chain):
        # our successor is void if the lock before it is gone
        file = LockFile.read(new)
        if file is not None and file.content == content:
            new.unlink(missing_ok=True)
    if not chain or chain[-1].content != content:
        return False
    if before:
        chain[-1].path.replace(path)
        for file in chain[1:-1]:
            file.path.unlink(missing_ok=True)
    # files of dead processes; a live process whose file is removed tries again
    remove_partials(path.parent)
    return True
