"""Balancing parts over units of chips that stay together, where chips at the seams have to go.

A unit is a group of overlapping chips or a block of a scene. Where units of different parts lie side by side, chips
of one share ground with chips of the other. Then the chip of the larger part goes: training gives way to validation
and both to the test.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from src.balance import Counts, Floats, distance, needed_pixels

Ints = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint64]

NONE = -1
ABSENCE = 2.0
"""Cost of each class that a part lacks, beside the distance of the parts' classes, 0–1: nothing else costs as much."""
_SIZE = 1.0
"""Cost of the parts' sizes if every chip were in the wrong part; with a tenth of them there, a tenth of it."""
_LOSS = 0.5
"""Cost of the seams if every chip had to go there; with a tenth of them gone, a tenth of it."""
_STARTS = 80
"""Random assignments that a search begins with."""
_REFINED = 16
"""The cheapest of them, which are changed for the better, step by step."""
_MOVES = 250
"""Moves of a unit into another part, and as many swaps of two, that a step looks at, at most."""
_ELEMENTS = 400_000
"""Moves times cells that a step looks at, about, at most: its memory and its time."""
_STEPS = 200
"""Steps of one assignment, at most."""


@dataclass(frozen=True)
class Units:
    """Chips by unit, summed up over those that have the same neighbours.

    Attributes:
        count: Number of units.
        unit: Unit of each cell; a cell is all chips of a unit that lie near the same other units.
        near: cells × w: the units that a cell lies near, as sets of bits.
        pixels: cells × k pixels of each class.
        chips: Chips of each cell.
    """

    count: int
    unit: Ints
    near: Bits
    pixels: Counts
    chips: Ints

    @classmethod
    def build(cls, unit: Ints, counts: Counts, pairs: Iterable[Ints]) -> Units:
        """Sum chips up.

        Args:
            unit: Unit 0…m−1 of each chip.
            counts: n × k pixels of each class in each chip.
            pairs: Chips that may not be in different parts, in m × 2 batches.
        """
        total = int(unit.max()) + 1
        near = np.zeros((len(unit), 0), bool)
        for batch in pairs:
            if not near.size:
                near = np.zeros((len(unit), total), bool)
            one, other = batch[unit[batch[:, 0]] != unit[batch[:, 1]]].T
            near[one, unit[other]] = True
            near[other, unit[one]] = True
        bits = as_bits(near)
        kinds, cell = np.unique(np.column_stack([unit.astype(np.uint64), bits]), axis=0, return_inverse=True)
        cell = cell.reshape(-1)
        pixels = np.zeros((len(kinds), counts.shape[1]), np.int64)
        np.add.at(pixels, cell, counts)
        return cls(total, kinds[:, 0].astype(np.int64), kinds[:, 1:], pixels, np.bincount(cell))

    @cached_property
    def neighbours(self) -> list[set[int]]:
        """The units that each unit lies near."""
        near: list[set[int]] = [set() for _ in range(self.count)]
        for unit, bits in zip(self.unit.tolist(), self.near, strict=True):
            near[unit].update(np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist())
        return near

    @cached_property
    def pixels_by_unit(self) -> Counts:
        """Pixels of each class in each unit, units × k."""
        pixels = np.zeros((self.count, self.pixels.shape[1]), np.int64)
        np.add.at(pixels, self.unit, self.pixels)
        return pixels


