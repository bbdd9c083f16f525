"""What a bug report needs, and what a result does not depend on by intention. Loads none of what it names."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("noisebench", "torch", "torchvision", "timm", "numpy", "pandas")


def environment() -> dict[str, str]:
    """Python, platform and the versions of the packages that matter."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine(), "processor": processor()}
    return {**found, **{name: _version(name) for name in _PACKAGES if _version(name)}}


@cache
def processor() -> str:
    """Its name, as the system has it: Linux by processor, others as Python is told; of Linux on ARM, which tells none, its kind."""
    with suppress(OSError, UnicodeDecodeError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if named := next((line for line in lines if line.startswith("model name")), ""):
            return named.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _version(name: str) -> str:
    """Of an installed package, empty for one that is not there. Reading it takes as long as writing a run's files."""
    with suppress(PackageNotFoundError):
        return version(name)
    return ""
