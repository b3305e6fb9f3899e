"""Maps as files: valid Cloud Optimized GeoTIFFs on the scene's grid that say what their numbers mean."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from rasterio import Affine
from rio_cogeo import cog_validate

from src.labels import ClassTable
from src.mapping import cog
from src.mapping.scene_map import SceneMap, map_scene
from src.mapping.styles import polygon_style, raster_style, share_style
from src.raster.read import category_names, describe, open_raster
from tests.mapping_scenes import CLASSES, UTM, Argmax, make_mapper, noise, read, write_raster
from tests.rasters import TURNED


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> SceneMap:
    folder = tmp_path_factory.mktemp("map")
    path = write_raster(folder / "scene.tif", noise(700, 600))
    mapper = make_mapper(folder, Argmax(), window=512, probabilities="uint8", vector=True)
    return map_scene(mapper, str(path), folder / "map.tif")


def test_every_raster_is_a_valid_cog_with_overviews(found: SceneMap) -> None:
    rasters = [path for path in found.files if path.suffix == ".tif"]
    assert [path.name for path in rasters] == ["map.tif", "map_probabilities.tif", "map_uncertainty.tif"]
    for path in rasters:
        valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
        assert valid, (path, errors, warnings)
        with rasterio.open(path) as dataset:
            assert dataset.overviews(1)


def test_the_grid_is_the_scene_s(found: SceneMap) -> None:
    with rasterio.open(found.grid.path) as scene:
        for path in found.files:
            if path.suffix == ".tif":
                with rasterio.open(path) as raster:
                    assert (raster.shape, raster.transform, raster.crs) == (scene.shape, scene.transform, scene.crs)


def test_colours_names_and_nodata_are_inside(found: SceneMap) -> None:
    with open_raster(found.path) as dataset:
        colors = dataset.colormap(1)
        assert (dataset.dtypes, dataset.nodata) == (("uint8",), 0)
        names = {0: "unclassified", **dict(zip(CLASSES.values, CLASSES.names, strict=True))}
        assert category_names(dataset) == names
        assert {f"CLASS_{c.value}": c.name for c in CLASSES.classes}.items() <= dataset.tags(1).items()
    assert colors[0] == (0, 0, 0, 0)
    assert {value: colors[value] for value in CLASSES.values} == {c.value: (*c.rgb, 255) for c in CLASSES.classes}


def test_names_stay_inside_when_the_file_goes_away_without_its_side_file(found: SceneMap, tmp_path: Path) -> None:
    alone = tmp_path / "alone.tif"
    alone.write_bytes(found.path.read_bytes())
    with rasterio.open(alone) as dataset:
        assert dataset.tags(1)["CLASS_4"] == "forest & heath"


def test_overviews_show_the_commonest_class_and_the_mean_share(tmp_path: Path) -> None:
    pixels = np.arange(4).reshape(2, 2)
    odd = np.tile(np.block([[pixels == 0, pixels == 1], [pixels == 2, pixels == 3]]), (256, 256))  # one of each 2 × 2
    grid = describe(write_raster(tmp_path / "scene.tif", odd[None].astype(np.uint8)))
    classes = cog.Layer("classes", "uint8", ("class",), 0, classes=CLASSES)
    shares = cog.Layer("probabilities", "uint8", ("water",), 255, scale=0.005)
    for layer, one, others, shown in ((classes, 1, 9, 9), (shares, 200, 0, 50)):
        np.where(odd, one, others).astype(np.uint8).tofile(tmp_path / "raw")
        cog.write_cog(tmp_path / "raw", tmp_path / f"{layer.name}.tif", layer, grid)
        with rasterio.open(tmp_path / f"{layer.name}.tif", overview_level=0) as overview:
            assert (overview.read(1) == shown).all()


@pytest.mark.parametrize(
    "transform",
    [Affine(10, 0, 3e5, 0, -10, 5.8e6), Affine(8, 3, 3e5, 3, -8, 5.8e6), TURNED, Affine(0.1, 0, 5, 0, 0.1, -3)],
)
def test_rotated_and_upside_down_scenes_keep_their_grid(tmp_path: Path, transform: Affine) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(40, 50), transform=transform)
    found = map_scene(make_mapper(tmp_path, Argmax()), str(path), tmp_path / "map.tif")
    with rasterio.open(found.path) as dataset:
        assert dataset.transform.almost_equals(transform, 1e-9)
    np.testing.assert_array_equal(read(found.path), np.array(CLASSES.values)[noise(40, 50).argmax(0)])


def test_a_scene_without_a_place_on_earth_is_mapped_without_one(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(40, 50), crs=None)
    found = map_scene(make_mapper(tmp_path, Argmax(), vector=True), str(path), tmp_path / "map.tif")
    with rasterio.open(found.path) as dataset:
        assert (dataset.crs, dataset.transform) == (None, Affine.identity())


@pytest.mark.parametrize("grid", [Affine(1, 0, 0, 0, -1, 0), Affine(10, 0, 0, 0, -10, 400)])
def test_a_grid_without_a_place_on_earth_is_the_map_s_too(grid: Affine, tmp_path: Path) -> None:
    """ENVI's Arbitrary, and a corner at 0, 0 without a CRS: no place, but the grid that the map is laid over."""
    local = 'LOCAL_CS["Arbitrary",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
    for name, crs in (("plain", None), ("arbitrary", local)):
        path = write_raster(tmp_path / f"{name}.tif", noise(40, 50), crs=crs, transform=grid)
        found = map_scene(make_mapper(tmp_path, Argmax(), vector=True), str(path), tmp_path / f"{name}_map.tif")
        with rasterio.open(found.path) as dataset:
            assert dataset.transform == grid


