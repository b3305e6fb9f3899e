"""Cutting scenes into chips: windows in, GeoTIFF pairs and what was counted in them out, on all cores."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from src.bands import BandStatistics, all_measured, measured
from src.chip_names import chip_name
from src.cores import cores
from src.grid import Window, WindowGroup, grouped_windows
from src.label_sources import LabelReader, LabelSource
from src.labels import UNCLASSIFIED
from src.raster.georeference import shifted
from src.raster.mould import Mould
from src.raster.read import DatasetReader, RasterInfo, block_cache, open_raster, read_valid, read_window, reading
from src.raster.write import Compression, write_geotiff
from src.tables import PARTS

Fate = Literal["kept", "without measurement", "without label", "below the coverage"]
"""What becomes of a window, and why."""

Seen = Callable[[Window, npt.NDArray[Any], npt.NDArray[np.bool_]], None]
"""Takes a window, its image C × H × W, and where it has measurements, H × W."""

_IN_FLIGHT = 96 * 2**20
"""Bytes of images that all threads together hold at a time."""
_BLOCK_CACHE = 64
"""Megabytes of decoded blocks that GDAL keeps."""


@dataclass(frozen=True)
class Scene:
    """An image, its labels, and the nodata value that counts for each of its bands.

    Attributes:
        info: The image.
        labels: Its classes.
        nodata: Per band.
        parts: Part of each pixel: 1 training, 2 validation, 3 test, 0 none; None where chips are split later.
    """

    info: RasterInfo
    labels: LabelSource
    nodata: tuple[float | None, ...]
    parts: LabelSource | None = None


@dataclass(frozen=True)
class ChipFormat:
    """What all chips of a data folder have in common.

    Attributes:
        size: Width and height in pixels.
        step: Distance of neighbouring chips in x and y, pixels.
        min_coverage: Percent of a chip's pixels that have a class and a measurement, at least.
        nodata: Nodata value to declare; None where the scenes have none in common.
        used: Which bands are used.
        compress: Of the GeoTIFFs.
    """

    size: tuple[int, int]
    step: tuple[int, int]
    min_coverage: float
    nodata: float | None
    used: tuple[bool, ...]
    compress: Compression = "none"

    @property
    def fill(self) -> float:
        """Value of pixels outside the scene."""
        return self.nodata if self.nodata is not None else 0.0


@dataclass(frozen=True)
class Chip:
    """A window that was written.

    Attributes:
        scene: Index of its scene.
        window: In the scene.
        name: File name, the same for image and label.
        statistics: Of its measurements.
        part: Number of the part whose labels it has; None where chips are split later.
    """

    scene: int
    window: Window
    name: str
    statistics: BandStatistics
    part: int | None = None


@dataclass(frozen=True)
class Look:
    """A window that was looked at, and what was counted in it.

    Attributes:
        window: In its scene.
        fate: Whether it was written.
        chip: What was written; None for nothing.
        counts: Pixels of each class value 0–255 in the labels that it has as a chip.
        labels: The same in all its labels, be they of this part, of another or of none.
        lacking: Numbers of the bands whose want of any measurement drops it: others that are used have some.
    """

    window: Window
    fate: Fate
    chip: Chip | None
    counts: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    lacking: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Reader:
    """One thread's open files of a scene."""

    image: DatasetReader
    labels: LabelReader
    parts: LabelReader | None


