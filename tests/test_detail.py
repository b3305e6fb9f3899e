"""The branch at full resolution: what it adds, and that a network without it is what it always was."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from omegaconf import OmegaConf

from src.datamodules.chips import ChipData
from src.errors import UserError
from src.labels import IGNORE
from src.models.architectures import ARCHITECTURES, build
from src.models.checkpoint import load_network, save_network
from src.models.detail import DETAIL, DROPOUT, REACH
from src.models.losses import CrossEntropy
from src.models.optimization import Optimization
from src.models.segmenter import Segmenter
from src.training import NetworkChoice, make_network
from tests.chip_folder import make_chip_folder

ROOT = Path(__file__).resolve().parents[1]


@torch.inference_mode()
def test_its_logits_are_added_to_those_of_the_architecture() -> None:
    torch.manual_seed(0)
    network = build("unet", "resnet18", 4, 3, (64, 64), detail=8).eval()
    image = torch.randn(2, 4, 64, 64)
    added = network(image)
    branch = network.get_submodule(DETAIL)
    plain = build("unet", "resnet18", 4, 3, (64, 64)).eval()
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith(DETAIL)})
    torch.testing.assert_close(added, plain(image) + branch(image))


@pytest.mark.parametrize(("options", "reach"), [({}, 1), ({REACH: [1, 2, 4]}, 7)])
@torch.inference_mode()
def test_it_tells_single_pixels_apart_as_far_as_its_dilations_say(options: dict[str, Any], reach: int) -> None:
    torch.manual_seed(0)
    image = torch.zeros(1, 4, 64, 64)
    spot = image.clone()
    spot[:, :, 32, 32] = 3
    branch = build("unet", "resnet18", 4, 3, (64, 64), detail=8, **options).eval().get_submodule(DETAIL)
    places = ((branch(spot) - branch(image)).abs().amax(1)[0] > 0).nonzero()
    assert places.amin(0).tolist() == [32 - reach] * 2
    assert places.amax(0).tolist() == [32 + reach] * 2


def test_without_it_the_network_is_that_of_segmentation_models_pytorch() -> None:
    own = smp.Unet("resnet18", encoder_weights=None, in_channels=4, classes=3).state_dict()
    for options in ({}, {DETAIL: 0}):
        assert list(build("unet", "resnet18", 4, 3, (64, 64), **options).state_dict()) == list(own)


@pytest.mark.parametrize("width", [-1, 1.5, "wide", True])
def test_a_width_that_is_none_is_refused(width: object) -> None:
    with pytest.raises(UserError, match=r"model\.detail=.* is no number of channels"):
        build("unet", "resnet18", 4, 3, (64, 64), detail=width)


@pytest.mark.parametrize("reach", [[0], [1.5], "wide", [True], 3])
def test_a_reach_that_is_none_is_refused(reach: object) -> None:
    with pytest.raises(UserError, match=r"model\.detail_dilations=.* does not fit"):
        build("unet", "resnet18", 4, 3, (64, 64), detail=8, detail_dilations=reach)


@pytest.mark.parametrize("share", [1, -0.1, "much", True])
def test_a_dropout_that_is_none_is_refused(share: object) -> None:
    with pytest.raises(UserError, match=r"model\.detail_dropout=.* is no share"):
        build("unet", "resnet18", 4, 3, (64, 64), detail=8, detail_dropout=share)


def test_a_checkpoint_from_before_it_looked_further_is_what_it_was() -> None:
    """Its options name channels only: one block, as all branches had."""
    names = build("unet", "resnet18", 4, 3, (64, 64), detail=8).get_submodule(DETAIL).state_dict()
    assert sum(name.endswith("change.0.weight") for name in names) == 1


def test_the_values_of_before_are_what_checkpoints_of_before_say(tmp_path: Path) -> None:
    """So that a run of then is resumed by giving them."""
    described = ChipData(make_chip_folder(tmp_path / "data")).describe()
    small = {"encoder_depth": 3, "decoder_channels": [16, 16, 8], DETAIL: 8}
    for dilations in ([1], (1,)):
        _, spec = make_network(described, NetworkChoice(options=small | {REACH: dilations, DROPOUT: 0}))
        assert spec.options == small
    _, spec = make_network(described, NetworkChoice(options=small | {REACH: (1, 2), DROPOUT: 0.2}))
    assert spec.options == small | {REACH: [1, 2], DROPOUT: 0.2}
    assert DETAIL not in make_network(described, NetworkChoice(options=small | {DETAIL: 0, REACH: [1]}))[1].options


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.5])
def test_each_branch_is_held_against_the_truth_by_itself(tmp_path: Path, weight: float) -> None:
    data = ChipData(make_chip_folder(tmp_path / "data"))
    data.setup()
    small = {"encoder_depth": 3, "decoder_channels": [16, 16, 8], DETAIL: 8, REACH: [1, 2], DROPOUT: 0}
    network, spec = make_network(data.describe(), NetworkChoice(options=small))
    segmenter = Segmenter(network, spec, CrossEntropy(), Optimization(), deep_supervision=weight)
    batch = next(iter(data.train_dataloader()))
    step = segmenter.step(batch)
    assert (step.loss == step.minimised) == (weight == 0)
    image = network.normalize(batch.image, batch.valid)
    with torch.no_grad():
        own, branch = network.architecture.forward(image), network.get_submodule(f"architecture.{DETAIL}")(image)
    target = torch.where(batch.valid, batch.target, IGNORE)
    whole, first, second = (float(CrossEntropy()(logits, target)) for logits in (own + branch, own, branch))
    assert float(step.loss.detach()) == pytest.approx(whole, rel=1e-4)
    assert float(step.minimised.detach()) == pytest.approx(
        (whole + weight * (first + second)) / (1 + 2 * weight), rel=1e-4
    )
    assert network.eval().architecture(image).shape[1] == len(spec.classes)  # only in training does it say more


def test_a_network_without_branches_has_one_loss(tmp_path: Path) -> None:
    data = ChipData(make_chip_folder(tmp_path / "data"))
    data.setup()
    network, spec = make_network(data.describe(), NetworkChoice("pixel_resnet"))
    step = Segmenter(network, spec, CrossEntropy(), Optimization()).step(next(iter(data.train_dataloader())))
    assert step.loss is step.minimised


def test_a_weight_below_nothing_is_refused(tmp_path: Path) -> None:
    network, spec = make_network(ChipData(make_chip_folder(tmp_path / "data")).describe(), NetworkChoice())
    for weight in (-1, float("nan"), float("inf")):
        with pytest.raises(UserError, match=f"deep_supervision={weight} is no weight"):
            Segmenter(network, spec, CrossEntropy(), Optimization(), deep_supervision=weight)


def test_architectures_at_full_resolution_have_none() -> None:
    with pytest.raises(UserError, match=r"model\.detail is unknown to model=pixel_resnet"):
        build("pixel_resnet", "none", 4, 3, (64, 64), detail=8)


def test_a_checkpoint_brings_it_back_and_one_without_stays_without(tmp_path: Path) -> None:
    described = ChipData(make_chip_folder(tmp_path / "data")).describe()
    small = {"encoder_depth": 3, "decoder_channels": [16, 16, 8]}
    for width, there in ((8, True), (0, False)):
        network, spec = make_network(described, NetworkChoice(options=small | {DETAIL: width}))
        assert (DETAIL in spec.options) == there  # as in checkpoints from before there was one
        save_network(tmp_path / "network.ckpt", network, spec, {})
        loaded, again = load_network(tmp_path / "network.ckpt")
        assert again == spec
        for name, value in network.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name]), name
        assert any(DETAIL in name for name in loaded.state_dict()) == there


@pytest.mark.parametrize("path", sorted((ROOT / "configs/model").glob("*.yaml")), ids=lambda path: path.stem)
def test_python_takes_the_network_that_the_command_takes(path: Path) -> None:
    config: Any = OmegaConf.to_container(OmegaConf.load(path))
    name = config.pop("name")
    known = {key: each.default for key, each in inspect.signature(ARCHITECTURES[name].__init__).parameters.items()}
    taken = known | NetworkChoice(name).chosen_options
    assert {key: list(v) if isinstance(v := taken[key], tuple) else v for key in config} == config


def test_it_learns_beside_a_frozen_encoder() -> None:
    network = build("unet", "resnet18", 4, 3, (64, 64), detail=8)
    network.freeze_encoder()  # type: ignore[operator]
    assert all(parameter.requires_grad for parameter in network.get_submodule(DETAIL).parameters())
