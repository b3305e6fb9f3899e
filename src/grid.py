"""Windows over a raster: pure functions of sizes, shared by all who cut one up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Blend = Literal["cosine", "crop"]
"""How neighbouring windows share what they both cover: faded into each other, or cut in the middle."""


class Window(NamedTuple):
    """A rectangle of a scene in pixels. It may reach over the scene's edge."""

    row: int
    column: int
    height: int
    width: int

    @property
    def row_stop(self) -> int:
        """First row below the window."""
        return self.row + self.height

    @property
    def column_stop(self) -> int:
        """First column right of the window."""
        return self.column + self.width

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    def intersection(self, other: Window) -> Window:
        """Return what both share; height and width are 0 where they share nothing."""
        row, column = max(self.row, other.row), max(self.column, other.column)
        height = max(0, min(self.row_stop, other.row_stop) - row)
        width = max(0, min(self.column_stop, other.column_stop) - column)
        return Window(row, column, height, width)


def chip_windows(height: int, width: int, size: tuple[int, int], step: tuple[int, int]) -> Iterator[Window]:
    """Yield the windows of chips over a scene, row by row.

    A chip starts at every multiple of the step inside the scene, so the last ones may reach over its lower and
    right edge. In one dimension, size 4 and step 3 over 8 pixels::

        0 1 2 3 4 5 6 7
        x x x x            starts at 0
              x x x x      starts at 3
                    x x··  starts at 6 and reaches two pixels over the edge

    Args:
        height: Rows of the scene.
        width: Columns of the scene.
        size: Chip (width, height) in pixels, as ``chip.size=[x,y]``.
        step: Distance (x, y) of neighbouring chips' upper left corners in pixels.
    """
    for row in range(0, height, step[1]):
        for column in range(0, width, step[0]):
            yield Window(row, column, size[1], size[0])


def spread_windows(height: int, width: int, side: int, each: int) -> Iterator[Window]:
    """Yield small windows that lie evenly over a scene, row by row: a sample of it.

    Args:
        height: Rows of the scene.
        width: Columns of the scene.
        side: Pixels of a window's side; less where the scene is smaller.
        each: Windows along each axis, in the middle of as many equal parts.
    """
    down, across = min(side, height), min(side, width)
    for row in range(each):
        for column in range(each):
            first_row = (2 * row + 1) * height // (2 * each) - down // 2
            first_column = (2 * column + 1) * width // (2 * each) - across // 2
            yield Window(min(max(first_row, 0), height - down), min(max(first_column, 0), width - across), down, across)


@dataclass(frozen=True)
class Span:
    """One window along one axis of a scene, and what it contributes there.

    Attributes:
        start: First pixel that the window reads.
        first: First pixel that it contributes to.
        stop: Pixel behind the last one that it contributes to.
        weights: Its share in each pixel of first…stop; over all windows the shares of a pixel sum to one.
        final: Pixel behind the last one that no later window contributes to: first…final is then finished.
    """

    start: int
    first: int
    stop: int
    weights: npt.NDArray[np.float32]
    final: int


def inner_step(window: int, halo: int, multiple: int = 1) -> int:
    """Distance of neighbouring windows that share at least ``halo`` pixels on each side.

    It is a multiple of ``multiple`` where that fits in: a network that halves its input five times sees the same
    32 × 32 cells then, whichever window they lie in.

    Raises:
        ValueError: The window has no pixel beside its halo.
    """
    step = window - 2 * halo
    if step < 1:
        raise ValueError(f"a window of {window} pixels has nothing inside a halo of {halo} pixels on each side")
    return step // multiple * multiple or step


def window_count(length: int, window: int, halo: int, multiple: int = 1) -> int:
    """Count the windows of :func:`axis_spans`."""
    if length <= window:
        return 1
    return math.ceil((length - window) / inner_step(window, halo, multiple)) + 1


