"""Chips that are written without GDAL: byte for byte what GDAL writes, and by GDAL where that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rasterio.crs import CRS

from src.bands import Band
from src.preparation import cutting
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation
from src.raster.mould import Mould
from src.raster.write import geotiff
from tests.rasters import UTM, write

WKT = CRS.from_string(UTM).to_wkt()
SHAPE = (3, 8, 12)
NORTH_UP = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_800_000.0)
BANDS = tuple(Band(f"Bänd {n}", 400.0 + n, n == 1, 10.0) for n in range(3))
DESCRIPTION: dict[str, Any] = {
    "crs": WKT,
    "nodata": 7.0,
    "bands": BANDS,
    "interleave": "band",
    "blockysize": 8,
    "compress": "none",
}


def made(image: npt.NDArray[Any], transform: tuple[float, ...], **description: Any) -> bytes:
    with geotiff(image, transform=transform, **description) as content:
        return bytes(content)


def numbers(dtype: str = "uint16", shape: tuple[int, int, int] = SHAPE) -> npt.NDArray[Any]:
    drawn = np.random.default_rng(5).integers(0, 120, shape).astype(dtype)
    if np.dtype(dtype).kind == "f":
        drawn[0, 0, :3] = np.nan, np.inf, -0.0
    return drawn


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
)
@pytest.mark.parametrize("nodata", [None, -9999.0, float("nan")])
@pytest.mark.parametrize(
    "steps",
    [(10.0, 0.0, 0.0, -10.0), (10.0, 1.5, 2.5, -10.0), (1.0, 0.0, 0.0, 1.0), (1e-4, 0.0, 0.0, -1e-4)],
    ids=["north up", "rotated", "no place on earth", "degrees"],
)
@pytest.mark.parametrize("crs", [None, WKT])
def test_its_bytes_are_gdals(
    dtype: str, nodata: float | None, steps: tuple[float, float, float, float], crs: str | None
) -> None:
    a, b, d, e = steps
    described = DESCRIPTION | {"crs": crs, "nodata": nodata}
    mould = Mould.of(SHAPE, dtype, (a, b, 3.25, d, e, -7.5), **described)
    assert mould is not None
    for x, y in ((500_120.0, 5_799_760.0), (-0.1, 0.0), (0.0, 256.0)):
        grid = (a, b, x, d, e, y)
        assert mould.fits(numbers(dtype), grid)
        assert b"".join(mould.pieces(numbers(dtype), grid)) == made(numbers(dtype), grid, **described)


def test_a_file_is_the_same(tmp_path: Path) -> None:
    mould = Mould.of(SHAPE, "uint16", NORTH_UP, **DESCRIPTION)
    assert mould is not None
    turned = numbers(shape=(8, 12, 3)).transpose(2, 0, 1)  # not in one piece in memory
    mould.write(tmp_path / "chip.tif", turned, NORTH_UP)
    assert (tmp_path / "chip.tif").read_bytes() == made(turned, NORTH_UP, **DESCRIPTION)
    assert [path.name for path in tmp_path.iterdir()] == ["chip.tif"]


def test_what_is_compressed_has_none() -> None:
    assert Mould.of(SHAPE, "uint16", NORTH_UP, **DESCRIPTION | {"compress": "deflate"}) is None
    assert Mould.of(SHAPE, "uint16", NORTH_UP, **DESCRIPTION | {"interleave": "pixel"}) is None


@pytest.mark.parametrize(
    ("image", "grid"),
    [
        (numbers(shape=(3, 8, 11)), NORTH_UP),
        (numbers("int16"), NORTH_UP),
        (numbers(), (20.0, *NORTH_UP[1:])),
        (numbers(), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
    ],
    ids=["size", "type", "pixel size", "no transform at all"],
)
def test_what_differs_otherwise_does_not_fit(image: npt.NDArray[Any], grid: tuple[float, ...]) -> None:
    mould = Mould.of(SHAPE, "uint16", (*grid[:2], 5.0, *grid[3:5], 6.0) if grid[0] == 1.0 else NORTH_UP, **DESCRIPTION)
    assert mould is not None
    assert not mould.fits(image, grid)


@pytest.mark.parametrize("transform", [(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_800_000.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)])
@pytest.mark.parametrize("compress", ["none", "deflate"])
def test_prepare_writes_what_gdal_alone_would(
    tmp_path: Path, transform: tuple[float, ...], compress: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chips over the edge, at the origin, and with gaps that only a mask tells."""
    generator = np.random.default_rng(0)
    image = generator.integers(1, 900, (3, 70, 90)).astype(np.uint16)
    label = generator.integers(1, 4, (1, 70, 90)).astype(np.uint8)
    grid = {"crs": None if transform[0] == 1 else "EPSG:32633", "transform": transform}
    mask = np.ones((70, 90), bool)
    mask[60:, 80:] = False
    scene = write(tmp_path / "scene.tif", image, mask=mask, **grid)
    labels = write(tmp_path / "label.tif", label, **grid)
    settings = Preparation(str(scene), str(labels), (32, 24), (30, 20), min_coverage=0, compress=compress)
    by_gdal: list[Path] = []
    written = cutting.write_geotiff
    monkeypatch.setattr(cutting, "write_geotiff", lambda path, *a, **k: (by_gdal.append(path), written(path, *a, **k)))
    prepare(settings, tmp_path / "ours")
    few = len(by_gdal)
    monkeypatch.setattr(Mould, "of", lambda *_, **__: None)
    prepare(settings, tmp_path / "gdal")
    chips = sorted(path.relative_to(tmp_path / "gdal") for path in (tmp_path / "gdal").glob("*/*.tif"))
    written_files = len(by_gdal) - few
    assert 0 < few < written_files if compress == "none" else few == written_files
    assert chips
    for chip in chips:
        assert (tmp_path / "ours" / chip).read_bytes() == (tmp_path / "gdal" / chip).read_bytes(), chip