def as_bits(members: npt.NDArray[np.bool_]) -> Bits:
    """Pack n × m booleans into sets of bits, n × ⌈m / 64⌉."""
    padded = np.zeros((len(members), -(-members.shape[1] // 64) * 64), bool)
    padded[:, : members.shape[1]] = members
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint64)


def assign_units(units: Units, shares: Sequence[float], seed: int, *, balance: bool = True) -> tuple[Ints, float]:
    """Assign units to parts.

    Args:
        units: The units.
        shares: Percent of the chips for training, validation and test.
        seed: Of the random starts.
        balance: Whether the parts' class histograms are to agree; else only their sizes.

    Returns:
        Part of each unit (−1 for none), and what the assignment costs.
    """
    search = _Search(units, np.array(shares) / 100, balance)
    generator = np.random.default_rng(seed)
    starts = np.array([search.grow(generator) for _ in range(_STARTS)])
    cost = search.cost(starts)
    if not balance or len(search.choices) == 1:
        return starts[int(np.argmin(cost))], float(cost.min())
    found = [
        search.refine(starts[start], cost[start], generator) for start in np.argsort(cost, kind="stable")[:_REFINED]
    ]
    return min(found, key=lambda result: result[1])


def cost_of(units: Units, parts: Ints, shares: Sequence[float]) -> float:
    """Return what an assignment costs whose parts' class histograms are to agree; see :func:`assign_units`."""
    return float(_Search(units, np.array(shares) / 100, balance=True).cost(parts[None])[0])


@dataclass(frozen=True)
class _Search:
    units: Units
    shares: Floats
    balance: bool

    @cached_property
    def choices(self) -> list[int]:
        """Parts that a unit can go to."""
        parts = [part for part, share in enumerate(self.shares) if share > 0]
        return [*parts, NONE] if self.shares.sum() < 1 - 1e-9 else parts

    def cost(self, parts: Ints) -> Floats:
        """Return the cost of assignments, given as a × units."""
        own = parts[:, self.units.unit]
        stays = own >= 0
        for part in (1, 2) if self.units.near.shape[1] else ():
            touches = ((as_bits(parts == part)[:, None] & self.units.near) != 0).any(-1)
            stays &= ~touches | (own >= part)
        filled = [part for part in self.choices if part != NONE]
        kept = [((own == part) & stays).astype(np.float64) for part in filled]
        chips = np.stack([mask @ self.units.chips for mask in kept], -1)
        unused = (own == NONE) @ self.units.chips
        total = chips.sum(-1) + unused
        wrong = np.abs(chips / np.maximum(total, 1)[:, None] - self.shares[filled]).sum(-1) / 2
        lost = 1 - total / self.units.chips.sum()
        cost = _SIZE * wrong + _LOSS * lost + ABSENCE * len(self.units.pixels) * (chips == 0).sum(-1)
        if self.balance:
            sums = [mask @ self.units.pixels for mask in kept]
            needed = needed_pixels(self.units.pixels_by_unit, filled)
            absent = sum((pixels < least).sum(-1) for pixels, least in zip(sums, needed, strict=True))
            cost = cost + distance(sums) + ABSENCE * absent
        return np.asarray(cost)

    def grow(self, generator: np.random.Generator) -> Ints:
        """Make a random assignment whose parts hang together: few seams, few chips lost."""
        chips = np.bincount(self.units.unit, self.units.chips, self.units.count)
        wanted = {part: self._share(part) * chips.sum() for part in self.choices}
        *small, largest = sorted(self.choices, key=self._share)
        parts = np.full(self.units.count, largest)
        free = np.ones(self.units.count, bool)
        anywhere = iter(generator.permutation(self.units.count).tolist())
        for part in small:
            front: list[int] = []
            left = wanted[part]
            while left > 0:
                unit = front.pop(int(generator.integers(len(front)))) if front else next(anywhere, None)
                if unit is None or (chips[unit] > 2 * left and left < wanted[part]):
                    break
                if free[unit]:
                    parts[unit], free[unit] = part, False
                    front.extend(self.units.neighbours[unit])
                    left -= chips[unit]
        return parts

    def _share(self, part: int) -> float:
        return float(self.shares[part]) if part != NONE else 1 - float(self.shares.sum())

    def refine(self, parts: Ints, cost: float, generator: np.random.Generator) -> tuple[Ints, float]:
        """Move one unit, or swap two, as long as that helps."""
        for _ in range(_STEPS):
            changed = self._changes(parts, generator)
            costs = self.cost(changed)
            best = int(np.argmin(costs))
            if costs[best] >= cost - 1e-12:
                break
            parts, cost = changed[best], float(costs[best])
        return parts, cost

    def _changes(self, parts: Ints, generator: np.random.Generator) -> Ints:
        """Return assignments that differ from one by a unit in another part, or by two units swapped.

        Only units at a seam are moved: one amidst its own part would lose all chips around it.
        """
        at_seams = [
            unit
            for unit, near in enumerate(self.units.neighbours)
            if not near or any(parts[other] != parts[unit] for other in near)
        ]
        movable = np.array(at_seams or range(self.units.count))
        limit = int(np.clip(_ELEMENTS // self.units.chips.size, 30, _MOVES))
        moves = np.array([(unit, part) for unit in movable for part in self.choices if part != parts[unit]])
        if len(moves) > limit:
            moves = generator.choice(moves, limit, replace=False)
        moved = np.tile(parts, (len(moves), 1))
        moved[np.arange(len(moves)), moves[:, 0]] = moves[:, 1]
        one, other = generator.choice(movable, size=(2, limit))
        one, other = one[parts[one] != parts[other]], other[parts[one] != parts[other]]
        swapped = np.tile(parts, (len(one), 1))
        swapped[np.arange(len(one)), one], swapped[np.arange(len(one)), other] = parts[other], parts[one]
        return np.concatenate([moved, swapped])
