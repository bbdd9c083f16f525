"""What a bug report needs, and what a result does not depend on by intention. Loads none of what it names."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("noisebench", "torch", "torchvision", "timm", "numpy", "pandas")


def environment() -> dict[str, str]:
    """Python, platform, processor and the versions of the packages that matter."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine(), "processor": _processor()}
    return {**found, **{name: _version(name) for name in _PACKAGES if _version(name)}}


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
