"""Cloud Optimized GeoTIFFs out of plain files of numbers, by way of a virtual raster that names and colours them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from src.cores import cores
from src.labels import UNCLASSIFIED, ClassTable
from src.raster.read import ControlPoints, RasterInfo
from src.raster.write import color_table, copy_raster

_GDAL_TYPES = {"uint8": ("Byte", 1), "float32": ("Float32", 4)}


@dataclass(frozen=True)
class Layer:
    """A file of numbers on a raster's grid, rows × columns × bands, and what they mean.

    Attributes:
        name: What the file is called: ``classes``, ``probabilities``, ``uncertainty``.
        dtype: ``uint8`` or ``float32``, little-endian.
        bands: A name per band.
        nodata: Marks pixels without a value.
        scale: Stored number × scale = value; None where the stored number is the value.
        half: Store float32 as 16-bit floats.
        classes: Class table of a class map.
    """

    name: str
    dtype: str
    bands: tuple[str, ...]
    nodata: float
    scale: float | None = None
    half: bool = False
    classes: ClassTable | None = None

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel, all bands."""
        return _GDAL_TYPES[self.dtype][1] * len(self.bands)


def write_cog(raw: Path, path: Path, layer: Layer, grid: RasterInfo) -> None:
    """Write a layer as a Cloud Optimized GeoTIFF with GDAL's COG driver.

    TIFF has no place for category names that GDAL reads, so GDAL puts them into ``<path>.aux.xml`` beside; inside
    they stand as metadata of the band, ``CLASS_<value>``.

    Args:
        raw: The file of numbers.
        path: Where to.
        layer: What is in it.
        grid: The raster whose grid it is on.

    Raises:
        UserError: It cannot be written.
    """
    options: dict[str, Any] = {
        "COMPRESS": "DEFLATE",
        "PREDICTOR": "NO" if layer.classes else "YES",
        "BLOCKSIZE": 512,
        "BIGTIFF": "IF_SAFER",
        "OVERVIEW_RESAMPLING": "MODE" if layer.classes else "AVERAGE",
        "NUM_THREADS": str(cores()),
        "STATISTICS": "NO",
    }
    if layer.half:
        options["NBITS"] = 16
    copy_raster(virtual_raster(raw, layer, grid), path, "COG", **options)


def virtual_raster(raw: Path, layer: Layer, grid: RasterInfo) -> str:
    """Return the XML of a VRT that reads ``raw`` as a raster on ``grid`` with names, colours and nodata."""
    a, b, c, d, e, f = grid.transform
    has_grid = grid.crs is not None or grid.transform != (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    parts = [f'<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}">']
    if grid.crs:
        parts.append(f"<SRS>{escape(grid.crs)}</SRS>")
    if has_grid:
        parts.append("<GeoTransform>" + ",".join(repr(float(x)) for x in (c, a, b, f, d, e)) + "</GeoTransform>")
    elif grid.control:
        parts.append(_control_points(grid.control))
    parts += [_band(raw, layer, grid.width, position) for position in range(len(layer.bands))]
    return "".join([*parts, "</VRTDataset>"])


def _control_points(control: ControlPoints) -> str:
    """Return a scene's control points: its map lies where these say, as it does itself."""
    projection = f" Projection={quoteattr(control.crs)}" if control.crs else ""
    points = (
        f'<GCP Id="{number}" Pixel="{column!r}" Line="{row!r}" X="{x!r}" Y="{y!r}" Z="{z!r}"/>'
        for number, (column, row, x, y, z) in enumerate(control.points, start=1)
    )
    return f"<GCPList{projection}>{''.join(points)}</GCPList>"


def _band(raw: Path, layer: Layer, width: int, position: int) -> str:
    gdal_type, size = _GDAL_TYPES[layer.dtype]
    metadata = ""
    if layer.classes:
        items = [f'<MDI key="CLASS_{c.value}">{escape(c.name)}</MDI>' for c in layer.classes.classes]
        metadata = f"<Metadata>{''.join(items)}</Metadata>"
    return "".join(
        [
            f'<VRTRasterBand dataType="{gdal_type}" band="{position + 1}" subClass="VRTRawRasterBand">',
            f"<Description>{escape(layer.bands[position])}</Description>{metadata}",
            f"<NoDataValue>{layer.nodata:g}</NoDataValue>",
            f"<Scale>{layer.scale!r}</Scale>" if layer.scale else "",
            _palette(layer.classes) if layer.classes else "<ColorInterp>Gray</ColorInterp>",
            f'<SourceFilename relativeToVRT="0">{escape(str(raw.resolve()))}</SourceFilename>',
            f"<ImageOffset>{position * size}</ImageOffset><PixelOffset>{layer.pixel_bytes}</PixelOffset>",
            f"<LineOffset>{layer.pixel_bytes * width}</LineOffset><ByteOrder>LSB</ByteOrder></VRTRasterBand>",
        ]
    )


def _palette(classes: ClassTable) -> str:
    colors, names = color_table(classes), dict(zip(classes.values, classes.names, strict=True))
    names[UNCLASSIFIED] = "unclassified"
    entries: Sequence[int] = range(max(classes.values) + 1)
    rgba = [colors.get(value, (0, 0, 0, 0)) for value in entries]
    return "".join(
        [
            "<ColorInterp>Palette</ColorInterp><CategoryNames>",
            *(f"<Category>{escape(names.get(value, ''))}</Category>" for value in entries),
            "</CategoryNames><ColorTable>",
            *(f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="{alpha}"/>' for r, g, b, alpha in rgba),
            "</ColorTable>",
        ]
    )
