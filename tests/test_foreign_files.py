"""Somebody else's checkpoint or data folder is data: nothing in it is run, fetched, or read from elsewhere."""

from __future__ import annotations

import builtins
import io
import json
import math
import os
import pickle
import socket
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from src.bands import Band
from src.chips import read_labelled
from src.datafolder import read_data_folder
from src.errors import UserError
from src.figures import draw_confusion
from src.labels import ClassTable
from src.mapping.areas import ClassArea, write_areas_csv
from src.mapping.cog import Layer, virtual_raster
from src.mapping.styles import polygon_style, raster_style
from src.models.checkpoint import load_network, read_checkpoint, save_network
from src.models.network import build_network
from src.models.onnx_file import SPEC
from src.models.pretrained import read_weights
from src.models.restart import start_from
from src.models.specdeepmap import read_foreign
from src.quicklook import chip_picture
from src.raster.read import describe, open_chip, open_raster
from src.report.charts import Curve, chart, curves_figure
from src.score_files import score_table
from src.scores import Evaluation, Scores
from src.tables import Sample
from src.text_table import write_csv
from tests.chip_folder import make_chip_folder
from tests.mapping_scenes import write_raster
from tests.test_spec import NETWORK


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class SetsState:
    """Runs code when its state is put back."""

    def __init__(self, proof: Path) -> None:
        self.proof = str(proof)

    def __setstate__(self, state: dict[str, Any]) -> None:
        Path(state["proof"]).touch()


def saved(path: Path, thing: Any) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {"spec": thing}}, path)


def system(path: Path, proof: Path) -> None:
    saved(path, Calls(os.system, f"touch {proof}"))


def evaluated(path: Path, proof: Path) -> None:
    saved(path, Calls(builtins.eval, f"open({str(proof)!r}, 'w')"))


def state(path: Path, proof: Path) -> None:
    saved(path, SetsState(proof))


def getattribute(path: Path, proof: Path) -> None:
    saved(path, Calls(getattr, Calls(__import__, "pathlib"), "Path"))
    del proof


def storage(path: Path, proof: Path) -> None:
    """A storage whose bytes are a pickle of their own, which PyTorch once read without looking."""
    inner = io.BytesIO()
    torch.save(Calls(os.system, f"touch {proof}"), inner)
    saved(path, Calls(torch.storage._load_from_bytes, inner.getvalue()))


def legacy(path: Path, proof: Path) -> None:
    """The format before PyTorch 1.6: pickles one after the other."""
    torch.save({"state_dict": Calls(os.system, f"touch {proof}")}, path, _use_new_zipfile_serialization=False)


def tar(path: Path, proof: Path) -> None:
    """The format before PyTorch 0.2."""
    pickled = pickle.dumps(Calls(os.system, f"touch {proof}"))
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(pickled)
            archive.addfile(member, io.BytesIO(pickled))


def torchscript(path: Path, proof: Path) -> None:
    """A program instead of numbers."""
    del proof
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), path)


def swapped(path: Path, proof: Path) -> None:
    """A checkpoint as PyTorch writes it, but for its pickle."""
    saved(path, {})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            attack = pickle.dumps(Calls(os.system, f"touch {proof}"), protocol=2)
            archive.writestr(name, attack if name.endswith("data.pkl") else content)


GADGETS: tuple[Callable[[Path, Path], None], ...] = (
    system,
    evaluated,
    state,
    getattribute,
    storage,
    legacy,
    tar,
    torchscript,
    swapped,
)


