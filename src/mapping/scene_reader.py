"""Windows of a scene as a network takes them, each stored row or tile read as seldom as memory allows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from src.bands import Band, BandStatistics, all_measured, match_bands, measured, nodata_of_bands
from src.cores import cores
from src.grid import Window, spread_windows
from src.mapping.kept_rows import MEMORY_BYTES, KeptRows, Patch, blank
from src.raster.read import (
    RasterInfo,
    block_cache,
    info_of,
    is_striped,
    open_raster,
    read_decimated,
    read_valid,
    read_window,
)
from src.spec import NetworkSpec

CACHE_MEGABYTES = 64
"""Decoded blocks that GDAL keeps: enough for the tiles that neighbouring windows share."""
GPU_CACHE_MEGABYTES = 512
"""The same where a GPU computes: enough for those that neighbouring rows of windows share, up to some 15 000 columns of
13 bands."""
ROWS, ROW_BYTES = 64, 32_000_000
"""Rows that are read from edge to edge at a time, and how many bytes of them at most."""
PICTURE_SIDE = 512
"""Pixels of the longer side of a picture that tells whether a band has measurements."""
SAMPLE_SIDE, SAMPLE_BYTES = 32, 200_000_000
"""Pixels of the side of a sample's windows, and how many bytes of blocks are decoded for several of them at most."""
STRIP_BYTES = 160_000_000
"""Rows of one block of the file are read together up to this size, which they are decoded at anyway."""


