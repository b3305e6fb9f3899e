"""A class map as polygons: outlined strip by strip, joined where strips meet, written as soon as they are whole."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio
import pyogrio.raw
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError

from src.errors import UserError
from src.labels import ClassTable
from src.raster.read import RasterInfo
from src.vector import outline

_NOT_FIRST = " `~!@#$%^&*()+-={}|[]\\:\";'<>?,./"
"""What GDAL takes at the beginning of no layer's name."""

Polygons = tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]
"""Geometries in pixel coordinates (x = column, y = row), and the class value of each."""

# It would say how many records it wrote, batch by batch.
logging.getLogger("pyogrio").setLevel(logging.WARNING)

BATCH = 500_000
"""Corners of polygons that are written at once: shapes, coordinates and what is written take some 100 bytes each."""


class PolygonMerger:
    """Joins the polygons of strips that come from top to bottom.

    What does not touch the lower edge of the strips so far is given back and forgotten.
    """

    def __init__(self, width: int) -> None:
        """Start above the first row of a map of ``width`` columns."""
        self._row, self._next = 0, 1
        self._pieces: dict[int, list[Any]] = {}
        self._classes: dict[int, int] = {}
        # The region of every pixel in the last row, 0 for none.
        self._last: npt.NDArray[np.int64] = np.zeros(width, np.int64)

    def add(self, values: npt.NDArray[np.uint8]) -> Polygons:
        """Add the next rows, H × W class values; return the polygons that are whole now."""
        polygons, classes = outline(values)
        polygons = shapely.transform(polygons, lambda points: points + np.array([0, self._row]))
        top = _along(self._row, polygons, self._next, len(self._last))
        self._row += len(values)
        bottom = _along(self._row, polygons, self._next, len(self._last))
        at_edge = np.zeros(len(polygons), bool)
        for edge in (top, bottom):
            at_edge[edge[edge > 0] - self._next] = True
        for position in np.flatnonzero(at_edge):
            self._pieces[self._next + int(position)] = [polygons[position]]
            self._classes[self._next + int(position)] = int(classes[position])
        self._next += len(polygons)
        renamed = self._join(top)
        numbers, inverse = np.unique(bottom, return_inverse=True)
        self._last = np.array([_root(renamed, int(n)) for n in numbers], np.int64)[inverse]
        return _both((polygons[~at_edge], classes[~at_edge]), self._close(set(self._last.tolist())))

    def finish(self) -> Polygons:
        """Return what touches the lower edge of the map."""
        return self._close(set())

    def _join(self, top: npt.NDArray[np.int64]) -> dict[int, int]:
        """Join regions of one class above and below the seam; return which number became which."""
        seam = np.unique(np.stack([self._last, top])[:, (self._last > 0) & (top > 0)], axis=1)
        renamed: dict[int, int] = {}
        for one, other in seam.T.tolist():
            above, below = _root(renamed, one), _root(renamed, other)
            if above == below or self._classes[above] != self._classes[below]:
                continue
            keep, drop = sorted((above, below), key=lambda n: (-len(self._pieces[n]), n))
            self._pieces[keep] += self._pieces.pop(drop)
            del self._classes[drop]
            renamed[drop] = keep
        return renamed

    def _close(self, still_open: set[int]) -> Polygons:
        done = [number for number in self._pieces if number not in still_open]
        geometries = np.empty(len(done), object)
        geometries[:] = [_union(self._pieces.pop(number)) for number in done]
        return geometries, np.array([self._classes.pop(number) for number in done], np.uint8)


def _root(renamed: dict[int, int], number: int) -> int:
    while number in renamed:
        number = renamed[number]
    return number


def _union(pieces: Sequence[Any]) -> Any:
    # Where two pieces met, corners are left in the middle of straight lines: simplifying by nothing drops them.
    return pieces[0] if len(pieces) == 1 else shapely.simplify(shapely.union_all(pieces), 0)


def _both(one: Polygons, other: Polygons) -> Polygons:
    return np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]])


