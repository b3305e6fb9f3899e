"""Encoders start from the right tensors, with the right normalisation, or say in one line why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import timm
import torch
import yaml
from huggingface_hub import constants
from torch import nn

from src.bands import Band, Normalization
from src.errors import UserError
from src.labels import ClassTable
from src.models import architectures, pretrained, satellite
from src.models.checkpoint import save_network
from src.models.network import Network, build_network
from src.models.weights import KEYS, WeightsChoice, WeightsPlan, apply_weights, input_layers, prepare_weights
from src.models.whitening import ATTRIBUTE, whitening_of
from src.spec import NetworkSpec
from src.training import unheard_bands

CONFIGS = Path(__file__).parents[1] / "configs" / "weights"
SIZE = (64, 64)
S2 = [Band(n) for n in ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")]
DATA = Normalization.from_statistics([1000.0 + i for i in range(13)], [200.0 + i for i in range(13)])
MOCO = "ResNet18_Weights.SENTINEL2_ALL_MOCO"


@pytest.fixture(scope="module")
def resnet18_of_13_bands(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """What torchgeo publishes for ResNet18_Weights.SENTINEL2_ALL_MOCO: timm's resnet18 for 13 bands, as a pickle."""
    path = tmp_path_factory.mktemp("weights") / "resnet18_sentinel2_all_moco.pth"
    torch.manual_seed(1)
    state = timm.create_model("resnet18", in_chans=13, num_classes=0).state_dict()
    torch.save(state, path)
    return path, state


def prepare(
    choice: Mapping[str, Any],
    architecture: str = "unet",
    encoder: str = "resnet18",
    bands: list[Band] = S2,
    data: Normalization = DATA,
    **more: Any,
) -> WeightsPlan:
    return prepare_weights(WeightsChoice.from_dict(choice), architecture, encoder, bands, data, SIZE, **more)


