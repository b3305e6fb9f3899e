"""Rasters: what is in one, windows out of it, files into the world. The only user of rasterio but vector.py."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
import rasterio.warp
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window as RasterioWindow

from src.atomic import whole_file
from src.bands import Band, all_measured, as_dtype, measured
from src.errors import UserError
from src.grid import Window
from src.labels import ClassTable
from src.spec import SceneSpec

# Rasters without a place on earth are welcome: rows and columns are all that is needed.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

DatasetReader = rasterio.DatasetReader
Compression = Literal["none", "lzw", "deflate", "zstd"]
"""Compressions of GeoTIFFs that every GDAL of rasterio's wheels reads, and most others."""

_NANOMETRES = {"nanometers": 1.0, "nanometer": 1.0, "nm": 1.0, "micrometers": 1e3, "micrometer": 1e3, "um": 1e3}


@dataclass(frozen=True)
class RasterInfo:
    """What a raster says of itself.

    Attributes:
        path: As given; ``/vsi…`` paths too.
        width: Columns.
        height: Rows.
        dtype: NumPy name of the data type (the narrowest that holds all bands where they differ).
        crs: WKT, None without one.
        transform: Affine coefficients (a, b, c, d, e, f): x = a·column + b·row + c, y = d·column + e·row + f.
        nodata: Nodata value per band, None where there is none.
        bands: Names, wavelengths, bad flags. An alpha band is no band but a mask, here and wherever bands count.
        masked: Whether a mask or an alpha band says which pixels are measurements; see :func:`read_valid`.
        block: Height and width of the blocks that the file is stored in.
    """

    path: str
    width: int
    height: int
    dtype: str
    crs: str | None
    transform: tuple[float, float, float, float, float, float]
    nodata: tuple[float | None, ...]
    bands: tuple[Band, ...]
    masked: bool = False
    block: tuple[int, int] = (1, 1)

    @property
    def name(self) -> str:
        """File name without directory and suffix: ``scene`` for ``/data/scene.tiff``."""
        return Path(self.path).stem

    @property
    def window(self) -> Window:
        """The whole raster."""
        return Window(0, 0, self.height, self.width)

    def scene(self) -> SceneSpec:
        """The part that ``dataset.json`` keeps."""
        return SceneSpec(self.name, self.path, self.width, self.height, self.crs, self.transform)


@contextmanager
def open_raster(path: str | Path) -> Iterator[rasterio.DatasetReader]:
    """Open a raster for reading.

    Raises:
        UserError: There is no such file, or GDAL cannot open or read it (also while the context lasts).
    """
    with reading(path), rasterio.open(os.fspath(path)) as dataset:
        yield dataset


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn GDAL's errors about a file into a :class:`UserError` that names it."""
    text = os.fspath(path)
    try:
        with rasterio.Env():  # in threads without one GDAL prints its warnings on stderr
            yield
    except RasterioError as error:
        if not text.startswith("/vsi") and "://" not in text and not Path(text).exists():
            raise UserError(f"There is no file {text}; give the path of a raster that GDAL reads.") from error
        reason = re.sub(r"\s+", " ", str(error.__cause__ or error)).strip()
        raise UserError(
            f"{text} cannot be read as a raster ({reason}); expected a whole file that GDAL reads. "
            f"Check it with: gdalinfo -checksum {text}"
        ) from error


@contextmanager
def block_cache(megabytes: int) -> Iterator[None]:
    """Bound the decoded blocks that GDAL keeps; its default, a twentieth of the memory, would fill with a scene."""
    with rasterio.Env(GDAL_CACHEMAX=megabytes):
        yield


def describe(path: str | Path) -> RasterInfo:
    """Read a raster's size, grid, nodata and bands, no pixels. Raises UserError like :func:`open_raster`."""
    with open_raster(path) as dataset:
        return info_of(dataset)


def info_of(dataset: rasterio.DatasetReader) -> RasterInfo:
    """Describe an open dataset; see :class:`RasterInfo`. Raises UserError for complex numbers."""
    indexes = measurement_indexes(dataset)
    dtypes = [dataset.dtypes[i - 1] for i in indexes]
    if strange := [dtype for dtype in dtypes if dtype.startswith("complex")]:
        raise UserError(
            f"{dataset.name} holds {strange[0]} numbers; expected real ones. Compute an intensity first, for example "
            "with gdal_calc.py --calc='abs(A)'."
        )
    return RasterInfo(
        path=dataset.name,
        width=dataset.width,
        height=dataset.height,
        dtype=str(np.result_type(*dtypes)),
        crs=dataset.crs.to_wkt() if dataset.crs else None,
        transform=tuple(dataset.transform)[:6],
        nodata=tuple(dataset.nodatavals[i - 1] for i in indexes),
        bands=_bands(dataset, indexes),
        masked=bool(_mask_indexes(dataset)),
        block=dataset.block_shapes[0],
    )


