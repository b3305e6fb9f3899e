"""Balancing parts of a fixed size: which chips go where, so that all parts have the same shares of the classes.

Where the two smaller parts are a few chips, the best of their pairs is found, exactly if there are few enough of them.
Else, and from the best pairs where they were drawn by chance, a search by swaps: the swap of two chips that helps most
is made until none helps, from several starts at once as one array.
`python scripts/bench.py split` compares it with 100 000 random permutations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, cycle, islice

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

TRAIN = 0
_ENUMERATED = 8_000
"""Possible choices of a part's chips, at most, of which every one is tried."""
_DRAWN = 600
"""Choices that are drawn by chance and tried, for each of two parts, where more are possible."""
_PAIRED = ((24, 20_000), (60, 200_000))
"""Choices of each of two parts, the most promising, that are paired first, since their best pair rules out others, and
pairs not ruled out, at most, of which every one is tried. Where more are left of a few, more are paired; where more are
left then too, chips are swapped."""
_FEW = 6
"""Chips in the second smallest of three parts, at most, for whose choices pairs are formed at all."""
_STARTS = 64
"""Assignments that are changed for the better at the same time, at most."""
_ELEMENTS = 3_000
"""Numbers in the arrays of one step where all swaps are looked at: they bound the starts."""
_SAMPLED = 4_000
"""The same where there are too many swaps for that: a start looks at so many of them, chosen by chance, in a step."""
_HOLDERS = 20
"""Chips of a class that a part lacks which are tried there, those with the most of it."""
_STEPS = 600
"""Rounds of swaps between two parts, at most."""
_PATIENCE = 3
"""Rounds without an improvement before a search that looks at some of the swaps only gives up."""
ALIKE = 1e-4
"""Distance below which a smaller one is of no use to anybody."""
_GAIN = np.float32(1e-7)
"""Least improvement that is more than rounding."""
_NOTHING = np.float32(1e-9)
"""Stands for the pixels of a part that has none."""
_ABSENCE = np.float32(2.0)
"""What the absence of a class from a part costs: more than any distance, which is at most 1."""


