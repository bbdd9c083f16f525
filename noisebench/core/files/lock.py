"""Who holds a claim, and whether that process lives.

Whose a run is: a small file that only one can create, kept young by its holder, and taken over from
the dead.

`claim` says who holds it. Who takes over creates its successor, `claim.NAME`, named after the very
claim that it succeeds, so that only one can; holder is who stands at the end of that row. Then the
successor is renamed to `claim`. Thus no moment is without a claim, nobody ever moves the claim of
one that lives, and two that try at once cannot both succeed. Nothing but creating and renaming has
to be atomic: a shared folder needs no locks.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from ...errors import DataError, RunTaken
from .atomic import link_new, remove_partials

# what a scheduler calls this work, the same over all its attempts, of which one lives at a time
JOB = "NOISEBENCH_JOB"


@dataclass(frozen=True)
class LockOwner:
    """What a claim says of its holder; empty where it says nothing, as one of an older version
    does.

    machine: which processes the pid is one of, see `machine`. began: when the process started, in
    ticks since the machine did; 0 where nobody knows. once: of this claim alone.
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
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        pid, job = os.getpid(), os.environ.get(JOB, "")
        return cls(
            socket.gethostname(), pid, machine(), _began(pid) or 0, job, now, uuid.uuid4().hex
        )

    @classmethod
    def read(cls, content: bytes) -> LockOwner:
        """Whatever of it can be read."""
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(found, dict):
            return cls()
        return cls(
            **{
                f.name: found[f.name]
                for f in fields(cls)
                if type(found.get(f.name)) is type(f.default)
            }
        )

    def content(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    def __str__(self) -> str:
        who = (
            f"process {self.pid} on {self.host}"
            if self.pid
            else ("somebody whose claim cannot be read")
        )
        job = f" (job {self.job})" if self.job else ""
        since = f" since {self.since}" if self.since else ""
        return " ".join(f"{who}{job}{since}".split())

    def is_expired(self, silence: float, longest: float) -> bool:
        """Whether a claim is nobody's any more, given the seconds since its last sign of life and
        how many may pass between two.
        """
        here = LockOwner.here()
        if here.machine and (self.machine, self.pid, self.started) == (
            here.machine,
            here.pid,
            here.started,
        ):
            return False
        if self.job and self.job == here.job:
            return True  # an attempt before this one
        lives = self._lives(here)
        return silence > longest if lives is None else not lives

    def is_dead(self) -> bool:
        """Whether that process is known to have ended."""
        return self._lives(LockOwner.here()) is False

    def _lives(self, here: LockOwner) -> bool | None:
        """None where one cannot know from here: on another machine, in another container, and where
        the system tells no start times.
        """
        if self.pid < 1 or (self.machine or self.host) != (
            here.machine if self.machine else here.host
        ):
            return None
        began = _began(self.pid)
        if not self.machine:  # of an older version, which gave no signs of life
            return began != 0
        if began == 0:
            return False
        return None if began is None or not self.started else began == self.started


def machine() -> str:
    """Names the processes among which a pid means one: on Linux this boot of a machine, and the
    container (its namespace of processes), since two containers of one host name may both have a
    process 7; elsewhere the host. Empty where nobody can tell.
    """
    if not sys.platform.startswith("linux"):
        return socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _began(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; 0: there is none, or it is dead and
    not buried; None: one cannot see.
    """
    if os.name == "nt":
        return None  # os.kill would end it
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return 0
    except PermissionError:
        pass
    try:
        # a name may hold spaces and brackets
        state, *rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        # A killed process whose first thread is gone holds its files until the last one is.
        return 0 if state in (b"Z", b"X") and int(rest[16]) <= 1 else int(rest[18])
    except (OSError, ValueError, IndexError):
        return None


HEARTBEAT = 60.0  # seconds between two signs of life
LEASE = 600.0  # seconds without one, after which a holder on another machine counts as gone
_TRIES = 100  # each fails only where somebody else has just succeeded
_LARGEST = 4096  # bytes of a claim


@dataclass(frozen=True)
class Found:
    """A claim as it lies there. changed: when its holder last gave a sign of life, by the clock of
    the file system.
    """

    place: Path
    content: bytes
    changed: float

    @property
    def holder(self) -> LockOwner:
        return LockOwner.read(self.content)


class RunLock:
    """A claim that this process holds, until somebody who thought it dead has taken it over."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self._content = path, content
        self._over = threading.Event()

    @property
    def is_ours(self) -> bool:
        last = find_lock(self.path)
        return last is not None and last.content == self._content

    def check(self) -> None:
        """Raises RunTaken where the claim is gone or another's, DataError where one cannot see
        it.
        """
        try:
            last = find_lock(self.path)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror or error}") from None
        if last is None or last.content != self._content:
            who = f"taken over by {last.holder}" if last else "taken away"
            raise RunTaken(
                f"{self.path.parent} was {who} while this process gave no sign of "
                "life; it writes no more there"
            )

    def beat(self) -> None:
        """Give signs of life until it is over, or another's."""
        while not self._over.wait(HEARTBEAT):
            with suppress(OSError):  # the folder is out of reach for the moment
                if not self.is_ours:
                    return
                os.utime(self.path)  # now, by the clock of the file system, not by this machine's

    def end(self) -> None:
        """Remove what is ours."""
        self._over.set()
        with suppress(OSError):  # nobody waits for a claim whose holder is gone
            if self.is_ours:
                self.path.unlink()


@contextmanager
def acquire(path: Path, holder: Callable[[], LockOwner] = LockOwner.here) -> Iterator[RunLock]:
    """Hold the claim at `path`, in the name of `holder`. Raises RunTaken where somebody has it,
    DataError where one cannot write.
    """
    try:
        claim = RunLock(path, _take(path, holder))
    except OSError as error:
        raise DataError(f"cannot write {path.parent}: {error.strerror or error}") from None
    heart = threading.Thread(target=claim.beat, daemon=True)
    heart.start()
    try:
        yield claim
    finally:
        claim.end()
        heart.join()


def find_lock(path: Path) -> Found | None:
    """The claim that counts, which is the last of the row; None where nobody has one."""
    row = _row(path)
    return row[-1] if row else None


def _row(path: Path) -> list[Found]:
    """The claim at `path`, its successor, and so on."""
    row: list[Found] = []
    place = path
    while (found := _read(place)) is not None:
        row.append(found)
        place = _successor(path, found)
    return row


def _successor(path: Path, found: Found) -> Path:
    return path.with_name(f"{path.name}.{_name(found.content)}")


def _read(place: Path) -> Found | None:
    try:
        # what an open file says is fresh, where a path's may be a minute old on NFS
        with place.open("rb") as file:
            return Found(place, file.read(_LARGEST), os.fstat(file.fileno()).st_mtime)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:  # replaced while it was read
            return None
        raise


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _take(path: Path, holder: Callable[[], LockOwner]) -> bytes:
    """Create a claim, or the successor of one whose holder is gone; what it says. Raises
    RunTaken.
    """
    for _ in range(_TRIES):
        content = holder().content()
        part = path.with_name(f".{path.name}.{_name(content)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            if _placed(path, part, content):
                return content
        except FileNotFoundError:
            pass  # swept away by one that was faster
        finally:
            part.unlink(missing_ok=True)
    raise RunTaken(f"{path.parent} is wanted by many processes at once: try again")


def _placed(path: Path, part: Path, content: bytes) -> bool:
    """Whether `part` became the claim that counts; if not, somebody was faster."""
    row = _row(path)
    if row:
        _refuse_living(row[-1], part)
    place = _successor(path, row[-1]) if row else path
    # who says no may have said yes before: an answer gets lost, and the question is asked again
    link_new(part, place)
    now = _row(path)
    if all(found.content != content for found in now):
        _withdraw(place, content)
    if not now or now[-1].content != content:
        return False
    if row:
        _move_up(path, now)
    # what the dead left half written; who has one there at this moment begins again
    remove_partials(path.parent)
    return True


def _move_up(path: Path, row: list[Found]) -> None:
    """The last of the row becomes the first; away with the others."""
    row[-1].place.replace(path)
    for found in row[1:-1]:
        found.place.unlink(missing_ok=True)


def _withdraw(place: Path, content: bytes) -> None:
    """Remove a successor of ours that counts for nothing: the claim that it was to succeed is no
    longer there.
    """
    found = _read(place)
    if found is not None and found.content == content:
        place.unlink(missing_ok=True)


def _refuse_living(last: Found, part: Path) -> None:
    """Raises RunTaken where the holder of the last claim is at it still. part: a file of ours, to
    have the time of the file system.
    """
    os.utime(part)
    silence = part.stat().st_mtime - last.changed
    if last.holder.is_expired(silence, LEASE):
        return
    raise RunTaken(
        f"{last.place.parent} is being run by {last.holder}, last heard of "
        f"{max(0, round(silence))} s ago; it is taken over where that has "
        f"ended, or was silent for {LEASE / 60:.0f} minutes; if you know it to be gone, delete "
        f"{last.place}"
    )
