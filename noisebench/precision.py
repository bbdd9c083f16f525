"""In which number format this machine multiplies natively: bf16 where its processor or its GPU has it. Loads no torch."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from .errors import ConfigError

PRECISIONS = ("auto", "fp32", "bf16")
_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86, Arm
_MAJOR = 75  # the CUDA driver's number for "compute capability, major"
_AMPERE = 8  # from here a GPU multiplies bf16


def resolve_precision(name: str, device: str) -> str:
    """`fp32` or `bf16`; what `auto` stands for on a device (`auto`: the first GPU, else the processor). Raises ConfigError."""
    if checked_precision(name) != "auto":
        return name
    kind, _, number = device.partition(":")
    capability = _capability(int(number or 0)) if kind in ("auto", "cuda") and (number or "0").isdigit() else None
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
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.partition(":")[2].split()}


@cache
def _capability(number: int) -> int | None:
    """The major compute capability of an NVIDIA GPU, of those that are visible; None without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major = ctypes.c_int(), ctypes.c_int()
    ready = driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), number) == 0
    return major.value if ready and driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device) == 0 else None
