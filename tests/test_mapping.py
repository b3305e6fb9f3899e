"""Maps: every pixel once, the same whatever the windows, the file's layout, the breaks and the processes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import os
import shutil
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import rasterio.shutil
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.bands import Band
from src.errors import UserError
from src.grid import Blend, Window
from src.labels import ClassTable
from src.mapping import kept_rows, map_scores, network_file, processes, scene_map, scene_reader, strips
from src.mapping.inference import Predictor
from src.mapping.plan import MapPlan
from src.mapping.processes import StripJob, map_in_processes
from src.mapping.scene_map import MapOptions, Mapper, map_scene
from src.mapping.strip_store import StripStore
from src.models import lanes
from src.models.checkpoint import load_network
from src.models.network import Network
from src.raster.write import write_geotiff
from tests.mapping_scenes import (
    CLASSES,
    Argmax,
    Blur,
    Compass,
    Constant,
    Halving,
    Levels,
    Shown,
    make_mapper,
    make_trained,
    noise,
    read,
    write_raster,
)

VALUES = np.array(CLASSES.values, np.uint8)
SIZES = [(1, 1), (1, 50), (37, 1), (31, 31), (32, 32), (33, 33), (97, 53), (20, 200)]


def options(mapper: Mapper, **changes: Any) -> Mapper:
    return dataclasses.replace(mapper, options=dataclasses.replace(mapper.options, **changes))


@pytest.mark.parametrize("blend", ["cosine", "crop"])
@pytest.mark.parametrize("size", SIZES)
def test_every_pixel_gets_its_own_class(tmp_path: Path, size: tuple[int, int], blend: Blend) -> None:
    image = noise(*size)
    path = write_raster(tmp_path / "scene.tif", image)
    found = map_scene(make_mapper(tmp_path, Argmax(), blend=blend, window=32), str(path), tmp_path / "map.tif")
    np.testing.assert_array_equal(read(found.path), VALUES[image.argmax(0)])


@pytest.mark.parametrize("layout", [{}, {"tiled": True, "blockxsize": 32, "blockysize": 32, "interleave": "pixel"}])
@pytest.mark.parametrize("bands", [1, 300])
def test_networks_of_one_band_and_of_hundreds_map(tmp_path: Path, bands: int, layout: dict[str, Any]) -> None:
    image = noise(70, 45, bands=bands)
    image *= np.linspace(0.6, 1.4, 45, dtype=np.float32)  # whose mean over hundreds of bands is 0.5 everywhere
    path = write_raster(tmp_path / "scene.tif", image, **layout)
    found = map_scene(make_mapper(tmp_path, Levels(), bands=bands, window=32), path, tmp_path / "map.tif")
    nearest = np.abs(image.mean(0, dtype=np.float64) - np.array([0.4, 0.5, 0.6])[:, None, None]).argmin(0)
    assert len(np.unique(nearest)) == 3
    assert (read(found.path) == VALUES[nearest]).mean() > 0.999  # but for sums in another order
    loaded = Mapper.load(make_trained(tmp_path, bands=bands).checkpoint, MapOptions(window=32), "cpu")
    chip = write_raster(tmp_path / "chip.tif", image[:, :32, :32], **layout)
    with torch.inference_mode():
        logits = loaded.network(torch.from_numpy(image[None, :, :32, :32]), torch.ones(1, 32, 32, dtype=torch.bool))
    mapped = read(map_scene(loaded, chip, tmp_path / "trained.tif").path)
    assert (mapped == VALUES[logits[0].argmax(0).numpy()]).mean() > 0.95  # but for bfloat16, where there is


@given(
    st.integers(1, 90), st.integers(1, 90), st.integers(9, 70), st.integers(0, 12), st.sampled_from(["cosine", "crop"])
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_constant_network_gives_a_constant_map(
    tmp_path: Path, height: int, width: int, window: int, overlap: int, blend: Blend
) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(height, width))
    mapper = make_mapper(tmp_path, Constant(), window=window, overlap=overlap, blend=blend, probabilities="uint8")
    found = map_scene(mapper, str(path), tmp_path / "map.tif")
    assert (read(found.path) == CLASSES.values[1]).all()
    for band in (1, 2, 3):
        assert len(np.unique(read(tmp_path / "map_probabilities.tif", band))) == 1


@pytest.mark.parametrize("blend", ["cosine", "crop"])
def test_a_network_that_sees_two_pixels_far_gives_the_same_map_for_any_window(tmp_path: Path, blend: Blend) -> None:
    image = noise(113, 71)
    path = write_raster(tmp_path / "scene.tif", image)
    whole = Blur()(torch.from_numpy(image)[None])[0].argmax(0).numpy()
    for window, overlap in itertools.product((16, 32, 50, 128), (10, 20)):
        mapper = make_mapper(tmp_path, Blur(), blend=blend, window=window, overlap=overlap)
        found = map_scene(mapper, str(path), tmp_path / "map.tif")
        np.testing.assert_array_equal(read(found.path), VALUES[whole], err_msg=f"window {window}, overlap {overlap}")


LAYOUTS: dict[str, dict[str, Any]] = {
    "tiles": {"tiled": True, "blockxsize": 32, "blockysize": 16},
    "rows": {"blockysize": 3},
    "rows of pixels": {"interleave": "pixel", "compress": "deflate", "blockysize": 7},
    "one strip": {"compress": "lzw", "blockysize": 150},
}


def test_the_file_s_layout_and_who_decodes_it_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = (noise(150, 140) * 9000).astype(np.uint16)
    mapper = make_trained(tmp_path, window=64, probabilities="uint8")
    maps = []
    threads: list[Any] = []
    real = scene_reader.scene_decoding

    def as_for_a_gpu(_: str) -> Any:
        monkeypatch.setattr(scene_reader, "cores", lambda: 4)
        return real("cuda")

    def noting(*given: Any) -> Any:
        threads.append(rasterio.env.getenv().get("GDAL_NUM_THREADS"))
        return scene_reader.open_scene(*given)

    monkeypatch.setattr(scene_map, "open_scene", noting)
    for name, layout in LAYOUTS.items():
        path = write_raster(tmp_path / f"{name}.tif", image, **layout)
        for decoding in (real, as_for_a_gpu):
            monkeypatch.setattr(scene_map, "scene_decoding", decoding)
            output = tmp_path / decoding.__name__ / name / "map.tif"
            maps.append([file.read_bytes() for file in map_scene(mapper, str(path), output).files])
    assert all(other == maps[0] for other in maps[1:])
    assert threads == [None, 4] * len(LAYOUTS)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(("blend", "stored"), [("cosine", 1), ("crop", 7), ("cosine", 150)])
def test_rows_of_an_untiled_file_are_read_once(
    tmp_path: Path, blend: Blend, stored: int, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = noise(200, 300)
    path = write_raster(tmp_path / "scene.tif", image, blockysize=stored, compress="deflate")
    if not in_memory:
        monkeypatch.setattr(kept_rows, "MEMORY_BYTES", 0)
    rows: list[int] = []
    real = scene_reader.read_window

    def counting(dataset: Any, window: Any, *rest: Any) -> npt.NDArray[Any]:
        rows.extend(range(window.row, window.row_stop))
        return real(dataset, window, *rest)

    monkeypatch.setattr(scene_reader, "read_window", counting)
    found = map_scene(make_mapper(tmp_path, Argmax(), blend=blend, window=32), str(path), tmp_path / "map.tif")
    assert [row for row in rows if row < 200] == list(range(200))
    np.testing.assert_array_equal(read(found.path), VALUES[image.argmax(0)])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "map.json",
        "map.qml",
        "map.tif",
        "map.tif.aux.xml",
        "network.ckpt",
        "scene.tif",
    ]


def test_nodata_in_any_used_band_is_unclassified_and_hidden_from_the_network(tmp_path: Path) -> None:
    image = noise(40, 60) + 1
    image[0, :5] = -9999
    image[2, 7, :3] = np.nan
    path = write_raster(tmp_path / "scene.tif", image, nodata=-9999)
    found = map_scene(make_mapper(tmp_path, Blur()), str(path), tmp_path / "map.tif")
    missing = np.zeros((40, 60), bool)
    missing[:5] = missing[7, :3] = True
    np.testing.assert_array_equal(read(found.path) == 0, missing)
    seen = Blur()(torch.from_numpy(np.where(missing, 0, image))[None])[0].argmax(0).numpy()
    np.testing.assert_array_equal(read(found.path)[~missing], VALUES[seen][~missing])


def test_nodata_of_the_training_chips_holds_where_the_raster_declares_none(tmp_path: Path) -> None:
    image = (noise(40, 60) * 100 + 1).astype(np.uint8)
    image[:, 10:20] = 0
    path = write_raster(tmp_path / "scene.tif", image)
    found = map_scene(make_mapper(tmp_path, Argmax(), nodata=0), str(path), tmp_path / "map.tif")
    np.testing.assert_array_equal(read(found.path) == 0, (image == 0).all(0))


def test_a_nodata_value_that_was_given_holds_also_where_the_raster_declares_another(tmp_path: Path) -> None:
    """prepare.py nodata=0 of a raster that declares −32768: what training left out was mapped."""
    image = (noise(40, 60) * 100 + 1).astype(np.int16)
    image[:, 10:20] = 0
    image[:, 30:35] = -32768
    path = write_raster(tmp_path / "scene.tif", image, nodata=-32768)
    mapper = make_mapper(tmp_path, Argmax(), nodata=0)
    mapper = dataclasses.replace(mapper, spec=dataclasses.replace(mapper.spec, nodata_given=True))
    found = map_scene(mapper, str(path), tmp_path / "map.tif")
    np.testing.assert_array_equal(read(found.path) == 0, (image <= 0).all(0))


def test_an_alpha_band_is_a_mask_and_no_band(tmp_path: Path) -> None:
    image = (noise(40, 60) * 200).astype(np.uint8)
    alpha = np.full((1, 40, 60), 255, np.uint8)
    alpha[0, :, 50:] = 0
    path = write_raster(tmp_path / "scene.tif", np.concatenate([image, alpha]), photometric="rgb", alpha="yes")
    found = map_scene(make_mapper(tmp_path, Argmax()), str(path), tmp_path / "map.tif")
    np.testing.assert_array_equal(read(found.path), np.where(alpha[0] > 0, VALUES[image.argmax(0)], 0))


def test_an_alpha_band_that_is_missed_among_the_bands_is_named(tmp_path: Path) -> None:
    image = (noise(40, 60)[:2] * 200).astype(np.uint8)
    path = write_raster(tmp_path / "scene.tif", image, photometric="minisblack", alpha="yes")
    with pytest.raises(UserError, match=r"scene\.tif \(without its alpha band 2\) has 1 band; .*expects 3"):
        map_scene(make_mapper(tmp_path, Argmax()), str(path), tmp_path / "map.tif")


def test_a_network_that_takes_nodata_for_data_maps_what_any_band_has_measured(tmp_path: Path) -> None:
    image = noise(40, 60) + 1
    image[1] = -5  # as the water-vapour bands of EnMAP: nodata everywhere, in training too
    image[:, :4] = -5
    image[2, 20, 30] = np.nan
    path = write_raster(tmp_path / "scene.tif", image, nodata=-5)
    mapper = make_mapper(tmp_path, Argmax())
    mapper = dataclasses.replace(mapper, spec=dataclasses.replace(mapper.spec, nodata_is_data=True))
    found = map_scene(mapper, str(path), tmp_path / "map.tif")
    expected = VALUES[image.argmax(0)]
    expected[:4], expected[20, 30] = 0, 0
    np.testing.assert_array_equal(read(found.path), expected)


@pytest.mark.parametrize("nodata_is_data", [False, True])
@pytest.mark.parametrize("rows", [{}, {"tiled": True, "blockxsize": 16, "blockysize": 16}])
def test_numbers_beyond_single_precision_are_no_measurements(
    tmp_path: Path, nodata_is_data: bool, rows: dict[str, Any]
) -> None:
    """ArcGIS's −1.8e308, in a scene that does not declare it: NaN as far as the network saw."""
    found = []
    for name, value in (("lowest", np.finfo(np.float64).min), ("infinite", -np.inf)):
        image = noise(48, 48).astype(np.float64)
        image[:, 20, 20] = value
        path = write_raster(tmp_path / f"{name}.tif", image, **rows)
        mapper = make_trained(tmp_path, probabilities="float16")
        mapper = dataclasses.replace(mapper, spec=dataclasses.replace(mapper.spec, nodata_is_data=nodata_is_data))
        values = read(map_scene(mapper, str(path), tmp_path / name / "map.tif").path)
        found.append((values, read(tmp_path / name / "map_probabilities.tif")))
    (values, probabilities), (expected, expected_probabilities) = found
    assert np.argwhere(values == 0).tolist() == [[20, 20]]
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(probabilities, expected_probabilities)


