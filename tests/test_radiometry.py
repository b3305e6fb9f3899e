"""Numbers on another scale than those of training: said before hours are spent on a map of nothing."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from mapping_scenes import make_trained, noise, write_raster

from src.bands import BandStatistics, Normalization
from src.grid import Window, spread_windows
from src.mapping.kept_rows import Patch
from src.mapping.scene_reader import SceneReader, open_scene
from src.models.checkpoint import load_network
from src.radiometry import Levels, caution
from src.report.prediction import MappedScene, prediction_report
from src.report.provenance import Run
from src.tasks import predict
from src.tasks.schema import PredictConfig

MEAN, STD = np.array([1816.0, 1466, 1185, 1140]), np.array([175.0, 218, 247, 352])
"""Sentinel-2's first bands over the Havel lakes."""


Numbers = npt.NDArray[np.float64]


def levels(mean: Numbers, std: Numbers) -> Levels:
    return Levels(np.asarray(mean, float), np.asarray(std, float))


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
    assert Levels.expected(Normalization.identity(4, 10_000)) is None
    half = Normalization((False, False, True, True), 1.0, (0, 0, *MEAN[2:]), (1, 1, *STD[2:]))
    expected = Levels.expected(half)
    assert expected is not None
    assert caution(levels(MEAN * [1e4, 1e4, 1, 1], STD), expected, "training") is None
    scaled = Levels.expected(Normalization((True,) * 4, 10_000, tuple(MEAN / 1e4), tuple(STD / 1e4)))
    assert scaled is not None
    np.testing.assert_allclose(scaled.mean, MEAN)


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
