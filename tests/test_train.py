"""``python train.py``: what its configurations build, what a run leaves behind, and what a mistake says."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from omegaconf import DictConfig, OmegaConf, read_write
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from scripts.open_tensorboard import free_port
from src.datamodules.base import SegmentationData
from src.datamodules.batches import collate
from src.datamodules.chips import ChipData
from src.errors import UserError
from src.file_lock import only_run
from src.models.checkpoint import find_checkpoint, load_network
from src.models.optimization import Optimization
from src.scores import confusion_matrix, mean_iou
from src.spec import git_revision, software_versions
from src.tasks import entry, schema, train
from src.tasks.changed_keys import changed_keys, started_with
from src.tasks.command_line import as_single_run
from src.tasks.run_places import NOWHERE
from src.tasks.train import build_segmenter, build_trainer, make
from tests.chip_folder import make_chip_folder

ROOT = Path(__file__).parents[1]
SMALL = ["model.encoder_depth=3", "model.decoder_channels=[16,16,8]", "batch_size=3", "trainer.precision=32-true"]

Compose = Callable[..., DictConfig]


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "configs" / group).glob("*.yaml"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chip_folder(tmp_path_factory.mktemp("chips") / "data")


@pytest.fixture
def composed(folder: Path, tmp_path: Path) -> Iterator[Compose]:
    """Composes the configuration of a command, as Hydra does when the command starts."""
    schema.register()
    entry.search_before(ROOT / "configs" / "train")

    def do(*overrides: str, run: str = "run") -> DictConfig:
        common = [f"data_dir={folder}", f"hydra.run.dir={tmp_path / run}", f"paths.logs={tmp_path / 'logs'}"]
        with initialize_config_dir(str(ROOT / "configs")):
            config = compose("train", [*common, *overrides], return_hydra_config=True)
        config.hydra.runtime.output_dir = str(tmp_path / run)
        (tmp_path / run).mkdir(exist_ok=True)
        HydraConfig.instance().set_config(config)
        OmegaConf.set_struct(config, False)
        config.pop("hydra")
        OmegaConf.set_struct(config, True)
        return config

    before = list(logging.getLogger().handlers)
    yield do
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    for handler in set(logging.getLogger().handlers) - set(before):
        if isinstance(handler, logging.FileHandler):  # of a folder that is about to go
            handler.close()
            logging.getLogger().removeHandler(handler)


BY_TIME = "logs/${now:%Y-%m-%d_%H-%M-%S}"


def as_if_written(folder: str, *overrides: str) -> None:
    """Let Hydra's folder be what a configuration says, and not what the fixture has given."""
    with read_write(HydraConfig.get()):
        HydraConfig.get().run.dir = folder
        HydraConfig.get().overrides.hydra = list(overrides)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    names = ("lightning.pytorch", "lightning.fabric")
    levels = [logging.getLogger(name).level for name in names]
    yield
    for name, level in zip(names, levels, strict=True):
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("choice", choices("model"))
def test_every_model_builds(composed: Compose, choice: str) -> None:
    config = composed(f"model={choice}", "encoder=" + ("tu-vit_tiny_patch16_224" if choice == "dpt" else "resnet18"))
    if choice == "pan":
        pytest.skip("needs chips of 128 px: tests/test_architectures.py builds it")
    segmenter = build_segmenter(config, make(config.datamodule, "datamodule"))
    assert segmenter.spec.architecture == choice
    assert segmenter.config["model"]["name"] == choice


@pytest.mark.parametrize("choice", choices("loss"))
def test_every_loss_builds_with_the_class_weights_asked_for(composed: Compose, choice: str) -> None:
    loss = make(composed(f"loss={choice}").loss, "loss", weight=(1.0, 3.0))
    weights = [buffer.tolist() for name, buffer in loss.named_buffers() if name.endswith("weight")]
    assert weights == [[1.0, 3.0]]


@pytest.mark.parametrize("choice", choices("optimizer"))
def test_every_optimizer_builds(composed: Compose, choice: str) -> None:
    optimization = make(composed(f"optimizer={choice}", "lr=0.02").optimizer, "optimizer")
    assert isinstance(optimization, Optimization)
    assert optimization.name == choice
    assert optimization.lr == 0.02
    assert optimization.min_lr == 1e-6
    assert optimization.build(torch.nn.Linear(2, 2), None).param_groups[0]["lr"] == 0.02


def test_an_optimizer_without_further_arguments_takes_its_own(composed: Compose) -> None:
    optimization = make(composed("optimizer=sgd", "optimizer.options=null").optimizer, "optimizer")
    assert optimization.build(torch.nn.Linear(2, 2), None).defaults["momentum"] == 0


@pytest.mark.parametrize("choice", choices("augmentation"))
def test_every_augmentation_builds(composed: Compose, choice: str) -> None:
    assert make(composed(f"augmentation={choice}").augmentation, "augmentation").changes == (choice != "none")


@pytest.mark.parametrize("choice", choices("trainer"))
def test_every_trainer_builds_or_says_that_there_is_no_gpu(composed: Compose, choice: str) -> None:
    config = composed(f"trainer={choice}", "trainer.max_epochs=7", "output_dir=here")
    if choice == "gpu" and not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"accelerator=gpu, but PyTorch .* finds no such device here"):
            train.run(config)
        return
    wanted = {key: config.trainer[key] for key in train.TRAINER_KEYS}
    trainer = build_trainer(config, train.choose_trainer_options(**wanted))
    assert trainer.max_epochs == 7