def test_a_scene_without_any_measurement_is_mapped_as_empty(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scene.tif", np.zeros((3, 70, 50), np.uint8), nodata=0)
    found = map_scene(make_mapper(tmp_path, Constant()), str(path), tmp_path / "map.tif")
    assert not read(found.path).any()


def test_bands_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    image = noise(40, 50)
    names = ["blue", "green", "red"]
    mapper = make_mapper(tmp_path, Argmax())
    bands = tuple(dataclasses.replace(b, name=n) for b, n in zip(mapper.spec.bands, names, strict=True))
    mapper = dataclasses.replace(mapper, spec=dataclasses.replace(mapper.spec, bands=bands))
    more = np.concatenate([image[::-1], np.full((1, 40, 50), 9, np.float32)])
    path = write_raster(tmp_path / "scene.tif", more, names=["red", "green", "blue", "infrared"])
    found = map_scene(mapper, str(path), tmp_path / "map.tif")
    np.testing.assert_array_equal(read(found.path), VALUES[image.argmax(0)])


def test_a_wrong_number_of_bands_says_what_was_expected(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scene.tif", np.ones((2, 40, 50), np.uint8))
    with pytest.raises(UserError, match="has 2 bands; the checkpoint expects 3 bands"):
        map_scene(make_mapper(tmp_path, Argmax()), str(path), tmp_path / "map.tif")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["network.ckpt", "scene.tif"]


def test_flips_and_rotations_make_the_answer_independent_of_the_compass(tmp_path: Path) -> None:
    image = noise(32, 32)
    image[:, :8, :20] = np.nan
    mapper = make_mapper(tmp_path, Compass(), window=32, tta=True, probabilities="float16")
    straight = write_raster(tmp_path / "a.tif", image)
    turned = write_raster(tmp_path / "b.tif", np.rot90(image, axes=(1, 2)).copy())
    map_scene(mapper, str(straight), tmp_path / "a" / "map.tif")
    map_scene(mapper, str(turned), tmp_path / "b" / "map.tif")
    for band in (1, 2, 3):
        one, other = (read(tmp_path / name / "map_probabilities.tif", band) for name in "ab")
        np.testing.assert_allclose(np.rot90(one), other, atol=1e-3)
    map_scene(options(mapper, tta=False), str(turned), tmp_path / "c" / "map.tif")
    with_turns, without = (read(tmp_path / name / "map_probabilities.tif") for name in "bc")
    assert np.nanmax(np.abs(with_turns - without)) > 0.05


def test_turned_answers_are_averaged_as_probabilities(tmp_path: Path) -> None:
    image = noise(32, 32)
    mapper = make_mapper(tmp_path, Compass(), window=32, tta=True, probabilities="float16")
    map_scene(mapper, str(write_raster(tmp_path / "scene.tif", image)), tmp_path / "map.tif")
    answers = []
    for turn, mirrored in itertools.product(range(4), (False, True)):
        seen = np.rot90(image[:, :, ::-1] if mirrored else image, turn, axes=(1, 2)).copy()
        answer = np.rot90(Compass()(torch.from_numpy(seen)[None]).softmax(1)[0].numpy(), -turn, axes=(1, 2))
        answers.append(answer[:, :, ::-1] if mirrored else answer)
    found = [read(tmp_path / "map_probabilities.tif", band) for band in (1, 2, 3)]
    np.testing.assert_allclose(found, np.mean(answers, axis=0), atol=1e-3)


class StopError(Exception):
    """Stands for the end of a process."""


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the store stop everything once some strips are whole."""
    real = StripStore.finish
    count = 0

    def finish(self: StripStore, strip: int) -> None:
        nonlocal count
        if count == after:
            raise StopError
        count += 1
        real(self, strip)

    monkeypatch.setattr(StripStore, "finish", finish)


def test_nothing_reads_a_scene_on_once_a_run_was_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(300, 80), tiled=True, blockxsize=32, blockysize=32)
    mapper = make_trained(tmp_path, window=64)
    interrupt(monkeypatch, 1)
    with pytest.raises(StopError) as stopped:
        map_scene(mapper, str(path), tmp_path / "map.tif")
    assert stopped.tb is not None  # it holds what was under way, whose threads must have ended all the same
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("read")]


@pytest.mark.parametrize("blend", ["cosine", "crop"])
@pytest.mark.parametrize("overlap", [20, 45])
def test_a_run_that_was_broken_off_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, blend: Blend, overlap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(300, 80), tiled=True, blockxsize=32, blockysize=32)
    mapper = make_trained(tmp_path, window=64, overlap=overlap, blend=blend, probabilities="uint8", vector=True)
    whole = map_scene(mapper, str(path), tmp_path / "whole" / "map.tif")
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        with pytest.raises(StopError):
            map_scene(mapper, str(path), tmp_path / "broken" / "map.tif")
    assert [p.name for p in (tmp_path / "broken").iterdir()] == [".map.tif.partial"]
    computed: list[int] = []
    real = Predictor.__call__
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "__call__", lambda self, x, *more: (computed.append(len(x)), real(self, x, *more))[1])
        shown = Shown()
        again = map_scene(mapper, str(path), tmp_path / "broken" / "map.tif", shown)
    advanced = shown.parts["Mapping"]
    assert sum(advanced) == 300 * 80
    assert advanced[0] == sum(row.final - row.first for row in whole.plan.rows[:3]) * 80
    assert sum(computed) < whole.plan.windows
    assert [file.name for file in again.files] == [file.name for file in whole.files]
    for one, other in zip(whole.files, again.files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert sorted(p.name for p in (tmp_path / "broken").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )


@pytest.mark.parametrize("change", ["checkpoint", "overlap", "scene"])
def test_another_checkpoint_setting_or_scene_does_not_go_on_with_strips(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(200, 40))
    mapper = make_mapper(tmp_path, Argmax(), window=32)
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        with pytest.raises(StopError):
            map_scene(mapper, str(path), tmp_path / "map.tif")
    expected = VALUES[noise(200, 40).argmax(0)]
    if change == "checkpoint":
        mapper = make_mapper(tmp_path, Constant(), window=32)
        expected = np.full_like(expected, CLASSES.values[1])
    elif change == "overlap":
        mapper = options(mapper, overlap=30.0)
    else:
        path = write_raster(tmp_path / "scene.tif", noise(200, 40, seed=1))
        expected = VALUES[noise(200, 40, seed=1).argmax(0)]
    shown = Shown()
    found = map_scene(mapper, str(path), tmp_path / "map.tif", shown)
    assert shown.parts["Mapping"][0] == 0
    np.testing.assert_array_equal(read(found.path), expected)


@pytest.mark.parametrize("part", ["write_cog", "write_polygons", "_write_styles", "replace"])
def test_a_run_that_is_broken_off_while_files_are_made_or_moved_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(70, 50))
    mapper = make_trained(tmp_path, probabilities="uint8", vector=True)
    whole = map_scene(mapper, str(path), tmp_path / "whole" / "map.tif")
    calls = itertools.count(1)
    owner = Path if part == "replace" else scene_map
    real = getattr(owner, part)

    def once_more(*arguments: Any, **keys: Any) -> Any:
        moves = part != "replace" or arguments[0].parent.name == "whole"
        if moves and next(calls) == (1 if part in {"write_polygons", "_write_styles"} else 2):
            raise StopError
        return real(*arguments, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(owner, part, once_more)
        with pytest.raises(StopError):
            map_scene(mapper, str(path), tmp_path / "broken" / "map.tif")
    assert not (tmp_path / "broken" / "map.tif").exists()
    assert not (tmp_path / "broken" / "map.json").exists()
    shown = Shown()
    again = map_scene(mapper, str(path), tmp_path / "broken" / "map.tif", shown)
    assert shown.parts["Mapping"] == [70 * 50]
    for one, other in zip(whole.files, again.files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    names = [sorted(p.name for p in (tmp_path / folder).iterdir()) for folder in ("whole", "broken")]
    assert names[0] == names[1]


def test_a_finished_map_is_left_as_it_is_until_something_that_it_is_made_of_changes(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(60, 40))
    mapper = make_mapper(tmp_path, Argmax())
    first = map_scene(mapper, str(path), tmp_path / "map.tif")
    made = first.path.stat().st_mtime_ns
    again = map_scene(mapper, str(path), tmp_path / "map.tif")
    assert (first.made, again.made, again.path.stat().st_mtime_ns) == (True, False, made)
    assert dataclasses.replace(again, made=True) == first
    assert map_scene(options(mapper, vector=True), str(path), tmp_path / "map.tif").made
    assert map_scene(options(mapper, overlap=10.0), str(path), tmp_path / "map.tif").made
    (tmp_path / "map.qml").unlink()
    assert map_scene(options(mapper, overlap=10.0), str(path), tmp_path / "map.tif").made
    write_raster(path, noise(60, 40, seed=1))
    assert map_scene(options(mapper, overlap=10.0), str(path), tmp_path / "map.tif").made
    np.testing.assert_array_equal(read(tmp_path / "map.tif"), VALUES[noise(60, 40, seed=1).argmax(0)])


def test_a_map_is_made_again_when_a_file_that_belongs_to_its_scene_changes(tmp_path: Path) -> None:
    """A mosaic's VRT stays the same when its sources change, and so does a path into an archive."""
    path = write_raster(tmp_path / "scene.tif", noise(60, 40))
    rasterio.shutil.copy(str(path), str(tmp_path / "one.vrt"), driver="VRT")
    (tmp_path / "two.vrt").write_text((tmp_path / "one.vrt").read_text().replace("scene.tif", "one.vrt"))
    rasterio.shutil.copy(str(path), str(tmp_path / "scene.bsq"), driver="ENVI")
    mapper, header = make_mapper(tmp_path, Argmax()), tmp_path / "scene.hdr"

    def made(scene: str) -> bool:
        return map_scene(mapper, scene, tmp_path / f"{Path(scene).stem}_map.tif").made

    def pack() -> None:
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            archive.write(path, "in/packed.tif")

    pack()
    here = (str(tmp_path / name) for name in ("one.vrt", "two.vrt", "scene.bsq"))
    scenes = [*here, f"/vsizip/{tmp_path}/all.zip/in/packed.tif"]
    assert [made(scene) for scene in scenes * 2] == [True] * 4 + [False] * 4
    write_raster(path, noise(60, 40, seed=1))
    pack()
    header.write_text(header.read_text() + "description = { mended }\n")
    assert [made(scene) for scene in scenes * 2] == [True] * 4 + [False] * 4
    np.testing.assert_array_equal(read(tmp_path / "two_map.tif"), VALUES[noise(60, 40, seed=1).argmax(0)])


def test_what_belonged_to_the_map_before_does_not_stay_beside_another(tmp_path: Path) -> None:
    path, output = write_raster(tmp_path / "scene.tif", noise(60, 40)), tmp_path / "map.tif"
    first = make_mapper(tmp_path, Argmax(), probabilities="uint8", vector=True)
    map_scene(first, str(path), output)
    own = {"map.tif", "map.qml", "map.json"}
    layers = {"map_probabilities.tif", "map_uncertainty.tif", "map_polygons.gpkg"}
    assert {file.name for file in tmp_path.glob("map*")} >= own | layers
    (tmp_path / "map_of_mine.tif").write_text("nobody's but mine")
    for name in ("map_areas.csv", "map.qlr", "map_report.html"):  # written last: a run that ends before leaves none
        (tmp_path / name).write_text("of the map before")
    map_scene(make_mapper(tmp_path, Argmax()), str(path), output)
    assert {file.name for file in tmp_path.glob("map*")} - {"map.tif.aux.xml"} == {*own, "map_of_mine.tif"}
    for content in ({"files": {"scene.tif": 1}, "made_of": 1}, {"files": ["map_of_mine.tif"]}, [], {"files": 3}):
        output.with_suffix(".json").write_text(json.dumps(content))  # what is none of our records
        map_scene(make_mapper(tmp_path, Argmax()), str(path), output)
        assert path.is_file()
        assert (tmp_path / "map_of_mine.tif").is_file()


def test_a_map_of_another_suffix_leaves_a_finished_one_alone(tmp_path: Path) -> None:
    """Their records have one name."""
    path, mapper = write_raster(tmp_path / "scene.tif", noise(60, 40)), make_mapper(tmp_path, Argmax())
    for name in ("map.tif", "map.tiff"):
        map_scene(mapper, str(path), tmp_path / name)
    assert (tmp_path / "map.tif").is_file()


def test_strips_that_are_not_gone_on_with_are_said_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path, mapper = write_raster(tmp_path / "scene.tif", noise(60, 40)), make_mapper(tmp_path, Argmax())
    monkeypatch.setattr(scene_map, "write_cog", lambda *_: pytest.fail("broken off"))
    with pytest.raises(pytest.fail.Exception):
        map_scene(mapper, str(path), tmp_path / "map.tif")
    monkeypatch.undo()
    assert map_scene(options(mapper, overlap=10.0), str(path), tmp_path / "map.tif").made
    assert "strips are of a run that differs in options, and are replaced" in caplog.text


def test_a_plain_file_s_record_names_no_further_files(tmp_path: Path) -> None:
    """Else maps that were made before such files counted would be made again."""
    path = write_raster(tmp_path / "scene.tif", noise(60, 40))
    map_scene(make_mapper(tmp_path, Argmax()), str(path), tmp_path / "map.tif")
    made_of = json.loads((tmp_path / "map.json").read_text())["made_of"]
    assert [key for key in made_of if key.startswith("image")] == ["image", "image_bytes", "image_changed"]


def test_two_runs_onto_one_output_are_refused_and_the_first_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(60, 40))
    mapper = make_mapper(tmp_path, Argmax())
    real = scene_map.write_cog

    def meanwhile(*arguments: Any) -> None:
        with pytest.raises(UserError, match=r"map.tif is being made by another run"):
            map_scene(mapper, str(path), tmp_path / "map.tif")
        real(*arguments)

    monkeypatch.setattr(scene_map, "write_cog", meanwhile)
    np.testing.assert_array_equal(
        read(map_scene(mapper, str(path), tmp_path / "map.tif").path), VALUES[noise(60, 40).argmax(0)]
    )
    assert not list(tmp_path.glob(".*"))


def test_a_strip_counts_only_with_its_whole_line(tmp_path: Path) -> None:
    with StripStore(tmp_path, [], 1, 1) as store:
        store.finish(0)
        store.finish(12)
        whole = (tmp_path / "strips").read_bytes()
        store.finish(34)
        last = (tmp_path / "strips").read_bytes()[len(whole) :]
        for left in range(len(last) - 1):  # what a failing machine leaves of the last line
            (tmp_path / "strips").write_bytes(whole + last[:left])
            assert scene_map.finished_strips(tmp_path) == {0, 12}
            store.finish(5)
            assert scene_map.finished_strips(tmp_path) == {0, 5, 12}


def test_two_processes_give_the_same_bytes_as_one(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(260, 90))
    mapper = make_trained(tmp_path, window=64, probabilities="uint8", vector=True)
    one = map_scene(mapper, str(path), tmp_path / "one" / "map.tif")
    shown = Shown()
    two = map_scene(options(mapper, devices=2), str(path), tmp_path / "two" / "map.tif", shown)
    assert list(shown.parts) == [
        "Mapping",
        *(f"Writing map{end}" for end in (".tif", "_probabilities.tif", "_uncertainty.tif", "_polygons.gpkg")),
    ]
    assert sum(shown.parts["Mapping"]) == sum(shown.parts["Writing map_polygons.gpkg"]) == 260 * 90
    for a, b in zip(one.files, two.files, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name


def test_what_goes_wrong_in_a_process_is_raised_here(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(260, 90), compress="deflate", blockysize=4)
    path.write_bytes(path.read_bytes()[:-20_000])
    mapper = make_trained(tmp_path, window=64, devices=2)
    with pytest.raises(UserError, match="cannot be read"):
        map_scene(mapper, str(path), tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()


def test_an_error_of_the_system_in_a_process_is_raised_here_as_what_it_is(tmp_path: Path) -> None:
    """It was said that the process was killed, as when memory runs out."""
    path = write_raster(tmp_path / "scene.tif", noise(90, 64))
    mapper = make_trained(tmp_path)
    (tmp_path / "store/classes.raw").mkdir(parents=True)
    plan = MapPlan(90, 64, (32, 32), (4, 4), "cosine", 1)
    job = StripJob(
        mapper.checkpoint, mapper.fingerprint, str(path), plan, tmp_path / "store", "cpu", False, None, processes=2
    )
    with pytest.raises(IsADirectoryError) as caught:
        map_in_processes(job, [0], 1)
    assert caught.value.filename == str(tmp_path / "store/classes.raw")
    assert "In a process that maps strips" in caught.value.__notes__[0]


def test_an_error_that_cannot_be_sent_is_sent_in_words() -> None:
    class OwnError(Exception):
        """Of a class that another process does not find."""

    sent = processes._sendable(OwnError("of a package"))
    assert isinstance(sent, RuntimeError)
    assert str(sent) == "OwnError: of a package"
    assert type(processes._sendable(torch.OutOfMemoryError("CUDA out of memory."))) is torch.OutOfMemoryError


def test_a_map_is_recorded_under_the_file_that_its_network_was_loaded_from(tmp_path: Path) -> None:
    """The file was hashed when the first scene was mapped: a training that goes on replaces it."""
    path, checkpoint = write_raster(tmp_path / "scene.tif", noise(60, 40)), make_trained(tmp_path).checkpoint
    loaded = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    mapper = Mapper.load(checkpoint, accelerator="cpu")
    (tmp_path / "next").mkdir()
    make_trained(tmp_path / "next", "compact_unet", chip=64).checkpoint.replace(checkpoint)
    map_scene(mapper, str(path), tmp_path / "map.tif")
    assert json.loads((tmp_path / "map.json").read_text())["made_of"]["checkpoint"] == loaded
    assert map_scene(Mapper.load(checkpoint, accelerator="cpu"), str(path), tmp_path / "map.tif").made


def test_the_strips_of_a_map_are_of_one_network(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(260, 90))
    mapper = Mapper.load(make_trained(tmp_path).checkpoint, MapOptions(window=64, devices=2), "cpu")
    (tmp_path / "next").mkdir()
    make_trained(tmp_path / "next", chip=64).checkpoint.replace(mapper.checkpoint)
    with pytest.raises(UserError, match=r"network\.ckpt was replaced after it was loaded"):
        map_scene(mapper, str(path), tmp_path / "map.tif")


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    checkpoint, reads = make_trained(tmp_path).checkpoint, itertools.count()
    (tmp_path / "next").mkdir()
    later = make_trained(tmp_path / "next", chip=64).checkpoint

    def replaced(path: Path) -> Any:
        found = load_network(path)
        if next(reads) == 0:
            shutil.copy(later, tmp_path / "copy")
            (tmp_path / "copy").replace(path)
        return found

    (_, spec), digest = network_file.hashed(checkpoint, replaced)
    assert (spec.chip_size, digest) == ((64, 64), hashlib.sha256(later.read_bytes()).hexdigest())
    with pytest.raises(UserError, match=r"network\.ckpt was replaced each of the 5 times"):
        network_file.hashed(checkpoint, lambda path: os.utime(path, ns=(0, next(reads))))


def test_the_first_process_leaves_its_gpu_before_others_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, done = write_raster(tmp_path / "scene.tif", noise(90, 64)), list[str]()
    mapper = make_trained(tmp_path, devices=2, window=32)

    def start(*_: Any) -> None:
        done.append("started")
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "leave", lambda _: done.append("left"))
        patch.setattr(scene_map, "map_in_processes", start)
        with pytest.raises(StopError):
            map_scene(mapper, str(path), tmp_path / "map.tif")
    assert done == ["left", "started"]
    predictor = Predictor(mapper.network, mapper.device, chip_size=(32, 32))
    predictor.device = torch.device("cuda")
    monkeypatch.setattr(Network, "cpu", lambda _: done.append("moved"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("emptied"))
    predictor.leave()
    assert done[2:] == ["moved", "moved", "emptied"]


def test_a_map_is_made_again_when_other_bands_are_named_beside_its_scene(tmp_path: Path) -> None:
    """Names decide which band is which; they were not looked at, since programs write that file by themselves."""
    path = write_raster(tmp_path / "scene.tif", noise(60, 40))
    mapper, names = make_mapper(tmp_path, Argmax()), [f"<Description>{name}</Description>" for name in "abc"]
    mapper = dataclasses.replace(mapper, spec=dataclasses.replace(mapper.spec, bands=tuple(Band(n) for n in "abc")))

    def made(order: str) -> bool:
        bands = "".join(
            f'<PAMRasterBand band="{i}">{names["abc".index(name)]}</PAMRasterBand>' for i, name in enumerate(order, 1)
        )
        (tmp_path / "scene.tif.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")
        return map_scene(mapper, str(path), tmp_path / "map.tif").made

    assert [made(order) for order in ("abc", "abc", "cba")] == [True, False, True]
    np.testing.assert_array_equal(read(tmp_path / "map.tif"), VALUES[noise(60, 40)[::-1].argmax(0)])


def test_a_map_is_made_again_when_a_folder_that_is_its_scene_changes_below(tmp_path: Path) -> None:
    path, scene = write_raster(tmp_path / "scene.tif", noise(60, 40)), tmp_path / "scene.zarr"
    rasterio.shutil.copy(str(path), str(scene), driver="Zarr")
    rasterio.shutil.copy(str(scene), str(tmp_path / "scene.vrt"), driver="VRT")
    mapper, given = make_mapper(tmp_path, Argmax()), (scene, tmp_path / "scene.vrt", tmp_path / "scene.vrt")
    chunk = min(file for file in scene.glob("*/*") if not file.name.startswith("."))

    def made() -> list[bool]:
        return [map_scene(mapper, str(s), tmp_path / f"{s.suffix[1:]}_map.tif").made for s in given]

    assert (made(), made()) == ([True, True, False], [False] * 3)
    os.utime(chunk, ns=(0, time.time_ns()))
    assert (made(), made()) == ([True, True, False], [False] * 3)


def test_a_scene_that_ends_in_the_middle_leaves_no_map(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(300, 90), compress="deflate", blockysize=4)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"scene.tif cannot be read as a raster .* whole file"):
        map_scene(make_mapper(tmp_path, Argmax(), window=32), str(path), tmp_path / "out" / "map.tif")
    assert not list((tmp_path / "out").glob("map*"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"overlap": 50.0}, "overlap=50 is not possible"),
        ({"overlap": -1.0}, "overlap=-1 is not possible"),
        ({"window": 12, "overlap": 20.0}, "window=12 has nothing inside"),
        ({"batch_size": 0}, "batch_size=0 is no number"),
    ],
)
def test_impossible_windows_are_refused(tmp_path: Path, wrong: dict[str, Any], words: str) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(60, 60))
    mapper = dataclasses.replace(make_mapper(tmp_path, Argmax()), options=MapOptions(**wrong))
    with pytest.raises(UserError, match=words):
        map_scene(mapper, str(path), tmp_path / "map.tif")


