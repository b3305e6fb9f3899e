from __future__ import annotations

import copy
import itertools
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from src.augmentation import Augmentation
from src.callbacks import checkpoints
from src.callbacks.average import AverageWeights, average_weights
from src.callbacks.checkpoints import BestCheckpoints, WholeCheckpoints
from src.callbacks.early_stopping import EarlyStopping
from src.callbacks.unfreeze import Unfreeze
from src.datamodules.batches import Batch, collate
from src.datamodules.chips import ChipData
from src.errors import UserError
from src.labels import IGNORE, ClassTable
from src.models.architectures import build, freeze
from src.models.checkpoint import load_network, validation_scores
from src.models.distributed import SyncBatchNorms
from src.models.losses import CrossEntropy
from src.models.lr_finder import HIGHEST, LOWEST, draw_range_test, find_learning_rate
from src.models.optimization import UNDECAYED, Optimization
from src.models.segmenter import Segmenter, Tally
from src.run_folder import read_trained
from src.training import NetworkChoice, make_network
from tests.chip_folder import make_chip_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chip_folder(tmp_path_factory.mktemp("chips") / "data")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    names = ("lightning.pytorch", "lightning.fabric")
    levels = [logging.getLogger(name).level for name in names]
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    yield
    for name, level in zip(names, levels, strict=True):
        logging.getLogger(name).setLevel(level)


def segmenter(folder: Path, architecture: str = "unet", seed: int = 0, **options: Any) -> Segmenter:
    """A small U-Net; dropout and drop path draw from torch's global generator."""
    torch.manual_seed(seed)
    model: dict[str, Any] = {}
    if architecture == "unet":
        model = {"encoder_depth": 3, "decoder_channels": [16, 16, 8]}
    network, spec = make_network(ChipData(folder).describe(), NetworkChoice(architecture, "resnet18", model))
    options.setdefault("optimization", Optimization(lr=0.01))
    return Segmenter(network, spec, CrossEntropy(), seed=seed, **options)


def trainer(
    folder: Path, epochs: int, *callbacks: L.Callback, every_n_minutes: float | None = None, **options: Any
) -> L.Trainer:
    options.setdefault("logger", False)
    return L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[BestCheckpoints(str(folder / "checkpoints"), 1, every_n_minutes), *callbacks],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )


def test_a_band_that_is_dropped_gets_its_mean_where_numbers_are_not_standardised(folder: Path) -> None:
    described = ChipData(folder).describe()
    assert described.normalization is not None
    network, spec = make_network(described, NetworkChoice("compact_unet", options={}, normalize=False))
    changes = Augmentation(band_dropout=0.5)
    module = Segmenter(network, spec, CrossEntropy(), Optimization(), changes)
    assert module.levels is not None
    assert module.levels.mean.flatten().tolist() == pytest.approx(described.normalization.mean)
    seen: list[torch.Tensor] = []
    network.architecture.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    data = ChipData(folder, batch_size=2, workers=0)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    module.step(batch, seed=3)
    below_the_gap = seen[0][:, :, 2:]
    sample, band = np.argwhere(below_the_gap.std((-1, -2)).numpy() < 1e-2)[0].tolist()
    assert float(below_the_gap[sample, band].mean()) == pytest.approx(described.normalization.mean[band], rel=1e-5)
    with pytest.raises(UserError, match=r"augmentation\.band_dropout=0\.5 goes by"):
        Segmenter(network, replace(spec, statistics=None), CrossEntropy(), Optimization(), changes)


