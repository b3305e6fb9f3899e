"""Rasters whose numbers lie in their file as they lie in memory: read again without opening them with GDAL.

Opening a small GeoTIFF takes longer than reading it: tags, coordinate system and what lies beside it are looked at each
time. Whoever has read one and reads it again, epoch by epoch, needs its numbers only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import Interleaving

from src.raster.read import DatasetReader, mask_indexes, measurement_indexes, unheeded_alpha

_NATIVE = b"II" if sys.byteorder == "little" else b"MM"
"""How a TIFF begins whose numbers are in this machine's order of bytes."""


@dataclass(frozen=True)
class PlainRaster:
    """Where the numbers of a file lie in it.

    Attributes:
        path: The file.
        dtype: NumPy name of the bands' type.
        size: Bands of the file, rows and columns.
        indexes: 0-based positions of the bands that are read.
        begin: Byte at which the numbers begin.
        by_pixel: Whether the bands of a pixel lie side by side; else each band lies for itself.
        stamp: Size in bytes and time of the last change in nanoseconds, when that was so.
    """

    path: str
    dtype: str
    size: tuple[int, int, int]
    indexes: tuple[int, ...]
    begin: int
    by_pixel: bool
    stamp: tuple[int, int]

    def read(self) -> npt.NDArray[Any] | None:
        """Read the bands, C × H × W; None where the file has changed or gone."""
        bands, rows, columns = self.size
        try:
            with Path(self.path).open("rb") as file:
                if _stamp(file.fileno()) != self.stamp:
                    return None
                numbers = np.fromfile(file, self.dtype, bands * rows * columns, offset=self.begin)
        except OSError:
            return None
        if len(numbers) < bands * rows * columns:
            return None
        image = (
            numbers.reshape(rows, columns, bands).transpose(2, 0, 1) if self.by_pixel else numbers.reshape(self.size)
        )
        return np.ascontiguousarray(image if self.indexes == tuple(range(bands)) else image[list(self.indexes)])


def find_plain(dataset: DatasetReader, bands: Sequence[int], image: npt.NDArray[Any]) -> PlainRaster | None:
    """Tell where the bands of an open raster lie in its file, if they lie there as they lie in memory.

    That is so for TIFFs that are not compressed and have no masks, in one piece: as ``prepare.py`` writes chips, and
    as GDAL does where it is told nothing.

    Args:
        dataset: An open raster.
        bands: 0-based band numbers; alpha bands do not count.
        image: What GDAL reads of them, C × H × W: only what gives the same numbers is plain.
    """
    masked = mask_indexes(dataset) or unheeded_alpha(dataset)
    if dataset.driver != "GTiff" or dataset.compression or masked or not Path(dataset.name).is_file():
        return None
    begin = dataset.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1)
    with Path(dataset.name).open("rb") as file:
        if file.read(2) != _NATIVE or not begin:
            return None
        stamp = _stamp(file.fileno())
    measurements = measurement_indexes(dataset)
    indexes = tuple(measurements[band] - 1 for band in bands)
    size = dataset.count, *dataset.shape
    by_pixel = dataset.count > 1 and dataset.interleaving == Interleaving.pixel
    found = PlainRaster(dataset.name, str(image.dtype), size, indexes, int(begin), by_pixel, stamp)
    again = found.read()
    return found if again is not None and np.array_equal(again.view(np.uint8), image.view(np.uint8)) else None


def _stamp(file: int) -> tuple[int, int]:
    status = os.fstat(file)
    return status.st_size, status.st_mtime_ns
