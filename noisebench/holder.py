"""Who holds a claim, and whether that process lives."""

from __future__ import annotations

import json
import os
import socket
import sys
import uuid
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

JOB = "NOISEBENCH_JOB"  # what a scheduler calls this work, the same over all its attempts, of which one lives at a time


@dataclass(frozen=True)
class Holder:
    """What a claim says of its holder; empty where it says nothing, as one of an older version does.

    machine: which processes the pid is one of, see `machine`. began: when the process started, in ticks since the machine did; 0 where
    nobody knows. once: of this claim alone.
    """

    host: str = ""
    pid: int = 0
    machine: str = ""
    began: int = 0
    job: str = ""
    since: str = ""
    once: str = ""

    @classmethod
    def here(cls) -> Holder:
        """This process, now."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        pid, job = os.getpid(), os.environ.get(JOB, "")
        return cls(socket.gethostname(), pid, machine(), _began(pid) or 0, job, now, uuid.uuid4().hex)

    @classmethod
    def read(cls, content: bytes) -> Holder:
        """Whatever of it can be read."""
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(found, dict):
            return cls()
        return cls(**{f.name: found[f.name] for f in fields(cls) if type(found.get(f.name)) is type(f.default)})

    def content(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    def __str__(self) -> str:
        who = f"process {self.pid} on {self.host}" if self.pid else "somebody whose claim cannot be read"
        said = f"{who}{f' (job {self.job})' if self.job else ''}{f' since {self.since}' if self.since else ''}"
        return " ".join(said.split())

    def is_gone(self, silence: float, longest: float) -> bool:
        """Whether a claim is nobody's any more, given the seconds since its last sign of life and how many may pass between two."""
        here = Holder.here()
        if here.machine and (self.machine, self.pid, self.began) == (here.machine, here.pid, here.began):
            return False
        if self.job and self.job == here.job:
            return True  # an attempt before this one
        lives = self._lives(here)
        return silence > longest if lives is None else not lives

    def is_dead(self) -> bool:
        """Whether that process is known to have ended."""
        return self._lives(Holder.here()) is False

    def _lives(self, here: Holder) -> bool | None:
        """None where one cannot know from here: on another machine, in another container, and where the system tells no start times."""
        if self.pid < 1 or (self.machine or self.host) != (here.machine if self.machine else here.host):
            return None
        began = _began(self.pid)
        if not self.machine:  # of an older version, which gave no signs of life
            return began != 0
        if began == 0:
            return False
        return None if began is None or not self.began else began == self.began


def machine() -> str:
    """Names the processes among which a pid means one: on Linux this boot of a machine, and the container (its namespace of processes),
    since two containers of one host name may both have a process 7; elsewhere the host. Empty where nobody can tell."""
    if not sys.platform.startswith("linux"):
        return socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _began(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; 0: there is none, or it is dead and not buried; None: one cannot see."""
    if os.name == "nt":
        return None  # os.kill would end it
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return 0
    except PermissionError:
        pass
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # a name may hold spaces and brackets
        # A killed process whose first thread is gone holds its files until the last one is.
        return 0 if state in (b"Z", b"X") and int(rest[16]) <= 1 else int(rest[18])
    except (OSError, ValueError, IndexError):
        return None
