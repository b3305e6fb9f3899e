"""What is in a raster, and windows out of it."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
import rasterio.warp
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterioWindow

from src.bands import Band, all_measured, measured, nodata_of_bands
from src.errors import UserError
from src.grid import Window
from src.spec import SceneSpec

# Rasters without a place on earth are welcome: rows and columns are all that is needed.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

DatasetReader = rasterio.DatasetReader

CHIP_FORMATS = ["GTiff", "ENVI", "PNG"]
"""GDAL's names of the formats that a data folder's chips may have."""
_BESIDE = (".msk", ".MSK", ".ovr", ".OVR")
"""What GDAL puts behind a raster's name for its mask and its overviews, and opens as whatever they are."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How TIFFs begin."""


_NANOMETRES = {"nanometers": 1.0, "nanometer": 1.0, "nm": 1.0, "micrometers": 1e3, "micrometer": 1e3, "um": 1e3}


@dataclass(frozen=True)
class ControlPoints:
    """Places of single pixels, of rasters that have no grid on earth: raw satellite and aerial images.

    Attributes:
        crs: Theirs, as WKT; None where they have none.
        points: Column, row, x, y and z of each; z is 0 where it is unknown.
    """

    crs: str | None
    points: tuple[tuple[float, float, float, float, float], ...]


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
        bands: Names, wavelengths, widths, bad flags. An alpha band is a mask and no band, here and wherever bands
            count.
        masked: Whether a mask or an alpha band says which pixels are measurements; see :func:`read_valid`.
        block: Height and width of the blocks that the file is stored in.
        alpha: 1-based numbers of the alpha bands in the file.
        control: Control points, where these are all that tells its place.
        doubt: What its header says that cannot be right; None where nothing is seen.
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
    alpha: tuple[int, ...] = ()
    control: ControlPoints | None = None
    doubt: str | None = None

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
def open_chip(path: str | Path) -> Iterator[rasterio.DatasetReader]:
    """Open a raster of a data folder, which may come from strangers: one that holds its numbers itself.

    Other formats name further files or addresses, which would be opened with it, and so may what GDAL finds beside a
    raster: an ``.aux.xml`` is passed over, overviews and masks have to be TIFFs of the folder.

    Raises:
        UserError: As :func:`open_raster`; or it has another format than :data:`CHIP_FORMATS`, or something else beside.
    """
    _check_beside(os.fspath(path))
    options = {"GDAL_PAM_ENABLED": False} | _without_listing(path)
    with (
        reading(path, f"a whole {' or '.join(CHIP_FORMATS)}", **options),
        DatasetReader(os.fspath(path), driver=CHIP_FORMATS) as dataset,  # rasterio.open takes one driver only
    ):
        yield dataset


