"""A map's polygons do not know where strips met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from src.grid import chip_windows
from src.mapping.polygons import map_polygons, write_polygons
from src.mapping.scene_map import map_scene
from src.raster.read import describe
from src.vector import Burner, outline, sieve
from tests.mapping_scenes import CLASSES, Argmax, make_mapper, noise, read, write_raster
from tests.rasters import NORTH_UP, TURNED


def described(geometries: npt.NDArray[Any], values: npt.NDArray[np.uint8]) -> list[tuple[Any, ...]]:
    """What tells polygons of pixels apart, whatever vertex their rings begin with."""
    return sorted((int(v), *g.bounds, g.area, g.length) for g, v in zip(geometries, values, strict=True))


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24), elements=st.integers(0, 3)),
    st.lists(st.integers(1, 24), max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_strips_give_the_polygons_of_the_whole(values: npt.NDArray[np.uint8], cuts: list[int]) -> None:
    strips = [strip for strip in np.split(values, sorted({c for c in cuts if c < len(values)})) if len(strip)]
    found = list(map_polygons(strips, values.shape[1]))
    geometries, classes = (np.concatenate([batch[i] for batch in found]) for i in (0, 1))
    assert described(geometries, classes) == described(*outline(values))
    assert shapely.is_valid(geometries).all()
    again = np.zeros_like(values)
    if len(geometries):
        again = rasterio.features.rasterize(zip(geometries, classes, strict=True), values.shape, dtype="uint8")
    np.testing.assert_array_equal(again, values)


def test_a_ring_around_everything_is_one_polygon_with_a_hole() -> None:
    values = np.ones((30, 30), np.uint8)
    values[5:25, 5:25] = 2
    ((geometries, classes),) = map_polygons(np.split(values, [7, 14, 21]), 30)
    assert sorted(classes.tolist()) == [1, 2]
    ring = geometries[classes.tolist().index(1)]
    assert len(ring.interiors) == 1
    assert shapely.equals(ring, shapely.box(0, 0, 30, 30) - shapely.box(5, 5, 25, 25))  # older GEOS begins amid an edge


def sieved(values: npt.NDArray[np.uint8], pixels: int) -> npt.NDArray[np.uint8]:
    """Sieve an array until nothing changes."""
    while True:
        after = rasterio.features.sieve(values, pixels, mask=values > 0)
        if (after == values).all():
            return values
        values = after


def test_no_region_with_a_neighbour_stays_below_the_size(tmp_path: Path) -> None:
    """GDAL's one pass leaves those whose neighbours were too small as well."""
    values = np.random.default_rng(0).integers(1, 5, (60, 80)).astype(np.uint8)
    values[:9] = 0
    values[3:5, 3:5] = 2  # alone
    source = write_raster(tmp_path / "map.tif", values[None])
    sieve(source, tmp_path / "sieved.raw", 10)
    after = read(tmp_path / "sieved.raw")
    assert ((after == 0) == (values == 0)).all()
    once = rasterio.features.sieve(values, 10, mask=values > 0)
    assert sorted(shapely.area(outline(once)[0]))[:2] == [1.0, 1.0]
    small, large = sorted(shapely.area(outline(after)[0]))[:2]
    assert (small, large >= 10) == (4.0, True)


def test_regions_that_swap_their_classes_come_to_an_end(tmp_path: Path) -> None:
    values = np.zeros((9, 9), np.uint8)
    values[3:5, 3:5], values[3:5, 5:7] = 1, 2
    sieve(write_raster(tmp_path / "map.tif", values[None]), tmp_path / "sieved.raw", 10)
    assert ((read(tmp_path / "sieved.raw") == 0) == (values == 0)).all()


@pytest.mark.parametrize(
    ("name", "layer"), [("(1) berlin", "1) berlin"), ("-x", "x"), ("$", "polygons"), ("a(b", "a(b")]
)
def test_a_map_may_be_called_anything(name: str, layer: str, tmp_path: Path) -> None:
    """GDAL refuses such a layer, and all mapping was in vain."""
    grid = describe(write_raster(tmp_path / "map.tif", np.ones((1, 4, 4), np.uint8)))
    batches = [(np.array([shapely.box(0, 0, 1, 1)]), np.array([1], np.uint8))]
    assert write_polygons(tmp_path / f"{name}.gpkg", batches, grid, CLASSES, "2024-05-06T07:08:09Z") == 1
    assert pyogrio.list_layers(tmp_path / f"{name}.gpkg").tolist() == [[layer, "Polygon"]]


