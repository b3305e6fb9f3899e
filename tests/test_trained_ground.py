"""Scores of a scene that the network was trained on are told from those of a new one."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from rasterio.warp import calculate_default_transform, reproject

from src.grid import Window
from src.mapping.scene_map import Mapper
from src.mapping.trained_ground import TrainedGround
from src.models.checkpoint import save_network
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation
from src.raster.read import describe
from src.spec import SceneSpec
from src.tasks import predict
from src.tasks.eval import score
from src.tasks.schema import EvalConfig, PredictConfig
from tests.mapping_scenes import CLASSES, make_trained, noise, read, write_raster
from tests.rasters import NORTH_UP, TURNED

SIDE, CHIP = 128, 32


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scene, its labels, chips of them, and a checkpoint that was trained on these."""
    folder = tmp_path_factory.mktemp("trained")
    image = write_raster(folder / "scene.tif", noise(SIDE, SIDE))
    label = write_raster(folder / "label.tif", np.array(CLASSES.values, np.uint8)[noise(SIDE, SIDE).argmax(0)][None])
    settings = Preparation(str(image), str(label), (CHIP, CHIP), (CHIP, CHIP), shares=(50.0, 25.0, 25.0))
    prepare(settings, folder / "chips")
    write_checkpoint(folder, data_dir=str(folder / "chips"))
    return folder


def write_checkpoint(folder: Path, **config: object) -> Path:
    mapper = make_trained(folder)
    save_network(mapper.checkpoint, mapper.network, mapper.spec, config)
    return mapper.checkpoint


def seen(trained: Path, image: Path, checkpoint: Path | None = None) -> str | None:
    trained_on = Mapper.load(checkpoint or trained / "network.ckpt", accelerator="cpu").trained_on
    return TrainedGround.of(trained_on).caution(describe(image))


def share(trained: Path, *parts: str) -> str:
    chips = sum(len((trained / f"chips/{part}_files.csv").read_text().splitlines()) - 1 for part in parts)
    return f"show {100 * chips * CHIP**2 / SIDE**2:.0f} % of its ground"


def test_a_scene_that_was_trained_on_is_named_with_the_share_that_was_seen(trained: Path, tmp_path: Path) -> None:
    assert share(trained, "train") in str(seen(trained, trained / "scene.tif"))
    shutil.copy(trained / "scene.tif", tmp_path / "copy.tif")
    assert share(trained, "train") in str(seen(trained, tmp_path / "copy.tif"))
    refitted = write_checkpoint(tmp_path, data_dir=str(trained / "chips"), refit=True)
    assert share(trained, "train", "validation") in str(seen(trained, trained / "scene.tif", refitted))


def test_scenes_that_windows_were_drawn_from_are_named(trained: Path, tmp_path: Path) -> None:
    """Of data folders alone it was said; and a data folder given beside was taken for what was trained on."""
    data = {"_target_": "src.datamodules.scenes.SceneData", "image": str(trained / "scene.tif")}
    other = write_raster(tmp_path / "other.tif", noise(9, 9), transform=from_origin(700_000, 5_800_000, 10, 10))
    drawn = write_checkpoint(tmp_path, data_dir=str(trained / "chips"), datamodule=data)
    assert "trained on windows of scenes that show this ground" in str(seen(trained, trained / "scene.tif", drawn))
    assert seen(trained, other, drawn) is None
    elsewhere = write_checkpoint(tmp_path, data_dir=str(trained / "chips"), datamodule=data | {"image": str(other)})
    assert seen(trained, trained / "scene.tif", elsewhere) is None
    gone = write_checkpoint(tmp_path, datamodule=data | {"image": [str(tmp_path / "gone.tif")]})
    assert seen(trained, trained / "scene.tif", gone) is None


