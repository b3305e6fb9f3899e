"""Many GeoTIFFs that differ in their numbers and their place only: GDAL writes the first, the rest follow from it.

Describing bands and a coordinate system to GDAL takes longer than writing a chip's numbers, and a data folder has
thousands of chips, for all of which it is the same. What lies around the numbers is taken from what GDAL writes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from src.atomic import whole_file
from src.raster.write import geotiff

_TRIALS = ((786432.40625, -1310719.28125), (-524287.78125, 983039.15625))
"""Places (x, y) that are tried: numbers that stand in no header by chance."""


@dataclass(frozen=True)
class Mould:
    """The bytes around a GeoTIFF's numbers.

    Attributes:
        shape: Bands, rows and columns.
        dtype: Of the numbers.
        steps: What the transforms have in common: all of their coefficients but the third and the last.
        head: What stands before the numbers.
        tail: What stands after them.
        places: Where in ``head`` x and y of the upper left corner stand.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    steps: tuple[float, float, float, float]
    head: bytes
    tail: bytes
    places: tuple[int, int]

    @classmethod
    def of(
        cls, shape: tuple[int, int, int], dtype: npt.DTypeLike, transform: Sequence[float], **description: Any
    ) -> Mould | None:
        """Learn from two GeoTIFFs that GDAL writes, and see whether the second follows from the first.

        Args:
            shape: Bands, rows and columns.
            dtype: Of the numbers.
            transform: Affine coefficients of one of the files.
            description: As of :func:`src.raster.write.write_geotiff`, without a mask.

        Returns:
            None where the bytes do not follow, as those of a compressed file do not.
        """
        generator, kind = np.random.default_rng(0), np.dtype(dtype)
        a, b, _, d, e, _ = transform
        found = None
        for x, y in _TRIALS:
            numbers = generator.integers(1, 127, shape, np.uint8).astype(kind)
            grid = (a, b, x, d, e, y)
            with geotiff(numbers, transform=grid, **description) as content:
                written = bytes(content)
            if found is not None:
                return found if written == b"".join(found.pieces(numbers, grid)) else None
            begin = written.find(numbers.data.cast("B"))
            places = [_only(written, struct.pack("=d", number)) for number in (x, y)]
            if begin < 0 or not all(0 <= place < begin for place in places):
                return None
            head, tail = written[:begin], written[begin + numbers.nbytes :]
            found = cls(shape, kind, (a, b, d, e), head, tail, (places[0], places[1]))
        return None

    def fits(self, image: npt.NDArray[Any], transform: Sequence[float]) -> bool:
        """Tell whether a file follows from this one, given its C × H × W numbers and its transform.

        GDAL writes no transform where it is the identity.
        """
        a, b, _, d, e, _ = transform
        same = (image.shape, image.dtype, (a, b, d, e)) == (self.shape, self.dtype, self.steps)
        return same and tuple(transform) != (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    def pieces(self, image: npt.NDArray[Any], transform: Sequence[float]) -> tuple[bytes, memoryview, bytes]:
        """Return the bytes of the file with these numbers at this place, one piece after the other."""
        head = bytearray(self.head)
        for place, number in zip(self.places, (transform[2], transform[5]), strict=True):
            struct.pack_into("=d", head, place, number)
        return bytes(head), np.ascontiguousarray(image).data.cast("B"), self.tail

    def write(self, path: str | Path, image: npt.NDArray[Any], transform: Sequence[float]) -> None:
        """Write the file, whole or not at all; raises OSError where the disk is full or the folder not writable."""
        with whole_file(path) as partial, partial.open("wb") as file:
            file.writelines(self.pieces(image, transform))


def _only(text: bytes, searched: bytes) -> int:
    """Return where a text stands in another; −1 where it does not, or stands more than once."""
    first = text.find(searched)
    return first if text.find(searched, first + 1) < 0 else -1