def measurement_indexes(dataset: rasterio.DatasetReader) -> list[int]:
    """List the 1-based indexes of the bands that are measurements: all but alpha bands."""
    indexes = [
        i for i, meaning in zip(dataset.indexes, dataset.colorinterp, strict=True) if meaning != ColorInterp.alpha
    ]
    return indexes or list(dataset.indexes)


def _mask_indexes(dataset: rasterio.DatasetReader) -> list[int]:
    """List the 1-based indexes whose GDAL masks say more than nodata values do: one where all bands share it."""
    flags = dataset.mask_flag_enums
    if any(MaskFlags.per_dataset in flag for flag in flags):
        return [next(i for i, flag in enumerate(flags, start=1) if MaskFlags.per_dataset in flag)]
    return [i for i, flag in enumerate(flags, start=1) if not flag]


def read_valid(
    dataset: rasterio.DatasetReader,
    window: Window,
    image: npt.NDArray[Any],
    nodata: Sequence[float | None] | float | None,
    used: Sequence[bool] | None = None,
) -> npt.NDArray[np.bool_]:
    """Tell which pixels of a window are measurements, by nodata values, NaN, masks and alpha.

    Args:
        dataset: An open raster.
        window: May reach over any edge; outside there are no measurements.
        image: What :func:`read_window` returned for it, C × H × W with all bands.
        nodata: One value for all bands, or one per band.
        used: Which bands count; None for all.

    Returns:
        H × W, False where any used band has its nodata value or is not finite, or a mask says so.
    """
    valid = all_measured(image, nodata, used)
    inside = window.intersection(Window(0, 0, dataset.height, dataset.width))
    top, left = inside.row - window.row, inside.column - window.column
    if inside != window:
        outside = np.ones(valid.shape, bool)
        outside[top : top + inside.height, left : left + inside.width] = False
        valid &= ~outside
    masks = _mask_indexes(dataset)
    if masks and inside.pixels:
        part = RasterioWindow(inside.column, inside.row, inside.width, inside.height)
        mask = (dataset.read_masks(masks, window=part) > 0).all(0)
        valid[top : top + inside.height, left : left + inside.width] &= mask
    return valid


def read_window(
    dataset: rasterio.DatasetReader,
    window: Window,
    fill: float,
    bands: Sequence[int] | None = None,
) -> npt.NDArray[Any]:
    """Read a window; what lies outside the raster is filled.

    Args:
        dataset: An open raster.
        window: In pixels of the raster; may reach over any edge.
        fill: Value outside the raster.
        bands: 0-based band numbers (alpha bands do not count); None for all.

    Returns:
        C × H × W in the raster's own data type.
    """
    inside = window.intersection(Window(0, 0, dataset.height, dataset.width))
    indexes = measurement_indexes(dataset)
    indexes = [indexes[b] for b in bands] if bands is not None else indexes
    dtype = np.result_type(*(dataset.dtypes[i - 1] for i in indexes))
    if inside == window:
        return _read(dataset, indexes, inside, dtype)
    image = np.full((len(indexes), window.height, window.width), fill, dtype)
    if inside.pixels:
        row, column = inside.row - window.row, inside.column - window.column
        image[:, row : row + inside.height, column : column + inside.width] = _read(dataset, indexes, inside, dtype)
    return image


