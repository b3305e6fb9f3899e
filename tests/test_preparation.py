"""prepare from end to end: every kind of input, compared with a plain NumPy slice of the whole scene."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import rasterio
import rasterio.features
import rasterio.shutil
import shapely
from rasterio.transform import Affine

from src import file_lock
from src.chips import read_labelled
from src.class_map import ClassRule
from src.datafolder import DataFolder, read_data_folder
from src.datamodules.chips import ChipData
from src.errors import UserError
from src.label_sources import ClassHints
from src.mapping.ground_truth import LabelOptions, ground_truth
from src.mapping.options import MapOptions
from src.mapping.scene_map import Mapper, map_scene
from src.models.checkpoint import save_network
from src.preparation import assembly
from src.preparation import prepare as preparation
from src.preparation.class_choice import class_table
from src.preparation.overview import Overview
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation
from src.preparation.staging import publish, staged
from src.quicklook import quicklook
from src.raster.read import RasterInfo, describe
from src.tables import PARTS
from src.training import NetworkChoice, make_network
from tests import rasters

ROOT = Path(__file__).parents[1]
SETTINGS = Preparation("", "", (16, 16), (16, 16), min_coverage=50.0, shares=(60.0, 20.0, 20.0))


@pytest.fixture(autouse=True)
def plain_overview(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the picture out where a test is about something else: it takes longer than all the rest."""
    if "picture" not in request.fixturenames:
        monkeypatch.setattr(Overview, "draw", lambda _, path: path.write_bytes(b""))


@pytest.fixture
def picture() -> None:
    """Ask for the picture as it is."""


def settings(image: Path | tuple[Path, ...] | str, label: Path | tuple[Path, ...] | str, **changes: Any) -> Preparation:
    def plain(value: Path | tuple[Path, ...] | str) -> str | tuple[str, ...]:
        return tuple(str(path) for path in value) if isinstance(value, tuple) else str(value)

    return replace(SETTINGS, image=plain(image), label=plain(label), **changes)


def made(tmp_path: Path, given: Preparation) -> DataFolder:
    prepare(given, tmp_path / "data")
    return read_data_folder(tmp_path / "data")


def chips(folder: DataFolder) -> list[tuple[str, int, int, npt.NDArray[Any], npt.NDArray[Any]]]:
    """Scene, x, y, image and label of every chip that the lists name."""
    found = []
    for part in PARTS:
        for sample in folder.samples(part, required=False):
            scene, _, place = sample.image.stem.rpartition("_tile_")
            x, y = map(int, place.split("_"))
            found.append((scene, x, y, rasters.read(sample.image), rasters.read(sample.label)[0]))
    return found


def check_slices(folder: DataFolder, image: npt.NDArray[Any], label: npt.NDArray[Any], fill: float = 0) -> None:
    """Compare every chip with the same slice of the whole scene, padded at its lower right."""
    width, height = folder.spec.chip_size
    whole = np.pad(image, ((0, 0), (0, height), (0, width)), constant_values=fill)
    values = np.pad(label, ((0, height), (0, width)))
    found = chips(folder)
    assert found
    for _, x, y, pixels, classes in found:
        assert pixels.dtype == image.dtype
        assert classes.dtype == np.uint8
        np.testing.assert_array_equal(pixels, whole[:, y : y + height, x : x + width])
        np.testing.assert_array_equal(classes, values[y : y + height, x : x + width])