@pytest.mark.filterwarnings("ignore")  # of torch, about what the gadgets are made with
@pytest.mark.parametrize("gadget", GADGETS, ids=lambda gadget: gadget.__name__)
def test_no_code_in_a_checkpoint_runs(gadget: Callable[[Path, Path], None], tmp_path: Path) -> None:
    path, proof = tmp_path / "bad.ckpt", tmp_path / "ran"
    gadget(path, proof)
    network = build_network(NETWORK)
    readers: tuple[Callable[[], Any], ...] = (
        lambda: load_network(path),
        lambda: read_checkpoint(path),
        lambda: read_weights(path)[0],
        lambda: start_from(network, NETWORK, str(path)),
    )
    for read in readers:
        with pytest.raises(UserError, match=r"bad\.ckpt"):
            read()
    try:
        read_foreign(path)  # takes objects of any classes, as stand-ins
    except UserError as error:
        assert "without running" in str(error)  # noqa: PT017
    assert not proof.exists()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": "tu-hf-hub:somebody/model"}, "unknown"),
        ({"encoder": "tu-local-dir:/etc"}, "unknown"),
        ({"encoder": "../resnet18"}, "unknown"),
        ({"architecture": "os.system"}, "model=os.system is unknown"),
        ({"options": {"_target_": "os.system"}}, "model._target_ is unknown"),
        ({"options": {"encoder_weights": "imagenet"}}, "model.encoder_weights is unknown"),
        ({"encoder": "tu-resnet18", "options": {"checkpoint_path": "/etc/passwd"}}, "model.checkpoint_path is unknown"),
        ({"normalization": {**NETWORK.normalization.to_dict(), "mean": [0.0]}}, "numbers for 2 bands"),
        ({"normalization": {**NETWORK.normalization.to_dict(), "used": "yes"}}, "numbers for 2 bands"),
        ({"normalization": {**NETWORK.normalization.to_dict(), "std": [1.0, 0.0]}}, "for 2 bands"),
        ({"normalization": {**NETWORK.normalization.to_dict(), "scale": math.inf}}, "scale inf"),
        ({"classes": []}, "0 classes"),
        ({"classes": torch.zeros(2)}, "is not a whole SpecDeepMap checkpoint"),
        ({"bands": [1, 2]}, "is not a whole SpecDeepMap checkpoint"),
        ({"chip_size": [math.inf, 32]}, "is not a whole SpecDeepMap checkpoint"),
        ({"options": {1: 2}}, "1 is no name"),
        ({"options": 5}, "is not a whole SpecDeepMap checkpoint"),
        ({"encoder": "tu-resnet18", "options": {"pretrained_cfg": {"url": "http://x"}}}, "pretrained_cfg is unknown"),
    ],
)
def test_a_spec_names_networks_and_nothing_else(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"spec": NETWORK.to_dict() | changes}}, path)
    with pytest.raises(UserError, match=words):
        load_network(path)


@pytest.mark.parametrize("odd", [{0: torch.zeros(1)}, {b"x": torch.zeros(1)}, {"network.mean": None}, {"x": [1]}])
def test_a_state_dict_has_tensors_by_name(odd: dict[Any, Any], tmp_path: Path) -> None:
    path, network = tmp_path / "odd.ckpt", build_network(NETWORK)
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state | odd, "hyper_parameters": {"spec": NETWORK.to_dict()}}, path)
    for read in (lambda: load_network(path), lambda: start_from(network, NETWORK, str(path))):
        with pytest.raises(UserError, match=r"odd\.ckpt has no tensor under"):
            read()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"whitening": True}, "whitening=True does not fit 2 bands"),
        ({"detail": 10**9}, "model.detail=1000000000 cannot"),
    ],
)
def test_options_that_no_network_has_are_one_line(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"spec": NETWORK.to_dict() | {"options": options}}}, path)
    with pytest.raises(UserError, match=words):
        load_network(path)