class StopAfter(L.Callback):
    """What a power cut would do, but at the end of an epoch."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        del pl_module
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_half_the_epochs_and_resume_end_with_the_weights_of_one_go(folder: Path, tmp_path: Path, decay: float) -> None:
    def parts() -> tuple[Segmenter, ChipData, list[L.Callback]]:
        module = segmenter(
            folder, "compact_unet", augmentation=Augmentation(True, True, 30, 0.2, None, 0.5, 0.1, 0.1, 0.1)
        )
        average = average_weights(decay)
        return module, ChipData(folder, batch_size=2), [average] if average else []

    whole, data, callbacks = parts()
    trainer(tmp_path / "whole", 4, *callbacks).fit(whole, data)
    first, data, callbacks = parts()
    trainer(tmp_path / "halves", 4, StopAfter(2), *callbacks).fit(first, data)
    second, data, callbacks = parts()
    torch.rand(7), np.random.default_rng().random()  # the state of a new process is another
    resumed = trainer(tmp_path / "halves", 4, *callbacks)
    resumed.fit(second, data, ckpt_path=tmp_path / "halves/checkpoints/last.ckpt", weights_only=True)
    assert resumed.current_epoch == 4
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
        if value.is_floating_point() and "running" not in name and value.ndim > 1 and "network.architecture" in name:
            assert not torch.equal(value, first.state_dict()[name]), name


def test_what_a_checkpoint_calls_outdated_is_removed_only_from_its_own_folder(folder: Path, tmp_path: Path) -> None:
    trainer(tmp_path / "run", 1).fit(segmenter(folder, "compact_unet"), ChipData(folder, batch_size=4))
    last = tmp_path / "run/checkpoints/last.ckpt"
    (best,) = last.parent.glob("*val_iou*")
    victims = [tmp_path / "victim", last.parent / "x/../../../other"]
    for victim in victims:
        victim.mkdir(parents=True)
    for path in (f"local://{victims[0]}", str(victims[1])):  # by one Lightning finds it on no local disk, by one inside
        content = torch.load(last, weights_only=True)
        (state,) = (value for key, value in content["callbacks"].items() if key.startswith("BestCheckpoints"))
        del state["dirpath"]
        outdated = {"kth_best_model_path": path, "best_k_models": {path: torch.tensor(-1.0)}, "last_model_path": path}
        state |= outdated | {"best_model_path": path}
        torch.save(content, tmp_path / "strange.ckpt")
        run = trainer(tmp_path / "run", 2)
        run.fit(
            segmenter(folder, "compact_unet"),
            ChipData(folder, batch_size=4),
            ckpt_path=tmp_path / "strange.ckpt",
            weights_only=True,
        )
        assert run.current_epoch == 2
        assert all(victim.is_dir() for victim in victims)
    keeper = BestCheckpoints(str(last.parent))
    keeper.load_state_dict({"best_k_models": {f"C:\\moved\\{best.name}": torch.tensor(0.5), "/gone.ckpt": None}})
    assert keeper.best_k_models == {str(best): torch.tensor(0.5)}
    assert keeper.best_model_path == keeper.kth_best_model_path == str(best)


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="PyTorch compiles with g++ or clang++")
def test_a_compiled_network_learns_the_same_and_leaves_a_checkpoint_like_any_other(
    folder: Path, tmp_path: Path
) -> None:
    def fit(where: str, compiled: bool, *callbacks: L.Callback, **keywords: Any) -> Segmenter:
        torch.manual_seed(0)
        choice = NetworkChoice("justo_unet_simple", compile=compiled)
        network, spec = make_network(ChipData(folder).describe(), choice)
        # Not Adam, which makes whole steps of the rounding errors that are the gradients of biases before a norm.
        module = Segmenter(network, spec, CrossEntropy(), Optimization("sgd", lr=0.05))
        trainer(tmp_path / where, 2, *callbacks).fit(module, ChipData(folder, batch_size=3), **keywords)
        return module

    plain = fit("plain", False)
    fit("compiled", True, StopAfter(1))
    last = tmp_path / "compiled/checkpoints/last.ckpt"
    assert set(torch.load(last, weights_only=True)["state_dict"]) == set(plain.state_dict())
    load_network(last)
    resumed = fit("compiled", False, ckpt_path=last, weights_only=True)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=1e-3, atol=1e-5)


class Killed(BaseException):
    """What a kill would do, but at a known step."""


class KillAt(L.Callback):
    """Ends the process's work after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise Killed


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(("decay", "workers"), [(0.0, 0), (0.9, 2)])
def test_a_run_killed_within_an_epoch_goes_on_from_there(
    folder: Path, tmp_path: Path, decay: float, workers: int, threads: int
) -> None:
    def fit(name: str, *more: L.Callback, resume: bool = False, workers: int = workers) -> tuple[Segmenter, L.Trainer]:
        module = segmenter(folder, "compact_unet", augmentation=Augmentation(True, True, 30, 0.2, None, 0.5, 0.1))
        data = ChipData(folder, batch_size=2, workers=workers, cache=not workers)
        average = average_weights(decay)
        callbacks = [*more, *([average] if average else [])]
        run = trainer(tmp_path / name, 3, *callbacks, every_n_minutes=0, plugins=[WholeCheckpoints()])
        last = tmp_path / name / "checkpoints/last.ckpt" if resume else None
        run.fit(module, data, ckpt_path=last, weights_only=True)
        assert torch.get_num_threads() == threads  # sums over more of them differ in the last digit
        return module, run

    whole, run = fit("whole", workers=0)  # who reads the chips makes no difference
    steps = run.global_step // 3
    assert steps > 2
    for step in (steps + 1, 2 * steps + 2):  # in the second epoch, and then in the third
        with pytest.raises(Killed):
            fit("broken", KillAt(step), resume=step > steps + 1)
        content = torch.load(tmp_path / "broken/checkpoints/last.ckpt", weights_only=True)
        assert content["global_step"] == step
    resumed, run = fit("broken", resume=True)
    assert run.global_step == 3 * steps
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for stage in ("train", "val"):
        assert whole.outcome(stage).chips == resumed.outcome(stage).chips
        np.testing.assert_array_equal(whole.outcome(stage).scores.matrix, resumed.outcome(stage).scores.matrix)


