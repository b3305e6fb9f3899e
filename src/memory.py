"""How a process takes memory from the system, whether it gives it back, how much it has had and may still take.

The first is a matter of Linux and its usual C library: between the layers of a network lie large blocks, which are
taken and given back with every batch. The system finds and clears each of their pages of 4 kB anew: 10 % of what
mapping with a U-Net with resnet18 took in bfloat16.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from pathlib import Path
from typing import Any

from src.cgroups import control_groups

LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""PyTorch looks at it at once: take tensors of 2 MB and more in transparent huge pages. 0 switches it off."""
TUNED = ("GLIBC_TUNABLES", "MALLOC_")
"""Beginnings of variables by which others have chosen how the C library deals with memory."""

_keeping = False
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""Numbers of mallopt's parameters, from glibc's malloc.h."""


def use_large_pages() -> None:
    """Let this process and those that it starts take large tensors in large pages; call before PyTorch's first one.

    Training is fastest so: its blocks come in a hundred sizes (docs/performance.md).
    """
    os.environ.setdefault(LARGE_PAGES, "1")


def keep_memory() -> bool:
    """Let this process keep what it frees, for the next time, however large; tell whether it does.

    Mapping and evaluation on CPUs are fastest so. The most that the process has at a time changes little, but it has it
    until its end. Nothing is done where somebody has chosen otherwise by the C library's variables (TUNED, or
    LARGE_PAGES), or where there is another one.
    """
    global _keeping  # noqa: PLW0603  it is the process that keeps it
    chosen = os.environ.get(LARGE_PAGES) == "1" or any(name.startswith(TUNED) for name in os.environ)
    if not chosen and (mallopt := _of_c_library("mallopt")) is not None:
        # No block from the system directly, all blocks from one heap that threads share, and that heap never shrinks.
        _keeping = all([mallopt(_MMAP_MAX, 0), mallopt(_ARENA_MAX, 1), mallopt(_TRIM_THRESHOLD, -1)])
    return _keeping


def give_back_memory() -> None:
    """Give what is kept and not used back to the system, which other processes may need."""
    if _keeping and (malloc_trim := _of_c_library("malloc_trim")) is not None:
        malloc_trim(0)


def available_memory() -> int:
    """Return how many bytes this process may still take without having anything swapped out.

    That is what the system has left, or what the control groups of a container or a scheduler's job leave of their
    limits if that is less, and what this process has kept itself.
    """
    import psutil  # noqa: PLC0415  commands that only answer do not need it

    free: int = psutil.virtual_memory().available
    for group in control_groups("memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            try:
                granted, taken = ((group / name).read_text(encoding="ascii").strip() for name in (limit, used))
            except OSError:
                continue
            if granted.isdecimal():
                free = min(free, int(granted) - int(taken) + _cached_files(group))
    return max(0, free) + _kept()


def peak_memory() -> int:
    """Return the most bytes that this process has had so far; what it has now, where the system counts no peak."""
    try:
        import resource  # noqa: PLC0415  Windows has none
    except ModuleNotFoundError:
        import psutil  # noqa: PLC0415  see above

        memory = psutil.Process().memory_info()
        return int(getattr(memory, "peak_wset", memory.rss))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # macOS counts bytes, the others kB


def _cached_files(group: Path) -> int:
    """Return the bytes of files that the system keeps at a group's cost, and would give up first."""
    with contextlib.suppress(OSError, ValueError):
        lines = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return int(lines.get("inactive_file", lines.get("total_inactive_file", "0")))
    return 0


def _kept() -> int:
    """Return the bytes that this process has freed and kept."""
    if not _keeping or (mallinfo := _of_c_library("mallinfo2")) is None:
        return 0
    mallinfo.restype = _Mallinfo
    return int(mallinfo().fordblks)


def _of_c_library(name: str) -> Any:
    """Return a function of glibc; None where there is another library, or an older one without it."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


class _Mallinfo(ctypes.Structure):
    """What mallinfo2 returns: ten sizes, of which ``fordblks`` is what is free."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()  # noqa: SIM905
    ]
