"""QGIS layer files: what they name exists, and QGIS, where there is one, shows it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio.crs import CRS

from scripts.make_scene import make_scene
from src.bands import Band
from src.class_map import ClassMap, ClassRule
from src.labels import ClassTable
from src.mapping.ground_truth import LabelOptions, ground_truth_style
from src.mapping.layer_file import ShownLayer, scene_layer, write_layer_file
from src.mapping.styles import polygon_style, raster_style
from src.raster.write import write_geotiff
from tests.commands import run

ROOT = Path(__file__).resolve().parents[1]
UTM33 = str(CRS.from_epsg(32633).to_wkt())
CLASSES = ClassTable.build([1, 5], {1: 'wood & "moor"', 5: "water"}, {1: "#006400", 5: "#1e5adc"})
BANDS = (Band("nir", 842), Band("red", 665), Band("green", 560), Band("blue", 490))


MERGED = LabelOptions(ClassMap((ClassRule(1, ("oak", "fir")), ClassRule(5, ("pond",)), ClassRule(0, ("?",)))), "kind")


def make(folder: Path) -> Path:
    """A scene in a folder of its own, its map, labels that are classes once merged, and a layer file of all."""
    place: Any = {"crs": UTM33, "transform": (10.0, 0.0, 330_000.0, 0.0, -10.0, 5_822_040.0)}
    (folder / "scenes").mkdir()
    (folder / "maps").mkdir()
    image = np.random.default_rng(0).integers(100, 1100, (4, 40, 30), dtype=np.uint16)
    image[:, :5] = 0
    write_geotiff(folder / "scenes" / "a b.tif", image, nodata=0, bands=BANDS, **place)
    values = np.full((40, 30), 5, np.uint8)
    values[20:] = 1
    write_geotiff(folder / "maps" / "map.tif", values, nodata=0, **place)
    path, labels = folder / "maps" / "map.qlr", folder / "labels.gpkg"
    left, top = 330_000.0, 5_822_040.0
    parts = [shapely.box(left, top - 400, left + 300, top - 200), shapely.box(left, top - 200, left + 300, top)]
    kinds = np.array(["fir", "pond"], object)
    pyogrio.raw.write(labels, shapely.to_wkb(parts), [kinds], ["kind"], geometry_type="Polygon", crs=UTM33)
    style = ground_truth_style(str(labels), CLASSES, MERGED)
    layers = [
        ShownLayer("Map", str(folder / "maps" / "map.tif"), raster_style(CLASSES), crs=UTM33),
        ShownLayer("Labels", str(labels), style, shown=False, vector=True, crs=UTM33),
        scene_layer(str(folder / "scenes" / "a b.tif")),
    ]
    write_layer_file(path, "map", layers)
    return path


def test_paths_are_relative_and_lead_to_the_files(tmp_path: Path) -> None:
    path = make(tmp_path)
    root = Xml.parse(path).getroot()
    sources = [node.text or "" for node in root.iter("datasource")]
    assert sources == ["./map.tif", "../labels.gpkg", "../scenes/a b.tif"]
    assert all((path.parent / source).is_file() for source in sources)
    nodes = list(root.iter("layer-tree-layer"))
    assert [node.get("source") for node in nodes] == sources
    assert [node.get("id") for node in nodes] == [layer.findtext("id") for layer in root.iter("maplayer")]


def test_a_band_without_a_measurement_is_shown_as_its_neighbour(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(100, 1100, (4, 40, 30), dtype=np.uint16)
    image[0] = 0
    write_geotiff(tmp_path / "scene.tif", image, crs=None, transform=(1, 0, 0, 0, -1, 40), nodata=0)
    style = Xml.fromstring(scene_layer(str(tmp_path / "scene.tif")).style)
    renderer = next(style.iter("rasterrenderer"))
    assert [renderer.get(f"{color}Band") for color in ("red", "green", "blue")] == ["2", "2", "3"]
    assert {float(node.text or 1) > 1 for node in renderer.iter("maxValue")} == {True}


def test_a_scene_is_shown_in_its_colours_without_nodata(tmp_path: Path) -> None:
    layer = list(Xml.parse(make(tmp_path)).getroot().iter("maplayer"))[2]
    renderer = layer.find("pipe/rasterrenderer")
    assert renderer is not None
    assert [renderer.get(f"{name}Band") for name in ("red", "green", "blue")] == ["2", "3", "4"]
    for name in ("red", "green", "blue"):
        low, high = (float(renderer.findtext(f"{name}ContrastEnhancement/{end}Value") or 0) for end in ("min", "max"))
        assert 100 <= low < 200
        assert 1000 < high < 1100


def test_what_is_not_on_this_disk_keeps_its_address(tmp_path: Path) -> None:
    layers = [
        ShownLayer("a", "/vsicurl/b.tif"),
        ShownLayer("c", "https://d/e.tif"),
        ShownLayer("f", "g.gpkg", layer="h"),
    ]
    write_layer_file(tmp_path / "x.qlr", "x", layers)
    sources = [node.text for node in Xml.parse(tmp_path / "x.qlr").getroot().iter("datasource")]
    assert sources[:2] == ["/vsicurl/b.tif", "https://d/e.tif"]
    assert str(sources[2]).endswith("g.gpkg|layername=h")


def test_styles_are_well_formed_and_keep_names() -> None:
    for style in (raster_style(CLASSES), polygon_style(CLASSES)):
        labels = [node.get("label") for node in Xml.fromstring(style).iter() if node.get("label")]
        assert labels == list(CLASSES.names)


def test_labels_have_the_colours_of_the_classes_that_they_become(tmp_path: Path) -> None:
    make(tmp_path)
    write_geotiff(tmp_path / "labels.tif", np.ones((4, 4), np.uint8), crs=UTM33, transform=(10, 0, 0, 0, -10, 0))
    options = LabelOptions(ClassMap((ClassRule(1, (7, 8)), ClassRule(5, (2,)))))
    style = Xml.fromstring(ground_truth_style(str(tmp_path / "labels.tif"), CLASSES, options))
    entries = [(node.get("value"), node.get("color")) for node in style.iter("paletteEntry")]
    assert entries == [("7", "#006400"), ("8", "#006400"), ("2", "#1e5adc")]
    assert ground_truth_style(str(tmp_path / "labels.tif"), CLASSES, LabelOptions()) == raster_style(CLASSES)
    style = Xml.fromstring(ground_truth_style(str(tmp_path / "labels.gpkg"), CLASSES, MERGED))
    renderer = style.find("renderer-v2")
    assert renderer is not None
    assert renderer.get("attr") == "kind"
    named = [(node.get("value"), node.get("label")) for node in style.iter("category")]
    assert named == [("oak", 'wood & "moor" (oak)'), ("fir", 'wood & "moor" (fir)'), ("pond", "water (pond)")]


QGIS = """
import json, os, sys
from qgis.core import *
from qgis.PyQt.QtCore import QSize
app = QgsApplication([], False); app.initQgis()
project = QgsProject.instance()
assert QgsLayerDefinition.loadLayerDefinition(sys.argv[1], project, project.layerTreeRoot())[0]
layers = [node.layer() for node in project.layerTreeRoot().findLayers()]
def paint(layer):
    settings = QgsMapSettings(); settings.setLayers([layer]); settings.setOutputSize(QSize(30, 40))
    settings.setDestinationCrs(layers[0].crs()); settings.setExtent(layers[0].extent())
    job = QgsMapRendererSequentialJob(settings); job.start(); job.waitForFinished()
    return [job.renderedImage().pixelColor(15, row).name() for row in (5, 35)]