class StopAt(L.Callback):
    """What a timer does (``trainer.max_time``): it lets the training end after a step, wherever that is in an epoch."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


@pytest.mark.parametrize(("decay", "every", "step"), [(0.0, 1, 4), (0.9, 1, 2), (0.0, 2, 2), (0.0, 2, 4)])
def test_a_run_whose_time_was_over_within_an_epoch_goes_on_from_there(
    folder: Path, tmp_path: Path, decay: float, every: int, step: int
) -> None:
    def fit(name: str, *more: L.Callback, resume: bool = False) -> tuple[Segmenter, L.Trainer]:
        module = segmenter(folder, "compact_unet", augmentation=Augmentation(True, True, 30))
        average = average_weights(decay)
        run = trainer(tmp_path / name, 2, *more, *([average] if average else []), check_val_every_n_epoch=every)
        last = tmp_path / name / "checkpoints/last.ckpt" if resume else None
        run.fit(module, ChipData(folder, batch_size=2), ckpt_path=last, weights_only=True)
        return module, run

    whole, _ = fit("whole")
    _, run = fit("parts", StopAt(step))
    assert run.global_step == step  # of three in each epoch
    assert torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)["global_step"] == step
    resumed, run = fit("parts", resume=True)
    assert run.global_step == 6
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert whole.outcome("train").chips == resumed.outcome("train").chips == 6


def test_an_epoch_without_a_validation_is_saved_and_has_no_scores(folder: Path, tmp_path: Path) -> None:
    scored: list[bool] = []

    class Remember(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
            del trainer
            scored.append("val_iou" in pl_module.numbers())

        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
            del pl_module
            if trainer.current_epoch:
                assert torch.load(tmp_path / "checkpoints/last.ckpt")["epoch"] == trainer.current_epoch - 1

    run = trainer(tmp_path, 3, Remember(), check_val_every_n_epoch=2)
    run.fit(segmenter(folder, "compact_unet"), ChipData(folder, batch_size=3))
    assert scored == [False, True, False]
    last = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert last["epoch"] == 2
    assert validation_scores(last) is None


def test_a_run_that_ended_before_a_validation_has_no_scores_and_says_so(folder: Path, tmp_path: Path) -> None:
    run = trainer(tmp_path, 3, StopAt(2), check_val_every_n_epoch=3)
    run.fit(segmenter(folder, "compact_unet"), ChipData(folder, batch_size=2))
    last = tmp_path / "checkpoints/last.ckpt"
    for best, said in ((last, "last.ckpt is as far as it came"), (Path(), "no best checkpoint. Give it")):
        with pytest.raises(UserError, match=said):
            read_trained(best, last)


class Minutes(L.Callback):
    """A clock on which every batch takes a minute; notes what a kill at each step would lose."""

    def __init__(self, last: Path) -> None:
        self.now, self.last, self.lost = 0.0, last, list[int]()

    def monotonic(self) -> float:
        return self.now

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        saved = torch.load(self.last, weights_only=True)["global_step"] if self.last.is_file() else 0
        self.lost.append(trainer.global_step + 1 - saved)  # with the batch that is under way
        self.now += 60


@pytest.mark.parametrize(("every", "expected"), [(1, 1), (2, 2), (2.5, 3), (None, 6)])
def test_a_kill_loses_no_more_than_the_minutes_between_checkpoints(
    folder: Path, tmp_path: Path, every: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Minutes(tmp_path / "checkpoints/last.ckpt")
    monkeypatch.setattr(checkpoints, "time", clock)
    run = trainer(tmp_path, 2, clock, every_n_minutes=every, plugins=[WholeCheckpoints()])
    run.fit(segmenter(folder, "justo_unet_simple"), ChipData(folder, batch_size=1))
    assert run.global_step == 12  # six batches in an epoch, whose end is always saved
    assert max(clock.lost) == expected


@pytest.mark.parametrize("batches", [1, 2, 3, 4, 5, 8, 10, 16])
def test_several_processes_save_within_an_epoch_however_many_batches_a_step_has(
    tmp_path: Path, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their clock was asked at every 20th batch, which ends no step of an even number of batches, or of five."""
    keeper, saved = BestCheckpoints(str(tmp_path), every_n_minutes=0), []
    monkeypatch.setattr(keeper, "_save_last_checkpoint", lambda run, _: saved.append(run.global_step))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(is_last_batch=False)))
    strategy = SimpleNamespace(broadcast=lambda due: due)
    for number in range(41 * batches):
        within = (number + 1) % batches != 0
        loop._should_accumulate, loop._can_stop_early = (lambda within=within: within), False
        run: Any = SimpleNamespace(
            fit_loop=loop,
            strategy=strategy,
            world_size=2,
            should_stop=False,
            global_step=(number + 1) // batches,
            callback_metrics={},
            current_epoch=0,
        )
        keeper.on_train_batch_end(run, SimpleNamespace(), None, None, number)  # type: ignore[arg-type]
    assert saved == [20, 40]