def digest(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize(
    "layout", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 32, "interleave": "band"}, {"compress": "deflate"}]
)
def test_a_geotiff_of_any_type_and_layout(dtype: str, layout: dict[str, Any], tmp_path: Path) -> None:
    image = rasters.image(tmp_path / "scene.tif", 70, 90, bands=4, dtype=dtype, **layout)
    label = rasters.label(tmp_path / "label.tif", 70, 90)
    check_slices(made(tmp_path, settings(image, label, min_coverage=0.0)), rasters.read(image), rasters.read(label)[0])


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint32", "int64", "uint64", "float64"])
def test_rarer_types_keep_every_number(dtype: str, tmp_path: Path) -> None:
    kind = np.dtype(dtype)
    limits = (-1e12, 1e12) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    pixels = np.random.default_rng(0).integers(1, 100, (2, 70, 90)).astype(kind)
    pixels[:, 5, 5:7] = limits
    image = rasters.write(tmp_path / "scene.tif", pixels)
    label = rasters.label(tmp_path / "label.tif", 70, 90)
    check_slices(made(tmp_path, settings(image, label, min_coverage=0.0)), pixels, rasters.read(label)[0])


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
def test_envi_as_enmap_ships_it_with_bad_and_dead_bands(interleave: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(1, 5000, (6, 64, 64)).astype(np.int16)
    pixels[3] = -32768
    path = rasters.write(tmp_path / "scene.bsq", pixels, driver="ENVI", interleave=interleave, nodata=-32768)
    header = path.with_suffix(".hdr")
    header.write_text(
        header.read_text() + "wavelength units = Micrometers\nwavelength = {0.4, 0.5, 0.6, 1.4, 1.5, 1.6}\n"
        "fwhm = {0.006, 0.007, 0.008, 0.01, 0.011, 0.012}\nbbl = {1, 1, 1, 1, 0, 1}\n"
    )
    label = rasters.label(tmp_path / "label.tif")
    folder = made(tmp_path, settings(path, label))
    assert folder.spec.used == (True, True, True, False, False, True)
    assert [band.wavelength for band in folder.spec.bands] == pytest.approx([400, 500, 600, 1400, 1500, 1600])
    assert [band.fwhm for band in folder.spec.bands] == pytest.approx([6, 7, 8, 10, 11, 12])
    chip = describe(str(folder.samples("train")[0].image))
    assert [(band.wavelength, band.fwhm, band.bad) for band in chip.bands] == [
        (pytest.approx(band.wavelength), pytest.approx(band.fwhm), band.bad) for band in folder.spec.bands
    ]
    check_slices(folder, pixels, rasters.read(label)[0])
    assert folder.statistics is not None
    assert np.isnan(folder.statistics.mean[3])
    with rasterio.open(folder.samples("train")[0].image) as chip:
        assert float(chip.tags(1)["wavelength"]) == pytest.approx(400)
        assert float(chip.tags(1)["fwhm"]) == pytest.approx(6)
        assert chip.tags(5)["bbl"] == "0"
        assert chip.nodata == -32768


def test_a_list_of_bad_bands_that_names_some_only_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It was passed over, and bands without a signal were learnt."""
    image = rasters.image(tmp_path / "scene.bsq", driver="ENVI")
    with image.with_suffix(".hdr").open("a") as header:
        header.write("bbl = {1, 0}\n")
    assert made(tmp_path, settings(image, rasters.label(tmp_path / "label.tif"))).spec.used == (True, False, True)
    assert f"CAUTION: {image} has a list of bad bands (bbl) with 2 entries for 3 bands; bands that" in caplog.text


def test_a_vrt_and_a_path_in_a_zip(tmp_path: Path) -> None:
    image, label = rasters.image(tmp_path / "scene.tif"), rasters.label(tmp_path / "label.tif")
    rasterio.shutil.copy(str(image), str(tmp_path / "scene.vrt"), driver="VRT")
    check_slices(made(tmp_path, settings(tmp_path / "scene.vrt", label)), rasters.read(image), rasters.read(label)[0])
    subprocess.run([sys.executable, "-m", "zipfile", "-c", str(tmp_path / "z.zip"), str(image)], check=True)
    prepare(settings(f"/vsizip/{tmp_path}/z.zip/scene.tif", label), tmp_path / "zipped")
    check_slices(read_data_folder(tmp_path / "zipped"), rasters.read(image), rasters.read(label)[0])


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32633", Affine(10, 0, 330_000, 0, -10, 5_822_000)),
        ("EPSG:4326", Affine(0.001, 0, 12.5, 0, -0.001, 52.5)),
        ("EPSG:32633", Affine(10, 0, 330_000, 0, 10, 5_822_000)),
        ("EPSG:32633", Affine(10, 0, 330_000, 0, -10, 5_822_000) @ Affine.rotation(30)),
        ("EPSG:32633", rasters.TURNED),
        (None, Affine(1, 0, 0, 0, -1, 64)),
    ],
    ids=["utm", "geographic", "south-up", "rotated", "oblong and rotated", "no crs"],
)
def test_any_grid_and_chips_lie_where_they_were(crs: str | None, transform: Affine, tmp_path: Path) -> None:
    image = rasters.image(tmp_path / "scene.tif", crs=crs, transform=transform)
    label = rasters.label(tmp_path / "label.tif", crs=crs, transform=transform)
    folder = made(tmp_path, settings(image, label))
    check_slices(folder, rasters.read(image), rasters.read(label)[0])
    for sample in folder.samples("train"):
        x, y = map(int, sample.image.stem.split("_tile_")[1].split("_"))
        with rasterio.open(sample.image) as chip:
            assert (chip.crs.to_string() if chip.crs else None) == crs
            np.testing.assert_allclose(tuple(chip.transform), tuple(transform @ Affine.translation(x, y)))


@pytest.mark.parametrize(
    "grid", [rasters.NORTH_UP, Affine(10, 0, 330_000, 0, 10, 5_822_000)], ids=["north", "south-up"]
)
def test_a_scene_of_one_band_is_prepared_and_mapped(grid: Affine, tmp_path: Path) -> None:
    image = rasters.image(tmp_path / "scene.tif", 70, 64, bands=1, transform=grid)
    label = rasters.label(tmp_path / "label.tif", 70, 64, transform=grid)
    folder = made(tmp_path, settings(image, label))
    check_slices(folder, rasters.read(image), rasters.read(label)[0])
    network, spec = make_network(ChipData(tmp_path / "data").describe(), NetworkChoice("compact_unet", "none"))
    save_network(tmp_path / "network.ckpt", network, spec, {})
    mapper = Mapper.load(tmp_path / "network.ckpt", MapOptions(probabilities="uint8", vector=True), "cpu")
    found = map_scene(mapper, str(image), tmp_path / "map.tif")
    with rasterio.open(found.path) as dataset:
        assert dataset.transform == grid
        assert set(np.unique(dataset.read(1))) <= {1, 2, 3}
    assert quicklook(str(image), spec=spec)[..., 3].all()


def test_labels_of_another_extent_are_unclassified_elsewhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = rasters.image(tmp_path / "scene.tif")
    label = rasters.label(tmp_path / "label.tif", 50, 50, transform=rasters.NORTH_UP @ Affine.translation(-3, 8))
    caplog.set_level(logging.INFO)
    folder = made(tmp_path, settings(image, label, min_coverage=0.0))
    expected = np.zeros((64, 64), np.uint8)
    expected[8:58, :47] = rasters.read(label)[0][:, 3:]
    check_slices(folder, rasters.read(image), expected)
    assert "another extent" in caplog.text


@pytest.mark.parametrize(("crs", "pixel"), [("EPSG:32633", 7.0), ("EPSG:32632", 10.0), ("EPSG:4326", 0.0001)])
def test_labels_on_another_grid_are_warped_by_nearest_neighbour(
    crs: str, pixel: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SpecDeepMap accepted labels of another size or zone without a word, pixel by pixel."""
    image = rasters.image(tmp_path / "scene.tif")
    left, bottom, right, top = rasterio.warp.transform_bounds("EPSG:32633", crs, 330_000, 5_821_360, 330_640, 5_822_000)
    grid = Affine(pixel, 0, left - 3.3 * pixel, 0, -pixel, top + 3.7 * pixel)
    height, width = int((top - bottom) / pixel) + 8, int((right - left) / pixel) + 8
    label = rasters.label(tmp_path / "label.tif", height, width, cell=9, crs=crs, transform=grid)
    caplog.set_level(logging.INFO)
    folder = made(tmp_path, settings(image, label))
    assert "warped onto the grid" in caplog.text
    values = rasters.read(label)[0]
    rows, columns = np.mgrid[0:64, 0:64]
    xs, ys = 330_000 + 10 * (columns + 0.5), 5_822_000 - 10 * (rows + 0.5)
    xs, ys = rasterio.warp.transform("EPSG:32633", crs, xs.ravel(), ys.ravel())
    at = np.array([~grid @ point for point in zip(xs, ys, strict=True)])
    expected = values[np.floor(at[:, 1]).astype(int), np.floor(at[:, 0]).astype(int)].reshape(64, 64)
    for _, x, y, _, classes in chips(folder):
        same = classes == expected[y : y + 16, x : x + 16]
        assert same.mean() > 0.99  # a position may lie a hundredth of a pixel off


@pytest.mark.parametrize(
    "grid",
    [
        Affine(10, 0, 330_000, 0, 10, 5_821_360),
        Affine(-10, 0, 330_640, 0, -10, 5_822_000),
        rasters.NORTH_UP @ Affine.translation(30, -10) @ Affine.rotation(30),
    ],
    ids=["south-up", "mirrored", "rotated"],
)
def test_labels_are_laid_onto_images_that_are_turned(grid: Affine, tmp_path: Path) -> None:
    image = rasters.image(tmp_path / "scene.tif", transform=grid)
    placed = rasters.NORTH_UP @ Affine.translation(-40.3, -60.2)
    label = rasters.label(tmp_path / "label.tif", 200, 200, cell=16, transform=placed)
    folder = made(tmp_path, settings(image, label))
    rows, columns = np.mgrid[0:64, 0:64] + 0.5
    x, y = ~placed @ (grid @ (columns, rows))
    expected = rasters.read(label)[0][np.floor(y).astype(int), np.floor(x).astype(int)]
    found = chips(folder)
    assert len(found) == 16
    same = np.mean([classes == expected[y : y + 16, x : x + 16] for _, x, y, _, classes in found])
    assert same > 0.998  # a position may lie a hundredth of a pixel off


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp"])
def test_vector_labels_with_text_classes(suffix: str, tmp_path: Path) -> None:
    crs = "EPSG:4326" if suffix == ".geojson" else rasters.UTM
    image = rasters.image(tmp_path / "scene.tif", crs=crs, transform=_grid(crs))
    shapes = [(_box(crs, 0, 0, 40, 64), "wood"), (_box(crs, 30, 0, 64, 30), "lake"), (_box(crs, 50, 40, 64, 64), None)]
    label = rasters.polygons(tmp_path / f"land{suffix}", shapes, crs=crs)
    folder = made(tmp_path, settings(image, label, label_field="class"))
    assert folder.spec.classes.names == ("lake", "wood")
    expected = np.zeros((64, 64), np.uint8)
    expected[:, :40] = 2
    expected[:30, 30:] = 1
    check_slices(folder, rasters.read(image), expected)


def test_vector_labels_in_another_crs_with_numbers(tmp_path: Path) -> None:
    image = rasters.image(tmp_path / "scene.tif")
    crs = "EPSG:4326"
    corners = np.array([(330_000, 5_822_000), (330_404, 5_822_000), (330_404, 5_821_000), (330_000, 5_821_000)])
    xs, ys = rasterio.warp.transform(rasters.UTM, crs, corners[:, 0], corners[:, 1])
    ring = shapely.Polygon(list(zip(xs, ys, strict=True)))
    label = rasters.polygons(tmp_path / "land.gpkg", [(ring.buffer(1).difference(ring), 7), (ring, 200)], crs=crs)
    folder = made(tmp_path, settings(image, label))
    expected = np.full((64, 64), 7, np.uint8)
    expected[:, :40] = 200
    check_slices(folder, rasters.read(image), expected)


def _grid(crs: str) -> Affine:
    return rasters.NORTH_UP if crs == rasters.UTM else Affine(0.001, 0, 12.5, 0, -0.001, 52.5)


def _box(crs: str, left: int, top: int, right: int, bottom: int) -> shapely.Polygon:
    """Return a box given in pixels."""
    (x0, y0), (x1, y1) = _grid(crs) @ (left, top), _grid(crs) @ (right, bottom)
    return shapely.box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))


def test_a_class_map_merges_drops_and_orders(tmp_path: Path) -> None:
    image = rasters.image(tmp_path / "scene.tif")
    boxes = {"oak": (0, 0, 64, 20), "pine": (0, 10, 64, 40), "lake": (20, 0, 40, 64), "bog": (35, 0, 64, 64)}
    label = rasters.polygons(tmp_path / "l.gpkg", [(_box(rasters.UTM, *box), name) for name, box in boxes.items()])
    rules = (
        ClassRule(9, ("lake",), "water", "#0000ff"),
        ClassRule(4, ("oak", "pine"), "forest"),
        ClassRule(0, ("bog",)),
    )
    folder = made(tmp_path, settings(image, label, class_map=rules, min_coverage=1.0))
    expected = np.zeros((64, 64), np.uint8)
    expected[:, 20:40] = 9
    expected[:40] = 4
    expected[:, 35:] = 0
    check_slices(folder, rasters.read(image), expected)
    assert [(c.value, c.name) for c in folder.spec.classes.classes] == [(4, "forest"), (9, "water")]
    assert folder.spec.classes.colors[1] == "#0000ff"


