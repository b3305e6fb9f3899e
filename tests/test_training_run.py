"""A training called from Python leaves what the command leaves, and takes the same mistakes for mistakes."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer

from src import run_folder
from src.augmentation import Augmentation
from src.callbacks.checkpoints import WholeCheckpoints
from src.datamodules.chips import ChipData
from src.errors import UserError
from src.models.checkpoint import find_checkpoint, load_network
from src.models.losses import CrossEntropyDice
from src.models.optimization import Optimization
from src.run_folder import Trained
from src.training import NetworkChoice
from src.training_run import Recipe, train
from tests.chip_folder import make_chip_folder

SMALL = NetworkChoice("compact_unet", "none", {"widths": [8, 16], "dropout": 0.0})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chip_folder(tmp_path_factory.mktemp("chips") / "chips")


@pytest.fixture(scope="module")
def trained(folder: Path) -> Trained:
    recipe = Recipe(epochs=3, loss=CrossEntropyDice(), ema_decay=0.5)
    return train(ChipData(folder, batch_size=3), folder.parent / "run", SMALL, recipe, accelerator="cpu")


def test_the_best_checkpoint_describes_itself(trained: Trained) -> None:
    assert f"val_iou_{trained.scores.mean_iou:.4f}" in trained.best.name
    _, spec = load_network(trained.best)
    assert spec.architecture == "compact_unet"
    assert spec.classes.values == (2, 7)


def test_the_runs_folder_has_all_numbers_and_what_was_run(trained: Trained, folder: Path) -> None:
    run = trained.best.parents[1]
    with (run / "metrics.csv").open() as file:
        assert [float(row["epoch"]) for row in csv.DictReader(file)] == [0, 1, 2]
    config = json.loads((run / "run.json").read_text())["config"]
    assert config["data_dir"] == str(folder)
    assert config["loss"] == "CrossEntropyDice"
    assert config["epochs"] == 3


def test_ctrl_c_is_what_it_is_elsewhere_and_the_next_one_too(folder: Path, tmp_path: Path) -> None:
    """Lightning ends the process, and lets it ignore Ctrl-C from then on: a notebook's kernel was deaf to it."""

    class Impatient(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            assert isinstance(trainer.strategy.checkpoint_io, WholeCheckpoints)
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(ChipData(folder, batch_size=3), tmp_path / "run", SMALL, accelerator="cpu", callbacks=[Impatient()])
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_in_the_same_folder_sets_the_earlier_one_aside(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its checkpoint may be the better one; a third run removed that of the first."""
    caplog.set_level("INFO", "src.run_folder")
    runs = []
    for seed in (1, 2, 3):
        data = ChipData(folder, batch_size=3)
        runs.append(train(data, tmp_path / "run", SMALL, Recipe(epochs=1, seed=seed), accelerator="cpu"))
        (tmp_path / "run" / f"run_from_{seed:05d}.json").write_text("{}")  # as if it had been resumed
    for number, name in enumerate(("earlier", "earlier-2")):
        earlier = tmp_path / "run" / name
        assert f"it is in {earlier} now" in caplog.text
        assert sorted(path.name for path in earlier.iterdir()) == [
            "checkpoints",
            "metrics.csv",
            "run.json",
            f"run_from_{number + 1:05d}.json",
        ]
        assert (earlier / "checkpoints" / runs[number].best.name).is_file()
    assert find_checkpoint(str(tmp_path / "run")) == runs[2].best
    # What never got as far as a checkpoint takes nothing's place.
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    run_folder.set_aside(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["earlier", "earlier-2"]
    assert (earlier / "checkpoints" / runs[1].best.name).is_file()


def test_its_checkpoint_is_plain_data_with_the_recipe(trained: Trained) -> None:
    content = torch.load(trained.best, weights_only=True)
    assert content["hyper_parameters"]["config"]["ema_decay"] == 0.5


def test_paths_and_numbers_of_numpy_s_end_in_a_checkpoint_that_can_be_read(
    trained: Trained, folder: Path, tmp_path: Path
) -> None:
    """Each of them alone was enough: the training ran to its end, and nothing could read what it had written."""
    recipe = Recipe(
        epochs=np.int64(1),
        patience=np.int64(3),
        optimization=Optimization(lr=np.float64(0.001), options={"betas": (np.float64(0.8), 0.99)}),
        augmentation=Augmentation(rotation=np.float64(10)),
        class_weights=np.array([1.0, 2.0]),
        ema_decay=np.float64(0.5),
        seed=np.int64(7),
    )
    options = {"widths": list(np.array([8, 16])), "dropout": np.float32(0)}
    choice = NetworkChoice("compact_unet", "none", options, init_from=trained.best)
    run = train(ChipData(folder, batch_size=np.int64(3)), tmp_path, choice, recipe, accelerator="cpu")
    for checkpoint in (run.best, run.last):
        assert load_network(checkpoint)[1].options == {"widths": [8, 16], "dropout": 0.0}
    config = torch.load(run.last, weights_only=True)["hyper_parameters"]["config"]
    assert config["network"]["init_from"] == str(trained.best)
    assert (config["seed"], config["class_weights"], config["optimizer"]["lr"]) == (7, [1.0, 2.0], 0.001)
    assert json.loads((tmp_path / "run.json").read_text())["config"]["seed"] == 7


def test_what_nothing_could_read_is_refused_before_it_is_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    class Remembers(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"place": tmp_path}

    with pytest.raises(UserError, match=r"would hold pathlib\S*Path, and nothing could read it") as error:
        train(ChipData(folder, batch_size=3), tmp_path / "run", SMALL, accelerator="cpu", callbacks=[Remembers()])
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "run/checkpoints").iterdir())


def test_the_same_call_gives_the_same_network(folder: Path, tmp_path: Path) -> None:
    first, second = (
        train(ChipData(folder, batch_size=3), tmp_path / name, SMALL, Recipe(epochs=1), accelerator="cpu")
        for name in "ab"
    )
    one, other = (torch.load(run.last, weights_only=True)["state_dict"] for run in (first, second))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_run_is_not_gone_on_with_from_python(folder: Path, trained: Trained, tmp_path: Path) -> None:
    """It began anew, from random weights, without a word."""
    with pytest.raises(UserError, match=r"resume=.* is a key of train\.py.*init_from"):
        train(ChipData(folder), tmp_path / "run", NetworkChoice("compact_unet", "none", resume=trained.last))
    assert not (tmp_path / "run").exists()


def test_it_ends_when_nothing_gets_better(folder: Path, tmp_path: Path) -> None:
    still = Recipe(epochs=30, patience=1, augmentation=Augmentation())
    train(ChipData(folder, batch_size=6), tmp_path, SMALL, still, accelerator="cpu")
    with (tmp_path / "metrics.csv").open() as file:
        scores = [float(row["val_iou"]) for row in csv.DictReader(file)]
    assert len(scores) == scores.index(max(scores)) + 2 < 30


def test_a_mistake_is_a_users_error_and_leaves_no_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean unet"):
        train(ChipData(folder), tmp_path / "run", NetworkChoice("unett"))
    assert not (tmp_path / "run").exists()