@pytest.mark.parametrize(("machines", "here", "expected"), [(1, 1, 2), (4, 1, 2), (1, 2, 1), (4, 2, 1)])
def test_processes_of_one_machine_share_its_cores_and_those_of_others_do_not(
    folder: Path, machines: int, here: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.datamodules.base.cores", lambda: 2)
    data = ChipData(folder, batch_size=2)
    data.setup("fit")
    given: dict[str, Any] = {"world_size": machines * here, "num_devices": here, "global_rank": 0}
    given["accumulate_grad_batches"] = 1
    data.trainer = SimpleNamespace(**given, strategy=SimpleNamespace(root_device=CPU))  # type: ignore[assignment]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        data.train_dataloader()
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_all_processes_learn_at_the_rate_that_the_first_one_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = segmenter(folder)
    found = SimpleNamespace(gradient_clip_val=None, estimated_stepping_batches=10, max_epochs=1, world_size=2)
    monkeypatch.setattr(module, "_trainer", found)
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, source: tensor.fill_(0.25 + source))
    optimizer = module.configure_optimizers()["optimizer"]
    assert {group["initial_lr"] for group in optimizer.param_groups} == {0.25}
    assert module.lr == 0.25


def test_validation_scores_every_chip_from_one_matrix(folder: Path, tmp_path: Path) -> None:
    module, data = segmenter(folder), ChipData(folder, batch_size=2)  # 3 chips: the last batch is not full
    run = trainer(tmp_path, 1)
    run.fit(module, data)
    outcome = module.outcome("val")
    assert outcome.chips == 3
    matrix = np.zeros((2, 2), int)
    network, spec = load_network(tmp_path / "checkpoints/last.ckpt")
    for index in range(3):
        chip = data.source("validation")[index]
        batch = collate([chip])
        with torch.inference_mode():
            guess = network(batch.image, batch.valid).argmax(1).numpy()[0]
        for true in (0, 1):
            for predicted in (0, 1):
                matrix[true, predicted] += ((chip.target == true) & (guess == predicted)).sum()
    assert outcome.scores.matrix.tolist() == matrix.tolist()
    assert spec.classes.values == (2, 7)
    iou = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    assert float(run.callback_metrics["val_iou"]) == pytest.approx(iou.mean())
    assert module.numbers()["val_iou_of/class_7"] == pytest.approx(iou[1])
    module.spec = replace(spec, classes=ClassTable.build(spec.classes.values, dict.fromkeys(spec.classes.values, "a")))
    assert module.numbers()["val_iou_of/a (7)"] == pytest.approx(iou[1])


def test_checkpoints_are_the_best_by_highest_iou_and_the_last(folder: Path, tmp_path: Path) -> None:
    scores: list[float] = []

    class Remember(L.Callback):
        def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            del pl_module
            scores.append(float(trainer.callback_metrics["val_iou"]))

        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            del pl_module
            # Lightning 2.6 alone keeps no last.ckpt of an epoch that is not among the best.
            if trainer.current_epoch:
                assert torch.load(tmp_path / "checkpoints/last.ckpt")["epoch"] == trainer.current_epoch - 1

    trainer(tmp_path, 4, Remember()).fit(segmenter(folder), ChipData(folder, batch_size=2))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    best = max(range(4), key=lambda epoch: scores[epoch])
    assert names == [f"{best:05d}-val_iou_{scores[best]:.4f}.ckpt", "last.ckpt"]
    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["epoch"] == 3
    assert all(name.startswith("network.") for name in content["state_dict"])


def test_a_batch_without_labels_changes_nothing(folder: Path, tmp_path: Path) -> None:
    class Unlabelled(ChipData):
        def source(self, stage: Any) -> Any:
            chips = super().source(stage)
            return [chips[n]._replace(target=np.full_like(chips[n].target, IGNORE)) for n in range(3)]

    module = segmenter(folder)
    before = copy.deepcopy(module.state_dict())
    trainer(tmp_path, 1).fit(module, Unlabelled(folder, batch_size=2, cache=False, check=False))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.outcome("train").loss == module.outcome("val").loss == 0


def test_a_loss_that_is_no_number_stops_with_the_chips_names(folder: Path, tmp_path: Path) -> None:
    class Broken(CrossEntropy):
        def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return super().forward(logits, target) * float("nan")

    module = segmenter(folder)
    module.loss = Broken()
    with pytest.raises(UserError, match=r"loss became nan in epoch 0 at the chips scene_tile_\d+_0.tif, scene"):
        trainer(tmp_path, 1).fit(module, ChipData(folder, batch_size=2))


def test_weights_that_the_last_step_broke_become_no_checkpoint(folder: Path, tmp_path: Path) -> None:
    module = segmenter(folder, "compact_unet", optimization=Optimization(lr=1e38))
    with pytest.raises(UserError, match=r"loss of the validation chips became (nan|inf) in epoch 0.* lower lr=1e\+38"):
        trainer(tmp_path, 1).fit(module, ChipData(folder, batch_size=6, min_steps=0))  # a single step
    assert not list(tmp_path.glob("checkpoints/*.ckpt"))


def test_a_batch_norm_that_gets_one_number_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    network, spec = make_network(ChipData(folder).describe(), NetworkChoice("unet", "resnet18", {}))
    module = Segmenter(network, spec, CrossEntropy(), Optimization())
    with pytest.raises(UserError, match=r"A batch of 1 chip of 32 × 32 px .* unet/resnet18 .* larger batch_size"):
        trainer(tmp_path, 1).fit(module, ChipData(folder, batch_size=1))


