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
    lines = start_from(network, spec, path)
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
        _, *rest = start_from(build_network(spec), spec, path)
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
