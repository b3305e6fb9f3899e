"""A run is its own continuation, whatever its data are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from src.bands import Band, Normalization
from src.errors import UserError
from src.labels import ClassTable
from src.models.checkpoint import save_network
from src.models.network import Network, build_network
from src.models.restart import check_resumable, start_from
from src.spec import NetworkSpec
from tests.mapping_scenes import make_trained


def test_a_run_on_data_with_nan_as_nodata_can_be_resumed(tmp_path: Path) -> None:
    """NaN is not equal to itself, and the run was refused as one of other data; older checkpoints hold it as it is."""
    mapper = make_trained(tmp_path)
    spec = replace(mapper.spec, nodata=math.nan)
    content = torch.load(mapper.checkpoint, weights_only=True) | {"optimizer_states": [], "epoch": 0}
    for nodata in (math.nan, "nan"):
        content["hyper_parameters"]["spec"]["nodata"] = nodata
        torch.save(content, mapper.checkpoint)
        assert check_resumable(mapper.checkpoint, spec, 2) == 1
    with pytest.raises(UserError, match=r"was trained with nodata value nan, this run has 0\.0"):
        check_resumable(mapper.checkpoint, replace(spec, nodata=0.0), 2)


@pytest.mark.parametrize(("names", "colors"), [({1: "wood"}, {}), ({}, {1: "#123456"})])
def test_a_run_goes_on_with_the_names_and_colours_that_it_began_with(
    tmp_path: Path, names: dict[int, str], colors: dict[int, str]
) -> None:
    """Columns of its metrics are called by them; a message of names alone showed the same twice for other colours."""
    mapper = make_trained(tmp_path)
    content = torch.load(mapper.checkpoint, weights_only=True) | {"optimizer_states": [], "epoch": 0}
    torch.save(content, mapper.checkpoint)
    first = mapper.spec.classes.classes[0]
    own = f"{first.value} {names.get(1, first.name)} {colors.get(1, first.color)}"
    others = [{first.value: next(iter(given.values()))} if given else {} for given in (names, colors)]
    spec = replace(mapper.spec, classes=mapper.spec.classes.renamed(*others))
    message = rf"with classes \[{first.value} {first.name} {first.color}, .*this run has \[{own}.*own choices again"
    with pytest.raises(UserError, match=message):
        check_resumable(mapper.checkpoint, spec, 2)


@pytest.mark.parametrize("epoch", [None, "x", math.inf])
def test_a_checkpoint_without_its_epoch_is_refused_in_one_line(tmp_path: Path, epoch: object) -> None:
    mapper = make_trained(tmp_path)
    content = torch.load(mapper.checkpoint, weights_only=True) | {"optimizer_states": [], "epoch": epoch}
    torch.save(content, mapper.checkpoint)
    with pytest.raises(UserError, match="does not say which epoch it is of"):
        check_resumable(mapper.checkpoint, mapper.spec, 2)


def test_nothing_starts_from_weights_that_are_no_numbers(tmp_path: Path) -> None:
    """The training then ended with a loss that is no number, as if its learning rate were at fault."""
    mapper = make_trained(tmp_path)
    content = torch.load(mapper.checkpoint, weights_only=True)
    name = next(name for name in content["state_dict"] if name.endswith("weight"))
    content["state_dict"][name].fill_(math.nan)
    torch.save(content, mapper.checkpoint)
    with pytest.raises(UserError, match=r"init_from=.*has values that are no numbers"):
        start_from(mapper.network, mapper.spec, str(mapper.checkpoint))


BANDS = ("B2", "B3", "B4", "B8")
STATISTICS = Normalization((True,) * 4, 1.0, (400.0, 600.0, 500.0, 2500.0), (100.0, 150.0, 200.0, 800.0))
OTHERS = Normalization((True,) * 4, 10_000.0, (0.0,) * 4, (1.0,) * 4)


def described(
    bands: Sequence[str] = BANDS,
    classes: Sequence[str] = ("forest", "water"),
    normalization: Normalization = STATISTICS,
    *,
    architecture: str = "unet",
    encoder: str = "resnet18",
    options: dict[str, Any] | None = None,
    statistics: Normalization | None = STATISTICS,
) -> NetworkSpec:
    table = ClassTable.build(range(1, len(classes) + 1), dict(enumerate(classes, start=1)))
    found = tuple(Band(name) for name in bands)
    return NetworkSpec(
        architecture, encoder, options or {}, found, normalization, None, table, (64, 64), statistics=statistics
    )


def saved(folder: Path, spec: NetworkSpec) -> tuple[Network, str]:
    torch.manual_seed(0)
    network = build_network(spec).eval()
    for name, buffer in network.architecture.named_buffers():
        if name.endswith(("running_mean", "whitening.weight")):
            buffer.normal_()
    save_network(folder / "before.ckpt", network, spec, {})
    return network, str(folder / "before.ckpt")


@pytest.mark.parametrize(
    ("architecture", "encoder", "options"),
    [
        ("unet", "resnet18", {"detail": 8, "detail_dilations": [1, 2]}),
        ("segformer", "tu-convnext_atto", {}),
        ("justo_unet_simple", "none", {}),
        ("compact_unet", "none", {"whitening": 3}),
    ],
)
def test_bands_and_classes_in_another_order_keep_what_was_learnt_of_each(
    tmp_path: Path, architecture: str, encoder: str, options: dict[str, Any]
) -> None:
    """By shape alone blue's kernels went to near infrared, and forest's to water."""
    kinds: dict[str, Any] = {"architecture": architecture, "encoder": encoder, "options": options}
    mean, std = (values[::-1] for values in (STATISTICS.mean, STATISTICS.std))
    turned = Normalization((True,) * 4, 1.0, mean, std)
    before, path = saved(tmp_path, described(**kinds))
    spec = described(BANDS[::-1], ("Water", "forest"), turned, statistics=turned, **kinds)
    network = build_network(spec).eval()
    lines = start_from(network, spec, path).lines
    image = torch.rand(1, 4, 64, 64) * 2000
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    with torch.no_grad():
        expected = before(image, valid).flip(1)
        torch.testing.assert_close(network(image.flip(1), valid), expected, rtol=1e-3, atol=1e-3)
    assert len(lines) == 1
    assert "its bands put into the order B8, B4, B3, B2; its classes put into the order Water, forest" in lines[0]


def test_what_does_not_correspond_is_said_in_one_line(tmp_path: Path) -> None:
    kinds: dict[str, Any] = {"architecture": "compact_unet", "encoder": "none"}

    def said(spec: NetworkSpec) -> str:
        _, *rest = start_from(build_network(spec), spec, path).lines
        return "\n".join(rest)

    _, path = saved(tmp_path, described(**kinds))
    assert not said(described(**kinds))
    assert not said(described(classes=("class_1", "class_2"), **kinds))  # nobody has named them
    odd = said(described((*BANDS[:3], "B11"), ("forest", "town"), OTHERS, **kinds))
    assert odd.startswith(f"CAUTION: init_from={path} is of something else: its bands are B2, B3, B4, B8, not B2, B3,")
    assert "its classes are forest, water, not forest, town" in odd
    assert "normalised in another way (give weights=…" in odd
    assert "\n" not in odd
    _, path = saved(tmp_path, described(normalization=OTHERS, **kinds))  # trained on reflectances divided by 10 000
    assert said(described(**kinds)).count("normalised in another way") == 1
    assert not said(described(normalization=OTHERS, **kinds))


def test_other_options_of_the_model_are_said_and_blocks_of_another_reach_are_left(tmp_path: Path) -> None:
    """The tensors' shapes are the same, and every one was taken without a word."""
    kinds: dict[str, Any] = {"architecture": "pixel_resnet", "encoder": "none"}
    before, path = saved(tmp_path, described(options={"width": 8, "dilations": [1, 1, 1], "dropout": 0.1}, **kinds))
    spec = described(options={"width": 8}, **kinds)
    network = build_network(spec)
    random = network.architecture.state_dict()["decoder.0.change.0.weight"].clone()
    start = start_from(network, spec, path)
    first, caution, *rest = start.lines
    assert first.startswith("weights: 20 of 44 tensors")
    assert "it has model.dilations=[1, 1, 1], not [1, 2, 4] (give the model's keys" in caution
    assert "dropout" not in caution  # it is of the training, not of the network
    assert rest == [
        "  not taken: encoder.2 (dilation 1 there, 2 here)",
        "  not taken: decoder.0 (dilation 1 there, 4 here)",
    ]
    assert torch.equal(network.architecture.state_dict()["decoder.0.change.0.weight"], random)
    own, theirs = (each.architecture.state_dict() for each in (network, before))
    assert all(torch.equal(own[name], theirs[name]) for name in own if name not in start.left)


def test_options_are_compared_by_what_they_mean(tmp_path: Path) -> None:
    def said(options: dict[str, Any], **kinds: Any) -> str:
        spec = described(options=options, **kinds)
        return "\n".join(line for line in start_from(build_network(spec), spec, path).lines if "CAUTION" in line)

    _, path = saved(tmp_path, described(options={"detail": 8, "detail_dilations": [1]}))
    assert not said(
        {"encoder_depth": 5, "detail": 8, "detail_dropout": 0.2, "decoder_channels": (256, 128, 64, 32, 16)}
    )
    assert "it has model.detail_dilations=[1], not [4]" in said({"detail": 8, "detail_dilations": [4]})
    assert "it has model.detail=8, not 0 (" in said({})
    small: dict[str, Any] = {"architecture": "compact_unet", "encoder": "none"}
    _, path = saved(tmp_path, described(options={"stem": 0}, **small))
    assert not said({"stem": "auto"}, **small)
    _, path = saved(tmp_path, described(options={"whitening": 4}, **small))
    assert "it takes 4 whitened components, not bands" in said({}, **small)
