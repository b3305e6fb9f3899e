"""Windows over a raster: pure functions of sizes, shared by all who cut one up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


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
