"""SpecDeepMap's own checkpoints: converted with the same answers, and never run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torchvision import transforms

from scripts.import_specdeepmap import main
from src.errors import UserError
from src.models.checkpoint import load_network
from src.models.specdeepmap import import_checkpoint
from src.score_lines import format_scores
from src.tasks.eval import score
from src.tasks.schema import EvalConfig
from tests import rasters
from tests.commands import run
from tests.specdeepmap import BANDS, MEAN, STD, Justo, foreign

REAL = Path(__file__).parents[2] / "shared" / "data" / "specdeepmap_enmap"


def random_network(network: nn.Module) -> nn.Module:
    """Give batch norms statistics of their own, else they hide a wrong mapping of layers."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.bias)
            layer.running_mean = torch.randn(layer.num_features)
            layer.running_var = torch.rand(layer.num_features) + 0.5
    return network.eval()


@pytest.mark.parametrize("architecture", ["JustoUNetSimple", "Unet"])
def test_the_converted_network_gives_the_same_logits(tmp_path: Path, architecture: str) -> None:
    torch.manual_seed(0)
    unet = smp.Unet("resnet18", encoder_weights=None, in_channels=BANDS, classes=4)
    theirs = Justo(4) if architecture == "JustoUNetSimple" else unet
    backbone = None if architecture == "JustoUNetSimple" else "resnet18"
    source = foreign(tmp_path / "theirs.ckpt", random_network(theirs), architecture, backbone=backbone)
    main([str(source), str(tmp_path / "ours.ckpt")])
    ours, spec = load_network(tmp_path / "ours.ckpt")
    image = torch.randint(0, 10_000, (2, BANDS, 64, 32)).float()
    image[0, :, :5] = -32768.0  # goes through as data
    with torch.inference_mode():
        prepared = transforms.Normalize(MEAN, STD)(image / 10_000)
        expected = theirs(prepared)[:, 1:]
        with torch.autocast("cpu", torch.bfloat16):  # which must not reach it
            found = ours(image, torch.ones(2, 64, 32, dtype=torch.bool))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert spec.classes.values == (5, 9, 200)
    assert spec.chip_size == (32, 64)
    assert spec.nodata_is_data


def test_predict_maps_with_it_what_its_own_network_answers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = random_network(Justo(4))
    main([str(foreign(tmp_path / "theirs.ckpt", theirs, "JustoUNetSimple")), str(tmp_path / "ours.ckpt")])
    image = np.random.default_rng(0).integers(0, 10_000, (BANDS, 64, 32)).astype(np.int16)
    image[:2, 20:30] = -32768  # nodata in two bands: SpecDeepMap feeds it as it is
    image[:, 40:50] = -32768  # in all of them: no class
    rasters.write(tmp_path / "scene.tif", image, nodata=-32768)
    result = run("predict", "checkpoint=ours.ckpt", "image=scene.tif", "output=map.tif", "overlap=0", cwd=tmp_path)
    assert result.code == 0, result.err
    with torch.inference_mode():
        prepared = transforms.Normalize(MEAN, STD)(torch.from_numpy(image)[None].float() / 10_000)
        chosen = theirs(prepared)[0, 1:].argmax(0).numpy()
    expected = np.array([5, 9, 200])[chosen]
    expected[40:50] = 0
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert (dataset.read(1) == expected).mean() > 0.999  # ties are decided by the last digit
    assert len(np.unique(expected)) > 2


def test_what_is_kept_and_dropped_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(foreign(tmp_path / "a.ckpt", Justo(4), "JustoUNetSimple")), str(tmp_path / "new" / "b.ckpt")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Kept     justo_unet_simple, 3 bands, chips of 32 × 64 px, class values 5, 9, 200"
    assert lines[1] == "         scaler 10000, normalised, nodata as data"
    assert "epoch, optimizer_states" in lines[2]
    assert "lr, train_data, transform" in lines[3]
    assert "class value 0" in lines[4]
    assert lines[5] == str(tmp_path / "new" / "b.ckpt")