def start(
    choice: Mapping[str, Any],
    architecture: str = "unet",
    encoder: str = "resnet18",
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> nn.Module:
    plan = prepare(choice, architecture, encoder, **more)
    network = architectures.build(architecture, plan.encoder, len(plan.normalization), 4, SIZE, **(options or {}))
    apply_weights(network, plan)
    return network


def test_random_weights_take_the_datas_own_statistics() -> None:
    plan = prepare({"kind": "none"})
    assert plan.normalization == DATA
    assert not plan.pretrained
    assert plan.encoder == "resnet18"


def test_architectures_without_an_encoder_say_so() -> None:
    assert prepare({"kind": "none"}, "compact_unet").encoder == "none"
    with pytest.raises(UserError, match="init_from"):
        prepare({"kind": "imagenet"}, "justo_unet_simple")


# --- torchgeo ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_torchgeos_tensors_are_the_encoders(
    encoder: str, resnet18_of_13_bands: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    path, state = resnet18_of_13_bands
    network = start({"kind": "file", "path": str(path), "like": "torchgeo", "name": MOCO}, encoder=encoder)
    own = {name.removeprefix("model."): value for name, value in network.encoder.state_dict().items()}
    assert set(own) == set(state)
    assert all(torch.equal(own[name], state[name]) for name in state)


def test_torchgeos_weights_bring_their_scaling(resnet18_of_13_bands: tuple[Path, dict[str, torch.Tensor]]) -> None:
    """SSL4EO-S12 was trained on reflectance × 10 000, divided by 10 000, whatever scaler the data folder has."""
    scaled = Normalization.from_statistics([0.1] * 13, [0.02] * 13, scale=10_000)
    choice = {"kind": "file", "path": str(resnet18_of_13_bands[0]), "like": "torchgeo", "name": MOCO}
    for data in (DATA, scaled):
        plan = prepare(choice, data=data)
        image = torch.full((1, 13, 4, 4), 2500.0)
        normalized = Network(nn.Identity(), plan.normalization).normalize(image, torch.ones(1, 4, 4, dtype=torch.bool))
        torch.testing.assert_close(normalized, torch.full_like(image, 0.25))
    assert any("10000" in line for line in plan.lines)


def test_reflectances_are_brought_to_the_weights_numbers(
    resnet18_of_13_bands: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    choice = {"kind": "file", "path": str(resnet18_of_13_bands[0]), "like": "torchgeo", "name": MOCO}
    data = Normalization.from_statistics([0.1] * 13, [0.02] * 13)
    assert "CAUTION" in prepare(choice, data=data).lines[-1]
    plan = prepare({**choice, "scale": 0.0001}, data=data)
    assert "CAUTION" not in plan.lines[-1]
    image = torch.full((1, 13, 2, 2), 0.25)
    normalized = Network(nn.Identity(), plan.normalization).normalize(image, torch.ones(1, 2, 2, dtype=torch.bool))
    torch.testing.assert_close(normalized, image)


@pytest.mark.parametrize(
    ("architecture", "frozen", "options", "named"),
    [
        ("fpn", True, {}, ["height"]),
        ("fpn", False, {}, []),
        ("unet", True, {}, ["height"]),
        ("unet", True, {"detail": 32}, []),  # its branch hears every band
    ],
)
def test_a_band_that_frozen_weights_do_not_know_is_named(
    architecture: str,
    frozen: bool,
    options: dict[str, Any],
    named: list[str],
    resnet18_of_13_bands: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    """It stays without effect for the whole training, where nothing but the encoder sees the bands."""
    bands = (Band("B08"), Band("B04"), Band("height"), Band("unused"))
    data = Normalization((True, True, True, False), 1.0, (3000.0, 800.0, 55.0, 0.0), (500.0, 90.0, 5.0, 1.0))
    choice = {"kind": "file", "path": str(resnet18_of_13_bands[0]), "like": "torchgeo", "name": MOCO}
    network = Network(start(choice, architecture, options=options, bands=bands, data=data), data)
    network.architecture.compile(backend=_never)
    spec = NetworkSpec(architecture, "resnet18", options, bands, data, None, ClassTable.build([1, 2, 3, 4]), SIZE)
    if frozen:
        architectures.freeze(network.architecture)
    assert unheard_bands(network, spec) == named
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())


def _never(*_: object) -> None:
    raise AssertionError("compiled for a question")


def test_bands_that_a_whitening_mixes_are_heard_before_a_frozen_encoder() -> None:
    """An encoder of fewer components than bands ended in a traceback."""
    bands, used = tuple(Band(f"b{n}") for n in range(6)), (True,) * 5 + (False,)
    data = Normalization(used, 1.0, (0.0,) * 6, (1.0,) * 6)
    options = {ATTRIBUTE: 3}
    network = Network(architectures.build("unet", "resnet18", 6, 4, SIZE, **options), data)
    spec = NetworkSpec("unet", "resnet18", options, bands, data, None, ClassTable.build([1, 2, 3, 4]), SIZE)
    architectures.freeze(network.architecture)
    assert unheard_bands(network, spec) == []  # its whitening is yet to be computed
    whitening = whitening_of(network.architecture)
    assert whitening is not None
    whitening.fit([torch.randn(6, 500, generator=torch.Generator().manual_seed(0))])
    assert unheard_bands(network, spec) == []
    whitening.weight[:, 2] = 0
    assert unheard_bands(network, spec) == ["b2"]


def test_missing_and_further_bands(resnet18_of_13_bands: tuple[Path, dict[str, torch.Tensor]]) -> None:
    """Bands in the file's own order; missing ones are zero-filled and named; further ones keep their statistics."""
    path, state = resnet18_of_13_bands
    bands = [Band("B08"), Band("B04"), Band("height")]
    data = Normalization.from_statistics([3000.0, 800.0, 55.0], [500.0, 90.0, 5.0])
    choice = {"kind": "file", "path": str(path), "like": "torchgeo", "name": MOCO}
    plan = prepare(choice, bands=bands, data=data)
    network = start(choice, bands=bands, data=data)
    weight = network.encoder.conv1.weight
    assert torch.equal(weight[:, 0], state["conv1.weight"][:, 7])
    assert torch.equal(weight[:, 1], state["conv1.weight"][:, 3])
    assert not weight[:, 2].any()
    assert plan.normalization.mean == (0.0, 0.0, 55.0)
    assert plan.normalization.std == (10_000.0, 10_000.0, 5.0)
    text = "\n".join(plan.lines)
    assert "filled with zeros: B1, B2, B3, B5" in text
    assert "height" in text


def test_bands_may_be_named_in_weights_bands(resnet18_of_13_bands: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, state = resnet18_of_13_bands
    choice = {"kind": "file", "path": str(path), "like": "torchgeo", "name": MOCO}
    bands, data = [Band("band 1"), Band("band 2")], Normalization.identity(2)
    with pytest.raises(UserError, match=r"weights\.bands="):
        prepare(choice, bands=bands, data=data)
    network = start({**choice, "bands": ["B12", "B8a"]}, bands=bands, data=data)
    assert torch.equal(network.encoder.conv1.weight, state["conv1.weight"][:, [12, 8]])


@pytest.mark.parametrize(("number", "encoder"), [(18, "resnet18"), (50, "resnet50"), (152, "resnet152")])
def test_the_encoder_is_the_one_that_the_weights_belong_to(number: int, encoder: str) -> None:
    """Its own metadata call the encoder of some ResNet-50 and ResNet-152 weights by another name."""
    member = "SENTINEL2_SI_MS_SATLAS" if number != 18 else "SENTINEL2_ALL_MOCO"
    assert satellite.find_weights(f"ResNet{number}_Weights.{member}").encoders[0] == encoder


def test_a_contradicting_encoder_is_an_error() -> None:
    with pytest.raises(UserError, match="belongs to encoder=resnet18; encoder=resnet50 contradicts it"):
        prepare({"kind": "torchgeo", "name": MOCO}, encoder="resnet50")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ResNet18_Weights.SENTINEL2_MOCO", "ResNet18_Weights.SENTINEL2_ALL_MOCO"),
        ("DOFABase16_Weights.DOFA_MAE", "fits no encoder here"),
        (None, "weights.name is not given"),
    ],
)
def test_unknown_satellite_weights_are_one_line(name: str | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        prepare({"kind": "torchgeo", "name": name}, encoder="auto")


def test_a_chain_of_normalisations_is_one() -> None:
    """SeCo's weights subtract a minimum, divide by the range, multiply by 255, and standardise."""
    import torchgeo.models

    weights = satellite.find_weights("ResNet18_Weights.SENTINEL2_RGB_SECO")
    image = torch.rand(1, 3, 224, 224) * 100
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (weights.mean, weights.std))
    member = torchgeo.models.ResNet18_Weights.SENTINEL2_RGB_SECO
    steps = [step for step in member.transforms if hasattr(step, "mean")]
    expected = image.clone()
    for step in steps:
        expected = step(expected)
    torch.testing.assert_close((image - mean) / std, expected, rtol=1e-4, atol=1e-3)


def test_every_weights_enum_that_is_offered_is_understood() -> None:
    """Every member's metadata give as many bands as channels, and one mean and std per band."""
    import torchgeo.models

    for group in satellite.ENCODERS:
        for member in getattr(torchgeo.models, group).__members__:
            weights = satellite.find_weights(f"{group}.{member}")
            assert len(weights.bands) == len(weights.mean) == len(weights.std)
            assert weights.url.startswith("https://")
            assert min(weights.std) > 0


def test_vision_transformers_of_torchgeo_go_with_dpt(tmp_path: Path) -> None:
    state = timm.create_model("vit_small_patch16_224", in_chans=13, num_classes=0).state_dict()
    torch.save(state, tmp_path / "vit.pth")
    name = "ViTSmall16_Weights.SENTINEL2_ALL_MAE"
    choice = {"kind": "file", "path": str(tmp_path / "vit.pth"), "like": "torchgeo", "name": name}
    network = start(choice, "dpt", "auto")
    assert torch.equal(network.encoder.model.patch_embed.proj.weight, state["patch_embed.proj.weight"])
    assert torch.equal(network.encoder.model.blocks[11].mlp.fc2.weight, state["blocks.11.mlp.fc2.weight"])


# --- RGB --------------------------------------------------------------------------------------------------------


def test_rgb_weights_keep_their_kernels_and_their_numbers(tmp_path: Path) -> None:
    state = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    safetensors.torch.save_file(state, tmp_path / "resnet18.safetensors")
    choice = {"kind": "file", "path": str(tmp_path / "resnet18.safetensors"), "like": "imagenet"}
    plan, network = prepare(choice), start(choice)
    weight = network.encoder.conv1.weight
    for channel, band in enumerate((3, 2, 1)):
        torch.testing.assert_close(weight[:, band], state["conv1.weight"][:, channel] * 3 / 13)
    torch.testing.assert_close(weight[:, 0], state["conv1.weight"].mean(1) * 3 / 13)
    assert torch.equal(network.encoder.layer4[1].bn2.running_var, state["layer4.1.bn2.running_var"])
    mean, std = plan.normalization.mean, plan.normalization.std
    assert (mean[3], mean[2], mean[1]) == (0.485, 0.456, 0.406)
    assert (std[3], std[2], std[1]) == (0.229, 0.224, 0.225)
    scale = plan.normalization.scale
    assert mean[0] == pytest.approx(1000.0 / scale)
    assert std[12] == pytest.approx(212.0 / scale)
    assert "red kernel → B04" in plan.lines


@pytest.mark.parametrize(
    ("dtype", "data", "choice", "scale"),
    [
        ("uint8", Normalization.from_statistics([100.0] * 13, [9.0] * 13), {}, 255.0),
        ("uint16", Normalization.from_statistics([0.1] * 13, [0.01] * 13, scale=10_000), {}, 10_000.0),
        ("uint16", DATA, {"scale": 3000.0}, 3000.0),
        ("uint16", DATA, {}, 1002.0 / 0.449),
    ],
)
def test_white_is_what_the_data_say(
    dtype: str, data: Normalization, choice: dict[str, Any], scale: float, tmp_path: Path
) -> None:
    torch.save(smp.encoders.get_encoder("resnet18", weights=None).state_dict(), tmp_path / "resnet18.pth")
    plan = prepare(
        {"kind": "file", "path": str(tmp_path / "resnet18.pth"), "like": "imagenet", **choice}, data=data, dtype=dtype
    )
    assert plan.normalization.scale == pytest.approx(scale)


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("unet", "tu-convnext_atto"),  # names with dots become names with underscores
        ("unet", "tu-swin_tiny_patch4_window7_224"),  # windows and their position biases
        ("unet", "tu-test_maxvit"),
        ("unet", "tu-hiera_tiny_224"),  # position embeddings of another size
        ("unet", "tu-tresnet_m"),  # 4 × 4 pixels stacked before the first convolution
        ("dpt", "tu-vit_small_patch14_dinov2"),  # patches of another size
    ],
)
def test_timms_weights_are_brought_into_the_encoders_form(architecture: str, encoder: str, tmp_path: Path) -> None:
    state = timm.create_model(encoder.removeprefix("tu-")).state_dict()
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    choice = {"kind": "file", "path": str(tmp_path / "model.safetensors"), "like": "imagenet"}
    network = start(choice, architecture, encoder)
    plain = {name.replace(".", "_"): value for name, value in state.items()}
    own = {name.removeprefix("model.").removeprefix("model."): v for name, v in network.encoder.state_dict().items()}
    same = [torch.equal(v, plain[name.replace(".", "_")]) for name, v in own.items() if name.replace(".", "_") in plain]
    assert len(same) >= 0.95 * len(own)
    assert sum(same) >= 0.75 * len(own)
    with torch.inference_mode():
        assert torch.isfinite(network.eval()(torch.rand(1, 13, *SIZE))).all()


