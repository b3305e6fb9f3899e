from __future__ import annotations

import itertools
import pickle
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from PIL import Image
from rasterio.transform import Affine

from scripts.make_scene import make_scene
from src import datafolder
from src.datafolder import read_data_folder
from src.datamodules import base, map_windows, torchgeo
from src.datamodules.base import SegmentationData, choose_workers, processes_started, processes_that_share
from src.datamodules.batches import Batch, Chip, EpochBatches, EpochPlan, collate, plan_epoch, sampling_shares
from src.datamodules.cache import Cached, OnDevice
from src.datamodules.chips import ChipData
from src.datamodules.scenes import SceneData, divide
from src.datamodules.torchgeo import MaskCodes, TorchGeoChips, TorchGeoData
from src.errors import UserError
from src.labels import IGNORE
from src.models.losses import WEIGHTINGS, class_weights
from src.tables import SUMMARY, ClassRow, Summary, write_summary
from src.training import choose_class_weights
from tests import rasters
from tests.chip_folder import make_chip_folder
from tests.l8biome import make_l8biome


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chip_folder(tmp_path_factory.mktemp("chips") / "data")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_scene(tmp_path_factory.mktemp("scene"), width=200, height=150, bands=3, seed=2)


def names(data: SegmentationData) -> list[str]:
    data.setup()
    return [name for batch in data.train_dataloader() for name in batch.names]