def test_what_a_checkpoint_says_of_its_run_is_never_instantiated(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    config = {"model": {"_target_": "os.system", "command": f"touch {proof}"}, "x": "${oc.env:HOME}"}
    save_network(tmp_path / "a.ckpt", build_network(NETWORK), NETWORK, config)
    load_network(tmp_path / "a.ckpt")
    assert not proof.exists()
    assert read_checkpoint(tmp_path / "a.ckpt")["hyper_parameters"]["config"] == config


def test_dataset_json_neither_runs_nor_opens_what_it_names(tmp_path: Path) -> None:
    folder = make_chip_folder(tmp_path / "data", size=16)
    spec = read_data_folder(folder).spec.to_dict()
    spec["config"] = {"_target_": "os.system", "command": f"touch {tmp_path / 'ran'}"}
    spec["scenes"][0]["path"] = "/vsicurl/http://127.0.0.1:9/scene.tif"
    (folder / "dataset.json").write_text(json.dumps(spec))
    data = read_data_folder(folder)
    assert len(data.samples("train")) == 6
    assert sum(data.train_counts) > 0
    assert not (tmp_path / "ran").exists()


def test_a_chip_is_a_file_of_numbers_and_no_pointer_to_others(tmp_path: Path) -> None:
    folder = make_chip_folder(tmp_path / "data", size=16)
    secret = write_raster(tmp_path / "secret.tif", np.ones((3, 16, 16), np.uint16))
    first = read_data_folder(folder).samples("train")[0].image
    first.write_text(
        '<VRTDataset rasterXSize="16" rasterYSize="16"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="0">{secret}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(UserError, match=r"expected a whole GTiff or ENVI or PNG"):
        read_data_folder(folder)


def test_nothing_beside_a_chip_leads_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    chip = write_raster(tmp_path / "in/x.tif", np.ones((1, 64, 64), np.uint16))
    secret = write_raster(tmp_path / "secret.tif", np.full((1, 32, 32), 77, np.uint16))
    Path(f"{chip}.aux.xml").write_text(
        f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{secret}</MDI></Metadata></PAMDataset>'
    )
    with open_raster(chip) as dataset:
        assert dataset.overviews(1) == [2]  # what GDAL does with it
    with open_chip(chip) as dataset:
        assert dataset.overviews(1) == []
    for suffix in (".msk", ".ovr"):
        beside = Path(f"{chip}{suffix}")
        beside.symlink_to(secret)
        with (
            pytest.raises(UserError, match=rf"x\.tif\{suffix} is no TIFF that lies in the data folder"),
            open_chip(chip),
        ):
            pass
        beside.unlink()
        beside.write_text(f"<VRTDataset>{secret}</VRTDataset>")
        with pytest.raises(UserError, match=rf"x\.tif\{suffix}"), open_chip(chip):
            pass
        beside.unlink()
        write_raster(beside, np.full((1, 64, 64), 255, np.uint8))
        with open_chip(chip) as dataset:
            assert dataset.read().all()
        beside.unlink()


def test_a_chip_that_is_two_things_is_seen_as_one(tmp_path: Path) -> None:
    """An ENVI image whose numbers are the text of a virtual raster: no picture of it may come from another file."""
    secret = write_raster(tmp_path / "secret.tif", np.full((3, 16, 16), 77, np.uint16))
    text = (
        '<VRTDataset rasterXSize="16" rasterYSize="16"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="0">{secret}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    image = tmp_path / "x.img"
    image.write_bytes(text.encode().ljust(16 * 16 * 2))
    image.with_suffix(".hdr").write_text(
        "ENVI\nsamples=16\nlines=16\nbands=1\nheader offset=0\ndata type=12\ninterleave=bsq\nbyte order=0\n"
    )
    label = write_raster(tmp_path / "l.tif", np.ones((1, 16, 16), np.uint8))
    with open_raster(image) as dataset:
        assert dataset.driver == "VRT"  # what GDAL takes it for
    bands = [Band("band 1")]
    chip = read_labelled(Sample(image, label), bands, [True], None, ClassTable.build([1]))
    assert chip.image.ravel()[0] == int.from_bytes(b"<V", "little")
    assert len(np.unique(chip_picture(chip, bands)[..., :3])) > 2  # of the text, not of the constant scene
    assert chip_picture(chip, bands, max_side=8).shape == (8, 8, 4)


def test_python_inside_a_virtual_raster_does_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    scene = write_raster(tmp_path / "scene.tif", np.ones((1, 8, 8), np.uint8))
    (tmp_path / "x.vrt").write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1" '
        'subClass="VRTDerivedRasterBand"><PixelFunctionType>f</PixelFunctionType>'
        "<PixelFunctionLanguage>Python</PixelFunctionLanguage>"
        f"<PixelFunctionCode>open({str(proof)!r}, 'w')\ndef f(*a, **k): pass</PixelFunctionCode>"
        f'<SimpleSource><SourceFilename relativeToVRT="0">{scene}</SourceFilename></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(UserError, match=r"x\.vrt"), open_raster(tmp_path / "x.vrt") as dataset:
        dataset.read()
    assert not proof.exists()


def test_an_exported_network_reads_no_file_beside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(np.ones(4, np.float32).tobytes())
    (tmp_path / "in").mkdir()
    for location in ("../secret", str(tmp_path / "secret")):
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location
        value = helper.make_tensor_value_info("input", TensorProto.FLOAT, [4])
        out = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [4])
        graph = helper.make_graph(
            [helper.make_node("Add", ["input", "w"], ["probabilities"])], "g", [value], [out], [tensor]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        note = model.metadata_props.add()
        note.key, note.value = SPEC, json.dumps(NETWORK.to_dict())
        path = tmp_path / "in/x.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(UserError, match=r"x\.onnx"):
            load_network(path)
    assert onnx.load_model_from_string(path.read_bytes()).graph.name == "g"


@pytest.mark.parametrize(
    ("note", "inputs", "words"),
    [
        ("{", "input", "no JSON"),
        ("[]", "input", "format version"),
        (json.dumps(NETWORK.to_dict()), "other", "does not take the chips"),
        (json.dumps(NETWORK.to_dict() | {"classes": ClassTable.build([1, 2, 3]).to_dicts()}), "input", "of the shape"),
    ],
)
def test_an_exported_network_that_is_another_is_refused(note: str, inputs: str, words: str, tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * 4) for n in (inputs, "probabilities")]
    graph = helper.make_graph([helper.make_node("Identity", [inputs], ["probabilities"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    entry = model.metadata_props.add()
    entry.key, entry.value = SPEC, note
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=rf"x\.onnx.*{words}"):
        load_network(tmp_path / "x.onnx")


NASTY = "</label><script>alert(1)</script>\"'&{{ 7*7 }}"


def test_names_of_classes_stay_names_in_styles_and_rasters(tmp_path: Path) -> None:
    classes = ClassTable.build([1], {1: NASTY})
    for style in (raster_style(classes), polygon_style(classes)):
        tree = ElementTree.fromstring(style.partition("\n")[2] if style.startswith("<!DOCTYPE") else style)
        assert any(NASTY in value for element in tree.iter() for value in element.attrib.values())
        assert not list(tree.iter("script"))
    grid = describe(write_raster(tmp_path / "grid.tif", np.ones((1, 4, 4), np.uint8)))
    vrt = virtual_raster(tmp_path / "x.raw", Layer("classes", "uint8", ("class",), 0, classes=classes), grid)
    tree = ElementTree.fromstring(vrt)
    assert [item.text for item in tree.iter("Category")] == ["unclassified", NASTY]


@pytest.mark.parametrize("name", ["a\x00b", "line\nbreak", "\x1b[31mred", "\u202edesrever", "\ud800"])
def test_names_with_control_characters_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="control characters"):
        ClassTable.build([1], {1: name})


def test_a_name_is_no_formula_in_a_table(tmp_path: Path) -> None:
    scores = Scores(np.array([[3, 1], [0, 2]]))
    table = score_table(
        Evaluation(ClassTable.build([1, 2], {1: '=HYPERLINK("http://x")', 2: "wood-land"}), scores, None)
    )
    assert table["Name"].tolist()[:2] == ['\'=HYPERLINK("http://x")', "wood-land"]
    write_areas_csv(tmp_path / "areas.csv", [ClassArea(1, "=1+1", 3, 50.0, None)])
    write_csv(tmp_path / "runs.csv", ["run", "came to"], [["-1", "@x"]])
    assert (tmp_path / "areas.csv").read_text().splitlines()[1] == "1,'=1+1,3,50,"
    assert (tmp_path / "runs.csv").read_text().splitlines()[1] == "-1,'@x"


def test_a_name_with_dollars_is_no_formula_to_draw(tmp_path: Path) -> None:
    names = [r"$\foo$", "50 $ and 10 $"]
    draw_confusion(tmp_path / "confusion.png", names, np.eye(2, dtype=np.int64), np.eye(2))
    figure = curves_figure([Curve(name, [0, 1], [0, 1]) for name in names], ylabel="IoU")
    drawn = chart(figure, "classes", "", "")
    assert all(name in drawn.svg for name in names)
