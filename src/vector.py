"""Vector files: polygons with a class in, and the pixels that they cover."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio
import pyogrio.raw
import rasterio
import rasterio.features
import shapely
import shapely.geometry
from pyogrio.errors import DataLayerError, DataSourceError

from src.errors import UserError
from src.grid import Window
from src.raster.georeference import (
    NoWayError,
    apply_transform,
    bounds_in,
    full_turn,
    same_crs,
    shifted,
    transform_points,
)
from src.raster.read import RasterInfo, open_raster

Bounds = tuple[float, float, float, float]
"""Left, bottom, right, top."""

_VECTOR = (".gpkg", ".geojson", ".shp", ".fgb", ".gml", ".kml")
"""Suffixes of vector files."""
_PASSES = 20
"""Passes of sieving, at most: two regions that are both too small may swap their classes for ever."""
_DETAILED = 500
"""Vertices above which a geometry is cut to the window before it is burnt: handing it over costs more than that."""
_INSIDE = np.linspace(0, 1, 23)[1:-1]
"""Where, along each side, an image is asked for the extent of its inside."""
_BY_INDEX = ("GPKG", "MapInfo File")
"""GDAL's drivers that return what lies in an extent in a spatial index's order, and number features in the file's."""
_LINE, _AREA, _SEVERAL = 1, 2, 4
"""GEOS's dimensions of lines and of what has an area, and the least of its numbers for geometries of several others."""
_BENT = 0.01
"""Pixels that an edge may lie beside the line that is straight in its file's CRS."""


def is_vector(path: str | Path) -> bool:
    """Tell whether a file holds vector layers with geometries.

    Raises:
        UserError: Its name says so, but GDAL cannot read it, nor as a raster.
    """
    try:
        return any(kind is not None for _, kind in pyogrio.list_layers(path))
    except DataSourceError:
        if Path(path).suffix.lower() in _VECTOR and Path(path).exists():
            with suppress(UserError), open_raster(path):
                return False
            raise _unreadable(path) from None
        return False


def vector_crs(path: str | Path, layer: str | None = None) -> str | None:
    """Return a vector layer's CRS as WKT, None without one."""
    return _wkt(pyogrio.read_info(path, layer=layer)["crs"])


def choose_class_field(path: str | Path, field: str | None, layer: str | None) -> tuple[str, str]:
    """Return the layer and the attribute that hold the classes: those that are asked for, or the only ones.

    Raises:
        UserError: The file cannot be read, or the layer or field does not exist or cannot be chosen.
    """
    spatial = [str(name) for name, kind in _layers(path) if kind is not None]  # QGIS keeps styles in another
    layer = _choose(path, "layer", "label_layer", layer, spatial)
    names = [str(name) for name in pyogrio.read_info(path, layer=layer)["fields"]]
    return layer, _choose(path, "field", "label_field", field, names)


@dataclass(frozen=True)
class Features:
    """Geometries of one layer, in a raster's CRS, in the file's order, with the text or number of each one's class.

    Text has no blanks at its ends. A geometry without a class (null or empty text) is left out.
    """

    geometries: npt.NDArray[Any]
    classes: npt.NDArray[Any]


