"""Balancing parts of a fixed size: which chips go where, so that all parts have the same shares of the classes.

A search by swaps: from random starts, the swap of two chips that helps most is made until none helps. All starts
go ahead at once as one array, and where there are few enough assignments all of them are looked at instead.
`python scripts/bench.py split` compares it with 100 000 random permutations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, cycle, islice

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

TRAIN = 0
_EXHAUSTIVE = 60_000
"""Assignments up to which all are looked at."""
_PROMISING = 300
"""Assignments that are looked at first, to know what a good one costs."""
_STARTS = 64
_ELEMENTS = 12_000
"""Numbers in the arrays of one step where all swaps are looked at: they bound the starts."""
_SAMPLED = 4_000
"""The same where there are too many swaps for that: a start looks at so many of them, chosen by chance, in a step."""
_STEPS = 600
_PATIENCE = 3
"""Rounds without an improvement before a search that looks at some of the swaps only gives up."""
_ALIKE = 1e-4
"""Distance below which a smaller one is of no use to anybody."""
_GAIN = np.float32(1e-7)
"""Least improvement that is more than rounding."""
_NOTHING = np.float32(1e-9)
"""Stands for the pixels of a part that has none."""
_ABSENCE = np.float32(2.0)
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
    problem = _Problem(counts, tuple(sizes[part] for part in filled), needed_pixels(counts, filled))
    parts = np.full(len(counts), -1)
    for part, chosen in zip(filled, problem.solve(np.random.default_rng(seed)), strict=True):
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

    counts: Counts
    sizes: tuple[int, ...]
    needed: Floats

    def solve(self, generator: np.random.Generator) -> list[Indices]:
        """Return the members of each part."""
        count, small = len(self.counts), sorted(self.sizes)[:-1]
        few = math.prod(math.comb(count, size) for size in small) <= _EXHAUSTIVE
        if few and len(small) == 2 and count == sum(self.sizes):
            return self._best_of_all()
        return self._search(generator)

    @cached_property
    def pixels(self) -> Singles:
        """Pixels of each class and, last, of all classes, (k + 1) × n, as shares of all pixels.

        Classes come first, since sums over them then run along memory.
        """
        rows = np.vstack([self.counts.T, self.counts.sum(1)])
        return (rows / max(int(self.counts.sum()), 1)).astype(np.float32)

    @cached_property
    def least(self) -> Singles:
        """What a part should have at least, like :attr:`pixels`, parts × k; a trifle less, for rounding."""
        return (self.needed * (1 - 1e-5) / max(int(self.counts.sum()), 1)).astype(np.float32)

    def cost(self, sums: Sequence[Singles]) -> Singles:
        """Return absences and mean distance of assignments.

        Args:
            sums: (k + 1) × … :attr:`pixels` of each part; the further axes broadcast.
        """
        cost = _spread([_shares(pixels) for pixels in sums])
        for part, pixels in enumerate(sums):
            cost = cost + self._absences(part, pixels)
        return cost

    def _absences(self, part: int, sums: Singles) -> Singles:
        """Return what the classes cost that a part lacks, given (k + 1) × … :attr:`pixels`."""
        absent = sums[:-1] < self.least[part].reshape(-1, *[1] * (sums.ndim - 1))
        return np.asarray(_ABSENCE * absent.view(np.uint8).sum(0, dtype=np.uint8))

    def _best_of_all(self) -> list[Indices]:
        """Look at every assignment: choose the two smaller parts, the third is what remains.

        What the two alone cost is less than what all three do. Where it is more already than a good assignment's
        cost, the third need not be looked at; that is most of them.
        """
        order = np.argsort(self.sizes, kind="stable").tolist()
        chips = np.arange(len(self.counts))
        small = [np.array(list(combinations(chips.tolist(), self.sizes[part]))) for part in order[:2]]
        sums = [self.pixels[:, members].sum(2) for members in small]
        least = np.add.outer(*(self._absences(part, pixels) for part, pixels in zip(order, sums, strict=False)))
        for one, other in zip(*map(_shares, sums), strict=True):
            least += np.abs(np.subtract.outer(one, other)) / np.float32(3)
        least[np.bitwise_and.outer(*((1 << members).sum(1) for members in small)) != 0] = np.inf

        def costs(places: Indices) -> Singles:
            first, second = (pixels[:, at] for pixels, at in zip(sums, np.divmod(places, least.shape[1]), strict=True))
            parts = {order[0]: first, order[1]: second, order[2]: self.pixels.sum(1)[:, None] - first - second}
            return np.maximum(self.cost([parts[part] for part in range(3)]), least.flat[places])  # no chip in two

        promising = np.argpartition(least, min(_PROMISING, least.size - 1), axis=None)[:_PROMISING]
        possible = np.flatnonzero(least <= costs(promising).min() + _GAIN)
        i, j = divmod(int(possible[costs(possible).argmin()]), least.shape[1])
        found = {order[0]: small[0][i], order[1]: small[1][j]}
        found[order[2]] = np.setdiff1d(chips, np.concatenate(list(found.values())))
        return [found[part] for part in range(3)]

    def _search(self, generator: np.random.Generator) -> list[Indices]:
        """Swap chips between parts, from several starts at once; the best start wins."""
        rest = len(self.counts) - sum(self.sizes)
        groups = (*self.sizes, rest) if rest else self.sizes
        pairs = list(combinations(range(len(groups)), 2))
        numbers = len(self.pixels) * max((groups[a] * groups[b] for a, b in pairs), default=1)
        count = int(np.clip(_ELEMENTS // numbers, 1, _STARTS))
        limit = None if numbers <= _ELEMENTS else max(2, math.isqrt(_SAMPLED // len(self.pixels)))
        starts = _Starts.at_random(self, groups, count, generator)
        patience, idle = len(pairs) * (1 if limit is None else _PATIENCE), 0
        for pair in islice(cycle(pairs), _STEPS if pairs else 0):
            idle = 0 if starts.swap(pair, limit, generator) else idle + 1
            if idle >= patience or starts.cost.min() < _ALIKE:
                break
        return starts.best()


def _shares(sums: Singles) -> Singles:
    """Return the classes' shares, given (k + 1) × … pixels, of which the last are those of all classes."""
    return np.asarray(sums[:-1] / np.maximum(sums[-1], _NOTHING))


