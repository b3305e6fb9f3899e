"""Which process is the first is one rule: for the command line, for the run's folder, and within the training."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.errors import UserError
from src.first_process import is_first
from src.tasks.command_line import QUIET, arrange
from src.tasks.run_places import OwnFolder
from tests.test_run_places import composed


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),  # torchrun
        ({"RANK": "2", "LOCAL_RANK": "0"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": "3"}, True),  # one of several trainings in a job of SLURM's
        ({"SLURM_PROCID": "0"}, True),
        ({"SLURM_PROCID": "1"}, False),
        ({"NODE_RANK": "0", "LOCAL_RANK": "0"}, True),  # Lightning has started others
        ({"NODE_RANK": "0", "LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "1"}, False),  # by Lightning, in an interactive job
        ({"NODE_RANK": "1"}, False),  # a second machine, by hand
        ({"JSM_NAMESPACE_RANK": "0"}, True),  # LSF
        ({"JSM_NAMESPACE_RANK": "4"}, False),
    ],
)
def test_the_first_process_of_a_training_writes_and_no_other(
    environment: dict[str, str], first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second machine that was started by hand claimed no folder, but wrote Hydra's files and a log."""
    assert is_first(environment) == first
    assert arrange(["lr=1"], environment, "train") == ["lr=1", *(() if first else QUIET)]
    for task in ("prepare", "eval", "predict", "export"):  # srun -n 4 bash -c 'python predict.py image=s_$SLURM_PROCID'
        assert arrange(["image=1.tif"], environment, task) == ["image=1.tif"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = composed("train", f"paths.logs={tmp_path}")
    OwnFolder().on_run_start(config)
    assert bool(list(tmp_path.iterdir())) == first
    assert (config.hydra.run.dir == ".") != first


def test_what_the_other_processes_of_a_second_machine_are_told_is_told_once() -> None:
    """Hydra refuses a group that is chosen twice."""
    once = arrange(["lr=1"], {"NODE_RANK": "1"}, "train")
    assert arrange(once, {"NODE_RANK": "1", "LOCAL_RANK": "1"}, "train") == once


@pytest.mark.parametrize("value", ["", "first", "-1", "1.0"])
def test_a_rank_that_is_no_number_is_one_line(value: str) -> None:
    """It ended in a traceback."""
    with pytest.raises(UserError, match=rf"RANK='{value}', which is no process's number; expected 0, 1, 2.*unset RANK"):
        arrange(["lr=1"], {"RANK": value}, "train")