@pytest.mark.parametrize(("count", "size"), [(17, 16), (6, 6), (5, 2), (1, 4), (33, 8)])
def test_an_epoch_has_every_sample_once_in_batches_of_nearly_one_size(count: int, size: int) -> None:
    batches = list(EpochBatches(count, size, seed=1))
    assert sorted(itertools.chain(*batches)) == list(range(count))
    assert len(batches) == len(EpochBatches(count, size, seed=1)) == -(-count // size)
    assert max(map(len, batches)) <= size
    assert max(map(len, batches)) - min(map(len, batches)) <= 1


@pytest.mark.parametrize(
    ("count", "size", "plan"),
    [
        (64, (64, 64), EpochPlan(16)),  # four steps, which is enough
        (49, (64, 64), EpochPlan(16)),
        (27, (128, 128), EpochPlan(6)),  # 5 steps
        (13, (224, 224), EpochPlan(3)),
        (5, (224, 160), EpochPlan(2, 1)),  # 3 steps: batches of one chip teach batch norms nothing
        (1, (224, 224), EpochPlan(2, 8)),  # the same chip, changed by augmentation, four times two
        (14, (64, 64), EpochPlan(4, 1)),
        (14, (32, 32), EpochPlan(16, 4)),  # one number per chip and channel at a 32nd of the resolution
        (36, (32, 32), EpochPlan(16, 1)),  # 3 steps: twice is more than asked for
    ],
)
def test_an_epoch_of_few_chips_has_smaller_batches_and_then_takes_them_more_often(
    count: int, size: tuple[int, int], plan: EpochPlan
) -> None:
    assert plan_epoch(count, 16, 4, size) == plan
    assert plan_epoch(count, 16, 0, size) == EpochPlan(16)
    assert plan_epoch(count, 3, 4, size).batch_size <= 3  # never larger than what was asked for


@pytest.mark.parametrize("fresh", [False, True])
def test_passes_take_every_sample_as_often_and_sources_that_draw_anew_never_the_same(fresh: bool) -> None:
    sampler = EpochBatches(5, 4, seed=1, fresh=fresh, passes=3)
    sampler.set_epoch(2)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 4
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    taken = sorted(itertools.chain(*batches))
    assert taken == (list(range(30, 45)) if fresh else sorted(3 * list(range(5))))
    assert len({tuple(sampler.own()[first : first + 5]) for first in (0, 5, 10)}) == 3  # each pass in its own order
    sampler.first = 3
    assert list(sampler) == batches[3:]


def test_few_chips_are_said_and_left_alone_on_request(folder: Path) -> None:
    data = ChipData(folder)  # 6 chips of 32 px
    data.setup()
    taken = [batch.names for batch in data.train_dataloader()]
    assert len(taken) == 4
    assert set(Counter(itertools.chain(*taken)).values()) == {10}
    line = data.few_chips()
    assert line is not None
    assert line.startswith("few chips: an epoch has 4 steps of 16 chips at most, each chip 10 times")
    assert data.plan(2) == EpochPlan(8, 10)  # together the same
    plain = ChipData(folder, min_steps=0)
    assert len(names(plain)) == 6
    assert plain.few_chips() is None
    with pytest.raises(UserError, match="min_steps=-1 does not fit"):
        ChipData(folder, min_steps=-1)
    data.counted = True  # as datamodule.windows does
    assert data.plan() == EpochPlan(16)


@pytest.mark.parametrize(("batch_size", "steps", "each"), [(16, 4, "4 batches of 16"), (2, 4, "4 batches of 2")])
def test_an_epoch_of_few_chips_has_enough_steps_where_batches_are_accumulated(
    folder: Path, batch_size: int, steps: int, each: str
) -> None:
    """The batches were as many as the steps should have been, so that there was one step an epoch."""
    data = ChipData(folder, batch_size=batch_size)
    data.setup()
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        world_size=1,
        global_rank=0,
        num_devices=1,
        accumulate_grad_batches=4,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    batches = len(data.train_dataloader())
    assert -(-batches // 4) == steps
    line = data.few_chips(accumulation=4)
    assert line is not None
    assert line.startswith(f"few chips: an epoch has {steps} steps of {each} chips at most, each chip ")


def test_so_few_validation_chips_that_luck_chooses_are_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    ChipData(folder).source("validation")
    assert "CAUTION: 3 validation chips choose the best epoch" in caplog.text
    caplog.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "1")  # a process beside the first, which has said it
        ChipData(folder).source("validation")
    assert not caplog.text
    ChipData(folder, refit=True).source("validation")
    assert not caplog.text


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = EpochBatches(20, 4, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 5) == order(1, 5)
    assert order(1, 5) != order(1, 6)
    assert order(1, 5) != order(2, 5)


@pytest.mark.parametrize("seed", [None, 3])
def test_processes_share_no_sample_and_validation_leaves_none_out(seed: int | None) -> None:
    parts = [EpochBatches(11, 2, seed, rank, 3).own() for rank in range(3)]
    together = list(itertools.chain(*parts))
    assert len(together) == len(set(together))
    if seed is None:
        assert sorted(together) == list(range(11))
    else:
        assert {len(part) for part in parts} == {3}  # as many steps in every process


def test_chips_with_rare_classes_are_drawn_more_often_and_no_frequent_one_is_forgotten() -> None:
    counts = np.array([[100, 0]] * 9 + [[96, 4]])
    shares = sampling_shares(counts, 0.5)
    assert shares[-1] / shares[0] == pytest.approx((996 / 4) ** 0.5, rel=0.01)
    assert np.allclose(sampling_shares(counts, 0.0), 0.1)
    sampler = EpochBatches(10, 4, seed=0, shares=shares)
    seen = np.zeros(10)
    for epoch in range(200):
        sampler.set_epoch(epoch)
        own = sampler.own()
        assert len(own) == 10
        np.add.at(seen, own, 1)
    assert np.allclose(seen / seen.sum(), shares, atol=0.02)
    sampler.set_epoch(0)
    assert sampler.own() == EpochBatches(10, 4, seed=0, shares=shares).own()


def test_a_folder_trains_on_rare_classes_more_often_and_on_validation_chips_in_a_refit(folder: Path) -> None:
    plain = names(ChipData(folder, min_steps=0))
    validation = {sample.image.name for sample in read_data_folder(folder).samples("validation")}
    assert set(names(ChipData(folder, refit=True))) == set(plain) | validation
    assert len(names(ChipData(folder, oversample=1.0, min_steps=0))) == len(plain)
    with pytest.raises(UserError, match="oversample=2 does not fit"):
        ChipData(folder, oversample=2)


def test_a_folder_is_described_once_for_all_chips_that_are_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was for each chip, and each time all lists were read: 1000 chips took two minutes, 5000 nearly an hour."""
    asked: list[ChipData] = []
    describe = ChipData.describe
    monkeypatch.setattr(ChipData, "describe", lambda self: asked.append(self) or describe(self))
    data = ChipData(folder, oversample=1.0, cache=False)
    data.setup()
    assert len(data.source("train")) > 3
    assert len(asked) <= 3


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_refit_learns_classes_that_only_validation_chips_have(weighting: str, tmp_path: Path) -> None:
    """Their weight was 0, as it is where nothing of them is trained on."""
    path = make_chip_folder(tmp_path / "data")
    for sample in read_data_folder(path).samples("validation"):
        with rasterio.open(sample.label, "r+") as file:
            label = file.read(1)
            label[8:16, 8:16] = 9
            file.write(label, 1)
    plain, refit = (ChipData(path, refit=refit).describe() for refit in (False, True))
    assert (plain.counts[2], refit.counts[2]) == (0, 3 * 64)
    assert sum(refit.counts) == sum(plain.counts) + 3 * 32 * 28
    assert choose_class_weights(plain, weighting)[2] == 0  # type: ignore[index]
    assert choose_class_weights(refit, weighting)[2] > 1  # type: ignore[index]
    assert refit.weights == tuple(round(1 - count / sum(refit.counts), 4) for count in refit.counts)


def test_a_refit_keeps_the_weights_that_somebody_has_given_a_folder(tmp_path: Path) -> None:
    path = make_chip_folder(tmp_path / "data")
    counts = read_data_folder(path).train_counts
    rows = [ClassRow(value, (count, 0, 0), 0.25) for value, count in zip((2, 7), counts, strict=True)]
    write_summary(path / SUMMARY, Summary(tuple(rows), None, True))
    assert ChipData(path, refit=True).describe().weights == (0.25, 0.25)


def test_sources_that_draw_anew_get_new_numbers_in_every_epoch() -> None:
    sampler = EpochBatches(3, 3, seed=0, fresh=True)
    sampler.set_epoch(2)
    assert sorted(next(iter(sampler))) == [6, 7, 8]


def test_a_chip_comes_in_its_own_numbers_with_mask_and_indices(folder: Path) -> None:
    data = ChipData(folder)
    chip = data.source("train")[0]
    assert chip.image.dtype == np.uint16
    assert chip.image.shape == (3, 32, 32)
    assert not chip.valid[:2, -2:].any()
    assert chip.valid.sum() == 32 * 32 - 4
    assert set(np.unique(chip.target)) == {0, 1, IGNORE}
    assert (chip.target[:, :4] == IGNORE).all()
    assert (chip.target[~chip.valid] == IGNORE).all()
    described = data.describe()
    assert described.classes.values == (2, 7)
    labelled = sum(int((data.source("train")[n].target != IGNORE).sum()) for n in range(6))
    assert sum(described.counts) == labelled + 6 * 4  # the folder counts labels, also where nothing was measured
    assert described.normalization is not None
    assert described.normalization.mean[0] == pytest.approx(1200, abs=60)


def test_a_batch_counts_its_labels_and_names_its_chips(folder: Path) -> None:
    chips = [ChipData(folder).source("train")[n] for n in (0, 1)]
    batch: Batch = collate(chips)
    assert batch.image.dtype == torch.uint16
    assert batch.labelled == sum(int((chip.target != IGNORE).sum()) for chip in chips)
    assert batch.names == ["scene_tile_0_0.tif", "scene_tile_32_0.tif"]


def test_chips_are_kept_in_memory_when_they_fit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ChipData(folder, workers=3)
    data.setup()
    assert isinstance(data._sources["train"], Cached)
    assert data.train_dataloader().num_workers == 0  # nothing to read ahead
    monkeypatch.setattr(base, "CACHE_SHARE", 0)
    data = ChipData(folder, workers=1)
    data.setup()
    assert not isinstance(data._sources["train"], Cached)
    assert data.train_dataloader().num_workers == 1


def test_chips_are_kept_in_memory_when_they_fit_for_every_process_of_the_machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each took half of the free memory for itself: four of them twice what there is."""
    chips = ChipData(folder, cache=False)
    needed = sum(len(chips.source(stage)) for stage in base.STAGES) * chips.source("train")[0].nbytes
    monkeypatch.setattr(base, "available_memory", lambda: 3 * needed)

    def kept(processes: int | None = None, devices: int | None = None) -> bool:
        data = ChipData(folder)
        data.trainer = None if devices is None else SimpleNamespace(num_devices=devices)  # type: ignore[assignment]
        data.setup(processes=processes)
        return isinstance(data._sources["train"], Cached)

    for variable in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.delenv(variable, raising=False)
    assert kept()
    assert kept(processes=1)
    assert not kept(processes=4)
    assert not kept(devices=4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert not kept()
    assert kept(devices=1)  # the trainer knows best


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 1),
        ({"LOCAL_WORLD_SIZE": "4"}, 4),
        ({"SLURM_NTASKS_PER_NODE": "8"}, 8),
        ({"LOCAL_WORLD_SIZE": "2", "SLURM_NTASKS_PER_NODE": "1"}, 2),  # torchrun in a job of one task
        ({"SLURM_NTASKS_PER_NODE": "many"}, 1),
    ],
)
def test_launchers_say_how_many_processes_share_the_machine(environment: dict[str, str], expected: int) -> None:
    assert processes_started(environment) == expected


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "float32", "float64"])
def test_batches_put_together_on_the_device_are_those_put_together_elsewhere(dtype: str) -> None:
    rng = np.random.default_rng(0)
    chips = [
        Chip(
            f"{number}.tif",
            rng.integers(0, 200, (3, 8, 9)).astype(dtype) * (300 if dtype != "uint8" else 1),
            rng.random((8, 9)) < 0.9,
            rng.choice(np.array([0, 1, IGNORE], np.uint8), (8, 9)),
        )
        for number in range(5)
    ]
    there = OnDevice(chips, torch.device("cpu"))
    assert len(there) == 5
    for chosen in ([0], [4, 1, 1], [2, 3, 0, 1, 4]):
        expected, found = collate([chips[index] for index in chosen]), there.__getitems__(chosen)
        assert found.names == expected.names
        assert found.labelled == expected.labelled
        assert found.image.dtype == expected.image.dtype
        for one, other in zip(found[:3], expected[:3], strict=True):
            assert np.array_equal(one.numpy(), other.numpy())


