"""What goes wrong is one line: what was given, what was expected, what to do; and nothing is left behind."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from rasterio.transform import Affine

from src.class_map import ClassMap, ClassRule
from src.datafolder import read_data_folder
from src.errors import UserError
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation
from src.raster import mould
from src.raster import write as raster_write
from src.raster.write import Compression
from tests import rasters

SETTINGS = Preparation("", "", (16, 16), (16, 16))
AWAY = rasters.NORTH_UP @ Affine.translation(1000, 0)


def fails(tmp_path: Path, words: str, **changes: Any) -> None:
    """Prepare, expect one line with the words, and nothing in the folder."""
    given = (
        replace(SETTINGS, image=str(tmp_path / "s.tif"), label=str(tmp_path / "l.tif"))
        if changes.get("image") is None
        else SETTINGS
    )
    given = replace(given, **{key: value for key, value in changes.items() if value is not None})
    with pytest.raises(UserError, match=words) as caught:
        prepare(given, tmp_path / "out" / "data")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/data").exists()


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    rasters.image(tmp_path / "s.tif")
    rasters.label(tmp_path / "l.tif")
    return tmp_path


def test_a_missing_file(scene: Path) -> None:
    fails(scene, r"There is no file .*gone\.tif", image=str(scene / "gone.tif"), label=str(scene / "l.tif"))
    fails(scene, r"There is no file .*gone\.tif", label=str(scene / "gone.tif"))
    fails(scene, r"matches no file", image=str(scene / "gone_*.tif"), label=str(scene / "l.tif"))
    fails(scene, r"empty list", image=(), label=())


def test_an_unreadable_file(scene: Path) -> None:
    (scene / "l.tif").write_text("no raster")
    fails(scene, r"l\.tif cannot be read as a raster")


@pytest.mark.parametrize("which", ["s.tif", "l.tif"])
def test_a_truncated_file_is_named(which: str, scene: Path) -> None:
    content = (scene / which).read_bytes()
    (scene / which).write_bytes(content[: len(content) * 2 // 3])
    fails(scene, rf"{which} cannot be read as a raster", min_coverage=0.0)


def test_labels_elsewhere(scene: Path) -> None:
    rasters.label(scene / "l.tif", transform=AWAY)
    fails(scene, r"do not overlap")
    box = shapely.box(0, 0, 10, 10)
    rasters.polygons(scene / "l.gpkg", [(box, "a")])
    fails(scene, r"do not overlap: no geometry with a class lies within", label=str(scene / "l.gpkg"))


@pytest.mark.parametrize(
    ("value", "dtype", "words"),
    [
        (300, "int16", "the value 300"),
        (-1, "int16", "the value -1"),
        (1.5, "float32", "the value 1.5"),
        (1e6, "float64", "1e"),
    ],
)
def test_labels_that_are_no_classes(value: float, dtype: str, words: str, scene: Path) -> None:
    """Under a uint8 image, SpecDeepMap wrote 300 as 255."""
    pixels = np.ones((64, 64), dtype)
    pixels[40, 40] = value
    rasters.write(scene / "l.tif", pixels)
    fails(scene, words)


def test_labels_of_several_bands(scene: Path) -> None:
    rasters.image(scene / "l.tif", bands=3, dtype="uint8")
    fails(scene, r"has 3 bands; a label raster has one\. Are image and label swapped\?")


def test_labels_without_any_class(scene: Path) -> None:
    rasters.label(scene / "l.tif", values=(0,))
    fails(scene, r"have no class", min_coverage=0.0)


def test_labels_without_a_crs(scene: Path) -> None:
    rasters.label(scene / "l.tif", crs=None, transform=AWAY)
    fails(scene, r"l\.tif has no CRS, so .*l\.tif \(64 × 64 px\) cannot be laid onto .*s\.tif \(64 × 64 px\)")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shares": (90.0, 10.0, 10.0)}, r"split\.train=90, split\.validation=10, split\.test=10"),
        ({"shares": (90.0, -10.0, 10.0)}, r"0 or more"),
        ({"shares": (0.0, 0.0, 0.0)}, r"above 0"),
        ({"chip_size": (0, 16)}, r"chip\.size is \[0, 16\]"),
        ({"chip_step": (16, -1)}, r"chip\.step"),
        ({"min_coverage": 101.0}, r"chip\.min_coverage is 101"),
        ({"min_coverage": -1.0}, r"chip\.min_coverage is -1"),
        ({"min_class_share": 200.0}, r"min_class_share"),
        ({"buffer": 5}, r"split\.strategy=blocks"),
        ({"buffer": -5, "strategy": "blocks"}, r"split\.buffer=-5"),
        ({"block": 0, "strategy": "blocks"}, r"split\.block"),
        ({"scaler": 0.0}, r"scaler is 0"),
        ({"seed": -1}, r"seed=-1 is below 0"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(SETTINGS, **changes)


def test_scenes_that_do_not_go_together(scene: Path) -> None:
    def against(other: Path) -> dict[str, Any]:
        return {"image": (str(scene / "s.tif"), str(other)), "label": str(scene / "l.tif")}

    fails(scene, r"more\.tif has 4 bands, but .*s\.tif has 3", **against(rasters.image(scene / "more.tif", bands=4)))
    fails(scene, r"f\.tif is float32, but .*uint16", **against(rasters.image(scene / "f.tif", dtype="float32")))
    named = rasters.image(scene / "n.tif", names=["red", "green", "blue"])
    rasters.image(scene / "s.tif", names=["blue", "green", "red"])
    fails(scene, r"Band 1 of .*n\.tif is 'red', but that of .*s\.tif is 'blue'", **against(named))
    twin = rasters.image(scene / "elsewhere" / "s.tif", names=["blue", "green", "red"])
    fails(scene, r"have the same name", **against(twin))


def test_as_many_labels_as_images(scene: Path) -> None:
    images = tuple(str(rasters.image(scene / f"{name}.tif")) for name in "abc")
    label = str(scene / "l.tif")
    fails(scene, r"label names 2 files for 3 images; give one for each", image=images, label=(label, label))
    fails(scene, r"label names 2 files for 1 image; ", image=images[0], label=(label, label))
    fails(scene, r"split\.raster names 2 files for 3 images", image=images, label=label, split_raster=(label, label))
    fails(scene, r"image names .*a\.tif twice", image=(images[0], images[0]), label=label)


def test_no_chip_left_says_what_was_dropped_for_what(scene: Path) -> None:
    values = np.zeros((64, 64), np.uint8)
    values[:8, :8] = 1
    rasters.write(scene / "l.tif", values)
    fails(scene, r"No chips are left for 3 parts \(dropped: 1 below the coverage, 15 without label, of 16\)")
    values[:16, :16] = 1
    rasters.write(scene / "l.tif", values)
    fails(scene, r"1 chip is left for 3 parts")


def test_a_nodata_value_that_does_not_fit(scene: Path) -> None:
    fails(scene, r"nodata=-9999 does not fit into .*uint16", nodata=-9999.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_nodata_value_that_is_not_declared(dtype: str, scene: Path) -> None:
    """ArcGIS writes −3.4e38: it made means and deviations of 1e37."""
    pixels = np.random.default_rng(0).random((3, 64, 64)).astype(dtype)
    pixels[1, ::9, ::9] = lowest = np.finfo(np.float32).min
    rasters.write(scene / "s.tif", pixels)
    fails(scene, r"Band 2 has numbers beyond 1e30.*Give it: nodata=…", min_coverage=0.0)
    given = replace(SETTINGS, image=str(scene / "s.tif"), label=str(scene / "l.tif"), min_coverage=0.0)
    prepare(replace(given, nodata=float(lowest)), scene / "told")


@pytest.mark.parametrize("nodata", [None, float(np.finfo(np.float64).min)])
def test_numbers_beyond_single_precision_are_no_measurements_declared_or_not(nodata: float | None, scene: Path) -> None:
    """As networks take them: ArcGIS's −1.8e308 made deviations that train.py refused."""
    pixels = np.random.default_rng(0).random((3, 64, 64))
    pixels[1, ::9, ::9] = np.finfo(np.float64).min
    rasters.write(scene / "s.tif", pixels)
    given = replace(SETTINGS, image=str(scene / "s.tif"), label=str(scene / "l.tif"), min_coverage=0.0, nodata=nodata)
    prepare(given, scene / "data")
    statistics = read_data_folder(scene / "data").statistics
    assert statistics is not None
    assert statistics.std[1] < 1


