"""Rows of a scene that windows share: in memory while they are few, else in a file without a name."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from src.errors import UserError
from src.grid import Window
from src.positioned import PositionedFile

MEMORY_BYTES = 64_000_000
"""Rows that are kept in memory; more of them go into a file, which costs little where the system caches it."""
TILE = 256
"""Columns that are stored together in the file: a window is read in few pieces, and little is read in vain."""


class Patch(NamedTuple):
    """A window of a scene in memory.

    Attributes:
        image: C × H × W, the network's bands in its order, in the file's own numbers.
        valid: H × W, True where the pixel is a measurement: it gets a class.
        fed: H × W, True where the network sees the pixel's numbers and not a blank.
    """

    image: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]
    fed: npt.NDArray[np.bool_]

    def part(self, rows: slice, columns: slice) -> Patch:
        """Return a view of some rows and columns."""
        return Patch(self.image[:, rows, columns], self.valid[rows, columns], self.fed[rows, columns])

    def put(self, row: int, column: int, other: Patch) -> None:
        """Copy another patch into this one, its upper left pixel at (row, column)."""
        height, width = other.valid.shape
        into = self.part(slice(row, row + height), slice(column, column + width))
        for target, source in zip(into, other, strict=True):
            target[:] = source


def blank(bands: int, height: int, width: int, dtype: np.dtype[Any]) -> Patch:
    """Return a patch of zeros that are neither valid nor fed."""
    valid, fed = np.zeros((2, height, width), bool)
    return Patch(np.zeros((bands, height, width), dtype), valid, fed)


class KeptRows:
    """Blocks of whole rows, numbered from the scene's top; the oldest give way to the newest."""

    def __init__(self, bands: int, dtype: np.dtype[Any], width: int, rows: int, blocks: int, folder: Path) -> None:
        """Make room.

        Args:
            bands: Bands of the blocks.
            dtype: Their data type.
            width: Columns of the scene.
            rows: Rows of a block.
            blocks: Blocks to keep at least.
            folder: Where the file lies, if one is needed.
        """
        self.rows, self.blocks = rows, blocks
        self._bands, self._dtype, self._width, self._folder = bands, dtype, width, folder
        self._tile_bytes = rows * TILE * (bands * dtype.itemsize + 2)
        self._memory: dict[int, Patch] = {}
        self._numbers: set[int] = set()
        in_memory = blocks * rows * width * (bands * dtype.itemsize + 2) <= MEMORY_BYTES
        file = None if in_memory else tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115  kept
        self._file = None if file is None else PositionedFile(file)

    def __contains__(self, number: int) -> bool:
        """Tell whether a block is kept."""
        return number in self._numbers

    def add(self, number: int, block: Patch) -> None:
        """Keep a block, rows × all columns; the one that is farthest above makes room for it.

        Raises:
            UserError: The disk is full.
        """
        gone = {old for old in self._numbers if old % self.blocks == number % self.blocks}
        self._numbers = (self._numbers - gone) | {number}
        if self._file is None:
            for old in gone:
                del self._memory[old]
            self._memory[number] = block
            return
        for tile, column in enumerate(range(0, self._width, TILE)):
            part = block.part(slice(None), slice(column, column + TILE))
            content = b"".join(array.tobytes() for array in part)
            try:
                self._file.write_at(self._offset(number, tile), content)
            except OSError as error:
                raise UserError(
                    f"{self._folder} cannot be written ({os.strerror(error.errno or 0)}); expected room for the rows "
                    "that windows share. Free some space, and run the same command again."
                ) from error

    def put_into(self, patch: Patch, window: Window, number: int) -> None:
        """Copy what a window shares with a block into the window's patch."""
        top = number * self.rows
        first, stop = max(window.row, top), min(window.row_stop, top + self.rows)
        rows = slice(first - top, stop - top)
        left, right = max(0, window.column), min(self._width, window.column_stop)
        if self._file is None:
            block = self._memory[number]
            patch.put(first - window.row, left - window.column, block.part(rows, slice(left, right)))
            return
        for tile in range(left // TILE, -(-right // TILE)):
            start = tile * TILE
            columns = slice(max(left, start) - start, min(right, start + TILE) - start)
            part = self._read_tile(number, tile).part(rows, columns)
            patch.put(first - window.row, start + columns.start - window.column, part)

    def close(self) -> None:
        """Give memory and file back."""
        self._memory, self._numbers = {}, set()
        if self._file is not None:
            self._file.close()

    def _offset(self, number: int, tile: int) -> int:
        return (number % self.blocks * -(-self._width // TILE) + tile) * self._tile_bytes

    def _read_tile(self, number: int, tile: int) -> Patch:
        assert self._file is not None
        width = min(TILE, self._width - tile * TILE)
        pixels = self.rows * width
        size = pixels * (self._bands * self._dtype.itemsize + 2)
        content = self._file.read_at(self._offset(number, tile), size)
        image = np.frombuffer(content, self._dtype, pixels * self._bands)
        valid, fed = np.frombuffer(content, bool, 2 * pixels, image.nbytes).reshape(2, self.rows, width)
        return Patch(image.reshape(self._bands, self.rows, width), valid, fed)
