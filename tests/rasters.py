"""Small rasters for tests, written pixel by pixel as a test wants them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio.raw
import rasterio
import shapely
from rasterio.transform import Affine

UTM = "EPSG:32633"
NORTH_UP = Affine(10, 0, 330_000, 0, -10, 5_822_000)
TURNED = Affine.translation(3e5, 5.8e6) @ Affine.rotation(30) @ Affine.scale(10, -20)
"""Pixels of 10 × 20 m: which of its numbers is which can be seen."""


def write(
    path: Path,
    pixels: npt.NDArray[Any],
    *,
    crs: str | None = UTM,
    transform: Affine = NORTH_UP,
    mask: npt.NDArray[np.bool_] | None = None,
    names: Sequence[str] | None = None,
    colors: dict[int, tuple[int, int, int]] | None = None,
    tags: dict[int, dict[str, str]] | None = None,
    **options: Any,
) -> Path:
    """Write C × H × W or H × W pixels; ``options`` go to GDAL."""
    cube = pixels if pixels.ndim == 3 else pixels[None]
    profile = {"driver": "GTiff", "count": len(cube), "height": cube.shape[1], "width": cube.shape[2]} | options
    if cube.dtype == np.uint8 and "photometric" not in profile and profile["driver"] == "GTiff":
        profile["photometric"] = "minisblack"
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", dtype=cube.dtype, crs=crs, transform=transform, **profile) as dataset,
    ):
        if colors:
            dataset.write_colormap(1, colors)
        dataset.write(cube)
        for index, name in enumerate(names or [], start=1):
            dataset.set_band_description(index, name)
        for index, entries in (tags or {}).items():
            dataset.update_tags(index, **entries)
        if mask is not None:
            dataset.write_mask(mask)
    return path


def read(path: Path) -> npt.NDArray[Any]:
    """Read all of a raster, C × H × W."""
    with rasterio.open(path) as dataset:
        cube: npt.NDArray[Any] = dataset.read()
    return cube


def image(
    path: Path, height: int = 64, width: int = 64, bands: int = 3, dtype: str = "uint16", seed: int = 0, **options: Any
) -> Path:
    """Write an image of random numbers from 1 up."""
    generator = np.random.default_rng(seed)
    high = 250 if dtype == "uint8" else 10_000
    return write(path, generator.integers(1, high, (bands, height, width)).astype(dtype), **options)


def label(
    path: Path, height: int = 64, width: int = 64, values: Sequence[int] = (1, 2, 3), cell: int = 4, **options: Any
) -> Path:
    """Write a label raster of random squares."""
    generator = np.random.default_rng(7)
    cells = generator.choice(values, (-(-height // cell), -(-width // cell))).astype("uint8")
    return write(path, cells.repeat(cell, 0).repeat(cell, 1)[:height, :width], **options)


def polygons(path: Path, shapes: Sequence[tuple[Any, Any]], field: str = "class", crs: str | None = UTM) -> Path:
    """Write (geometry, class) pairs as a vector file; the suffix chooses the format."""
    geometries = shapely.to_wkb(np.array([geometry for geometry, _ in shapes], dtype=object))
    values = [value for _, value in shapes]
    column = np.array(values, dtype=object if any(isinstance(v, str) or v is None for v in values) else None)
    kind = "Polygon" if all(geometry.geom_type == "Polygon" for geometry, _ in shapes) else "Unknown"
    driver = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".shp": "ESRI Shapefile"}[path.suffix]
    pyogrio.raw.write(path, geometries, [column], [field], driver=driver, geometry_type=kind, crs=crs)
    return path