def test_a_scene_without_any_measurement(scene: Path) -> None:
    other = rasters.write(scene / "s.tif", np.ones((3, 64, 64), np.uint8), nodata=0)
    empty = rasters.write(scene / "e.tif", np.zeros((3, 64, 64), np.uint8), nodata=0)
    fails(scene, r"No band of .*e\.tif has a measurement", image=(str(other), str(empty)), label=str(scene / "l.tif"))
    rasters.image(scene / "s.tif", bands=2, tags={1: {"bbl": "0"}, 2: {"bbl": "0"}})
    fails(scene, r"No band is left: .* are marked bad")


def test_vector_files_that_cannot_be_used(scene: Path) -> None:
    label = str(scene / "l.gpkg")
    box = shapely.box(330_000, 5_821_400, 330_600, 5_822_000)
    rasters.polygons(scene / "l.gpkg", [(box, "a")], field="fclass")
    fails(scene, r"no field land; give label_field=… as one of: fclass", label=label, label_field="land")
    fails(scene, r"no layer x; give label_layer=… as one of: l", label=label, label_layer="x")
    fails(scene, r"class_map merges b, which no label has; there is: a", label=label, class_map=(ClassRule(1, ("b",)),))
    rasters.polygons(scene / "n.gpkg", [(box, 1.5)])
    fails(scene, r"the value 1\.5", label=str(scene / "n.gpkg"))
    rasters.polygons(scene / "h.gpkg", [(box, 400)])
    fails(scene, r"the value 400", label=str(scene / "h.gpkg"))


