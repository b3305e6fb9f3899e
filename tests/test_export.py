"""Exported networks: the same probabilities as PyTorch's, for any size, in any program, predict.py among them."""

from __future__ import annotations

import ast
import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pystac
import pytest
import rasterio
import torch
from pystac.stac_object import STACObjectType
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from stac_model.schema import SCHEMA_URI, MLModelProperties

from src.bands import Band, Normalization, all_measured
from src.errors import UserError
from src.labels import ClassTable
from src.mapping.scene_map import MapOptions, Mapper, map_scene
from src.models import onnx_file
from src.models.checkpoint import TrainedOn, load_network, save_network
from src.models.network import build_network
from src.models.onnx_file import probabilities_of
from src.raster.write import write_geotiff
from src.spec import NetworkSpec
from src.tasks.export import deepness_metadata, export
from src.tasks.schema import ExportConfig
from tests.chip_folder import make_chip_folder

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


def test_how_far_the_file_is_off_is_said(checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "src.tasks.export")
    chips = make_chip_folder(tmp_path / "chips", size=16, names=[band.name for band in BANDS])
    settings = ExportConfig(checkpoint=str(checkpoint), data_dir=str(chips), chips=3)
    difference = export(settings, tmp_path / "model.onnx")
    assert f"difference of a probability from PyTorch's {difference:.2g}, on 3 chips of {chips}" in caplog.text
    assert "windows of any size" in caplog.text
    assert 0 < difference < 1e-5


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


def test_the_item_says_what_trained_the_model_and_what_wrote_the_file(checkpoint: Path, tmp_path: Path) -> None:
    """The file was called one of ONNX in PyTorch's version."""
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["versions"]["torch"] = "2.9.1"
    torch.save(content, tmp_path / "old.ckpt")
    export(ExportConfig(checkpoint=str(tmp_path / "old.ckpt"), chips=1), tmp_path / "model.onnx")
    item = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    for said, expected in (
        (item["properties"], ("PyTorch", "2.9.1")),
        (item["assets"]["model"], ("ONNX", onnx.__version__)),
    ):
        assert (said["mlm:framework"], said["mlm:framework_version"]) == expected


def test_the_item_is_one_by_the_stac_standard_and_by_the_model_extensions_authors(exported: Path) -> None:
    item = json.loads(exported.with_suffix(".json").read_text(encoding="utf-8"))
    JsonSchemaSTACValidator().validate_core(item, STACObjectType.ITEM, item["stac_version"])  # its schemas are local
    assert SCHEMA_URI in item["stac_extensions"]
    read = pystac.Item.from_dict(item)
    properties = MLModelProperties.model_validate(read.properties)
    assert properties.tasks == {"semantic-segmentation"}
    assert properties.input[0].input.dim_order == ["batch", "bands", "height", "width"]
    assert properties.output[0].result.shape == [-1, 2, -1, -1]
    written = json.loads(properties.model_dump_json(by_alias=True, exclude_none=True))
    # What they would write says the same; nothing of ours is a key that they do not know.
    assert {key for key in item["properties"] if key.startswith("mlm:")} <= set(written)