print(json.dumps({
    "layers": [[l.name(), l.isValid(), l.crs().authid(), type(l.renderer()).__name__] for l in layers],
    "classes": [[c.value, c.label, c.color.name()] for c in layers[0].renderer().classes()],
    "pixels": [paint(layer) for layer in layers[:2]],
}), flush=True)
os._exit(0)
"""


@pytest.fixture
def qgis(tmp_path: Path) -> Callable[..., Any]:
    """What runs a script with QGIS's Python and returns the JSON of its last line."""
    python = shutil.which("python3", path="/usr/bin")
    if (
        python is None
        or subprocess.run([python, "-c", "import qgis.core"], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs QGIS in the system's Python (Debian: apt-get install python3-qgis)")
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    environment = {"QT_QPA_PLATFORM": "offscreen", "HOME": str(home), "XDG_RUNTIME_DIR": str(home)}

    def look(script: Path, *arguments: str) -> Any:
        result = subprocess.run(
            [python, str(script), *arguments],
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"} | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return json.loads(result.stdout.splitlines()[-1])

    return look


def test_qgis_opens_the_file_and_paints_the_classes(tmp_path: Path, qgis: Callable[..., Any]) -> None:
    (tmp_path / "look.py").write_text(QGIS)
    seen = qgis(tmp_path / "look.py", str(make(tmp_path)))
    assert seen["layers"] == [
        ["Map", True, "EPSG:32633", "QgsPalettedRasterRenderer"],
        ["Labels", True, "EPSG:32633", "QgsCategorizedSymbolRenderer"],
        ["Scene", True, "EPSG:32633", "QgsMultiBandColorRenderer"],
    ]
    assert seen["classes"] == [[1, 'wood & "moor"', "#006400"], [5, "water", "#1e5adc"]]
    assert seen["pixels"] == [["#1e5adc", "#006400"]] * 2


def test_qgis_paints_all_that_predict_leaves(tmp_path: Path, qgis: Callable[..., Any]) -> None:
    scene = make_scene(tmp_path / "scene", width=96, height=64, bands=4, noise=0.02)
    files = f"image={scene.image}", f"label={scene.label}"
    for task, arguments in (
        ("prepare", (*files, "data_dir=d", "chip.size=16", "chip.step=16")),
        ("train", ("data_dir=d", "model=compact_unet", "trainer.max_epochs=15", "output_dir=run", "accelerator=cpu")),
        ("predict", (*files, "checkpoint=run", "output=m.tif", "probabilities=true", "vector=true", "accelerator=cpu")),
    ):
        result = run(task, *arguments, cwd=tmp_path)
        assert result.code == 0, result.err
    rows = qgis(ROOT / "scripts/qgis_sheet.py", str(tmp_path / "m.qlr"), str(tmp_path / "sheet.png"))
    assert [row[:4] for row in rows] == [
        ["Map", True, "EPSG:32633", "QgsPalettedRasterRenderer"],
        ["Polygons", True, "EPSG:32633", "QgsCategorizedSymbolRenderer"],
        ["Probabilities", True, "EPSG:32633", "QgsSingleBandPseudoColorRenderer"],
        ["Uncertainty", True, "EPSG:32633", "QgsSingleBandPseudoColorRenderer"],
        ["Labels", True, "EPSG:32633", "QgsPalettedRasterRenderer"],
        ["Scene", True, "EPSG:32633", "QgsMultiBandColorRenderer"],
    ]
    with rasterio.open(tmp_path / "m.tif") as dataset:
        classes = len(np.unique(dataset.read()))
    colors = {name: count for name, _, _, _, count in rows}
    assert classes > 1
    assert colors["Map"] >= classes
    assert min(colors["Polygons"], colors["Labels"]) > 1
    assert min(colors["Uncertainty"], colors["Probabilities"], colors["Scene"]) > 20
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 384, 2 * 322)
