"""Numbers on another scale than those of training: said before hours are spent on a map of nothing."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio

from src.bands import Band, BandStatistics, Normalization
from src.datafolder import read_data_folder
from src.datamodules.chips import ChipData
from src.evaluation import chips_unlike_training
from src.grid import Window, spread_windows
from src.mapping.kept_rows import Patch
from src.mapping.scene_reader import SceneReader, open_scene
from src.models.checkpoint import load_network, save_network
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation
from src.radiometry import Levels, caution, other_scaling, other_units, unlike_training
from src.report.prediction import MappedScene, prediction_report
from src.report.provenance import Run
from src.spec import NetworkSpec
from src.tasks import predict
from src.tasks.schema import PredictConfig
from src.training import NetworkChoice, make_network
from tests import rasters
from tests.mapping_scenes import CLASSES, make_trained, noise, write_raster

MEAN, STD = np.array([1816.0, 1466, 1185, 1140]), np.array([175.0, 218, 247, 352])
"""Sentinel-2's first bands over the Havel lakes."""


Numbers = npt.NDArray[np.float64]


def levels(mean: Numbers, std: Numbers) -> Levels:
    return Levels(np.asarray(mean, float), np.asarray(std, float))


PLAIN, SCALED, SHIFTED = (1.0, 0.0), (1e-4, 0.0), (1e-4, -0.1)


@pytest.mark.parametrize(
    ("here", "there", "other"),
    [
        (PLAIN, PLAIN, False),
        (SCALED, (1.0000001e-4, 0.0), False),
        (PLAIN, SCALED, False),  # the levels tell, and a scale is lost easily
        (SCALED, PLAIN, False),
        (SHIFTED, SCALED, True),
        (SHIFTED, PLAIN, True),
        (PLAIN, SHIFTED, True),
        (SCALED, (2e-4, 0.0), True),
        (None, SHIFTED, False),
        (SHIFTED, None, False),
    ],
)
def test_units_are_other_ones_where_declared_offsets_or_scales_differ(
    here: tuple[float, float] | None, there: tuple[float, float] | None, other: bool
) -> None:
    found, expected = ([Band("a", units=SHIFTED), Band("b", units=units)] for units in (here, there))
    said = other_scaling(found, expected, (True, True), "training's")
    assert (said is not None) is other
    assert other_scaling(found, expected, (True, False), "training's") is None
    if said is not None:
        assert said.startswith("its band 2 declares scale ")
        assert f", training's scale {(there or PLAIN)[0]:g} and offset {(there or PLAIN)[1]:g}, and" in said


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (1, None),
        (1e-4, "(about 10,000 times as small)"),
        (0.01, "(about 100 times as small)"),
        (100, "(about 100 times as large)"),
    ],
)
def test_another_unit_is_noticed_and_named(factor: float, said: str | None) -> None:
    words = caution(levels(MEAN * factor, STD * factor), levels(MEAN, STD), "training")
    assert (words is None) if said is None else words is not None and f"{said}. " in words


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (MEAN + 1000, STD),
        (MEAN * 0.6, STD * 0.16),  # a lake
        (MEAN + 5 * STD, STD * 3),
        (MEAN * [1, 1, 1, 100], STD * [1, 1, 1, 100]),  # one band alone
    ],
)
def test_another_landscape_is_not(mean: Numbers, std: Numbers) -> None:
    assert caution(levels(mean, std), levels(MEAN, STD), "training") is None


def test_far_away_without_a_common_factor_has_none_named() -> None:
    words = caution(levels(MEAN + 20 * STD, STD), levels(MEAN, STD), "a.tif")
    assert words is not None
    assert words.startswith("its numbers are 5,976 ± 232 in the middle one of its bands, a.tif had 1,326 ± 232. Refl")


def test_what_no_band_tells_is_no_reason_for_caution() -> None:
    nothing = Levels.of(BandStatistics(4))
    assert caution(nothing, levels(MEAN, STD), "training") is None
    half = Levels.expected(Normalization((False, False, True, True), 1.0, (0, 0, *MEAN[2:]), (1, 1, *STD[2:])))
    assert caution(levels(MEAN * [1e4, 1e4, 1, 1], STD), half, "training") is None
    scaled = Levels.expected(Normalization((True,) * 4, 10_000, tuple(MEAN / 1e4), tuple(STD / 1e4)))
    np.testing.assert_allclose(scaled.mean, MEAN)


def statistics(mean: Numbers, std: Numbers, pixels: int = 1000) -> BandStatistics:
    found = BandStatistics(4)
    found.count[:], found._mean, found._m2 = pixels, np.asarray(mean, float), np.asarray(std, float) ** 2 * pixels
    return found