def test_workers_read_in_processes_that_were_not_forked(folder: Path) -> None:
    data = ChipData(folder, batch_size=4, workers=1, cache=False)
    data.setup()
    loader = data.train_dataloader()
    assert loader.multiprocessing_context.get_start_method() in {"forkserver", "spawn"}
    ahead = [batch.names for batch in loader]
    here = ChipData(folder, batch_size=4)
    here.setup()
    assert ahead == [batch.names for batch in here.train_dataloader()]


@pytest.mark.parametrize(
    ("cores", "processes", "on_gpu", "expected"),
    [(2, 1, False, 0), (8, 1, False, 2), (64, 1, False, 4), (2, 1, True, 1), (16, 1, True, 8), (16, 4, True, 3)],
)
def test_workers_are_chosen_from_the_cores(
    cores: int, processes: int, on_gpu: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "cores", lambda: cores)
    assert choose_workers("auto", processes, on_gpu) == expected
    assert choose_workers(5, processes, on_gpu) == 5


@pytest.mark.parametrize(
    ("environment", "told", "cores", "expected"),
    [
        (None, "", 64, 4),
        (LightningEnvironment, "", 64, 4),
        (LightningEnvironment, "8", 8, 4),  # an interactive job of one task
        (SLURMEnvironment, "8", 8, 1),
        (SLURMEnvironment, "8", 64, 4),  # of a cluster that binds no task
        (SLURMEnvironment, "", 64, 4),
        (TorchElasticEnvironment, "", 16, 1),
    ],
)
def test_cores_are_divided_among_processes_only_where_nobody_has_done_so(
    environment: type | None, told: str, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM's tasks with eight cores each took a quarter of them, and read with one process."""
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", told)
    monkeypatch.setattr(base, "cores", lambda: cores)
    assert processes_that_share(4, environment and environment.__new__(environment)) == expected


@pytest.mark.parametrize(
    ("told", "processes", "cores", "expected"),
    [("", 1, 8, 8), ("", 4, 8, 2), ("", 9, 8, 1), ("8", 4, 8, 8), ("8", 4, 64, 16)],
)
def test_processes_read_their_chips_with_their_share_of_the_cores(
    told: str, processes: int, cores: int, expected: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of several read with a thread per core of the machine."""
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", told)
    monkeypatch.setattr(base, "cores", lambda: cores)
    threads = []

    def noting(source: Any, _: str, number: int) -> Any:
        threads.append(number)
        return map(source.__getitem__, range(len(source)))

    monkeypatch.setattr(base, "read_all", noting)
    ChipData(folder).setup(processes=processes)
    assert threads == [expected, expected]


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(
    ("damage", "message"),
    [("missing", "scene_tile_160_0.tif"), ("truncated", "scene_tile_160_0.tif"), ("foreign", "has the value 9")],
)
def test_a_chip_that_cannot_be_used_is_named_before_training_starts(
    folder: Path, tmp_path: Path, damage: str, message: str, cache: bool
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(folder, copy)
    chip = copy / "images" / "scene_tile_160_0.tif"
    data = ChipData(copy, cache=cache)
    if damage == "missing":
        chip.unlink()
    elif damage == "truncated":
        chip.write_bytes(chip.read_bytes()[:-2000])
    else:
        label = copy / "labels" / "scene_tile_160_0.tif"
        content = bytearray(label.read_bytes())
        content[content.index(b"\x07" * 8)] = 9
        label.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        data.setup()
    assert "\n" not in str(error.value)


def test_chips_of_differing_shape_and_folders_without_chips_are_one_line(folder: Path, tmp_path: Path) -> None:
    other = make_chip_folder(tmp_path / "other", size=40)
    shutil.copytree(folder, tmp_path / "data")
    shutil.copy(other / "images/scene_tile_40_0.tif", tmp_path / "data/images/scene_tile_64_0.tif")
    with pytest.raises(UserError, match="scene_tile_64_0"):
        ChipData(tmp_path / "data").setup()
    (tmp_path / "data/train_files.csv").write_text("image,mask\n")
    with pytest.raises(UserError, match="no chip"):
        ChipData(tmp_path / "data").setup()
    with pytest.raises(UserError, match="no data folder"):
        ChipData(tmp_path)
    with pytest.raises(UserError, match="batch_size=0"):
        ChipData(folder, batch_size=0)


def test_processes_without_a_chip_are_refused(folder: Path) -> None:
    """The others would wait for them forever."""
    data = ChipData(folder)
    data.setup()
    data.check_processes(3)
    with pytest.raises(UserError, match=r"4 processes cannot share 3 validation chips .*devices=3"):
        data.check_processes(4)


def test_validation_chips_that_show_ground_of_training_chips_are_said(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SpecDeepMap puts overlapping chips into both parts."""
    copied = shutil.copytree(folder, tmp_path / "data")
    ChipData(copied).source("validation")
    assert "show ground" not in caplog.text
    rows = (copied / "validation_files.csv").read_text().splitlines()
    old = Path(rows[1].split(",")[0]).name
    for part in ("images", "labels"):
        (copied / part / old).rename(copied / part / "scene_tile_20_31.tif")
    (copied / "validation_files.csv").write_text("\n".join(rows).replace(old, "scene_tile_20_31.tif"))
    ChipData(copied).source("validation")
    assert "1 of 3 validation chips show ground" in caplog.text
    assert "scene_tile_20_31.tif" in caplog.text


def test_chips_that_a_split_raster_cuts_from_one_window_share_ground_but_no_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Their names end in their parts, which made them chips of two scenes."""
    copied = make_chip_folder(tmp_path / "data")
    spec = replace(read_data_folder(copied).spec, split={"strategy": "raster"})
    datafolder.write_dataset(copied / "dataset.json", spec)
    first = {part: read_data_folder(copied).samples(part)[0].image.name for part in ("train", "validation")}
    place = first["train"].partition("_tile_")[2]
    for part, old in first.items():
        new = f"scene_{part}_tile_{place}"
        for kind in ("images", "labels"):
            (copied / kind / old).rename(copied / kind / new)
        listed = copied / f"{part}_files.csv"
        listed.write_text(listed.read_text().replace(old, new))
    data = ChipData(copied)
    assert [sample.image.name for sample in data.folder.sharing_ground("validation")] == [
        f"scene_validation_tile_{place}"
    ]
    data.source("validation")
    assert "1 of 3 validation chips show ground" in caplog.text
    assert "their labels are apart" in caplog.text
    assert "are too good" not in caplog.text


def test_scenes_say_what_their_labels_leave_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As prepare.py does: a 0 beside another nodata value, and a scene beside the label of all."""
    away = rasters.NORTH_UP @ Affine.translation(500, 0)
    images = [
        str(rasters.image(tmp_path / "s1.tif", transform=away)),
        str(rasters.image(tmp_path / "s2.tif")),
    ]
    label = str(rasters.label(tmp_path / "l.tif", values=(0, 1, 2), nodata=255))
    data = SceneData(images, label, size=16, block=16)
    assert [scene.info.path for scene in data.survey.scenes] == images[1:]
    assert caplog.messages == [
        f"CAUTION: 1 of 2 scenes have no label ({images[0]}); they are left out.",
        f"CAUTION: {label} declares 255 as nodata and has pixels of 0 beside it, but 0 is unclassified and never "
        "learnt. If it is a class, give it a value of its own: datamodule.class_map='[{value: 1, merge: [1]}, "
        "{value: 2, merge: [2]}, {value: 3, merge: [0]}]'.",
    ]


def test_scenes_give_windows_of_training_blocks_and_cover_validation_blocks_once(scene: Any) -> None:
    data = SceneData(str(scene.image), str(scene.label), size=32, windows=12, block=48, validation=30, seed=5)
    described = data.describe()
    train, validation = data.source("train"), data.source("validation")
    assert len(train) == 12
    assert described.chip_size == (32, 32)
    seen = np.zeros((150, 200), int)
    for block in data.survey.train:
        window = block.window
        seen[window.row : window.row_stop, window.column : window.column_stop] = 1
    for index in range(24):
        chip = train[index]
        column, row = (int(part.split()[-1]) for part in chip.name.split(" at ")[1].split(","))
        assert seen[row : row + 32, column : column + 32].all()  # never a pixel of a validation block
        assert (chip.target != IGNORE).any()
    labelled = sum(int((validation[n].target != IGNORE).sum()) for n in range(len(validation)))
    assert labelled == sum(block.labelled for block in data.survey.validation)
    assert sum(described.counts) == sum(block.labelled for block in data.survey.train)


@pytest.mark.parametrize("shift", [0, 24])
def test_scenes_of_several_dates_are_not_validated_on_ground_that_trains(shift: int, tmp_path: Path) -> None:
    """Blocks of every scene were drawn by themselves: what one date trained on, another validated on."""
    labels = np.random.default_rng(0).integers(1, 4, (128, 128)).astype(np.uint8)
    images, masks = [], []
    for date in range(3):
        grid = rasters.NORTH_UP @ Affine.translation(date * shift, date * shift)
        images.append(str(rasters.image(tmp_path / f"s{date}.tif", 128, 128, seed=date, transform=grid)))
        masks.append(str(rasters.write(tmp_path / f"l{date}.tif", labels, transform=grid)))
    survey = SceneData(images, masks, size=16, block=32, validation=25).survey
    painted = []
    for blocks in (survey.train, survey.validation):
        assert blocks
        ground = np.zeros((200, 200), bool)
        for block in blocks:
            row, column = block.window.row + block.scene * shift, block.window.column + block.scene * shift
            ground[row : row + block.window.height, column : column + block.window.width] = True
        painted.append(ground)
    assert not (painted[0] & painted[1]).any()
    assert len(survey.train) >= 20
    assert 8 <= len(survey.validation) <= 16


def test_blocks_that_hang_together_are_divided_in_seconds() -> None:
    side = 40
    number = np.arange(side * side).reshape(side, side)
    meeting = np.concatenate(
        [
            np.stack([number[:, 1:], number[:, :-1]], -1).reshape(-1, 2),
            np.stack([number[1:], number[:-1]], -1).reshape(-1, 2),
        ]
    )
    counts = np.ones((side * side, 256), np.int64)
    parts = divide(counts, meeting, 20.0, 0)
    assert set(map(tuple, np.sort(parts[meeting], 1).tolist())) <= {(0, 0), (1, 1), (-1, 0), (-1, 1), (-1, -1)}
    assert 0.1 < (parts == 1).mean() < 0.3
    assert (parts == 0).mean() > 0.6


def test_windows_are_others_in_every_epoch_and_the_same_in_a_resumed_one(scene: Any) -> None:
    def epoch(number: int) -> list[str]:
        data = SceneData(str(scene.image), str(scene.label), size=32, windows=5, block=48)
        data.setup()
        loader = data.train_dataloader()
        loader.batch_sampler.set_epoch(number)
        return [name for batch in loader for name in batch.names]

    assert epoch(0) != epoch(1)
    assert epoch(1) == epoch(1)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"size": 0}, "size=0"),
        ({"block": 8}, "block=8"),
        ({"validation": 100}, "validation=100"),
        ({"size": 150, "block": 150}, "expected at least one for training and one for validation"),
        ({"class_map": [{"value": 1}]}, r"datamodule\.class_map has the entry {'value': 1}; expected the keys value"),
        ({"class_map": [{"value": 1, "merge": [2], "nam": "a"}]}, "'nam': 'a'}; expected the keys value"),
        ({"class_map": ["forest"]}, "has the entry forest; expected the keys value"),
        ({"class_map": "forest"}, r"datamodule\.class_map=forest is no list"),
        ({"class_map": [{"value": True, "merge": [2]}]}, "gives the value True; give a whole number"),
        ({"class_map": [{"value": 1.5, "merge": [2]}]}, "gives the value 1.5; give a whole number"),
        ({"class_map": [{"value": 1, "merge": [2.5]}]}, r"merges \[2\.5\]; list whole numbers"),
        ({"class_map": [{"value": 1, "merge": True}]}, r"merges \[True\]; list whole numbers"),
        ({"class_map": [{"value": 1, "merge": [2], "name": 5}]}, "gives the class 1 the name 5; expected text"),
        ({"class_map": [{"value": 1, "merge": [2], "color": 5}]}, "gives the class 1 the color 5; expected text"),
        ({"scaler": 0}, "scaler=0 cannot divide numbers"),
        ({"scaler": -1.0}, "scaler=-1 cannot divide numbers"),
        ({"class_map": [{"value": 256, "merge": [2]}]}, r"datamodule\.class_map gives the value 256; expected"),
    ],
)
def test_scenes_that_cannot_be_drawn_from_are_one_line(scene: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SceneData(str(scene.image), str(scene.label), **{"size": 32, "block": 48} | keys).describe()


def test_a_band_that_is_bad_in_one_scene_is_used_in_none(tmp_path: Path) -> None:
    """As in preparation; only the first scene's were."""
    rng = np.random.default_rng(0)
    images, labels = [], []
    for number in range(2):
        pixels = rng.integers(1, 900, (3, 32, 32)).astype(np.uint16)
        images.append(rasters.write(tmp_path / f"s{number}.bsq", pixels, driver="ENVI"))
        with images[-1].with_suffix(".hdr").open("a") as header:
            header.write(f"bbl = {{1, {1 - number}, 1}}\n")
        label = rng.integers(1, 3, (32, 32)).astype(np.uint8)
        labels.append(rasters.write(tmp_path / f"l{number}.tif", label))
    data = SceneData([str(path) for path in images], [str(path) for path in labels], size=8, block=16)
    assert data.describe().used == (True, False, True)


def test_scenes_of_other_units_and_pixels_are_named_as_in_preparation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only prepare.py said so; such scenes trained together without a word."""
    rng = np.random.default_rng(0)
    images, labels = [], []
    for number, (offset, size, times) in enumerate([(0.0, 10, 1), (-0.1, 10, 1), (0.0, 20, 100)]):
        grid = Affine(size, 0, 3e5 + 1e4 * number, 0, -size, 5.8e6)
        pixels = (times * rng.integers(300, 600, (3, 64, 64))).astype(np.uint16)
        images.append(str(rasters.write(tmp_path / f"s{number}.tif", pixels, transform=grid)))
        labels.append(str(rasters.label(tmp_path / f"l{number}.tif", transform=grid)))
        with rasterio.open(images[-1], "r+") as dataset:
            dataset.scales, dataset.offsets = (1e-4,) * 3, (offset,) * 3
    assert len(SceneData(images[:1], labels[:1], size=16, block=16).survey.scenes) == 1
    assert not caplog.messages
    assert len(SceneData(images, labels, size=16, block=16).survey.scenes) == 3
    unit, scaling, pixel = caplog.messages
    assert unit.startswith(f"CAUTION: {images[2]}: ")
    assert "100 times as large" in unit
    assert scaling.startswith(f"CAUTION: {images[1]}: its band 1 declares scale 0.0001 and offset -0.1, that of")
    assert pixel.startswith(f"CAUTION: {images[2]}: ")


def test_scenes_classes_are_merged_as_in_preparation(scene: Any) -> None:
    """Text was taken letter by letter: ``merge: "12"`` merged 1 and 2."""
    rules = [{"value": 7, "merge": "1", "name": "wood"}, {"value": 9, "merge": ["12", 2, 3]}]
    classes = SceneData(str(scene.image), str(scene.label), size=32, block=48, class_map=rules).describe().classes
    assert classes.values == (7, 9)
    rules = [{"value": 7, "merge": 3}, {"value": 9, "merge": "12"}]
    classes = SceneData(str(scene.image), str(scene.label), size=32, block=48, class_map=rules).describe().classes
    assert classes.values == (7,)


def test_a_pair_of_torchgeos_raster_datasets_trains_through_a_geosampler(scene: Any) -> None:
    keys: dict[str, Any] = {
        "labels": {"name": "RasterDataset", "root": str(scene.label)},
        "classes": ["none", "forest", "grassland", "farmland", "residential", "water"],
        "bands": ["B2", "B3", "B4"],
        "size": 24,
        "windows": 8,
        "validation": 30,
    }
    data = TorchGeoData("RasterDataset", str(scene.image), **keys)
    described = data.describe()
    assert described.classes.names == ("forest", "grassland", "farmland", "residential", "water")
    assert described.chip_size == (24, 24)
    assert [band.name for band in described.bands] == ["B2", "B3", "B4"]
    first = names(data)
    assert len(first) == 8
    train = data.source("train")
    assert np.array_equal(
        train[3].image, TorchGeoData("RasterDataset", str(scene.image), **keys).source("train")[3].image
    )
    assert not np.array_equal(train[3].image, train[11].image)  # the next epoch's
    assert np.array_equal(train[3].image, pickle.loads(pickle.dumps(train))[3].image)  # as processes get it that read
    chip = data.source("validation")[0]
    assert chip.image.shape == (3, 24, 24)
    assert set(np.unique(chip.target)) <= {0, 1, 2, 3, 4, IGNORE}


@pytest.mark.parametrize("columns", [[(0, 200)], [(0, 150), (50, 200)]], ids=["one file", "two that overlap"])
@pytest.mark.parametrize("sampler", ["RandomGeoSampler", "GridGeoSampler"])
def test_ground_that_validates_on_the_map_counts_once_and_is_never_trained_on(
    tmp_path: Path, columns: list[tuple[int, int]], sampler: str
) -> None:
    """Of 200 × 150 px 43 % of what was scored had been trained on, and zeros outside of the files were a class."""
    places = 1 + np.arange(200 * 150, dtype=np.float32).reshape(150, 200)
    label = np.random.default_rng(0).integers(0, 3, (150, 200)).astype(np.uint8)
    images, labels = [], []
    for first, stop in columns:
        grid = rasters.NORTH_UP @ rasters.Affine.translation(first, 0)
        images.append(rasters.write(tmp_path / f"i{first}.tif", places[:, first:stop], transform=grid))
        labels.append(rasters.write(tmp_path / f"l{first}.tif", label[:, first:stop], transform=grid, nodata=255))
    data = TorchGeoData(
        "RasterDataset",
        [str(path) for path in images],
        labels={"name": "RasterDataset", "root": [str(path) for path in labels]},
        classes=["a", "b", "c"],
        unclassified=None,
        size=24,
        validation=30,
        sampler=sampler,
    )
    seen: dict[base.Stage, Any] = {}
    for stage in base.STAGES:
        source = data.source(stage)
        chips = [source[index] for index in range(len(source))]
        seen[stage] = np.concatenate([chip.image[0][chip.target != IGNORE] for chip in chips])
        assert all(np.array_equal(chip.valid, chip.image[0] > 0) for chip in chips)  # it is 0 outside of the files
    assert len(np.unique(seen["validation"])) == len(seen["validation"])
    assert not np.isin(seen["train"], seen["validation"]).any()
    ground = shapely.union_all(list(data.source("validation").dataset.cells)).area / 100
    assert len(seen["validation"]) == round(ground)
    assert len(columns) > 1 or 7_000 < ground < 9_000  # ten of 36 cells
    assert len(seen["train"]) > 3_000


def test_files_of_one_extent_validate_on_the_same_ground_at_all_dates(scene: Any) -> None:
    """Else the ground of one date's validation would be trained on at another."""
    data = TorchGeoData("RasterDataset", str(scene.image), classes=["a", "b"], size=24, validation=30)
    days = pd.to_datetime(["2020-01-01", "2021-01-01", "2022-01-01"])
    times = pd.IntervalIndex.from_arrays(days, days + pd.Timedelta(days=1), closed="both", name="datetime")
    extents = geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 2000, 1500)] * 3, index=times, crs="EPSG:32633")
    train, validation = data._divided(SimpleNamespace(index=extents, res=(10.0, 10.0)))
    assert (len(train), len(validation)) == (26 * 3, 10 * 3)
    assert not {cell.bounds for cell in train.geometry} & {cell.bounds for cell in validation.geometry}
    assert train.crs == extents.crs
    assert all(side % 10 == 0 for cell in train.geometry for side in cell.bounds)  # edges of pixels
    windows = map_windows.MapWindows(None, extents.geometry, validation.geometry, 24)
    day = slice(days[0], days[0])
    first, *_ = (cell for time, cell in validation.geometry.items() if time.left == days[0])
    centres = map_windows.Centres.of(slice(0, 2000), slice(0, 1500), (150, 200))
    assert len(map_windows._seen(windows.cells, centres, day)) == 10  # those of other dates show other pixels
    assert centres.within([first]).sum() == round(first.area / 100)