def _read(
    dataset: rasterio.DatasetReader, indexes: list[int], window: Window, dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    part = RasterioWindow(window.column, window.row, window.width, window.height)
    image: npt.NDArray[Any] = dataset.read(indexes, window=part, out_dtype=dtype)
    return image


def read_decimated(
    dataset: rasterio.DatasetReader, bands: Sequence[int], max_side: int, window: Window | None = None
) -> npt.NDArray[Any]:
    """Read a small picture of a raster, from its overviews where it has them.

    Args:
        dataset: An open raster.
        bands: 0-based band numbers.
        max_side: Pixels of the picture's longer side at most; nearest neighbour.
        window: Part inside the raster; None for all of it.

    Returns:
        C × H × W with H, W ≤ ``max_side``.
    """
    part, shape = _decimation(dataset, max_side, window)
    indexes = measurement_indexes(dataset)
    image: npt.NDArray[Any] = dataset.read([indexes[b] for b in bands], window=part, out_shape=(len(bands), *shape))
    return image


def valid_decimated(
    dataset: rasterio.DatasetReader,
    image: npt.NDArray[Any],
    bands: Sequence[int],
    max_side: int,
    window: Window | None = None,
) -> npt.NDArray[np.bool_]:
    """Tell which pixels of :func:`read_decimated`'s picture are measurements in all of its bands: H × W."""
    part, shape = _decimation(dataset, max_side, window)
    valid = measured(image, [dataset.nodatavals[b] for b in bands]).all(0)
    mask: npt.NDArray[np.bool_] = dataset.dataset_mask(window=part, out_shape=shape) > 0
    return valid & mask


def _decimation(
    dataset: rasterio.DatasetReader, max_side: int, window: Window | None
) -> tuple[RasterioWindow, tuple[int, int]]:
    part = window or Window(0, 0, dataset.height, dataset.width)
    factor = max(1.0, max(part.height, part.width) / max_side)
    shape = max(1, round(part.height / factor)), max(1, round(part.width / factor))
    return RasterioWindow(part.column, part.row, part.width, part.height), shape


def apply_transform(transform: Sequence[float], points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Turn n × 2 positions (column, row) into coordinates by affine coefficients."""
    a, b, c, d, e, f = transform
    return np.asarray(points @ np.array([[a, d], [b, e]]) + np.array([c, f]))


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


def warped(dataset: rasterio.DatasetReader, target: RasterInfo) -> WarpedVRT:
    """Lay a label raster onto another raster's grid by nearest neighbour, computed window by window.

    What the source does not cover, and its nodata, becomes 0. The result reads like an open raster.
    """
    return WarpedVRT(
        dataset,
        crs=CRS.from_wkt(target.crs),
        transform=rasterio.Affine(*target.transform),
        width=target.width,
        height=target.height,
        resampling=Resampling.nearest,
        nodata=0,
        tolerance=0.01,  # pixels that a position may be off; GDAL's default is an eighth
    )


def bounds_in(info: RasterInfo, crs: str | None) -> tuple[float, float, float, float]:
    """Return a raster's extent (left, bottom, right, top) in a CRS; in its own where one of both has none."""
    transform = rasterio.Affine(*info.transform)
    corners = [transform * corner for corner in ((0, 0), (info.width, 0), (0, info.height), (info.width, info.height))]
    xs, ys = zip(*corners, strict=True)
    bounds = min(xs), min(ys), max(xs), max(ys)
    if info.crs is None or crs is None or same_crs(info.crs, crs):
        return bounds
    left, bottom, right, top = transform_bounds(CRS.from_wkt(info.crs), CRS.from_wkt(crs), *bounds)
    return left, bottom, right, top


def transform_points(points: npt.NDArray[np.float64], source: str, target: str) -> npt.NDArray[np.float64]:
    """Transform n × 2 coordinates from one CRS (WKT) into another."""
    xs, ys = rasterio.warp.transform(CRS.from_wkt(source), CRS.from_wkt(target), points[:, 0], points[:, 1])
    return np.column_stack([xs, ys])


def category_names(dataset: rasterio.DatasetReader) -> dict[int, str]:
    """Return the names of the values in band 1 (ENVI class names, GDAL category names); empty where there are none."""
    # rasterio has no call for them; the raster's description as a VRT holds them for every format.
    with tempfile.TemporaryDirectory() as folder:
        description = Path(folder) / "description.vrt"
        rasterio.shutil.copy(dataset, description, driver="VRT")
        tree = ElementTree.parse(description)
    names = [(node.text or "").strip() for node in tree.findall("VRTRasterBand[@band='1']/CategoryNames/Category")]
    return {value: name for value, name in enumerate(names) if name and value > 0}


def value_colors(dataset: rasterio.DatasetReader) -> dict[int, str]:
    """Return the colours (#rrggbb) of the values in band 1's colour table; empty where there is none."""
    try:
        table = dataset.colormap(1)
    except ValueError:
        return {}
    return {value: "#{:02x}{:02x}{:02x}".format(*rgba[:3]) for value, rgba in table.items() if rgba[3]}


def shifted(transform: Sequence[float], window: Window) -> tuple[float, float, float, float, float, float]:
    """Return the affine coefficients of a window's own grid."""
    a, b, c, d, e, f = transform
    return (a, b, c + a * window.column + b * window.row, d, e, f + d * window.column + e * window.row)


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
    cube = image if image.ndim == 3 else image[None]
    grid = {"crs": CRS.from_wkt(crs) if crs else None, "transform": rasterio.Affine(*transform)}
    size = {"count": cube.shape[0], "height": cube.shape[1], "width": cube.shape[2], "dtype": cube.dtype}
    if nodata is not None and (cube.dtype.kind == "f" or as_dtype(nodata, cube.dtype) is not None):
        options["nodata"] = nodata
    if classes is None:
        options = {"photometric": "minisblack", **options}  # else GDAL takes a fourth uint8 band for alpha
    # In memory first: GDAL does not report that a disk is full when it happens while a file is closed.
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), MemoryFile() as memory:
        with memory.open(driver="GTiff", **size, **grid, **options) as dataset:
            if classes is not None:
                dataset.write_colormap(1, color_table(classes))  # first: pixels freeze the TIFF's kind of colour
            dataset.write(cube)
            for index, band in enumerate(bands, start=1):
                dataset.set_band_description(index, band.name)
                dataset.update_tags(index, **band_tags(band))
            if mask is not None:
                dataset.write_mask(mask)
        _write_bytes(path, memory.getbuffer())


def _write_bytes(path: str | Path, content: memoryview) -> None:
    try:
        with whole_file(path) as partial:
            partial.write_bytes(content)
    except OSError as error:  # a full disk does not say which file it was
        raise OSError(error.errno, error.strerror, str(path)) from error


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


def band_tags(band: Band) -> dict[str, str]:
    """GDAL metadata of a band in the names that ENVI and EnMAP-Box use."""
    tags = {"bbl": "0"} if band.bad else {}
    if band.wavelength is not None:
        tags |= {"wavelength": f"{band.wavelength:g}", "wavelength_units": "Nanometers"}
    return tags


def color_table(classes: ClassTable) -> dict[int, tuple[int, int, int, int]]:
    """Colour table of a class map: 0 is transparent."""
    return {0: (0, 0, 0, 0)} | {entry.value: (*entry.rgb, 255) for entry in classes.classes}


def _bands(dataset: rasterio.DatasetReader, indexes: Sequence[int]) -> tuple[Band, ...]:
    """Names, wavelengths and bad flags: from the bands' own metadata, else from an ENVI header's lists."""
    envi = {key.lower(): value for key, value in dataset.tags(ns="ENVI").items()}
    wavelengths, bad_list = _envi_list(envi.get("wavelength")), _envi_list(envi.get("bbl"))
    bands = []
    for position in (index - 1 for index in indexes):
        description = dataset.descriptions[position]
        tags = {key.lower(): value for key, value in dataset.tags(position + 1).items()}
        wavelength = tags.get("wavelength") or (wavelengths[position] if position < len(wavelengths) else None)
        unit = tags.get("wavelength_units") or envi.get("wavelength_units") or envi.get("wavelength units")
        flag = tags.get("bbl") or (bad_list[position] if position < len(bad_list) else "1")
        bands.append(Band(description or f"band {position + 1}", _nanometres(wavelength, unit), _number(flag) == 0))
    return tuple(bands)


def _envi_list(text: str | None) -> list[str]:
    return [part.strip() for part in text.strip("{} \n").split(",")] if text else []


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _nanometres(text: str | None, unit: str | None) -> float | None:
    """Convert a wavelength; without a known unit, numbers below 100 are micrometres (no imager sees 100 nm)."""
    number = _number(text)
    if number is None or number <= 0:
        return None
    factor = _NANOMETRES.get((unit or "").strip().lower())
    return number * (factor if factor is not None else (1e3 if number < 100 else 1.0))


def is_striped(dataset: rasterio.DatasetReader) -> bool:
    """Tell whether a raster is stored in whole rows, so that any window costs reading them from edge to edge."""
    return any(width >= dataset.width for _, width in dataset.block_shapes)


def copy_raster(source: str | Path, path: str | Path, driver: str, **options: str | int) -> None:
    """Write what GDAL reads from ``source`` (a path or the XML of a VRT) as another file.

    Raises:
        UserError: It cannot be written, as when the disk is full; nothing is left of it then.
    """
    try:
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


def crs_unit(crs: str | None) -> tuple[str, float] | None:
    """Return ``projected`` and the metres of its unit, or ``geographic`` and the radians; None for any other CRS."""
    parsed = CRS.from_wkt(crs) if crs else None
    if parsed is None or not (parsed.is_projected or parsed.is_geographic):
        return None
    return ("projected" if parsed.is_projected else "geographic"), float(parsed.units_factor[1])
