"""Where rasters lie: affine transforms, CRS, and one raster on the grid of another."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
import rasterio.warp
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from src.errors import UserError
from src.grid import Window
from src.raster.read import RasterInfo, info_of
from src.spec import SceneSpec

_LOCAL = ("LOCAL_CS", "ENGCRS", "ENGINEERINGCRS")
"""How the WKT of a CRS begins that is no place on earth: ENVI's ``Arbitrary``."""


def apply_transform(transform: Sequence[float], points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Turn n × 2 positions (column, row) into coordinates by affine coefficients."""
    a, b, c, d, e, f = transform
    return np.asarray(points @ np.array([[a, d], [b, e]]) + np.array([c, f]))


def shifted(transform: Sequence[float], window: Window) -> tuple[float, float, float, float, float, float]:
    """Return the affine coefficients of a window's own grid."""
    a, b, c, d, e, f = transform
    return (a, b, c + a * window.column + b * window.row, d, e, f + d * window.column + e * window.row)


def offset_on(source: RasterInfo, target: RasterInfo) -> tuple[int, int] | None:
    """Return (row, column) of the target's upper left pixel in the source, if both lie on one pixel grid.

    None where pixels of both do not coincide, to a thousandth of a pixel, all over the target: other CRS, other
    resolution, or an offset by parts of a pixel.
    """
    if not same_crs(source.crs, target.crs):
        return None
    to_source = ~rasterio.Affine(*source.transform) * rasterio.Affine(*target.transform)
    column, row = round(to_source.c), round(to_source.f)
    for x, y in ((0, 0), (target.width, 0), (0, target.height), (target.width, target.height)):
        found_x, found_y = to_source * (x, y)
        if abs(found_x - x - column) > 1e-3 or abs(found_y - y - row) > 1e-3:
            return None
    return row, column


def has_place(raster: RasterInfo | SceneSpec) -> bool:
    """Tell whether a raster says where it lies: programs give those that do not a corner at 0, 0, and no CRS of earth.

    Coordinates without such a CRS are a place among others of that kind.
    """
    _, _, left, _, down, top = raster.transform
    on_earth = raster.crs is not None and not raster.crs.lstrip().upper().startswith(_LOCAL)
    return on_earth or left != 0 or (top != 0 and top + down * raster.height != 0)


def same_crs(first: str | None, second: str | None) -> bool:
    """Tell whether two CRS (WKT, or None for none) are the same."""
    if first is None or second is None:
        return first is second
    return bool(CRS.from_wkt(first) == CRS.from_wkt(second))


def crs_label(crs: str | None) -> str:
    """Name a CRS in a few characters for a line on the terminal: ``EPSG:32633``, else its name."""
    if crs is None:
        return "no CRS"
    parsed = CRS.from_wkt(crs)
    code = parsed.to_epsg()
    name = re.search(r'"([^"]+)"', crs)
    return f"EPSG:{code}" if code else name[1] if name else "unnamed CRS"


def crs_unit(crs: str | None) -> tuple[str, float] | None:
    """Return ``projected`` and the metres of its unit, or ``geographic`` and the radians; None for any other CRS."""
    try:
        parsed = CRS.from_wkt(crs) if crs else None
    except CRSError:  # of a description that was written by hand
        return None
    if parsed is None or not (parsed.is_projected or parsed.is_geographic):
        return None
    return ("projected" if parsed.is_projected else "geographic"), float(parsed.units_factor[1])


def full_turn(crs: str | None) -> float | None:
    """Return what once around the earth is in a geographic CRS, 360 in degrees; None for any other CRS."""
    kind, unit = crs_unit(crs) or (None, 1.0)
    return math.tau / unit if kind == "geographic" else None


class NoWayError(UserError):
    """Coordinates in one CRS have none in another."""


@contextmanager
def _transforming(source: str, target: str) -> Iterator[None]:
    try:
        with rasterio.Env():  # without one GDAL prints pages of its own
            yield
    except (CPLE_BaseError, RasterioError) as error:
        raise NoWayError(
            f"What is in {crs_label(source)} has no coordinates in {crs_label(target)}; give both in coordinate "
            "systems that GDAL can get from one to the other (gdalwarp, ogr2ogr)."
        ) from error


def bounds_in(info: RasterInfo, crs: str | None) -> tuple[float, float, float, float]:
    """Return a raster's extent (left, bottom, right, top) in a CRS; in its own where one of both has none.

    Raises:
        NoWayError: From the one CRS to the other.
    """
    transform = rasterio.Affine(*info.transform)
    corners = [transform * corner for corner in ((0, 0), (info.width, 0), (0, info.height), (info.width, info.height))]
    xs, ys = zip(*corners, strict=True)
    bounds = min(xs), min(ys), max(xs), max(ys)
    if info.crs is None or crs is None or same_crs(info.crs, crs):
        return bounds
    with _transforming(info.crs, crs):
        left, bottom, right, top = transform_bounds(CRS.from_wkt(info.crs), CRS.from_wkt(crs), *bounds)
    return left, bottom, right, top


def transform_points(points: npt.NDArray[np.float64], source: str, target: str) -> npt.NDArray[np.float64]:
    """Transform n × 2 coordinates from one CRS (WKT) into another; raises NoWayError like :func:`bounds_in`."""
    with _transforming(source, target):
        xs, ys = rasterio.warp.transform(CRS.from_wkt(source), CRS.from_wkt(target), points[:, 0], points[:, 1])
    return np.column_stack([xs, ys])


def warped(dataset: rasterio.DatasetReader, target: RasterInfo) -> WarpedVRT:
    """Lay a label raster onto another raster's grid by nearest neighbour, computed window by window.

    What the source does not cover, masks or declares as nodata becomes NaN, which no class has: the numbers are floats
    that hold the source's exactly, up to 2⁵³. Where the source has both a mask (or an alpha band) and a nodata value,
    that value stays, since GDAL heeds one of them only. The result reads like an open raster.
    """
    both = info_of(dataset).masked and dataset.nodatavals[0] is not None
    return WarpedVRT(
        dataset,
        crs=CRS.from_wkt(target.crs),
        transform=rasterio.Affine(*target.transform),
        width=target.width,
        height=target.height,
        resampling=Resampling.nearest,
        nodata=math.nan,
        **({"src_nodata": None} if both else {}),
        dtype=str(np.result_type(np.float32, *dataset.dtypes)),
        tolerance=0.01,  # pixels that a position may be off; GDAL's default is an eighth
        SRC_ALPHA_MAX=1e-30,  # GDAL would mix what is less opaque than this with the NaN below it
    )
