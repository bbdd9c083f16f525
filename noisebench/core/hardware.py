"""The machine: versions and processor for records, available cores and memory, and the native
number format of matrix products. Does not import torch.
"""

from __future__ import annotations

import ctypes
import platform
import re
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from ..errors import ConfigError

_PACKAGES = ("noisebench", "torch", "torchvision", "timm", "numpy", "pandas")


@cache
def environment() -> dict[str, str]:
    """Versions of Python and packages, platform and processor. Cached, since reading them takes as
    long as writing a run's files.
    """
    cores, model = cpu_count(), re.search(r"^model name\s*: (.+)$", _cpuinfo(), re.M)
    processor = model[1].strip() if model else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": f"{processor}, {cores} core{'' if cores == 1 else 's'}",
        **{name: version(name) for name in _PACKAGES},
    }


def cpu_count() -> int:
    """The number of cores available to this process, by its affinity and its container's quota."""
    import joblib

    return int(joblib.cpu_count())


def memory_cgroups(root: Path) -> list[Path]:
    """The directories of the control groups (version 1 and 2) that can limit the memory of this
    process, from the innermost to the outermost.

    In a container a group can have another name than outside; then only the outermost one exists.
    """
    folders: dict[Path, None] = {}
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
            group = top / name.lstrip("/")
            for path in (group, *group.parents):
                if path.is_relative_to(top) and ".." not in path.parts:
                    folders[path] = None
    return list(folders)


@cache
def _cpuinfo() -> str:
    """Linux's description of the processors; empty elsewhere."""
    with suppress(OSError):
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return ""


PRECISIONS = ("auto", "fp32", "bf16")
_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86, Arm
_MAJOR = 75  # the CUDA driver's number for "compute capability, major"
_AMPERE = 8  # first capability with bf16


def resolve_precision(name: str, device: str) -> str:
    """Resolves `auto` to `fp32` or `bf16` for a device (`auto`: the first GPU, else the CPU).
    Raises ConfigError.
    """
    if checked_precision(name) != "auto":
        return name
    kind, _, number = device.partition(":")
    if kind in ("auto", "cuda") and (number or "0").isdigit():
        capability = _capability(int(number or 0))
        if capability is not None:
            return "bf16" if capability >= _AMPERE else "fp32"
    return "bf16" if kind in ("auto", "cpu") and _CPU_FLAGS & _cpu_flags() else "fp32"


def checked_precision(name: str) -> str:
    """Returns the name. Raises ConfigError for an unknown one."""
    if name not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    return name


@cache
def _cpu_flags() -> set[str]:
    """The CPU's features on Linux; empty elsewhere."""
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", _cpuinfo(), re.M)
    return {flag for line in lines for flag in line.split()}


@cache
def _capability(number: int) -> int | None:
    """The major compute capability of a visible NVIDIA GPU; None without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major = ctypes.c_int(), ctypes.c_int()
    ready = driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), number) == 0
    known = ready and driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device) == 0
    return major.value if known else None


# glibc returns the memory of large tensors after every step and allocates it again in the next.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers
_LARGE = 2**30
# For a new process: keep memory, and use huge pages, which must be set before it starts.
ENVIRONMENT = {
    "GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={_LARGE}:"
    f"glibc.malloc.trim_threshold={4 * _LARGE}:glibc.malloc.hugetlb=1"
}


def keep_memory() -> None:
    """Keep freed allocations of up to 1 GiB in this process; no effect without glibc."""
    with suppress(OSError, AttributeError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_MMAP_THRESHOLD, _LARGE)
        allocator.mallopt(_TRIM_THRESHOLD, 2 * _LARGE - 1)
