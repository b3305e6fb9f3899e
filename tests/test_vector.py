"""Polygons of other formats and in other coordinate systems, on a raster's grid."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio.raw
import pytest
import shapely
from rasterio.crs import CRS
from rasterio.transform import Affine

from src.errors import UserError
from src.raster.georeference import apply_transform, transform_points
from src.raster.read import RasterInfo, describe
from src.vector import Burner, is_vector, read_features
from tests import rasters

DEGREES = "EPSG:4326"
COUNTRY = shapely.box(2, 50, 35, 75)


def _scene(
    folder: Path, size: tuple[int, int] = (1100, 1100), grid: Affine | None = None, crs: str = rasters.UTM
) -> RasterInfo:
    """Return 110 km around 50° N and 14.4° E in pixels of 100 m, or another grid."""
    grid = grid or Affine(100, 0, 400_000, 0, -100, 5_590_000)
    return describe(rasters.write(folder / "s.tif", np.zeros(size, np.uint8), crs=crs, transform=grid))


def _burnt(shapes: list[Any], crs: str, scene: RasterInfo, folder: Path) -> npt.NDArray[np.uint8]:
    """Burn the first shape as 1, the next one as 2, and so on."""
    path = rasters.polygons(folder / "l.gpkg", [(shape, n) for n, shape in enumerate(shapes, start=1)], crs=crs)
    features = read_features(path, scene, None, None)
    return Burner(features.geometries, features.classes.astype(np.uint8), scene.transform).read(scene.window)


def _places(scene: RasterInfo, crs: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return x and y of every pixel's centre in a CRS."""
    rows, columns = np.indices((scene.height, scene.width)) + 0.5
    points = apply_transform(scene.transform, np.column_stack([columns.ravel(), rows.ravel()]))
    found = transform_points(points, str(scene.crs), CRS.from_user_input(crs).to_wkt())
    return found[:, 0].reshape(rows.shape), found[:, 1].reshape(rows.shape)


@pytest.mark.parametrize("suffix", ["tab", "mif", "fgb", "sqlite", "gml"])
def test_polygons_of_other_formats_come_in_the_file_s_order(suffix: str, tmp_path: Path) -> None:
    """Within an extent, a MapInfo table has them in the order of its spatial index, as a GeoPackage has."""
    places = np.random.default_rng(0).random((500, 2)) * 600 + [330_000, 5_821_300]
    boxes = shapely.to_wkb(shapely.box(*places.T, *(places + 60).T))
    driver, options = {
        "tab": ("MapInfo File", {}),
        "mif": ("MapInfo File", {}),
        "fgb": ("FlatGeobuf", {"SPATIAL_INDEX": "NO"}),  # with one it is sorted when it is written
        "sqlite": ("SQLite", {}),
        "gml": ("GML", {}),
    }[suffix]
    path, columns = tmp_path / f"l.{suffix}", [np.arange(500)]
    pyogrio.raw.write(
        path, boxes, columns, ["class"], driver=driver, geometry_type="Polygon", crs=rasters.UTM, **options
    )
    image = describe(rasters.image(tmp_path / "s.tif"))
    field = None if suffix != "gml" else "class"
    classes = read_features(path, image, field, None).classes
    assert len(classes) > 400
    assert (np.diff(classes) > 0).all()


@pytest.mark.parametrize(
    "south",
    [shapely.box(2, 40, 35, 50), shapely.box(10, 40, 20, 50), shapely.box(13.9, 49.6, 14.8, 50)],
    ids=["country", "region", "district"],
)
def test_a_border_of_two_polygons_in_degrees_lies_on_its_parallel(south: shapely.Polygon, tmp_path: Path) -> None:
    """Moved at its ends only, a country's border was 26 pixels off, and not that of its neighbour."""
    scene = _scene(tmp_path)
    x, y = _places(scene, DEGREES)
    west, low, east, _ = south.bounds
    expected = np.where(y > 50, 1, np.where((y > low) & (x > west) & (x < east), 2, 0))
    pixel = 0.0015
    doubtful = np.min([np.abs(y - 50), np.abs(y - low), np.abs(x - west), np.abs(x - east)], axis=0) < 0.02 * pixel
    found = _burnt([COUNTRY, south], DEGREES, scene, tmp_path)
    np.testing.assert_array_equal(found[~doubtful], expected[~doubtful])
    assert doubtful.mean() < 1e-3


Inside = Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64]], npt.NDArray[Any]]


@pytest.mark.parametrize(
    ("shape", "inside", "crs", "grid", "goal"),
    [
        (shapely.box(-180, 70, 180, 90), lambda _, y: y > 70, DEGREES, Affine(2e4, 0, -3e6, 0, -2e4, 3e6), "EPSG:3413"),
        (
            shapely.box(3e6, 2e6, 5.5e6, 4e6),
            lambda x, y: (x > 3e6) & (x < 5.5e6) & (y > 2e6) & (y < 4e6),
            "EPSG:3035",
            Affine(0.6, 0, -90, 0, -0.6, 90),
            DEGREES,
        ),
        (
            shapely.Polygon([(13, 50), (16, 51), (16, 50), (13, 51)]),
            lambda x, y: (np.abs(x - 14.5) < 1.5) & (np.abs(y - 50.5) < np.abs(x - 14.5) / 3),
            DEGREES,
            Affine(1000, 0, 350_000, 0, -1000, 5_680_000),
            rasters.UTM,
        ),
    ],
    ids=["around the pole", "of a region of the earth", "crossing itself"],
)
def test_long_edges_lie_where_they_do_in_their_own_crs(
    shape: shapely.Polygon, inside: Inside, crs: str, grid: Affine, goal: str, tmp_path: Path
) -> None:
    scene = _scene(tmp_path, (300, 300), grid, goal)
    found = _burnt([shape], crs, scene, tmp_path)
    wrong = found != inside(*_places(scene, crs))
    assert found.any()
    assert wrong.sum() <= 5  # centres within a hundredth of a pixel of the border


