"""How much of a map each class covers: pixels, percent and, where the CRS tells it, hectares."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from src.atomic import write_text
from src.foreign_text import cell
from src.labels import UNCLASSIFIED, ClassTable
from src.raster.georeference import NoWayError, crs_unit, transform_points
from src.raster.read import RasterInfo

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
    r"(?:Lambert )?Cylindrical)"
)
"""Projections whose rows are parallels and whose columns are meridians: Web Mercator, plate carrée …"""


@dataclass(frozen=True)
class ClassArea:
    """A class's share of a map.

    Attributes:
        value: Class value; 0 for pixels without a measurement.
        name: Its name.
        pixels: How many.
        percent: Of the pixels that have a class; NaN for value 0.
        hectares: None where the CRS does not tell.
    """

    value: int
    name: str
    pixels: int
    percent: float
    hectares: float | None


class AreaCounter:
    """Counts the pixels of a map's rows by class."""

    def __init__(self, grid: RasterInfo, classes: ClassTable) -> None:
        """Start without a pixel; ``grid`` is the map's."""
        self._classes, self._areas = classes, row_areas(grid)
        self._pixels: npt.NDArray[np.int64] = np.zeros(256, np.int64)
        self._square_metres: npt.NDArray[np.float64] = np.zeros(256)

    def add(self, first_row: int, values: npt.NDArray[np.uint8]) -> None:
        """Add whole rows of class values, H × W, the first of which is ``first_row``."""
        if self._areas is None or np.ptp(self._areas) == 0:
            counts = np.bincount(values.ravel(), minlength=256)
            self._pixels += counts
            self._square_metres += counts * (0.0 if self._areas is None else self._areas[0])
            return
        for number, row in enumerate(values, start=first_row):
            counts = np.bincount(row, minlength=256)
            self._pixels += counts
            self._square_metres += counts * self._areas[number]

    def result(self) -> list[ClassArea]:
        """Return an entry per class of the table, and a last one for pixels without a class if there are any."""
        mapped = max(1, int(self._pixels[1:].sum()))
        names = dict(zip(self._classes.values, self._classes.names, strict=True))
        if self._pixels[UNCLASSIFIED]:
            names[UNCLASSIFIED] = "no data"
        return [
            ClassArea(
                value,
                name,
                int(self._pixels[value]),
                100 * float(self._pixels[value]) / mapped if value != UNCLASSIFIED else math.nan,
                None if self._areas is None else float(self._square_metres[value]) / 1e4,
            )
            for value, name in names.items()
        ]


def row_areas(grid: RasterInfo) -> npt.NDArray[np.float64] | None:
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


def _row_edges(grid: RasterInfo) -> npt.NDArray[np.float64]:
    """Return the y of the upper edge of each row, and of the lower edge of the last one, in the CRS's unit."""
    e, f = grid.transform[4:]
    return np.asarray(f + e * np.arange(grid.height + 1), np.float64)


def _is_cylindrical(grid: RasterInfo) -> bool:
    return grid.crs is not None and _CYLINDRICAL.search(grid.crs) is not None


def _parallels(grid: RasterInfo) -> tuple[npt.NDArray[np.float64], float] | None:
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


def ground_pixel(info: RasterInfo) -> tuple[float, float] | None:
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


def pixel_metres(info: RasterInfo) -> tuple[float, float] | None:
    """Width and height of a pixel in metres, None without a CRS that tells.

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
    return across * _MEAN_RADIUS * float(np.cos(latitude)), down * _MEAN_RADIUS


def _zone(latitude: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Area between the equator and a parallel per radian of longitude, in square metres."""
    sine = np.sin(latitude)
    e = _ECCENTRICITY
    q = sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e
    return np.asarray(_SEMI_MAJOR**2 * (1 - e**2) / 2 * q)


def write_areas_csv(path: Path, areas: Sequence[ClassArea]) -> None:
    """Write a row per class: ``Class``, ``Name``, ``Pixels``, ``Percent``, ``Hectares``; empty where there is none."""
    rows = [("Class", "Name", "Pixels", "Percent", "Hectares")]
    for area in areas:
        percent = "" if math.isnan(area.percent) else f"{area.percent:.6g}"
        hectares = "" if area.hectares is None else f"{area.hectares:.4f}"
        rows.append((str(area.value), cell(area.name), str(area.pixels), percent, hectares))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def format_areas(areas: list[ClassArea]) -> list[str]:
    """Lay areas out as lines for a terminal."""
    width = max(len(f"{area.value} {area.name}") for area in areas)
    measured = areas[0].hectares is not None
    lines = [f"{'Class':<{width}}  {'pixels':>14}" + (f"  {'hectares':>14}" if measured else "") + f"  {'percent':>8}"]
    for area in areas:
        hectares = f"  {area.hectares:14,.1f}" if area.hectares is not None else ""
        percent = "" if math.isnan(area.percent) else f"  {area.percent:8.2f}"
        lines.append(f"{f'{area.value} {area.name}':<{width}}  {area.pixels:14,}{hectares}{percent}")
    return lines