def test_values_over_255_can_be_mapped_and_others_drop_out(tmp_path: Path) -> None:
    image = rasters.image(tmp_path / "scene.tif")
    codes = np.array([0, 1110, 1120, 9000], np.int32)[rasters.read(rasters.label(tmp_path / "l.tif"))[0]]
    label = rasters.write(tmp_path / "codes.tif", codes)
    folder = made(tmp_path, settings(image, label, class_map=(ClassRule(3, (1110, 9000), "grain"),), min_coverage=10.0))
    check_slices(folder, rasters.read(image), np.where(np.isin(codes, [1110, 9000]), 3, 0).astype(np.uint8))


def test_rare_classes_become_other_and_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = rasters.image(tmp_path / "scene.tif")
    values = rasters.read(rasters.label(tmp_path / "l.tif", values=(1, 2)))[0]
    values[3, 5:9] = 7
    values[60, 60:62] = 12
    label = rasters.write(tmp_path / "label.tif", values)
    caplog.set_level(logging.INFO)
    folder = made(tmp_path, settings(image, label, min_class_share=0.5))
    expected = np.where(values > 2, 3, values).astype(np.uint8)
    check_slices(folder, rasters.read(image), expected)
    assert folder.spec.classes.names == ("class_1", "class_2", "other")
    assert "class_7 (0.098 %), class_12" in caplog.text


def test_labels_of_one_class_have_nothing_to_tell_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image, label = rasters.image(tmp_path / "scene.tif"), rasters.label(tmp_path / "label.tif", values=(0, 1))
    made(tmp_path / "one", settings(image, label, min_coverage=10.0))
    assert "the labels have one class (class_1)" in caplog.text
    caplog.clear()
    rules = ClassRule(1, (1,)), ClassRule(2, (0,))
    made(tmp_path / "two", settings(image, label, min_coverage=10.0, class_map=rules))
    assert "one class" not in caplog.text


def _with_0(path: Path, kind: str) -> tuple[Path, str | None]:
    """Write labels of 0, 1 and 2 with a cell of nodata, and return why 0 looks like a class in them."""
    values = rasters.read(rasters.label(path, values=(0, 1, 2)))[0]
    values[:4, :4] = 255
    if kind == "255":
        return rasters.write(path, values, nodata=255), "declares 255 as nodata and has pixels of 0 beside it"
    if kind == "rare":
        values[values == 0] = 1
        values[0, :4] = 0
        return rasters.write(path, values, nodata=255), None
    if kind == "nodata 0":
        values[values == 255] = 0
        return rasters.write(path, values, nodata=0), None
    envi = rasters.write(path.with_suffix(".bsq"), values, driver="ENVI", nodata=255)
    header = envi.with_suffix(".hdr")
    text = header.read_text().replace("ENVI Standard", "ENVI Classification")
    header.write_text(text + f"classes = 3\nclass names = {{{kind}, Forest, Town}}\n")
    return envi, f"calls 0 '{kind}'" if kind == "Water" else None