def read_features(path: str | Path, target: RasterInfo, field: str | None, layer: str | None) -> Features:
    """Read the geometries that touch a raster's extent.

    Args:
        path: A GeoPackage, GeoJSON, Shapefile or whatever else GDAL reads.
        target: The raster; geometries are transformed into its CRS.
        field: Attribute with the class; None where there is one attribute only.
        layer: Layer; None where there is one only.

    Raises:
        UserError: The file, layer or field does not exist or cannot be chosen; the field holds neither numbers nor
            text; one of both has no CRS.
    """
    layer, field = choose_class_field(path, field, layer)
    crs = vector_crs(path, layer)
    if (crs is None) != (target.crs is None):
        raise UserError(
            f"{target.path if crs else path} has no CRS, but {path if crs else target.path} has one; they cannot be "
            "laid on each other. Declare it (gdal_edit.py -a_srs, ogr2ogr -a_srs), or warp what has only control "
            "points (gdalwarp)."
        )
    extents = _extents(target, crs)
    _, fids, wkb, columns = pyogrio.raw.read(path, layer=layer, columns=[field], return_fids=True, **_within(extents))
    order = _in_file_order(path, layer, fids)
    geometries = shapely.force_2d(_shapes(wkb[order], path))
    classes = _classes(columns[0][order], path, field)
    there = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries) | _empty(classes))
    geometries, classes = geometries[there], classes[there]
    if crs is not None and target.crs is not None and not same_crs(crs, target.crs):
        geometries, origin = _around(geometries, extents)
        geometries = _with_short_edges(geometries, _longest_edge(geometries, extents, crs, target))
        geometries, classes = _transformed(geometries, crs, target.crs), classes[origin]
    geometries, origin = _touching(geometries, target)
    return Features(geometries, classes[origin])


def _extents(target: RasterInfo, crs: str | None) -> list[Bounds]:
    """Return rectangles in a CRS that hold a raster together: several where it crosses the 180th meridian.

    None where it holds so much of the earth that its edges do not bound it in that CRS.
    """
    if target.crs is None or crs is None:
        return [bounds_in(target, crs)]
    try:
        bounds, inside = bounds_in(target, crs), _inside(target, crs)
    except NoWayError:  # for a part of it; that there is none at all shows when geometries are transformed
        return []
    if not np.isfinite([*bounds, *inside.ravel()]).all():
        return []
    left, bottom, right, top = bounds
    if turn := full_turn(crs):
        right += turn * (right <= left)
        turns = [n * turn for n in (-1, 0, 1) if left + n * turn < turn / 2 and right + n * turn > -turn / 2]
        return [(left + angle, bottom, right + angle, top) for angle in turns]
    if (inside < bounds[:2]).any() or (inside > bounds[2:]).any():
        return []
    halves = _halves(target, crs)
    return halves if halves and sum(half[2] - half[0] for half in halves) < right - left else [bounds]


def _inside(target: RasterInfo, crs: str) -> npt.NDArray[np.float64]:
    """Return points all over a raster, n × 2, in a CRS."""
    columns, rows = np.meshgrid(_INSIDE * target.width, _INSIDE * target.height)
    points = apply_transform(target.transform, np.column_stack([columns.ravel(), rows.ravel()]))
    return points if target.crs is None else transform_points(points, target.crs, crs)


def _halves(target: RasterInfo, crs: str) -> list[Bounds]:
    """Return the extents in a CRS of what lies west and east of the 180th meridian; none if it is not crossed.

    A CRS that ends there, like that of web maps, has one rectangle around the earth for both.
    """
    degrees = str(rasterio.crs.CRS.from_epsg(4326).to_wkt())
    with suppress(NoWayError):
        west, south, east, north = bounds_in(target, degrees)
        if east <= west:
            grids = [(end - start, 0.0, start, 0.0, south - north, north) for start, end in ((west, 180), (-180, east))]
            part = replace(target, crs=degrees, width=1, height=1)
            return [bounds_in(replace(part, transform=grid), crs) for grid in grids]
    return []


def _within(extents: Sequence[Bounds]) -> dict[str, Any]:
    """Return the filter with which pyogrio reads what touches any of some rectangles; everything without one."""
    if not extents:
        return {}
    if len(extents) == 1:
        return {"bbox": extents[0]}
    return {"mask": shapely.union_all([shapely.box(*extent) for extent in extents])}