def test_a_class_that_the_survey_does_not_see_keeps_a_weight_in_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    label = np.full((120, 120), 1, np.uint8)
    label[:, 60:] = 2
    label[::7, ::7] = 3
    image = np.random.default_rng(0).integers(1, 900, (2, 120, 120)).astype(np.uint16)
    image, label = (rasters.write(tmp_path / f"{n}.tif", pixels) for n, pixels in (("i", image), ("l", label)))
    data = TorchGeoData(
        "RasterDataset",
        str(image),
        labels={"name": "RasterDataset", "root": str(label)},
        classes=["none", "left", "right", "rare"],
        size=16,
        windows=40,
    )
    monkeypatch.setattr(torchgeo, "SURVEYED", 1)
    train = data.source("train")
    unseen = {0, 1, 2} - set(np.unique(train[0].target).tolist())
    assert unseen  # the first window, which is all that is looked at, lies on one side
    assert unseen <= set(np.unique(np.stack([train[n].target for n in range(40)])).tolist())
    with caplog.at_level("INFO"):
        described = data.describe()
    for weighting in WEIGHTINGS:
        weights = class_weights(described.counts, weighting)
        assert min(weights) > 0
        assert all(weights[index] == max(weights) for index in unseen)
    (line,) = [record.getMessage() for record in caplog.records if "no pixel of" in record.getMessage()]
    assert all(described.classes.names[index] in line for index in unseen)


