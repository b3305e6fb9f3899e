"""How large pixels are on the ground, and what is said where a network learned on others."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio import Affine
from rasterio.transform import from_origin

from src.datamodules.chips import ChipData
from src.errors import UserError
from src.models.checkpoint import load_network, save_network
from src.pixel_size import other_size, pixel_metres, row_areas, sides_on_ground
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation
from src.raster.read import RasterInfo, describe
from src.spec import NetworkSpec
from src.tasks import predict
from src.tasks.schema import PredictConfig
from src.training import NetworkChoice, make_network
from tests import rasters
from tests.mapping_scenes import make_trained, noise, write_raster


def grid(folder: Path, side: float, crs: str | None = "EPSG:32633") -> RasterInfo:
    transform = from_origin(300_000, 5_800_000, side, side) if crs != "EPSG:4326" else from_origin(13, 52, side, side)
    path = folder / f"{side:g}.tif"
    return describe(write_raster(path, np.ones((1, 4, 4), np.uint8), crs=crs, transform=transform))


def test_sides_are_those_of_the_smallest_and_the_largest_pixels(tmp_path: Path) -> None:
    assert sides_on_ground([grid(tmp_path, side) for side in (10, 60, 10.5)]) == pytest.approx((10, 60))
    assert sides_on_ground([grid(tmp_path, 5, None)]) is None
    assert sides_on_ground([]) is None
    degrees = sides_on_ground([grid(tmp_path, 0.0001, "EPSG:4326")])
    assert degrees == pytest.approx((11.1 * 0.785,) * 2, rel=0.01)  # narrower than high at 52° N


def test_pixels_keep_their_sides_and_area_where_the_grid_is_turned(tmp_path: Path) -> None:
    info = describe(write_raster(tmp_path / "turned.tif", np.ones((1, 4, 4), np.uint8), transform=rasters.TURNED))
    assert pixel_metres(info) == pytest.approx((10, 20))
    assert row_areas(info) == pytest.approx([200] * 4)


@pytest.mark.parametrize("corner", [(52, 120), (0, 0)])
def test_degrees_beyond_the_poles_tell_no_size(tmp_path: Path, corner: tuple[int, int]) -> None:
    """Axes that are swapped, as in EPSG's order, and rows that are called degrees: neither ends a command."""
    transform = from_origin(*corner, 0.0001, 0.0001) if corner[0] else Affine.identity()
    path = write_raster(tmp_path / "odd.tif", noise(256, 256), crs="EPSG:4326", transform=transform)
    assert sides_on_ground([describe(path)]) is None
    mapper = make_trained(tmp_path)
    keys = {"checkpoint": str(mapper.checkpoint), "image": str(path), "output": str(tmp_path / "map.tif")}
    predict.map_all(PredictConfig(accelerator="cpu", **keys), tmp_path)


def test_a_crs_that_was_written_by_hand_tells_no_size(tmp_path: Path) -> None:
    info = grid(tmp_path, 10)
    assert sides_on_ground([replace(info, crs="EPSG:32633"), replace(info, crs="nonsense")]) is None


@pytest.mark.parametrize(
    ("found", "expected", "said"),
    [
        *(((side, side), (10, 10), None) for side in (10, 12, 8)),
        (None, (10, 10), None),
        ((10, 10), None, None),
        ((20, 20), (10, 10), "its pixels are 20 m wide, training had 10 m."),
        ((5, 5), (10, 10), "its pixels are 5 m wide, training had 10 m."),
        ((30, 30), (10, 30), None),  # a network that was trained on both
        ((10, 60), (10, 30), "its pixels are 10 to 60 m wide, training had 10 to 30 m."),
    ],
)
def test_half_as_much_again_is_another_size(found: Any, expected: Any, said: str | None) -> None:
    words = other_size(found, expected, "training")
    assert words is said if said is None else str(words).startswith(said)


def test_a_network_knows_the_size_that_it_was_trained_on(tmp_path: Path) -> None:
    image, label = rasters.image(tmp_path / "scene.tif"), rasters.label(tmp_path / "label.tif")
    prepare(Preparation(str(image), str(label), (32, 32), (32, 32)), tmp_path / "data")
    data = ChipData(tmp_path / "data").describe()
    assert data.sides == sides_on_ground([describe(image)])
    _, spec = make_network(data, NetworkChoice("compact_unet", "none"))
    assert (spec.sides, spec.statistics) == (data.sides, data.normalization)
    row = spec.to_dict()
    assert NetworkSpec.from_dict(row, "c") == spec
    older = NetworkSpec.from_dict({key: row[key] for key in row if key not in ("sides", "statistics")}, "c")
    assert (older.sides, older.statistics) == (None, None)
    for sides in ([math.nan, 10], [10], [20, 10], [0, 1]):
        with pytest.raises(UserError, match="is not a whole"):
            NetworkSpec.from_dict({**row, "sides": sides}, "c")


def test_a_scene_of_other_pixels_is_mapped_with_a_caution(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mapper = make_trained(tmp_path)
    save_network(mapper.checkpoint, mapper.network, replace(mapper.spec, sides=(30.0, 30.0)), {})
    assert load_network(mapper.checkpoint)[1].sides == (30, 30)
    image = str(write_raster(tmp_path / "scene.tif", noise(90, 70)))
    caplog.set_level(logging.INFO)
    keys = {"checkpoint": str(mapper.checkpoint), "image": image, "output": str(tmp_path / "map.tif")}
    _, (scene,) = predict.map_all(PredictConfig(accelerator="cpu", **keys), tmp_path)
    assert scene.caution is not None
    assert scene.caution.startswith("its pixels are 10 m wide, training had 30 m.")
    assert f"CAUTION: {image}: {scene.caution}" in caplog.messages


def test_scenes_of_other_pixels_in_one_data_folder_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, side in enumerate((10, 20)):
        where = from_origin(300_000 + 10_000 * number, 5_800_000, side, side)
        rasters.image(tmp_path / f"scene_{number}.tif", transform=where)
        rasters.label(tmp_path / f"label_{number}.tif", transform=where)
    images, labels = ([str(tmp_path / f"{what}_{n}.tif") for n in range(2)] for what in ("scene", "label"))
    prepare(Preparation(tuple(images), tuple(labels), (32, 32), (32, 32)), tmp_path / "data")
    (words,) = (message for message in caplog.messages if "CAUTION" in message)
    assert words.startswith(f"CAUTION: {images[1]}: its pixels are 20 m wide, {images[0]} had 10 m.")