def _in_file_order(path: str | Path, layer: str, fids: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """Say how to sort features that were read by their extent: some formats have them as their spatial index does.

    There the number of a feature is its place; elsewhere it may be anything, and the order is that of the file.
    """
    by_index = pyogrio.read_info(path, layer=layer)["driver"] in _BY_INDEX
    return np.argsort(fids) if by_index else np.arange(len(fids))


def _around(geometries: npt.NDArray[Any], extents: Sequence[Bounds]) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Cut geometries to extents and as much around them on each side; return them and which each one was.

    What reaches around the earth has no coordinates, or wrong ones, in a CRS for a part of it.
    """
    boxes = [(2 * left - right, 2 * low - top, 2 * right - left, 2 * top - low) for left, low, right, top in extents]
    far = np.full(len(geometries), bool(boxes))
    its = shapely.bounds(geometries)
    for box in boxes:
        far &= (its[:, :2] < box[:2]).any(1) | (its[:, 2:] > box[2:]).any(1)
    whole = _mended(geometries[far])
    parts = [geometries[~far], *(shapely.clip_by_rect(whole, *box) for box in boxes)]
    return _in_order(parts, [np.flatnonzero(~far), *(np.flatnonzero(far) for _ in boxes)])


def _in_order(
    parts: Sequence[npt.NDArray[Any]], origins: Sequence[npt.NDArray[np.intp]]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Join what became of geometries, without what is empty, in the order that these had; return which each one was."""
    joined, origin = np.concatenate(parts), np.concatenate(origins)
    order = np.argsort(origin, kind="stable")
    order = order[~shapely.is_empty(joined[order])]
    return joined[order], origin[order]


def _longest_edge(geometries: npt.NDArray[Any], extents: Sequence[Bounds], crs: str, target: RasterInfo) -> float:
    """Return how long an edge in a CRS may be, so that moving its ends moves all of it onto its place in a raster.

    Lines all over what the extents share with that of the geometries are tried: how far a middle lies beside that of
    the ends grows with the square of the length. An edge of a pixel is never too long.
    """
    if not len(geometries):  # which have no bounds
        return math.inf
    longest, its = math.inf, shapely.total_bounds(geometries)
    for extent in extents or [its]:
        (left, bottom), (right, top) = np.maximum(extent[:2], its[:2]), np.minimum(extent[2:], its[2:])
        if not (left <= right and bottom <= top):
            continue
        with suppress(NoWayError), np.errstate(divide="ignore", invalid="ignore"):  # of a CRS for a part of the earth
            points = np.stack(np.meshgrid(left + _INSIDE * (right - left), bottom + _INSIDE * (top - bottom)), axis=-1)
            moved = transform_points(points.reshape(-1, 2), crs, str(target.crs)).reshape(points.shape)
            for step in ((0, 1), (1, 0), (1, 1), (1, -1)):
                length = math.dist(points[1, 1], points[1 + step[0], 1 + step[1]])
                after, before = (
                    _in_pixels(np.roll(moved, np.multiply(step, sign), (0, 1)) - moved, target) for sign in (-1, 1)
                )
                beside, along = (
                    np.linalg.norm(way[1:-1, 1:-1], axis=-1) / 2 for way in (after + before, after - before)
                )
                allowed = length * np.maximum(2 * np.sqrt(_BENT / beside), 1 / along)
                longest = min(longest, allowed[np.isfinite(allowed)].min(initial=math.inf))
    return longest


def _in_pixels(ways: npt.NDArray[np.float64], target: RasterInfo) -> npt.NDArray[np.float64]:
    """Turn ways in a raster's CRS, the shorter ones around the earth, into pixels."""
    turn = full_turn(target.crs)
    nearer = ways - (np.round(ways / turn) * [turn, 0] if turn else 0)
    a, b, _, d, e, _ = target.transform
    return np.asarray(nearer @ np.linalg.inv([[a, d], [b, e]]))


def _with_short_edges(geometries: npt.NDArray[Any], longest: float) -> npt.NDArray[Any]:
    """Put points onto edges that are longer, at equal distances: onto one that two geometries share, the same."""
    if longest == math.inf:
        return geometries
    left, bottom, right, top = shapely.bounds(geometries).T
    large = np.flatnonzero(np.hypot(right - left, top - bottom) > longest)
    points, number = shapely.get_coordinates(geometries[large], return_index=True)
    long = (np.hypot(*np.diff(points, axis=0).T) > longest) & (np.diff(number) == 0)
    which = large[np.setdiff1d(number[1:][long], number[~np.isfinite(points).all(1)])]  # GEOS stops at NaN
    found, whole = geometries.copy(), geometries[which]
    found[which] = shapely.segmentize(_mended(whole), longest)  # else a part of what crosses itself would be lost
    return found


def _mended(geometries: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Make geometries valid that hold the same pixels as before.

    Those of a polygon that crosses itself are the ones that lines to its outside cross it from an odd number of times,
    those of several polygons are the ones of any: so they are burnt. Spikes hold none.
    """
    found = geometries.copy()
    for place in np.flatnonzero(~shapely.is_valid(geometries)):
        parts = _parts(geometries[place])
        flat = shapely.get_dimensions(parts) == _AREA
        areas = _parts(shapely.make_valid(parts[flat]))
        areas = areas[shapely.get_dimensions(areas) == _AREA]
        found[place] = (
            shapely.geometrycollections([shapely.union_all(areas), *parts[~flat]])
            if (~flat).any()
            else (shapely.union_all(areas))
        )
    return found


def _parts(geometries: Any) -> npt.NDArray[Any]:
    """Return the points, lines and polygons in geometries, however deep these are."""
    parts = shapely.get_parts(geometries)
    while (shapely.get_type_id(parts) >= _SEVERAL).any():
        parts = shapely.get_parts(parts)
    return np.asarray(parts)


def _transformed(geometries: npt.NDArray[Any], source: str, goal: str) -> npt.NDArray[Any]:
    """Transform geometries from one CRS into another.

    What crosses the 180th meridian goes on beyond it in a geographic CRS; point by point it would reach around the
    earth the other way.
    """

    def moved(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return transform_points(points, source, goal)

    found: npt.NDArray[Any] = shapely.transform(geometries, moved)
    turn = full_turn(goal)
    if turn is None:
        return found
    wide = np.flatnonzero(np.ptp(shapely.bounds(found).reshape(-1, 4)[:, ::2], axis=1) > turn / 2)
    if not wide.size:
        return found

    def eastward(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return points + np.where(points[:, :1] < 0, [turn, 0], 0)

    beyond = shapely.transform(found[wide], eastward)
    ends = shapely.bounds(beyond)[:, ::2]
    within = eastward(moved(shapely.get_coordinates(shapely.point_on_surface(geometries[wide]))))[:, 0]
    crossing = (np.ptp(ends, axis=1) < turn / 2) & (ends[:, 0] <= within) & (within <= ends[:, 1])
    found[wide[crossing]] = beyond[crossing]
    return found


def _touching(geometries: npt.NDArray[Any], target: RasterInfo) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Return the geometries that reach into a raster's extent, and which each one was.

    In a geographic CRS also those that do so a turn around the earth further on, there.
    """
    left, bottom, right, top = bounds_in(target, target.crs)
    its = shapely.bounds(geometries).reshape(-1, 4)
    level = (its[:, 1] <= top) & (its[:, 3] >= bottom)
    here = np.flatnonzero(level & (its[:, 0] <= right) & (its[:, 2] >= left))
    parts, origins = [geometries[here]], [here]
    turn = full_turn(target.crs)
    for shift in ((-turn, 0.0), (turn, 0.0)) if turn else ():
        there = np.flatnonzero(level & (its[:, 0] + shift[0] < right) & (its[:, 2] + shift[0] > left))
        parts.append(shapely.transform(geometries[there], partial(np.add, shift)))
        origins.append(there)
    return _in_order(parts, origins)


def read_classes(path: str | Path, field: str | None, layer: str | None) -> npt.NDArray[Any]:
    """Read the distinct classes of a whole layer, sorted; raises UserError like :func:`read_features`."""
    layer, field = choose_class_field(path, field, layer)
    _, _, _, columns = pyogrio.raw.read(path, layer=layer, columns=[field], read_geometry=False)
    classes = _classes(columns[0], path, field)
    return np.unique(classes[~_empty(classes)])


def _classes(column: npt.NDArray[Any], path: str | Path, field: str) -> npt.NDArray[Any]:
    """Return numbers as they are, and text without blanks around it, None where nothing is left."""
    if column.dtype.kind in "iuf":
        return column
    if column.dtype.kind != "O" or not all(entry is None or isinstance(entry, str) for entry in column):
        shown = column[0] if len(column) else f"values of the kind {column.dtype}"
        raise UserError(
            f"{path} has {shown} in its field {field}; classes are whole numbers or text. Choose another with "
            "label_field=…, or write the classes into one of the kind integer or text."
        )
    decoded = _decoded if _without_code_page(path) else str
    distinct = {entry: (decoded(entry).strip() or None) for entry in set(column) - {None}}
    return np.array([distinct.get(entry) for entry in column], object)


def _without_code_page(path: str | Path) -> bool:
    """Tell whether a Shapefile has lost the file that tells its text's encoding: GDAL takes it for Latin-1 then."""
    file = Path(path)
    return file.suffix.lower() == ".shp" and not any(file.with_suffix(end).exists() for end in (".cpg", ".CPG"))


def _decoded(text: str) -> str:
    """Return text that was read as Latin-1 as the UTF-8 that it is: other text is hardly ever valid as such."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _shapes(wkb: npt.NDArray[Any], path: str | Path) -> npt.NDArray[Any]:
    try:
        geometries: npt.NDArray[Any] = shapely.from_wkb(wkb)
    except shapely.errors.GEOSException as error:
        raise UserError(
            f"{path} has geometries that cannot be read ({error}); expected polygons. Convert them: ogr2ogr -nlt "
            "MULTIPOLYGON."
        ) from error
    return geometries


@dataclass(frozen=True)
class Burner:
    """Burns classes into windows of a raster: a pixel has the class of the last geometry that holds its centre.

    Attributes:
        geometries: In the raster's CRS, in burning order.
        values: The class value of each, 0–255.
        transform: The raster's affine coefficients.
    """

    geometries: npt.NDArray[Any]
    values: npt.NDArray[np.uint8]
    transform: tuple[float, float, float, float, float, float]

    @property
    def has_lines(self) -> bool:
        """Whether some geometries are lines, which hold no pixel and are drawn one pixel wide."""
        return bool((shapely.get_dimensions(self.geometries) == _LINE).any())

    @cached_property
    def _cut(self) -> npt.NDArray[np.bool_]:
        """Which geometries are cut to a window: one that crosses itself may come back as all of it, or none."""
        cut: npt.NDArray[np.bool_] = shapely.get_num_coordinates(self.geometries) > _DETAILED
        cut[cut] = shapely.is_valid(self.geometries[cut])
        return cut

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.geometries)

    def read(self, window: Window) -> npt.NDArray[np.uint8]:
        """Return a window's class values, H × W; 0 where there is no geometry."""
        grid = rasterio.Affine(*shifted(self.transform, window))
        corners = [grid * (x, y) for x in (-1, window.width + 1) for y in (-1, window.height + 1)]
        box = shapely.box(*np.min(corners, axis=0), *np.max(corners, axis=0))
        found = np.sort(self._tree.query(box))
        shape = (window.height, window.width)
        if not found.size:
            return np.zeros(shape, np.uint8)
        geometries = self.geometries[found]
        cut = self._cut[found]
        geometries[cut] = shapely.clip_by_rect(geometries[cut], *box.bounds)
        burnt: npt.NDArray[np.uint8] = rasterio.features.rasterize(
            [(g, v) for g, v in zip(geometries, self.values[found], strict=True) if not g.is_empty] or [(box, 0)],
            out_shape=shape,
            transform=grid,
            dtype="uint8",
        )
        return burnt


def _layers(path: str | Path) -> npt.NDArray[Any]:
    try:
        layers: npt.NDArray[Any] = pyogrio.list_layers(path)
    except (DataSourceError, DataLayerError) as error:
        raise _unreadable(path) from error
    return layers


def _unreadable(path: str | Path) -> UserError:
    return UserError(
        f"{path} cannot be read as a vector file; expected a whole GeoPackage, GeoJSON or Shapefile (its .shx and .dbf "
        f"lie beside the .shp). Check it with: ogrinfo -so {path}"
    )


def _choose(path: str | Path, what: str, key: str, given: str | None, there: Sequence[str]) -> str:
    if given in there:
        return str(given)
    if given is None and len(there) == 1:
        return there[0]
    asked = f"no {what} {given}" if given is not None else f"several {what}s" if there else f"no {what}"
    raise UserError(f"{path} has {asked}; give {key}=… as one of: {', '.join(there) or 'none'}.")


def _wkt(crs: str | None) -> str | None:
    return str(rasterio.crs.CRS.from_user_input(crs).to_wkt()) if crs else None


def _empty(classes: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell which classes are null."""
    if classes.dtype.kind == "f":
        missing: npt.NDArray[np.bool_] = np.isnan(classes)
        return missing
    return np.array([c is None for c in classes], bool) if classes.dtype.kind == "O" else np.zeros(len(classes), bool)


def outline(values: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Turn the regions of equal value in an array, 4-connected, into polygons.

    Args:
        values: H × W; 0 has no polygons.

    Returns:
        Polygons in pixel coordinates (x = column, y = row), and the value of each.
    """
    found = [(shapely.geometry.shape(shape), value) for shape, value in rasterio.features.shapes(values, values > 0)]
    polygons = np.empty(len(found), object)
    polygons[:] = [polygon for polygon, _ in found]
    return polygons, np.array([value for _, value in found], np.uint8)


def sieve(source: str | Path, target: str | Path, pixels: int) -> None:
    """Write a class map in which regions below a size have joined their largest neighbour; 0 stays as it is.

    Again and again, since GDAL leaves a region whose neighbours were too small themselves; one that has none stays.
    GDAL goes through the file line by line, so memory grows with the number of regions and not with the raster.

    Args:
        source: A one-band uint8 raster.
        target: The file of numbers to write (ENVI, with a header beside).
        pixels: Regions (4-connected) with fewer pixels join.

    Raises:
        OSError: The disk is full.
    """
    with rasterio.open(source) as before:
        height, width = before.shape
        with rasterio.open(target, "w+", driver="ENVI", width=width, height=height, count=1, dtype="uint8") as after:
            if hasattr(os, "posix_fallocate"):  # GDAL would not say that the disk is full
                with Path(target).open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, width * height)
            _sieve(before, after, pixels, before)
        digest = None
        for _ in range(_PASSES):
            with Path(target).open("rb") as file:
                if digest == (digest := hashlib.file_digest(file, "blake2b").digest()):
                    break
            with rasterio.open(target, "r+") as after:
                _sieve(after, after, pixels, before)


def _sieve(source: Any, target: Any, pixels: int, mask: Any) -> None:
    """Let GDAL sieve a raster once into another or the same one."""
    size = min(pixels, source.width * source.height)
    # rasterio hands the file's band to GDAL, which fills it, and then cannot return it as an array; 1.5 stumbles over
    # the array that it did not make.
    with suppress(TypeError, UnboundLocalError):
        rasterio.features.sieve(
            rasterio.band(source, 1), size, out=rasterio.band(target, 1), mask=rasterio.band(mask, 1)
        )
