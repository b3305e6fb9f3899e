"""How many cores this process may use, and how a user says so: one answer for computing and for reading."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from src.cgroups import control_groups
from src.errors import UserError

VARIABLE = "OMP_NUM_THREADS"
"""What schedulers and people set; PyTorch, NumPy and the processes that this one starts follow it."""


def cores() -> int:
    """Count the cores that this process may use: those it is bound to, a container's share of time, and VARIABLE."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get(VARIABLE, "").split(",")[0]  # OpenMP takes a number per level of nesting
    limits = [bound, *_quotas(), *([int(wanted)] if wanted.isdecimal() and int(wanted) else [])]
    return max(1, min(limits))


def use_threads(wanted: int | None) -> int:
    """Let this process, and those that it starts, compute with a number of threads.

    Args:
        wanted: Threads; None for VARIABLE if it is set, else as many as there are cores for this process. PyTorch
            by itself starts a thread per core of the machine in a container that may use two of them.

    Returns:
        The number.

    Raises:
        UserError: It is no number of threads.
    """
    if wanted is not None and wanted < 1:
        raise UserError(f"threads={wanted} is no number of threads; give 1 or more, or null for the cores there are.")
    if wanted is not None:
        os.environ[VARIABLE] = str(wanted)
    number = cores() if wanted is None else wanted
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(number)
    elif number < (os.cpu_count() or 1):
        os.environ.setdefault(VARIABLE, str(number))
    return number


@contextmanager
def undivided() -> Iterator[None]:
    """Let VARIABLE say how many cores there are to be shared within the context, and what it said before afterwards.

    Lightning would put one process's share there when it starts several, once some have counted already and others have
    not, and leave it to the next run of a multirun.
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = before or str(cores())
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def _quotas() -> Iterator[int]:
    """Yield the processors' time that control groups grant, in whole cores."""
    for folder in control_groups("cpu"):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            try:
                quota, period = " ".join((folder / name).read_text(encoding="ascii") for name in names).split()
            except (OSError, ValueError):
                continue
            if quota.isdecimal() and int(period):
                yield max(1, round(int(quota) / int(period)))
