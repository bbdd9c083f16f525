"""What a bug report needs, and what a result does not depend on by intention. Loads none of what it names."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("noisebench", "torch", "torchvision", "timm", "numpy", "pandas")


def environment() -> dict[str, str]:
    """Python, platform, processor and the versions of the packages that matter."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine(), "processor": _processor()}
    return {**found, **{name: _version(name) for name in _PACKAGES if _version(name)}}


def cores(root: Path = Path("/")) -> int:
    """The processors that this process may use: by its affinity, and by the quota of its container or job, rounded up. root: where
    `proc` and `sys` are."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([count, *(math.ceil(quota) for quota in _quotas(root))])


def _quotas(root: Path) -> Iterator[float]:
    """Seconds of processors a second, of each control group that limits them."""
    for folder in cgroups("cpu", root):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with suppress(OSError, ValueError):  # no such file, or `max`: no limit
                quota, period = " ".join((folder / name).read_text(encoding="ascii") for name in names).split()
                if int(quota) > 0 and int(period) > 0:
                    yield int(quota) / int(period)


def cgroups(controller: str, root: Path = Path("/")) -> list[Path]:
    """The folders of this process's control groups that may limit it, of version 1 and 2, from its own to the outermost. In a container
    its own may be called otherwise than outside; the outermost that it sees is then its own."""
    found: dict[Path, None] = {}
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            top = root / "sys/fs/cgroup" / (controller if controllers else "")
            own = top / name.lstrip("/")
            found.update(dict.fromkeys(path for path in (own, *own.parents) if path.is_relative_to(top) and ".." not in path.parts))
    return list(found)


def _processor() -> str:
    """`Intel(R) Xeon(R) Processor, 2 cores`: what the processor is called, and how many of its cores this process may use."""
    return f"{_processor_name()}, {cores()} core{'' if cores() == 1 else 's'}"


@cache
def _processor_name() -> str:
    with suppress(OSError, ValueError):
        if named := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M):
            return named[1].strip()
    return platform.processor() or platform.machine()


@cache
def _version(name: str) -> str:
    """Of an installed package, empty for one that is not there. Reading it takes as long as writing a run's files."""
    with suppress(PackageNotFoundError):
        return version(name)
    return ""
