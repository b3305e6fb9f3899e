"""Windows of chips: where they start, and that groups of them are the same windows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from src.grid import Window, chip_windows, grouped_windows

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def test_chips_start_at_multiples_of_the_step_and_reach_over_the_lower_right_edge() -> None:
    columns = [w.column for w in chip_windows(1, 8, (4, 1), (3, 1))]
    assert columns == [0, 3, 6]
    assert [(w.row, w.column) for w in chip_windows(4, 5, (3, 2), (3, 2))] == [(0, 0), (0, 3), (2, 0), (2, 3)]


@given(st.integers(1, 120), st.integers(1, 120), SIZES, SIZES)
def test_with_a_step_up_to_the_size_every_pixel_is_in_a_chip(
    height: int, width: int, size: tuple[int, int], step: tuple[int, int]
) -> None:
    step = (min(step[0], size[0]), min(step[1], size[1]))
    windows = list(chip_windows(height, width, size, step))
    assert {w.row for w in windows} == set(range(0, height, step[1]))
    assert max(w.row_stop for w in windows) >= height
    assert max(w.column_stop for w in windows) >= width


@given(st.integers(1, 120), st.integers(1, 120), SIZES, SIZES, st.integers(1, 5000), st.booleans())
def test_groups_hold_the_same_windows_and_are_not_larger_than_allowed(
    height: int, width: int, size: tuple[int, int], step: tuple[int, int], pixels: int, rows: bool
) -> None:
    groups = list(grouped_windows(height, width, size, step, pixels, rows=rows))
    assert sorted(w for g in groups for w in g.windows) == sorted(chip_windows(height, width, size, step))
    for group in groups:
        assert group.extent.pixels <= pixels or len(group.windows) == 1
        assert all(group.extent.intersection(window) == window for window in group.windows)
        assert not rows or len({window.row for window in group.windows}) == 1


def test_chips_with_wide_gaps_are_read_one_by_one() -> None:
    groups = list(grouped_windows(1000, 1000, (10, 10), (100, 100), 10**6, rows=False))
    assert all(len(group.windows) == 1 for group in groups)


WINDOWS = st.builds(Window, *[st.integers(-20, 20)] * 2, *[st.integers(0, 20)] * 2)


@given(WINDOWS, WINDOWS)
def test_an_intersection_is_the_pixels_that_both_have(one: Window, other: Window) -> None:

    def pixels(w: Window) -> set[tuple[int, int]]:
        return {(r, k) for r in range(w.row, w.row_stop) for k in range(w.column, w.column_stop)}

    shared = one.intersection(other)
    assert pixels(shared) == pixels(one) & pixels(other)
    assert shared.pixels == len(pixels(one) & pixels(other))
