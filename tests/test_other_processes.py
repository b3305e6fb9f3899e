"""The processes that Lightning starts beside the first one of a training, without a training."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from lightning.pytorch.strategies.launchers import subprocess_script

from src.errors import UserError
from src.tasks import other_processes
from src.tasks.other_processes import ending_together


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("PAUSE", 0.1), ("PATIENCE", 0.3), ("GRACE", 20.0)):
        monkeypatch.setattr(other_processes, name, seconds)


def begin(*commands: str) -> list[subprocess.Popen[Any]]:
    """Start processes as Lightning does, and let it look after them."""
    processes = [subprocess.Popen(["sh", "-c", f"exec {command}"]) for command in commands]
    launching: Any = subprocess_script
    launching._launch_process_observer(processes)
    return processes


def train(*commands: str, first: Callable[[], None], processes: list[subprocess.Popen[Any]]) -> None:
    """Do what one process of a training does while others do something else."""
    with ending_together():
        processes += begin(*commands)
        first()


def fail(error: Exception) -> None:
    raise error


def test_the_first_process_is_told_of_another_one_that_failed_and_the_rest_are_gone() -> None:
    before = signal.getsignal(signal.SIGALRM), vars(subprocess_script)["_launch_process_observer"]
    processes = list[subprocess.Popen[Any]]()
    with pytest.raises(UserError, match="Process 2 of a training of 3 was ended by SIGTERM"):
        train("sleep 600", "sh -c 'kill $$'", first=partial(time.sleep, 600), processes=processes)
    assert [process.returncode for process in processes] == [-signal.SIGKILL, -signal.SIGTERM]
    assert before == (signal.getsignal(signal.SIGALRM), vars(subprocess_script)["_launch_process_observer"])


def test_what_comes_of_a_connection_that_is_gone_is_told_by_its_cause() -> None:
    gone = RuntimeError("Connection closed by peer")
    with pytest.raises(UserError, match="Process 1 of a training of 2 ended with exit code 3") as error:
        train("sh -c 'exit 3'", first=partial(fail, gone), processes=[])
    assert error.value.__cause__ is gone


@pytest.mark.parametrize("error", [UserError("the loss is no number"), RuntimeError("a mistake of ours")])
def test_the_others_go_with_the_first_one_whose_own_error_stays(error: Exception) -> None:
    processes = list[subprocess.Popen[Any]]()
    with pytest.raises(type(error), match=str(error)):
        train("sleep 600", first=partial(fail, error), processes=processes)
    assert processes[0].returncode == -signal.SIGKILL


def test_the_others_end_by_themselves_after_a_training() -> None:
    processes = list[subprocess.Popen[Any]]()
    train("sleep 1", first=partial(time.sleep, 0), processes=processes)
    assert processes[0].returncode == 0


@pytest.mark.parametrize("code", [130, -signal.SIGINT])
def test_an_interrupted_process_is_no_failed_one(code: int) -> None:
    """Ctrl-C reaches all of them, and the first one may take longest to end: a sweep went on with its next run."""
    how = "sh -c 'exit 130'" if code > 0 else "sh -c 'kill -2 $$; sleep 9'"
    for first in (partial(time.sleep, 20), partial(fail, ConnectionError("gone"))):
        with pytest.raises(KeyboardInterrupt):
            train(how, first=first, processes=[])
