"""Which pixels of a window on the map count: those on the ground of the part that the window belongs to."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely

from src.grid import chip_windows

_GRID = 6
"""Rows and columns that the extent of an image is divided into where a data set has no split of its own."""


@dataclass(frozen=True)
class Centres:
    """The centres of a window's pixels on the map: x of its columns, and y of its rows from the top down."""

    columns: npt.NDArray[np.float64]
    rows: npt.NDArray[np.float64]

    @classmethod
    def of(cls, x: slice, y: slice, shape: tuple[int, int]) -> Centres:
        """Return those of H × W pixels between the ends of x and y."""
        rows, columns = ((np.arange(count) + 0.5) / count for count in shape)
        return cls(x.start + columns * (x.stop - x.start), y.stop - rows * (y.stop - y.start))

    @cached_property
    def box(self) -> shapely.Polygon:
        """What they span. Neighbours that have an edge in common with the window do not reach it."""
        return shapely.box(self.columns[0], self.rows[-1], self.columns[-1], self.rows[0])

    def within(self, places: Iterable[shapely.Geometry]) -> npt.NDArray[np.bool_]:
        """Tell which pixels lie in one of some places, H × W."""
        inside = np.zeros((len(self.rows), len(self.columns)), bool)
        for place in places:
            inside |= place.covers(self.box) or shapely.intersects_xy(place, self.columns[None], self.rows[:, None])
        return inside


class MapWindows:
    """Windows of a data set on the map whose labels count on the ground of their own part only.

    torchgeo reads whatever lies in a window. Beyond the edge of a cell that validates, which a grid reaches over, that
    is ground that is trained on or that another window has; outside of all files it is zeros. Here every pixel that
    validates is scored once and never trained on, and outside of the files nothing is measured. Cells of other times
    show other pixels.

    A query is torchgeo's own (x, y, time), in training, or that behind the number of a cell, see :meth:`covering`. To
    what the data set yields come ``there``, H × W, False outside of all files, and ``own``, H × W, False where labels
    do not count.

    Args:
        dataset: It takes torchgeo's queries.
        files: What there is to read: a series of extents, indexed by their times.
        cells: What validates, likewise.
        size: Side of a window in pixels.
    """

    def __init__(self, dataset: Any, files: Any, cells: Any, size: int) -> None:
        self.dataset, self.files, self.cells, self.size = dataset, files, cells, size

    def __getitem__(self, query: tuple[Any, ...]) -> dict[str, Any]:
        """Read a window, and tell what of it counts."""
        *cell, x, y, time = query
        sample = dict(self.dataset[x, y, time])
        if "image" not in sample:
            return sample  # whoever gets it says so
        height, width = sample["image"].shape[-2:]
        centres = Centres.of(x, y, (height, width))
        first = int(cell[0]) if cell else len(self.cells)  # pixels of those before it count there
        own = ~centres.within(_seen(self.cells, centres, time, first))
        if cell:
            own &= centres.within([self.cells.iloc[first]])
        return sample | {"there": centres.within(_seen(self.files, centres, time)), "own": own}

    def covering(self) -> list[tuple[int, slice, slice, slice]]:
        """List windows that have every pixel of the cells once; the last ones reach over their cell's edge."""
        across, down = (float(side) for side in self.dataset.res)
        side = (self.size, self.size)
        queries = []
        for number, (time, cell) in enumerate(self.cells.items()):
            left, bottom, right, top = cell.bounds
            height, width = _pixels(top - bottom, down), _pixels(right - left, across)
            for window in chip_windows(math.ceil(height), math.ceil(width), side, side):
                x, y = left + window.column * across, top - window.row * down
                extent = slice(x, x + self.size * across), slice(y - self.size * down, y)
                queries.append((number, *extent, slice(time.left, time.right)))
        return queries


def cells_of(extent: shapely.Geometry, res: tuple[float, float]) -> Iterator[shapely.Geometry]:
    """Yield the cells that an extent is divided into, column by column; their edges are edges of pixels."""
    left, bottom, right, top = extent.bounds
    x = [left + step * res[0] for step in _steps(_pixels(right - left, res[0]))] + [right]
    y = [bottom] + [top - step * res[1] for step in reversed(_steps(_pixels(top - bottom, res[1])))]
    for (west, east), (south, north) in itertools.product(itertools.pairwise(x), itertools.pairwise(y)):
        cell = shapely.intersection(extent, shapely.box(west, south, east, north))
        if cell.area:
            yield cell


def _steps(pixels: float) -> list[int]:
    """Return at which pixels the cells of an axis begin."""
    return [round(pixels * part / _GRID) for part in range(_GRID)]


def _pixels(length: float, side: float) -> float:
    """Return how many pixels a length on the map has, without what rounding leaves of whole ones."""
    return round(length / side, 3)


def _seen(places: Any, centres: Centres, time: slice, before: int | None = None) -> list[shapely.Geometry]:
    """Return the places that a window shows some of at its time; ``before`` takes only those of lower numbers."""
    near = np.sort(places.sindex.query(centres.box, predicate="intersects"))
    near = near[places.index[near].overlaps(pd.Interval(time.start, time.stop, closed="both"))]
    return [places.iloc[number] for number in (near if before is None else near[near < before])]
