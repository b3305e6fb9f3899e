"""Every pixel of a scene counts in one of the chips that show it, the one whose centre is nearest."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from src.grid import Window, chip_windows
from src.ownership import Ownership

WINDOWS = st.tuples(st.integers(0, 2), st.builds(Window, *[st.integers(-4, 9)] * 2, *[st.integers(1, 9)] * 2))


@given(st.lists(st.none() | WINDOWS, min_size=1, max_size=9))
def test_a_pixel_counts_in_the_nearest_chip_of_its_scene_and_of_equally_near_ones_in_the_first(
    places: list[tuple[int, Window] | None],
) -> None:
    best: dict[tuple[int, int, int], tuple[float, int]] = {}
    shown: dict[tuple[int, int, int], int] = {}
    for chip, place in enumerate(places):
        if place is not None:
            scene, (top, left, height, width) = place
            for row, column in np.ndindex(height, width):
                distance = (row + 0.5 - height / 2) ** 2 + (column + 0.5 - width / 2) ** 2
                pixel = scene, top + row, left + column
                best[pixel] = min(best.get(pixel, (np.inf, 0)), (distance, chip))
                shown[pixel] = shown.get(pixel, 0) + 1
    ownership = Ownership(places)
    for chip, place in enumerate(places):
        owned = ownership.of(chip)
        if place is None:
            assert owned is None
            continue
        scene, (top, left, height, width) = place
        pixels = [(scene, top + row, left + column) for row, column in np.ndindex(height, width)]
        expected = np.array([best[pixel][1] == chip for pixel in pixels]).reshape(height, width)
        several = np.array([shown[pixel] > 1 for pixel in pixels]).reshape(height, width)
        assert (owned is None) == (not several.any())
        if owned is not None:
            np.testing.assert_array_equal(owned.own, expected)
            np.testing.assert_array_equal(owned.several, several)


def test_chips_side_by_side_count_whole() -> None:
    places = [(0, window) for window in chip_windows(24, 24, (8, 8), (8, 8))]
    ownership = Ownership(places)
    assert not any(ownership.overlapping(chip) for chip in range(len(places)))
    assert ownership.of_batch(range(len(places)), (8, 8)) is None


def test_a_batch_counts_whole_chips_beside_chips_that_overlap() -> None:
    ownership = Ownership([(0, Window(0, 0, 4, 6)), None, (0, Window(0, 4, 4, 6))])
    owned = ownership.of_batch(range(3), (6, 4))
    assert owned is not None
    assert owned.own.shape == (3, 4, 6)
    assert owned.own.sum((1, 2)).tolist() == [20, 24, 20]
    assert owned.several.sum((1, 2)).tolist() == [8, 0, 8]


def test_each_of_many_chips_is_compared_with_its_neighbours_only() -> None:
    places = [(scene, window) for scene in range(2) for window in chip_windows(480, 480, (32, 32), (16, 16))]
    ownership = Ownership(places)
    assert max(len(ownership.overlapping(chip)) for chip in range(len(places))) == 8
    counted = sum(int(owned.own.sum()) for chip in range(len(places)) if (owned := ownership.of(chip)) is not None)
    assert counted == 2 * 496 * 496