def test_points_on_edges_are_as_few_as_are_needed(tmp_path: Path) -> None:
    """An edge around the earth has them in the raster only, and one of which the ends suffice has none."""
    scene = _scene(tmp_path)
    earth = [(-180, -90), (180, -90), (180, 50), (-180, 50)]
    near, small = shapely.box(14, 49.9, 14.02, 49.92), shapely.Point(14.2, 49.8).buffer(0.01)
    shapes = [shapely.Polygon(earth), near, small]
    path = rasters.polygons(tmp_path / "l.gpkg", [(shape, 1) for shape in shapes], crs=DEGREES)
    around, *others = read_features(path, scene, None, None).geometries
    assert 50 < shapely.get_num_coordinates(around) < 500
    wkt = CRS.from_user_input(DEGREES).to_wkt()
    for shape, found in zip([near, small], others, strict=True):
        moved = shapely.transform(shape, lambda points: transform_points(points, wkt, str(scene.crs)))
        assert shapely.to_wkb(found) == shapely.to_wkb(moved)


def test_a_vertex_without_coordinates_stops_nothing(tmp_path: Path) -> None:
    """Points cannot be put onto such polygons; they are burnt as they are."""
    scene = _scene(tmp_path)
    corners = np.array([(13.0, 49), (16, 49), (16, 50), (15, 51), (13, 50), (13, 49)])
    wkb = shapely.to_wkb(np.array([shapely.Polygon(corners)]))
    wkb[0] = wkb[0].replace(corners[3].tobytes(), np.full(2, np.nan).tobytes())
    path = tmp_path / "l.gpkg"
    pyogrio.raw.write(path, wkb, [np.array([1])], ["class"], geometry_type="Polygon", crs=DEGREES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # shapely's
        (found,) = read_features(path, scene, None, None).geometries
    assert not np.isfinite(shapely.get_coordinates(found)).all()


LOOP = shapely.Polygon([(0, 0), (50, 0), (50, 30), (10, 30), (10, 10), (60, 10), (60, 60), (0, 60)])
BOXES = [shapely.box(0, 0, 40, 40), shapely.box(20, 20, 60, 60)]
BOW = shapely.Polygon([(0, 0), (40, 30), (40, 0), (0, 30)])
SPIKE = shapely.Polygon([(0, 0), (40, 0), (40, 20), (90, 50), (40, 20), (40, 40), (0, 40)])
BEYOND = shapely.Polygon([(0, 0), (40, 0), (40, 40), (0, 40)], [[(30, 30), (60, 30), (60, 60), (30, 60)]])


@pytest.mark.parametrize(
    "shape",
    [
        LOOP,
        BOW,
        SPIKE,
        BEYOND,
        shapely.MultiPolygon(BOXES),
        shapely.MultiPolygon([BOXES[0], BOXES[0]]),
        shapely.MultiPolygon([LOOP, shapely.box(20, 15, 30, 25)]),
        shapely.GeometryCollection([BOW, shapely.MultiPolygon(BOXES), shapely.Point(70, 70)]),
    ],
    ids=["a loop", "a bow", "a spike", "a hole beyond", "overlapping", "twice", "a loop and more", "a collection"],
)
@pytest.mark.parametrize("far", [False, True])
def test_what_is_invalid_holds_the_same_pixels_in_any_crs(shape: Any, far: bool, tmp_path: Path) -> None:
    """Overlapping parts became holes, and spikes got pixels, wherever geometries were moved or cut."""
    scene = _scene(tmp_path, (100, 110), Affine(10, 0, 400_000, 0, -10, 5_590_000))
    placed = shapely.transform(shape, lambda points: np.array([400_051, 5_589_949]) + [9.97, -9.96] * points)
    if far:
        elsewhere = shapely.box(430_000, 5_600_000, 440_000, 5_610_000)
        placed = shapely.GeometryCollection([*shapely.get_parts(placed), elsewhere])
    here, degrees = str(scene.crs), CRS.from_user_input(DEGREES).to_wkt()
    moved = shapely.transform(placed, lambda points: transform_points(points, here, degrees))
    expected = _burnt([placed], rasters.UTM, scene, tmp_path)
    assert expected.any()
    np.testing.assert_array_equal(_burnt([moved], DEGREES, scene, tmp_path), expected)


def test_polygons_elsewhere_are_none_in_another_crs_too(tmp_path: Path) -> None:
    """No geometry has no extent: it ended in a traceback."""
    path = rasters.polygons(tmp_path / "l.gpkg", [(shapely.box(100, 10, 101, 11), 1)], crs=DEGREES)
    assert not len(read_features(path, _scene(tmp_path), None, None).geometries)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp"])
def test_a_broken_vector_file_is_no_broken_raster(suffix: str, tmp_path: Path) -> None:
    path = rasters.polygons(tmp_path / f"l{suffix}", [(shapely.box(0, 0, 9, 9), n) for n in range(1, 40)])
    if suffix == ".shp":
        path.with_suffix(".shx").unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"cannot be read as a vector file; expected a whole .*\.shx.* ogrinfo"):
        is_vector(path)
    assert not is_vector(tmp_path / f"none{suffix}")
    assert not is_vector(rasters.label(tmp_path / "raster.tif"))