def test_on_a_gpu_a_loss_is_looked_at_a_step_later_and_the_last_one_before_validation(folder: Path) -> None:
    """Looking at once would make the CPU wait for the GPU at every step."""

    def loss(value: float) -> Any:
        return SimpleNamespace(device=torch.device("cuda"), detach=lambda: torch.tensor(value))

    module = segmenter(folder, "justo_unet_simple")
    module._check(loss(float("nan")), ["a.tif"])
    with pytest.raises(UserError, match=r"at the chips a\.tif"):
        module._check(loss(1.0), ["b.tif"])
    module._check(loss(1.0), ["b.tif"])
    module._check(loss(float("inf")), ["c.tif"])
    with pytest.raises(UserError, match=r"at the chips c\.tif"):
        module._check_pending()


def test_the_finder_sets_the_rate_that_the_optimiser_gets(folder: Path, tmp_path: Path) -> None:
    module, data = (
        segmenter(folder, optimization=Optimization(lr=0.7, schedule="constant")),
        ChipData(folder, batch_size=3),
    )
    data.setup()
    before = copy.deepcopy(module.state_dict())
    test = find_learning_rate(module, data.train_dataloader(), CPU, bf16=False, steps=40)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert LOWEST < test.rate < HIGHEST
    assert test.rate in test.rates
    draw_range_test(tmp_path / "lr.png", test)
    assert (tmp_path / "lr.png").read_bytes().startswith(b"\x89PNG")
    run = trainer(tmp_path, 1)
    run.fit(module, data)
    assert {group["lr"] for group in run.optimizers[0].param_groups} == {test.rate}
    assert module.numbers()["lr"] == test.rate


def test_a_resumed_run_goes_down_to_the_lowest_rate_from_the_one_that_was_found(folder: Path, tmp_path: Path) -> None:
    def fit(epochs: int, found: float | None, last: Path | None = None) -> Segmenter:
        module = segmenter(folder, optimization=Optimization(lr=1e-5, epochs=2))
        module.lr = found or module.lr
        trainer(tmp_path, epochs).fit(module, ChipData(folder, batch_size=3), ckpt_path=last, weights_only=True)
        return module

    fit(1, 0.01)
    assert fit(2, None, tmp_path / "checkpoints/last.ckpt").numbers()["lr"] == pytest.approx(1e-6)


@pytest.mark.parametrize(("patience", "epochs"), [(1, 2), (3, 4)])
def test_a_run_that_stopped_early_stays_so_unless_more_patience_is_given(
    folder: Path, tmp_path: Path, patience: int, epochs: int, caplog: pytest.LogCaptureFixture
) -> None:
    def fit(patience: int, last: Path | None = None) -> L.Trainer:
        module = segmenter(folder, "compact_unet", optimization=Optimization(lr=1e-12, schedule="constant"))
        run = trainer(tmp_path, 9, EarlyStopping("val_iou", "max", patience, min_delta=1.0))
        data = ChipData(folder, batch_size=3, min_steps=0)
        run.fit(module, data, ckpt_path=last, weights_only=True)
        return run

    assert fit(1).global_step == 4  # two in each epoch
    with caplog.at_level(logging.INFO):
        assert fit(patience, tmp_path / "checkpoints/last.ckpt").global_step == 2 * epochs
    assert ("raise callbacks.early_stopping.patience" in caplog.text) == (patience == 1)