def test_a_cog_takes_no_more_cores_than_there_are_for_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took all of the machine's, whatever threads= said."""
    given = []
    monkeypatch.setattr(cog, "cores", lambda: 3)
    monkeypatch.setattr(cog, "copy_raster", lambda *_, **options: given.append(options["NUM_THREADS"]))
    path = write_raster(tmp_path / "scene.tif", noise(4, 5))
    cog.write_cog(tmp_path / "raw", tmp_path / "map.tif", cog.Layer("x", "uint8", ("x",), 0), describe(path))
    assert given == ["3"]


def test_a_new_map_under_an_old_name_replaces_all_of_it(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(40, 50))
    (tmp_path / "map_uncertainty.tif.aux.xml").write_text("<PAMDataset/>")
    map_scene(make_mapper(tmp_path, Argmax(), probabilities="uint8"), str(path), tmp_path / "map.tif")
    before = read(tmp_path / "map.tif")
    write_raster(tmp_path / "scene.tif", noise(40, 50, seed=3))
    map_scene(make_mapper(tmp_path, Argmax()), str(path), tmp_path / "map.tif")
    assert (read(tmp_path / "map.tif") != before).any()
    assert not (tmp_path / "map_uncertainty.tif.aux.xml").exists()


def test_styles_are_xml_with_every_class_s_colour_and_name() -> None:
    classes = ClassTable.build([2, 7], {2: 'a "b" <c> & d', 7: "é"}, {2: "#102030"})
    raster = ElementTree.fromstring(raster_style(classes).split("\n", 1)[1])
    entries = [(e.get("value"), e.get("color"), e.get("label")) for e in raster.iter("paletteEntry")]
    assert entries == [("2", "#102030", 'a "b" <c> & d'), ("7", classes.colors[1], "é")]
    vector = ElementTree.fromstring(polygon_style(classes).split("\n", 1)[1])
    renderer = vector.find("renderer-v2")
    assert renderer is not None
    assert renderer.get("attr") == "value"
    assert [(c.get("value"), c.get("label")) for c in vector.iter("category")] == [(e[0], e[2]) for e in entries]
    assert next(o.get("value") for o in vector.iter("Option") if o.get("name") == "color") == "16,32,48,255"
    for grey in (True, False):
        ramp = ElementTree.fromstring(share_style(grey).split("\n", 1)[1])
        assert [i.get("value") for i in ramp.iter("item")] == ["0", "0.25", "0.5", "0.75", "1"]


def test_every_raster_and_the_polygons_have_a_style_beside(found: SceneMap) -> None:
    names = {path.name for path in found.files}
    assert {"map.qml", "map_probabilities.qml", "map_uncertainty.qml", "map_polygons.qml"} <= names
    assert UTM