@pytest.mark.parametrize("without_chips", [False, True])
def test_chips_of_another_folder_that_show_trained_ground_are_counted(
    without_chips: bool, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only lists of the folder that was trained on were compared: a scene that was cut anew counted as a new one."""
    label, chip = str(trained / "label.tif"), (CHIP, CHIP)
    away = write_raster(tmp_path / "away.tif", noise(SIDE, SIDE), transform=from_origin(700_000, 5_800_000, 10, 10))
    nowhere = write_raster(tmp_path / "nowhere.tif", read(trained / "label.tif")[None], crs=None)
    prepare(Preparation(str(trained / "scene.tif"), label, chip, chip, seed=5, strategy="random"), tmp_path / "anew")
    prepare(Preparation(str(away), str(nowhere), chip, chip), tmp_path / "new")
    config: dict[str, object] = {"data_dir": str(trained / "chips")}
    if without_chips:
        config["datamodule"] = {"_target_": "src.datamodules.scenes.SceneData", "image": str(trained / "scene.tif")}
    keys: dict[str, Any] = {"split": "train", "accelerator": "cpu"}
    checkpoint = str(write_checkpoint(tmp_path, **config))
    score(EvalConfig(checkpoint, str(tmp_path / "new"), **keys), tmp_path / "out")
    assert "CAUTION" not in caplog.text
    score(EvalConfig(checkpoint, str(tmp_path / "anew"), **keys), tmp_path / "out")
    folders = (trained / "chips", tmp_path / "anew")
    known, scored = (set((folder / "train_files.csv").read_text().split()[1:]) for folder in folders)
    count = len(scored) if without_chips else len(scored & known)
    what = "windows of scenes" if without_chips else "chips of another data folder"
    said = f"{count} of {len(scored)} chips show ground that the network was trained on ({what}); scores of what it has"
    assert said in caplog.text


def test_the_same_ground_in_another_projection_is_named(trained: Path, tmp_path: Path) -> None:
    with rasterio.open(trained / "scene.tif") as dataset:
        found = calculate_default_transform(dataset.crs, "EPSG:4326", SIDE, SIDE, *dataset.bounds)
        image = np.zeros((3, found[2], found[1]), np.float32)
        target = {"dst_transform": found[0], "dst_crs": "EPSG:4326"}
        reproject(dataset.read(), image, src_transform=dataset.transform, src_crs=dataset.crs, **target)
    path = write_raster(tmp_path / "degrees.tif", image, crs="EPSG:4326", transform=found[0])
    said = re.search(r"show (\d+) % of its ground", str(seen(trained, path)))
    assert said is not None
    assert 25 < int(said[1]) < 75


@pytest.mark.parametrize("grid", [NORTH_UP, TURNED], ids=["north-up", "turned"])
def test_a_part_of_a_scene_was_seen_as_far_as_chips_reach_into_it(grid: rasterio.Affine, tmp_path: Path) -> None:
    part = grid @ rasterio.Affine.translation(16, 8)
    there = describe(write_raster(tmp_path / "part.tif", noise(32, 64), transform=part))
    source = SceneSpec("scene", "scene.tif", 128, 64, there.crs, tuple(grid)[:6])
    ground = TrainedGround(((source, [Window(0, 0, 16, 32)]),))
    assert ground.share(there) == pytest.approx(8 * 16 / (32 * 64))


@pytest.mark.parametrize("column", [SIDE, -SIDE])
def test_another_part_of_the_scene_is_new_ground(trained: Path, tmp_path: Path, column: int) -> None:
    """As the demo's, which touches the part that was trained on."""
    beside = from_origin(300_000 + 10 * column, 5_800_000, 10, 10)
    assert seen(trained, write_raster(tmp_path / "beside.tif", noise(SIDE, SIDE), transform=beside)) is None


def test_nobody_knows_without_a_place_or_a_data_folder(trained: Path, tmp_path: Path) -> None:
    assert seen(trained, write_raster(tmp_path / "lost.tif", noise(SIDE, SIDE), crs=None)) is None
    for config in ({}, {"data_dir": str(tmp_path / "gone")}, {"data_dir": None}):
        assert seen(trained, trained / "scene.tif", write_checkpoint(tmp_path, **config)) is None


def test_a_scene_without_a_place_is_known_by_its_file(tmp_path: Path) -> None:
    image = write_raster(tmp_path / "scene.tif", noise(SIDE, SIDE), crs=None)
    label = write_raster(tmp_path / "label.tif", np.ones((1, SIDE, SIDE), np.uint8), crs=None)
    prepare(Preparation(str(image), str(label), (CHIP, CHIP), (CHIP, CHIP)), tmp_path / "chips")
    checkpoint = write_checkpoint(tmp_path, data_dir=str(tmp_path / "chips"))
    assert share(tmp_path, "train") in str(seen(tmp_path, image, checkpoint))


ARBITRARY = 'LOCAL_CS["Arbitrary",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'


@pytest.mark.parametrize(("top", "crs"), [(0, None), (SIDE, None), (0, ARBITRARY)])
def test_another_scene_without_a_place_is_another_scene(top: int, crs: str | None, tmp_path: Path) -> None:
    """QGIS and R give what has no place the corner 0, 0, up or down, and ENVI a CRS besides."""
    given: dict[str, Any] = {"crs": crs, "transform": from_origin(0, top, 1, 1)}
    image = write_raster(tmp_path / "scene.tif", noise(SIDE, SIDE), **given)
    label = write_raster(tmp_path / "label.tif", np.ones((1, SIDE, SIDE), np.uint8), **given)
    prepare(Preparation(str(image), str(label), (CHIP, CHIP), (CHIP, CHIP)), tmp_path / "chips")
    checkpoint = write_checkpoint(tmp_path, data_dir=str(tmp_path / "chips"))
    assert seen(tmp_path, write_raster(tmp_path / "other.tif", noise(SIDE, SIDE), **given), checkpoint) is None
    assert seen(tmp_path, image, checkpoint) is not None


def test_the_checkpoint_is_read_once(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was read again for what it was trained on, and might have been another one by then."""
    reads: list[Path] = []
    real = torch.load

    monkeypatch.setattr(torch, "load", lambda path, **keys: (reads.append(path), real(path, **keys))[1])
    given = {"checkpoint": str(trained / "network.ckpt"), "accelerator": "cpu", "output": str(tmp_path / "map.tif")}
    settings = PredictConfig(image=str(trained / "scene.tif"), label=str(trained / "label.tif"), **given)
    assert predict.map_all(settings, tmp_path)[1][0].seen is not None
    assert reads == [trained / "network.ckpt"]


def test_the_command_says_so_where_it_scores(trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    image, given = str(trained / "scene.tif"), {"checkpoint": str(trained / "network.ckpt"), "accelerator": "cpu"}
    unscored = PredictConfig(image=image, output=str(tmp_path / "a/map.tif"), **given)
    assert predict.map_all(unscored, tmp_path)[1][0].seen is None
    assert "CAUTION" not in caplog.text
    settings = PredictConfig(image=image, label=str(trained / "label.tif"), output=str(tmp_path / "b/map.tif"), **given)
    (scene,) = predict.map_all(settings, tmp_path)[1]
    words = f"the network was trained on chips of this scene, which {share(trained, 'train')}"
    assert f"CAUTION: {image}: {words}" in caplog.text
    assert str(scene.seen).startswith(words)
    assert json.loads((tmp_path / "b/scores.json").read_text())["caution"] == scene.seen
