"""The machine: versions and processor for a record, processors and memory that a process may use,
and the number format that it multiplies natively. Imports no torch.
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
    """Python, platform, processor and the versions of the packages that matter. Reading these takes
    as long as writing a run's files.
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
    """The processors that this process may use, by its affinity and its container's quota."""
    import joblib

    return int(joblib.cpu_count())


def memory_cgroups(root: Path) -> list[Path]:
    """The directories of this process's control groups that may limit its memory, of version 1 and
    2, from its own to the outermost.

    In a container its own may have another name than outside; the outermost that it sees is then
    its own.
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
_AMPERE = 8  # from here a GPU multiplies bf16


def resolve_precision(name: str, device: str) -> str:
    """`fp32` or `bf16`; what `auto` means on a device (`auto`: the first GPU, else the processor).
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
    """The same name. Raises ConfigError for an unknown one."""
    if name not in PRECISIONS:
        raise ConfigError(f"precision is one of {', '.join(PRECISIONS)}, got {name!r}")
    return name


@cache
def _cpu_flags() -> set[str]:
    """The processor's features as Linux lists them; empty elsewhere."""
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", _cpuinfo(), re.M)
    return {flag for line in lines for flag in line.split()}


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
    known = ready and driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device) == 0
    return major.value if known else None


# glibc gives large tensors back after every step, to ask for them again page by page in the next.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers
_LARGE = 2**30
# For a new process: keep memory, and use huge pages, which can be set only before it starts.
ENVIRONMENT = {
    "GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={_LARGE}:"
    f"glibc.malloc.trim_threshold={4 * _LARGE}:glibc.malloc.hugetlb=1"
}


def keep_memory() -> None:
    """Let this process keep allocations up to a GiB that it frees; no effect without glibc."""
    with suppress(OSError, AttributeError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_MMAP_THRESHOLD, _LARGE)
        allocator.mallopt(_TRIM_THRESHOLD, 2 * _LARGE - 1)