def test_the_first_layer_is_found_whatever_it_is_called() -> None:
    for encoder, names in (
        ("resnet18", {"conv1.weight": 1}),
        ("mit_b0", {"patch_embed1.proj.weight": 1}),
        ("tu-tresnet_m", {"model.body_conv1.conv.weight": 16}),
        ("tu-coat_lite_tiny", {"model.model.patch_embed1.proj.weight": 1}),
    ):
        assert input_layers("unet", encoder, SIZE, {})[0] == names


# --- caches -----------------------------------------------------------------------------------------------------


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches and no network."""
    monkeypatch.setattr(pretrained, "reachable", lambda _: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path


def place(choice: Mapping[str, Any], encoder: str) -> Path:
    """Ask for weights that are not there, and return where they are to be put."""
    with pytest.raises(UserError, match="cannot be downloaded") as error:
        prepare(choice, encoder=encoder)
    path = Path(str(error.value).partition(" at ")[2].partition(", or")[0])
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.usefixtures("caches")
def test_torchgeos_weights_come_from_torchs_cache(
    resnet18_of_13_bands: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    source, state = resnet18_of_13_bands
    choice = {"kind": "torchgeo", "name": MOCO}
    place(choice, "auto").write_bytes(source.read_bytes())
    network = start(choice, encoder="auto")
    assert torch.equal(network.encoder.conv1.weight, state["conv1.weight"])


@pytest.mark.usefixtures("caches")
def test_smps_weights_come_from_the_hubs_cache_with_the_statistics_beside_them() -> None:
    state = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    path = place({"kind": "imagenet"}, "resnet18")
    safetensors.torch.save_file(state, path)
    assert prepare({"kind": "imagenet"}).normalization.mean[3] == 0.485
    (path.parent / "config.json").write_text('{"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}')
    plan = prepare({"kind": "imagenet"})
    assert [plan.normalization.mean[i] for i in (3, 2, 1)] == [0.5, 0.4, 0.3]
    assert torch.equal(plan.tensors["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])


@pytest.mark.usefixtures("caches")
@pytest.mark.parametrize("content", [b"", b'{"mean": [0.5', b"[1]", b"\xff\xfe"])
def test_damaged_statistics_in_the_hubs_cache_are_one_line(content: bytes) -> None:
    """They ended in a traceback, and no file was named."""
    path = place({"kind": "imagenet"}, "resnet18")
    safetensors.torch.save_file(smp.encoders.get_encoder("resnet18", weights=None).state_dict(), path)
    (path.parent / "config.json").write_bytes(content)
    message = r"config\.json is no JSON object \(.*Delete it to have it fetched again"
    with pytest.raises(UserError, match=message) as error:
        prepare({"kind": "imagenet"})
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("caches")
def test_timms_weights_come_from_the_hubs_cache_by_their_tag() -> None:
    encoder = "tu-resnet10t.c3_in1k"
    path = place({"kind": "imagenet"}, encoder)
    assert "models--timm--resnet10t.c3_in1k" in path.parts
    state = timm.create_model("resnet10t").state_dict()
    safetensors.torch.save_file(state, path)
    network = start({"kind": "imagenet"}, encoder=encoder)
    torch.testing.assert_close(network.encoder.model.conv1[0].weight[:, 3], state["conv1.0.weight"][:, 0] * 3 / 13)


# --- files ------------------------------------------------------------------------------------------------------


def test_weights_of_the_datas_own_bands_are_taken_as_they_are(
    resnet18_of_13_bands: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    path, state = resnet18_of_13_bands
    plan = prepare({"kind": "file", "path": str(path)})
    assert plan.normalization == DATA
    assert plan.pretrained
    network = start({"kind": "file", "path": str(path)})
    assert torch.equal(network.encoder.conv1.weight, state["conv1.weight"])


def test_an_encoder_of_our_own_checkpoint_is_taken(tmp_path: Path) -> None:
    trained = architectures.build("fpn", "resnet18", 13, 3)
    torch.save(
        {"state_dict": {f"network.architecture.{k}": v for k, v in trained.state_dict().items()}}, tmp_path / "a.ckpt"
    )
    network = start({"kind": "file", "path": str(tmp_path / "a.ckpt")})
    assert torch.equal(network.encoder.layer3[0].conv1.weight, trained.encoder.layer3[0].conv1.weight)


class Ours:
    """A checkpoint of four bands that says what it was trained on."""

    bands = tuple(map(Band, ("B2", "B3", "B4", "B8")))
    data = Normalization.from_statistics([1.0, 2.0, 3.0, 4.0], [1.0] * 4)

    def __init__(
        self, folder: Path, options: dict[str, Any] | None = None, normalization: Normalization = data
    ) -> None:
        self.path = str(folder / "ours.ckpt")
        table = ClassTable.build([1, 2])
        spec = NetworkSpec(
            "fpn", "resnet18", options or {}, self.bands, normalization, None, table, SIZE, statistics=self.data
        )
        network = build_network(spec)
        save_network(self.path, network, spec, {})
        self.kernels = network.architecture.state_dict()["encoder.conv1.weight"]

    def taken(self, names: Sequence[str], **choice: Any) -> tuple[torch.Tensor, str]:
        """The first layer for bands of these names, and what is said."""
        given = {"kind": "file", "path": self.path, **choice}
        data = Normalization.from_statistics([float(i) + 1 for i in range(len(names))], [1.0] * len(names))
        bands = [Band(name) for name in names]
        lines = prepare(given, bands=bands, data=data).lines
        return start(given, bands=bands, data=data).encoder.conv1.weight, "\n".join(lines)


def test_a_checkpoint_of_ours_gives_each_band_its_own_kernel(tmp_path: Path) -> None:
    """Its bands were taken to be the data's in the data's order, and blue saw with red's kernels."""
    ours = Ours(tmp_path)
    found, said = ours.taken(["B8", "B4", "B3", "B2"])
    assert torch.equal(found, ours.kernels.flip(1))
    assert "the weights' bands put into the order B8, B4, B3, B2" in said
    found, said = ours.taken(["B2", "B3", "B4", "B8"])
    assert torch.equal(found, ours.kernels)
    assert "CAUTION" not in said
    found, _ = ours.taken(["near", "else"], bands=["B8", None])
    assert torch.equal(found[:, 0], ours.kernels[:, 3])
    assert not found[:, 1].any()