def balanced_parts(
    counts: Counts,
    sizes: Sequence[int],
    seed: int,
    enough: float = ALIKE,
    settled: tuple[Counts, npt.NDArray[np.int64]] | None = None,
) -> npt.NDArray[np.int64]:
    """Assign chips to parts of given sizes.

    First every class comes into the training part, and into all parts if it is in enough chips; among such
    assignments the mean total variation distance between the parts' class histograms is made as small as the
    search can.

    Args:
        counts: n × k pixels of each class in each chip.
        sizes: Chips for training, validation and test; together at most n.
        seed: Of the random starts.
        enough: Distance at which the search may end.
        settled: m × k pixels of groups of further chips, which stay in their parts, and these (−1 for none).

    Returns:
        Part of each chip; −1 for chips that are in none.
    """
    groups, theirs = settled if settled is not None else (counts[:0], np.zeros(0, np.int64))
    there = counts.any(0) | groups.any(0)
    counts, groups = counts[:, there], groups[:, there]
    filled = [part for part, size in enumerate(sizes) if size or (theirs == part).any()]
    needed = needed_pixels(np.concatenate([counts, groups]), filled)
    begun = np.array([groups[theirs == part].sum(0) for part in filled])
    problem = _Problem(counts, tuple(sizes[part] for part in filled), needed, enough, begun)
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
        sizes: Chips per part; 0 only for one that has pixels already.
        needed: parts × k pixels that a part should have at least.
        enough: Distance at which the search may end.
        begun: parts × k pixels that a part has already.
    """

    counts: Counts
    sizes: tuple[int, ...]
    needed: Floats
    enough: float
    begun: Counts

    def solve(self, generator: np.random.Generator) -> list[Indices]:
        """Return the members of each part."""
        everything = all(self.sizes) and sum(self.sizes) == len(self.counts) and not self.begun.any()
        if everything and len(self.sizes) == 3 and sorted(self.sizes)[1] <= _FEW:
            return self._pair(generator)
        return self._search(generator, None)

    @cached_property
    def pixels(self) -> Singles:
        """Pixels of each class and, last, of all classes, (k + 1) × n, as shares of all pixels.

        Classes come first, since sums over them then run along memory.
        """
        return self._as_shares(self.counts)

    @cached_property
    def first(self) -> Singles:
        """What each part has already, like :attr:`pixels`, (k + 1) × parts."""
        return self._as_shares(self.begun)

    @cached_property
    def total(self) -> int:
        """All pixels, or 1."""
        return max(int(self.counts.sum()) + int(self.begun.sum()), 1)

    def _as_shares(self, pixels: Counts) -> Singles:
        return (np.vstack([pixels.T, pixels.sum(1)]) / self.total).astype(np.float32)

    @cached_property
    def least(self) -> Singles:
        """What a part should have at least, like :attr:`pixels`, parts × k; a trifle less, for rounding."""
        return (self.needed * (1 - 1e-5) / self.total).astype(np.float32)

    def cost(self, sums: Sequence[Singles]) -> Singles:
        """Return absences and mean distance of assignments.

        Args:
            sums: (k + 1) × … :attr:`pixels` of each part; the further axes broadcast.
        """
        cost = _spread([_shares(pixels) for pixels in sums])
        for part, pixels in enumerate(sums):
            cost = cost + self.absences(part, pixels)
        return cost

    def absences(self, part: int, sums: Singles) -> Singles:
        """Return what the classes cost that a part lacks, given (k + 1) × … :attr:`pixels` of it."""
        absent = sums[:-1] < self.least[part].reshape(-1, *[1] * (sums.ndim - 1))
        return np.asarray(_ABSENCE * absent.view(np.uint8).sum(0, dtype=np.uint8))

    def _pair(self, generator: np.random.Generator) -> list[Indices]:
        """Choose the two smaller parts, as the third is what remains: the best pair, or search from good ones.

        With the mean distance c between three parts no two of them are further apart than 1.5 c. The whole is a mixture
        of them, so a part that has the share w of its pixels is no further from it than 1.5 c (1 − w). What is further
        away need not be paired to find a better pair.
        """
        first, second = np.argsort(self.sizes, kind="stable")[:2].tolist()
        small = [_Choices.of(self, first, generator)]
        if small[0].complete and self.sizes[first] == self.sizes[second] and TRAIN not in (first, second):
            small.append(replace(small[0], part=second))  # all that is asked of both is the same
        else:
            small.append(_Choices.of(self, second, generator))
        complete = all(choices.complete for choices in small)
        for kept, most in _PAIRED:
            promising = [choices.best(kept) for choices in small]
            cost = self._costs(*promising)
            if cost.min() < self.enough + _GAIN:
                return self._members(promising, int(cost.argmin()))
            possible = [choices.up_to(float(cost.min() + _GAIN)) for choices in small]
            if complete and math.prod(len(choices.least) for choices in possible) <= most:
                return self._members(possible, int(self._costs(*possible).argmin()))
        pairs = np.argpartition(cost, min(_STARTS, cost.size) - 1, axis=None)[:_STARTS]
        pairs = pairs[np.isfinite(cost.flat[pairs])]
        return self._search(generator, self._orders(promising, pairs) if pairs.size else None)

    def _costs(self, first: _Choices, second: _Choices) -> Singles:
        """Return what each pair of two parts' choices costs, infinity where they share a chip."""
        one, other = first.sums[:, :, None], second.sums[:, None]
        parts = {first.part: one, second.part: other}
        parts[3 - first.part - second.part] = self.pixels.sum(1)[:, None, None] - one - other
        one_bits, other_bits = (choices.bits(len(self.counts)) for choices in (first, second))
        shared = (one_bits[:, None] & other_bits).any(2)
        return np.where(shared, np.inf, self.cost([parts[part] for part in range(3)]))

    def _orders(self, choices: Sequence[_Choices], pairs: Indices) -> Indices:
        """Turn pairs, by their place in :meth:`_costs`, into assignments: pairs × n chips, part after part."""
        places = np.divmod(pairs, len(choices[1].least))
        part = np.full((len(pairs), len(self.counts)), 3 - choices[0].part - choices[1].part)
        for chosen, at in zip(choices, places, strict=True):
            part[np.arange(len(at))[:, None], chosen.chosen[at]] = chosen.part
        return np.argsort(part, axis=1, kind="stable")

    def _members(self, choices: Sequence[_Choices], pair: int) -> list[Indices]:
        """Return the members of each part, given two parts' choices and a pair's place in :meth:`_costs`."""
        order = self._orders(choices, np.array([pair]))[0]
        return np.split(order, np.cumsum(self.sizes)[:-1])

    def _search(self, generator: np.random.Generator, orders: Indices | None) -> list[Indices]:
        """Swap chips between parts, from several starts at once, given or by chance; the best start wins."""
        rest = len(self.counts) - sum(self.sizes)
        groups = (*self.sizes, rest) if rest else self.sizes
        pairs = list(combinations([group for group, size in enumerate(groups) if size], 2))
        numbers = len(self.pixels) * max((groups[a] * groups[b] for a, b in pairs), default=1)
        count = int(np.clip(_ELEMENTS // numbers, 1, _STARTS))
        limit = None if numbers <= _ELEMENTS else max(2, math.isqrt(_SAMPLED // len(self.pixels)))
        if orders is None:
            orders = generator.permuted(np.tile(np.arange(sum(groups)), (count, 1)), axis=1)
        starts = _Starts.of(self, groups, orders[:count])
        patience, idle = len(pairs) * (1 if limit is None else _PATIENCE), 0
        for pair in islice(cycle(pairs), _STEPS if pairs else 0):
            idle = 0 if starts.swap(pair, limit, generator) else idle + 1
            if idle >= patience or starts.cost.min() < self.enough + _GAIN:
                break
        return starts.best() if limit is None else starts.only_best().supplied(generator).best()


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


def _combinations(count: int, size: int) -> Indices:
    """Return all ways to choose ``size`` of ``count`` things, ways × size, as :func:`itertools.combinations` does."""
    chosen = np.arange(count)[:, None]
    for _ in range(size - 1):
        following = count - 1 - chosen[:, -1]
        chosen = chosen.repeat(following, axis=0)
        ends = following.cumsum()
        further = np.arange(len(chosen)) - (ends - following).repeat(following)
        chosen = np.column_stack([chosen, chosen[:, -1] + 1 + further])
    return chosen


@dataclass(frozen=True)
class _Choices:
    """Ways to choose the chips of a part.

    Attributes:
        part: The part.
        chosen: ways × chips of the part.
        sums: (k + 1) × ways pixels.
        least: What an assignment costs at least that has this part; see :meth:`_Problem._pair`.
        complete: Whether these are all ways.
    """

    part: int
    chosen: Indices
    sums: Singles
    least: Singles
    complete: bool

    @classmethod
    def of(cls, problem: _Problem, part: int, generator: np.random.Generator) -> _Choices:
        """Look at all ways if they are few enough, else at some that are drawn by chance."""
        count, size = len(problem.counts), problem.sizes[part]
        complete = math.comb(count, size) <= _ENUMERATED
        if complete:
            chosen = _combinations(count, size)
        else:
            chosen = generator.random((_DRAWN, count), np.float32).argpartition(size - 1, axis=1)[:, :size]
        by_chip = np.ascontiguousarray(problem.pixels.T)
        taken = by_chip.take(chosen[:, 0], 0)
        for further in chosen.T[1:]:
            taken += by_chip.take(further, 0)
        sums = np.ascontiguousarray(taken.T)
        whole = problem.pixels[:-1].sum(1)[:, None]
        others = np.maximum(1 - sums[-1], _NOTHING)
        least = _spread([_shares(sums), whole]) / (np.float32(1.5) * others) + problem.absences(part, sums)
        return cls(part, chosen, sums, least, complete)

    def bits(self, count: int) -> npt.NDArray[np.uint64]:
        """Return ways × words, a bit for each of ``count`` chips; BLAS would start threads for so small a product."""
        there = np.zeros((len(self.chosen), -(-count // 64)), np.uint64)
        for chips in self.chosen.T:
            there[np.arange(len(there)), chips >> 6] |= np.uint64(1) << (chips & 63).astype(np.uint64)
        return there

    def best(self, count: int) -> _Choices:
        """Keep those that cost least."""
        return self._only(np.argpartition(self.least, min(count, len(self.least)) - 1)[:count])

    def up_to(self, cost: float) -> _Choices:
        """Keep those that may cost no more."""
        return self._only(np.flatnonzero(self.least <= cost))

    def _only(self, at: Indices) -> _Choices:
        return _Choices(self.part, self.chosen[at], self.sums[:, at], self.least[at], self.complete)


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
    def of(cls, problem: _Problem, groups: tuple[int, ...], order: Indices) -> _Starts:
        """Sum up and judge assignments."""
        sums = [problem.pixels[:, chosen].sum(2) for chosen in np.split(order, np.cumsum(groups)[:-1], axis=1)]
        sums[: len(problem.sizes)] = [own + had[:, None] for own, had in zip(sums, problem.first.T, strict=False)]
        return cls(problem, groups, order, sums, problem.cost(sums[: len(problem.sizes)]))

    def swap(self, pair: tuple[int, int], limit: int | None, generator: np.random.Generator) -> bool:
        """Make, in every start that it helps, the best swap between two groups; tell whether it helped one.

        Args:
            pair: The groups.
            limit: Chips of each group to look at, chosen by chance if there are more; None for all.
            generator: For that choice.
        """
        first, second = (self._places(group, limit, generator) for group in pair)
        return self._swap(pair, first, second)

    def _swap(self, pair: tuple[int, int], first: Indices, second: Indices) -> bool:
        """Do so for given places in ``order``."""
        pixels, parts = self.problem.pixels, len(self.problem.sizes)
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

    def only_best(self) -> _Starts:
        """Return the start that costs least alone."""
        return _Starts.of(self.problem, self.groups, self.order[[int(np.argmin(self.cost))]])

    def supplied(self, generator: np.random.Generator) -> _Starts:
        """Swap chips of classes that a part lacks into it, which a look at some of the swaps hardly ever meets.

        Args:
            generator: For the chips that they are swapped for.

        Returns:
            Itself, which has one start.
        """
        rounds = range(len(self.groups))  # what one part lacks may be taken from the only other that has it
        lacking = ((part, index) for _ in rounds for part, index in np.argwhere(self._lacking()).tolist())
        for part, index in lacking:
            for group in range(len(self.groups)):
                if group == part or not self._lacking()[part, index]:
                    continue
                places = self._places(group, None, generator)
                having = self.problem.pixels[index, self.order[0, places]]
                holders = places[np.argsort(-having, kind="stable")[: min(int((having > 0).sum()), _HOLDERS)]]
                if holders.size and self.groups[part]:
                    self._swap((group, part), holders, self._places(part, _SAMPLED, generator))
        return self

    def _lacking(self) -> npt.NDArray[np.bool_]:
        """Tell which parts of the first start lack which classes, parts × k."""
        return np.array([sums[:-1, 0] < least for sums, least in zip(self.sums, self.problem.least, strict=False)])

    def best(self) -> list[Indices]:
        """Return the members of each part in the start that costs least."""
        order = self.order[int(np.argmin(self.cost))]
        return np.split(order, np.cumsum(self.groups))[: len(self.problem.sizes)]
