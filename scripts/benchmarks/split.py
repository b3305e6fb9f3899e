"""The search for balanced parts against the best of 100 000 random permutations, as fast as NumPy finds it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from scripts.benchmarks.measuring import Options, take_turns
from scripts.benchmarks.rows import Row, compared
from src.balance import ALIKE, Counts, balanced_parts
from src.splits import imbalance, part_sizes

PERMUTATIONS = 100_000
SETS = ((18, 5), (18, 16), (30, 8), (80, 9), (142, 9), (256, 16), (5000, 8))
"""Chips and classes of the sets that are split."""
SPLITS = 10
"""Searches in one run, which a clock could hardly tell from none."""
GOAL = 50.0
"""How many times as fast the search is at what it takes to be as good."""
_BATCH = 500
"""Permutations at a time: as many as stay in the cache."""


def measure(options: Options) -> list[Row]:
    """Compare time and distance on sets of every size, both on one thread.

    The permutations are judged by their distance alone, while the search also keeps every class in all parts where
    it can: on tiny sets of many classes its distance may be the larger one therefore.
    """
    return [row for chips, classes in SETS for row in _compare(chips, classes, options)]


def _compare(chips: int, classes: int, options: Options) -> list[Row]:
    counts = random_counts(chips, classes)
    sizes = part_sizes(chips, (80, 10, 10))
    seeds = iter(range(1_000_000))
    found: dict[str, list[float]] = {"theirs": [], "soon": [], "ours": []}

    def theirs() -> float:
        found["theirs"].append(best_permutation(counts, sizes, next(seeds)))
        return 1.0

    def search(name: str, enough: float) -> float:
        parts = (balanced_parts(counts, sizes, next(seeds), enough) for _ in range(SPLITS))
        found[name].extend(imbalance(counts, each) for each in parts)
        return SPLITS

    runs = {
        "theirs": theirs,
        "soon": lambda: search("soon", found["theirs"][-1]),
        "ours": lambda: search("ours", ALIKE),
    }
    turns = take_turns(runs, replace(options, seconds=options.seconds / 4))
    distances = {name: f"{np.median(values):.4f}" for name, values in found.items()}
    step, meaning = f"split {chips} chips, {classes} classes", f"{PERMUTATIONS:,} permutations: {distances['theirs']}"
    return [
        compared(
            f"{step}{what}: {distances[name]}",
            (turns[name], turns["theirs"]),
            meaning,
            unit="splits/s",
            goal=goal,
            against="others",
        )
        for name, what, goal in (("soon", ", ended when as good", GOAL), ("ours", "", None))
    ]


def random_counts(chips: int, classes: int) -> Counts:
    """Draw chips whose class shares and labelled pixels vary."""
    generator = np.random.default_rng(chips)
    shares = generator.dirichlet(np.full(classes, 0.5), chips)
    return (shares * generator.integers(2_000, 65_536, (chips, 1))).astype(np.int64)


def best_permutation(counts: Counts, sizes: tuple[int, int, int], seed: int) -> float:
    """Return the smallest mean total variation distance of many random permutations.

    Nothing is done that the distance does not take: only the two smaller parts are drawn, by the beginning of a
    Fisher-Yates shuffle or, where they are large, by the order of random keys; the third is what remains.
    """
    generator = np.random.default_rng(seed)
    pixels, drawn = counts.astype(np.float32), sizes[1] + sizes[2]
    order = np.tile(np.arange(len(counts)), (_BATCH, 1))
    rows, best = np.arange(_BATCH), np.inf
    for _ in range(PERMUTATIONS // _BATCH):
        if len(counts) <= 1000:
            spans = len(counts) - np.arange(drawn)
            places = (generator.random((_BATCH, drawn), np.float32) * spans).astype(np.intp) + np.arange(drawn)
            for i in range(drawn):
                order[:, i], order[rows, places[:, i]] = order[rows, places[:, i]], order[:, i].copy()
            chosen = pixels[order[:, :drawn]]
            one, other = chosen[:, : sizes[1]].sum(1), chosen[:, sizes[1] :].sum(1)
        else:
            keys = generator.random((_BATCH, len(counts)), np.float32)
            limits = np.partition(keys, (sizes[1] - 1, drawn - 1), axis=1)
            one = (keys <= limits[:, [sizes[1] - 1]]).astype(np.float32) @ pixels
            other = (keys <= limits[:, [drawn - 1]]).astype(np.float32) @ pixels - one
        sums = [pixels.sum(0) - one - other, one, other]
        shares = [part / part.sum(1, keepdims=True) for part in sums]
        high, low = (f(f(shares[0], shares[1]), shares[2]) for f in (np.maximum, np.minimum))
        best = min(best, float((high - low).sum(1).min()) / 3)
    return best