def test_a_frozen_encoder_keeps_parameters_and_statistics_until_it_is_thawed(folder: Path, tmp_path: Path) -> None:
    optimization = Optimization(lr=0.01, schedule="constant")
    module, data = segmenter(folder, optimization=optimization), ChipData(folder, batch_size=3)
    module.network.architecture.freeze_encoder()
    seen: list[dict[str, torch.Tensor]] = []
    rates: list[dict[str, float]] = []

    class Remember(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
            del trainer, pl_module
            rates.append({group["name"].removesuffix(UNDECAYED): group["lr"] for group in optimizer.param_groups})

        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
            del trainer
            seen.append(copy.deepcopy(pl_module.encoder.state_dict()))

    assert module.encoder is not None
    start = copy.deepcopy(module.encoder.state_dict())
    trainer(tmp_path, 3, Unfreeze(epoch=2, factor=0.1), Remember()).fit(module, data)
    for name, value in start.items():
        assert torch.equal(seen[0][name], value), name
        assert torch.equal(seen[1][name], value), name
    moved = [name for name, value in start.items() if not torch.equal(seen[2][name], value)]
    assert any("running_mean" in name for name in moved)
    assert any("conv1.weight" in name for name in moved)
    steps = len(rates) // 3
    assert rates[: 2 * steps] == [{"encoder": 0.01, "rest": 0.01}] * (2 * steps)
    assert rates[2 * steps :] == [pytest.approx({"encoder": 0.001, "rest": 0.01})] * steps


@pytest.mark.parametrize("given", [0.5, 1.0])  # the rate that it is given when it goes on is without effect
def test_the_encoder_of_a_resumed_run_has_its_rate_lowered_once_whatever_epoch_thaws_it_now(
    folder: Path, tmp_path: Path, given: float
) -> None:
    """Thawed at an epoch that had passed it learned at the full rate, and at one to come at the lower one's share."""

    def fit(epochs: int, thaws: int, encoder_lr: float = 0.5) -> dict[str, float]:
        optimization = Optimization(lr=0.01, schedule="constant", epochs=4, encoder_lr=encoder_lr)
        module = segmenter(folder, optimization=optimization)
        module.config = {"optimizer": {"encoder_lr": encoder_lr}}
        module.network.architecture.freeze_encoder()
        run = trainer(tmp_path, epochs, Unfreeze(epoch=thaws))
        last = tmp_path / "checkpoints/last.ckpt" if epochs > 2 else None
        run.fit(module, ChipData(folder, batch_size=6, min_steps=0), ckpt_path=last, weights_only=True)
        return {group["name"].removesuffix(UNDECAYED): group["lr"] for group in run.optimizers[0].param_groups}

    assert fit(2, thaws=3) == pytest.approx({"encoder": 0.005, "rest": 0.01})
    lowered = pytest.approx({"encoder": 0.0005, "rest": 0.01})
    assert fit(3, thaws=1, encoder_lr=given) == lowered
    assert fit(4, thaws=3) == lowered


def test_a_rate_that_was_given_on_resume_without_effect_lowers_the_encoder_s_none_the_less(
    folder: Path, tmp_path: Path
) -> None:
    """The first resume left its own share of the rate in the checkpoint, and the second took it for lowered."""

    def fit(epochs: int, share: float) -> dict[str, float]:
        optimization = Optimization(lr=0.01, schedule="constant", epochs=4, encoder_lr=share)
        module = segmenter(folder, optimization=optimization)
        module.config = {"optimizer": {"encoder_lr": share}}
        module.network.architecture.freeze_encoder()
        run = trainer(tmp_path, epochs, Unfreeze(epoch=3))
        last = tmp_path / "checkpoints/last.ckpt" if epochs > 2 else None
        run.fit(module, ChipData(folder, batch_size=6, min_steps=0), ckpt_path=last, weights_only=True)
        return {group["name"].removesuffix(UNDECAYED): group["lr"] for group in run.optimizers[0].param_groups}

    assert fit(2, 1.0) == fit(3, 0.5) == pytest.approx({"encoder": 0.01, "rest": 0.01})
    assert fit(4, 0.5) == pytest.approx({"encoder": 0.001, "rest": 0.01})


def test_thawing_what_is_not_frozen_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing is frozen"):
        trainer(tmp_path, 1, Unfreeze(epoch=1)).fit(segmenter(folder), ChipData(folder))
    with pytest.raises(UserError, match="epoch=0"):
        Unfreeze(epoch=0)
    with pytest.raises(UserError, match="factor=-1 is no share of a rate"):
        Unfreeze(epoch=1, factor=-1)


def test_an_encoder_that_no_epoch_would_thaw_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    def fit(last: int, **schedule: Any) -> Segmenter:
        module = segmenter(folder, optimization=Optimization(lr=0.01, **schedule))
        module.network.architecture.freeze_encoder()
        data = ChipData(folder, batch_size=6, min_steps=0)
        trainer(tmp_path, last, Unfreeze(epoch=2), max_steps=3).fit(module, data)
        return module

    with pytest.raises(
        UserError, match=r"epoch=2 never comes: the training ends after 2 epochs, counted from 0\. Give"
    ):
        fit(2)
    with pytest.raises(UserError, match=r"after 1 epoch, "):
        fit(1)
    assert fit(2, epochs=3).encoder_frozen  # the first part of a longer training
    assert not fit(-1).encoder_frozen


def test_the_average_is_on_the_device_that_trains(folder: Path) -> None:
    """Lightning's began on the CPU, where the network is by then, and fetched all weights at every step."""
    average = average_weights(0.9)
    assert average is not None
    there = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    average.setup(there, segmenter(folder), "fit")  # type: ignore[arg-type]
    kept = average._average_model
    assert kept is not None
    assert {value.device.type for value in kept.module.state_dict().values()} == {"meta"}
    assert kept.n_averaged.device == CPU


def test_the_average_of_the_weights_is_what_is_saved(folder: Path, tmp_path: Path) -> None:
    average = average_weights(0.9)
    assert isinstance(average, AverageWeights)
    course: list[torch.Tensor] = []

    class Remember(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
            del trainer
            course.append(next(pl_module.network.architecture.parameters()).detach().clone())

    trainer(tmp_path, 2, average, Remember()).fit(segmenter(folder), ChipData(folder, batch_size=2))
    expected = course[0]
    for step, value in enumerate(course[1:], start=1):
        expected = torch.lerp(expected, value, 1 - min(0.9, (1 + step) / (10 + step)))
    saved, _ = load_network(tmp_path / "checkpoints" / "last.ckpt")
    assert torch.allclose(next(saved.architecture.parameters()), expected, atol=1e-6)
    assert average_weights(0) is None
    with pytest.raises(UserError, match="decay=1"):
        average_weights(1)


def test_the_cosine_warms_up_and_ends_at_its_lowest_rate() -> None:
    layer = nn.Linear(1, 1)
    optimization = Optimization(lr=0.1, warmup=0.2, min_lr=1e-6, weight_decay=0.3)
    optimizer = optimization.build(layer, None)
    scheduler = optimization.scheduler(optimizer, 20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:4] == pytest.approx([0.02, 0.04, 0.06, 0.08])
    assert rates[4] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(1e-6)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]  # biases are not decayed


def test_the_encoder_has_a_rate_of_its_own(folder: Path) -> None:
    module = segmenter(folder, optimization=Optimization("sgd", 0.1, encoder_lr=0.5, options={"momentum": 0.9}))
    optimizer = module.optimization.build(module.network, module.encoder)
    rates = {(group["name"].removesuffix(UNDECAYED), group["lr"]) for group in optimizer.param_groups}
    assert rates == {("encoder", 0.05), ("rest", 0.1)}
    counted = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    assert counted == sum(p.numel() for p in module.network.parameters())


def test_lightning_s_monitor_of_rates_takes_our_groups_out_of_an_older_checkpoint_too(
    folder: Path, tmp_path: Path
) -> None:
    """Two groups of a part had one name, which it refuses."""

    def fit(epochs: int, last: Path | None = None) -> L.Trainer:
        run = trainer(tmp_path, epochs, LearningRateMonitor(), logger=CSVLogger(tmp_path))
        data = ChipData(folder, batch_size=6, min_steps=0)
        run.fit(segmenter(folder), data, ckpt_path=last, weights_only=True)
        return run

    names = ["encoder", "encoder_undecayed", "rest", "rest_undecayed"]
    assert [group["name"] for group in fit(1).optimizers[0].param_groups] == names
    last = tmp_path / "checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    for group in content["optimizer_states"][0]["param_groups"]:
        group["name"] = group["name"].removesuffix(UNDECAYED)
    torch.save(content, last)
    run = fit(2, last)
    assert run.global_step > content["global_step"]
    assert [group["name"] for group in run.optimizers[0].param_groups] == names


def test_gradients_are_clipped_in_mixed_precision_too(folder: Path, tmp_path: Path) -> None:
    norms: list[float] = []

    class Look(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, module: Any, *rest: Any) -> None:
            del trainer, rest
            gradients = [p.grad.norm() for p in module.parameters() if p.grad is not None]
            norms.append(float(torch.stack(gradients).norm()))

    run = trainer(tmp_path, 1, Look(), precision="bf16-mixed", gradient_clip_val=0.001)
    run.fit(segmenter(folder), ChipData(folder, batch_size=3))
    assert norms
    assert all(0 < norm < 0.00101 for norm in norms)


@pytest.mark.parametrize("keys", [{"name": "adagrad"}, {"schedule": "step"}, {"lr": 0.0}, {"warmup": 1.0}])
def test_an_optimisation_that_means_nothing_is_one_clear_line(keys: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="=".join(map(str, *keys.items()))):
        Optimization(**keys)


def test_step_gives_unmeasured_pixels_no_class(folder: Path) -> None:
    module, data = segmenter(folder), ChipData(folder)
    chip = data.source("validation")[0]
    batch: Batch = collate([chip, chip])
    assert not batch.valid.all()
    step = module.eval().step(batch._replace(target=torch.zeros_like(batch.target)))
    assert torch.isfinite(step.loss)
    assert (step.target[batch.valid] == 0).all()
    assert (step.target[~batch.valid] == IGNORE).all()
    assert step.prediction.shape == step.target.shape == (2, 32, 32)


def test_a_frozen_encoder_answers_without_drop_path_in_training_too(folder: Path) -> None:
    """Only its batch norms were put into eval, and no later ``eval`` or ``train`` of smp's reaches the others."""
    torch.manual_seed(0)
    network = build("unet", "mit_b0", 3, 2)
    image = torch.randn(2, 3, 64, 64)
    network.train()
    freeze(network)
    encoder: Any = network.encoder
    for mode in (False, True, False):
        network.train(mode)
        assert all(torch.equal(a, b) for a, b in zip(encoder(image), encoder(image), strict=True))
    assert torch.equal(network(image), network(image))

    module = segmenter(folder)
    freeze(module.network.architecture)
    assert module.encoder is not None
    module.train()
    module.unfreeze_encoder()
    assert all(part.training for part in module.encoder.modules())
    assert not module.encoder_frozen
    freeze(module.network.architecture)
    module.eval()
    module.unfreeze_encoder()
    assert not any(part.training for part in module.encoder.modules())


def test_synchronised_batch_norms_keep_the_activations_that_timm_put_into_them() -> None:
    """PyTorch's own conversion, which Lightning calls, changed these logits by 60 standard deviations."""
    torch.manual_seed(0)
    network = build("unet", "tu-mobilenetv3_small_100", 4, 3).eval()
    kinds = [type(part) for part in network.modules()]
    image, sync = torch.randn(1, 4, 64, 64), SyncBatchNorms()
    with torch.no_grad():
        expected, state = network(image), copy.deepcopy(network.state_dict())
        converted = sync.apply(network)
        norms = [part for part in converted.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        assert norms
        assert all(isinstance(part, nn.SyncBatchNorm) for part in norms)
        assert torch.equal(converted(image), expected)
        reverted = sync.revert(converted)
        assert not any(isinstance(part, nn.SyncBatchNorm) or part.training for part in reverted.modules())
        assert torch.equal(reverted(image), expected)
    assert len(kinds) == len(list(reverted.modules()))
    assert state.keys() == reverted.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in reverted.state_dict().items())


def test_a_trainer_that_synchronises_batch_norms_does_so_by_ours(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    class Look(L.Callback):
        """Looks at the network where the training would begin, which PyTorch refuses on a CPU."""

        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            assert isinstance(trainer.strategy._layer_sync, SyncBatchNorms)  # type: ignore[attr-defined]
            assert any(isinstance(part, nn.SyncBatchNorm) for part in pl_module.modules())
            assert isinstance(pl_module, Segmenter)
            torch.testing.assert_close(pl_module.eval().network.architecture(image), expected, rtol=1e-4, atol=1e-4)
            raise Killed

    torch.manual_seed(0)
    network, spec = make_network(ChipData(folder).describe(), NetworkChoice("unet", "tu-mobilenetv3_small_100", {}))
    expected = network.architecture.eval()(image)
    run = trainer(tmp_path, 1, Look(), strategy="ddp", devices=1, sync_batchnorm=True)
    monkeypatch.setattr(nn.parallel.DistributedDataParallel, "_passing_sync_batchnorm_handle", lambda *_: None)
    try:
        with pytest.raises(Killed):
            run.fit(Segmenter(network, spec, CrossEntropy(), Optimization(lr=0.01)), ChipData(folder, batch_size=3))
    finally:
        torch.distributed.destroy_process_group()


def test_a_run_from_before_stems_were_the_encoder_s_goes_on(folder: Path, tmp_path: Path) -> None:
    """Its optimiser has the stem's parameters first among the rest."""

    def fit(name: str, epochs: int, last: Path | None = None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        choice = NetworkChoice("compact_unet", "none", {"widths": [4, 8], "stem": 5})
        network, spec = make_network(ChipData(folder).describe(), choice)
        module = Segmenter(network, spec, CrossEntropy(), Optimization(lr=0.01, schedule="constant"))
        run = trainer(tmp_path / name, epochs)
        run.fit(module, ChipData(folder, batch_size=3), ckpt_path=last, weights_only=True)
        inside = {id(p) for group in run.optimizers[0].param_groups[:2] for p in group["params"]}
        assert all(id(p) in inside for p in network.architecture.get_submodule("stem").parameters())
        return module.state_dict()

    whole = fit("whole", 2)
    fit("before", 1)
    last = tmp_path / "before/checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    groups = content["optimizer_states"][0]["param_groups"]
    for inside, outside, moved in ((0, 2, 1), (1, 3, 2)):  # a kernel; a batch norm's weight and bias
        groups[outside]["params"] = groups[inside]["params"][:moved] + groups[outside]["params"]
        groups[inside]["params"] = groups[inside]["params"][moved:]
    torch.save(content, last)
    found = fit("after", 2, last)
    assert all(torch.equal(value, whole[name]) for name, value in found.items())


def test_an_epoch_s_loss_is_the_mean_over_its_labelled_pixels() -> None:
    tally = Tally(2, CPU)
    tally.add(torch.tensor(1.0), torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 1, 0]]]))
    tally.add(torch.tensor(5.0), torch.tensor([[[0, IGNORE, IGNORE]]]), torch.tensor([[[1, 0, 0]]]))
    loss, pixels = tally.total()["loss"]
    assert loss / pixels == 2.0  # (3 × 1 + 1 × 5) / 4