def test_names_and_colours_are_given_and_maps_have_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its checkpoints hold none, and there was no way to say them: maps read class_5."""
    source, target = str(foreign(tmp_path / "a.ckpt", Justo(4), "JustoUNetSimple")), str(tmp_path / "b.ckpt")
    main([source, target, "--class-names", "{5: forest, 200: water}", "--class-colors", "{5: '#006400'}"])
    assert capsys.readouterr().out.splitlines()[0].endswith("class values 5 forest, 9 class_9, 200 water")
    classes = load_network(tmp_path / "b.ckpt")[1].classes
    assert (classes.names, classes.colors[0]) == (("forest", "class_9", "water"), "#006400")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--class-names", "{7: forest}"], r"class_names is given for 7, but the classes of .*a\.ckpt are 5, 9, 200"),
        (["--class-names", "forest"], "class_names=forest is no list or mapping"),
        (["--class-names", "[forest"], r"--class-names \[forest cannot be read; write a list or a mapping"),
        (["--class-colors", "[#006400, b, c]"], "--class-colors .* cannot be read; .* colours in quotes"),
    ],
)
def test_names_that_do_not_fit_are_one_line_and_nothing_is_written(
    tmp_path: Path, given: list[str], message: str
) -> None:
    source = foreign(tmp_path / "a.ckpt", Justo(4), "JustoUNetSimple")
    with pytest.raises(SystemExit, match=message) as error:
        main([str(source), str(tmp_path / "b.ckpt"), *given])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "b.ckpt").exists()


def test_without_scaler_normalisation_and_class_0_all_outputs_are_classes(tmp_path: Path) -> None:
    changes = {"scaler": None, "preprocess": None, "reverse_mapping": {0: 2, 1: 4}, "remove_background_class": "No"}
    imported = import_checkpoint(foreign(tmp_path / "a.ckpt", Justo(2), "JustoUNetSimple", **changes))
    assert imported.spec.classes.values == (2, 4)
    assert imported.spec.normalization.scale == 1.0
    assert set(imported.spec.normalization.std) == {1.0}
    assert not any("class value 0" in words for words in imported.dropped)


def test_outputs_are_classes_in_the_order_of_their_values_without_class_0_too(tmp_path: Path) -> None:
    """With as many outputs as classes, those of a mapping in another order were taken for each other."""
    torch.manual_seed(0)
    theirs = random_network(Justo(3))
    changes = {"preprocess": None, "scaler": None, "reverse_mapping": {0: 200, 1: 5, 2: 9}}
    imported = import_checkpoint(foreign(tmp_path / "a.ckpt", theirs, "JustoUNetSimple", **changes))
    image, valid = torch.rand(1, BANDS, 32, 32), torch.ones(1, 32, 32, dtype=torch.bool)
    with torch.inference_mode():
        torch.testing.assert_close(imported.network(image, valid), theirs(image)[:, [1, 2, 0]], rtol=1e-4, atol=1e-4)
    assert imported.spec.classes.values == (5, 9, 200)


def test_a_backbone_that_the_network_does_not_have_is_not_kept(tmp_path: Path) -> None:
    """With it a network could not be started from: no training describes itself so."""
    source = foreign(tmp_path / "a.ckpt", Justo(4), "JustoUNetSimple", backbone="resnet18")
    assert import_checkpoint(source).spec.encoder == "none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scaler": 0}, r"a\.ckpt is not a whole SpecDeepMap checkpoint.*scale 0"),
        ({"img_x": 0}, r"a\.ckpt is not a whole SpecDeepMap checkpoint.*chips of \[0, 64\]"),
        ({"reverse_mapping": [0, 5, 9, 200]}, "lacks a hyper-parameter or has an odd one"),
    ],
)
def test_what_nobody_could_use_is_not_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    source = foreign(tmp_path / "a.ckpt", Justo(4), "JustoUNetSimple", **changes)
    with pytest.raises(SystemExit, match=message):
        main([str(source), str(tmp_path / "b.ckpt")])
    assert not (tmp_path / "b.ckpt").exists()


def test_weights_that_are_no_numbers_are_not_converted(tmp_path: Path) -> None:
    network = Justo(4)
    torch.nn.init.constant_(network.enc_conv1.weight, torch.nan)
    with pytest.raises(UserError, match="no numbers"):
        import_checkpoint(foreign(tmp_path / "a.ckpt", network, "JustoUNetSimple"))


def test_sentinels_one_number_for_all_bands(tmp_path: Path) -> None:
    scaling = transforms.Compose([transforms.Normalize(mean=0, std=10_000)])
    imported = import_checkpoint(foreign(tmp_path / "a.ckpt", Justo(4), "JustoUNetSimple", preprocess=scaling))
    assert imported.spec.normalization.std == (10_000.0,) * BANDS


class Gadget:
    """Runs a command when it is unpickled in the ordinary way."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("kind", ["system", "eval", "exec", "popen", "getattr"])
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, kind: str) -> None:
    proof = tmp_path / "ran"
    code = f"open({str(proof)!r}, 'w')"
    gadget = {
        "system": Gadget(os.system, f"touch '{proof}'"),
        "eval": Gadget(eval, code),
        "exec": Gadget(exec, code),
        "popen": Gadget(subprocess.Popen, ["touch", str(proof)]),
        "getattr": Gadget(getattr, Gadget(__import__, "os"), "system"),
    }[kind]
    source = foreign(tmp_path / "a.ckpt", Justo(4), "JustoUNetSimple", preprocess=None, train_data=gadget)
    try:
        import_checkpoint(source)
    except UserError as error:
        assert "cannot be read as a checkpoint without running what is in it" in str(error)  # noqa: PT017
    assert not proof.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "Mamba"}, "architecture Mamba is not known here; expected one of Unet"),
        ({"in_channels": "many"}, "lacks a hyper-parameter or has an odd one"),
        ({"in_channels": 5, "preprocess": None}, "has other layers than its JustoUNetSimple"),
        ({"preprocess": transforms.Compose([])}, "preprocess is no normalisation"),
        ({"architecture": "Unet", "backbone": "resnet18"}, "has other layers than its Unet"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    source = foreign(tmp_path / "a.ckpt", Justo(4), "JustoUNetSimple")
    content = torch.load(source, weights_only=False)
    content["hyper_parameters"] |= changes
    torch.save(content, source)
    with pytest.raises(UserError, match=message):
        import_checkpoint(source)


def test_files_that_are_no_checkpoints_of_specdeepmap_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no checkpoint .*none\.ckpt"):
        import_checkpoint(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        import_checkpoint(tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="does not describe SpecDeepMap's network"):
        import_checkpoint(tmp_path / "other.ckpt")


def test_the_source_is_not_overwritten(tmp_path: Path) -> None:
    source = foreign(tmp_path / "a.ckpt", Justo(4), "JustoUNetSimple")
    before = source.read_bytes()
    with pytest.raises(SystemExit, match="give another name for the result"):
        main([str(source), str(tmp_path / "." / "a.ckpt")])
    assert source.read_bytes() == before


@pytest.mark.skipif(not REAL.is_dir(), reason="needs SpecDeepMap's own checkpoint and chips")
def test_specdeepmaps_own_checkpoint_scores_as_in_specdeepmap(tmp_path: Path) -> None:
    main([str(next(REAL.glob("*.ckpt"))), str(tmp_path / "ours.ckpt")])
    settings = EvalConfig(checkpoint=str(tmp_path / "ours.ckpt"), data_dir=str(REAL), accelerator="cpu")
    evaluation = score(settings, tmp_path / "out").evaluation
    assert "as the mean over chips, as SpecDeepMap's tester scores: 0.2817" in "\n".join(format_scores(evaluation))
    means = evaluation.chip_means
    assert means is not None
    assert means.mean_iou == pytest.approx(0.2817, abs=5e-5)
    assert means.iou[:5] == pytest.approx([0.130, 0.371, 0.479, 0.429, 0.0], abs=5e-4)