def test_samples_without_any_class_are_one_line(scene: Any, tmp_path: Path) -> None:
    empty = rasters.write(tmp_path / "l.tif", np.zeros((150, 200), np.uint8), transform=_grid_of(scene.label))
    keys: dict[str, Any] = {"labels": {"name": "RasterDataset", "root": str(empty)}, "classes": ["none", "a"]}
    with pytest.raises(UserError, match=r"training samples of RasterDataset .* has a pixel with a class"):
        TorchGeoData("RasterDataset", str(scene.image), size=24, **keys).describe()
    with pytest.raises(UserError, match="validation=0 is a percentage"):
        TorchGeoData("RasterDataset", str(scene.image), size=24, validation=0, **keys)


def _grid_of(path: Path) -> Any:
    with rasterio.open(path) as dataset:
        return dataset.transform


def test_an_epoch_s_windows_are_drawn_once() -> None:
    """Asking how many there are drew the first epoch's anew, twice with every sample."""

    class Counting:
        drawn = 0

        def __iter__(self) -> Any:
            Counting.drawn += 1
            return iter(torch.randperm(4).tolist())

    pixels = [{"image": np.full((1, 2, 2), n), "mask": np.full((2, 2), n % 2)} for n in range(4)]
    chips = TorchGeoChips("four", pixels, Counting(), MaskCodes(("a", "b"), None))
    assert len(chips) == 4
    [chips[index] for index in range(4)]
    assert Counting.drawn == 1
    second = [int(chips[index].image.max()) for index in range(4, 8)]
    assert sorted(second) == [0, 1, 2, 3]
    assert len(chips) == 4
    assert Counting.drawn == 2