def cut_scene(
    index: int,
    scene: Scene,
    chip_format: ChipFormat,
    folder: Path,
    seen: Seen | None = None,
) -> Iterator[Look]:
    """Cut a scene into chips, written to ``images/`` and ``labels/`` of a folder that has both.

    A thread for each core; memory does not depend on the scene's size: each holds one group of neighbouring chips.

    Args:
        index: The scene's number, for :attr:`Chip.scene`.
        scene: Image and labels.
        chip_format: What chips look like.
        folder: Where to write.
        seen: Is given everything that is read; called from several threads.

    Yields:
        Every window of the chip grid, written or not, in an order that depends on the number of threads; where the
        scene says the parts of its pixels, a window that is a chip of several parts once for each, one after another.

    Raises:
        UserError: The image or its labels cannot be read, or the labels hold what is no class.
        OSError: A chip cannot be written.
    """
    workers = cores()
    cutter = _Cutter(index, scene, chip_format, folder, seen)
    _ = cutter.moulds  # once, before there are threads
    with block_cache(_BLOCK_CACHE), _readers(scene, workers) as idle, ThreadPoolExecutor(workers) as pool:

        def cut(group: WindowGroup) -> list[Look]:
            reader = idle.get()
            try:
                return list(cutter.cut(reader, group))
            finally:
                idle.put(reader)

        pending: deque[Future[list[Look]]] = deque()
        try:
            for group in _groups(scene.info, chip_format.size, chip_format.step, workers):
                pending.append(pool.submit(cut, group))
                if len(pending) > workers + 1:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _groups(info: RasterInfo, size: tuple[int, int], step: tuple[int, int], workers: int) -> Iterator[WindowGroup]:
    pixels = _IN_FLIGHT // workers // (len(info.bands) * np.dtype(info.dtype).itemsize)
    return grouped_windows(info.height, info.width, size, step, pixels, rows=info.block[1] >= info.width)


@contextmanager
def _readers(scene: Scene, count: int) -> Iterator[queue.SimpleQueue[_Reader]]:
    """Open a scene's files once for each of ``count`` threads; who reads takes a reader and puts it back.

    They are opened and closed here because rasterio binds a dataset's environment to the thread that opens it.
    """
    idle: queue.SimpleQueue[_Reader] = queue.SimpleQueue()
    with ExitStack() as stack:
        for _ in range(count):
            image = stack.enter_context(open_raster(scene.info.path))
            labels = stack.enter_context(scene.labels.open())
            idle.put(_Reader(image, labels, stack.enter_context(scene.parts.open()) if scene.parts else None))
        yield idle


