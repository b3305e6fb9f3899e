"""What a training is made of, where it depends on the data, on a checkpoint, or on the run that goes on."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import segmentation_models_pytorch as smp
import torch

from src.datamodules.chips import ChipData
from src.errors import UserError
from src.labels import ClassTable
from src.models.checkpoint import save_network
from src.models.weights import WeightsChoice
from src.training import NetworkChoice, choose_class_weights, make_network
from tests.chip_folder import make_chip_folder

SMALL = {"widths": [4, 8], "stem": 4}


def saved(folder: Path, *, bands: int = 3, normalize: bool | str = "auto") -> str:
    data = ChipData(make_chip_folder(folder / f"chips{bands}", bands=bands)).describe()
    network, spec = make_network(data, NetworkChoice("compact_unet", "none", SMALL, normalize=normalize))
    save_network(folder / "before.ckpt", network, spec, {})
    return str(folder / "before.ckpt")


def test_labels_of_one_class_are_one_line(tmp_path: Path) -> None:
    """A mask of 0 and 1 trained with a loss of 0, to an IoU of 1."""
    data = replace(
        ChipData(make_chip_folder(tmp_path / "chips")).describe(), classes=ClassTable.build([1], {1: "house"})
    )
    with pytest.raises(
        UserError, match=r"labels have one class \(house\), and 0 means unclassified.*class_map="
    ) as error:
        make_network(data, NetworkChoice("compact_unet", "none", SMALL))
    assert "\n" not in str(error.value)


def test_class_weights_are_the_folder_s_own_a_weighting_s_or_those_that_are_given(tmp_path: Path) -> None:
    folder = ChipData(make_chip_folder(tmp_path / "chips")).describe()
    data = replace(folder, weights=(0.25, 0.75), counts=(300, 100))
    assert choose_class_weights(data, True) == (0.25, 0.75)
    assert choose_class_weights(data, False) is None
    assert choose_class_weights(data, "inverse_frequency") == pytest.approx((2 / 3, 2))
    assert choose_class_weights(data, [0, 3]) == (0, 3)
    with pytest.raises(UserError, match=r"class_weights=\[0, 0\] does not fit; expected 2 numbers"):
        choose_class_weights(data, [0, 0])


def test_a_frozen_encoder_of_which_a_part_would_stay_random_is_one_line(tmp_path: Path) -> None:
    """With another number of bands the first layer is not taken, and it was frozen as it was drawn."""
    before = saved(tmp_path)
    choice = NetworkChoice("compact_unet", "none", SMALL, init_from=before, freeze_encoder=True)
    same = ChipData(tmp_path / "chips3").describe()
    network, _ = make_network(same, choice)
    learns = {name.partition(".")[0] for name, p in network.architecture.named_parameters() if p.requires_grad}
    assert learns == {"decoder", "segmentation_head"}
    other = ChipData(make_chip_folder(tmp_path / "chips5", bands=5)).describe()
    with pytest.raises(
        UserError, match=r"stem\.0\.weight is not in init_from=.* \(4 × 3 × 1 × 1 there, 4 × 5"
    ) as error:
        make_network(other, choice)
    assert "\n" not in str(error.value)
    make_network(other, replace(choice, freeze_encoder=None))


def test_a_run_that_goes_on_starts_from_nothing_but_its_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has the checkpoint's components, may be frozen without weights, and its weights are not called random."""
    caplog.set_level(logging.INFO)
    last = saved(tmp_path, normalize="whiten")
    caplog.clear()
    choice = NetworkChoice("compact_unet", "none", SMALL, init_from="gone", freeze_encoder=True, resume=last)
    network, spec = make_network(ChipData(tmp_path / "chips3").describe(), choice)
    assert spec.options["whitening"] == 3
    assert not any(p.requires_grad for p in network.architecture.get_submodule("encoder").parameters())
    assert "weights:" not in caplog.text


@pytest.mark.parametrize("weights", ["file", "none"])
@pytest.mark.parametrize("given", [None, True, False])
def test_pretrained_encoders_are_frozen_and_others_are_not_unless_it_is_said(
    tmp_path: Path, weights: Literal["file", "none"], given: bool | None
) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(smp.encoders.get_encoder("resnet18", weights=None, depth=3).state_dict(), path)
    start = WeightsChoice(weights, path=str(path) if weights == "file" else None)
    options = {"encoder_depth": 3, "decoder_channels": [16, 16, 8]}
    choice = NetworkChoice("unet", "resnet18", options, start, freeze_encoder=given)
    data = ChipData(make_chip_folder(tmp_path / "chips")).describe()
    if given and weights == "none":
        with pytest.raises(UserError, match="random and would stay so"):
            make_network(data, choice)
        return
    network, _ = make_network(data, choice)
    learns = {p.requires_grad for p in network.architecture.get_submodule("encoder").parameters()}
    assert learns == {not (weights == "file" if given is None else given)}


def test_a_frozen_encoder_gets_what_does_not_change(tmp_path: Path) -> None:
    """The stem went on learning in front of it, statistics and all."""
    network, _ = make_network(
        ChipData(make_chip_folder(tmp_path / "chips")).describe(),
        NetworkChoice("compact_unet", "none", SMALL, init_from=saved(tmp_path), freeze_encoder=True),
    )
    stem = network.architecture.train().get_submodule("stem")
    before = {name: value.clone() for name, value in stem.state_dict().items()}
    network.architecture(torch.randn(2, 3, 16, 16))
    assert all(torch.equal(value, before[name]) for name, value in stem.state_dict().items())
    network.architecture.unfreeze_encoder()  # type: ignore[operator]
    assert all(part.training for part in stem.modules())
    assert all(p.requires_grad for p in stem.parameters())
