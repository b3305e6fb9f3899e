"""Windows of a scene as a network takes them, each stored row or tile read as seldom as memory allows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from src.bands import match_bands
from src.grid import Window
from src.raster.read import RasterInfo, info_of, is_striped, open_raster, read_valid, read_window
from src.spec import NetworkSpec

CHUNK = 64
"""Rows that are read from edge to edge at a time; they are held twice for a moment."""


@dataclass(frozen=True)
class Patch:
    """A window of a scene in memory.

    Attributes:
        image: C × H × W, the network's bands in its order, in the file's own numbers.
        valid: H × W, True where the pixel is a measurement: it gets a class.
        fed: H × W, True where the network sees the pixel's numbers and not a blank.
    """

    image: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_]
    fed: npt.NDArray[np.bool_]


class SceneReader:
    """Reads windows that come row by row, left to right.

    A file stored in whole rows is read in whole rows, each once, and the rows that the next windows share are
    kept; any other is read window by window.
    """

    def __init__(self, dataset: Any, spec: NetworkSpec) -> None:
        """Match the bands of an open raster with the network's; raises UserError if they do not fit."""
        self.info: RasterInfo = info_of(dataset)
        self.striped = is_striped(dataset)
        self._dataset, self._spec = dataset, spec
        self._bands = match_bands(spec.bands, self.info.bands, self.info.path)
        declared = [self.info.nodata[band] for band in self._bands]
        self._nodata = [spec.nodata if value is None else value for value in declared]
        self._kept: Patch | None = None
        self._first = self._stop = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the windows: the file's, float32 for float64, which no network takes."""
        dtype = np.dtype(self.info.dtype)
        return np.dtype(np.float32) if dtype == np.float64 else dtype

    def shape(self, window: tuple[int, int]) -> tuple[int, int, int]:
        """Bands, height and width of a window (height, width)."""
        return len(self._bands), *window

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel of the network's bands in memory, masks included."""
        return self.dtype.itemsize * len(self._bands) + 2

    def read(self, window: Window) -> Patch:
        """Read a window; outside the scene it is 0 and neither valid nor fed. Only good until the next call."""
        if not self.striped:
            return self._read(window)
        rows = self._rows(window)
        top, across = window.row - self._first, slice(window.column, window.column_stop)
        down = slice(top, top + window.height)
        parts = rows.image[:, down, across], rows.valid[down, across], rows.fed[down, across]
        missing = window.column_stop - self.info.width
        if missing <= 0:
            return Patch(*parts)
        return Patch(*(np.pad(part, [(0, 0)] * (part.ndim - 1) + [(0, missing)]) for part in parts))

    def _rows(self, window: Window) -> Patch:
        """Return rows from edge to edge, the first of which is ``_first``, that contain the window's."""
        if self._kept is None or len(self._kept.valid) < window.height:
            self._kept, self._first, self._stop = self._empty(window.height), window.row, window.row
        if not self._first <= window.row <= self._stop:
            self._first = self._stop = window.row
        if window.row_stop > self._stop:
            self._drop(window.row - self._first)
        while self._stop < window.row_stop:
            part = Window(self._stop, 0, min(CHUNK, window.row_stop - self._stop), self.info.width)
            rows = slice(self._stop - self._first, part.row_stop - self._first)
            patch = self._read(part)
            self._kept.image[:, rows], self._kept.valid[rows], self._kept.fed[rows] = (
                patch.image,
                patch.valid,
                patch.fed,
            )
            self._stop = part.row_stop
        return self._kept

    def _drop(self, count: int) -> None:
        """Move what is kept up by ``count`` rows."""
        assert self._kept is not None
        keep = self._stop - self._first - count
        for rows in (*self._kept.image, self._kept.valid, self._kept.fed):
            rows[:keep] = rows[count : count + keep]
        self._first += count

    def _empty(self, height: int) -> Patch:
        image = np.empty(self.shape((height, self.info.width)), self.dtype)
        return Patch(image, np.empty(image.shape[1:], bool), np.empty(image.shape[1:], bool))

    def _read(self, window: Window) -> Patch:
        image = read_window(self._dataset, window, 0, self._bands)
        if not self._spec.nodata_is_data:
            valid = read_valid(self._dataset, window, image, self._nodata, self._spec.normalization.used)
            return Patch(image.astype(self.dtype, copy=False), valid, valid)
        inside = np.zeros(image.shape[1:], bool)
        inside[: self.info.height - window.row, : self.info.width - window.column] = True
        return Patch(image.astype(self.dtype, copy=False), self._any_measured(image, window) & inside, inside)

    def _any_measured(self, image: npt.NDArray[Any], window: Window) -> npt.NDArray[np.bool_]:
        """A network that takes nodata for data has learned bands that are nodata everywhere: one band must do."""
        valid = np.zeros(image.shape[1:], bool)
        for band in range(len(image)):
            only = [position == band for position in range(len(image))]
            valid |= read_valid(self._dataset, window, image, self._nodata, only)
            if valid.all():
                break
        return valid


@contextmanager
def open_scene(path: str, spec: NetworkSpec) -> Iterator[SceneReader]:
    """Open a scene for a network.

    Raises:
        UserError: It cannot be opened or read (also while the context lasts), or its bands do not fit.
    """
    with open_raster(path) as dataset:
        yield SceneReader(dataset, spec)