def spec(**options: Any) -> NetworkSpec:
    bands = tuple(Band(f"band {number}") for number in range(4))
    normalization = Normalization((True,) * 4, 1.0, (0.0,) * 4, (255.0,) * 4)  # as Landsat's weights were trained
    return NetworkSpec("unet", "resnet18", {}, bands, normalization, None, CLASSES, (32, 32), **options)


def test_what_counts_is_what_the_network_saw_and_not_how_its_weights_were_normalised() -> None:
    seen = Normalization((True,) * 4, 1.0, tuple(MEAN), tuple(STD))
    assert unlike_training(spec(statistics=seen), [], statistics(MEAN, STD)) is None
    assert unlike_training(spec(statistics=seen), [], statistics(MEAN / 1e4, STD / 1e4)) is not None
    assert unlike_training(spec(), [], statistics(MEAN / 1e4, STD / 1e4)) is None  # a checkpoint that does not know
    assert unlike_training(spec(statistics=seen), [], statistics(MEAN / 1e4, STD * 0, pixels=99)) is None


def test_tiles_of_one_land_each_are_of_one_unit() -> None:
    water, town = statistics([70, 70, 70, 20], [2.6] * 4), statistics([110] * 4, [45] * 4)
    tiles = {"water": water} | {f"town {number}": town for number in range(19)}
    assert other_units(tiles) == {}
    assert other_units({}) == {}
    small = statistics(np.full(4, 0.011), np.full(4, 0.0045))
    ((name, words),) = other_units({"small": small, **tiles, "few": statistics(MEAN, STD, pixels=5)}).items()
    assert name == "small"
    assert words.startswith("its numbers are 0.011 ± 0.0045 in the middle one of its bands, town ")
    assert "(about 10,000 times as small)" in words
    assert list(other_units({"a": town, "b": small})) == ["a"]  # of two nobody knows which is meant


@pytest.mark.parametrize("shape", [(90, 70), (20, 500), (5, 4), (33, 32)])
def test_a_sample_lies_all_over_the_scene_and_inside_it(shape: tuple[int, int]) -> None:
    height, width = shape
    windows = list(spread_windows(height, width, 32, 3))
    assert len(windows) == 9
    whole = Window(0, 0, height, width)
    assert all(window.intersection(whole) == window for window in windows)
    if height >= 96:
        assert len({window.row for window in windows}) == 3


@pytest.mark.parametrize("layout", [{"tiled": True, "blockxsize": 16, "blockysize": 16}, {"blockysize": 7}])
def test_a_sample_has_the_scenes_mean_and_leaves_gaps_out(layout: dict[str, int], tmp_path: Path) -> None:
    image = noise(200, 300) * 100 + 5
    image[:, :, 140:170] = -1
    mapper = make_trained(tmp_path, "compact_unet")
    path = write_raster(tmp_path / "scene.tif", image, nodata=-1, **layout)
    with open_scene(str(path), mapper.spec) as reader:
        found = reader.sample()
    assert 0 < found.count.min() < 9 * 32 * 32
    assert found.mean == pytest.approx(image[:, :, :140].mean((1, 2)), rel=0.15)


def test_a_sample_looks_everywhere_where_its_one_place_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.mapping.scene_reader.SAMPLE_BYTES", 1000)
    image = noise(200, 300)
    image[:, 60:140, 100:200] = -1
    with open_scene(str(write_raster(tmp_path / "s.tif", image, nodata=-1)), make_trained(tmp_path).spec) as reader:
        assert reader.sample().count.min() > 1000


def test_a_sample_of_large_blocks_decodes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.mapping.scene_reader.SAMPLE_BYTES", 1000)
    mapper = make_trained(tmp_path, "compact_unet")
    path = write_raster(tmp_path / "scene.tif", noise(200, 300))
    read: list[Window] = []
    real = SceneReader._read

    def noted(self: SceneReader, patch: Patch, window: Window) -> None:
        read.append(window)
        real(self, patch, window)

    monkeypatch.setattr(SceneReader, "_read", noted)
    with open_scene(str(path), mapper.spec) as reader:
        assert reader.sample().count.tolist() == [32 * 32] * 3
    assert read == [Window(84, 134, 32, 32)]


