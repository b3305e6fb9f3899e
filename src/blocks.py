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

NONE = -1
_ABSENCE = 2.0
"""Costs of an assignment, all as shares: a class that is absent from a part…"""
_SIZE = 1.0
"""… chips in the wrong part, by number …"""
_LOSS = 0.5
"""… and chips that have to go."""
_STARTS = 100
_REFINED = 20
_MOVES = 400
_ELEMENTS = 2_000_000
"""Changes that are looked at in one step, and numbers that this may take."""
_STEPS = 200


@dataclass(frozen=True)
class Units:
    """Chips by unit, summed up over those that have the same neighbours.

    Attributes:
        count: Number of units.
        unit: Unit of each cell; a cell is all chips of a unit that lie near the same other units.
        near: cells × w units that a cell lies near; its own where it has fewer.
        pixels: cells × k pixels of each class.
        chips: Chips of each cell.
        cell: Cell of each chip.
    """

    count: int
    unit: Ints
    near: Ints
    pixels: Counts
    chips: Ints
    cell: Ints

    @classmethod
    def build(cls, unit: Ints, counts: Counts, pairs: Iterable[Ints]) -> Units:
        """Sum chips up.

        Args:
            unit: Unit 0…m−1 of each chip.
            counts: n × k pixels of each class in each chip.
            pairs: Chips that may not be in different parts, in m × 2 batches.
        """
        total = int(unit.max()) + 1
        keys = [np.zeros(0, np.int64)]
        for batch in pairs:
            other = batch[unit[batch[:, 0]] != unit[batch[:, 1]]]
            keys.append(
                np.concatenate([other[:, 0] * total + unit[other[:, 1]], other[:, 1] * total + unit[other[:, 0]]])
            )
            if len(keys) > 64:
                keys = [np.unique(np.concatenate(keys))]
        chip, neighbour = np.divmod(np.unique(np.concatenate(keys)), total)
        width = int(np.bincount(chip, minlength=1).max())
        near = np.repeat(unit[:, None], width, axis=1)
        near[chip, np.arange(len(chip)) - np.searchsorted(chip, chip)] = neighbour
        kinds, cell = np.unique(np.column_stack([unit, near]), axis=0, return_inverse=True)
        cell = cell.reshape(-1)
        pixels = np.zeros((len(kinds), counts.shape[1]), np.int64)
        np.add.at(pixels, cell, counts)
        return cls(total, kinds[:, 0], kinds[:, 1:], pixels, np.bincount(cell), cell)


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
    if not balance:
        return starts[int(np.argmin(cost))], float(cost.min())
    found = [
        search.refine(starts[start], cost[start], generator) for start in np.argsort(cost, kind="stable")[:_REFINED]
    ]
    return min(found, key=lambda result: result[1])


@dataclass(frozen=True)
class _Search:
    units: Units
    shares: Floats
    balance: bool

    @property
    def choices(self) -> list[int]:
        """Parts that a unit can go to."""
        parts = [part for part, share in enumerate(self.shares) if share > 0]
        return [*parts, NONE] if self.shares.sum() < 1 - 1e-9 else parts

    def cost(self, parts: Ints) -> Floats:
        """Return the cost of assignments, given as a × units."""
        own = parts[:, self.units.unit]
        stays = (own >= 0) & ~(parts[:, self.units.near] > own[..., None]).any(-1)
        filled = [part for part in self.choices if part != NONE]
        kept = [((own == part) & stays).astype(np.float64) for part in filled]
        chips = np.stack([mask @ self.units.chips for mask in kept], -1)
        unused = (own == NONE) @ self.units.chips
        total = chips.sum(-1) + unused
        wrong = np.abs(chips / np.maximum(total, 1)[:, None] - self.shares[filled]).sum(-1) / 2
        lost = 1 - total / self.units.chips.sum()
        cost = _SIZE * wrong + _LOSS * lost + _ABSENCE * len(self.units.pixels) * (chips == 0).sum(-1)
        if self.balance:
            sums = [mask @ self.units.pixels for mask in kept]
            needed = needed_pixels(self._pixels, filled)
            absent = sum((pixels < least).sum(-1) for pixels, least in zip(sums, needed, strict=True))
            cost = cost + distance(sums) + _ABSENCE * absent
        return np.asarray(cost)

    @cached_property
    def _pixels(self) -> Counts:
        """Pixels of each class in each unit."""
        pixels = np.zeros((self.units.count, self.units.pixels.shape[1]), np.int64)
        np.add.at(pixels, self.units.unit, self.units.pixels)
        return pixels

    def grow(self, generator: np.random.Generator) -> Ints:
        """Make a random assignment whose parts hang together: few seams, few chips lost."""
        chips = np.bincount(self.units.unit, self.units.chips, self.units.count)
        neighbours = self._neighbours
        by_size = sorted(self.choices, key=lambda part: self.shares[part] if part != NONE else 1 - self.shares.sum())
        parts = np.full(self.units.count, by_size[-1])
        free = set(range(self.units.count))
        for part in by_size[:-1]:
            share = self.shares[part] if part != NONE else 1 - self.shares.sum()
            wanted, front = share * chips.sum(), set[int]()
            while wanted > 0 and len(free) > 1:
                unit = int(generator.choice(sorted(front or free)))
                if chips[unit] > 2 * wanted and wanted < share * chips.sum():
                    break
                parts[unit] = part
                free.discard(unit)
                front = (front | neighbours[unit]) & free
                wanted -= chips[unit]
        return parts

    @cached_property
    def _neighbours(self) -> list[set[int]]:
        """Units that each unit lies near."""
        neighbours: list[set[int]] = [set() for _ in range(self.units.count)]
        for unit, near in zip(self.units.unit.tolist(), self.units.near.tolist(), strict=True):
            neighbours[unit].update(near)
        return neighbours

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
        """Return assignments that differ from one by a unit in another part, or by two units swapped."""
        limit = int(np.clip(_ELEMENTS // max(self.units.near.size, 1), 50, _MOVES))
        moves = np.array([(u, p) for u in range(len(parts)) for p in self.choices if p != parts[u]])
        if len(moves) > limit:
            moves = generator.choice(moves, limit, replace=False)
        moved = np.tile(parts, (len(moves), 1))
        moved[np.arange(len(moves)), moves[:, 0]] = moves[:, 1]
        one, other = generator.integers(len(parts), size=(2, limit))
        one, other = one[parts[one] != parts[other]], other[parts[one] != parts[other]]
        swapped = np.tile(parts, (len(one), 1))
        swapped[np.arange(len(one)), one], swapped[np.arange(len(one)), other] = parts[other], parts[one]
        return np.concatenate([moved, swapped])
