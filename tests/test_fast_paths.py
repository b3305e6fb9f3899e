"""What makes it fast changes nothing: each fast path beside the plain one, on a trained network where it matters."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from torch import nn
from torch.nn import functional as F

from scripts.make_scene import SceneFiles, make_scene
from src.bands import Normalization
from src.evaluation import evaluate
from src.labels import IGNORE, ClassTable
from src.mapping.inference import Predictor
from src.mapping.scene_map import MapOptions, Mapper, map_scene
from src.models import architectures, precision
from src.models.checkpoint import save_network
from src.models.network import Network, build_network
from src.raster.read import info_of, open_raster
from src.spec import NetworkSpec
from src.tables import Sample

CPU = torch.device("cpu")
SIDE, CHIP = 192, 48


@pytest.fixture(autouse=True)
def float32_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "prefers_bf16", lambda _: False)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> SceneFiles:
    folder = tmp_path_factory.mktemp("scene")
    return make_scene(folder, width=SIDE, height=SIDE, bands=4, noise=0.01, unclassified_share=0)


@pytest.fixture(scope="module")
def mapper(scene: SceneFiles, tmp_path_factory: pytest.TempPathFactory) -> Mapper:
    """A small network that has learned the scene's classes."""
    torch.manual_seed(0)
    with open_raster(scene.image) as dataset:
        bands = info_of(dataset).bands
    with rasterio.open(scene.image) as image, rasterio.open(scene.label) as label:
        pixels = torch.from_numpy(image.read())
        classes = ClassTable.build(range(1, 6))
        target = torch.from_numpy(classes.encode(label.read(1))).long()
    mean, std = (tuple(getattr(pixels.double(), name)((1, 2)).tolist()) for name in ("mean", "std"))
    normalization = Normalization((True,) * 4, 1.0, mean, std)
    spec = NetworkSpec("compact_unet", "none", {}, bands, normalization, None, classes, (CHIP, CHIP))
    network = build_network(spec).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    rng = np.random.default_rng(0)
    for _ in range(40):
        parts = [
            np.s_[row : row + CHIP, column : column + CHIP] for row, column in rng.integers(0, SIDE - CHIP, (4, 2))
        ]
        logits = network(torch.stack([pixels[:, *part] for part in parts]), torch.ones(4, CHIP, CHIP, dtype=torch.bool))
        optimizer.zero_grad()
        F.cross_entropy(logits, torch.stack([target[part] for part in parts]), ignore_index=IGNORE).backward()
        optimizer.step()
    checkpoint = tmp_path_factory.mktemp("run") / "network.ckpt"
    save_network(checkpoint, network.eval(), spec, {})
    return Mapper(checkpoint, network, spec, CPU, MapOptions(window=96))


def in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this CPU take itself for one that multiplies bfloat16: it emulates, slowly and correctly."""
    monkeypatch.setattr(precision, "prefers_bf16", lambda _: True)


def mapped(mapper: Mapper, scene: SceneFiles, output: Path) -> np.ndarray:
    map_scene(mapper, str(scene.image), output)
    with rasterio.open(output) as dataset:
        return np.asarray(dataset.read(1))


def test_maps_in_bfloat16_agree_with_those_in_float32(
    mapper: Mapper, scene: SceneFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = mapped(mapper, scene, tmp_path / "float32.tif")
    in_bfloat16(monkeypatch)
    fast = mapped(mapper, scene, tmp_path / "bfloat16.tif")
    with rasterio.open(scene.label) as label:
        assert (plain == label.read(1)).mean() > 0.8  # it has learned something
    assert (plain == fast).mean() >= 0.995


def test_scores_in_bfloat16_are_those_in_float32(
    mapper: Mapper, scene: SceneFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores() -> tuple[float, float]:
        network = copy.deepcopy(mapper.network)
        found = evaluate(network, mapper.spec, [Sample(scene.image, scene.label)], device=CPU).pooled
        return found.mean_iou, found.overall_accuracy

    plain = scores()
    in_bfloat16(monkeypatch)
    assert scores() == pytest.approx(plain, abs=0.002)


def test_bfloat16_is_what_was_compared(mapper: Mapper, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 5000, (1, 4, 48, 48)).astype(np.uint16)
    everywhere = np.ones((1, 48, 48), bool)
    predictor = Predictor(copy.deepcopy(mapper.network), CPU)
    plain = predictor(image, everywhere)
    in_bfloat16(monkeypatch)
    fast = predictor(image, everywhere)
    assert 0 < float((plain - fast).abs().max()) < 0.1


def test_channels_last_gives_the_answer_of_channels_first(mapper: Mapper) -> None:
    plain = copy.deepcopy(mapper.network.architecture).to(memory_format=torch.contiguous_format)
    fast = precision.place(copy.deepcopy(mapper.network.architecture), CPU)
    image = torch.randn(2, 4, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        first, last = plain(image), fast(image.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(first, last, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("used", [(True, True, True), (True, False, True)])
def test_normalising_is_the_plain_formula_and_leaves_its_input_alone(
    dtype: str, gaps: bool, used: tuple[bool, ...]
) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 200, (2, 3, 8, 8)).astype(dtype)
    valid = rng.random((2, 8, 8)) < 0.5 if gaps else np.ones((2, 8, 8), bool)
    if dtype == "float32" and gaps:
        numbers.transpose(0, 2, 3, 1)[~valid] = np.nan
    normalization = Normalization(used, 100.0, (0.5, 1.0, 0.2), (0.25, 2.0, 1.0))
    before = numbers.copy()
    found = Network(nn.Identity(), normalization).normalize(torch.from_numpy(numbers), torch.from_numpy(valid))
    mean, std = (np.array(row, np.float32)[:, None, None] for row in (normalization.mean, normalization.std))
    expected = (numbers.astype(np.float32) / np.float32(100) - mean) / std
    expected = np.where(np.array(used)[:, None, None] & valid[:, None], expected, 0)
    np.testing.assert_array_equal(found.numpy(), expected.astype(np.float32))
    np.testing.assert_array_equal(numbers, before)


def test_a_frozen_encoder_keeps_no_graph() -> None:
    network = architectures.build("unet", "resnet18", 3, 2, (32, 32)).train()
    image = torch.randn(2, 3, 32, 32)
    network.freeze_encoder()  # type: ignore[operator]
    assert not any(features.requires_grad for features in network.encoder(image))  # type: ignore[operator]
    loss = network(image).sum()
    loss.backward()
    assert all(parameter.grad is None for parameter in network.encoder.parameters())  # type: ignore[union-attr]
    network.unfreeze_encoder()  # type: ignore[operator]
    assert any(features.requires_grad for features in network.encoder(image))  # type: ignore[operator]


def test_larger_windows_map_what_small_ones_map(mapper: Mapper, scene: SceneFiles, tmp_path: Path) -> None:
    maps = [
        mapped(replace(mapper, options=MapOptions(window=window)), scene, tmp_path / f"{window}.tif")
        for window in (CHIP, 192)
    ]
    assert (maps[0] == maps[1]).mean() > 0.95


def test_a_training_step_learns_the_same_in_either_layout(mapper: Mapper) -> None:
    """In float64, since rounding alone decides many of a ReLU's zeros in float32."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 4, 48, 48, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 5, (2, 48, 48), generator=generator)
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        architecture = copy.deepcopy(mapper.network.architecture).double().train().to(memory_format=layout)
        torch.manual_seed(0)  # of the dropout
        F.cross_entropy(architecture(image.contiguous(memory_format=layout)), target).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in architecture.parameters() if p.grad is not None]))
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 1e-9
