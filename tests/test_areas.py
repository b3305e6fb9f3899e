"""Areas of classes, in projected and geographic CRS and without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rasterio import Affine
from rasterio.warp import transform_bounds

from src.mapping.areas import AreaCounter, format_areas
from src.pixel_size import ground_pixel, row_areas
from src.raster.read import describe
from tests.mapping_scenes import CLASSES, write_raster


def counted(path: Path, values: np.ndarray) -> AreaCounter:
    counter = AreaCounter(describe(path), CLASSES)
    for first in range(0, len(values), 7):
        counter.add(first, values[first : first + 7])
    return counter


def test_projected_areas_are_pixels_times_their_size(tmp_path: Path) -> None:
    values = np.zeros((20, 30), np.uint8)
    values[:10], values[10:15] = 4, 9
    areas = counted(write_raster(tmp_path / "map.tif", values[None]), values).result()
    found = {a.value: (a.pixels, a.hectares, a.percent) for a in areas}
    assert found[4] == (300, 3.0, pytest.approx(200 / 3))
    assert found[9] == (150, 1.5, pytest.approx(100 / 3))
    assert found[1] == (0, 0.0, 0.0)
    assert found[0][:2] == (150, 1.5)
    assert format_areas(areas)[1].split() == ["1", "water", "0", "0.0", "0.00"]


def test_feet_are_not_metres(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "map.tif", np.ones((1, 4, 4), np.uint8), crs="EPSG:2263")  # New York, US feet
    areas = row_areas(describe(path))
    assert areas is not None
    assert areas[0] == pytest.approx(100 * 0.3048006096**2)


def test_degrees_become_areas_on_the_ellipsoid(tmp_path: Path) -> None:
    degrees = Affine(1, 0, -180, 0, -1, 90)
    whole = write_raster(tmp_path / "earth.tif", np.ones((1, 180, 360), np.uint8), crs="EPSG:4326", transform=degrees)
    areas = row_areas(describe(whole))
    assert areas is not None
    assert areas.sum() * 360 == pytest.approx(510.0656217e12, rel=1e-6)  # surface of the WGS 84 ellipsoid, m²
    values = np.ones((180, 360), np.uint8)
    values[:90] = 4
    found = {a.value: a.hectares for a in counted(whole, values).result()}
    assert found[1] == pytest.approx(found[4])


def test_percent_are_those_of_the_ground(tmp_path: Path) -> None:
    """Rows of degrees differ in area: 50 and 50 percent stood beside 42.5 and 57.5 hectares."""
    grid = Affine(0.1, 0, 10, 0, -1, 70)
    values = np.full((20, 10), 4, np.uint8)
    values[10:], values[:, 0] = 9, 0
    path = write_raster(tmp_path / "map.tif", values[None], crs="EPSG:4326", transform=grid)
    found = {area.value: area for area in counted(path, values).result()}
    assert found[4].pixels == found[9].pixels
    assert found[4].percent < 45
    hectares = {value: found[value].hectares or 0 for value in (4, 9)}
    assert found[4].percent == pytest.approx(100 * hectares[4] / sum(hectares.values()))
    assert found[4].percent + found[9].percent == pytest.approx(100)


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:3395", "EPSG:4087", "EPSG:6933", "ESRI:54003", "ESRI:54016"])
def test_areas_in_a_cylindrical_projection_are_those_on_the_ground(tmp_path: Path, crs: str) -> None:
    # Web Mercator shows Berlin 2.7 times as large as it is: its plane tells no hectares.
    left, bottom, right, top = transform_bounds("EPSG:4326", crs, 13.0, 52.0, 13.6, 53.0)
    grid = Affine((right - left) / 60, 0, left, 0, (bottom - top) / 40, top)
    path = write_raster(tmp_path / "map.tif", np.ones((1, 40, 60), np.uint8), crs=crs, transform=grid)
    degrees = Affine(0.01, 0, 13.0, 0, -0.025, 53.0)
    same = write_raster(tmp_path / "same.tif", np.ones((1, 40, 60), np.uint8), crs="EPSG:4326", transform=degrees)
    areas, expected = row_areas(describe(path)), row_areas(describe(same))
    assert areas is not None
    assert expected is not None
    assert areas.sum() == pytest.approx(expected.sum(), rel=1e-6)
    width, height = ground_pixel(describe(path)) or (0, 0)
    assert width * height == pytest.approx(areas.mean(), rel=5e-3)


def test_without_a_crs_there_are_pixels_only(tmp_path: Path) -> None:
    values = np.full((5, 5), 9, np.uint8)
    areas = counted(write_raster(tmp_path / "map.tif", values[None], crs=None), values).result()
    assert all(a.hectares is None for a in areas)
    assert "hectares" not in format_areas(areas)[0]
