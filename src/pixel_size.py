"""How large a raster's pixels are on the ground."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from src.raster.georeference import NoWayError, crs_unit, transform_points

_SEMI_MAJOR, _ECCENTRICITY = 6_378_137.0, 0.0818191908426215
"""Of the WGS 84 ellipsoid, in metres."""
_MEAN_RADIUS = 6_371_008.8
"""Of the earth, in metres."""
_WGS84 = (
    'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]]'
)
_CYLINDRICAL = re.compile(
    r'(?:PROJECTION|METHOD)\["(?:Popular Visualisation Pseudo|Mercator|Equirectangular|Equidistant Cylindrical|'
    r"(?:Lambert )?Cylindrical|Miller[_ ]Cylindrical|Gall[_ ]Stereographic)"
)
"""Projections whose rows are parallels and whose columns are meridians: Web Mercator, plate carrée …"""
OTHER = 1.5
"""Ratio from which on pixels are of another size: what is five of them wide here is seven or three there."""


class Georeferenced(Protocol):
    """A raster, or what is known of one."""

    @property
    def width(self) -> int:
        """Columns."""

    @property
    def height(self) -> int:
        """Rows."""

    @property
    def crs(self) -> str | None:
        """Its CRS as WKT, None without one."""

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """The affine transform (a, b, c, d, e, f)."""


def row_areas(grid: Georeferenced) -> npt.NDArray[np.float64] | None:
    """Return the area of a pixel of each row in square metres; None without a CRS that tells.

    In a projected CRS it is the area on the map's plane. In degrees, and in Mercator's and other cylindrical
    projections, whose plane shows central Europe over twice as large as it is, it is the area on the ellipsoid, by the
    closed form for the zone between two parallels (Snyder, Map Projections: A Working Manual, 1987, p. 16–17); rotated
    rasters have none there.
    """
    unit = crs_unit(grid.crs)
    if unit is None:
        return None
    kind, factor = unit
    a, b, _, d, e, _ = grid.transform
    cylindrical = kind == "projected" and _is_cylindrical(grid)
    if (kind == "geographic" or cylindrical) and (b or d):
        return None
    if kind == "geographic":
        edges, across = _row_edges(grid) * factor, a * factor
    elif cylindrical and (found := _parallels(grid)) is not None:
        edges, across = found
    else:
        return np.full(grid.height, abs(a * e - b * d) * factor**2)
    return np.asarray(np.abs(np.diff(_zone(edges)) * across))


Sides = tuple[float, float]
"""Sides of the smallest and of the largest pixels of some rasters in metres, as if these were square."""


def sides_on_ground(rasters: Iterable[Georeferenced]) -> Sides | None:
    """Return the sides of rasters' pixels; None where no CRS tells."""
    sizes = [size for raster in rasters if (size := ground_pixel(raster)) is not None]
    sides = [math.sqrt(across * down) for across, down in sizes]
    return (min(sides), max(sides)) if sides else None


def other_size(found: Sides | None, expected: Sides | None, who: str) -> str | None:
    """Say that pixels are of another size than expected; None where they are not, or where one is not known.

    Args:
        found: Of a raster.
        expected: Of those that it should be like.
        who: Whose size is expected: ``training``, or a file's name.
    """
    if not found or not expected or expected[0] / OTHER < found[0] <= found[1] < expected[1] * OTHER:
        return None
    return (
        f"its pixels are {_metres(found)} wide, {who} had {_metres(expected)}. Networks know things by their size in "
        "pixels; bring it to that size first (gdalwarp -tr)."
    )


def _metres(sides: Sides) -> str:
    return " to ".join(dict.fromkeys(f"{side:.3g}" for side in sides)) + " m"


def ground_pixel(info: Georeferenced) -> tuple[float, float] | None:
    """Width and height of a pixel on the ground in metres at the raster's centre, None without a CRS that tells.

    As :func:`pixel_metres`, but true to scale in Web Mercator and other cylindrical projections too.
    """
    found = _parallels(info) if crs_unit(info.crs) is not None and _is_cylindrical(info) else None
    if found is None or info.transform[1] or info.transform[3]:
        return pixel_metres(info)
    latitude, across = found
    middle = float(latitude[len(latitude) // 2])
    down = abs(float(latitude[-1] - latitude[0])) / info.height
    return abs(across) * _MEAN_RADIUS * math.cos(middle), down * _MEAN_RADIUS


def pixel_metres(info: Georeferenced) -> tuple[float, float] | None:
    """Width and height of a pixel in metres, None without a CRS that tells, and beyond the poles.

    Projected CRSs by their unit, on the map's plane; geographic ones on a sphere at the raster's centre, where a degree
    of longitude is cos(latitude) of one of latitude: near enough for a scale bar.
    """
    unit = crs_unit(info.crs)
    if unit is None:
        return None
    kind, factor = unit
    a, b, _, d, e, f = info.transform
    across, down = float(np.hypot(a, d)) * factor, float(np.hypot(b, e)) * factor
    if kind == "projected":
        return across, down
    latitude = factor * (f + d * info.width / 2 + e * info.height / 2)
    if not abs(latitude) <= math.pi / 2:  # axes that are swapped, or rows and columns that are called degrees
        return None
    return across * _MEAN_RADIUS * float(np.cos(latitude)), down * _MEAN_RADIUS


def _row_edges(grid: Georeferenced) -> npt.NDArray[np.float64]:
    """Return the y of the upper edge of each row, and of the lower edge of the last one, in the CRS's unit."""
    e, f = grid.transform[4:]
    return np.asarray(f + e * np.arange(grid.height + 1), np.float64)


def _is_cylindrical(grid: Georeferenced) -> bool:
    return grid.crs is not None and _CYLINDRICAL.search(grid.crs) is not None


def _parallels(grid: Georeferenced) -> tuple[npt.NDArray[np.float64], float] | None:
    """Return the latitudes of the rows' edges and the longitude across a pixel of a cylindrical projection, in radians.

    None where the raster reaches beyond the poles.
    """
    a, _, c, *_ = grid.transform
    y, x = _row_edges(grid), c + a * grid.width / 2
    points = np.column_stack([np.append(np.full(len(y), x), x + a), np.append(y, y[0])])
    try:
        longitude, latitude = np.radians(transform_points(points, str(grid.crs), _WGS84)).T
    except NoWayError:
        return None
    across = (longitude[-1] - longitude[0] + math.pi) % (2 * math.pi) - math.pi
    return (latitude[:-1], float(across)) if np.isfinite([*latitude, across]).all() else None


def _zone(latitude: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Area between the equator and a parallel per radian of longitude, in square metres."""
    sine = np.sin(latitude)
    e = _ECCENTRICITY
    q = sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e
    return np.asarray(_SEMI_MAJOR**2 * (1 - e**2) / 2 * q)