def test_a_data_module_of_torchgeos_draws_with_its_own_samplers(tmp_path: Path) -> None:
    """L8Biome: images and masks on the map, as its files are named; each scene is a part of its own."""
    make_l8biome(tmp_path)
    data = TorchGeoData("L8BiomeDataModule", str(tmp_path), size=16, windows=8, batch_size=4)
    data.setup()
    described = data.describe()
    assert described.classes.names == ("Cloud Shadow", "Clear", "Thin Cloud", "Cloud")
    assert [band.name for band in described.bands] == [f"B{number}" for number in range(1, 12)]
    batches = list(data.train_dataloader())
    assert sum(len(batch.names) for batch in batches) == 8
    assert batches[0].image.shape == (4, 11, 16, 16)
    assert set(np.unique(batches[0].target)) <= {0, 1, 2, 3, IGNORE}
    assert next(iter(data.val_dataloader())).labelled


def test_images_that_their_data_module_crops_train_by_windows_and_validate_whole(tmp_path: Path) -> None:
    """DeepGlobe: large images, here of two sizes; torchgeo itself scores the middle of each only."""
    colours = np.array(
        [(0, 255, 255), (255, 255, 0), (255, 0, 255), (0, 255, 0), (0, 0, 255), (255, 255, 255)], np.uint8
    )
    rng = np.random.default_rng(0)
    pixels = []
    for kind in ("images", "masks"):
        (tmp_path / "data/training_data" / kind).mkdir(parents=True)
    (tmp_path / "data/test_data").mkdir()
    for number in range(5):
        height, width = (40, 56) if number % 2 else (48, 40)
        pixels.append(height * width)
        image = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / f"data/training_data/images/{number}_sat.jpg")
        mask = colours[rng.integers(0, 6, (height, width))]
        Image.fromarray(mask).save(tmp_path / f"data/training_data/masks/{number}_mask.png")
    data = TorchGeoData("DeepGlobeLandCoverDataModule", str(tmp_path), size=32, windows=7, batch_size=3, unclassified=6)
    data.setup()
    assert data.describe().classes.names[:2] == ("Urban land", "Agriculture land")
    train = data.source("train")
    assert len(train) == 7
    assert train[2].image.shape == (3, 32, 32)
    assert np.array_equal(train[2].target, train[2].target)
    assert not np.array_equal(train[2].target, train[2 + 7].target)  # the next epoch's
    assert sum(batch.labelled for batch in data.val_dataloader()) in pixels  # one image, every pixel once


def test_what_torchgeo_does_not_have_is_one_line(scene: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nearest names are .*LandCoverAI"):
        TorchGeoData("LandcoverAI", "x")
    with pytest.raises(UserError, match=r"LandCoverAI.* does not work"):
        TorchGeoData("LandCoverAI", str(tmp_path))
    with pytest.raises(UserError, match="does not name its classes"):
        TorchGeoData("RasterDataset", str(scene.image))
    with pytest.raises(UserError, match="expected image and mask"):
        TorchGeoData("RasterDataset", str(scene.image), classes=["a", "b"], size=24).describe()


def test_mask_values_become_classes() -> None:
    mask = np.array([[0, 1, 2]])
    assert MaskCodes(("none", "a", "b")).encode(mask, "x").tolist() == [[IGNORE, 0, 1]]
    every = MaskCodes(("sea", "a", "b"), unclassified=None)
    assert every.encode(mask, "x").tolist() == [[0, 1, 2]]
    assert every.classes.values == (1, 2, 3)
    assert MaskCodes(("a", "b"), unclassified=255).classes.values == (1, 2)
    with pytest.raises(UserError, match="mask value 3"):
        every.encode(np.array([3]), "x")
