"""A disk that fills up is said in one line, whoever writes: our own strips, GDAL's rasters, its vectors."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from src.errors import UserError
from src.mapping.cog import Layer, write_cog
from src.mapping.polygons import map_polygons, write_polygons
from src.mapping.scene_map import map_scene
from src.positioned import PositionedFile
from src.raster.read import describe
from src.vector import sieve
from tests.mapping_scenes import CLASSES, Argmax, Shown, make_mapper, noise, read, write_raster

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="files have no size limit to set there")


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Let writes beyond a size fail, as they do on a full disk."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(1, 255, (1, 700, 700)).astype(np.uint8)
    values.tofile(tmp_path / "values.raw")
    return write_raster(tmp_path / "grid.tif", values)


@pytest.mark.parametrize("size", [20_000, 300_000, 500_000])
def test_a_raster_is_whole_or_an_error(tmp_path: Path, grid: Path, size: int) -> None:
    with files_up_to(size), pytest.raises(UserError, match="cannot be written"):
        write_cog(tmp_path / "values.raw", tmp_path / "map.tif", Layer("x", "uint8", ("x",), 0), describe(grid))
    assert not (tmp_path / "map.tif").exists()


def test_polygons_are_whole_or_an_error(tmp_path: Path, grid: Path) -> None:
    blocks = np.random.default_rng(0).integers(1, 4, (70, 70))
    strips = np.split(np.kron(blocks, np.ones((10, 10))).astype(np.uint8), 2)
    values = np.array(CLASSES.values, np.uint8)
    batches = map_polygons((values[strip - 1] for strip in strips), 700)
    with files_up_to(200_000), pytest.raises(UserError, match="cannot be written"):
        write_polygons(tmp_path / "map.gpkg", batches, describe(grid), CLASSES, "2020-01-01T00:00:00.000Z")


def test_sieving_is_whole_or_an_error(tmp_path: Path, grid: Path) -> None:
    with files_up_to(400_000), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        sieve(grid, tmp_path / "sieved.raw", 5)


def test_strips_that_were_written_are_kept_for_another_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(200, 60))
    mapper = make_mapper(tmp_path, Argmax(), window=32)
    real, written = PositionedFile.write_at, 0

    def write_at(file: PositionedFile, offset: int, content: bytes | memoryview) -> None:
        nonlocal written
        written += memoryview(content).nbytes
        if written > 4000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, offset, content)

    with monkeypatch.context() as patch:
        patch.setattr(PositionedFile, "write_at", write_at)
        with pytest.raises(UserError, match=r"No space left on device.* goes on from the last whole strip"):
            map_scene(mapper, str(path), tmp_path / "out" / "map.tif")
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".map.tif.partial"]
    shown = Shown()
    found = map_scene(mapper, str(path), tmp_path / "out" / "map.tif", shown)
    assert shown.parts["Mapping"][0] > 0
    np.testing.assert_array_equal(read(found.path), np.array(CLASSES.values)[noise(200, 60).argmax(0)])
