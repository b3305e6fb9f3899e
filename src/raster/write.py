"""Rasters into the world: GeoTIFFs that are whole or not there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
import rasterio.warp
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window as RasterioWindow

from src.atomic import whole_file
from src.bands import Band, as_dtype
from src.errors import UserError
from src.labels import ClassTable

Compression = Literal["none", "lzw", "deflate", "zstd"]
"""Compressions of GeoTIFFs that every GDAL of rasterio's wheels reads, and most others."""

_OWN_FILES = {"GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE": "ALL"}
"""Since 3.12, GDAL takes files of numbers only from beside a virtual raster that is a file, not a string of ours."""


def write_geotiff(
    path: str | Path,
    image: npt.NDArray[Any],
    *,
    crs: str | None,
    transform: Sequence[float],
    nodata: float | None = None,
    bands: Sequence[Band] = (),
    classes: ClassTable | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
    **options: Any,
) -> None:
    """Write a small GeoTIFF in one go, whole or not at all.

    Args:
        path: Final name; the file is written beside it and renamed.
        image: C × H × W or H × W.
        crs: WKT, None for none.
        transform: Affine coefficients of the upper left pixel.
        nodata: Nodata value to declare; left out if the data type cannot hold it.
        bands: Names and wavelengths to store, one per band, or none.
        classes: Colour table and category names to store in a one-band uint8 raster.
        mask: H × W, False where there is no measurement although no nodata value says so; stored inside.
        options: GDAL creation options (``compress="deflate"``, ``tiled=True`` …).

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    description: dict[str, Any] = {"crs": crs, "transform": transform, "nodata": nodata, "bands": bands}
    with geotiff(image, **description, classes=classes, mask=mask, **options) as content, whole_file(path) as partial:
        partial.write_bytes(content)


@contextmanager
def geotiff(
    image: npt.NDArray[Any],
    *,
    crs: str | None,
    transform: Sequence[float],
    nodata: float | None = None,
    bands: Sequence[Band] = (),
    classes: ClassTable | None = None,
    mask: npt.NDArray[np.bool_] | None = None,
    **options: Any,
) -> Iterator[memoryview]:
    """Make the bytes of a small GeoTIFF in memory, where they stay as long as the context; see :func:`write_geotiff`.

    GDAL does not report that a disk is full when it happens while a file is closed.
    """
    cube = image if image.ndim == 3 else image[None]
    grid = {"crs": CRS.from_wkt(crs) if crs else None, "transform": rasterio.Affine(*transform)}
    size = {"count": cube.shape[0], "height": cube.shape[1], "width": cube.shape[2], "dtype": cube.dtype}
    if nodata is not None and (cube.dtype.kind == "f" or as_dtype(nodata, cube.dtype) is not None):
        options["nodata"] = nodata
    if classes is None:
        options = {"photometric": "minisblack", **options}  # else GDAL takes a fourth uint8 band for alpha
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), MemoryFile() as memory:
        with memory.open(driver="GTiff", **size, **grid, **options) as dataset:
            if classes is not None:
                dataset.write_colormap(1, color_table(classes))  # first: pixels freeze the TIFF's kind of colour
            for index, band in enumerate(bands, start=1):
                dataset.set_band_description(index, band.name)
                dataset.update_tags(index, **band_tags(band))
            dataset.write(cube)  # last: else what is said of it comes once more behind the pixels
            if mask is not None:
                dataset.write_mask(mask)
        yield memory.getbuffer()


def recode(path: Path, lookup: npt.NDArray[np.uint8]) -> None:
    """Replace every value of a small uint8 raster by ``lookup[value]``."""
    with rasterio.open(path) as dataset:
        values, profile = dataset.read(1), dataset.profile
    write_geotiff(
        path,
        lookup[values],
        crs=profile["crs"].to_wkt() if profile["crs"] else None,
        transform=profile["transform"],
        interleave="band",
        blockysize=profile["blockysize"],
        compress=profile.get("compress", "none"),
    )


def copy_raster(source: str | Path, path: str | Path, driver: str, **options: str | int) -> None:
    """Write what GDAL reads from ``source`` (the XML of a VRT, all of it ours) as another file.

    Raises:
        UserError: It cannot be written, as when the disk is full; nothing is left of it then.
    """
    try:
        with rasterio.Env(**_OWN_FILES):
            rasterio.shutil.copy(os.fspath(source), os.fspath(path), driver=driver, **options)
        # What fails while a file is closed is not reported: its last block tells whether all of it is there.
        with rasterio.open(path) as dataset:
            dataset.read(window=RasterioWindow(dataset.width - 1, dataset.height - 1, 1, 1))
    except (CPLE_BaseError, RasterioError) as error:
        Path(path).unlink(missing_ok=True)
        reason = re.sub(r"\s+", " ", str(error.__cause__ or error)).strip()
        raise UserError(
            f"{path} cannot be written ({reason}); expected room for it on a disk that can be written to. "
            "Free some space or write elsewhere."
        ) from error


def band_tags(band: Band) -> dict[str, str]:
    """GDAL metadata of a band in the names that ENVI and EnMAP-Box use."""
    tags = {"bbl": "0"} if band.bad else {}
    if band.wavelength is not None:
        tags |= {"wavelength": f"{band.wavelength:g}", "wavelength_units": "Nanometers"}
    if band.fwhm is not None:
        tags |= {"fwhm": f"{band.fwhm:g}", "wavelength_units": "Nanometers"}
    return tags


def color_table(classes: ClassTable) -> dict[int, tuple[int, int, int, int]]:
    """Colour table of a class map: 0 is transparent."""
    return {0: (0, 0, 0, 0)} | {entry.value: (*entry.rgb, 255) for entry in classes.classes}