def test_names_that_do_not_fit_the_classes(scene: Path) -> None:
    fails(scene, r"class_names has 2 entries for 3 classes \(1, 2, 3\)", class_names=("a", "b"))
    fails(scene, r"class_names has a key that is no class value", class_names={"a": "b"})
    fails(scene, r"written #rrggbb", class_colors={1: "green"})
    fails(scene, r"class_names calls class 1 'a', and another the same", class_names=("a", "b", "a"))
    fails(scene, r"class_names calls class 2 ' '", class_names={2: " "})


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([ClassRule(256, (1,))], "expected 1–255"),
        ([ClassRule(1, ())], "merges nothing"),
        ([ClassRule(1, (5,)), ClassRule(1, (6,))], "the value 1 twice"),
        ([ClassRule(1, (5,)), ClassRule(2, (5,))], "puts 5 into 1 and 2"),
    ],
)
def test_class_maps_that_contradict_themselves(rules: list[ClassRule], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ClassMap(tuple(rules))


@pytest.mark.parametrize("compress", ["none", "deflate"], ids=["by a mould", "by GDAL"])
def test_a_full_disk_leaves_nothing(scene: Path, compress: Compression, monkeypatch: pytest.MonkeyPatch) -> None:
    left = 3
    real: Callable[[Any], Any] = raster_write.whole_file

    @contextmanager
    def full(path: Path) -> Iterator[Path]:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        with real(path) as partial:
            yield partial

    for module in (raster_write, mould):
        monkeypatch.setattr(module, "whole_file", full)
    settings = replace(SETTINGS, image=str(scene / "s.tif"), label=str(scene / "l.tif"), compress=compress)
    with pytest.raises(OSError, match="No space left"):
        prepare(settings, scene / "out/data")
    assert not (scene / "out/data").exists()


def test_label_files_that_call_one_value_differently(scene: Path) -> None:
    """The last file's names were taken for all: forest was water in the other."""
    elsewhere = rasters.image(scene / "s2.tif", transform=AWAY)
    images = (str(scene / "s.tif"), str(elsewhere))
    labels = []
    for name, words, grid in (("a", "Forest, Water", rasters.NORTH_UP), ("b", "Water, forest", AWAY)):
        path = rasters.label(scene / f"{name}.dat", driver="ENVI", transform=grid, values=(1, 2))
        header = (scene / f"{name}.hdr").read_text().replace("ENVI Standard", "ENVI Classification")
        (scene / f"{name}.hdr").write_text(f"{header}classes = 3\nclass names = {{Unclassified, {words}}}\n")
        labels.append(str(path))
    clash = {"image": images, "label": tuple(labels)}
    fails(scene, r"The labels call class 1 both 'Forest' and 'Water'.*class_names=\{1: Forest\}", **clash)
    fails(scene, r"The labels call class 2 both", **clash, class_names={1: "green"})
    given = replace(SETTINGS, **clash, class_names=("green", "blue"))
    assert prepare(given, scene / "named").classes.names == ("green", "blue")
    (scene / "b.hdr").write_text((scene / "b.hdr").read_text().replace("Water, forest", "FOREST, water"))
    assert prepare(replace(SETTINGS, **clash), scene / "alike").classes.names == ("FOREST", "water")


def test_a_nodata_value_beyond_the_floating_type(scene: Path) -> None:
    """It ended in a traceback when the first chip was written."""
    rasters.image(scene / "s.tif", dtype="float32")
    fails(scene, r"nodata=-1\.79769e\+308 does not fit into .*s\.tif, which is float32", nodata=-1.7976931348623157e308)
    given = replace(SETTINGS, image=str(scene / "s.tif"), label=str(scene / "l.tif"))
    for number, value in enumerate((-3.4028235e38, np.inf, np.nan)):
        prepare(replace(given, nodata=value), scene / str(number))


def test_scenes_called_as_parts_of_others_with_a_split_raster(scene: Path) -> None:
    """Both wrote x_train_tile_0_0.tif, and the last one stayed."""
    images, labels = [], []
    for number, name in enumerate(("x", "x_train")):
        grid = rasters.NORTH_UP @ Affine.translation(64 * number, 0)
        images.append(str(rasters.image(scene / f"{name}.tif", transform=grid)))
        labels.append(str(rasters.label(scene / f"l{number}.tif", transform=grid)))
    both = {"image": tuple(images), "label": tuple(labels)}
    drawn = rasters.write(scene / "split.tif", np.tile(np.uint8([1, 2, 3, 1]), (64, 32)))
    words = r"x_train\.tif is called as .*x\.tif and its part train, and with split\.raster.*rename one of them"
    fails(scene, words, **both, split_raster=str(drawn))
    prepare(replace(SETTINGS, **both), scene / "drawn later")


def test_a_band_that_drops_most_windows_is_named(scene: Path) -> None:
    """Only chip.min_coverage, chip.size and the labels were, which help nothing."""
    pixels = np.random.default_rng(0).integers(1, 9, (3, 64, 64)).astype(np.uint8)
    pixels[1, :, 4:] = 0
    pixels[:, 48:] = 0  # nothing at all there
    rasters.write(scene / "s.tif", pixels, nodata=0)
    words = r"13 without measurement.*; band 2 has no measurement in 9 of 16, where others have; leave it out with gdal"
    fails(scene, words)