@pytest.mark.parametrize("kind", ["Water", "255", "rare", "nodata 0", "Unclassified pixels", "No-Data"])
def test_labels_whose_0_looks_like_a_class_are_said(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Water of 0, Forest of 1, Town of 2: prepare listed Forest and Town, and had no word for Water."""
    image = rasters.image(tmp_path / "scene.tif")
    label, doubt = _with_0(tmp_path / "label.tif", kind)
    folder = made(tmp_path, settings(image, label, min_coverage=0.0))
    assert folder.spec.classes.values == (1, 2)
    cautions = [message for message in caplog.messages if "CAUTION" in message]
    caution = (
        f"CAUTION: {label} {doubt}, but 0 is unclassified and never learnt. If it is a class, give it a value of its "
        "own: class_map='[{value: 1, merge: [1]}, {value: 2, merge: [2]}, {value: 3, merge: [0]}]'."
    )
    assert cautions == [caution] * (doubt is not None)
    caplog.clear()
    rules = tuple(ClassRule(value, (source,)) for value, source in ((1, 1), (2, 2), (3, 0)))
    mapped = settings(image, label, min_coverage=0.0, class_map=rules)
    prepare(mapped, tmp_path / "mapped")
    names = read_data_folder(tmp_path / "mapped").spec.classes.names
    named = kind in ("Water", "Unclassified pixels", "No-Data")
    expected = ("Forest", "Town", kind) if named else ("class_1", "class_2", "class_3")
    assert names == expected[: 2 if kind == "nodata 0" else 3]
    assert "CAUTION" not in caplog.text


@pytest.mark.parametrize(("coverage", "words"), [(90.0, r"left for 3 parts .*; "), (0.0, r"every pixel is 0 .* ")])
def test_chips_that_lack_a_class_of_0_are_not_said_to_lack_labels(coverage: float, words: str, tmp_path: Path) -> None:
    """Where most of a scene was Water of 0, the advice was to label more."""
    image, values = rasters.image(tmp_path / "scene.tif"), np.zeros((64, 64), np.uint8)
    values[0, 0] = 255
    label = rasters.write(tmp_path / "label.tif", values, nodata=255)
    words += r".*label\.tif declares 255 as nodata and has pixels of 0 beside it, but"
    with pytest.raises(UserError, match=words):
        prepare(settings(image, label, min_coverage=coverage), tmp_path / "data")


@pytest.mark.parametrize("split", [False, True])
def test_scenes_without_a_label_are_left_out(split: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A scene beside the one label file of all scenes was an error."""
    away = rasters.NORTH_UP @ Affine.translation(500, 0)
    images = tuple(
        rasters.image(tmp_path / f"{name}.tif", transform=grid, seed=number)
        for number, (name, grid) in enumerate((("away", away), ("there", rasters.NORTH_UP)))
    )
    label = rasters.label(tmp_path / "label.tif")
    drawn = str(rasters.label(tmp_path / "parts.tif", values=(1, 2, 3), cell=16)) if split else None
    folder = made(tmp_path, settings(images, label, split_raster=drawn))
    assert [scene.name for scene in folder.spec.scenes] == ["there"]
    assert f"CAUTION: 1 of 2 scenes have no label ({images[0]}); they are left out." in caplog.messages
    with pytest.raises(UserError, match="do not overlap"):
        prepare(settings(images, (label, rasters.label(tmp_path / "other.tif"))), tmp_path / "own")


def test_values_with_gaps_names_and_colours_of_the_label_raster(tmp_path: Path) -> None:
    """SpecDeepMap failed on 10, 20, 30 and never counted the 7 of 1, 2, 7."""
    image = rasters.image(tmp_path / "scene.tif")
    colors = {10: (255, 0, 0), 20: (0, 128, 0), 255: (0, 0, 255)}
    label = rasters.label(tmp_path / "label.tif", values=(10, 20, 255), colors=colors)
    folder = made(tmp_path, settings(image, label, class_names={20: "wood"}, class_colors={255: "#00ffff"}))
    assert folder.spec.classes.values == (10, 20, 255)
    assert folder.spec.classes.names == ("class_10", "wood", "class_255")
    assert folder.spec.classes.colors == ("#ff0000", "#008000", "#00ffff")
    counts = sum(np.bincount(c.ravel(), minlength=256) for *_, c in chips(folder))
    assert counts[[10, 20, 255]].sum() == 64 * 64
    assert sum(sum(row.counts) for row in folder.summary.rows if folder.summary) == 64 * 64


def test_a_mask_an_alpha_band_nan_and_nodata_in_any_band_are_no_measurements(tmp_path: Path) -> None:
    label = rasters.label(tmp_path / "label.tif")
    values, generator = rasters.read(label)[0], np.random.default_rng(0)
    gap = np.zeros((64, 64), bool)
    gap[5:9, 5:30] = True
    pixels = generator.integers(1, 250, (3, 64, 64)).astype(np.uint8)
    alpha = np.concatenate([pixels, np.where(gap, 0, 255).astype(np.uint8)[None]])
    holed = pixels.astype(np.float32)
    holed[1, gap] = np.nan
    zeroed = pixels.copy()
    zeroed[2, gap] = 0
    images = {
        "mask": rasters.write(tmp_path / "mask.tif", pixels, mask=~gap),
        "alpha": rasters.write(tmp_path / "alpha.tif", alpha, photometric="RGB", alpha="YES"),
        "nan": rasters.write(tmp_path / "nan.tif", holed),
        "nodata": rasters.write(tmp_path / "nodata.tif", zeroed, nodata=0),
        "override": rasters.write(tmp_path / "override.tif", zeroed),
    }
    for name, image in images.items():
        given = settings(image, label, min_coverage=0.0, nodata=0.0 if name == "override" else None)
        prepare(given, tmp_path / name)
        folder = read_data_folder(tmp_path / name)
        check_slices(folder, rasters.read(image)[:3], np.where(gap, 0, values))
        assert folder.statistics is not None
        valid = np.concatenate([rasters.read(s.image)[:3, _valid(s.label, gap)] for s in folder.samples("train")], 1)
        np.testing.assert_allclose(folder.statistics.mean, valid.astype(np.float64).mean(1), rtol=1e-9)
        np.testing.assert_allclose(folder.statistics.std, valid.astype(np.float64).std(1), rtol=1e-9)


@pytest.mark.parametrize("layout", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16}])
def test_how_many_threads_cut_makes_no_difference(
    layout: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiled scenes are cut in squares whose side depends on the threads; chips were split in that order."""
    monkeypatch.setattr("src.preparation.cutting._IN_FLIGHT", 16_000)  # 3 × 3 chips for one thread, one for five
    pixels = np.random.default_rng(0).integers(1, 999, (3, 90, 70)).astype(np.uint16)
    image = rasters.write(tmp_path / "i.tif", pixels, **layout)
    label = rasters.write(tmp_path / "l.tif", (pixels[0] % 3 + 1).astype(np.uint8))
    found = []
    for threads in (1, 5):
        monkeypatch.setattr("src.preparation.cutting.cores", lambda threads=threads: threads)
        prepare(settings(image, label), tmp_path / "data")
        found.append(digest(tmp_path / "data"))
        shutil.rmtree(tmp_path / "data")
    assert found[0] == found[1]


def _valid(chip: Path, gap: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    x, y = map(int, chip.stem.split("_tile_")[1].split("_"))
    return ~gap[y : y + 16, x : x + 16]


def test_padding_over_the_edge_is_no_data(tmp_path: Path) -> None:
    """SpecDeepMap: 72 × 72 pixels of 1000, tile 32, coverage 0: mean 662.5 and deviation 472.9."""
    image = rasters.write(tmp_path / "scene.tif", np.full((1, 72, 72), 1000, np.uint16))
    label = rasters.label(tmp_path / "label.tif", 72, 72)
    given = settings(image, label, chip_size=(32, 32), chip_step=(32, 32), min_coverage=0.0)
    folder = made(tmp_path, given)
    assert folder.statistics is not None
    assert (folder.statistics.mean, folder.statistics.std) == ((1000.0,), (0.0,))
    edge = next(s for part in PARTS for s in folder.samples(part) if s.image.stem.endswith("64_64"))
    spec = folder.spec
    assert read_labelled(edge, spec.bands, spec.used, spec.nodata, spec.classes).valid.sum() == 64


@pytest.mark.parametrize("nodata", [None, 9.0, -9999.0])
def test_chips_over_the_edge_are_filled_with_nodata_or_0(nodata: float | None, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(10, 99, (2, 70, 90)).astype(np.int16)
    image = rasters.write(tmp_path / "scene.tif", pixels, nodata=nodata)
    label = rasters.label(tmp_path / "label.tif", 70, 90)
    folder = made(tmp_path, settings(image, label, min_coverage=0.0))
    check_slices(folder, pixels, rasters.read(label)[0], fill=nodata or 0)
    assert {x for _, x, *_ in chips(folder)} == {0, 16, 32, 48, 64, 80}
    kept = made(tmp_path / "half", settings(image, label, min_coverage=50.0))
    assert {(x, y) for _, x, y, *_ in chips(kept) if x == 80 or y == 64} == {(80, y) for y in range(0, 64, 16)}


def test_nodata_is_recognised_before_scaling(tmp_path: Path) -> None:
    """SpecDeepMap: 2000 or −9999 with the scaler 10 000 gave the mean −0.4."""
    pixels = np.full((2, 64, 64), 2000, np.int16)
    pixels[:, ::2] = -9999
    image, label = rasters.write(tmp_path / "s.tif", pixels, nodata=-9999), rasters.label(tmp_path / "label.tif")
    folder = made(tmp_path, settings(image, label, scaler=10_000.0, min_coverage=10.0))
    assert folder.statistics is not None
    assert folder.statistics.mean == (0.2, 0.2)
    assert folder.spec.scaler == 10_000
    header = (tmp_path / "data/Normalize_Bands.csv").read_text().splitlines()[0]
    assert header == "Band_Number,std,mean,std and mean already scaled by scaler"


def test_statistics_are_numpys_over_the_training_chips(tmp_path: Path) -> None:
    image = rasters.image(tmp_path / "s.tif", 96, 96, bands=3, dtype="float32")
    folder = made(tmp_path, settings(image, rasters.label(tmp_path / "l.tif", 96, 96), scaler=100.0))
    pixels = np.concatenate([rasters.read(s.image).reshape(3, -1) for s in folder.samples("train")], 1)
    assert folder.statistics is not None
    np.testing.assert_allclose(folder.statistics.mean, pixels.astype(np.float64).mean(1) / 100, rtol=1e-9)
    np.testing.assert_allclose(folder.statistics.std, pixels.astype(np.float64).std(1) / 100, rtol=1e-9)


def test_the_tables_are_specdeepmaps(tmp_path: Path) -> None:
    image, label = rasters.image(tmp_path / "s.tif"), rasters.label(tmp_path / "l.tif")
    folder = made(tmp_path, settings(image, label))
    table = pd.read_csv(tmp_path / "data/Summary_train_val.csv", keep_default_na=False)
    assert list(table.columns) == [
        "Class ID",
        "Train Count",
        "Train Percentage",
        "Validation Count",
        "Validation Percentage",
        "Test Count",
        "Test Percentage",
        "Class Train Weight",
        "Scaler",
        "Ignored Background : Class Zero",
    ]
    counts = [np.bincount(rasters.read(s.label).ravel(), minlength=4)[1:] for s in folder.samples("train")]
    share = np.sum(counts, 0) / np.sum(counts)
    np.testing.assert_array_equal(table["Train Count"], np.sum(counts, 0))
    np.testing.assert_allclose(table["Train Percentage"], np.round(100 * share, 2))
    np.testing.assert_allclose(table["Class Train Weight"], np.round(1 - share, 4))
    assert set(table["Scaler"]) == {"None"}
    assert set(table["Ignored Background : Class Zero"]) == {"No"}
    lists = pd.read_csv(tmp_path / "data/train_files.csv")
    assert list(lists.columns) == ["image", "mask"]
    assert lists["image"].str.match(r"images/s_tile_\d+_\d+\.tif").all()


def test_one_class_has_the_weight_one(tmp_path: Path) -> None:
    """SpecDeepMap gave it 0, and the loss was NaN."""
    image, label = rasters.image(tmp_path / "s.tif"), rasters.label(tmp_path / "l.tif", values=(5,))
    assert made(tmp_path, settings(image, label)).class_weights == (1.0,)


def test_coverage_decides_and_the_summary_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = np.ones((64, 64), np.uint8)
    values[:16, :16].flat[:129] = 0
    values[:16, 16:32].flat[:128] = 0
    values[:16, 32:48] = 0
    pixels = np.ones((1, 64, 64), np.uint8)
    pixels[:, :16, 48:] = 0
    image, label = rasters.write(tmp_path / "s.tif", pixels, nodata=0), rasters.write(tmp_path / "l.tif", values)
    caplog.set_level(logging.INFO)
    folder = made(tmp_path, settings(image, label))
    assert {(x, y) for _, x, y, _, _ in chips(folder) if y == 0} == {(16, 0)}
    for words in ("13 of 16 windows are chips", "1 below the coverage", "1 without label", "1 without measurement"):
        assert words in caplog.text
    assert "overview.png" in caplog.text


def test_classes_that_no_chip_has_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = rasters.read(rasters.label(tmp_path / "l.tif"))[0]
    values[:16, :16] = 0
    values[3, 5] = 77
    image, label = rasters.image(tmp_path / "s.tif"), rasters.write(tmp_path / "l.tif", values)
    caplog.set_level(logging.INFO)
    made(tmp_path, settings(image, label))
    assert "In no chip, only in what was dropped: class_77 (77)." in caplog.messages
    rules = tuple(ClassRule(value, (value,), name) for value, name in ((1, "wood"), (2, None), (3, None), (9, "road")))
    prepare(settings(image, label, class_map=rules), tmp_path / "mapped")
    assert "Without a pixel in the labels: road (9)." in caplog.messages


def test_the_summary_counts_pixels_and_names_what_a_part_lacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.ones((64, 64), np.uint8)
    values[:4, :4] = 7
    image, label = rasters.image(tmp_path / "s.tif"), rasters.write(tmp_path / "l.tif", values)
    caplog.set_level(logging.INFO)
    folder = made(tmp_path, settings(image, label, class_names=("grass", "rock")))
    cells = [message.split() for message in caplog.messages]
    assert ["7", "rock", "16", "0.6", "%", "0", "0.0", "%", "0", "0.0", "%"] in cells
    assert "rock is not in validation and test: it is in 1 of the chips only." in caplog.messages
    sizes = [len(folder.samples(part)) for part in PARTS]
    assert f"Chips: train {sizes[0]} validation {sizes[1]} test {sizes[2]}. Imbalance " in caplog.text
    assert caplog.messages[-9:] == [str(path) for path in sorted(folder.path.iterdir())]


def test_blocks_and_buffers_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image, label = rasters.image(tmp_path / "s.tif"), rasters.label(tmp_path / "l.tif")
    caplog.set_level(logging.INFO)
    cut = {"chip_size": (8, 8), "chip_step": (8, 8)}
    made(tmp_path, settings(image, label, strategy="blocks", block=16, buffer=4, **cut))
    assert "because they share ground with another part, or lie within its buffer." in caplog.text
    assert "Whole blocks of 16 × 16 px went to one part each." in caplog.messages


def test_many_scenes_by_glob_and_one_vector_file_for_all(tmp_path: Path) -> None:
    for number in range(3):
        grid = rasters.NORTH_UP @ Affine.translation(0, 64 * number)
        rasters.image(tmp_path / f"scene_{number}.tiff", seed=number, transform=grid)
    label = rasters.polygons(
        tmp_path / "l.gpkg", [(_box(rasters.UTM, 0, 0, 30, 192), 1), (_box(rasters.UTM, 30, 0, 64, 192), 2)]
    )
    folder = made(tmp_path, settings(tmp_path / "scene_*.tiff", label))
    found = chips(folder)
    assert {scene for scene, *_ in found} == {"scene_0", "scene_1", "scene_2"}
    for scene, x, y, pixels, _ in found:
        whole = rasters.read(tmp_path / f"{scene}.tiff")
        np.testing.assert_array_equal(pixels, whole[:, y : y + 16, x : x + 16])
    assert [scene.name for scene in folder.spec.scenes] == ["scene_0", "scene_1", "scene_2"]


def test_a_scene_in_another_unit_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, factor in enumerate((1e-4, 1, 1, 1e-4)):
        grid = rasters.NORTH_UP @ Affine.translation(0, 64 * number)
        rasters.image(tmp_path / f"scene_{number}.tif", dtype="float32", seed=number, transform=grid)
        with rasterio.open(tmp_path / f"scene_{number}.tif", "r+") as scene:
            scene.write(scene.read() * np.float32(factor))
    halves = [(_box(rasters.UTM, 0, 0, 64, 256), 1), (_box(rasters.UTM, 0, 0, 32, 256), 2)]
    label = rasters.polygons(tmp_path / "l.gpkg", halves)
    made(tmp_path, settings(tmp_path / "scene_*.tif", label))
    (words,) = (message for message in caplog.messages if "CAUTION" in message)
    assert re.match(
        rf"CAUTION: {tmp_path}/scene_\d.tif \(and 1 more like it\): its numbers are .* {tmp_path}/scene_\d.tif had ",
        words,
    )
    assert "(about 10,000 times as " in words


def test_chips_of_four_bytes_bands_have_no_alpha_by_accident(tmp_path: Path) -> None:
    """GDAL takes the fourth band of a uint8 TIFF for transparency unless told otherwise."""
    image, label = rasters.image(tmp_path / "s.tif", bands=4, dtype="uint8"), rasters.label(tmp_path / "l.tif")
    assert len(made(tmp_path, settings(image, label)).spec.bands) == 4


def test_running_twice_does_nothing_and_other_settings_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image, label = rasters.image(tmp_path / "s.tif"), rasters.label(tmp_path / "l.tif")
    folder = made(tmp_path, settings(image, label))
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")}
    caplog.set_level(logging.INFO)
    prepare(settings(image, label), folder.path)
    assert "nothing to do" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*")} == before
    with pytest.raises(UserError, match=r"seed: 42 → 7.*overwrite=true"):
        prepare(settings(image, label, seed=7), folder.path)
    other = settings(image, label, seed=7, chip_size=(32, 32), chip_step=(32, 32))
    with pytest.raises(UserError, match=r"chip\.size: \[16, 16\] → \[32, 32\]; chip\.step: .*; seed"):
        prepare(other, folder.path)
    prepare(other, folder.path, overwrite=True)
    assert read_data_folder(folder.path).spec.chip_size == (32, 32)
    assert len(list((folder.path / "images").iterdir())) == 4


@pytest.mark.parametrize("gone", ["images", "a label", "train_files.csv", "Normalize_Bands.csv"])
def test_a_folder_that_has_lost_something_is_made_anew_where_that_is_asked_for(gone: str, tmp_path: Path) -> None:
    """train.py says “run prepare.py again”, and prepare.py said that there was nothing to do."""
    given = settings(rasters.image(tmp_path / "s.tif"), rasters.label(tmp_path / "l.tif"))
    folder = made(tmp_path, given).path
    before = digest(folder)
    path = next((folder / "labels").iterdir()) if gone == "a label" else folder / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=rf"lacks {path.relative_to(folder).as_posix()}, .*overwrite=true"):
        prepare(given, folder)
    prepare(given, folder, overwrite=True)
    assert digest(folder) == before


def test_a_damaged_description_is_replaced_when_that_is_asked_for(tmp_path: Path) -> None:
    given = settings(rasters.image(tmp_path / "s.tif"), rasters.label(tmp_path / "l.tif"))
    folder = made(tmp_path, given).path
    before = digest(folder)
    for content in ("{", "{}", '{"format": 1}'):
        (folder / "dataset.json").write_text(content)
        with pytest.raises(UserError, match=r"dataset\.json"):
            prepare(given, folder)
        prepare(given, folder, overwrite=True)
        assert digest(folder) == before
    (folder / "dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"prepare\.py again with overwrite=true"):
        prepare(given, folder)


def test_a_folder_of_an_earlier_version_is_said_to_be_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After an update the same command kept what a faulty version had made, without a word."""
    given = settings(rasters.image(tmp_path / "s.tif"), rasters.label(tmp_path / "l.tif"))
    folder = made(tmp_path, given).path
    before = digest(folder)
    content = json.loads((folder / "dataset.json").read_text())
    assert content.pop("revision") == assembly.REVISION
    (folder / "dataset.json").write_text(json.dumps(content))
    caplog.set_level(logging.INFO)
    assert prepare(given, folder).revision == 1
    assert "nothing to do" in caplog.text
    assert "CAUTION" in caplog.text
    assert "overwrite=true makes it anew" in caplog.text
    assert prepare(given, folder, overwrite=True).revision == assembly.REVISION
    assert digest(folder) == before
    caplog.clear()
    prepare(given, folder, overwrite=True)
    assert caplog.messages[-1].endswith("nothing to do.")


def test_nan_given_as_nodata_is_the_same_setting_the_next_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """NaN is not equal to itself, and no JSON; folders of earlier versions hold it bare."""
    image, label = rasters.image(tmp_path / "s.tif", dtype="float32"), rasters.label(tmp_path / "l.tif")
    given = settings(image, label, nodata=np.nan)
    described = made(tmp_path, given).path / "dataset.json"
    assert described.read_text().count('"nodata": "nan"') == 2
    assert "NaN" not in described.read_text()
    caplog.set_level(logging.INFO)
    prepare(given, described.parent)
    described.write_text(described.read_text().replace('"nan"', "NaN"))
    prepare(given, described.parent)
    assert caplog.text.count("nothing to do") == 2


def test_a_nodata_value_that_was_given_reaches_the_checkpoint(tmp_path: Path) -> None:
    """The file declares another one, by which alone predict.py would map what training left out."""
    image = rasters.image(tmp_path / "s.tif", dtype="int16", nodata=-32768)
    given = settings(image, rasters.label(tmp_path / "l.tif"))
    for value, expected in ((None, (-32768, False)), (0.0, (0, True))):
        folder = tmp_path / str(value)
        prepare(replace(given, nodata=value), folder)
        _, spec = make_network(ChipData(folder).describe(), NetworkChoice("justo_unet_simple", "none"))
        assert (spec.nodata, spec.nodata_given) == expected


def test_a_nodata_value_that_was_given_counts_beside_what_a_chip_declares(tmp_path: Path) -> None:
    image, label = rasters.image(tmp_path / "s.tif", dtype="int16"), rasters.label(tmp_path / "l.tif")
    folder = made(tmp_path, settings(image, label))
    sample, spec = folder.samples("train")[0], folder.spec
    pixels = rasters.read(sample.image)
    pixels[:, 0], pixels[:, 1] = 0, -32768
    rasters.write(sample.image, pixels, nodata=-32768)
    default, given = (
        read_labelled(sample, spec.bands, spec.used, 0, spec.classes, nodata_given=given, again=True)
        for given in (False, True)
    )
    np.testing.assert_array_equal(default.valid, (pixels != -32768).all(0))
    np.testing.assert_array_equal(given.valid, default.valid & (pixels != 0).all(0))
    assert given.plain is None  # what is read without GDAL knows one value per band


def test_a_changed_scene_is_not_taken_for_the_prepared_one(tmp_path: Path) -> None:
    image, label = rasters.image(tmp_path / "s.tif"), rasters.label(tmp_path / "l.tif")
    folder = made(tmp_path, settings(image, label))
    os.utime(image, ns=(1, 1))
    with pytest.raises(UserError, match=r"changed: .*s\.tif"):
        prepare(settings(image, label), folder.path)


def test_what_belongs_to_a_file_counts_too(tmp_path: Path) -> None:
    """Somebody marks a band as bad in an ENVI header, or corrects a class in a Shapefile's table."""
    image = rasters.image(tmp_path / "s.bsq", driver="ENVI")
    label = rasters.polygons(tmp_path / "l.shp", [(_box(rasters.UTM, 0, 0, 64, 64), 1)])
    rasterio.shutil.copy(str(image), str(tmp_path / "s.vrt"), driver="VRT")
    for scene, changed in ((image, "s.hdr"), (image, "l.dbf"), (tmp_path / "s.vrt", "s.bsq")):
        target = tmp_path / changed.replace(".", "_")
        prepare(settings(scene, label), target)
        prepare(settings(scene, label), target)
        os.utime(tmp_path / changed, ns=(1, 1))
        with pytest.raises(UserError, match=rf"changed: .*{changed}"):
            prepare(settings(scene, label), target)


def test_looking_at_a_scene_does_not_change_it(tmp_path: Path) -> None:
    """QGIS and gdalinfo leave statistics and overviews beside what they show."""
    image, label = rasters.image(tmp_path / "s.tif"), rasters.label(tmp_path / "l.tif")
    folder = made(tmp_path, settings(image, label))
    (tmp_path / "s.tif.aux.xml").write_text("<PAMDataset/>")
    prepare(settings(image, label), folder.path)


@pytest.mark.usefixtures("picture")
def test_a_run_killed_at_any_moment_ends_the_same_when_started_again(tmp_path: Path) -> None:
    """The process kills itself after the n-th file that it has written, moved or removed."""
    image, label = rasters.image(tmp_path / "s.tif"), rasters.label(tmp_path / "l.tif")
    given = settings(image, label, chip_size=(32, 32), chip_step=(32, 32))
    prepare(given, tmp_path / "whole")
    expected = digest(tmp_path / "whole")
    script = (
        "import os, signal, sys; from pathlib import Path; left = [int(sys.argv[1])]\n"
        "def hook(event, args):\n"
        "    if event in ('os.rename', 'os.remove', 'shutil.rmtree', 'os.mkdir') and 'killed' in str(args[0]):\n"
        "        left[0] -= 1\n"
        "        if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from src.preparation.prepare import prepare; from src.preparation.settings import Preparation\n"
        "given = eval(sys.argv[2]); sys.addaudithook(hook); prepare(given, sys.argv[3])\n"
    )
    for moment in (5, 13, 16, 20):
        target = tmp_path / f"killed_{moment}"
        command = [sys.executable, "-c", script, str(moment), repr(given), str(target)]
        environment = {**os.environ, "MPLBACKEND": "Agg"}
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == -signal.SIGKILL, result.stderr
        assert not (target / "dataset.json").exists() or digest(target).items() >= expected.items()
        prepare(given, target)
        assert digest(target) == expected


def test_a_second_run_at_the_same_time_ends_in_one_line(tmp_path: Path) -> None:
    image, label = rasters.image(tmp_path / "s.tif"), rasters.label(tmp_path / "l.tif")
    folder = made(tmp_path, settings(image, label))
    for target in (tmp_path / "new", folder.path):
        with staged(target, "dataset.json") as staging:
            (staging / "dataset.json").write_text("{}")
            with pytest.raises(UserError, match=rf"Another prepare\.py is writing to .*{target.name}; .*data_dir"):
                prepare(settings(image, label, seed=7), target, overwrite=True)
            if target == folder.path:
                prepare(settings(image, label), target)  # nothing to do, and nothing taken from the one at work
            assert (staging / "dataset.json").is_file()
            publish(staging, "dataset.json")
        assert not (target / ".prepare-partial").exists()
        assert (target / "dataset.json").read_text() == "{}"


@pytest.mark.parametrize("seed", [42, 7])
def test_a_run_that_starts_in_the_instant_another_ends_sees_what_that_has_made(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It looked at the folder before that, and would make it once more, or replace it unasked."""
    image, label = rasters.image(tmp_path / "s.tif"), rasters.label(tmp_path / "l.tif")
    real, before = preparation.describe_all, {}

    def other_run_first(images: Sequence[str]) -> list[RasterInfo]:
        monkeypatch.setattr(preparation, "describe_all", real)
        before.update(digest(made(tmp_path, settings(image, label)).path))
        return real(images)

    monkeypatch.setattr(preparation, "describe_all", other_run_first)
    caplog.set_level(logging.INFO)
    if seed == 42:
        prepare(settings(image, label), tmp_path / "data")
        assert caplog.messages[-1].endswith("nothing to do.")
    else:
        with pytest.raises(UserError, match=r"seed: 42 → 7.*overwrite=true"):
            prepare(settings(image, label, seed=seed), tmp_path / "data")
    assert before
    assert digest(tmp_path / "data") == before


def test_two_processes_at_once_make_one_whole_folder(tmp_path: Path) -> None:
    """Whichever is first makes it; the other ends in one line, or comes late enough to find nothing to do."""
    image = rasters.image(tmp_path / "s.tif", 256, 256)
    given = settings(image, rasters.label(tmp_path / "l.tif", 256, 256))
    prepare(given, tmp_path / "alone")
    script = (
        "import sys; from src.preparation.overview import Overview; from src.preparation.prepare import prepare\n"
        "from src.errors import UserError; from src.preparation.settings import Preparation\n"
        "Overview.draw = lambda _, path: path.write_bytes(b'')\n"
        "given = eval(sys.argv[1]); print('ready', flush=True)\n"
        "for target in sys.stdin:\n"
        "    try: prepare(given, target.strip()); print('whole', flush=True)\n"
        "    except UserError as error: print(error, flush=True)\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", script, repr(given)]
    with subprocess.Popen(command, cwd=ROOT, **pipes) as one, subprocess.Popen(command, cwd=ROOT, **pipes) as other:
        assert [process.stdout.readline() for process in (one, other)] == ["ready\n"] * 2
        for target in (tmp_path / f"data_{attempt}" for attempt in range(4)):
            for process in (one, other):
                process.stdin.write(f"{target}\n")
                process.stdin.flush()
            ends = [process.stdout.readline() for process in (one, other)]
            assert "whole\n" in ends
            assert all(end == "whole\n" or end.startswith("Another prepare.py is writing to") for end in ends)
            assert digest(target) == digest(tmp_path / "alone")
        one.stdin.close()
        other.stdin.close()
        assert (one.wait(), other.wait()) == (0, 0)


def test_a_file_system_without_locks_is_said_and_no_obstacle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(file_lock, "_lock", unsupported)
    caplog.set_level(logging.INFO)
    made(tmp_path, settings(rasters.image(tmp_path / "s.tif"), rasters.label(tmp_path / "l.tif")))
    assert "cannot be locked (No locks available)" in caplog.text


def test_overwriting_keeps_the_old_folder_until_the_new_one_is_whole(tmp_path: Path) -> None:
    image, label = rasters.image(tmp_path / "s.tif"), rasters.label(tmp_path / "l.tif")
    folder = made(tmp_path, settings(image, label))
    before = digest(folder.path)
    bad = rasters.write(tmp_path / "bad.tif", np.full((64, 64), 300, np.int16))
    with pytest.raises(UserError, match="300"):
        prepare(settings(image, bad), folder.path, overwrite=True)
    assert digest(folder.path) == before


def test_what_prepare_did_not_make_is_left_alone(tmp_path: Path) -> None:
    image, label = rasters.image(tmp_path / "s.tif"), rasters.label(tmp_path / "l.tif")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"did not make \(notes\.txt\)"):
        prepare(settings(image, label), tmp_path / "data", overwrite=True)
    with pytest.raises(UserError, match="data_dir is an empty path"):
        prepare(settings(image, label), " ")
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserError, match="no folder"):
        prepare(settings(image, label), tmp_path / "file")


@pytest.mark.usefixtures("picture")
def test_dataset_json_describes_the_folder(tmp_path: Path) -> None:
    image, label = rasters.image(tmp_path / "s.tif", names=["blue", "green", "red"]), rasters.label(tmp_path / "l.tif")
    folder = made(tmp_path, settings(image, label, strategy="blocks", buffer=4))
    content = json.loads((folder.path / "dataset.json").read_text())
    assert [band["name"] for band in content["bands"]] == ["blue", "green", "red"]
    assert content["scenes"][0] | {"crs": "", "transform": []} == {
        "name": "s",
        "path": str(image),
        "width": 64,
        "height": 64,
        "crs": "",
        "transform": [],
    }
    assert content["split"]["strategy"] == "blocks"
    assert 0 <= content["split"]["imbalance"] <= 1
    assert content["seed"] == 42
    assert {"python", "rasterio", "numpy"} <= set(content["versions"])
    assert (folder.path / "overview.png").read_bytes().startswith(b"\x89PNG")


def test_a_split_raster_says_the_part_of_every_pixel(tmp_path: Path) -> None:
    image, label = rasters.image(tmp_path / "scene.tif", 64, 64), rasters.label(tmp_path / "label.tif", 64, 64)
    squares = np.arange(64) // 8
    drawn = np.where((squares[:, None] + squares) % 2 == 0, 1, 2).astype(
        np.uint8
    )  # a checkerboard: every chip has both
    drawn[48:] = 0  # in no part
    split = rasters.write(tmp_path / "split.tif", drawn)
    given = settings(
        image, label, split_raster=str(split), split_values=(1, None, 2), shares=(80.0, 0.0, 20.0), min_coverage=10.0
    )
    folder = made(tmp_path, given)
    truth = rasters.read(label)[0]
    for part, value in (("train", 1), ("test", 2)):
        samples = folder.samples(part)
        assert len(samples) == 12
        for sample in samples:
            x, y = map(int, sample.image.stem.rpartition("_tile_")[2].split("_"))
            here = np.s_[y : y + 16, x : x + 16]
            np.testing.assert_array_equal(rasters.read(sample.image), rasters.read(image)[:, *here])
            own = np.where(drawn[here] == value, truth[here], 0)
            np.testing.assert_array_equal(rasters.read(sample.label)[0], own)
    assert folder.samples("validation", required=False) == []
    assert folder.spec.split["strategy"] == "raster"


def test_what_a_split_raster_does_not_say_is_in_no_part(tmp_path: Path) -> None:
    """With 0 for training, its nodata and all outside it were training."""
    image, label = rasters.image(tmp_path / "scene.tif", 64, 64), rasters.label(tmp_path / "label.tif", 64, 64)
    drawn = np.zeros((48, 64), np.uint8)  # nothing is said of the last rows
    drawn[:, 32:] = 1
    drawn[32:] = 255
    split = rasters.write(tmp_path / "split.tif", drawn, nodata=255)
    given = settings(image, label, split_raster=str(split), split_values=(0, 1, None), min_coverage=0.0)
    folder = made(tmp_path, given)
    for part, columns in (("train", (0, 16)), ("validation", (32, 48))):
        names = {sample.image.name for sample in folder.samples(part)}
        assert names == {f"scene_tile_{x}_{y}.tif" for x in columns for y in (0, 16)}


def test_chips_of_one_part_keep_their_names_and_validation_comes_from_training_if_the_raster_has_none(
    tmp_path: Path,
) -> None:
    image, label = rasters.image(tmp_path / "scene.tif", 64, 128), rasters.label(tmp_path / "label.tif", 64, 128)
    split = rasters.write(tmp_path / "split.tif", np.repeat(np.uint8([[1, 1, 1, 3]]), 64, 0).repeat(32, 1))
    folder = made(tmp_path, settings(image, label, split_raster=str(split), split_values=(1, None, 3)))
    places = {part: {sample.image.name for sample in folder.samples(part)} for part in PARTS}
    assert places["test"] == {f"scene_tile_{x}_{y}.tif" for x in (96, 112) for y in range(0, 64, 16)}
    assert {part: len(names) for part, names in places.items()} == {"train": 18, "validation": 6, "test": 8}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1, 2, 9), "leaves no chip for test, which is to have the value 9"),
        ((1, 1, None), "expected different values"),
        ((None, 1, 2), "one for training at least"),
    ],
)
def test_a_split_raster_without_a_part_is_a_mistake(
    values: tuple[int | None, int | None, int | None], message: str, tmp_path: Path
) -> None:
    image, label = rasters.image(tmp_path / "scene.tif", 32, 32), rasters.label(tmp_path / "label.tif", 32, 32)
    split = rasters.write(tmp_path / "split.tif", np.repeat(np.uint8([[1, 2]]), 32, 0).repeat(16, 1))
    with pytest.raises(UserError, match=message):
        made(tmp_path, settings(image, label, split_raster=str(split), split_values=values))
    assert not (tmp_path / "data").exists()


SENTINELS = {
    "the same names": (("B4", "B12"), ("B4", "B12")),
    "of ENVI files": (("B4 (664.6 Nanometers)", "B12 (2202.4)"), ("B4 (0.6649 Micrometers)", "B12 (2185.7 nm)")),
    "wavelengths": (("0.6646 Micrometers", "2.2024 Micrometers"), ("0.6649 Micrometers", "2.1857 Micrometers")),
    "none in one": (("B4", "B12"), ("Band 1", "Band 2")),
}


@pytest.mark.parametrize("names", SENTINELS.values(), ids=list(SENTINELS))
def test_scenes_of_sensors_of_a_kind_are_one_data_set(names: tuple[tuple[str, ...], ...], tmp_path: Path) -> None:
    """Sentinel-2A and B: prepare.py refused what predict.py took, or made chips that train.py refused."""
    images, labels = [], []
    for number, (named, centres) in enumerate(zip(names, ((664.6, 2202.4), (664.9, 2185.7)), strict=True)):
        grid = rasters.NORTH_UP @ Affine.translation(100 * number, 0)
        tags = {n: {"wavelength": str(w), "wavelength_units": "Nanometers"} for n, w in enumerate(centres, start=1)}
        images.append(rasters.image(tmp_path / f"s{number}.tif", bands=2, names=named, tags=tags, transform=grid))
        labels.append(rasters.label(tmp_path / f"l{number}.tif", transform=grid))
    folder = made(tmp_path, settings(tuple(images), tuple(labels)))
    spec, read = folder.spec, []
    for part in PARTS:
        for sample in folder.samples(part):
            read.append(read_labelled(sample, spec.bands, spec.used, spec.nodata, spec.classes))
            assert read[-1].info.bands == spec.bands
    assert len(read) == 32


def test_bands_in_another_order_are_said_and_how_to_reorder_them(tmp_path: Path) -> None:
    first = rasters.image(tmp_path / "a.tif", names=["red", "green", "blue"])
    second = rasters.image(tmp_path / "b.tif", names=["blue", "red", "green"])
    label = rasters.label(tmp_path / "l.tif")
    with pytest.raises(UserError, match=r"Band 1 of .*b\.tif is 'blue'.*gdal_translate -b 2 -b 3 -b 1"):
        made(tmp_path, settings((first, second), label))


def test_what_becomes_of_an_alpha_band_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """GDAL takes the fourth of four bytes, near infrared in orthophotos, for alpha unless it is told otherwise."""
    pixels = np.random.default_rng(0).integers(1, 250, (4, 64, 64)).astype(np.uint8)
    image = rasters.write(tmp_path / "rgbi.tif", pixels, photometric="RGB", alpha="YES")
    with caplog.at_level(logging.INFO):
        folder = made(tmp_path, settings(image, rasters.label(tmp_path / "l.tif")))
    assert len(folder.spec.bands) == 3
    assert "Its band 4 is the alpha band" in caplog.text
    assert "gdal_edit.py -colorinterp_4 undefined" in caplog.text


def test_a_split_raster_knows_no_unclassified_pixels_as_a_class(tmp_path: Path) -> None:
    """Value 0 counted: parts of the same classes were apart where one has more labels."""
    image, values = rasters.image(tmp_path / "scene.tif", 64, 128), np.ones((64, 128), np.uint8)
    values[:, 100::2] = 0
    label = rasters.write(tmp_path / "label.tif", values)
    split = rasters.write(tmp_path / "split.tif", np.repeat(np.uint8([[1, 1, 1, 3]]), 64, 0).repeat(32, 1))
    for number, parts in enumerate(((1, None, 3), (1, 9, 3))):
        if number:
            split = rasters.write(tmp_path / "split.tif", np.repeat(np.uint8([[1, 9, 1, 3]]), 64, 0).repeat(32, 1))
        given = settings(image, label, split_raster=str(split), split_values=parts, min_coverage=10.0)
        assert prepare(given, tmp_path / str(number)).split["imbalance"] == 0


def test_where_a_split_raster_lies_otherwise_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image, label = rasters.image(tmp_path / "scene.tif", 64, 64), rasters.label(tmp_path / "label.tif", 64, 64)
    split = rasters.write(tmp_path / "split.tif", np.repeat(np.uint8([[1, 2, 3]]), 48, 0).repeat(16, 1))
    caplog.set_level(logging.INFO)
    made(tmp_path, settings(image, label, split_raster=str(split)))
    (words,) = (message for message in caplog.messages if message.startswith("split.raster: "))
    assert re.match(r"split\.raster: .*split\.tif has another extent than .*scene\.tif.* in no part\.", words)


def test_classes_outside_the_parts_are_pixels_of_the_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They were said to be without a pixel."""
    image, values = rasters.image(tmp_path / "scene.tif"), np.ones((64, 64), np.uint8)
    drawn = np.repeat(np.uint8([[1, 2, 3, 1]]), 64, 0).repeat(16, 1)
    values[:4, :4], drawn[:4, :4] = 7, 0
    values[:2, 4:6], drawn[:2, 4:6] = 8, 2  # below the coverage, beside a part that is not
    label, split = rasters.write(tmp_path / "label.tif", values), rasters.write(tmp_path / "split.tif", drawn)
    rules = tuple(ClassRule(value, (value,), f"c{value}") for value in (1, 7, 8, 9))
    caplog.set_level(logging.INFO)
    made(tmp_path, settings(image, label, split_raster=str(split), class_map=rules))
    assert "Without a pixel in the labels: c9 (9)." in caplog.messages
    assert any("c7 (7), c8 (8)" in message for message in caplog.messages)


def test_files_that_went_or_came_are_named(tmp_path: Path) -> None:
    """It was said that versions had changed."""
    for name in "abc":
        rasters.image(tmp_path / "scenes" / f"{name}.tif")
    label, folder = rasters.label(tmp_path / "l.tif"), tmp_path / "data"
    given = settings(tmp_path / "scenes", label)
    prepare(given, folder)
    (tmp_path / "scenes/b.tif").rename(tmp_path / "b.tif")
    with pytest.raises(UserError, match=r"files \(gone: [^;]*b\.tif\);"):
        prepare(given, folder)
    (tmp_path / "b.tif").rename(tmp_path / "scenes/d.tif")
    with pytest.raises(UserError, match=r"files \(gone: [^;]*b\.tif; new: [^;]*d\.tif\);"):
        prepare(given, folder)
    (tmp_path / "scenes/d.tif").rename(tmp_path / "scenes/b.tif")
    prepare(given, folder)
    entries = json.loads((folder / "dataset.json").read_text())
    entries["config"]["files"].reverse()
    (folder / "dataset.json").write_text(json.dumps(entries))
    with pytest.raises(UserError, match="changed: the order of the files"):
        prepare(given, folder)


def test_what_is_dropped_is_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each window left 256 numbers, and each scene a picture, shown or not."""
    images, labels = [], []
    for number in range(8):
        grid = rasters.NORTH_UP @ Affine.translation(64 * number, 0)
        images.append(rasters.image(tmp_path / f"s{number}.tif", transform=grid))
        labels.append(rasters.label(tmp_path / f"l{number}.tif", transform=grid))
    drawn: list[Overview] = []

    def draw(overview: Overview, path: Path) -> None:
        drawn.append(overview)
        path.write_bytes(b"")

    monkeypatch.setattr(Overview, "draw", draw)
    looked: list[Any] = []
    cut = assembly._cut

    def noted(*given: Any) -> Any:
        looked.append(cut(*given))
        return looked[-1]

    monkeypatch.setattr(assembly, "_cut", noted)
    made(tmp_path, settings(tuple(images), tuple(labels)))
    assert (len(drawn[0].thumbnails), drawn[0].more) == (6, 2)
    assert len(drawn[0].chips) == 128
    assert all(len(values) == len(pixels) == 3 for values, pixels in looked[0].counts)


def test_scenes_that_declare_other_units_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Sentinel-2 has an offset since 2022; its numbers were mixed with older ones without a word."""
    images, labels = [], []
    for number, offset in enumerate((0.0, -0.1, -0.1)):
        grid = rasters.NORTH_UP @ Affine.translation(64 * number, 0)
        images.append(rasters.image(tmp_path / f"s{number}.tif", transform=grid))
        labels.append(rasters.label(tmp_path / f"l{number}.tif", transform=grid))
        with rasterio.open(images[-1], "r+") as scene:
            scene.scales, scene.offsets = (1e-4,) * 3, (0.0, offset, 0.0)
    prepare(settings(tuple(images[1:]), tuple(labels[1:])), tmp_path / "alike")
    assert "CAUTION" not in caplog.text
    made(tmp_path, settings(tuple(images), tuple(labels)))
    (words,) = (message for message in caplog.messages if "CAUTION" in message)
    assert re.match(
        r"CAUTION: .*s1\.tif \(and 1 more like it\): its band 2 declares scale 0\.0001 and offset -0\.1, that of "
        r".*s0\.tif scale 0\.0001 and offset 0,",
        words,
    )


def test_a_band_that_drops_most_windows_is_named_in_the_summary(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One valid pixel makes a band count as measured, and it takes all windows but that."""
    pixels = np.random.default_rng(0).integers(1, 9, (3, 64, 64)).astype(np.uint8)
    pixels[1, :, 16:], pixels[1, 0, 16] = 0, 1
    image, label = rasters.write(tmp_path / "s.tif", pixels, nodata=0), rasters.label(tmp_path / "l.tif")
    caplog.set_level(logging.INFO)
    made(tmp_path, settings(image, label))
    assert any(
        message.startswith("Most windows are dropped: band 2 has no measurement in 11 of 16, where others have; leave")
        for message in caplog.messages
    )


def test_rare_classes_do_not_take_another_class_s_name(tmp_path: Path) -> None:
    """They became value 3, which had no pixel here, and were called soil."""
    image = rasters.image(tmp_path / "scene.tif")
    values = rasters.read(rasters.label(tmp_path / "l.tif", values=(1, 2)))[0]
    values[3, 5:9] = 5
    label = rasters.write(tmp_path / "label.tif", values)
    names: dict[int | str, str] = {1: "forest", 2: "water", 3: "soil", 4: "urban", 5: "vineyard"}
    folder = made(tmp_path, settings(image, label, min_class_share=0.5, class_names=names))
    assert [(c.value, c.name) for c in folder.spec.classes.classes] == [(1, "forest"), (2, "water"), (6, "other")]


def test_another_nodata_value_than_the_declared_one_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes the other's place in training, and prediction leaves out both: −9999 was a measurement, unsaid."""
    pixels = np.full((2, 64, 64), 1000, np.int16)
    pixels[:, ::2] = -9999
    image, label = rasters.write(tmp_path / "s.tif", pixels, nodata=-9999), rasters.label(tmp_path / "label.tif")
    for nodata, warned in ((None, False), (-9999.0, False), (0.0, True)):
        caplog.clear()
        prepare(settings(image, label, nodata=nodata), tmp_path / f"data_{nodata}")
        assert ("declares nodata -9999, and nodata=0 takes its place" in caplog.text) is warned
    bare = rasters.image(tmp_path / "bare.tif")
    caplog.clear()
    prepare(settings(bare, label, nodata=0.0), tmp_path / "bare")
    assert "CAUTION" not in caplog.text


def test_what_the_labels_call_a_class_is_kept_where_the_user_calls_it_otherwise(tmp_path: Path) -> None:
    """After class_names= the polygons of training were of no class when they were to score a map."""
    image = rasters.image(tmp_path / "s.tif")
    x, y = 330_000, 5_822_000
    halves = [(shapely.box(x, y - 640, x + 320, y), "grass"), (shapely.box(x + 320, y - 640, x + 640, y), "lake")]
    label = rasters.polygons(tmp_path / "l.gpkg", halves)
    folder = made(tmp_path, settings(image, label, class_names={1: "meadow"}))
    assert [(entry.name, entry.data_name) for entry in folder.spec.classes.classes] == [
        ("meadow", "grass"),
        ("lake", None),
    ]
    truth = ground_truth(str(label), describe(image), folder.spec.classes, LabelOptions())
    with truth.open() as reader:
        assert reader.read(describe(image).window)[0, ::63].tolist() == [1, 2]


def test_a_name_that_nothing_can_show_is_not_kept_beside_the_user_s() -> None:
    table = class_table([1, 2], ClassHints({1: "a\x1b[31m", 2: "b"}), ("wood", "lake"), None)
    assert [entry.data_name for entry in table.classes] == [None, "b"]