class SceneReader:
    """Reads windows that come row by row, left to right.

    A file stored in whole rows is read in whole rows, each once, and the rows that the next windows share are
    kept; any other is read window by window.
    """

    def __init__(self, dataset: Any, spec: NetworkSpec, scratch: Path | None = None) -> None:
        """Match the bands of an open raster with the network's.

        Args:
            dataset: The open raster.
            spec: What the network expects.
            scratch: Folder for rows that memory is not to hold; None for the system's.

        Raises:
            UserError: The bands do not fit.
        """
        self.info: RasterInfo = info_of(dataset)
        self.striped = is_striped(dataset)
        self._dataset, self._spec = dataset, spec
        self._scratch = scratch or Path(tempfile.gettempdir())
        alpha = f" (without its alpha band {self.info.alpha[0]})" if self.info.alpha else ""
        self._bands = match_bands(spec.bands, self.info.bands, f"{self.info.path}{alpha}")
        declared = [self.info.nodata[band] for band in self._bands]
        self._nodata = nodata_of_bands(declared, spec.nodata, self.info.dtype, given=spec.nodata_given)
        self._kept: KeptRows | None = None

    @property
    def bands(self) -> tuple[Band, ...]:
        """The network's bands, in its order, as the file describes them."""
        return tuple(self.info.bands[band] for band in self._bands)

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

    @property
    def block_rows(self) -> int:
        """Rows of a striped file that are read at a time: whole blocks of it, as far as memory is to hold them."""
        row_bytes = self.info.width * self.pixel_bytes
        stored = min(self.info.block[0], self.info.height)
        few = max(1, min(ROWS, ROW_BYTES // row_bytes))
        if stored > few:
            return stored if stored * row_bytes <= STRIP_BYTES else few
        return few // stored * stored

    def read(self, window: Window) -> Patch:
        """Read a window; outside the scene it is 0 and neither valid nor fed."""
        patch = blank(len(self._bands), window.height, window.width, self.dtype)
        self.read_into(patch, window)
        return patch

    def read_into(self, patch: Patch, window: Window) -> None:
        """Read a window into memory that is there, whatever is in it; see :meth:`read`."""
        if not self.striped:
            self._read(patch, window)
            return
        for array in patch:
            array[...] = 0
        kept = self._rows(window.height)
        for number in range(window.row // kept.rows, -(-min(window.row_stop, self.info.height) // kept.rows)):
            if number not in kept:
                block = blank(len(self._bands), kept.rows, self.info.width, self.dtype)
                self._read(block, Window(number * kept.rows, 0, kept.rows, self.info.width))
                kept.add(number, block)
            kept.put_into(patch, window, number)

    def scratch_bytes(self, height: int) -> int:
        """Return how much room on the disk the rows take that windows of a height share; 0 where memory holds them."""
        needed = self._blocks(height) * self.block_rows * self.info.width * self.pixel_bytes if self.striped else 0
        return needed if needed > MEMORY_BYTES else 0

    def dead_bands(self) -> list[str]:
        """Name the bands that the network uses and a small picture of the scene has no measurement in."""
        nodata, *_ = self._nodata
        dead = []
        for band, value, used in zip(self._bands, nodata, self._spec.normalization.used, strict=True):
            if used and not measured(read_decimated(self._dataset, [band], PICTURE_SIDE), [value]).any():
                dead.append(self.info.bands[band].name)
        return dead

    def sample(self) -> BandStatistics:
        """Return mean and standard deviation of the network's bands in a few small windows all over the scene."""
        down, across = self.info.block
        block = max(down, SAMPLE_SIDE) * max(across, SAMPLE_SIDE) * self.pixel_bytes
        each = max((each for each in (3, 2) if each**2 * block <= SAMPLE_BYTES), default=1)
        found = self._sampled(each)
        return found if each == 3 or found.count.any() else self._sampled(3)  # nothing there: look everywhere

    def _sampled(self, each: int) -> BandStatistics:
        found = BandStatistics(len(self._bands))
        for window in spread_windows(self.info.height, self.info.width, SAMPLE_SIDE, each):
            patch = blank(len(self._bands), window.height, window.width, self.dtype)
            self._read(patch, window)
            found.update(patch.image, patch.valid)
        return found

    def close(self) -> None:
        """Forget the rows that are kept."""
        if self._kept is not None:
            self._kept.close()
        self._kept = None

    def _blocks(self, height: int) -> int:
        """Blocks that a window of a height can touch."""
        return (height - 2) // self.block_rows + 2

    def _rows(self, height: int) -> KeptRows:
        """Return what keeps all rows that windows of a height share."""
        blocks = self._blocks(height)
        if self._kept is None or self._kept.blocks < blocks:
            self.close()
            self._kept = KeptRows(len(self._bands), self.dtype, self.info.width, self.block_rows, blocks, self._scratch)
        return self._kept

    def _read(self, patch: Patch, window: Window) -> None:
        same = self.info.dtype == self.dtype.name
        image = read_window(self._dataset, window, 0, self._bands, patch.image if same else None)
        if not same:
            with np.errstate(over="ignore"):  # −1.8e308 is infinite in float32, and no measurement
                patch.image[...] = image
        if not self._spec.nodata_is_data:
            patch.valid[...] = self._measured(image, window, self._spec.normalization.used)
            patch.fed[...] = patch.valid
            return
        patch.fed[...] = False
        patch.fed[: self.info.height - window.row, : self.info.width - window.column] = True
        patch.fed[...] &= all_measured(image, None)  # what is no number would spread as far as the network sees
        patch.valid[...] = self._any_measured(image, window) & patch.fed

    def _measured(self, image: npt.NDArray[Any], window: Window, used: Sequence[bool]) -> npt.NDArray[np.bool_]:
        """Tell where all bands that are used have a measurement."""
        nodata, *others = self._nodata
        valid = read_valid(self._dataset, window, image, nodata, used)
        for values in others:
            valid &= all_measured(image, values, used)
        return valid

    def _any_measured(self, image: npt.NDArray[Any], window: Window) -> npt.NDArray[np.bool_]:
        """A network that takes nodata for data has learned bands that are nodata everywhere: one band must do."""
        valid = np.zeros(image.shape[1:], bool)
        for band in range(len(image)):
            only = [position == band for position in range(len(image))]
            valid |= self._measured(image, window, only)
            if valid.all():
                break
        return valid


@contextmanager
def scene_decoding(device: str, processes: int = 1) -> Iterator[None]:
    """Decode, within the context, as fast as a device needs it, and keep as many blocks as that takes.

    On a CPU the cores compute, and one thread reads. A GPU waits for whoever decodes: all cores do, and the tiles that
    rows of windows share are decoded once.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``.
        processes: How many share the cores.
    """
    on_cpu = device == "cpu"
    with block_cache(CACHE_MEGABYTES if on_cpu else GPU_CACHE_MEGABYTES, 1 if on_cpu else max(1, cores() // processes)):
        yield


@contextmanager
def open_scene(path: str, spec: NetworkSpec, scratch: Path | None = None) -> Iterator[SceneReader]:
    """Open a scene for a network; see :class:`SceneReader`.

    Raises:
        UserError: It cannot be opened or read (also while the context lasts), or its bands do not fit.
    """
    with open_raster(path) as dataset:
        reader = SceneReader(dataset, spec, scratch)
        try:
            yield reader
        finally:
            reader.close()