def test_a_map_of_another_unit_says_so_before_and_in_its_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mapper = make_trained(tmp_path, "compact_unet")
    seen = replace(mapper.spec, statistics=mapper.spec.normalization)
    save_network(mapper.checkpoint, mapper.network, seen, {})
    images = [
        str(write_raster(tmp_path / f"{name}.tif", (noise(90, 70) * factor).astype(np.float32)))
        for name, factor in {"same": 1, "other": 10_000}.items()
    ]
    caplog.set_level(logging.INFO)
    keys = {"checkpoint": str(mapper.checkpoint), "image": images, "output": str(tmp_path / "out")}
    _, scenes = predict.map_all(PredictConfig(accelerator="cpu", **keys), tmp_path / "run")
    (line,) = (record for record in caplog.records if "CAUTION" in record.getMessage())
    assert line.levelno == logging.WARNING
    assert line.getMessage().startswith(f"CAUTION: {images[1]}: its numbers are ")
    assert "(about 10,000 times as large)" in line.getMessage()
    first_map = next(record for record in caplog.records if record.getMessage().startswith("Scene "))
    assert caplog.records.index(line) < caplog.records.index(first_map)
    assert [scene.caution is None for scene in scenes] == [True, False]
    assert [("Do not trust it" in text) for text in _lead(scenes, mapper.checkpoint)].count(True) == 1


def _lead(scenes: list[MappedScene], checkpoint: Path) -> tuple[str, ...]:
    _, spec = load_network(checkpoint)
    return prediction_report(Run("predict.py", "", datetime.now(UTC)), scenes, spec=spec, checkpoint=checkpoint).lead


def test_a_band_that_only_the_scene_marks_bad_is_named(tmp_path: Path) -> None:
    mapper = make_trained(tmp_path, "compact_unet")
    bands = [replace(band, bad=number > 0) for number, band in enumerate(mapper.spec.bands)]
    names = [band.name for band in bands]
    nothing = BandStatistics(len(bands))
    said = unlike_training(mapper.spec, [], nothing, bands)
    assert said == f"{names[1]}, {names[2]} are marked bad (bbl), and the network uses them all the same"
    known = replace(mapper.spec, bands=tuple(bands))  # as in training
    assert unlike_training(known, [], nothing, bands) is None
    unused = replace(mapper.spec.normalization, used=(True, False, False))
    assert unlike_training(replace(mapper.spec, normalization=unused), [], nothing, bands) is None


def test_a_scene_that_declares_another_offset_than_training_s_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A Sentinel-2 scene of after 2022 was mapped by a network of before without a word."""
    mapper = make_trained(tmp_path)
    bands = tuple(replace(band, units=SCALED) for band in mapper.spec.bands)
    save_network(mapper.checkpoint, mapper.network, replace(mapper.spec, bands=bands), {})
    assert [band.units for band in load_network(mapper.checkpoint)[1].bands] == [SCALED] * 3
    keys = {"checkpoint": str(mapper.checkpoint), "output": str(tmp_path / "map.tif")}
    for number, units in enumerate((SCALED, PLAIN, SHIFTED)):
        image = write_raster(tmp_path / f"scene_{number}.tif", noise(90, 70))
        with rasterio.open(image, "r+") as dataset:
            dataset.scales, dataset.offsets = (units[0],) * 3, (0.0, units[1], 0.0)
        _, (scene,) = predict.map_all(PredictConfig(accelerator="cpu", image=str(image), **keys), tmp_path)
        said = "its band 2 declares scale 0.0001 and offset -0.1, training's scale 0.0001 and offset 0, and numbers"
        assert (scene.caution or "").startswith(said) is (units is SHIFTED)
    assert f"CAUTION: {image}: {scene.caution}" in caplog.messages


def test_chips_are_in_the_unit_that_their_scene_declared(tmp_path: Path) -> None:
    """They hold its numbers, but do not declare what these are: their folder does."""
    folders = []
    for name, units in (("before", SCALED), ("after", SHIFTED)):
        image, label = rasters.image(tmp_path / f"{name}.tif"), rasters.label(tmp_path / f"{name}_label.tif")
        with rasterio.open(image, "r+") as dataset:
            dataset.scales, dataset.offsets = (units[0],) * 3, (units[1],) * 3
        prepare(Preparation(str(image), str(label), (32, 32), (32, 32)), tmp_path / f"data_{name}")
        folders.append(read_data_folder(tmp_path / f"data_{name}"))
    _, spec = make_network(ChipData(folders[0].path).describe(), NetworkChoice("compact_unet", "none"))
    assert [band.units for band in spec.bands] == [SCALED] * 3
    own, other = (folder.samples("train") for folder in folders)
    assert chips_unlike_training(spec, own, folders[0].spec) is None
    assert "offset -0.1, training's" in (chips_unlike_training(spec, other, folders[1].spec) or "")
    assert chips_unlike_training(spec, other) is None
    (folders[1].path / "dataset.json").unlink()
    assert [band.units for band in read_data_folder(folders[1].path).spec.bands] == [None] * 3