def _without_listing(path: str | Path) -> dict[str, Any]:
    """Keep GDAL from listing a TIFF's folder, which may hold thousands of chips: it asks for what is beside by name."""
    return {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"} if os.fspath(path).lower().endswith((".tif", ".tiff")) else {}


def _check_beside(path: str) -> None:
    """Raise UserError if GDAL would open more with a chip than plain TIFFs of its folder."""
    for beside in (Path(path + suffix) for suffix in _BESIDE):
        if not os.path.lexists(beside):
            continue
        if not beside.is_symlink():
            with beside.open("rb") as file:
                if file.read(4) in _TIFF:
                    continue
        raise UserError(
            f"{beside} is no TIFF that lies in the data folder itself; expected a chip's mask or overviews. Take it "
            "away."
        )


@contextmanager
def reading(path: str | Path, kind: str = "a whole file that GDAL reads", **options: Any) -> Iterator[None]:
    """Turn GDAL's errors about a file into a :class:`UserError` that names it, and what ``kind`` was expected.

    ``options`` are GDAL's, as long as the context lasts.
    """
    text = os.fspath(path)
    try:
        with rasterio.Env(**options):  # in threads without one GDAL prints its warnings on stderr
            yield
    except RasterioError as error:
        if not text.startswith("/vsi") and "://" not in text and not Path(text).exists():
            raise UserError(f"There is no file {text}; give the path of one that GDAL reads.") from error
        reason = re.sub(r"\s+", " ", str(error.__cause__ or error)).strip()
        raise UserError(
            f"{text} cannot be read as a raster ({reason}); expected {kind}. Check it with: gdalinfo -checksum {text}"
        ) from error


@contextmanager
def block_cache(megabytes: int, threads: int = 1) -> Iterator[None]:
    """Bound the decoded blocks that GDAL keeps; its default, a twentieth of the memory, would fill with a scene.

    Args:
        megabytes: Of decoded blocks.
        threads: How many decode the blocks of a GeoTIFF that is opened meanwhile; 1 leaves it to the environment.
    """
    options = {"GDAL_NUM_THREADS": threads} if threads > 1 else {}  # else what the environment says
    with rasterio.Env(GDAL_CACHEMAX=megabytes, **options):
        yield


def describe(path: str | Path) -> RasterInfo:
    """Read a raster's size, grid, nodata and bands, no pixels. Raises UserError like :func:`open_raster`."""
    with open_raster(path) as dataset:
        return info_of(dataset)


def info_of(dataset: rasterio.DatasetReader) -> RasterInfo:
    """Describe an open dataset; see :class:`RasterInfo`. Raises UserError for complex numbers and for no raster."""
    if not dataset.count:
        inside = dataset.subdatasets
        raise UserError(
            f"{dataset.name} is no raster itself but holds {len(inside)}; expected one raster. Give one by its name"
            f"{': ' + ', '.join(inside[:5]) if inside else ''}{' …' if len(inside) > 5 else ''} (gdalinfo lists them)."
        )
    indexes = measurement_indexes(dataset)
    dtypes = [dataset.dtypes[i - 1] for i in indexes]
    if strange := [dtype for dtype in dtypes if dtype.startswith("complex")]:
        raise UserError(
            f"{dataset.name} holds {strange[0]} numbers; expected real ones. Compute an intensity first, for example "
            "with gdal_calc.py --calc='abs(A)'."
        )
    _check_size(dataset)
    return RasterInfo(
        path=dataset.name,
        width=dataset.width,
        height=dataset.height,
        dtype=str(np.result_type(*dtypes)),
        crs=dataset.crs.to_wkt() if dataset.crs else None,
        transform=tuple(dataset.transform)[:6],
        nodata=tuple(dataset.nodatavals[i - 1] for i in indexes),
        bands=_bands(dataset, indexes),
        masked=bool(mask_indexes(dataset) or unheeded_alpha(dataset)),
        block=dataset.block_shapes[0],
        alpha=tuple(alpha_indexes(dataset)),
        control=None if dataset.crs else _control_points(dataset),
        doubt=_doubt_about_bbl(dataset),
    )


def _check_size(dataset: rasterio.DatasetReader) -> None:
    """Raise UserError if a raw file has not the size that its header says: GDAL reads zeros where nothing is.

    What lies behind may be padding, but not as much as a row: then lines, bands or the type are wrong.
    """
    envi = _envi_header(dataset)
    file = Path(dataset.name)
    if dataset.driver != "ENVI" or envi.get("file_compression", "0").strip() not in ("", "0") or not file.is_file():
        return
    row = dataset.width * np.dtype(dataset.dtypes[0]).itemsize
    offset = int(_number(envi.get("header_offset")) or 0)
    expected, size = offset + dataset.height * dataset.count * row, file.stat().st_size
    if not expected <= size < expected + row:
        raise UserError(
            f"{file} has {size:,} bytes, but its header says {dataset.width} samples × {dataset.height} lines × "
            f"{dataset.count} band{'s' * (dataset.count > 1)} of {dataset.dtypes[0]}"
            f"{f' behind {offset:,} bytes' * bool(offset)}, which are {expected:,}; expected a whole file and its own "
            "header. Copy it again, or correct the header."
        )


def _doubt_about_bbl(dataset: rasterio.DatasetReader) -> str | None:
    """Say that a list of bad bands is of no use; None where there is none, or it is."""
    listed = _envi_list(_envi_header(dataset).get("bbl"))
    if not listed or (len(listed) == dataset.count and None not in map(_number, listed)):
        return None
    what = (
        f"{len(listed)} entries for {dataset.count} bands"
        if len(listed) != dataset.count
        else "entries that are no numbers"
    )
    return f"{dataset.name} has a list of bad bands (bbl) with {what}; bands that it does not name are taken for good"


def _envi_header(dataset: rasterio.DatasetReader) -> dict[str, str]:
    return {key.lower().replace(" ", "_"): value for key, value in dataset.tags(ns="ENVI").items()}


def _control_points(dataset: rasterio.DatasetReader) -> ControlPoints | None:
    points, crs = dataset.gcps
    places = tuple((float(p.col), float(p.row), float(p.x), float(p.y), float(p.z or 0)) for p in points)
    return ControlPoints(crs.to_wkt() if crs else None, places) if places else None


def measurement_indexes(dataset: rasterio.DatasetReader) -> list[int]:
    """List the 1-based indexes of the bands that are measurements: all but alpha bands."""
    indexes = [
        i for i, meaning in zip(dataset.indexes, _meanings(dataset), strict=True) if meaning != ColorInterp.alpha
    ]
    return indexes or list(dataset.indexes)


def _meanings(dataset: rasterio.DatasetReader) -> Sequence[ColorInterp]:
    """Return what the bands are shown as. rasterio takes a warning about an earlier call for an error of this, once."""
    try:
        meanings: Sequence[ColorInterp] = dataset.colorinterp
    except CPLE_BaseError:
        meanings = dataset.colorinterp
    return meanings


def alpha_indexes(dataset: rasterio.DatasetReader) -> list[int]:
    """List the 1-based indexes of the alpha bands, which are no measurements."""
    return sorted(set(dataset.indexes) - set(measurement_indexes(dataset)))


def mask_indexes(dataset: rasterio.DatasetReader) -> list[int]:
    """List the 1-based indexes whose GDAL masks say more than nodata values do: one where all bands share it."""
    flags = dataset.mask_flag_enums
    if any(MaskFlags.per_dataset in flag for flag in flags):
        return [next(i for i, flag in enumerate(flags, start=1) if MaskFlags.per_dataset in flag)]
    return [i for i, flag in enumerate(flags, start=1) if not flag]


def unheeded_alpha(dataset: rasterio.DatasetReader) -> list[int]:
    """List the 1-based indexes of alpha bands that GDAL's masks leave out, as where there is a nodata value too."""
    alpha = alpha_indexes(dataset)
    heeded = bool(alpha) and any(MaskFlags.alpha in flag for flag in dataset.mask_flag_enums)
    return [] if heeded else alpha


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
    if inside.pixels:
        part, within = _part(inside), valid[top : top + inside.height, left : left + inside.width]
        for indexes, read in ((mask_indexes(dataset), dataset.read_masks), (unheeded_alpha(dataset), dataset.read)):
            if indexes:
                within &= (read(indexes, window=part) > 0).all(0)
    return valid


def read_window(
    dataset: rasterio.DatasetReader,
    window: Window,
    fill: float,
    bands: Sequence[int] | None = None,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Read a window; what lies outside the raster is filled.

    Args:
        dataset: An open raster.
        window: In pixels of the raster; may reach over any edge.
        fill: Value outside the raster.
        bands: 0-based band numbers (alpha bands do not count); None for all.
        out: Memory of that shape and type to read into; None for new.

    Returns:
        C × H × W in the raster's own data type.
    """
    inside = window.intersection(Window(0, 0, dataset.height, dataset.width))
    indexes = measurement_indexes(dataset)
    indexes = [indexes[b] for b in bands] if bands is not None else indexes
    dtype = _common_type(dataset, indexes)
    image = np.empty((len(indexes), window.height, window.width), dtype) if out is None else out
    if inside == window:
        return _read(dataset, indexes, _part(inside), image)
    image[...] = fill
    if inside.pixels:
        row, column = inside.row - window.row, inside.column - window.column
        part = np.empty((len(indexes), inside.height, inside.width), dtype)
        image[:, row : row + inside.height, column : column + inside.width] = _read(
            dataset, indexes, _part(inside), part
        )
    return image


def _part(window: Window) -> RasterioWindow:
    return RasterioWindow(window.column, window.row, window.width, window.height)


def _common_type(dataset: rasterio.DatasetReader, indexes: Sequence[int]) -> np.dtype[Any]:
    return np.result_type(*(dataset.dtypes[index - 1] for index in indexes))


def _read(
    dataset: rasterio.DatasetReader, indexes: Sequence[int], part: RasterioWindow, out: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Read a part into memory of its shape, or of a smaller one by nearest neighbour."""
    if len({dataset.dtypes[index - 1] for index in indexes}) > 1:  # which rasterio reads one by one only
        for band, index in zip(out, indexes, strict=True):
            band[...] = dataset.read(index, window=part, out_shape=band.shape)
        return out
    image: npt.NDArray[Any] = dataset.read(indexes, window=part, out=out)
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
    measurements = measurement_indexes(dataset)
    indexes = [measurements[b] for b in bands]
    return _read(dataset, indexes, part, np.empty((len(bands), *shape), _common_type(dataset, indexes)))


def valid_decimated(
    dataset: rasterio.DatasetReader,
    image: npt.NDArray[Any],
    bands: Sequence[int],
    max_side: int,
    window: Window | None = None,
    nodata: float | None = None,
    *,
    given: bool = False,
) -> npt.NDArray[np.bool_]:
    """Tell which pixels of :func:`read_decimated`'s picture are measurements in all of its bands: H × W.

    What the file declares counts, and ``nodata`` where it declares nothing, or if it was ``given`` by the user; see
    :func:`~src.bands.nodata_of_bands`.
    """
    part, shape = _decimation(dataset, max_side, window)
    measurements = measurement_indexes(dataset)
    declared = [dataset.nodatavals[measurements[b] - 1] for b in bands]
    valid = np.ones(image.shape[1:], bool)
    for values in nodata_of_bands(declared, nodata, str(image.dtype), given=given):
        valid &= measured(image, values).all(0)
    mask: npt.NDArray[np.bool_] = dataset.dataset_mask(window=part, out_shape=shape) > 0
    return valid & mask


def _decimation(
    dataset: rasterio.DatasetReader, max_side: int, window: Window | None
) -> tuple[RasterioWindow, tuple[int, int]]:
    part = window or Window(0, 0, dataset.height, dataset.width)
    factor = max(1.0, max(part.height, part.width) / max_side)
    shape = max(1, round(part.height / factor)), max(1, round(part.width / factor))
    return _part(part), shape


def category_names(dataset: rasterio.DatasetReader) -> dict[int, str]:
    """Return the names of the values in band 1, 0 too (ENVI class names, GDAL category names); empty without any."""
    # rasterio has no call for them; the raster's description as a VRT holds them for every format.
    nodes = _as_vrt(dataset).findall("VRTRasterBand[@band='1']/CategoryNames/Category")
    names = [(node.text or "").strip() for node in nodes]
    return {value: name for value, name in enumerate(names) if name}


def _as_vrt(dataset: rasterio.DatasetReader) -> ElementTree.Element:
    """Return a raster's description as a VRT. Text that is no UTF-8 (older ENVI headers) is taken for Windows-1252."""
    with tempfile.TemporaryDirectory() as folder:
        description = Path(folder) / "description.vrt"
        rasterio.shutil.copy(dataset, description, driver="VRT")
        content = description.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    return ElementTree.fromstring(text)


def _descriptions(dataset: rasterio.DatasetReader) -> Sequence[str | None]:
    """Return the bands' descriptions."""
    try:
        descriptions: Sequence[str | None] = dataset.descriptions
    except UnicodeDecodeError:
        return [band.findtext("Description") for band in _as_vrt(dataset).findall("VRTRasterBand")]
    return descriptions


def value_colors(dataset: rasterio.DatasetReader) -> dict[int, str]:
    """Return the colours (#rrggbb) of the values in band 1's colour table; empty where there is none."""
    try:
        table = dataset.colormap(1)
    except ValueError:
        return {}
    return {value: "#{:02x}{:02x}{:02x}".format(*rgba[:3]) for value, rgba in table.items() if rgba[3]}


def _bands(dataset: rasterio.DatasetReader, indexes: Sequence[int]) -> tuple[Band, ...]:
    """Names, wavelengths, widths and bad flags, from the bands' own metadata or else an ENVI header's lists; units."""
    envi = _envi_header(dataset)
    header = {key: _envi_list(envi.get(key)) for key in ("wavelength", "fwhm", "bbl")}
    bands, descriptions = [], _descriptions(dataset)
    for position in (index - 1 for index in indexes):
        description = descriptions[position]
        tags = {key.lower(): value for key, value in dataset.tags(position + 1).items()}
        own = {
            key: tags.get(key) or next(iter(listed[position : position + 1]), None) for key, listed in header.items()
        }
        unit = tags.get("wavelength_units") or envi.get("wavelength_units")
        factor = _nanometres_in(unit, _number(own["wavelength"]))
        wavelength, fwhm = (_positive(_number(own[key]), factor) for key in ("wavelength", "fwhm"))
        name = description or f"band {position + 1}"
        units = dataset.scales[position], dataset.offsets[position]
        bands.append(Band(name, wavelength, _number(own["bbl"]) == 0, fwhm, units))
    return tuple(bands)


def _envi_list(text: str | None) -> list[str]:
    return [part.strip() for part in text.strip("{} \n").split(",")] if text else []


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _nanometres_in(unit: str | None, wavelength: float | None) -> float:
    """Return the nanometres in a unit; an unknown one is micrometres if a wavelength is below 100, which none sees."""
    factor = _NANOMETRES.get((unit or "").strip().lower())
    return factor if factor is not None else 1e3 if wavelength is not None and wavelength < 100 else 1.0


def _positive(number: float | None, factor: float) -> float | None:
    return number * factor if number is not None and number > 0 else None


def is_striped(dataset: rasterio.DatasetReader) -> bool:
    """Tell whether a raster is stored in whole rows, so that any window costs reading them from edge to edge."""
    return any(width >= dataset.width for _, width in dataset.block_shapes)
