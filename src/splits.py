"""Assigning chips to training, validation and test: pure functions of counts, places, shares and a seed.

No pixel of ground is ever in two parts. Chips that share none go where the balance wants them; groups of
overlapping chips go to one part together; where overlap ties too many together, scenes are cut into blocks and the
chips that straddle two parts are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from src.balance import Counts, balanced_parts, distance
from src.blocks import ABSENCE, NONE, Units, assign_units, cost_of
from src.errors import UserError
from src.ground import Places, components

Strategy = Literal["balanced", "blocks", "random"]
Parts = npt.NDArray[np.int64]
"""Part of each chip: 0 train, 1 validation, 2 test, −1 none."""

_BLOCKS = (24, 48, 96)
"""Numbers of blocks that are tried where scenes have to be cut: more follow the classes, fewer have fewer seams."""
_TRIES = 8
"""Searches by swaps for single chips, of which each takes a moment."""
_FEW, _MORE = 700, 1500
"""Groups and single chips up to which they are assigned together too, in seconds; and where a part lacks a class."""


@dataclass(frozen=True)
class Split:
    """An assignment of chips to parts.

    Attributes:
        parts: Part of each chip.
        imbalance: How much the parts' class histograms differ; see :func:`imbalance`.
        straddling: Chips left out because they share ground with another part, or lie within its buffer.
        cut: Side of the blocks that scenes were cut into, in pixels; None where they were not.
    """

    parts: Parts
    imbalance: float
    straddling: int
    cut: tuple[int, int] | None = None


def split_chips(
    counts: Counts,
    places: Places,
    shares: Sequence[float],
    strategy: Strategy = "balanced",
    seed: int = 42,
    buffer: int = 0,
    block: int | None = None,
) -> Split:
    """Assign chips to parts.

    Args:
        counts: n × k pixels of each class in each chip.
        places: Where the chips lie.
        shares: Percent for training, validation and test; the rest is in no part.
        strategy: ``balanced``: the parts' class histograms agree. ``blocks``: they agree, and the parts are whole
            blocks of the scenes. ``random``: by chance.
        seed: Of everything random.
        buffer: With ``blocks``, pixels that lie between chips of different parts at least.
        block: Side of a block in pixels; None to choose it.

    Raises:
        UserError: There are fewer chips than parts, or overlap leaves one without a chip.
    """
    filled = sum(share > 0 for share in shares)
    if len(counts) < filled:
        raise UserError(f"There are {len(counts)} chips for {filled} parts; expected one for each at least.")
    group = components(len(counts), places.pairs(buffer))
    if strategy != "blocks" and group.max() + 1 == len(counts):
        sizes = part_sizes(len(counts), shares)
        parts = balanced_parts(counts, sizes, seed) if strategy == "balanced" else random_parts(counts, sizes, seed)
        return Split(parts, imbalance(counts, parts), 0)
    smallest = min(share for share in shares if share > 0) / 100 * len(counts)
    if strategy != "blocks" and np.bincount(group).max() <= max(smallest, 1) and group.max() + 1 >= filled:
        parts = _assign_groups(counts, group, shares, seed, balance=strategy == "balanced")
        return Split(parts, imbalance(counts, parts), 0)
    return _cut_into_blocks(counts, places, shares, strategy, seed, buffer, block)


def _assign_groups(counts: Counts, group: Parts, shares: Sequence[float], seed: int, *, balance: bool) -> Parts:
    """Assign groups of chips, of which some are single chips.

    These are many more in most cases, and a search by swaps is fast and good for them. It goes last and makes up for
    what the larger groups lack. Where all are few, a search over all of them may find better.
    """
    units = Units.build(group, counts, [])
    apart, cost = _singles_last(counts, group, units, shares, seed) if balance else (None, math.inf)
    if apart is not None and units.count > (_FEW if cost < ABSENCE else _MORE):
        return apart
    together, others = assign_units(units, shares, seed, balance=balance)
    return apart if apart is not None and cost <= others else together[group]


def _singles_last(
    counts: Counts, group: Parts, units: Units, shares: Sequence[float], seed: int
) -> tuple[Parts | None, float]:
    """Assign groups of several chips, then single ones so that all parts are alike.

    Returns:
        Part of each chip, and what that costs; None where single chips cannot bring the parts to their sizes.
    """
    single = np.bincount(group)[group] == 1
    if not single.any():
        return None, math.inf
    number = np.unique(group[~single], return_inverse=True)[1].reshape(-1)
    several = Units.build(number, counts[~single], [])
    found, _ = assign_units(several, shares, seed)
    parts, by_unit = np.full(len(counts), NONE), np.full(units.count, NONE)
    parts[~single] = found[number]
    left = [size - int((parts == part).sum()) for part, size in enumerate(part_sizes(len(counts), shares))]
    if min(left) < 0 or not 0 < sum(left) <= single.sum():
        return None, math.inf
    best, least = parts, math.inf
    for further in range(_TRIES):
        tried = parts.copy()
        settled = several.pixels_by_unit, found
        tried[single] = balanced_parts(counts[single], left, seed + further, settled=settled)
        by_unit[group] = tried
        if (cost := cost_of(units, by_unit, shares)) < least:
            best, least = tried, cost
    return best, least


def _cut_into_blocks(
    counts: Counts,
    places: Places,
    shares: Sequence[float],
    strategy: Strategy,
    seed: int,
    buffer: int,
    block: int | None,
) -> Split:
    """Assign blocks of the scenes, of the side that costs least, and leave out what straddles two parts."""
    best: tuple[float, Parts, tuple[int, int]] | None = None
    for side in _sides(places, block):
        unit = _block_of(places, side)
        if unit.max() + 1 < sum(share > 0 for share in shares):
            continue
        units = Units.build(unit, counts, places.pairs(buffer))
        found, cost = assign_units(units, shares, seed, balance=strategy != "random")
        if best is None or cost < best[0]:
            best = cost, found[unit], side
    if best is None:
        raise UserError("The scenes have fewer blocks than there are parts; make split.block smaller.")
    _, assigned, side = best
    parts = _without_straddlers(assigned, places, buffer)
    for part, share in enumerate(shares):
        if share > 0 and not (parts == part).any():
            raise UserError(
                f"Chips of {places.size[0]} × {places.size[1]} pixels every {places.step[0]} × {places.step[1]} share "
                "so much ground that one part would have none; make chip.step larger, or chip.size or split.buffer "
                "smaller."
            )
    return Split(parts, imbalance(counts, parts), int(((assigned != NONE) & (parts == NONE)).sum()), side)


def _sides(places: Places, block: int | None) -> list[tuple[int, int]]:
    """Return the sides (x, y) of blocks to try, in pixels."""
    if block is not None:
        return [(block, block)]
    along = [max(1, round(math.sqrt(len(places.row) / blocks))) for blocks in _BLOCKS]
    sides = [(chips * places.step[0], chips * places.step[1]) for chips in along]
    return sorted(set(sides))


def _block_of(places: Places, side: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Number the blocks that chips begin in, scene by scene."""
    keys = np.column_stack([places.scene, places.row // side[1], places.column // side[0]])
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)


def _without_straddlers(parts: Parts, places: Places, buffer: int) -> Parts:
    """Leave out chips until no two of different parts share ground: training's before validation's, and never test's.

    What validation shares with test is left out first, so that training loses nothing to chips that are gone.
    """
    kept = parts.copy()
    for part in (1, 0):
        for pairs in places.pairs(buffer):
            for one, other in (pairs.T, pairs.T[::-1]):
                kept[one[(kept[one] == part) & (kept[other] > part)]] = NONE
    return kept


def part_sizes(count: int, shares: Sequence[float]) -> tuple[int, int, int]:
    """Return how many of ``count`` chips each part gets.

    The parts get their shares rounded so that the sum is right (largest remainder), but none with a share above 0
    stays empty while there are chips.

    Args:
        count: Number of chips.
        shares: Percent for training, validation and test; their sum is at most 100.
    """
    wanted = [share > 0 for share in shares]
    total = max(round(count * min(sum(shares), 100.0) / 100), sum(wanted))
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
    sums = [counts[parts == part].sum(0).astype(np.float64) for part in range(3) if (parts == part).any()]
    return float(np.max(distance(sums)))


def random_parts(counts: Counts, sizes: Sequence[int], seed: int) -> Parts:
    """Assign chips by chance, as many to each part as ``sizes`` says."""
    parts = np.full(len(counts), NONE)
    order = np.random.default_rng(seed).permutation(len(counts))
    parts[order[: sum(sizes)]] = np.repeat(np.arange(3), sizes)
    return parts
