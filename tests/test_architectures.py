"""Every architecture by name, and what is said when it does not fit."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from src.bands import Band, Normalization
from src.errors import UserError
from src.labels import ClassTable
from src.models.architectures import (
    _OURS,
    ARCHITECTURES,
    accepted_sizes,
    build,
    build_checked,
    nearest_sizes,
    outline,
    trial,
)
from src.models.compact import CompactUNet, JustoUNetSimple
from src.models.network import build_network
from src.spec import NetworkSpec
from src.training import NetworkChoice

CONFIGS = Path(__file__).parents[1] / "configs" / "model"


def encoder_for(architecture: str) -> str:
    return "tu-test_vit" if architecture == "dpt" else "resnet18"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_gives_logits_of_the_chips_size(architecture: str) -> None:
    network = build_checked(architecture, encoder_for(architecture), 4, 3, (160, 128)).eval()
    with torch.inference_mode():
        logits = network(torch.rand(1, 4, 128, 160))
    assert logits.shape == (1, 3, 128, 160)
    assert not torch.allclose(logits.sum(1), torch.ones(1, 128, 160)), "probabilities came out where logits belong"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_yaml_lists_every_parameter_with_the_librarys_default(architecture: str) -> None:
    config = yaml.safe_load((CONFIGS / f"{architecture}.yaml").read_text())
    assert config.pop("name") == architecture
    parameters = inspect.signature(ARCHITECTURES[architecture].__init__).parameters  # type: ignore[misc]
    defaults = {n: p.default for n, p in parameters.items() if n not in _OURS | {"self", "kwargs", "bands"}}
    defaults |= NetworkChoice(architecture).chosen_options  # ours, not the library's
    assert config == {n: list(v) if isinstance(v, tuple) else v for n, v in defaults.items()}


def test_parameters_of_an_architecture_and_of_its_encoder_are_reachable() -> None:
    network = build(
        "unet", "tu-resnet10t", 4, 3, decoder_channels=[64, 32, 16, 8, 4], encoder_depth=5, drop_path_rate=0.3
    )
    assert network.segmentation_head[0].in_channels == 4
    assert any(type(m).__name__ == "DropPath" for m in network.encoder.modules())


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("unett", "resnet18"), {}, ("model=unett", "did you mean unet?")),
        (("unet", "resnet19"), {}, ("resnet19", "resnet18")),
        (("unet", "convnext_tiny"), {}, ("convnext_tiny", "tu-convnext_tiny")),
        (("unet", "tu-resnet18.a9_in1k"), {}, ("a9_in1k", "a1_in1k")),
        (("unet", "tu-test_vit"), {}, ("model=unet", "encoder=tu-test_vit", "model=dpt")),
        (("unetplusplus", "mit_b0"), {}, ("model=unetplusplus", "encoder=mit_b0")),
        (("deeplabv3plus", "tu-pvt_v2_b0"), {}, ("encoder=tu-pvt_v2_b0", "dilated")),
        (("dpt", "resnet18"), {}, ("model=dpt", "vision transformers")),
        (("unet", "resnet18"), {"depth": 3}, ("model.depth", "encoder_depth")),
        (("unet", "resnet18"), {"classes": 3}, ("model.classes",)),
        (("unet", "resnet18"), {"decoder_channels": [8, 4]}, ("decoder_channels", "2 blocks")),
        (("justo_unet_simple", "resnet18"), {"widths": [8]}, ("model.widths",)),
    ],
)
def test_what_cannot_work_is_one_line(
    arguments: tuple[str, str], options: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as error:
        build(*arguments, 4, 3, (64, 64), **options)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("architecture", "encoder", "size", "nearest"),
    [
        ("segformer", "resnet18", (100, 90), "96 × 64 or 128 × 96 px"),
        ("dpt", "tu-test_vit", (100, 100), "96 × 96 or 128 × 128 px"),
        ("pan", "resnet18", (64, 64), "it takes 128 × 128 px"),
    ],
)
def test_the_nearest_chip_sizes_are_named(architecture: str, encoder: str, size: tuple[int, int], nearest: str) -> None:
    with pytest.raises(UserError, match=nearest) as error:
        build_checked(architecture, encoder, 4, 3, size)
    assert f"{size[0]} × {size[1]} px" in str(error.value)


def test_nearest_sizes_do_work() -> None:
    sizes = nearest_sizes("fpn", "resnet18", 4, 3, (50, 70))
    assert sizes == [(32, 64), (64, 96)]
    for width, height in sizes:
        assert trial(build("fpn", "resnet18", 4, 3), torch.zeros(1, 4, height, width)) is None


def test_a_trial_leaves_the_network_as_it_was() -> None:
    network = build("unet", "resnet18", 4, 3).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert trial(network, torch.ones(1, 4, 64, 64)) is None
    assert network.training
    assert network.encoder.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_windows_that_a_network_takes_are_known_without_running_it() -> None:
    network = build("unet", "tu-test_maxvit", 3, 2, (64, 64)).eval()
    assert accepted_sizes(network, 3, [(64, 64), (96, 96), (128, 64), (256, 256)]) == [(64, 64), (128, 64), (256, 256)]
    assert network(torch.zeros(1, 3, 128, 128)).shape[-2:] == (128, 128)
    assert all(not parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize("size", [(30, 30), (31, 45), (7, 5)])
def test_small_networks_take_any_size(size: tuple[int, int]) -> None:
    """SpecDeepMap's JustoUNetSimple crashes on chips of 30 × 30 px."""
    for network in (JustoUNetSimple(20, 4).eval(), CompactUNet(20, 4).eval()):
        assert network(torch.zeros(2, 20, *size)).shape == (2, 4, *size)


