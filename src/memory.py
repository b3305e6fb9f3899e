"""How a process takes memory from the system, and whether it gives it back: Linux, and its usual C library, only.

Between the layers of a network lie large blocks, which are taken and given back with every batch. The system finds and
clears each of their pages of 4 kB anew: 10 % of what mapping with a U-Net with resnet18 took in bfloat16.
"""

from __future__ import annotations

import ctypes
import os
import sys

LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""PyTorch looks at it at once: take tensors of 2 MB and more in transparent huge pages. 0 switches it off."""
TUNED = ("GLIBC_TUNABLES", "MALLOC_")
"""Beginnings of variables by which others have chosen how the C library deals with memory."""

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""Numbers of mallopt's parameters, from glibc's malloc.h."""


def arrange_memory(task: str) -> None:
    """Let this process take memory as suits a task; call before PyTorch's first tensor.

    What is measured here stands in docs/performance.md: training, whose blocks come in a hundred sizes, is fastest in
    large pages, mapping and evaluation where everything is kept.

    Args:
        task: The command's name.
    """
    if task in {"eval", "predict"}:
        keep_memory()
    else:
        os.environ.setdefault(LARGE_PAGES, "1")


def keep_memory() -> bool:
    """Let this process keep what it frees, for the next time, however large; tell whether it does.

    The most that it has at a time changes little, but it has it until its end. Nothing is done where somebody has
    chosen otherwise by the C library's variables (TUNED, or LARGE_PAGES), or where there is another one.
    """
    chosen = os.environ.get(LARGE_PAGES) == "1" or any(name.startswith(TUNED) for name in os.environ)
    if chosen or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # No block from the system directly, all blocks from one heap that threads share, and that heap never shrinks.
    return all([mallopt(_MMAP_MAX, 0), mallopt(_ARENA_MAX, 1), mallopt(_TRIM_THRESHOLD, -1)])