def test_sieving_a_file_is_sieving_an_array(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = np.kron(rng.integers(1, 4, (30, 40)), np.ones((4, 4))).astype(np.uint8)
    values[rng.random(values.shape) < 0.05] = 2
    values[:20, :20] = 0
    source = write_raster(tmp_path / "map.tif", values[None], tiled=True, blockxsize=32, blockysize=32)
    sieve(source, tmp_path / "sieved.tif", 30)
    expected = sieved(values, 30)
    assert (expected != values).any()
    np.testing.assert_array_equal(read(tmp_path / "sieved.tif"), expected)


@pytest.mark.parametrize("grid", [NORTH_UP, TURNED], ids=["north-up", "turned"])
def test_polygons_carry_value_and_name_and_lie_where_the_pixels_are(grid: rasterio.Affine, tmp_path: Path) -> None:
    image = noise(130, 70)
    image[:, :9] = np.nan
    path = write_raster(tmp_path / "scene.tif", image, transform=grid)
    mapper = make_mapper(tmp_path, Argmax(), vector=True, sieve=12)
    found = map_scene(mapper, str(path), tmp_path / "map.tif")
    info = pyogrio.read_info(tmp_path / "map_polygons.gpkg")
    assert (info["crs"], info["geometry_type"]) == ("EPSG:32633", "Polygon")
    _, _, wkb, (values, names) = pyogrio.raw.read(tmp_path / "map_polygons.gpkg")
    geometries = shapely.from_wkb(wkb)
    assert dict(zip(values.tolist(), names.tolist(), strict=True)) == dict(
        zip(CLASSES.values, CLASSES.names, strict=True)
    )
    assert shapely.area(geometries).min() > 11.99 * abs(grid.determinant)
    with rasterio.open(found.path) as dataset:
        classes, transform = dataset.read(1), dataset.transform
    burnt = rasterio.features.rasterize(
        zip(geometries, values, strict=True), classes.shape, transform=transform, dtype="uint8"
    )
    np.testing.assert_array_equal(burnt, sieved(classes, 12))
    assert (burnt != classes).any(), "nothing was sieved"


def test_batches_of_polygons_are_all_in_one_file(tmp_path: Path) -> None:
    grid = describe(write_raster(tmp_path / "map.tif", np.ones((1, 4, 4), np.uint8)))
    batches = [(np.array([shapely.box(0, 0, 1, 1)]), np.array([value], np.uint8)) for value in (1, 4)]
    assert write_polygons(tmp_path / "polygons.gpkg", batches, grid, CLASSES, "2024-05-06T07:08:09Z") == 2
    _, _, _, (values, _) = pyogrio.raw.read(tmp_path / "polygons.gpkg")
    assert values.tolist() == [1, 4]


def test_a_map_without_a_class_has_a_geopackage_without_polygons(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scene.tif", np.zeros((3, 40, 40), np.uint8), nodata=0)
    map_scene(make_mapper(tmp_path, Argmax(), vector=True), str(path), tmp_path / "map.tif")
    assert pyogrio.read_info(tmp_path / "map_polygons.gpkg")["features"] == 0


def test_a_ring_that_crosses_itself_is_burnt_in_windows_as_in_the_whole() -> None:
    """Cut to a window, two swapped vertices of 600 filled or emptied all of it; no file is refused for them."""
    grid = rasterio.Affine(10, 0, 0, 0, -10, 2560)
    angles = np.linspace(0, 2 * np.pi, 600, endpoint=False)
    for seed in (281, 3, 4, 5, 6, 7):
        generator = np.random.default_rng(seed)
        radii = 1100 * (1 + 0.05 * generator.uniform(-1, 1, 600))
        ring = np.stack([1280 + radii * np.cos(angles), 1320 + radii * np.sin(angles)], 1)
        swapped = generator.integers(597)
        ring[[swapped, swapped + 1]] = ring[[swapped + 1, swapped]]
        bow = shapely.Polygon(np.concatenate([ring, ring[:1]])[np.r_[0:300, 599:299:-1]])
        for shape in (shapely.Polygon(ring), bow):
            whole = rasterio.features.rasterize([shape], out_shape=(256, 256), transform=grid, dtype="uint8")
            burner = Burner(np.array([shape]), np.array([1], np.uint8), tuple(grid)[:6])
            for window in chip_windows(256, 256, (64, 64), (64, 64)):
                part = whole[window.row : window.row_stop, window.column : window.column_stop]
                np.testing.assert_array_equal(burner.read(window), part)