@dataclass(frozen=True)
class _Cutter:
    """Cuts groups of chips from one scene."""

    index: int
    scene: Scene
    format: ChipFormat
    folder: Path
    seen: Seen | None

    @cached_property
    def image_files(self) -> dict[str, Any]:
        """What all images have in common, as :func:`write_geotiff` takes it."""
        return self.label_files | {"nodata": self.format.nodata, "bands": self.scene.info.bands}

    @cached_property
    def label_files(self) -> dict[str, Any]:
        """The same of the labels: a band in one piece, not pixel by pixel, which is how training reads fastest."""
        layout = {"interleave": "band", "blockysize": self.format.size[1], "compress": self.format.compress}
        return {"crs": self.scene.info.crs, **layout}

    @cached_property
    def moulds(self) -> tuple[Mould | None, Mould | None]:
        """What writes images and labels faster than GDAL; None where GDAL has to."""
        info, (width, height) = self.scene.info, self.format.size
        if self.format.compress != "none":
            return None, None
        image = Mould.of((len(info.bands), height, width), info.dtype, info.transform, **self.image_files)
        return image, Mould.of((1, height, width), np.uint8, info.transform, **self.label_files)

    def cut(self, reader: _Reader, group: WindowGroup) -> Iterator[Look]:
        extent = group.extent
        with reading(self.scene.info.path):
            image = read_window(reader.image, extent, self.format.fill)
            valid = read_valid(reader.image, extent, image, self.scene.nodata, self.format.used)
        if self.seen is not None:
            self.seen(extent, image, valid)
        labels = np.where(valid, reader.labels.read(extent), np.uint8(UNCLASSIFIED))
        parts = reader.parts.read(extent) if reader.parts is not None else None
        for window in group.windows:
            row, column = window.row - extent.row, window.column - extent.column
            here = np.s_[row : row + window.height, column : column + window.width]
            if parts is None:
                yield self._look(window, image[:, *here], valid[here], labels[here], _counts(labels[here]))
            else:
                yield from self._chips_of_parts(window, image[:, *here], valid[here], labels[here], parts[here])

    def _chips_of_parts(
        self,
        window: Window,
        image: npt.NDArray[Any],
        valid: npt.NDArray[np.bool_],
        label: npt.NDArray[np.uint8],
        parts: npt.NDArray[np.uint8],
    ) -> Iterator[Look]:
        """Cut a window once for each part that it has labels of, with no label of another."""
        own = [np.where(parts == number + 1, label, np.uint8(UNCLASSIFIED)) for number in range(len(PARTS))]
        there = [number for number, values in enumerate(own) if values.any()]
        labels, looks = _counts(label), []
        for number in there:
            name = chip_name(self.scene.info.name, window, PARTS[number] if len(there) > 1 else None)
            looks.append(self._look(window, image, valid, own[number], labels, name, number))
        kept = [look for look in looks if look.chip is not None]
        yield from kept or looks[:1] or [self._look(window, image, valid, np.zeros_like(label), labels)]

    def _look(
        self,
        window: Window,
        image: npt.NDArray[Any],
        valid: npt.NDArray[np.bool_],
        label: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        name: str | None = None,
        part: int | None = None,
    ) -> Look:
        counts = labels if part is None and self.scene.parts is None else _counts(label)
        labelled = int(counts[1:].sum())
        fate = _fate(window.pixels, int(valid.sum()), labelled, self.format.min_coverage)
        if fate == "without measurement":
            return Look(window, fate, None, counts, labels, self._lacking(image))
        if fate != "kept" or (self.scene.parts is not None and not labelled):
            return Look(window, fate if fate != "kept" else "without label", None, counts, labels)
        name, image = name or chip_name(self.scene.info.name, window), np.ascontiguousarray(image)
        self._write(name, window, image, valid, label)
        statistics = BandStatistics(len(image))
        # A band that is not used may lack measurements where the others have them.
        statistics.update(image, valid if all(self.format.used) else valid & measured(image, self.scene.nodata))
        return Look(window, fate, Chip(self.index, window, name, statistics, part), counts, labels)

    def _lacking(self, image: npt.NDArray[Any]) -> tuple[int, ...]:
        used = np.array(self.format.used)
        there = measured(image, self.scene.nodata).any(axis=(1, 2))
        return tuple(np.flatnonzero(used & ~there).tolist()) if (used & there).any() else ()

    def _write(
        self,
        name: str,
        window: Window,
        image: npt.NDArray[Any],
        valid: npt.NDArray[np.bool_],
        label: npt.NDArray[np.uint8],
    ) -> None:
        grid = shifted(self.scene.info.transform, window)
        told = all_measured(image, self.format.nodata, self.format.used)
        mask = None if np.array_equal(told, valid) else valid
        images, labels = self.moulds
        _write(self.folder / "images" / name, image, grid, images if mask is None else None, mask, self.image_files)
        _write(self.folder / "labels" / name, label[None], grid, labels, None, self.label_files)


def _write(
    path: Path,
    image: npt.NDArray[Any],
    grid: Sequence[float],
    mould: Mould | None,
    mask: npt.NDArray[np.bool_] | None,
    description: dict[str, Any],
) -> None:
    """Write a chip's file: by its mould if it has one that fits, else by GDAL."""
    if mould is not None and mould.fits(image, grid):
        mould.write(path, image, grid)
    else:
        write_geotiff(path, image, transform=grid, mask=mask, **description)


def _counts(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Count the pixels of each class value 0–255."""
    return np.bincount(label.ravel(), minlength=256)


def _fate(pixels: int, valid: int, labelled: int, min_coverage: float) -> Fate:
    if 100 * labelled >= min_coverage * pixels:
        return "kept"
    if not valid:
        return "without measurement"
    return "below the coverage" if labelled else "without label"


def measured_bands(scenes: Sequence[Scene], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Tell which bands of each scene have at least one measurement, scenes × bands.

    Reads no more than it takes: a band is settled by its first measurement, so whole scenes are read only for
    bands that have none.
    """
    return np.array([_measured_bands(scene, size) for scene in scenes])


def _measured_bands(scene: Scene, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    info = scene.info
    floating = np.dtype(info.dtype).kind == "f"
    found = np.array([not floating and nodata is None for nodata in scene.nodata])
    if found.all():
        return found
    with open_raster(info.path) as dataset:
        for group in _groups(info, size, size, workers=1):
            bands = np.flatnonzero(~found).tolist()
            image = read_window(dataset, group.extent.intersection(info.window), 0, bands)
            found[bands] = measured(image, [scene.nodata[b] for b in bands]).any(axis=(1, 2))
            if found.all():
                break
    return found