def _along(row: int, polygons: npt.NDArray[Any], first: int, width: int) -> npt.NDArray[np.int64]:
    """Return which polygon (counted from ``first``) lies along a horizontal line at each column, 0 for none."""
    found = np.zeros(width, np.int64)
    if not len(polygons):
        return found
    bounds = shapely.bounds(polygons)
    touching = np.flatnonzero((bounds[:, 1] == row) | (bounds[:, 3] == row))
    rings = shapely.get_exterior_ring(polygons[touching])
    points, ring = shapely.get_coordinates(rings, return_index=True)
    edge = (points[:-1, 1] == row) & (points[1:, 1] == row) & (ring[:-1] == ring[1:])
    ends = np.sort(np.stack([points[:-1, 0], points[1:, 0]])[:, edge], axis=0).astype(np.int64)
    lengths = ends[1] - ends[0]
    columns = np.repeat(ends[0] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    found[columns] = np.repeat(touching[ring[:-1][edge]] + first, lengths)
    return found


def map_polygons(strips: Iterable[npt.NDArray[np.uint8]], width: int) -> Iterator[Polygons]:
    """Yield the polygons of a class map in batches.

    Args:
        strips: Its rows from top to bottom, H × W class values each.
        width: Its columns.
    """
    merger = PolygonMerger(width)
    waiting: Polygons = np.empty(0, object), np.empty(0, np.uint8)
    for strip in strips:
        waiting = _both(waiting, merger.add(strip))
        if shapely.get_num_coordinates(waiting[0]).sum() >= BATCH:
            yield waiting
            waiting = np.empty(0, object), np.empty(0, np.uint8)
    yield _both(waiting, merger.finish())


def write_polygons(path: Path, batches: Iterable[Polygons], grid: RasterInfo, classes: ClassTable, changed: str) -> int:
    """Write polygons as a GeoPackage with the fields ``value`` and ``name`` and return how many there are.

    Args:
        path: Where to; its layer is called as :func:`layer_name` says.
        batches: See :func:`map_polygons`; at least one.
        grid: The map.
        classes: Its classes.
        changed: The date that the file says it was changed, ISO 8601: equal maps give equal files.

    Raises:
        UserError: It cannot be written, as when the disk is full.
    """
    a, b, c, d, e, f = grid.transform
    names = dict(zip(classes.values, classes.names, strict=True))
    count = 0
    # The file is put on the disk once, when it is whole: SQLite would wait for the disk dozens of times.
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": changed, "OGR_SQLITE_SYNCHRONOUS": "OFF"})
    try:
        for geometries, values in batches:
            placed = shapely.transform(
                geometries, lambda p: np.stack([a * p[:, 0] + b * p[:, 1] + c, d * p[:, 0] + e * p[:, 1] + f], axis=1)
            )
            fields = [values.astype(np.int32), np.array([names[int(v)] for v in values], object)]
            _append(path, shapely.to_wkb(placed), fields, grid.crs, append=count > 0)
            count += len(values)
    except (DataLayerError, DataSourceError, FeatureError, RuntimeError) as error:
        raise UserError(
            f"{path} cannot be written ({error}); expected room for it on a disk that can be written to. Free some "
            "space or write elsewhere."
        ) from error
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None, "OGR_SQLITE_SYNCHRONOUS": None})
    return count


def layer_name(path: Path) -> str:
    """Return what the layer of a GeoPackage is called: as its file, without what GDAL refuses at the beginning."""
    return path.stem.lstrip(_NOT_FIRST) or "polygons"


def _append(path: Path, wkb: npt.NDArray[Any], fields: list[npt.NDArray[Any]], crs: str | None, append: bool) -> None:
    with warnings.catch_warnings():
        # A scene without a CRS has polygons without one.
        warnings.filterwarnings("ignore", "'crs' was not provided")
        pyogrio.raw.write(
            path,
            wkb,
            fields,
            ["value", "name"],
            layer=layer_name(path),
            driver="GPKG",
            geometry_type="Polygon",
            crs=crs,
            append=append,
        )
