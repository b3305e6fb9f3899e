"""Exported networks: the same probabilities as PyTorch's, for any size, in any program, predict.py among them."""

from __future__ import annotations

import ast
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import rasterio
import torch

from src.bands import Band, Normalization
from src.errors import UserError
from src.labels import ClassTable
from src.mapping.scene_map import MapOptions, Mapper, map_scene
from src.models.checkpoint import load_network, save_network
from src.models.network import build_network
from src.raster.write import write_geotiff
from src.spec import NetworkSpec
from src.tasks.export import deepness_metadata, export
from src.tasks.schema import ExportConfig

CLASSES = ClassTable.build([2, 7], {2: "bog & fen", 7: "water"})
BANDS = (Band("red"), Band("nir"), Band("noise"))
NORMALIZATION = Normalization((True, True, False), 10.0, (50.0, 80.0, 0.0), (20.0, 30.0, 1.0))
SPEC = NetworkSpec("justo_unet_simple", "none", {}, BANDS, NORMALIZATION, -9999.0, CLASSES, (16, 16))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    save_network(path, build_network(SPEC), SPEC, {"data_dir": "not/here"})
    return path


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    path = checkpoint.with_name("model.onnx")
    difference = export(ExportConfig(checkpoint=str(checkpoint), chips=2), path)
    assert difference < 1e-5
    return path


def scene(height: int = 40, width: int = 23) -> np.ndarray:
    image = np.random.default_rng(0).normal(600, 300, (3, height, width)).astype(np.float32)
    image[0, :3, :5] = -9999
    image[1, 5, 5] = np.nan
    image[2] = np.inf  # a band that is not used
    return image


def test_any_program_gets_pytorchs_probabilities_for_any_size(exported: Path, checkpoint: Path) -> None:
    network, _ = load_network(checkpoint)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    image = scene()
    valid = torch.from_numpy(np.isfinite(image[:2]).all(0) & (image[:2] != -9999).all(0))
    for batch in (1, 3):
        images = np.repeat(image[None], batch, 0)
        (found,) = session.run(None, {session.get_inputs()[0].name: images / np.float32(255)})
        with torch.inference_mode():
            expected = network(torch.from_numpy(images), valid.expand(batch, -1, -1)).softmax(1).numpy()
        assert found.shape == (batch, 2, 40, 23)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_deepness_finds_what_it_reads(exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert given.shape[1] == 3
    assert not isinstance(given.shape[0], int)
    assert result.shape[1] == 2
    assert result.shape[2] == result.shape[3]  # it refuses outputs that are not square
    metadata = session.get_modelmeta().custom_metadata_map
    assert str(json.loads(metadata["model_type"])).capitalize() == "Segmentor"
    names = ast.literal_eval(metadata["class_names"])
    assert [names[str(index)] for index in range(2)] == ["bog & fen", "water"]
    assert int(json.loads(metadata["tile_size"])) == int(json.loads(metadata["tiles_size"])) == 16
    assert int(json.loads(metadata["tiles_overlap"])) == 20
    assert float(json.loads(metadata["seg_thresh"])) == 0
    assert "resolution" not in metadata
    assert deepness_metadata(SPEC, 10.0)["resolution"] == 1000


def test_the_item_describes_the_model(exported: Path) -> None:
    item = json.loads(exported.with_suffix(".json").read_text(encoding="utf-8"))
    assert (exported.parent / item["assets"]["model"]["href"]).is_file()
    properties = item["properties"]
    assert properties["mlm:input"][0]["bands"] == ["red", "nir", "noise"]
    assert properties["mlm:input"][0]["input"]["shape"] == [-1, 3, -1, -1]
    classes = properties["mlm:output"][0]["classification:classes"]
    assert [entry["description"] for entry in classes] == ["bog & fen", "water"]
    assert properties["mlm:total_parameters"] == sum(p.numel() for p in build_network(SPEC).parameters())


def test_a_map_by_the_exported_network_is_the_same(exported: Path, checkpoint: Path, tmp_path: Path) -> None:
    write_geotiff(tmp_path / "scene.tif", scene(), crs=None, transform=(1, 0, 0, 0, -1, 0), nodata=-9999, bands=BANDS)
    maps = []
    for path in (checkpoint, exported):
        network, spec = load_network(path)
        assert spec == SPEC
        mapper = Mapper(path, network, spec, torch.device("cpu"), MapOptions(window=24))
        output = tmp_path / f"{path.stem}_map.tif"
        map_scene(mapper, str(tmp_path / "scene.tif"), output)
        with rasterio.open(output) as result:
            maps.append(result.read(1))
    assert (maps[0] == maps[1]).mean() > 0.995  # bfloat16 or float32 may decide ties
    assert (maps[1][:3, :5] == 0).all()
    assert (maps[1] > 0).sum() == 40 * 23 - 16


def test_an_export_that_computes_something_else_is_not_kept(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    save_network(tmp_path / "other.ckpt", build_network(SPEC), SPEC, {})
    monkeypatch.setattr("src.tasks.export.write_onnx", lambda path, *_: bool(shutil.copy(exported, path)))
    with pytest.raises(UserError, match=r"off PyTorch's on 1 images of noise"):
        export(ExportConfig(checkpoint=str(tmp_path / "other.ckpt"), chips=1), tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["other.ckpt"]


def test_what_is_no_exported_network_is_refused(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="cannot be read as ONNX"):
        load_network(tmp_path / "broken.onnx")
    with pytest.raises(UserError, match=r"does not end in \.onnx"):
        export(ExportConfig(checkpoint=str(checkpoint)), tmp_path / "model.pt")
    with pytest.raises(UserError, match="is an ONNX file already"):
        export(ExportConfig(checkpoint=str(exported)), tmp_path / "model.onnx")


def test_exporting_prints_nothing_of_its_own(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("onnx_ir").setLevel(logging.NOTSET)
    export(ExportConfig(checkpoint=str(checkpoint), chips=1), tmp_path / "m.onnx")
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "nitializer" not in shown.err
