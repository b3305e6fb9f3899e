from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed

from src import cgroups
from src import cores as module
from src.cores import cores, undivided, use_threads
from src.datamodules.base import computing_threads
from src.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(module.VARIABLE, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cgroups, "_OWN_GROUPS", tmp_path / "own")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_all_cores_that_the_process_is_bound_to() -> None:
    assert cores() == 16


@pytest.mark.parametrize(("value", "expected"), [("3", 3), ("2,1", 2), ("99", 16), ("", 16), ("0", 16), ("many", 16)])
def test_the_variable_of_schedulers_limits_them(value: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.VARIABLE, value)
    assert cores() == expected


@pytest.mark.parametrize(
    ("quota", "expected"), [("400000 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", 16)]
)
def test_a_container_has_its_share_of_time(quota: str, expected: int, tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cpu.max", quota)
    assert cores() == expected


def test_the_quota_of_a_group_above_counts_too(tmp_path: Path) -> None:
    write(tmp_path / "own", "1:name=systemd:/\n0::/user/job/step\n")
    write(tmp_path / "cgroup/user/job/step/cpu.max", "max 100000")
    write(tmp_path / "cgroup/user/job/cpu.max", "300000 100000")
    assert cores() == 3


def test_the_older_groups_are_read_too(tmp_path: Path) -> None:
    write(tmp_path / "own", "4:cpu,cpuacct:/job\n")
    write(tmp_path / "cgroup/cpu/cpu.cfs_quota_us", "-1")
    write(tmp_path / "cgroup/cpu/cpu.cfs_period_us", "100000")
    write(tmp_path / "cgroup/cpu/job/cpu.cfs_quota_us", "500000")
    write(tmp_path / "cgroup/cpu/job/cpu.cfs_period_us", "100000")
    assert cores() == 5


def test_threads_are_those_asked_for_here_and_in_processes_started_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.VARIABLE, "1")
    before = torch.get_num_threads()
    try:
        assert use_threads(3) == torch.get_num_threads() == cores() == 3
        assert os.environ[module.VARIABLE] == "3"
    finally:
        torch.set_num_threads(before)


def test_without_a_wish_they_are_the_cores_there_are(tmp_path: Path) -> None:
    write(tmp_path / "cgroup/cpu.max", "200000 100000")
    before = torch.get_num_threads()
    try:
        assert use_threads(None) == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_no_thread_is_an_error() -> None:
    with pytest.raises(UserError, match="threads=0 is no number of threads; give 1 or more"):
        use_threads(0)


def test_a_command_takes_threads_and_refuses_none(tmp_path: Path) -> None:
    command = [sys.executable, "prepare.py", "image=a.tif", "label=b.tif", f"data_dir={tmp_path}/made", "threads=0"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("prepare.py: error: threads=0 is no number of threads")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("processes", "expected"), [(1, 16), (2, 8), (5, 3), (32, 1)])
def test_processes_share_the_cores(processes: int, expected: int) -> None:
    assert computing_threads(processes) == expected


def test_lightning_divides_no_cores_that_a_training_divides_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it left in the variable was divided once more, and was all that the next run of a multirun had."""
    before = torch.get_num_threads()
    try:
        for given in ("12", None):
            if given is None:
                monkeypatch.delenv(module.VARIABLE)
            else:
                monkeypatch.setenv(module.VARIABLE, given)
            with undivided():
                _set_num_threads_if_needed(num_processes=4)
                assert computing_threads(4) == (3 if given else 4)
            assert os.environ.get(module.VARIABLE) == given
    finally:
        torch.set_num_threads(before)