def test_a_checkpoint_of_ours_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    ours = Ours(tmp_path)
    for names in (["B2", "B3", "B4", "B11"], ["B2", "B3"]):
        with pytest.raises(UserError, match=r"was trained on B2, B3, B4, B8; the data have B2, B3.*weights\.bands="):
            ours.taken(names)
    ours = Ours(tmp_path, normalization=Normalization((True,) * 4, 10_000.0, (0.0,) * 4, (1.0,) * 4))
    assert "CAUTION" in ours.taken(["B2", "B3", "B4", "B8"])[1].splitlines()[-1]
    ours = Ours(tmp_path, options={"whitening": 4})
    with pytest.raises(UserError, match="was trained with normalize=whiten, so its first layer takes no bands"):
        ours.taken(["B2", "B3", "B4", "B8"])


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [("unet", "tu-resnet18"), ("unet", "tu-test_convnext"), ("unet", "tu-swin_tiny_patch4_window7_224")],
)
def test_a_timm_encoder_of_our_own_checkpoint_is_taken(tmp_path: Path, architecture: str, encoder: str) -> None:
    """Its names are those of smp's wrapper around timm, which timm's own conversion does not know."""
    trained = architectures.build(architecture, encoder, 13, 3, SIZE)
    torch.save(
        {"state_dict": {f"network.architecture.{k}": v for k, v in trained.state_dict().items()}}, tmp_path / "a.ckpt"
    )
    network = start({"kind": "file", "path": str(tmp_path / "a.ckpt")}, architecture, encoder)
    own, given = network.encoder.state_dict(), trained.encoder.state_dict()
    assert all(torch.equal(own[name], value) for name, value in given.items())