def test_a_window_that_the_network_cannot_take_names_those_it_can(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(60, 60))
    with pytest.raises(UserError, match="window=47 is not taken by test; it takes 40 or 48 px"):
        map_scene(make_mapper(tmp_path, Halving(), window=47), str(path), tmp_path / "map.tif")


def test_a_full_disk_is_one_line_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_raster(tmp_path / "scene.tif", noise(60, 60))
    monkeypatch.setattr(scene_map.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(UserError, match=r"GB free; mapping .* needs at least"):
        map_scene(make_mapper(tmp_path, Argmax()), str(path), tmp_path / "map.tif")


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_reader_keeps_rows_that_windows_share(
    tmp_path: Path, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_rows, "MEMORY_BYTES", kept_rows.MEMORY_BYTES if in_memory else 0)
    image = (noise(50, 40) * 255).astype(np.uint8)
    path = write_raster(tmp_path / "scene.tif", image, blockysize=2)
    mapper = make_mapper(tmp_path, Argmax())
    with scene_reader.open_scene(str(path), mapper.spec, tmp_path) as reader:
        for row, column in [(0, 0), (0, 30), (7, 8), (30, 30), (44, 0), (3, 3)]:
            patch = reader.read(scene_reader.Window(row, column, 20, 20))
            padded = np.zeros((3, 80, 80), np.uint8)
            padded[:, :50, :40] = image
            np.testing.assert_array_equal(patch.image, padded[:, row : row + 20, column : column + 20])
            inside = np.zeros((80, 80), bool)
            inside[:50, :40] = True
            np.testing.assert_array_equal(patch.valid, inside[row : row + 20, column : column + 20])


@pytest.mark.parametrize(
    ("stored", "few", "whole", "together"), [(1, 640, 0, 64), (7, 640, 0, 63), (150, 640, 10**6, 150), (150, 20, 0, 2)]
)
def test_rows_that_are_read_together_are_whole_blocks_of_the_file_within_bounds(
    tmp_path: Path, stored: int, few: int, whole: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_bytes = 40 * 5  # three bands and two masks of a byte
    monkeypatch.setattr(scene_reader, "ROW_BYTES", few * row_bytes // 10)
    monkeypatch.setattr(scene_reader, "STRIP_BYTES", whole)
    path = write_raster(tmp_path / "scene.tif", np.ones((3, 200, 40), np.uint8), blockysize=stored)
    with scene_reader.open_scene(str(path), make_mapper(tmp_path, Argmax()).spec) as reader:
        assert reader.block_rows == together


@pytest.mark.parametrize("layout", [{"tiled": True, "blockxsize": 64, "blockysize": 64}, {"blockysize": 3}])
def test_what_is_held_does_not_grow_with_a_scene_s_height(
    tmp_path: Path, layout: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted: what numpy and Python hold at a time in each part of the work, and what PyTorch's operations gave.

    How many blocks wait to be written is bounded but depends on who is faster, so here each is waited for.
    """
    monkeypatch.setattr(strips, "BackgroundWriter", partial(strips.BackgroundWriter, depth=0))
    width, mapper = 512, make_mapper(tmp_path, Blur(), window=128, batch_size=1, probabilities="uint8")

    def most_held(height: int) -> dict[str, int]:
        values = np.random.default_rng(0).integers(0, 255, (3, height // 64, width // 64), np.uint8)
        path = write_raster(tmp_path / f"{height}.tif", values.repeat(64, 1).repeat(64, 2), **layout)
        peaks: dict[str, int] = {}

        @contextlib.contextmanager
        def shown(what: str, _: int | None) -> Iterator[Callable[[int], None]]:
            tracemalloc.reset_peak()
            yield lambda _: None
            peaks[what] = tracemalloc.get_traced_memory()[1]

        tracemalloc.start()
        try:
            with lanes._Held() as held:
                map_scene(mapper, path, tmp_path / str(height) / "map.tif", shown)
        finally:
            tracemalloc.stop()
        return peaks | {"tensors": held.most}

    low, high = (most_held(height) for height in (512, 1536))
    assert len(low) == 5
    assert {what: high[what] - low[what] for what in low if high[what] - low[what] > (1536 - 512) * width / 4} == {}


def test_probabilities_and_uncertainty_are_what_the_network_says(tmp_path: Path) -> None:
    image = noise(40, 50) * 3
    image[:, 0, 0] = np.nan
    path = write_raster(tmp_path / "scene.tif", image)
    expected = torch.from_numpy(image).softmax(0).numpy()
    entropy = -(expected * np.log(expected)).sum(0) / np.log(3)
    for kind, tolerance, nodata in (("uint8", 0.0021, 255), ("float16", 0.0005, -1)):
        map_scene(make_mapper(tmp_path, Argmax(), probabilities=kind), str(path), tmp_path / kind / "map.tif")
        with rasterio.open(tmp_path / kind / "map_probabilities.tif") as dataset:
            assert dataset.descriptions == CLASSES.names
            assert dataset.nodata == nodata
            stored, scale = dataset.read(), dataset.scales[0]
            bits = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
        half = [(np.float32, "16"), (np.float16, None)]  # how rasterio 1.4 and 1.5 put it
        assert (stored.dtype, bits) in ([(np.uint8, None)] if kind == "uint8" else half)
        assert (stored[:, 0, 0] == nodata).all()
        np.testing.assert_allclose((stored * scale)[:, 1:], expected[:, 1:], atol=tolerance)
        with rasterio.open(tmp_path / kind / "map_uncertainty.tif") as dataset:
            assert dataset.nodata == nodata
            np.testing.assert_allclose(dataset.read(1)[1:] * dataset.scales[0], entropy[1:], atol=tolerance)


def test_what_a_survey_shows_is_every_nth_pixel_of_map_and_known_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, classes = np.random.default_rng(0), ClassTable.build([1, 2])
    mapped, truth = rng.integers(1, 3, (1100, 40), np.uint8), rng.integers(0, 4, (1100, 40), np.uint8)
    mapped[:100] = 0
    write_geotiff(tmp_path / "map.tif", mapped, crs=None, transform=(1, 0, 0, 0, -1, 0), nodata=0)

    class Label:
        def read(self, window: Window) -> npt.NDArray[np.uint8]:
            return truth[window.row : window.row + window.height]

    monkeypatch.setattr(map_scores, "BLOCK_PIXELS", 1)  # three blocks of rows
    monkeypatch.setattr(map_scores, "SAMPLE_SIDE", 150)
    found = map_scores.survey(tmp_path / "map.tif", classes, Label())
    assert found.sample is not None
    assert (found.sample[0] == mapped[::8, ::8]).all()
    assert (found.sample[1] == np.where(truth == 3, 0, truth)[::8, ::8]).all()
    assert found.unknown == {3: ((truth == 3) & (mapped > 0)).sum()}
    assert map_scores.survey(tmp_path / "map.tif", classes).sample is None