def test_every_epoch_step_and_process_draws_random_numbers_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, seeds = segmenter(folder, "compact_unet"), set[int]()
    for epoch, step, rank in itertools.product((0, 1), (-1, 0, 1), (0, 1)):
        monkeypatch.setattr(module, "_trainer", SimpleNamespace(current_epoch=epoch, global_rank=rank))
        seeds.add(module._step_seed(step))
    assert len(seeds) == 12


def test_what_an_epoch_counts_is_not_kept_on_a_device_without_float64() -> None:
    tally = Tally(2, torch.device("mps"))
    tally.add(torch.tensor(0.5), torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]))
    assert tally.loss.device == tally.matrix.device == CPU
    assert tally.total() == {"matrix": [[1, 0], [1, 0]], "loss": [1.0, 2.0], "chips": 1}


@pytest.mark.parametrize("kind", [None, "none", "torchgeo"])
def test_several_processes_are_told_to_name_the_weights_again(folder: Path, kind: str | None) -> None:
    module = segmenter(folder, config={"weights": {"kind": kind}} if kind else {})
    freeze(module.network.architecture)
    with pytest.raises(UserError, match="does not go with several processes") as error:
        Unfreeze(epoch=1).setup(SimpleNamespace(world_size=2), module, "fit")  # type: ignore[arg-type]
    assert ("the same weights=…" in str(error.value)) == (kind == "torchgeo")
