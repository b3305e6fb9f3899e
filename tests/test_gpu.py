"""What only a GPU can show: that it gives the answers of the CPU, by whichever way the numbers reach it."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import rasterio
import torch
from timm.layers.norm_act import BatchNormAct2d

from scripts.make_scene import SceneFiles, make_scene
from src.augmentation import Augmentation
from src.callbacks.average import AverageWeights
from src.datamodules import cache
from src.datamodules.cache import OnDevice
from src.datamodules.chips import ChipData
from src.evaluation import evaluate
from src.mapping.scene_map import MapOptions, Mapper, map_scene
from src.models.losses import CrossEntropy
from src.models.optimization import Optimization
from src.models.segmenter import Segmenter
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation
from src.report.training import validation_examples
from src.tables import Sample
from src.training import NetworkChoice, choose_trainer_options, make_network
from tests.chip_folder import make_chip_folder
from tests.test_fast_paths import CPU, mapper, scene

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

__all__ = ["mapper", "scene"]  # fixtures


def mapped(mapper: Mapper, scene: SceneFiles, output: Path, device: str, **options: Any) -> np.ndarray:
    there = replace(mapper, network=copy.deepcopy(mapper.network), device=torch.device(device))
    map_scene(replace(there, options=MapOptions(window=96, **options)), str(scene.image), output)
    with rasterio.open(output) as dataset:
        return np.asarray(dataset.read(1))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_its_maps_are_those_of_the_cpu(mapper: Mapper, scene: SceneFiles, tmp_path: Path, batch_size: int) -> None:
    plain = mapped(mapper, scene, tmp_path / "cpu.tif", "cpu")
    there = mapped(mapper, scene, tmp_path / "gpu.tif", "cuda", batch_size=batch_size, probabilities="uint8")
    assert (plain == there).mean() >= 0.995
    with rasterio.open(tmp_path / "gpu_probabilities.tif") as dataset:
        shares = dataset.read()
    assert (shares.argmax(0) + 1 == there).mean() > 0.99


def test_pixels_without_a_measurement_get_no_class(mapper: Mapper, scene: SceneFiles, tmp_path: Path) -> None:
    gappy = tmp_path / "gappy.tif"
    with rasterio.open(scene.image) as dataset:
        profile, pixels = dataset.profile, dataset.read()
    pixels[:, 20:70, 30:150] = 0
    pixels[:, :, 160:] = 0
    with rasterio.open(gappy, "w", **{**profile, "nodata": 0}) as dataset:
        dataset.write(pixels)
    there = mapped(mapper, replace(scene, image=gappy), tmp_path / "gpu.tif", "cuda")
    assert np.array_equal(there == 0, (pixels == 0).all(0))


def test_its_scores_are_those_of_the_cpu(mapper: Mapper, scene: SceneFiles) -> None:
    samples = [Sample(scene.image, scene.label)] * 5

    def scores(device: torch.device) -> tuple[float, float]:
        found = evaluate(copy.deepcopy(mapper.network), mapper.spec, samples, device=device, batch_size=2).pooled
        return found.mean_iou, found.overall_accuracy

    assert scores(torch.device("cuda")) == pytest.approx(scores(CPU), abs=0.002)


def silent_trainer(epochs: int, strategy: str = "auto", **options: Any) -> L.Trainer:
    """Return a trainer for one GPU that writes and says nothing."""
    return L.Trainer(
        **choose_trainer_options("gpu", 1, "auto", strategy),
        **options,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


@pytest.mark.parametrize("kept", ["on the GPU", "in memory", "on disk"])
def test_it_learns_from_chips_wherever_they_are(kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = make_scene(tmp_path / "scene", width=256, height=256, bands=4, noise=0.01, unclassified_share=0)
    prepare(Preparation(str(files.image), str(files.label), (32, 32), (32, 32)), tmp_path / "chips")
    if kept == "in memory":
        monkeypatch.setattr(cache, "GPU_CACHE_SHARE", 0.0)
    data = ChipData(tmp_path / "chips", batch_size=8, cache=kept != "on disk")
    described = data.describe()
    torch.manual_seed(0)
    network, spec = make_network(described, NetworkChoice("compact_unet", "none", options={}))
    augmentation = Augmentation(flips=True, rotate90=True, rotation=20, zoom=0.2, cutmix=0.5, noise=0.05, crop=24)
    optimization = Optimization(lr=0.01)
    segmenter = Segmenter(network, spec, CrossEntropy(described.weights), optimization, augmentation)
    trainer = silent_trainer(15)
    trainer.fit(segmenter, datamodule=data)
    loader: Any = trainer.train_dataloader
    assert isinstance(loader.dataset, OnDevice) == (kept == "on the GPU")
    assert segmenter.outcome("val").scores.mean_iou > 0.5, json.dumps(segmenter.numbers())
    examples = validation_examples(segmenter.network, spec, data.val_dataloader(), torch.device("cuda"), most=8)
    assert examples.seen > 0  # the report of a training failed whose chips are on the GPU


def test_the_average_of_the_weights_stays_there(tmp_path: Path) -> None:
    data = ChipData(make_chip_folder(tmp_path / "chips"), batch_size=3)
    network, spec = make_network(data.describe(), NetworkChoice("compact_unet", "none", options={}))
    segmenter, average = Segmenter(network, spec, CrossEntropy(), Optimization(lr=0.01)), AverageWeights(0.9)
    trainer = silent_trainer(2, callbacks=[average])
    trainer.fit(segmenter, datamodule=data)
    kept = average._average_model
    assert kept is not None
    assert {parameter.device.type for parameter in kept.module.parameters()} == {"cuda"}
    assert int(kept.n_averaged) == trainer.global_step
    for name, value in segmenter.network.state_dict().items():
        assert torch.equal(value, kept.module.network.state_dict()[name].to(value.device)), name


def test_synchronised_batch_norms_learn_with_their_activations(tmp_path: Path) -> None:
    """One process has nothing to exchange, but the same layers as several."""
    data = ChipData(make_chip_folder(tmp_path / "chips"), batch_size=3)
    network, spec = make_network(data.describe(), NetworkChoice("unet", "tu-mobilenetv3_small_100", options={}))
    segmenter = Segmenter(network, spec, CrossEntropy(), Optimization(lr=0.01))
    before = [type(part) for part in segmenter.network.modules() if isinstance(part, BatchNormAct2d)]
    trainer = silent_trainer(1, "ddp", sync_batchnorm=True)
    trainer.fit(segmenter, datamodule=data)
    assert before == [type(part) for part in segmenter.network.modules() if isinstance(part, BatchNormAct2d)]
    assert segmenter.outcome("val").chips == 3
