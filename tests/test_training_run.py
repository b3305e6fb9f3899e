"""A training called from Python leaves what the command leaves, and takes the same mistakes for mistakes."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from pathlib import Path
from typing import Any

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
    """Its checkpoint may be the better one; that of a run before it is removed."""
    caplog.set_level("INFO", "src.run_folder")
    runs = []
    for seed in (1, 2, 3):
        data = ChipData(folder, batch_size=3)
        runs.append(train(data, tmp_path / "run", SMALL, Recipe(epochs=1, seed=seed), accelerator="cpu"))
        (tmp_path / "run" / f"run_from_{seed:05d}.json").write_text("{}")  # as if it had been resumed
    earlier = tmp_path / "run" / "earlier"
    assert str(earlier) in caplog.text
    assert sorted(path.name for path in earlier.iterdir()) == [
        "checkpoints",
        "metrics.csv",
        "run.json",
        "run_from_00002.json",
    ]
    assert (earlier / "checkpoints" / runs[1].best.name).is_file()
    assert find_checkpoint(str(tmp_path / "run")) == runs[2].best
    # What never got as far as a checkpoint takes nothing's place.
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    run_folder.set_aside(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["earlier"]
    assert (earlier / "checkpoints" / runs[1].best.name).is_file()


def test_its_checkpoint_is_plain_data_with_the_recipe(trained: Trained) -> None:
    content = torch.load(trained.best, weights_only=True)
    assert content["hyper_parameters"]["config"]["ema_decay"] == 0.5


def test_the_same_call_gives_the_same_network(folder: Path, tmp_path: Path) -> None:
    first, second = (
        train(ChipData(folder, batch_size=3), tmp_path / name, SMALL, Recipe(epochs=1), accelerator="cpu")
        for name in "ab"
    )
    assert (first.scores.matrix == second.scores.matrix).all()


def test_it_ends_when_nothing_gets_better(folder: Path, tmp_path: Path) -> None:
    still = Recipe(epochs=30, patience=1, augmentation=Augmentation())
    train(ChipData(folder, batch_size=6), tmp_path, SMALL, still, accelerator="cpu")
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) < 31


def test_a_mistake_is_a_users_error_and_leaves_no_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean unet"):
        train(ChipData(folder), tmp_path / "run", NetworkChoice("unett"))
    assert not (tmp_path / "run").exists()