def test_what_timm_cannot_convert_is_one_line(tmp_path: Path) -> None:
    network = architectures.build("unet", "tu-swin_tiny_patch4_window7_224", 13, 3, SIZE)
    torch.save({f"other.{name}": value for name, value in network.state_dict().items()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth .*give weights of the encoder that encoder= names"):
        prepare({"kind": "file", "path": str(tmp_path / "a.pth")}, encoder="tu-swin_tiny_patch4_window7_224")


@pytest.mark.parametrize("prefix", ["module.encoder.", "_orig_mod.encoder.", "model.module.encoder."])
def test_a_whole_networks_encoder_is_taken_from_whatever_wrapped_it(
    prefix: str, tmp_path: Path, resnet18_of_13_bands: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    _, state = resnet18_of_13_bands
    torch.save({"state_dict": {prefix + name: value for name, value in state.items()}}, tmp_path / "a.ckpt")
    network = start({"kind": "file", "path": str(tmp_path / "a.ckpt")})
    assert torch.equal(network.encoder.conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (lambda value: torch.full_like(value, torch.nan), r"conv1\.weight has values that are no numbers"),
        (lambda value: value.to("meta"), r"conv1\.weight is no plain tensor of numbers"),
        (lambda value: value.to_sparse(), r"conv1\.weight is no plain tensor of numbers"),
    ],
    ids=["nan", "meta", "sparse"],
)
@pytest.mark.filterwarnings("ignore:.*parse")
def test_weights_that_are_no_numbers_are_refused(
    odd: Callable[[torch.Tensor], torch.Tensor],
    words: str,
    tmp_path: Path,
    resnet18_of_13_bands: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    _, state = resnet18_of_13_bands
    torch.save(state | {"conv1.weight": odd(state["conv1.weight"])}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=words):
        prepare({"kind": "file", "path": str(tmp_path / "a.pth")})


@pytest.mark.parametrize(
    ("choice", "encoder", "words"),
    [
        ({"like": "imagenet"}, "resnet18", "conv1.weight is 64 × 13 × 7 × 7, the encoder expects 64 × 3 × 7 × 7"),
        ({}, "resnet34", "are not among them"),
        ({}, "resnet50", "the encoder that encoder= names"),
    ],
)
def test_weights_of_another_network_are_refused(
    choice: dict[str, Any],
    encoder: str,
    words: str,
    resnet18_of_13_bands: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    with pytest.raises(UserError, match=words):
        prepare({"kind": "file", "path": str(resnet18_of_13_bands[0]), **choice}, encoder=encoder)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"kind": "file"}, r"weights\.path="),
        ({"kind": "files", "path": "x"}, "expected none, imagenet, torchgeo, file"),
        ({"kind": "file", "path": "x", "like": "rgb"}, "expected none, imagenet, torchgeo"),
        ({"kind": "file", "path": 18}, r"weights\.path=18 is no word"),
        ({"kind": "torchgeo", "name": 18}, r"weights\.name=18 is no word"),
        ({"kind": "imagenet", "rgb": 3}, r"weights\.rgb=3 does not fit; expected a list of numbers or names"),
        ({"kind": "imagenet", "rgb": "B04"}, r"weights\.rgb=B04 does not fit"),
        ({"kind": "torchgeo", "name": MOCO, "bands": [4, 3, 2]}, r"weights\.bands=\[4, 3, 2\] does not fit"),
        ({"kind": "torchgeo", "name": MOCO, "bands": 4}, r"weights\.bands=4 does not fit"),
        ({"kind": "imagenet", "scale": "abc"}, r"weights\.scale=abc does not fit; expected a number above 0"),
        ({"kind": "imagenet", "scale": 0}, r"weights\.scale=0 does not fit"),
        ({"kind": "imagenet", "scale": float("inf")}, r"weights\.scale=inf does not fit"),
        ({"kind": "torchgeo", "name": MOCO, "scale": -1}, r"weights\.scale=-1 does not fit"),
        ({"kind": "imagenet", "white": 255}, r"weights\.white is unknown"),
    ],
)
def test_a_wrong_choice_is_one_line(choice: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        WeightsChoice.from_dict(choice)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_yaml_lists_keys_that_there_are(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    group = config.get("weights", config)
    assert set(group) <= set(KEYS)
    WeightsChoice.from_dict({**group, "path": group.get("path", "x")})
    if path.stem.startswith("sentinel2"):
        assert satellite.find_weights(group["name"]).encoders[0] == config["encoder"]
