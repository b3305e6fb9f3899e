"""What a map is made of or scored against is never written over, whoever asks for the map."""

from __future__ import annotations

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from src.errors import UserError
from src.fingerprints import companions
from src.mapping.options import MapOptions
from src.mapping.scene_map import Mapper, map_scene
from src.tasks.schema import PredictConfig
from tests.mapping_scenes import Argmax, make_mapper, noise, read, write_raster


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(mapper: Mapper, image: str | Path, output: Path, words: str, **given: Any) -> None:
    """See that a map is refused in one line and nothing is touched."""
    before = content(output.parent)
    with pytest.raises(UserError, match=words) as caught:
        map_scene(mapper, image, output, **given)
    assert "\n" not in str(caught.value)
    assert content(output.parent) == before


@pytest.fixture
def mapper(tmp_path: Path) -> Mapper:
    return make_mapper(tmp_path, Argmax(), vector=True, probabilities="uint8")


def test_the_scene_is_refused_as_its_own_map(tmp_path: Path, mapper: Mapper) -> None:
    """Three bands of it became one of classes, without an error."""
    image = write_raster(tmp_path / "scene.tif", (noise(60, 40) * 9000).astype(np.uint16))
    refused(mapper, image, image, "is the scene itself; expected another file")
    refused(mapper, str(image), tmp_path / "x" / ".." / "scene.tif", "is the scene itself")
    (tmp_path / "link.tif").symlink_to(image)
    refused(mapper, image, tmp_path / "link.tif", "is the scene itself")
    assert map_scene(mapper, image, tmp_path / "map.tif").made


@pytest.mark.parametrize("end", [".aux.xml", ".msk", ".ovr"])
def test_what_gdal_keeps_beside_a_scene_is_refused(tmp_path: Path, mapper: Mapper, end: str) -> None:
    image = write_raster(tmp_path / "scene.tif", noise(600, 40))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False, TIFF_USE_OVR=True), rasterio.open(image, "r+") as dataset:
        if end == ".msk":
            dataset.write_mask(np.full((600, 40), 255, np.uint8))
        elif end == ".ovr":
            dataset.build_overviews([2])
    beside = tmp_path / f"scene.tif{end}"
    if end == ".aux.xml":
        beside.write_text('<PAMDataset><Metadata><MDI key="author">me</MDI></Metadata></PAMDataset>')
    assert beside.is_file()
    refused(mapper, image, beside, rf"output would write .*scene\.tif{end}, which is the scene .* is made of")
    assert (str(beside) in companions(str(image))) == (end == ".msk")  # others are written by whoever looks at it


def test_a_scene_s_header_sources_and_archive_are_refused(tmp_path: Path, mapper: Mapper) -> None:
    image = write_raster(tmp_path / "scene.tif", noise(60, 40))
    rasterio.shutil.copy(str(image), str(tmp_path / "envi.bsq"), driver="ENVI")
    refused(mapper, tmp_path / "envi.bsq", tmp_path / "envi.hdr", r"envi\.hdr, which is the scene .* is made of")
    rasterio.shutil.copy(str(image), str(tmp_path / "mosaic.vrt"), driver="VRT")
    refused(mapper, tmp_path / "mosaic.vrt", image, r"scene\.tif, which is the scene .* is made of")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(image, "packed.tif")
    packed = f"/vsizip/{tmp_path}/all.zip/packed.tif"
    refused(mapper, packed, tmp_path / "all.zip", r"all\.zip, which is the scene .* is made of")


@pytest.mark.parametrize("name", ["map.tif", "map_probabilities.tif", "map_areas.csv", "confusion.png"])
def test_the_label_is_refused_where_it_is_named(tmp_path: Path, mapper: Mapper, name: str) -> None:
    image, label = write_raster(tmp_path / "scene.tif", noise(60, 40)), tmp_path / name
    write_raster(tmp_path / "label.tif", np.ones((1, 60, 40), np.uint8)).rename(label)
    refused(mapper, image, tmp_path / "map.tif", "is the label itself", label=label)


def test_the_checkpoint_is_refused(tmp_path: Path, mapper: Mapper) -> None:
    image, named = write_raster(tmp_path / "scene.tif", noise(60, 40)), tmp_path / "map_uncertainty.tif"
    shutil.copy(mapper.checkpoint, named)
    refused(dataclasses.replace(mapper, checkpoint=named), image, tmp_path / "map.tif", "is the checkpoint itself")


def test_a_training_s_description_and_a_folder_are_refused(tmp_path: Path, mapper: Mapper) -> None:
    image, folder = write_raster(tmp_path / "scene.tif", noise(60, 40)), tmp_path / "train"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"command": [], "config": {}}))
    refused(mapper, image, folder / "run.tif", r"run\.json, but .*train is the folder of a training")
    refused(mapper, image, folder, "train is a folder; expected a file to write")


def test_a_map_that_is_there_may_be_replaced(tmp_path: Path, mapper: Mapper) -> None:
    label = write_raster(tmp_path / "label.tif", np.ones((1, 60, 40), np.uint8))
    for seed in (0, 1):
        image = write_raster(tmp_path / "scene.tif", noise(60, 40, seed))
        assert map_scene(mapper, image, tmp_path / "map.tif", label=label).made
        np.testing.assert_array_equal(read(tmp_path / "map.tif") > 0, np.ones((60, 40), bool))


def test_options_have_the_names_and_defaults_of_the_command_s_keys() -> None:
    """Four of them had two names: who knew the command's could not use them from Python."""
    options, keys = MapOptions(), PredictConfig()
    others = {"probabilities": {None: False}}  # the command takes true and false too
    for name, value in dataclasses.asdict(options).items():
        assert others.get(name, {}).get(value, value) == getattr(keys, name), name
    assert set(options.numbers) | set(options.files) == set(dataclasses.asdict(options)) - {"devices"}
