"""Assigning chips to training, validation and test: pure functions of counts, places and a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Parts = npt.NDArray[np.int64]
"""Part of each chip: 0 train, 1 validation, 2 test, −1 none."""


Strategy = Literal["balanced", "blocks", "random"]


@dataclass(frozen=True)
class Split:
    """An assignment of chips to parts.

    Attributes:
        parts: Part of each chip.
        imbalance: How much the parts' class histograms differ; see :func:`imbalance`.
        straddling: Chips left out because they share ground with another part.
    """

    parts: Parts
    imbalance: float
    straddling: int


def split_chips(counts: Counts, shares: Sequence[float], seed: int) -> Split:
    """Assign chips to parts."""
    parts = random_split(len(counts), part_sizes(len(counts), shares), seed)
    return Split(parts, imbalance(counts, parts), 0)


def part_sizes(count: int, shares: Sequence[float]) -> tuple[int, int, int]:
    """Return how many of ``count`` chips each part gets.

    The parts get their shares rounded so that the sum is right (largest remainder), but none with a share above 0
    stays empty while there are chips.

    Args:
        count: Number of chips.
        shares: Percent for train, validation and test; their sum is at most 100.
    """
    total = round(count * min(sum(shares), 100.0) / 100)
    wanted = [share > 0 for share in shares]
    total = max(total, sum(wanted))
    quotas = np.array([total * share / max(sum(shares), 1e-12) for share in shares])
    sizes = np.floor(quotas + 1e-9).astype(int)
    for part in np.argsort(-(quotas - sizes), kind="stable")[: total - sizes.sum()]:
        sizes[part] += 1
    for part in range(3):
        if wanted[part] and not sizes[part]:
            sizes[part] += 1
            sizes[int(np.argmax(sizes))] -= 1
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


def imbalance(counts: Counts, parts: Parts) -> float:
    """Return how much the parts' class histograms differ: 0 for the same shares, 1 for no class in common.

    It is the mean, over the pairs of parts that have chips, of the total variation distance (half the sum of
    absolute differences) of the normalised histograms.

    Args:
        counts: n × k pixels of each class in each chip.
        parts: Part of each chip.
    """
    sums = np.array([counts[parts == part].sum(0) for part in range(3) if (parts == part).any()], float)
    shares = sums / np.maximum(sums.sum(1, keepdims=True), 1)
    pairs = [np.abs(a - b).sum() / 2 for i, a in enumerate(shares) for b in shares[i + 1 :]]
    return float(np.mean(pairs)) if pairs else 0.0


def random_split(count: int, sizes: Sequence[int], seed: int) -> Parts:
    """Assign chips by chance."""
    parts = np.full(count, -1)
    order = np.random.default_rng(seed).permutation(count)
    parts[order[: sum(sizes)]] = np.repeat(np.arange(3), sizes)
    return parts
