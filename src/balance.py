"""Balancing parts of a fixed size: which chips go where, so that all parts have the same shares of the classes.

A search by swaps: from random starts, the swap of two chips that helps most is made until none helps. All starts
go ahead at once as one array, and where there are few enough assignments all of them are looked at instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

TRAIN = 0
_EXHAUSTIVE = 40_000
"""Pairs of the two smaller parts up to which all are looked at."""
_STARTS = 24
_ELEMENTS = 24_000
"""Numbers in the arrays of one step; bounds the starts and, with many chips, the swaps that are looked at."""
_STEPS = 150
_PATIENCE = 4
"""Steps without an improvement before a search that looks at some of the swaps only gives up."""
_ABSENCE = 2.0
"""What the absence of a class from a part costs: more than any distance, which is at most 1."""


def balanced_parts(counts: Counts, sizes: Sequence[int], seed: int) -> npt.NDArray[np.int64]:
    """Assign chips to parts of given sizes.

    First every class comes into the training part, and into all parts if it is in enough chips; among such
    assignments the mean total variation distance between the parts' class histograms is made as small as the
    search can.

    Args:
        counts: n × k pixels of each class in each chip.
        sizes: Chips for training, validation and test; together at most n.
        seed: Of the random starts.

    Returns:
        Part of each chip; −1 for chips that are in none.
    """
    counts = counts[:, counts.any(0)]
    filled = [part for part, size in enumerate(sizes) if size]
    needed = needed_pixels(counts, filled)
    problem = _Problem(counts.astype(np.float64), tuple(sizes[part] for part in filled), needed)
    parts = np.full(len(counts), -1)
    for part, chosen in zip(filled, problem.solve(seed), strict=True):
        parts[chosen] = part
    return parts


def needed_pixels(counts: Counts, filled: Sequence[int]) -> Floats:
    """Return the pixels of each class that every part should have at least, parts × k.

    It is one percent of the class's pixels, as in SpecDeepMap, for classes in as many chips as there are parts.
    Training should have every class, since what is not learnt cannot be scored.

    Args:
        counts: n × k pixels of each class in each chip.
        filled: The parts that get chips.
    """
    chips, least = (counts > 0).sum(0), 0.01 * counts.sum(0)
    return np.array([np.where((chips >= len(filled)) | (part == TRAIN), least, 0.0) for part in filled])


def distance(sums: Sequence[Floats]) -> Floats:
    """Return the mean total variation distance between the parts' class histograms.

    Args:
        sums: … × k pixels of each class, for each part.
    """
    shares = [pixels / np.maximum(pixels.sum(-1, keepdims=True), 1) for pixels in sums]
    pairs = list(combinations(shares, 2))
    total: Floats = sum((np.abs(a - b).sum(-1) for a, b in pairs), np.zeros(1))
    return total / max(2 * len(pairs), 1)


@dataclass(frozen=True)
class _Problem:
    """Chips to assign.

    Attributes:
        counts: n × k pixels.
        sizes: Chips per part, all above 0.
        needed: parts × k pixels that a part should have at least.
    """

    counts: Floats
    sizes: tuple[int, ...]
    needed: Floats

    def solve(self, seed: int) -> list[Indices]:
        """Return the members of each part."""
        count = sum(self.sizes)
        small = sorted(self.sizes)[:2]
        if len(self.sizes) == 3 and count == len(self.counts) and math.comb(count, small[1]) ** 2 <= _EXHAUSTIVE:
            return self._best_of_all()
        return self._search(np.random.default_rng(seed))

    def cost(self, sums: Sequence[Floats]) -> Floats:
        """Return absences and mean distance of assignments, given … × k pixels of each part."""
        absent = [(pixels < least).sum(-1) for pixels, least in zip(sums, self.needed, strict=True)]
        return distance(sums) + _ABSENCE * sum(absent, np.zeros(1))

    def _best_of_all(self) -> list[Indices]:
        """Look at every assignment: choose the two smaller parts, the third is what remains."""
        order = np.argsort(self.sizes, kind="stable").tolist()
        first, second = (np.array(list(combinations(range(len(self.counts)), self.sizes[part]))) for part in order[:2])
        bits = 1 << np.arange(len(self.counts), dtype=np.int64)
        a, b = self.counts[first].sum(1)[:, None], self.counts[second].sum(1)[None]
        by_part = dict(zip(order, (a, b, self.counts.sum(0) - a - b), strict=True))
        cost = self.cost([by_part[part] for part in range(3)])
        shared = np.bitwise_and.outer(bits[first].sum(1), bits[second].sum(1)) != 0
        i, j = np.unravel_index(int(np.argmin(np.where(shared, np.inf, cost))), shared.shape)
        rest = np.setdiff1d(np.arange(len(self.counts)), np.concatenate([first[i], second[j]]))
        found = dict(zip(order, (first[i], second[j], rest), strict=True))
        return [found[part] for part in range(3)]

    def _search(self, generator: np.random.Generator) -> list[Indices]:
        """Swap chips between parts, from several starts at once; the best start wins."""
        rest = len(self.counts) - sum(self.sizes)
        groups = [*self.sizes, rest] if rest else list(self.sizes)
        pairs = list(combinations(range(len(groups)), 2))
        largest = max((groups[a] * groups[b] for a, b in pairs), default=1) * self.counts.shape[1]
        starts = int(np.clip(_ELEMENTS // largest, 1, _STARTS))
        limit = math.isqrt(_ELEMENTS // self.counts.shape[1]) if largest > 2 * _ELEMENTS else None
        orders = generator.permuted(np.tile(np.arange(len(self.counts)), (starts, 1)), axis=1)
        members = np.split(orders, np.cumsum(groups)[:-1], axis=1)
        sums = [self.counts[chosen].sum(1) for chosen in members]
        cost, idle = self.cost(sums[: len(self.sizes)]), 0
        for _ in range(_STEPS):
            swaps = [self._best_swap(members, sums, pair, limit, generator) for pair in pairs]
            if not swaps:
                break
            choice = np.argmin([swap.cost for swap in swaps], axis=0)
            moved = False
            for start, chosen in enumerate(choice.tolist()):
                swap = swaps[chosen]
                if swap.cost[start] < cost[start] - 1e-12:
                    swap.make(start, members, sums, self.counts)
                    cost[start], moved = swap.cost[start], True
            idle = 0 if moved else idle + 1
            if idle >= (_PATIENCE if limit else 1):
                break
        winner = int(np.argmin(cost))
        return [members[part][winner] for part in range(len(self.sizes))]

    def _best_swap(
        self,
        members: Sequence[Indices],
        sums: Sequence[Floats],
        pair: tuple[int, int],
        limit: int | None,
        generator: np.random.Generator,
    ) -> _Swap:
        """Find, for every start, the swap between two parts after which the cost is smallest.

        Args:
            members: starts × size chips of each part.
            sums: starts × k pixels of each part.
            pair: The two parts.
            limit: How many members to look at, chosen by chance; None for all.
            generator: For that choice.
        """
        first, second = pair
        at = [
            np.arange(size) if limit is None or size <= limit else generator.integers(size, size=limit)
            for size in (members[first].shape[1], members[second].shape[1])
        ]
        gained = self.counts[members[second][:, at[1]]][:, None] - self.counts[members[first][:, at[0]]][:, :, None]
        after = [pixels[:, None, None] for pixels in sums[: len(self.sizes)]]
        for part, change in ((first, gained), (second, -gained)):
            if part < len(after):
                after[part] = after[part] + change
        cost = np.broadcast_to(self.cost(after), gained.shape[:3]).reshape(len(gained), -1)
        position = cost.argmin(1)
        i, j = np.unravel_index(position, gained.shape[1:3])
        return _Swap(pair, at[0][i], at[1][j], cost[np.arange(len(cost)), position])


@dataclass(frozen=True)
class _Swap:
    """The best swap between two parts, for every start: positions in both parts, and the cost after it."""

    parts: tuple[int, int]
    first: Indices
    second: Indices
    cost: Floats

    def make(self, start: int, members: Sequence[Indices], sums: Sequence[Floats], counts: Floats) -> None:
        """Swap in one start."""
        a, b = self.parts
        one, other = members[a][start, self.first[start]], members[b][start, self.second[start]]
        members[a][start, self.first[start]], members[b][start, self.second[start]] = other, one
        sums[a][start] += counts[other] - counts[one]
        sums[b][start] += counts[one] - counts[other]