def test_an_encoder_of_one_size_is_exported_for_that_size_and_maps(tmp_path: Path) -> None:
    """CoAtNet's attention adds a bias to each pair of places in the chip."""
    spec = dataclasses.replace(SPEC, architecture="unet", encoder="tu-coatnet_pico_rw_224", chip_size=(32, 32))
    path, item = _exported(spec, tmp_path)
    assert _shape(path) == [None, 3, 32, 32]
    assert item["properties"]["mlm:input"][0]["input"]["shape"] == [-1, 3, 32, 32]
    image = scene(50, 40)
    write_geotiff(tmp_path / "scene.tif", image, crs=None, transform=(1, 0, 0, 0, -1, 0), nodata=-9999, bands=BANDS)
    network, read = load_network(path)
    mapper = Mapper(path, network, read, torch.device("cpu"), MapOptions())
    map_scene(mapper, str(tmp_path / "scene.tif"), tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as result:
        assert (result.read(1) > 0).sum() == 50 * 40 - 16


def test_a_vision_transformer_is_exported_for_any_size(tmp_path: Path) -> None:
    """Its positions are interpolated inside the graph; export.py compares a chip of twice the size, too."""
    spec = dataclasses.replace(SPEC, architecture="dpt", encoder="tu-vit_tiny_patch16_224", chip_size=(32, 32))
    path, _ = _exported(spec, tmp_path)
    assert _shape(path) == [None, 3, None, None]
    images = np.random.default_rng(0).normal(600, 300, (1, 3, 64, 96)).astype(np.float32)
    network, _ = load_network(tmp_path / "best.ckpt")
    with torch.inference_mode():
        expected = network(torch.from_numpy(images), torch.ones(1, 64, 96, dtype=torch.bool)).softmax(1).numpy()
    np.testing.assert_allclose(probabilities_of(path, images), expected, atol=1e-3)


@pytest.mark.parametrize("trouble", ["refused", "other numbers"])
def test_where_a_graph_for_any_size_is_none_it_is_one_for_the_chips_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    trace = onnx_file._traced

    def traced(exported: onnx_file.Exported, example: torch.Tensor, free: bool) -> Any:
        if free and trouble == "refused":
            raise torch.onnx.errors.OnnxExporterError("cannot be solved")
        if free:  # a size that the exporter has taken for a constant
            exported.register_forward_pre_hook(lambda _, images: (images[0].clamp(max=1),))
        return trace(exported, example, free)

    monkeypatch.setattr(onnx_file, "_traced", traced)
    path, item = _exported(SPEC, tmp_path)
    assert _shape(path) == [None, 3, 16, 16]
    assert item["properties"]["mlm:output"][0]["result"]["shape"] == [-1, 2, 16, 16]


def _exported(spec: NetworkSpec, folder: Path) -> tuple[Path, dict[str, Any]]:
    torch.manual_seed(0)
    save_network(folder / "best.ckpt", build_network(spec), spec, {})
    path = folder / "model.onnx"
    assert export(ExportConfig(checkpoint=str(folder / "best.ckpt"), chips=1), path) < 1e-3
    return path, json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def _shape(path: Path) -> list[int | None]:
    (given,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()
    return [size if isinstance(size, int) else None for size in given.shape]


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


@pytest.mark.parametrize(("nodata", "mean"), [(-1.7976931348623157e308, 500.0), (0.0, 3e-7)])
def test_what_is_no_measurement_is_so_in_the_file_and_nothing_else(tmp_path: Path, nodata: float, mean: float) -> None:
    """Beside the lowest float64, infinite in float32, or a nodata value of 0 and small numbers all was nodata."""
    used = (True, True, False)
    spec = dataclasses.replace(
        SPEC, nodata=nodata, normalization=Normalization(used, 1.0, (mean, mean, 0.0), (mean / 3, mean / 3, 1.0))
    )
    path, _ = _exported(spec, tmp_path)
    image = np.random.default_rng(0).normal(mean, mean / 3, (3, 16, 16)).astype(np.float32)
    with np.errstate(over="ignore"):
        image[0, :4] = np.float32(nodata)
    valid = torch.from_numpy(all_measured(image, nodata, used))[None]
    assert valid.float().mean() == 0.75
    images = torch.from_numpy(image[None])
    network, _ = load_network(tmp_path / "best.ckpt")
    with torch.inference_mode():
        expected = network(images, valid).softmax(1).numpy()
    np.testing.assert_allclose(probabilities_of(path, image[None]), expected, atol=1e-5)
    with torch.inference_mode():
        np.testing.assert_allclose(load_network(path)[0](images, valid).softmax(1).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("nodata", [0.0, -9999.0])
def test_a_raster_with_another_nodata_value_may_have_the_chips_as_data(tmp_path: Path, nodata: float) -> None:
    """The file masks the training chips' value; a map or a score by it goes by what the raster declares."""
    normalization = Normalization((True, True, False), 1.0, (400.0, 300.0, 0.0), (600.0, 500.0, 1.0))
    spec = dataclasses.replace(SPEC, nodata=nodata, normalization=normalization)
    path, _ = _exported(spec, tmp_path)
    image = torch.from_numpy(np.random.default_rng(0).normal(400, 600, (1, 3, 16, 16)).astype(np.float32))
    image[:, 0, 4:8] = nodata
    valid = torch.ones(1, 16, 16, dtype=torch.bool)
    networks = [load_network(p)[0] for p in (tmp_path / "best.ckpt", path)]
    with torch.inference_mode():
        expected, found = (network(image, valid).softmax(1).numpy() for network in networks)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_file_that_fails_at_another_size_is_one_for_the_chips_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime raises where a graph has taken a size for a constant."""
    run = probabilities_of

    def fixed(path: Path, images: np.ndarray) -> np.ndarray:
        if images.shape[2] > 16:
            raise RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT")
        return run(path, images)

    monkeypatch.setattr("src.tasks.export.probabilities_of", fixed)
    path, _ = _exported(SPEC, tmp_path)
    assert _shape(path) == [None, 3, 16, 16]


@pytest.mark.parametrize("content", ['{"files": {"model.tif": 3}, "made_of": {}}', "{", "[]"])
def test_the_description_is_not_written_over_what_is_none(checkpoint: Path, tmp_path: Path, content: str) -> None:
    """As the record of a map or of a training."""
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(UserError, match=r"over .*model\.json, which is something else.*Give another output\."):
        export(ExportConfig(str(checkpoint)), tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    assert (tmp_path / "model.json").read_text() == content


@pytest.mark.parametrize("chips", [0, -1])
def test_a_comparison_needs_a_chip(checkpoint: Path, tmp_path: Path, chips: int) -> None:
    with pytest.raises(UserError, match=rf"chips={chips} leaves nothing to compare on"):
        export(ExportConfig(checkpoint=str(checkpoint), chips=chips), tmp_path / "m.onnx")


def test_an_export_that_computes_something_else_is_not_kept(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    save_network(tmp_path / "other.ckpt", build_network(SPEC), SPEC, {})
    monkeypatch.setattr("src.tasks.export.write_onnx", lambda path, *_, **__: shutil.copy(exported, path))
    with pytest.raises(UserError, match=r"off PyTorch's on 1 images of noise"):
        export(ExportConfig(checkpoint=str(tmp_path / "other.ckpt"), chips=1), tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["other.ckpt"]


def test_an_exported_network_names_no_data_folder(exported: Path) -> None:
    assert Mapper.load(exported, accelerator="cpu").trained_on == TrainedOn()


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
