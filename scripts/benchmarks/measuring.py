"""Runs that take turns, and what each of them took: time, the processors' time and memory."""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Run = Callable[[], float]
"""Does some work and returns how much, in the unit of the comparison (chips, megapixels, 1 for the whole)."""


@dataclass(frozen=True)
class Turn:
    """One run.

    Attributes:
        amount: Work that it did.
        seconds: On the clock.
        cpu_seconds: Of all threads and of the processes that it started and waited for.
        peak_mb: The most memory that this process had meanwhile.
    """

    amount: float
    seconds: float
    cpu_seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Options:
    """What every step is given.

    Attributes:
        folder: An empty folder for scenes and what is made of them.
        rounds: How often all runs of a comparison take turns, the first round not counted.
        whole: Whether memory is measured on 20 000² px instead of on long strips of such a scene.
        seconds: After which no further round of a comparison begins, once three were counted; of one whose rounds
            are so long that twice this time is over, two are enough.
    """

    folder: Path
    rounds: int = 5
    whole: bool = False
    seconds: float = 40.0

    def enough(self, counted: int, began: float) -> bool:
        """Tell whether a comparison that began at this time.perf_counter() has been made often enough."""
        if counted < min(2, self.rounds):
            return False
        passed = time.perf_counter() - began
        return counted >= self.rounds or passed > (self.seconds if counted >= 3 else 2 * self.seconds)


def take_turns(runs: Mapping[str, Run], options: Options) -> dict[str, list[Turn]]:
    """Let runs take turns, so that whatever else the machine does meets all of them alike.

    Args:
        runs: By name. A round runs each once; the first round warms up and is not counted.
        options: How many rounds, and how long at most.

    Returns:
        The counted turns of each run; those of one round have the same index.
    """
    turns: dict[str, list[Turn]] = {name: [] for name in runs}
    began = time.perf_counter()
    for round_number in range(options.rounds + 1):
        for name, run in runs.items():
            turn = take_turn(run)
            if round_number:
                turns[name].append(turn)
        if options.enough(round_number, began):
            break
    return turns


class Clock:
    """Measures from where it is made to where it is stopped."""

    def __init__(self) -> None:
        forget_peak()
        self._cpu, self._clock = cpu_seconds(), time.perf_counter()

    def stop(self, amount: float) -> Turn:
        """Return what was taken for an amount of work."""
        return Turn(amount, time.perf_counter() - self._clock, cpu_seconds() - self._cpu, peak_megabytes())


def take_turn(run: Callable[..., float], *arguments: object) -> Turn:
    """Run once."""
    clock = Clock()
    return clock.stop(run(*arguments))


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process: it finds no memory, threads or caches that another left."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def cpu_seconds() -> float:
    """Return the seconds that processors have spent on this process and on children that have ended."""
    return sum(os.times()[:4])


def forget_peak() -> None:
    """Let the peak of memory begin anew; where the system cannot do that, it goes on."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_megabytes() -> float:
    """Return the most memory that this process has had, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        # The counter of getrusage begins with what the process that started this one had.
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def median_ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the ratios within each round: what a busy minute did to both cancels."""
    return statistics.median(a / max(b, 1e-9) for a, b in zip(above, below, strict=True))