def test_justo_unet_simple_is_the_papers() -> None:
    """Four 3 × 3 convolutions of 6, 12, 6 and n filters, each with batch norm; 2 × 2 poolings, nearest upsampling."""
    network = JustoUNetSimple(112, 3)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size) for c in convolutions] == [
        (112, 6, (3, 3)),
        (6, 12, (3, 3)),
        (12, 6, (3, 3)),
        (6, 3, (3, 3)),
    ]
    assert [m.num_features for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)] == [6, 12, 6, 3]


def test_compact_unet_is_small_and_starts_at_full_resolution() -> None:
    network = CompactUNet(13, 5)
    assert 400_000 < sum(p.numel() for p in network.parameters()) < 600_000
    assert network.encoder[0](torch.zeros(2, 13, 32, 32)).shape == (2, 16, 32, 32)


@pytest.mark.parametrize(("dilations", "reach"), [((1, 1, 1), 3), ((1, 2, 4), 7)])
def test_pixel_resnet_sees_as_far_as_its_dilations_add_up_to(dilations: tuple[int, ...], reach: int) -> None:
    network = build("pixel_resnet", "none", 200, 3, dilations=dilations).eval()
    assert sum(p.numel() for p in network.parameters()) < 100_000
    image = torch.zeros(1, 200, 31, 33, requires_grad=True)
    network(image + torch.randn(1, 200, 31, 33))[0, :, 15, 16].sum().backward()
    assert image.grad is not None
    rows, columns = (image.grad[0].abs().sum(0) > 0).nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (15 - reach, 15 + reach, 16 - reach, 16 + reach)


def test_a_dilation_below_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.dilations=\[0\] does not fit"):
        build("pixel_resnet", "none", 4, 2, dilations=[0])


@pytest.mark.parametrize(("bands", "stem", "channels"), [(13, "auto", 13), (200, "auto", 32), (200, 0, 200), (5, 8, 8)])
def test_a_stem_mixes_many_bands_into_few_channels_first(bands: int, stem: int | str, channels: int) -> None:
    network = build("compact_unet", "none", bands, 4, stem=stem)
    assert network(torch.zeros(2, bands, 17, 9)).shape == (2, 4, 17, 9)
    assert network.encoder[0][0].in_channels == channels
    assert ("stem.0.weight" in network.state_dict()) == (channels != bands)


def test_a_stem_that_is_no_number_of_channels_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.stem=-1 is no number of channels"):
        build("compact_unet", "none", 4, 2, stem=-1)


@pytest.mark.parametrize("architecture", ["justo_unet_simple", "compact_unet", "pixel_resnet", "unet"])
def test_a_frozen_encoder_keeps_its_parameters_and_batch_norms(architecture: str) -> None:
    network = build(architecture, "resnet18", 4, 3)
    network.freeze_encoder()
    network.train()
    before = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    network(torch.rand(2, 4, 64, 64)).sum().backward()
    assert all(p.grad is None for p in network.encoder.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.encoder.state_dict().items())
    assert any(p.grad is not None for p in network.decoder.parameters())


@pytest.mark.parametrize("encoder", ["resnet18", "mit_b0"])
def test_an_outline_has_shapes_without_numbers(encoder: str) -> None:
    """Smp's mit_* encoders compute while they are built, which cannot be done without numbers."""
    network = outline("unet", encoder, 4, 3, (64, 64))
    assert all(value.is_meta for value in network.state_dict().values())


def test_a_wordless_assertion_is_put_into_words() -> None:
    with pytest.raises(UserError, match="cannot be dilated"):
        build("deeplabv3", "tu-dla46_c", 4, 3)


def test_every_parameter_learns() -> None:
    """Training on several GPUs waits for every gradient; smp's DPT keeps the encoder's classifier and last norm."""
    for architecture in ("unet", "dpt"):
        network = build(architecture, encoder_for(architecture), 4, 3, (64, 64))
        network(torch.rand(2, 4, 64, 64)).sum().backward()
        assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


def test_a_checkpoints_network_is_rebuilt_for_its_chip_size() -> None:
    spec = NetworkSpec(
        architecture="unet",
        encoder="tu-test_maxvit",
        options={},
        bands=(Band("a"), Band("b")),
        normalization=Normalization.identity(2),
        nodata=None,
        classes=ClassTable.build([1, 2]),
        chip_size=(96, 64),
    )
    network = build_network(spec).eval()
    assert network(torch.zeros(1, 2, 64, 96), torch.ones(1, 64, 96, dtype=torch.bool)).shape == (1, 2, 64, 96)
