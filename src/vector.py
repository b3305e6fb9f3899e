"""Vector files: polygons with a class in, and the pixels that they cover."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
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
from src.raster.georeference import bounds_in, same_crs, shifted, transform_points
from src.raster.read import RasterInfo

_DETAILED = 500
"""Vertices above which a geometry is cut to the window before it is burnt: handing it over costs more than that."""


def is_vector(path: str | Path) -> bool:
    """Tell whether a file holds vector layers with geometries."""
    try:
        return any(kind is not None for _, kind in pyogrio.list_layers(path))
    except DataSourceError:
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
    bounds = bounds_in(target, crs)
    _, fids, wkb, columns = pyogrio.raw.read(path, layer=layer, columns=[field], bbox=bounds, return_fids=True)
    order = _in_file_order(path, layer, fids)
    geometries = shapely.force_2d(_shapes(wkb[order], path))
    classes = _classes(columns[0][order], path, field)
    there = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries) | _empty(classes))
    geometries, classes = geometries[there], classes[there]
    if crs is not None and target.crs is not None and not same_crs(crs, target.crs):
        source, goal = crs, target.crs
        geometries = _around(geometries, bounds)
        geometries = shapely.transform(geometries, lambda points: transform_points(points, source, goal))
        there = ~shapely.is_empty(geometries)
        geometries, classes = geometries[there], classes[there]
    return Features(geometries, classes)


def _in_file_order(path: str | Path, layer: str, fids: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """Say how to sort features that were read by their extent: a GeoPackage has them as its spatial index does.

    There the number of a feature is its place; elsewhere it may be anything, and the order is that of the file.
    """
    in_a_database = pyogrio.read_info(path, layer=layer)["driver"] == "GPKG"
    return np.argsort(fids) if in_a_database else np.arange(len(fids))


def _around(geometries: npt.NDArray[Any], bounds: tuple[float, float, float, float]) -> npt.NDArray[Any]:
    """Cut geometries to an extent and as much around it on each side.

    What reaches around the earth has no coordinates, or wrong ones, in a CRS for a part of it.
    """
    left, bottom, right, top = bounds
    if right <= left:  # it crosses the 180th meridian
        return geometries
    width, height = right - left, top - bottom
    box = left - width, bottom - height, right + width, top + height
    its = shapely.bounds(geometries)
    far = (its[:, :2] < box[:2]).any(1) | (its[:, 2:] > box[2:]).any(1)
    cut = geometries.copy()
    cut[far] = shapely.clip_by_rect(shapely.make_valid(geometries[far]), *box)
    return cut


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
    distinct = {entry: (entry.strip() or None) for entry in set(column) - {None}}
    return np.array([distinct.get(entry) for entry in column], object)


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
        values: The class value of each, 1–255.
        transform: The raster's affine coefficients.
    """

    geometries: npt.NDArray[Any]
    values: npt.NDArray[np.uint8]
    transform: tuple[float, float, float, float, float, float]

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
    text = os.fspath(path)
    try:
        layers: npt.NDArray[Any] = pyogrio.list_layers(path)
    except (DataSourceError, DataLayerError) as error:
        raise UserError(
            f"{text} cannot be read as a vector file; expected a GeoPackage, GeoJSON or Shapefile."
        ) from error
    return layers


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
            band, into = rasterio.band(before, 1), rasterio.band(after, 1)
            # rasterio hands the file's band to GDAL, which fills it, and then cannot return it as an array; 1.5
            # stumbles over the array that it did not make.
            with suppress(TypeError, UnboundLocalError):
                rasterio.features.sieve(band, min(pixels, width * height), out=into, mask=band)
