"""What a bug report needs, and what a result does not depend on by intention. Loads none of what it
names.

In which number format this machine multiplies natively: bf16 where its processor or its GPU has it.
Loads no torch.

Memory that stays with the process: glibc gives large tensors back after every step, to ask for them
again page by page in the next.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..errors import ConfigError

_PACKAGES = ("noisebench", "torch", "torchvision", "timm", "numpy", "pandas")


def environment() -> dict[str, str]:
    """Python, platform, processor and the versions of the packages that matter."""
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
    }
    return {**found, **{name: _version(name) for name in _PACKAGES if _version(name)}}


def cpu_count(root: Path = Path("/")) -> int:
    """The processors that this process may use: by its affinity, and by the quota of its container
    or job, rounded up. root: where `proc` and `sys` are.
    """
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min([count, *(math.ceil(quota) for quota in _quotas(root))])


def _quotas(root: Path) -> Iterator[float]:
    """Seconds of processors a second, of each control group that limits them."""
    for folder in cgroups("cpu", root):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with suppress(OSError, ValueError):  # no such file, or `max`: no limit
                quota, period = " ".join(
                    (folder / name).read_text(encoding="ascii") for name in names
                ).split()
                if int(quota) > 0 and int(period) > 0:
                    yield int(quota) / int(period)


def cgroups(controller: str, root: Path = Path("/")) -> list[Path]:
    """The folders of this process's control groups that may limit it, of version 1 and 2, from its
    own to the outermost. In a container its own may be called otherwise than outside; the outermost
    that it sees is then its own.
    """
    found: dict[Path, None] = {}
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            top = root / "sys/fs/cgroup" / (controller if controllers else "")
            own = top / name.lstrip("/")
            found.update(
                dict.fromkeys(
                    path
                    for path in (own, *own.parents)
                    if path.is_relative_to(top) and ".." not in path.parts
                )
            )
    return list(found)


def _processor() -> str:
    """`Intel(R) Xeon(R) Processor, 2 cores`: what the processor is called, and how many of its
    cores this process may use.
    """
    return f"{_processor_name()}, {cpu_count()} core{'' if cpu_count() == 1 else 's'}"


@cache
def _processor_name() -> str:
    with suppress(OSError, ValueError):
        if named := re.search(
            r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M
        ):
            return named[1].strip()
    return platform.processor() or platform.machine()


@cache
def _version(name: str) -> str:
    """Of an installed package, empty for one that is not there. Reading it takes as long as writing
    a run's files.
    """
    with suppress(PackageNotFoundError):
        return version(name)
    return ""


PRECISIONS = ("auto", "fp32", "bf16")
_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86, Arm
_MAJOR = 75  # the CUDA driver's number for "compute capability, major"
_AMPERE = 8  # from here a GPU multiplies bf16


def resolve_precision(name: str, device: str) -> str:
    """`fp32` or `bf16`; what `auto` stands for on a device (`auto`: the first GPU, else the
    processor). Raises ConfigError.
    """
    if checked_precision(name) != "auto":
        return name
    kind, _, number = device.partition(":")
    capability = (
        _capability(int(number or 0))
        if kind in ("auto", "cuda") and (number or "0").isdigit()
        else None
    )
    if capability is not None:
        return "bf16" if capability >= _AMPERE else "fp32"
    return "bf16" if kind in ("auto", "cpu") and _CPU_FLAGS & _cpu_flags() else "fp32"


def checked_precision(name: str) -> str:
    """Raises ConfigError for a precision that is none."""
    if name not in PRECISIONS:
        raise ConfigError(f"precision is one of {', '.join(PRECISIONS)}, got {name!r}")
    return name


@cache
def _cpu_flags() -> set[str]:
    """What Linux says of the processor; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return set()
    return {
        flag
        for line in lines
        if line.startswith(("flags", "Features"))
        for flag in line.partition(":")[2].split()
    }


@cache
def _capability(number: int) -> int | None:
    """The major compute capability of an NVIDIA GPU, of those that are visible; None without
    one.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major = ctypes.c_int(), ctypes.c_int()
    ready = driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), number) == 0
    return (
        major.value
        if ready and driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device) == 0
        else None
    )


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers
_LARGE = 2**30
# For a process to be: the same, and huge pages, which can be asked for only before it begins.
ENVIRONMENT = {
    "GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={_LARGE}:"
    f"glibc.malloc.trim_threshold={4 * _LARGE}:glibc.malloc.hugetlb=1"
}


def keep_memory() -> None:
    """For the rest of this process, of its own allocations up to a GiB; nothing where the allocator
    is another.
    """
    with suppress(OSError, AttributeError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_MMAP_THRESHOLD, _LARGE)
        allocator.mallopt(_TRIM_THRESHOLD, 2 * _LARGE - 1)