@pytest.mark.parametrize("choice", ["gpu", "cpu"])
def test_a_trainer_of_one_device_takes_those_that_are_given(composed: Compose, choice: str) -> None:
    """devices= was dropped without a word: a run with devices=[1] trained on the first GPU."""
    for given, expected in (((), 1), (("devices=[1]",), [1]), (("devices=4",), 4), (("trainer.devices=3",), 3)):
        trainer = composed(f"trainer={choice}", *given).trainer
        assert trainer.devices == expected
        assert trainer.accelerator == choice
        assert trainer.max_epochs == 50


def test_everything_follows_the_gpu_that_is_given(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    """Range test, precision and the printed name were those of the first GPU, or of the run before."""
    turned, now = list[int](), [0]

    def turn(number: int) -> None:
        turned.append(number)
        now[0] = number

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: now[0] == 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "set_device", turn)
    for devices, rank, precision in (("[1]", 0, "bf16-mixed"), ("1", 0, "32-true"), ("[2,3]", 1, "32-true")):
        if rank:
            monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert train.choose_options(composed("trainer=gpu", f"devices={devices}"))["precision"] == precision
    train.choose_options(composed("trainer=cpu", "devices=2"))
    assert turned == [1, 0, 3]


@pytest.mark.parametrize(
    ("environment", "remedy"),
    [
        (
            {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_PROCID": "0"},
            r"SLURM .*expected a process for each device\. Set devices=2 num_nodes=1\.",
        ),
        (
            {
                "TORCHELASTIC_RUN_ID": "a",
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "GROUP_WORLD_SIZE": "1",
                "RANK": "0",
            },
            r"torchrun has started; .* Set devices=2 num_nodes=1\.",
        ),
    ],
)
def test_another_number_of_processes_than_was_started_is_one_line_and_moves_nothing(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], remedy: str
) -> None:
    variables = environment | {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NAME": "a", "LOCAL_RANK": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    old = tmp_path / "run/checkpoints/last.ckpt"
    old.parent.mkdir(parents=True)
    old.touch()
    config = composed("trainer=ddp", "accelerator=cpu", "devices=4", *SMALL)
    with pytest.raises(UserError, match=f"devices=4 num_nodes=1 is not what {remedy}"):
        train.run(config)
    assert old.exists()


def test_a_job_of_slurm_s_begins_without_what_lightning_left_there(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At SIGUSR1 Lightning saved a checkpoint of its own, and went on from it in any later run of the folder."""
    for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"):
        monkeypatch.setenv(name, "0")
    for name in ("SLURM_NTASKS", "SLURM_JOB_NAME", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "1")
    left = tmp_path / "run/hpc_ckpt_1.ckpt"
    left.parent.mkdir()
    left.write_bytes(b"of another run")
    config = composed("trainer.max_epochs=1", "callbacks.pictures.chips=0", "trainer=cpu", *SMALL)
    train.run(config)
    assert (tmp_path / "run/earlier" / left.name).is_file()
    assert not left.exists()
    environment = build_trainer(config, train.choose_options(config))._accelerator_connector.cluster_environment
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(UserError, match=r"This SLURM job cannot train: .*--ntasks-per-node=2"):
        build_trainer(config, train.choose_options(config))


@pytest.mark.parametrize("choice", choices("logger"))
def test_every_logger_composes_and_those_that_are_dependencies_build(composed: Compose, choice: str) -> None:
    config = composed(f"logger={choice}", "output_dir=here")
    extra = set(config.logger) - {"tensorboard", "csv"}
    assert extra == ({choice} if choice != "default" else set())
    for name in extra:
        with pytest.raises(UserError, match=f"logger.{name}.*pip install {name}"):
            make(config.logger[name], f"logger.{name}")


@pytest.mark.parametrize("choice", choices("datamodule"))
def test_every_datamodule_composes_and_names_what_it_needs(composed: Compose, choice: str) -> None:
    config = composed(f"datamodule={choice}")
    if choice == "chips":
        assert isinstance(make(config.datamodule, "datamodule"), SegmentationData)
    else:
        assert OmegaConf.missing_keys(config) <= {f"datamodule.{k}" for k in ("image", "label", "name", "root")}


@pytest.mark.parametrize("choice", choices("weights"))
def test_every_choice_of_weights_composes(composed: Compose, choice: str) -> None:
    config = composed(f"weights={choice}")
    assert config.weights.kind in {"none", "imagenet", "torchgeo", "file"}


@pytest.mark.parametrize("choice", choices("hparams_search"))
def test_every_search_composes(composed: Compose, choice: str) -> None:
    composed(f"hparams_search={choice}")
    assert (HydraConfig.get().sweeper.params is None) == (choice == "grid")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> tuple[Path, str]:
    """One whole run as people start it; returns its folder and what it printed."""
    run = tmp_path_factory.mktemp("trained") / "run"
    return run, command(f"data_dir={folder}", f"hydra.run.dir={run}", "trainer.max_epochs=2", "lr_finder=true", *SMALL)


def command(*arguments: str, fails: bool = False, through: Sequence[str] = ()) -> str:
    """Run train.py, perhaps through a starter of processes; returns its output, or its stderr if it is to fail."""
    result = subprocess.run(
        [sys.executable, *through, str(ROOT / "train.py"), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (result.returncode != 0) == fails, result.stderr + result.stdout
    assert "Traceback" not in result.stderr
    return result.stderr if fails else result.stdout


def test_a_person_sees_a_line_per_epoch_the_class_table_and_the_best_checkpoint(trained: tuple[Path, str]) -> None:
    run, output = trained
    lines = output.splitlines()
    head = next(n for n, line in enumerate(lines) if line.startswith("epoch"))
    assert lines[head].split() == ["epoch", "train", "loss", "IoU", "val", "loss", "IoU", "rate", "chips/s", "left"]
    assert [line.split()[0] for line in lines[head + 1 : head + 3]] == ["0", "1"]
    assert any(line.split()[0:1] == ["7"] and len(line.split()) == 6 for line in lines)
    assert f"best checkpoint: {find_checkpoint(run)}" in lines


def test_a_run_leaves_config_overrides_revision_versions_and_log(trained: tuple[Path, str]) -> None:
    run, output = trained
    row = json.loads((run / "run.json").read_text())
    assert "trainer.max_epochs=2" in row["command"]
    assert set(row) == {"command", "revision", "versions", "config"}
    assert row["config"]["trainer"]["max_epochs"] == 2
    assert row["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {path.name for path in (run / ".hydra").iterdir()} == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    assert output.splitlines()[-1] in (run / "train.log").read_text()
    assert (run / "lr_finder.png").is_file()
    found = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"][-1]
    kept = EventAccumulator(str(run / "tensorboard")).Reload().summary_metadata["_hparams_/session_start_info"]
    shown = plugin_data_pb2.HParamsPluginData.FromString(kept.plugin_data.content).session_start_info.hparams
    assert shown["lr"].number_value == found["initial_lr"] != row["config"]["lr"]


def test_the_csv_has_all_numbers_of_every_epoch(trained: tuple[Path, str]) -> None:
    with (trained[0] / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert {"lr", "chips_per_second", "train_loss", "train_iou", "val_loss", "val_iou", "val_iou_of/class_7"} <= set(
        rows[0]
    )
    found = torch.load(trained[0] / "checkpoints/last.ckpt", weights_only=True)
    assert float(rows[1]["val_iou"]) == pytest.approx(mean_iou(torch.tensor(found["val_matrix"])))
    # The finder's rate is the one that was trained with, not the default.
    rate = float(next(line for line in trained[1].splitlines() if line.startswith("learning rate")).split()[2])
    steps = 4  # in each of two epochs
    down = 0.5 * (1 + np.cos(np.pi * (steps - 1) / (2 * steps - 1)))
    assert float(rows[0]["lr"]) == pytest.approx(rate * down, rel=0.05)
    assert rate != 0.003


def test_a_checkpoint_says_what_made_it(trained: tuple[Path, str], folder: Path) -> None:
    """Which network, of what configuration, overlap, software and code: plain things, and all of them."""
    said = torch.load(trained[0] / "checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]
    assert said["versions"] == software_versions()
    assert said["revision"] == git_revision()
    assert said["spec"]["overlap"] == 20
    config = said["config"]
    assert (config["data_dir"], config["batch_size"], config["encoder"]) == (str(folder), 3, "resnet18")
    assert (config["model"]["name"], config["model"]["encoder_depth"]) == ("unet", 3)
    assert {"weights", "augmentation", "loss", "optimizer", "trainer", "callbacks", "logger", "seed"} <= set(config)


def test_the_log_takes_any_name_whatever_the_locale_is(tmp_path: Path) -> None:
    """A scene called ü.tif ended in a traceback of the logging on a cluster with LANG=C."""
    assert OmegaConf.load(ROOT / "configs/hydra/job_logging/plain.yaml").handlers.file.encoding == "utf-8"
    train._log_to(tmp_path / "train.log")
    handler = logging.getLogger().handlers[-1]
    assert isinstance(handler, logging.FileHandler)
    logging.getLogger().removeHandler(handler)
    handler.close()
    assert handler.encoding == "utf-8"


def test_tensorboard_serves_scalars_pictures_and_hyper_parameters(trained: tuple[Path, str]) -> None:
    run = trained[0]
    board = EventAccumulator(str(run / "tensorboard"), {"images": 0, "tensors": 0}).Reload()
    assert "confusion matrix" in board.Tags()["images"]
    triples = [tag for tag in board.Tags()["images"] if tag.startswith("validation/")]
    assert len(triples) == 3  # four are asked for, three chips are there
    assert {event.step for event in board.Images("confusion matrix")} == {0, 1}
    picture = board.Images(triples[0])[0]
    assert (picture.height, picture.width) == (32, 3 * 32 + 8)
    assert "_hparams_/session_start_info" in board.summary_metadata
    port = free_port(range(16006, 16106))
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", "--logdir", run, "--host", "localhost", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        scalars = served(server, f"http://localhost:{port}/data/plugin/scalars/scalars?run=tensorboard&tag=val_iou")
    finally:
        server.terminate()
        server.wait()
    logged = [event.value for event in board.Scalars("val_iou")]
    assert [value for _, _, value in scalars] == pytest.approx(logged)
    assert [step for _, step, _ in scalars] == [0, 1]


def served(server: subprocess.Popen[bytes], url: str) -> Any:
    """Ask until the server has started and read the run; gives up when it ends."""
    while server.poll() is None:
        try:
            with urllib.request.urlopen(url) as answer:
                return json.loads(answer.read())
        except OSError:
            pass
    raise AssertionError(f"TensorBoard ended with {server.returncode}")


def test_names_given_to_a_training_are_the_checkpoint_s(composed: Compose, tmp_path: Path) -> None:
    """A folder of SpecDeepMap's has none, and there was no way to say them: maps read class_2."""
    given = "class_names={2: bright}", "class_colors=['#ffffff', '#000000']"
    train.run(composed(*given, f"output_dir={tmp_path}", "trainer.max_epochs=1", *SMALL))
    classes = load_network(find_checkpoint(tmp_path))[1].classes
    assert (classes.names, classes.colors) == (("bright", "class_7"), ("#ffffff", "#000000"))
    assert "bright" in (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert json.loads((tmp_path / "run.json").read_text())["config"]["class_names"] == {"2": "bright"}


def test_resume_last_goes_on_in_the_runs_own_folder(trained: tuple[Path, str], composed: Compose) -> None:
    run = trained[0]
    best = train.run(composed(f"resume={run}", "trainer.max_epochs=3", *SMALL))
    with (run / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1", "2"]
    assert (run / "run_from_00002.json").is_file()
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 2
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("val_iou")] == [0, 1, 2]
    assert f"{best:.4f}" in find_checkpoint(run).name


def test_a_resumed_run_says_what_becomes_of_keys_that_were_changed(
    trained: tuple[Path, str], composed: Compose
) -> None:
    """A new learning rate was passed over without a word, and another optimiser ended in a traceback."""
    last = trained[0] / "checkpoints/last.ckpt"

    def changes(*overrides: str) -> list[str]:
        plain = OmegaConf.to_container(composed(*SMALL, *overrides), resolve=True)
        assert isinstance(plain, dict)
        return changed_keys(last, {str(key): value for key, value in plain.items()})

    assert changes() == []
    found = torch.load(last, weights_only=True)["optimizer_states"][0]["param_groups"][-1]["initial_lr"]
    (line,) = changes("lr=0.5", "optimizer.weight_decay=0.2")
    assert line.startswith("CAUTION: lr=0.5, optimizer.weight_decay=0.2: without effect in a resumed run")
    assert f"lr={found}, optimizer.weight_decay=0.01" in line
    (line,) = changes("batch_size=5", "datamodule.min_steps=0", "devices=2")  # devices=auto may have been two
    assert line.startswith("CAUTION: batch_size=5 (before: 3), datamodule.min_steps=0 (before: 4): an epoch has")
    assert changes("trainer.limit_train_batches=1.0") == []  # all of them, as null
    (line,) = changes("trainer.limit_train_batches=1")
    assert line.startswith("CAUTION: trainer.limit_train_batches=1 (before: null): an epoch has another number")
    (line,) = changes("+datamodule.windows=9")
    assert line.startswith("CAUTION: datamodule.windows=9 (before: null): an epoch has another number")
    with pytest.raises(UserError, match=r"trained with optimizer=adamw, this run has sgd; .* optimizer=adamw again"):
        changes("optimizer=sgd")
    with pytest.raises(UserError, match=r"trained with refit=false, this run has refit=true; .* init_from="):
        changes("refit=true")


def test_an_encoder_that_is_given_to_a_model_without_one_is_announced(composed: Compose) -> None:
    for silent in (["model=pixel_resnet"], ["model=pixel_resnet", "encoder=none"], ["encoder=resnet34"]):
        assert train.idle_encoder(composed(*silent)) == []
    (line,) = train.idle_encoder(composed("experiment=small_scene", "encoder=resnet50"))
    assert line == "CAUTION: encoder=resnet50: without effect, since model=pixel_resnet has no encoder"
    assert train.idle_encoder(composed("experiment=demo", "model=pixel_resnet")) == []  # which names one for its own


def test_a_process_that_leaves_all_to_a_first_one_that_there_is_not_is_one_clear_line(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines that are numbered for trainings of their own: it trained, and left neither report nor scores."""
    monkeypatch.setenv("NODE_RANK", "1")
    with pytest.raises(UserError, match=r"says NODE_RANK=1, .* of 1 process with this one as first; .* Unset it"):
        train.run(composed(*SMALL, "trainer.max_epochs=1", f"output_dir={tmp_path / 'mine'}"))
    assert not (tmp_path / "mine").exists()


TINY = ["model=compact_unet", "model.widths=[4,8]", "model.stem=4", "batch_size=3", "callbacks.pictures.chips=0"]


def test_a_band_that_a_frozen_encoder_never_learns_is_named(
    composed: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after weights of a sensor without it, as long as no epoch thaws the encoder and no branch hears the band."""
    keys = [*SMALL, "model.detail=0"]
    train.run(composed(*keys, "trainer.max_epochs=1", run="base"))
    content = torch.load(tmp_path / "base/checkpoints/last.ckpt", weights_only=True)
    (kernels,) = (value for name, value in content["state_dict"].items() if name.endswith("encoder.conv1.weight"))
    kernels[:, 1] = 0
    torch.save(content, tmp_path / "deaf.ckpt")
    frozen = [*keys, "freeze_encoder=true", f"init_from={tmp_path / 'deaf.ckpt'}", "trainer.max_epochs=2"]
    thawed, heard = ["callbacks.unfreeze.epoch=1"], ["model.detail=32"]
    for name, more, named in (("frozen", [], True), ("thawed", thawed, False), ("heard", heard, False)):
        caplog.clear()
        train.run(composed(*frozen, *more, run=name))
        assert (
            f"CAUTION: {load_network(tmp_path / 'deaf.ckpt')[1].bands[1].name}: without effect" in caplog.text
        ) is named
    caplog.clear()
    train.run(composed(*frozen[:-1], "trainer.max_epochs=3", "resume=last", f"output_dir={tmp_path / 'frozen'}"))
    assert "without effect, since the weights" not in caplog.text


def test_an_encoder_that_no_epoch_would_thaw_is_refused_before_an_earlier_run_is_set_aside(
    composed: Compose, tmp_path: Path
) -> None:
    base, keys = tmp_path / "base", [*TINY, "trainer.max_epochs=1"]
    train.run(composed(*keys, run="base"))
    frozen = ["freeze_encoder=true", f"init_from={base}", "callbacks.unfreeze.epoch=1"]
    with pytest.raises(UserError, match=r"unfreeze\.epoch=1 never comes"):
        train.run(composed(*keys, *frozen, f"output_dir={base}"))
    assert not (base / "earlier").exists()
    assert find_checkpoint(base).is_file()


def test_a_run_that_started_from_a_checkpoint_goes_on_as_it_began(
    composed: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was refused, and the advised way thawed its encoder without a word; whitened ones were another network."""
    base, run = tmp_path / "base", tmp_path / "run"
    train.run(composed(*TINY, "trainer.max_epochs=1", "normalize=whiten", run="base"))
    once = [*TINY, f"output_dir={run}", "resume=last", f"init_from={base}", "freeze_encoder=true"]
    train.run(composed(*once, "trainer.max_epochs=1"))
    caplog.set_level(logging.INFO)
    train.run(composed(*TINY, f"resume={run}", f"output_dir={run}", "trainer.max_epochs=2"))
    assert "its encoder frozen" in caplog.text
    assert "weights:" not in caplog.text
    assert "CAUTION: freeze_encoder" not in caplog.text
    last = run / "checkpoints/last.ckpt"
    assert started_with(last) == {"init_from": str(base), "freeze_encoder": True}
    train.run(composed(*once, "trainer.max_epochs=3"))  # the command that began it
    before, after = (torch.load(find_checkpoint(base), weights_only=True), torch.load(last, weights_only=True))
    assert after["epoch"] == 2
    for name, value in before["state_dict"].items():
        if name.startswith(("network.architecture.stem.", "network.architecture.encoder.")):
            assert torch.equal(value, after["state_dict"][name]), name
    thawed = composed(*TINY, f"resume={run}", "freeze_encoder=false")
    (line,) = changed_keys(last, OmegaConf.to_container(thawed, resolve=True))  # type: ignore[arg-type]
    assert line == "CAUTION: freeze_encoder=false (before: true): the encoder learns from here on"


@pytest.mark.parametrize(
    ("config", "frozen"),
    [
        ({"freeze_encoder": None, "weights": {"kind": "file", "like": "none"}}, True),  # which normalise as none do
        ({"freeze_encoder": False, "weights": {"kind": "file", "like": "none"}}, False),
        ({"freeze_encoder": None, "weights": {"kind": "none"}}, False),
        ({"network": {"freeze_encoder": None, "weights": {"kind": "imagenet"}}}, True),  # a notebook's
        ({}, None),
    ],
)
def test_a_checkpoint_says_whether_its_runs_encoder_was_frozen(
    config: dict[str, Any], frozen: bool | None, tmp_path: Path
) -> None:
    """Where weights=… was forgotten, the resumed run thawed what had been frozen with them."""
    torch.save({"state_dict": {}, "hyper_parameters": {"config": config}}, tmp_path / "a.ckpt")
    assert started_with(tmp_path / "a.ckpt") == {"init_from": None, "freeze_encoder": frozen}


def test_resume_last_means_another_run_only_where_nobody_has_named_the_folder(
    composed: Compose, tmp_path: Path
) -> None:
    """Else a second seed in a folder of its own went on with the first one's run, and came to its score."""
    for age, name in enumerate(("seed1", "seed1/earlier", "seed1/earlier-2")):  # runs that were set aside are newest
        last = tmp_path / "logs/train" / name / "checkpoints/last.ckpt"
        last.parent.mkdir(parents=True)
        last.write_bytes(b"")
        os.utime(last, (1000 + age, 1000 + age))
    found = tmp_path / "logs/train/seed1/checkpoints/last.ckpt"
    given = ("resume=last", *SMALL)

    def resumed(mode: RunMode, folder: str, *overrides: str) -> Path | None:
        config = composed(*given, run="2026-11-30_09-10-11")
        as_if_written(folder, *overrides)
        with read_write(HydraConfig.get()):
            HydraConfig.get().mode = mode
        return train._resumed(config)

    for folder in (BY_TIME, f"{BY_TIME}_2", NOWHERE):
        assert resumed(RunMode.RUN, folder) == found
        assert resumed(RunMode.MULTIRUN, folder) is None
    hour = "logs/2026-11-30_09-10-11"
    assert resumed(RunMode.RUN, hour, f"hydra.run.dir={hour}") is None  # logs/$(date +%F_%H-%M-%S)
    assert resumed(RunMode.RUN, "logs/train/demo") is None  # which an experiment has named


def test_the_processes_that_lightning_starts_are_told_which_folder_the_first_one_goes_on_in(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are given Hydra's folder, which then looks as if the user had named it: no run to go on with there."""
    last = tmp_path / "logs/train/before/checkpoints/last.ckpt"
    last.parent.mkdir(parents=True)
    last.touch()
    folder = str(last.parents[1])
    composed(run="hour")
    monkeypatch.setattr(sys, "argv", ["train.py", "resume=last"])
    with as_single_run(folder):
        assert sys.argv == ["train.py", "resume=last", f"output_dir={folder}"]
        told = sys.argv[1:]
    assert sys.argv == ["train.py", "resume=last"]
    assert train._resumed(composed(*told, run="hour")) == last


@pytest.mark.usefixtures("trained")
def test_one_command_begins_a_run_goes_on_with_it_and_says_that_it_is_done(
    composed: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    command = ("resume=last", f"output_dir={run}", "trainer.max_epochs=1", *SMALL)
    with caplog.at_level(logging.INFO):
        score = train.run(composed(*command))  # and not with the run that was trained last
        assert f"resume=last: {run} has no checkpoint yet, so the run begins" in caplog.text
        (run / "report.html").unlink()
        assert train.run(composed(*command)) == score
    assert "All 1 epochs are trained; raise trainer.max_epochs to train on." in caplog.text
    assert (run / "report.html").is_file()
    assert sorted(path.name for path in run.glob("run*.json")) == ["run.json"]
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["resume={run}", "trainer.max_epochs=9"], "was trained with the model's keys"),
        (["resume={run}", "trainer.max_epochs=9", "model=compact_unet"], "was trained with model unet, this run has"),
        (["resume={run}", "trainer.max_epochs=1", *SMALL], "has trained all its"),
        (["resume=last", *SMALL], "resume=last finds no last.ckpt"),
        (["resume=nowhere.ckpt"], "There is no checkpoint nowhere.ckpt"),
        (["resume={run}", "init_from={run}"], "contradict each other"),
        (["init_from={run}", "model=fpn"], r"is unet/resnet18, this network is fpn/resnet18"),
        (["freeze_encoder=true"], "random and would stay so"),
        (
            ["freeze_encoder=true", "model=pixel_resnet"],
            r"model=pixel_resnet has no encoder that published .* init_from",
        ),
        (["class_weights=[1]"], "expected 2 numbers"),
        (["class_weights=[a,b]"], "expected 2 numbers"),
        (["class_weights=[1,nan]"], "expected 2 numbers"),
        (["class_weights=loud"], "class_weights=loud is not known"),
        (["normalize=loud"], "normalize=loud is not known"),
        (["trainer.max_time=5"], "max_time=5 is no time; give days, hours, minutes and seconds"),
        (["trainer.precision=17"], "choose one of: auto, 32-true"),
        (["trainer.max_epochs=abc"], "trainer.max_epochs=abc is no number of epochs"),
        (["trainer.max_epochs=-1"], "trainer.max_epochs=-1 is no number of epochs"),
        (["trainer.gradient_clip_val=a"], "expected a number or a whole number or null"),
        (["augmentation.rotation=abc"], "augmentation.rotation=abc does not fit; expected a number"),
        (["datamodule.workers=abc"], "expected a whole number or auto"),
        (["callbacks.early_stopping.patience=-1"], r"patience=-1 is no number of validations; give 0 or more, or call"),
        (["callbacks.early_stopping.patience=x"], "patience=x does not fit; expected a whole number"),
        (["optimizer.schedule=step"], "expected cosine or constant"),
        (["lr=inf"], "lr=inf cannot be used"),
        (["optimizer.min_lr=-1"], r"optimizer\.min_lr=-1 cannot be used; give 0 or more"),
        (["optimizer.encoder_lr=nan"], r"optimizer\.encoder_lr=nan cannot be used"),
        (["optimizer.weight_decay=-1"], r"optimizer\.weight_decay=-1 cannot be used"),
        (["optimizer.epochs=0"], r"optimizer\.epochs=0 is no length of a schedule"),
        (["optimizer.options=3"], r"optimizer\.options=3 does not fit; expected .* by name"),
        (["+optimizer.options.bogus=1"], "No optimiser can be made of these keys: .*bogus"),
        (["devices=0"], "devices=0 does not fit"),
        (["devices=[]"], r"devices=\[\] does not fit"),
        (["data_dir=nowhere"], "nowhere is no data folder"),
        (
            ["loss._target_=torch.nn.CrossEntropyLoss"],
            r"loss\._target_=torch\.nn\.CrossEntropyLoss is no class that .* one of src\.\*, .* below src/, and",
        ),
        (["+callbacks.mine._target_=os.getcwd"], r"callbacks\.mine\._target_=os\.getcwd is no class that a config"),
        (["+loss.gama=2"], r"loss cannot be made of .*gama"),
        (["encoder=resnet19"], "resnet18"),
        (["model=compact_unet", "model.dropout=2"], r"model=compact_unet cannot be built with .*model\.dropout=2"),
        (["model=compact_unet", "model.widths=[]"], r"model\.widths=\[\].*Change model's keys"),
        (["callbacks.early_stopping.monitor=foo"], "monitor=foo is none of .* expected val_iou or val_loss"),
        (
            ["callbacks.early_stopping.monitor=val_loss"],
            r"mode=max would end .* add callbacks\.early_stopping\.mode=min",
        ),
        (["callbacks.model_checkpoint=null"], r"callbacks\.model_checkpoint is not what keeps"),
        (["callbacks.model_checkpoint=null", "refit=true"], r"callbacks\.model_checkpoint is not what keeps"),
        (["refit=true", "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2"], "last of 3 epochs without"),
        (
            ["callbacks.model_checkpoint.save_top_k=0", "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2"],
            r"last of 3 epochs without .*save_top_k=0 keeps that one",
        ),
        (["trainer.limit_train_batches=0.01", *SMALL], r"trainer cannot train so: .*limit_train_batches"),
        (["+trainer.max_steps=3"], r"trainer\.max_steps=3 would end the training within an epoch, .*max_epochs"),
        (["trainer.accumulate_grad_batches=0"], "accumulate_grad_batches=0 is no number of batches"),
        (["trainer.gradient_clip_val=-1"], "gradient_clip_val=-1 is no length"),
        (["trainer.gradient_clip_val=nan"], "gradient_clip_val=nan is no length"),
        (["augmentation.cutmix=2"], "is a probability"),
        (["augmentation.band_dropout=1"], "leaves no band"),
        (["refit=true", "datamodule=torchgeo"], "refit=true needs the chips of a data folder"),
        (["class_names=[a,b]", "datamodule=torchgeo"], "class_names=… needs the chips of a data folder"),
        (["class_names={{3: a}}"], r"class_names is given for 3, but the classes of .* are 2, 7"),
        (
            ["class_names={{2: a}}", "resume={run}", "trainer.max_epochs=9", *SMALL],
            "trained with classes .2 class_2 .*2 a",
        ),
        (["augmentation.crop=20", "model=dpt", "encoder=tu-vit_tiny_patch16_224"], "crop=20 leaves 20 × 20 px"),
    ],
)
def test_a_mistake_is_one_line(
    trained: tuple[Path, str], composed: Compose, overrides: list[str], message: str
) -> None:
    config = composed(*(text.format(run=trained[0]) for text in overrides))
    as_if_written(BY_TIME)
    with pytest.raises(UserError, match=message) as error:
        train.run(config)
    assert "\n" not in str(error.value)


def test_a_time_that_is_over_at_once_is_one_line(composed: Compose, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(UserError, match=r"ended before a validation.*trainer\.max_time"):
        train.run(composed("trainer.max_time=00:00:00:00", *SMALL))
    assert "trainer.max_time is over, which all parts of a resumed run share" in caplog.text


def test_more_gpus_than_there_are_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.training.choose_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for devices in (3, [0, 2]):
        with pytest.raises(UserError, match="this machine has 2 usable GPUs"):
            train.choose_trainer_options("gpu", devices, "auto")
    assert train.choose_trainer_options("gpu", 2, "32-true")["devices"] == 2


@pytest.mark.parametrize("finder", [True, False])
def test_too_little_memory_on_a_gpu_is_one_line(
    composed: Compose, monkeypatch: pytest.MonkeyPatch, finder: bool
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has …")

    monkeypatch.setattr("src.models.segmenter.Segmenter.step", full)
    with pytest.raises(UserError, match=r"batch_size=3 is too large .* for example to 1") as error:
        train.run(composed(*SMALL, "trainer.max_epochs=1", f"lr_finder={finder}"))
    assert "\n" not in str(error.value)


def test_init_from_takes_what_fits_and_names_the_rest(
    trained: tuple[Path, str], composed: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    four = make_chip_folder(tmp_path / "four", bands=4)
    caplog.set_level(logging.INFO)
    config = composed(f"init_from={trained[0]}", f"data_dir={four}", *SMALL)
    segmenter = build_segmenter(config, make(config.datamodule, "datamodule"))
    old, _ = load_network(trained[0])
    new = dict(segmenter.network.named_parameters())
    same = [name for name, value in old.named_parameters() if value.shape == new[name].shape]
    assert set(new) - set(same) == {
        f"architecture.{name}.weight" for name in ("encoder.conv1", "detail.encoder.0.0")
    }  # what sees the bands
    assert all(torch.equal(dict(old.named_parameters())[name], new[name]) for name in same)
    assert "not taken: encoder.conv1.weight (64 × 3 × 7 × 7 there, 64 × 4 × 7 × 7 here)" in caplog.text


def test_a_new_run_in_an_old_folder_leaves_no_checkpoint_of_the_old_one(composed: Compose, tmp_path: Path) -> None:
    old = tmp_path / "run" / "checkpoints" / "00099-val_iou_0.9999.ckpt"
    old.parent.mkdir(parents=True)
    old.touch()
    train.run(composed("trainer.max_epochs=1", "callbacks.pictures.chips=0", *SMALL))
    assert not old.exists()


def test_a_folder_that_a_training_is_in_is_refused_to_another_one(composed: Compose, tmp_path: Path) -> None:
    """The second one removed what the first one had written, and both went on there."""
    config = composed("trainer.max_epochs=1", *SMALL)
    row = tmp_path / "run/metrics.csv"
    row.write_text("epoch\n0\n")
    with only_run(tmp_path / "run"), pytest.raises(UserError, match="run is being written by another run"):
        train.run(config)
    assert row.read_text() == "epoch\n0\n"
    assert [path.name for path in row.parent.iterdir()] == ["metrics.csv"]


def test_a_refit_keeps_the_last_epoch_and_says_that_its_scores_prove_nothing(
    composed: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stopping = ["callbacks.early_stopping.patience=0", "+callbacks.early_stopping.min_delta=1"]  # after two epochs
    train.run(composed("refit=true", "trainer.max_epochs=3", *stopping, *SMALL))
    kept = [path.name for path in (tmp_path / "run/checkpoints").iterdir()]
    assert kept == ["last.ckpt"]  # and no epoch is called the best
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["epoch"] == 2  # nothing stopped it
    assert "9 training and 3 validation chips" in caplog.text
    assert "refitted checkpoint" in caplog.text
    assert "trained on too" in (tmp_path / "run/report.html").read_text()


def test_a_run_that_keeps_no_best_epoch_calls_none_so(
    composed: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    keys = ("callbacks.model_checkpoint.save_top_k=0", "trainer.max_epochs=2", "callbacks.pictures.chips=0")
    train.run(composed(*keys, *SMALL))
    assert "scores on the validation chips, last epoch:" in caplog.text
    assert "best checkpoint: " not in caplog.text
    report = (tmp_path / "run/report.html").read_text()
    assert "The scores below are the last epoch’s on these chips" in report
    assert "Last checkpoint" in report
    assert "Best checkpoint" not in report


def test_several_models_in_one_command(folder: Path, tmp_path: Path) -> None:
    sweep = [f"hydra.sweep.dir={tmp_path}", "trainer.max_epochs=1", "callbacks.pictures.chips=0"]
    command("-m", f"data_dir={folder}", "model=unet,segformer", "trainer.precision=32-true", *sweep)
    kinds = [load_network(tmp_path / number)[1].architecture for number in ("0", "1")]
    assert kinds == ["unet", "segformer"]


def test_two_processes_score_as_one_does(folder: Path, tmp_path: Path) -> None:
    together = [
        "trainer=ddp",
        "accelerator=cpu",
        "devices=2",
        "lr_finder=true",
        "trainer.max_epochs=1",
        f"hydra.run.dir={tmp_path}",
    ]
    output = command(f"data_dir={folder}", *SMALL, *together)
    assert output.count("best checkpoint") == 1  # only the first process speaks
    network, spec = load_network(tmp_path / "checkpoints/last.ckpt")
    matrix = torch.zeros(2, 2, dtype=torch.int64)
    validation = ChipData(folder).source("validation")
    assert len(validation) == 3  # not divisible by two
    for chip in map(validation.__getitem__, range(3)):
        batch = collate([chip])
        with torch.inference_mode():
            guess = network(batch.image, batch.valid).argmax(1)
        matrix += confusion_matrix(batch.target, guess, len(spec.classes))
    with (tmp_path / "metrics.csv").open() as file:
        row = next(csv.DictReader(file))
    assert float(row["val_iou"]) == pytest.approx(mean_iou(matrix), abs=1e-3)
    saved = np.array(torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["val_matrix"])
    assert saved.sum() == int(matrix.sum())  # every pixel once


def test_two_processes_learn_from_the_same_batches_what_one_does(folder: Path, tmp_path: Path) -> None:
    # Without batch norm and class weights: each process takes its statistics and weighted means from its own chips.
    alike = [f"data_dir={folder}", *SMALL, "model.decoder_use_norm=false", "encoder=tu-convnext_atto", "optimizer=sgd"]
    alike += [
        "model.detail=0",
        "augmentation=none",
        "class_weights=false",
        "lr=0.02",
        "accelerator=cpu",
        "trainer.max_epochs=3",
    ]
    command(*alike, "batch_size=6", "devices=1", f"hydra.run.dir={tmp_path / 'one'}")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    two = ("trainer=ddp", "devices=2", "batch_size=3", f"hydra.run.dir={tmp_path / 'two'}")
    said = command(*alike, *two, through=torchrun)
    assert said.count("best checkpoint") == 1
    alone, together = (load_network(tmp_path / run / "checkpoints/last.ckpt")[0].state_dict() for run in ("one", "two"))
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-5)
    rows = [list(csv.DictReader((tmp_path / run / "metrics.csv").read_text().splitlines())) for run in ("one", "two")]
    assert [row["epoch"] for row in rows[1]] == ["0", "1", "2"]  # written by one process
    for one, other in zip(*rows, strict=True):
        assert float(other["train_loss"]) == pytest.approx(float(one["train_loss"]), abs=1e-4)
        assert float(other["val_iou"]) == pytest.approx(float(one["val_iou"]), abs=1e-4)
    assert float(rows[0][2]["train_loss"]) < 0.9 * float(rows[0][0]["train_loss"])  # something was learned
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(
        path.name for path in (tmp_path / "two").iterdir()
    )
