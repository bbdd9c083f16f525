"""Memory that stays with the process: glibc gives large tensors back after every step, to ask for them again page by page in the next."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers
_LARGE = 2**30
# For a process to be: the same, and huge pages, which can be asked for only before it begins.
ENVIRONMENT = {"GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={_LARGE}:glibc.malloc.trim_threshold={4 * _LARGE}:glibc.malloc.hugetlb=1"}


def keep_memory() -> None:
    """For the rest of this process, of its own allocations up to a GiB; nothing where the allocator is another."""
    with suppress(OSError, AttributeError):
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_MMAP_THRESHOLD, _LARGE)
        allocator.mallopt(_TRIM_THRESHOLD, 2 * _LARGE - 1)