def _spread(shares: Sequence[Singles]) -> Singles:
    """Return the mean total variation distance of up to three histograms, given k × … shares of each.

    The three distances between three numbers add up to twice the largest of them.
    """
    high = low = shares[0]
    for further in shares[1:]:
        high, low = np.maximum(high, further), np.minimum(low, further)
    return np.asarray((high - low).sum(0) / np.float32(len(shares)))


@dataclass(frozen=True)
class _Starts:
    """Assignments on their way to a better one, all at once.

    Attributes:
        problem: What is assigned.
        groups: Chips in each part and, if there are any, in none.
        order: starts × n chips, group after group.
        sums: (k + 1) × starts pixels of each group.
        cost: Of each start.
    """

    problem: _Problem
    groups: tuple[int, ...]
    order: Indices
    sums: list[Singles]
    cost: Singles

    @classmethod
    def at_random(
        cls, problem: _Problem, groups: tuple[int, ...], count: int, generator: np.random.Generator
    ) -> _Starts:
        """Assign chips by chance, ``count`` times."""
        order = generator.permuted(np.tile(np.arange(sum(groups)), (count, 1)), axis=1)
        sums = [problem.pixels[:, chosen].sum(2) for chosen in np.split(order, np.cumsum(groups)[:-1], axis=1)]
        return cls(problem, groups, order, sums, problem.cost(sums[: len(problem.sizes)]))

    def swap(self, pair: tuple[int, int], limit: int | None, generator: np.random.Generator) -> bool:
        """Make, in every start that it helps, the best swap between two groups; tell whether it helped one.

        Args:
            pair: The groups.
            limit: Chips of each group to look at, chosen by chance if there are more; None for all.
            generator: For that choice.
        """
        pixels, parts = self.problem.pixels, len(self.problem.sizes)
        first, second = (self._places(group, limit, generator) for group in pair)
        # The first group, mostly training, is the larger one: NumPy is fast along a long last axis.
        gained = pixels[:, self.order[:, second], None] - pixels[:, self.order[:, first]][:, :, None]
        after = [sums[:, :, None, None] for sums in self.sums]
        after[pair[0]] = after[pair[0]] + gained
        after[pair[1]] = after[pair[1]] - gained
        cost = self.problem.cost(after[:parts]).reshape(len(self.order), -1)
        at = cost.argmin(1)
        found = cost[np.arange(len(at)), at]
        better = np.flatnonzero(found < self.cost - _GAIN)
        if better.size:
            j, i = np.divmod(at[better], len(first))
            self._make(pair, first[i], second[j], better)
            self.cost[better] = found[better]
        return bool(better.size)

    def _make(self, pair: tuple[int, int], first: Indices, second: Indices, starts: Indices) -> None:
        """Swap the chips at two places in some of the starts."""
        one, other = self.order[starts, first], self.order[starts, second]
        self.order[starts, first], self.order[starts, second] = other, one
        gained = self.problem.pixels[:, other] - self.problem.pixels[:, one]
        self.sums[pair[0]][:, starts] += gained
        self.sums[pair[1]][:, starts] -= gained

    def _places(self, group: int, limit: int | None, generator: np.random.Generator) -> Indices:
        size, begin = self.groups[group], sum(self.groups[:group])
        return begin + (np.arange(size) if limit is None or size <= limit else generator.integers(size, size=limit))

    def best(self) -> list[Indices]:
        """Return the members of each part in the start that costs least."""
        order = self.order[int(np.argmin(self.cost))]
        return np.split(order, np.cumsum(self.groups))[: len(self.problem.sizes)]
