"""Trainings that are trials: they report to their study, are pruned there, and leave a checkpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from src.studies.study_storage import TrialPlace, connect, disconnect
from tests.chip_folder import make_chip_folder
from tests.sweeping import trials

ROOT = Path(__file__).parents[1]


def train(folder: Path, *arguments: str) -> str:
    """Run a study of a tiny network on tiny chips."""
    result = subprocess.run(
        [
            *(sys.executable, str(ROOT / "train.py"), "-m", "hparams_search=optuna", f"data_dir={folder / 'chips'}"),
            *("model=compact_unet", "model.widths=[8]", "encoder=none", "loss=focal", "augmentation=none"),
            *("batch_size=3,6", "lr=0.01", "trainer.max_epochs=2", "accelerator=cpu", f"paths.logs={folder / 'logs'}"),
            "callbacks.pictures=null",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


def test_a_study_of_two_trials_trains_and_a_hopeless_third_is_pruned(tmp_path: Path) -> None:
    make_chip_folder(tmp_path / "chips")
    storage = f"sqlite:///{tmp_path / 'logs/study/default/study.db'}"
    said = train(tmp_path, "hydra.sweeper.n_trials=2", "callbacks.study.pruner=null")
    two = trials(storage, "default")
    assert [trial.state for trial in two] == [TrialState.COMPLETE] * 2
    for trial in two:
        folder = tmp_path / "logs/study/default" / str(trial.number)
        assert sorted(trial.intermediate_values) == [0, 1]
        assert trial.value == pytest.approx(max(trial.intermediate_values.values()))  # reported as float32
        assert TrialPlace.read(folder) == TrialPlace(storage, "default", trial.number)
        assert len(list(folder.glob("checkpoints/*-val_iou_*.ckpt"))) == 1
    best = max(two, key=lambda trial: trial.value or 0)
    assert f"checkpoint   {tmp_path}/logs/study/default/{best.number}/checkpoints/0000" in said

    # What no training can reach: beside it every further trial is hopeless.
    database = connect(storage)
    perfect = optuna.create_trial(
        value=1.0,
        params={"batch_size": 3},
        distributions={"batch_size": CategoricalDistribution([3, 6])},
        intermediate_values={0: 1.0, 1: 1.0},
    )
    study = optuna.load_study(study_name="default", storage=database)
    study.add_trial(perfect)
    study.add_trial(perfect)
    disconnect(database)
    pruner = ("callbacks.study.pruner.n_startup_trials=1", "callbacks.study.pruner.n_warmup_steps=0")
    train(tmp_path, "hydra.sweeper.n_trials=5", *pruner)
    last = trials(storage, "default")[-1]
    assert last.state is TrialState.PRUNED
    assert list(last.intermediate_values) == [0]
    assert len(list((tmp_path / "logs/study/default/4").glob("checkpoints/*-val_iou_*.ckpt"))) == 1