def axis_spans(length: int, window: int, halo: int, blend: Blend, multiple: int = 1) -> tuple[Span, ...]:
    """Cover an axis with windows that share a halo, and tell what each contributes.

    Windows lie a fixed step apart. The last one is shifted inward, so it has more context but contributes to the
    same pixels as it would have without the shift; only a scene shorter than the window is reached over. In one
    dimension, window 6 and halo 1 over 12 pixels (step 4)::

        0 1 2 3 4 5 6 7 8 9 · ·
        x x x x x x                 reads 0–5
                x x x x x x         reads 4–9
                    x x x x x x     would read 8–13, is shifted and reads 6–11

    Of what two windows share, ``crop`` puts the border in the middle. ``cosine`` leaves out a quarter at each end,
    where one of both sees least of the surroundings, and fades over the half between, with weights sin² and cos².

    Args:
        length: Pixels of the axis, at least 1.
        window: Pixels of a window.
        halo: Pixels at each side of a window that are not its own, at least.
        blend: See above.
        multiple: The step is a multiple of it; see :func:`inner_step`.

    Raises:
        ValueError: The window has no pixel beside its halo.
    """
    if length <= window:
        return (Span(0, 0, length, np.ones(length, np.float32), length),)
    step = inner_step(window, halo, multiple)
    count = window_count(length, window, halo, multiple)
    lead = (window - step) // (2 if blend == "crop" else 4)
    firsts = [0, *(i * step + lead for i in range(1, count)), length]
    stops = [*(firsts[i + 1] if blend == "crop" else i * step + window - lead for i in range(count - 1)), length]
    weights = _unity_weights(length, firsts[:-1], stops)
    return tuple(
        Span(min(i * step, length - window), firsts[i], stops[i], weights[i], firsts[i + 1]) for i in range(count)
    )


def _unity_weights(length: int, firsts: list[int], stops: list[int]) -> list[npt.NDArray[np.float32]]:
    """Fade each span in and out over what it shares with its neighbours, and divide by the sum."""
    raw = []
    for i, (first, stop) in enumerate(zip(firsts, stops, strict=True)):
        weight = np.ones(stop - first)
        if i > 0 and (shared := min(stops[i - 1], stop) - first) > 0:
            weight[:shared] *= _fade(shared)
        if i + 1 < len(firsts) and (shared := stop - firsts[i + 1]) > 0:
            weight[-shared:] *= _fade(shared)[::-1]
        raw.append(weight)
    total = np.zeros(length)
    for first, stop, weight in zip(firsts, stops, raw, strict=True):
        total[first:stop] += weight
    return [
        (weight / total[first:stop]).astype(np.float32) for first, stop, weight in zip(firsts, stops, raw, strict=True)
    ]


def _fade(count: int) -> npt.NDArray[np.float64]:
    """Rise from 0 to 1 as sin², sampled at pixel centres: never 0, and with its mirror image it sums to one."""
    return np.asarray(np.sin((np.arange(count) + 0.5) / count * np.pi / 2) ** 2)


class WindowGroup(NamedTuple):
    """Neighbouring chips that are read at once: their joint extent, and the chips."""

    extent: Window
    windows: tuple[Window, ...]


def grouped_windows(
    height: int, width: int, size: tuple[int, int], step: tuple[int, int], pixels: int, *, rows: bool
) -> Iterator[WindowGroup]:
    """Yield the windows of :func:`chip_windows` in groups of neighbours.

    Args:
        height: Rows of the scene.
        width: Columns of the scene.
        size: Chip (width, height) in pixels.
        step: Distance (x, y) of neighbouring chips in pixels.
        pixels: Pixels that a group's extent may have, unless it is a single chip.
        rows: Whether groups are runs of one row of chips (for rasters stored row by row) or about square.
    """
    across, down = _group_shape(size, step, pixels, rows=rows)
    for top in range(0, height, step[1] * down):
        for left in range(0, width, step[0] * across):
            windows = tuple(
                Window(row, column, size[1], size[0])
                for row in range(top, min(top + step[1] * down, height), step[1])
                for column in range(left, min(left + step[0] * across, width), step[0])
            )
            last = windows[-1]
            yield WindowGroup(Window(top, left, last.row_stop - top, last.column_stop - left), windows)


_MOST_CHIPS = 256
"""Chips in a group: where they overlap much, a small scene would be one, for one core and one step of progress."""


def _group_shape(size: tuple[int, int], step: tuple[int, int], pixels: int, *, rows: bool) -> tuple[int, int]:
    """Return how many chips a group has across and down."""
    if any(s > 1.5 * z for s, z in zip(step, size, strict=True)):
        return 1, 1  # gaps would be most of what is read
    if rows:
        return min(_MOST_CHIPS, max(1, (pixels // size[1] - size[0]) // step[0] + 1)), 1
    side = min(math.isqrt(pixels), pixels // size[0])
    down = min(math.isqrt(_MOST_CHIPS), max(1, (side - size[1]) // step[1] + 1))
    height = size[1] + (down - 1) * step[1]
    return min(_MOST_CHIPS // down, max(1, (pixels // height - size[0]) // step[0] + 1)), down
