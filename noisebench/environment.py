"""What a bug report needs, and what a result does not depend on by intention. Loads none of what it names."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("noisebench", "torch", "torchvision", "timm", "numpy", "pandas")


def environment() -> dict[str, str]:
    """Python, platform and the versions of the packages that matter."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
